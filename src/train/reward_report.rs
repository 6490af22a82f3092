//! How good the trained scorers are on the development split, what their numbers mean, and the bundle that serves them.
//!
//! The split's images are dealt out in turn: the first, third, ... calibrate, the second, fourth, ... report.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use candle_core::{Device, Tensor};
use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;

use super::{
    TrainError,
    answers::{Said, is_right, own_answers},
    corpus::END,
    export::{read_weights, write_json, write_weights},
    flickr8k::Image,
    labels::LabelledText,
    perturb::{Kind, Perturber},
    qa::Qa,
    reward::{RewardTraining, Scorers},
    reward_data::{layout, own_captions},
    sft::CHAT_TEMPLATE,
    stats::CaptionStats,
    text::normalize_caption,
};
use crate::{
    bundle::{BundleConfig, RewardConfig, RewardKind},
    eval::{
        objects::{self, ObjectScores},
        tokens::{Scored, TokenMetrics},
    },
    lexicon::Lexicon,
    reward::calibration::Calibration,
    vlm::decoder::llama::Regular,
};

/// A labelled piece of text with every scorer's raw score (that of its worst token).
#[derive(Debug, Clone, Copy)]
struct Piece {
    image: usize,
    good: bool,
    kind: Option<Kind>,
    scores: [f32; 3],
}

/// What is said of each image, and by which kind of perturbation it was made wrong.
type Texts = Vec<Vec<(Said, Option<Kind>)>>;

/// Questions asked of an image.
const QUESTIONS: usize = 4;

/// In the order of [`Piece::scores`]; the policy's own log-probability is the baseline.
const SCORERS: [&str; 3] = ["probe", "detached", "log-probability"];

/// `report.json` of a reward run.
#[derive(Debug, Serialize)]
pub struct RewardReport {
    /// Tokens of perturbed and true captions, by scorer, on the reporting half.
    pub perturbations: BTreeMap<String, TokenMetrics>,
    /// The served scorer on one kind of perturbation at a time, with the true tokens of the same captions.
    pub by_kind: BTreeMap<String, TokenMetrics>,
    /// Things that the policy's own greedy captions name, by scorer, on the reporting half.
    pub own_captions: BTreeMap<String, TokenMetrics>,
    /// The policy's own greedy answers to derived questions, by scorer, on the reporting half.
    pub own_answers: BTreeMap<String, TokenMetrics>,
    /// Questions to the policy on the whole split, by kind.
    pub questions: BTreeMap<String, Questions>,
    /// What those captions name, on the whole split.
    pub captions: ObjectScores,
    /// The same of people's captions, each judged by the others: the measure's floor.
    pub people: ObjectScores,
    /// The scorer that is served by default: the better one on the calibrating half's own captions.
    pub default: RewardKind,
}

/// How one kind of question was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Questions {
    /// How many were asked.
    pub asked: usize,
    /// How many answers were the captions' own, word for word.
    pub right: usize,
    /// How many answers were yes.
    pub yes: usize,
}

