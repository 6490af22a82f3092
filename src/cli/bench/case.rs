//! Cases: what is measured in turn.

use serde::Serialize;

use super::{
    material::Material,
    model::{GuardChoice, MeasuredModel},
    timing::{SpeedSample, volley},
};
use crate::cli::Failure;

/// Photographs of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Photographs {
    /// Photographs that were asked about before.
    Known,
    /// Photographs that were never seen.
    New,
    /// None: each request has a text of its own.
    None,
}

impl Photographs {
    /// Returns the kinds of requests that a model gets.
    pub(super) fn of(model: &MeasuredModel) -> &'static [Self] {
        match model.sees() {
            true => &[Self::Known, Self::New],
            false => &[Self::None],
        }
    }

    /// Returns the name in tables.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::New => "new",
            Self::None => "none",
        }
    }
}

/// Guard mode with the model whose scorer it uses.
#[derive(Clone, Copy)]
pub(super) struct MeasuredSetting<'a> {
    pub(super) model: &'a MeasuredModel,
    pub(super) guard: &'a GuardChoice,
}

impl MeasuredSetting<'_> {
    /// Returns the kind of the scorer, in modes that score.
    pub(super) fn scorer(&self) -> Option<&'static str> {
        self.model.scorer.filter(|_| self.guard.scores())
    }
}

/// Returns each mode on each model; without a scorer, all models are the same.
///
/// # Errors
/// When a model cannot honor a mode, which the message names.
pub(super) fn settings<'a>(
    models: &'a [MeasuredModel],
    guards: &'a [GuardChoice],
) -> Result<Vec<MeasuredSetting<'a>>, Failure> {
    let mut settings = Vec::new();
    for guard in guards {
        let models = match guard.scores() {
            true => models,
            false => models.get(..1).unwrap_or_default(),
        };
        for model in models {
            if guard.scores() && !model.can_score() {
                let why = match model.scorer {
                    None => "has no scorer; --scorer candor-mini, for example, lends it one",
                    Some(_) => {
                        "takes text alone, and its scorer judges texts about exactly one image"
                    }
                };
                return Err(Failure::Misused(format!(
                    "--guard {}: {} {why}",
                    guard.name, model.name
                )));
            }
            settings.push(MeasuredSetting { model, guard });
        }
    }
    Ok(settings)
}

/// One measurement, repeated in turn with others.
#[derive(Clone, Copy)]
pub(super) struct BenchCase<'a> {
    pub(super) setting: MeasuredSetting<'a>,
    pub(super) clients: usize,
    pub(super) requests: usize,
    pub(super) photographs: Photographs,
    /// Photographs of a request.
    pub(super) images: usize,
    /// Words of a request without photographs.
    pub(super) words: usize,
}

impl BenchCase<'_> {
    async fn measure(&self, material: &mut Material) -> Result<SpeedSample, Failure> {
        let MeasuredSetting { model, guard } = self.setting;
        let requests = (0..self.requests).map(|number| {
            let photos: Vec<Vec<u8>> = match self.photographs {
                Photographs::Known => (0..self.images)
                    .map(|image| material.known_photo(number + image))
                    .collect(),
                Photographs::New => (0..self.images).map(|_| material.new_photo()).collect(),
                Photographs::None => Vec::new(),
            };
            let text =
                (self.photographs == Photographs::None).then(|| material.new_text(self.words));
            model.request(&photos, text.as_deref(), guard)
        });
        let requests = requests.collect();
        volley(&model.local, requests, self.clients).await
    }
}

/// Samples of one case.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) warm_up: SpeedSample,
    /// One a round.
    pub(super) samples: Vec<SpeedSample>,
}

/// Measures all cases in turn: once to warm up, in their order, and `rounds` times more. Every
/// other round goes backwards, so that a machine that grows slower or faster favors none of them.
///
/// # Errors
/// The API's error message.
pub(super) async fn measure_in_turn(
    cases: &[BenchCase<'_>],
    rounds: usize,
    material: &mut Material,
) -> Result<Vec<Measured>, Failure> {
    let mut measured = Vec::new();
    for case in cases {
        measured.push(Measured {
            warm_up: case.measure(material).await?,
            samples: Vec::new(),
        });
    }
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..cases.len()).collect();
        if round % 2 == 0 {
            order.reverse();
        }
        for at in order {
            let sample = cases[at].measure(material).await?;
            measured[at].samples.push(sample);
        }
    }
    Ok(measured)
}
