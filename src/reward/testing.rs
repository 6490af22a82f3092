//! Evidence small enough to be computed by hand: two channels, two hidden units, three concepts.

use std::{collections::HashMap, sync::Arc};

use half::f16;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};

use super::{
    evidence::{Evidence, ImageEvidence},
    finish::{Finisher, WrittenBy},
};

/// Bytes, type and shape of an array.
pub(crate) type Array = (Vec<u8>, Dtype, Vec<usize>);

pub(crate) fn f32s(values: &[f32], shape: &[usize]) -> Array {
    (
        values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F32,
        shape.to_vec(),
    )
}

fn f16s(values: &[f32], shape: &[usize]) -> Array {
    (
        values
            .iter()
            .flat_map(|&x| f16::from_f32(x).to_le_bytes())
            .collect(),
        Dtype::F16,
        shape.to_vec(),
    )
}

/// The arrays of `evidence.safetensors`.
pub(crate) fn arrays() -> HashMap<&'static str, Array> {
    HashMap::from([
        ("mean", f32s(&[1.0, 2.0], &[2])),
        ("scale", f32s(&[2.0, 0.5], &[2])),
        ("fc1.weight", f16s(&[1.0, 0.0, 0.0, 1.0], &[2, 2])),
        ("fc1.bias", f32s(&[0.0, 0.5], &[2])),
        (
            "fc2.weight",
            f16s(&[1.0, 0.0, 0.0, 1.0, 1.0, -1.0], &[3, 2]),
        ),
        ("fc2.bias", f32s(&[0.5, -1.0, 0.0], &[3])),
        ("prior", f32s(&[-2.0, -1.0, -4.0], &[3])),
        ("reference.center", f32s(&[1.0, 1.0], &[2])),
        ("reference.basis", f16s(&[1.0, 0.0, 0.0, 1.0], &[2, 2])),
        (
            "reference.points",
            (vec![100, 0, 0, 100, 60, 80], Dtype::I8, vec![3, 2]),
        ),
        ("reference.scale", f32s(&[0.01, 0.01], &[2])),
    ])
}

/// `evidence.json`.
pub(crate) fn config() -> Value {
    let thresholds = json!({"default": 0.5, "by_fpr": [{"fpr": 0.05, "threshold": 0.4},
            {"fpr": 0.1, "threshold": 0.6}]});
    json!({
        "format": 1,
        "concepts": ["dog.n", "person.n", "fire hydrant.n"],
        "named": [],
        "k": 2,
        "familiarity": {"slope": 2.0, "offset": -1.0},
        "calibration": {
            "own": {
                "features": ["evidence", "familiarity", "reward_logit", "log_probability",
                    "person_reward"],
                "mean": [1.0, 0.5, 0.0, -2.0, 0.0], "scale": [2.0, 0.25, 4.0, 1.5, 1.0],
                "weights": [1.0, 0.5, 2.0, 0.3, 0.4],
                "offset": -0.25, "thresholds": thresholds, "fitted_on": "nothing",
            },
            "others": {
                "features": ["evidence_minus_prior", "familiarity"],
                "mean": [0.0, 0.5], "scale": [2.0, 0.25], "weights": [0.8, 0.5],
                "offset": 0.1, "thresholds": thresholds, "fitted_on": "nothing",
            },
        },
    })
}

/// Arrays and `evidence.json` of an evidence that also matches texts with photographs and has
/// calibrations of words without an output.
pub(crate) fn matching() -> (HashMap<&'static str, Array>, Value) {
    let (mut arrays, mut config) = (arrays(), config());
    // Vectors of the words, then of the outputs: dogs, people, fire hydrants.
    let vectors = [1.0, 0.0, 0.0, 1.0, 0.6, 0.8, 1.0, 0.0, -1.0, 0.0, 0.0, -1.0];
    // Two equal members: their mean is that of each.
    for [fc1, bias1, fc2, bias2, all, gates] in [
        [
            "match.0.fc1.weight",
            "match.0.fc1.bias",
            "match.0.fc2.weight",
            "match.0.fc2.bias",
            "match.0.vectors",
            "match.0.gates",
        ],
        [
            "match.1.fc1.weight",
            "match.1.fc1.bias",
            "match.1.fc2.weight",
            "match.1.fc2.bias",
            "match.1.vectors",
            "match.1.gates",
        ],
    ] {
        arrays.extend([
            (fc1, f16s(&[1.0, 0.0, 0.0, 1.0], &[2, 2])),
            (bias1, f32s(&[0.0, 0.0], &[2])),
            (fc2, f16s(&[1.0, 0.0, 0.0, 1.0], &[2, 2])),
            (bias2, f32s(&[0.0, 1.05], &[2])),
            (all, f32s(&vectors, &[6, 2])),
            (gates, f32s(&[0.5, 0.0, 0.0, 0.0, 0.0, 0.0], &[6])),
        ]);
    }
    config["match"] = json!({"words": ["dog", "run", "red"], "members": 2});
    let thresholds = json!({"default": 0.5, "by_fpr": []});
    config["calibration"]["others"] = json!({
        "features": ["evidence_minus_prior", "familiarity", "match", "sentence_evidence"],
        "mean": [0.0, 0.5, 0.5, 0.0], "scale": [2.0, 0.25, 0.5, 2.0],
        "weights": [0.8, 0.5, 1.0, 0.25],
        "offset": 0.1, "thresholds": thresholds, "fitted_on": "nothing",
    });
    config["calibration"]["own_words"] = json!({
        "features": ["reward_logit", "log_probability", "is_attribute"],
        "mean": [0.0, -2.0, 0.5], "scale": [4.0, 1.5, 0.5], "weights": [2.0, 0.3, 0.4],
        "offset": 0.1, "thresholds": thresholds, "fitted_on": "nothing",
    });
    config["calibration"]["other_words"] = json!({
        "features": ["match", "is_action"],
        "mean": [0.5, 0.5], "scale": [0.5, 0.5], "weights": [1.0, -0.5],
        "offset": 0.2, "thresholds": thresholds, "fitted_on": "nothing",
    });
    (arrays, config)
}

/// A safetensors file.
pub(crate) fn file(arrays: &HashMap<&'static str, Array>) -> Vec<u8> {
    let views = arrays.iter().map(|(name, (bytes, dtype, shape))| {
        (
            *name,
            TensorView::new(*dtype, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize(views, None).unwrap()
}

/// The evidence loaded from both files.
pub(crate) fn evidence() -> Arc<Evidence> {
    let config = config().to_string();
    Arc::new(
        Evidence::from_files(Some(config.as_bytes()), Some(&file(&arrays())))
            .unwrap()
            .unwrap(),
    )
}

/// Returns the finisher of texts about a photograph with these logits of dog, person and fire
/// hydrant.
pub(crate) fn finisher(logits: [f32; 3], writer: WrittenBy) -> Arc<Finisher> {
    let image = ImageEvidence {
        logits: logits.into(),
        familiarity: 0.68371,
        embedding: None,
        scope: None,
    };
    Arc::new(Finisher::new(evidence(), image, writer))
}
