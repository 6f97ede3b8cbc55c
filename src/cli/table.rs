//! The view as a table for a terminal, and changes as plain lines. Pure text: knows nothing of a terminal but its size.

use std::fmt::Write as _;
use std::time::Duration;

use tidings::peer::MemberState;
use tidings::promise::Promise;
use tidings::record::Status;

use super::changes::{Change, Offer};
use super::jsonl;
use super::reload::Reloaded;
use super::view::Shown;

pub(super) const BOLD: &str = "\x1b[1m";
pub(super) const DIM: &str = "\x1b[2m";
pub(super) const GREEN: &str = "\x1b[32m";
pub(super) const YELLOW: &str = "\x1b[33m";
pub(super) const RED: &str = "\x1b[31m";
const RESET: &str = "\x1b[0m";

/// Between two columns.
const GAP: &str = "  ";

/// A column is not cut below this, so that something can still be read.
const COLUMN_CHARS_MIN: usize = 6;

/// What a terminal shows, at most `width` characters wide and `height` lines high, with colours.
pub(super) fn render(shown: &Shown, notice: Option<&str>, width: usize, height: usize) -> String {
    let instances: usize = shown.services.iter().map(|service| service.instances.len()).sum();
    let mut lines = vec![styled(BOLD, &cut(&headline(shown, instances), width)), String::new()];
    lines.extend(table(&["MEMBER", "STATE", "HEARD", "ADDRESS", "ZONE", "ID"], &member_rows(shown), width));
    lines.push(String::new());
    if instances == 0 {
        lines.push(styled(DIM, &cut("no services yet", width)));
    } else {
        let heads = ["SERVICE", "INSTANCE", "STATUS", "ADDRESS", "MEMBER", "VERSION", "WEIGHT", "TAGS"];
        lines.extend(table(&heads, &instance_rows(shown), width));
    }
    if let Some(notice) = notice {
        lines.push(String::new());
        lines.push(styled(YELLOW, &cut(&printable(notice), width)));
    }
    if lines.len() > height {
        let hidden = lines.len() - height.saturating_sub(1);
        lines.truncate(height.saturating_sub(1));
        lines.push(styled(DIM, &cut(&format!("... {hidden} more lines; a taller terminal shows them"), width)));
    }
    lines.join("\n")
}

/// What the settings promise, as a line for people.
pub(super) fn promise(promise: &Promise) -> String {
    format!("{} {:<18} {promise}", jsonl::now(), "promise")
}

/// What a reload did, as a line for people.
pub(super) fn reloaded(reloaded: &Reloaded) -> String {
    printable(&format!("{} {:<18} {reloaded}", jsonl::now(), "reloaded"))
}

/// A change as a line for people: time, event, and what it is about.
pub(super) fn line(change: &Change) -> String {
    let now = jsonl::now();
    let (event, rest) = match change {
        Change::Ready => ("ready", String::new()),
        Change::MemberUp(member) => {
            let zone = if member.zone.is_empty() { String::new() } else { format!(" zone={}", member.zone) };
            ("member_up", format!("{} {}{zone}", member.name, member.peer.addr))
        }
        Change::MemberDown { member, .. } => ("member_down", format!("{} {}", member.name, member.peer.addr)),
        Change::MemberLeft(member) => ("member_left", format!("{} {}", member.name, member.peer.addr)),
        Change::MemberState(member) => {
            (jsonl::state_event(member.state), format!("{} {}", member.name, member.peer.addr))
        }
        Change::PartitionSuspected(split) => ("partition_suspected", split.to_string()),
        Change::PartitionOver => ("partition_over", String::new()),
        Change::MassDrop { service, lost, kept } => {
            ("mass_drop", format!("{service}: {lost} instances lost at once, {kept} left; the lost are kept"))
        }
        Change::MassDropOver { service } => ("mass_drop_over", service.to_string()),
        Change::CutOff(true) => ("isolated", "nobody answers this member; it accuses nobody".to_owned()),
        Change::CutOff(false) => ("rejoined", "members answer again".to_owned()),
        Change::ServiceUp(offer) => ("service_up", offer_text(offer)),
        Change::ServiceChanged(offer) => ("service_changed", offer_text(offer)),
        Change::ServiceDown { offer, reason } => (
            "service_down",
            format!("{} {} on {} ({})", offer.instance.service, offer.instance.id, offer.member, reason.as_str()),
        ),
        Change::Error { reason } => ("error", reason.clone()),
    };
    printable(format!("{now} {event:<18} {rest}").trim_end())
}

fn offer_text(offer: &Offer) -> String {
    let instance = &offer.instance;
    let mut text = format!("{} {} on {} at {}", instance.service, instance.id, offer.member, instance.address);
    if instance.status != Status::Passing {
        let _ = write!(text, " {}", instance.status);
    }
    if let Some(version) = &instance.version {
        let _ = write!(text, " version={version}");
    }
    for tag in &instance.tags {
        let _ = write!(text, " tag={tag}");
    }
    text
}

