//! Records as they are held, and a place where nodes of one process share those that are equal. Knows nothing of who
//! holds them, and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::record::{Content, Key, Version};
use crate::time::Time;
use crate::wire::decode_content;

/// The pool is gone through for what nobody holds any more once it is this much longer than twice what was left the
/// last time.
const TIDIED_AFTER: usize = 1_024;

/// One version of a record, as it is held; never changed.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: Key,
    pub(crate) version: Version,
    pub(crate) body: Stored,
}

#[derive(Debug)]
pub(crate) enum Stored {
    /// A statement that stands.
    Live {
        /// As they came: they are passed on unchanged.
        bytes: Bytes,
        /// What they say.
        content: Content,
        /// What the record adds to the fingerprint.
        share: u64,
    },
    /// It was withdrawn.
    Gone {
        /// When we learned of it.
        since: Time,
    },
}

impl Held {
    fn live(key: &Key, version: Version, bytes: &Bytes, share: u64) -> Self {
        // What we cannot read, others may: it is kept and passed on, and not shown.
        let content = decode_content(key, bytes).unwrap_or(Content::Unknown);
        Self { key: key.clone(), version, body: Stored::Live { bytes: bytes.clone(), content, share } }
    }

    pub(crate) const fn is_gone(&self) -> bool {
        matches!(self.body, Stored::Gone { .. })
    }

    /// What it says, if it stands.
    pub(crate) const fn content(&self) -> Option<&Content> {
        match &self.body {
            Stored::Live { content, .. } => Some(content),
            Stored::Gone { .. } => None,
        }
    }
}

/// Where nodes of one process share records that are equal.
///
/// Each of a thousand nodes in a simulator would else hold every record for itself. [`Pool::default`] shares nothing,
/// which is right for a process with a single node. No output depends on which of the two a node is lent.
#[derive(Debug, Default)]
pub struct Pool(Option<Box<Shelf>>);

#[derive(Debug, Default)]
struct Shelf {
    /// By what they add to the fingerprint, which tells owner, key, version and bytes apart but for chance.
    held: BTreeMap<u64, Arc<Held>>,
    /// How many were left when it was last gone through.
    tidied_len: usize,
}

impl Pool {
    /// A pool that shares: lend it to each node, see [`crate::node::Node::handle_sharing`].
    pub fn sharing() -> Self {
        Self(Some(Box::default()))
    }

    /// How many records are in it, held by a node or not yet cleared away.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |shelf| shelf.held.len())
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) const fn is_sharing(&self) -> bool {
        self.0.is_some()
    }

    /// A live record to hold: the one that others hold, if there is an equal one.
    pub(crate) fn live(&mut self, key: &Key, version: Version, bytes: &Bytes, share: u64) -> Arc<Held> {
        let Some(shelf) = &mut self.0 else { return Arc::new(Held::live(key, version, bytes, share)) };
        if let Some(held) = shelf.held.get(&share) {
            let is_equal = matches!(&held.body, Stored::Live { bytes: known, .. } if known == bytes);
            if is_equal && held.version == version && held.key == *key {
                return Arc::clone(held);
            }
        }
        if shelf.held.len() > 2 * shelf.tidied_len + TIDIED_AFTER {
            shelf.held.retain(|_, held| Arc::strong_count(held) > 1);
            shelf.tidied_len = shelf.held.len();
        }
        let held = Arc::new(Held::live(key, version, bytes, share));
        shelf.held.insert(share, Arc::clone(&held));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(number: u64) -> Bytes {
        Bytes::copy_from_slice(&number.to_le_bytes())
    }

    #[test]
    fn equal_records_are_held_once_and_others_are_not_mixed_up() {
        let mut pool = Pool::sharing();
        let first = pool.live(&"a".into(), 1, &bytes(1), 7);
        assert!(Arc::ptr_eq(&first, &pool.live(&"a".into(), 1, &bytes(1), 7)));
        // Their shares are equal by chance: each is what it is all the same.
        for (key, version, number) in [("b", 1, 1), ("a", 2, 1), ("a", 1, 2)] {
            let other = pool.live(&key.into(), version, &bytes(number), 7);
            assert_eq!((other.key.as_str(), other.version), (key, version));
            assert!(matches!(&other.body, Stored::Live { bytes: known, .. } if *known == bytes(number)));
        }
    }

    #[test]
    fn what_nobody_holds_any_more_is_cleared_away() {
        let mut pool = Pool::sharing();
        let kept = pool.live(&"kept".into(), 1, &bytes(0), 0);
        for share in 1..=20 * TIDIED_AFTER as u64 {
            pool.live(&"a".into(), share, &bytes(share), share);
            assert!(pool.len() <= 2 * TIDIED_AFTER, "{}", pool.len());
        }
        assert!(Arc::ptr_eq(&kept, &pool.live(&"kept".into(), 1, &bytes(0), 0)));
    }

    #[test]
    fn a_pool_that_does_not_share_keeps_nothing() {
        let mut pool = Pool::default();
        let held = pool.live(&"a".into(), 1, &bytes(1), 7);
        assert!(pool.is_empty() && !pool.is_sharing());
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
