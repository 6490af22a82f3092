//! Batched sampling of answers to many images, for evaluation and on-policy training data.

use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::vlm::{Row, models::candor_mini::PrefixDecoder};

/// Sampling parameters of a rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RolloutConfig {
    /// Sampling temperature; 0 is greedy.
    pub temperature: f32,
    /// Seed of the first answer's generator; answer `i` uses `seed + i`.
    pub seed: u64,
    /// Maximum tokens per answer.
    pub max_tokens: usize,
    /// Token that ends an answer; not part of the returned tokens.
    pub eos: u32,
}

/// Samples one answer to `prompt` for each image of `images` `(n, image_tokens, channels)`; returns
/// tokens without the end token.
pub fn answers(
    model: &PrefixDecoder,
    images: &Tensor,
    prompt: &[u32],
    config: RolloutConfig,
) -> Result<Vec<Vec<u32>>> {
    samples(
        model,
        images,
        &vec![prompt.to_vec(); images.dim(0)?],
        1,
        config,
    )
}

/// Samples `each` answers per image of `images` `(n, image_tokens, channels)` with its own prompt,
/// an image's answers consecutive; returns tokens without the end token. Image and prompt are
/// prefilled once.
///
/// # Errors
/// When prompts and images differ in number or a tensor operation fails.
pub fn samples(
    model: &PrefixDecoder,
    images: &Tensor,
    prompts: &[Vec<u32>],
    each: usize,
    config: RolloutConfig,
) -> Result<Vec<Vec<u32>>> {
    let (n, image_tokens, _) = images.dims3()?;
    if prompts.len() != n || each == 0 {
        candle_core::bail!(
            "{} prompts and {each} answers each for {n} images",
            prompts.len()
        );
    }
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let mut cache = model.new_cache(n * each, image_tokens + longest + config.max_tokens)?;
    let mut out = vec![Vec::new(); n * each];
    let mut rngs: Vec<SmallRng> = (0..out.len() as u64)
        .map(|i| SmallRng::seed_from_u64(config.seed.wrapping_add(i)))
        .collect();
    let image_features: Vec<Tensor> = (0..n).map(|i| images.get(i)).collect::<Result<_>>()?;
    let rows = image_features.iter().zip(prompts).enumerate();
    let first: Vec<Row<'_>> = rows
        .map(|(i, (image, prompt))| Row {
            slot: i * each,
            start: 0,
            image: Some(image),
            tokens: prompt,
        })
        .collect();
    let states = model.step(&first, &mut cache)?;
    let mut ends = Vec::with_capacity(out.len());
    let mut end = 0;
    for (i, prompt) in prompts.iter().enumerate() {
        end += prompt.len() as u32;
        ends.extend(vec![end - 1; each]);
        let len = cache.len(i * each);
        (1..each).try_for_each(|copy| cache.fork(i * each, i * each + copy, len))?;
    }
    let mut hidden = last(&states)?.index_select(&Tensor::new(ends, images.device())?, 0)?;
    let mut open: Vec<usize> = (0..out.len()).collect();
    for _ in 0..config.max_tokens {
        let logits = model.llama().logits(&hidden)?.to_vec2::<f32>()?;
        let chosen: Vec<(usize, u32)> = open
            .iter()
            .zip(&logits)
            .map(|(&slot, l)| (slot, choose(l, config.temperature, &mut rngs[slot])))
            .collect();
        let unfinished: Vec<(usize, [u32; 1])> = chosen
            .into_iter()
            .filter(|&(_, token)| token != config.eos)
            .map(|(s, t)| (s, [t]))
            .collect();
        unfinished
            .iter()
            .for_each(|(slot, token)| out[*slot].push(token[0]));
        if unfinished.is_empty() {
            break;
        }
        let rows: Vec<Row<'_>> = unfinished
            .iter()
            .map(|(slot, token)| Row {
                slot: *slot,
                start: cache.len(*slot),
                image: None,
                tokens: token,
            })
            .collect();
        hidden = last(&model.step(&rows, &mut cache)?)?.clone();
        open = unfinished.iter().map(|(slot, _)| *slot).collect();
    }
    Ok(out)
}

fn last(states: &[Tensor]) -> Result<&Tensor> {
    states
        .last()
        .ok_or_else(|| candle_core::Error::Msg("the decoder has no layers".into()))
}

fn choose(logits: &[f32], temperature: f32, rng: &mut SmallRng) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if temperature <= 0.0 {
        return logits.iter().position(|&l| l == max).unwrap_or(0) as u32;
    }
    let weights: Vec<f32> = logits
        .iter()
        .map(|l| ((l - max) / temperature).exp())
        .collect();
    let mut remaining = rng.random::<f32>() * weights.iter().sum::<f32>();
    for (i, w) in weights.iter().enumerate() {
        remaining -= w;
        if remaining <= 0.0 {
            return i as u32;
        }
    }
    (weights.len() - 1) as u32
}
