//! `tidings doctor` and `tidings debug`: what is wrong, as far as one agent can see, and a file of all that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::exit::{Exit, Failure};
use super::super::output::Output;
use super::super::{jsonl, table};
use super::Common;
use super::http::{ASK_DOCTOR, Api, encoded};
use super::show::{Sheet, rows, state, text};

/// An answer that takes longer than this is slow, on any network.
const SLOW: Duration = Duration::from_millis(500);

/// Clocks may differ so far before anybody should look.
const CLOCK_SECONDS_MAX: i64 = 2;

/// A round trip this long, in microseconds, leaves little of the second in which a crash is noticed.
const RTT_MICROS_MAX: u64 = 500_000;

/// The share of probes that must be answered, in thousandths.
const ANSWERED_PERMILLE_MIN: u64 = 950;

/// The most names in one finding.
const NAMED_MAX: usize = 5;

/// The most members whose stories are in a bundle.
const STORIES_MAX: usize = 50;

/// Look for what is wrong, from this agent's point of view, with what to do about it.
///
/// Asks one agent, and through it what it knows of every member. Ends with code 1 if something is wrong; warnings are
/// not.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    common: Common,
}

/// Write all that the agent knows into one JSON file, for a report. Secrets are not in it; names and addresses are.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct DebugArgs {
    #[command(flatten)]
    common: Common,

    /// The file, which must not be there yet [default: tidings-debug-MEMBER-TIME.json]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Grade {
    Ok,
    Skipped,
    Warn,
    Wrong,
}

impl Grade {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warn => "warn",
            Self::Wrong => "wrong",
        }
    }
}

/// What was found, in order.
#[derive(Default)]
struct Report {
    findings: Vec<Value>,
    /// Members that cannot be reached: whatever they fail to do besides is no finding of its own.
    unreachable: u64,
}

impl Report {
    fn say(&mut self, result: Grade, check: &str, found: impl Into<String>, next: impl Into<String>) {
        let (found, next) = (found.into(), next.into());
        self.findings.push(json!({ "result": result.as_str(), "check": check, "found": found, "next": next }));
    }

    fn ok(&mut self, check: &str, found: impl Into<String>) {
        self.say(Grade::Ok, check, found, "");
    }

    /// How many findings are of a kind.
    fn count(&self, result: Grade) -> usize {
        self.findings.iter().filter(|finding| finding["result"] == result.as_str()).count()
    }
}

pub(super) async fn run(args: Args, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let report = examine(&api).await?;
    let (wrong, warned) = (report.count(Grade::Wrong), report.count(Grade::Warn));
    let whole = json!({ "agent": api.address().to_string(), "findings": report.findings });
    let rows = rows(&whole, "/findings");
    if screen.is_table() {
        // Not a table: advice that is cut is none.
        for row in rows {
            for line in finding_lines(row) {
                screen.line(line).await;
            }
        }
    } else {
        screen.show(&Sheet { whole: &whole, rows, columns: &[], nothing: "", notice: None }).await?;
    }
    match (wrong, warned) {
        (0, _) => Ok(()),
        (wrong, warned) => {
            let text = format!("{wrong} of {} checks found something wrong, {warned} warn", report.findings.len());
            Err(Failure::new(Exit::Failed, text))
        }
    }
}

/// What was found, and below it what to do.
fn finding_lines(finding: &Value) -> Vec<String> {
    let (result, style) = state(finding, "/result");
    let (check, found) = (text(finding, "/check"), table::printable(&text(finding, "/found")));
    let mut lines = vec![format!("{style}{result:<7}\x1b[0m  {check:<11}  {found}")];
    match text(finding, "/next") {
        next if next.is_empty() => {}
        next => lines.push(format!("{:9}{:11}  -> {}", "", "", table::printable(&next))),
    }
    lines
}

