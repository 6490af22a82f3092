//! A version's card, from its facts alone.

use std::{collections::BTreeSet, fmt::Write, time::Duration};

use super::{PromotionDecision, Version};

/// The card, in Markdown.
pub(super) fn card(version: &Version) -> String {
    let Version {
        id,
        name,
        version: own,
        created,
        outcome,
        files,
        parents,
        data,
        figures,
        baseline,
        reasons,
    } = version;
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        // Strings take everything.
        let _ = writeln!(out, "{text}");
    };
    line(format_args!("# {id}\n"));
    let when =
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(*created));
    let word = match outcome {
        PromotionDecision::Registered => "registered",
        PromotionDecision::Rejected => "**rejected**",
    };
    line(format_args!(
        "Model {name}, bundle version {own}, {word} {when}.\n"
    ));
    match parents.as_slice() {
        [] => line(format_args!("It has no parents in the registry.")),
        parents => line(format_args!("Made from {}.", parents.join(", "))),
    }
    if !reasons.is_empty() {
        line(format_args!("\n## Why\n"));
        reasons
            .iter()
            .for_each(|reason| line(format_args!("- {reason}")));
    }
    let names: BTreeSet<&String> = figures.keys().chain(baseline.keys()).collect();
    if !names.is_empty() {
        line(format_args!(
            "\n## Figures\n\n| figure | this version | before | difference |\n|---|---|---|---|"
        ));
    }
    for name in names {
        let (now, before) = (figures.get(name), baseline.get(name));
        let shown =
            |value: Option<&f64>| value.map_or_else(String::new, |value| format!("{value:.4}"));
        let difference = now
            .zip(before)
            .map_or_else(String::new, |(now, before)| format!("{:+.4}", now - before));
        line(format_args!(
            "| {name} | {} | {} | {difference} |",
            shown(now),
            shown(before)
        ));
    }
    if !data.is_empty() {
        line(format_args!("\n## Data\n\n| data | SHA-256 |\n|---|---|"));
        data.iter()
            .for_each(|(name, hash)| line(format_args!("| {name} | {hash} |")));
    }
    line(format_args!(
        "\n## Files\n\n| file | bytes | SHA-256 |\n|---|---|---|"
    ));
    files.iter().for_each(|(name, file)| {
        line(format_args!(
            "| {name} | {} | {} |",
            file.bytes, file.sha256
        ))
    });
    if files.contains_key("card.md") {
        line(format_args!(
            "\nThe bundle's own card, by whoever made it, is `bundle/card.md`."
        ));
    }
    out
}