fn headline(shown: &Shown, instances: usize) -> String {
    let count = |n: usize, noun: &str| format!("{n} {noun}{}", if n == 1 { "" } else { "s" });
    let joining = if shown.status == "ready" { String::new() } else { format!(" | {}", shown.status) };
    let insecure = if shown.insecure { " | INSECURE: no key needed" } else { "" };
    printable(&format!(
        "cluster {} | member {} at {} | {}, {}{joining}{insecure}",
        shown.cluster,
        shown.member,
        shown.addr,
        count(shown.members.len(), "member"),
        count(instances, "instance"),
    ))
}

/// One cell: its text, and how it is coloured.
pub(super) type Cell = (String, &'static str);

fn member_rows(shown: &Shown) -> Vec<Vec<Cell>> {
    let row = |member: &super::view::ShownMember| {
        let heard = match member.age {
            _ if member.member_id == shown.member_id => "self".to_owned(),
            Some(age) => age_text(age),
            None => "never".to_owned(),
        };
        vec![
            (member.member.to_string(), ""),
            (member.state.to_string(), state_style(member.state)),
            (heard, DIM),
            (member.addr.clone(), ""),
            (member.zone.to_string(), ""),
            (member.member_id.clone(), DIM),
        ]
    };
    shown.members.iter().map(row).collect()
}

fn instance_rows(shown: &Shown) -> Vec<Vec<Cell>> {
    let each = shown.services.iter().flat_map(|service| &service.instances);
    each.map(|offered| {
        let instance = &offered.record;
        // What the member is comes first: the status of a member that is gone is only the last that was known.
        let status = match offered.member_state {
            MemberState::Reachable => (instance.status.to_string(), status_style(&instance.status)),
            state => (state.to_string(), state_style(state)),
        };
        vec![
            (instance.service.to_string(), ""),
            (instance.id.to_string(), ""),
            status,
            (instance.address.to_string(), ""),
            (offered.member.to_string(), ""),
            (instance.version.as_deref().unwrap_or_default().to_owned(), ""),
            (instance.weight.to_string(), ""),
            (instance.tags.iter().map(|tag| &**tag).collect::<Vec<_>>().join(","), ""),
        ]
    })
    .collect()
}

fn state_style(state: MemberState) -> &'static str {
    match state {
        MemberState::Reachable => GREEN,
        MemberState::Suspect => YELLOW,
        MemberState::Unreachable | MemberState::Down => RED,
        MemberState::Left => DIM,
    }
}

fn status_style(status: &Status) -> &'static str {
    match status {
        Status::Passing => GREEN,
        Status::Starting | Status::Warning | Status::Draining => YELLOW,
        Status::Critical | Status::Maintenance(_) => RED,
    }
}

/// Lines of a table with a head; columns that nobody fills are left out, the widest give way where room is short.
pub(super) fn table(heads: &[&str], rows: &[Vec<Cell>], width: usize) -> Vec<String> {
    let rows: Vec<Vec<Cell>> =
        rows.iter().map(|row| row.iter().map(|(text, style)| (printable(text), *style)).collect()).collect();
    let used: Vec<usize> = (0..heads.len()).filter(|&i| rows.iter().any(|row| !row[i].0.is_empty())).collect();
    let natural = used.iter().map(|&i| rows.iter().map(|row| chars(&row[i].0)).chain([chars(heads[i])]).max());
    let widths = fit(natural.map(Option::unwrap_or_default).collect(), width);
    let line = |cell: &dyn Fn(usize) -> Cell| {
        let mut text = String::new();
        for (n, (&column, &chars_max)) in used.iter().zip(&widths).enumerate() {
            let (cell, style) = cell(column);
            let cell = cut(&cell, chars_max);
            let is_last = n + 1 == widths.len();
            let padding = if is_last { 0 } else { chars_max - chars(&cell) + GAP.len() };
            text.push_str(&styled(style, &cell));
            text.extend(std::iter::repeat_n(' ', padding));
        }
        text
    };
    let head = line(&|column| (heads[column].to_owned(), DIM));
    std::iter::once(head).chain(rows.iter().map(|row| line(&|column| row[column].clone()))).collect()
}

/// Takes from the widest column until all fit. Where even the narrowest do not, the last ones are given up.
fn fit(mut widths: Vec<usize>, width: usize) -> Vec<usize> {
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1);
    while total(&widths) > width {
        let columns = widths.len();
        match widths.iter_mut().max() {
            Some(widest) if *widest > COLUMN_CHARS_MIN => *widest -= 1,
            _ if columns > 1 => widths.truncate(columns - 1),
            _ => return vec![width],
        }
    }
    widths
}

