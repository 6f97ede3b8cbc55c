//! Checks of a port: a TCP connection that comes about, a UDP datagram that is not refused.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};

use super::{Fault, NotRun};
use crate::check::{Outcome, Udp};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 2_048;

pub(super) async fn tcp(addr: &str) -> Result<Outcome, NotRun> {
    match TcpStream::connect(addr).await {
        Ok(_) => Ok(Outcome::passing(format!("TCP connect {addr}: success"))),
        Err(error) => Fault::of(&error).outcome(&format!("TCP connect {addr}")),
    }
}

pub(super) async fn udp(udp: &Udp, timeout: Duration) -> Result<Outcome, NotRun> {
    let addr = &udp.addr;
    Ok(match tokio::time::timeout(timeout, ask(udp)).await {
        Ok(Ok(bytes)) => Outcome::passing(format!("UDP {addr}: {bytes} bytes came back")),
        Ok(Err(error)) => return Fault::of(&error).outcome(&format!("UDP {addr}")),
        Err(_) if udp.must_answer => Outcome::critical(format!("UDP {addr}: no answer within {timeout:?}")),
        Err(_) => Outcome::passing(format!("UDP {addr}: nobody refused it within {timeout:?}")),
    })
}

/// The bytes of the answer. A refusal (ICMP) is an error of the connected socket.
async fn ask(udp: &Udp) -> std::io::Result<usize> {
    let addr = tokio::net::lookup_host(&udp.addr).await?.next();
    let addr = addr.ok_or_else(|| std::io::Error::other("the name has no address"))?;
    let any = match addr {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(addr).await?;
    socket.send(udp.payload.as_bytes()).await?;
    socket.recv(&mut [0; ANSWER_BYTES_MAX]).await
}
