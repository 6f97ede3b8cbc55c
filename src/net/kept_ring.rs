//! The keyring in the data directory: what a rotation in a running cluster has changed outlives the process. Knows
//! files and rings, and nothing of how rings spread.
//!
//! **What wins at a start.** The ring is kept with the names of the keys that the member was configured with. As long
//! as it is configured with the same ones, the kept ring is the newer word and is used whole: keys that were added are
//! believed, removed ones are not. A member that is configured with others was told so by its operator, after all that
//! was kept: then the configured keys are used and nothing else, because a kept key may be the very one that somebody
//! shall be shut out with. The kept ring is then put aside, in one file that the next such ring replaces.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use super::kept::{DataDir, FORMAT, KeptError, io_error, set_aside};
use super::keys::{ClusterKey, KeyId, Keyring};

const RING: &str = "keyring.json";
const RING_NEW: &str = "keyring.json.new";
const RING_REPLACED: &str = "keyring.json.replaced";

/// Bytes of a file of keys that is read at all; eight keys fit into a tenth of it.
const RING_BYTES_MAX: u64 = 16 * 1024;

/// Which ring a start has.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum RingStart {
    /// None is kept: the configured one.
    Configured,
    /// The kept one.
    Kept(Keyring),
    /// The configured one, and the kept one was put aside, because other keys are configured than were then.
    Replaced(PathBuf),
    /// The configured one, and the file was set aside, because it is no whole file of keys.
    Corrupt(PathBuf),
}

impl DataDir {
    /// The ring of this start; `now` is the time in unix seconds.
    ///
    /// # Errors
    /// See [`KeptError`]; nothing was changed.
    pub(crate) fn ring(&self, configured: &Keyring, now: u64) -> Result<RingStart, KeptError> {
        let (kept, was_configured) = match read(self.path())? {
            Found::Ring(kept, was_configured) => (kept, was_configured),
            Found::Nothing => return Ok(RingStart::Configured),
            Found::Corrupt => return Ok(RingStart::Corrupt(set_aside(self.path(), RING, now)?)),
        };
        if configured.revision() >= kept.revision() {
            return Ok(RingStart::Configured);
        }
        let names = names(configured);
        if names == was_configured || names == self::names(&kept) {
            return Ok(RingStart::Kept(kept));
        }
        let (path, to) = (self.path().join(RING), self.path().join(RING_REPLACED));
        fs::rename(&path, &to).map_err(io_error("put aside", &path))?;
        Ok(RingStart::Replaced(to))
    }

    /// Writes down `ring`, instead of the one before, readable by the owner alone. Does nothing once closed.
    ///
    /// # Errors
    /// [`KeptError::Io`]; the ring kept before is still there, whole.
    pub(crate) fn save_ring(&self, ring: &Keyring, configured: &Keyring) -> Result<(), KeptError> {
        if self.is_closed() {
            return Ok(());
        }
        let keys = ring.keys().iter().map(|key| KeyText(key.secret_text())).collect();
        let (revision, in_use) = (ring.revision(), ring.in_use().id());
        let ring = RingText { configured: names(configured), revision, in_use, keys };
        let kept = Kept { format: FORMAT, checksum: ring.checksum(), ring };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&kept).expect("numbers and text are always written"));
        self.replace(RING_NEW, RING, &text, true)
    }

    /// Whether a ring is kept.
    pub(crate) fn has_ring(&self) -> bool {
        self.path().join(RING).exists()
    }
}

/// What a ring holds, without its secrets: the key in use, then all of them.
fn names(ring: &Keyring) -> Vec<u64> {
    let mut all: Vec<u64> = ring.keys().iter().map(ClusterKey::fingerprint).collect();
    all.sort_unstable();
    all.insert(0, ring.in_use().fingerprint());
    all
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    /// Of the ring as compact JSON.
    checksum: u64,
    ring: RingText,
}