fn styled(style: &str, text: &str) -> String {
    if style.is_empty() || text.is_empty() { text.to_owned() } else { format!("{style}{text}{RESET}") }
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

fn cut(text: &str, chars_max: usize) -> String {
    if chars(text) <= chars_max {
        return text.to_owned();
    }
    let kept = text.chars().take(chars_max.saturating_sub(1));
    kept.chain((chars_max > 0).then_some('…')).collect()
}

/// Others choose their names: none may steer the terminal or turn the direction of a line.
pub(super) fn printable(text: &str) -> String {
    let is_steering = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if is_steering(c) { '\u{fffd}' } else { c }).collect()
}

pub(super) fn age_text(age: Duration) -> String {
    match age.as_secs() {
        0..=9 => format!("{:.1} s", age.as_secs_f64()),
        seconds @ 10..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use tidings::record::Instance;

    use super::super::view::{ShownInstance, ShownMember, ShownService};
    use super::*;

    fn member(n: u64, state: MemberState) -> ShownMember {
        ShownMember {
            member: Arc::from(format!("node-{n}")),
            member_id: format!("{n:016x}"),
            addr: format!("127.0.0.1:{}", 7900 + n),
            zone: Arc::from(""),
            state,
            age: Some(Duration::from_millis(300)),
            software: Arc::from("0.1.0"),
        }
    }

    fn shown() -> Shown {
        let addr = SocketAddr::from(([127, 0, 0, 1], 8080));
        let instance = Instance::new("web", addr).unwrap().with_id("web@node-2:8080").with_tag("v1").with_tag("eu");
        Shown {
            cluster: Arc::from("demo"),
            member: Arc::from("node-1"),
            member_id: format!("{:016x}", 1),
            addr: "127.0.0.1:7901".to_owned(),
            status: "ready",
            insecure: false,
            members: vec![member(1, MemberState::Reachable), member(2, MemberState::Down)],
            services: vec![ShownService {
                kept: None,
                service: Arc::from("web"),
                instances: vec![ShownInstance {
                    member: Arc::from("node-2"),
                    member_id: format!("{:016x}", 2),
                    member_state: MemberState::Down,
                    healthy: false,
                    record: Arc::new(instance),
                }],
            }],
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_table_shows_members_and_instances() {
        let expected = "\
cluster demo | member node-1 at 127.0.0.1:7901 | 2 members, 1 instance

MEMBER  STATE      HEARD  ADDRESS         ID
node-1  reachable  self   127.0.0.1:7901  0000000000000001
node-2  down       0.3 s  127.0.0.1:7902  0000000000000002

SERVICE  INSTANCE         STATUS  ADDRESS         MEMBER  WEIGHT  TAGS
web      web@node-2:8080  down    127.0.0.1:8080  node-2  1       eu,v1";
        assert_eq!(plain(&render(&shown(), None, 100, 50)), expected);
    }

    #[test]
    fn a_node_that_needs_no_key_says_so_in_its_first_line() {
        let insecure = Shown { insecure: true, ..shown() };
        let first = |shown: &Shown| plain(&render(shown, None, 120, 50)).lines().next().unwrap_or_default().to_owned();
        assert!(first(&insecure).ends_with("| INSECURE: no key needed"), "{}", first(&insecure));
        assert!(!first(&shown()).contains("INSECURE"));
    }

    #[test]
    fn a_table_never_outgrows_the_terminal() {
        let full = render(&shown(), Some("a notice that is quite a bit longer than the terminal is wide"), 100, 50);
        assert!(plain(&full).lines().count() > 8);
        for width in 1..100 {
            for height in 1..12 {
                let text = plain(&render(&shown(), Some("a notice that is quite long"), width, height));
                assert!(text.split('\n').count() <= height, "{width}x{height}:\n{text}");
                assert!(text.split('\n').all(|line| chars(line) <= width), "{width}x{height}:\n{text}");
            }
        }
    }

    #[test]
    fn the_state_is_coloured() {
        let text = render(&shown(), None, 100, 50);
        assert!(text.contains("\x1b[32mreachable\x1b[0m"), "{text}");
        assert!(text.contains("\x1b[31mdown\x1b[0m"), "{text}");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let mut shown = shown();
        shown.members[0].member = Arc::from("a\x1b[2J\u{202e}b");
        let text = render(&shown, Some("x\x07\ny"), 100, 50);
        assert!(text.contains("a\u{fffd}[2J\u{fffd}b"), "{text}");
        assert!(!plain(&text).contains(['\x07', '\u{202e}']));
        let change = Change::Error { reason: "two\nlines".to_owned() };
        assert!(!line(&change).contains('\n'));
    }
}
