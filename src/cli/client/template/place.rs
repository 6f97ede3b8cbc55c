//! Puts bytes where a file stands, in one step: a reader sees the old ones or the new ones. Knows nothing of templates.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::LOG;

/// What a file that is not there yet may be used for, but for what the umask takes away.
const MODE: u32 = 0o644;

/// Puts the bytes there, unless they are there already; says whether it did. The file keeps its mode and owner; one
/// that a link leads to is written where it stands.
///
/// # Errors
/// The file system's; the file is as it was then.
pub(super) fn put(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let path = place_of(path)?;
    let before = match fs::metadata(&path) {
        Ok(before) if before.is_dir() => return Err(io::Error::other("it is a directory")),
        Ok(before) => Some(before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.as_ref().is_some_and(|before| before.len() == bytes.len() as u64) && is_there(&path, bytes)? {
        return Ok(false);
    }
    // A name without a folder stands in the one that we are in.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // In the same folder: only within a file system is a rename one step.
    let mut fresh = tempfile::Builder::new()
        .prefix(".tidings-template-")
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(folder)?;
    if let Some(before) = &before {
        liken(fresh.as_file(), before)?;
    }
    fresh.write_all(bytes)?;
    fresh.as_file().sync_all()?;
    fresh.persist(&path).map_err(|error| error.error)?;
    // Without this a crash could bring the old name back, and the command would have run for nothing.
    File::open(folder)?.sync_all()?;
    Ok(true)
}

/// Where the file stands that is meant.
fn place_of(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => fs::canonicalize(path),
        _ => Ok(path.to_owned()),
    }
}

fn is_there(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let mut there = Vec::with_capacity(bytes.len());
    File::open(path)?.take(bytes.len() as u64 + 1).read_to_end(&mut there)?;
    Ok(there == bytes)
}

fn liken(fresh: &File, before: &Metadata) -> io::Result<()> {
    let mine = fresh.metadata()?;
    if (mine.uid(), mine.gid()) != (before.uid(), before.gid())
        && let Err(error) = std::os::unix::fs::fchown(fresh, Some(before.uid()), Some(before.gid()))
    {
        // Only root may give files away. Who may read it matters more than whose it is.
        tracing::debug!(target: LOG, %error, "a file does not keep its owner");
    }
    // After the owner, whose change takes rights away.
    fresh.set_permissions(Permissions::from_mode(before.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("it is there")
            .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn bytes_that_are_there_are_not_written_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("out");
        assert!(put(&path, b"one").unwrap());
        let first = fs::metadata(&path).unwrap().ino();
        assert!(!put(&path, b"one").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().ino(), first);
        for other in ["two", "longer", ""] {
            assert!(put(&path, other.as_bytes()).unwrap());
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        assert_eq!(names(dir.path()), ["out"], "nothing is left beside it");
    }

    #[test]
    fn a_file_keeps_its_mode_and_a_link_what_it_leads_to() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (path, link) = (dir.path().join("out"), dir.path().join("link"));
        fs::write(&path, "one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(put(&link, b"two").unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_file_that_cannot_be_written_stays_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(put(&dir.path().join("none/out"), b"x").is_err());
        assert!(put(dir.path(), b"x").is_err(), "a directory is no file");
        assert!(names(dir.path()).is_empty());
    }
}
