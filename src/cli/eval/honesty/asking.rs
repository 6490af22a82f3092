//! Asking, with an answer kept as soon as it is there: a run that was interrupted goes on.

use std::{collections::HashMap, path::PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{EvalHonestyArgs, material::HonestyMaterial};
use crate::{
    bundle::Bundle,
    cli::{
        Failure,
        eval::answering::{AnswerSession, AnswerWithCost, PhotographJob, PhotographWork},
        lines::{LineFile, settings},
        output::note,
    },
    eval::honesty::folds::FOLDS,
    util::digest::hex,
};

/// How something is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PromptManner {
    /// An answer without a guard.
    Off,
    /// The same, scored.
    Score,
    /// An answer as it is given by default.
    Flag,
    /// An answer that the guard repairs.
    Regenerate,
    /// The scores of a given text.
    Given,
}

impl PromptManner {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Score => "score",
            Self::Flag => "flag",
            Self::Regenerate => "regenerate",
            Self::Given => "given",
        }
    }

    /// The fields of the request.
    fn fields(self, seed: u64) -> Value {
        let guard = match self {
            Self::Flag => json!({ "mode": "flag", "on_exhausted": "flag" }),
            // What a repair changes shows in the answers that are given.
            Self::Regenerate => json!({ "mode": "regenerate", "on_unanswerable": "answer" }),
            _ => json!({ "mode": self.name() }),
        };
        let mut fields = json!({ "guard": guard, "seed": seed });
        if matches!(self, Self::Flag | Self::Score) {
            fields["logprobs"] = json!(true);
        }
        fields
    }
}

/// Something to be asked about a photograph.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HonestyPrompt {
    /// Number of the photograph that is shown.
    pub(super) photograph: usize,
    pub(super) manner: PromptManner,
    /// The question; empty for a description.
    pub(super) prompt: String,
    /// The text that is scored, in [`PromptManner::Given`].
    pub(super) text: String,
}

impl HonestyPrompt {
    pub(super) fn answer(photograph: usize, manner: PromptManner, prompt: &str) -> Self {
        Self {
            photograph,
            manner,
            prompt: prompt.to_owned(),
            text: String::new(),
        }
    }

