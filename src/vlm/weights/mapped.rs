//! Memory-mapped files.

use std::{fs::File, path::Path, sync::Arc};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::WeightsError;
use crate::vlm::nn::{SharedArea, SharedBytes};

/// File in memory.
struct MappedFile(Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl SharedArea for MappedFile {
    #[cfg(unix)]
    fn give_back(&self) {
        // SAFETY: The map is read-only, so a page that is read later has the file's bytes again.
        #[allow(unsafe_code)]
        let advised = unsafe { self.0.unchecked_advise(UncheckedAdvice::DontNeed) };
        // A system that cannot do it keeps the pages.
        drop(advised);
    }
}

/// Maps a regular file into memory; its pages are read when they are touched and can be given up
/// by the system at any time.
///
/// # Errors
/// When the file cannot be opened or is none.
pub(super) fn map_file(path: &Path) -> Result<SharedBytes, WeightsError> {
    let error = |source| WeightsError::File {
        file: path.to_owned(),
        source,
    };
    // Opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(error)?.is_file() {
        return Err(WeightsError::Malformed {
            file: path.to_owned(),
            reason: "not a regular file".into(),
        });
    }
    let file = File::open(path).map_err(error)?;
    // SAFETY: The map is read-only and its bytes are only read as plain numbers, for which every
    // bit pattern is valid. A file that others change while it is mapped changes the numbers; one
    // that they truncate ends the process at the next access (SIGBUS). Whoever may write to a
    // model's files can do no more than that.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(error)?;
    Ok(SharedBytes::new(Arc::new(MappedFile(map))))
}
