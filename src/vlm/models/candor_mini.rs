//! LLaVA architecture (Liu et al., 2023, <https://arxiv.org/abs/2304.08485>): a vision tower, a
//! projector and a LLaMA decoder that reads the image as a prefix of its text.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::vlm::{
    KvCache, Row, Spec, StepOutput, VisionLanguageModel, Want,
    decoder::{Llama, LlamaConfig, Regular},
    nn::{Ragged, RaggedRow},
    projector::{Mlp, MlpConfig},
    vision::efficientnet_lite::{EfficientNetLite, EfficientNetLiteConfig},
};

/// Mean subtracted from each channel (0 to 255): EfficientNet-Lite's own normalization.
pub const PIXEL_MEAN: [f32; 3] = [127.0; 3];

/// Divisor of each channel after that.
pub const PIXEL_STD: [f32; 3] = [128.0; 3];

/// Sizes of projector and decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PrefixDecoderConfig {
    /// Projector.
    pub connector: MlpConfig,
    /// Decoder.
    pub decoder: LlamaConfig,
}

/// Projector and decoder: image features and tokens in, hidden states out. The policy has one, and
/// so has a standalone scorer.
pub struct PrefixDecoder {
    connector: Mlp,
    llama: Llama,
    image_tokens: usize,
}

impl PrefixDecoder {
    /// Loads the weights under `connector` and `decoder`.
    pub fn load(config: &PrefixDecoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let (connector, llama) = (
            Mlp::load(&config.connector, vb.pp("connector"))?,
            Llama::load(&config.decoder, vb.pp("decoder"))?,
        );
        Ok(Self {
            connector,
            llama,
            image_tokens: config.connector.tokens,
        })
    }

    /// Decoder.
    pub fn llama(&self) -> &Llama {
        &self.llama
    }

    /// Creates a cache with the sizes of the decoder.
    pub fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        let config = self.llama.config();
        let device = self.llama.embed(&[0])?.device().clone();
        KvCache::new(
            config.num_hidden_layers,
            slots,
            capacity,
            config.kv_width(),
            DType::F32,
            &device,
        )
    }

    /// Appends `rows` to the cache. Returns every layer's hidden states of the **text** tokens
    /// only, `(text tokens, hidden_size)` each.
    ///
    /// # Errors
    /// When the rows do not fit the cache; its lengths are then unchanged.
    pub fn step(&self, rows: &[Row<'_>], cache: &mut KvCache) -> Result<Vec<Tensor>> {
        cache.check(rows, self.image_tokens)?;
        let mut remaining = rows.to_vec();
        let stepped = self
            .recall(&mut remaining, cache)
            .and_then(|()| self.extend(&remaining, cache));
        match &stepped {
            Ok(_) => remaining.iter().try_for_each(|row| {
                row.image
                    .map_or(Ok(()), |image| cache.remember(row.slot, image.id()))
            })?,
            Err(_) => rows
                .iter()
                .for_each(|row| cache.truncate(row.slot, row.start)),
        }
        stepped
    }

    /// Replaces images in `rows` that the cache holds by their cached positions.
    fn recall(&self, rows: &mut [Row<'_>], cache: &mut KvCache) -> Result<()> {
        for row in rows {
            if let Some(image) = row.image
                && cache.recall(row.slot, image.id())?
            {
                (row.image, row.start) = (None, self.image_tokens);
            }
        }
        Ok(())
    }

    fn extend(&self, rows: &[Row<'_>], cache: &mut KvCache) -> Result<Vec<Tensor>> {
        let ids: Vec<u32> = rows.iter().flat_map(|r| r.tokens.iter().copied()).collect();
        let embedded = self.llama.embed(&ids)?;
        let with_images = rows.iter().any(|r| r.image.is_some());
        let prefix = |row: &Row<'_>| {
            if row.image.is_some() {
                self.image_tokens
            } else {
                0
            }
        };
        let x = if with_images {
            let mut parts = Vec::new();
            let mut first = 0;
            for row in rows {
                if let Some(image) = row.image {
                    parts.push(self.connector.forward(&image.unsqueeze(0)?)?.squeeze(0)?);
                }
                parts.push(embedded.narrow(0, first, row.tokens.len())?);
                first += row.tokens.len();
            }
            Tensor::cat(&parts, 0)?
        } else {
            embedded
        };
        let spans = rows.iter().map(|r| RaggedRow {
            line: r.slot * cache.capacity(),
            start: r.start,
            len: prefix(r) + r.tokens.len(),
            prefix: if r.start == 0 {
                prefix(r)
            } else {
                cache.prefix(r.slot)
            },
        });
        let config = self.llama.config();
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let ragged = Ragged {
            rows: spans.collect(),
            heads,
            kv_heads,
            head_dim: config.head_dim(),
        };
        let slots: Vec<usize> = rows.iter().map(|r| r.slot).collect();
        let states = self.llama.step(&x, &ragged, &slots, cache)?;
        for row in rows {
            cache.advance(row.slot, prefix(row) + row.tokens.len(), prefix(row));
        }
        if !with_images {
            return Ok(states);
        }
        let mut lines = Vec::with_capacity(ids.len());
        let mut first = 0u32;
        for row in rows {
            first += prefix(row) as u32;
            lines.extend(first..first + row.tokens.len() as u32);
            first += row.tokens.len() as u32;
        }
        let lines = Tensor::new(lines, x.device())?;
        states.iter().map(|s| s.index_select(&lines, 0)).collect()
    }

    /// Runs whole padded sequences, differentiably: images `(batch, image_tokens, channels)`
    /// precede `tokens`, `batch` rows of equal length. `positions` and `mask` cover `image_tokens +
    /// length` (see [`Llama::whole`]), and so do the returned hidden states, flattened over the
    /// batch.
    pub fn whole(
        &self,
        images: &Tensor,
        tokens: &[u32],
        positions: &[u32],
        mask: &Tensor,
        regular: Regular,
    ) -> Result<Vec<Tensor>> {
        let (batch, width) = (images.dim(0)?, self.llama.config().hidden_size);
        if tokens.is_empty() || !tokens.len().is_multiple_of(batch) {
            bail!("{} tokens do not make {batch} lines", tokens.len());
        }
        let text = self
            .llama
            .embed(tokens)?
            .reshape((batch, tokens.len() / batch, width))?;
        let x = Tensor::cat(&[self.connector.forward(images)?, text], 1)?;
        self.llama.whole(&x, positions, mask, regular)
    }
}

/// Sizes of the whole model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandorMiniConfig {
    /// Vision tower.
    pub vision: EfficientNetLiteConfig,
    /// Projector and decoder.
    #[serde(flatten)]
    pub language: PrefixDecoderConfig,
}

