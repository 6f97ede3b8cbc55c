//! The data directory: what a member keeps between its starts, so that it comes back as the same member. Knows files,
//! and nothing of sockets or of the node.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use fs4::TryLockError;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::peer::{EPOCH_MAX, Epoch, NodeId};

/// The format of the state file that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

/// Members whose addresses are kept; of more, the first ones given.
pub const PEERS_MAX: usize = 4_096;

/// Bytes of a state file that is read at all; [`PEERS_MAX`] members fit into a tenth of it.
pub const STATE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Corrupt files set aside in one second, before it is an error.
const SET_ASIDE_MAX: u32 = 100;

const STATE: &str = "state.json";
const STATE_NEW: &str = "state.json.new";
const LOCK: &str = "lock";

/// Why a data directory cannot be used. What was in it is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// Another live process uses it.
    #[error("data directory {path:?} is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory in it could not be made, read or written: not permitted, full, read-only ...
    #[error("cannot {doing} {path:?}: {error}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A newer version of the software wrote it.
    #[error("{path:?} has format {found}, this version reads up to {FORMAT}; it was left as it is")]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

pub(crate) fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeptError {
    let path = path.to_owned();
    move |error| KeptError::Io { doing, path, error }
}

/// What a data directory says about this start.
#[derive(Debug)]
pub struct Start {
    /// The lasting id.
    pub id: NodeId,
    /// The epoch of this start: above every kept one, and not below the time in unix seconds.
    pub epoch: Epoch,
    /// The members known before, and where they listened.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// A state file that could not be read, under its new name; then the id is a fresh one.
    pub set_aside: Option<PathBuf>,
}

/// A data directory, locked until it is dropped or [closed](Self::close).
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: Option<File>,
    id: NodeId,
    epoch: Epoch,
}

impl DataDir {
    /// Locks the directory `path`, making it if needed, and writes down the epoch of this start before giving it.
    ///
    /// `fresh` is the id if none is kept; `now` is the time in unix seconds.
    ///
    /// # Errors
    /// See [`KeptError`].
    pub fn open(path: &Path, fresh: NodeId, now: u64) -> Result<(Self, Start), KeptError> {
        fs::create_dir_all(path).map_err(io_error("make the directory", path))?;
        let lock = lock(path)?;
        let (kept, set_aside) = match read(path)? {
            Found::State(state) => (Some(state), None),
            Found::Nothing => (None, None),
            Found::Corrupt => (None, Some(set_aside(path, STATE, now)?)),
        };
        let epoch = kept.as_ref().map_or(0, |state| state.epoch.saturating_add(1)).max(now).min(EPOCH_MAX);
        let id = kept.as_ref().map_or(fresh, |state| state.id);
        let peers = kept.map_or_else(Vec::new, |state| state.peers);
        let mut dir = Self { path: path.to_owned(), lock: Some(lock), id, epoch };
        dir.save(epoch, &peers)?;
        Ok((dir, Start { id, epoch, peers, set_aside }))
    }

    /// Writes down the epoch, if it is larger than the one before, and the members known now, instead of those before.
    /// Does nothing once closed.
    ///
    /// # Errors
    /// [`KeptError::Io`]; the state kept before is still there, whole.
    pub fn save(&mut self, epoch: Epoch, peers: &[(NodeId, SocketAddr)]) -> Result<(), KeptError> {
        if self.lock.is_none() {
            return Ok(());
        }
        self.epoch = self.epoch.max(epoch);
        let peers = peers[..peers.len().min(PEERS_MAX)].to_vec();
        let state = State { id: self.id, epoch: self.epoch, peers };
        let kept = Kept { format: FORMAT, checksum: state.checksum(), state };
        let text = serde_json::to_vec_pretty(&kept).expect("numbers and addresses are always written");
        self.replace(STATE_NEW, STATE, &text, false)
    }

    /// Writes the file `name`, whole or not at all, by way of `new`. That name is fixed, so that a crash leaves at most
    /// one such file: the lock keeps others away. A secret file can be read by its owner alone.
    pub(super) fn replace(&self, new: &str, name: &str, bytes: &[u8], is_secret: bool) -> Result<(), KeptError> {
        write_whole(&self.path, new, name, bytes, is_secret)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock.is_none()
    }

