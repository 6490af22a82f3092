//! Comparison of a model with the recording of a reference on the same weights.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, safetensors};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    report::CheckResult,
    subject::{EncodedPicture, EncodedPrompt, Subject, argmax, difference, text},
};
use crate::vlm::{
    Logits, Row, preprocess,
    preprocess::ImageLimits,
    processor::{ImageOptions, message::Message},
    prompt::{ImageSpan, Prompt},
};

/// Names of a recording's files, and those that fixtures have.
const NAMES: [&str; 2] = ["reference", "expected"];

/// Folders of a recording's pictures, relative to its own.
const PICTURE_FOLDERS: [&str; 3] = ["", "images", "../images"];

/// Largest difference of a pixel value, in units of the tower's input.
const MOST_PIXEL: f64 = 1e-3;

/// Recording.
pub(super) struct Reference {
    folder: PathBuf,
    cases: Vec<ReferenceCase>,
    tensors: HashMap<String, Tensor>,
}

#[derive(Deserialize)]
struct Recorded {
    cases: Vec<ReferenceCase>,
}

/// Prompt with what the reference makes of it.
#[derive(Deserialize)]
struct ReferenceCase {
    name: String,
    /// Files of the pictures.
    images: Vec<String>,
    #[serde(default)]
    image_options: RecordedImageOptions,
    /// Conversation; `None` for tokens that no conversation gives.
    messages: Option<Vec<Message>>,
    ids: Vec<u32>,
    /// Runs of the image token, end exclusive.
    image_ranges: Vec<(usize, usize)>,
    greedy: GreedyAnswer,
}

/// Options of the reference's image processor.
#[derive(Default, Deserialize)]
struct RecordedImageOptions {
    do_image_splitting: Option<bool>,
    size: Option<RecordedSize>,
}

#[derive(Deserialize)]
struct RecordedSize {
    longest_edge: Option<u32>,
}

#[derive(Deserialize)]
struct GreedyAnswer {
    ids: Vec<u32>,
}

