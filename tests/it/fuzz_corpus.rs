//! What fuzzing found worth keeping goes through the same functions again.

use std::{fs, path::Path};

#[path = "../../fuzz/src/lib.rs"]
mod fuzzed;

#[test]
fn every_kept_input_is_harmless() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fuzz");
    for (name, run) in fuzzed::TARGETS {
        let mut inputs: Vec<_> = fs::read_dir(corpus.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        inputs.sort();
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for input in inputs {
            // Shown only if the test fails: the last one is the culprit.
            println!("{}", input.display());
            run(&fs::read(&input).unwrap());
        }
    }
}