    /// Gives the directory free for another start.
    pub fn close(&mut self) {
        self.lock = None;
    }
}

fn lock(dir: &Path) -> Result<File, KeptError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error("open", &path))?;
    match fs4::FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(KeptError::InUse { path: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// Of the state as compact JSON: a file cut short or changed by hand is not trusted with an identity.
    checksum: u64,
    state: State,
}

#[derive(Serialize, Deserialize)]
struct State {
    id: NodeId,
    epoch: Epoch,
    peers: Vec<(NodeId, SocketAddr)>,
}

impl State {
    fn checksum(&self) -> u64 {
        xxh3_64(&serde_json::to_vec(self).expect("numbers and addresses are always written"))
    }
}

enum Found {
    State(State),
    Nothing,
    Corrupt,
}

fn read(dir: &Path) -> Result<Found, KeptError> {
    let path = dir.join(STATE);
    match fs::metadata(&path) {
        Ok(about) if about.len() > STATE_BYTES_MAX => return Ok(Found::Corrupt),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Ok(_) | Err(_) => {}
    }
    let bytes = fs::read(&path).map_err(io_error("read", &path))?;
    parse(&bytes).map_err(|found| KeptError::NewerFormat { path, found })
}

/// What the bytes of a state file say; the error is the format of a newer version.
fn parse(bytes: &[u8]) -> Result<Found, u64> {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return Ok(Found::Corrupt) };
    if let Some(found) = value["format"].as_u64().filter(|found| *found > u64::from(FORMAT)) {
        return Err(found);
    }
    Ok(match serde_json::from_value::<Kept>(value) {
        Ok(kept) if kept.format == FORMAT && kept.checksum == kept.state.checksum() => Found::State(kept.state),
        Ok(_) | Err(_) => Found::Corrupt,
    })
}

/// Whether the bytes are a whole state file that this version reads: for fuzzing.
#[doc(hidden)]
pub fn reads(bytes: &[u8]) -> bool {
    matches!(parse(bytes), Ok(Found::State(_)))
}

/// Renames the file to a name that nothing has yet.
pub(crate) fn set_aside(dir: &Path, name: &str, now: u64) -> Result<PathBuf, KeptError> {
    let path = dir.join(name);
    let plain = dir.join(format!("{name}.corrupt-{now}"));
    let numbered = (1..SET_ASIDE_MAX).map(|n| dir.join(format!("{name}.corrupt-{now}-{n}")));
    let to = std::iter::once(plain.clone()).chain(numbered).find(|to| fs::symlink_metadata(to).is_err());
    let to = to.ok_or_else(|| io_error("find a free name beside", &plain)(io::ErrorKind::AlreadyExists.into()))?;
    fs::rename(&path, &to).map_err(io_error("set aside", &path))?;
    Ok(to)
}

/// Writes the file `name` of `dir`, whole or not at all, by way of `new`; see [`DataDir::replace`].
pub(crate) fn write_whole(dir: &Path, new: &str, name: &str, bytes: &[u8], is_secret: bool) -> Result<(), KeptError> {
    let (new, path) = (dir.join(new), dir.join(name));
    write_synced(&new, bytes, is_secret).map_err(io_error("write", &new))?;
    fs::rename(&new, &path).map_err(io_error("replace", &path))?;
    sync_dir(dir).map_err(io_error("sync", dir))
}

