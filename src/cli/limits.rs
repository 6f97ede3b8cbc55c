//! Every limit of a member by its name, as `tidings config show --limits` prints them. Knows nothing of settings: none
//! of these can be set.

use std::fmt::Write as _;
use std::time::Duration;

use tidings::net::quic::StreamLimits;

/// A limit: its name, its value, and what it limits.
struct Limit {
    name: &'static str,
    value: String,
    what: &'static str,
}

fn number(value: impl TryInto<u64>) -> String {
    let digits = value.try_into().unwrap_or(u64::MAX).to_string();
    let grouped: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|three| std::str::from_utf8(three).unwrap_or_default()).collect();
    grouped.join(",")
}

fn time(value: Duration) -> String {
    format!("{value:?}")
}

/// Constants by their path, the last part of which is the name.
macro_rules! limits {
    ($($show:ident $($part:ident)::+, $what:literal;)+) => {
        vec![$(Limit {
            name: stringify!($($part)::+).rsplit("::").next().unwrap_or_default().trim(),
            value: $show($($part)::+),
            what: $what,
        }),+]
    };
}

fn all() -> Vec<Limit> {
    let mut all = limits! {
        number tidings::contact::CONTACTS_MAX, "addresses of strangers asked at once";
        number tidings::contact::REMEMBERED_MAX, "addresses of earlier members that are tried again";
        number tidings::node::HELLOS_PER_SECOND, "Hellos answered a second";
        number tidings::node::REFUSALS_PER_SECOND, "refusals of another cluster or wire version sent a second";
        number tidings::net::seal::KEY_REFUSALS_PER_SECOND, "refusals for want of a key sent a second";
        number tidings::pace::WARNED_MAX, "addresses that warnings are limited for, each to one a minute";
        number tidings::roster::MEMBERS_MAX, "members known, whatever their state";
        number tidings::roster::GRAVES_MAX, "members that are gone and remembered";
        number tidings::node::GOODBYES_MAX, "goodbyes of unknown members remembered";
        number tidings::node::LIMBO_MAX, "records of unknown owners that wait";
        number tidings::node::LIMBO_BYTES_MAX, "bytes of these";
        number tidings::node::CHANGES_PER_SECOND, "changes of one other member a second";
        number tidings::node::CHANGES_AT_ONCE, "changes of one other member at once";
        number tidings::node::OWN_CHANGES_PER_SECOND, "own changes a second";
        number tidings::node::OWN_CHANGES_AT_ONCE, "own changes at once";
        number tidings::table::RECORDS_PER_OWNER_MAX, "records of one member";
        number tidings::table::RECORDS_MAX, "records in all";
        number tidings::rumors::RUMORS_MAX, "news remembered for passing on";
        number tidings::node::exchange::CONVERSATIONS_MAX, "questions of ours about records at once";
        number tidings::node::CANARIES_MAX, "members whose latest canary is remembered";
        number tidings::node::SURVEYED_AT_ONCE, "members asked at once what they know";
        number tidings::node::NOTICES_AT_ONCE, "members told at once that this one drains";
        time tidings::node::NOTICE_REPEAT_MAX, "time until one that has not confirmed it is told again";
        time tidings::registry::CONFIRM_WAIT_MAX, "time that a drain waits for members to confirm it";
        number tidings::node::EPOCHS_TAKEN_MAX, "larger epochs taken by one start";
        number tidings::detector::AWAITED_MAX, "probes that wait for an answer";
        number tidings::detector::CASES_MAX, "accusations of our own under way at once";
        number tidings::detector::CASES_WHILE_LOST_MAX, "the same while hardly anybody answers us";
        number tidings::detector::HELPS_MAX, "accusations of others that are witnessed at once";
        number tidings::effect::SPLIT_NAMES_MAX, "members that are named of each side of a suspected split";
        number tidings::effect::SPLIT_ZONES_MAX, "zones that are listed of it";
        number tidings::node::FORGETS_MAX, "members that operators are being told are gone, at once";
        number tidings::story::STORY_MAX, "lines kept of what happened to members";
        number tidings::verdict::TURN_MAX, "changes of the verdict on one life of a member";
        time tidings::verdict::CLEARED_EVERY, "time in which a member is cleared of an accusation once";
        number tidings::node::EXCUSED_MAX, "times that it is cleared once more within it after splits";
        number tidings::net::seal::SESSIONS_MAX, "senders whose keys and windows are remembered";
        number tidings::net::seal::STARTS_MAX, "other starts whose newest counter is remembered";
        number tidings::net::keys::KEYS_MAX, "cluster keys in a ring";
        number tidings::net::socket::QUIC_QUEUE_DATAGRAMS_MAX, "packets of streams that wait for their reader";
        number tidings::net::socket::QUIC_DATAGRAM_BYTES_MAX, "bytes of a packet of streams";
        number tidings::wire::DATAGRAM_BYTES_MAX, "bytes of a datagram of gossip, sealed";
        number tidings::wire::FRAME_BYTES_MAX, "bytes of a question or an answer on a stream";
        number tidings::net::kept::PEERS_MAX, "members whose addresses are kept in the data directory";
        number tidings::net::kept::STATE_BYTES_MAX, "bytes of a state file that is read";
        number tidings::net::kept_view::SAVED_INSTANCES_MAX, "instances in the saved view";
        number tidings::net::kept_view::VIEW_BYTES_MAX, "bytes of a saved view that is read";
        time tidings::net::kept_view::SAVED_AGE_MAX, "age of a saved view that is read";
        time tidings::select::names::RESOLVE_TIME_MAX, "time of resolving a name with instances";
        number tidings::net::recorder::RECORDING_BYTES_MAX, "bytes of a recording, unless said otherwise";
        number tidings::net::recorder::QUEUE_FRAMES_MAX, "frames of a recording that wait for the disk";
        number tidings::net::recorder::QUEUE_BYTES_MAX, "bytes of these";
        number tidings::registry::JOIN_MAX, "join targets";
        number tidings::net::target::TARGET_ADDRS_MAX, "addresses of one join target";
        number tidings::net::target::TARGETS_BYTES_MAX, "bytes of a file or of a command's output with join targets";
        time tidings::net::target::EXEC_MAX, "time of a command that prints join targets";
        number tidings::record::limits::RECORD_BYTES_MAX, "bytes of a record";
        number tidings::record::limits::NAME_BYTES_MAX, "bytes of a name";
        number tidings::record::limits::ID_BYTES_MAX, "bytes of an instance's id";
        number tidings::record::limits::TAGS_MAX, "tags of an instance";
        number tidings::record::limits::TAG_BYTES_MAX, "bytes of a tag";
        number tidings::record::limits::META_MAX, "entries of an instance's metadata";
        number tidings::record::limits::META_KEY_BYTES_MAX, "bytes of a key of metadata";
        number tidings::record::limits::PORTS_MAX, "named ports, and tagged addresses, of an instance";
        number tidings::record::limits::HOST_BYTES_MAX, "bytes of a host name";
        number tidings::record::limits::REASON_BYTES_MAX, "bytes of a version, and of a maintenance's reason";
        number tidings::record::limits::WEIGHT_MAX, "the largest weight";
        number tidings::offers::OFFERED_MAX, "instances that an agent offers for others";
        number tidings::offers::CHECKS_MAX, "checks of one of these";
        number tidings::offers::CHECKS_IN_ALL_MAX, "checks of an agent";
        number tidings::offers::OFFERS_BYTES_MAX, "bytes of a file of offers";
        number tidings::check::OUTPUT_BYTES_MAX, "bytes kept of what a check printed";
        number tidings::check::CHECK_NAME_BYTES_MAX, "bytes of a check's id, and of its name";
        number tidings::check::CHECK_TEXT_BYTES_MAX, "bytes of a check's notes, of a header's value, of a body";
        number tidings::check::CHECK_PARTS_MAX, "headers, or arguments of a command, of a check";
        number tidings::check::RESULTS_IN_A_ROW_MAX, "results in a row that a check may ask for";
        time tidings::check::CHECK_SPAN_MAX, "the longest time that a check may be given";
        number tidings::select::Call::TRIES_MAX, "instances that one call can try";
        number tidings::select::Census::LISTED_MAX, "instances that an error says of why they are out";
        number tidings::select::filter::limits::FILTER_BYTES_MAX, "bytes of a filter";
        number tidings::select::filter::limits::DEPTH_MAX, "parentheses of a filter in each other";
        number tidings::select::filter::limits::TERMS_MAX, "comparisons in a filter";
        number tidings::select::filter::limits::REGEXES_MAX, "regular expressions in a filter";
        number tidings::select::filter::limits::REGEX_BYTES_MAX, "bytes of one of them, compiled";
        number tidings::door::http::CONNECTIONS_MAX, "HTTP connections at once, each long poll one";
        number tidings::door::http::HEAD_BYTES_MAX, "bytes of the head of an HTTP request";
        time tidings::door::WRITE_WAIT_MAX, "in which a client of HTTP must read some of what is there for it";
        number tidings::door::WRITE_BYTES_MIN, "bytes that it must read in that time";
        time tidings::door::http::HEAD_WAIT_MAX, "for the head of an HTTP request, idle time before it included";
        time tidings::door::http::CLOSE_MAX, "for open HTTP requests to end when the agent does";
        number tidings::door::BODY_BYTES_MAX, "bytes of the body of an HTTP request";
        number tidings::door::ask::PARAMETERS_MAX, "parameters of an HTTP query";
        time tidings::door::ask::WAIT_MAX, "that an HTTP request waits for news";
        number tidings::door::STREAMS_MAX, "streams of events over HTTP at once";
        number tidings::registry::TALLIED_MAX, "names by which each thing is counted";
        number tidings::door::SERVICES_SHOWN_MAX, "services whose instances /metrics counts";
        number tidings::door::SELECTIONS_SHOWN_MAX, "chosen instances that /metrics names";
        number tidings::door::GONE_MAX, "services that are gone whose index is remembered";
        number tidings::door::dns::ANSWERS_MAX, "records of an answer over DNS; of more, so many are drawn";
        number tidings::door::dns::QUESTION_BYTES_MAX, "bytes of a question over DNS";
        number tidings::door::dns::UDP_BYTES_MAX, "bytes of an answer over DNS and UDP, whatever is set";
        time tidings::door::dns::TTL_MAX, "that an answer over DNS may be kept";
        number tidings::door::dns::HEARD_MAX, "names remembered of services and members that are gone";
        number tidings::door::dns::PREFIXES_MAX, "networks told apart for the rate of answers over DNS";
        number tidings::door::dns::TCP_CONNECTIONS_MAX, "DNS connections at once";
        number tidings::door::dns::TCP_CONNECTIONS_PER_PREFIX_MAX, "of these, from one network off this machine";
        time tidings::door::dns::TCP_IDLE_MAX, "that a DNS connection without a question is kept";
        time tidings::door::dns::TCP_WRITE_MAX, "for a client over DNS and TCP to read answers";
        time tidings::door::dns::DNS_CLOSE_MAX, "for DNS to close when the agent ends";
        number tidings::door::auth::TOKENS_MAX, "tokens of the HTTP interface";
        number tidings::door::auth::TOKEN_FILE_BYTES_MAX, "bytes of their file";
        number tidings::door::auth::TOKEN_BYTES_MAX, "bytes of one of them";
    };
    // Taken apart, so that a new one cannot be forgotten here.
    let StreamLimits {
        outbound_connections_max,
        inbound_connections_max,
        inbound_idle_min,
        streams_per_connection_max,
        asks_open_max,
        requests_open_max,
        request_bytes_max,
        answer_bytes_max,
        ask_timeout,
        request_timeout,
        handshake_timeout,
        idle_timeout,
        silence_max,
    } = StreamLimits::default();
    all.extend(limits! {
        number outbound_connections_max, "connections for streams that we opened";
        number inbound_connections_max, "connections for streams that others opened";
        time inbound_idle_min, "time that such a one is idle before another can take its place";
        number streams_per_connection_max, "streams of a connection at once";
        number asks_open_max, "questions of ours on streams at once";
        number requests_open_max, "questions of others on streams at once";
        number request_bytes_max, "bytes of a question";
        number answer_bytes_max, "bytes of an answer";
        time ask_timeout, "time of a question of ours, in all";
        time request_timeout, "time of a question of another, in all";
        time handshake_timeout, "time of a handshake";
        time idle_timeout, "time that a connection without packets is kept";
        time silence_max, "time without a sign of life on a connection that is used again";
    });
    all
}

