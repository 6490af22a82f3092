//! Helpers of several test modules: skipping tests for what a machine lacks, signals, a small model
//! with real networks and random weights, and a tokenizer of bytes.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candor::{
    reward::{RewardState, ScoredRow, TokenReading, TokenReward},
    vlm::{
        VisionLanguageModel,
        decoder::DecoderConfig,
        models::candor_mini::{CandorMini, CandorMiniConfig, PrefixDecoderConfig},
        processor::tokenizer::TextTokenizer,
        projector::MlpConfig,
        prompt::{ImageSpan, Prompt},
        vision::efficientnet_lite::{EfficientNetLiteConfig, Stage},
    },
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::process::{Pid, Signal, kill_process};

/// Passes on a requirement of a test that `make test` installs. If it is missing, the test says
/// `skipped` and passes, or fails where `CANDOR_TEST_CLIENTS` is set, as `make test` does.
pub(crate) fn needed<T>(what: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        assert!(
            std::env::var_os("CANDOR_TEST_CLIENTS").is_none(),
            "{what} is missing"
        );
        eprintln!("skipped: {what} is missing (`make test` installs it)");
    }
    found
}

/// Passes on a requirement of a test that nothing installs, such as a data set or another shell. If
/// it is missing, the test says `skipped` and passes.
pub(crate) fn optional<T>(what: &str, found: Option<T>) -> Option<T> {
    if found.is_none() {
        eprintln!("skipped: {what} is missing");
    }
    found
}

/// Returns `true` if a program can be run with these arguments and succeeds.
pub(crate) fn runs(program: impl AsRef<Path>, args: &[&str]) -> bool {
    Command::new(program.as_ref())
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Returns the path of a data set beside the repository, if it is there.
pub(crate) fn shared_data(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/data")
        .join(path);
    optional(&path.display().to_string(), path.exists().then_some(&path)).cloned()
}

/// Sends a signal to a process.
pub(crate) fn send_signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Positions of a sequence.
pub(crate) const CONTEXT: usize = 64;
/// The tokens that [`model`] knows: printable ASCII and the special ones.
pub(crate) const VOCAB: usize = 99;

/// A tokenizer whose tokens are the 256 bytes, printable ASCII first, then `<eos>`, `<pad>`,
/// `<user>` and `<assistant>`, then the others.
pub(crate) fn byte_tokenizer() -> Arc<TextTokenizer> {
    let printable = |b: u32| matches!(b, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut stand_ins = 256..;
    let letter = |b: u32| {
        char::from_u32(if printable(b) {
            b
        } else {
            stand_ins.next().unwrap()
        })
        .unwrap()
        .to_string()
    };
    let letters: Vec<String> = (0..256).map(letter).collect();
    let special = ["<eos>", "<pad>", "<user>", "<assistant>"].map(String::from);
    let names = letters[0x20..0x7F]
        .iter()
        .chain(&special)
        .chain(&letters[..0x20])
        .chain(&letters[0x7F..]);
    let vocab: serde_json::Map<_, _> = names
        .enumerate()
        .map(|(id, name)| (name.clone(), id.into()))
        .collect();
    let added = special.iter().map(|name| {
        serde_json::json!({"id": vocab[name], "content": name, "single_word": false,
            "lstrip": false, "rstrip": false,
                           "normalized": false, "special": true})
    });
    let json = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "post_processor": null, "decoder": null,
        "added_tokens": added.collect::<Vec<_>>(),
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
    });
    Arc::new(TextTokenizer::from_bytes(json.to_string().as_bytes(), "<eos>").unwrap())
}

/// All variables of `map`, drawn anew from `seed`, so that two runs test the same model.
pub(crate) fn reseed(map: &VarMap, seed: u64) {
    let data = map.data().lock().unwrap();
    let mut names: Vec<&String> = data.keys().collect();
    names.sort();
    let mut rng = SmallRng::seed_from_u64(seed);
    for name in names {
        let (var, is_gain) = (
            &data[name],
            name.contains("norm") && name.ends_with("weight"),
        );
        let fan_in = if var.rank() > 1 {
            var.elem_count() / var.dim(0).unwrap()
        } else {
            1
        };
        let spread = if name.contains("embed") {
            1.0
        } else {
            (3.0 / fan_in as f32).sqrt()
        };
        let draw = |_| {
            if is_gain {
                1.0
            } else {
                rng.random_range(-spread..spread)
            }
        };
        let values: Vec<f32> = (0..var.elem_count()).map(draw).collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
            .unwrap();
    }
}

