//! Output: standard output, whose reader may close it at any time, and files, which are never half
//! written.

use std::{
    ffi::OsString,
    fmt::Display,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;

/// Returns `true` if the path is `-`, standard input or output.
pub(crate) fn is_stdio(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Writes to standard output.
///
/// # Errors
/// [`Failure::ClosedPipe`] if its reader closed it.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Failed(format!("standard output: {e}")),
        })
}

/// Prints a text and a line end to standard output.
///
/// # Errors
/// Like [`write_stdout`].
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    write_stdout(format!("{text}\n").as_bytes())
}

/// Prints a message to standard error, ignoring errors.
pub(crate) fn note(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes a whole file, or standard output if the path is `-`. After a crash the file has the old
/// content or the new one.
///
/// # Errors
/// If it cannot be written, with the path.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if is_stdio(path) {
        return write_stdout(bytes);
    }
    replace(path, bytes).map_err(failed_at(path))
}

/// Refuses the path of a non-empty file unless `overwrite` is set.
///
/// # Errors
/// [`Failure::Misused`], naming the flag.
pub(crate) fn refuse_existing(path: &Path, overwrite: bool) -> Result<(), Failure> {
    let full =
        !is_stdio(path) && fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0);
    if full && !overwrite {
        return Err(Failure::Misused(format!(
            "{} exists; --overwrite replaces it",
            path.display()
        )));
    }
    Ok(())
}

/// Converts an I/O error to a failure that names the path.
pub(crate) fn failed_at(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure::Failed(format!("{}: {error}", path.display()))
}

/// Replaces the content of a file.
///
/// # Errors
/// If it cannot be written; the old content stays.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = ReplacementFile::create(path)?;
    file.write_all(bytes)?;
    file.commit()
}

/// New content of a file, which replaces the old one once it is complete. Symbolic links are
/// followed; special files such as /dev/null are written directly.
pub(crate) struct ReplacementFile {
    file: File,
    /// Path of the temporary file, and of the file it replaces.
    paths: Option<(PathBuf, PathBuf)>,
}

impl ReplacementFile {
    /// Creates the temporary file.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if path.exists() && !path.is_file() {
            return Ok(Self {
                file: File::options().write(true).open(&path)?,
                paths: None,
            });
        }
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.new", std::process::id()));
        let fresh = path.with_file_name(name);
        Ok(Self {
            file: File::create(&fresh)?,
            paths: Some((fresh, path)),
        })
    }

    /// Replaces the old content.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        match &self.paths {
            Some((fresh, path)) => fs::rename(fresh, path)?,
            None => self.file.flush()?,
        }
        self.paths = None;
        Ok(())
    }
}

impl Write for ReplacementFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for ReplacementFile {
    fn drop(&mut self) {
        if let Some((fresh, _)) = &self.paths {
            let _ = fs::remove_file(fresh);
        }
    }
}

/// Progress bar on standard error, hidden if that is no terminal or a dumb one.
pub(crate) fn progress(total: usize, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style)
}

/// Command line quoted for a shell, without the flags in `without`.
pub(crate) fn command_line(without: &[&str]) -> String {
    let words = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned());
    let words = words
        .filter(|word| !without.contains(&word.as_str()))
        .map(|word| quoted(&word));
    std::iter::once("candor".to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Word quoted for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./:=,@%+~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Refuses to read standard input for more than one argument.
///
/// # Errors
/// [`Failure::Misused`], naming the arguments.
pub(crate) fn refuse_shared_stdin(inputs: &[(&str, Option<&PathBuf>)]) -> Result<(), Failure> {
    let from: Vec<&str> = inputs
        .iter()
        .filter(|(_, path)| path.is_some_and(|path| is_stdio(path)))
        .map(|(name, _)| *name)
        .collect();
    if from.len() > 1 {
        return Err(Failure::Misused(format!(
            "standard input (-) can be read only once, but {} name it",
            from.join(" and ")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn word_with_shell_characters_is_quoted() {
        for (word, want) in [
            ("photos/a-1.jpg", "photos/a-1.jpg"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", "'it'\\''s'"),
            ("$x", "'$x'"),
        ] {
            assert_eq!(quoted(word), want);
        }
    }

    #[test]
    fn replaced_file_is_whole_and_links_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("report.json"), dir.path().join("latest"));
        write_file(&file, b"one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write_file(&link, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            2,
            "nothing is left behind"
        );
        write_file(Path::new("/dev/null"), b"x").unwrap();
        assert!(!Path::new("/dev/null").is_file());
        assert!(matches!(refuse_existing(&file, false),
                Err(Failure::Misused(why)) if why.contains("--overwrite")));
        for (path, overwrite) in [
            (file.as_path(), true),
            (dir.path(), false),
            (Path::new("-"), false),
            (Path::new("absent"), false),
        ] {
            refuse_existing(path, overwrite).unwrap();
        }
    }
}
