//! Candor's own small models: LLaVA's architecture (Liu et al., 2023,
//! <https://arxiv.org/abs/2304.08485>) with a convolutional vision tower. One image precedes all
//! text; its positions attend to each other.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::vlm::{
    Embedded, KvCache, Outputs, Row, Spec, StepOutput, VisionLanguageModel,
    decoder::{Decoder, DecoderConfig, Regular},
    projector::{Mlp, MlpConfig},
    prompt::{ImageSpan, Prompt},
    vision::efficientnet_lite::{EfficientNetLite, EfficientNetLiteConfig},
};

/// Name of the architecture.
pub const ARCHITECTURE: &str = "candor_mini";

/// Placeholder at image positions; never embedded.
const PLACEHOLDER: u32 = 0;

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
    pub decoder: DecoderConfig,
}

/// Projector and decoder: image features and tokens in, hidden states out. The policy has one, and
/// so has a standalone scorer. As a model it has no tower: images come encoded.
pub struct PrefixDecoder {
    connector: Mlp,
    llama: Decoder,
    image_tokens: usize,
    spec: Spec,
}

impl PrefixDecoder {
    /// Loads the weights under `connector` and `decoder`.
    pub fn load(config: &PrefixDecoderConfig, vb: VarBuilder<'_>) -> Result<Self> {
        let connector = Mlp::load(&config.connector, vb.pp("connector"))?;
        let llama = Decoder::load(&config.decoder, &vb.pp("decoder").into())?;
        let spec = Spec {
            architecture: ARCHITECTURE,
            vocab_size: config.decoder.vocab_size,
            context_len: config.decoder.max_position_embeddings,
            layers: config.decoder.num_hidden_layers,
            width: config.decoder.hidden_size,
            step_bytes: llama.step_bytes(),
            kv: llama.kv_shape(),
            whole_images: true,
        };
        Ok(Self {
            connector,
            llama,
            image_tokens: config.connector.tokens,
            spec,
        })
    }

    /// Rounds the decoder's matrices; see [`crate::vlm::nn::Linear::rounded`].
    #[must_use]
    pub fn rounded(mut self) -> Self {
        self.llama = self.llama.rounded();
        self.spec.step_bytes = self.llama.step_bytes();
        self
    }

    /// Returns the decoder.
    pub fn llama(&self) -> &Decoder {
        &self.llama
    }

    /// Returns the prompt of an image followed by the tokens of `text`.
    pub fn prompt(&self, text: &[u32]) -> Prompt {
        image_first(self.image_tokens, text)
    }

    /// Runs whole padded sequences, differentiably: images `(batch, image_tokens, channels)`
    /// precede `tokens`, `batch` rows of equal length. `positions` and `mask` cover `image_tokens +
    /// length` (see [`Decoder::whole`]), and so do the returned hidden states, flattened over the
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

/// Returns the prompt of one image in the first `image_tokens` positions, followed by `text`.
pub(crate) fn image_first(image_tokens: usize, text: &[u32]) -> Prompt {
    let mut tokens = vec![PLACEHOLDER; image_tokens];
    tokens.extend(text);
    Prompt {
        tokens,
        images: vec![ImageSpan {
            range: 0..image_tokens,
            image: 0,
            rows: 0..image_tokens,
        }],
    }
}

impl VisionLanguageModel for PrefixDecoder {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn encode(&self, _pixels: &Tensor) -> Result<Tensor> {
        bail!("this network has no vision tower")
    }