/// The real networks at the smallest sizes that keep their shape: EfficientNet-Lite, projector, two
/// layers of LLaMA with grouped queries.
pub(crate) fn model(seed: u64) -> Arc<dyn VisionLanguageModel> {
    let stage = |stride, expand, channels| Stage {
        blocks: 1,
        kernel: 3,
        stride,
        expand,
        channels,
    };
    let config = CandorMiniConfig {
        vision: EfficientNetLiteConfig {
            image_size: 32,
            stem: 8,
            stages: vec![stage(2, 1, 8), stage(2, 2, 12)],
            head: 16,
            ..EfficientNetLiteConfig::default()
        },
        language: PrefixDecoderConfig {
            connector: MlpConfig {
                in_features: 16,
                width: 32,
                tokens: IMAGE_TOKENS,
            },
            decoder: DecoderConfig {
                vocab_size: VOCAB,
                hidden_size: 32,
                intermediate_size: 64,
                num_hidden_layers: 2,
                num_attention_heads: 4,
                num_key_value_heads: 2,
                max_position_embeddings: CONTEXT,
                rope_theta: 10_000.0,
                rms_norm_eps: 1e-5,
                tie_word_embeddings: false,
                ..DecoderConfig::default()
            },
        },
    };
    let map = VarMap::new();
    let load = || {
        CandorMini::load(
            &config,
            VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu),
        )
        .unwrap()
    };
    drop(load());
    reseed(&map, seed);
    // Once more: some networks keep their weights in another layout.
    Arc::new(load())
}

/// Positions that an image takes in [`model`]'s prompts.
const IMAGE_TOKENS: usize = 16;

/// Prompt of [`model`]: an image before `text`.
pub(crate) fn prompt_about_an_image(text: &[u32]) -> Prompt {
    let mut tokens = vec![0; IMAGE_TOKENS];
    tokens.extend(text);
    Prompt {
        tokens,
        images: vec![ImageSpan {
            range: 0..IMAGE_TOKENS,
            image: 0,
            rows: 0..IMAGE_TOKENS,
        }],
    }
}

/// Logistic regression with random weights on the policy's hidden states.
#[derive(Clone)]
pub(crate) struct Linear {
    weights: Tensor,
    taps: Vec<usize>,
}

impl Linear {
    pub(crate) fn new(layers: usize, width: usize, seed: u64) -> Arc<Self> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let features = layers * width;
        let weights: Vec<f32> = (0..features).map(|_| rng.random_range(-0.5..0.5)).collect();
        Arc::new(Self {
            weights: Tensor::from_vec(weights, (features, 1), &Device::Cpu).unwrap(),
            taps: (0..layers).collect(),
        })
    }

    pub(crate) fn rewards(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let logits = hidden
            .matmul(&self.weights)?
            .flatten_all()?
            .to_vec1::<f32>()?;
        Ok(logits
            .into_iter()
            .map(|l| 1.0 / (1.0 + (-l).exp()))
            .collect())
    }
}

impl TokenReward for Linear {
    fn kind(&self) -> &'static str {
        "linear"
    }

    fn taps(&self) -> &[usize] {
        &self.taps
    }

    fn new_state(&self, _: usize, _: usize, _: usize) -> Result<Box<dyn RewardState>> {
        Ok(Box::new(self.clone()))
    }
}

impl RewardState for Linear {
    fn score(
        &mut self,
        rows: &[ScoredRow<'_>],
        hidden: Option<&Tensor>,
    ) -> Result<Vec<Vec<TokenReading>>> {
        let rewards = self.rewards(hidden.unwrap())?;
        let mut rewards = rewards.into_iter();
        let readings = rows.iter().map(|row| {
            let own = rewards.by_ref().take(row.row.wanted().len());
            let reading = |reward| TokenReading {
                reward,
                log_probability: None,
            };
            own.skip(row.unjudged).map(reading).collect()
        });
        Ok(readings.collect())
    }

    fn truncate(&mut self, _: usize, _: usize) {}

    fn fork(&mut self, _: usize, _: usize, _: usize) {}
}

/// Random pixels for [`model`], `(1, 3, 32, 32)`.
pub(crate) fn pixels(seed: u64) -> Tensor {
    let mut rng = SmallRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..3 * 32 * 32)
        .map(|_| rng.random_range(-2.0..2.0))
        .collect();
    Tensor::from_vec(values, (1, 3, 32, 32), &Device::Cpu).unwrap()
}
