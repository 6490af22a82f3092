//! Models end to end: files in, recorded prompts and tokens out, and files that are refused.

use serde_json::{Value, json};

use super::*;
use crate::vlm::{
    Logits, Outputs, Row,
    processor::{
        ImageOptions,
        message::{Message, PromptPart},
    },
    prompt::{ImageFeatures, ImageId},
};

fn models() -> PathBuf {
    let fixtures = std::env::var("CANDOR_FIXTURES")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures").to_owned());
    PathBuf::from(fixtures).join("models")
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A copy of the folders' files, where those of later folders come first.
fn assembled(folders: &[&str]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in folders {
        for entry in fs::read_dir(models().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            if path.is_dir() {
                let inner = copy.path().join(name);
                fs::create_dir_all(&inner).unwrap();
                for entry in fs::read_dir(&path).unwrap() {
                    let path = entry.unwrap().path();
                    fs::copy(&path, inner.join(path.file_name().unwrap())).unwrap();
                }
            } else {
                fs::copy(&path, copy.path().join(name)).unwrap();
            }
        }
    }
    copy
}

fn opened(folder: &Path) -> Result<LoadedModel, ModelLoadError> {
    load(&ModelSource::find(folder)?, &WeightsOptions::default())
}

/// Messages of a recorded case, or those that LLaVA's template makes the recorded prompt of; `None`
/// for other prompts.
fn messages(case: &Value) -> Option<Vec<Message>> {
    if case["messages"].is_array() {
        return Some(serde_json::from_value(case["messages"].clone()).unwrap());
    }
    let prompt = case["rendered"].as_str().unwrap();
    let mut text = prompt.strip_prefix("USER: ")?.strip_suffix(" ASSISTANT:")?;
    let mut content = Vec::new();
    while let Some(rest) = text.strip_prefix("<image>\n") {
        content.push(PromptPart::Image);
        text = rest;
    }
    content.push(PromptPart::Text {
        text: text.to_owned(),
    });
    let role = "user".to_owned();
    Some(vec![Message { role, content }])
}

/// Answers every recorded conversation of a folder from its messages and image files alone.
fn check_greedy(folder: &Path, expected: &str) {
    let (model, processor) = opened(folder).unwrap();
    let cases = read_json(&models().join(expected).join("expected.json"));
    let cases = cases["cases"].as_array().unwrap();
    let conversations = cases
        .iter()
        .filter_map(|case| Some((case, messages(case)?)));
    let mut checked = 0;
    for (case, messages) in conversations {
        let name = case["name"].as_str().unwrap();
        let options = ImageOptions {
            do_image_splitting: case["image_options"]["do_image_splitting"].as_bool(),
            longest_edge: case["image_options"]["size"]["longest_edge"]
                .as_u64()
                .map(|edge| edge as u32),
        };
        let (mut layouts, mut images) = (Vec::new(), Vec::new());
        for (i, file) in case["images"].as_array().unwrap().iter().enumerate() {
            let path = models().join("images").join(file.as_str().unwrap());
            let image = image::open(path).unwrap().into_rgb8();
            let layout = processor
                .layout(image.width(), image.height(), &options)
                .unwrap();
            let pixels = processor.pixels(&image, &layout).unwrap();
            let features = model.encode(&pixels).unwrap();
            assert_eq!(features.dim(0).unwrap(), layout.tokens, "{name}");
            images.push(ImageFeatures {
                id: ImageId([i as u8; 32]),
                features,
            });
            layouts.push(layout);
        }
        let prompt = processor.prompt(&messages, &layouts).unwrap();
        assert_eq!(json!(prompt.tokens), case["ids"], "{expected}, {name}");
        let mut cache = model.new_cache(1, 256, 256).unwrap();
        let mut answer: Vec<u32> = Vec::new();
        while answer.len() < 12 {
            let row = match answer.last() {
                None => Row {
                    spans: &prompt.images,
                    images: &images,
                    ..Row::text(0, 0, &prompt.tokens)
                },
                Some(last) => {
                    let start = prompt.tokens.len() + answer.len() - 1;
                    Row::text(0, start, std::slice::from_ref(last))
                }
            };
            let outputs = Outputs {
                logits: Logits::Last,
                hidden_layers: &[],
            };
            let logits = model.forward(&[row], &mut cache, outputs).unwrap().logits;
            answer.extend(logits.unwrap().argmax(1).unwrap().to_vec1::<u32>().unwrap());
        }
        assert_eq!(json!(answer), case["greedy"]["ids"], "{expected}, {name}");
        checked += 1;
    }
    assert!(checked > 0, "{expected}");
}

#[test]
fn folders_of_all_layouts_answer_as_recorded() {
    for (folder, expected) in [
        ("llava-old", "llava-old"),
        ("llava-new", "llava-old"),
        ("llava-layers", "llava-layers"),
        ("smolvlm", "smolvlm"),
        ("idefics3", "idefics3"),
    ] {
        check_greedy(&models().join(folder), expected);
    }
    let full = assembled(&["llava-old", "llava-full"]);
    check_greedy(full.path(), "llava-full");
}

#[test]
fn the_original_layout_answers_as_recorded() {
    let copy = assembled(&["llava-old", "llava-original"]);
    check_greedy(copy.path(), "llava-original");
}

/// Checks that the folder is refused behind `change` with a message that contains `expected`.
fn check_refused(folders: &[&str], change: impl FnOnce(&Path), expected: &str) {
    let copy = assembled(folders);
    change(copy.path());
    let error = opened(copy.path()).err().unwrap().to_string();
    assert!(error.contains(expected), "{error}");
}

/// Sets a value of a file.
fn set(file: &str, key: &str, value: Value) -> impl FnOnce(&Path) {
    move |folder: &Path| {
        let path = folder.join(file);
        let mut content = read_json(&path);
        content[key] = value;
        fs::write(path, content.to_string()).unwrap();
    }
}

#[test]
fn folders_that_do_not_fit_together_are_refused() {
    let remove =
        |file: &'static str| move |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
    let llava = |change: Box<dyn FnOnce(&Path)>, expected: &str| {
        check_refused(&["llava-old"], change, expected);
    };
    llava(
        Box::new(set("config.json", "model_type", json!("mamba"))),
        "config.json: 'model_type' must be 'idefics3', 'llama', 'llava', 'llava_llama', 'qwen2' or \
         'smolvlm', not \"mamba\"",
    );
    llava(
        Box::new(set("config.json", "image_token_index", json!(7))),
        "tokenizer.json: has 384 for the placeholder of images, config.json says 7",
    );
    llava(
        Box::new(set(
            "config.json",
            "text_config",
            json!({"num_hidden_layers": 1_000_000_000}),
        )),
        "config.json: 'text_config.num_hidden_layers' must be a whole number from 1 to 1000",
    );
    llava(
        Box::new(remove("tokenizer.json")),
        "tokenizer.json: is missing",
    );
    llava(
        Box::new(remove("chat_template.json")),
        "chat_template.jinja: is missing",
    );
    llava(
        Box::new(remove("preprocessor_config.json")),
        "preprocessor_config.json: is missing",
    );
    llava(Box::new(remove("model.safetensors")), "model.safetensors");
    llava(
        Box::new(remove("config.json")),
        "has neither config.json nor a .gguf file",
    );
    // A tokenizer with more tokens than the model has rows.
    let few = |folder: &Path| {
        let mut config = read_json(&folder.join("config.json"));
        config["text_config"]["vocab_size"] = json!(380);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
    };
    llava(
        Box::new(few),
        "has the token 380, but the model has 380 rows",
    );
    // A layer more than there are tensors for.
    let deep = |folder: &Path| {
        let mut config = read_json(&folder.join("config.json"));
        config["text_config"]["num_hidden_layers"] = json!(4);
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
    };
    llava(Box::new(deep), "text.model.layers.3");
}

#[test]
fn a_tower_outside_the_checkpoint_is_refused() {
    let expected = "'mm_vision_tower' must be a folder within the checkpoint";
    for name in [
        "..",
        "../clip",
        "/tmp",
        "clip/../..",
        "missing",
        "config.json",
    ] {
        let change = set("config.json", "mm_vision_tower", json!(name));
        check_refused(&["llava-old", "llava-original"], change, expected);
    }
    #[cfg(unix)]
    {
        let elsewhere = tempfile::tempdir().unwrap();
        let link = |folder: &Path| {
            fs::remove_dir_all(folder.join("clip")).unwrap();
            std::os::unix::fs::symlink(elsewhere.path(), folder.join("clip")).unwrap();
        };
        check_refused(&["llava-old", "llava-original"], link, expected);
    }
    // The known tower, whose tensors are in none of the files.
    let change = set("config.json", "mm_vision_tower", json!(CLIP_NAME));
    let known = |folder: &Path| {
        change(folder);
        set("config.json", "mm_hidden_size", json!(1024))(folder);
        let (inner, file) = (folder.join("clip"), "preprocessor_config.json");
        fs::copy(inner.join(file), folder.join(file)).unwrap();
        set(file, "size", json!({"shortest_edge": 336}))(folder);
        set(file, "crop_size", json!({"height": 336, "width": 336}))(folder);
    };
    let missing = "vision.embeddings.patch_embedding.weight is missing";
    check_refused(&["llava-old", "llava-original"], known, missing);
}

#[test]
fn sources_are_found_by_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let touch = |name: &str| fs::write(folder.path().join(name), b"").unwrap();
    let found = || ModelSource::find(folder.path());
    assert!(found().is_err());
    touch("a.gguf");
    let text = folder.path().join("a.gguf");
    let alone = ModelSource::Gguf {
        text: text.clone(),
        vision: None,
    };
    assert_eq!(found().unwrap(), alone);
    touch("mmproj-a.gguf");
    let both = ModelSource::Gguf {
        text: text.clone(),
        vision: Some(folder.path().join("mmproj-a.gguf")),
    };
    assert_eq!(found().unwrap(), both);
    touch("b.gguf");
    assert!(found().unwrap_err().to_string().contains("a.gguf, b.gguf"));
    assert_eq!(ModelSource::find(&text).unwrap(), both);
    touch("mmproj-b.gguf");
    let error = ModelSource::find(&text).unwrap_err().to_string();
    assert!(error.contains("mmproj-a.gguf, mmproj-b.gguf"), "{error}");
    // Some repositories of GGUF files describe the model as well.
    touch("config.json");
    assert!(found().is_err());
    touch("model.safetensors");
    assert_eq!(
        found().unwrap(),
        ModelSource::Folder(folder.path().to_owned())
    );
    let error = ModelSource::find(&folder.path().join("config.json")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("is neither a folder nor a .gguf file")
    );
}
