//! Runs the guard as pure functions on given tokens and rewards, without a model.
//!
//! ```bash
//! cargo run --release --example guard_words
//! cargo run --release --example guard_words -- 0.25    # another threshold
//! ```

use std::error::Error;

use candor::guard::{
    Mode, Thresholds,
    render::{RenderStyle, plain_marked},
    report::report,
};

/// Tokens as a policy writes them, each with the reward that a scorer gave it.
const TOKENS: [(&str, f32); 8] = [
    ("A", 0.97),
    (" dog", 0.95),
    (" catches", 0.90),
    (" a", 0.99),
    (" red", 0.31),
    (" fris", 0.80),
    ("bee", 0.22),
    (".", 0.98),
];

fn main() -> Result<(), Box<dyn Error>> {
    let threshold: f32 = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 0.5,
    };
    let text: String = TOKENS.iter().map(|(token, _)| *token).collect();
    let rewards: Vec<f32> = TOKENS.iter().map(|(_, reward)| *reward).collect();
    let report = report(
        TOKENS.iter().map(|(token, _)| token.as_bytes()),
        &rewards,
        Mode::Flag,
        Thresholds::from(threshold),
        RenderStyle::Hedged,
    );

    println!("{}", plain_marked(&text, &report.spans));
    println!("verdict: {:?}", report.verdict);
    for span in &report.spans {
        println!(
            "characters {} to {}: \"{}\", score {:.2}",
            span.start, span.end, span.text, span.score
        );
    }
    println!("alt text: {}", report.alt_text.unwrap_or(text));
    Ok(())
}
