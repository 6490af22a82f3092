//! Cost of a request, estimated before it runs.
//!
//! One work unit is one prefilled position, about 0.15 ms on two cores. A decoded token is
//! [`DECODED_TOKEN_WORK`] units, an image that is decoded and encoded [`IMAGE_WORK`].

use crate::engine::DECODED_TOKEN_WORK;

/// Work of decoding and encoding one image.
pub(in crate::serve) const IMAGE_WORK: u64 = 256;

/// Upper bound of a request's cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::serve) struct RequestCost {
    /// Work units.
    pub(in crate::serve) work: u64,
    /// Tokens of prompt and completion, as counted by `usage`.
    pub(in crate::serve) tokens: u64,
}

/// Parameters that determine the cost of a completion.
#[derive(Debug, Clone, Copy)]
pub(in crate::serve) struct GenerationCost {
    /// Most positions of a sequence.
    pub(in crate::serve) context: usize,
    /// Images of the prompt.
    pub(in crate::serve) images: usize,
    /// Positions of the prompt, images included.
    pub(in crate::serve) prompt: usize,
    /// Most tokens of an answer, as requested.
    pub(in crate::serve) max_tokens: usize,
    /// Choices returned.
    pub(in crate::serve) choices: usize,
    /// Candidates decoded for each choice.
    pub(in crate::serve) candidates: usize,
}

impl GenerationCost {
    /// Returns the cost.
    pub(in crate::serve) fn cost(self) -> RequestCost {
        let number = |n: usize| n as u64;
        let written = number(
            self.max_tokens
                .min(self.context.saturating_sub(self.prompt)),
        );
        let answers = number(self.choices).saturating_mul(number(self.candidates));
        let prompt = number(self.prompt);
        RequestCost {
            work: IMAGE_WORK * number(self.images)
                + answers.saturating_mul(prompt + DECODED_TOKEN_WORK * written),
            tokens: (prompt * number(self.candidates))
                .saturating_add(answers.saturating_mul(written)),
        }
    }
}

/// Returns the most work of one answer.
pub(in crate::serve) fn longest_answer(context: usize) -> u64 {
    GenerationCost {
        context,
        images: 1,
        prompt: 1,
        max_tokens: context,
        choices: 1,
        candidates: 1,
    }
    .cost()
    .work
}

/// Returns the cost of scoring texts of `positions` in total about `images` images.
pub(in crate::serve) fn scoring_cost(images: usize, positions: usize) -> RequestCost {
    RequestCost {
        work: IMAGE_WORK * images as u64 + positions as u64,
        tokens: positions as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_grows_with_answers_candidates_tokens_and_images() {
        let one = GenerationCost {
            context: 160,
            images: 1,
            prompt: 60,
            max_tokens: 20,
            choices: 1,
            candidates: 1,
        };
        assert_eq!(
            one.cost(),
            RequestCost {
                work: 256 + 60 + 8 * 20,
                tokens: 80
            }
        );
        assert_eq!(
            GenerationCost {
                max_tokens: usize::MAX,
                ..one
            }
            .cost(),
            RequestCost {
                work: 256 + 60 + 8 * 100,
                tokens: 160
            }
        );
        assert_eq!(
            GenerationCost { prompt: 500, ..one }.cost(),
            RequestCost {
                work: 256 + 500,
                tokens: 500
            }
        );
        assert_eq!(
            GenerationCost {
                choices: 3,
                candidates: 2,
                ..one
            }
            .cost(),
            RequestCost {
                work: 256 + 6 * 220,
                tokens: 2 * 60 + 6 * 20
            }
        );
        assert_eq!(
            scoring_cost(64, 5000),
            RequestCost {
                work: 64 * 256 + 5000,
                tokens: 5000
            }
        );
    }
}
