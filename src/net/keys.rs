//! Cluster keys: the secret that makes a process a member, and the ring of those that a member holds at a time.
//! Knows neither datagrams nor streams.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hkdf};
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use super::tls::DEVELOPMENT_KEY;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// Keys in a ring: the one in use, the one that is coming, and a few that have not been cleared away.
pub const KEYS_MAX: usize = 8;

/// What the text of a key begins with: "tidings key, version 1".
pub const KEY_PREFIX: &str = "tdk1_";

/// Bytes of the checksum at the end of a key's text.
const CHECKSUM_BYTES: usize = 4;

/// The short name of a key, 1 to 255, as it stands in every sealed datagram. Equal keys have equal ids; two different
/// keys have the same one time in 255, and then they cannot be in one ring.
pub type KeyId = u8;

/// A cluster key: 32 secret bytes. Whoever has them is a member.
///
/// Neither `Debug` nor any error prints them, and they are overwritten when the key is dropped.
///
/// As text a key is [`KEY_PREFIX`] and the unpadded URL-safe Base64 (RFC 4648, section 5) of the key and the first four
/// bytes of its SHA-256: 53 characters, and a slip of the hand is told from a wrong key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    bytes: Zeroizing<[u8; KEY_BYTES]>,
    id: KeyId,
    fingerprint: u64,
}

impl ClusterKey {
    /// A new key, drawn from the operating system.
    ///
    /// # Errors
    /// [`KeyError::Random`]: it gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| KeyError::Random)?;
        Ok(Self::new(*bytes))
    }

    /// The key with these bytes. They must come from a generator: a password is no key.
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let mut public = [0; 9];
        let named = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidings key name 1").extract(&*bytes);
        named
            .expand(&[b"id and fingerprint"], Nine)
            .and_then(|name| name.fill(&mut public))
            .expect("nine bytes are far below what HKDF can give");
        let [id, fingerprint @ ..] = public;
        // 0 is what a datagram in clear says.
        Self { bytes, id: 1 + id % 255, fingerprint: u64::from_be_bytes(fingerprint) }
    }

    /// Its id.
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// 64 bits that tell it from every other key, and nothing about its secret.
    pub const fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The secret as text, for a key file; overwritten when dropped.
    pub fn secret_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES + CHECKSUM_BYTES]);
        bytes[..KEY_BYTES].copy_from_slice(&*self.bytes);
        bytes[KEY_BYTES..].copy_from_slice(&checksum(&self.bytes));
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        text.push_str(KEY_PREFIX);
        BASE64URL_NOPAD.encode_append(&*bytes, &mut text);
        text
    }

    /// The secret.
    pub(crate) fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }
}

/// Characters of a key's text.
const TEXT_LEN: usize = KEY_PREFIX.len() + (KEY_BYTES + CHECKSUM_BYTES) * 4 / 3;

struct Nine;

impl hkdf::KeyType for Nine {
    fn len(&self) -> usize {
        9
    }
}

fn checksum(key: &[u8; KEY_BYTES]) -> [u8; CHECKSUM_BYTES] {
    let digest = digest::digest(&digest::SHA256, key);
    *digest.as_ref().first_chunk().expect("SHA-256 has 32 bytes")
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey(id {}, fingerprint {:016x})", self.id, self.fingerprint)
    }
}

impl FromStr for ClusterKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let inside = text.strip_prefix(KEY_PREFIX).ok_or(KeyError::Prefix)?;
        if text.len() != TEXT_LEN {
            return Err(KeyError::Length { found: text.len() });
        }
        let mut bytes = Zeroizing::new([0; KEY_BYTES + CHECKSUM_BYTES]);
        BASE64URL_NOPAD.decode_mut(inside.as_bytes(), &mut *bytes).map_err(|_| KeyError::Characters)?;
        let (key, sum) = bytes.split_first_chunk::<KEY_BYTES>().expect("36 bytes hold 32");
        if sum != checksum(key) {
            return Err(KeyError::Checksum);
        }
        Ok(Self::new(*key))
    }
}

/// Why there is no key. No variant holds what was given: it may be nearly the secret.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gives no random bytes.
    #[error("the operating system gives no random bytes")]
    Random,
    /// The text does not begin as a key does.
    #[error("a cluster key begins with {KEY_PREFIX}")]
    Prefix,
    /// The text has another length.
    #[error("the cluster key has {found} characters, a key has {TEXT_LEN}")]
    Length {
        /// How many characters it has.
        found: usize,
    },
    /// The text has characters that no key has.
    #[error("the cluster key has characters that are not of the URL-safe Base64 alphabet")]
    Characters,
    /// The checksum does not agree: mistyped or damaged.
    #[error("the cluster key is damaged: its checksum does not agree")]
    Checksum,
}

