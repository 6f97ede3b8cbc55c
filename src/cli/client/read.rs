//! Commands that read: members, services and what happens to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::exit::{Exit, Failure};
use super::super::output::Output;
use super::super::{jsonl, spec, table};
use super::http::{Api, encoded};
use super::show::{Column, Sheet, age, bold, column, dim, endpoint, micros, plain, rows, state, text, wide};
use super::{Common, Screen};

/// Show every member: its state, and when it was last heard.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct MembersArgs {
    #[command(flatten)]
    common: Common,

    /// Only those in this state: reachable, suspect, unreachable, down or left
    #[arg(long, value_name = "STATE", value_parser = ["reachable", "suspect", "unreachable", "down", "left"])]
    state: Option<String>,

    /// Show them again at every change, until interrupted
    #[arg(long, short)]
    watch: bool,
}

/// Show every service, and how many of its instances are healthy.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ServicesArgs {
    #[command(flatten)]
    common: Common,

    /// Show them again at every change, until interrupted
    #[arg(long, short)]
    watch: bool,
}

const GET_EXAMPLES: &str = "\
Examples:
  tidings get web
  tidings get web --healthy --selector 'tags contains canary and meta.rack == \"b7\"'
  tidings get web --check || echo nobody serves it

Exit codes: 3 if no instance is known, 4 with --check if none of them is healthy; others: tidings --help.";

/// Show the instances of a service, the healthy ones first.
#[derive(Debug, clap::Args)]
#[command(after_help = GET_EXAMPLES)]
pub(in crate::cli) struct GetArgs {
    #[command(flatten)]
    common: Common,

    /// The service
    service: String,

    /// Only those that meet this expression, such as `zone == eu and version matches "^2"`
    #[arg(long, alias = "filter", value_name = "EXPRESSION")]
    selector: Option<String>,

    /// Only those with this tag; repeatable: with all of them
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,

    /// Only those that should get traffic; if none is and they are kept, the last known good ones
    #[arg(long)]
    healthy: bool,

    /// Print nothing; the exit code says whether there is a healthy one
    #[arg(long, conflicts_with = "watch")]
    check: bool,

    /// Show them again at every change, until interrupted
    #[arg(long, short)]
    watch: bool,
}

/// Print a line for each instance of a service, and for each change from then on.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WatchArgs {
    #[command(flatten)]
    common: Common,

    /// The service; it need not be known yet
    service: String,

    /// Only instances that meet this expression
    #[arg(long, alias = "filter", value_name = "EXPRESSION")]
    selector: Option<String>,
}

/// Show what this agent offers, with its health checks.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct OffersArgs {
    #[command(flatten)]
    common: Common,
}

/// Tell how it came that a member is believed to be in its state.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExplainArgs {
    #[command(flatten)]
    common: Common,

    /// The member's name or id
    member: String,
}

/// Print what happens, as it happens.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct EventsArgs {
    #[command(flatten)]
    common: Common,

    /// Only of this service
    #[arg(long)]
    service: Option<String>,

    /// Only events of this name, such as member_down; repeatable
    #[arg(long, value_name = "NAME")]
    event: Vec<String>,
}

/// Show the round-trip times from this agent's member.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct RttArgs {
    #[command(flatten)]
    common: Common,
}

/// Show what the agent counted since its start.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct StatsArgs {
    #[command(flatten)]
    common: Common,

    /// Only figures whose name holds this
    name: Option<String>,

    /// Also those that are 0
    #[arg(long)]
    all: bool,
}

pub(super) const MEMBERS: &[Column] = &[
    column("MEMBER", |row| bold(row, "/member")),
    column("STATE", |row| state(row, "/state")),
    column("HEARD", |row| if row["is_self"] == true { ("self".to_owned(), "") } else { age(row, "/evidence_ms") }),
    column("ADDRESS", |row| plain(row, "/addr")),
    column("ZONE", |row| plain(row, "/zone")),
    wide("ID", |row| dim(row, "/member_id")),
    wide("GENERATION", |row| dim(row, "/generation")),
    wide("SOFTWARE", |row| plain(row, "/software")),
];

pub(super) const SERVICES: &[Column] = &[
    column("SERVICE", |row| bold(row, "/service")),
    column("HEALTHY", |row| {
        let style = if row["healthy"] == 0 { table::RED } else { table::GREEN };
        (format!("{} of {}", text(row, "/healthy"), text(row, "/instances")), style)
    }),
    column("KEPT", |row| (text(row, "/kept"), table::YELLOW)),
    column("VERSIONS", |row| plain(row, "/versions")),
    column("TAGS", |row| plain(row, "/tags")),
];

