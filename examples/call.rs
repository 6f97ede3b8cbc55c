//! A caller that survives an instance that refuses connections: `cargo run --example call`.

use std::error::Error;
use std::io::ErrorKind;

use tidings::Instance;
use tidings::registry::Registry;
use tidings::select::failover::{Budget, Failover};
use tidings::select::run::{Caller, Failure};
use tidings::select::{Call, Picker, Selector};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let node = Registry::builder("demo", "shop").start().await?;
    let sound = TcpListener::bind("127.0.0.1:0").await?;
    let broken = TcpListener::bind("127.0.0.1:0").await?;
    for (id, listener) in [("sound", &sound), ("broken", &broken)] {
        let instance = Instance::new("greeter", listener.local_addr()?)?.with_id(id).with_version("1.4.0");
        // Without its guard, an instance would be withdrawn at once.
        std::mem::forget(node.register(instance).await?);
    }
    // Still registered, and nobody listens any more.
    drop(broken);
    let server = tokio::spawn(greet(sound));

    let selector = Selector::new().version("^1.2".parse()?);
    let picker = Picker::new(node.reader(), "greeter").with_selector(selector);
    let caller = Caller::new(picker, Failover::default(), Budget::default())?;
    for _ in 0..100 {
        let answer = caller.call(Call::new(), true, async |instance| {
            let connected = TcpStream::connect(instance.address().to_string()).await;
            let mut stream = connected.map_err(|error| match error.kind() {
                ErrorKind::ConnectionRefused => Failure::Refused(error),
                _ => Failure::Failed(error),
            })?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map_err(Failure::Failed)?;
            Ok(answer)
        });
        assert_eq!(answer.await?, "hello");
    }
    let stats = caller.picker().stats();
    println!("100 calls answered; {} ejected for a refused connection", stats.for_refused);
    assert!(stats.for_refused <= 1, "a refused connection ejects at once");
    server.abort();
    node.leave().await?;
    Ok(())
}

async fn greet(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        // A caller that hangs up does not concern the others.
        let _ = stream.write_all(b"hello").await;
    }
}

#[test]
fn the_example_does_what_it_says() {
    main().expect("no step of it fails");
}