/// A key of a ring, as it may be shown to anybody.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// Its fingerprint.
    pub fingerprint: u64,
    /// Whether it seals what the member sends.
    pub is_in_use: bool,
}

impl fmt::Display for KeyInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:016x})", self.id, self.fingerprint)
    }
}

/// The keys of a member: one is in use and seals what it sends, all are accepted in what it receives. Never empty.
///
/// **Rotation**: add the new key at every member, use it at every member, remove the old one at every member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keyring {
    keys: Vec<ClusterKey>,
    in_use: KeyId,
    revision: u64,
}

impl Keyring {
    /// A ring of one key, in use.
    ///
    /// # Errors
    /// [`KeyringError::Public`].
    pub fn new(key: ClusterKey) -> Result<Self, KeyringError> {
        check_secret(&key)?;
        Ok(Self { in_use: key.id, keys: vec![key], revision: 0 })
    }

    /// Puts a ring together again that was kept or told: these keys, of which `in_use` is in use.
    ///
    /// # Errors
    /// See [`KeyringError`]; for no keys at all, and an `in_use` that is not among them, [`KeyringError::Unknown`].
    pub fn restore(
        keys: impl IntoIterator<Item = ClusterKey>,
        in_use: KeyId,
        revision: u64,
    ) -> Result<Self, KeyringError> {
        let mut keys = keys.into_iter();
        let mut ring = Self::new(keys.next().ok_or(KeyringError::Unknown { id: in_use })?)?;
        for key in keys {
            ring.add(key)?;
        }
        ring.use_key(in_use)?;
        ring.revision = revision;
        Ok(ring)
    }

    /// Accepts one more key. One that is there already changes nothing.
    ///
    /// # Errors
    /// [`KeyringError::SameId`], [`KeyringError::TooMany`], [`KeyringError::Public`]; nothing changed.
    pub fn add(&mut self, key: ClusterKey) -> Result<(), KeyringError> {
        check_secret(&key)?;
        if let Some(held) = self.find(key.id) {
            return if held == &key { Ok(()) } else { Err(KeyringError::SameId { id: key.id }) };
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyringError::TooMany { limit: KEYS_MAX });
        }
        self.keys.push(key);
        Ok(())
    }

    /// Seals with this key from now on.
    ///
    /// # Errors
    /// [`KeyringError::Unknown`]; nothing changed.
    pub fn use_key(&mut self, id: KeyId) -> Result<(), KeyringError> {
        if self.find(id).is_none() {
            return Err(KeyringError::Unknown { id });
        }
        self.in_use = id;
        Ok(())
    }

    /// Accepts this key no longer.
    ///
    /// # Errors
    /// [`KeyringError::Unknown`], [`KeyringError::InUse`]; nothing changed.
    pub fn remove(&mut self, id: KeyId) -> Result<(), KeyringError> {
        if self.find(id).is_none() {
            return Err(KeyringError::Unknown { id });
        }
        if self.in_use == id {
            return Err(KeyringError::InUse { id });
        }
        self.keys.retain(|key| key.id != id);
        Ok(())
    }

    /// The key in use.
    pub fn in_use(&self) -> &ClusterKey {
        self.find(self.in_use).expect("the key in use is never removed")
    }

    /// The key with this id.
    pub fn find(&self, id: KeyId) -> Option<&ClusterKey> {
        self.keys.iter().find(|key| key.id == id)
    }

    /// All keys, in the order in which they were added.
    pub fn keys(&self) -> &[ClusterKey] {
        &self.keys
    }

    /// All keys as they may be shown.
    pub fn list(&self) -> Vec<KeyInfo> {
        let info =
            |key: &ClusterKey| KeyInfo { id: key.id, fingerprint: key.fingerprint, is_in_use: key.id == self.in_use };
        self.keys.iter().map(info).collect()
    }

    /// How often the ring was changed while running, at whatever member. 0 is a ring as it was configured: it is never
    /// spread, so that members restarted one by one with new key files do not undo each other.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Notes that a running cluster's ring was changed.
    pub(crate) fn revise(&mut self) {
        self.revision = self.revision.saturating_add(1);
    }

    /// Whether this ring takes the place of `other` where both are known: it was changed later, or at the same time
    /// and chance decides, everywhere alike.
    pub(crate) fn supersedes(&self, other: &Self) -> bool {
        self.revision > 0 && self.rank() > other.rank()
    }

    pub(crate) fn rank(&self) -> (u64, u64) {
        let mut names: Vec<u64> = self.keys.iter().map(|key| key.fingerprint).collect();
        names.sort_unstable();
        names.push(self.in_use().fingerprint);
        let bytes: Vec<u8> = names.iter().flat_map(|name| name.to_le_bytes()).collect();
        (self.revision, xxh3_64(&bytes))
    }
}

