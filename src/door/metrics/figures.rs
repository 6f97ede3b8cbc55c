//! Under which name, with which label and in which unit each figure of `stats` is shown: a table. A figure is counted
//! where it happens, and nowhere again.

use std::collections::BTreeMap;

use super::text::{Family, Kind, Page};

/// A family, and the figures that it shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) family: Family,
    of: Of,
    /// What a figure is multiplied with.
    scale: f64,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    /// One figure, without a label.
    One(&'static str),
    /// Several, which one label tells apart: figures and what the label says.
    By(&'static str, &'static [(&'static str, &'static str)]),
}

impl Shown {
    const fn new(kind: Kind, name: &'static str, of: Of, help: &'static str) -> Self {
        Self { family: Family { name, kind, help }, of, scale: 1.0 }
    }

    const fn times(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// The figures that it shows.
    #[cfg(test)]
    pub(super) fn figures(&self) -> Vec<&'static str> {
        match self.of {
            Of::One(figure) => vec![figure],
            Of::By(_, parts) => parts.iter().map(|(figure, _)| *figure).collect(),
        }
    }
}

const fn counter(name: &'static str, figure: &'static str, help: &'static str) -> Shown {
    Shown::new(Kind::Counter, name, Of::One(figure), help)
}

const fn gauge(name: &'static str, figure: &'static str, help: &'static str) -> Shown {
    Shown::new(Kind::Gauge, name, Of::One(figure), help)
}

type Parts = &'static [(&'static str, &'static str)];

const fn counters(name: &'static str, label: &'static str, parts: Parts, help: &'static str) -> Shown {
    Shown::new(Kind::Counter, name, Of::By(label, parts), help)
}

const fn gauges(name: &'static str, label: &'static str, parts: Parts, help: &'static str) -> Shown {
    Shown::new(Kind::Gauge, name, Of::By(label, parts), help)
}

/// Figures that `/metrics` shows in another way: as `tidings_http_requests_total`, by route and code.
#[cfg(test)]
const SHOWN_OTHERWISE: [&str; 7] = [
    "http_requests",
    "http_client_errors",
    "http_server_errors",
    "http_unauthorized",
    "http_forbidden",
    "http_bodies_refused",
    "http_unsupported",
];

