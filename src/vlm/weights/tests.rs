//! Tests on files: checkpoints of the fixtures, and malformed ones made for the purpose.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use candle_core::{Device, quantized::GgmlDType};
use candle_nn::Init;
use serde_json::{Value, json};

use super::*;

const ANY: Init = Init::Const(0.0);

/// Folder of the model fixtures.
pub(crate) fn fixtures() -> PathBuf {
    let root = std::env::var_os("CANDOR_FIXTURES").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures"));
    root.join("models")
}

/// A safetensors file: the header's text as it is, and the data.
fn write_file(path: &Path, header: &str, data: &[u8]) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    fs::write(path, bytes).unwrap();
}

/// A valid file of tensors in f32, each filled with its number.
fn write_tensors(path: &Path, tensors: &[(&str, &[usize])]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (i, (name, shape)) in tensors.iter().enumerate() {
        let first = data.len();
        for _ in 0..shape.iter().product() {
            data.extend_from_slice(&(i as f32).to_le_bytes());
        }
        let entry = entry("F32", shape, [first, data.len()]);
        header.insert((*name).to_owned(), entry);
    }
    write_file(path, &Value::Object(header).to_string(), &data);
}

fn open(paths: &[&Path]) -> std::result::Result<Weights<'static>, String> {
    Weights::open(paths, canonical_name, WeightsOptions::default()).map_err(|e| e.to_string())
}

/// Entry of a header.
fn entry(dtype: &str, shape: &[usize], offsets: [usize; 2]) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": offsets})
}

/// Names of all tensors that a layout's names give.
fn names(weights: &Weights<'_>) -> BTreeSet<String> {
    match &weights.source {
        Source::Files(checkpoint, _) => checkpoint.names().cloned().collect(),
        Source::Builder(_) => BTreeSet::new(),
    }
}

#[test]
fn all_layouts_give_the_same_names() {
    let root = fixtures();
    let load = |paths: &[&str]| {
        let paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path)).collect();
        open(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>()).unwrap()
    };
    let old = load(&["llava-old"]);
    let want = names(&old);
    assert_eq!(want.len(), 89);
    for name in [
        "text.model.embed_tokens.weight",
        "text.model.layers.2.self_attn.q_proj.weight",
        "text.model.norm.weight",
        "text.lm_head.weight",
        "vision.embeddings.class_embedding",
        "vision.pre_layrnorm.bias",
        "vision.encoder.layers.1.mlp.fc1.weight",
        "vision.post_layernorm.weight",
        "projector.linear_1.weight",
        "projector.linear_2.bias",
    ] {
        assert!(want.contains(name), "{name}");
    }
    assert_eq!(names(&load(&["llava-new"])), want);
    assert_eq!(
        names(&load(&["llava-original", "llava-original/clip"])),
        want
    );
    let shallow = names(&load(&["llava-layers"]));
    assert!(shallow.is_subset(&want));
    assert_eq!(shallow.len(), 78);
    // The names of modules in 4.52 to 4.57, and doubled prefixes of later versions.
    for (text, tower) in [
        ("model.language_model.", "model.vision_tower.vision_model."),
        (
            "model.language_model.model.",
            "model.vision_tower.vision_tower.vision_model.",
        ),
    ] {
        let renamed = |name: &str| {
            let name = name
                .replace("language_model.lm_head.", "lm_head.")
                .replace("language_model.model.", text)
                .replace("vision_tower.vision_model.", tower)
                .replace("multi_modal_projector.", "model.multi_modal_projector.");
            canonical_name(&name)
        };
        let options = WeightsOptions::default();
        let opened = Weights::open(&[root.join("llava-old")], renamed, options).unwrap();
        assert_eq!(names(&opened), want);
    }
}

#[test]
fn tiled_models_have_canonical_names() {
    for (folder, head) in [("smolvlm", false), ("idefics3", true)] {
        let weights = open(&[&fixtures().join(folder)]).unwrap();
        assert_eq!(weights.pp("text").has("lm_head.weight"), head);
        assert!(weights.has("projector.modality_projection.proj.weight"));
        let vision = weights.pp("vision");
        assert!(vision.has("embeddings.patch_embedding.bias"));
        assert!(
            vision
                .pp("encoder")
                .pp("layers")
                .pp(0)
                .has("self_attn.out_proj.weight")
        );
        assert!(
            weights
                .pp("text.model")
                .has("layers.1.mlp.gate_proj.weight")
        );
    }
}

#[test]
fn names_that_no_model_needs_are_left_out() {
    for name in [
        "text_model.encoder.layers.0.layer_norm1.weight",
        "text_projection.weight",
        "logit_scale",
        "vision_model.embeddings.position_ids",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
        "",
        "model.",
    ] {
        assert_eq!(canonical_name(name), None, "{name}");
    }
    for (name, want) in [
        (
            "model.layers.0.mlp.up_proj.weight",
            "text.model.layers.0.mlp.up_proj.weight",
        ),
        (
            "layers.0.mlp.up_proj.weight",
            "text.model.layers.0.mlp.up_proj.weight",
        ),
        ("lm_head.weight", "text.lm_head.weight"),
        ("model.norm.weight", "text.model.norm.weight"),
        (
            "visual.patch_embed.proj.weight",
            "vision.patch_embed.proj.weight",
        ),
    ] {
        assert_eq!(canonical_name(name).as_deref(), Some(want));
    }
}

