//! Who gets into a cluster with which key, and what both sides say about it; and keys that change in a running one.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use tidings::effect::{Event, KeyProblem, Warning};
use tidings::net::tls::{ClusterTls, MEMBER_NAME};
use tidings::record::Instance;
use tidings::registry::{
    Builder, ClusterKey, Events, JoinPolicy, KeysError, PemFiles, Plaintext, Registry, StartError, Stats,
};
use tidings::wire::{HEADER_BYTES, Header, Kind, cluster_tag};

/// Far more than anything here takes; only a failure waits so long.
const PATIENCE: Duration = Duration::from_secs(20);

const ROUNDS_MAX: usize = 2_000;

fn key(byte: u8) -> ClusterKey {
    ClusterKey::new([byte; 32])
}

fn builder(name: &str) -> Builder {
    Registry::builder("prod", name).join_policy(JoinPolicy::Background)
}

async fn start(builder: Builder) -> Registry {
    builder.start().await.unwrap()
}

fn addr(member: &Registry) -> String {
    member.local_addr().to_string()
}

/// Looks again at every event of `member`, and now and then without one, until `is_so`.
async fn until(what: &str, member: &Registry, mut is_so: impl AsyncFnMut() -> bool) {
    let mut events = member.events();
    let wait = async {
        for _ in 0..ROUNDS_MAX {
            if is_so().await {
                return;
            }
            let _ = tokio::time::timeout(Duration::from_millis(50), events.next()).await;
        }
        panic!("not within {ROUNDS_MAX} rounds: {what}");
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

async fn together(members: &[&Registry]) {
    for member in members {
        until("all see each other", member, async || {
            member.members().iter().filter(|one| one.state.is_present()).count() == members.len()
        })
        .await;
    }
}

/// The next warning about a key.
async fn key_warning(events: &mut Events) -> KeyProblem {
    let next = async {
        for _ in 0..ROUNDS_MAX {
            if let Some(Ok(Event::Warning(Warning::Key { problem, .. }))) = events.next().await {
                return problem;
            }
        }
        panic!("no warning about a key among {ROUNDS_MAX} events");
    };
    tokio::time::timeout(PATIENCE, next).await.expect("a warning about a key")
}

async fn stats(member: &Registry) -> Stats {
    member.stats().await.unwrap()
}

/// Lets `newcomer` try to join `host`, and gives what each says of the other; neither ever sees the other.
async fn turned_away(host: Builder, newcomer: Builder) -> (KeyProblem, KeyProblem) {
    let host = start(host).await;
    let mut hosts = host.events();
    // Events come from when somebody asks for them, and this warning comes once.
    let newcomer = start(newcomer).await;
    let mut newcomers = newcomer.events();
    newcomer.join([host.local_addr()]).unwrap();
    let said = (key_warning(&mut hosts).await, key_warning(&mut newcomers).await);
    assert_eq!((host.members().len(), newcomer.members().len()), (1, 1));
    let (hosts, newcomers) = (stats(&host).await, stats(&newcomer).await);
    assert!(hosts.seal.refusals_sent > 0 && newcomers.node.refusals_received > 0);
    assert_eq!((hosts.seal.sessions, newcomers.seal.sessions), (0, 0));
    assert_eq!((hosts.node.hellos_received, newcomers.node.hellos_answered), (0, 0));
    said
}

#[tokio::test]
async fn members_with_one_key_find_each_other_and_nothing_is_in_clear() {
    let a = start(builder("a").key(key(1))).await;
    let b = start(builder("b").key(key(1)).join([addr(&a)])).await;
    together(&[&a, &b]).await;
    let _web = a.register(Instance::new("web", "127.0.0.1:80".parse::<SocketAddr>().unwrap()).unwrap()).await.unwrap();
    until("the instance arrives", &b, async || b.lookup("web").is_ok()).await;
    for member in [&a, &b] {
        let seal = stats(member).await.seal;
        assert!(seal.sealed > 0 && seal.opened > 0);
        assert_eq!((seal.sent_clear, seal.opened_clear, seal.refused_forged, seal.not_sealed), (0, 0, 0, 0));
    }
}

#[tokio::test]
async fn another_key_is_turned_away_and_both_sides_say_so() {
    let said = turned_away(builder("a").key(key(1)), builder("b").key(key(2))).await;
    assert_eq!(said, (KeyProblem::Unknown { id: key(2).id() }, KeyProblem::Refused));
}

#[tokio::test]
async fn no_key_against_a_key_is_turned_away_and_both_sides_say_so() {
    let said = turned_away(builder("a").key(key(1)), builder("b")).await;
    assert_eq!(said, (KeyProblem::Clear, KeyProblem::Refused));
}

#[tokio::test]
async fn a_key_against_no_key_is_turned_away_and_both_sides_say_so() {
    let said = turned_away(builder("a"), builder("b").key(key(1))).await;
    assert_eq!(said, (KeyProblem::NoKey { id: key(1).id() }, KeyProblem::Refused));
}

#[tokio::test]
async fn another_cluster_with_the_same_key_is_turned_away_by_name() {
    let a = start(builder("a").key(key(1))).await;
    let mut events = a.events();
    let b = Registry::builder("test", "b").join_policy(JoinPolicy::Background).key(key(1)).join([addr(&a)]);
    let b = start(b).await;
    let next = async {
        for _ in 0..ROUNDS_MAX {
            if let Some(Ok(Event::Warning(Warning::OtherCluster { theirs, ours, .. }))) = events.next().await {
                return (theirs, ours);
            }
        }
        panic!("no warning");
    };
    let tags = tokio::time::timeout(PATIENCE, next).await.unwrap();
    assert_eq!(tags, (cluster_tag("test"), cluster_tag("prod")));
    until("the other side is told", &b, async || stats(&b).await.node.refusals_received > 0).await;
    assert_eq!((a.members().len(), b.members().len()), (1, 1));
}

#[tokio::test]
async fn an_old_wire_version_is_told_which_are_spoken() {
    let a = start(builder("a").key(key(1))).await;
    let old = UdpSocket::bind("127.0.0.1:0").unwrap();
    old.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut header = Header::new(Kind::Hello, cluster_tag("prod"), &a.peer(), 1);
    (header.version, header.key) = (0, key(1).id());
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    bytes.resize(HEADER_BYTES + 60, 0);
    old.send_to(&bytes, a.local_addr()).unwrap();
    let mut answer = [0; 1_500];
    let length = old.recv(&mut answer).unwrap();
    let (header, _) = Header::read(&answer[..length]).unwrap();
    assert_eq!((header.kind, header.key), (Kind::Refusal, 0));
    assert!(length <= bytes.len(), "a refusal is no larger than what it answers");
    assert_eq!(stats(&a).await.node.other_version, 1);
}

#[tokio::test]
async fn without_a_key_only_loopback_or_a_loud_word_will_do() {
    let open = || builder("a").bind("0.0.0.0:0".parse().unwrap());
    assert!(matches!(open().start().await, Err(StartError::NotLoopback { what: "bind", .. })));
    // On the address of this host alone, and for a moment.
    assert!(open().insecure(true).start().await.unwrap().is_insecure());
    assert!(!open().key(key(1)).start().await.unwrap().is_insecure());
    assert!(!builder("a").start().await.unwrap().is_insecure());
    let in_clear_too = builder("a").key(key(1)).accept_plaintext(Plaintext::Accept);
    assert!(in_clear_too.start().await.unwrap().is_insecure());
}

#[tokio::test]
async fn keys_rotate_in_a_running_cluster_and_whoever_was_away_is_told() {
    let a = start(builder("a").key(key(1))).await;
    let b = start(builder("b").key(key(1)).join([addr(&a)])).await;
    together(&[&a, &b]).await;
    let status = a.add_key(key(2)).await.unwrap();
    assert_eq!(status.lacking(key(2).id()).count(), 0, "{status:?}");
    assert_eq!(b.keys().await.unwrap().ours, status.ours);
    let status = b.use_key(key(2).id()).await.unwrap();
    assert!(status.ours.iter().any(|one| one.is_in_use && one.id == key(2).id()));
    until("both use it", &a, async || a.keys().await.unwrap().ours == status.ours).await;

    // It has only the old key, which the others still believe.
    let away = start(builder("away").key(key(1)).join([addr(&a)])).await;
    together(&[&a, &b, &away]).await;
    until("it was told", &away, async || away.keys().await.unwrap().ours == status.ours).await;

    let status = a.remove_key(key(1).id()).await.unwrap();
    assert_eq!(status.ours.len(), 1);
    for member in [&b, &away] {
        until("all removed it", member, async || member.keys().await.unwrap().ours == status.ours).await;
    }
    // Streams too: a large record travels over one.
    let mut large = Instance::new("large", "127.0.0.1:80".parse::<SocketAddr>().unwrap()).unwrap();
    for n in 0..20 {
        large = large.with_meta(format!("key-{n}"), "x".repeat(200));
    }
    let _large = b.register(large).await.unwrap();
    until("it is known", &away, async || away.lookup("large").is_ok()).await;
    let late = start(builder("late").key(key(1))).await;
    let mut events = late.events();
    late.join([a.local_addr()]).unwrap();
    assert_eq!(key_warning(&mut events).await, KeyProblem::Refused);
}

#[tokio::test]
async fn a_member_restarted_with_an_old_key_file_gets_in_with_the_ring_that_it_kept() {
    let dir = tempfile::tempdir().unwrap();
    let a = start(builder("a").key(key(1))).await;
    let again = |byte| builder("b").key(key(byte)).data_dir(dir.path()).join([addr(&a)]);
    let b = start(again(1)).await;
    together(&[&a, &b]).await;
    a.add_key(key(2)).await.unwrap();
    a.use_key(key(2).id()).await.unwrap();
    let status = a.remove_key(key(1).id()).await.unwrap();
    until("it was told", &b, async || b.keys().await.unwrap().ours == status.ours).await;
    b.leave().await.unwrap();

    let b = start(again(1)).await;
    assert_eq!(b.keys().await.unwrap().ours, status.ours);
    together(&[&a, &b]).await;
    b.leave().await.unwrap();

    // Its operator says otherwise: that is the newer word.
    let mut events = a.events();
    let b = start(again(3)).await;
    assert_eq!(key_warning(&mut events).await, KeyProblem::Unknown { id: key(3).id() });
    until("it is refused", &b, async || stats(&b).await.node.refusals_received > 0).await;
    assert_eq!(b.keys().await.unwrap().ours[0].id, key(3).id());
}

#[tokio::test]
async fn keys_are_not_told_to_whoever_proves_none() {
    let open = builder("a").key(key(1)).accept_plaintext(Plaintext::Accept);
    let a = start(open).await;
    assert_eq!(a.add_key(key(2)).await, Err(KeysError::NotProven));
    let none = start(builder("b")).await;
    assert_eq!(none.keys().await, Err(KeysError::NoKey));
}

#[tokio::test]
async fn a_member_without_a_key_and_one_that_accepts_plaintext_talk_over_streams_too() {
    let a = start(builder("a")).await;
    let b = builder("b").key(key(1)).accept_plaintext(Plaintext::AcceptAndSend).join([addr(&a)]);
    let b = start(b).await;
    let c = start(builder("c").key(key(1)).accept_plaintext(Plaintext::Accept).join([addr(&b)])).await;
    until("they meet", &b, async || b.members().len() >= 2 && c.members().len() >= 2).await;
    until("clear is counted", &b, async || stats(&b).await.seal.opened_clear > 0).await;
    until("and both pulled", &b, async || stats(&b).await.streams.handshakes_failed == 0 && b.ready().await.is_ok())
        .await;
}

fn pem_text(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", data_encoding::BASE64.encode(der))
}

/// An authority and a certificate of it, in files.
fn pem(dir: &std::path::Path, authority: &str, name: &str, until_year: i32) -> PemFiles {
    let own = Own { file: "cert", until: rcgen::date_time_ymd(until_year, 1, 1).unix_timestamp() };
    pems(dir, authority, name, &[own]).remove(0)
}

/// A certificate: what its files are called, and until when it is valid, in unix seconds.
struct Own {
    file: &'static str,
    until: i64,
}

/// An authority and several certificates of it, in files.
fn pems(dir: &std::path::Path, authority: &str, name: &str, own: &[Own]) -> Vec<PemFiles> {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, authority);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let file = |what: &str| -> PathBuf { dir.join(format!("{authority}-{what}.pem")) };
    std::fs::write(file("ca"), pem_text("CERTIFICATE", issuer.as_ref().der())).unwrap();
    let files = own.iter().map(|Own { file: what, until }| {
        let files = PemFiles { authority: file("ca"), certificate: file(what), key: file(&format!("{what}-key")) };
        let own = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(*until).unwrap());
        let certificate = params.signed_by(&own, &issuer).unwrap();
        std::fs::write(&files.certificate, pem_text("CERTIFICATE", certificate.der())).unwrap();
        std::fs::write(&files.key, pem_text("PRIVATE KEY", &own.serialize_der())).unwrap();
        files
    });
    files.collect()
}