    fn embed(&self, rows: &[Row<'_>]) -> Result<Embedded> {
        self.llama
            .embed_rows(rows, self.spec.whole_images, |image| {
                self.connector
                    .forward(&image.features.unsqueeze(0)?)?
                    .squeeze(0)
            })
    }

    fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput> {
        self.llama.decode(input, cache, outputs)
    }

    fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> Result<KvCache> {
        self.llama.new_cache(slots, capacity, positions)
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

/// Vision tower, projector and decoder.
pub struct CandorMini {
    vision: EfficientNetLite,
    language: PrefixDecoder,
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
        Ok(Self {
            vision,
            language: PrefixDecoder::load(&config.language, vb)?,
        })
    }

    /// Rounds the decoder's matrices; see [`crate::vlm::nn::Linear::rounded`].
    #[must_use]
    pub fn rounded(self) -> Self {
        Self {
            language: self.language.rounded(),
            ..self
        }
    }

    /// Returns the side of the square input image in pixels.
    pub fn image_size(&self) -> usize {
        self.vision.image_size()
    }

    /// Returns the number of positions that an image takes.
    pub fn image_tokens(&self) -> usize {
        self.vision.tokens()
    }
}

impl VisionLanguageModel for CandorMini {
    fn spec(&self) -> &Spec {
        self.language.spec()
    }

    fn encode(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vision.forward(pixels)?.squeeze(0)
    }

    fn embed(&self, rows: &[Row<'_>]) -> Result<Embedded> {
        self.language.embed(rows)
    }

    fn decode(
        &self,
        input: &Embedded,
        cache: &mut KvCache,
        outputs: Outputs<'_>,
    ) -> Result<StepOutput> {
        self.language.decode(input, cache, outputs)
    }

    fn new_cache(&self, slots: usize, capacity: usize, positions: usize) -> Result<KvCache> {
        self.language.new_cache(slots, capacity, positions)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use candle_nn::VarMap;

    use super::*;
    use crate::vlm::{
        Logits,
        nn::{cross_entropy, tests::check_gradients},
        prompt::{ImageFeatures, ImageId},
    };

    fn config() -> PrefixDecoderConfig {
        PrefixDecoderConfig {
            connector: MlpConfig {
                in_features: 6,
                width: 8,
                tokens: 2,
            },
            decoder: DecoderConfig {
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
                ..DecoderConfig::default()
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

    /// Encoded images with different features.
    fn encoded(n: usize) -> Vec<ImageFeatures> {
        let features = images(n);
        let one = |i| ImageFeatures {
            id: ImageId([i as u8; 32]),
            features: features.get(i).unwrap(),
        };
        (0..n).map(one).collect()
    }

    /// Row that begins a sequence with an image; logits are those of the text.
    fn begin<'a>(slot: usize, image: &'a [ImageFeatures], prompt: &'a Prompt) -> Row<'a> {
        Row {
            slot,
            start: 0,
            tokens: &prompt.tokens,
            spans: &prompt.images,
            images: image,
            from: 2,
        }
    }

    fn logits(model: &PrefixDecoder, rows: &[Row<'_>], cache: &mut KvCache) -> Vec<Vec<f32>> {
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: &[],
        };
        let out = model.forward(rows, cache, outputs).unwrap();
        out.logits.unwrap().to_vec2().unwrap()
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
        let mut cache = model.new_cache(1, 16, 16).unwrap();
        let (image, prompt) = (encoded(1), model.prompt(&[3, 4]));
        let first = logits(&model, &[begin(0, &image, &prompt)], &mut cache);
        assert_close(&first[0], &whole[2]);
        assert_close(&first[1], &whole[3]);
        for (i, token) in [5, 6].into_iter().enumerate() {
            let next = logits(&model, &[Row::text(0, 4 + i, &[token])], &mut cache);
            assert_close(&next[0], &whole[4 + i]);
        }
    }

    #[test]
    fn outputs_are_those_asked_for() {
        let model = model(&variables());
        let (image, prompt) = (encoded(1), model.prompt(&[3, 4, 5]));
        let run = |from, logits, hidden_layers: &[usize]| {
            let mut cache = model.new_cache(1, 16, 16).unwrap();
            let row = Row {
                from,
                ..begin(0, &image, &prompt)
            };
            let outputs = Outputs {
                logits,
                hidden_layers,
            };
            let out = model.forward(&[row], &mut cache, outputs).unwrap();
            let lines = |t: Option<Tensor>| t.map(|t| t.to_vec2::<f32>().unwrap());
            (lines(out.logits), lines(out.hidden))
        };
        let (all, hidden) = run(0, Logits::All, &[0, 1]);
        let (all, hidden) = (all.unwrap(), hidden.unwrap());
        assert_eq!((all.len(), hidden.len(), hidden[0].len()), (5, 5, 16));
        let (last, one) = run(4, Logits::Last, &[1]);
        assert_close(&last.unwrap()[0], &all[4]);
        assert_close(&one.unwrap()[0], &hidden[4][8..]);
        assert_eq!(run(3, Logits::None, &[]), (None, None));
    }

    #[test]
    fn a_ragged_batch_gives_what_its_rows_give_alone_and_rolling_back_leaves_no_trace() {
        let model = model(&variables());
        let images = encoded(2);
        let (a, b) = (&images[..1], &images[1..]);
        let mut alone = model.new_cache(1, 16, 16).unwrap();
        let [long, one, two] = [&[7, 8, 9][..], &[1], &[4, 5]].map(|text| model.prompt(text));
        let first_alone = logits(&model, &[begin(0, b, &long)], &mut alone);
        let next_alone = logits(&model, &[Row::text(0, 5, &[10])], &mut alone);
        let mut cache = model.new_cache(3, 16, 48).unwrap();
        logits(&model, &[begin(2, a, &one)], &mut cache);
        let rows = [Row::text(2, 3, &[2]), begin(0, b, &long), begin(1, a, &two)];
        let together = logits(&model, &rows, &mut cache);
        (0..3).for_each(|i| assert_close(&together[1 + i], &first_alone[i]));
        logits(&model, &[Row::text(0, 5, &[3, 3, 3])], &mut cache);
        cache.truncate(0, 5);
        cache.fork(0, 1, 5);
        let rows = [Row::text(1, 5, &[10]), Row::text(0, 5, &[10])];
        let next = logits(&model, &rows, &mut cache);
        assert_close(&next[0], &next_alone[0]);
        assert_close(&next[1], &next_alone[0]);
    }

    #[test]
    fn a_remembered_image_gives_what_reading_it_gives() {
        let model = model(&variables());
        let (images, prompt) = (encoded(2), model.prompt(&[7, 8, 9]));
        let row = |slot, image: usize| begin(slot, &images[image..=image], &prompt);
        let mut plain = model.new_cache(2, 16, 32).unwrap();
        let want = logits(&model, &[row(0, 0), row(1, 1)], &mut plain);
        // With room for one, the images evict each other and come back.
        let mut cache = model.new_cache(3, 16, 48).unwrap().remembering(1);
        for image in [0, 0, 1, 1, 0] {
            let got = logits(&model, &[row(2, image)], &mut cache);
            got.iter()
                .zip(&want[3 * image..])
                .for_each(|(a, b)| assert_close(a, b));
            assert_eq!(cache.len(2), 5);
            let next = logits(&model, &[Row::text(2, 5, &[10])], &mut cache);
            let wanted = logits(&model, &[Row::text(image, 5, &[10])], &mut plain);
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
        let mut cache = model.new_cache(1, 4, 4).unwrap();
        let outputs = Outputs {
            logits: Logits::Last,
            hidden_layers: &[],
        };
        let (image, long) = (encoded(1), model.prompt(&[1, 2, 3]));
        let outside = Row {
            images: &[],
            ..begin(0, &image, &long)
        };
        for rows in [
            &[begin(0, &image, &long)][..],
            &[Row::text(0, 1, &[1])],
            &[Row::text(0, 0, &[])],
            &[Row::text(0, 0, &[1]); 2],
            &[outside],
        ] {
            assert!(model.forward(rows, &mut cache, outputs).is_err());
        }
        assert_eq!(cache.len(0), 0);
    }
}