pub(super) const INSTANCES: &[Column] = &[
    column("INSTANCE", |row| bold(row, "/record/id")),
    column("STATUS", |row| match text(row, "/out") {
        out if out.is_empty() => state(row, "/record/status/state"),
        out => (out, table::RED),
    }),
    column("ADDRESS", |row| endpoint(row, "/record/address")),
    column("MEMBER", |row| plain(row, "/member")),
    column("HEARD", |row| age(row, "/evidence_ms")),
    column("VERSION", |row| plain(row, "/record/version")),
    column("WEIGHT", |row| plain(row, "/record/weight")),
    column("TAGS", |row| plain(row, "/record/tags")),
    wide("ZONE", |row| plain(row, "/record/zone")),
    wide("GROUP", |row| plain(row, "/record/group")),
    wide("NAMESPACE", |row| plain(row, "/record/namespace")),
    wide("PROTOCOL", |row| plain(row, "/record/protocol")),
    wide("META", |row| {
        let pairs = row.pointer("/record/meta").and_then(Value::as_object);
        let pair = |(key, value): (&String, &Value)| format!("{key}={}", text(value, ""));
        (pairs.map(|pairs| pairs.iter().map(pair).collect::<Vec<_>>().join(",")).unwrap_or_default(), "")
    }),
];

const OFFERS: &[Column] = &[
    column("INSTANCE", |row| bold(row, "/record/id")),
    column("SERVICE", |row| plain(row, "/record/service")),
    column("STATUS", |row| state(row, "/record/status/state")),
    column("ADDRESS", |row| endpoint(row, "/record/address")),
    column("WEIGHT", |row| plain(row, "/record/weight")),
    column("CHECKS", |row| {
        let check = |check: &&Value| format!("{} {}", text(check, "/kind"), text(check, "/status"));
        (rows(row, "/checks").iter().map(check).collect::<Vec<_>>().join(", "), "")
    }),
    column("MAINTENANCE", |row| (text(row, "/maintenance/reason"), table::YELLOW)),
    wide("KEPT", |row| plain(row, "/kept")),
    wide("OUTPUT", |row| {
        let output = |check: &&Value| text(check, "/output");
        (rows(row, "/checks").iter().map(output).collect::<Vec<_>>().join(" | "), "")
    }),
];

const STORY: &[Column] = &[column("AGO", |row| age(row, "/ago_ms")), column("WHAT", |row| plain(row, "/what"))];

const RTTS: &[Column] = &[
    column("MEMBER", |row| bold(row, "/member")),
    column("STATE", |row| state(row, "/state")),
    column("RTT", |row| match micros(row, "/rtt_us") {
        (text, _) if text.is_empty() => ("not probed from here".to_owned(), table::DIM),
        cell => cell,
    }),
    column("DEVIATION", |row| micros(row, "/deviation_us")),
    wide("ID", |row| dim(row, "/member_id")),
];

const STATS: &[Column] = &[column("NAME", |row| plain(row, "/name")), column("VALUE", |row| bold(row, "/value"))];

/// Said above whatever may be out of date.
fn doubt(whole: &Value) -> Option<String> {
    let text = "stale: the agent has not joined yet, is cut off, or has stopped; this is the last that it knew";
    (whole["stale"] == true).then(|| text.to_owned())
}

fn members_sheet(whole: &Value) -> Sheet<'_> {
    let rows = rows(whole, "/members");
    Sheet { whole, rows, columns: MEMBERS, nothing: "no member is in that state", notice: doubt(whole) }
}

fn services_sheet(whole: &Value) -> Sheet<'_> {
    let nothing = "no services yet; tidings register offers one";
    Sheet { whole, rows: rows(whole, "/services"), columns: SERVICES, nothing, notice: doubt(whole) }
}

fn instances_sheet(whole: &Value) -> Sheet<'_> {
    let kept = match text(whole, "/kept").as_str() {
        "" => None,
        why => Some(format!("instances that do not answer are kept as the last known good: {why}")),
    };
    let nothing = "no instance meets the selector";
    let notice = doubt(whole).or(kept);
    Sheet { whole, rows: rows(whole, "/instances"), columns: INSTANCES, nothing, notice }
}

