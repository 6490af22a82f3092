use serde_json::json;

use super::*;
use crate::vlm::models::{idefics3::Idefics3Config, llava::LlavaConfig};

fn file(value: Value) -> ConfigSection {
    match value {
        Value::Object(values) => ConfigSection::new("config.json", values),
        other => panic!("{other} is no object"),
    }
}

fn text(value: Value) -> Result<TextModelConfig, ProcessorFileError> {
    let root = file(value);
    TextModelConfig::read(&root, &root)
}

#[test]
fn a_silent_file_has_the_defaults_of_its_class() {
    let llama = text(json!({"model_type": "llama"})).unwrap();
    assert_eq!(llama.decoder, DecoderConfig::default());
    assert!(!llama.tie_is_known);
    // LLaMA's class has as many heads of keys as of queries, Qwen2's 32.
    let heads = json!({"model_type": "llama", "num_attention_heads": 64});
    assert_eq!(text(heads).unwrap().decoder.num_key_value_heads, 64);
    let qwen = text(json!({"model_type": "qwen2", "num_attention_heads": 64})).unwrap();
    assert_eq!(qwen.decoder.num_key_value_heads, 32);
    assert_eq!(qwen.decoder.vocab_size, 151_936);
    assert!(qwen.decoder.qkv_bias && !qwen.decoder.o_bias);

    let llava = LlavaConfig::read(&file(json!({"model_type": "llava"}))).unwrap();
    assert_eq!((llava.vision.hidden_size, llava.vision.layers), (1024, 23));
    assert_eq!(
        (llava.vision.image_size, llava.vision.patch_size),
        (336, 14)
    );
    assert_eq!(llava.vision.activation, Activation::QuickGelu);
    assert_eq!(
        (llava.feature_layers, llava.image_token),
        (vec![23], Some(32_000))
    );
    assert!(llava.projector_bias && !llava.keeps_class_token);
    // A tower that is described at all has the defaults of its own class.
    let described = json!({"model_type": "llava", "vision_config": {"image_size": 64}});
    let described = LlavaConfig::read(&file(described)).unwrap();
    assert_eq!(
        (described.vision.hidden_size, described.vision.patch_size),
        (768, 32)
    );

    let idefics = json!({"model_type": "idefics3", "vision_config": {"patch_size": 28}});
    let idefics = Idefics3Config::read(&file(idefics)).unwrap();
    assert_eq!(
        (idefics.scale_factor, idefics.image_token),
        (2, Some(128_257))
    );
    assert_eq!(idefics.vision.activation, Activation::GeluTanh);
    assert_eq!(idefics.text.decoder.rms_norm_eps, 1e-5);
}

#[test]
fn rotary_angles_are_read_from_files_of_all_ages() {
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4,
        "original_max_position_embeddings": 8192,
    });
    let mut parameters = scaling.clone();
    parameters["rope_theta"] = json!(500_000);
    let new = text(json!({"rope_parameters": parameters}))
        .unwrap()
        .decoder;
    let old = json!({"rope_theta": 5e5, "rope_scaling": scaling, "rope_parameters": null});
    assert_eq!(new, text(old).unwrap().decoder);
    assert_eq!(new.rope_theta, 500_000.0);
    assert_eq!(new.rope_scaling.map(|scaling| scaling.factor), Some(8.0));
    let plain = text(json!({"rope_scaling": {"type": "default"}}))
        .unwrap()
        .decoder;
    assert_eq!((plain.rope_theta, plain.rope_scaling), (10_000.0, None));
}

#[test]
fn an_output_matrix_is_tied_where_either_level_says_so() {
    for (inner, outer, tied, known) in [
        (json!(null), json!(null), false, false),
        (json!(false), json!(true), true, true),
        (json!(true), json!(null), true, true),
        (json!(null), json!(false), false, true),
    ] {
        let root = file(json!({
            "tie_word_embeddings": outer,
            "text_config": {"tie_word_embeddings": inner},
        }));
        let section = root.section_or_empty("text_config").unwrap();
        let read = TextModelConfig::read(&section, &root).unwrap();
        assert_eq!(
            (read.decoder.tie_word_embeddings, read.tie_is_known),
            (tied, known)
        );
    }
}

#[test]
fn values_out_of_bounds_are_refused_by_file_and_key() {
    for (key, value, expected) in [
        (
            "num_hidden_layers",
            json!(1_000_000_000),
            "a whole number from 1 to 1000, not 1000000000",
        ),
        (
            "num_hidden_layers",
            json!(0),
            "a whole number from 1 to 1000",
        ),
        (
            "num_hidden_layers",
            json!("2"),
            "a whole number from 1 to 1000, not \"2\"",
        ),
        (
            "hidden_size",
            json!(-4096),
            "a whole number from 1 to 65536",
        ),
        ("hidden_size", json!(4097), "a multiple of the 32 heads"),
        (
            "vocab_size",
            json!(u64::MAX),
            "a whole number from 1 to 4000000",
        ),
        (
            "num_key_value_heads",
            json!(33),
            "a whole number from 1 to 32",
        ),
        (
            "num_key_value_heads",
            json!(5),
            "a divisor of the 32 query heads",
        ),
        ("head_dim", json!(13), "an even number"),
        ("rms_norm_eps", json!(-1), "a number from 0 to 1"),
        ("rope_theta", json!(0), "a number from 1 to"),
        ("hidden_act", json!("gelu"), "'silu', not \"gelu\""),
        (
            "model_type",
            json!("mamba"),
            "'llama' or 'qwen2', not \"mamba\"",
        ),
        ("attention_bias", json!(1), "true or false"),
        ("rope_scaling", json!([]), "an object"),
        ("partial_rotary_factor", json!(0.5), "1, not 0.5"),
    ] {
        let error = text(json!({key: value})).unwrap_err().to_string();
        let start = format!("config.json: '{key}' must be ");
        assert!(
            error.starts_with(&start) && error.contains(expected),
            "{error}"
        );
    }
    let scaling = json!({"rope_scaling": {"rope_type": "yarn"}});
    assert_eq!(
        text(scaling).unwrap_err().to_string(),
        "config.json: 'rope_scaling.rope_type' must be 'default' or 'llama3', not \"yarn\""
    );
    let incomplete = json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}});
    assert_eq!(
        text(incomplete).unwrap_err().to_string(),
        "config.json: 'rope_parameters.low_freq_factor' is missing"
    );
}

