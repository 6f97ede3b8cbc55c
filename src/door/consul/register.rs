//! What a registration in Consul's words offers here. Knows nothing of requests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use super::shape::{META_GROUP, META_PROTOCOL, META_VERSION, META_ZONE};
use crate::check::{Alias, Check, Grpc, Http, Kind, Level, Tls, Udp};
use crate::door::body::Body;
use crate::door::desk::Desk;
use crate::door::refusal::Refusal;
use crate::offers::{External, Offer, Origin};
use crate::record::{Endpoint, Host, Instance, Status};

/// The interval of a check that does not say.
const INTERVAL: Duration = Duration::from_secs(10);

/// A registration of the agent's own.
pub(super) fn service(desk: &Desk, body: Body<'_>) -> Result<Offer, Refusal> {
    let mut offer = Offer::new(instance(desk, body, "name", None)?, Origin::Door);
    (offer.instance.weight, offer.warning_weight) = weights(body)?;
    let mut checks = body.objects("check")?;
    checks.extend(body.objects("checks")?);
    for check in checks {
        offer.checks.push(self::check(check)?);
    }
    Ok(offer)
}

/// What a registration in the catalog offers: on our own node an instance of ours, on another one an external one.
pub(super) fn catalog(desk: &Desk, body: Body<'_>) -> Result<Offer, Refusal> {
    let node = body.text("node")?.ok_or_else(|| Refusal::bad("Node is missing"))?;
    let address = body.text("address")?;
    let Some(said) = body.object("service")? else {
        let text = "not implemented: a node without a service cannot be registered: nodes are members, which join, or \
                    what services run on that have no member";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
    };
    let is_ours = *node == **desk.registry.name();
    let address = match (is_ours, address) {
        (false, None) => return Err(Refusal::bad("Address is missing")),
        (true, _) => None,
        (false, address) => address,
    };
    let mut offer = Offer::new(instance(desk, said, "service", address)?, Origin::Door);
    (offer.instance.weight, offer.warning_weight) = weights(said)?;
    if let Some(address) = address {
        let id = offer.instance.id.as_str().to_owned();
        offer.external = Some(External { node: Arc::from(node), address: Arc::from(address), id: Arc::from(id) });
    }
    let mut checks = body.objects("check")?;
    checks.extend(body.objects("checks")?);
    let prefix = if is_ours { String::new() } else { format!("{node}/") };
    for said in checks {
        // A check in the catalog says only how it is: somebody else finds that out.
        let level = level(said)?.unwrap_or(Level::Critical);
        let mut check = Check::new(Kind::Told).with_initial(level);
        if let Some(id) = said.text("checkid")?.or(said.text("name")?) {
            check = check.with_id(&format!("{prefix}{id}"));
        }
        offer.checks.push(named(check, said)?);
    }
    Ok(offer)
}

fn instance(desk: &Desk, body: Body<'_>, name: &str, node: Option<&str>) -> Result<Instance, Refusal> {
    let service = body.text(name)?.ok_or_else(|| Refusal::bad("the name of the service is missing"))?;
    if let Some(kind) = body.text("kind")? {
        let text = format!("not implemented: a service of kind {kind:?}: there is no service mesh here");
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
    }
    let port = body.number("port", u16::MAX.into())?.unwrap_or(0) as u16;
    let at = body.text("address")?.or(node);
    let address = match at {
        Some(host) => endpoint(host, port),
        None => Endpoint::from((desk.registry.peer().addr.ip().to_canonical(), port)),
    };
    let invalid = |error: crate::record::InstanceError| Refusal::bad(error.to_string());
    let mut instance = Instance::new(service, address).map_err(invalid)?;
    instance = instance.with_id(body.text("id")?.unwrap_or(service));
    for tag in body.texts("tags")? {
        instance = instance.with_tag(tag);
    }
    for (key, value) in body.map("meta")? {
        let value = Arc::from(value);
        match key {
            META_VERSION => instance.version = Some(value),
            META_ZONE => instance.zone = Some(value),
            META_GROUP => instance.group = Some(value),
            META_PROTOCOL => instance.protocol = Some(value),
            key => instance = instance.with_meta(key, value),
        }
    }
    for (tag, value) in body.entries("taggedaddresses")? {
        if let serde_json::Value::String(host) = value {
            // As the crate rs-consul has it.
            instance = instance.with_address(tag, endpoint(host, port));
            continue;
        }
        let value = Body::of(value)?;
        let port = value.number("port", u16::MAX.into())?.unwrap_or(port.into()) as u16;
        if let Some(host) = value.text("address")? {
            instance = instance.with_address(tag, endpoint(host, port));
        }
    }
    instance.check().map_err(invalid)?;
    // Whoever is offered serves unless its checks say otherwise.
    Ok(instance.with_status(Status::Passing))
}