/// Everything that is shown of them, in the order of the page.
pub(super) const SHOWN: &[Shown] = &[
    // How well this member is, and what it thinks of the cluster.
    gauge("tidings_isolated", "is_cut_off", "1 while no other member answers this one."),
    gauge(
        "tidings_partition_suspected",
        "is_partition_suspected",
        "1 while so many are lost that a split is likelier.",
    ),
    gauge("tidings_draining", "is_draining", "1 once this member drains."),
    gauge("tidings_health_score", "health_score", "Local health score: 0 is well, 8 the worst."),
    gauge(
        "tidings_probes_answered_ratio",
        "probes_answered_permille",
        "Part of this member's probes answered of late.",
    )
    .times(1e-3),
    gauge("tidings_link_rtt_median_seconds", "rtt_us_p50", "Median of the smoothed round-trip times to others.")
        .times(1e-6),
    gauge("tidings_link_rtt_p99_seconds", "rtt_us_p99", "99th percentile of the smoothed round-trip times to others.")
        .times(1e-6),
    gauges(
        "tidings_promised_detection_seconds",
        "share",
        &[("promised_detect_ms_p50", "0.5"), ("promised_detect_ms_p99", "0.99"), ("promised_detect_ms_worst", "1")],
        "Within which time the settings promise that this share of crashes is known to everybody.",
    )
    .times(1e-3),
    gauge(
        "tidings_promised_idle_packet_rate",
        "promised_idle_packets_per_min",
        "Datagrams a second that the settings promise a member sends while nothing happens.",
    )
    .times(1.0 / 60.0),
    gauge(
        "tidings_promised_idle_byte_rate",
        "promised_idle_bytes_per_s",
        "Bytes a second that the settings promise a member sends while nothing happens.",
    ),
    // What is known.
    gauge("tidings_view_members", "view_members", "Members known, those that are down included."),
    gauge("tidings_view_services", "view_services", "Services with at least one known instance."),
    gauge("tidings_view_instances", "view_instances", "Known instances, healthy or not."),
    gauge(
        "tidings_view_services_guarded",
        "view_services_guarded",
        "Services of which most instances were lost at once, so that the last known good ones are kept.",
    ),
    counter("tidings_mass_drops", "view_mass_drops", "Times that most instances of a service were lost at once."),
    gauge("tidings_saved_view_left_out", "saved_view_left_out", "Instances that the saved view had no room for."),
    // Probes and verdicts.
    counter("tidings_probes_sent", "probes_sent", "Probes sent: observing, witnessing and trying."),
    counter("tidings_probes_answered", "probes_answered", "Probes that were answered."),
    counter("tidings_probes_failed", "probes_failed", "Members that did not answer a probe, nor its quick repeats."),
    counter("tidings_accusations", "accusations", "Members about whom this one asked others."),
    counters(
        "tidings_accusations_dismissed",
        "why",
        &[("accusations_cleared", "cleared"), ("accusations_undecided", "undecided")],
        "Accusations of ours that came to nothing: others reach the member, or too few of them answered.",
    ),
    counter(
        "tidings_accusations_renewed",
        "accusations_renewed",
        "Accusations of ours begun anew because some probes were answered: silence that ended, or loss.",
    ),
    counter("tidings_accusations_withheld", "accusations_withheld", "Accusations not begun because of self-doubt."),
    counter("tidings_convictions", "convictions", "Accusations of ours in which a quorum found the same."),
    counter("tidings_releases", "releases", "Members that this one found to answer as others do again."),
    counter("tidings_accused", "accused", "Times that others accused this member: it lives, so each was wrong."),
    counter("tidings_refutations", "refutations", "Accusations of this member that it refuted."),
    counter("tidings_asks_received", "asks_received", "Questions about a member that others asked this one."),
    counter("tidings_reports_received", "reports_received", "Answers to this member's questions about a member."),
    counter("tidings_verdicts_published", "verdicts_published", "Verdicts that this member published."),
    counter("tidings_verdicts_received", "verdicts_received", "Verdicts received, new ones and known ones."),
    counter("tidings_verdicts_sent", "verdicts_sent", "Verdicts sent: one per verdict and datagram."),
    counter("tidings_verdicts_disputed", "verdicts_disputed", "Verdicts not believed: too few witnesses."),
    counters(
        "tidings_member_changes",
        "to",
        &[
            ("members_unreachable", "unreachable"),
            ("members_back", "reachable"),
            ("members_down", "down"),
            ("members_left", "left"),
        ],
        "Changes of other members' states that this one saw.",
    ),
    counter("tidings_cut_offs", "cut_off", "Times that nobody answered this member."),
    counter(
        "tidings_core_stalls",
        "stalls",
        "Times that this member stood still so long that its probes did not count.",
    ),
    counter("tidings_renewals", "renewals", "Times this member was called dead wrongly, and renewed itself."),
    counter("tidings_epochs_taken", "epochs_taken", "Times others knew a later start of this member's id."),
    counter("tidings_readdresses", "readdresses", "Times this member's address changed."),
    counter("tidings_membership_updates_dropped", "updates_dropped", "Membership updates about a life that is over."),
    counter("tidings_bugs", "bugs", "Errors of the membership protocol's integration: each is a bug."),
    // News.
    counter("tidings_own_changes", "own_changes", "Records of this member that changed."),
    counter("tidings_rumors_received", "rumors_received", "Records received as rumors, new ones and known ones."),
    counter("tidings_rumors_new", "rumors_new", "Rumors received that were new here."),
    counter("tidings_rumors_sent", "rumors_sent", "Records sent as rumors: one per record and datagram."),
    counter("tidings_records_waited", "limbo", "Records that came before their owner was known."),
    counters(
        "tidings_records_dropped",
        "why",
        &[("old_epochs", "old_epoch"), ("buried", "buried")],
        "Records dropped: of an earlier start of their owner, or of one that left.",
    ),
    counter("tidings_bodies_fetched", "bodies_fetched", "Large records fetched over a stream."),
    counter("tidings_bodies_failed", "bodies_failed", "Large records that could not be fetched; a sync brings them."),
    counters(
        "tidings_fingerprints_received",
        "result",
        &[("fingerprints_equal", "equal"), ("fingerprints_different", "different")],
        "Fingerprints of others' views: equal ones are views that agree with this one's.",
    ),
    counter("tidings_canaries_made", "canaries_made", "Canaries that this member made."),
    counter("tidings_syncs", "syncs", "Syncs begun because a difference or a gap lasted."),
    counter("tidings_syncs_failed", "syncs_failed", "Syncs that failed; they are tried again."),
    counter("tidings_synced_records", "synced_records", "Records that a sync brought."),
    counter("tidings_sync_asked_bytes", "stream_bytes_asked", "Bytes of questions asked over streams."),
    counter("tidings_sync_answered_bytes", "stream_bytes_answered", "Bytes of answers given over streams."),
    counter("tidings_sync_malformed", "stream_malformed", "Questions over streams that could not be read."),
    counter("tidings_notices_sent", "notices_sent", "Notices of a drain sent, to be confirmed."),
    counter("tidings_notices_repeated", "notices_repeated", "Notices sent again because no receipt came."),
    counter("tidings_notices_received", "notices_received", "Notices of others, which are confirmed."),
    counter("tidings_notices_unconfirmed", "notices_unconfirmed", "Notices not confirmed yet: a record was missing."),
    counter("tidings_receipts_received", "receipts_received", "Receipts for this member's notices."),
    counter("tidings_receipts_unasked", "receipts_unasked", "Receipts that came twice, or too late."),
    // Finding each other.
    counter("tidings_hellos_sent", "hellos_sent", "Hellos sent."),
    counter("tidings_hellos_received", "hellos_received", "Hellos received."),
    counter("tidings_hellos_answered", "hellos_answered", "Answers to this member's hellos."),
    counter("tidings_hellos_unasked", "hellos_unasked", "Answers to a hello that was not sent, or too late."),
    counter("tidings_refusals_received", "refusals_received", "Refusals received."),
    counter("tidings_refusals_sent", "refusals_sent", "Refusals sent."),
    // Datagrams.
    counter("tidings_datagrams_received", "datagrams_received", "Datagrams of gossip that were taken in."),
    counter("tidings_datagrams_sent", "datagrams_sent", "Datagrams of gossip that were given out."),
    counter("tidings_received_bytes", "bytes_received", "Bytes of datagrams of gossip that were taken in."),
    counter("tidings_sent_bytes", "bytes_sent", "Bytes of datagrams of gossip that were given out."),
    counters(
        "tidings_datagrams_dropped",
        "why",
        &[
            ("malformed", "malformed"),
            ("other_cluster", "other_cluster"),
            ("other_version", "other_version"),
            ("strangers", "stranger"),
            ("misaddressed", "misaddressed"),
            ("echoes", "echo"),
        ],
        "Datagrams of gossip that were not accepted.",
    ),
    counter("tidings_unknown_sections", "unknown_sections", "Sections of a newer wire version; skipped."),
    counters(
        "tidings_socket_received_datagrams",
        "kind",
        &[("socket_gossip_received_datagrams", "gossip"), ("socket_quic_received_datagrams", "quic")],
        "Datagrams that the port received.",
    ),
    counters(
        "tidings_socket_received_bytes",
        "kind",
        &[("socket_gossip_received_bytes", "gossip"), ("socket_quic_received_bytes", "quic")],
        "Bytes that the port received.",
    ),
    counters(
        "tidings_socket_sent_datagrams",
        "kind",
        &[("socket_gossip_sent_datagrams", "gossip"), ("socket_quic_sent_datagrams", "quic")],
        "Datagrams that the port sent.",
    ),
    counters(
        "tidings_socket_sent_bytes",
        "kind",
        &[("socket_gossip_sent_bytes", "gossip"), ("socket_quic_sent_bytes", "quic")],
        "Bytes that the port sent.",
    ),
    counters(
        "tidings_socket_dropped_datagrams",
        "why",
        &[
            ("socket_drops_gossip_send_full", "gossip_send_full"),
            ("socket_drops_gossip_send_refused", "gossip_send_refused"),
            ("socket_drops_gossip_send_invalid", "gossip_send_invalid"),
            ("socket_drops_quic_send", "quic_send"),
            ("socket_drops_quic_queue_full", "quic_queue_full"),
            ("socket_drops_quic_too_large", "quic_too_large"),
            ("socket_drops_quic_unserved", "quic_unserved"),
            ("socket_drops_empty", "empty"),
        ],
        "Datagrams that the port could not send, or did not hand on.",
    ),
    counter("tidings_socket_echoed_errors", "socket_echoed_errors", "Errors of earlier sends that a receive reported."),
    // The seal.
    counter("tidings_seal_sealed", "seal_sealed", "Datagrams sealed."),
    counter("tidings_seal_opened", "seal_opened", "Datagrams opened."),
    counter("tidings_seal_opened_other_key", "seal_opened_other_key", "Datagrams opened with a key not used to seal."),
    counter("tidings_seal_sent_clear", "seal_sent_clear", "Datagrams sent in clear though there is a key."),
    counter("tidings_seal_opened_clear", "seal_opened_clear", "Datagrams accepted in clear though there is a key."),
    counter("tidings_seal_not_sealed", "seal_not_sealed", "Datagrams not sent, to repeat no nonce: each is a bug."),
    counters(
        "tidings_seal_refused",
        "why",
        &[
            ("seal_refused_clear", "clear"),
            ("seal_refused_unknown_key", "unknown_key"),
            ("seal_refused_forged", "forged"),
            ("seal_refused_repeats", "repeat"),
            ("seal_refused_malformed", "malformed"),
        ],
        "Datagrams that the seal refused.",
    ),
    counter("tidings_seal_refusals_sent", "seal_refusals_sent", "Refusals for a wrong key sent."),
    gauge("tidings_seal_sessions", "seal_sessions", "Senders whose keys and windows are remembered."),
    gauge("tidings_seal_other_starts", "seal_other_starts", "Other starts whose newest counter is remembered."),
    counter("tidings_seal_sessions_evicted", "seal_sessions_evicted", "Senders forgotten to make room."),
    // Streams.
    gauges(
        "tidings_stream_connections",
        "direction",
        &[("streams_outbound_connections", "out"), ("streams_inbound_connections", "in")],
        "Connections for streams that are open or being opened.",
    ),
    counter("tidings_stream_asks", "streams_asks", "Questions asked over streams."),
    counter("tidings_stream_asks_failed", "streams_asks_failed", "Questions over streams that brought no answer."),
    counter("tidings_stream_asks_repeated", "streams_asks_repeated", "Questions asked again: the connection was dead."),
    counter("tidings_stream_requests", "streams_requests", "Questions of others over streams that were taken in."),
    counter("tidings_stream_handshakes", "streams_handshakes", "Handshakes begun."),
    counters(
        "tidings_stream_handshakes_failed",
        "direction",
        &[("streams_handshakes_failed", "out"), ("streams_inbound_failed", "in")],
        "Handshakes that failed.",
    ),
    counter("tidings_stream_connections_evicted", "streams_evicted", "Connections closed to make room for others."),
    // The loop that drives the core, and its recording.
    counter("tidings_driver_turns", "driver_turns", "Turns of the member's loop."),
    counter(
        "tidings_driver_stalls",
        "driver_stalls",
        "Wakes that came more than 250 ms late: the process stood still.",
    ),
    gauge("tidings_driver_stall_longest_seconds", "driver_stall_longest_ms", "By how much the latest wake was late.")
        .times(1e-3),
    counter("tidings_driver_sends_failed", "driver_sends_failed", "Datagrams that can never be sent to their address."),
    counter("tidings_recording_inputs", "recording_inputs", "Inputs that were recorded."),
    counter("tidings_recording_bytes", "recording_bytes", "Bytes that were recorded."),
    gauge("tidings_recording_ended_early", "recording_ended_early", "1 if the recording ended before the member."),
    // Work that passes the gate.
    gauge("tidings_work_calls", "work_calls", "Calls inside the gate."),
    gauge("tidings_work_tasks", "work_tasks", "Jobs inside the gate."),
    counter("tidings_work_refused", "work_refused", "Calls and jobs that were not let in while draining."),
    // What is offered here, and its checks.
    gauge("tidings_offers_instances", "offers_instances", "Instances that this agent offers for others."),
    gauge("tidings_offers_checks", "offers_checks", "Health checks."),
    gauge("tidings_offers_checks_critical", "offers_checks_critical", "Health checks that are critical."),
    counter("tidings_offers_results", "offers_results", "Results of health checks."),
    counter(
        "tidings_offers_results_critical",
        "offers_results_critical",
        "Results of health checks that are critical.",
    ),
    counter("tidings_offers_not_run", "offers_not_run", "Runs of health checks for which there was no room."),
    counter(
        "tidings_offers_level_changes",
        "offers_level_changes",
        "Times that a health check came to stand otherwise.",
    ),
    counter("tidings_offers_held_down", "offers_held_down", "Times that a health check passed and was held down."),
    counter("tidings_offers_ttl_expired", "offers_ttl_expired", "TTL checks that were not told in time."),
    counter(
        "tidings_offers_deregistered_critical",
        "offers_deregistered_critical",
        "Instances withdrawn because a health check was critical for too long.",
    ),
    counter("tidings_offers_publish_retries", "offers_publish_retries", "Changes that could not be told at once."),
    counter("tidings_offers_saves", "offers_saves", "Times that what is offered was written down."),
    counter("tidings_offers_saves_failed", "offers_saves_failed", "Times that this failed."),
    // The HTTP interface.
    gauge("tidings_http_polls_open", "http_polls_open", "Requests that wait for a change."),
    gauge("tidings_http_streams_open", "http_streams_open", "Streams of events that are open."),
    gauge("tidings_http_connections_open", "http_connections_open", "HTTP connections that are open."),
    counter("tidings_http_connections", "http_connections", "HTTP connections that came."),
    counter("tidings_http_connections_broken", "http_connections_broken", "HTTP connections that broke."),
    counter(
        "tidings_http_connections_slow",
        "http_connections_slow",
        "HTTP connections that broke because their client read too slowly.",
    ),
    counter("tidings_http_accepts_failed", "http_accepts_failed", "HTTP connections that could not be taken."),
    counter("tidings_http_handshakes_failed", "http_handshakes_failed", "TLS handshakes of HTTP that failed."),
    counters(
        "tidings_http_certificate_readings",
        "result",
        &[("http_certificates_taken", "taken"), ("http_certificates_refused", "refused")],
        "Times that a SIGHUP found another certificate for HTTPS, or files that cannot be used.",
    ),
    // Queues and limits.
    gauges(
        "tidings_queue_length",
        "queue",
        &[
            ("queue_rumors", "rumors"),
            ("queue_repeats", "repeats"),
            ("queue_verdicts", "verdicts"),
            ("queue_contacts", "contacts"),
            ("queue_limbo", "limbo"),
            ("queue_goodbyes", "goodbyes"),
            ("queue_graves", "graves"),
            ("queue_members", "members"),
            ("queue_conversations", "conversations"),
            ("queue_awaited", "awaited"),
            ("queue_cases", "cases"),
            ("queue_helps", "helps"),
            ("queue_timers", "timers"),
            ("queue_updates", "updates"),
        ],
        "What waits or is remembered in the core; tidings_queue_limit has the limits.",
    ),
    // DNS; nothing where it is not open.
    counters(
        "tidings_dns_queries",
        "type",
        &[
            ("dns_queries_a", "A"),
            ("dns_queries_aaaa", "AAAA"),
            ("dns_queries_srv", "SRV"),
            ("dns_queries_txt", "TXT"),
            ("dns_queries_ptr", "PTR"),
            ("dns_queries_soa", "SOA"),
            ("dns_queries_ns", "NS"),
            ("dns_queries_any", "ANY"),
            ("dns_queries_other", "other"),
        ],
        "DNS questions by what records they ask for.",
    ),
    counters(
        "tidings_dns_transport_queries",
        "transport",
        &[("dns_queries_udp", "udp"), ("dns_queries_tcp", "tcp")],
        "DNS questions by how they came.",
    ),
    counters(
        "tidings_dns_answers",
        "code",
        &[
            ("dns_answers_found", "found"),
            ("dns_answers_nodata", "nodata"),
            ("dns_answers_nxdomain", "nxdomain"),
            ("dns_answers_refused", "refused"),
            ("dns_answers_servfail", "servfail"),
            ("dns_answers_formerr", "formerr"),
            ("dns_answers_notimp", "notimp"),
            ("dns_answers_badvers", "badvers"),
        ],
        "DNS answers by what they say.",
    ),
    counters(
        "tidings_dns_answers_short",
        "why",
        &[("dns_truncated", "truncated"), ("dns_capped", "capped")],
        "DNS answers without some records: no room for them, or more than an answer may have.",
    ),
    counter(
        "tidings_dns_answers_stale",
        "dns_answers_stale",
        "DNS answers with the last known good instances, as no healthy one is left.",
    ),
    counter(
        "tidings_dns_answers_isolated",
        "dns_answers_isolated",
        "DNS answers given while this member was cut off from all others.",
    ),
    counters(
        "tidings_dns_rate_limited",
        "answer",
        &[("dns_rate_limited_truncated", "truncated"), ("dns_rate_limited_dropped", "none")],
        "DNS questions that came too fast from one network.",
    ),
    counter("tidings_dns_malformed", "dns_malformed_dropped", "DNS datagrams that were no question at all."),
    counters(
        "tidings_dns_failures",
        "of",
        &[("dns_sends_failed", "send"), ("dns_receives_failed", "receive"), ("dns_tcp_accepts_failed", "accept")],
        "Times that the system failed DNS.",
    ),
    counter("tidings_dns_connections", "dns_tcp_connections", "DNS connections that came."),
    gauge("tidings_dns_connections_open", "dns_tcp_connections_open", "DNS connections that are open."),
    counters(
        "tidings_dns_connections_cut",
        "why",
        &[("dns_tcp_connections_idle", "idle"), ("dns_tcp_connections_broken", "broken")],
        "DNS connections that were closed early.",
    ),
    gauge("tidings_dns_names_heard", "dns_names_heard", "Names of services and members that DNS remembers."),
    counters(
        "tidings_limits_hit",
        "limit",
        &[
            ("refusals_limited", "refusals"),
            ("warnings_limited", "warnings"),
            ("hellos_limited", "hellos"),
            ("contacts_limited", "contacts"),
            ("own_changes_limited", "own_changes"),
            ("rumors_limited", "rumors"),
            ("limbo_limited", "limbo"),
            ("records_limited", "records"),
            ("canaries_limited", "canaries"),
            ("changes_limited", "changes"),
            ("members_limited", "members"),
            ("goodbyes_limited", "goodbyes"),
            ("graves_limited", "graves"),
            ("bodies_limited", "bodies"),
            ("renewals_limited", "renewals"),
            ("disputes_limited", "disputes"),
            ("forgets_limited", "forgets"),
            ("accusations_limited", "accusations"),
            ("asks_limited", "asks"),
            ("seal_refusals_limited", "seal_refusals"),
            ("driver_requests_refused", "stream_asks"),
            ("driver_inbound_refused", "stream_questions"),
            ("streams_inbound_refused", "stream_connections"),
            ("streams_requests_refused", "stream_requests"),
            ("offers_limited", "offers"),
            ("http_connections_refused", "http_connections"),
            ("http_streams_refused", "http_streams"),
            ("dns_tcp_connections_refused", "dns_connections"),
            ("dns_tcp_connections_refused_network", "dns_connections_of_one_network"),
            ("dns_names_forgotten", "dns_names"),
        ],
        "Times that a limit was hit: what was above it was dropped, refused or put off.",
    ),
];

