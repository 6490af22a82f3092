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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_do_not_exist_yet_have_the_space_of_those_above() {
        let free = |path: &str| free_bytes(Path::new(path)).unwrap();
        assert!(free("no/such/folder") > 0);
        assert!(free("/no/such/folder") > 0);
    }
}