fn endpoint(host: &str, port: u16) -> Endpoint {
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match inner.parse::<IpAddr>() {
        Ok(ip) => Endpoint { host: Host::Ip(ip), port },
        Err(_) => Endpoint::named(host, port),
    }
}

fn weights(body: Body<'_>) -> Result<(u32, Option<u32>), Refusal> {
    let Some(weights) = body.object("weights")? else { return Ok((Instance::WEIGHT_DEFAULT, None)) };
    let max = u64::from(crate::record::limits::WEIGHT_MAX);
    let passing = weights.number("passing", max)?.unwrap_or(1) as u32;
    let warning = weights.number("warning", max)?.map(|weight| weight as u32);
    Ok((passing, warning))
}

fn level(body: Body<'_>) -> Result<Option<Level>, Refusal> {
    match body.text("status")? {
        None => Ok(None),
        Some(text) => match text.to_ascii_lowercase().as_str() {
            "passing" => Ok(Some(Level::Passing)),
            "warning" => Ok(Some(Level::Warning)),
            "critical" => Ok(Some(Level::Critical)),
            _ => Err(Refusal::bad(format!("Status is passing, warning or critical, not {text:?}"))),
        },
    }
}

/// How a check is, as `/v1/agent/check/update` says it.
pub(super) fn word(body: Body<'_>) -> Result<Level, Refusal> {
    level(body)?.ok_or_else(|| Refusal::bad("Status is missing"))
}

/// A check of the agent's own.
pub(super) fn check(body: Body<'_>) -> Result<Check, Refusal> {
    let mut check = Check::new(kind(body)?);
    if let Some(id) = body.text("checkid")?.or(body.text("id")?) {
        check = check.with_id(id);
    }
    check = named(check, body)?;
    if let Some(level) = level(body)? {
        check = check.with_initial(level);
    }
    if check.kind.is_run() {
        let interval = body.span("interval")?;
        check = check.every(interval.unwrap_or(INTERVAL));
        // Consul lets a check take ten seconds and begin anew meanwhile; here two never overlap.
        check.timeout = body.span("timeout")?.unwrap_or(check.timeout);
        check.timeout = check.timeout.min(check.interval);
    }
    // None and one are both the first.
    let count = |name| Ok::<_, Refusal>(body.number(name, 1_000)?.map(|count| count.max(1) as u32));
    let critical = count("failuresbeforecritical")?;
    check.successes_before_passing = count("successbeforepassing")?.unwrap_or(check.successes_before_passing);
    check.failures_before_warning =
        count("failuresbeforewarning")?.or(critical).unwrap_or(check.failures_before_warning);
    check.failures_before_critical = critical.unwrap_or(check.failures_before_critical);
    check.deregister_critical_after = body.span("deregistercriticalserviceafter")?;
    check.check().map_err(|error| Refusal::bad(error.to_string()))?;
    Ok(check)
}

fn named(mut check: Check, body: Body<'_>) -> Result<Check, Refusal> {
    if let Some(name) = body.text("name")? {
        check = check.with_name(name);
    }
    if let Some(notes) = body.text("notes")? {
        check.notes = Arc::from(notes);
    }
    Ok(check)
}

