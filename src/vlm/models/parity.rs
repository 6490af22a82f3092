//! Comparison of every architecture with what `transformers` computes from the same tiny checkpoint
//! (`tests/fixtures/models`), stage by stage.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use candle_nn::VarBuilder;
use serde::Deserialize;

use super::{
    idefics3::{self, Idefics3Config},
    llava::{self, LlavaConfig},
};
use crate::vlm::{
    KvCache, Logits, Outputs, Row, StepOutput, VisionLanguageModel,
    processor::processor_config::{ConfigSection, read_object},
    prompt::{ImageFeatures, ImageId, ImageSpan},
    weights::Weights,
};

/// Largest difference, relative to the largest number of the expected tensor.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    images: Vec<String>,
    ids: Vec<u32>,
    image_ranges: Vec<(usize, usize)>,
    #[serde(default)]
    rows: Vec<usize>,
    #[serde(default)]
    columns: Vec<usize>,
    hidden_stride: usize,
    greedy: Greedy,
}

#[derive(Deserialize)]
struct Greedy {
    ids: Vec<u32>,
}

/// Checkpoint with its expectations.
struct Fixture {
    name: &'static str,
    cases: Vec<Case>,
    tensors: HashMap<String, Tensor>,
}

fn folder(name: &str) -> PathBuf {
    let fixtures = std::env::var("CANDOR_FIXTURES")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures").to_owned());
    PathBuf::from(fixtures).join("models").join(name)
}

fn json(path: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(folder(path)).unwrap()).unwrap()
}

/// Loads safetensors files with their names brought to one form.
fn weights(files: &[&str]) -> Weights<'static> {
    let mut tensors = HashMap::new();
    for file in files {
        for (name, tensor) in safetensors::load(folder(file), &Device::Cpu).unwrap() {
            tensors.insert(canonical(&name), tensor);
        }
    }
    VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu).into()
}

fn canonical(name: &str) -> String {
    let renamed = [
        ("language_model.lm_head.", "text.lm_head."),
        ("language_model.model.", "text.model."),
        ("model.language_model.", "text.model."),
        ("model.text_model.", "text.model."),
        ("lm_head.", "text.lm_head."),
        ("vision_tower.vision_model.", "vision."),
        ("vision_tower.", "vision."),
        ("model.vision_tower.", "vision."),
        ("model.vision_model.", "vision."),
        ("vision_model.", "vision."),
        ("multi_modal_projector.", "projector."),
        ("model.multi_modal_projector.", "projector."),
        ("model.mm_projector.0.", "projector.linear_1."),
        ("model.mm_projector.2.", "projector.linear_2."),
        ("model.connector.", "projector."),
        ("model.", "text.model."),
    ];
    let (from, to) = renamed
        .into_iter()
        .find(|(from, _)| name.starts_with(from))
        .unwrap();
    name.replacen(from, to, 1)
}

impl Fixture {
    fn open(name: &'static str) -> Self {
        let expected: Expected =
            serde_json::from_value(json(&format!("{name}/expected.json"))).unwrap();
        let tensors = safetensors::load(folder(name).join("expected.safetensors"), &Device::Cpu);
        Self {
            name,
            cases: expected.cases,
            tensors: tensors.unwrap(),
        }
    }

    fn expected(&self, case: &Case, stage: &str) -> &Tensor {
        &self.tensors[&format!("{}.{stage}", case.name)]
    }

