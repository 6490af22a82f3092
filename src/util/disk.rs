//! Space on file systems.

use std::path::Path;

/// Returns the bytes that are free on the file system of a path, or of the nearest folder above it
/// that exists; `None` if the system does not say.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    // The last one is empty if the path is relative.
    let of = |path: &Path| match path.as_os_str().is_empty() {
        true => rustix::fs::statvfs("."),
        false => rustix::fs::statvfs(path),
    };
    let disk = path.ancestors().find_map(|path| of(path).ok())?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Returns the bytes of all files below a folder; 0 for what cannot be read.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_all_files_below_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/one"), [0; 10]).unwrap();
        std::fs::write(dir.path().join("two"), [0; 5]).unwrap();
        assert_eq!(folder_bytes(dir.path()), 15);
        assert_eq!(folder_bytes(&dir.path().join("none")), 0);
    }

    #[test]
    fn folders_that_do_not_exist_yet_have_the_space_of_those_above() {
        let free = |path: &str| free_bytes(Path::new(path)).unwrap();
        assert!(free("no/such/folder") > 0);
        assert!(free("/no/such/folder") > 0);
    }
}