/// A certificate that runs out takes the streams of its member, not the member: its connections live on, and gossip,
/// lookups and failure detection do not need them.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "certificates are valid in the time of the real world")]
async fn a_certificate_that_expires_while_running_ends_streams_and_not_the_membership() {
    let dir = tempfile::tempdir().unwrap();
    let unix = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let until_unix = unix() + 3;
    let files = pems(
        dir.path(),
        "ours",
        MEMBER_NAME,
        &[Own { file: "short", until: until_unix }, Own { file: "long", until: 4_000_000_000 }],
    );
    let expires_soon = |files| ClusterTls::from_pem(files, 1).unwrap().expires_soon();
    assert!(expires_soon(&files[0]) && !expires_soon(&files[1]));
    let a = start(builder("a").key(key(1)).tls_pem(files[0].clone())).await;
    let b = start(builder("b").key(key(1)).tls_pem(files[1].clone()).join([addr(&a)])).await;
    together(&[&a, &b]).await;
    until("both pulled", &b, async || b.ready().await.is_ok()).await;
    until("it expires", &a, async || unix() > until_unix).await;

    let c = start(builder("c").key(key(1)).tls_pem(files[1].clone()).join([addr(&a)])).await;
    until("its handshakes with the expired one fail", &c, async || stats(&c).await.streams.handshakes_failed > 0).await;
    let web = Instance::new("web", "127.0.0.1:80".parse::<SocketAddr>().unwrap()).unwrap();
    let _web = a.register(web).await.unwrap();
    for member in [&b, &c] {
        until("gossip goes on", member, async || member.lookup("web").is_ok()).await;
    }
    assert_eq!(stats(&b).await.node.members_down, 0);
    let error = start_error(builder("a").key(key(1)).tls_pem(files[0].clone())).await;
    assert!(error.contains("short"), "{error}");
}