#[test]
fn both_layouts_hold_the_same_values() {
    let root = fixtures();
    let (old, new) = (
        open(&[&root.join("llava-old")]),
        open(&[&root.join("llava-new")]),
    );
    let (old, new) = (old.unwrap(), new.unwrap());
    for name in names(&old) {
        let shape = old.shape(&name).unwrap().to_vec();
        let values = |weights: &Weights<'_>| {
            let tensor = weights.tensor(&name, shape.clone(), ANY).unwrap();
            tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(values(&old), values(&new), "{name}");
    }
    assert_eq!(old.bytes(), new.bytes());
    assert_eq!(old.pp("text.lm_head").bytes(), 400 * 48 * 4);
}

#[test]
fn matrices_are_kept_as_the_options_say() {
    let folder = fixtures().join("idefics3");
    let load = |dtype, quantize| {
        let options = WeightsOptions {
            device: Device::Cpu,
            dtype,
            quantize,
        };
        let weights = Weights::open(&[&folder], canonical_name, options).unwrap();
        let embed = weights
            .linear("text.model.embed_tokens", 373, 40, false)
            .unwrap();
        let bytes = weights.pp("text.model.layers.0.self_attn");
        let o = bytes.linear("o_proj", 40, 48, false).unwrap();
        let inner = weights
            .linear("text.model.layers.0.mlp.down_proj", 40, 90, false)
            .unwrap();
        (
            embed.rows(&[5, 372]).unwrap(),
            embed.bytes(),
            o.bytes(),
            inner.bytes(),
        )
    };
    let (rows, embed, o, inner) = load(WeightsDtype::Auto, None);
    assert_eq!((embed, o, inner), (373 * 40 * 2, 40 * 48 * 2, 40 * 90 * 2));
    let (wide, embed, ..) = load(WeightsDtype::F32, None);
    assert_eq!(embed, 373 * 40 * 4);
    assert_eq!(
        rows.to_vec2::<f32>().unwrap(),
        wide.to_vec2::<f32>().unwrap()
    );
    assert_eq!(load(WeightsDtype::F16, None).1, 373 * 40 * 2);
    // No width of this model is a multiple of 32.
    assert_eq!(
        load(WeightsDtype::F32, Some(GgmlDType::Q8_0)).2,
        40 * 48 * 4
    );
}

#[test]
fn a_matrix_stays_in_the_mapped_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // 300 million weights in bf16; the file has no content of its own where nothing is written.
    let (rows, cols) = (30_000usize, 10_000usize);
    let len = rows * cols * 2;
    let header = json!({"model.embed_tokens.weight": entry("BF16", &[rows, cols], [0, len])});
    let header = header.to_string();
    write_file(&path, &header, &[]);
    let whole = 8 + header.len() + len;
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(whole as u64)
        .unwrap();
    let weights = open(&[folder.path()]).unwrap();
    let layer = weights
        .linear("text.model.embed_tokens", rows, cols, false)
        .unwrap();
    let stacked = Linear::stacked(vec![layer.clone(), layer]).unwrap();
    assert_eq!(stacked.bytes(), 2 * len);
    let [first, second] = stacked.packed_matrices() else {
        panic!("not two matrices")
    };
    let place = first.as_bytes().as_ptr_range();
    assert_eq!(place, second.as_bytes().as_ptr_range());
    if cfg!(target_os = "linux") {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let map = maps
            .lines()
            .find(|map| map.ends_with(path.to_str().unwrap()));
        let (range, _) = map.expect("the file is mapped").split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let address = |text| usize::from_str_radix(text, 16).unwrap();
        assert!(address(start) <= place.start as usize && place.end as usize <= address(end));
    }
}

