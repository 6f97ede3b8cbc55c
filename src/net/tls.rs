//! What makes streams private to a cluster: certificates that every holder of the cluster key can mint, and nobody
//! else. Knows nothing of sockets.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::HmacKey;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, date_time_ymd,
};
use ring::rand::SecureRandom;
use ring::{hkdf, hmac, rand};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring as ring_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, RootCertStore, SignatureScheme};

use super::keys::ClusterKey;
use super::rotate::PemFiles;

/// The cluster key of members that were given none.
///
/// It is public, so it keeps nobody out: whoever reaches the port of a member that uses it is a member. That is why
/// such members listen on loopback only. It merely spares development a second, unauthenticated way of talking.
pub const DEVELOPMENT_KEY: [u8; 32] = *b"tidings development key, public!";

/// The one DNS name that every member's certificate carries: it says "a member of this cluster", not which one.
pub const MEMBER_NAME: &str = "member.tidings.internal";

/// All certificates are valid from the start of this year to the start of the second, so that a clock that is wrong
/// by years does no harm; what ends a certificate is the rotation of the cluster key.
const VALID_YEARS: (i32, i32) = (2020, 2120);

/// Why there are no certificates. All of these are faults of the build or the operating system, not of the key: any
/// 32 bytes will do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The operating system has no random bytes, or a derivation failed.
    #[error("no random bytes, or no key could be derived")]
    Crypto,
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The certificates do not work together.
    #[error("cannot use the certificates: {0}")]
    Config(#[from] rustls::Error),
    /// The other side's certificates could not be verified with the cluster's.
    #[error("cannot verify certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// The crypto provider lacks what QUIC needs.
    #[error("the crypto provider cannot do QUIC: {0}")]
    Provider(#[from] NoInitialCipherSuite),
}

impl From<ring::error::Unspecified> for TlsError {
    fn from(_: ring::error::Unspecified) -> Self {
        Self::Crypto
    }
}

/// A certificate from files that is valid for less than this is warned about: its member must be restarted with
/// another before it expires.
pub const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// One start's part in the cluster's TLS: TLS 1.3, both sides authenticated.
///
/// The cluster key derives a certificate authority that is the same, byte for byte, on all members; each start mints
/// a certificate of its own with it. This proves membership, not identity: any member could mint any certificate.
#[derive(Clone)]
pub struct ClusterTls {
    server: Arc<QuicServerConfig>,
    client: Arc<QuicClientConfig>,
    name: String,
    reset: hkdf::Prk,
    expires_soon: bool,
}

impl ClusterTls {
    /// Mints a certificate for this start, in the cluster with this key and tag. Members whose key or tag differs
    /// cannot finish a handshake with it.
    ///
    /// # Errors
    /// See [`TlsError`]; none depends on the key or the tag.
    pub fn mint(key: &[u8; 32], cluster_tag: u32) -> Result<Self, TlsError> {
        Self::mint_among(key, &[key], cluster_tag)
    }

    /// Mints certificates with every key of `accepted`, and accepts those of others who did. Two members finish a
    /// handshake if they have any key in common: who begins names the authority of its key `in_use` and gets a
    /// certificate of that one, if there is one; who answers names the authorities that it accepts, likewise.
    ///
    /// # Errors
    /// See [`TlsError`]; none depends on the keys or the tag.
    pub(crate) fn mint_among(in_use: &[u8; 32], accepted: &[&[u8; 32]], cluster_tag: u32) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        let mut leaves = Vec::new();
        for key in [in_use].iter().chain(accepted.iter().filter(|key| **key != in_use)) {
            let authority = authority(key)?;
            roots.add(authority.as_ref().der().clone())?;
            let mut own = RootCertStore::empty();
            own.add(authority.as_ref().der().clone())?;
            let (chain, private) = leaf(&authority)?;
            let certified = CertifiedKey::from_der(chain, private, &provider)?;
            leaves.push(Leaf { name: key_name(key), subjects: own.subjects(), certified: Arc::new(certified) });
        }
        let reset = derive(in_use, b"stateless reset")?;
        Self::assemble(roots, Leaves(leaves), key_name(in_use), reset, provider, cluster_tag)
    }

    /// Uses certificates that were made elsewhere. All of a cluster must carry the DNS name [`MEMBER_NAME`].
    ///
    /// # Errors
    /// See [`PemError`], which names the file.
    pub fn from_pem(files: &PemFiles, cluster_tag: u32) -> Result<Self, PemError> {
        let provider = Arc::new(provider());
        let mut roots = RootCertStore::empty();
        for authority in certificates(&files.authority, "authority")? {
            roots.add(authority).map_err(|error| bad(&files.authority, "authority")(&error))?;
        }
        let chain = certificates(&files.certificate, "certificate")?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad(&files.key, "private key")(&error))?;
        let reset = derive_from(key.secret_der(), b"stateless reset")?;
        let certified = CertifiedKey::from_der(chain.clone(), key, &provider)
            .map_err(|error| bad(&files.key, "private key")(&error))?;

        // What no other member would accept must not wait until the first of them says so.
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(&provider))
            .build()
            .map_err(TlsError::from)?;
        let name = ServerName::try_from(MEMBER_NAME).expect("a valid name");
        verifier
            .verify_server_cert(&chain[0], &chain[1..], &name, &[], UnixTime::now())
            .map_err(|error| bad(&files.certificate, "certificate")(&error))?;
        let soon = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + EXPIRES_SOON);
        let expires_soon = verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], soon).is_err();
        let leaf = Leaf { name: MEMBER_NAME.to_owned(), subjects: Vec::new(), certified: Arc::new(certified) };
        let leaves = Leaves(vec![leaf]);
        let tls = Self::assemble(roots, leaves, MEMBER_NAME.to_owned(), reset, provider, cluster_tag)?;
        Ok(Self { expires_soon, ..tls })
    }

    fn assemble(
        roots: RootCertStore,
        leaves: Leaves,
        name: String,
        reset: hkdf::Prk,
        provider: Arc<CryptoProvider>,
        cluster_tag: u32,
    ) -> Result<Self, TlsError> {
        let (roots, leaves, alpn) = (Arc::new(roots), Arc::new(leaves), vec![alpn(cluster_tag)]);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build()?;
        let mut server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&leaves) as Arc<_>);
        server.alpn_protocols.clone_from(&alpn);
        // Connections are kept for a while, not resumed: tickets would be memory and packets for nothing.
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});

        let mut client = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_cert_resolver(leaves);
        client.alpn_protocols = alpn;
        client.resumption = Resumption::disabled();

        Ok(Self {
            server: Arc::new(server.try_into()?),
            client: Arc::new(client.try_into()?),
            name,
            reset,
            expires_soon: false,
        })
    }

    /// Whether a certificate from files was valid for less than [`EXPIRES_SOON`] when it was read.
    pub const fn expires_soon(&self) -> bool {
        self.expires_soon
    }

    /// The name to ask for when starting a handshake.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How this member answers handshakes. The transport's settings are quinn's own until the caller sets them.
    pub fn server_config(&self) -> quinn::ServerConfig {
        quinn::ServerConfig::with_crypto(Arc::clone(&self.server) as Arc<_>)
    }

    /// How this member starts handshakes; the name to ask for is [`name`](Self::name). The transport's settings are
    /// quinn's own until the caller sets them.
    pub fn client_config(&self) -> quinn::ClientConfig {
        quinn::ClientConfig::new(Arc::clone(&self.client) as Arc<_>)
    }

    /// How somebody would start handshakes who knows the cluster's authority but has no certificate of it.
    #[cfg(test)]
    pub(super) fn anonymous_client_config(key: &[u8; 32], cluster_tag: u32) -> quinn::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(authority(key).unwrap().as_ref().der().clone()).unwrap();
        let mut client = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.alpn_protocols = vec![alpn(cluster_tag)];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()))
    }

    /// The key of stateless resets for a member that listens at `local`: equal for every start of that member, so
    /// that after a restart it can tell the peers at once that their old connections are dead.
    ///
    /// Members of a cluster must not share one: whoever sees a packet to one of them could have its connection reset
    /// by another (RFC 9000, section 21.11). The address tells them apart, except for a wildcard: then the key is
    /// random, and peers have to notice a restart by the silence.
    ///
    /// # Errors
    /// [`TlsError::Crypto`]: no random bytes.
    pub fn reset_key(&self, local: SocketAddr) -> Result<Arc<dyn HmacKey>, TlsError> {
        let mut key = [0; 32];
        if local.ip().is_unspecified() {
            rand::SystemRandom::new().fill(&mut key)?;
        } else {
            let local = local.to_string();
            self.reset.expand(&[local.as_bytes()], hkdf::HKDF_SHA256)?.fill(&mut key)?;
        }
        Ok(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }
}