#[tokio::test]
async fn members_with_certificates_of_one_authority_talk_and_a_foreign_one_pulls_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, foreign) = (pem(dir.path(), "ours", MEMBER_NAME, 2100), pem(dir.path(), "foreign", MEMBER_NAME, 2100));
    let a = start(builder("a").key(key(1)).tls_pem(ours.clone())).await;
    let b = start(builder("b").key(key(1)).tls_pem(ours).join([addr(&a)])).await;
    together(&[&a, &b]).await;
    until("both pulled", &b, async || b.ready().await.is_ok()).await;
    let c = start(builder("c").key(key(1)).tls_pem(foreign).join([addr(&a)])).await;
    until("its handshakes fail", &c, async || stats(&c).await.streams.handshakes_failed > 0).await;
    assert_eq!(c.status(), tidings::registry::Status::Joining);
    assert!(stats(&a).await.streams.inbound_failed > 0);
}

#[tokio::test]
async fn certificates_that_nobody_would_accept_are_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let expired = pem(dir.path(), "old", MEMBER_NAME, 2001);
    let misnamed = pem(dir.path(), "misnamed", "example.com", 2100);
    let good = pem(dir.path(), "good", MEMBER_NAME, 2100);
    let foreign = PemFiles { authority: good.authority.clone(), ..misnamed.clone() };
    let missing = PemFiles { key: dir.path().join("nowhere.pem"), ..good };
    for (files, file) in [(expired, "old-cert"), (misnamed, "misnamed-cert"), (foreign, "-cert"), (missing, "nowhere")]
    {
        let error = start_error(builder("a").key(key(1)).tls_pem(files)).await;
        assert!(error.contains(file), "{error}");
    }
}

async fn start_error(builder: Builder) -> String {
    builder.start().await.expect_err("it cannot start").to_string()
}
