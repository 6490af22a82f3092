//! Files and folders with user data, accessible to the process's user alone whatever the umask.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Permission bits of group and others.
const OTHERS: u32 = 0o077;
/// Sticky bit of world-writable folders such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Creates a folder and its missing parents with mode 700. Existing folders are unchanged.
///
/// # Errors
/// Returns the operating system's error.
pub fn create_dir(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates an empty file with mode 600 unless it exists.
///
/// # Errors
/// Returns the operating system's error.
pub fn create_file(file: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
    {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Removes the permissions of group and others from a file or folder, and returns `true` if there
/// were any. Sticky folders and missing paths are left alone.
///
/// # Errors
/// Returns the operating system's error, usually because another user owns the path.
pub fn narrow(path: &Path) -> io::Result<bool> {
    let wide = wide_mode(path)?;
    if let Some(mode) = wide {
        fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS))?;
    }
    Ok(wide.is_some())
}

/// Returns `true` if [`narrow`] would remove permissions.
///
/// # Errors
/// Returns the operating system's error.
pub fn is_wide(path: &Path) -> io::Result<bool> {
    Ok(wide_mode(path)?.is_some())
}

/// Returns the mode if group or others have permissions.
fn wide_mode(path: &Path) -> io::Result<Option<u32>> {
    let mode = match fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o7777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(mode).filter(|mode| mode & OTHERS != 0 && mode & STICKY == 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn created_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("a/b"), dir.path().join("a/b/c"));
        create_dir(&folder).unwrap();
        create_dir(&folder).unwrap();
        create_file(&file).unwrap();
        assert_eq!(
            (mode(&dir.path().join("a")), mode(&folder), mode(&file)),
            (0o700, 0o700, 0o600)
        );
        fs::write(&file, b"kept").unwrap();
        create_file(&file).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }

    #[test]
    fn wide_permissions_are_narrowed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        for (before, narrowed, after) in [
            (0o644, true, 0o600),
            (0o660, true, 0o600),
            (0o400, false, 0o400),
            (0o755, true, 0o700),
        ] {
            fs::set_permissions(&file, Permissions::from_mode(before)).unwrap();
            assert_eq!(
                (narrow(&file).unwrap(), mode(&file)),
                (narrowed, after),
                "{before:o}"
            );
        }
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(!narrow(dir.path()).unwrap(), "a folder for everybody");
        assert!(!narrow(&dir.path().join("absent")).unwrap());
    }
}
