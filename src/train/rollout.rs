//! Batched sampling of answers to many images, for evaluation and on-policy training data.

use candle_core::{Result, Tensor};

use crate::{
    engine::{Sampler, Sampling},
    vlm::{
        KvCache, Logits, Outputs, Row, VisionLanguageModel,
        kv_cache::BLOCK,
        models::candor_mini::PrefixDecoder,
        prompt::{ImageFeatures, ImageId, Prompt},
    },
};

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
    let capacity = image_tokens + longest + config.max_tokens;
    let mut cache = model.new_cache(n * each, capacity, n * each * (capacity + BLOCK))?;
    let mut out = vec![Vec::new(); n * each];
    let mut samplers: Vec<Sampler> = (0..out.len() as u64)
        .map(|i| {
            Sampler::new(&Sampling {
                temperature: config.temperature.into(),
                seed: config.seed.wrapping_add(i),
                ..Sampling::default()
            })
        })
        .collect();
    let encoded = (0..n).map(|i| {
        Ok([ImageFeatures {
            id: ImageId([0; 32]),
            features: images.get(i)?,
        }])
    });
    let encoded: Vec<[ImageFeatures; 1]> = encoded.collect::<Result<_>>()?;
    let prompts: Vec<Prompt> = prompts.iter().map(|text| model.prompt(text)).collect();
    let rows = encoded.iter().zip(&prompts).enumerate();
    let first: Vec<Row<'_>> = rows
        .map(|(i, (image, prompt))| Row {
            slot: i * each,
            start: 0,
            tokens: &prompt.tokens,
            spans: &prompt.images,
            images: image,
            from: prompt.tokens.len() - 1,
        })
        .collect();
    let logits = last_logits(model, &first, &mut cache)?;
    let mut logits: Vec<Vec<f32>> = logits
        .into_iter()
        .flat_map(|line| vec![line; each])
        .collect();
    for i in 0..n {
        let len = cache.len(i * each);
        (1..each).for_each(|copy| cache.fork(i * each, i * each + copy, len));
    }
    let mut open: Vec<usize> = (0..out.len()).collect();
    for _ in 0..config.max_tokens {
        let chosen: Vec<(usize, u32)> = open
            .iter()
            .zip(&mut logits)
            .map(|(&slot, line)| Ok((slot, samplers[slot].choose(line, &[])?)))
            .collect::<Result<_>>()?;
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
            .map(|(slot, token)| Row::text(*slot, cache.len(*slot), token))
            .collect();
        logits = last_logits(model, &rows, &mut cache)?;
        open = unfinished.iter().map(|(slot, _)| *slot).collect();
    }
    Ok(out)
}

/// Feeds rows and returns the logits of each row's last token.
fn last_logits(
    model: &PrefixDecoder,
    rows: &[Row<'_>],
    cache: &mut KvCache,
) -> Result<Vec<Vec<f32>>> {
    let outputs = Outputs {
        logits: Logits::Last,
        hidden_layers: &[],
    };
    match model.forward(rows, cache, outputs)?.logits {
        Some(logits) => logits.to_vec2(),
        None => candle_core::bail!("the model returned no logits"),
    }
}
