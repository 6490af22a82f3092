//! Inputs of evaluation: the captions and objects of a data set ([`ReferenceSet`]), and a model's
//! captions of its images ([`Hypotheses`]).
//!
//! Nothing is skipped silently. Every problem is reported with its file and line (or array
//! element), the first twenty of a file in one error.

mod coco;
pub mod flickr8k;
pub mod questions;
mod references;
mod rows;

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    path::{Path, PathBuf},
};

use serde::Deserialize;

pub(crate) use self::references::EXTENSIONS;
pub(super) use self::rows::{AnyValue, read, rows};
pub use self::{
    references::{AnnotatedImage, ObjectBox, Rect, ReferenceSet},
    rows::{DataError, RowPosition, RowProblems},
};

/// Caption that a model wrote for an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hypothesis {
    /// Image as the file names it: an id, a file name, or a path that ends in one.
    pub image: String,
    /// Caption; may be empty.
    pub caption: String,
    /// Objects that the image shows, if the row lists them.
    pub objects: Option<BTreeSet<String>>,
    /// Position of the row in its file.
    pub position: RowPosition,
}

/// Captions of one model, at most one per image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hypotheses {
    /// File that they were read from.
    pub path: PathBuf,
    /// Rows in the file's order.
    pub rows: Vec<Hypothesis>,
}

/// Fields of a row that are read; others are ignored.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Row<'a> {
    #[serde(borrow, default)]
    image_id: AnyValue<'a>,
    #[serde(borrow, default)]
    image: AnyValue<'a>,
    #[serde(borrow, default)]
    caption: AnyValue<'a>,
    #[serde(borrow, default)]
    text: AnyValue<'a>,
    #[serde(borrow, default)]
    objects: AnyValue<'a>,
    #[serde(borrow, default)]
    error: AnyValue<'a>,
}

impl Hypotheses {
    /// Reads JSONL rows `{"image_id" or "image", "caption" or "text", "objects"?}`, or a JSON array
    /// of them (the format of COCO's results).
    ///
    /// # Errors
    /// See [`DataError`]. A row with an `error` and no caption comes from `candor caption --batch`,
    /// for a photograph that it could not read.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let rows = Self::open_partial(path)?;
        if rows.is_empty() {
            return Err(DataError::Unusable {
                path: path.to_owned(),
                what: "it contains no caption".into(),
            });
        }
        Ok(Self {
            path: path.to_owned(),
            rows,
        })
    }

    /// Reads the rows of a file that is still being written; it may be empty.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_partial(path: &Path) -> Result<Vec<Hypothesis>, DataError> {
        let text = read(path)?;
        let mut problems = RowProblems::new(path);
        let mut found = Vec::new();
        for (position, row) in rows(&text, &mut problems) {
            found.extend(problems.take(position, hypothesis(row, position)));
        }
        problems.into_result()?;
        Ok(found)
    }
}

fn hypothesis(row: Row, position: RowPosition) -> Result<Hypothesis, String> {
    let image = image_name(row.image_id, row.image)?.into_owned();
    let caption = match (row.caption, row.text) {
        (caption, text) if caption.is_absent() && text.is_absent() => match row.error {
            AnyValue::Text(error) => {
                return Err(format!("'{image}' has no caption but an error: {error}"));
            }
            _ => caption.text("caption")?,
        },
        (caption, text) if caption.is_absent() => text.text("text")?,
        (caption, _) => caption.text("caption")?,
    };
    Ok(Hypothesis {
        image,
        caption: caption.into_owned(),
        objects: row.objects.objects()?,
        position,
    })
}

/// Name of a row's image.
fn image_name<'a>(image_id: AnyValue<'a>, image: AnyValue<'a>) -> Result<Cow<'a, str>, String> {
    match (image_id, image) {
        (id, image) if id.is_absent() && image.is_absent() => {
            Err("neither 'image_id' nor 'image' is present".into())
        }
        (id, image) if id.is_absent() => image.name("image"),
        (id, _) => id.name("image_id"),
    }
}

/// Hypotheses with their references.
#[derive(Debug, Clone)]
pub struct Pairs<'a> {
    /// Pairs in the hypotheses' order.
    pub pairs: Vec<(&'a AnnotatedImage, &'a Hypothesis)>,
    /// References without a hypothesis.
    pub missing: usize,
}

/// Pairs every hypothesis with its reference; with `partial`, references may lack a hypothesis.
///
/// # Errors
/// A hypothesis without a reference, an image with two hypotheses, or, unless `partial`, a
/// reference without a hypothesis.
pub fn pair<'a>(
    references: &'a ReferenceSet,
    hypotheses: &'a Hypotheses,
    partial: bool,
) -> Result<Pairs<'a>, DataError> {
    let mut problems = RowProblems::new(&hypotheses.path);
    let mut pairs = Vec::with_capacity(hypotheses.rows.len());
    let mut taken: HashMap<usize, RowPosition> = HashMap::new();
    for row in &hypotheses.rows {
        let Some(index) = problems.take(row.position, references.find(&row.image)) else {
            continue;
        };
        match taken.entry(index) {
            Entry::Occupied(first) => problems.add(
                row.position,
                format!(
                    "'{}' already has a caption{}",
                    row.image,
                    first.get().back_reference()
                ),
            ),
            Entry::Vacant(free) => {
                free.insert(row.position);
                pairs.push((&references.images()[index], row));
            }
        }
    }
    let missing = references.images().len() - taken.len();
    if !partial {
        for (_, image) in references
            .images()
            .iter()
            .enumerate()
            .filter(|(i, _)| !taken.contains_key(i))
        {
            problems.add(
                RowPosition::File,
                format!("no caption for '{}'", image.name()),
            );
        }
    }
    problems.into_result()?;
    Ok(Pairs { pairs, missing })
}

#[cfg(test)]
mod tests;
