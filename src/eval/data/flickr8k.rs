//! Folder of captioned photographs in Flickr8k's layout: `images/NAME.jpg`, `captions.tsv` (name,
//! number, caption), and one list of file names per split, such as `train.txt` and `dev.txt`.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// A photograph with its reference captions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// File name, unique in the folder.
    pub name: String,
    /// Path of the photograph.
    pub path: PathBuf,
    /// Captions, ordered by their number in the file.
    pub captions: Vec<String>,
}

/// The two splits of a folder, each in the order of its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Training split.
    pub train: Vec<Image>,
    /// Development split.
    pub dev: Vec<Image>,
}

/// Error while reading a folder.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The split does not exist.
    #[error("{}: {}", path.display(), no_split(split.as_deref(), found))]
    NoSplit {
        /// The folder.
        path: PathBuf,
        /// Requested name; `None` if there is no default.
        split: Option<String>,
        /// Splits that exist.
        found: Vec<String>,
    },
    /// A line is invalid.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// Problem of the line.
        what: String,
    },
}

fn no_split(split: Option<&str>, found: &[String]) -> String {
    let names = if found.is_empty() {
        "none (a split NAME is a file NAME.txt with one photograph per line)".to_owned()
    } else {
        found.join(", ")
    };
    match split {
        Some(split) => format!("no split '{split}', found: {names}"),
        None => format!("name the split, found: {names}"),
    }
}

impl Dataset {
    /// Reads captions and splits, and checks that all photographs exist.
    ///
    /// # Errors
    /// Names file and line: a file that cannot be read, a line without three columns, a name twice
    /// in the splits, a name without captions or without a photograph.
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        Self::read(dir, true)
    }

    /// Like [`Self::open`], but the photographs of the training split may be missing.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_for_evaluation(dir: &Path) -> Result<Self, DatasetError> {
        Self::read(dir, false)
    }

    fn read(dir: &Path, train_photographs: bool) -> Result<Self, DatasetError> {
        let mut captions = captions(&dir.join("captions.tsv"))?.by_name;
        let mut seen = HashSet::new();
        let mut split = |name: &str, photographs| {
            images(dir, &dir.join(name), &mut captions, &mut seen, photographs)
        };
        Ok(Self {
            train: split("train.txt", train_photographs)?,
            dev: split("dev.txt", true)?,
        })
    }
}

/// Reads one split of a folder. Also returns the number of empty captions, which are left out.
/// Photographs may be missing.
///
/// # Errors
/// As for [`Dataset::open`], and if the split does not exist. Without a name it is `dev`, or the
/// only one.
pub fn open_split(dir: &Path, split: Option<&str>) -> Result<(Vec<Image>, usize), DatasetError> {
    let list = split_file(dir, split)?;
    let Captions { mut by_name, empty } = captions(&dir.join("captions.tsv"))?;
    Ok((
        images(dir, &list, &mut by_name, &mut HashSet::new(), false)?,
        empty,
    ))
}

/// File that lists a split.
///
/// # Errors
/// If there is no such split, or no default; names the existing ones.
pub(super) fn split_file(dir: &Path, split: Option<&str>) -> Result<PathBuf, DatasetError> {
    let files = fs::read_dir(dir).map_err(|source| DatasetError::Io {
        path: dir.to_owned(),
        source,
    })?;
    let stem = |path: PathBuf| {
        path.is_file()
            .then(|| Some(path.file_name()?.to_str()?.strip_suffix(".txt")?.to_owned()))
            .flatten()
    };
    let mut found: Vec<String> = files
        .flatten()
        .filter_map(|entry| stem(entry.path()))
        .collect();
    found.sort();
    let chosen = match (
        split.map(|name| name.strip_suffix(".txt").unwrap_or(name)),
        found.as_slice(),
    ) {
        (Some(name), _) => found.iter().find(|other| *other == name),
        (None, [only]) => Some(only),
        (None, _) => found.iter().find(|other| *other == "dev"),
    };
    match chosen {
        Some(name) => Ok(dir.join(format!("{name}.txt"))),
        None => Err(DatasetError::NoSplit {
            path: dir.to_owned(),
            split: split.map(str::to_owned),
            found,
        }),
    }
}

