//! Growth: speed and memory against clients, the length of the prompt, the number of images.

use clap::ValueEnum;
use serde::Serialize;

use super::{
    case::{BenchCase, Measured, MeasuredSetting, Photographs, measure_in_turn},
    material::{Material, period},
    model::{GuardChoice, MeasuredModel},
    table,
    timing::{SpeedSample, median, stream_answer},
};
use crate::cli::{Failure, output::note};

/// Numbers of clients.
const CLIENTS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Lengths of prompts in tokens.
const PROMPTS: [usize; 6] = [100, 250, 500, 1_000, 2_000, 4_000];

/// Numbers of images of a request.
const IMAGES: [usize; 6] = [1, 2, 3, 4, 6, 8];

/// Positions that a prompt of a wanted length may be longer, since words are whole.
const SPARE: usize = 24;

/// Quantity that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum GrowthAxis {
    /// Requests at once, 1 to 64.
    Clients,
    /// Tokens of the prompt, 100 to 4,000.
    Prompt,
    /// Images of a request, 1 to 8.
    Images,
}

impl GrowthAxis {
    /// Returns the name, as the command line has it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Prompt => "prompt",
            Self::Images => "images",
        }
    }

    /// Returns the name with the unit.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Clients => "requests at once",
            Self::Prompt => "tokens of the prompt",
            Self::Images => "images of the request",
        }
    }
}

/// Speed at one size; medians over the rounds.
#[derive(Debug, Serialize)]
pub(super) struct GrowthPoint {
    /// Size: clients, tokens of the prompt, or images.
    pub(super) at: u64,
    pub(super) guard: String,
    pub(super) scorer: Option<&'static str>,
    pub(super) photographs: Photographs,
    /// Tokens of all clients a second, prompts included in the time.
    pub(super) tokens_per_second: f64,
    /// Tokens of one answer a second, from its first word on.
    pub(super) stream_tokens_per_second: f64,
    pub(super) first_word_p50_ms: f64,
    /// Resident memory of the process when the size was first reached; sizes are measured in
    /// ascending order, so memory of larger ones is not in it.
    pub(super) resident_mib: Option<f64>,
}

impl GrowthPoint {
    /// Returns the name of the series that the point belongs to.
    pub(super) fn series(&self) -> String {
        let mode = table::mode_name(&self.guard, self.scorer);
        match self.photographs {
            Photographs::None => mode,
            kind => format!("{mode}, {} photographs", kind.name()),
        }
    }
}

/// Points along one axis.
#[derive(Debug, Serialize)]
pub(super) struct GrowthCurve {
    pub(super) against: GrowthAxis,
    pub(super) points: Vec<GrowthPoint>,
}

/// Settings of a measurement of growth.
pub(super) struct GrowthPlan<'a> {
    /// Guard modes; those of clients, the others are measured without a scorer.
    pub(super) settings: &'a [MeasuredSetting<'a>],
    /// Fewest requests of a measurement of clients.
    pub(super) requests: usize,
    pub(super) rounds: usize,
    pub(super) max_tokens: usize,
}

/// Checks that a model can take what grows.
///
/// # Errors
/// A message that names the axis and what the model takes.
pub(super) fn check(
    axis: GrowthAxis,
    model: &MeasuredModel,
    max_tokens: usize,
) -> Result<(), Failure> {
    let why = match axis {
        GrowthAxis::Clients => return Ok(()),
        GrowthAxis::Prompt if *model.images.start() > 0 => "takes no request without a photograph",
        GrowthAxis::Prompt if prompts(model, max_tokens).next().is_none() => {
            "has no context for a prompt of 100 tokens and its answer"
        }
        GrowthAxis::Images if !model.sees() => "takes text alone",
        GrowthAxis::Images if *model.images.end() < 2 => "takes one photograph a request",
        GrowthAxis::Prompt | GrowthAxis::Images => return Ok(()),
    };
    Err(Failure::Misused(format!(
        "--growth {}: {} {why}",
        axis.name(),
        model.name
    )))
}

/// Returns the lengths of prompts that fit the model's context together with an answer.
fn prompts(model: &MeasuredModel, max_tokens: usize) -> impl Iterator<Item = usize> + use<> {
    let room = model.context.saturating_sub(max_tokens + SPARE);
    PROMPTS
        .into_iter()
        .take_while(move |&length| length <= room)
}

/// Measures growth along an axis.
///
/// # Errors
/// The API's error message.
pub(super) async fn measure(
    axis: GrowthAxis,
    plan: &GrowthPlan<'_>,
    material: &mut Material,
) -> Result<GrowthCurve, Failure> {
    let Some(first) = plan.settings.first() else {
        return Err(Failure::Misused("--guard: no mode".to_owned()));
    };
    let off = GuardChoice::off();
    let unscored = MeasuredSetting {
        model: first.model,
        guard: &off,
    };
    let cases = match axis {
        GrowthAxis::Clients => table::cases(plan.settings, &CLIENTS, |clients| {
            plan.requests.max(clients)
        }),
        GrowthAxis::Prompt => prompt_cases(unscored, plan.max_tokens, material).await?,
        GrowthAxis::Images => image_cases(unscored, material).await?,
    };
    let measured = measure_in_turn(&cases, plan.rounds, material).await?;
    let points = cases.iter().zip(&measured);
    Ok(GrowthCurve {
        against: axis,
        points: points
            .map(|(case, found)| point(axis, case, found))
            .collect(),
    })
}