/// The name that asks for a certificate of this key's authority. The wildcard in every certificate matches it, so one
/// of another authority is refused for its authority alone, or accepted if that is known too.
fn key_name(key: &[u8; 32]) -> String {
    format!("k{:016x}.{MEMBER_NAME}", ClusterKey::new(*key).fingerprint())
}

/// A certificate of ours.
#[derive(Debug)]
struct Leaf {
    /// The name that asks for it.
    name: String,
    /// Its authority.
    subjects: Vec<DistinguishedName>,
    certified: Arc<CertifiedKey>,
}

/// Our certificates, the one in use first.
#[derive(Debug)]
struct Leaves(Vec<Leaf>);

impl Leaves {
    fn choose(&self, is_wanted: impl Fn(&&Leaf) -> bool) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(is_wanted).or(self.0.first()).map(|leaf| Arc::clone(&leaf.certified))
    }
}

impl ResolvesServerCert for Leaves {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(|leaf| hello.server_name() == Some(leaf.name.as_str()))
    }
}

impl ResolvesClientCert for Leaves {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(|leaf| leaf.subjects.iter().any(|subject| hints.contains(&subject.as_ref())))
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Why given certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// A file cannot be read, or what is in it cannot be used: expired, of another authority, for another name ...
    #[error("cannot use the {what} in {path:?}: {cause}")]
    File {
        /// What it should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// They do not work together.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

fn bad(path: &Path, what: &'static str) -> impl Fn(&dyn fmt::Display) -> PemError + use<> {
    let path = path.to_owned();
    move |error| PemError::File { what, path: path.clone(), cause: error.to_string() }
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| bad(path, what)(&error))?;
    if found.is_empty() { Err(bad(path, what)(&"it holds no certificate")) } else { Ok(found) }
}

/// How HTTPS is served: TLS 1.3, and whoever can connect may.
#[cfg(feature = "agent")]
#[derive(Debug)]
pub(crate) struct Https {
    pub(crate) config: Arc<rustls::ServerConfig>,
    /// The certificate that is shown, followed by those between it and its authority.
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// How HTTPS is served with a certificate from files.
///
/// # Errors
/// See [`PemError`], which names the file.
#[cfg(feature = "agent")]
pub(crate) fn https(certificate: &Path, key: &Path) -> Result<Https, PemError> {
    let chain = certificates(certificate, "certificate")?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, "private key")(&error))?;
    let mut server = rustls::ServerConfig::builder_with_provider(Arc::new(ring_provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::from)?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), private)
        .map_err(|error| bad(key, "private key")(&error))?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Https { config: Arc::new(server), chain })
}