    fn assert_close(&self, case: &Case, stage: &str, got: &Tensor) {
        let want = self.expected(case, stage);
        let got = got.reshape(want.shape()).unwrap();
        let largest = |t: &Tensor| {
            let t = t.abs().unwrap().flatten_all().unwrap();
            t.max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        let off = largest(&(got - want).unwrap()) / largest(want);
        let (name, case) = (self.name, &case.name);
        assert!(off <= TOLERANCE, "{name}, {case}, {stage}: {off}");
    }

    /// Pixels of the case's images, one tensor each.
    fn pixels(&self, case: &Case) -> Vec<Tensor> {
        if case.images.is_empty() {
            return Vec::new();
        }
        let tiles = match self.tensors.get(&format!("{}.pixels", case.name)) {
            Some(pixels) => pixels.clone(),
            None => {
                let levels = self.expected(case, "pixels_u8").to_dtype(DType::F32);
                ((levels.unwrap() - 127.5).unwrap() / 127.5).unwrap()
            }
        };
        let mut first = 0;
        let mut take = |len| {
            first += len;
            tiles.narrow(0, first - len, len).unwrap()
        };
        (0..case.images.len())
            .map(|i| take(tiles_of(case, i)))
            .collect()
    }

    /// Runs every case alone, and all of them in one batch of rows that differ in length.
    fn check(
        &self,
        model: &dyn VisionLanguageModel,
        tower: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
    ) {
        let mut images = Vec::new();
        for case in &self.cases {
            let pixels = self.pixels(case);
            if !pixels.is_empty() {
                let states: Vec<Tensor> = pixels.iter().map(|p| tower(p).unwrap()).collect();
                self.assert_close(case, "tower", &Tensor::cat(&states, 0).unwrap());
            }
            let encode = |p| ImageFeatures {
                id: ImageId([0; 32]),
                features: model.encode(p).unwrap(),
            };
            images.push(pixels.iter().map(encode).collect::<Vec<_>>());
            if !pixels.is_empty() {
                let features: Vec<&Tensor> =
                    images.last().unwrap().iter().map(|i| &i.features).collect();
                self.assert_close(case, "projector", &Tensor::cat(&features, 0).unwrap());
            }
        }
        for (case, images) in self.cases.iter().zip(&images) {
            let mut cache = model.new_cache(1, 256, 256).unwrap();
            self.check_rows(model, &[(case, images)], &mut cache);
        }
        let slots = self.cases.len();
        let mut cache = model.new_cache(slots, 256, slots * 256).unwrap();
        let all: Vec<_> = self
            .cases
            .iter()
            .zip(images.iter().map(Vec::as_slice))
            .collect();
        self.check_rows(model, &all, &mut cache);
    }

    fn check_rows(
        &self,
        model: &dyn VisionLanguageModel,
        cases: &[(&Case, impl AsRef<[ImageFeatures]>)],
        cache: &mut KvCache,
    ) {
        let layers: Vec<usize> = (0..model.spec().layers).collect();
        let spans: Vec<Vec<ImageSpan>> = cases
            .iter()
            .map(|(case, images)| spans(case, images.as_ref()))
            .collect();
        let rows: Vec<Row<'_>> = cases
            .iter()
            .zip(&spans)
            .enumerate()
            .map(|(slot, ((case, images), spans))| Row {
                spans,
                images: images.as_ref(),
                ..Row::text(slot, 0, &case.ids)
            })
            .collect();
        let embedded = model.embed(&rows).unwrap();
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: &layers,
        };
        let StepOutput { logits, hidden } = model.forward(&rows, cache, outputs).unwrap();
        let (logits, hidden) = (logits.unwrap(), hidden.unwrap());
        let width = model.spec().width;
        let mut first = 0;
        for (case, _) in cases {
            let len = case.ids.len();
            let strided: Vec<u32> = (0..len)
                .step_by(case.hidden_stride)
                .map(|i| (first + i) as u32)
                .collect();
            let strided = Tensor::new(strided, &Device::Cpu).unwrap();
            let at = |t: &Tensor| t.index_select(&strided, 0).unwrap();
            self.assert_close(case, "embeddings", &at(&embedded.x));
            let states = at(&hidden);
            for layer in &layers {
                let state = states.narrow(1, layer * width, width).unwrap();
                // The last one is behind the final norm.
                let stage = match layer + 1 == layers.len() {
                    true => "hidden.norm".to_owned(),
                    false => format!("hidden.{layer}"),
                };
                self.assert_close(case, &stage, &state);
            }
            let recorded = self.expected(case, "logits").dim(0).unwrap();
            let last = logits.narrow(0, first + len - recorded, recorded).unwrap();
            self.assert_close(case, "logits", &last);
            first += len;
        }
        self.check_greedy(model, cases, &logits, cache);
    }