/// # Errors
/// The agent cannot be reached, or does not let us in: then there is nothing else to look at.
async fn examine(api: &Api) -> Result<Report, Failure> {
    let mut report = Report::default();
    let began = Instant::now();
    let alive = api.ask_anyhow(Method::GET, "/livez", None, Duration::ZERO).await?;
    reached(&mut report, api, began.elapsed());
    clock(&mut report, alive.date.as_deref(), Timestamp::now());
    if !alive.status.is_success() {
        let found = String::from_utf8_lossy(&alive.body).trim().to_owned();
        let next = "its log says why; start it again. What follows is the last that it knew";
        report.say(Grade::Wrong, "alive", found, next);
    }
    match api.ask(Method::GET, "/readyz", None, Duration::ZERO).await {
        Ok(_) => report.ok("ready", "the member has joined, and takes work"),
        Err(failure) => report.say(
            Grade::Wrong,
            "ready",
            failure.to_string().replace(ASK_DOCTOR, ""),
            "tidings join HOST:PORT, or look at its log for refusals",
        ),
    }
    let parts: [(&str, &str, About); 7] = [
        ("member", "/v2/agent", about_itself),
        ("members", "/v2/members", |report, members| {
            about_members(report, members);
            about_versions(report, members);
        }),
        ("agreement", "/v2/agreement", about_agreement),
        ("services", "/v2/services", about_services),
        ("round trips", "/v2/rtt", about_rtt),
        ("counters", "/v2/stats", about_stats),
        ("keys", "/v2/keys", about_keys),
    ];
    for (check, path, about) in parts {
        match api.get(path).await {
            Ok(told) => about(&mut report, &told),
            // Whoever may read nothing learns nothing; keys are not for every reader.
            Err(failure) if failure.exit == Exit::Refused && check != "keys" => return Err(failure),
            // It says itself what would help: a token, a key, or a member that runs.
            Err(failure) => report.say(Grade::Skipped, check, failure.to_string().replace(ASK_DOCTOR, ""), ""),
        }
    }
    Ok(report)
}

/// Judges a part of what an agent tells.
type About = fn(&mut Report, &Value);

fn reached(report: &mut Report, api: &Api, took: Duration) {
    let found = format!("{} answers after {:.1} ms", api.address(), took.as_secs_f64() * 1e3);
    match took {
        took if took < SLOW => report.ok("agent", found),
        _ => report.say(Grade::Warn, "agent", found, "look at the load of its machine; tidings stats driver"),
    }
}

fn clock(report: &mut Report, date: Option<&str>, now: Timestamp) {
    let told = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(told) = told else {
        report.say(Grade::Skipped, "clock", "the agent did not tell its time", "");
        return;
    };
    let apart = told.timestamp().as_second() - now.as_second();
    let found = format!("the agent's clock and this machine's are {} s apart", apart.abs());
    match apart.abs() {
        0..=CLOCK_SECONDS_MAX => report.ok("clock", found),
        _ => report.say(Grade::Warn, "clock", found, "nothing here depends on it but times in logs; is NTP running?"),
    }
}

fn about_itself(report: &mut Report, agent: &Value) {
    let name = format!("{} in cluster {}", text(agent, "/member/member"), text(agent, "/cluster"));
    if agent["isolated"] == true {
        let next = "check UDP, both ways, between this machine and the others at the addresses of tidings members";
        report.say(Grade::Wrong, "network", format!("{name} reaches no other member"), next);
    } else {
        report.ok("network", format!("{name} reaches others, or is alone"));
    }
    match text(agent, "/status").as_str() {
        "ready" if agent["draining"] == true => {
            report.say(Grade::Warn, "member", "it is draining, and takes nothing new", "");
        }
        "ready" => report.ok("member", format!("version {}, ready", text(agent, "/version"))),
        status => {
            let next = "tidings join HOST:PORT; its log says why others refuse it";
            report.say(Grade::Wrong, "member", format!("it is {status} {}", text(agent, "/stopped")), next);
        }
    }
    let addr = text(agent, "/member/addr");
    let is_loopback = addr.parse::<std::net::SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback());
    match agent["insecure"] == true {
        _ if is_loopback => report.ok("security", "a loopback address: only this machine reaches it"),
        true => report.say(
            Grade::Wrong,
            "security",
            format!("no key is needed at {addr}: whoever reaches the port is a member"),
            "tidings keygen; then --key-file at every member",
        ),
        false => report.ok("security", "members need a key"),
    }
}

/// Names, the first few of them.
fn named(names: &[String]) -> String {
    let more = if names.len() > NAMED_MAX { format!(" and {} more", names.len() - NAMED_MAX) } else { String::new() };
    format!("{}{more}", names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", "))
}

