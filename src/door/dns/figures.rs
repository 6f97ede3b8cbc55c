//! What DNS counts. Knows nothing of how it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Declares the counters, and their snapshot, from one list: name and what it counts.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $told:literal,)+) => {
        /// Counters, as they are counted.
        #[derive(Default, Debug)]
        pub(super) struct Figures {
            $(pub(super) $name: Figure,)+
        }

        /// What DNS counted since it was opened.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        #[non_exhaustive]
        pub struct DnsStats {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Figures {
            fn read(&self) -> DnsStats {
                DnsStats { $($name: self.$name.read(),)+ }
            }
        }

        impl DnsStats {
            /// Every figure and its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$(($told, self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Questions over UDP.
    udp => "dns_queries_udp",
    /// Questions over TCP.
    tcp => "dns_queries_tcp",
    /// Questions for A records.
    a => "dns_queries_a",
    /// Questions for AAAA records.
    aaaa => "dns_queries_aaaa",
    /// Questions for SRV records.
    srv => "dns_queries_srv",
    /// Questions for TXT records.
    txt => "dns_queries_txt",
    /// Questions for PTR records.
    ptr => "dns_queries_ptr",
    /// Questions for SOA records.
    soa => "dns_queries_soa",
    /// Questions for NS records.
    ns => "dns_queries_ns",
    /// Questions for whatever there is.
    any => "dns_queries_any",
    /// Questions for other types.
    other => "dns_queries_other",
    /// Answers with records.
    answered => "dns_answers_found",
    /// Answers that the name exists without such records.
    nodata => "dns_answers_nodata",
    /// Answers that there is no such name.
    nxdomain => "dns_answers_nxdomain",
    /// Answers that this is not ours to answer.
    refused => "dns_answers_refused",
    /// Answers that nothing can be said, because the member has not joined yet or has stopped.
    servfail => "dns_answers_servfail",
    /// Answers to what could not be read.
    formerr => "dns_answers_formerr",
    /// Answers to what is no query.
    notimp => "dns_answers_notimp",
    /// Answers to a version of EDNS that does not exist.
    badvers => "dns_answers_badvers",
    /// Answers that had no room for every record that belongs in them, and said so.
    truncated => "dns_truncated",
    /// Answers of more than `ANSWERS_MAX` records, of which some were left out.
    capped => "dns_capped",
    /// Answers with the last known good instances, because no healthy one is left.
    stale => "dns_answers_stale",
    /// Answers given while the member was cut off from all others.
    isolated => "dns_answers_isolated",
    /// Questions over UDP that came too fast from one network, and were told to ask over TCP.
    slipped => "dns_rate_limited_truncated",
    /// Questions over UDP that came too fast from one network, and got no answer.
    limited => "dns_rate_limited_dropped",
    /// What was no question at all, and got no answer: answers, and less than a header.
    dropped => "dns_malformed_dropped",
    /// Answers that could not be sent.
    sends_failed => "dns_sends_failed",
    /// Times that receiving failed.
    receives_failed => "dns_receives_failed",
    /// Connections.
    connections => "dns_tcp_connections",
    /// Connections that are open now.
    connections_open => "dns_tcp_connections_open",
    /// Connections closed at once, because too many were open.
    connections_full => "dns_tcp_connections_refused",
    /// Connections closed at once, because too many of one network were open.
    connections_crowded => "dns_tcp_connections_refused_network",
    /// Connections closed because no question came in time, or its answer was not taken in time.
    connections_idle => "dns_tcp_connections_idle",
    /// Connections that ended in the midst of something, or with what was no question.
    connections_broken => "dns_tcp_connections_broken",
    /// Times that a connection could not be taken.
    accepts_failed => "dns_tcp_accepts_failed",
    /// Names of services and members that are remembered now.
    heard => "dns_names_heard",
    /// Times that names were forgotten, because there were too many.
    forgotten => "dns_names_forgotten",
}

/// A counter.
#[derive(Default, Debug)]
pub(super) struct Figure(AtomicU64);

impl Figure {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts down again what is open no more.
    pub(super) fn uncount(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads what DNS counts; clones read the same.
#[derive(Clone, Default, Debug)]
pub struct DnsCounts(pub(super) Arc<Figures>);

impl DnsCounts {
    /// What was counted so far.
    pub fn read(&self) -> DnsStats {
        self.0.read()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own_and_is_read_as_it_was_counted() {
        let counts = DnsCounts::default();
        counts.0.srv.count();
        counts.0.connections_open.count();
        counts.0.connections_open.uncount();
        let stats = counts.read();
        assert_eq!((stats.srv, stats.connections_open, stats.a), (1, 0, 0));
        let names: BTreeSet<_> = stats.each().map(|(name, _)| name).collect();
        assert_eq!(names.len(), stats.each().count());
        assert!(names.iter().all(|name| name.starts_with("dns_")));
        assert_eq!(stats.each().filter(|(_, value)| *value == 1).collect::<Vec<_>>(), [("dns_queries_srv", 1)]);
    }
}