/// Shows what stands at a path, once or at every change.
async fn show(
    (api, screen): (Api, Screen<'_>),
    path: &str,
    is_watching: bool,
    sheet: for<'v> fn(&'v Value) -> Sheet<'v>,
) -> Result<(), Failure> {
    let (mut index, mut whole) = api.get_newer(path, None).await?;
    if !is_watching {
        return screen.show(&sheet(&whole)).await.map(drop);
    }
    let mut is_first = true;
    while screen.show_again(&sheet(&whole), is_first).await? {
        is_first = false;
        let before = index;
        // Whoever waits in vain, for a minute, is shown nothing twice.
        while index == before {
            let newer = api.get_newer(path, Some(index.unwrap_or_default()));
            tokio::select! {
                newer = newer => (index, whole) = newer?,
                () = screen.output.closed() => return Ok(()),
            }
            if index.is_none() {
                return Err(not_numbered());
            }
        }
    }
    Ok(())
}

fn not_numbered() -> Failure {
    Failure::new(Exit::Failed, "the agent does not number its states, which waiting needs; is it older than this?")
}

pub(super) async fn members(args: MembersArgs, output: &Output) -> Result<(), Failure> {
    let state = args.state.map(|state| format!("?state={state}")).unwrap_or_default();
    show(args.common.open(output)?, &format!("/v2/members{state}"), args.watch, members_sheet).await
}

pub(super) async fn services(args: ServicesArgs, output: &Output) -> Result<(), Failure> {
    show(args.common.open(output)?, "/v2/services", args.watch, services_sheet).await
}

fn service_path(service: &str, pairs: &[(&str, String)]) -> String {
    let query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    let joint = if query.is_empty() { "" } else { "?" };
    format!("/v2/services/{}{joint}{}", encoded(service), query.join("&"))
}

pub(super) async fn get(args: GetArgs, output: &Output) -> Result<(), Failure> {
    let mut pairs = Vec::new();
    pairs.extend(args.selector.iter().map(|selector| ("filter", selector.clone())));
    pairs.extend(args.tag.iter().map(|tag| ("tag", tag.clone())));
    if args.healthy {
        pairs.push(("healthy", "true".to_owned()));
    }
    let path = service_path(&args.service, &pairs);
    let (api, screen) = args.common.open(output)?;
    let shown = if args.check {
        check(&api, &path, &args.service).await
    } else {
        show((api.clone(), screen), &path, args.watch, instances_sheet).await
    };
    match shown {
        Err(failure) if failure.exit == Exit::NotFound => Err(unknown_service(&api, &args.service).await),
        other => other,
    }
}

/// Whether there is a healthy one.
async fn check(api: &Api, path: &str, service: &str) -> Result<(), Failure> {
    let whole = api.get(path).await?;
    let instances = rows(&whole, "/instances");
    if instances.iter().any(|instance| instance["healthy"] == true) {
        return Ok(());
    }
    let mut reasons = BTreeMap::<String, usize>::new();
    for instance in &instances {
        *reasons.entry(text(instance, "/out")).or_default() += 1;
    }
    let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let reasons = if reasons.is_empty() { "none meets the selector".to_owned() } else { reasons.join(", ") };
    let text = format!("no instance of {service:?} is healthy: {reasons}; tidings get {service} shows each");
    Err(Failure::new(Exit::NoHealthy, text))
}

/// With the name that was likely meant.
async fn unknown_service(api: &Api, service: &str) -> Failure {
    let known = api.get("/v2/services").await.unwrap_or_default();
    let names: Vec<String> = rows(&known, "/services").iter().map(|row| text(row, "/service")).collect();
    let next = match spec::nearest(service, names.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "tidings services lists those that are".to_owned(),
    };
    Failure::new(Exit::NotFound, format!("no instance of a service {service:?} is known; {next}"))
}

pub(super) async fn watch(args: WatchArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let pairs: Vec<_> = args.selector.iter().map(|selector| ("filter", selector.clone())).collect();
    let path = service_path(&args.service, &pairs);
    let mut known = BTreeMap::<(String, String), Value>::new();
    let mut index = None;
    // While nobody offers it, there is no state of it to wait for: then for any change of any service.
    let mut any = None;
    loop {
        let asked = async {
            if let Some(before) = any {
                api.get_newer("/v2/services", Some(before)).await?;
            }
            // Numbered before the look: what comes in between is not waited for.
            let number = if index.is_none() { api.get_newer("/v2/services", None).await?.0 } else { None };
            match api.get_newer(&path, index).await {
                Err(failure) if failure.exit == Exit::NotFound => {
                    Ok((None, Some(number.unwrap_or_default()), Value::Null))
                }
                other => other.map(|(newer, whole)| (newer, None, whole)),
            }
        };
        let whole;
        tokio::select! {
            asked = asked => (index, any, whole) = asked?,
            () = screen.output.closed() => return Ok(()),
        }
        let now: BTreeMap<_, _> =
            rows(&whole, "/instances").into_iter().map(|row| (place(row), lasting(row))).collect();
        for (change, instance) in changes(&known, &now) {
            if !screen.line(change_line(&screen, change, instance)).await {
                return Ok(());
            }
        }
        known = now;
        if index.is_none() && any.is_none() {
            return Err(not_numbered());
        }
    }
}

