//! Caption metrics against the reference code: `pycocoevalcap` and its Java tokenizer.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
};

use candor::eval::text::{TextMetrics, score, words};

use crate::{
    server_clients::said,
    support::{needed, runs, shared_data},
};

fn from_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Interpreter and data of the reference, if this machine has them and Java.
fn reference() -> Option<(PathBuf, PathBuf)> {
    let data = shared_data("flickr8k")?;
    let python = from_root(".venv/bin/python");
    let has_package = runs(&python, &["-c", "import pycocoevalcap, numpy"]);
    needed("Python's package pycocoevalcap", has_package.then_some(()))?;
    needed("Java", runs("java", &["-version"]).then_some(()))?;
    Some((python, data))
}

/// Captions of the development photographs, five each, in the order of `dev.txt`.
fn captions(data: &Path) -> Vec<Vec<String>> {
    let table = std::fs::read_to_string(data.join("captions.tsv")).unwrap();
    let mut by_image: HashMap<&str, Vec<String>> = HashMap::new();
    for line in table.lines() {
        let [name, _, caption] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        by_image.entry(name).or_default().push(caption.to_owned());
    }
    let dev = std::fs::read_to_string(data.join("dev.txt")).unwrap();
    dev.split_whitespace()
        .map(|name| by_image.remove(name).unwrap())
        .collect()
}

/// Output of a script.
fn run(python: &Path, script: &str, args: &[&str], input: &str) -> String {
    let mut command = Command::new(python);
    command
        .arg(from_root("tests/reference").join(script))
        .args(args);
    said(command, input)
}

/// Kinds of text that do not occur in the captions.
const RARE: &[&str] = &[
    "",
    "...",
    "Mr. Lee's \"dog\" can't (or won't) run: it's 3.5 km, isn't it?!",
    "A U.S. flag, a St. Bernard; letter A. The end etc.",
    "a 1 1/2 year old at 10:30 a.m. – $5, 50% off … AT&T & black&white",
    "‘single’ “double” y'all O'Neil rock'n'roll 'tis gonna cannot",
    "see www.foo.com or a@b.com <b>bold</b> &amp; #tag @home :-) (555) 123-4567",
    "café naïve 日本 😀 ❤️ ½ 90s '90s C++ and/or Ph.D. Co. No. 5 no.",
];

#[test]
fn words_of_every_dev_caption_equal_the_java_tokenizer() {
    let Some((python, data)) = reference() else {
        return;
    };
    let mut texts: Vec<String> = captions(&data).concat();
    assert_eq!(texts.len(), 5_000);
    texts.extend(RARE.iter().map(|&text| text.to_owned()));
    let printed = run(
        &python,
        "ptb_tokens.py",
        &[],
        &serde_json::to_string(&texts).unwrap(),
    );
    let theirs: Vec<String> = serde_json::from_str(&printed).unwrap();
    assert_eq!(theirs.len(), texts.len());
    for (text, theirs) in texts.iter().zip(&theirs) {
        assert_eq!(
            words(text),
            theirs.split_whitespace().collect::<Vec<_>>(),
            "{text}"
        );
    }
}

#[test]
fn scores_of_people_equal_pycocoevalcap() {
    let Some((python, data)) = reference() else {
        return;
    };
    let images = captions(&data);
    let rows: Vec<(&str, &[String])> = images
        .iter()
        .map(|captions| (captions[0].as_str(), &captions[1..]))
        .collect();
    let ours = TextMetrics::from_scores(&score(&rows));
    let args = [
        "--leave-one-out",
        "0",
        "--references",
        data.to_str().unwrap(),
        "--digits",
        "9",
    ];
    let theirs: HashMap<String, f64> =
        serde_json::from_str(&run(&python, "caption_metrics.py", &args, "")).unwrap();
    let [bleu1, bleu2, bleu3, bleu4] = ours.bleu;
    let named = [
        ("BLEU-1", bleu1),
        ("BLEU-2", bleu2),
        ("BLEU-3", bleu3),
        ("BLEU-4", bleu4),
        ("ROUGE-L", ours.rouge_l),
    ];
    for (name, ours) in named.into_iter().chain([
        ("CIDEr-D", ours.cider_d),
        ("words", ours.words),
        ("images", ours.captions as f64),
    ]) {
        println!("{name}: {ours:.9}, theirs {:.9}", theirs[name]);
        assert!(
            (ours - theirs[name]).abs() < 1e-6,
            "{name}: {ours} is not {}",
            theirs[name]
        );
    }
}