#[test]
fn values_of_towers_out_of_bounds_are_refused() {
    let llava = |value: Value| LlavaConfig::read(&file(value)).unwrap_err().to_string();
    for (value, expected) in [
        (
            json!({"vision_feature_layer": 25}),
            "'vision_feature_layer' must be a number from -25 to 24",
        ),
        (
            json!({"vision_feature_layer": -26}),
            "'vision_feature_layer'",
        ),
        (
            json!({"vision_feature_layer": []}),
            "'vision_feature_layer'",
        ),
        (
            json!({"vision_feature_layer": vec![1; 65]}),
            "'vision_feature_layer'",
        ),
        (
            json!({"vision_feature_layer": i64::MIN}),
            "'vision_feature_layer'",
        ),
        (
            json!({"vision_feature_select_strategy": "cls"}),
            "'default' or 'full', not \"cls\"",
        ),
        (
            json!({"projector_hidden_act": "relu"}),
            "'gelu' or 'gelu_pytorch_tanh' or 'quick_gelu', not \"relu\"",
        ),
        (
            json!({"vision_config": {"model_type": "pixtral"}}),
            "'clip_vision_model', not \"pixtral\"",
        ),
        (
            json!({"vision_config": {"num_channels": 1}}),
            "'vision_config.num_channels' must be 3",
        ),
        (
            json!({"vision_config": {"patch_size": 0}}),
            "'vision_config.patch_size'",
        ),
        (
            json!({"vision_config": {"patch_size": 225}}),
            "'vision_config.patch_size'",
        ),
        (
            json!({"vision_config": {"patch_size": 1}}),
            "'vision_config.patch_size'",
        ),
        (
            json!({"vision_config": {"hidden_size": 770}}),
            "a multiple of the 12 heads",
        ),
        (
            json!({"vision_config": 7}),
            "'vision_config' must be an object",
        ),
        (json!({"image_token_index": -200}), "'image_token_index'"),
    ] {
        let error = llava(value);
        assert!(error.contains(expected), "{error}");
    }
    let uneven = file(json!({"scale_factor": 2, "vision_config": {"image_size": 96}}));
    let error = Idefics3Config::read(&uneven).unwrap_err().to_string();
    assert!(
        error.contains("'scale_factor' must be a divisor of the 3 patches"),
        "{error}"
    );
}

#[test]
fn the_original_layout_is_read_from_both_files() {
    let root = json!({
        "model_type": "llava", "hidden_size": 64, "num_attention_heads": 4,
        "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "cls_patch", "mm_hidden_size": 1024,
    });
    let config = LlavaConfig::read_original(&file(root.clone()), None).unwrap();
    assert_eq!(
        (config.feature_layers, config.keeps_class_token),
        (vec![24], true)
    );
    assert_eq!(config.text.decoder.hidden_size, 64);
    // A tower's file may be that of both halves of CLIP.
    let both = file(json!({"model_type": "clip", "vision_config": {"hidden_size": 96}}));
    let error = LlavaConfig::read_original(&file(root.clone()), Some(&both)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("'mm_hidden_size' must be the tower's 96, not 1024")
    );
    for (key, value, expected) in [
        (
            "mm_projector_type",
            json!("linear"),
            "'mlp2x_gelu', not \"linear\"",
        ),
        (
            "mm_projector_type",
            json!(null),
            "'mlp2x_gelu', not \"linear\"",
        ),
        ("mm_use_im_start_end", json!(true), "false, not true"),
    ] {
        let mut root = root.clone();
        root[key] = value;
        let error = LlavaConfig::read_original(&file(root), None).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn end_tokens_are_those_of_generation_first() {
    let generation = file(json!({"eos_token_id": [2, 368]}));
    let config = file(json!({"text_config": {"eos_token_id": 7}}));
    assert_eq!(end_tokens(Some(&generation), &config).unwrap(), [2, 368]);
    let silent = file(json!({"eos_token_id": null}));
    assert_eq!(end_tokens(Some(&silent), &config).unwrap(), [7]);
    assert_eq!(end_tokens(None, &silent).unwrap(), [0u32; 0]);
    for wrong in [json!(-1), json!([]), json!([1, "2"]), json!(vec![1; 65])] {
        assert!(end_tokens(None, &file(json!({"eos_token_id": wrong}))).is_err());
    }
}