fn place(instance: &Value) -> (String, String) {
    (text(instance, "/member_id"), text(instance, "/record/id"))
}

/// Without what is another at every look.
fn lasting(instance: &Value) -> Value {
    let mut instance = instance.clone();
    if let Some(fields) = instance.as_object_mut() {
        fields.remove("evidence_ms");
    }
    instance
}

/// What came, changed and went.
fn changes<'v, K: Ord>(before: &'v BTreeMap<K, Value>, now: &'v BTreeMap<K, Value>) -> Vec<(&'static str, &'v Value)> {
    let gone = before.iter().filter(|(place, _)| !now.contains_key(place)).map(|(_, was)| ("removed", was));
    let here = now.iter().filter_map(|(place, is)| match before.get(place) {
        None => Some(("added", is)),
        Some(was) if was != is => Some(("changed", is)),
        Some(_) => None,
    });
    gone.chain(here).collect()
}

fn change_line(screen: &Screen<'_>, change: &str, instance: &Value) -> String {
    if !screen.is_table() {
        return json!({ "ts": jsonl::now(), "event": change, "instance": instance }).to_string();
    }
    let (status, _) = (INSTANCES[1].cell)(instance);
    let style = match change {
        "added" => table::GREEN,
        "removed" => table::RED,
        _ => table::YELLOW,
    };
    let (address, _) = endpoint(instance, "/record/address");
    let (id, member, weight) =
        (text(instance, "/record/id"), text(instance, "/member"), text(instance, "/record/weight"));
    let rest = table::printable(&format!("{id} {status} {address} on {member} weight={weight}"));
    format!("{} {style}{change:<8}\x1b[0m {rest}", jsonl::now())
}

pub(super) async fn offers(args: OffersArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let whole = api.get("/v2/offers").await?;
    let notice = whole.pointer("/maintenance").map(|maintenance| {
        format!("all of them are in maintenance: {}", table::printable(&text(maintenance, "/reason")))
    });
    let nothing = "this agent offers nothing; tidings register offers an instance";
    screen.show(&Sheet { whole: &whole, rows: rows(&whole, "/offers"), columns: OFFERS, nothing, notice }).await?;
    Ok(())
}

/// What a question about a member came to; `members` helps with a name that is not known.
pub(super) async fn of_member(api: &Api, member: &str, asked: Result<Value, Failure>) -> Result<Value, Failure> {
    match asked {
        Err(failure) if failure.exit == Exit::NotFound => {
            let known = api.get("/v2/members").await.unwrap_or_default();
            let names: Vec<String> = rows(&known, "/members").iter().map(|row| text(row, "/member")).collect();
            let next = match spec::nearest(member, names.iter().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => "tidings members lists those that are".to_owned(),
            };
            Err(Failure::new(Exit::NotFound, format!("no member {member:?} is known; {next}")))
        }
        other => other,
    }
}

pub(super) async fn explain(args: ExplainArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let asked = api.get(&format!("/v2/members/{}/explain", encoded(&args.member))).await;
    let whole = of_member(&api, &args.member, asked).await?;
    let rows = rows(&whole, "/story");
    if screen.is_table() {
        let member = &whole["member"];
        let heard = match age(member, "/evidence_ms").0 {
            age if age.is_empty() => String::new(),
            age => format!(", last heard {age} ago"),
        };
        let by = match text(&whole, "/by_member") {
            // Of an agent that is older.
            name if name.is_empty() => text(&whole, "/by"),
            name => name,
        };
        let names: Vec<String> = super::show::rows(&whole, "/witnessed_by").iter().map(|name| text(name, "")).collect();
        let witnessed = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        let by = match &whole["witnesses"] {
            _ if by.is_empty() => String::new(),
            witnesses => {
                let word = if *witnesses == 1 { "witness" } else { "witnesses" };
                format!("; verdict {} by {by}, {witnesses} {word}{witnessed}", text(&whole, "/finding"))
            }
        };
        let rtt = match micros(&whole, "/rtt_us").0 {
            rtt if rtt.is_empty() => String::new(),
            rtt => format!("; {rtt} away"),
        };
        let (name, now) = (text(member, "/member"), text(member, "/state"));
        let line = format!("{name} at {} is {now}{heard}{by}{rtt}", text(member, "/addr"));
        screen.line(format!("{}{}\x1b[0m", table::BOLD, table::printable(&line))).await;
    }
    let nothing = "nothing else was seen of it";
    screen.show(&Sheet { whole: &whole, rows, columns: STORY, nothing, notice: None }).await.map(drop)
}

