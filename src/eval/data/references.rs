//! Annotated images, and looking them up by the various names that models' outputs use.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, hash_map::Entry},
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    Hypotheses, coco,
    flickr8k::open_split,
    image_name,
    rows::{AnyValue, DataError, RowPosition, RowProblems, read, rows},
};

/// File name extensions of photographs, readable or not; any other dot belongs to the name.
pub(crate) const EXTENSIONS: [&str; 12] = [
    "jpg", "jpeg", "jfif", "png", "gif", "webp", "bmp", "avif", "heic", "heif", "tif", "tiff",
];

/// A rectangle relative to an image's width and height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub left: f64,
    /// Top edge.
    pub top: f64,
    /// Width.
    pub width: f64,
    /// Height.
    pub height: f64,
}

impl Rect {
    /// Converts a box in pixels (left, top, width, height) for an image of the given size; `None`
    /// if it is empty.
    pub fn from_pixels(
        [left, top, width, height]: [f64; 4],
        [across, down]: [f64; 2],
    ) -> Option<Self> {
        let rect = Self {
            left: left / across,
            top: top / down,
            width: width / across,
            height: height / down,
        };
        (across > 0.0 && down > 0.0 && width > 0.0 && height > 0.0 && rect.area().is_finite())
            .then_some(rect)
    }

    /// Share of the image that the rectangle covers.
    pub fn area(&self) -> f64 {
        self.width * self.height
    }

    /// Share of the image that both rectangles cover.
    pub fn overlap(&self, other: &Self) -> f64 {
        let common = |a: f64, b: f64, length: f64, other: f64| {
            ((a + length).min(b + other) - a.max(b)).max(0.0)
        };
        common(self.left, other.left, self.width, other.width)
            * common(self.top, other.top, self.height, other.height)
    }
}

/// An annotated object with its bounding box.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectBox {
    /// Name of the object.
    pub object: String,
    /// Bounding box.
    pub rect: Rect,
    /// `true` if the box is around a group instead of a single object.
    pub is_crowd: bool,
}

/// An image with its annotations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnnotatedImage {
    /// Unique id in its set: COCO's number, Flickr8k's file name.
    pub id: String,
    /// File name of the photograph.
    pub file_name: Option<String>,
    /// Path of the photograph, if the file exists.
    pub photo: Option<PathBuf>,
    /// Captions by people, perhaps none.
    pub captions: Vec<String>,
    /// Names of the annotated objects; `None` if the image has no annotation of objects.
    pub objects: Option<BTreeSet<String>>,
    /// Bounding boxes, if known together with the image's size.
    pub boxes: Vec<ObjectBox>,
}

impl AnnotatedImage {
    /// File name if there is one, else the id.
    pub fn name(&self) -> &str {
        self.file_name.as_deref().unwrap_or(&self.id)
    }
}

/// Images of a data set in its file's order.
#[derive(Debug, Clone, Default)]
pub struct ReferenceSet {
    images: Vec<AnnotatedImage>,
    names: HashMap<String, ImageMatch>,
    notes: Vec<String>,
}

/// Image that a name refers to, and the kind of match: id (0), file name (1), or name without
/// folder, extension and leading zeros (2).
#[derive(Debug, Clone, Copy)]
struct ImageMatch {
    level: usize,
    /// `None` if the name matches several images.
    image: Option<usize>,
}

impl ReferenceSet {
    /// Reads a data set: a folder in Flickr8k's layout (`split` is a list `SPLIT.txt`, by default
    /// `dev`) or in COCO's (`captions*.json`, `instances*.json` or both, at the top or in
    /// `annotations/`; `split` is what follows the underscore), a COCO file, or JSONL rows (or a
    /// JSON array of them) `{"image_id" or "image", "captions" or "caption", "objects"}`.
    ///
    /// # Errors
    /// See [`DataError`].
    pub fn open(path: &Path, split: Option<&str>) -> Result<Self, DataError> {
        let unusable = |what: &str| {
            Err(DataError::Unusable {
                path: path.to_owned(),
                what: what.into(),
            })
        };
        let set = match (path.is_dir(), split) {
            (true, _) if path.join("captions.tsv").is_file() => flickr8k(path, split)?,
            (true, _) => coco::folder(path, split)?,
            (false, Some(_)) if path.is_file() => {
                return unusable("a split was given, but this is a file; only folders have splits");
            }
            (false, _) => {
                let text = read(path)?;
                if has_rows(path, &text) {
                    jsonl(path, &text)?
                } else {
                    coco::file(path, &text)?
                }
            }
        };
        if set.images.is_empty() {
            unusable("it contains no image")
        } else {
            Ok(Self::new(set))
        }
    }

