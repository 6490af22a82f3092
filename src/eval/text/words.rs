//! Captions as word ids, so that the metrics compare numbers instead of text.

use std::collections::{HashMap, hash_map::Entry};

use rayon::prelude::*;

use super::ptb::Tokenizer;

/// Captions per batch of a thread.
const BATCH: usize = 256;

/// Word ids of a caption and of the references of its image. Equal words have equal ids.
pub(super) struct NumberedCaption {
    pub(super) caption: Vec<u32>,
    pub(super) references: Vec<Vec<u32>>,
}

impl NumberedCaption {
    fn texts(&mut self) -> impl Iterator<Item = &mut Vec<u32>> {
        std::iter::once(&mut self.caption).chain(&mut self.references)
    }
}

/// Words and their ids.
#[derive(Default)]
struct Vocabulary {
    numbers: HashMap<String, u32>,
    words: Vec<String>,
}

impl Vocabulary {
    fn number(&mut self, word: &str) -> u32 {
        if let Some(&number) = self.numbers.get(word) {
            return number;
        }
        let number = self.words.len() as u32;
        self.numbers.insert(word.to_owned(), number);
        self.words.push(word.to_owned());
        number
    }
}

/// Tokenizes all texts once; also returns the ids of words.
pub(super) fn rows<S: AsRef<str> + Sync>(
    captions: &[(&str, &[S])],
) -> (Vec<NumberedCaption>, HashMap<String, u32>) {
    let batches: Vec<(Vec<NumberedCaption>, Vec<String>)> = captions
        .par_chunks(BATCH)
        .map_init(Tokenizer::new, batch)
        .collect();
    // Ids are local to a batch until here.
    let mut all: HashMap<String, u32> = HashMap::new();
    let mut rows = Vec::with_capacity(captions.len());
    for (batch, words) in batches {
        let numbers: Vec<u32> = words
            .into_iter()
            .map(|word| insert(&mut all, word))
            .collect();
        rows.extend(batch.into_iter().map(|mut row| {
            row.texts()
                .flatten()
                .for_each(|word| *word = numbers[*word as usize]);
            row
        }));
    }
    (rows, all)
}

fn insert(all: &mut HashMap<String, u32>, word: String) -> u32 {
    let next = all.len() as u32;
    match all.entry(word) {
        Entry::Occupied(known) => *known.get(),
        Entry::Vacant(new) => *new.insert(next),
    }
}

fn batch<S: AsRef<str>>(
    tokenizer: &mut Tokenizer,
    captions: &[(&str, &[S])],
) -> (Vec<NumberedCaption>, Vec<String>) {
    let mut vocabulary = Vocabulary::default();
    let mut numbers = |text: &str| {
        let mut numbers = Vec::new();
        tokenizer.each_word(text, |word| numbers.push(vocabulary.number(word)));
        numbers
    };
    let row = |(caption, references): &(&str, &[S])| NumberedCaption {
        caption: numbers(caption),
        references: references.iter().map(|r| numbers(r.as_ref())).collect(),
    };
    let rows = captions.iter().map(row).collect();
    (rows, vocabulary.words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_have_equal_ids_across_batches() {
        let texts: Vec<String> = (0..3 * BATCH)
            .map(|i| format!("dog {} cat", i % 7))
            .collect();
        let captions: Vec<(&str, &[String])> =
            texts.iter().map(|t| (t.as_str(), &texts[..2])).collect();
        let (rows, _) = rows(&captions);
        assert_eq!(rows.len(), texts.len());
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(row.caption, rows[i % 7].caption);
            assert_eq!(
                (row.caption[0], row.caption[2]),
                (rows[0].caption[0], rows[0].caption[2])
            );
            assert_eq!(
                row.references,
                [rows[0].caption.clone(), rows[1].caption.clone()]
            );
        }
        assert_ne!(rows[0].caption[1], rows[1].caption[1]);
    }
}