pub(super) async fn events(args: EventsArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let service = args.service.iter().map(|service| format!("service={}", encoded(service)));
    let names = args.event.iter().map(|name| format!("event={}", encoded(name)));
    let query: Vec<String> = service.chain(names).collect();
    let joint = if query.is_empty() { "" } else { "?" };
    let mut events = api.events(&format!("/v2/events{joint}{}", query.join("&"))).await?;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = screen.output.closed() => return Ok(()),
        };
        let line = if screen.is_table() { event_line(&event) } else { event.to_string() };
        if !screen.line(line).await {
            return Ok(());
        }
    }
}

/// An event as a line for people.
fn event_line(event: &Value) -> String {
    let name = text(event, "/event");
    let style = match name.as_str() {
        "member_down" | "mass_drop" | "partition_suspected" | "isolated" | "fatal" | "lagged" => table::RED,
        "member_up" | "service_up" | "ready" | "rejoined" | "partition_over" | "mass_drop_over" => table::GREEN,
        _ => table::YELLOW,
    };
    let mut words = Vec::new();
    let mut say = |label: &str, path: &str| match text(event, path) {
        text if text.is_empty() => {}
        text if label.is_empty() => words.push(text),
        text => words.push(format!("{label}={text}")),
    };
    say("", "/service");
    say("", "/instance");
    say("", "/member/member");
    say("", "/member/addr");
    say("", "/member/state");
    say("status", "/record/status/state");
    say("owner", "/member_id");
    say("reason", "/reason");
    say("lost", "/lost");
    say("kept", "/kept");
    let rest = table::printable(&words.join(" "));
    format!("{} {style}{name:<19}\x1b[0m {rest}", text(event, "/ts"))
}

pub(super) async fn rtt(args: RttArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let whole = api.get("/v2/rtt").await?;
    let nothing = "there is no other member";
    screen.show(&Sheet { whole: &whole, rows: rows(&whole, "/members"), columns: RTTS, nothing, notice: None }).await?;
    Ok(())
}

pub(super) async fn stats(args: StatsArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let whole = api.get("/v2/stats").await?;
    let figures = ["/stats", "/http"].into_iter().filter_map(|part| whole.pointer(part)?.as_object());
    let is_wanted = |name: &str, value: &Value| {
        (args.all || *value != 0) && args.name.as_ref().is_none_or(|part| name.contains(part.as_str()))
    };
    let figures: Vec<Value> = figures
        .flatten()
        .filter(|(name, value)| is_wanted(name, value))
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    let nothing = "no such figure, or all of them are 0 (--all)";
    screen
        .show(&Sheet { whole: &whole, rows: figures.iter().collect(), columns: STATS, nothing, notice: None })
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(all: &[(&str, u64)]) -> BTreeMap<String, Value> {
        all.iter().map(|(id, weight)| ((*id).to_owned(), json!({ "id": id, "weight": weight }))).collect()
    }

    #[test]
    fn a_watch_tells_what_went_came_and_changed() {
        let (before, now) = (known(&[("a", 1), ("b", 1), ("c", 1)]), known(&[("b", 1), ("c", 2), ("d", 1)]));
        let told: Vec<_> = changes(&before, &now).iter().map(|(change, row)| (*change, text(row, "/id"))).collect();
        let expected = [("removed", "a"), ("changed", "c"), ("added", "d")];
        assert_eq!(told, expected.map(|(change, id)| (change, id.to_owned())));
        assert!(changes(&now, &now).is_empty());
        let heard = json!({ "healthy": true, "evidence_ms": 5 });
        assert_eq!(lasting(&heard), json!({ "healthy": true }));
    }

    #[test]
    fn what_is_asked_for_stays_in_its_place() {
        let path = service_path("a/b", &[("filter", "x == \"1&2\"".to_owned()), ("healthy", "true".to_owned())]);
        assert_eq!(path, "/v2/services/a%2Fb?filter=x%20%3D%3D%20%221%262%22&healthy=true");
    }

    #[test]
    fn an_event_is_a_line_that_cannot_steer_the_terminal() {
        let event = json!({ "ts": "t", "event": "service_up", "service": "web", "instance": "w\u{1b}[2J\n1" });
        let line = anstream::adapter::strip_str(&event_line(&event)).to_string();
        assert_eq!(line, "t service_up          web w\u{fffd}[2J\u{fffd}1");
    }
}