#[derive(Serialize, Deserialize)]
struct RingText {
    configured: Vec<u64>,
    revision: u64,
    in_use: KeyId,
    keys: Vec<KeyText>,
}

impl RingText {
    fn checksum(&self) -> u64 {
        xxh3_64(&Zeroizing::new(serde_json::to_vec(self).expect("numbers and text are always written")))
    }

    fn ring(&self) -> Option<Keyring> {
        let keys: Vec<ClusterKey> = self.keys.iter().map(|key| key.0.parse().ok()).collect::<Option<_>>()?;
        Keyring::restore(keys, self.in_use, self.revision).ok()
    }
}

/// The text of a key, overwritten when dropped.
struct KeyText(Zeroizing<String>);

impl Serialize for KeyText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

#[derive(Debug)]
enum Found {
    /// A ring, and the names of what was configured when it was kept.
    Ring(Keyring, Vec<u64>),
    Nothing,
    Corrupt,
}

fn read(dir: &Path) -> Result<Found, KeptError> {
    let path = dir.join(RING);
    match fs::metadata(&path) {
        Ok(about) if about.len() > RING_BYTES_MAX => return Ok(Found::Corrupt),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Ok(_) | Err(_) => {}
    }
    let bytes = Zeroizing::new(fs::read(&path).map_err(io_error("read", &path))?);
    parse(&bytes).map_err(|found| KeptError::NewerFormat { path, found })
}

/// What the bytes of a file of keys say; the error is the format of a newer version.
fn parse(bytes: &[u8]) -> Result<Found, u64> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    // Not by way of a tree of values, which would leave secrets behind.
    match serde_json::from_slice::<Format>(bytes) {
        Ok(Format { format }) if format > u64::from(FORMAT) => return Err(format),
        Ok(_) => {}
        Err(_) => return Ok(Found::Corrupt),
    }
    let kept = serde_json::from_slice::<Kept>(bytes).ok();
    let kept = kept.filter(|kept| kept.format == FORMAT && kept.checksum == kept.ring.checksum());
    let ring = kept.and_then(|kept| Some((kept.ring.ring()?, kept.ring.configured)));
    Ok(ring.map_or(Found::Corrupt, |(ring, configured)| Found::Ring(ring, configured)))
}

