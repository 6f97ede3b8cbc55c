//! Asks a name server for SRV records (RFC 2782), which the system's resolver does not give. One question over UDP to
//! the servers of `resolv.conf`, and nothing cached. Knows nothing of members.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::net::UdpSocket;
use tokio::time::timeout;

/// How long one server may take.
const SERVER_MAX: Duration = Duration::from_secs(2);

/// Servers asked in turn, as the system's resolver does it.
const SERVERS_MAX: usize = 3;

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4_096;

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The hosts and ports of a service, those of the lowest priority first.
pub(crate) async fn services(name: &str) -> Result<Vec<(String, u16)>, String> {
    let conf = tokio::fs::read_to_string(RESOLV_CONF).await.map_err(|error| format!("{RESOLV_CONF}: {error}"))?;
    let servers = servers(&conf);
    if servers.is_empty() {
        return Err(format!("{RESOLV_CONF} names no server"));
    }
    let mut last = String::new();
    for server in servers {
        match timeout(SERVER_MAX, ask(server, name)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => last = format!("{server}: {error}"),
            Err(_) => last = format!("{server}: no answer in time"),
        }
    }
    Err(last)
}

fn servers(conf: &str) -> Vec<SocketAddr> {
    let named = conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let ips = named.filter_map(|ip| ip.trim().parse::<IpAddr>().ok());
    ips.map(|ip| SocketAddr::new(ip, 53)).take(SERVERS_MAX).collect()
}

/// Asks one server.
pub(crate) async fn ask(server: SocketAddr, name: &str) -> Result<Vec<(String, u16)>, String> {
    let mut id = [0; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| "the operating system gives no random bytes")?;
    let id = u16::from_le_bytes(id);
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await.map_err(|error| error.to_string())?;
    // Connected: the system drops what comes from elsewhere.
    socket.connect(server).await.map_err(|error| error.to_string())?;
    socket.send(&question(id, name)?).await.map_err(|error| error.to_string())?;
    let mut bytes = vec![0; ANSWER_BYTES_MAX];
    loop {
        let len = socket.recv(&mut bytes).await.map_err(|error| error.to_string())?;
        if let Some(answer) = answer(id, &bytes[..len]) {
            return answer;
        }
    }
}

fn question(id: u16, name: &str) -> Result<Vec<u8>, String> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name.trim_end_matches('.')).map_err(|error| error.to_string())?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::SRV), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

/// What an answer says; `None` if it is not the answer to our question.
pub(crate) fn answer(id: u16, bytes: &[u8]) -> Option<Result<Vec<(String, u16)>, String>> {
    let packet = Packet::parse(bytes).ok().filter(|packet| packet.id() == id)?;
    if !packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    if packet.rcode() != RCODE::NoError {
        return Some(Err(format!("the server says {:?}", packet.rcode())));
    }
    let mut found: Vec<_> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some((srv.priority, srv.target.to_string(), srv.port)),
            _ => None,
        })
        // RFC 2782: a single dot says that the service is decidedly not available.
        .filter(|(_, host, port)| !host.is_empty() && *port != 0)
        .collect();
    found.sort();
    if found.is_empty() {
        return Some(Err("no SRV record".to_owned()));
    }
    Some(Ok(found.into_iter().map(|(_, host, port)| (host, port)).collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::SRV;

    use super::*;

    fn record(priority: u16, port: u16, target: &str) -> ResourceRecord<'_> {
        let srv = SRV { priority, weight: 0, port, target: Name::new(target).expect("a name") };
        ResourceRecord::new(Name::new("s.example").expect("a name"), CLASS::IN, 1, RData::SRV(srv))
    }

    #[test]
    fn the_servers_of_the_system_are_asked() {
        let conf = "# x\nnameserver 192.0.2.1\noptions ndots:5\nnameserver ::1\nnameserver nonsense\n";
        let expected: Vec<SocketAddr> = vec!["192.0.2.1:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(servers(conf), expected);
    }

    #[tokio::test]
    async fn hosts_and_ports_come_by_priority_and_other_answers_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let addr = server.local_addr().expect("it is bound");
        let serve = async {
            let mut bytes = [0; 512];
            let (len, from) = server.recv_from(&mut bytes).await.expect("a question");
            let id = Packet::parse(&bytes[..len]).expect("a question").id();
            for id in [id.wrapping_add(1), id] {
                let mut packet = Packet::new_reply(id);
                packet.answers.extend([record(20, 2, "b.example"), record(10, 1, "a.example")]);
                let answer = packet.build_bytes_vec().expect("small");
                server.send_to(&answer, from).await.expect("it is sent");
            }
        };
        let (found, ()) = tokio::join!(ask(addr, "s.example."), serve);
        assert_eq!(found, Ok(vec![("a.example".into(), 1), ("b.example".into(), 2)]));
    }

    proptest! {
        #[test]
        fn no_bytes_can_do_more_than_be_wrong(id: u16, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = answer(id, &bytes);
        }
    }
}
