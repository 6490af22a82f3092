//! A bundle that answers questions about photographs during an evaluation.

use std::ops::Range;

use clap::Args;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    bundle::Bundle,
    cli::{
        Failure,
        common::{ModelArgs, block_on, open_bundle, with_fields},
        output::progress,
        photo::{name_flags, read},
    },
    config::Config,
    eval::{captions::flags::GuardMarks, data::AnnotatedImage, report::answers::AnsweredQuestion},
    guard::words::words,
    serve::Local,
};

/// Requests in flight at a time.
const AT_ONCE: usize = 16;

/// Size of the image cache in bytes.
const IMAGE_BYTES: u64 = 512 << 20;

/// A loaded model and its configuration. The guard is off unless a request turns it on, so that the
/// policy alone is measured.
pub(super) struct AnswerSession {
    config: Config,
    bundle: Bundle,
}

/// An answer with its guard report and token counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct AnswerWithCost {
    pub(super) text: String,
    /// Tokens of the answer, and tokens decoded in addition.
    pub(super) tokens: u64,
    pub(super) extra_tokens: u64,
    /// Verdict of the guard.
    pub(super) verdict: String,
    /// Calibrated probability that the answer is right, if the bundle has that calibration; else
    /// its score, if it was scored.
    pub(super) score: Option<f64>,
    /// Familiarity of the photograph, if reported; 1 is as familiar as the training photographs.
    pub(super) familiarity: Option<f64>,
    /// Flagged spans, and the score of each word if log-probabilities were requested.
    pub(super) marks: GuardMarks,
    /// Repaired spans: byte range, score, and number of candidates.
    pub(super) chosen: Vec<(Range<usize>, f32, usize)>,
}

impl AnswerWithCost {
    /// Returns `true` if the answer is an abstention.
    pub(super) fn is_abstention(&self) -> bool {
        self.verdict == "abstained"
    }

    /// Answer that was read from a file and has no guard report.
    pub(super) fn from_text(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    /// Answer with its guard report and tokens; `all` counts every decoded token.
    fn new(text: &str, all: u64, guard: &Value, tokens: &Value) -> Self {
        let extra_tokens = guard["extra_tokens"].as_u64().unwrap_or(0);
        // The usage counts the tokens of rejected candidates too.
        let others: u64 = if guard["candidates"].is_null() {
            0
        } else {
            extra_tokens
        };
        Self {
            text: text.to_owned(),
            tokens: all.saturating_sub(others),
            extra_tokens,
            verdict: guard["verdict"].as_str().unwrap_or_default().to_owned(),
            score: guard["answer_probability"]
                .as_f64()
                .or(guard["score"].as_f64()),
            familiarity: guard["familiarity"].as_f64(),
            marks: guard_marks(guard, tokens, text),
            chosen: repaired_phrases(guard, text),
        }
    }
}

impl AnswerSession {
    /// Loads the configured model. May re-execute the process, so nothing may be written before.
    pub(super) fn open(model: &ModelArgs) -> Result<Self, Failure> {
        let mut config = model.load(&[("--guard", "guard.mode", Some("off".into()))])?;
        // A question may be asked under several settings, and an image in several questions.
        config.engine.max_waiting = config.engine.max_waiting.max(AT_ONCE * AT_ONCE);
        config.images.cache_bytes = config.images.cache_bytes.max(IMAGE_BYTES);
        Ok(Self {
            bundle: open_bundle(&mut config)?,
            config,
        })
    }

    /// Name and version of the model.
    pub(super) fn model(&self) -> (String, String) {
        (self.bundle.name.clone(), self.bundle.version.clone())
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns `true` if the bundle has a scorer.
    pub(super) fn has_scorer(&self) -> bool {
        self.bundle.reward.is_some()
    }

    /// Asks every question (an empty prompt requests a description) under every setting (request
    /// fields), several at a time. `take` receives the answers with the indices of setting and
    /// question.
    pub(super) fn answer_each(
        self,
        settings: &[(&str, Value)],
        prompts: &[(&AnnotatedImage, &str)],
        mut take: impl FnMut(usize, usize, AnswerWithCost) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut jobs = Vec::with_capacity(settings.len() * prompts.len());
        for (name, fields) in settings {
            jobs.extend(prompts.iter().map(|&(image, prompt)| PhotographJob {
                name,
                image,
                work: PhotographWork::Answer { prompt, fields },
            }));
        }
        self.run_jobs(&jobs, |i, answer| {
            take(i / prompts.len(), i % prompts.len(), answer)
        })
    }

    /// Runs jobs, several at a time. `take` receives the results in order, each with its index.
    pub(super) fn run_jobs(
        self,
        jobs: &[PhotographJob<'_>],
        mut take: impl FnMut(usize, AnswerWithCost) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Self { config, bundle } = self;
        let bar = progress(
            jobs.len(),
            "{msg} {bar:40} {pos}/{len} {per_sec}, {eta} to go",
        );
        let most_bytes = config.images.max_bytes;
        let done = block_on(async {
            let local = Local::start(config, bundle).map_err(Failure::failed)?;
            let done = async {
                let mut answers =
                    stream::iter(jobs.iter().map(|job| work_on(&local, most_bytes, job)))
                        .buffered(AT_ONCE);
                for (number, job) in jobs.iter().enumerate() {
                    bar.set_message(job.name.to_owned());
                    let Some(answer) = answers.next().await else {
                        break;
                    };
                    take(number, answer?)?;
                    bar.inc(1);
                }
                Ok(())
            }
            .await;
            local.stop().await;
            done
        });
        bar.finish_and_clear();
        done
    }

    /// Asks every question in one guard mode and collects the answers.
    pub(super) fn answer_all(
        self,
        mode: &str,
        prompts: &[(&AnnotatedImage, &str)],
    ) -> Result<Vec<AnswerWithCost>, Failure> {
        let mut answers = Vec::with_capacity(prompts.len());
        self.answer_each(
            &[("answering", json!({ "guard": { "mode": mode } }))],
            prompts,
            |_, _, answer| {
                answers.push(answer);
                Ok(())
            },
        )?;
        Ok(answers)
    }
}

/// Guard option of commands that measure answers to questions.
#[derive(Debug, Args)]
pub(super) struct AnswerGuard {
    /// Guard mode for the answers; score leaves them unchanged and adds each one's risk [default:
    /// score, or off if the model has no scorer]
    #[arg(long, value_name = "MODE", value_parser = ["off", "score", "flag", "regenerate",
        "block"])]
    pub(super) guard: Option<String>,
}

