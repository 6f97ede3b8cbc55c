//! Two members in one process: one offers a service, the other finds it, watches it change, and both leave.
//!
//! In a real program each process has one member, with a fixed address for the first of them to join.

use std::error::Error;
use std::net::SocketAddr;

use tidings::Instance;
use tidings::registry::Registry;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let shop = Registry::builder("demo", "shop").start().await?;
    let seed = shop.local_addr().to_string();
    let till = Registry::builder("demo", "till").join([seed]).start().await?;

    // Watched before it exists: the watch tells when it comes.
    let mut payments = shop.watch("payments");
    let address: SocketAddr = "127.0.0.1:8080".parse()?;
    let mut guard = till.register(Instance::new("payments", address)?.with_version("1.2.0")).await?;
    while payments.current().healthy().is_empty() {
        payments.changed().await?;
    }
    let found = shop.lookup("payments")?;
    let instance = &found.healthy()[0];
    println!("{} is at {}, offered by {}", instance.instance.id, instance.instance.address, instance.member.name);

    guard.update(|instance| instance.weight = 10).await?;
    let change = payments.changed().await?;
    for (before, after) in &change.changed {
        println!("its weight went from {} to {}", before.instance.weight, after.instance.weight);
    }

    // Dropping the guard would withdraw it too; leaving withdraws everything and tells everybody.
    till.leave().await?;
    while !payments.current().all().is_empty() {
        payments.changed().await?;
    }
    println!("{}", shop.lookup("payments").expect_err("nobody offers it any more"));
    shop.leave().await?;
    Ok(())
}

#[test]
fn the_example_does_what_it_says() {
    main().expect("no step of it fails");
}