fn point(axis: GrowthAxis, case: &BenchCase<'_>, measured: &Measured) -> GrowthPoint {
    let samples = &measured.samples;
    GrowthPoint {
        at: match axis {
            GrowthAxis::Clients => case.clients as u64,
            GrowthAxis::Prompt => measured.warm_up.prompt_tokens(),
            GrowthAxis::Images => case.images as u64,
        },
        guard: case.setting.guard.name.clone(),
        scorer: case.setting.scorer(),
        photographs: case.photographs,
        tokens_per_second: median(samples, SpeedSample::tokens_per_second),
        stream_tokens_per_second: median(samples, SpeedSample::stream_tokens_per_second),
        first_word_p50_ms: median(samples, |sample| sample.first_word(0.5)),
        resident_mib: measured.warm_up.resident_mib,
    }
}

/// Returns the cases of prompts.
async fn prompt_cases<'a>(
    setting: MeasuredSetting<'a>,
    max_tokens: usize,
    material: &mut Material,
) -> Result<Vec<BenchCase<'a>>, Failure> {
    let words = WordCount::measure(setting.model, material).await?;
    let case = |length| BenchCase {
        setting,
        clients: 1,
        requests: 1,
        photographs: Photographs::None,
        images: 0,
        words: words.of(length),
    };
    let cases: Vec<BenchCase<'_>> = prompts(setting.model, max_tokens).map(case).collect();
    if let Some(length) = PROMPTS.get(cases.len()) {
        note(format_args!(
            "--growth prompt: left out from {length} tokens on, for the context has {}",
            setting.model.context
        ));
    }
    Ok(cases)
}

/// Returns the cases of images, up to the first number that the model refuses.
async fn image_cases<'a>(
    setting: MeasuredSetting<'a>,
    material: &mut Material,
) -> Result<Vec<BenchCase<'a>>, Failure> {
    let mut cases = Vec::new();
    for images in IMAGES {
        let photos: Vec<Vec<u8>> = (0..images).map(|_| material.new_photo()).collect();
        let mut request = setting.model.request(&photos, None, setting.guard);
        request["max_tokens"] = 1.into();
        match stream_answer(&setting.model.local, &request).await {
            Ok(_) => cases.push(BenchCase {
                setting,
                clients: 1,
                requests: 1,
                photographs: Photographs::New,
                images,
                words: 0,
            }),
            Err(why) if cases.is_empty() => return Err(Failure::Failed(why)),
            Err(why) => {
                note(format_args!(
                    "--growth images: left out from {images} on: {why}"
                ));
                break;
            }
        }
    }
    Ok(cases)
}

/// Number of words of a text by the tokens of its prompt.
pub(super) struct WordCount {
    /// Tokens of the shortest prompt.
    least: f64,
    tokens_per_word: f64,
}

impl WordCount {
    /// Asks the model for the lengths of two prompts.
    ///
    /// # Errors
    /// The API's error message.
    pub(super) async fn measure(
        model: &MeasuredModel,
        material: &mut Material,
    ) -> Result<Self, Failure> {
        let mut lengths = [0.0; 2];
        for (length, words) in lengths.iter_mut().zip([0, period()]) {
            let text = material.new_text(words);
            let mut request = model.request(&[], Some(&text), &GuardChoice::off());
            request["max_tokens"] = 1.into();
            let answer = stream_answer(&model.local, &request).await;
            *length = answer.map_err(Failure::Failed)?.prompt_tokens as f64;
        }
        let [least, longer] = lengths;
        Ok(Self {
            least,
            // A word has a token at least, unless the counts are wrong.
            tokens_per_word: ((longer - least) / period() as f64).max(0.1),
        })
    }

    /// Returns the words of a prompt of about `tokens` tokens.
    pub(super) fn of(&self, tokens: usize) -> usize {
        ((tokens as f64 - self.least) / self.tokens_per_word).max(0.0) as usize
    }
}

/// Formats a curve as a table.
pub(super) fn format(curve: &GrowthCurve) -> String {
    let mut out = format!(
        "{:<22} {:<38} {:>8} {:>14} {:>14} {:>13}\n",
        curve.against.label(),
        "guard",
        "tokens/s",
        "one answer's",
        "first word, ms",
        "resident, MiB"
    );
    for point in &curve.points {
        let resident = point.resident_mib.map(|mib| format!("{mib:.0}"));
        out += &format!(
            "{:<22} {:<38} {:>8.1} {:>14.1} {:>14.1} {:>13}\n",
            point.at,
            point.series(),
            point.tokens_per_second,
            point.stream_tokens_per_second,
            point.first_word_p50_ms,
            resident.unwrap_or_default()
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_prompt_are_those_beyond_the_shortest() {
        let words = WordCount {
            least: 40.0,
            tokens_per_word: 1.5,
        };
        assert_eq!([words.of(10), words.of(40), words.of(100)], [0, 0, 40]);
    }
}
