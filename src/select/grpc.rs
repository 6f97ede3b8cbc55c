//! A balanced channel for [tonic](https://docs.rs/tonic): each call goes to an instance that is picked for it.
//!
//! tonic's own balanced channel drops an endpoint that failed for good, knows no health and chooses at random. This one
//! follows the view: an instance that comes is called, one that goes is not, one that fails is ejected for a while and
//! comes back by itself.

use std::error::Error as _;
use std::fmt;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::{self, Endpoint};
use tower::Service;

use super::candidate::Candidate;
use super::eject::Outcome;
use super::failover::{Budget, Failover};
use super::layers::{Balance, Policy};
use super::picker::{Picker, Picks};
use super::run::{CallError, Caller};

/// How long a connection may take to be made, unless the endpoint is made by the program.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(2);

type Connect = Box<dyn Fn(&Candidate) -> transport::Channel + Send + Sync>;

/// What gRPC calls come to.
#[derive(Debug)]
struct Grpc;

/// A channel for generated clients: `GreeterClient::new(channel)`. Always ready; clones are the same.
///
/// Each call is made once, since its body may be a stream: a call that failed is repeated by the program, which gets
/// another instance. A refused connection ejects at once.
///
/// ```
/// # fn payments(registry: &tidings::Registry) {
/// use tidings::select::Picker;
/// use tidings::select::grpc::Channel;
///
/// let channel = Channel::new(Picker::new(registry.reader(), "payments"));
/// # let _ = channel;
/// # }
/// ```
pub struct Channel<P = Picker> {
    balance: Balance<Connect, transport::Channel, Grpc, P>,
}

impl<P> Clone for Channel<P> {
    fn clone(&self) -> Self {
        Self { balance: self.balance.clone() }
    }
}

impl<P: fmt::Debug> fmt::Debug for Channel<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("balance", &self.balance).finish()
    }
}

impl<P: Picks> Channel<P> {
    /// A channel in clear, to the address that the picker's selector names.
    pub fn new(picker: P) -> Self {
        Self::with_endpoints(picker, |endpoint| endpoint.connect_timeout(CONNECT_WITHIN))
    }

    /// A channel whose endpoints are finished by the program: timeouts, keep-alive, TLS. They are given as
    /// `http://HOST:PORT`.
    pub fn with_endpoints(picker: P, finish: impl Fn(Endpoint) -> Endpoint + Send + Sync + 'static) -> Self {
        let connect: Connect = Box::new(move |candidate| {
            // Nobody can be reached at a host that makes no URI: the call fails, and the instance is ejected.
            let endpoint = Endpoint::from_shared(format!("http://{}", candidate.address()));
            let endpoint = endpoint.unwrap_or_else(|_| Endpoint::from_static("http://invalid.invalid"));
            finish(endpoint).connect_lazy()
        });
        let caller = Caller::new(picker, Failover::none(), Budget::default()).expect("a single try makes sense");
        Self { balance: Balance::new(caller, Grpc, connect) }
    }

    /// The picker.
    pub fn picker(&self) -> &P {
        self.balance.caller().picker()
    }
}

impl<P: Picks + Send + Sync + 'static> Service<http::Request<Body>> for Channel<P> {
    type Response = http::Response<Body>;
    type Error = CallError<transport::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        // The body may be sent to another thread but not shared between two.
        self.balance.once(request)
    }
}

impl Policy<http::Request<Body>, http::Response<Body>, transport::Error> for Grpc {
    fn outcome(&self, result: &Result<http::Response<Body>, transport::Error>) -> Outcome {
        match result {
            Ok(response) => outcome_of(response),
            Err(error) if is_refused(error) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        }
    }

    fn again(&self, _: &http::Request<Body>) -> Option<http::Request<Body>> {
        None
    }

    fn may_repeat(&self, _: &http::Request<Body>) -> bool {
        false
    }
}

/// Codes that the instance is to blame for; those of a call that was answered later are in the trailers, unseen here.
fn outcome_of(response: &http::Response<Body>) -> Outcome {
    use tonic::Code;
    let status = response.headers().get(tonic::Status::GRPC_STATUS);
    match status.map(|code| Code::from_bytes(code.as_bytes())) {
        Some(Code::Unavailable | Code::ResourceExhausted) => Outcome::TurnedAway,
        Some(Code::Internal | Code::Unknown | Code::DataLoss | Code::DeadlineExceeded) => Outcome::Failed,
        None if !response.status().is_success() => Outcome::Failed,
        Some(_) | None => Outcome::Succeeded,
    }
}

fn is_refused(error: &transport::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let is_refused = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionRefused;
        if error.downcast_ref().is_some_and(is_refused) {
            return true;
        }
        cause = error.source();
    }
    false
}
