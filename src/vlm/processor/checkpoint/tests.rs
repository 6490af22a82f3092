//! Parity with transformers 5.24 over the recorded checkpoints, and what prompts refuse.

use std::{fs, path::PathBuf};

use candle_core::{DType, safetensors};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    util::digest::hex,
    vlm::processor::{
        clip_image::{ClipImageProcessor, ClipTowerInput},
        fixtures,
        message::PromptPart,
        processor_config::ProcessorFiles,
        tiled_image::{TileInput, TiledImageProcessor},
    },
};

/// Recorded checkpoints.
const CHECKPOINTS: [&str; 7] = [
    "llava-old",
    "llava-new",
    "llava-full",
    "llava-layers",
    "llava-original",
    "smolvlm",
    "idefics3",
];

fn models() -> PathBuf {
    fixtures().join("models")
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(models().join(path)).unwrap()).unwrap()
}

fn number(value: &Value) -> u32 {
    value.as_u64().unwrap() as u32
}

/// Reads an image processor as its architecture does.
fn image_processor(name: &str) -> Box<dyn ImageProcessor> {
    let config = json(&format!("{name}/config.json"));
    let read = |folder: &str| ProcessorFiles::read(&models().join(folder)).unwrap();
    let vision = &config["vision_config"];
    if name.starts_with("llava") {
        let original = name == "llava-original";
        let (files, vision) = match original {
            true => (
                read("llava-original/clip"),
                &json("llava-original/clip/config.json"),
            ),
            false => (read(name), vision),
        };
        let tower = ClipTowerInput {
            image_size: number(&vision["image_size"]),
            patch_size: number(&vision["patch_size"]),
            class_token: config["vision_feature_select_strategy"] == "full",
            pad_to_square: config["image_aspect_ratio"] == "pad",
        };
        assert_eq!(tower.pad_to_square, original);
        return Box::new(ClipImageProcessor::read(&files, tower).unwrap());
    }
    let side = number(&vision["image_size"]);
    let patches = side / number(&vision["patch_size"]) / number(&config["scale_factor"]);
    let tile = TileInput {
        side,
        tokens: (patches * patches) as usize,
    };
    Box::new(TiledImageProcessor::read(&read(name), tile).unwrap())
}

fn processor(name: &str) -> CheckpointProcessor {
    let text = match name {
        "llava-full" | "llava-original" => "llava-old",
        other => other,
    };
    let template = fs::read_to_string(models().join(text).join("chat_template.jinja"));
    let template = template.unwrap_or_else(|_| {
        let file = json(&format!("{text}/chat_template.json"));
        file["chat_template"].as_str().unwrap().to_owned()
    });
    let ends = match &json(&format!("{text}/generation_config.json"))["eos_token_id"] {
        Value::Array(several) => several.iter().map(number).collect(),
        one => vec![number(one)],
    };
    let tokenizer = fs::read(models().join(text).join("tokenizer.json")).unwrap();
    let tokenizer = TextTokenizer::from_checkpoint(&tokenizer, &ends).unwrap();
    CheckpointProcessor::new(
        ChatTemplate::new(&template).unwrap(),
        Arc::new(tokenizer),
        Some(image_processor(name)),
        Device::Cpu,
    )
    .unwrap()
}

/// Returns the checkpoint whose recorded values a checkpoint's equal.
fn recorded(name: &str) -> &str {
    match name {
        "llava-new" => "llava-old",
        other => other,
    }
}

fn cases(name: &str) -> Vec<Value> {
    let recorded = json(&format!("{}/expected.json", recorded(name)));
    recorded["cases"].as_array().unwrap().clone()
}

fn options(case: &Value) -> ImageOptions {
    let given = &case["image_options"];
    ImageOptions {
        do_image_splitting: given["do_image_splitting"].as_bool(),
        longest_edge: given["size"]["longest_edge"]
            .as_u64()
            .map(|edge| edge as u32),
    }
}

