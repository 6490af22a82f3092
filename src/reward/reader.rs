//! Scorer of any policy: it reads the policy's text with a model of its own, by its own tokenizer,
//! prompt and vision tower.
//!
//! The two tokenizations are aligned by bytes. A word is read once it has closed, since its tokens
//! depend on all of its letters; readings are therefore final one word late. A text longer than the
//! reader's context is read in windows: the prompt, the last tokens read, and the new ones.

use std::{ops::Range, sync::Arc};

use candle_core::{DType, Result, Tensor, bail};

use super::{ReaderPrompt, RewardState, ScoredRow, TokenReading, TokenReward};
use crate::vlm::{
    KvCache, Logits, Outputs, Row, VisionLanguageModel, nn::log_sum_exp,
    processor::vocabulary::PolicyVocabulary,
};

/// Prompts with images whose keys and values stay cached for later ones that begin like them.
const PREFIXES: usize = 128;

/// Scorer bundle as a reader of other policies' texts.
pub struct TextReader {
    vlm: Arc<dyn VisionLanguageModel>,
    reward: Arc<dyn TokenReward>,
    vocabulary: PolicyVocabulary,
}

impl TextReader {
    /// Creates a reader from a model, its scorer of texts by other authors, and its vocabulary.
    pub fn new(
        vlm: Arc<dyn VisionLanguageModel>,
        reward: Arc<dyn TokenReward>,
        vocabulary: PolicyVocabulary,
    ) -> Self {
        Self {
            vlm,
            reward,
            vocabulary,
        }
    }
}

impl TokenReward for TextReader {
    fn kind(&self) -> &'static str {
        self.reward.kind()
    }

    fn reads_text(&self) -> bool {
        true
    }

    fn new_state(&self, slots: usize, _: usize, _: usize) -> Result<Box<dyn RewardState>> {
        let capacity = self.vlm.spec().context_len;
        let positions = slots.saturating_mul(capacity);
        let cache = self.vlm.new_cache(slots, capacity, positions)?;
        Ok(Box::new(ReaderState {
            vlm: Arc::clone(&self.vlm),
            inner: self.reward.new_state(slots, capacity, positions)?,
            taps: self.reward.taps().to_vec(),
            vocabulary: self.vocabulary.clone(),
            cache: cache.remembering(PREFIXES),
            texts: vec![ReadText::default(); slots],
        }))
    }
}

/// The reader's caches and what it has read in each slot.
struct ReaderState {
    vlm: Arc<dyn VisionLanguageModel>,
    inner: Box<dyn RewardState>,
    taps: Vec<usize>,
    vocabulary: PolicyVocabulary,
    cache: KvCache,
    texts: Vec<ReadText>,
}

/// Token of the reader's own with what it read there.
#[derive(Debug, Clone)]
struct ReadToken {
    id: u32,
    /// Bytes of the answer.
    bytes: Range<usize>,
    reading: TokenReading,
}

/// One answer as the reader sees it.
#[derive(Debug, Clone, Default)]
struct ReadText {
    prompt: Option<Arc<ReaderPrompt>>,
    /// Positions of the policy's prompt.
    policy_prompt: usize,
    /// Bytes of the answer so far.
    text: Vec<u8>,
    /// End in the text of each of the policy's tokens.
    ends: Vec<usize>,
    /// The reader's tokens of the closed words.
    read: Vec<ReadToken>,
    /// Number of the policy's tokens whose readings were given out.
    given: usize,
    /// First of the reader's tokens that are in the cache, behind the prompt.
    base: usize,
    /// `true` if the reader cannot write the text: it gives no readings any more.
    lost: bool,
}

impl ReadText {
    /// Returns the number of bytes read.
    fn read_bytes(&self) -> usize {
        self.read.last().map_or(0, |token| token.bytes.end)
    }

