//! The keyring of a running member: how it is changed, how a change reaches the others, and who lacks what.
//!
//! Each change makes the ring's revision one larger. Members tell each other their whole rings over streams, and the
//! larger revision takes the place of the smaller one. That happens when somebody changes the ring (to every member
//! at once), and when a member hears a datagram sealed with a key of its ring that it does not use: one of the two
//! has missed a change.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::keys::{ClusterKey, KeyId, KeyInfo, Keyring, KeyringError};
use super::seal::Plaintext;
use super::tls::{ClusterTls, DEVELOPMENT_KEY, PemError, TlsError};
use crate::effect::StreamFailure;
use crate::peer::NodeId;
use crate::time::Time;
use crate::wire::{ToldRing, WireError, decode_ring, encode_ring};

/// Members asked about their keys at once.
pub(crate) const KEY_ASKS_AT_ONCE: usize = 16;

/// After a change, how long a datagram under another key is no sign that somebody missed it.
const SETTLES_AFTER: Duration = Duration::from_secs(2);

/// One address is told of our ring once in this time, however many datagrams under another key come from it.
const TELL_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Addresses told within [`TELL_AGAIN_AFTER`].
const TOLD_MAX: usize = 64;

/// Where the certificates of streams come from, when they are not derived from the cluster key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PemFiles {
    /// The certificates of the authorities that are trusted, and of no others.
    pub authority: PathBuf,
    /// This member's certificate, followed by those between it and the authority.
    pub certificate: PathBuf,
    /// The certificate's private key.
    pub key: PathBuf,
}

/// How a member proves that it belongs to its cluster, and who must prove it to it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Trust {
    pub(crate) ring: Option<Keyring>,
    pub(crate) plaintext: Plaintext,
    pub(crate) pem: Option<PemFiles>,
}

impl Trust {
    /// What streams are authenticated with.
    pub(crate) fn tls(&self, cluster_tag: u32) -> Result<ClusterTls, TrustError> {
        if let Some(files) = &self.pem {
            return Ok(ClusterTls::from_pem(files, cluster_tag)?);
        }
        let Some(ring) = &self.ring else { return Ok(ClusterTls::mint(&DEVELOPMENT_KEY, cluster_tag)?) };
        let mut accepted: Vec<_> = ring.keys().iter().map(ClusterKey::secret).collect();
        if self.plaintext.is_accepted() {
            accepted.push(&DEVELOPMENT_KEY);
        }
        Ok(ClusterTls::mint_among(ring.in_use().secret(), &accepted, cluster_tag)?)
    }

    /// Whether whoever asks over a stream has proven to have a key of ours; only then may it hear the others.
    fn proves_keys(&self) -> bool {
        self.ring.is_some() && self.pem.is_none() && self.plaintext == Plaintext::Refuse
    }
}

/// Why there is nothing to authenticate streams with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// No certificate could be made.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The given certificates cannot be used.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// A change of the ring.
#[derive(Clone, Debug)]
pub(crate) enum KeyChange {
    Add(ClusterKey),
    Use(KeyId),
    Remove(KeyId),
}

/// Why the keys were not changed, or cannot be told.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The member was started without a key.
    #[error("this member has no cluster key; it must be started with one")]
    NoKey,
    /// Streams do not prove that the other side has a cluster key: so keys cannot be changed while running.
    #[error(
        "keys change in a running cluster only when streams are sealed by them: neither with certificates of \
             your own nor while plaintext is accepted"
    )]
    NotProven,
    /// The ring does not allow it.
    #[error(transparent)]
    Ring(#[from] KeyringError),
    /// No certificate could be made from the new ring; the old one stays.
    #[error("cannot make certificates: {0}")]
    Tls(Arc<str>),
    /// The member stopped.
    #[error("the member has stopped: {0}")]
    Stopped(crate::view::StopReason),
}

/// Which keys a member has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberKeys {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// Where it was asked.
    pub addr: SocketAddr,
    /// Its keys, or why it did not tell.
    pub keys: Result<Vec<KeyInfo>, StreamFailure>,
}

/// The keys of this member, and who else has which.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeysStatus {
    /// The keys of this member.
    pub ours: Vec<KeyInfo>,
    /// The other members that are present, as they answered just now.
    pub members: Vec<MemberKeys>,
}

impl KeysStatus {
    /// The members that do not have this key, or did not answer.
    pub fn lacking(&self, id: KeyId) -> impl Iterator<Item = &MemberKeys> {
        let ours = self.ours.iter().find(|key| key.id == id).map(|key| key.fingerprint);
        let has = move |keys: &Vec<KeyInfo>| keys.iter().any(|key| Some(key.fingerprint) == ours);
        self.members.iter().filter(move |member| !member.keys.as_ref().is_ok_and(has))
    }
}