fn images(case: &Value) -> Vec<RgbImage> {
    let open = |name: &Value| {
        let path = models().join("images").join(name.as_str().unwrap());
        image::open(path).unwrap().into_rgb8()
    };
    case["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(open)
        .collect()
}

fn layouts(processor: &CheckpointProcessor, case: &Value) -> Vec<ImageLayout> {
    let layout = |image: &RgbImage| {
        let (width, height) = image.dimensions();
        processor.layout(width, height, &options(case)).unwrap()
    };
    images(case).iter().map(layout).collect()
}

fn prompt(
    processor: &CheckpointProcessor,
    case: &Value,
    images: &[ImageLayout],
) -> Result<Prompt, ProcessorError> {
    match case.get("messages") {
        Some(messages) => {
            let messages: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
            processor.prompt(&messages, images)
        }
        None => {
            let text = case["rendered"].as_str().unwrap();
            let user = vec![false; text.chars().count()];
            processor.encode(RenderedPrompt::cut(text, &user, Some("<image>")), images)
        }
    }
}

#[test]
fn prompt_equals_the_recorded_one() {
    for name in CHECKPOINTS {
        let processor = processor(name);
        for case in cases(name) {
            let about = format!("{name}: {}", case["name"]);
            let layouts = layouts(&processor, &case);
            let prompt = prompt(&processor, &case, &layouts).unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(prompt.tokens, ids, "{about}");
            let ranges: Vec<[usize; 2]> =
                serde_json::from_value(case["image_ranges"].clone()).unwrap();
            let found: Vec<[usize; 2]> = prompt
                .images
                .iter()
                .map(|span| [span.range.start, span.range.end])
                .collect();
            assert_eq!(found, ranges, "{about}");
            for (index, layout) in layouts.iter().enumerate() {
                let spans = prompt.images.iter().filter(|span| span.image == index);
                let rows: Vec<usize> = spans.flat_map(|span| span.rows.clone()).collect();
                assert_eq!(rows, (0..layout.tokens).collect::<Vec<_>>(), "{about}");
            }
            if let (Some(rows), Some(columns)) = (case.get("rows"), case.get("columns")) {
                let side = |side: &Value| serde_json::from_value::<Vec<u32>>(side.clone()).unwrap();
                let grids: Vec<(u32, u32)> = side(rows).into_iter().zip(side(columns)).collect();
                let found: Vec<(u32, u32)> = layouts.iter().map(|layout| layout.grid).collect();
                assert_eq!(found, grids, "{about}");
            }
        }
    }
}

#[test]
fn pixels_equal_the_recorded_ones() {
    for name in CHECKPOINTS {
        let processor = processor(name);
        let path = models().join(recorded(name)).join("expected.safetensors");
        let expected = safetensors::load(path, &Device::Cpu).unwrap();
        for case in cases(name)
            .iter()
            .filter(|case| case["images"][0].is_string())
        {
            let label = case["name"].as_str().unwrap();
            let about = format!("{name}: {label}");
            let pixels: Vec<Tensor> = images(case)
                .iter()
                .zip(layouts(&processor, case))
                .map(|(image, layout)| processor.pixels(image, &layout).unwrap())
                .collect();
            let pixels = Tensor::cat(&pixels, 0).unwrap();
            let shape: Vec<usize> = serde_json::from_value(case["pixels_shape"].clone()).unwrap();
            assert_eq!(pixels.dims(), shape, "{about}");
            let equal = |found: &Tensor, name: &str| {
                let Some(expected) = expected.get(&format!("{label}.{name}")) else {
                    return false;
                };
                let expected = expected.to_dtype(DType::F32).unwrap();
                assert_eq!(found.dims(), expected.dims(), "{about}");
                let difference = (found - expected)
                    .unwrap()
                    .abs()
                    .unwrap()
                    .max_all()
                    .unwrap();
                assert_eq!(
                    difference.to_scalar::<f32>().unwrap(),
                    0.0,
                    "{about}: {name}"
                );
                true
            };
            let levels = ((&pixels * 127.5).unwrap() + 127.5)
                .unwrap()
                .round()
                .unwrap();
            let part = pixels
                .narrow(2, 0, 2)
                .and_then(|rows| rows.narrow(3, 0, 6))
                .unwrap();
            match name.starts_with("llava") {
                true => assert!(equal(&pixels, "pixels"), "{about}"),
                false => {
                    assert!(
                        equal(&levels, "pixels_u8") && equal(&part, "pixels_slice"),
                        "{about}"
                    );
                }
            }
            let values = pixels.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let bytes: Vec<u8> = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            assert_eq!(
                hex(&Sha256::digest(bytes)),
                case["pixels_sha256"],
                "{about}"
            );
        }
    }
}

fn shown(texts: &[Option<&str>]) -> Vec<Message> {
    let part = |text: &Option<&str>| match text {
        Some(text) => PromptPart::Text {
            text: (*text).to_owned(),
        },
        None => PromptPart::Image,
    };
    vec![Message {
        role: "user".to_owned(),
        content: texts.iter().map(part).collect(),
    }]
}

#[test]
fn prompt_user_text_is_no_image() {
    for name in ["llava-old", "smolvlm"] {
        let processor = processor(name);
        let layout = processor.layout(20, 30, &ImageOptions::default()).unwrap();
        let messages = shown(&[Some("<image><image>"), None, Some("<image>")]);
        let prompt = processor
            .prompt(&messages, std::slice::from_ref(&layout))
            .unwrap();
        let shown: usize = prompt.images.iter().map(|span| span.rows.len()).sum();
        assert_eq!(shown, layout.tokens, "{name}");
        assert!(prompt.images.iter().all(|span| span.image == 0), "{name}");
    }
}

#[test]
fn prompt_refuses_images_that_its_messages_do_not_have() {
    let processor = processor("llava-old");
    let layout = processor.layout(20, 30, &ImageOptions::default()).unwrap();
    for (messages, images) in [
        (shown(&[Some("What is it?")]), vec![layout.clone()]),
        (shown(&[None, None]), vec![layout]),
    ] {
        assert!(matches!(
            processor.prompt(&messages, &images),
            Err(ProcessorError::Image(_) | ProcessorError::Template(_))
        ));
    }
}

#[test]
fn text_alone_refuses_images() {
    let seeing = processor("llava-old");
    let processor = CheckpointProcessor {
        image: None,
        ..seeing
    };
    assert_eq!(processor.images(), 0..=0);
    let options = ImageOptions::default();
    let error = processor.layout(20, 30, &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model takes text alone; the request has 1"
    );
    assert!(processor.prompt(&shown(&[None]), &[]).is_err());
    let case = &cases("llava-old")[3];
    assert_eq!(case["name"], "text_only");
    let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
    assert_eq!(prompt(&processor, case, &[]).unwrap().tokens, ids);
}

#[test]
fn layout_refuses_options_and_shapes() {
    let (square, tiled) = (processor("llava-old"), processor("smolvlm"));
    let edge = |longest_edge| ImageOptions {
        longest_edge: Some(longest_edge),
        ..ImageOptions::default()
    };
    for (processor, options, expected) in [
        (&square, edge(64), "'longest_edge' is not supported"),
        (
            &tiled,
            edge(31),
            "'longest_edge' is 31; this model takes 32 (one tile) to 4096",
        ),
        (
            &tiled,
            edge(4097),
            "'longest_edge' is 4097; this model takes 32",
        ),
    ] {
        let error = processor.layout(20, 30, &options).unwrap_err();
        assert!(matches!(error, ProcessorError::Option(_)));
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    for processor in [&square, &tiled] {
        for (width, height) in [(0, 5), (5, 0), (201, 1), (1, u32::MAX)] {
            let error = processor
                .layout(width, height, &ImageOptions::default())
                .unwrap_err();
            assert!(
                matches!(error, ProcessorError::Image(_)),
                "{width}x{height}: {error}"
            );
        }
        let thin = processor.layout(200, 1, &ImageOptions::default()).unwrap();
        let pixels = processor.pixels(&RgbImage::new(200, 1), &thin).unwrap();
        assert!(thin.bytes >= 4 * pixels.elem_count() as u64);
        assert!(processor.pixels(&RgbImage::new(1, 200), &thin).is_err());
    }
    // Each pixel doubled in both directions would be far above this.
    let large = tiled.layout(4000, 4000, &edge(4096)).unwrap();
    assert_eq!(
        (large.grid, large.tokens),
        ((128, 128), 4 * (128 * 128 + 1))
    );
    assert!(large.bytes < 20 * 4096 * 4096, "{}", large.bytes);
}

#[test]
fn new_refuses_a_tokenizer_without_the_image_token() {
    let (seeing, other) = (processor("llava-old"), image_processor("smolvlm"));
    let json = fs::read_to_string(models().join("llava-old/tokenizer.json")).unwrap();
    let blind = json.replace("<image>", "<picture>");
    let tokenizer = Arc::new(TextTokenizer::from_checkpoint(blind.as_bytes(), &[2]).unwrap());
    let error = CheckpointProcessor::new(seeing.template, tokenizer, Some(other), Device::Cpu);
    assert_eq!(
        error.unwrap_err().to_string(),
        "tokenizer.json: has no image token '<image>'"
    );
}

#[test]
fn spread_keeps_adjacent_images_apart() {
    let prompt = spread(&[5, 9, 9, 9, 6], 9, 2, [1, 2].into_iter()).unwrap();
    assert_eq!(prompt.tokens, [5, 9, 9, 9, 9, 9, 9, 6]);
    let spans: Vec<_> = prompt
        .images
        .iter()
        .map(|span| (span.range.clone(), span.image, span.rows.clone()))
        .collect();
    assert_eq!(spans, [(1..3, 0, 0..2), (3..5, 1, 0..2), (5..7, 1, 2..4)]);
    assert!(spread(&[9, 9], 9, 2, [1].into_iter()).is_err());
    assert!(spread(&[9], 9, 2, [1, 1].into_iter()).is_err());
}