impl AnswerGuard {
    /// Guard mode by its name in the API.
    pub(super) fn mode(&self, model: &AnswerSession) -> &str {
        match &self.guard {
            Some(mode) => mode,
            None if model.has_scorer() => "score",
            None => "off",
        }
    }
}

/// Adds the guard's score and verdict to a question of a report.
pub(super) fn with_guard(question: AnsweredQuestion, answer: &AnswerWithCost) -> AnsweredQuestion {
    let verdict =
        (!matches!(answer.verdict.as_str(), "" | "unscored")).then(|| answer.verdict.clone());
    AnsweredQuestion {
        score: answer.score,
        verdict,
        ..question
    }
}

/// Work that a [`PhotographJob`] requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum PhotographWork<'a> {
    /// An answer to a prompt (empty: a description), with more request fields.
    Answer { prompt: &'a str, fields: &'a Value },
    /// Scores and flags of a given text as the answer to a prompt (empty: a description).
    Score { prompt: &'a str, text: &'a str },
}

/// One request about one photograph.
#[derive(Debug, Clone, Copy)]
pub(super) struct PhotographJob<'a> {
    /// Label of the progress bar.
    pub(super) name: &'a str,
    pub(super) image: &'a AnnotatedImage,
    pub(super) work: PhotographWork<'a>,
}

async fn work_on(
    local: &Local,
    most_bytes: usize,
    job: &PhotographJob<'_>,
) -> Result<AnswerWithCost, Failure> {
    let image = job.image;
    let photo = image.photo.as_ref().ok_or_else(|| {
        Failure::Misused(format!("there is no photograph for '{}'", image.name()))
    })?;
    let failed = |e: String| Failure::Failed(format!("{}: {}", photo.display(), name_flags(&e)));
    let file = read(photo, most_bytes).map_err(Failure::Failed)?;
    match job.work {
        PhotographWork::Answer { prompt, fields } => {
            let answer = local
                .chat(&with_fields(local.request(&file, prompt), fields))
                .await
                .map_err(failed)?;
            let choice = &answer["choices"][0];
            let text = choice["message"]["content"]
                .as_str()
                .ok_or_else(|| failed("the answer has no text".into()))?;
            let all = answer["usage"]["completion_tokens"].as_u64().unwrap_or(0);
            Ok(AnswerWithCost::new(
                text,
                all,
                &choice["guard"],
                &choice["logprobs"]["content"],
            ))
        }
        PhotographWork::Score { prompt, text } => {
            let request = with_fields(
                local.score_request(&file, prompt, text),
                &json!({ "guard": { "mode": "flag" } }),
            );
            let scores = local.score(&request).await.map_err(failed)?;
            let result = &scores["results"][0];
            Ok(AnswerWithCost::new(
                text,
                0,
                &result["guard"],
                &result["tokens"],
            ))
        }
    }
}

/// Byte range of a span whose offsets count characters.
fn byte_range(span: &Value, text: &str) -> Range<usize> {
    let byte = |chars: &Value| {
        let chars = chars.as_u64().unwrap_or(0) as usize;
        text.char_indices()
            .nth(chars)
            .map_or(text.len(), |(byte, _)| byte)
    };
    byte(&span["start"])..byte(&span["end"])
}

/// Repaired spans with their scores and numbers of candidates, including those that stayed low.
fn repaired_phrases(guard: &Value, text: &str) -> Vec<(Range<usize>, f32, usize)> {
    let spans = guard["spans"].as_array().into_iter().flatten();
    let written = spans.filter(|span| {
        span["original"].is_string()
            && matches!(span["action"].as_str(), Some("regenerated" | "flagged"))
    });
    let tried = |span: &Value| 2 + span["alternatives"].as_array().map_or(0, Vec::len);
    written
        .filter_map(|span| {
            Some((
                byte_range(span, text),
                span["score"].as_f64()? as f32,
                tried(span),
            ))
        })
        .collect()
}

/// Flagged spans of a guard report and, if tokens have rewards, the word scores, all by byte range.
fn guard_marks(guard: &Value, tokens: &Value, text: &str) -> GuardMarks {
    let spans = guard["spans"].as_array().into_iter().flatten();
    let flagged = spans
        .filter(|span| span["action"] == "flagged")
        .map(|span| byte_range(span, text))
        .collect();
    let (mut bytes, mut rewards) = (Vec::new(), Vec::new());
    for token in tokens.as_array().into_iter().flatten() {
        let Some(reward) = token["reward"].as_f64() else {
            break;
        };
        bytes.push(
            token["bytes"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_u64)
                .map(|b| b as u8)
                .collect::<Vec<u8>>(),
        );
        rewards.push(reward as f32);
    }
    let (_, words) = words(bytes.iter().map(Vec::as_slice), &rewards);
    GuardMarks {
        flagged,
        scores: words
            .into_iter()
            .filter_map(|word| Some((word.bytes, word.score?)))
            .collect(),
    }
}