    /// Uses the rows of a model's output as their own references: each lists the objects of its
    /// image.
    ///
    /// # Errors
    /// A row without objects, or an image that occurs twice.
    pub fn from_rows(hypotheses: &Hypotheses) -> Result<Self, DataError> {
        let mut problems = RowProblems::new(&hypotheses.path);
        let mut set = UniqueImages::default();
        for row in &hypotheses.rows {
            if row.objects.is_none() {
                problems.add(
                    row.position,
                    format!(
                        "'{}' has no 'objects', and no references were given",
                        row.image
                    ),
                );
            }
            let image = AnnotatedImage {
                id: row.image.clone(),
                objects: row.objects.clone(),
                ..AnnotatedImage::default()
            };
            set.add(image, row.position, &mut problems);
        }
        problems.into_result()?;
        Ok(Self::new(set))
    }

    pub(super) fn new(set: UniqueImages) -> Self {
        let notes = set.notes();
        let images = set.images;
        let mut names: HashMap<String, ImageMatch> = HashMap::with_capacity(2 * images.len());
        let mut enter = |level: usize, index: usize, name: &str| match names.entry(name.to_owned())
        {
            Entry::Vacant(free) => {
                _ = free.insert(ImageMatch {
                    level,
                    image: Some(index),
                })
            }
            Entry::Occupied(mut taken) => {
                let found = taken.get_mut();
                if found.level == level && found.image != Some(index) {
                    found.image = None;
                }
            }
        };
        // A better kind of match is never hidden by a worse one.
        images
            .iter()
            .enumerate()
            .for_each(|(i, image)| enter(0, i, &image.id));
        images
            .iter()
            .enumerate()
            .for_each(|(i, image)| image.file_name.iter().for_each(|name| enter(1, i, name)));
        for (i, image) in images.iter().enumerate() {
            enter(2, i, bare_name(&image.id));
            image
                .file_name
                .iter()
                .for_each(|name| enter(2, i, bare_name(name)));
        }
        Self {
            images,
            names,
            notes,
        }
    }

    /// Notes on omitted data, for the reader of figures.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All images.
    pub fn images(&self) -> &[AnnotatedImage] {
        &self.images
    }

    /// Image with that id, file name (also behind a path), file name without extension, or COCO
    /// number (`790` is `000000000790.jpg` and `COCO_val2014_000000000790.jpg`); `None` if there is
    /// none or more than one.
    pub fn get(&self, name: &str) -> Option<&AnnotatedImage> {
        self.find(name).ok().map(|index| &self.images[index])
    }

    pub(super) fn find(&self, name: &str) -> Result<usize, String> {
        let found = [name, base_name(name), bare_name(name)]
            .into_iter()
            .find_map(|key| self.names.get(key));
        match found {
            Some(ImageMatch {
                image: Some(index), ..
            }) => Ok(*index),
            Some(_) => Err(format!("'{name}' matches several images of the references")),
            None => Err(format!("'{name}' is not an image of the references")),
        }
    }
}

/// Name without its folder.
fn base_name(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// Name without folder, extension, and leading zeros (with `COCO_val2014_` or the like) of a
/// number.
fn bare_name(name: &str) -> &str {
    let base = base_name(name);
    let stem = match base.rsplit_once('.') {
        Some((stem, extension))
            if EXTENSIONS
                .iter()
                .any(|known| extension.eq_ignore_ascii_case(known)) =>
        {
            stem
        }
        _ => base,
    };
    let digits = stem
        .strip_prefix("COCO_")
        .and_then(|rest| rest.rsplit('_').next())
        .unwrap_or(stem);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return stem;
    }
    let number = digits.trim_start_matches('0');
    if number.is_empty() { "0" } else { number }
}

/// Images with distinct ids.
#[derive(Default)]
pub(super) struct UniqueImages {
    pub(super) images: Vec<AnnotatedImage>,
    /// Number of empty captions.
    pub(super) empty: usize,
    /// Number of annotations of images that the file does not list.
    pub(super) unlisted: usize,
    pub(super) seen: HashMap<String, (usize, RowPosition)>,
}

impl UniqueImages {
    /// Adds an image, or notes that its id occurs twice.
    pub(super) fn add(
        &mut self,
        image: AnnotatedImage,
        position: RowPosition,
        problems: &mut RowProblems,
    ) {
        match self.seen.entry(image.id.clone()) {
            Entry::Occupied(first) => problems.add(
                position,
                format!(
                    "image '{}' is repeated{}",
                    image.id,
                    first.get().1.back_reference()
                ),
            ),
            Entry::Vacant(free) => {
                free.insert((self.images.len(), position));
                self.images.push(image);
            }
        }
    }

    /// Adds an image whose id is new.
    pub(super) fn push(&mut self, image: AnnotatedImage, position: RowPosition) {
        self.seen
            .insert(image.id.clone(), (self.images.len(), position));
        self.images.push(image);
    }

