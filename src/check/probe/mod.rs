//! One run of a check: what is asked, and how the answer is judged. Knows nothing of what came before.

#[cfg(unix)]
mod command;
mod grpc;
mod http;
mod socket;
mod tls;

use std::time::Duration;

use tokio::task::JoinSet;

use super::{Check, Function, Kind, Outcome};

/// Runs a check once. Takes no longer than its timeout; dropped before, it leaves nothing running.
pub(crate) async fn run(check: &Check) -> Outcome {
    let once = async {
        match &check.kind {
            Kind::Http(http) => http::probe(http).await,
            Kind::Tcp { addr } => socket::tcp(addr).await,
            // Silence may be an answer, so it looks at the time itself.
            Kind::Udp(udp) => socket::udp(udp, check.timeout).await,
            Kind::Grpc(grpc) => grpc::probe(grpc).await,
            #[cfg(unix)]
            Kind::Command(line) => command::run(line).await,
            #[cfg(not(unix))]
            Kind::Command(_) => Outcome::critical("commands are run on Unix only"),
            Kind::Function(function) => call(function).await,
            kind @ (Kind::Ttl { .. } | Kind::Told | Kind::Alias(_) | Kind::Unsupported { .. }) => {
                Outcome::critical(format!("a check of kind {} is not run", kind.as_str()))
            }
        }
    };
    let limit = match &check.kind {
        Kind::Udp(_) => check.timeout + UDP_SLACK,
        _ => check.timeout,
    };
    match tokio::time::timeout(limit, once).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::critical(format!("{}: no result within {:?}", what(&check.kind), check.timeout)),
    }
}

/// What a UDP check may take beside its waiting: to resolve a name. It is counted as a failure of its own then.
const UDP_SLACK: Duration = Duration::from_millis(50);

fn what(kind: &Kind) -> String {
    match kind {
        Kind::Http(http) => format!("HTTP {} {}", http.method, http.url),
        Kind::Tcp { addr } => format!("TCP connect {addr}"),
        Kind::Udp(udp) => format!("UDP {}", udp.addr),
        Kind::Grpc(grpc) => format!("gRPC {}", grpc.addr),
        Kind::Command(line) => format!("command {}", line.program),
        kind => kind.as_str().to_owned(),
    }
}

/// A function that panics is one that does not work, and is asked again.
async fn call(function: &Function) -> Outcome {
    // Aborts what is in it when it is dropped.
    let mut task = JoinSet::new();
    let function = function.clone();
    task.spawn(async move { (function.0)().await });
    match task.join_next().await {
        Some(Ok(outcome)) => Outcome::new(outcome.level, outcome.output),
        Some(Err(error)) => Outcome::critical(format!("the function ended without a result: {error}")),
        None => Outcome::critical("the function was not asked"),
    }
}
