//! Tests on GGUF files made for the purpose, and on a real one.

use std::{fs, path::Path};

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::*;
use crate::vlm::{
    KvCache, Logits, Outputs, Row,
    decoder::Decoder,
    weights::{Weights, WeightsOptions, canonical_name, tests::fixtures},
};

/// Value of the metadata.
#[derive(Clone)]
enum Entry {
    U32(u32),
    F32(f32),
    Text(&'static str),
    Texts(Vec<&'static str>),
}

/// Sizes of the text model of the fixture `llava-old` in the metadata of a GGUF file.
fn entries() -> Vec<(&'static str, Entry)> {
    vec![
        ("general.architecture", Entry::Text("llama")),
        ("llama.block_count", Entry::U32(3)),
        ("llama.context_length", Entry::U32(512)),
        ("llama.embedding_length", Entry::U32(48)),
        ("llama.feed_forward_length", Entry::U32(106)),
        ("llama.attention.head_count", Entry::U32(6)),
        ("llama.attention.head_count_kv", Entry::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Entry::F32(1e-5)),
        ("tokenizer.ggml.tokens", Entry::Texts(vec!["a", "b"])),
    ]
}

/// A GGUF file of tensors in f32.
fn gguf(entries: &[(&str, Entry)], tensors: &[(String, Tensor)]) -> Vec<u8> {
    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, entry) in entries {
        text(&mut out, key);
        match entry {
            Entry::U32(value) => {
                out.extend(4u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Entry::F32(value) => {
                out.extend(6u32.to_le_bytes());
                out.extend(value.to_le_bytes());
            }
            Entry::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(&mut out, value);
            }
            Entry::Texts(values) => {
                out.extend(9u32.to_le_bytes());
                out.extend(8u32.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(&mut out, value));
            }
        }
    }
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        text(&mut out, name);
        out.extend((tensor.rank() as u32).to_le_bytes());
        for &size in tensor.dims().iter().rev() {
            out.extend((size as u64).to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        for value in tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap() {
            data.extend(value.to_le_bytes());
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}

/// Rows of queries or keys in llama.cpp's order.
fn paired(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, cols) = weight.dims2().unwrap();
    let split = weight.reshape((heads, 2, rows / heads / 2, cols)).unwrap();
    let swapped = split.transpose(1, 2).unwrap().contiguous().unwrap();
    swapped.reshape((rows, cols)).unwrap()
}

/// The text model of the fixture `llava-old` as llama.cpp would name it.
fn text_model() -> (Weights<'static>, Vec<(String, Tensor)>) {
    let folder = fixtures().join("llava-old");
    let options = WeightsOptions::default();
    let weights = Weights::open(&[folder], canonical_name, options).unwrap();
    let tensor = |name: &str| {
        let name = format!("text.{name}.weight");
        let shape = weights.shape(&name).unwrap().to_vec();
        weights
            .tensor(&name, shape, candle_nn::Init::Const(0.0))
            .unwrap()
    };
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), tensor("model.embed_tokens")),
        ("output_norm.weight".to_owned(), tensor("model.norm")),
        ("output.weight".to_owned(), tensor("lm_head")),
    ];
    for layer in 0..3 {
        for (theirs, ours, heads) in [
            ("attn_norm", "input_layernorm", 0),
            ("attn_q", "self_attn.q_proj", 6),
            ("attn_k", "self_attn.k_proj", 2),
            ("attn_v", "self_attn.v_proj", 0),
            ("attn_output", "self_attn.o_proj", 0),
            ("ffn_norm", "post_attention_layernorm", 0),
            ("ffn_gate", "mlp.gate_proj", 0),
            ("ffn_up", "mlp.up_proj", 0),
            ("ffn_down", "mlp.down_proj", 0),
        ] {
            let tensor = tensor(&format!("model.layers.{layer}.{ours}"));
            let tensor = match heads {
                0 => tensor,
                heads => paired(&tensor, heads),
            };
            tensors.push((format!("blk.{layer}.{theirs}.weight"), tensor));
        }
    }
    (weights, tensors)
}

fn open(folder: &Path, bytes: &[u8]) -> Result<GgufFile, String> {
    let path = folder.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    GgufFile::open(path).map_err(|error| error.to_string())
}

/// Appends rows of tokens, and returns the logits of each row's last.
fn step(decoder: &Decoder, rows: &[(usize, usize, &[u32])], cache: &mut KvCache) -> Tensor {
    let rows = rows
        .iter()
        .map(|&(slot, start, tokens)| Row::text(slot, start, tokens));
    let rows: Vec<Row<'_>> = rows.collect();
    let input = decoder
        .embed_rows(&rows, false, |_| unreachable!())
        .unwrap();
    let outputs = Outputs {
        logits: Logits::Last,
        hidden_layers: &[],
    };
    let output = decoder.decode(&input, cache, outputs).unwrap();
    input.rows.iter().for_each(|row| cache.advance(row));
    output.logits.unwrap()
}

#[test]
fn a_model_is_the_same_as_in_safetensors() {
    let (weights, tensors) = text_model();
    let folder = tempfile::tempdir().unwrap();
    let file = open(folder.path(), &gguf(&entries(), &tensors)).unwrap();
    let config = file.decoder_config().unwrap();
    let want = DecoderConfig {
        vocab_size: 400,
        hidden_size: 48,
        intermediate_size: 106,
        num_hidden_layers: 3,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        max_position_embeddings: 512,
        rms_norm_eps: f64::from(1e-5f32),
        ..DecoderConfig::default()
    };
    assert_eq!(config, want);
    let tokens = file
        .metadata()
        .texts("tokenizer.ggml.tokens")
        .unwrap()
        .unwrap();
    assert_eq!(tokens, ["a", "b"]);
    let read = Weights::open_gguf(&[&file], WeightsOptions::default()).unwrap();
    let logits = |weights: &Weights<'_>| {
        let decoder = Decoder::load(&config, &weights.pp("text")).unwrap();
        let mut cache = decoder.new_cache(1, 16, 16).unwrap();
        let logits = step(&decoder, &[(0, 0, &[1, 50, 399, 7])], &mut cache);
        logits.squeeze(0).unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(logits(&read), logits(&weights));
}

#[test]
fn every_truncation_is_an_error() {
    let (_, tensors) = text_model();
    let bytes = gguf(&entries(), &tensors);
    let folder = tempfile::tempdir().unwrap();
    let header = bytes.len()
        - tensors
            .iter()
            .map(|(_, t)| t.elem_count() * 4)
            .sum::<usize>();
    for len in (0..header).step_by(7).chain([header, bytes.len() - 1]) {
        let error = open(folder.path(), &bytes[..len]).unwrap_err();
        assert!(
            error.contains("model.gguf: no valid GGUF file"),
            "{len}: {error}"
        );
    }
}

#[test]
fn sizes_beyond_the_file_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let start = |counts: [u64; 2], rest: &[u8]| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
        bytes.extend(rest);
        bytes
    };
    let list = |kind: u32, len: u64| {
        let mut bytes = b"\x01\0\0\0\0\0\0\0k\x09\0\0\0".to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes
    };
    for (bytes, message) in [
        (
            b"GGUX\x03\0\0\0".to_vec(),
            "expected GGUF in the first four bytes",
        ),
        (
            b"GGUF\0\0\0\x03".to_vec(),
            "version 50331648, expected 2 or 3",
        ),
        (start([u64::MAX, 0], &[]), "18446744073709551615 tensors"),
        (start([0, u64::MAX], &[]), "18446744073709551615 values"),
        (
            start([0, 1], &u64::MAX.to_le_bytes()),
            "reach beyond the end",
        ),
        (
            start([0, 1], &list(0, u64::MAX)),
            "k: more than 4194304 values in lists",
        ),
        (
            start([0, 1], &list(8, 1 << 20)),
            "k: 8 bytes at 49 reach beyond the end",
        ),
        (start([0, 1], &list(9, 1)), "k: lists of lists"),
        (start([0, 1], &list(99, 1)), "k: unknown type of value 99"),
    ] {
        let error = open(folder.path(), &bytes).unwrap_err();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn metadata_of_no_use_are_named() {
    let (_, tensors) = text_model();
    let folder = tempfile::tempdir().unwrap();
    let with = |key: &'static str, entry: Option<Entry>| {
        let mut entries = entries();
        entries.retain(|(other, _)| *other != key);
        entries.extend(entry.map(|entry| (key, entry)));
        let file = open(folder.path(), &gguf(&entries, &tensors)).unwrap();
        let error = file.decoder_config().unwrap_err().to_string();
        assert!(error.contains(&format!("model.gguf: {key} ")), "{error}");
        assert!(Weights::open_gguf(&[&file], WeightsOptions::default()).is_err());
        error
    };
    for (key, entry, message) in [
        ("general.architecture", None, "is missing"),
        (
            "general.architecture",
            Some(Entry::Text("rwkv")),
            "expected clip or one of llama",
        ),
        ("general.architecture", Some(Entry::U32(1)), "is not a text"),
        ("llama.block_count", None, "is missing"),
        (
            "llama.block_count",
            Some(Entry::Text("3")),
            "is not an integer from 0 on",
        ),
        (
            "llama.block_count",
            Some(Entry::U32(1_000_000_000)),
            "there is no blk.999999999",
        ),
        ("llama.block_count", Some(Entry::U32(0)), "is 0"),
        ("llama.attention.head_count", Some(Entry::U32(0)), "is 0"),
        (
            "llama.attention.head_count",
            Some(Entry::U32(5)),
            "is 5, with 2 heads of keys",
        ),
        (
            "llama.rope.dimension_count",
            Some(Entry::U32(4)),
            "differs from the width of a head",
        ),
        (
            "llama.rope.scaling.type",
            Some(Entry::Text("yarn")),
            "not supported",
        ),
        ("llama.expert_count", Some(Entry::U32(8)), "not supported"),
    ] {
        let error = with(key, entry);
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn a_tower_has_canonical_names() {
    let matrix = |rows: usize, cols: usize| {
        let shape = (rows, cols);
        Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap()
    };
    let entries = [
        ("general.architecture", Entry::Text("clip")),
        ("clip.vision.embedding_length", Entry::U32(16)),
    ];
    let folder = tempfile::tempdir().unwrap();
    // The first matrix of a feed-forward layer widens; older converters called it `ffn_down`.
    for (up, down) in [((34, 16), (16, 34)), ((16, 34), (34, 16))] {
        let tensors = [
            ("v.blk.0.ffn_up.weight".to_owned(), matrix(up.0, up.1)),
            ("v.blk.0.ffn_down.weight".to_owned(), matrix(down.0, down.1)),
            ("mm.2.weight".to_owned(), matrix(24, 24)),
        ];
        let file = open(folder.path(), &gguf(&entries, &tensors)).unwrap();
        let weights = Weights::open_gguf(&[&file], WeightsOptions::default()).unwrap();
        let mlp = weights.pp("vision.encoder.layers.0.mlp");
        assert_eq!(mlp.shape("fc1.weight"), Some([34, 16].as_slice()));
        assert_eq!(mlp.shape("fc2.weight"), Some([16, 34].as_slice()));
        assert!(weights.has("projector.linear_2.weight"));
    }
}

/// Compares the greedy text of SmolLM2-135M-Instruct (Q4_1) with that of transformers, for prompts
/// alone and all at once. `CANDOR_SMOLLM2` is the path of the GGUF file.
#[test]
#[ignore = "needs a file of 98 MB"]
fn a_real_model_writes_what_the_reference_writes() {
    let path = std::env::var("CANDOR_SMOLLM2").expect("CANDOR_SMOLLM2");
    let file = GgufFile::open(path).unwrap();
    let config = file.decoder_config().unwrap();
    assert!(config.tie_word_embeddings);
    let weights = Weights::open_gguf(&[&file], WeightsOptions::default()).unwrap();
    let decoder = Decoder::load(&config, &weights.pp("text")).unwrap();
    let expected = fs::read(fixtures().join("smollm2.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let ids = |ids: &Value| -> Vec<u32> { serde_json::from_value(ids.clone()).unwrap() };
    let prompts = expected["prompts"].as_array().unwrap();
    let (inputs, want): (Vec<Vec<u32>>, Vec<Vec<u32>>) = prompts
        .iter()
        .map(|prompt| (ids(&prompt["ids"]), ids(&prompt["greedy"]["ids"])))
        .unzip();
    let greedy = |inputs: &[Vec<u32>]| {
        let mut cache = decoder
            .new_cache(inputs.len(), 1024, inputs.len() * 1024)
            .unwrap();
        let mut rows = inputs.to_vec();
        let mut written = vec![Vec::new(); inputs.len()];
        for _ in 0..64 {
            let slots = rows.iter().enumerate();
            let step_rows: Vec<(usize, usize, &[u32])> = slots
                .map(|(slot, row)| (slot, cache.len(slot), row.as_slice()))
                .collect();
            let logits = step(&decoder, &step_rows, &mut cache);
            let next = logits.argmax(1).unwrap().to_vec1::<u32>().unwrap();
            for ((row, text), token) in rows.iter_mut().zip(&mut written).zip(next) {
                *row = vec![token];
                text.push(token);
            }
        }
        written
    };
    assert_eq!(
        (inputs.len(), want.iter().map(Vec::len).sum::<usize>()),
        (20, 20 * 64)
    );
    assert_eq!(greedy(&inputs), want);
    for (input, want) in inputs.into_iter().zip(want) {
        assert_eq!(greedy(&[input]), [want]);
    }
}