fn about_members(report: &mut Report, members: &Value) {
    let mut by_state = BTreeMap::<String, Vec<String>>::new();
    for member in rows(members, "/members") {
        by_state.entry(text(member, "/state")).or_default().push(text(member, "/member"));
    }
    let reachable = by_state.remove("reachable").unwrap_or_default().len();
    by_state.remove("left");
    if by_state.is_empty() {
        report.ok("members", format!("all {reachable} are reachable"));
    }
    report.unreachable = by_state.get("unreachable").map_or(0, |names| names.len() as u64);
    for (state, names) in by_state {
        let first = names.first().map(String::as_str).unwrap_or_default();
        let (result, next) = match state.as_str() {
            "suspect" => (Grade::Warn, format!("tidings explain {first}: others may still reach it")),
            _ => (Grade::Wrong, format!("tidings explain {first}; if it is gone for good, tidings forget {first}")),
        };
        report.say(result, "members", format!("{} {state}: {}", names.len(), named(&names)), next);
    }
}

fn about_versions(report: &mut Report, members: &Value) {
    let members: Vec<&Value> =
        rows(members, "/members").into_iter().filter(|member| member["state"] == "reachable").collect();
    let software: BTreeSet<String> = members.iter().map(|member| text(member, "/software")).collect();
    let bound = |member: &&&Value, path: &str| member.pointer(path).and_then(Value::as_u64);
    let oldest = members.iter().filter_map(|member| bound(&member, "/wire/0")).max().unwrap_or_default();
    let newest = members.iter().filter_map(|member| bound(&member, "/wire/1")).min().unwrap_or_default();
    let all: Vec<String> = software.into_iter().collect();
    if oldest > newest {
        let found = format!("wire versions do not overlap: some need {oldest}, some speak only up to {newest}");
        report.say(Grade::Wrong, "versions", found, "upgrade the older ones, in steps");
    } else if all.len() > 1 {
        report.say(Grade::Warn, "versions", format!("mixed: {}", named(&all)), "fine during an upgrade; end it");
    } else {
        report.ok("versions", format!("all run {}", named(&all)));
    }
}

fn about_agreement(report: &mut Report, agreement: &Value) {
    let count = |of: &str| agreement[of].as_u64().unwrap_or_default();
    let (agreeing, members) = (count("agreeing"), count("members"));
    let found = format!("{agreeing} of {members} members know the same");
    match members.saturating_sub(agreeing) {
        0 => report.ok("agreement", found),
        rest if rest <= report.unreachable => report.ok("agreement", format!("{found}: all that can be reached")),
        _ => report.say(
            Grade::Warn,
            "agreement",
            found,
            "look again in some seconds; if it stays, tidings diff A B between two agents",
        ),
    }
}

fn about_services(report: &mut Report, services: &Value) {
    let services = rows(services, "/services");
    let names = |is_meant: &dyn Fn(&Value) -> bool| -> Vec<String> {
        services.iter().filter(|row| is_meant(row)).map(|row| text(row, "/service")).collect()
    };
    let dead = names(&|row| row["healthy"] == 0);
    let kept = names(&|row| row.get("kept").is_some());
    if let Some(first) = kept.first() {
        let found = format!("last known good instances are kept: {}", named(&kept));
        report.say(Grade::Wrong, "services", found, format!("most were lost at once; tidings get {first}"));
    }
    if let Some(first) = dead.first() {
        let found = format!("without a healthy instance: {}", named(&dead));
        report.say(Grade::Wrong, "services", found, format!("tidings get {first}"));
    }
    if dead.is_empty() && kept.is_empty() {
        report.ok("services", format!("{} services, each with a healthy instance", services.len()));
    }
}

fn about_rtt(report: &mut Report, rtts: &Value) {
    let micros = |row: &&Value| row.get("rtt_us").and_then(Value::as_u64);
    let rows = rows(rtts, "/members");
    let slow: Vec<String> = rows
        .iter()
        .filter(|row| micros(row).is_some_and(|micros| micros > RTT_MICROS_MAX))
        .map(|row| text(row, "/member"))
        .collect();
    let slowest = rows.iter().filter_map(micros).max().unwrap_or_default() as f64 / 1e3;
    if slow.is_empty() {
        report.ok("round trips", format!("the longest takes {slowest:.1} ms"));
    } else {
        let found = format!("more than half a second: {}", named(&slow));
        report.say(Grade::Warn, "round trips", found, "set a profile with tidings node --network");
    }
}