/// LLaVA model: vision tower, projector and decoder.
pub struct CandorMini {
    vision: EfficientNetLite,
    language: PrefixDecoder,
    spec: Spec,
}

impl CandorMini {
    /// Loads the weights under `vision`, `connector` and `decoder`.
    pub fn load(config: &CandorMiniConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let vision = EfficientNetLite::load(&config.vision, vb.pp("vision"))?;
        let (connector, decoder) = (&config.language.connector, &config.language.decoder);
        if (vision.tokens(), vision.channels()) != (connector.tokens, connector.in_features)
            || connector.width != decoder.hidden_size
        {
            bail!("sizes of vision tower, projector and decoder do not match");
        }
        let spec = Spec {
            image_tokens: vision.tokens(),
            image_size: vision.image_size(),
            vocab_size: decoder.vocab_size,
            context_len: decoder.max_position_embeddings,
            hidden_features: decoder.num_hidden_layers * decoder.hidden_size,
        };
        Ok(Self {
            vision,
            language: PrefixDecoder::load(&config.language, vb)?,
            spec,
        })
    }
}

impl VisionLanguageModel for CandorMini {
    fn spec(&self) -> Spec {
        self.spec
    }

    fn encode_images(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vision.forward(pixels)
    }

    fn new_cache(&self, slots: usize, capacity: usize) -> Result<KvCache> {
        self.language.new_cache(slots, capacity)
    }

