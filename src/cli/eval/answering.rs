//! A bundle that answers while it is evaluated.

use std::ops::Range;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    bundle::Bundle,
    cli::{
        Failure,
        common::{ModelArgs, block_on, open_bundle, with_fields},
        output::progress,
        photo::{in_flags, read},
    },
    config::Config,
    eval::{captions::flags::GuardMarks, data::AnnotatedImage},
    guard::words::words,
    serve::Local,
};

/// Answers written at once.
const AT_ONCE: usize = 16;

/// Memory for encoded images.
const IMAGE_BYTES: u64 = 512 << 20;

/// A model, ready to be asked. Without being told otherwise there is no guard: what is measured is
/// what the model says.
pub(super) struct AnswerSession {
    config: Config,
    bundle: Bundle,
}

/// An answer and what it cost.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct AnswerWithCost {
    pub(super) text: String,
    /// Its tokens, and those that were decoded beside them.
    pub(super) tokens: u64,
    pub(super) extra_tokens: u64,
    /// The guard's verdict.
    pub(super) verdict: String,
    /// How likely the whole is right, where that is calibrated; else its score, where it was
    /// scored.
    pub(super) score: Option<f64>,
    /// How familiar the photograph is, where the guard says: 1 is as familiar as those it was made
    /// with.
    pub(super) familiarity: Option<f64>,
    /// What is flagged, and each word's score where log-probabilities were asked for.
    pub(super) marks: GuardMarks,
    /// What repairs wrote: its bytes, its score, and among how many versions it was chosen.
    pub(super) chosen: Vec<(Range<usize>, f32, usize)>,
}

impl AnswerWithCost {
    /// Returns `true` if it says that it cannot be told.
    pub(super) fn is_abstention(&self) -> bool {
        self.verdict == "abstained"
    }

    /// An answer that was read, not written here.
    pub(super) fn of_text(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    /// A text, `all` tokens of which were decoded, with the guard's report and its tokens.
    fn new(text: &str, all: u64, guard: &Value, tokens: &Value) -> Self {
        let extra_tokens = guard["extra_tokens"].as_u64().unwrap_or(0);
        // Those of candidates that were not given are in both.
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
            marks: marks(guard, tokens, text),
            chosen: chosen(guard, text),
        }
    }
}

impl AnswerSession {
    /// Loads the configured model. This may start the process anew, so that nothing is to be
    /// written before.
    pub(super) fn open(model: &ModelArgs) -> Result<Self, Failure> {
        let mut config = model.load(&[("--guard", "guard.mode", Some("off".into()))])?;
        // Several answers a question may be asked for, and the same images several times.
        config.engine.max_waiting = config.engine.max_waiting.max(AT_ONCE * AT_ONCE);
        config.images.cache_bytes = config.images.cache_bytes.max(IMAGE_BYTES);
        Ok(Self {
            bundle: open_bundle(&config)?,
            config,
        })
    }

    /// Name and version of the model.
    pub(super) fn model(&self) -> (String, String) {
        (
            self.bundle.config.name.clone(),
            self.bundle.config.version.clone(),
        )
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns `true` if it can score what it writes.
    pub(super) fn has_scorer(&self) -> bool {
        self.bundle.reward.is_some()
    }

    /// Asks about photographs (an empty prompt: a description), many at once, under several
    /// settings, which are fields of the request, and hands out the answers with the number of the
    /// setting and of the question.
    pub(super) fn each_of(
        self,
        settings: &[(&str, Value)],
        asked: &[(&AnnotatedImage, &str)],
        mut take: impl FnMut(usize, usize, AnswerWithCost) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut jobs = Vec::with_capacity(settings.len() * asked.len());
        for (name, fields) in settings {
            jobs.extend(asked.iter().map(|&(image, prompt)| PhotographJob {
                name,
                image,
                work: PhotographWork::Answer { prompt, fields },
            }));
        }
        self.each(&jobs, |i, answer| {
            take(i / asked.len(), i % asked.len(), answer)
        })
    }

    /// Does jobs, many at once, and hands out what came of them in their order, with their number.
    pub(super) fn each(
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

    /// Asks about photographs in a mode of the guard and gathers the answers.
    pub(super) fn all(
        self,
        mode: &str,
        asked: &[(&AnnotatedImage, &str)],
    ) -> Result<Vec<AnswerWithCost>, Failure> {
        let mut answers = Vec::with_capacity(asked.len());
        self.each_of(
            &[("answering", json!({ "guard": { "mode": mode } }))],
            asked,
            |_, _, answer| {
                answers.push(answer);
                Ok(())
            },
        )?;
        Ok(answers)
    }
}

/// What is asked about a photograph.
#[derive(Debug, Clone, Copy)]
pub(super) enum PhotographWork<'a> {
    /// An answer to a prompt (empty: a description), with fields of the request.
    Answer { prompt: &'a str, fields: &'a Value },
    /// The scores of a text that somebody gave as answer to a prompt (empty: a description), and
    /// what the guard flags in it.
    Score { prompt: &'a str, text: &'a str },
}

/// Work on one photograph.
#[derive(Debug, Clone, Copy)]
pub(super) struct PhotographJob<'a> {
    /// What the progress bar says.
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
    let failed = |e: String| Failure::Failed(format!("{}: {}", photo.display(), in_flags(&e)));
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

/// The bytes of a span of a text.
fn bytes_of(span: &Value, text: &str) -> Range<usize> {
    let byte = |chars: &Value| {
        let chars = chars.as_u64().unwrap_or(0) as usize;
        text.char_indices()
            .nth(chars)
            .map_or(text.len(), |(byte, _)| byte)
    };
    byte(&span["start"])..byte(&span["end"])
}

/// The spans that were written again, those that are still low among them.
fn chosen(guard: &Value, text: &str) -> Vec<(Range<usize>, f32, usize)> {
    let spans = guard["spans"].as_array().into_iter().flatten();
    let written = spans.filter(|span| {
        span["original"].is_string()
            && matches!(span["action"].as_str(), Some("regenerated" | "flagged"))
    });
    let tried = |span: &Value| 2 + span["alternatives"].as_array().map_or(0, Vec::len);
    written
        .filter_map(|span| {
            Some((
                bytes_of(span, text),
                span["score"].as_f64()? as f32,
                tried(span),
            ))
        })
        .collect()
}

/// The spans of a guard's report and, where there are tokens with rewards, the scores of the words;
/// by the bytes of the text.
fn marks(guard: &Value, tokens: &Value, text: &str) -> GuardMarks {
    let spans = guard["spans"].as_array().into_iter().flatten();
    let flagged = spans
        .filter(|span| span["action"] == "flagged")
        .map(|span| bytes_of(span, text))
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