impl fmt::Debug for ClusterTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterTls").finish_non_exhaustive()
    }
}

/// What both sides must name in the handshake: another cluster, and another kind of stream, have another name.
fn alpn(cluster_tag: u32) -> Vec<u8> {
    format!("tidings/1/{cluster_tag:08x}").into_bytes()
}

/// The few algorithms that members use: a short hello, and nothing to negotiate down to.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            ring_provider::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring_provider::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![ring_provider::kx_group::X25519],
        ..ring_provider::default_provider()
    }
}

/// The cluster's certificate authority. Nothing in it is random, and Ed25519 signatures are deterministic, so it is
/// the same everywhere.
fn authority(key: &[u8; 32]) -> Result<CertifiedIssuer<'static, KeyPair>, TlsError> {
    let mut seed = [0; 32];
    derive(key, b"cluster authority")?.expand(&[b"ed25519 seed"], hkdf::HKDF_SHA256)?.fill(&mut seed)?;
    // Two authorities must differ in their names, by which a handshake chooses among them.
    let mut params = params(&format!("tidings cluster {:016x}", ClusterKey::new(*key).fingerprint()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(CertifiedIssuer::self_signed(params, ed25519(&seed)?)?)
}

/// A certificate with a new key, for either side of a handshake.
fn leaf(
    authority: &CertifiedIssuer<'_, KeyPair>,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = params("tidings member");
    params.subject_alt_names = vec![
        rcgen::SanType::DnsName(MEMBER_NAME.try_into()?),
        rcgen::SanType::DnsName(format!("*.{MEMBER_NAME}").try_into()?),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = params.signed_by(&key, authority)?;
    Ok((vec![certificate.into()], PrivatePkcs8KeyDer::from(key.serialize_der()).into()))
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(VALID_YEARS.0, 1, 1);
    params.not_after = date_time_ymd(VALID_YEARS.1, 1, 1);
    params
}

/// An Ed25519 key from its seed, by way of the one door that rcgen has: PKCS #8 (RFC 8410, section 7).
fn ed25519(seed: &[u8; 32]) -> Result<KeyPair, TlsError> {
    const PKCS8_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let pkcs8 = [&PKCS8_HEAD[..], seed].concat();
    Ok(KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8), &PKCS_ED25519)?)
}