/// Every limit as a line: name, value, what it limits.
pub(super) fn show() -> String {
    let all = all();
    let width = |of: fn(&Limit) -> usize| all.iter().map(of).max().unwrap_or(0);
    let (names, values) = (width(|limit| limit.name.len()), width(|limit| limit.value.len()));
    let mut text = String::new();
    for Limit { name, value, what } in &all {
        writeln!(text, "{name:names$}  {value:>values$}  {what}").expect("writing to a string does not fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn sources(dir: &Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("the sources are there") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                sources(&path, texts);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                texts.push(std::fs::read_to_string(&path).expect("readable"));
            }
        }
    }

    #[test]
    fn every_public_limit_of_the_library_is_shown() {
        let shown: BTreeSet<_> = all().iter().map(|limit| limit.name).collect();
        let mut texts = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut texts);
        let constants = texts.iter().flat_map(|text| text.lines()).filter_map(|line| {
            let (name, _) = line.trim().strip_prefix("pub const ")?.split_once(':')?;
            ["_MAX", "_PER_SECOND", "_AT_ONCE"].iter().any(|end| name.ends_with(end)).then_some(name)
        });
        // The format of a number, not a limit on anything that grows.
        let missing: Vec<_> = constants.filter(|name| !shown.contains(name) && *name != "EPOCH_MAX").collect();
        assert_eq!(missing, [""; 0]);
    }

    #[test]
    fn every_limit_that_the_readme_names_is_shown_with_its_value() {
        let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("there");
        let all = all();
        let mut found = 0;
        for line in readme.lines().filter(|line| line.starts_with('|')) {
            for name in line.split('`').filter(|word| word.contains('_') && *word == word.to_uppercase()) {
                if let Some(limit) = all.iter().find(|limit| limit.name == name) {
                    found += 1;
                    assert!(line.contains(&limit.value), "{name} is {}: {line}", limit.value);
                }
            }
        }
        assert!(found > 10, "{found}: the table has moved");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            (number(7_u32), number(1_024_u32), number(1_000_000_u32)),
            ("7".into(), "1,024".into(), "1,000,000".into())
        );
    }
}