fn write_synced(path: &Path, bytes: &[u8], is_secret: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if is_secret {
        // One that is there already would keep its mode, whoever made it.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        options.create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = is_secret;
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename last. Only Unix can open a directory for that.
fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRESH: NodeId = NodeId(7);
    const OTHER: NodeId = NodeId(u64::MAX);
    const NOW: u64 = 1_700_000_000;

    fn temporary() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    fn open(dir: &tempfile::TempDir, fresh: NodeId, now: u64) -> (DataDir, Start) {
        DataDir::open(dir.path(), fresh, now).expect("the directory can be used")
    }

    #[test]
    fn a_second_start_has_the_same_id_and_a_larger_epoch_even_when_the_clock_went_back() {
        let dir = temporary();
        let (first, start) = open(&dir, FRESH, NOW);
        assert_eq!((start.id, start.epoch), (FRESH, NOW));
        drop(first);
        let (_second, start) = open(&dir, OTHER, NOW - 1_000);
        assert_eq!((start.id, start.epoch), (FRESH, NOW + 1));
    }

    #[test]
    fn saved_peers_are_there_at_the_next_start() {
        let dir = temporary();
        let peers = vec![(OTHER, "127.0.0.1:4000".parse().unwrap()), (NodeId(1), "[::1]:4001".parse().unwrap())];
        let (mut first, start) = open(&dir, FRESH, NOW);
        assert_eq!(start.peers, []);
        first.save(NOW + 70, &peers).unwrap();
        drop(first);
        let (_second, start) = open(&dir, FRESH, NOW);
        assert_eq!((start.peers, start.epoch), (peers, NOW + 71));
    }

    #[test]
    fn a_directory_in_use_is_refused_until_it_is_closed() {
        let dir = temporary();
        let (mut first, _) = open(&dir, FRESH, NOW);
        assert!(matches!(DataDir::open(dir.path(), OTHER, NOW), Err(KeptError::InUse { .. })));
        first.close();
        assert_eq!(open(&dir, OTHER, NOW).1.id, FRESH);
    }

    #[test]
    fn a_damaged_state_file_is_set_aside_and_never_deleted() {
        let dir = temporary();
        drop(open(&dir, FRESH, NOW));
        let path = dir.path().join(STATE);
        let whole = fs::read_to_string(&path).unwrap();
        let damages = [whole[..whole.len() / 2].to_owned(), String::new(), whole.replace("1700000000", "1700000001")];
        for (n, damaged) in damages.iter().enumerate() {
            fs::write(&path, damaged).unwrap();
            let (_dir, start) = open(&dir, OTHER, NOW);
            assert_eq!(start.id, OTHER, "damage {n} was not seen");
            let aside = start.set_aside.expect("it was set aside");
            assert_eq!(&fs::read_to_string(&aside).unwrap(), damaged);
        }
        let kept = fs::read_dir(dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("corrupt-1700000000"));
        assert_eq!(kept.count(), damages.len());
    }

    #[test]
    fn a_file_of_a_newer_version_is_an_error_and_left_alone() {
        let dir = temporary();
        let path = dir.path().join(STATE);
        fs::write(&path, r#"{"format": 2, "more": true}"#).unwrap();
        assert!(matches!(DataDir::open(dir.path(), FRESH, NOW), Err(KeptError::NewerFormat { found: 2, .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), r#"{"format": 2, "more": true}"#);
    }

    #[test]
    fn a_path_that_cannot_be_a_directory_is_named_in_the_error() {
        let dir = temporary();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = DataDir::open(&file.join("below"), FRESH, NOW).unwrap_err();
        assert!(error.to_string().contains("below"), "{error}");
    }

    #[test]
    fn a_write_that_fails_leaves_the_state_before_it() {
        let dir = temporary();
        let (mut first, _) = open(&dir, FRESH, NOW);
        let path = dir.path().join(STATE);
        let before = fs::read(&path).unwrap();
        // A directory of that name: even root cannot write into it, unlike into a read-only one.
        fs::create_dir(dir.path().join(STATE_NEW)).unwrap();
        assert!(matches!(first.save(NOW, &[]), Err(KeptError::Io { doing: "write", .. })));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_more_than_be_corrupt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!reads(&bytes));
        }

        #[test]
        fn a_state_file_with_any_byte_changed_is_not_trusted(at: proptest::sample::Index, to: u8) {
            let state = State { id: OTHER, epoch: NOW, peers: vec![(FRESH, "127.0.0.1:4000".parse().unwrap())] };
            let kept = Kept { format: FORMAT, checksum: state.checksum(), state };
            let whole = serde_json::to_vec(&kept).expect("it is written");
            prop_assert!(reads(&whole));
            let mut changed = whole.clone();
            let at = at.index(changed.len());
            changed[at] = to;
            if let Ok(Found::State(state)) = parse(&changed) {
                prop_assert_eq!((state.id, state.epoch, state.peers.len()), (OTHER, NOW, 1));
            }
        }
    }
}
