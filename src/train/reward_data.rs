//! Training examples of scorers: true captions, minimal-edit perturbations, the policy's captions
//! and answers, captions of other images, and corrections.

use candle_core::{Device, Result as CandleResult, Tensor};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    TrainError,
    answers::{
        AnswerGenerator, ImageStatement, QuestionForm, is_right, own_answers, sample_answers,
    },
    corpus::{Corpus, asks_for_description},
    corrections::CorrectedAnswer,
    labels::{LabeledText, LabeledToken},
    losses::binary_cross_entropy,
    perturb::{PerturbationCounts, PerturbationKind, Perturber},
    policy::Policy,
    qa::{Qa, QaBuilder},
    reward::RewardTraining,
    rollout::{RolloutConfig, answers},
    rows::{ResponseBranch, RowBatch, TextRow},
    setup::Setup,
    text::normalize_caption,
};
use crate::{
    eval::{
        data::{flickr8k::Image, questions::AnnotatedQuestion},
        objects, vqa,
    },
    lexicon::{Lexicon, ReferenceTexts},
};

/// Images per rollout batch.
const ROLLOUT: usize = 32;

/// Longest sampled caption in tokens.
const MAX_TOKENS: usize = 40;

/// Batch of rows with a label and a loss weight for every learned token.
pub(super) struct Example {
    pub(super) images: Tensor,
    pub(super) batch: RowBatch,
    /// 1 if grounded, 0 if not; undefined where the weight is 0.
    pub(super) labels: Vec<f32>,
    pub(super) weights: Vec<f32>,
    /// Indices of the learned tokens for the language model's loss: those of true captions.
    pub(super) language: Vec<u32>,
    pub(super) seed: u64,
}

impl Example {
    /// Weighted binary cross-entropy with logits, divided by `total`.
    pub(super) fn binary_cross_entropy(&self, logits: &Tensor, total: f32) -> CandleResult<Tensor> {
        let n = self.labels.len();
        let labels = Tensor::from_slice(&self.labels, n, &Device::Cpu)?;
        let weights = Tensor::from_vec(
            self.weights.iter().map(|w| w / total).collect::<Vec<_>>(),
            n,
            &Device::Cpu,
        )?;
        binary_cross_entropy(logits, &labels, &weights)
    }
}

/// Generator of a run's training examples.
pub(super) struct Examples<'a> {
    training: &'a RewardTraining,
    perturber: Perturber,
    answers: AnswerGenerator,
    /// The policy's captions of every training image, with their token ids.
    own: Vec<Vec<(Vec<u32>, LabeledText)>>,
    /// The policy's answers to questions about every training image.
    own_answers: Vec<Vec<ImageStatement>>,
}

impl<'a> Examples<'a> {
    /// Samples the policy's captions (one greedy, the others sampled) and answers of the training
    /// images.
    pub(super) fn new(training: &'a RewardTraining) -> Result<Self, TrainError> {
        let (setup, config, split) = (&training.setup, &training.config.examples, &training.split);
        let perturber = Perturber::new(&setup.data.train);
        let answers = AnswerGenerator::new(&setup.data.train, perturber.stats());
        let images: Vec<Image> = split.iter().map(|&i| training.image(i).clone()).collect();
        let features = training.train_features.plain(split);
        let mut own = vec![Vec::new(); training.train_features.len()];
        for sample in 0..config.own_captions {
            let temperature = if sample == 0 { 0.0 } else { config.temperature };
            let seed = training.config.seed.wrapping_add(sample as u64 * 1_000_003);
            let captions = own_captions(setup, &images, &features, temperature, seed)?;
            split
                .iter()
                .zip(captions)
                .for_each(|(&i, caption)| own[i].push(caption));
        }
        let form = QuestionForm {
            n: config.own_answers,
            temperature: config.temperature,
            seed: training.config.seed,
        };
        let (questioned, images): (Vec<usize>, Vec<Image>) = split
            .iter()
            .filter_map(|&i| Some((i, training.questioned(i)?)))
            .unzip();
        let answered = self::own_answers(
            setup,
            &images,
            &training.train_features.plain(&questioned),
            perturber.stats(),
            form,
        )?;
        let statement = |(answer, qa): (String, Qa)| {
            let right = is_right(&answer, &qa);
            ImageStatement::answer(qa.question, answer, right)
        };
        let mut own_answers = vec![Vec::new(); training.train_features.len()];
        questioned.iter().zip(answered).for_each(|(&i, answers)| {
            own_answers[i] = answers.into_iter().map(statement).collect()
        });
        let others: Vec<usize> = split
            .iter()
            .copied()
            .filter(|&i| i >= setup.data.train.len())
            .collect();
        let questions = |i: usize, rng: &mut SmallRng| {
            let questions = training.others.questions(
                others[i] - setup.data.train.len(),
                config.own_answers,
                rng,
            );
            questions
                .into_iter()
                .map(|question| (question.question.clone(), question))
                .collect()
        };
        let answered = sample_answers(
            setup,
            &training.train_features.plain(&others),
            config.temperature,
            form.seed,
            questions,
        )?;
        let statement = |(answer, question): (String, &AnnotatedQuestion)| {
            let right = vqa::is_right(&answer, &question.answers);
            ImageStatement::answer(question.question.clone(), answer, right)
        };
        others
            .iter()
            .zip(answered)
            .for_each(|(&i, answers)| own_answers[i].extend(answers.into_iter().map(statement)));
        Ok(Self {
            training,
            perturber,
            answers,
            own,
            own_answers,
        })
    }

