//! Answers of a model to many images at once, for evaluation and for on-policy training data.

use candle_core::{Result, Tensor};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::vlm::{Row, llava::PrefixDecoder};

/// How to choose tokens in a rollout.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RolloutConfig {
    /// 0 is greedy.
    pub temperature: f32,
    /// Seed of the first image's generator; the others follow.
    pub seed: u64,
    /// Most tokens an answer.
    pub max_tokens: usize,
    /// The token that ends an answer; it is not part of it.
    pub eos: u32,
}

/// Writes one answer to `prompt` for each image of `images` `(n, image_tokens, channels)`: its tokens without the end.
pub fn answers(model: &PrefixDecoder, images: &Tensor, prompt: &[u32], config: RolloutConfig) -> Result<Vec<Vec<u32>>> {
    let (n, image_tokens, _) = images.dims3()?;
    let mut cache = model.new_cache(n, image_tokens + prompt.len() + config.max_tokens)?;
    let mut out = vec![Vec::new(); n];
    let mut rngs: Vec<SmallRng> = (0..n as u64).map(|i| SmallRng::seed_from_u64(config.seed.wrapping_add(i))).collect();
    let images: Vec<Tensor> = (0..n).map(|i| images.get(i)).collect::<Result<_>>()?;
    let first: Vec<Row<'_>> =
        images.iter().enumerate().map(|(slot, image)| Row { slot, start: 0, image: Some(image), tokens: prompt }).collect();
    let states = model.step(&first, &mut cache)?;
    let ends: Vec<u32> = (1..=n).map(|i| (i * prompt.len() - 1) as u32).collect();
    let mut hidden = last(&states)?.index_select(&Tensor::new(ends, images[0].device())?, 0)?;
    let mut open: Vec<usize> = (0..n).collect();
    for _ in 0..config.max_tokens {
        let logits = model.llama().logits(&hidden)?.to_vec2::<f32>()?;
        let chosen: Vec<(usize, u32)> =
            open.iter().zip(&logits).map(|(&slot, l)| (slot, choose(l, config.temperature, &mut rngs[slot]))).collect();
        let going: Vec<(usize, [u32; 1])> = chosen.into_iter().filter(|&(_, token)| token != config.eos).map(|(s, t)| (s, [t])).collect();
        going.iter().for_each(|(slot, token)| out[*slot].push(token[0]));
        if going.is_empty() {
            break;
        }
        let rows: Vec<Row<'_>> =
            going.iter().map(|(slot, token)| Row { slot: *slot, start: cache.len(*slot), image: None, tokens: token }).collect();
        hidden = last(&model.step(&rows, &mut cache)?)?.clone();
        open = going.iter().map(|(slot, _)| *slot).collect();
    }
    Ok(out)
}

fn last(states: &[Tensor]) -> Result<&Tensor> {
    states.last().ok_or_else(|| candle_core::Error::Msg("the decoder has no layers".into()))
}

fn choose(logits: &[f32], temperature: f32, rng: &mut SmallRng) -> u32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if temperature <= 0.0 {
        return logits.iter().position(|&l| l == max).unwrap_or(0) as u32;
    }
    let weights: Vec<f32> = logits.iter().map(|l| ((l - max) / temperature).exp()).collect();
    let mut left = rng.random::<f32>() * weights.iter().sum::<f32>();
    for (i, w) in weights.iter().enumerate() {
        left -= w;
        if left <= 0.0 {
            return i as u32;
        }
    }
    (weights.len() - 1) as u32
}
