//! Model that is measured.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::{
    cli::{Failure, common::open_bundle},
    config::{Auto, Config},
    guard::{Mode, policy},
    reward::RewardKind,
    serve::Local,
};

/// Request for a caption of models other than candor-mini, which needs none.
const CAPTION: &str = "Describe this photograph.";

/// Seconds that a request may take.
const LONGEST_ANSWER_S: u64 = 24 * 60 * 60;

/// Guard mode, as the command line names it: MODE, or MODE/WINDOW.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GuardChoice {
    pub(super) name: String,
    mode: Mode,
    window: Option<u64>,
}

impl GuardChoice {
    /// The mode that does not score.
    pub(super) fn off() -> Self {
        Self {
            name: "off".to_owned(),
            mode: Mode::Off,
            window: None,
        }
    }

    /// The mode that scores and marks.
    pub(super) fn flag() -> Self {
        Self {
            name: "flag".to_owned(),
            mode: Mode::Flag,
            window: None,
        }
    }

    /// Returns `true` if the mode needs a scorer.
    pub(super) fn scores(&self) -> bool {
        policy::scores(self.mode)
    }

    /// Parses MODE or MODE/WINDOW.
    ///
    /// # Errors
    /// A message that names the part that is not one.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let (mode, window) = match name.split_once('/') {
            Some((mode, window)) => (mode, Some(window)),
            None => (name, None),
        };
        let window = window.map(|window| {
            let number = window.parse::<u64>();
            number.map_err(|_| format!("the window '{window}' is not a number of words"))
        });
        Ok(Self {
            name: name.to_owned(),
            mode: serde_json::from_value(mode.into())
                .map_err(|_| format!("'{mode}' is not a mode of the guard"))?,
            window: window.transpose()?,
        })
    }
}

/// Model that is measured, behind the API's handlers in this process.
pub(super) struct MeasuredModel {
    pub(super) local: Local,
    pub(super) name: String,
    /// Kind of its scorer.
    pub(super) scorer: Option<&'static str>,
    /// Numbers of images that a request may have.
    pub(super) images: RangeInclusive<usize>,
    /// Most positions of a prompt with its answer.
    pub(super) context: usize,
    /// `true` if the scorer judges texts about exactly one image.
    judges_one_image: bool,
    caption: &'static str,
    max_tokens: usize,
}

impl MeasuredModel {
    /// Loads the configured model, with its scorer of this kind or with its default one, and starts
    /// its engine. Answers have at most `max_tokens` tokens.
    ///
    /// # Errors
    /// When the model cannot be served or has no such scorer.
    pub(super) fn start(
        config: &Config,
        scorer: Option<RewardKind>,
        max_tokens: usize,
    ) -> Result<Self, Failure> {
        let mut config = config.clone();
        // A slow answer is a figure, not an error.
        config.server.request_timeout_s = LONGEST_ANSWER_S;
        if let Some(kind) = scorer {
            config.model.reward = Auto::Value(kind);
        }
        let bundle = open_bundle(&mut config)?;
        let (taken, spec) = (bundle.processor.images(), bundle.vlm.spec());
        let context = config.engine.context_len.as_ref();
        Ok(Self {
            name: bundle.name.clone(),
            scorer: bundle
                .reward
                .as_ref()
                .map(|own| scorer.map_or(own.kind(), RewardKind::name)),
            images: *taken.start()..=(*taken.end()).min(config.images.max_per_request),
            context: context.map_or(spec.context_len, |&set| set.min(spec.context_len)),
            judges_one_image: bundle.scorer.is_some(),
            caption: if bundle.is_checkpoint() { CAPTION } else { "" },
            max_tokens,
            local: Local::start(config, bundle).map_err(Failure::failed)?,
        })
    }

    /// Returns `true` if the model takes images.
    pub(super) fn sees(&self) -> bool {
        *self.images.end() > 0
    }

    /// Returns `true` if the model's answers can be scored.
    pub(super) fn can_score(&self) -> bool {
        self.scorer.is_some() && (self.sees() || !self.judges_one_image)
    }

    /// Builds a streamed request about the photographs; without a `text` it asks for a caption.
    pub(super) fn request(
        &self,
        photos: &[Vec<u8>],
        text: Option<&str>,
        guard: &GuardChoice,
    ) -> Value {
        let photos: Vec<&[u8]> = photos.iter().map(Vec::as_slice).collect();
        let mut request = self
            .local
            .request_about(&photos, text.unwrap_or(self.caption));
        request["guard"] = json!({ "mode": guard.mode });
        if let Some(window) = guard.window {
            request["guard"]["window"] = window.into();
        }
        request["max_tokens"] = self.max_tokens.into();
        request["stream"] = true.into();
        request["stream_options"] = json!({ "include_usage": true });
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_choice_is_a_mode_with_or_without_a_window() {
        let choice = GuardChoice::parse("regenerate/6").unwrap();
        assert_eq!((choice.mode, choice.window), (Mode::Regenerate, Some(6)));
        assert_eq!(GuardChoice::parse("off"), Ok(GuardChoice::off()));
        assert!(!GuardChoice::off().scores() && choice.scores());
        for (wrong, named) in [("flags", "'flags'"), ("flag/x", "'x'"), ("", "''")] {
            assert!(GuardChoice::parse(wrong).unwrap_err().contains(named));
        }
    }
}