#[test]
fn malformed_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let two = |first, second| json!({"norm.weight": first, "lm_head.weight": second}).to_string();
    let one = |entry| json!({"norm.weight": entry}).to_string();
    for (header, data, message) in [
        ("{".to_owned(), 0, "in the header: EOF"),
        ("[]".to_owned(), 0, "in the header: invalid type"),
        (
            json!({"norm.weight": {"dtype": "F32"}}).to_string(),
            0,
            "missing field `shape`",
        ),
        (
            one(entry("F32", &[4], [0, 16])),
            15,
            "norm.weight at 0..16, but the data end at 15",
        ),
        (
            one(entry("F32", &[4], [0, 16])),
            17,
            "tensors up to 16, but the data end at 17",
        ),
        (
            one(entry("F32", &[4], [0, 1 << 60])),
            16,
            "norm.weight has 1152921504606846976 bytes",
        ),
        (
            one(entry("F32", &[5], [0, 16])),
            16,
            "norm.weight has 16 bytes for F32 values of [5]",
        ),
        (
            one(entry("F32", &[usize::MAX, 4], [0, 16])),
            16,
            "norm.weight has 16 bytes",
        ),
        (
            one(entry("I64", &[4], [0, usize::MAX])),
            16,
            "but the data end at 16",
        ),
        (
            one(entry("F32", &[4], [16, 0])),
            16,
            "norm.weight at 16..0, expected from 0 on",
        ),
        (
            two(entry("F32", &[4], [0, 16]), entry("F32", &[4], [8, 24])),
            24,
            "lm_head.weight at 8..24, expected from 16 on",
        ),
        (
            two(entry("F32", &[4], [0, 16]), entry("F32", &[4], [20, 36])),
            36,
            "lm_head.weight at 20..36, expected from 16 on",
        ),
    ] {
        write_file(&path, &header, &vec![0; data]);
        let error = open(&[folder.path()]).err().unwrap();
        assert!(
            error.contains("model.safetensors: no valid safetensors"),
            "{error}"
        );
        assert!(error.contains(message), "{message}: {error}");
    }
    for (bytes, message) in [
        (vec![], "0 bytes, expected 8 or more"),
        (
            u64::MAX.to_le_bytes().to_vec(),
            "a header of 18446744073709551615 bytes in a file of 8",
        ),
        (
            1000u64.to_le_bytes().to_vec(),
            "a header of 1000 bytes in a file of 8",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = open(&[folder.path()]).err().unwrap();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn wrong_tensors_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_tensors(
        &path,
        &[("model.norm.weight", &[4]), ("lm_head.weight", &[3, 4])],
    );
    let weights = open(&[folder.path()]).unwrap();
    let error = weights
        .tensor("text.model.norm.weight", 5, ANY)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("model.norm.weight has the shape [4], expected [5]"),
        "{error}"
    );
    let error = weights
        .linear("text.lm_head", 4, 3, false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("lm_head.weight has the shape [3, 4], expected [4, 3]"),
        "{error}"
    );
    let error = weights
        .linear("text.lm_head", 3, 4, true)
        .unwrap_err()
        .to_string();
    assert!(error.contains("text.lm_head.bias is missing in"), "{error}");
    assert!(error.contains("model.safetensors"), "{error}");
    // A type that is not read matters only where the tensor is needed.
    let header = json!({"norm.weight": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}});
    write_file(&path, &header.to_string(), &[0; 8]);
    let weights = open(&[folder.path()]).unwrap();
    let error = weights
        .tensor("text.model.norm.weight", 1, ANY)
        .unwrap_err()
        .to_string();
    assert!(error.contains("norm.weight is of type I64"), "{error}");
    write_tensors(&path, &[("model.norm.weight", &[4]), ("norm.weight", &[4])]);
    let error = open(&[folder.path()]).err().unwrap();
    assert!(
        error.starts_with("text.model.norm.weight is both"),
        "{error}"
    );
}

#[test]
fn wrong_indices_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    assert!(open(&[root]).err().unwrap().contains("found neither"));
    write_tensors(&root.join("a.safetensors"), &[("model.norm.weight", &[4])]);
    fs::create_dir(root.join("sub")).unwrap();
    write_tensors(
        &root.join("sub/b.safetensors"),
        &[("lm_head.weight", &[3, 4])],
    );
    let index = |map: Value| {
        let text = json!({"weight_map": map}).to_string();
        fs::write(root.join("model.safetensors.index.json"), text).unwrap();
        open(&[root])
    };
    assert!(index(json!({"model.norm.weight": "a.safetensors"})).is_ok());
    for (map, message) in [
        (
            json!({"model.norm.weight": "b.safetensors"}),
            "the shard b.safetensors is missing",
        ),
        (
            json!({"lm_head.weight": "a.safetensors"}),
            "lm_head.weight is said to be in a.safetensors, which lacks it",
        ),
        (
            json!({"lm_head.weight": "sub/b.safetensors"}),
            "expected a .safetensors file beside",
        ),
        (
            json!({"lm_head.weight": "../b.safetensors"}),
            "expected a .safetensors file beside",
        ),
        (
            json!({"lm_head.weight": "..\\b.safetensors"}),
            "expected a .safetensors file beside",
        ),
        (
            json!({"lm_head.weight": "pytorch_model.bin"}),
            "expected a .safetensors file beside",
        ),
        (json!({"lm_head.weight": 3}), "invalid type"),
    ] {
        let error = index(map).err().unwrap();
        assert!(error.contains("model.safetensors.index.json: "), "{error}");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn other_files_are_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let pickle = folder.path().join("pytorch_model.bin");
    fs::write(&pickle, b"x").unwrap();
    assert!(
        open(&[&pickle])
            .err()
            .unwrap()
            .contains("expected a folder")
    );
    assert!(
        GgufFile::open(&pickle)
            .unwrap_err()
            .to_string()
            .contains("expected a folder")
    );
    let absent = folder.path().join("absent.safetensors");
    assert!(
        open(&[&absent])
            .err()
            .unwrap()
            .contains("absent.safetensors")
    );
    let disguised = folder.path().join("model.safetensors");
    fs::create_dir(&disguised).unwrap();
    assert!(open(&[folder.path()]).is_err());
}
