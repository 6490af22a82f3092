//! Sampled answers to a batch of images, and their layout for a forward pass.

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
    vlm::{decoder::Regular, models::candor_mini::PrefixDecoder, nn},
};

/// Images per chunk of one worker.
pub(super) const AT_ONCE: usize = 16;

/// An image view, its prompt and the answers sampled for it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AnswerGroup {
    /// Index of the image in its split.
    pub(super) image: usize,
    /// Index of the view (crop or flip) of the image.
    pub(super) view: usize,
    /// Image tokens that are masked for the policy, ascending.
    pub(super) hidden: Vec<usize>,
    /// Prompt tokens.
    pub(super) prompt: Vec<u32>,
    /// Tokens of each answer, with the end token unless the answer was cut off.
    pub(super) answers: Vec<Vec<u32>>,
}

impl AnswerGroup {
    /// Number of tokens in all answers.
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

/// Sampling parameters of answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerSampling {
    /// Answers per image.
    pub(super) each: usize,
    /// Sampling temperature; 0 is greedy.
    pub(super) temperature: f32,
    /// Longest answer in tokens.
    pub(super) max_tokens: usize,
    /// Seed of the sampler.
    pub(super) seed: u64,
}

/// Builds one group without answers per image: a random view, randomly masked image tokens and a
/// randomly worded request for a description. Deterministic in `seed`.
pub(super) fn prompt_groups(
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

/// Samples `sampling.each` answers per group and returns the groups with those answers.
pub(super) fn sample_answers(
    model: &PrefixDecoder,
    features: &Features,
    eos: u32,
    groups: &[AnswerGroup],
    sampling: AnswerSampling,
) -> Result<Vec<AnswerGroup>> {
    let all: Vec<&AnswerGroup> = groups.iter().collect();
    let prompts: Vec<Vec<u32>> = groups.iter().map(|g| g.prompt.clone()).collect();
    let config = RolloutConfig {
        temperature: sampling.temperature,
        seed: sampling.seed,
        max_tokens: sampling.max_tokens,
        eos,
    };
    let mut sampled = samples(
        model,
        &masked_features(&clear(features, &all)?, &all)?,
        &prompts,
        sampling.each,
        config,
    )?
    .into_iter();
    let mut ended = |mut tokens: Vec<u32>| {
        // Only an answer of the maximum length is cut off.
        if tokens.len() < sampling.max_tokens {
            tokens.push(eos);
        }
        tokens
    };
    Ok(groups
        .iter()
        .map(|g| AnswerGroup {
            answers: sampled
                .by_ref()
                .take(sampling.each)
                .map(&mut ended)
                .collect(),
            ..g.clone()
        })
        .collect())
}

/// Masked image features as the policy sees them, `(groups, image_tokens, channels)`: a masked
/// token is replaced by the mean of the image's tokens.
fn masked_features(clear: &Tensor, groups: &[&AnswerGroup]) -> Result<Tensor> {
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

/// Unmasked features of the groups' views, `(groups, image_tokens, channels)`.
fn clear(features: &Features, groups: &[&AnswerGroup]) -> Result<Tensor> {
    features.batch(&groups.iter().map(|g| (g.image, g.view)).collect::<Vec<_>>())
}

/// Groups and reference texts of the same images, laid out for one forward pass.
pub(super) struct AnswerShard {
    /// Image features that the policy sees, `(groups, image_tokens, channels)`.
    pub(super) images: Tensor,
    /// Unmasked image features, which the scorer sees; same shape.
    pub(super) clear: Tensor,
    /// Packed token rows.
    pub(super) batch: RowBatch,
    /// Indices of the learned tokens that belong to sampled answers, group by group.
    pub(super) own: Vec<u32>,
    /// Indices of the learned tokens that belong to human texts.
    pub(super) human: Vec<u32>,
}

impl AnswerShard {
    /// Lays out `groups`; `human` holds one list of human texts per group, or is empty.
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
        let (mut own, mut people, mut offset) = (Vec::new(), Vec::new(), 0u32);
        let mut next = |n: usize| -> Range<u32> {
            offset += n as u32;
            offset - n as u32..offset
        };
        for (i, group) in groups.iter().enumerate() {
            own.extend(next(group.len()));
            people.extend(next(human.get(i).map_or(0, |branches| {
                branches.iter().map(|b| b.tokens.len() - b.learn_from).sum()
            })));
        }
        let clear = clear(features, groups)?;
        Ok(Self {
            images: masked_features(&clear, groups)?,
            clear,
            batch,
            own,
            human: people,
        })
    }

    /// Final hidden states at the positions that predict the learned tokens, `(learned, width)`.
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

    /// Log-probabilities of the learned tokens `which` at a temperature, `(which)`.
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
        nn::log_probs(&logits, &targets)
    }
}

/// Keeps a row's answers to questions and `n` of its captions, chosen at random.
pub(super) fn subsample_captions(
    row: TextRow,
    n: usize,
    rng: &mut impl Rng,
) -> Vec<ResponseBranch> {
    let (mut captions, answers): (Vec<ResponseBranch>, Vec<ResponseBranch>) = row
        .branches
        .into_iter()
        .partition(|branch| branch.after_prompt);
    captions.shuffle(rng);
    captions.truncate(n);
    captions.into_iter().chain(answers).collect()
}