    fn notes(&self) -> Vec<String> {
        let counts = [
            (self.empty, "Empty reference captions, left out"),
            (
                self.unlisted,
                "Annotations of images that the references do not list, left out",
            ),
        ];
        counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what}: {count}."))
            .collect()
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Option<&mut AnnotatedImage> {
        self.seen.get(id).map(|&(index, _)| &mut self.images[index])
    }
}

/// Subfolders of a data set that may hold its photographs.
pub(super) struct Photos(Vec<PathBuf>);

impl Photos {
    pub(super) fn new(root: &Path, split: Option<&str>) -> Self {
        let folders = [Some("images"), split, Some("")].into_iter().flatten();
        Self(
            folders
                .map(|folder| root.join(folder))
                .filter(|folder| folder.as_os_str().is_empty() || folder.is_dir())
                .collect(),
        )
    }

    pub(super) fn find(&self, name: &str) -> Option<PathBuf> {
        self.0
            .iter()
            .map(|folder| folder.join(name))
            .find(|path| path.is_file())
    }
}

fn flickr8k(dir: &Path, split: Option<&str>) -> Result<UniqueImages, DataError> {
    let (images, empty) = open_split(dir, split)?;
    let mut set = UniqueImages {
        empty,
        ..UniqueImages::default()
    };
    for image in images {
        let photo = image.path.is_file().then_some(image.path);
        set.push(
            AnnotatedImage {
                id: image.name.clone(),
                file_name: Some(image.name),
                photo,
                captions: image.captions,
                ..AnnotatedImage::default()
            },
            RowPosition::File,
        );
    }
    Ok(set)
}

/// Returns `true` if a file holds one row per line (or a list of rows). A COCO file is a single
/// object, on one line or many.
fn has_rows(path: &Path, text: &str) -> bool {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Shape {
        images: Option<IgnoredAny>,
        annotations: Option<IgnoredAny>,
    }
    let named = path
        .extension()
        .is_some_and(|e| e.eq_ignore_ascii_case("jsonl") || e.eq_ignore_ascii_case("ndjson"));
    let first = text.trim_start().lines().next().unwrap_or_default();
    named
        || first.starts_with('[')
        || serde_json::from_str::<Shape>(first)
            .is_ok_and(|shape| shape.images.is_none() && shape.annotations.is_none())
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Row<'a> {
    #[serde(borrow, default)]
    image_id: AnyValue<'a>,
    #[serde(borrow, default)]
    image: AnyValue<'a>,
    #[serde(borrow, default)]
    captions: AnyValue<'a>,
    #[serde(borrow, default)]
    caption: AnyValue<'a>,
    #[serde(borrow, default)]
    objects: AnyValue<'a>,
}

fn jsonl(path: &Path, text: &str) -> Result<UniqueImages, DataError> {
    let photos = Photos::new(path.parent().unwrap_or(Path::new("")), None);
    let mut problems = RowProblems::new(path);
    let mut set = UniqueImages::default();
    for (position, row) in rows(text, &mut problems) {
        if let Some((mut image, empty)) = problems.take(position, annotated(row)) {
            set.empty += empty;
            image.photo = image
                .file_name
                .as_deref()
                .and_then(|name| photos.find(name));
            set.add(image, position, &mut problems);
        }
    }
    problems.into_result()?;
    Ok(set)
}

/// Image of a row, and the number of its empty captions.
fn annotated(row: Row) -> Result<(AnnotatedImage, usize), String> {
    let file_name = match &row.image {
        AnyValue::Text(name) => Some(name.clone().into_owned()),
        _ => None,
    };
    let id = image_name(row.image_id, row.image)?.into_owned();
    let objects = row.objects.objects()?;
    let mut captions: Vec<String> = match (row.captions, row.caption) {
        (captions, caption) if captions.is_absent() && caption.is_absent() => Vec::new(),
        (captions, caption) if captions.is_absent() => vec![caption.text("caption")?.into_owned()],
        (captions, _) => {
            let text = |(i, item): (usize, AnyValue)| {
                item.text(&format!("captions[{i}]")).map(Cow::into_owned)
            };
            captions
                .list("captions")?
                .into_iter()
                .enumerate()
                .map(text)
                .collect::<Result<_, _>>()?
        }
    };
    if captions.is_empty() && objects.is_none() {
        return Err(format!("'{id}' has neither captions nor objects"));
    }
    let all = captions.len();
    captions.retain(|caption| !caption.trim().is_empty());
    let empty = all - captions.len();
    Ok((
        AnnotatedImage {
            id,
            file_name,
            captions,
            objects,
            ..AnnotatedImage::default()
        },
        empty,
    ))
}
