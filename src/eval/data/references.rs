//! Images with what people said and drew about them, and finding them again by whatever name a
//! model's output uses.

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

/// Extensions of photographs, whether they can be read or not: any other dot belongs to the name.
pub(crate) const EXTENSIONS: [&str; 12] = [
    "jpg", "jpeg", "jfif", "png", "gif", "webp", "bmp", "avif", "heic", "heif", "tif", "tiff",
];

/// A rectangle in shares of an image's width and height.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// Distance of its left side from the image's.
    pub left: f64,
    /// Distance of its top from the image's.
    pub top: f64,
    /// Its width.
    pub width: f64,
    /// Its height.
    pub height: f64,
}

impl Rect {
    /// One in pixels (left, top, width, height) of an image of a width and height; `None` where
    /// they span nothing.
    pub fn of_pixels(
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

    /// Its share of the image.
    pub fn area(&self) -> f64 {
        self.width * self.height
    }

    /// The share of the image that lies in both.
    pub fn overlap(&self, other: &Self) -> f64 {
        let common = |a: f64, b: f64, length: f64, other: f64| {
            ((a + length).min(b + other) - a.max(b)).max(0.0)
        };
        common(self.left, other.left, self.width, other.width)
            * common(self.top, other.top, self.height, other.height)
    }
}

/// An annotated object with the box around it.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectBox {
    /// Its name.
    pub object: String,
    /// The box.
    pub rect: Rect,
    /// Indicates whether the box is around a group, not around one of its members.
    pub is_crowd: bool,
}

/// An image with its annotations.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AnnotatedImage {
    /// Unique in its set: COCO's number, Flickr8k's file name.
    pub id: String,
    /// Name of the photograph's file.
    pub file_name: Option<String>,
    /// The photograph, where it is beside the annotations.
    pub photo: Option<PathBuf>,
    /// Captions by people; empty where nobody was asked.
    pub captions: Vec<String>,
    /// Names of the annotated objects; `None` where nobody looked for objects.
    pub objects: Option<BTreeSet<String>>,
    /// Their boxes, where they and the image's size are known.
    pub boxes: Vec<ObjectBox>,
}

impl AnnotatedImage {
    /// The file name where there is one, or else the id.
    pub fn name(&self) -> &str {
        self.file_name.as_deref().unwrap_or(&self.id)
    }
}

/// The images of a data set in its file's order.
#[derive(Debug, Clone, Default)]
pub struct ReferenceSet {
    images: Vec<AnnotatedImage>,
    names: HashMap<String, Found>,
    notes: Vec<String>,
}

/// Image that a name stands for, and how surely: as id (0), as file name (1), or without folder,
/// extension and leading zeros (2).
#[derive(Debug, Clone, Copy)]
struct Found {
    level: usize,
    /// `None` when the name fits several images.
    image: Option<usize>,
}