impl RewardTraining {
    /// Evaluates, calibrates and writes `RUNDIR/report.json` and `RUNDIR/bundle`.
    ///
    /// # Errors
    /// When the split has not both grounded and ungrounded pieces, or a file cannot be written.
    pub fn finish(&self, scorers: &Scorers, name: &str, version: &str) -> Result<RewardReport, TrainError> {
        let captions = self.caption_split()?;
        let own = self.own_pieces(scorers, &captions)?;
        let (answers, questions) = self.answer_split()?;
        let mut answered = self.score(scorers, &answers, true)?;
        answered.retain(|p| p.image % 2 == 1);
        let perturbed = self.perturbed_pieces(scorers)?;
        let (tune, report): (Vec<Piece>, Vec<Piece>) = own.into_iter().partition(|p| p.image % 2 == 0);
        let perturbed: Vec<Piece> = perturbed.into_iter().filter(|p| p.image % 2 == 1).collect();
        let mut calibrations = BTreeMap::new();
        for (i, kind) in [RewardKind::Probe, RewardKind::Detached].into_iter().enumerate() {
            let (logits, good): (Vec<f32>, Vec<bool>) = tune.iter().map(|p| (p.scores[i], p.good)).unzip();
            let fitted_on = "things named in the policy's own captions of every second development image";
            let fitted = Calibration::fit(&logits, &good, fitted_on);
            calibrations.insert(kind, fitted.ok_or_else(|| TrainError::Run("the development split has no ungrounded words".into()))?);
        }
        let metrics = |pieces: &[Piece], i: usize| {
            let calibration = calibrations.get(if i == 0 { &RewardKind::Probe } else { &RewardKind::Detached });
            // A log-probability is a probability's logarithm already; the scorers' logits go through their calibration.
            let reward = |x: f32| if i == 2 { x.exp() } else { calibration.map_or(x, |c| c.probability(x)) };
            let scored: Vec<Scored> = pieces.iter().map(|p| Scored { reward: reward(p.scores[i]), good: p.good }).collect();
            TokenMetrics::of(&scored)
        };
        let table = |pieces: &[Piece]| -> BTreeMap<String, TokenMetrics> {
            SCORERS.iter().enumerate().filter_map(|(i, name)| Some(((*name).to_owned(), metrics(pieces, i)?))).collect()
        };
        let auroc = |i: usize| metrics(&tune, i).map_or(0.0, |m| m.auroc);
        let (default, index) = if auroc(1) > auroc(0) { (RewardKind::Detached, 1) } else { (RewardKind::Probe, 0) };
        let by_kind = Kind::ALL.iter().filter_map(|kind| {
            let of: Vec<Piece> = perturbed.iter().filter(|p| p.kind == Some(*kind)).copied().collect();
            Some((format!("{kind:?}").to_lowercase(), metrics(&of, index)?))
        });
        let lexicon = Lexicon::shared();
        let judged = self.data.dev.iter().zip(&captions).map(|(image, text)| (text.text.as_str(), image.captions.as_slice()));
        let result = RewardReport {
            by_kind: by_kind.collect(),
            perturbations: table(&perturbed),
            own_captions: table(&report),
            own_answers: table(&answered),
            questions,
            captions: ObjectScores::of(lexicon, judged),
            people: objects::floor(lexicon, self.data.dev.iter().map(|image| image.captions.as_slice())),
            default,
        };
        write_json(&self.run.file("report.json"), &result)?;
        self.write_bundle(&calibrations, default, name, version)?;
        Ok(result)
    }

    /// The policy's greedy captions of the development split, which `RUNDIR/dev-captions.jsonl` keeps.
    fn caption_split(&self) -> Result<Vec<LabelledText>, TrainError> {
        let captions = own_captions(self, &self.data.dev, &self.dev_features, 0.0, 0)?;
        let captions: Vec<LabelledText> = captions.into_iter().map(|(_, text)| text).collect();
        let line = |(image, text): (&Image, &LabelledText)| serde_json::json!({ "image": image.name, "caption": text.text });
        let jsonl: String = self.data.dev.iter().zip(&captions).map(|pair| format!("{}\n", line(pair))).collect();
        let file = self.run.file("dev-captions.jsonl");
        fs::write(&file, jsonl).map_err(TrainError::io(&file))?;
        Ok(captions)
    }

    /// The policy's greedy answers to derived questions whose answers the captions settle, and how many are right.
    fn answer_split(&self) -> Result<(Texts, BTreeMap<String, Questions>), TrainError> {
        let stats = CaptionStats::new(&self.data.train, Lexicon::shared());
        let answered = own_answers(self, &self.data.dev, &self.dev_features, &stats, QUESTIONS, 0.0)?;
        let mut questions: BTreeMap<String, Questions> = BTreeMap::new();
        let mut judge = |(answer, qa): (String, Qa)| {
            let right = is_right(&answer, &qa);
            let kind = questions.entry(format!("{:?}", qa.kind).to_lowercase()).or_default();
            kind.asked += 1;
            kind.right += usize::from(right);
            kind.yes += usize::from(answer.eq_ignore_ascii_case("yes."));
            (Said::answer(qa.question, answer, right), None)
        };
        let said = answered.into_iter().map(|of| of.into_iter().map(&mut judge).collect()).collect();
        Ok((said, questions))
    }

