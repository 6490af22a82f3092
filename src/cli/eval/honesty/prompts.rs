//! Requests of `candor eval honesty`. Every answer is saved at once, so that an interrupted run can
//! continue.

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
    eval::honesty::FOLDS,
    util::digest::hex,
};

/// Guard setting of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PromptMode {
    /// Answer without the guard.
    Off,
    /// Answer in mode score.
    Score,
    /// Answer with the guard's defaults.
    Flag,
    /// Answer in mode regenerate.
    Regenerate,
    /// Scores of a given text.
    Given,
}

impl PromptMode {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Score => "score",
            Self::Flag => "flag",
            Self::Regenerate => "regenerate",
            Self::Given => "given",
        }
    }

    /// Request fields of the setting.
    fn fields(self, seed: u64) -> Value {
        let guard = match self {
            Self::Flag => json!({ "mode": "flag", "on_exhausted": "flag" }),
            // Without abstentions, the effect of a repair on the given answers shows.
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

/// One request about a photograph.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HonestyPrompt {
    /// Index of the photograph that is shown.
    pub(super) photograph: usize,
    pub(super) mode: PromptMode,
    /// The question; empty for a description.
    pub(super) question: String,
    /// Text to score, for [`PromptMode::Given`].
    pub(super) text: String,
}

impl HonestyPrompt {
    pub(super) fn answer(photograph: usize, mode: PromptMode, question: &str) -> Self {
        Self {
            photograph,
            mode,
            question: question.to_owned(),
            text: String::new(),
        }
    }

    pub(super) fn score(photograph: usize, question: &str, text: &str) -> Self {
        Self {
            photograph,
            mode: PromptMode::Given,
            question: question.to_owned(),
            text: text.to_owned(),
        }
    }
}

/// All requests so far with their answers.
pub(super) struct HonestyAnswers<'a> {
    args: &'a EvalHonestyArgs,
    material: &'a HonestyMaterial,
    /// Model of each fold, or a single one for all.
    models: Vec<String>,
    file: Option<LineFile>,
    known: HashMap<HonestyPrompt, AnswerWithCost>,
}

impl<'a> HonestyAnswers<'a> {
    /// Opens the file of answers and reads those that it contains.
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
        let modes = [
            PromptMode::Off,
            PromptMode::Score,
            PromptMode::Flag,
            PromptMode::Regenerate,
            PromptMode::Given,
        ];
        for row in rows {
            let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let mode = modes.into_iter().find(|mode| row["manner"] == mode.name());
            let answer = serde_json::from_value::<AnswerWithCost>(row["answer"].clone()).ok();
            if let (Some(&photograph), Some(mode), Some(answer)) =
                (keys.get(&text("image")), mode, answer)
            {
                answers.known.insert(
                    HonestyPrompt {
                        photograph,
                        mode,
                        question: text("prompt"),
                        text: text("text"),
                    },
                    answer,
                );
            }
        }
        if !answers.known.is_empty() {
            note(format_args!(
                "candor: {} answers are already in {}",
                answers.known.len(),
                path.display()
            ));
        }
        Ok(answers)
    }

    /// Sends the requests that have no answer yet.
    pub(super) fn ask(
        &mut self,
        prompts: impl IntoIterator<Item = HonestyPrompt>,
    ) -> Result<(), Failure> {
        let mut open: Vec<HonestyPrompt> = prompts
            .into_iter()
            .filter(|prompt| !self.known.contains_key(prompt))
            .collect();
        let mut seen = std::collections::HashSet::new();
        open.retain(|prompt| seen.insert(prompt.clone()));
        for fold in 0..self.models.len() {
            let several = self.models.len() > 1;
            let part: Vec<HonestyPrompt> = open
                .iter()
                .filter(|prompt| {
                    !several || self.material.photographs[prompt.photograph].fold() == fold
                })
                .cloned()
                .collect();
            if !part.is_empty() {
                self.ask_fold(fold, &part)?;
            }
        }
        Ok(())
    }

    fn ask_fold(&mut self, fold: usize, prompts: &[HonestyPrompt]) -> Result<(), Failure> {
        let answering = AnswerSession::open(&self.model_args(fold))?;
        let fields: HashMap<&str, Value> = prompts
            .iter()
            .map(|prompt| (prompt.mode.name(), prompt.mode.fields(self.args.seed)))
            .collect();
        let jobs: Vec<PhotographJob<'_>> = prompts
            .iter()
            .map(|prompt| PhotographJob {
                name: prompt.mode.name(),
                image: &self.material.photographs[prompt.photograph].image,
                work: match prompt.mode {
                    PromptMode::Given => PhotographWork::Score {
                        prompt: &prompt.question,
                        text: &prompt.text,
                    },
                    mode => PhotographWork::Answer {
                        prompt: &prompt.question,
                        fields: &fields[mode.name()],
                    },
                },
            })
            .collect();
        let mut fresh = Vec::with_capacity(prompts.len());
        let names: Vec<String> = prompts
            .iter()
            .map(|prompt| self.name(prompt.photograph))
            .collect();
        let file = &mut self.file;
        let run = answering.run_jobs(&jobs, |i, answer| {
            let prompt = &prompts[i];
            if let Some(file) = file {
                file.push(json!({ "image": names[i], "manner": prompt.mode.name(),
                    "prompt": prompt.question, "text": prompt.text, "answer": answer }))?;
            }
            fresh.push((prompt.clone(), answer));
            Ok(())
        });
        self.known.extend(fresh);
        match (run, &self.file) {
            (Err(Failure::Interrupted(_)), Some(_)) => Err(Failure::Interrupted(
                "interrupted: the answers so far are saved; run the same command to continue"
                    .into(),
            )),
            (run, _) => run,
        }
    }

    /// Answer to a request, if there is one.
    pub(super) fn get(&self, prompt: &HonestyPrompt) -> Option<&AnswerWithCost> {
        self.known.get(prompt)
    }

    /// Name and version of the model, and the folder if there are several.
    pub(super) fn model(&self) -> Result<(String, String), Failure> {
        let config = self.model_args(0).load(&[])?;
        let bundle = Bundle::describe(&config.model.name).map_err(Failure::failed)?;
        Ok((bundle.name, bundle.version))
    }

    /// Name of a photograph among those of all origins. It contains the file's digest, so that
    /// another file is another photograph.
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

/// Models to ask: one, or one for each fold.
fn models(args: &EvalHonestyArgs) -> Result<Vec<String>, Failure> {
    let Some(folder) = &args.folds else {
        return Ok(vec![args.model.load(&[])?.model.name]);
    };
    let model = |fold: usize| {
        let path = folder.join(fold.to_string());
        let name = path.to_str().filter(|_| path.is_dir()).map(str::to_owned);
        name.ok_or_else(|| {
            Failure::Misused(format!(
                "--folds {}: expected bundles 0 to {}, {fold} is missing",
                folder.display(),
                FOLDS - 1
            ))
        })
    };
    (0..FOLDS).map(model).collect()
}

/// SHA-256 of the models' files, so that answers of other weights with the same version are not
/// reused.
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