    /// Returns the text after what was read, up to the last closed word or, if the text `ends`, all
    /// of it; `None` if there is nothing to read.
    fn closed(&self, ends: bool) -> Option<String> {
        let rest = self.text.get(self.read_bytes()..).unwrap_or_default();
        let valid = match std::str::from_utf8(rest) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&rest[..error.valid_up_to()]).unwrap_or_default(),
        };
        let closed = if ends {
            String::from_utf8_lossy(rest).into_owned()
        } else {
            let last = valid.trim_end().rfind(char::is_whitespace)?;
            // White space belongs to the word behind it.
            valid[..valid[..last].trim_end().len()].to_owned()
        };
        (!closed.is_empty()).then_some(closed)
    }

    /// Takes the readings of the policy's tokens that lie within what was read.
    fn take_readings(&mut self, ends: bool) -> Vec<TokenReading> {
        let read = self.read_bytes();
        let mut readings = Vec::new();
        let ends = ends && !self.lost;
        while let Some(&end) = self
            .ends
            .get(self.given)
            .filter(|&&end| ends || end <= read)
        {
            let start = self
                .given
                .checked_sub(1)
                .map_or(0, |before| self.ends[before]);
            readings.push(self.reading(start..end));
            self.given += 1;
        }
        readings
    }

    /// Returns the reading of a token of the policy's with these bytes: the lowest reward of the
    /// reader's tokens that overlap it, and the log-probability of those that end in it. A token
    /// without text of its own has the reward of what stands before it.
    fn reading(&self, bytes: Range<usize>) -> TokenReading {
        let overlapping = self.read.iter().filter(|token| {
            token.bytes.start < bytes.end.max(bytes.start + 1) && bytes.start < token.bytes.end
        });
        let reward = overlapping
            .map(|token| token.reading.reward)
            .reduce(f32::min)
            .or_else(|| {
                let before = self
                    .read
                    .iter()
                    .rfind(|token| token.bytes.end <= bytes.start);
                before.map(|token| token.reading.reward)
            });
        let ending = self
            .read
            .iter()
            .filter(|token| bytes.start < token.bytes.end && token.bytes.end <= bytes.end);
        TokenReading {
            reward: reward.unwrap_or(1.0),
            log_probability: Some(
                ending
                    .filter_map(|token| token.reading.log_probability)
                    .sum(),
            ),
        }
    }

    /// Returns the first `tokens` tokens of the policy's. The last word is open again: the next
    /// tokens may continue it.
    fn truncated(&self, tokens: usize) -> Self {
        let end = tokens
            .checked_sub(1)
            .and_then(|last| self.ends.get(last))
            .copied()
            .unwrap_or(0);
        let text = self.text[..end.min(self.text.len())].to_vec();
        let border = text.iter().rposition(u8::is_ascii_whitespace).unwrap_or(0);
        let read = self
            .read
            .iter()
            .take_while(|token| token.bytes.end <= border);
        Self {
            prompt: self.prompt.clone(),
            policy_prompt: self.policy_prompt,
            read: read.cloned().collect(),
            ends: self.ends[..tokens.min(self.ends.len())].to_vec(),
            given: self.given.min(tokens),
            base: self.base,
            lost: self.lost,
            text,
        }
    }
}

/// Tokens to read next in one slot.
struct ReadRow {
    slot: usize,
    /// Position of the first token fed.
    start: usize,
    /// The last token read before (or the whole prompt) and the new ones.
    tokens: Vec<u32>,
    /// Index of the token before the first new one.
    from: usize,
    prompt: Arc<ReaderPrompt>,
}