fn about_stats(report: &mut Report, stats: &Value) {
    let of = |name: &str| stats.pointer(&format!("/stats/{name}")).and_then(Value::as_u64).unwrap_or_default();
    let listed = |names: &[&str]| -> Vec<String> {
        names.iter().filter(|name| of(name) > 0).map(|name| format!("{name}={}", of(name))).collect()
    };
    let answered = stats.pointer("/stats/probes_answered_permille").and_then(Value::as_u64);
    match answered {
        None => {}
        Some(permille) if permille >= ANSWERED_PERMILLE_MIN || of("probes_sent") == 0 => {
            report.ok("udp", format!("{:.1} % of probes are answered", permille as f64 / 10.0));
        }
        Some(permille) => report.say(
            Grade::Warn,
            "udp",
            format!("only {:.1} % of probes are answered", permille as f64 / 10.0),
            "datagrams are lost: look at tidings rtt, and at the load of both sides",
        ),
    }
    let mut judge = |check: &str, names: &[&str], next: &str| match listed(names) {
        found if found.is_empty() => report.ok(check, "nothing was dropped"),
        found => report.say(Grade::Warn, check, found.join(", "), next),
    };
    judge(
        "mtu",
        &["socket_drops_gossip_send_invalid", "socket_drops_quic_too_large"],
        "datagrams of 1,200 bytes must pass: look at tunnels on the way",
    );
    judge(
        "quic",
        &["streams_handshakes_failed", "streams_inbound_failed", "streams_asks_failed"],
        "streams failed since the start: other keys or certificates, or members that crashed meanwhile",
    );
    judge(
        "limits",
        &[
            "driver_requests_refused",
            "driver_inbound_refused",
            "streams_inbound_refused",
            "streams_requests_refused",
            "socket_drops_quic_queue_full",
            "socket_drops_gossip_send_full",
            "saved_view_left_out",
        ],
        "a limit was reached: tidings config show --limits says which there are",
    );
    judge("stalls", &["driver_stalls"], "the process stood still: is its machine overloaded, or was it paused?");
}

fn about_keys(report: &mut Report, keys: &Value) {
    let silent: Vec<String> = rows(keys, "/members")
        .into_iter()
        .filter(|member| member.get("error").is_some())
        .map(|member| text(member, "/member"))
        .collect();
    if !silent.is_empty() {
        report.say(Grade::Warn, "keys", format!("did not tell: {}", named(&silent)), "tidings keys says why");
        return;
    }
    match super::keys::lacking(&super::keys::by_member(keys)) {
        None => report.ok("keys", "every member has the same keys"),
        Some(found) => report.say(Grade::Wrong, "keys", found, "tidings keys; tidings keys add where it lacks"),
    }
}

