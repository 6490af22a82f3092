//! Comparison of a model on its device with the same model on the CPU, stage by stage.

use candle_core::Device;

use super::{
    checks::{QUESTIONS, SIZE, message, picture},
    report::CheckResult,
    subject::{EncodedPicture, EncodedPrompt, Subject, argmax, difference, numbers, text},
};
use crate::vlm::{
    Logits, Outputs, Row, StepOutput,
    processor::{ImageOptions, message::Message},
};

/// Tokens that are decoded with a cache, one by one.
const STEPS: usize = 8;

/// Width and height of a picture that is tall and of odd sizes.
const TALL: (u32, u32) = (97, 331);

/// Tokens of the longer texts.
const LENGTHS: [usize; 2] = [65, 700];

/// Prompt to compare.
struct ComparedPrompt {
    name: String,
    pictures: Vec<(u32, u32)>,
    message: Message,
    /// Number of tokens to which those of a text are repeated.
    len: Option<usize>,
}

/// Compares pixels, encoded images, embeddings, the hidden states of every layer, logits and cached
/// steps. `label` begins the names of the checks, `most` is the largest difference that passes, and
/// with `full` there are more prompts.
pub(super) fn compare(
    label: &str,
    subject: &Subject<'_>,
    on_cpu: &Subject<'_>,
    most: f64,
    full: bool,
) -> Vec<CheckResult> {
    let prompts = prompts(subject, full);
    let checks = prompts.iter().flat_map(|prompt| {
        let name = format!("{label}, {}", prompt.name);
        let mut checks = Vec::new();
        if let Err(error) = compare_prompt(&name, prompt, subject, on_cpu, most, &mut checks) {
            checks.push(CheckResult::of(name, Err(error)));
        }
        checks
    });
    checks.collect()
}

/// Returns the prompts that the model takes.
fn prompts(subject: &Subject<'_>, full: bool) -> Vec<ComparedPrompt> {
    let prompt = |name: &str, pictures: &[(u32, u32)], question: &str| ComparedPrompt {
        name: name.to_owned(),
        pictures: pictures.to_vec(),
        message: message(question, !pictures.is_empty()),
        len: None,
    };
    let counts = subject.processor.images();
    let mut prompts = Vec::new();
    if counts.contains(&1) {
        prompts.push(prompt("image", &[SIZE], QUESTIONS[0]));
        if full {
            prompts.push(prompt("tall image", &[TALL], QUESTIONS[1]));
        }
    }
    if counts.contains(&0) {
        prompts.push(prompt("text", &[], QUESTIONS[1]));
        let most = subject.vlm.spec().context_len.saturating_sub(STEPS + 1);
        for len in LENGTHS.into_iter().filter(|_| full) {
            let len = len.min(most);
            prompts.push(ComparedPrompt {
                len: Some(len),
                ..prompt(&format!("text of {len} tokens"), &[], QUESTIONS[1])
            });
        }
    }
    prompts
}

fn compare_prompt(
    name: &str,
    prompt: &ComparedPrompt,
    subject: &Subject<'_>,
    on_cpu: &Subject<'_>,
    most: f64,
    checks: &mut Vec<CheckResult>,
) -> Result<(), String> {
    let mut within = |stage: &str, got: &[Vec<f32>], want: &[Vec<f32>]| {
        let off = difference(got, want);
        checks.push(CheckResult::within(
            format!("{name}: {stage}"),
            Ok(off),
            most,
        ));
    };
    let encode = |subject: &Subject<'_>| -> Result<Vec<EncodedPicture>, String> {
        let pictures = prompt.pictures.iter().enumerate();
        pictures
            .map(|(i, &size)| subject.encode(i, &picture(size), &ImageOptions::default()))
            .collect()
    };
    let (got, want) = (encode(subject)?, encode(on_cpu)?);
    for (got, want) in got.iter().zip(&want) {
        let both = |got, want| Ok::<_, String>(([numbers(got)?], [numbers(want)?]));
        let (pixels, expected) = both(&got.pixels, &want.pixels)?;
        within("pixels", &pixels, &expected);
        let (features, expected) = both(&got.features.features, &want.features.features)?;
        within("features", &features, &expected);
    }
    let messages = std::slice::from_ref(&prompt.message);
    let encoded = |subject: &Subject<'_>, pictures: &[EncodedPicture]| {
        let mut encoded = subject.prompt(messages, pictures)?;
        if let Some(len) = prompt.len {
            let tokens = encoded.prompt.tokens.iter().copied();
            encoded.prompt.tokens = tokens.cycle().take(len).collect();
        }
        Ok::<_, String>(encoded)
    };
    let (got, want) = (encoded(subject, &got)?, encoded(on_cpu, &want)?);

    let embeddings = |subject: &Subject<'_>, prompt: &EncodedPrompt| {
        let embedded = subject.vlm.embed(&[prompt.part(0, 0..prompt.len())]);
        Ok::<_, String>([numbers(&embedded.map_err(text)?.x)?])
    };
    let (embedded, expected) = (embeddings(subject, &got)?, embeddings(on_cpu, &want)?);
    within("embeddings", &embedded, &expected);

    let expected = PromptStates::of(on_cpu, &want, None)?;
    let states = PromptStates::of(subject, &got, Some(&expected.tokens))?;
    within("logits", &states.logits, &expected.logits);
    within("steps", &states.steps, &expected.steps);
    let layers = states.layers.iter().zip(&expected.layers).enumerate();
    let layers = layers.map(|(layer, (got, want))| {
        let off = difference(std::slice::from_ref(got), std::slice::from_ref(want));
        (format!("layer {layer}"), off)
    });
    checks.push(CheckResult::largest(
        format!("{name}: hidden states"),
        Ok(layers.collect()),
        most,
    ));
    Ok(())
}

