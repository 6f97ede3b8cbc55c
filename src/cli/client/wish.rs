//! What is asked of an agent about an instance, as JSON of `/v2`. The grammar is that of `--service`; what an agent
//! takes only from its own configuration is named and refused here.

use std::time::Duration;

use serde_json::{Map, Value};
use tidings::check::{Alias, Check, Kind, Tls};
use tidings::offers::Offer;
use tidings::record::Status;

use super::super::exit::{Exit, Failure};

/// A span as the agent reads it.
pub(super) fn millis(span: Duration) -> Value {
    Value::from(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

fn refused(what: &str) -> Failure {
    let text = format!("{what} can only stand in the agent's own configuration: --service, or the file");
    Failure::new(Exit::Usage, text)
}

/// The body of a registration.
///
/// # Errors
/// The offer says what no agent takes from others.
pub(super) fn registration(offer: &Offer) -> Result<Value, Failure> {
    if offer.instance.status != Status::Passing {
        let text = "status: what an agent offers has the status of its checks; tidings maint takes it out by hand";
        return Err(Failure::new(Exit::Usage, text));
    }
    if offer.warning_weight.is_some() {
        return Err(refused("warning_weight"));
    }
    let written = serde_json::to_value(&offer.instance).map_err(|error| Failure::caused(Exit::Failed, &error))?;
    let Value::Object(mut fields) = written else { unreachable!("a structure is written as an object") };
    fields.remove("status");
    fields.remove("registered_at");
    // None is given: the agent makes one.
    if fields.get("id").is_some_and(|id| *id == "") {
        fields.remove("id");
    }
    let checks = offer.checks.iter().map(check).collect::<Result<Vec<_>, _>>()?;
    if !checks.is_empty() {
        fields.insert("checks".to_owned(), Value::Array(checks));
    }
    Ok(Value::Object(fields))
}

fn check(check: &Check) -> Result<Value, Failure> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("kind", Value::from(check.kind.as_str()));
    match &check.kind {
        Kind::Ttl { ttl } => put("ttl_ms", millis(*ttl)),
        Kind::Tcp { addr } => put("target", Value::from(addr.as_str())),
        Kind::Http(http) => {
            if !http.follows_redirects {
                return Err(refused("redirects=off"));
            }
            put("target", Value::from(http.url.as_str()));
            put("method", Value::from(http.method.as_str()));
            if !http.headers.is_empty() {
                put("headers", serde_json::json!(http.headers));
            }
            put_text(&mut put, "body", &http.body);
            put_tls(&mut put, &http.tls);
        }
        Kind::Udp(udp) => {
            if udp.must_answer {
                return Err(refused("answer=on"));
            }
            put("target", Value::from(udp.addr.as_str()));
            put_text(&mut put, "body", &udp.payload);
        }
        Kind::Grpc(grpc) => {
            let joint = if grpc.service.is_empty() { "" } else { "/" };
            put("target", Value::from(format!("{}{joint}{}", grpc.addr, grpc.service)));
            if let Some(tls) = &grpc.tls {
                put("tls", Value::from(true));
                put_tls(&mut put, tls);
            }
        }
        Kind::Alias(Alias { instance: Some(instance), member: None }) => put("target", Value::from(instance.as_str())),
        Kind::Alias(_) => return Err(refused("a check of kind member")),
        Kind::Command(_) => return Err(refused("a check of kind exec")),
        other => return Err(refused(&format!("a check of kind {}", other.as_str()))),
    }
    let usual = Check::new(check.kind.clone());
    if check.hold_down.is_some() != usual.hold_down.is_some() {
        return Err(refused("hold"));
    }
    put_text(&mut put, "id", &check.id);
    put_text(&mut put, "name", &check.name);
    put_text(&mut put, "notes", &check.notes);
    if check.interval != usual.interval {
        put("interval_ms", millis(check.interval));
    }
    if check.timeout != usual.timeout {
        put("timeout_ms", millis(check.timeout));
    }
    if check.initial != usual.initial {
        put("status", serde_json::json!(check.initial));
    }
    for (name, value, usual) in [
        ("successes_before_passing", check.successes_before_passing, usual.successes_before_passing),
        ("failures_before_warning", check.failures_before_warning, usual.failures_before_warning),
        ("failures_before_critical", check.failures_before_critical, usual.failures_before_critical),
    ] {
        if value != usual {
            put(name, Value::from(value));
        }
    }
    if let Some(after) = check.deregister_critical_after {
        put("deregister_critical_after_ms", millis(after));
    }
    Ok(Value::Object(fields))
}

fn put_text(put: &mut impl FnMut(&str, Value), name: &str, text: &str) {
    if !text.is_empty() {
        put(name, Value::from(text));
    }
}

fn put_tls(put: &mut impl FnMut(&str, Value), tls: &Tls) {
    if tls.skips_verify {
        put("tls_skip_verify", Value::from(true));
    }
    if let Some(name) = &tls.server_name {
        put("tls_server_name", Value::from(name.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::{check, spec};
    use super::*;

    fn asked(spec: &str) -> Result<Value, Failure> {
        registration(&spec::parse_offer(spec).expect("a spec"))
    }

    #[test]
    fn an_instance_is_asked_for_without_what_only_the_agent_says() {
        let asked = asked("name=web,addr=127.0.0.1:80,tag=v1,check=ttl:30s").expect("it passes");
        let fields: Vec<&str> = asked.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["address", "checks", "service", "tags", "weight"]);
        assert_eq!(asked["checks"], json!([{ "kind": "ttl", "ttl_ms": 30_000 }]));
    }

    #[test]
    fn a_check_is_asked_for_with_what_is_not_usual_about_it() {
        let of = |text: &str| super::check(&check::parse(text).expect("a check")).expect("an agent takes it");
        let http = of("http://a:1/x method=HEAD 'header=X: y' interval=5s timeout=1s failures=2 initial=passing");
        let expected = json!({
            "kind": "http", "target": "http://a:1/x", "method": "HEAD", "headers": { "X": ["y"] }, "interval_ms": 5_000,
            "timeout_ms": 1_000, "failures_before_warning": 2, "failures_before_critical": 2, "status": "passing",
        });
        assert_eq!(http, expected);
        assert_eq!(of("grpc:a:1/x tls=on tls_verify=off")["target"], "a:1/x");
        assert_eq!(of("alias:web-1"), json!({ "kind": "alias", "target": "web-1" }));
        assert_eq!(of("udp:a:1 payload=hi")["body"], "hi");
        assert_eq!(of("tcp:a:1 deregister_after=1m")["deregister_critical_after_ms"], 60_000);
    }

    #[test]
    fn what_an_agent_takes_only_from_its_own_configuration_is_named() {
        for (check, named) in [
            ("'exec:true'", "kind exec"),
            ("member:b", "kind member"),
            ("http://a:1/ redirects=off", "redirects=off"),
            ("udp:a:1 answer=on", "answer=on"),
            ("tcp:a:1 hold=off", "hold"),
        ] {
            let failure = asked(&format!("name=web,addr=127.0.0.1:80,check={check}")).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.to_string().contains(named), "{check}: {failure}");
        }
        assert!(asked("name=web,addr=127.0.0.1:80,status=critical").is_err());
        assert!(asked("name=web,addr=127.0.0.1:80,warning_weight=3").is_err());
    }
}