pub(super) async fn debug(args: DebugArgs, output: &Output) -> Result<(), Failure> {
    let (api, screen) = args.common.open(output)?;
    let mut bundle = Map::new();
    bundle.insert("written".to_owned(), Value::from(jsonl::now()));
    bundle.insert("by".to_owned(), Value::from(concat!("tidings ", env!("CARGO_PKG_VERSION"))));
    bundle.insert("doctor".to_owned(), examine(&api).await?.findings.into());
    let parts = [
        "agent",
        "config",
        "stats",
        "members",
        "services",
        "instances",
        "offers",
        "checks",
        "rtt",
        "agreement",
        "keys",
    ];
    for part in parts {
        // What cannot be had says why: a bundle is for when things are broken.
        let got = api.get(&format!("/v2/{part}")).await;
        bundle.insert(part.to_owned(), got.unwrap_or_else(|failure| json!({ "failed": failure.to_string() })));
    }
    let doubtful = rows(&bundle["members"], "/members").into_iter().filter(|member| member["state"] != "reachable");
    let ids: Vec<String> = doubtful.map(|member| text(member, "/member_id")).take(STORIES_MAX).collect();
    let mut stories = Vec::new();
    for id in ids {
        let story = api.get(&format!("/v2/members/{}/explain", encoded(&id))).await;
        stories.push(story.unwrap_or_else(|failure| json!({ "member_id": id, "failed": failure.to_string() })));
    }
    bundle.insert("stories".to_owned(), Value::Array(stories));
    // Of one that has stopped, the agent's address stands for its name.
    let name = match text(&bundle["agent"], "/member/member") {
        name if name.is_empty() => api.address().to_string().rsplit('/').next().unwrap_or_default().to_owned(),
        name => name,
    };
    let member: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' }).collect();
    let path = args.file.unwrap_or_else(|| {
        let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        PathBuf::from(format!("tidings-debug-{member}-{now}.json"))
    });
    let failed = |error| Failure::new(Exit::Failed, format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
    let text = format!("{:#}\n", Value::Object(bundle));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    let done = json!({ "done": format!("wrote {} ({} KiB)", path.display(), text.len() / 1_024), "file": path });
    screen.done(&done).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(look: impl FnOnce(&mut Report)) -> Vec<(String, String)> {
        let mut report = Report::default();
        look(&mut report);
        report.findings.iter().map(|finding| (text(finding, "/result"), text(finding, "/found"))).collect()
    }

    #[test]
    fn members_that_are_not_reachable_are_named_with_what_to_do() {
        let member = |name: &str, state: &str| json!({ "member": name, "state": state });
        let members = json!({ "members": [member("a", "reachable"), member("b", "suspect"), member("c", "down")] });
        let mut report = Report::default();
        about_members(&mut report, &members);
        assert_eq!((report.count(Grade::Wrong), report.count(Grade::Warn)), (1, 1));
        assert!(text(&report.findings[0], "/next").contains("tidings forget c"), "{:?}", report.findings);
        let well = json!({ "members": [member("a", "reachable"), member("b", "left")] });
        assert_eq!(found(|report| about_members(report, &well)), [("ok".to_owned(), "all 1 are reachable".to_owned())]);
    }

    #[test]
    fn a_member_that_cannot_be_reached_is_not_told_again_as_one_that_does_not_agree() {
        let member = |name: &str, state: &str| json!({ "member": name, "state": state });
        let agreement = json!({ "agreeing": 2, "members": 3 });
        let look = |state: &str| {
            let members =
                json!({ "members": [member("a", "reachable"), member("b", "reachable"), member("c", state)] });
            let all = found(|report| {
                about_members(report, &members);
                about_agreement(report, &agreement);
            });
            all.last().cloned().expect("a finding")
        };
        let (result, told) = look("unreachable");
        assert!(result == "ok" && told.contains("2 of 3 members") && told.contains("can be reached"), "{told}");
        assert_eq!(look("reachable").0, "warn", "it answers, and knows something else");
        assert_eq!(look("suspect").0, "warn", "it may answer");
    }

    #[test]
    fn wire_versions_that_do_not_overlap_are_wrong_and_mixed_software_warns() {
        let member =
            |software: &str, wire: [u8; 2]| json!({ "state": "reachable", "software": software, "wire": wire });
        let look = |members: Vec<Value>| {
            let members = json!({ "members": members });
            found(|report| about_versions(report, &members))[0].0.clone()
        };
        assert_eq!(look(vec![member("1", [1, 1]), member("1", [1, 1])]), "ok");
        assert_eq!(look(vec![member("1", [1, 1]), member("2", [1, 2])]), "warn");
        assert_eq!(look(vec![member("1", [1, 1]), member("3", [2, 3])]), "wrong");
    }

    #[test]
    fn no_key_is_wrong_only_where_others_can_reach_the_port() {
        let agent = |addr: &str| json!({ "status": "ready", "insecure": true, "member": { "addr": addr } });
        let last = |addr: &str| found(|report| about_itself(report, &agent(addr))).pop().expect("a finding").0;
        assert_eq!((last("127.0.0.1:7900").as_str(), last("10.0.0.1:7900").as_str()), ("ok", "wrong"));
    }

    #[test]
    fn clocks_that_are_apart_are_told() {
        let now: Timestamp = "2026-11-20T12:00:00Z".parse().expect("a time");
        let look = |date| found(|report| clock(report, date, now))[0].0.clone();
        assert_eq!(look(Some("Fri, 20 Nov 2026 12:00:01 GMT")), "ok");
        assert_eq!(look(Some("Fri, 20 Nov 2026 12:01:00 GMT")), "warn");
        assert_eq!((look(None), look(Some("noon"))), ("skipped".to_owned(), "skipped".to_owned()));
    }
}