/// The ring of a running member.
#[derive(Debug)]
pub(crate) struct Rotation {
    trust: Trust,
    cluster_tag: u32,
    changed: Time,
    told: BTreeMap<SocketAddr, Time>,
}

impl Rotation {
    pub(crate) fn new(trust: Trust, cluster_tag: u32, now: Time) -> Self {
        Self { trust, cluster_tag, changed: now, told: BTreeMap::new() }
    }

    pub(crate) fn list(&self) -> Result<Vec<KeyInfo>, KeysError> {
        self.trust.ring.as_ref().map(Keyring::list).ok_or(KeysError::NoKey)
    }

    /// The ring after `change`, and the certificates for it; nothing is changed yet.
    pub(crate) fn plan(&self, change: &KeyChange) -> Result<(Keyring, ClusterTls), KeysError> {
        let mut ring = self.trust.ring.clone().ok_or(KeysError::NoKey)?;
        if !self.trust.proves_keys() {
            return Err(KeysError::NotProven);
        }
        match change {
            KeyChange::Add(key) => ring.add(key.clone())?,
            KeyChange::Use(id) => ring.use_key(*id)?,
            KeyChange::Remove(id) => ring.remove(*id)?,
        }
        ring.revise();
        let tls = self.tls_for(&ring)?;
        Ok((ring, tls))
    }

    /// Another member's ring, and the certificates for it, if it is newer than ours.
    pub(crate) fn newer(&self, told: &Keyring) -> Option<(Keyring, ClusterTls)> {
        let ours = self.trust.ring.as_ref().filter(|_| self.trust.proves_keys())?;
        if !told.supersedes(ours) {
            return None;
        }
        let tls = self.tls_for(told).ok()?;
        Some((told.clone(), tls))
    }

    fn tls_for(&self, ring: &Keyring) -> Result<ClusterTls, KeysError> {
        let trust = Trust { ring: Some(ring.clone()), ..self.trust.clone() };
        trust.tls(self.cluster_tag).map_err(|error| KeysError::Tls(error.to_string().into()))
    }

    pub(crate) fn take(&mut self, ring: Keyring, now: Time) {
        self.trust.ring = Some(ring);
        self.changed = now;
    }

    /// What we tell others of our ring; `None` when they have not proven that they may hear it.
    pub(crate) fn told(&self) -> Option<bytes::Bytes> {
        let ring = self.trust.ring.as_ref().filter(|_| self.trust.proves_keys())?;
        let keys = ring.keys().iter().map(|key| *key.secret()).collect();
        encode_ring(&ToldRing { revision: ring.revision(), in_use: ring.in_use().id(), keys }).ok()
    }

    /// Whether a refusal for want of a key says nothing new: our ring is changing in the running cluster, and whoever
    /// cannot open what the new key seals is told of it by that very exchange.
    pub(crate) fn explains_refusals(&self) -> bool {
        self.trust.ring.as_ref().is_some_and(|ring| ring.revision() > 0 && ring.keys().len() > 1)
    }

    /// Whether somebody at this address, who uses another of our keys, should be told of our ring now.
    pub(crate) fn should_tell(&mut self, to: SocketAddr, now: Time) -> bool {
        let is_settled = now.since(self.changed) >= SETTLES_AFTER;
        let is_over = |told: &Time| now.since(*told) >= TELL_AGAIN_AFTER;
        if !is_settled || !self.trust.proves_keys() || self.told.get(&to).is_some_and(|told| !is_over(told)) {
            return false;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.retain(|_, told| !is_over(told));
        }
        let has_room = self.told.len() < TOLD_MAX;
        if has_room {
            self.told.insert(to, now);
        }
        has_room
    }
}

/// Reads a ring that another member told.
pub(crate) fn read_ring(bytes: &[u8]) -> Result<Keyring, WireError> {
    let told = decode_ring(bytes)?;
    let keys = told.keys.into_iter().map(ClusterKey::new);
    Keyring::restore(keys, told.in_use, told.revision).map_err(|_| WireError::Invalid("keyring"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_explained_only_while_keys_change_in_the_running_cluster() {
        let key = |byte| ClusterKey::new([byte; 32]);
        let explains = |keys: &[u8], revision| {
            let ring = Keyring::restore(keys.iter().map(|byte| key(*byte)), key(keys[0]).id(), revision).unwrap();
            let trust = Trust { ring: Some(ring), ..Trust::default() };
            Rotation::new(trust, 0, Time::ZERO).explains_refusals()
        };
        assert!(explains(&[1, 2], 1));
        assert!(!explains(&[1, 2], 0), "configured so: whoever refuses lacks what our operator gave");
        assert!(!explains(&[2], 3), "all is over, and whoever refuses missed it");
        assert!(!Rotation::new(Trust::default(), 0, Time::ZERO).explains_refusals());
    }
}
