//! Photographs and texts that requests are made of.

use std::{fmt::Write, fs, path::Path};

use crate::cli::Failure;

/// Most photographs that are read from a folder.
const MOST_PHOTOS: usize = 256;

/// Words that long texts repeat.
const WORDS: &str = "the boats came back to the quiet harbor with full nets while gulls followed \
                     them and people waited on the pier";

/// Photographs and texts, as often as wanted ones that no request had before.
pub(super) struct Material {
    photos: Vec<Vec<u8>>,
    serial: u64,
}

impl Material {
    /// Creates material from photographs; models of text alone need none.
    pub(super) fn new(photos: Vec<Vec<u8>>) -> Self {
        Self { photos, serial: 0 }
    }

    /// Returns a photograph; the same number returns the same one.
    pub(super) fn known_photo(&self, number: usize) -> Vec<u8> {
        let at = number % self.photos.len().max(1);
        self.photos.get(at).cloned().unwrap_or_default()
    }

    /// Returns a photograph that no request had before.
    pub(super) fn new_photo(&mut self) -> Vec<u8> {
        self.serial += 1;
        let mut photo = self.known_photo(self.serial as usize);
        // A comment segment changes the file but not the picture, so the image cache misses.
        let behind = photo.len().min(2);
        photo.splice(
            behind..behind,
            [0xff, 0xfe, 0, 10]
                .into_iter()
                .chain(self.serial.to_le_bytes()),
        );
        photo
    }

    /// Returns a text that no request had before, `words` words longer than the shortest one. It
    /// begins with a number of its own, so that no remembered prefix fits, and asks for a long
    /// answer.
    pub(super) fn new_text(&mut self, words: usize) -> String {
        self.serial += 1;
        let mut text = format!("{} is the number of this story:", self.serial);
        for word in WORDS.split(' ').cycle().take(words) {
            // Writing to a string does not fail.
            let _ = write!(text, " {word}");
        }
        text + ". Go on with it at length."
    }
}

/// Number of words after which long texts repeat themselves.
pub(super) fn period() -> usize {
    WORDS.split(' ').count()
}

/// Reads the JPEG files of a folder, sorted by name.
///
/// # Errors
/// When the folder cannot be read or has none.
pub(super) fn read_photos(dir: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let fail = |e: std::io::Error| Failure::Misused(format!("--photos {}: {e}", dir.display()));
    let mut paths: Vec<_> = fs::read_dir(dir)
        .map_err(fail)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "jpg" || e == "jpeg"));
    paths.sort();
    paths.truncate(MOST_PHOTOS);
    let photos: Vec<Vec<u8>> = paths
        .iter()
        .map(fs::read)
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    if photos.is_empty() {
        Err(Failure::Misused(format!(
            "--photos {}: no JPEG files",
            dir.display()
        )))
    } else {
        Ok(photos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_material_differs_from_all_before() {
        let mut material = Material::new(vec![vec![0xff, 0xd8, 1], vec![0xff, 0xd8, 2]]);
        assert_eq!(material.known_photo(1), material.known_photo(3));
        let photos = [
            material.new_photo(),
            material.new_photo(),
            material.new_photo(),
        ];
        assert!(photos[0] != photos[1] && photos[0] != photos[2] && photos[1] != photos[2]);
        assert!(photos.iter().all(|photo| photo.starts_with(&[0xff, 0xd8])));
        let texts = [material.new_text(3), material.new_text(3)];
        assert!(texts[0] != texts[1] && texts[0].contains(": the boats came. "));
    }
}
