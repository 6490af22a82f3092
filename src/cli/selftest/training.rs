//! Comparison of training steps on a device with the same on the CPU.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};

use super::{
    report::CheckResult,
    subject::{difference, numbers, text},
};
use crate::{
    bundle::Bundle,
    train::{
        Tensors,
        optim::{AdamW, OptimConfig, named_vars},
        rows::{ResponseBranch, RowBatch, TextRow},
        tower::Tower,
    },
    vlm::{
        decoder::Regular,
        models::candor_mini::{PrefixDecoder, PrefixDecoderConfig},
        nn,
    },
};

/// Steps of the optimizer.
const STEPS: usize = 3;

/// Largest relative difference of losses and gradients.
const MOST: f64 = 1e-3;

/// Optimizer whose first steps are large enough to be seen.
const OPTIMIZER: OptimConfig = OptimConfig {
    learning_rate: 1e-3,
    warmup_steps: 0,
    final_share: 1.0,
    weight_decay: 0.01,
    beta1: 0.9,
    beta2: 0.95,
    clip_norm: 1.0,
    ema_decay: 0.9,
};

/// Results of some training steps.
struct TrainingTrace {
    /// Gradients of the first step, by the names of the variables.
    gradients: Vec<(String, Vec<f32>)>,
    /// Loss before each step and behind the last.
    losses: Vec<f32>,
}

/// Compares the gradients of the first step, and the losses of some.
pub(super) fn compare(name: &str, device: &Device) -> Vec<CheckResult> {
    let [gradients, losses] = ["gradients", "losses"].map(|what| format!("CPU, training: {what}"));
    let both = train(name, device).and_then(|got| Ok((got, train(name, &Device::Cpu)?)));
    let (got, want) = match both {
        Ok(both) => both,
        Err(error) => return vec![CheckResult::of(gradients, Err(error))],
    };
    let pairs = got.gradients.into_iter().zip(want.gradients);
    let differences = pairs.map(|((name, got), (_, want))| (name, difference(&[got], &[want])));
    let falls = match want.losses.as_slice() {
        [first, .., last] if last < first => Ok(difference(
            std::slice::from_ref(&got.losses),
            &[want.losses],
        )),
        other => Err(format!("the losses {other:?} do not fall")),
    };
    vec![
        CheckResult::largest(gradients, Ok(differences.collect()), MOST),
        CheckResult::within(losses, falls, MOST),
    ]
}

/// Trains projector and decoder of a bundle for some steps on two made-up rows of text.
fn train(name: &str, device: &Device) -> Result<TrainingTrace, String> {
    let config = Bundle::describe(name).map_err(text)?.model.language;
    let network = TrainedNetwork {
        config,
        vars: VarMap::new(),
        device: device.clone(),
    };
    network.model().map_err(text)?;
    let file = Bundle::file(name, "model.safetensors").map_err(text)?;
    let stored: Tensors = candle_core::safetensors::load_buffer(&file, &Device::Cpu)
        .map_err(text)?
        .into_iter()
        .filter(|(name, _)| !name.starts_with(Tower::PREFIX))
        .collect();
    let named = named_vars(&network.vars);
    for (name, var) in &named {
        let weight = stored.get(name).ok_or(format!("there is no {name}"))?;
        let weight = weight.to_dtype(DType::F32).map_err(text)?;
        var.set(&weight.to_device(device).map_err(text)?)
            .map_err(text)?;
    }
    let mut optimizer = AdamW::new(&network.vars, OPTIMIZER).map_err(text)?;
    let (mut losses, mut first) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let (loss, gradients) = network.gradients(&optimizer).map_err(text)?;
        losses.push(loss);
        if step == 0 {
            first.clone_from(&gradients);
        }
        optimizer.step(gradients, step, STEPS).map_err(text)?;
    }
    losses.extend(numbers(&network.loss().map_err(text)?)?);
    let names = named.into_iter().map(|(name, _)| name);
    Ok(TrainingTrace {
        gradients: names.zip(first).collect(),
        losses,
    })
}

/// Projector and decoder whose weights are variables.
struct TrainedNetwork {
    config: PrefixDecoderConfig,
    vars: VarMap,
    device: Device,
}

impl TrainedNetwork {
    /// Returns the network with the present values: joined matrices are made when it is loaded.
    fn model(&self) -> candle_core::Result<PrefixDecoder> {
        let vars = VarBuilder::from_varmap(&self.vars, DType::F32, &self.device);
        PrefixDecoder::load(&self.config, vars)
    }

    /// Returns the loss and the gradient of every variable.
    fn gradients(&self, optimizer: &AdamW) -> candle_core::Result<(f32, Vec<Vec<f32>>)> {
        let loss = self.loss()?;
        let found = loss.backward()?;
        let gradient = |var: Var| match found.get(&var) {
            Some(gradient) => gradient.flatten_all()?.to_vec1(),
            None => candle_core::bail!("a variable has no gradient"),
        };
        let gradients = optimizer.vars().into_iter().map(gradient);
        Ok((
            loss.to_scalar()?,
            gradients.collect::<candle_core::Result<_>>()?,
        ))
    }

    /// Returns the mean cross-entropy of the tokens of two rows behind images, all made up.
    fn loss(&self) -> candle_core::Result<Tensor> {
        let (model, device) = (self.model()?, &self.device);
        let vocabulary = model.llama().config().vocab_size;
        let tokens = |from: usize, len: usize| -> Vec<u32> {
            let tokens = (0..len).map(|i| ((from + i * 97) % vocabulary) as u32);
            tokens.collect()
        };
        let row = |from: usize, prompt: usize, answer: usize| TextRow {
            prompt: tokens(from, prompt),
            branches: vec![ResponseBranch {
                after_prompt: true,
                tokens: tokens(from + 31, answer),
                learn_from: 0,
            }],
        };
        let connector = &self.config.connector;
        let (positions, channels) = (connector.tokens, connector.in_features);
        let batch = RowBatch::new(&[row(11, 6, 20), row(5, 4, 12)], positions)?;
        let values = (0..2 * positions * channels).map(|i| (i as f32 * 0.37).sin());
        let values: Vec<f32> = values.collect();
        let images = Tensor::from_vec(values, (2, positions, channels), device)?;
        let mask = batch.mask.to_device(device)?;
        let (tokens, at) = (&batch.tokens, &batch.positions);
        let mut states = model.whole(&images, tokens, at, &mask, Regular::default())?;
        let Some(last) = states.pop() else {
            candle_core::bail!("the decoder has no layers")
        };
        let lines = Tensor::new(batch.lines.as_slice(), device)?;
        let logits = model.llama().logits(&last.index_select(&lines, 0)?)?;
        let weights = vec![1.0 / batch.targets.len() as f32; batch.targets.len()];
        nn::cross_entropy(&logits, &batch.targets, &weights, 0.1)
    }
}
