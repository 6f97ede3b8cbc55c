//! DNS over real sockets: members on loopback, asked over UDP and TCP.

use std::net::SocketAddr;
use std::time::Duration;

use tidings::door::dns::{Dns, DnsError, DnsPlan, TCP_CONNECTIONS_MAX};
use tidings::record::Instance;
use tidings::registry::{JoinPolicy, Registry};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// Long enough for any machine; what ends here hangs.
const PATIENCE: Duration = Duration::from_secs(20);

const A: u16 = 1;
const SRV: u16 = 33;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it should have happened long ago")
}

/// A question with an EDNS size of 1,232.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1, 0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// What the header of an answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    id: u16,
    is_cut: bool,
    code: u8,
    answers: u16,
}

impl Header {
    fn of(bytes: &[u8]) -> Self {
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Self { id: number(0), is_cut: bytes[2] & 2 != 0, code: bytes[3] & 0xf, answers: number(6) }
    }
}

async fn over_udp(to: SocketAddr, question: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.connect(to).await.expect("it is local");
    socket.send(question).await.expect("it is sent");
    let mut answer = vec![0; 65_536];
    let len = soon(socket.recv(&mut answer)).await.expect("an answer");
    answer.truncate(len);
    answer
}

async fn write(stream: &mut TcpStream, question: &[u8]) {
    let mut framed = u16::try_from(question.len()).expect("short").to_be_bytes().to_vec();
    framed.extend(question);
    stream.write_all(&framed).await.expect("it is taken");
}

async fn read(stream: &mut TcpStream) -> Vec<u8> {
    let len = soon(stream.read_u16()).await.expect("an answer");
    let mut answer = vec![0; usize::from(len)];
    soon(stream.read_exact(&mut answer)).await.expect("all of it");
    answer
}

fn plan() -> DnsPlan {
    DnsPlan::new(SocketAddr::from(([127, 0, 0, 1], 0)))
}

async fn start(name: &str, seed: Option<&Registry>) -> Registry {
    start_in("", name, seed).await
}

async fn start_in(zone: &str, name: &str, seed: Option<&Registry>) -> Registry {
    let builder = Registry::builder("dns-test", name).zone(zone).join_policy(JoinPolicy::Require(PATIENCE));
    let builder = builder.join(seed.map(|seed| seed.local_addr().to_string()));
    soon(builder.start()).await.expect("it starts")
}

fn web(port: u16) -> Instance {
    Instance::new("web", SocketAddr::from(([127, 0, 0, 1], port))).expect("it is right").with_id(&format!("web-{port}"))
}

#[tokio::test]
async fn what_another_member_offers_is_answered_over_udp_and_tcp() {
    let a = start("a", None).await;
    let b = start("b", Some(&a)).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    let _offered = b.register(web(80)).await.expect("it is taken");
    let mut watch = a.watch("web");
    while watch.current().healthy().is_empty() {
        soon(watch.changed()).await.expect("it lives");
    }
    let asked = question(7, "web.service.tidings", A);
    let found = Header { id: 7, is_cut: false, code: 0, answers: 1 };
    let answer = over_udp(dns.addr(), &asked).await;
    assert_eq!(Header::of(&answer), found);
    let mut stream = soon(TcpStream::connect(dns.addr())).await.expect("it listens");
    write(&mut stream, &asked).await;
    assert_eq!(read(&mut stream).await, answer);
    let stats = dns.stats();
    assert_eq!((stats.udp, stats.tcp, stats.answered, stats.connections_open), (1, 1, 2, 1));
    let addr = dns.addr();
    soon(dns.close()).await;
    let mut rest = Vec::new();
    assert_eq!(soon(stream.read_to_end(&mut rest)).await.expect("it ends"), 0, "it is closed with the door");
    assert!(soon(TcpStream::connect(addr)).await.is_err());
}

/// The priorities of the SRV records in an answer that is not to be kept, in its order.
fn priorities(answer: &[u8]) -> Vec<u16> {
    let begins = [0, 33, 0, 1, 0, 0, 0, 0];
    let records = answer.windows(12).filter(|bytes| bytes.starts_with(&begins));
    records.map(|bytes| u16::from_be_bytes([bytes[10], bytes[11]])).collect()
}

/// What nobody measured is farther than what was: that the third has the priority 3 shows that the second was measured.
#[tokio::test]
async fn with_near_the_own_zone_is_first_then_what_was_measured_then_the_rest() {
    let a = start_in("a", "a", None).await;
    let b = start_in("b", "b", Some(&a)).await;
    let mut plan = plan();
    plan.near = true;
    let dns = Dns::open(&a, plan).expect("it opens");
    let _offered = [
        b.register(web(83).with_zone("c")).await.expect("it is taken"),
        b.register(web(82)).await.expect("it is taken"),
        a.register(web(81)).await.expect("it is taken"),
    ];
    let asked = question(7, "web.service.tidings", SRV);
    let measured = async {
        while priorities(&over_udp(dns.addr(), &asked).await) != [1, 2, 3] {
            tokio::task::yield_now().await;
        }
    };
    soon(measured).await;
}