impl ReaderState {
    /// Takes what the policy wrote.
    fn take(&mut self, rows: &[ScoredRow<'_>]) -> Result<()> {
        for scored in rows {
            let slot = scored.row.slot;
            if scored.row.start == 0 {
                let Some(prompt) = scored.reader else {
                    bail!("the scorer got no image and prompt of its own")
                };
                self.free(slot);
                self.texts[slot].prompt = Some(Arc::clone(prompt));
                self.texts[slot].policy_prompt = scored.row.tokens.len() - scored.judged().len();
            }
            let text = &mut self.texts[slot];
            if scored.bytes.len() != scored.judged().len() {
                bail!(
                    "{} texts for {} tokens",
                    scored.bytes.len(),
                    scored.judged().len()
                );
            }
            for bytes in scored.bytes {
                text.text.extend_from_slice(bytes);
                text.ends.push(text.text.len());
            }
        }
        Ok(())
    }

    /// Returns what there is to read next in a slot, at most half of the reader's room.
    fn next(&mut self, slot: usize, ends: bool) -> Option<ReadRow> {
        let text = &mut self.texts[slot];
        let closed = text.closed(ends).filter(|_| !text.lost)?;
        let prompt = text.prompt.clone()?;
        let behind = prompt.prompt.tokens.len();
        let half = self.vlm.spec().context_len.saturating_sub(behind) / 2;
        let encoded = self.vocabulary.encode(&closed, text.read.is_empty());
        let Some(mut new) = encoded.filter(|new| half > 0 && !new.is_empty()) else {
            text.lost = true;
            return None;
        };
        let bytes = |tokens: &[u32]| -> usize {
            let bytes = |&id: &u32| self.vocabulary.tokenizer.bytes(id).len();
            tokens.iter().map(bytes).sum()
        };
        new.truncate(half);
        while new.len() > 1 && !closed.is_char_boundary(bytes(&new)) {
            new.pop();
        }
        let window = text.read.len().saturating_sub(text.base);
        let is_cached = window > 0 && self.cache.len(slot) >= behind + window;
        let last = text
            .read
            .last()
            .filter(|_| is_cached && window + new.len() <= 2 * half);
        let (start, mut tokens) = match last {
            Some(last) => (behind + window - 1, vec![last.id]),
            None => {
                text.base = text.read.len().saturating_sub(half);
                let context = text.read[text.base..].iter().map(|token| token.id);
                let prompt = prompt.prompt.tokens.iter().copied();
                (0, prompt.chain(context).collect())
            }
        };
        let from = tokens.len() - 1;
        tokens.extend(&new);
        self.cache.truncate(slot, start);
        self.inner.truncate(slot, start);
        Some(ReadRow {
            slot,
            start,
            tokens,
            from,
            prompt,
        })
    }

    /// Reads the rows' new tokens.
    fn read(&mut self, reads: &[ReadRow]) -> Result<()> {
        let images: Vec<_> = reads
            .iter()
            .map(|read| [read.prompt.image.clone()])
            .collect();
        let rows = reads.iter().zip(&images).map(|(read, images)| Row {
            slot: read.slot,
            start: read.start,
            tokens: &read.tokens,
            spans: &read.prompt.prompt.images,
            images,
            from: read.from,
        });
        let rows: Vec<Row<'_>> = rows.collect();
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: &self.taps,
        };
        let out = self.vlm.forward(&rows, &mut self.cache, outputs)?;
        let Some(logits) = out.logits else {
            bail!("the scorer's model returned no logits")
        };
        let width = logits.dim(1)?.max(1);
        let logits = logits
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let mut lines = logits.chunks_exact(width);
        let mut log_probabilities: Vec<Vec<f32>> = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut own = vec![0.0];
            for (&token, line) in row.wanted()[1..].iter().zip(&mut lines) {
                own.push(line[token as usize % width] - log_sum_exp(line));
            }
            lines.next();
            log_probabilities.push(own);
        }
        let scored: Vec<ScoredRow<'_>> = rows
            .iter()
            .zip(&log_probabilities)
            .map(|(row, log_probabilities)| ScoredRow {
                row: *row,
                unjudged: 1,
                log_probabilities,
                bytes: &[],
                ends: true,
                at_once: true,
                reader: None,
            })
            .collect();
        let readings = self.inner.score(&scored, out.hidden.as_ref())?;
        for ((read, own), readings) in reads.iter().zip(&log_probabilities).zip(readings) {
            let text = &mut self.texts[read.slot];
            let mut start = text.read_bytes();
            let new = read.tokens[read.from + 1..].iter().zip(&own[1..]);
            for ((&id, &log_probability), reading) in new.zip(readings) {
                let end = start + self.vocabulary.tokenizer.bytes(id).len();
                text.read.push(ReadToken {
                    id,
                    bytes: start..end,
                    reading: TokenReading {
                        reward: reading.reward,
                        log_probability: Some(log_probability),
                    },
                });
                start = end;
            }
        }
        Ok(())
    }

    fn free(&mut self, slot: usize) {
        self.cache.truncate(slot, 0);
        self.inner.truncate(slot, 0);
        self.texts[slot] = ReadText::default();
    }
}

impl RewardState for ReaderState {
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        _hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>> {
        self.take(rows)?;
        let due = rows.iter().filter(|scored| {
            let text = &self.texts[scored.row.slot];
            scored.is_due(text.ends.len() - text.given)
        });
        let due: Vec<&ScoredRow<'_>> = due.collect();
        loop {
            let reads = due
                .iter()
                .filter_map(|scored| self.next(scored.row.slot, scored.ends));
            let reads: Vec<ReadRow> = reads.collect();
            if reads.is_empty() {
                break;
            }
            self.read(&reads)?;
        }
        Ok(rows
            .iter()
            .map(|scored| self.texts[scored.row.slot].take_readings(scored.ends))
            .collect())
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        let text = &self.texts[slot];
        if len < text.policy_prompt || text.prompt.is_none() {
            return self.free(slot);
        }
        self.texts[slot] = text.truncated(len - text.policy_prompt);
    }

    fn fork(&mut self, from: usize, to: usize, len: usize) {
        let text = &self.texts[from];
        if len < text.policy_prompt || text.prompt.is_none() {
            return self.free(to);
        }
        let copy = text.truncated(len - text.policy_prompt);
        let prompt = copy.prompt.as_ref().map_or(0, |p| p.prompt.tokens.len());
        let positions = match copy.read.len().saturating_sub(copy.base) {
            0 => 0,
            window => prompt + window,
        };
        if from != to {
            self.cache.fork(from, to, positions);
            self.inner.fork(from, to, positions);
        }
        self.texts[to] = copy;
    }
}