    /// True captions of training images, with all tokens learned.
    pub(super) fn true_captions(
        training: &RewardTraining,
        images: &[usize],
    ) -> Result<RowBatch, TrainError> {
        let statement = |c: &String| LabeledText::all_good(normalize_caption(c)).into();
        let texts = |i: usize| training.image(i).captions.iter().map(statement).collect();
        let rows: Vec<Vec<ImageStatement>> = images.iter().map(|&i| texts(i)).collect();
        Ok(layout(
            &training.setup.policy,
            rows,
            Some(&mut SmallRng::seed_from_u64(training.config.seed)),
        )?
        .0)
    }

    /// Labels a text about a training image.
    fn judged(&self, i: usize, text: String, references: &[String]) -> LabeledText {
        match self.training.photograph(i) {
            Some(photograph) => self.training.others.judged(photograph, text),
            None => judged(text, references),
        }
    }

    /// Draws one epoch's examples of a training image and adds to `tally`; deterministic in the
    /// state of `rng`.
    pub(super) fn statements(
        &self,
        i: usize,
        rng: &mut SmallRng,
        tally: &mut PerturbationCounts,
    ) -> Vec<(ExampleOrigin, ImageStatement)> {
        let config = &self.training.config.examples;
        let train = &self.training.setup.data.train;
        let (image, photograph) = (self.training.image(i), self.training.photograph(i));
        let first = train.len() - self.training.human.len();
        if let Some(corrections) = i
            .checked_sub(first)
            .and_then(|i| self.training.human.get(i))
        {
            let policy = &self.training.setup.policy;
            return corrections
                .iter()
                .flat_map(|c| corrected(c, policy))
                .collect();
        }
        let references: Vec<String> = image
            .captions
            .iter()
            .map(|c| normalize_caption(c))
            .collect();
        let mut out = Vec::new();
        for caption in image.captions.choose_multiple(rng, config.true_captions) {
            let statement = ImageStatement::from(LabeledText::all_good(normalize_caption(caption)));
            out.push((
                ExampleOrigin::True,
                ImageStatement {
                    ends: true,
                    ..statement
                },
            ));
        }
        for _ in 0..config.perturbed_captions {
            let shown = photograph.map_or(&[][..], |photograph| &photograph.texts);
            let perturbed = self.perturber.perturb(image, shown, rng, tally);
            out.extend(perturbed.map(|p| {
                (
                    ExampleOrigin::Perturbed(p.kind),
                    LabeledText::from(p).into(),
                )
            }));
        }
        for _ in 0..config.foreign_captions {
            let other: &Image = &train[rng.random_range(0..first)];
            let caption = other
                .captions
                .choose(rng)
                .map(|c| self.judged(i, normalize_caption(c), &references));
            out.extend(caption.map(|text| (ExampleOrigin::Foreign, text.into())));
        }
        out.extend(self.own[i].iter().map(|(_, text)| {
            (
                ExampleOrigin::Own,
                self.judged(i, text.text.clone(), &references).into(),
            )
        }));
        out.extend(
            self.own_answers[i]
                .iter()
                .map(|statement| (ExampleOrigin::OwnAnswer, statement.clone())),
        );
        let questions = QaBuilder::new(self.perturber.stats(), Lexicon::shared());
        if let Some(image) = self.training.questioned(i) {
            out.extend(
                self.answers
                    .answers(&questions, &image, config.answers, rng)
                    .into_iter()
                    .map(|statement| (ExampleOrigin::Answer, statement)),
            );
        }
        if let Some(number) = i.checked_sub(train.len()) {
            out.extend(
                self.training
                    .others
                    .answers(number, config.answers, rng)
                    .into_iter()
                    .map(|statement| (ExampleOrigin::Answer, statement)),
            );
        }
        out
    }

