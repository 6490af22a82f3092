//! Gradient test: every variable of policy and value head gets the gradient of PPO's whole loss
//! that finite differences give. An operation without a backward pass would silently cut it.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};

use super::value::ValueHead;
use crate::{
    train::{
        losses::policy::{Clip, PolicyTokens, policy_loss, value_loss},
        optim::named_vars,
        rows::{ResponseBranch, RowBatch, TextRow},
    },
    vlm::{
        decoder::{DecoderConfig, Regular},
        models::candor_mini::{PrefixDecoder, PrefixDecoderConfig},
        nn::{self, tests::check_gradients},
        projector::MlpConfig,
    },
};

fn config() -> PrefixDecoderConfig {
    PrefixDecoderConfig {
        connector: MlpConfig {
            in_features: 6,
            width: 8,
            tokens: 2,
        },
        decoder: DecoderConfig {
            vocab_size: 12,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings: true,
            ..DecoderConfig::default()
        },
    }
}

#[test]
fn ppo_loss_gradients_agree_with_finite_differences() {
    let vars = VarMap::new();
    let load = || {
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        (
            PrefixDecoder::load(&config(), vb.clone()).unwrap(),
            ValueHead::load(8, 5, vb.pp("value")).unwrap(),
        )
    };
    load();
    for (i, (_, var)) in named_vars(&vars).into_iter().enumerate() {
        let base = if var.rank() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..var.elem_count())
            .map(|j| base + (((i * 131 + j * 97) % 41) as f32 - 20.0) / 40.0)
            .collect();
        var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu).unwrap())
            .unwrap();
    }
    let answer = |tokens: &[u32]| ResponseBranch {
        after_prompt: true,
        tokens: tokens.to_vec(),
        learn_from: 0,
    };
    let row = TextRow {
        prompt: vec![1, 2],
        branches: vec![answer(&[3, 4, 5]), answer(&[6, 7, 0])],
    };
    let batch = RowBatch::new(&[row], 2).unwrap();
    let images = Tensor::from_vec(
        (0..12)
            .map(|i| ((i * 29 % 23) as f32 - 11.0) / 6.0)
            .collect::<Vec<_>>(),
        (1, 2, 6),
        &Device::Cpu,
    )
    .unwrap();
    // Inside the clips, where the loss is differentiable.
    let clip = Clip {
        ratio: 1e3,
        value: 1e3,
        log_ratio: 20.0,
    };
    let now = |(model, value): &(PrefixDecoder, ValueHead)| {
        let states = model
            .whole(
                &images,
                &batch.tokens,
                &batch.positions,
                &batch.mask,
                Regular::default(),
            )
            .unwrap();
        let lines = Tensor::new(batch.lines.as_slice(), &Device::Cpu).unwrap();
        let states = states.last().unwrap().index_select(&lines, 0).unwrap();
        (
            nn::log_probs(&model.llama().logits(&states).unwrap(), &batch.targets).unwrap(),
            value.values(&states).unwrap(),
        )
    };
    let (log_probs, values) = now(&load());
    let written = PolicyTokens {
        log_probs: log_probs
            .to_vec1::<f32>()
            .unwrap()
            .iter()
            .map(|x| x - 0.1)
            .collect(),
        values: values.to_vec1().unwrap(),
        advantages: vec![1.0, -0.5, 0.25, 2.0, -1.5, 0.75],
        returns: vec![0.5, 1.0, -1.0, 0.0, 2.0, -0.5],
        weights: vec![1.0 / 6.0; 6],
    };
    let (value_vars, policy_vars): (Vec<_>, Vec<_>) = named_vars(&vars)
        .into_iter()
        .partition(|(name, _)| name.starts_with("value."));
    assert_eq!(value_vars.len(), 4);
    let only = |vars: Vec<(String, Var)>| vars.into_iter().map(|(_, var)| var).collect::<Vec<_>>();
    check_gradients(&only(policy_vars), || {
        policy_loss(&now(&load()).0, &written, &clip)
            .unwrap()
            .reshape(1)
            .unwrap()
    });
    check_gradients(&only(value_vars), || {
        value_loss(&now(&load()).1, &written, &clip)
            .unwrap()
            .reshape(1)
            .unwrap()
    });
    let value_gradients = value_loss(&now(&load()).1, &written, &clip)
        .unwrap()
        .backward()
        .unwrap();
    let policy = named_vars(&vars)
        .into_iter()
        .filter(|(name, _)| !name.starts_with("value."));
    assert!(
        policy
            .into_iter()
            .all(|(_, var)| value_gradients.get(&var).is_none()),
        "the value loss has no gradient in the policy"
    );
}