/// Photographs of a list with their captions, which are removed from `captions`.
fn images(
    dir: &Path,
    list: &Path,
    captions: &mut HashMap<String, Vec<(u32, String)>>,
    seen: &mut HashSet<String>,
    photographs: bool,
) -> Result<Vec<Image>, DatasetError> {
    let mut images = Vec::new();
    for (line, name) in lines(list)? {
        let name = name.trim();
        let wrong = |what: String| DatasetError::Line {
            path: list.to_owned(),
            line,
            what,
        };
        if !seen.insert(name.to_owned()) {
            return Err(wrong(format!("'{name}' is listed a second time")));
        }
        let captions = captions
            .remove(name)
            .ok_or_else(|| wrong(format!("'{name}' has no caption in captions.tsv")))?;
        let path = dir.join("images").join(name);
        if photographs && !path.is_file() {
            return Err(wrong(format!("no photograph {}", path.display())));
        }
        images.push(Image {
            name: name.to_owned(),
            path,
            captions: captions.into_iter().map(|(_, caption)| caption).collect(),
        });
    }
    Ok(images)
}

/// Non-empty lines of a file with their numbers.
pub(super) fn lines(path: &Path) -> Result<Vec<(usize, String)>, DatasetError> {
    let text = fs::read_to_string(path).map_err(|source| DatasetError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(text
        .lines()
        .enumerate()
        .map(|(i, l)| (i + 1, l.to_owned()))
        .filter(|(_, l)| !l.trim().is_empty())
        .collect())
}

/// Content of a table of captions.
#[derive(Default)]
struct Captions {
    /// Captions by photograph, ordered by number.
    by_name: HashMap<String, Vec<(u32, String)>>,
    /// Number of rows with an empty caption.
    empty: usize,
}

fn captions(path: &Path) -> Result<Captions, DatasetError> {
    let mut all = Captions::default();
    for (line, text) in lines(path)? {
        let wrong = |what: String| DatasetError::Line {
            path: path.to_owned(),
            line,
            what,
        };
        let columns: Vec<&str> = text.split('\t').collect();
        let &[name, number, caption] = columns.as_slice() else {
            return Err(wrong(format!(
                "expected name, number and caption separated by tabs, found {} columns",
                columns.len()
            )));
        };
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(wrong(format!("'{name}' is not a plain file name")));
        }
        let number = number
            .parse()
            .map_err(|_| wrong(format!("'{number}' is not a caption number")))?;
        let entry = all.by_name.entry(name.to_owned()).or_default();
        if caption.trim().is_empty() {
            all.empty += 1;
            continue;
        }
        let index = entry.partition_point(|&(other, _)| other < number);
        if entry.get(index).is_some_and(|&(other, _)| other == number) {
            return Err(wrong(format!("'{name}' has caption {number} twice")));
        }
        entry.insert(index, (number, caption.trim().to_owned()));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(captions: &str, train: &str, dev: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        for name in ["a.jpg", "b.jpg"] {
            fs::write(dir.path().join("images").join(name), b"jpeg").unwrap();
        }
        for (file, text) in [
            ("captions.tsv", captions),
            ("train.txt", train),
            ("dev.txt", dev),
        ] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn open_reads_splits_and_orders_captions() {
        let dir = folder(
            "a.jpg\t1\tSecond .\na.jpg\t0\tFirst .\nb.jpg\t0\tOther .\n",
            "a.jpg\n",
            "b.jpg\n\n",
        );
        let data = Dataset::open(dir.path()).unwrap();
        assert_eq!(data.train[0].captions, ["First .", "Second ."]);
        assert_eq!(data.dev[0].name, "b.jpg");
        assert_eq!(data.dev[0].path, dir.path().join("images/b.jpg"));
    }

    #[test]
    fn error_in_a_folder_names_file_and_line() {
        let good = "a.jpg\t0\tFirst .\nb.jpg\t0\tOther .\nc.jpg\t0\tGone .\n";
        for (captions, train, dev, want) in [
            (
                "a.jpg\t0\n",
                "a.jpg",
                "b.jpg",
                "captions.tsv:1: expected name, number and caption",
            ),
            (
                "a.jpg\t0\tx\na.jpg\tx\ty\n",
                "a.jpg",
                "b.jpg",
                "captions.tsv:2: 'x' is not a caption number",
            ),
            (
                "a.jpg\t0\tx\na.jpg\t0\ty\n",
                "a.jpg",
                "b.jpg",
                "captions.tsv:2: 'a.jpg' has caption 0 twice",
            ),
            (
                "../a.jpg\t0\tx\n",
                "a.jpg",
                "b.jpg",
                "captions.tsv:1: '../a.jpg' is not a plain file name",
            ),
            (
                good,
                "a.jpg\nb.jpg",
                "b.jpg",
                "dev.txt:1: 'b.jpg' is listed a second time",
            ),
            (
                good,
                "a.jpg\nd.jpg",
                "b.jpg",
                "train.txt:2: 'd.jpg' has no caption",
            ),
            (good, "a.jpg", "b.jpg\nc.jpg", "dev.txt:2: no photograph"),
        ] {
            let dir = folder(captions, train, dev);
            let error = Dataset::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error} does not say {want}");
        }
        let dir = folder(good, "a.jpg", "b.jpg");
        fs::remove_file(dir.path().join("train.txt")).unwrap();
        assert!(
            Dataset::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("train.txt")
        );
    }

    #[test]
    fn open_split_of_any_list_needs_only_its_photographs() {
        let dir = folder(
            "a.jpg\t0\tFirst .\na.jpg\t1\t\nq.jpg\t0\tGone .\n",
            "nobody.jpg",
            "nobody.jpg",
        );
        fs::write(dir.path().join("my_split.txt"), "q.jpg\r\na.jpg \n").unwrap();
        for name in ["my_split", "my_split.txt"] {
            let (images, empty) = open_split(dir.path(), Some(name)).unwrap();
            let names: Vec<_> = images
                .iter()
                .map(|image| (image.name.as_str(), image.captions.len()))
                .collect();
            assert_eq!((names, empty), (vec![("q.jpg", 1), ("a.jpg", 1)], 1));
        }
        let error = |split| open_split(dir.path(), split).unwrap_err().to_string();
        assert!(
            error(Some("test")).contains("no split 'test', found: dev, my_split, train"),
            "{}",
            error(Some("test"))
        );
        assert!(error(Some("../my_split")).contains("no split"));
        assert!(
            error(None).contains("dev.txt:1: 'nobody.jpg' has no caption"),
            "dev where no name is given"
        );
        fs::remove_file(dir.path().join("dev.txt")).unwrap();
        assert!(error(None).contains("name the split, found: my_split, train"));
        fs::remove_file(dir.path().join("train.txt")).unwrap();
        assert_eq!(
            open_split(dir.path(), None).unwrap().0.len(),
            2,
            "the only one"
        );
    }

    #[test]
    fn open_for_evaluation_needs_no_training_photographs() {
        let dir = folder("a.jpg\t0\tx\nb.jpg\t0\ty\n", "a.jpg", "b.jpg");
        fs::remove_file(dir.path().join("images/a.jpg")).unwrap();
        assert!(
            Dataset::open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("train.txt:1: no photograph")
        );
        assert_eq!(
            Dataset::open_for_evaluation(dir.path())
                .unwrap()
                .train
                .len(),
            1
        );
        fs::remove_file(dir.path().join("images/b.jpg")).unwrap();
        assert!(
            Dataset::open_for_evaluation(dir.path())
                .unwrap_err()
                .to_string()
                .contains("dev.txt:1: no photograph")
        );
    }
}