#[tokio::test]
async fn questions_that_come_together_are_answered_in_their_order() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    let _offered = a.register(web(80)).await.expect("it is taken");
    let mut stream = soon(TcpStream::connect(dns.addr())).await.expect("it listens");
    let (mut reader, mut writer) = stream.split();
    let count = 2_000;
    let asks = async {
        let mut all = Vec::new();
        for id in 0..count {
            let asked = question(id, if id % 2 == 0 { "web.service.tidings" } else { "wbe.service.tidings" }, SRV);
            all.extend(u16::try_from(asked.len()).expect("short").to_be_bytes());
            all.extend(asked);
        }
        // Cut in pieces of any length, which a connection does not keep apart.
        for piece in all.chunks(1_003) {
            writer.write_all(piece).await.expect("it is taken");
        }
    };
    let reads = async {
        for id in 0..count {
            let mut answer = vec![0; usize::from(reader.read_u16().await.expect("an answer"))];
            reader.read_exact(&mut answer).await.expect("all of it");
            let is_known = id % 2 == 0;
            let (code, answers) = if is_known { (0, 1) } else { (3, 0) };
            assert_eq!(Header::of(&answer), Header { id, is_cut: false, code, answers });
        }
    };
    soon(async { tokio::join!(asks, reads) }).await;
    assert_eq!(dns.stats().tcp, u64::from(count));
}

#[tokio::test]
async fn what_is_cut_over_udp_is_whole_over_tcp() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    let mut kept = Vec::new();
    for port in 1..=100 {
        kept.push(a.register(web(port)).await.expect("it is taken"));
    }
    let asked = question(9, "web.service.tidings", SRV);
    let answer = over_udp(dns.addr(), &asked).await;
    let header = Header::of(&answer);
    assert!(header.is_cut && header.answers > 10 && answer.len() <= 1_232, "{header:?}");
    let mut stream = soon(TcpStream::connect(dns.addr())).await.expect("it listens");
    write(&mut stream, &asked).await;
    assert_eq!(Header::of(&read(&mut stream).await), Header { id: 9, is_cut: false, code: 0, answers: 100 });
}

#[tokio::test]
async fn a_connection_with_what_is_no_question_is_closed_and_counted() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    for junk in [&[255, 255, 1][..], &[0, 3, 1, 2, 3]] {
        let mut stream = soon(TcpStream::connect(dns.addr())).await.expect("it listens");
        stream.write_all(junk).await.expect("it is taken");
        // Closed with something unread, it may also be reset.
        assert!(!matches!(soon(stream.read(&mut [0; 64])).await, Ok(1..)));
    }
    soon(async {
        while dns.stats().connections_open > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((dns.stats().connections, dns.stats().connections_broken), (2, 2));
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_counted() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    let mut streams = Vec::new();
    for _ in 0..TCP_CONNECTIONS_MAX {
        streams.push(soon(TcpStream::connect(dns.addr())).await.expect("it listens"));
    }
    let mut late = soon(TcpStream::connect(dns.addr())).await.expect("the system takes it");
    assert!(!matches!(soon(late.read(&mut [0; 64])).await, Ok(1..)), "and we close it");
    assert_eq!(dns.stats().connections_full, 1);
    let first = &mut streams[0];
    write(first, &question(1, "web.service.tidings", A)).await;
    assert_eq!(Header::of(&read(first).await).code, 3, "those that are open go on");
}

#[tokio::test]
async fn an_address_is_served_by_one_alone() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    let error = Dns::open(&a, DnsPlan::new(dns.addr())).expect_err("it is taken");
    assert!(matches!(error, DnsError::Bind { addr, .. } if addr == dns.addr()), "{error}");
}

#[tokio::test]
async fn a_service_in_capitals_that_comes_later_is_found_soon() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, plan()).expect("it opens");
    let shop = Instance::new("WebShop", SocketAddr::from(([127, 0, 0, 1], 80))).expect("it is right");
    let _offered = a.register(shop).await.expect("it is taken");
    soon(async {
        while Header::of(&over_udp(dns.addr(), &question(1, "webshop.service.tidings", A)).await).answers == 0 {}
    })
    .await;
}

#[tokio::test]
async fn an_answer_comes_from_where_it_was_asked() {
    let a = start("a", None).await;
    let dns = Dns::open(&a, DnsPlan::new(SocketAddr::from(([0, 0, 0, 0], 0)))).expect("it opens");
    let _offered = a.register(web(80)).await.expect("it is taken");
    // A second address of this machine; a connected socket takes no answer from the first.
    let to = SocketAddr::from(([127, 0, 0, 2], dns.addr().port()));
    assert_eq!(Header::of(&over_udp(to, &question(3, "web.service.tidings", A)).await).answers, 1);
}