    /// Draws the examples of some training images; deterministic in `seed`.
    pub(super) fn batch(&self, images: &[usize], seed: u64) -> Result<Example, TrainError> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut statements = |&i: &usize| {
            self.statements(i, &mut rng, &mut PerturbationCounts::default())
                .into_iter()
                .map(|(_, statement)| statement)
                .collect()
        };
        let rows = images.iter().map(&mut statements).collect();
        let (batch, labels) = layout(&self.training.setup.policy, rows, Some(&mut rng))?;
        let views: Vec<(usize, usize)> = images
            .iter()
            .map(|&i| (i, rng.random_range(0..super::features::VIEWS)))
            .collect();
        let rest_weight = self.training.config.examples.rest_weight;
        let weight = |label: &TokenTarget| match label {
            TokenTarget { good: None, .. } => 0.0,
            TokenTarget { rest: true, .. } => rest_weight,
            _ => 1.0,
        };
        Ok(Example {
            images: self.training.train_features.batch(&views)?,
            batch,
            weights: labels.iter().map(weight).collect(),
            labels: labels
                .iter()
                .map(|l| f32::from(u8::from(l.good == Some(true))))
                .collect(),
            language: labels
                .iter()
                .zip(0..)
                .filter(|(l, _)| l.language)
                .map(|(_, i)| i)
                .collect(),
            seed,
        })
    }
}

/// Examples of a correction: the judged answer with its errors and, if all of it was judged, the
/// corrected answer.
fn corrected(
    correction: &CorrectedAnswer,
    policy: &Policy,
) -> impl Iterator<Item = (ExampleOrigin, ImageStatement)> {
    let casing = policy.config.casing;
    let question = (!asks_for_description(&correction.prompt)).then(|| correction.prompt.clone());
    let statement = ImageStatement {
        question: question.clone(),
        text: correction.labeled(&policy.tokenizer, casing),
        ends: false,
    };
    let better =
        (correction.complete && !correction.errors.is_empty() && !correction.corrected.is_empty())
            .then(|| correction.corrected_text(&policy.tokenizer, casing));
    let better = better.map(|text| {
        (
            ExampleOrigin::Corrected,
            ImageStatement {
                question,
                text,
                ends: false,
            },
        )
    });
    std::iter::once((ExampleOrigin::Human, statement)).chain(better)
}

/// Origin of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ExampleOrigin {
    /// Human caption.
    True,
    /// Perturbed human caption.
    Perturbed(PerturbationKind),
    /// The policy's caption.
    Own,
    /// Human caption of another image.
    Foreign,
    /// Right or wrong answer to a derived question.
    Answer,
    /// The policy's answer to a derived question.
    OwnAnswer,
    /// Answer judged by a person.
    Human,
    /// Answer corrected by a person.
    Corrected,
}

impl std::fmt::Display for ExampleOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::True => f.write_str("true captions"),
            Self::Perturbed(kind) => write!(f, "perturbed: {}", kind.name()),
            Self::Own => f.write_str("the policy's captions"),
            Self::Foreign => f.write_str("captions of other images"),
            Self::Answer => f.write_str("answers, half of them wrong"),
            Self::OwnAnswer => f.write_str("the policy's answers"),
            Self::Human => f.write_str("judged by people"),
            Self::Corrected => f.write_str("corrected by people"),
        }
    }
}

