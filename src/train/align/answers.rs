//! Answers of a policy to many images, and how they are laid out for a pass.

use std::ops::Range;

use candle_core::{Device, Result, Tensor};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::SliceRandom};

use crate::{
    train::{
        TrainError,
        corpus::Corpus,
        features::Features,
        policy::Policy,
        rollout::{RolloutConfig, samples},
        rows::{ResponseBranch, RowBatch, TextRow},
    },
    vlm::{decoder::Regular, llava::PrefixDecoder, ops},
};

/// Images that one worker reads at once.
pub(super) const AT_ONCE: usize = 16;

/// An image as it is seen, what was asked about it, and what was answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AnswerGroup {
    /// Number of the image in its split.
    pub(super) image: usize,
    /// How it is seen.
    pub(super) view: usize,
    /// The image tokens that the policy does not see, in order.
    pub(super) hidden: Vec<usize>,
    /// The prompt's tokens.
    pub(super) prompt: Vec<u32>,
    /// The answers' tokens, the end included where an answer came to it.
    pub(super) answers: Vec<Vec<u32>>,
}

impl AnswerGroup {
    /// Tokens of all answers.
    pub(super) fn len(&self) -> usize {
        self.answers.iter().map(Vec::len).sum()
    }

    fn row(&self, more: &[ResponseBranch]) -> TextRow {
        let own = self.answers.iter().map(|tokens| ResponseBranch {
            after_prompt: true,
            tokens: tokens.clone(),
            learn_from: 0,
        });
        TextRow {
            prompt: self.prompt.clone(),
            branches: own.chain(more.iter().cloned()).collect(),
        }
    }
}

/// How to draw answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerSampling {
    /// Answers an image.
    pub(super) each: usize,
    /// 0 is greedy.
    pub(super) temperature: f32,
    /// Longest answer.
    pub(super) max_tokens: usize,
    /// Seed.
    pub(super) seed: u64,
}

/// Images of an iteration, each seen in a random way, a share of its tokens hidden, and asked for a
/// description in random words; a function of the seed.
pub(super) fn ask(
    policy: &Policy,
    images: &[usize],
    views: usize,
    hidden: f32,
    seed: u64,
) -> std::result::Result<Vec<AnswerGroup>, TrainError> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let tokens = policy.config.model.language.connector.tokens;
    let group = |&image: &usize| {
        let view = rng.random_range(0..views);
        let prompt = Corpus::caption_prompt(&policy.tokenizer, &policy.template, &mut rng)?;
        let hidden = if hidden > 0.0 {
            (0..tokens)
                .filter(|_| rng.random::<f32>() < hidden)
                .collect()
        } else {
            Vec::new()
        };
        Ok(AnswerGroup {
            image,
            view,
            hidden,
            prompt,
            answers: Vec::new(),
        })
    };
    images.iter().map(group).collect()
}

/// Lets a policy answer some groups; their answers are replaced.
pub(super) fn draw(
    model: &PrefixDecoder,
    features: &Features,
    eos: u32,
    groups: &[AnswerGroup],
    draw: AnswerSampling,
) -> Result<Vec<AnswerGroup>> {
    let all: Vec<&AnswerGroup> = groups.iter().collect();
    let prompts: Vec<Vec<u32>> = groups.iter().map(|g| g.prompt.clone()).collect();
    let config = RolloutConfig {
        temperature: draw.temperature,
        seed: draw.seed,
        max_tokens: draw.max_tokens,
        eos,
    };
    let mut drawn = samples(
        model,
        &seen(&clear(features, &all)?, &all)?,
        &prompts,
        draw.each,
        config,
    )?
    .into_iter();
    let mut ended = |mut tokens: Vec<u32>| {
        // An answer of the longest length was cut off.
        if tokens.len() < draw.max_tokens {
            tokens.push(eos);
        }
        tokens
    };
    Ok(groups
        .iter()
        .map(|g| AnswerGroup {
            answers: drawn.by_ref().take(draw.each).map(&mut ended).collect(),
            ..g.clone()
        })
        .collect())
}