/// Outputs of the decoder for a prompt and some tokens behind it.
struct PromptStates {
    /// Hidden states of all positions of the prompt, one entry a layer.
    layers: Vec<Vec<f32>>,
    /// Logits behind every position of the prompt.
    logits: Vec<Vec<f32>>,
    /// Logits behind each of the tokens that follow.
    steps: Vec<Vec<f32>>,
    tokens: Vec<u32>,
}

impl PromptStates {
    /// Runs a prompt in one pass and then `tokens`, or the likeliest ones, with the cache.
    fn of(
        subject: &Subject<'_>,
        prompt: &EncodedPrompt,
        tokens: Option<&[u32]>,
    ) -> Result<Self, String> {
        let len = prompt.len();
        let mut cache = subject.cache(1, len)?;
        let all: Vec<usize> = (0..subject.vlm.spec().layers).collect();
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: &all,
        };
        let row = prompt.part(0, 0..len);
        let output = subject.vlm.forward(&[row], &mut cache, outputs);
        let StepOutput { logits, hidden } = output.map_err(text)?;
        let hidden = hidden.ok_or("the model returned no hidden states")?;
        let hidden = hidden.to_device(&Device::Cpu).map_err(text)?;
        let layer = |layer: usize| {
            let width = subject.vlm.spec().width;
            numbers(&hidden.narrow(1, layer * width, width).map_err(text)?)
        };
        let layers = all.iter().copied().map(layer).collect::<Result<_, _>>()?;
        let logits = logits.ok_or("the model returned no logits")?;
        let vocabulary = logits.dim(1).map_err(text)?;
        let logits = numbers(&logits)?;
        let logits: Vec<Vec<f32>> = logits.chunks(vocabulary).map(<[f32]>::to_vec).collect();

        let mut next = argmax(logits.last().ok_or("there are no logits")?);
        let (mut steps, mut fed) = (Vec::new(), Vec::new());
        let most = subject.vlm.spec().context_len - len;
        for step in 0..STEPS.min(most) {
            let token = tokens.and_then(|tokens| tokens.get(step)).copied();
            fed.push(token.unwrap_or(next));
            let row = Row::text(0, len + step, &fed[step..]);
            steps.extend(subject.run(&[row], &mut cache, Logits::Last)?);
            next = argmax(&steps[step]);
        }
        Ok(Self {
            layers,
            logits,
            steps,
            tokens: fed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bundle::{Bundle, OpenOptions},
        vlm::{processor::fixtures, weights::WeightsDtype},
    };

    #[test]
    fn rounded_weights_are_told_from_exact_ones() {
        let folder = fixtures().join("models/llava-old");
        let [exact, rounded] = [WeightsDtype::F32, WeightsDtype::Bf16].map(|dtype| {
            let options = OpenOptions {
                dtype,
                ..OpenOptions::default()
            };
            Bundle::open(folder.to_str().unwrap(), &options, &Device::Cpu).unwrap()
        });
        let [exact, rounded] = [&exact, &rounded].map(|bundle| Subject::of(bundle, 1e-4));
        let failed = |subject: &Subject<'_>| -> Vec<String> {
            let checks = compare("CPU", subject, &exact, 1e-4, true);
            assert_eq!(checks.len(), 2 * 6 + 3 * 4);
            let failed = checks.into_iter().filter(|check| !check.passed);
            failed.map(|check| check.name).collect()
        };
        assert_eq!(failed(&exact), [""; 0]);
        let failed = failed(&rounded);
        assert!(
            failed.contains(&"CPU, image: features".to_owned()),
            "{failed:?}"
        );
        assert!(
            failed.contains(&"CPU, text: logits".to_owned()),
            "{failed:?}"
        );
        assert!(
            !failed.iter().any(|name| name.ends_with("pixels")),
            "{failed:?}"
        );
    }
}
