//! HTTP servers (axum), and a client that loses no call when one is killed and another drains:
//! `cargo run --example axum --features tower`.

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::Empty;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::TokioExecutor;
use tidings::Instance;
use tidings::registry::Registry;
use tidings::select::failover::{Budget, Failover};
use tidings::select::layers::{Balance, DrainLayer, Policy};
use tidings::select::run::Caller;
use tidings::select::{Candidate, Outcome, Picker};
use tokio::sync::oneshot;
use tower::{Service, service_fn};

/// A server as if in a process of its own: its member, and a runtime that ends with it.
struct Server {
    registry: Registry,
    kill: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Server {
    async fn start(name: &'static str, join: SocketAddr) -> Result<Self, Box<dyn Error>> {
        let registry = Registry::builder("demo", name).join([join.to_string()]).start().await?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        // It stays until the member leaves.
        registry.register(Instance::new("greeter", listener.local_addr()?)?).await?.keep();

        let unavailable = |_| Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
        let app = Router::new()
            .route("/", get(move || async move { format!("hello from {name}") }))
            .layer(DrainLayer::new(registry.gate(), unavailable));
        let (closed, (kill, killed)) = (registry.gate().closed(), oneshot::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
                tokio::select! {
                    // Once everybody knows that it drains, it accepts nothing more and finishes what it has.
                    served = axum::serve(listener, app).with_graceful_shutdown(closed) => served.expect("it serves"),
                    _ = killed => {}
                }
            });
        });
        Ok(Self { registry, kill, thread })
    }

    /// As `kill -9` would end it: nobody listens any more, and nobody says goodbye.
    fn kill(self) {
        let _ = self.kill.send(());
        self.thread.join().expect("the server did not panic");
    }
}

/// What answers say of the instance that gave them. Every request here may be made twice.
struct Http;

impl<B> Policy<Request<Empty<Bytes>>, Response<B>, ClientError> for Http {
    fn outcome(&self, result: &Result<Response<B>, ClientError>) -> Outcome {
        match result {
            Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => Outcome::TurnedAway,
            Ok(answer) if answer.status().is_server_error() => Outcome::Failed,
            Ok(_) => Outcome::Succeeded,
            Err(error) if is_refused(error) => Outcome::Refused,
            Err(_) => Outcome::Failed,
        }
    }

    fn again(&self, request: &Request<Empty<Bytes>>) -> Option<Request<Empty<Bytes>>> {
        Some(request.clone())
    }

    fn may_repeat(&self, _: &Request<Empty<Bytes>>) -> bool {
        true
    }
}

fn is_refused(error: &ClientError) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let shop = Registry::builder("demo", "shop").start().await?;
    let first = Server::start("first", shop.local_addr()).await?;
    let second = Server::start("second", shop.local_addr()).await?;
    shop.require_services(["greeter"], Duration::from_secs(10)).await?;

    let picker = Picker::new(shop.reader(), "greeter");
    let caller = Caller::new(picker, Failover::default(), Budget::default())?;
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let connect = move |instance: &Candidate| {
        let (client, address) = (client.clone(), instance.address());
        service_fn(move |mut request: Request<Empty<Bytes>>| {
            let uri = format!("http://{address}{}", request.uri().path());
            *request.uri_mut() = uri.parse().expect("an address and a path make a URI");
            client.request(request)
        })
    };
    let mut greeter = Balance::new(caller, Http, connect);
    let mut call = async || greeter.call(Request::new(Empty::new())).await.map(|answer| answer.status());

    for _ in 0..100 {
        assert_eq!(call().await?, StatusCode::OK);
    }
    first.kill();
    for _ in 0..200 {
        assert_eq!(call().await?, StatusCode::OK);
    }
    println!("200 calls after a server was killed: all answered");

    let third = Server::start("third", shop.local_addr()).await?;
    let mut drain = tokio::spawn(async move { second.registry.drain(Duration::from_secs(10)).await });
    let mut calls = 0;
    let drained = loop {
        assert_eq!(call().await?, StatusCode::OK);
        calls += 1;
        if drain.is_finished() {
            break (&mut drain).await??;
        }
    };
    println!("{calls} calls while a server drained: all answered; {} members confirmed it", drained.confirmed);
    third.kill();
    shop.leave().await?;
    Ok(())
}

#[test]
fn the_example_does_what_it_says() {
    main().expect("no step of it fails");
}
