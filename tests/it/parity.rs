//! What the parity tests share.

use std::{collections::HashMap, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};

/// Where `tests/parity/make_fixtures.py` writes.
pub fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity")
}

/// Weights, inputs and outputs of one network.
pub fn fixture(name: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixtures().join(name), &Device::Cpu).unwrap()
}

/// Fails when any element differs by more than `tolerance`.
#[track_caller]
pub fn assert_close(ours: &Tensor, theirs: &Tensor, tolerance: f64) {
    assert_eq!(ours.dims(), theirs.dims());
    let (ours, theirs) = (
        ours.to_dtype(DType::F64).unwrap(),
        theirs.to_dtype(DType::F64).unwrap(),
    );
    let difference = (ours - theirs)
        .unwrap()
        .abs()
        .unwrap()
        .max_all()
        .unwrap()
        .to_scalar::<f64>()
        .unwrap();
    assert!(
        difference <= tolerance,
        "the largest difference is {difference}"
    );
}
