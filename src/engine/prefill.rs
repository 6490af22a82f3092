//! Parts of prompts that a step reads, so that a long prompt holds nobody up.
//!
//! While answers are being written, a step reads few positions of prompts; otherwise it reads more,
//! but never so many that a request arriving meanwhile would wait long. What a prompt's keys and
//! values are does not depend on its parts.

use std::{ops::Range, time::Duration};

use crate::vlm::prompt::Prompt;

/// Fewest and most positions of prompts that a step reads while answers are being written, if the
/// number is measured.
const BOUNDS: (usize, usize) = (16, 512);

/// Number before anything is measured.
const FIRST: usize = 64;

/// Time that a step with prompts may take while answers are being written.
const STEP_TIME: Duration = Duration::from_millis(60);

/// Time that such a step may take at any rate, as a multiple of one without prompts. Without it,
/// prompts would starve where a step is slow by itself.
const STEP_RATIO: f64 = 1.75;

/// Positions that a step may read while no answer is being written, as a multiple of those that it
/// may read otherwise.
const IDLE_RATIO: usize = 4;

/// Weight of a new measurement of a step without prompts.
const SMOOTHING: f64 = 1.0 / 8.0;

/// Number of positions of prompts that a step may read.
#[derive(Debug)]
pub(crate) struct PrefillBudget {
    /// `true` if measurements change [`Self::positions`].
    measured: bool,
    /// Most positions while answers are being written.
    positions: usize,
    /// Seconds that a step without prompts takes; 0 before the first.
    decode_time: f64,
}

impl PrefillBudget {
    /// Creates a budget of a fixed number of positions, at least one, or of as many as steps are
    /// measured to have time for.
    pub(crate) fn new(fixed: Option<usize>) -> Self {
        Self {
            measured: fixed.is_none(),
            positions: fixed.unwrap_or(FIRST).max(1),
            decode_time: 0.0,
        }
    }

    /// Returns the most positions of prompts for the next step.
    pub(crate) fn positions(&self, answers_are_written: bool) -> usize {
        if answers_are_written {
            self.positions
        } else {
            self.positions.saturating_mul(IDLE_RATIO)
        }
    }

    /// Takes the time of a step that read `positions` of prompts.
    pub(crate) fn observe(&mut self, positions: usize, took: Duration) {
        let took = took.as_secs_f64();
        if positions == 0 {
            let known = self.decode_time > 0.0;
            self.decode_time += (took - self.decode_time) * if known { SMOOTHING } else { 1.0 };
            return;
        }
        let most = STEP_TIME.as_secs_f64().max(STEP_RATIO * self.decode_time);
        // A few positions of a prompt that is soon over say nothing about what many would take.
        let tells = took > most || 2 * positions >= self.positions;
        if !self.measured || !tells || took <= 0.0 {
            return;
        }
        let fitting = (positions as f64 * most / took) as usize;
        // By steps, so that one slow measurement among many does little.
        self.positions = fitting
            .clamp(self.positions / 2, self.positions * 2)
            .clamp(BOUNDS.0, BOUNDS.1);
    }
}

/// Prompt of which the positions from `start` on are to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UnreadPrompt<'a> {
    pub(crate) start: usize,
    pub(crate) prompt: &'a Prompt,
}

impl UnreadPrompt<'_> {
    /// Returns the number of positions to read next, at most `most`; where images must be read as
    /// a whole, 0 if the next one does not fit.
    fn part(&self, most: usize, whole_images: bool) -> usize {
        let end = self
            .prompt
            .tokens
            .len()
            .min(self.start.saturating_add(most));
        let split = self.split(end).filter(|_| whole_images);
        split.map_or(end, |image| image.start).max(self.start) - self.start
    }

    /// Returns the number of positions of the least part that can be read next.
    fn least_part(&self, whole_images: bool) -> usize {
        let end = self.prompt.tokens.len().min(self.start + 1);
        let split = self.split(end).filter(|_| whole_images);
        split.map_or(end, |image| image.end).max(self.start) - self.start
    }

    /// Returns the positions of the image within which `end` lies.
    fn split(&self, end: usize) -> Option<Range<usize>> {
        let mut images = self.prompt.images.iter().map(|span| span.range.clone());
        images.find(|image| image.start < end && end < image.end)
    }
}