    fn forward(&self, rows: &[Row<'_>], cache: &mut KvCache, want: Want) -> Result<StepOutput> {
        let states = self.language.step(rows, cache)?;
        let Some(last) = states.last() else {
            bail!("the decoder has no layers")
        };
        let logits = match want {
            Want::Hidden => None,
            Want::All => Some(self.language.llama().logits(last)?),
            Want::Last if rows.iter().all(|r| r.tokens.len() == 1) => {
                Some(self.language.llama().logits(last)?)
            }
            Want::Last => {
                let mut end = 0u32;
                let lines = rows.iter().map(|r| {
                    end += r.tokens.len() as u32;
                    end - 1
                });
                let lines = Tensor::new(lines.collect::<Vec<u32>>(), last.device())?;
                Some(
                    self.language
                        .llama()
                        .logits(&last.index_select(&lines, 0)?)?,
                )
            }
        };
        Ok(StepOutput {
            logits,
            hidden: Tensor::cat(&states, 1)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::VarMap;

    use super::*;
    use crate::vlm::nn::{cross_entropy, tests::check_gradients};

    fn config() -> PrefixDecoderConfig {
        PrefixDecoderConfig {
            connector: MlpConfig {
                in_features: 6,
                width: 8,
                tokens: 2,
            },
            decoder: LlamaConfig {
                vocab_size: 12,
                hidden_size: 8,
                intermediate_size: 12,
                num_hidden_layers: 2,
                num_attention_heads: 2,
                num_key_value_heads: 1,
                max_position_embeddings: 32,
                rope_theta: 10_000.0,
                rms_norm_eps: 1e-5,
                tie_word_embeddings: true,
            },
        }
    }

    /// Variables in the order of their names.
    fn sorted(vars: &VarMap) -> Vec<candle_core::Var> {
        let map = vars.data().lock().unwrap();
        let mut named: Vec<_> = map.iter().collect();
        named.sort_by_key(|(name, _)| name.as_str());
        named.into_iter().map(|(_, var)| var.clone()).collect()
    }

    /// Attention mask `(1, length, length)` in which position `query` sees `key` if `sees` says so.
    fn mask(length: usize, sees: impl Fn(usize, usize) -> bool) -> Tensor {
        let values: Vec<f32> = (0..length * length)
            .map(|i| {
                if sees(i / length, i % length) {
                    0.0
                } else {
                    -1e9
                }
            })
            .collect();
        Tensor::from_vec(values, (1, length, length), &Device::Cpu).unwrap()
    }

    /// Weights that are a function of their index, large enough for every part to matter.
    fn variables() -> VarMap {
        let vars = VarMap::new();
        PrefixDecoder::load(
            &config(),
            VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu),
        )
        .unwrap();
        for (i, var) in sorted(&vars).into_iter().enumerate() {
            let n = var.elem_count();
            let base = if var.rank() == 1 { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..n)
                .map(|j| base + (((i * 131 + j * 97) % 41) as f32 - 20.0) / 40.0)
                .collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
        }
        vars
    }

    fn model(vars: &VarMap) -> PrefixDecoder {
        PrefixDecoder::load(
            &config(),
            VarBuilder::from_varmap(vars, DType::F32, &Device::Cpu),
        )
        .unwrap()
    }

    fn images(n: usize) -> Tensor {
        let values: Vec<f32> = (0..n * 12)
            .map(|i| ((i * 29 % 23) as f32 - 11.0) / 6.0)
            .collect();
        Tensor::from_vec(values, (n, 2, 6), &Device::Cpu).unwrap()
    }

    #[test]
    fn every_variable_gets_the_gradient_that_differences_give() {
        let vars = variables();
        // Image, prompt and two branches, of which the second sees the image alone.
        let tokens = [1, 2, 3, 4, 5, 6, 7, 8];
        let positions = [0, 1, 2, 3, 4, 5, 6, 2, 3, 4];
        let mask = mask(10, |query, key| match query {
            0..2 => key < 2,
            2..7 => key <= query,
            _ => key < 2 || (7..=query).contains(&key),
        });
        let (lines, targets) = ([3u32, 4, 5, 7, 8], [3, 4, 5, 7, 8]);
        check_gradients(&sorted(&vars), || {
            let model = model(&vars);
            let states = model
                .whole(&images(1), &tokens, &positions, &mask, Regular::default())
                .unwrap();
            let hidden = states
                .last()
                .unwrap()
                .index_select(&Tensor::new(&lines, &Device::Cpu).unwrap(), 0)
                .unwrap();
            cross_entropy(
                &model.llama().logits(&hidden).unwrap(),
                &targets,
                &[0.2; 5],
                0.1,
            )
            .unwrap()
            .reshape(1)
            .unwrap()
        });
    }

    fn logits(model: &PrefixDecoder, rows: &[Row<'_>], cache: &mut KvCache) -> Vec<Vec<f32>> {
        model
            .llama()
            .logits(model.step(rows, cache).unwrap().last().unwrap())
            .unwrap()
            .to_vec2()
            .unwrap()
    }

    fn assert_close(a: &[f32], b: &[f32]) {
        a.iter()
            .zip(b)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-5, "{a} {b}"));
    }

    #[test]
    fn step_by_step_agrees_with_the_whole_sequence() {
        let model = model(&variables());
        let states = model
            .whole(
                &images(1),
                &[3, 4, 5, 6],
                &[0, 1, 2, 3, 4, 5],
                &mask(6, |query, key| key < 2 || key <= query),
                Regular::default(),
            )
            .unwrap();
        let whole = model
            .llama()
            .logits(states.last().unwrap())
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let mut cache = model.new_cache(1, 16).unwrap();
        let image = images(1).get(0).unwrap();
        let first = logits(
            &model,
            &[Row {
                slot: 0,
                start: 0,
                image: Some(&image),
                tokens: &[3, 4],
            }],
            &mut cache,
        );
        assert_close(&first[0], &whole[2]);
        assert_close(&first[1], &whole[3]);
        for (i, token) in [5, 6].into_iter().enumerate() {
            let next = logits(
                &model,
                &[Row {
                    slot: 0,
                    start: 4 + i,
                    image: None,
                    tokens: &[token],
                }],
                &mut cache,
            );
            assert_close(&next[0], &whole[4 + i]);
        }
    }

    #[test]
    fn a_ragged_batch_gives_what_its_rows_give_alone_and_rolling_back_leaves_no_trace() {
        let model = model(&variables());
        let image = images(2);
        let (a, b) = (image.get(0).unwrap(), image.get(1).unwrap());
        let mut alone = model.new_cache(1, 16).unwrap();
        let first_alone = logits(
            &model,
            &[Row {
                slot: 0,
                start: 0,
                image: Some(&b),
                tokens: &[7, 8, 9],
            }],
            &mut alone,
        );
        let next_alone = logits(
            &model,
            &[Row {
                slot: 0,
                start: 5,
                image: None,
                tokens: &[10],
            }],
            &mut alone,
        );
        let mut cache = model.new_cache(3, 16).unwrap();
        logits(
            &model,
            &[Row {
                slot: 2,
                start: 0,
                image: Some(&a),
                tokens: &[1],
            }],
            &mut cache,
        );
        let rows = [
            Row {
                slot: 2,
                start: 3,
                image: None,
                tokens: &[2],
            },
            Row {
                slot: 0,
                start: 0,
                image: Some(&b),
                tokens: &[7, 8, 9],
            },
            Row {
                slot: 1,
                start: 0,
                image: Some(&a),
                tokens: &[4, 5],
            },
        ];
        let together = logits(&model, &rows, &mut cache);
        (0..3).for_each(|i| assert_close(&together[1 + i], &first_alone[i]));
        logits(
            &model,
            &[Row {
                slot: 0,
                start: 5,
                image: None,
                tokens: &[3, 3, 3],
            }],
            &mut cache,
        );
        cache.truncate(0, 5);
        cache.fork(0, 1, 5).unwrap();
        let rows = [
            Row {
                slot: 1,
                start: 5,
                image: None,
                tokens: &[10],
            },
            Row {
                slot: 0,
                start: 5,
                image: None,
                tokens: &[10],
            },
        ];
        let next = logits(&model, &rows, &mut cache);
        assert_close(&next[0], &next_alone[0]);
        assert_close(&next[1], &next_alone[0]);
    }

    #[test]
    fn a_remembered_image_gives_what_reading_it_gives() {
        let model = model(&variables());
        let images: Vec<Tensor> = (0..2).map(|i| images(2).get(i).unwrap()).collect();
        let row = |slot, image: usize| Row {
            slot,
            start: 0,
            image: Some(&images[image]),
            tokens: &[7, 8, 9],
        };
        let mut plain = model.new_cache(2, 16).unwrap();
        let want = logits(&model, &[row(0, 0), row(1, 1)], &mut plain);
        // With room for one, the images evict each other and come back.
        let mut cache = model.new_cache(3, 16).unwrap().remembering(1);
        for image in [0, 0, 1, 1, 0] {
            let got = logits(&model, &[row(2, image)], &mut cache);
            got.iter()
                .zip(&want[3 * image..])
                .for_each(|(a, b)| assert_close(a, b));
            assert_eq!((cache.len(2), cache.prefix(2)), (5, 2));
            let next = logits(
                &model,
                &[Row {
                    slot: 2,
                    start: 5,
                    image: None,
                    tokens: &[10],
                }],
                &mut cache,
            );
            let wanted = logits(
                &model,
                &[Row {
                    slot: image,
                    start: 5,
                    image: None,
                    tokens: &[10],
                }],
                &mut plain,
            );
            assert_close(&next[0], &wanted[0]);
            plain.truncate(image, 5);
            cache.truncate(2, 0);
        }
        // A cached image and a new one in one step.
        let got = logits(&model, &[row(1, 0), row(2, 1)], &mut cache);
        got.iter().zip(&want).for_each(|(a, b)| assert_close(a, b));
    }

    #[test]
    fn rows_that_do_not_fit_are_refused_and_change_nothing() {
        let model = model(&variables());
        let mut cache = model.new_cache(1, 4).unwrap();
        let image = images(1).get(0).unwrap();
        for (start, tokens) in [(0, &[1, 2, 3][..]), (1, &[1]), (0, &[])] {
            let image = (start == 0).then_some(&image);
            assert!(
                model
                    .step(
                        &[Row {
                            slot: 0,
                            start,
                            image,
                            tokens
                        }],
                        &mut cache
                    )
                    .is_err()
            );
        }
        let twice = Row {
            slot: 0,
            start: 0,
            image: None,
            tokens: &[1],
        };
        assert!(model.step(&[twice, twice], &mut cache).is_err());
        assert_eq!(cache.len(0), 0);
    }
}