impl ReferenceSet {
    /// Reads a data set: a folder in Flickr8k's layout (`split` is a list `SPLIT.txt`, `dev` where
    /// not given) or in COCO's (`captions*.json`, `instances*.json` or both, at the top or in
    /// `annotations/`; `split` is what follows the underscore), a file of COCO's, or rows of JSONL
    /// (or a JSON array of them) `{"image_id" or "image", "captions" or "caption", "objects"}`.
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
                return unusable(
                    "a split was asked for, but this is a file; only folders have splits",
                );
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
            unusable("there is no image in it")
        } else {
            Ok(Self::new(set))
        }
    }

    /// Takes the rows of a model's output as their own references: each brings along the objects
    /// that its image shows.
    ///
    /// # Errors
    /// A row without objects, and an image that is there twice.
    pub fn of_rows(hypotheses: &Hypotheses) -> Result<Self, DataError> {
        let mut problems = RowProblems::new(&hypotheses.path);
        let mut set = UniqueImages::default();
        for row in &hypotheses.rows {
            if row.objects.is_none() {
                problems.add(
                    row.place,
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
            set.add(image, row.place, &mut problems);
        }
        problems.none()?;
        Ok(Self::new(set))
    }

    pub(super) fn new(set: UniqueImages) -> Self {
        let notes = set.notes();
        let images = set.images;
        let mut names: HashMap<String, Found> = HashMap::with_capacity(2 * images.len());
        let mut enter = |level: usize, index: usize, name: &str| match names.entry(name.to_owned())
        {
            Entry::Vacant(free) => {
                _ = free.insert(Found {
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
        // A surer name is never hidden by one that is less sure.
        images
            .iter()
            .enumerate()
            .for_each(|(i, image)| enter(0, i, &image.id));
        images
            .iter()
            .enumerate()
            .for_each(|(i, image)| image.file_name.iter().for_each(|name| enter(1, i, name)));
        for (i, image) in images.iter().enumerate() {
            enter(2, i, bare(&image.id));
            image
                .file_name
                .iter()
                .for_each(|name| enter(2, i, bare(name)));
        }
        Self {
            images,
            names,
            notes,
        }
    }

    /// Notes on what was left out, for the reader of figures.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// All images.
    pub fn images(&self) -> &[AnnotatedImage] {
        &self.images
    }

    /// The image with that id, file name (also behind a path), file name without extension, or COCO
    /// number (`790` is `000000000790.jpg` and `COCO_val2014_000000000790.jpg`); `None` when there
    /// is none or more than one.
    pub fn get(&self, name: &str) -> Option<&AnnotatedImage> {
        self.find(name).ok().map(|index| &self.images[index])
    }

    pub(super) fn find(&self, name: &str) -> Result<usize, String> {
        let found = [name, base(name), bare(name)]
            .into_iter()
            .find_map(|key| self.names.get(key));
        match found {
            Some(Found {
                image: Some(index), ..
            }) => Ok(*index),
            Some(_) => Err(format!("'{name}' fits several images of the references")),
            None => Err(format!("'{name}' is no image of the references")),
        }
    }
}

/// A name without its folder.
fn base(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

/// A name without folder and extension, and without the zeros (and `COCO_val2014_` or the like)
/// before a number.
fn bare(name: &str) -> &str {
    let base = base(name);
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

/// Images with ids that differ.
#[derive(Default)]
pub(super) struct UniqueImages {
    pub(super) images: Vec<AnnotatedImage>,
    /// Captions that are empty.
    pub(super) empty: usize,
    /// Annotations of images that the file does not list.
    pub(super) unlisted: usize,
    pub(super) seen: HashMap<String, (usize, RowPosition)>,
}

impl UniqueImages {
    /// Adds an image, or notes that its id is there already.
    pub(super) fn add(
        &mut self,
        image: AnnotatedImage,
        place: RowPosition,
        problems: &mut RowProblems,
    ) {
        match self.seen.entry(image.id.clone()) {
            Entry::Occupied(first) => problems.add(
                place,
                format!(
                    "image '{}' is there already{}",
                    image.id,
                    first.get().1.back()
                ),
            ),
            Entry::Vacant(free) => {
                free.insert((self.images.len(), place));
                self.images.push(image);
            }
        }
    }

    /// Adds an image whose id is new.
    pub(super) fn push(&mut self, image: AnnotatedImage, place: RowPosition) {
        self.seen
            .insert(image.id.clone(), (self.images.len(), place));
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

/// The folders below a data set's own in which its photographs may be.
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

/// Returns `true` if a file holds a row a line (or a list of rows); one in COCO's format is a
/// single object, over many lines or in one.
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
    for (place, row) in rows(text, &mut problems) {
        if let Some((mut image, empty)) = problems.take(place, annotated(row)) {
            set.empty += empty;
            image.photo = image
                .file_name
                .as_deref()
                .and_then(|name| photos.find(name));
            set.add(image, place, &mut problems);
        }
    }
    problems.none()?;
    Ok(set)
}

/// The image of a row, and how many of its captions are empty.
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