/// Divides `budget` positions among prompts in order of admission, and returns the number of
/// positions that each reads next. As long as others wait, none gets more than half of what is
/// left; the first always gets some.
pub(crate) fn divide(
    prompts: &[UnreadPrompt<'_>],
    budget: usize,
    whole_images: bool,
) -> Vec<usize> {
    let mut left = budget;
    let mut parts = Vec::with_capacity(prompts.len());
    for (i, prompt) in prompts.iter().enumerate() {
        let is_last = i + 1 == prompts.len();
        let share = if is_last { left } else { left.div_ceil(2) };
        let mut part = prompt.part(share, whole_images);
        if i == 0 && part == 0 {
            part = prompt.least_part(whole_images);
        }
        left = left.saturating_sub(part);
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vlm::prompt::ImageSpan;

    /// Returns a prompt of text and images of these lengths in turn.
    fn prompt(lengths: &[usize]) -> Prompt {
        let mut prompt = Prompt::default();
        for (i, &length) in lengths.iter().enumerate() {
            let start = prompt.tokens.len();
            prompt.tokens.resize(start + length, 3);
            if i % 2 == 1 {
                prompt.images.push(ImageSpan {
                    range: start..start + length,
                    image: i / 2,
                    rows: 0..length,
                });
            }
        }
        prompt
    }

    #[test]
    fn the_oldest_prompt_gets_half_and_what_is_left_goes_on() {
        let (long, short) = (prompt(&[1000]), prompt(&[10]));
        let unread = |prompt, start| UnreadPrompt { start, prompt };
        let parts = |prompts: &[UnreadPrompt<'_>]| divide(prompts, 64, false);
        assert_eq!(parts(&[unread(&long, 0)]), [64]);
        assert_eq!(parts(&[unread(&long, 990)]), [10]);
        assert_eq!(parts(&[unread(&long, 0), unread(&long, 7)]), [32, 32]);
        assert_eq!(parts(&[unread(&short, 4), unread(&long, 0)]), [6, 58]);
        let many = [unread(&long, 0); 8];
        assert_eq!(parts(&many), [32, 16, 8, 4, 2, 1, 1, 0]);
    }

    #[test]
    fn an_image_that_must_be_whole_is_read_as_a_whole() {
        let about = prompt(&[4, 30, 6]);
        let unread = |start| UnreadPrompt {
            start,
            prompt: &about,
        };
        assert_eq!(divide(&[unread(0)], 16, true), [4], "the text before it");
        assert_eq!(divide(&[unread(4)], 16, true), [30], "more than the budget");
        assert_eq!(divide(&[unread(0)], 34, true), [34], "its end is no split");
        assert_eq!(divide(&[unread(4), unread(4)], 40, true), [30, 0]);
        assert_eq!(divide(&[unread(0)], 16, false), [16]);
    }

    proptest! {
        #[test]
        fn prompts_are_read_to_their_ends_within_the_budget_and_no_image_is_split(
            lengths in proptest::collection::vec(
                proptest::collection::vec(1usize..40, 1..6), 1..6),
            budget in 1usize..80, whole_images in any::<bool>(),
        ) {
            let prompts: Vec<Prompt> = lengths.iter().map(|lengths| prompt(lengths)).collect();
            let mut starts = vec![0; prompts.len()];
            loop {
                let open: Vec<usize> = (0..prompts.len())
                    .filter(|&i| starts[i] < prompts[i].tokens.len())
                    .collect();
                if open.is_empty() {
                    break;
                }
                let unread: Vec<UnreadPrompt<'_>> = open
                    .iter()
                    .map(|&i| UnreadPrompt { start: starts[i], prompt: &prompts[i] })
                    .collect();
                let parts = divide(&unread, budget, whole_images);
                prop_assert!(parts[0] > 0, "the first goes on");
                let longest = if whole_images { 40 } else { 0 };
                prop_assert!(parts.iter().sum::<usize>() <= budget.max(longest));
                for (&i, part) in open.iter().zip(parts) {
                    starts[i] += part;
                    prop_assert!(starts[i] <= prompts[i].tokens.len());
                    let at = starts[i];
                    prop_assert!(!whole_images || prompts[i].images.iter()
                        .all(|image| at <= image.range.start || image.range.end <= at));
                }
            }
        }
    }

    /// Time of a step in a world where each position takes as long, beside the answers' own time.
    fn step(positions: usize, each: f64, answers: f64) -> Duration {
        Duration::from_secs_f64(answers + each * positions as f64)
    }

    #[test]
    fn a_measured_budget_keeps_steps_within_their_time() {
        for (each, answers) in [(1e-3, 8e-3), (2e-3, 8e-3), (1e-3, 0.05), (4e-3, 0.1)] {
            let mut budget = PrefillBudget::new(None);
            budget.observe(0, step(0, each, answers));
            for _ in 0..20 {
                let positions = budget.positions(true);
                budget.observe(positions, step(positions, each, answers));
            }
            let took = step(budget.positions(true), each, answers).as_secs_f64();
            let most = 0.06_f64.max(1.75 * answers);
            assert!(
                (0.9 * most..=1.02 * most).contains(&took),
                "{took} of {most}"
            );
        }
    }

    #[test]
    fn a_budget_stays_within_its_bounds_and_a_fixed_one_stays() {
        let (mut fast, mut slow) = (PrefillBudget::new(None), PrefillBudget::new(None));
        let mut fixed = PrefillBudget::new(Some(7));
        for _ in 0..20 {
            for (budget, each) in [(&mut fast, 1e-6), (&mut slow, 1.0), (&mut fixed, 1.0)] {
                budget.observe(budget.positions(true), step(100, each, 0.0));
            }
        }
        assert_eq!((fast.positions(true), fast.positions(false)), (512, 2048));
        assert_eq!((slow.positions(true), slow.positions(false)), (16, 64));
        assert_eq!((fixed.positions(true), fixed.positions(false)), (7, 28));
    }
}
