//! `tidings diff`: what two agents know that is not the same.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::exit::{Exit, Failure};
use super::super::output::Output;
use super::Common;
use super::http::Address;
use super::show::{Column, Sheet, bold, column, plain, rows, state, text};

/// Compare what two agents know. Ends with code 1 if it is not the same.
///
/// Views that are on their way to the same state differ for a moment: look twice.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    common: Common,

    /// The HTTP address of one agent
    #[arg(value_name = "A")]
    a: Address,

    /// The HTTP address of the other one
    #[arg(value_name = "B")]
    b: Address,
}

const DIFFERENCES: &[Column] = &[
    column("WHAT", |row| plain(row, "/what")),
    column("NAME", |row| bold(row, "/name")),
    column("FIELD", |row| plain(row, "/field")),
    column("A", |row| state(row, "/a")),
    column("B", |row| state(row, "/b")),
];

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let (a, b) = (api.at(args.a), api.at(args.b));
    let (of_a, of_b) = tokio::join!(a.get("/v2/view"), b.get("/v2/view"));
    let (of_a, of_b) = (of_a?, of_b?);
    let found = differences(&of_a, &of_b);
    let whole = json!({
        "a": { "agent": a.address().to_string(), "fingerprint": of_a["fingerprint"], "stale": of_a["stale"] },
        "b": { "agent": b.address().to_string(), "fingerprint": of_b["fingerprint"], "stale": of_b["stale"] },
        "differences": found,
    });
    let stale = [("A", &of_a), ("B", &of_b)].into_iter().filter(|(_, view)| view["stale"] == true);
    let stale: Vec<&str> = stale.map(|(name, _)| name).collect();
    let notice = (!stale.is_empty()).then(|| format!("{} shows only the last that it knew", stale.join(" and ")));
    let nothing = "both know the same";
    screen.show(&Sheet { whole: &whole, rows: found.iter().collect(), columns: DIFFERENCES, nothing, notice }).await?;
    if found.is_empty() {
        return Ok(());
    }
    let next = "look again in a second; if it stays, tidings doctor at both";
    Err(Failure::new(Exit::Failed, format!("the two differ in {} places; {next}", found.len())))
}

/// Each difference, members first.
fn differences(a: &Value, b: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    for (what, path) in [("member", "/members"), ("instance", "/instances")] {
        let (of_a, of_b) = (by_place(a, path), by_place(b, path));
        for (place, left) in &of_a {
            let name = &place.0;
            match of_b.get(place) {
                None => found.push(json!({ "what": what, "name": name, "a": "known", "b": "unknown" })),
                Some(right) => {
                    let fields = flat(left).into_iter().chain(flat(right)).map(|(field, _)| field);
                    let fields: std::collections::BTreeSet<String> = fields.collect();
                    for field in fields.into_iter().filter(|field| left.pointer(field) != right.pointer(field)) {
                        let of =
                            |value: &Value| value.pointer(&field).map_or_else(String::new, |value| text(value, ""));
                        let field_name = field.trim_start_matches('/').replace('/', ".");
                        found.push(json!({
                            "what": what, "name": name, "field": field_name, "a": of(left), "b": of(right),
                        }));
                    }
                }
            }
        }
        for (place, _) in of_b.iter().filter(|(place, _)| !of_a.contains_key(*place)) {
            found.push(json!({ "what": what, "name": place.0, "a": "unknown", "b": "known" }));
        }
    }
    found
}

/// By name and member; without what each sees in its own way.
fn by_place(view: &Value, path: &str) -> BTreeMap<(String, String), Value> {
    let rows = rows(view, path).into_iter().map(|row| {
        let name = [text(row, "/record/id"), text(row, "/member")].into_iter().find(|name| !name.is_empty());
        let mut lasting = row.clone();
        if let Some(fields) = lasting.as_object_mut() {
            fields.remove("evidence_ms");
            fields.remove("is_self");
            fields.remove("kept");
        }
        ((name.unwrap_or_default(), text(row, "/member_id")), lasting)
    });
    rows.collect()
}

/// The paths of all that is no object.
fn flat(value: &Value) -> Vec<(String, Value)> {
    let Value::Object(fields) = value else { return vec![(String::new(), value.clone())] };
    let mut all = Vec::new();
    for (name, value) in fields {
        // As a JSON pointer is escaped.
        let name = name.replace('~', "~0").replace('/', "~1");
        all.extend(flat(value).into_iter().map(|(path, value)| (format!("/{name}{path}"), value)));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named_and_what_each_sees_in_its_own_way_is_none() {
        let member = |id: &str, state: &str, heard: u64, is_self: bool| {
            let mut member = json!({ "member": id, "member_id": id, "state": state });
            member["evidence_ms"] = Value::from(heard);
            member["is_self"] = Value::from(is_self);
            member
        };
        let instance = |id: &str, weight: u64| {
            let record = json!({ "id": id, "meta": { "x/y": "1" }, "weight": weight });
            json!({ "member": "a", "member_id": "a", "record": record })
        };
        let a = json!({
            "members": [member("a", "reachable", 0, true), member("b", "reachable", 5, false)],
            "instances": [instance("web", 1), instance("old", 1)],
        });
        let b = json!({
            "members": [member("a", "reachable", 9, false), member("b", "suspect", 0, true)],
            "instances": [instance("web", 2), instance("new", 1)],
        });
        let found = differences(&a, &b);
        let told: Vec<_> = found
            .iter()
            .map(|row| [text(row, "/name"), text(row, "/field"), text(row, "/a"), text(row, "/b")].join(" "))
            .collect();
        let expected =
            ["b state reachable suspect", "old  known unknown", "web record.weight 1 2", "new  unknown known"];
        assert_eq!(told, expected);
        assert!(differences(&a, &a).is_empty());
    }
}
