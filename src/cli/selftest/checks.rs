//! Checks of a model against itself.

use image::{Rgb, RgbImage};

use super::{
    report::CheckResult,
    subject::{EncodedPicture, EncodedPrompt, Subject, argmax, difference, text},
};
use crate::vlm::{
    Logits, Row,
    processor::{
        ImageOptions,
        message::{Message, PromptPart},
    },
};

/// Width and height of the picture.
pub(super) const SIZE: (u32, u32) = (320, 240);

/// Questions of two prompts, of different lengths.
pub(super) const QUESTIONS: [&str; 2] = [
    "Describe the image.",
    "Which colors are in it, and which of them is the brightest?",
];

/// Texts that a tokenizer must spell.
const TEXTS: [&str; 4] = [
    "What do you see in the picture?",
    " two  spaces, and\na line\tand 1,234.5",
    "Grüße, naïve façade",
    "日本語 🐈",
];

/// Runs all checks, in the order in which they build on each other.
pub(super) fn all(subject: &Subject<'_>) -> Vec<CheckResult> {
    let mut checks = vec![CheckResult::of("tokenizer", tokenizer(subject))];
    let picture = subject.sees().then(|| {
        let encoded = subject.encode(0, &picture(SIZE), &ImageOptions::default());
        checks.push(CheckResult::of("features", features(&encoded)));
        encoded
    });
    let pictures = match picture.transpose() {
        Ok(picture) => picture.into_iter().collect::<Vec<EncodedPicture>>(),
        Err(_) => return checks,
    };
    let prompts =
        QUESTIONS.map(|question| subject.prompt(&[message(question, subject.sees())], &pictures));
    checks.push(CheckResult::of("template", template(subject, &prompts[0])));
    let [Ok(first), Ok(second)] = prompts else {
        return checks;
    };
    let whole = whole(subject, &first);
    checks.push(CheckResult::of("logits", logits(&whole)));
    let Ok(whole) = whole else {
        return checks;
    };
    let most = subject.tolerance;
    checks.extend([
        CheckResult::within("token by token", steps(subject, &first, &whole), most),
        CheckResult::within("batch", batch(subject, &first, &second, &whole), most),
        CheckResult::within("fork and rollback", fork(subject, &first, &whole), most),
    ]);
    checks
}

/// Returns a picture with slopes, edges and every color.
pub(super) fn picture((width, height): (u32, u32)) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let is_edge = (x / 40 + y / 40).is_multiple_of(2);
        let slope = |at: u32, of: u32| (at * 255 / of) as u8;
        Rgb([
            slope(x, width),
            slope(y, height),
            if is_edge { 220 } else { 30 },
        ])
    })
}

/// Returns a question of a user, behind an image if it is about one.
pub(super) fn message(question: &str, about_image: bool) -> Message {
    let mut message = Message::text("user", question);
    if about_image {
        message.content.insert(0, PromptPart::Image);
    }
    message
}

fn tokenizer(subject: &Subject<'_>) -> Result<String, String> {
    let tokenizer = subject.processor.tokenizer();
    let mut tokens = 0;
    for given in TEXTS {
        let given = subject.casing.apply(given);
        let ids = tokenizer.encode_text(&given).map_err(text)?;
        if !tokenizer.spells(&ids, &given) {
            return Err(format!("{given:?} becomes {:?}", tokenizer.decode(&ids)));
        }
        tokens += ids.len();
    }
    Ok(format!(
        "{} texts are the bytes of their {tokens} tokens",
        TEXTS.len()
    ))
}

fn features(picture: &Result<EncodedPicture, String>) -> Result<String, String> {
    let features = &picture.as_ref()?.features.features;
    let (rows, channels) = features.dims2().map_err(text)?;
    let values = features.flatten_all().map_err(text)?;
    let values: Vec<f32> = values.to_vec1().map_err(text)?;
    let infinite = values.iter().filter(|value| !value.is_finite()).count();
    match infinite {
        0 => Ok(format!(
            "{rows} positions of {channels} channels, all finite"
        )),
        _ => Err(format!("{infinite} of {} are not finite", values.len())),
    }
}

