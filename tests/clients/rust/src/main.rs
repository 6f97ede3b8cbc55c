//! Drives a cluster with the crate `rs-consul`, unmodified: registers at one agent's catalog, reads at another.

use std::time::{Duration, Instant};

use rs_consul::types::{
    DeregisterEntityPayload, GetServiceNodesRequest, QueryOptions, RegisterEntityCheck, RegisterEntityPayload,
    RegisterEntityService,
};
use rs_consul::{Config, Consul};

const SERVICE: &str = "rs-web";

fn consul(port: &str) -> Consul {
    // Sends an empty token with every request, as it does by default.
    Consul::new(Config { address: format!("http://127.0.0.1:{port}"), ..Config::from_env() })
}

fn ok(call: &str) {
    println!("rs-consul: {call}");
}

fn registration(status: &str) -> RegisterEntityPayload {
    let service = RegisterEntityService::builder()
        .ID("rs-web-1".to_owned())
        .Service(SERVICE.to_owned())
        .Tags(vec!["v1".to_owned()])
        .Port(8080)
        .build();
    let check = RegisterEntityCheck::builder()
        .CheckID("rs-check".to_owned())
        .Name("rs-check".to_owned())
        .Status(status.to_owned())
        .ServiceID("rs-web-1".to_owned())
        .build();
    RegisterEntityPayload::builder()
        .Node("rs-node".to_owned())
        .Address("127.0.0.1".to_owned())
        .Service(service)
        .Checks(vec![check])
        .build()
}

async fn nodes(reader: &Consul, index: Option<u64>) -> (usize, u64) {
    let request = GetServiceNodesRequest::builder().service(SERVICE).passing(true).build();
    let options = QueryOptions {
        index,
        wait: Some(Duration::from_secs(2)),
        timeout: Some(Duration::from_secs(10)),
        ..QueryOptions::default()
    };
    let found = reader.get_service_nodes(request, Some(options)).await.expect("get_service_nodes");
    (found.response.len(), found.index)
}

async fn until(reader: &Consul, wanted: usize) -> u64 {
    let (began, mut index) = (Instant::now(), None);
    loop {
        let (count, now) = nodes(reader, index).await;
        if count == wanted {
            return now;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{count} instances, not {wanted}");
        index = Some(now);
    }
}

#[tokio::main]
async fn main() {
    let ports: Vec<String> = std::env::args().skip(1).collect();
    let (agent, reader) = (consul(&ports[0]), consul(&ports[1]));
    agent.register_entity(&registration("passing")).await.expect("register_entity");
    ok("register_entity");
    let index = until(&reader, 1).await;
    ok("get_service_nodes");
    let names = reader.get_all_registered_service_names(None).await.expect("get_all_registered_service_names");
    assert!(names.response.iter().any(|name| name == SERVICE));
    ok("get_all_registered_service_names");
    let addresses = reader.get_service_addresses_and_ports(SERVICE, None).await.expect("addresses");
    assert_eq!(addresses, [("127.0.0.1".to_owned(), 8080)]);
    ok("get_service_addresses_and_ports");
    let began = Instant::now();
    assert_eq!(nodes(&reader, Some(index)).await, (1, index));
    assert!(began.elapsed() > Duration::from_millis(1_800), "it slept {:?}", began.elapsed());
    ok("a blocking query sleeps while nothing changes");
    let watch = tokio::spawn(async move { (nodes(&reader, Some(index)).await, reader) });
    agent.register_entity(&registration("critical")).await.expect("register_entity");
    let ((count, _), reader) = watch.await.expect("it ends");
    assert_eq!(count, 0);
    ok("a blocking query wakes on its change");
    let gone =
        DeregisterEntityPayload::builder().Node("rs-node".to_owned()).ServiceID("rs-web-1".to_owned()).build();
    agent.deregister_entity(&gone).await.expect("deregister_entity");
    ok("deregister_entity");
    let began = Instant::now();
    while reader.get_all_registered_service_names(None).await.expect("names").response.iter().any(|n| n == SERVICE) {
        assert!(began.elapsed() < Duration::from_secs(20), "it is still there");
    }
    ok("deregistering is seen");
}