/// What the policy sees of the groups' images, `(groups, image_tokens, channels)`: in the place of
/// a hidden token stands the mean of the image's tokens.
fn seen(clear: &Tensor, groups: &[&AnswerGroup]) -> Result<Tensor> {
    if groups.iter().all(|g| g.hidden.is_empty()) {
        return Ok(clear.clone());
    }
    let (n, tokens, _) = clear.dims3()?;
    let mut shown = vec![1u8; n * tokens];
    groups.iter().enumerate().for_each(|(i, g)| {
        g.hidden
            .iter()
            .for_each(|&token| shown[i * tokens + token] = 0)
    });
    let shown =
        Tensor::from_vec(shown, (n, tokens, 1), &Device::Cpu)?.broadcast_as(clear.shape())?;
    shown.where_cond(
        clear,
        &clear
            .mean_keepdim(1)?
            .broadcast_as(clear.shape())?
            .contiguous()?,
    )
}

/// The groups' images as they are, in their views.
fn clear(features: &Features, groups: &[&AnswerGroup]) -> Result<Tensor> {
    features.batch(&groups.iter().map(|g| (g.image, g.view)).collect::<Vec<_>>())
}

/// Groups, and what people wrote beside them, laid out for a pass.
pub(super) struct AnswerShard {
    /// What the policy sees: image features `(groups, image_tokens, channels)`.
    pub(super) images: Tensor,
    /// What the scorer sees.
    pub(super) clear: Tensor,
    /// The rows.
    pub(super) batch: RowBatch,
    /// The learnt tokens that belong to answers, group by group.
    pub(super) own: Vec<u32>,
    /// Those that belong to what people wrote.
    pub(super) human: Vec<u32>,
}

impl AnswerShard {
    /// Lays groups out; `human` holds what people wrote, a list a group, or nothing at all.
    pub(super) fn new(
        features: &Features,
        groups: &[&AnswerGroup],
        human: &[Vec<ResponseBranch>],
        image_tokens: usize,
    ) -> Result<Self> {
        let none = Vec::new();
        let rows: Vec<TextRow> = groups
            .iter()
            .enumerate()
            .map(|(i, g)| g.row(human.get(i).unwrap_or(&none)))
            .collect();
        let batch = RowBatch::new(&rows, image_tokens)?;
        let (mut own, mut people, mut at) = (Vec::new(), Vec::new(), 0u32);
        let mut next = |n: usize| -> Range<u32> {
            at += n as u32;
            at - n as u32..at
        };
        for (i, group) in groups.iter().enumerate() {
            own.extend(next(group.len()));
            people.extend(next(human.get(i).map_or(0, |branches| {
                branches.iter().map(|b| b.tokens.len() - b.learn_from).sum()
            })));
        }
        let clear = clear(features, groups)?;
        Ok(Self {
            images: seen(&clear, groups)?,
            clear,
            batch,
            own,
            human: people,
        })
    }

    /// The policy's last states where they predict the learnt tokens, `(learnt, width)`.
    pub(super) fn states(&self, model: &PrefixDecoder, regular: Regular) -> Result<Tensor> {
        let batch = &self.batch;
        let states = model.whole(
            &self.images,
            &batch.tokens,
            &batch.positions,
            &batch.mask,
            regular,
        )?;
        let Some(last) = states.last() else {
            candle_core::bail!("the decoder has no layers")
        };
        last.index_select(&Tensor::new(batch.lines.as_slice(), &Device::Cpu)?, 0)
    }

    /// Log-probabilities of some of the learnt tokens under the policy at a temperature: `(which)`.
    pub(super) fn log_probs(
        &self,
        model: &PrefixDecoder,
        states: &Tensor,
        which: &[u32],
        temperature: f32,
    ) -> Result<Tensor> {
        let logits = model
            .llama()
            .logits(&states.index_select(&Tensor::new(which, &Device::Cpu)?, 0)?)?;
        let logits = if temperature == 1.0 {
            logits
        } else {
            (logits / f64::from(temperature))?
        };
        let targets: Vec<u32> = which
            .iter()
            .map(|&i| self.batch.targets[i as usize])
            .collect();
        ops::log_probs(&logits, &targets)
    }
}

/// A row's answers to questions, and `n` of its captions.
pub(super) fn choose(row: TextRow, n: usize, rng: &mut impl Rng) -> Vec<ResponseBranch> {
    let (mut captions, answers): (Vec<ResponseBranch>, Vec<ResponseBranch>) = row
        .branches
        .into_iter()
        .partition(|branch| branch.after_prompt);
    captions.shuffle(rng);
    captions.truncate(n);
    captions.into_iter().chain(answers).collect()
}
