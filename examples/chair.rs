//! Measures captions against references: CHAIR (invented objects), recall and CIDEr-D.
//!
//! ```bash
//! cargo run --release --example chair -- examples/captions.jsonl examples/references.jsonl
//! ```
//!
//! Lines of the first file are `{"image": "…", "caption": "…"}`, lines of the second
//! `{"image": "…", "captions": ["…", …]}`.

use std::{collections::HashMap, error::Error, fs};

use candor::eval::{
    chair::{ChairStats, ChairVocabulary, judge},
    text::score,
};
use serde::{Deserialize, de::DeserializeOwned};

#[derive(Deserialize)]
struct Caption {
    image: String,
    caption: String,
}

#[derive(Deserialize)]
struct References {
    image: String,
    captions: Vec<String>,
}

fn read_lines<T: DeserializeOwned>(path: &str) -> Result<Vec<T>, Box<dyn Error>> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let numbered = text.lines().enumerate();
    numbered
        .map(|(i, line)| {
            serde_json::from_str(line).map_err(|error| format!("{path}:{}: {error}", i + 1).into())
        })
        .collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(captions), Some(references)) = (args.next(), args.next()) else {
        return Err("usage: chair CAPTIONS.jsonl REFERENCES.jsonl".into());
    };
    let references: HashMap<String, Vec<String>> = read_lines::<References>(&references)?
        .into_iter()
        .map(|line| (line.image, line.captions))
        .collect();

    let vocabulary = ChairVocabulary::coco80();
    let (mut totals, mut pairs) = (ChairStats::default(), Vec::new());
    let captions: Vec<Caption> = read_lines(&captions)?;
    for Caption { image, caption } in &captions {
        let Some(references) = references.get(image) else {
            return Err(format!("{image} has no references").into());
        };
        let present = vocabulary.objects::<&str, _>([], references);
        let judgment = judge(vocabulary, caption, &present);
        for (mention, is_present) in &judgment.mentions {
            if !is_present {
                println!("{image}: invented {}", mention.object);
            }
        }
        totals += judgment.stats;
        pairs.push((caption.as_str(), references.as_slice()));
    }
    let cider_d: f64 = score(&pairs).iter().map(|scores| scores.cider_d).sum();
    let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), |rate| format!("{rate:.3}"));
    println!("CHAIR_i {}", rate(totals.chair_i()));
    println!("CHAIR_s {}", rate(totals.chair_s()));
    println!("recall {}", rate(totals.recall()));
    println!("CIDEr-D {:.3}", cider_d / pairs.len().max(1) as f64);
    Ok(())
}