fn check_secret(key: &ClusterKey) -> Result<(), KeyringError> {
    if key.secret() == &DEVELOPMENT_KEY { Err(KeyringError::Public) } else { Ok(()) }
}

/// Why a ring was not made or changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// There is no such key.
    #[error("there is no key {id} in the ring")]
    Unknown {
        /// The id.
        id: KeyId,
    },
    /// The key is in use.
    #[error("key {id} is in use; use another before removing it")]
    InUse {
        /// The id.
        id: KeyId,
    },
    /// Another key has the same id.
    #[error("another key with the id {id} is in the ring; generate a key again")]
    SameId {
        /// The id.
        id: KeyId,
    },
    /// There are too many keys.
    #[error("a ring holds {limit} keys at most; remove one")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The development key, which everybody knows.
    #[error("the development key is public and protects nothing; generate a key")]
    Public,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new([byte; KEY_BYTES])
    }

    /// Key files live for years: a change of this text or these names is a new prefix.
    #[test]
    fn the_text_and_the_names_of_a_key_are_these() {
        let key = key(7);
        assert_eq!(&*key.secret_text(), "tdk1_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwdLsG-O");
        assert_eq!(format!("{key:?}"), "ClusterKey(id 34, fingerprint e3dea42221f72f6b)");
    }

    #[test]
    fn a_key_comes_back_from_its_text() {
        let key = ClusterKey::generate().unwrap();
        assert_eq!(key.secret_text().parse(), Ok(key));
    }

    #[test]
    fn a_slip_of_the_hand_is_told_from_a_key() {
        let text = key(1).secret_text();
        let parse = |text: &str| text.parse::<ClusterKey>().unwrap_err();
        assert_eq!(parse(""), KeyError::Prefix);
        assert_eq!(parse(&text[1..]), KeyError::Prefix);
        assert_eq!(parse(&text[..20]), KeyError::Length { found: 20 });
        assert_eq!(parse(&text.replace('A', "+")), KeyError::Characters);
        assert_eq!(parse(&text.replacen('A', "B", 1)), KeyError::Checksum);
    }

    #[test]
    fn no_debug_output_holds_the_secret() {
        let shown = format!("{:?}", Keyring::new(key(0xab)).unwrap());
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("abab"), "{shown}");
    }

    #[test]
    fn a_ring_always_has_a_key_in_use() {
        let mut ring = Keyring::new(key(1)).unwrap();
        let (old, new) = (key(1).id(), key(2).id());
        assert_eq!(ring.remove(old), Err(KeyringError::InUse { id: old }));
        assert_eq!(ring.use_key(new), Err(KeyringError::Unknown { id: new }));
        ring.add(key(2)).unwrap();
        assert_eq!(ring.in_use(), &key(1), "what is added is not used before all have it");
        ring.use_key(new).unwrap();
        ring.remove(old).unwrap();
        assert_eq!(ring.list(), [KeyInfo { id: new, fingerprint: key(2).fingerprint(), is_in_use: true }]);
    }

    #[test]
    fn a_ring_has_a_limit_and_refuses_what_it_could_not_tell_apart() {
        let mut ring = Keyring::new(key(0)).unwrap();
        let mut refused = 0;
        for byte in 1..=255 {
            refused += usize::from(ring.add(key(byte)).is_err());
        }
        assert_eq!((ring.keys().len(), refused), (KEYS_MAX, 256 - KEYS_MAX));
        let twin = (0..=u8::MAX)
            .map(|byte| ClusterKey::new([byte; 32]))
            .find(|twin| ring.find(twin.id()).is_some_and(|held| held != twin));
        if let Some(twin) = twin {
            assert_eq!(ring.add(twin.clone()), Err(KeyringError::SameId { id: twin.id() }));
        }
        assert_eq!(ring.add(key(0)), Ok(()), "a key that is there already is no change");
        assert_eq!(Keyring::new(ClusterKey::new(DEVELOPMENT_KEY)), Err(KeyringError::Public));
    }

    #[test]
    fn the_ring_that_was_changed_later_wins_and_a_configured_one_never_does() {
        let mut ours = Keyring::new(key(1)).unwrap();
        let theirs = Keyring::new(key(2)).unwrap();
        assert!(!ours.supersedes(&theirs) && !theirs.supersedes(&ours));
        ours.add(key(2)).unwrap();
        ours.revise();
        assert!(ours.supersedes(&theirs) && !theirs.supersedes(&ours));
        let mut tied = theirs;
        tied.add(key(3)).unwrap();
        tied.revise();
        assert!(ours.supersedes(&tied) != tied.supersedes(&ours), "equal revisions are decided");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_key_or_an_error(text in ".{0,80}") {
            let _ = text.parse::<ClusterKey>();
            let _ = format!("{KEY_PREFIX}{text}").parse::<ClusterKey>();
        }
    }
}
