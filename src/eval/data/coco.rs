//! COCO annotations (Lin et al., ECCV 2014): one JSON object with `images`, `annotations` and, for
//! instances, `categories`; as lenient as pycocotools, which needs only ids.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::IgnoredAny};

use super::{
    flickr8k::{lines, split_file},
    references::{AnnotatedImage, ObjectBox, Photos, Rect, ReferenceSet, UniqueImages},
    rows::{AnyValue, DataError, RowPosition, RowProblems, read, whole},
};

/// Kinds of annotation files.
const KINDS: [&str; 2] = ["captions", "instances"];
/// Subfolders of the data set that may hold such a file.
const FOLDERS: [&str; 2] = ["", "annotations"];

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Document<'a> {
    /// `None` if the images are those that annotations name.
    #[serde(borrow, default)]
    images: Option<Vec<Image<'a>>>,
    #[serde(borrow)]
    annotations: Vec<Annotation<'a>>,
    #[serde(borrow, default)]
    categories: Vec<Category<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Image<'a> {
    #[serde(borrow, default)]
    id: AnyValue<'a>,
    #[serde(borrow, default)]
    file_name: AnyValue<'a>,
    #[serde(default)]
    width: Lenient<f64>,
    #[serde(default)]
    height: Lenient<f64>,
}

/// A field that is not required and may have any type.
#[derive(Deserialize)]
#[serde(untagged)]
enum Lenient<T> {
    Value(T),
    Other(IgnoredAny),
}

impl<T> Default for Lenient<T> {
    fn default() -> Self {
        Self::Other(IgnoredAny)
    }
}

impl<T> Lenient<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

/// Widths and heights of images by their ids.
type Sizes<'a> = HashMap<Cow<'a, str>, [f64; 2]>;

/// A caption or an object.
#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Annotation<'a> {
    #[serde(borrow, default)]
    image_id: AnyValue<'a>,
    #[serde(borrow, default)]
    caption: AnyValue<'a>,
    #[serde(borrow, default)]
    category_id: AnyValue<'a>,
    /// Left, top, width and height in pixels.
    #[serde(default)]
    bbox: Lenient<[f64; 4]>,
    #[serde(default)]
    iscrowd: Lenient<u8>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Category<'a> {
    #[serde(borrow, default)]
    id: AnyValue<'a>,
    #[serde(borrow, default)]
    name: AnyValue<'a>,
}

/// Reads a folder: the captions and the instances of one split, or one of the two. A split may also
/// be a list that selects images, one name per line.
pub(super) fn folder(dir: &Path, split: Option<&str>) -> Result<UniqueImages, DataError> {
    let unusable = |what: String| DataError::Unusable {
        path: dir.to_owned(),
        what,
    };
    let found = annotation_files(dir)?;
    let splits: BTreeSet<&str> = found.iter().map(|(split, _)| split.as_str()).collect();
    let names = || {
        splits
            .iter()
            .map(|s| if s.is_empty() { "(none)" } else { s })
            .collect::<Vec<_>>()
            .join(", ")
    };
    let list = split.and_then(|split| split_file(dir, Some(split)).ok());
    let part = match (split, splits.len()) {
        (_, 0) => {
            let what = "expected captions.tsv (Flickr8k's layout), or captions*.json or \
                        instances*.json at the top or in annotations/ (COCO's)";
            return Err(unusable(what.into()));
        }
        (Some(split), _) if splits.contains(split) => split.to_owned(),
        (None, 1) => splits.iter().copied().collect(),
        (Some(_), 1) if list.is_some() => splits.iter().copied().collect(),
        (Some(split), _) => {
            return Err(unusable(format!("no split '{split}', found: {}", names())));
        }
        (None, _) => {
            return Err(unusable(format!(
                "several splits, name one of them: {}",
                names()
            )));
        }
    };
    let (mut set, photos) = (UniqueImages::default(), Photos::new(dir, Some(&part)));
    for (_, path) in found.iter().filter(|(of, _)| *of == part) {
        add(&mut set, path, &read(path)?, &photos)?;
    }
    match list.filter(|_| split != Some(&part)) {
        Some(list) => listed(set, &list),
        None => Ok(set),
    }
}

/// Selects the images of a list, in its order.
fn listed(set: UniqueImages, list: &Path) -> Result<UniqueImages, DataError> {
    let mut problems = RowProblems::new(list);
    let mut chosen = UniqueImages {
        empty: set.empty,
        unlisted: set.unlisted,
        ..UniqueImages::default()
    };
    let all = ReferenceSet::new(set);
    for (line, name) in lines(list)? {
        let position = RowPosition::Line(line);
        if let Some(index) = problems.take(position, all.find(name.trim())) {
            chosen.add(all.images()[index].clone(), position, &mut problems);
        }
    }
    problems.into_result()?;
    Ok(chosen)
}

/// Reads one file.
pub(super) fn file(path: &Path, text: &str) -> Result<UniqueImages, DataError> {
    let parent = path.parent().unwrap_or(Path::new(""));
    let root = if parent.ends_with("annotations") {
        parent.parent().unwrap_or(parent)
    } else {
        parent
    };
    let mut set = UniqueImages::default();
    add(&mut set, path, text, &Photos::new(root, None))?;
    Ok(set)
}

