//! gRPC servers (tonic), and a client whose balanced channel survives one that is killed, and finds it again:
//! `cargo run --example tonic --features tonic`.

use std::error::Error;
use std::net::TcpListener;

use tidings::Instance;
use tidings::registry::Registry;
use tidings::select::Picker;
use tidings::select::grpc::Channel;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

/// Serves until it is told to end, then as `kill -9` would end it: its connections break.
fn serve(listener: TcpListener) -> (oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let (kill, killed) = oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("it does not block");
            // The health service of gRPC, for an example that needs no .proto file.
            let (_reporter, health) = tonic_health::server::health_reporter();
            tokio::select! {
                served = Server::builder().add_service(health).serve_with_incoming(TcpIncoming::from(listener)) => served.expect("it serves"),
                _ = killed => {}
            }
        });
    });
    (kill, thread)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let shop = Registry::builder("demo", "shop").start().await?;
    let mut servers = Vec::new();
    for name in ["one", "two"] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        // Its member runs on, so that only calls can find out that the server is gone.
        shop.register(Instance::new("health", listener.local_addr()?)?.with_id(name)).await?.keep();
        servers.push(serve(listener));
    }
    let channel = Channel::new(Picker::new(shop.reader(), "health"));
    let mut client = HealthClient::new(channel.clone());
    let mut check = async || client.check(HealthCheckRequest { service: String::new() }).await;
    for _ in 0..100 {
        check().await?;
    }

    let (kill, thread) = servers.remove(0);
    let _ = kill.send(());
    thread.join().expect("the server did not panic");
    let mut failed = 0;
    for _ in 0..200 {
        failed += usize::from(check().await.is_err());
    }
    let stats = channel.picker().stats();
    println!("200 calls after a server was killed: {failed} failed, {} refused", stats.for_refused);
    assert!(failed <= 2, "the call under way, and the one that finds out that nobody listens");

    for (kill, thread) in servers {
        let _ = kill.send(());
        thread.join().expect("the server did not panic");
    }
    shop.leave().await?;
    Ok(())
}

#[test]
fn the_example_does_what_it_says() {
    main().expect("no step of it fails");
}