impl Reference {
    /// Reads the recording in a folder.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let path = |name: &str, extension: &str| folder.join(format!("{name}.{extension}"));
        let found = NAMES.into_iter().find(|name| path(name, "json").exists());
        let name = found.ok_or_else(|| {
            let folder = folder.display();
            format!("{folder}: has no reference.json; tools/record_reference.py makes one")
        })?;
        let Recorded { cases } = read_json(&path(name, "json"))?;
        let file = path(name, "safetensors");
        let tensors = safetensors::load(&file, &Device::Cpu)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
            cases,
            tensors,
        })
    }

    /// Compares every case: tokens of the prompt, pixels, logits and greedy answer.
    pub(super) fn compare(&self, subject: &Subject<'_>) -> Vec<CheckResult> {
        let cases = self.cases.iter();
        cases
            .flat_map(|case| self.compare_case(subject, case))
            .collect()
    }

    fn compare_case(&self, subject: &Subject<'_>, case: &ReferenceCase) -> Vec<CheckResult> {
        let named = |what: &str| format!("{}: {what}", case.name);
        let pictures = match self.pictures(subject, case) {
            Ok(pictures) => pictures,
            Err(error) => return vec![CheckResult::of(named("pictures"), Err(error))],
        };
        let mut checks = Vec::new();
        if !pictures.is_empty() {
            let pixels = self.pixels(case, &pictures);
            checks.push(CheckResult::within(named("pixels"), pixels, MOST_PIXEL));
        }
        if let Some(messages) = &case.messages {
            let tokens = tokens(subject, case, messages, &pictures);
            checks.push(CheckResult::of(named("tokens"), tokens));
        }
        // The recorded tokens, so that a prompt that differs does not hide the model.
        let answered = recorded_prompt(case, &pictures).and_then(|prompt| {
            let answer = answer(subject, case, &prompt)?;
            let off = self.logits(case, &answer.first)?;
            Ok((answer, off))
        });
        match answered {
            Err(error) => checks.push(CheckResult::of(named("logits"), Err(error))),
            Ok((answer, off)) => {
                let logits = CheckResult::within(named("logits"), Ok(off), subject.tolerance);
                checks.push(logits);
                checks.push(CheckResult::of(
                    named("greedy"),
                    answer.same(&case.greedy.ids),
                ));
            }
        }
        checks
    }

    /// Decodes and encodes the pictures of a case.
    fn pictures(
        &self,
        subject: &Subject<'_>,
        case: &ReferenceCase,
    ) -> Result<Vec<EncodedPicture>, String> {
        let options = ImageOptions {
            do_image_splitting: case.image_options.do_image_splitting,
            longest_edge: case
                .image_options
                .size
                .as_ref()
                .and_then(|s| s.longest_edge),
        };
        let limits = ImageLimits::default();
        let encode = |(index, name): (usize, &String)| {
            let places = PICTURE_FOLDERS.map(|place| self.folder.join(place).join(name));
            let path = places
                .iter()
                .find(|path| path.is_file())
                .unwrap_or(&places[0]);
            let failed = |error: String| format!("{}: {error}", path.display());
            let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
            let picture = preprocess::decode(&bytes, &limits);
            let picture = picture.map_err(|error| failed(error.to_string()))?;
            subject.encode(index, &picture, &options).map_err(failed)
        };
        case.images.iter().enumerate().map(encode).collect()
    }

    fn tensor(&self, case: &ReferenceCase, what: &str) -> Option<&Tensor> {
        self.tensors.get(&format!("{}.{what}", case.name))
    }

    /// Returns the largest difference of the pictures' values from the recorded ones.
    fn pixels(&self, case: &ReferenceCase, pictures: &[EncodedPicture]) -> Result<f64, String> {
        let largest = || {
            let want = match (self.tensor(case, "pixels"), self.tensor(case, "pixels_u8")) {
                (Some(values), _) => values.to_dtype(DType::F32)?,
                (None, Some(levels)) => ((levels.to_dtype(DType::F32)? - 127.5)? / 127.5)?,
                (None, None) => candle_core::bail!("the recording has no pixels"),
            };
            let tiles = pictures.iter().map(|p| p.pixels.to_device(&Device::Cpu));
            let got = Tensor::cat(&tiles.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
            if got.dims() != want.dims() {
                candle_core::bail!("{:?} values, recorded are {:?}", got.dims(), want.dims());
            }
            (got - want)?.abs()?.max_all()?.to_scalar::<f32>()
        };
        largest().map(f64::from).map_err(text)
    }

    /// Returns the difference of the logits behind the prompt; an error if another token leads.
    fn logits(&self, case: &ReferenceCase, got: &[f32]) -> Result<f64, String> {
        let recorded = self
            .tensor(case, "logits")
            .ok_or("the recording has no logits")?;
        let recorded = recorded.to_dtype(DType::F32).map_err(text)?;
        let mut lines: Vec<Vec<f32>> = recorded.to_vec2().map_err(text)?;
        let want = lines.pop().ok_or("the recording has no logits")?;
        let (first, wanted) = (argmax(got), argmax(&want));
        let off = difference(&[got.to_vec()], &[want]);
        match first == wanted {
            true => Ok(off),
            false => Err(format!(
                "token {first} leads, in the recording {wanted} does; differs by {off:.1e}"
            )),
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = fs::read(path).map_err(|error| failed(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(&error))
}

/// Compares the tokens of a conversation with the recorded ones.
fn tokens(
    subject: &Subject<'_>,
    case: &ReferenceCase,
    messages: &[Message],
    pictures: &[EncodedPicture],
) -> Result<String, String> {
    let got = subject.prompt(messages, pictures)?.prompt.tokens;
    let want = &case.ids;
    if got == *want {
        return Ok(format!("{} as recorded", got.len()));
    }
    let differs = |at: &usize| got.get(*at) != want.get(*at);
    let at = (0..got.len().max(want.len())).find(differs).unwrap_or(0);
    Err(format!(
        "{} tokens, recorded are {}; the first that differs is number {at}: {:?}, recorded {:?}",
        got.len(),
        want.len(),
        got.get(at),
        want.get(at)
    ))
}

/// Returns the recorded tokens as a prompt.
fn recorded_prompt(
    case: &ReferenceCase,
    pictures: &[EncodedPicture],
) -> Result<EncodedPrompt, String> {
    if case.ids.is_empty() {
        return Err("the recording has no tokens".to_owned());
    }
    let rows: Vec<usize> = pictures.iter().map(|p| p.layout.tokens).collect();
    let images = spans(&case.image_ranges, &rows, case.ids.len())?;
    Ok(EncodedPrompt {
        prompt: Prompt {
            tokens: case.ids.clone(),
            images,
        },
        images: pictures.iter().map(|p| p.features.clone()).collect(),
    })
}

/// Gives the positions in `ranges` to images of `rows` features each, in their order.
fn spans(ranges: &[(usize, usize)], rows: &[usize], len: usize) -> Result<Vec<ImageSpan>, String> {
    let (mut image, mut row, mut last) = (0, 0, 0);
    let mut spans = Vec::new();
    for &(start, end) in ranges {
        if start < last || end > len {
            return Err(format!(
                "the images' positions {start}..{end} of {len} are wrong"
            ));
        }
        let mut at = start;
        while at < end {
            while rows.get(image) == Some(&row) {
                (image, row) = (image + 1, 0);
            }
            let left = rows.get(image).map_or(0, |rows| rows - row);
            let take = left.min(end - at);
            if take == 0 {
                return Err("there are more positions of images than features".to_owned());
            }
            spans.push(ImageSpan {
                range: at..at + take,
                image,
                rows: row..row + take,
            });
            (at, row) = (at + take, row + take);
        }
        last = end;
    }
    Ok(spans)
}

/// Answer of the model.
struct ModelAnswer {
    /// Logits behind the prompt.
    first: Vec<f32>,
    ids: Vec<u32>,
}

impl ModelAnswer {
    /// Compares the tokens with the recorded ones.
    fn same(&self, want: &[u32]) -> Result<String, String> {
        let common = self.ids.iter().zip(want).take_while(|(a, b)| a == b);
        match common.count() {
            count if count == want.len() => Ok(format!("{count} tokens as recorded")),
            count => Err(format!(
                "token {count} is {:?}, recorded {:?}",
                self.ids.get(count),
                want.get(count)
            )),
        }
    }
}

/// Answers a prompt with as many tokens as are recorded, always the likeliest.
fn answer(
    subject: &Subject<'_>,
    case: &ReferenceCase,
    prompt: &EncodedPrompt,
) -> Result<ModelAnswer, String> {
    let (len, wanted) = (prompt.len(), case.greedy.ids.len());
    let mut cache = subject.cache(1, len + wanted)?;
    let mut lines = subject.run(&[prompt.row(0)], &mut cache, Logits::Last)?;
    let first = lines.pop().ok_or("there are no logits")?;
    let mut ids = vec![argmax(&first)];
    while ids.len() < wanted {
        let last = &ids[ids.len() - 1..];
        let row = Row::text(0, len + ids.len() - 1, last);
        let mut lines = subject.run(&[row], &mut cache, Logits::Last)?;
        ids.push(argmax(&lines.pop().ok_or("there are no logits")?));
    }
    Ok(ModelAnswer { first, ids })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_positions_are_given_to_images() {
        let span = |range, image, rows| ImageSpan { range, image, rows };
        // Two pictures side by side are one run; a picture in parts is several.
        assert_eq!(
            spans(&[(1, 5), (6, 8)], &[2, 4], 9).unwrap(),
            [
                span(1..3, 0, 0..2),
                span(3..5, 1, 0..2),
                span(6..8, 1, 2..4)
            ]
        );
        assert!(spans(&[(1, 5)], &[2], 9).is_err());
        assert!(spans(&[(1, 5)], &[4], 4).is_err());
        assert!(spans(&[(3, 5), (1, 2)], &[3], 9).is_err());
    }
}
