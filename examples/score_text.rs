//! Scores a caption that somebody else wrote, word by word.
//!
//! ```bash
//! cargo run --release --example score_text -- tests/fixtures/photos/cat.jpg "A cat on a bicycle."
//! ```

use std::{error::Error, fs};

use candor::{bundle::Bundle, config::Config, device::DeviceChoice, serve::Local};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(photo), Some(text)) = (args.next(), args.next()) else {
        return Err("usage: score_text PHOTO TEXT".into());
    };
    let bundle = Bundle::load("candor-mini", None, &DeviceChoice::Auto.open()?)?;
    let model = Local::start(Config::default(), bundle)?;
    let request = model.score_request(&fs::read(photo)?, "", &text);
    let scores = model.score(&request).await?;
    let result = &scores["results"][0];

    // A word's score is the lowest reward of its tokens; a token with a space in front begins one.
    let mut words: Vec<(String, f64)> = Vec::new();
    for token in result["tokens"].as_array().into_iter().flatten() {
        let piece = token["token"].as_str().unwrap_or_default();
        let reward = token["reward"].as_f64().unwrap_or(f64::NAN);
        match words.last_mut() {
            Some((word, score)) if !piece.starts_with(char::is_whitespace) => {
                word.push_str(piece);
                *score = score.min(reward);
            }
            _ => words.push((piece.trim_start().to_owned(), reward)),
        }
    }
    for (word, score) in words {
        println!("{score:.2} {word}");
    }
    println!("verdict: {}", result["guard"]["verdict"]);
    model.stop().await;
    Ok(())
}
