//! A gRPC check: `grpc.health.v1.Health/Check`. SERVING is passing, all else critical.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Fault, NotRun, tls};
use crate::check::{Grpc, Outcome};

pub(super) async fn probe(grpc: &Grpc) -> Result<Outcome, NotRun> {
    let service = if grpc.service.is_empty() { "the server" } else { &grpc.service };
    match ask(grpc).await {
        Ok(ServingStatus::Serving) => Ok(Outcome::passing(format!("gRPC {}: {service} is SERVING", grpc.addr))),
        Ok(status) => Ok(Outcome::critical(format!("gRPC {}: {service} is {}", grpc.addr, status.as_str_name()))),
        Err(fault) => fault.outcome(&format!("gRPC {}", grpc.addr)),
    }
}

async fn ask(grpc: &Grpc) -> Result<ServingStatus, Fault> {
    let channel = connect(grpc).await?;
    let request = HealthCheckRequest { service: grpc.service.clone() };
    let answer = HealthClient::new(channel).check(request).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    Ok(answer.into_inner().status())
}

/// A connection of its own for each run, as a new caller would have it.
async fn connect(grpc: &Grpc) -> Result<Channel, Fault> {
    let scheme = if grpc.tls.is_some() { "https" } else { "http" };
    let origin = format!("{scheme}://{}", grpc.addr).parse::<Uri>().map_err(|error| error.to_string())?;
    // Of the scheme http, for the connector does what TLS there is.
    let endpoint = Endpoint::from_shared(format!("http://{}", grpc.addr)).map_err(|error| error.to_string())?;
    let (addr, tls) = (grpc.addr.clone(), grpc.tls.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (addr, tls) = (addr.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect(&addr).await?;
            let Some(tls) = tls else { return Ok(TokioIo::new(Stream::Plain(stream))) };
            let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = tls::connect(&tls, host, stream, &[b"h2"]).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(Stream::Tls(Box::new(stream))))
        }
    });
    endpoint.origin(origin).connect_with_connector(connector).await.map_err(|error| cause(&error))
}

/// The innermost cause: the others only say that it is a transport error.
fn cause(error: &(dyn std::error::Error + 'static)) -> Fault {
    let causes = || std::iter::successors(Some(error), |error| error.source());
    match causes().find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(error) => Fault::of(error),
        None => Fault::Theirs(causes().last().map_or_else(String::new, ToString::to_string)),
    }
}

/// A connection with or without TLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