fn kind(body: Body<'_>) -> Result<Kind, Refusal> {
    let tls = || {
        Ok::<_, Refusal>(Tls {
            skips_verify: body.flag("tlsskipverify")?,
            server_name: body.text("tlsservername")?.map(str::to_owned),
        })
    };
    for command in ["args", "scriptargs", "script"] {
        let is_there = match body.field(command) {
            Some(serde_json::Value::Array(args)) => !args.is_empty(),
            Some(serde_json::Value::String(text)) => !text.is_empty(),
            other => other.is_some(),
        };
        if is_there {
            let text = "a check that runs a command can only come from the agent's own configuration";
            return Err(Refusal::bad(text));
        }
    }
    if let Some(ttl) = body.span("ttl")? {
        return Ok(Kind::Ttl { ttl });
    }
    if let Some(url) = body.text("http")? {
        let mut http = Http::new(url);
        if let Some(method) = body.text("method")? {
            method.clone_into(&mut http.method);
        }
        for (name, values) in body.entries("header")? {
            let values = match values {
                serde_json::Value::String(value) => vec![value.clone()],
                serde_json::Value::Array(values) => {
                    values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect()
                }
                _ => return Err(Refusal::bad("Header is a map of lists of texts")),
            };
            http.headers.insert(name.to_owned(), values);
        }
        body.text("body")?.unwrap_or_default().clone_into(&mut http.body);
        http.follows_redirects = !body.flag("disableredirects")?;
        http.tls = tls()?;
        return Ok(Kind::Http(http));
    }
    if let Some(addr) = body.text("tcp")? {
        return Ok(Kind::Tcp { addr: addr.to_owned() });
    }
    if let Some(addr) = body.text("udp")? {
        return Ok(Kind::Udp(Udp { addr: addr.to_owned(), payload: String::new(), must_answer: false }));
    }
    if let Some(target) = body.text("grpc")? {
        let (addr, service) = target.split_once('/').unwrap_or((target, ""));
        let tls = if body.flag("grpcusetls")? { Some(tls()?) } else { None };
        return Ok(Kind::Grpc(Grpc { addr: addr.to_owned(), service: service.to_owned(), tls }));
    }
    let (instance, member) = (body.text("aliasservice")?, body.text("aliasnode")?);
    if instance.is_some() || member.is_some() {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        return Ok(Kind::Alias(Alias { instance: owned(instance), member: owned(member) }));
    }
    for (name, what) in [("h2ping", "H2PING"), ("dockercontainerid", "DockerContainerID"), ("osservice", "OSService")] {
        if body.text(name)?.is_some() {
            let text = format!("not implemented: a check of kind {what}");
            return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, text));
        }
    }
    Err(Refusal::bad("a check has one of TTL, HTTP, TCP, UDP, GRPC, AliasService and AliasNode"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_check_is_read_in_every_spelling_and_kind() {
        let read = |value: serde_json::Value| check(Body::of(&value).unwrap());
        let ttl = read(json!({"TTL": "15s", "DeregisterCriticalServiceAfter": "90m", "status": "passing"})).unwrap();
        assert_eq!(ttl.kind, Kind::Ttl { ttl: Duration::from_secs(15) });
        assert_eq!(ttl.deregister_critical_after, Some(Duration::from_secs(5_400)));
        assert_eq!(ttl.initial, Level::Passing);
        let grpc = read(json!({"grpc": "127.0.0.1:5000/web", "grpc_use_tls": true, "interval": "1s"})).unwrap();
        let Kind::Grpc(grpc) = grpc.kind else { panic!("another kind") };
        assert_eq!((grpc.addr.as_str(), grpc.service.as_str(), grpc.tls.is_some()), ("127.0.0.1:5000", "web", true));
        let http = json!({"http": "http://h/", "interval": "1m", "timeout": "2m", "header": {"X-A": ["b"]}});
        let http = read(http).unwrap();
        assert_eq!((http.interval, http.timeout), (Duration::from_secs(60), Duration::from_secs(60)));
        let Kind::Http(http) = http.kind else { panic!("another kind") };
        assert_eq!((http.method.as_str(), http.headers["X-A"][0].as_str()), ("GET", "b"));
        assert!(matches!(read(json!({"AliasService": "web-1"})).unwrap().kind, Kind::Alias(_)));
    }

    #[test]
    fn commands_and_nothing_at_all_are_no_checks() {
        let read = |value: serde_json::Value| check(Body::of(&value).unwrap()).map_err(|refusal| refusal.status);
        assert_eq!(read(json!({"args": ["sh", "-c", "true"], "interval": "1s"})), Err(StatusCode::BAD_REQUEST));
        assert_eq!(read(json!({"Script": "true", "ttl": "1s"})), Err(StatusCode::BAD_REQUEST));
        assert_eq!(read(json!({"name": "x"})), Err(StatusCode::BAD_REQUEST));
        assert_eq!(read(json!({"OSService": "nginx", "interval": "1s"})), Err(StatusCode::NOT_IMPLEMENTED));
        assert_eq!(read(json!({"ttl": "15"})), Err(StatusCode::BAD_REQUEST));
    }
}