    /// Feeds the recorded greedy tokens back one by one, all rows in one step, and compares the
    /// logits behind the first eight and the greedy choice of all.
    fn check_greedy(
        &self,
        model: &dyn VisionLanguageModel,
        cases: &[(&Case, impl AsRef<[ImageFeatures]>)],
        logits: &Tensor,
        cache: &mut KvCache,
    ) {
        let mut first = 0;
        let last: Vec<u32> = cases
            .iter()
            .map(|(case, _)| {
                first += case.ids.len();
                first as u32 - 1
            })
            .collect();
        let mut logits = logits
            .index_select(&Tensor::new(last, &Device::Cpu).unwrap(), 0)
            .unwrap();
        for step in 0..12 {
            let chosen = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
            for ((case, _), chosen) in cases.iter().zip(chosen) {
                let (name, want) = (&case.name, case.greedy.ids[step]);
                assert_eq!(chosen, want, "{}, {name}, token {step}", self.name);
            }
            let rows: Vec<Row<'_>> = cases
                .iter()
                .enumerate()
                .map(|(slot, (case, _))| {
                    let tokens = &case.greedy.ids[step..=step];
                    Row::text(slot, case.ids.len() + step, tokens)
                })
                .collect();
            let outputs = Outputs {
                logits: Logits::Last,
                hidden_layers: &[],
            };
            logits = model
                .forward(&rows, cache, outputs)
                .unwrap()
                .logits
                .unwrap();
            for (row, (case, _)) in cases.iter().enumerate().filter(|_| step < 8) {
                let steps = self.expected(case, "step_logits").get(step).unwrap();
                let stage = format!("step {step}");
                let tensors = HashMap::from([(format!("{}.{stage}", case.name), steps)]);
                let recorded = Self {
                    name: self.name,
                    cases: Vec::new(),
                    tensors,
                };
                recorded.assert_close(case, &stage, &logits.get(row).unwrap());
            }
        }
    }
}

/// Tiles of a case's image: those of its grid and the whole picture.
fn tiles_of(case: &Case, image: usize) -> usize {
    match (case.rows.get(image), case.columns.get(image)) {
        (Some(rows), Some(columns)) => rows * columns + 1,
        _ => 1,
    }
}

fn spans(case: &Case, images: &[ImageFeatures]) -> Vec<ImageSpan> {
    let (mut image, mut row) = (0, 0);
    let span = |&(start, end): &(usize, usize)| {
        if row == images[image].features.dim(0).unwrap() {
            (image, row) = (image + 1, 0);
        }
        row += end - start;
        ImageSpan {
            range: start..end,
            image,
            rows: row + start - end..row,
        }
    };
    case.image_ranges.iter().map(span).collect()
}

fn check_llava(name: &'static str, config: &LlavaConfig, files: &[&str]) {
    let fixture = Fixture::open(name);
    let model = llava::load(config, &weights(files)).unwrap();
    fixture.check(&model, |pixels| model.encoder().tower(pixels));
}

fn config(name: &str) -> ConfigSection {
    read_object(&folder(name), "config.json").unwrap().unwrap()
}

fn llava_config(name: &str) -> LlavaConfig {
    LlavaConfig::read(&config(name)).unwrap()
}

#[test]
fn llava_in_the_layout_of_repositories_equals_the_reference() {
    let config = llava_config("llava-old");
    check_llava("llava-old", &config, &["llava-old/model.safetensors"]);
}

#[test]
fn llava_in_the_newer_layout_equals_the_reference() {
    let config = llava_config("llava-new");
    let files = [1, 2].map(|i| format!("llava-new/model-0000{i}-of-00002.safetensors"));
    check_llava("llava-old", &config, &[&files[0], &files[1]]);
}

#[test]
fn llava_with_the_class_token_equals_the_reference() {
    let config = llava_config("llava-full");
    check_llava("llava-full", &config, &["llava-old/model.safetensors"]);
}

#[test]
fn llava_with_two_feature_layers_equals_the_reference() {
    let config = llava_config("llava-layers");
    check_llava("llava-layers", &config, &["llava-layers/model.safetensors"]);
}

#[test]
fn llava_in_the_original_layout_equals_the_reference() {
    let tower = config("llava-original/clip");
    let config = LlavaConfig::read_original(&config("llava-original"), Some(&tower));
    let files = [
        "llava-original/model.safetensors",
        "llava-original/clip/model.safetensors",
    ];
    check_llava("llava-original", &config.unwrap(), &files);
}

fn check_idefics3(name: &'static str) {
    let config = Idefics3Config::read(&config(name));
    let weights = weights(&[&format!("{name}/model.safetensors")]);
    let model = idefics3::load(&config.unwrap(), &weights).unwrap();
    Fixture::open(name).check(&model, |pixels| model.encoder().tower(pixels));
}

#[test]
fn smolvlm_equals_the_reference() {
    check_idefics3("smolvlm");
}

#[test]
fn idefics3_in_bf16_equals_the_reference() {
    check_idefics3("idefics3");
}