fn template(
    subject: &Subject<'_>,
    prompt: &Result<EncodedPrompt, String>,
) -> Result<String, String> {
    let EncodedPrompt { prompt, images } = prompt.as_ref()?;
    let shown: usize = prompt.images.iter().map(|span| span.range.len()).sum();
    let mut expected = 0;
    for image in images {
        expected += image.features.dim(0).map_err(text)?;
    }
    if shown != expected {
        return Err(format!(
            "the prompt shows {shown} of {expected} positions of the image"
        ));
    }
    let rows = subject.vlm.spec().vocab_size;
    let is_text = |at: &usize| !prompt.images.iter().any(|span| span.range.contains(at));
    let texts = (0..prompt.tokens.len()).filter(is_text);
    if let Some(token) = texts
        .map(|at| prompt.tokens[at])
        .find(|&id| id as usize >= rows)
    {
        return Err(format!(
            "the prompt has the token {token}, the model {rows}"
        ));
    }
    Ok(format!(
        "{} tokens, {shown} of them an image's",
        prompt.tokens.len()
    ))
}

/// Returns the logits behind the last image in one pass.
fn whole(subject: &Subject<'_>, prompt: &EncodedPrompt) -> Result<Vec<Vec<f32>>, String> {
    let mut cache = subject.cache(1, prompt.len())?;
    subject.run(&[prompt.row(0)], &mut cache, Logits::All)
}

fn logits(whole: &Result<Vec<Vec<f32>>, String>) -> Result<String, String> {
    let lines = whole.as_ref()?;
    let infinite = lines.iter().flatten().filter(|x| !x.is_finite()).count();
    match (infinite, lines.last()) {
        (0, Some(last)) => Ok(format!(
            "{} positions of {} numbers, all finite; token {} comes next",
            lines.len(),
            last.len(),
            argmax(last)
        )),
        _ => Err(format!("{infinite} numbers are not finite")),
    }
}

/// Compares a prompt in one pass with the same in its least parts.
fn steps(subject: &Subject<'_>, prompt: &EncodedPrompt, whole: &[Vec<f32>]) -> Result<f64, String> {
    let mut cache = subject.cache(1, prompt.len())?;
    let mut lines = Vec::new();
    for part in prompt.parts() {
        let is_wanted = part.end > prompt.from();
        let row = prompt.part(0, part);
        let last = subject.run(&[row], &mut cache, Logits::Last)?;
        if is_wanted {
            lines.extend(last);
        }
    }
    Ok(difference(&lines, whole))
}

/// Compares two prompts in one batch with each of them alone.
fn batch(
    subject: &Subject<'_>,
    first: &EncodedPrompt,
    second: &EncodedPrompt,
    alone: &[Vec<f32>],
) -> Result<f64, String> {
    let alone = [alone, &whole(subject, second)?].concat();
    let mut cache = subject.cache(2, first.len().max(second.len()))?;
    let rows = [first.row(0), second.row(1)];
    let together = subject.run(&rows, &mut cache, Logits::All)?;
    Ok(difference(&together, &alone))
}

/// Compares a sequence and its fork, which went another way and was rolled back, with a sequence
/// that nobody forked.
fn fork(subject: &Subject<'_>, prompt: &EncodedPrompt, whole: &[Vec<f32>]) -> Result<f64, String> {
    let len = prompt.len();
    let last = whole.last().ok_or("there are no logits")?;
    let next = argmax(last);
    let another = (next + 1) % last.len() as u32;
    let (next, others) = ([next], [another, another]);

    let mut fresh = subject.cache(1, len)?;
    subject.run(&[prompt.row(0)], &mut fresh, Logits::Last)?;
    let want = subject.run(&[Row::text(0, len, &next)], &mut fresh, Logits::Last)?;

    let mut cache = subject.cache(2, len)?;
    subject.run(&[prompt.row(0)], &mut cache, Logits::Last)?;
    cache.fork(0, 1, len);
    subject.run(&[Row::text(1, len, &others)], &mut cache, Logits::Last)?;
    cache.truncate(1, len);
    let both = [Row::text(0, len, &next), Row::text(1, len, &next)];
    let got = subject.run(&both, &mut cache, Logits::Last)?;
    let forked = difference(&got, &[want.clone(), want].concat());

    // A slot that is used again begins anew.
    cache.truncate(0, 0);
    let again = subject.run(&[prompt.row(0)], &mut cache, Logits::All)?;
    Ok(forked.max(difference(&again, whole)))
}