/// A secret of the cluster key for one purpose (RFC 5869; the salt keeps other uses of the key apart).
fn derive(key: &[u8; 32], purpose: &[u8]) -> Result<hkdf::Prk, TlsError> {
    derive_from(key, purpose)
}

fn derive_from(key: &[u8], purpose: &[u8]) -> Result<hkdf::Prk, TlsError> {
    let mut secret = [0; 32];
    let root = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidings streams 1").extract(key);
    root.expand(&[purpose], hkdf::HKDF_SHA256)?.fill(&mut secret)?;
    Ok(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_gives_one_authority_and_another_key_another() {
        let der = |key| authority(&key).unwrap().as_ref().der().clone();
        assert_eq!(der(DEVELOPMENT_KEY), der(DEVELOPMENT_KEY));
        assert_ne!(der(DEVELOPMENT_KEY), der([7; 32]));
    }

    #[test]
    fn each_start_has_a_certificate_of_its_own() {
        let authority = authority(&DEVELOPMENT_KEY).unwrap();
        assert_ne!(leaf(&authority).unwrap().0, leaf(&authority).unwrap().0);
    }

    #[test]
    fn the_reset_key_outlives_a_start_and_differs_between_members() {
        let token = |tls: &ClusterTls, addr: &str| {
            let mut signature = [0; 32];
            tls.reset_key(addr.parse().unwrap()).unwrap().sign(b"connection", &mut signature);
            signature
        };
        let first = ClusterTls::mint(&DEVELOPMENT_KEY, 1).unwrap();
        let second = ClusterTls::mint(&DEVELOPMENT_KEY, 1).unwrap();
        assert_eq!(token(&first, "127.0.0.1:7"), token(&second, "127.0.0.1:7"));
        assert_ne!(token(&first, "127.0.0.1:7"), token(&first, "127.0.0.1:8"));
        assert_ne!(token(&first, "0.0.0.0:7"), token(&second, "0.0.0.0:7"));
    }

    #[test]
    fn the_handshake_names_the_cluster() {
        assert_eq!(alpn(0x00c0_ffee), b"tidings/1/00c0ffee");
    }
}