/// Whether the bytes are a whole file of keys that this version reads: for fuzzing.
#[doc(hidden)]
pub fn reads(bytes: &[u8]) -> bool {
    matches!(parse(bytes), Ok(Found::Ring(..)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::NodeId;

    const NOW: u64 = 1_700_000_000;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new([byte; 32])
    }

    fn ring(bytes: &[u8]) -> Keyring {
        Keyring::restore(bytes.iter().map(|byte| key(*byte)), key(bytes[0]).id(), 0).unwrap()
    }

    /// As a rotation leaves it: another key in use, the first one gone.
    fn rotated() -> Keyring {
        Keyring::restore([key(2)], key(2).id(), 3).unwrap()
    }

    fn open(dir: &tempfile::TempDir) -> DataDir {
        DataDir::open(dir.path(), NodeId(7), NOW).unwrap().0
    }

    fn kept() -> (tempfile::TempDir, DataDir) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = open(&temporary);
        dir.save_ring(&rotated(), &ring(&[1])).unwrap();
        (temporary, dir)
    }

    #[test]
    fn without_a_kept_ring_the_configured_one_is_used() {
        let temporary = tempfile::tempdir().unwrap();
        assert_eq!(open(&temporary).ring(&ring(&[1]), NOW).unwrap(), RingStart::Configured);
    }

    #[test]
    fn what_a_rotation_left_is_used_while_the_same_keys_are_configured() {
        let (_temporary, dir) = kept();
        assert_eq!(dir.ring(&ring(&[1]), NOW).unwrap(), RingStart::Kept(rotated()));
        assert_eq!(dir.ring(&ring(&[2]), NOW).unwrap(), RingStart::Kept(rotated()), "the key files caught up");
        assert!(dir.has_ring());
    }

    #[test]
    fn keys_configured_anew_shut_out_whoever_has_the_kept_ones() {
        let (temporary, dir) = kept();
        let RingStart::Replaced(aside) = dir.ring(&ring(&[3]), NOW).unwrap() else { panic!("not replaced") };
        assert!(reads(&fs::read(aside).unwrap()), "nothing is lost");
        assert_eq!(dir.ring(&ring(&[3]), NOW).unwrap(), RingStart::Configured);
        drop(dir);
        assert_eq!(open(&temporary).ring(&ring(&[1]), NOW).unwrap(), RingStart::Configured, "nor does it come back");
    }

    #[test]
    fn a_ring_that_the_program_kept_itself_is_not_set_back() {
        let (_temporary, dir) = kept();
        let newer = Keyring::restore([key(4)], key(4).id(), 5).unwrap();
        assert_eq!(dir.ring(&newer, NOW).unwrap(), RingStart::Configured);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_never_deleted() {
        let (temporary, dir) = kept();
        let path = temporary.path().join(RING);
        let whole = fs::read_to_string(&path).unwrap();
        let other = whole.replace("\"revision\": 3", "\"revision\": 4");
        assert_ne!(whole, other);
        for damaged in [&whole[..whole.len() / 2], "", &other, &" ".repeat(RING_BYTES_MAX as usize + 1)] {
            fs::write(&path, damaged).unwrap();
            let RingStart::Corrupt(aside) = dir.ring(&ring(&[1]), NOW).unwrap() else { panic!("{damaged:.40}") };
            assert_eq!(fs::read_to_string(aside).unwrap(), damaged);
        }
        assert_eq!(dir.ring(&ring(&[1]), NOW).unwrap(), RingStart::Configured);
    }

    #[test]
    fn a_file_of_a_newer_version_is_an_error_and_left_alone() {
        let (temporary, dir) = kept();
        fs::write(temporary.path().join(RING), r#"{"format": 2, "more": true}"#).unwrap();
        assert!(matches!(dir.ring(&ring(&[1]), NOW), Err(KeptError::NewerFormat { found: 2, .. })));
        assert!(dir.has_ring());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_but_its_owner_can_read_the_file_whatever_was_there_before() {
        use std::os::unix::fs::PermissionsExt as _;
        let (temporary, dir) = kept();
        let path = temporary.path().join(RING);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        // As a crash in the midst of a write would leave it, were it made by another.
        fs::write(temporary.path().join(RING_NEW), "").unwrap();
        dir.save_ring(&rotated(), &ring(&[1])).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.ring(&ring(&[1]), NOW).unwrap(), RingStart::Kept(rotated()));
    }

    #[test]
    fn a_write_that_fails_leaves_the_ring_before_it() {
        let (temporary, dir) = kept();
        fs::create_dir(temporary.path().join(RING_NEW)).unwrap();
        let more = Keyring::restore([key(4)], key(4).id(), 5).unwrap();
        assert!(matches!(dir.save_ring(&more, &ring(&[1])), Err(KeptError::Io { .. })));
        assert_eq!(dir.ring(&ring(&[1]), NOW).unwrap(), RingStart::Kept(rotated()));
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_more_than_be_corrupt(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(!reads(&bytes));
        }

        #[test]
        fn a_file_with_any_byte_changed_is_not_trusted(at: proptest::sample::Index, to: u8) {
            let (temporary, _dir) = kept();
            let whole = fs::read(temporary.path().join(RING)).unwrap();
            let mut changed = whole.clone();
            let at = at.index(changed.len());
            changed[at] = to;
            if let Ok(Found::Ring(ring, configured)) = parse(&changed) {
                prop_assert_eq!((ring, configured), (rotated(), names(&super::tests::ring(&[1]))));
            }
        }
    }
}
