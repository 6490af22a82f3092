//! Canonical names of tensors: one scheme for the layouts in which checkpoints are published.
//!
//! `text.` holds the decoder (`text.model.embed_tokens`, `text.model.layers.N`, `text.model.norm`,
//! `text.lm_head`), `vision.` the tower and `projector.` what is between them.

/// Prefixes of the decoder.
const TEXT: [&str; 2] = ["language_model.", "text_model."];

/// Prefixes of the tower, of which several can follow each other.
const VISION: [&str; 3] = ["vision_tower.", "vision_model.", "visual."];

/// Prefixes of the projector.
const PROJECTOR: [&str; 3] = ["multi_modal_projector.", "connector.", "mm_projector."];

/// Parts of a decoder.
const DECODER: [&str; 3] = ["embed_tokens.", "layers.", "norm."];

/// Buffers that older versions of transformers saved and that follow from the configuration.
const BUFFERS: [&str; 2] = ["inv_freq", "position_ids"];

/// Returns the canonical name of a tensor of a Hugging Face checkpoint, or of LLaVA's authors'
/// (`model.mm_projector.0`); `None` for tensors that no model needs, such as the text half of a
/// CLIP checkpoint.
///
/// `model.` in front is optional and may be repeated behind the decoder's prefix.
pub fn canonical_name(name: &str) -> Option<String> {
    let whole = name;
    let name = without(name, &["model."]);
    if whole
        .rsplit('.')
        .next()
        .is_some_and(|last| BUFFERS.contains(&last))
    {
        return None;
    }
    if let Some(rest) = after(name, &VISION) {
        return Some(format!("vision.{}", without(rest, &VISION)));
    }
    if let Some(rest) = after(name, &PROJECTOR) {
        let rest = match rest.split_once('.') {
            Some(("0", last)) => format!("linear_1.{last}"),
            Some(("2", last)) => format!("linear_2.{last}"),
            _ => rest.to_owned(),
        };
        return Some(format!("projector.{rest}"));
    }
    let name = without(after(name, &TEXT).unwrap_or(name), &["model."]);
    if name.starts_with("lm_head.") {
        Some(format!("text.{name}"))
    } else if DECODER.iter().any(|part| name.starts_with(part)) {
        Some(format!("text.model.{name}"))
    } else {
        None
    }
}

/// Returns what follows one of `prefixes`.
fn after<'a>(name: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| name.strip_prefix(prefix))
}

/// Returns the name without `prefixes` in front, however many.
fn without<'a>(mut name: &'a str, prefixes: &[&str]) -> &'a str {
    while let Some(rest) = after(name, prefixes) {
        name = rest;
    }
    name
}
