//! Files and folders with users' data: for the user alone that the process runs as, whatever the
//! umask.

use std::{
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Permissions of the group and others.
const OTHERS: u32 = 0o077;
/// Set on folders that everybody may write to, such as `/tmp`.
const STICKY: u32 = 0o1000;

/// Makes a folder, and those above it that are missing, with mode 700. One that is there stays as
/// it is.
///
/// # Errors
/// The operating system's.
pub fn create_dir(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes an empty file with mode 600, unless it is there.
///
/// # Errors
/// The operating system's.
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

/// Takes from a file or a folder what the group and others may do with it; folders of everybody's
/// are left alone. Returns whether there was anything to take; nothing is there to take from what
/// does not exist.
///
/// # Errors
/// The operating system's, where it belongs to another user mostly.
pub fn narrow(path: &Path) -> io::Result<bool> {
    let wide = wide_mode(path)?;
    if let Some(mode) = wide {
        fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS))?;
    }
    Ok(wide.is_some())
}

/// Returns whether [`narrow`] would take anything from a file or a folder.
///
/// # Errors
/// The operating system's.
pub fn is_wide(path: &Path) -> io::Result<bool> {
    Ok(wide_mode(path)?.is_some())
}

/// The mode, where it is too wide.
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
    fn what_is_made_is_for_this_user_alone() {
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
    fn what_is_too_wide_is_narrowed() {
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
