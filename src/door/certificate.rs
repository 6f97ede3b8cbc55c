//! The certificate that HTTPS is served with: read from its files, and read again while connections come. Knows nothing
//! of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;

use super::http::{DOOR_LOG, HttpsFiles};
use crate::net::tls::{self, Https, PemError};

/// How often the files were read again.
#[derive(Default, Debug)]
pub(super) struct Readings {
    /// Times that they held another certificate, which is served since.
    pub(super) taken: AtomicU64,
    /// Times that they could not be used, so that the certificate from before went on.
    pub(super) refused: AtomicU64,
}

/// The certificate in use.
#[derive(Debug)]
pub(super) struct Certificate {
    files: HttpsFiles,
    now: ArcSwap<Https>,
    pub(super) readings: Readings,
}

impl Certificate {
    /// # Errors
    /// The files cannot be used.
    pub(super) fn read(files: HttpsFiles) -> Result<Self, PemError> {
        let now = ArcSwap::from_pointee(tls::https(&files.certificate, &files.key)?);
        Ok(Self { files, now, readings: Readings::default() })
    }

    /// Reads the files again; gives whether they hold another certificate. Handshakes that are under way go on with
    /// the one that they began with.
    ///
    /// # Errors
    /// They cannot be used, or do not belong together: the certificate from before stays.
    pub(super) fn read_again(&self) -> Result<bool, PemError> {
        match tls::https(&self.files.certificate, &self.files.key) {
            Ok(read) if read.chain == self.now.load().chain => Ok(false),
            Ok(read) => {
                self.now.store(Arc::new(read));
                self.readings.taken.fetch_add(1, Ordering::Relaxed);
                tracing::info!(target: DOOR_LOG, path = %self.files.certificate.display(), "another certificate is served");
                Ok(true)
            }
            Err(error) => {
                self.readings.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(target: DOOR_LOG, %error, "the certificate cannot be read again; the one from before goes on");
                Err(error)
            }
        }
    }

    /// What takes the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.now.load().config))
    }
}
