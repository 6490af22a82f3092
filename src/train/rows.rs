//! Layout of training text: one row per image, whose prefix is shared by all texts about it.
//!
//! A row is `[image][shared prompt][branch][branch]...`. A branch attends to the image, to the
//! shared prompt if it continues it, and to itself; its rotary positions continue its context as if
//! it stood alone. Five captions and a few questions thus cost one prefix.

use candle_core::{Device, Result, Tensor};

/// Text about an image within a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseBranch {
    /// `true` if the branch continues the row's shared prompt (a caption), `false` if it follows
    /// the image directly (a question with its answer).
    pub after_prompt: bool,
    /// Tokens.
    pub tokens: Vec<u32>,
    /// Index of the first learned token; those before it are given.
    pub learn_from: usize,
}

/// All texts about one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRow {
    /// Shared prompt.
    pub prompt: Vec<u32>,
    /// Branches.
    pub branches: Vec<ResponseBranch>,
}

impl TextRow {
    /// Number of text positions.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.branches.iter().map(|b| b.tokens.len()).sum::<usize>()
    }

    /// Returns `true` if the row has no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Padded batch of rows, as the decoder takes it.
pub struct RowBatch {
    /// Text tokens, `rows * length`, padded with 0.
    pub tokens: Vec<u32>,
    /// Rotary positions, `rows * (image_tokens + length)`.
    pub positions: Vec<u32>,
    /// Additive attention mask, `(rows, image_tokens + length, image_tokens + length)`.
    pub mask: Tensor,
    /// For every learned token, the flat index of the position whose hidden state predicts it.
    pub lines: Vec<u32>,
    /// For every learned token, the flat index of its own position.
    pub own_lines: Vec<u32>,
    /// Learned tokens.
    pub targets: Vec<u32>,
}

const HIDDEN: f32 = -1e9;

impl RowBatch {
    /// Lays out `rows`, each behind `image_tokens` image positions.
    pub fn new(rows: &[TextRow], image_tokens: usize) -> Result<Self> {
        let length = rows.iter().map(TextRow::len).max().unwrap_or(0);
        let whole = image_tokens + length;
        let mut tokens = vec![0u32; rows.len() * length];
        let mut positions = vec![0u32; rows.len() * whole];
        let mut mask = vec![HIDDEN; rows.len() * whole * whole];
        let (mut lines, mut own_lines, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (r, row) in rows.iter().enumerate() {
            let (base, mask) = (
                r * whole,
                &mut mask[r * whole * whole..(r + 1) * whole * whole],
            );
            let mut attend = |query: usize, from: usize, to: usize| {
                mask[query * whole + from..query * whole + to].fill(0.0)
            };
            for i in 0..image_tokens {
                positions[base + i] = i as u32;
                attend(i, 0, image_tokens);
            }
            let prompt_end = image_tokens + row.prompt.len();
            for (i, &token) in row.prompt.iter().enumerate() {
                let position = image_tokens + i;
                tokens[r * length + i] = token;
                positions[base + position] = position as u32;
                attend(position, 0, position + 1);
            }
            let mut first = prompt_end;
            for branch in &row.branches {
                let context = if branch.after_prompt {
                    prompt_end
                } else {
                    image_tokens
                };
                for (i, &token) in branch.tokens.iter().enumerate() {
                    let position = first + i;
                    tokens[r * length + position - image_tokens] = token;
                    positions[base + position] = (context + i) as u32;
                    attend(position, 0, context);
                    attend(position, first, position + 1);
                    if i >= branch.learn_from && (i > 0 || context > 0) {
                        let before = if i == 0 { context - 1 } else { position - 1 };
                        lines.push((base + before) as u32);
                        own_lines.push((base + position) as u32);
                        targets.push(token);
                    }
                }
                first += branch.tokens.len();
            }
            // Padding attends to the image to keep its hidden states finite; nothing attends to
            // padding.
            (first..whole).for_each(|position| attend(position, 0, image_tokens.max(1)));
        }
        let mask = Tensor::from_vec(mask, (rows.len(), whole, whole), &Device::Cpu)?;
        Ok(Self {
            tokens,
            positions,
            mask,
            lines,
            own_lines,
            targets,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mask_branches_attend_to_context_and_themselves() {
        let row = TextRow {
            prompt: vec![10, 11],
            branches: vec![
                ResponseBranch {
                    after_prompt: true,
                    tokens: vec![20, 21],
                    learn_from: 0,
                },
                ResponseBranch {
                    after_prompt: true,
                    tokens: vec![30],
                    learn_from: 0,
                },
                ResponseBranch {
                    after_prompt: false,
                    tokens: vec![40, 41, 42],
                    learn_from: 2,
                },
            ],
        };
        let short = TextRow {
            prompt: vec![10],
            branches: vec![],
        };
        let batch = RowBatch::new(&[row, short], 3).unwrap();
        let seen = |q: usize| -> Vec<usize> {
            let line = batch
                .mask
                .get(0)
                .unwrap()
                .get(q)
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            (0..11).filter(|&k| line[k] == 0.0).collect()
        };
        assert_eq!(seen(0), [0, 1, 2]);
        assert_eq!(seen(4), [0, 1, 2, 3, 4]);
        assert_eq!(seen(6), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(seen(7), [0, 1, 2, 3, 4, 7]);
        assert_eq!(seen(9), [0, 1, 2, 8, 9]);
        assert_eq!(batch.positions[..11], [0, 1, 2, 3, 4, 5, 6, 5, 3, 4, 5]);
        assert_eq!(batch.targets, [20, 21, 30, 42]);
        assert_eq!(batch.lines, [4, 5, 4, 9]);
        assert_eq!(batch.own_lines, [5, 6, 7, 10]);
    }
}