    /// Every thing that the captions name.
    fn own_pieces(&self, scorers: &Scorers, captions: &[LabelledText]) -> Result<Vec<Piece>, TrainError> {
        let texts: Texts = captions.iter().map(|text| vec![(text.clone().into(), None)]).collect();
        self.score(scorers, &texts, true)
    }

    /// Every token of one perturbed and one true caption an image of the development split.
    fn perturbed_pieces(&self, scorers: &Scorers) -> Result<Vec<Piece>, TrainError> {
        let perturber = Perturber::new(&self.data.train);
        let texts = |image: &Image, i: usize| {
            let mut rng = SmallRng::seed_from_u64(self.config.seed ^ (i as u64 + 1));
            let kind = perturber.perturb(image, &mut rng);
            let first = image.captions.first().map(|c| LabelledText::all_good(normalize_caption(c)));
            let mut texts: Vec<(Said, Option<Kind>)> = first.into_iter().map(|text| (text.into(), None)).collect();
            texts.extend(kind.map(|p| (LabelledText::from(p.clone()).into(), Some(p.kind))));
            texts
        };
        let texts: Texts = self.data.dev.iter().enumerate().map(|(i, image)| texts(image, i)).collect();
        self.score(scorers, &texts, false)
    }

    /// Scores each image's texts. With `whole_ranges` a piece is a labelled range (its worst token), otherwise a labelled token.
    fn score(&self, scorers: &Scorers, texts: &Texts, whole_ranges: bool) -> Result<Vec<Piece>, TrainError> {
        let images: Vec<usize> = (0..texts.len()).collect();
        let chunks: Vec<&[usize]> = images.chunks(self.config.batch_images).collect();
        let parts = self.workers.map(&chunks, |chunk| {
            let rows = chunk.iter().map(|&i| texts[i].iter().map(|(t, _)| t.clone()).collect()).collect();
            // The prompt that captions are asked for with by default.
            let (batch, _) = layout(self, rows, None).map_err(candle_core::Error::wrap)?;
            let views: Vec<(usize, usize)> = chunk.iter().map(|&i| (i, 0)).collect();
            let features = self.dev_features.batch(&views)?;
            let logits = self.logits(scorers, &features, &batch, Regular::default())?;
            let scores = [logits.probe.to_vec1::<f32>()?, logits.detached.to_vec1::<f32>()?, self.log_probabilities(&features, &batch)?];
            let (mut first, mut pieces) = (0, Vec::new());
            for &image in *chunk {
                for (Said { text, .. }, kind) in &texts[image] {
                    let tokens = self.policy.tokenizer.encode(&text.text).map_err(candle_core::Error::wrap)?;
                    let groups = if whole_ranges {
                        text.range_tokens(&self.policy.tokenizer, &tokens)
                    } else {
                        let labels = text.token_labels(&self.policy.tokenizer, &tokens);
                        labels.iter().enumerate().filter_map(|(i, label)| label.map(|good| (vec![i], good))).collect()
                    };
                    for (group, good) in groups.into_iter().filter(|(group, _): &(Vec<usize>, bool)| !group.is_empty()) {
                        let worst = |s: &Vec<f32>| group.iter().map(|&i| s[first + i]).fold(f32::INFINITY, f32::min);
                        pieces.push(Piece { image, good, kind: *kind, scores: [worst(&scores[0]), worst(&scores[1]), worst(&scores[2])] });
                    }
                    first += tokens.len();
                }
            }
            Ok(pieces)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The policy's log-probability of every learnt token.
    fn log_probabilities(&self, images: &Tensor, batch: &super::rows::RowBatch) -> candle_core::Result<Vec<f32>> {
        let policy = &self.policy.model;
        let states = policy.whole(images, &batch.tokens, &batch.positions, &batch.mask, Regular::default())?;
        let Some(last) = states.last() else { candle_core::bail!("the decoder has no layers") };
        let hidden = last.index_select(&Tensor::new(batch.lines.as_slice(), &Device::Cpu)?, 0)?;
        let logits = policy.llama().logits(&hidden)?.to_vec2::<f32>()?;
        let log_probability = |(line, &target): (&Vec<f32>, &u32)| {
            let max = line.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            line[target as usize] - max - line.iter().map(|x| (x - max).exp()).sum::<f32>().ln()
        };
        Ok(logits.iter().zip(&batch.targets).map(log_probability).collect())
    }

    fn write_bundle(
        &self,
        calibrations: &BTreeMap<RewardKind, Calibration>,
        default: RewardKind,
        name: &str,
        version: &str,
    ) -> Result<PathBuf, TrainError> {
        let dir = self.run.file("bundle");
        fs::create_dir_all(&dir).map_err(TrainError::io(&dir))?;
        let tower = read_weights(&self.config.vision, "")?;
        let named = |name: String| if name.starts_with("vision.") { name } else { format!("vision.{name}") };
        let is_tower = |name: &str| !name.starts_with("connector.") && !name.starts_with("decoder.");
        let mut weights: HashMap<_, _> = tower.into_iter().filter(|(k, _)| is_tower(k)).map(|(k, t)| (named(k), t)).collect();
        weights.extend(read_weights(&self.config.policy.join("policy.safetensors"), "")?);
        write_weights(&dir.join("model.safetensors"), weights)?;
        write_weights(&dir.join("reward.safetensors"), read_weights(&self.run.file("reward.safetensors"), "")?)?;
        let tokenizer = self.config.policy.join("tokenizer.json");
        fs::copy(&tokenizer, dir.join("tokenizer.json")).map_err(TrainError::io(&tokenizer))?;
        write_json(&dir.join("calibration.json"), calibrations)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let language = self.policy.config.language.clone();
        let config = BundleConfig {
            format: 1,
            name: name.to_owned(),
            version: version.to_owned(),
            created,
            eos: END.to_owned(),
            chat_template: CHAT_TEMPLATE.to_owned(),
            model: self.policy.config.clone(),
            reward: Some(RewardConfig { default, probe: Some(self.probe_config()), detached: Some(language) }),
        };
        write_json(&dir.join("config.json"), &config)?;
        Ok(dir)
    }
}

impl std::fmt::Display for RewardReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = |title: &str, rows: &BTreeMap<String, TokenMetrics>| {
            writeln!(
                f,
                "{title}\n{:<16} {:>6} {:>6} {:>7} {:>9} {:>12} {:>6}",
                "", "good", "bad", "AUROC", "mAP(neg)", "recall@10%FPR", "ECE"
            )?;
            rows.iter().try_for_each(|(name, m)| {
                let TokenMetrics { good, bad, auroc, map_neg, recall_at_10_fpr, ece, .. } = m;
                writeln!(f, "{name:<16} {good:>6} {bad:>6} {auroc:>7.3} {map_neg:>9.3} {recall_at_10_fpr:>12.3} {ece:>6.3}")
            })
        };
        table("Tokens of perturbed and true captions", &self.perturbations)?;
        table("Things named in the policy's own captions", &self.own_captions)?;
        table("The policy's own answers to questions", &self.own_answers)?;
        table("The default scorer by kind of perturbation", &self.by_kind)?;
        writeln!(f, "Questions to the policy\n{:<16} {:>6} {:>7} {:>7}", "", "asked", "right", "yes")?;
        for (kind, Questions { asked, right, yes }) in &self.questions {
            let percent = |n: &usize| format!("{:.1}%", 100.0 * *n as f64 / *asked as f64);
            writeln!(f, "{kind:<16} {asked:>6} {:>7} {:>7}", percent(right), percent(yes))?;
        }
        writeln!(
            f,
            "The policy's own captions\n{:<16} {:>8} {:>8} {:>7} {:>14} {:>6}",
            "", "CHAIR_i", "CHAIR_s", "recall", "wrong colours", "words"
        )?;
        for (name, scores) in [("policy", &self.captions), ("people", &self.people)] {
            let percent = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{:.1}%", 100.0 * x));
            let [i, s, r, c] = [scores.chair_i(), scores.chair_s(), scores.recall(), scores.wrong_colours()].map(percent);
            writeln!(f, "{name:<16} {i:>8} {s:>8} {r:>7} {c:>14} {:>6.1}", scores.mean_words().unwrap_or_default())?;
        }
        write!(f, "default scorer: {}", self.default.name())
    }
}