/// Annotation files of a folder with their splits, captions first, one file per kind and split.
fn annotation_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, DataError> {
    let mut found = Vec::new();
    for folder in FOLDERS
        .map(|name| dir.join(name))
        .into_iter()
        .filter(|folder| folder.is_dir())
    {
        let io = |source| DataError::Io {
            path: folder.clone(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let stem = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(".json"));
            let part = |kind: &&str| {
                stem?
                    .strip_prefix(*kind)
                    .filter(|rest| rest.is_empty() || rest.starts_with('_'))
            };
            if let Some((order, split)) = KINDS
                .iter()
                .enumerate()
                .find_map(|(i, kind)| Some((i, part(kind)?)))
            {
                found.push((order, split.trim_start_matches('_').to_owned(), path));
            }
        }
    }
    found.sort();
    let same =
        |pair: &&[(usize, String, PathBuf)]| (pair[0].0, &pair[0].1) == (pair[1].0, &pair[1].1);
    if let Some(pair) = found.windows(2).find(same) {
        let what = format!(
            "{} and {} have the same kind and split; only one of them can be read",
            pair[0].2.display(),
            pair[1].2.display()
        );
        return Err(DataError::Unusable {
            path: dir.to_owned(),
            what,
        });
    }
    Ok(found
        .into_iter()
        .map(|(_, split, path)| (split, path))
        .collect())
}

/// Adds the annotations of a file to the images.
fn add(set: &mut UniqueImages, path: &Path, text: &str, photos: &Photos) -> Result<(), DataError> {
    let mut problems = RowProblems::new(path);
    if let Some(document) = whole::<Document>(text, &mut problems) {
        let categories = categories(document.categories, &mut problems);
        let listed = document.images.is_some();
        let sizes = images(
            set,
            document.images.unwrap_or_default(),
            !categories.is_empty(),
            &mut problems,
            photos,
        );
        for (i, annotation) in document.annotations.into_iter().enumerate() {
            let position = RowPosition::Element("annotations", i);
            problems.take(
                position,
                annotate(set, annotation, &categories, listed.then_some(&sizes)),
            );
        }
    }
    problems.into_result()
}

fn categories<'a>(
    list: Vec<Category<'a>>,
    problems: &mut RowProblems,
) -> HashMap<Cow<'a, str>, Cow<'a, str>> {
    let mut names = HashMap::new();
    for (i, category) in list.into_iter().enumerate() {
        let both = category
            .id
            .name("id")
            .and_then(|id| Ok((id, category.name.full_text("name")?)));
        names.extend(problems.take(RowPosition::Element("categories", i), both));
    }
    names
}

/// Adds the images of a file to those of the previous file, with which they must agree.
fn images<'a>(
    set: &mut UniqueImages,
    list: Vec<Image<'a>>,
    instances: bool,
    problems: &mut RowProblems,
    photos: &Photos,
) -> Sizes<'a> {
    let (mut seen, mut sizes) = (HashMap::new(), Sizes::new());
    for (i, image) in list.into_iter().enumerate() {
        let position = RowPosition::Element("images", i);
        let file_name = |name: AnyValue| {
            if name.is_absent() {
                Ok(None)
            } else {
                name.full_text("file_name")
                    .map(|name| Some(name.into_owned()))
            }
        };
        let both = image
            .id
            .name("id")
            .and_then(|id| Ok((id, file_name(image.file_name)?)));
        let Some((id, name)) = problems.take(position, both) else {
            continue;
        };
        if let Some(first) = seen.insert(id.clone(), position) {
            problems.add(
                position,
                format!("image '{id}' is repeated{}", first.back_reference()),
            );
            continue;
        }
        if let (Some(width), Some(height)) = (image.width.value(), image.height.value()) {
            sizes.insert(id.clone(), [width, height]);
        }
        let objects = instances.then(BTreeSet::new);
        match set.get_mut(&id) {
            Some(known) => match (&known.file_name, name) {
                (Some(before), Some(name)) if *before != name => {
                    problems.add(
                        position,
                        format!("image '{id}' is '{name}' here and '{before}' in the captions"),
                    );
                }
                (_, name) => {
                    known.photo = known.photo.take().or_else(|| photos.find(name.as_ref()?));
                    known.file_name = known.file_name.take().or(name);
                    known.objects = known.objects.take().or(objects);
                }
            },
            None => {
                let image = AnnotatedImage {
                    id: id.into_owned(),
                    photo: name.as_deref().and_then(|name| photos.find(name)),
                    file_name: name,
                    objects,
                    ..AnnotatedImage::default()
                };
                set.add(image, position, problems);
            }
        }
    }
    sizes
}

/// Adds an annotation to its image. If the file lists no images, the annotations define them.
fn annotate(
    set: &mut UniqueImages,
    annotation: Annotation,
    categories: &HashMap<Cow<str>, Cow<str>>,
    listed: Option<&Sizes>,
) -> Result<(), String> {
    let id = annotation.image_id.name("image_id")?;
    let is_caption = annotation.category_id.is_absent();
    let text = if is_caption {
        annotation.caption.text("caption")?
    } else {
        let category = annotation.category_id.name("category_id")?;
        categories
            .get(&category)
            .ok_or_else(|| format!("'{category}' is not one of the file's categories"))?
            .clone()
    };
    if listed.is_none() && set.get_mut(&id).is_none() {
        set.push(
            AnnotatedImage {
                id: id.to_string(),
                ..AnnotatedImage::default()
            },
            RowPosition::File,
        );
    }
    match set.get_mut(&id) {
        None => set.unlisted += 1,
        Some(_) if text.trim().is_empty() => set.empty += 1,
        Some(image) if is_caption => image.captions.push(text.into_owned()),
        Some(image) => {
            let size = listed.and_then(|sizes| sizes.get(&id));
            let rect = size
                .zip(annotation.bbox.value())
                .and_then(|(&size, bbox)| Rect::from_pixels(bbox, size));
            let is_crowd = annotation.iscrowd.value() == Some(1);
            image.boxes.extend(rect.map(|rect| ObjectBox {
                object: text.to_string(),
                rect,
                is_crowd,
            }));
            image
                .objects
                .get_or_insert_default()
                .insert(text.into_owned());
        }
    }
    Ok(())
}