    pub(super) fn score(photograph: usize, prompt: &str, text: &str) -> Self {
        Self {
            photograph,
            manner: PromptManner::Given,
            prompt: prompt.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// All that was asked, and the answers.
pub(super) struct HonestyAnswers<'a> {
    args: &'a EvalHonestyArgs,
    material: &'a HonestyMaterial,
    /// The model of each part, or one for all.
    models: Vec<String>,
    file: Option<LineFile>,
    known: HashMap<HonestyPrompt, AnswerWithCost>,
}

impl<'a> HonestyAnswers<'a> {
    /// Begins, with the answers that stand in `file` already.
    pub(super) fn open(
        args: &'a EvalHonestyArgs,
        material: &'a HonestyMaterial,
        file: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let mut answers = Self {
            args,
            material,
            models: models(args)?,
            file: None,
            known: HashMap::new(),
        };
        let Some(path) = file else { return Ok(answers) };
        let config = answers.model_args(0).load(&[])?;
        let made_with = json!({ "seed": args.seed, "weights": weights(&answers.models)? });
        let (file, rows) = LineFile::open(&path, args.overwrite, settings(&config, &made_with)?)?;
        answers.file = Some(file);
        let keys: HashMap<String, usize> = (0..material.photographs.len())
            .map(|i| (answers.name(i), i))
            .collect();
        let manners = [
            PromptManner::Off,
            PromptManner::Score,
            PromptManner::Flag,
            PromptManner::Regenerate,
            PromptManner::Given,
        ];
        for row in rows {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let manner = manners
                .into_iter()
                .find(|manner| row["manner"] == manner.name());
            let answer = serde_json::from_value::<AnswerWithCost>(row["answer"].clone()).ok();
            if let (Some(&photograph), Some(manner), Some(answer)) =
                (keys.get(&text("image")), manner, answer)
            {
                answers.known.insert(
                    HonestyPrompt {
                        photograph,
                        manner,
                        prompt: text("prompt"),
                        text: text("text"),
                    },
                    answer,
                );
            }
        }
        if !answers.known.is_empty() {
            note(format_args!(
                "candor: {} answers stand in {} already",
                answers.known.len(),
                path.display()
            ));
        }
        Ok(answers)
    }

    /// Asks what was not asked yet.
    pub(super) fn ask(
        &mut self,
        asks: impl IntoIterator<Item = HonestyPrompt>,
    ) -> Result<(), Failure> {
        let mut open: Vec<HonestyPrompt> = asks
            .into_iter()
            .filter(|ask| !self.known.contains_key(ask))
            .collect();
        let mut seen = std::collections::HashSet::new();
        open.retain(|ask| seen.insert(ask.clone()));
        for fold in 0..self.models.len() {
            let several = self.models.len() > 1;
            let part: Vec<HonestyPrompt> = open
                .iter()
                .filter(|ask| !several || self.material.photographs[ask.photograph].fold() == fold)
                .cloned()
                .collect();
            if !part.is_empty() {
                self.ask_of(fold, &part)?;
            }
        }
        Ok(())
    }

    fn ask_of(&mut self, fold: usize, asks: &[HonestyPrompt]) -> Result<(), Failure> {
        let answering = AnswerSession::open(&self.model_args(fold))?;
        let fields: HashMap<&str, Value> = asks
            .iter()
            .map(|ask| (ask.manner.name(), ask.manner.fields(self.args.seed)))
            .collect();
        let jobs: Vec<PhotographJob<'_>> = asks
            .iter()
            .map(|ask| PhotographJob {
                name: ask.manner.name(),
                image: &self.material.photographs[ask.photograph].image,
                work: match ask.manner {
                    PromptManner::Given => PhotographWork::Score {
                        prompt: &ask.prompt,
                        text: &ask.text,
                    },
                    manner => PhotographWork::Answer {
                        prompt: &ask.prompt,
                        fields: &fields[manner.name()],
                    },
                },
            })
            .collect();
        let mut fresh = Vec::with_capacity(asks.len());
        let names: Vec<String> = asks.iter().map(|ask| self.name(ask.photograph)).collect();
        let file = &mut self.file;
        let run = answering.each(&jobs, |i, answer| {
            let ask = &asks[i];
            if let Some(file) = file {
                let row =
                    json!({ "image": names[i], "manner": ask.manner.name(), "prompt": ask.prompt,
                        "text": ask.text, "answer": answer });
                file.push(row)?;
            }
            fresh.push((ask.clone(), answer));
            Ok(())
        });
        self.known.extend(fresh);
        match (run, &self.file) {
            (Err(Failure::Interrupted(_)), Some(_)) => Err(Failure::Interrupted(
                "interrupted: what was answered is kept; the same command goes on".into(),
            )),
            (run, _) => run,
        }
    }

    /// What came of an ask.
    pub(super) fn of(&self, ask: &HonestyPrompt) -> Option<&AnswerWithCost> {
        self.known.get(ask)
    }

    /// Name and version of the model, and the folder where there are several.
    pub(super) fn model(&self) -> Result<(String, String), Failure> {
        let config = self.model_args(0).load(&[])?;
        let bundle = Bundle::describe(&config.model.name).map_err(Failure::failed)?;
        Ok((bundle.name, bundle.version))
    }

    /// A photograph's name among those of all origins; another file is another photograph.
    fn name(&self, photograph: usize) -> String {
        let found = &self.material.photographs[photograph];
        format!(
            "{}/{} {:016x}",
            found.origin.name(),
            found.image.name(),
            found.digest
        )
    }

    fn model_args(&self, fold: usize) -> crate::cli::common::ModelArgs {
        match (&self.args.folds, self.models.get(fold)) {
            (Some(_), Some(model)) => self.args.model.with_model(model.clone()),
            _ => self.args.model.clone(),
        }
    }
}

/// The models that are asked: one, or one for each part.
fn models(args: &EvalHonestyArgs) -> Result<Vec<String>, Failure> {
    let Some(folder) = &args.folds else {
        return Ok(vec![args.model.load(&[])?.model.name]);
    };
    let model = |fold: usize| {
        let path = folder.join(fold.to_string());
        let name = path.to_str().filter(|_| path.is_dir()).map(str::to_owned);
        name.ok_or_else(|| {
            Failure::Misused(format!(
                "--folds {}: expected bundles in 0 to {}, there is none in {fold}",
                folder.display(),
                FOLDS - 1
            ))
        })
    };
    (0..FOLDS).map(model).collect()
}

/// A hash of the files of models: answers of other weights are not theirs, whatever version they
/// have.
fn weights(models: &[String]) -> Result<String, Failure> {
    let mut hash = Sha256::new();
    for model in models {
        let mut files = Bundle::files(model).map_err(Failure::failed)?;
        files.sort();
        for file in files {
            hash.update(Bundle::file(model, &file).map_err(Failure::failed)?);
        }
    }
    Ok(hex(&hash.finalize()[..8]))
}