/// Writes all of them.
pub(super) fn write(page: &mut Page, figures: &BTreeMap<&'static str, u64>) {
    let value = |figure: &str, scale: f64| figures.get(figure).map(|value| *value as f64 * scale);
    for shown in SHOWN {
        page.family(shown.family);
        match shown.of {
            Of::One(figure) => {
                if let Some(value) = value(figure, shown.scale) {
                    page.series(&[], value);
                }
            }
            Of::By(label, parts) => {
                for (figure, says) in parts {
                    if let Some(value) = value(figure, shown.scale) {
                        page.series(&[(label, says)], value);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::door::desk::Desk;
    use crate::offers::OfferStats;
    use crate::registry::Stats;

    #[cfg(feature = "dns")]
    #[test]
    fn every_figure_is_shown_once_and_nothing_else_is() {
        let (stats, offers) = (Stats::default(), OfferStats::default());
        let all = stats.each().chain(offers.each()).map(|(name, _)| name).chain(Desk::FIGURES);
        let all = all.chain(crate::door::dns::DnsStats::default().each().map(|(name, _)| name));
        let all: BTreeSet<_> = all.filter(|name| !SHOWN_OTHERWISE.contains(name)).collect();
        let shown: Vec<_> = SHOWN.iter().flat_map(Shown::figures).collect();
        let once: BTreeSet<_> = shown.iter().copied().collect();
        assert_eq!(once.len(), shown.len(), "a figure is shown twice");
        let missing: Vec<_> = all.difference(&once).collect();
        let unknown: Vec<_> = once.difference(&all).collect();
        assert!(missing.is_empty() && unknown.is_empty(), "not shown: {missing:?}; not counted: {unknown:?}");
    }

    /// The rules of Prometheus for names, as `promtool check metrics` has them.
    #[test]
    fn names_are_as_prometheus_wants_them() {
        let units = ["s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"];
        let mut names = BTreeSet::new();
        for Shown { family, .. } in SHOWN {
            let Family { name, help, .. } = *family;
            assert!(names.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            assert!(!name.split('_').any(|part| units.contains(&part)), "{name}: a unit is spelled out");
            assert!(["_total", "_count", "_sum", "_bucket", "_info"].iter().all(|end| !name.ends_with(end)), "{name}");
            assert!(help.ends_with('.') && help.len() > 10, "{name}: {help}");
        }
    }
}
