//! What is offered because somebody asked over a door, in the data directory: so that a restart, also after a crash,
//! offers it again with its checks. Knows files and values, and nothing of tasks.
//!
//! Written whole at every change of what is asked for, and of how a check stands; not at every result. A check comes
//! back as it stood, and is run soon after; a TTL check has its whole time from the restart on to be told again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::external::External;
use super::state::Maintenance;
use crate::check::{Check, Level};
use crate::net::kept::{KeptError, io_error, set_aside, write_whole};
use crate::record::{Instance, Key};

/// The format of the file that this version writes, and the newest that it reads.
pub const OFFERS_FORMAT: u32 = 1;

/// Bytes of a file of offers that is written and read.
pub const OFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;

const OFFERS: &str = "offers.json";
const OFFERS_NEW: &str = "offers.json.new";

/// All that is kept.
#[derive(Clone, PartialEq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) instances: Vec<KeptInstance>,
    /// Checks that were added to instances which the program says itself.
    pub(super) further_checks: BTreeMap<Key, Vec<KeptCheck>>,
    pub(super) member_checks: Vec<KeptCheck>,
    pub(super) maintenance: BTreeMap<Key, Maintenance>,
    pub(super) member_maintenance: Option<Maintenance>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KeptInstance {
    pub(super) instance: Instance,
    pub(super) external: Option<External>,
    pub(super) warning_weight: Option<u32>,
    pub(super) checks: Vec<KeptCheck>,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct KeptCheck {
    pub(super) check: Check,
    pub(super) level: Level,
    pub(super) since_ms: u64,
}

impl Kept {
    fn checksum(&self) -> u64 {
        xxh3_64(&serde_json::to_vec(self).expect("what is kept is numbers, text and kinds of checks that are kept"))
    }
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    /// Of the offers as compact JSON.
    checksum: u64,
    offers: Kept,
}

/// What a start finds.
#[derive(Default, Debug)]
pub(super) struct Found {
    pub(super) kept: Kept,
    /// A file that could not be read, under its new name.
    pub(super) set_aside: Option<PathBuf>,
}

/// Reads what is kept in `dir`; `now` is the time in unix seconds. A damaged file is set aside.
pub(super) fn read(dir: &Path, now: u64) -> Result<Found, KeptError> {
    let path = dir.join(OFFERS);
    let bytes = match fs::metadata(&path) {
        Ok(about) if about.len() > OFFERS_BYTES_MAX as u64 => None,
        Ok(_) => Some(fs::read(&path).map_err(io_error("read", &path))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Found { kept: Kept::default(), set_aside: None });
        }
        Err(error) => return Err(io_error("read", &path)(error)),
    };
    match bytes.map_or(Ok(None), |bytes| parse(&bytes)) {
        Ok(Some(kept)) => Ok(Found { kept, set_aside: None }),
        Ok(None) => Ok(Found { kept: Kept::default(), set_aside: Some(set_aside(dir, OFFERS, now)?) }),
        Err(found) => Err(KeptError::NewerFormat { path, found }),
    }
}

/// What the bytes of a file say, if it is whole; the error is the format of a newer version.
fn parse(bytes: &[u8]) -> Result<Option<Kept>, u64> {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return Ok(None) };
    if let Some(found) = value["format"].as_u64().filter(|found| *found > u64::from(OFFERS_FORMAT)) {
        return Err(found);
    }
    Ok(match serde_json::from_value::<File>(value) {
        Ok(file) if file.format == OFFERS_FORMAT && file.checksum == file.offers.checksum() => Some(file.offers),
        Ok(_) | Err(_) => None,
    })
}

/// Writes what is kept, instead of what was before, readable by its owner alone: headers of checks may be secret.
pub(super) fn write(dir: &Path, kept: Kept) -> Result<(), KeptError> {
    let file = File { format: OFFERS_FORMAT, checksum: kept.checksum(), offers: kept };
    let text = serde_json::to_vec(&file).expect("what is kept is numbers, text and kinds of checks that are kept");
    if text.len() > OFFERS_BYTES_MAX {
        let error = format!("{} bytes, the limit is {OFFERS_BYTES_MAX}", text.len());
        return Err(io_error("write", &dir.join(OFFERS))(io::Error::other(error)));
    }
    write_whole(dir, OFFERS_NEW, OFFERS, &text, true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn kept() -> Kept {
        let instance = Instance::new("web", std::net::SocketAddr::from(([127, 0, 0, 1], 80))).expect("it is right");
        let check = KeptCheck { check: Check::ttl(Duration::from_secs(9)), level: Level::Passing, since_ms: 7 };
        let instance = KeptInstance {
            instance: instance.with_id("w"),
            external: None,
            warning_weight: Some(3),
            checks: vec![check],
        };
        let maintenance = BTreeMap::from([(Key::from("w"), Maintenance::new("disk"))]);
        Kept { instances: vec![instance], maintenance, ..Kept::default() }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(read(dir.path(), 1).expect("nothing is no error").kept, Kept::default());
        write(dir.path(), kept()).expect("it is written");
        let found = read(dir.path(), 1).expect("it is read");
        assert_eq!((found.kept, found.set_aside), (kept(), None));
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(dir.path().join(OFFERS)).expect("there"));
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_never_deleted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(dir.path(), kept()).expect("it is written");
        let path = dir.path().join(OFFERS);
        let whole = fs::read_to_string(&path).expect("it is there");
        for damaged in [whole[..whole.len() / 2].to_owned(), whole.replace("\"disk\"", "\"disc\""), String::new()] {
            fs::write(&path, &damaged).expect("it is written");
            let found = read(dir.path(), 1).expect("that is no error");
            assert_eq!(found.kept, Kept::default());
            let aside = found.set_aside.expect("it was set aside");
            assert_eq!(fs::read_to_string(aside).expect("it is there"), damaged);
        }
    }

    #[test]
    fn a_file_of_a_newer_version_is_an_error_and_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join(OFFERS), r#"{"format": 2}"#).expect("it is written");
        assert!(matches!(read(dir.path(), 1), Err(KeptError::NewerFormat { found: 2, .. })));
        assert!(dir.path().join(OFFERS).exists());
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there_before() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(dir.path(), kept()).expect("it is written");
        fs::create_dir(dir.path().join(OFFERS_NEW)).expect("it is made");
        assert!(matches!(write(dir.path(), Kept::default()), Err(KeptError::Io { .. })));
        assert_eq!(read(dir.path(), 1).expect("it is read").kept, kept());
    }

    #[test]
    fn more_than_the_limit_is_not_written_and_what_was_there_before_stays() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write(dir.path(), kept()).expect("it is written");
        let mut large = kept();
        let notes = "x".repeat(crate::check::CHECK_TEXT_BYTES_MAX);
        large.instances[0].checks[0].check.notes = notes.into();
        let one = large.instances[0].clone();
        large.instances.resize(OFFERS_BYTES_MAX / crate::check::CHECK_TEXT_BYTES_MAX, one);
        let error = write(dir.path(), large).unwrap_err().to_string();
        assert!(error.contains("the limit is 67108864"), "{error}");
        assert_eq!(read(dir.path(), 1).expect("it is read").kept, kept());
    }

    proptest::proptest! {
        #[test]
        fn a_file_with_any_byte_changed_is_not_trusted(at: proptest::sample::Index, to: u8) {
            let file = File { format: OFFERS_FORMAT, checksum: kept().checksum(), offers: kept() };
            let mut bytes = serde_json::to_vec(&file).expect("it is written");
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(Some(read)) = parse(&bytes) {
                proptest::prop_assert_eq!(read, kept());
            }
        }
    }
}