/// Labels object mentions, colors and numbers of a text by its image's references.
pub(super) fn judged(text: String, references: &[String]) -> LabeledText {
    let lexicon = Lexicon::shared();
    let judgment = objects::judge(lexicon, &text, references);
    LabeledText::judged(text, lexicon, &ReferenceTexts::new(lexicon, references))
        .with_properties(&judgment)
}

/// Label of one learned token.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenTarget {
    pub(super) good: Option<bool>,
    /// `true` if the token is outside the text's labeled ranges.
    pub(super) rest: bool,
    /// `true` if the token counts in the language model's loss.
    pub(super) language: bool,
}

/// Lays out the statements about each image: descriptions behind one request (random with `rng`,
/// else the default), answers behind their questions.
pub(super) fn layout(
    policy: &Policy,
    rows: Vec<Vec<ImageStatement>>,
    mut rng: Option<&mut SmallRng>,
) -> Result<(RowBatch, Vec<TokenTarget>), TrainError> {
    let (mut out, mut labels) = (Vec::with_capacity(rows.len()), Vec::new());
    for texts in rows {
        let prompt = match rng.as_deref_mut() {
            Some(rng) => Corpus::caption_prompt(&policy.tokenizer, &policy.template, rng)?,
            None => Corpus::prompt(&policy.tokenizer, &policy.template, "")?,
        };
        let mut row = TextRow {
            prompt,
            branches: Vec::new(),
        };
        for ImageStatement {
            question,
            text,
            ends,
        } in texts
        {
            let mut line = match &question {
                Some(question) => Corpus::prompt(&policy.tokenizer, &policy.template, question)?,
                None => Vec::new(),
            };
            let learn_from = line.len();
            let mut tokens = text
                .tokens(&policy.tokenizer)
                .map_err(|e| TrainError::Run(e.to_string()))?;
            tokens.extend(ends.then(|| LabeledToken {
                id: policy.tokenizer.eos(),
                good: None,
                rest: true,
            }));
            labels.extend(tokens.iter().map(|token| TokenTarget {
                good: token.good,
                rest: token.rest,
                language: ends,
            }));
            line.extend(tokens.iter().map(|token| token.id));
            row.branches.push(ResponseBranch {
                after_prompt: question.is_none(),
                tokens: line,
                learn_from,
            });
        }
        out.push(row);
    }
    Ok((
        RowBatch::new(&out, policy.config.model.language.connector.tokens)?,
        labels,
    ))
}

/// Samples the policy's captions of images and labels them by the references.
pub(super) fn own_captions(
    setup: &Setup,
    images: &[Image],
    features: &super::features::Features,
    temperature: f32,
    seed: u64,
) -> Result<Vec<(Vec<u32>, LabeledText)>, TrainError> {
    let policy = &setup.policy;
    let prompt = Corpus::prompt(&policy.tokenizer, &policy.template, "")?;
    let all: Vec<usize> = (0..images.len()).collect();
    let chunks: Vec<&[usize]> = all.chunks(ROLLOUT).collect();
    let captions = setup.workers.map(&chunks, |chunk| {
        let views: Vec<(usize, usize)> = chunk.iter().map(|&i| (i, 0)).collect();
        let config = RolloutConfig {
            temperature,
            seed: seed.wrapping_add(chunk[0] as u64),
            max_tokens: MAX_TOKENS,
            eos: policy.tokenizer.eos(),
        };
        answers(&policy.model, &features.batch(&views)?, &prompt, config)
    })?;
    let lexicon = Lexicon::shared();
    let judge = |(image, tokens): (&Image, Vec<u32>)| {
        let references =
            ReferenceTexts::new(lexicon, image.captions.iter().map(|c| normalize_caption(c)));
        let text = policy.tokenizer.decode(&tokens);
        (tokens, LabeledText::judged(text, lexicon, &references))
    };
    Ok(images
        .iter()
        .zip(captions.into_iter().flatten())
        .map(judge)
        .collect())
}
