//! Turns a person's correction of an answer into labels of its tokens, as the server stores them.
//!
//! ```bash
//! cargo run --release --example feedback_record
//! cargo run --release --example feedback_record -- "A dog with a blue collar." blue red
//! ```

use std::error::Error;

use candor::{
    bundle::Bundle,
    feedback::{
        derive::{JudgedAnswer, RecordStamp, derive},
        record::{ImageHash, TokenLabel, Versions},
        submission::{ErrorSpan, Submission},
        tokens::tokenize,
    },
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (response, wrong, right) = match args.as_slice() {
        [] => ("A dog is chewing on a blue collar.", "blue", "red"),
        [response, wrong, right] => (response.as_str(), wrong.as_str(), right.as_str()),
        _ => return Err("usage: feedback_record [RESPONSE WRONG RIGHT]".into()),
    };
    let at = response.find(wrong).ok_or("the response lacks that text")?;
    // Offsets of submissions count Unicode code points.
    let start = response[..at].chars().count();
    let submission = Submission {
        error: Some(ErrorSpan {
            start,
            end: start + wrong.chars().count(),
            ..ErrorSpan::default()
        }),
        correction: Some(right.to_owned()),
        ..Submission::default()
    };

    let vocabulary = Bundle::vocabulary_of("candor-mini")?;
    let subject = JudgedAnswer {
        owner: String::new(),
        completion: None,
        image: ImageHash::digest(b"the bytes of the photograph's file"),
        prompt: String::new(),
        response: response.to_owned(),
        tokens: tokenize(&vocabulary, response)?,
        versions: Versions::default(),
        unassisted: false,
        flagged: None,
        queued: None,
        user: None,
    };
    let stamp = RecordStamp {
        id: "fb_1".to_owned(),
        created: 0,
        annotator_owner: String::new(),
    };
    let record = derive(subject, &submission, stamp, |text, begins| {
        vocabulary.encode(text, begins)
    })?;

    for token in &record.tokens {
        let label = match token.label {
            TokenLabel::Good => "good",
            TokenLabel::Bad => "bad",
            TokenLabel::None => "-",
        };
        println!("{label:<5}{:?}", token.text);
    }
    for error in &record.errors {
        let correction = error.correction.as_deref().unwrap_or_default();
        println!(
            "{} [{} → {correction}]",
            error.partial_caption.trim_end(),
            error.text
        );
    }
    Ok(())
}
