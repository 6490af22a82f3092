//! Projector and decoder against PyTorch and transformers. `tests/parity/make_fixtures.py` makes
//! the fixtures.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candor::vlm::{
    KvCache, Logits, Outputs, Row, StepOutput, VisionLanguageModel,
    decoder::{DecoderConfig, Regular},
    models::candor_mini::{PrefixDecoder, PrefixDecoderConfig},
    projector::{Mlp, MlpConfig},
    prompt::{ImageFeatures, ImageId},
};

use crate::parity::{assert_close, fixture};

const IMAGE: usize = 5;
const TEXT: usize = 11;

struct Reference {
    model: PrefixDecoder,
    tensors: HashMap<String, Tensor>,
    ids: Vec<Vec<u32>>,
}

fn config() -> PrefixDecoderConfig {
    PrefixDecoderConfig {
        connector: MlpConfig {
            in_features: 24,
            width: 32,
            tokens: IMAGE,
        },
        decoder: DecoderConfig {
            vocab_size: 64,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 64,
            rope_theta: 10_000.,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            ..DecoderConfig::default()
        },
    }
}

impl Reference {
    fn load() -> Self {
        let tensors = fixture("prefix_decoder.safetensors");
        let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu);
        let ids = tensors["ids"].to_vec2::<u32>().unwrap();
        Self {
            model: PrefixDecoder::load(&config(), vb).unwrap(),
            tensors,
            ids,
        }
    }

    fn image(&self, i: usize) -> [ImageFeatures; 1] {
        [ImageFeatures {
            id: ImageId([i as u8; 32]),
            features: self.tensors["features"].get(i).unwrap(),
        }]
    }

    /// Runs rows and returns logits and hidden states of their text.
    fn run(&self, rows: &[Row<'_>], cache: &mut KvCache) -> StepOutput {
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: &[0, 1],
        };
        self.model.forward(rows, cache, outputs).unwrap()
    }

    /// What transformers computes for text tokens `from..to` of sequence `i`: hidden states of both
    /// layers, logits.
    fn theirs(&self, i: usize, from: usize, to: usize) -> [Tensor; 3] {
        ["hidden.0", "hidden.1", "logits"].map(|name| {
            self.tensors[name]
                .get(i)
                .unwrap()
                .narrow(0, IMAGE + from, to - from)
                .unwrap()
        })
    }

    #[track_caller]
    fn assert_text(&self, output: &StepOutput, expected: &[Tensor; 3]) {
        let states = output.hidden.as_ref().unwrap().chunk(2, 1).unwrap();
        assert_close(&states[0].contiguous().unwrap(), &expected[0], 1e-4);
        assert_close(&states[1].contiguous().unwrap(), &expected[1], 1e-4);
        assert_close(output.logits.as_ref().unwrap(), &expected[2], 1e-4);
    }
}

#[test]
fn the_projector_is_that_of_pytorch() {
    let tensors = fixture("prefix_decoder.safetensors");
    let vb = VarBuilder::from_tensors(tensors.clone(), DType::F32, &Device::Cpu).pp("connector");
    let mlp = Mlp::load(&config().connector, vb).unwrap();
    assert_close(
        &mlp.forward(&tensors["features"]).unwrap(),
        &tensors["image"],
        1e-4,
    );
}

#[test]
fn a_step_with_image_and_text_is_that_of_transformers() {
    let reference = Reference::load();
    let mut cache = reference.model.new_cache(2, 16, 64).unwrap();
    for i in 0..2 {
        let (image, prompt) = (
            reference.image(i),
            reference.model.prompt(&reference.ids[i]),
        );
        let row = Row {
            spans: &prompt.images,
            images: &image,
            from: IMAGE,
            ..Row::text(i, 0, &prompt.tokens)
        };
        let output = reference.run(&[row], &mut cache);
        reference.assert_text(&output, &reference.theirs(i, 0, TEXT));
    }
}

#[test]
fn steps_of_a_ragged_batch_are_those_of_transformers() {
    let reference = Reference::load();
    let mut cache = reference.model.new_cache(3, 16, 96).unwrap();
    // The sequences stand at different positions in every step, and in slots out of order.
    let cuts = [[0, 1, 2, 6, 11], [0, 4, 5, 10, 11]];
    let images = [reference.image(0), reference.image(1)];
    let prompts = [0, 1].map(|i| reference.model.prompt(&reference.ids[i]));
    for step in 0..4 {
        let row = |i: usize| {
            let (from, to) = (cuts[i][step], cuts[i][step + 1]);
            let start = if from == 0 { 0 } else { IMAGE + from };
            Row {
                spans: &prompts[i].images,
                images: &images[i],
                from: if from == 0 { IMAGE } else { 0 },
                ..Row::text(2 - i, start, &prompts[i].tokens[start..IMAGE + to])
            }
        };
        let output = reference.run(&[row(0), row(1)], &mut cache);
        let [a, b] = [0, 1].map(|i| reference.theirs(i, cuts[i][step], cuts[i][step + 1]));
        let expected = [0, 1, 2].map(|n| Tensor::cat(&[&a[n], &b[n]], 0).unwrap());
        reference.assert_text(&output, &expected);
    }
}

#[test]
fn whole_sequences_are_those_of_transformers() {
    let reference = Reference::load();
    let length = IMAGE + TEXT;
    let seen = |query: usize, key: usize| key <= query || (query < IMAGE && key < IMAGE);
    let mask: Vec<f32> = (0..2 * length * length)
        .map(|i| {
            if seen(i / length % length, i % length) {
                0.
            } else {
                -1e9
            }
        })
        .collect();
    let mask = Tensor::from_vec(mask, (2, length, length), &Device::Cpu).unwrap();
    let positions: Vec<u32> = (0..2 * length).map(|i| (i % length) as u32).collect();
    let features = &reference.tensors["features"];
    let states = reference
        .model
        .whole(
            features,
            &reference.ids.concat(),
            &positions,
            &mask,
            Regular::default(),
        )
        .unwrap();
    for (state, name) in states.iter().zip(["hidden.0", "hidden.1"]) {
        assert_close(
            &state.reshape((2, length, 32)).unwrap(),
            &reference.tensors[name],
            1e-4,
        );
    }
    let logits = reference
        .model
        .llama()
        .logits(&states[1])
        .unwrap()
        .reshape((2, length, 64))
        .unwrap();
    assert_close(&logits, &reference.tensors["logits"], 1e-4);
}
