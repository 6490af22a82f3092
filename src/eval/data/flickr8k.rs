//! A folder of captioned photographs in Flickr8k's layout: `images/NAME.jpg`, `captions.tsv` (name, number, caption), and the splits
//! `train.txt` and `dev.txt`, one name a line.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

/// A photograph with what people said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// File name, unique in the folder.
    pub name: String,
    /// Where the photograph is.
    pub path: PathBuf,
    /// The captions as they are in the file, ordered by their number.
    pub captions: Vec<String>,
}

/// The two splits of a folder, each in the order of its list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// For training.
    pub train: Vec<Image>,
    /// Held out.
    pub dev: Vec<Image>,
}

/// Why a folder could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is wrong.
    #[error("{}:{line}: {what}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl Dataset {
    /// Reads captions and splits, and checks that every photograph named is there.
    ///
    /// # Errors
    /// Names file and line: a file that cannot be read, a line that is not three columns, a name twice in the splits, a name without captions or
    /// without a photograph.
    pub fn open(dir: &Path) -> Result<Self, DatasetError> {
        let mut captions = captions(&dir.join("captions.tsv"))?;
        let mut seen = HashSet::new();
        let mut split = |file: &str| -> Result<Vec<Image>, DatasetError> {
            let list = dir.join(file);
            let mut images = Vec::new();
            for (line, name) in lines(&list)? {
                let wrong = |what: String| DatasetError::Line { path: list.clone(), line, what };
                if !seen.insert(name.clone()) {
                    return Err(wrong(format!("'{name}' is listed a second time")));
                }
                let captions = captions.remove(&name).ok_or_else(|| wrong(format!("'{name}' has no caption in captions.tsv")))?;
                let path = dir.join("images").join(&name);
                if !path.is_file() {
                    return Err(wrong(format!("there is no photograph {}", path.display())));
                }
                images.push(Image { name, path, captions: captions.into_iter().map(|(_, caption)| caption).collect() });
            }
            Ok(images)
        };
        Ok(Self { train: split("train.txt")?, dev: split("dev.txt")? })
    }
}

/// The lines of a file that hold something, with their numbers.
fn lines(path: &Path) -> Result<Vec<(usize, String)>, DatasetError> {
    let text = fs::read_to_string(path).map_err(|source| DatasetError::Io { path: path.to_owned(), source })?;
    Ok(text.lines().enumerate().map(|(i, l)| (i + 1, l.trim().to_owned())).filter(|(_, l)| !l.is_empty()).collect())
}

/// Captions by photograph, ordered by number.
fn captions(path: &Path) -> Result<HashMap<String, Vec<(u32, String)>>, DatasetError> {
    let mut all: HashMap<String, Vec<(u32, String)>> = HashMap::new();
    for (line, text) in lines(path)? {
        let wrong = |what: String| DatasetError::Line { path: path.to_owned(), line, what };
        let columns: Vec<&str> = text.split('\t').collect();
        let &[name, number, caption] = columns.as_slice() else {
            return Err(wrong(format!("expected name, number and caption with tabs between, found {} columns", columns.len())));
        };
        if name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(wrong(format!("'{name}' is no plain file name")));
        }
        let number = number.parse().map_err(|_| wrong(format!("'{number}' is no caption number")))?;
        let entry = all.entry(name.to_owned()).or_default();
        let place = entry.partition_point(|&(other, _)| other < number);
        if entry.get(place).is_some_and(|&(other, _)| other == number) {
            return Err(wrong(format!("'{name}' has caption {number} twice")));
        }
        entry.insert(place, (number, caption.trim().to_owned()));
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
        for (file, text) in [("captions.tsv", captions), ("train.txt", train), ("dev.txt", dev)] {
            fs::write(dir.path().join(file), text).unwrap();
        }
        dir
    }

    #[test]
    fn reads_splits_and_orders_captions() {
        let dir = folder("a.jpg\t1\tSecond .\na.jpg\t0\tFirst .\nb.jpg\t0\tOther .\n", "a.jpg\n", "b.jpg\n\n");
        let data = Dataset::open(dir.path()).unwrap();
        assert_eq!(data.train[0].captions, ["First .", "Second ."]);
        assert_eq!(data.dev[0].name, "b.jpg");
        assert_eq!(data.dev[0].path, dir.path().join("images/b.jpg"));
    }

    #[test]
    fn errors_name_file_and_line() {
        let good = "a.jpg\t0\tFirst .\nb.jpg\t0\tOther .\nc.jpg\t0\tGone .\n";
        for (captions, train, dev, want) in [
            ("a.jpg\t0\n", "a.jpg", "b.jpg", "captions.tsv:1: expected name, number and caption"),
            ("a.jpg\t0\tx\na.jpg\tx\ty\n", "a.jpg", "b.jpg", "captions.tsv:2: 'x' is no caption number"),
            ("a.jpg\t0\tx\na.jpg\t0\ty\n", "a.jpg", "b.jpg", "captions.tsv:2: 'a.jpg' has caption 0 twice"),
            ("../a.jpg\t0\tx\n", "a.jpg", "b.jpg", "captions.tsv:1: '../a.jpg' is no plain file name"),
            (good, "a.jpg\nb.jpg", "b.jpg", "dev.txt:1: 'b.jpg' is listed a second time"),
            (good, "a.jpg\nd.jpg", "b.jpg", "train.txt:2: 'd.jpg' has no caption"),
            (good, "a.jpg", "b.jpg\nc.jpg", "dev.txt:2: there is no photograph"),
        ] {
            let dir = folder(captions, train, dev);
            let error = Dataset::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains(want), "{error} does not say {want}");
        }
        let dir = folder(good, "a.jpg", "b.jpg");
        fs::remove_file(dir.path().join("train.txt")).unwrap();
        assert!(Dataset::open(dir.path()).unwrap_err().to_string().contains("train.txt"));
    }
}
