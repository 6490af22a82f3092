//! Captions a photograph with the embedded model and prints the guard's report.
//!
//! ```bash
//! cargo run --release --example caption -- tests/fixtures/photos/cat.jpg
//! ```

use std::{error::Error, fs};

use candor::{
    bundle::Bundle,
    config::Config,
    device::DeviceChoice,
    guard::{GuardReport, render::plain_marked},
    serve::Local,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let photo = std::env::args().nth(1).ok_or("usage: caption PHOTO")?;
    let bundle = Bundle::load("candor-mini", None, &DeviceChoice::Auto.open()?)?;
    // The handlers of the API, without a socket; an empty prompt asks for a description.
    let model = Local::start(Config::default(), bundle)?;
    let answer = model.chat(&model.request(&fs::read(photo)?, "")).await?;
    let choice = &answer["choices"][0];
    let caption = choice["message"]["content"].as_str().unwrap_or_default();
    let report: GuardReport = serde_json::from_value(choice["guard"].clone())?;

    println!("{}", plain_marked(caption, &report.spans));
    println!("verdict: {}", choice["guard"]["verdict"]);
    if let Some(score) = report.score {
        println!("score: {score:.2}, threshold {:.2}", report.threshold);
    }
    if let Some(familiarity) = report.familiarity {
        println!("familiarity: {familiarity:.2}");
    }
    if let Some(alt_text) = report.alt_text {
        println!("alt text: {alt_text}");
    }
    model.stop().await;
    Ok(())
}
