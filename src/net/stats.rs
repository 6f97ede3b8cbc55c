//! The figures of a member: of its node, socket, streams, driver and view, in one list.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::driver::NODE_LOG;
use super::gate::Gate;
use super::quic::StreamStats;
use super::recorder::RecordStats;
use super::seal::SealStats;
use super::socket::{SocketStats, Traffic};
use crate::counters::Counters;
use crate::detector::Rtt;
use crate::histogram::Histogram;
use crate::node::{Node, QueueLengths};
use crate::peer::{Member, NodeId};
use crate::story::Seen;
use crate::verdict::{Finding, Standing};
use crate::view::Sizes;

/// A wake this much later than it was due is a stall of our own: counted and logged.
pub const STALL: Duration = Duration::from_millis(250);

/// What a driver has counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct DriverStats {
    /// Turns of its loop.
    pub turns: u64,
    /// Wakes that came more than [`STALL`] late: this process, or its machine, stood still.
    pub stalls: u64,
    /// The longest of these, in milliseconds late.
    pub stall_longest_ms: u64,
    /// Datagrams that can never be sent to their address.
    pub sends_failed: u64,
    /// Our questions over streams that were refused, because too many were open.
    pub requests_refused: u64,
    /// Questions of others that were refused, because too many were open.
    pub inbound_refused: u64,
    /// Instances that the saved view had no room for when it was last written, see
    /// [`VIEW_BYTES_MAX`](super::kept_view::VIEW_BYTES_MAX).
    pub saved_view_left_out: u64,
}

impl DriverStats {
    /// Notes how late a wake came.
    pub(crate) fn note_wake(&mut self, late: Duration) {
        if late <= STALL {
            return;
        }
        let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
        self.stalls += 1;
        self.stall_longest_ms = self.stall_longest_ms.max(late_ms);
        tracing::warn!(target: NODE_LOG, late_ms, "this process stood still: a wake came late");
    }
}

/// How well this member thinks it is, and what it thinks of its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Health {
    /// The local health score: 0 is well, 8 the worst (Lifeguard, section IV.A).
    pub score: u64,
    /// The share of this member's probes that is answered of late, in thousandths.
    pub answered_permille: u64,
    /// 1 while nobody answers this member.
    pub cut_off: u64,
    /// 1 while a split is suspected.
    pub partition_suspected: u64,
    /// The median of the smoothed round-trip times to the members that were probed, in microseconds; 0 if none was.
    pub rtt_us_p50: u64,
    /// Their 99th percentile.
    pub rtt_us_p99: u64,
    /// What the settings promise, with the members and links as they are now: half of all crashes are known to
    /// everybody after this time, in milliseconds.
    pub promised_detect_ms_p50: u64,
    /// 99 of 100 are.
    pub promised_detect_ms_p99: u64,
    /// All are, but for what loss costs.
    pub promised_detect_ms_worst: u64,
    /// Datagrams that a member sends in a minute while nothing happens.
    pub promised_idle_packets_per_min: u64,
    /// Their bytes, in a second.
    pub promised_idle_bytes_per_s: u64,
}

impl Health {
    pub(crate) fn of(node: &Node) -> Self {
        let mut rtts: Vec<u64> = node.rtts().map(|(_, rtt)| rtt.smoothed.as_micros() as u64).collect();
        rtts.sort_unstable();
        let at = |share: f64| {
            let index = (rtts.len() as f64 * share).ceil() as usize;
            rtts.get(index.saturating_sub(1)).copied().unwrap_or_default()
        };
        let promise = node.promise();
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self {
            score: node.health().into(),
            answered_permille: (node.answer_ratio() * 1_000.0).round() as u64,
            cut_off: node.is_cut_off().into(),
            partition_suspected: node.partition_since().is_some().into(),
            rtt_us_p50: at(0.5),
            rtt_us_p99: at(0.99),
            promised_detect_ms_p50: ms(promise.detect_p50),
            promised_detect_ms_p99: ms(promise.detect_p99),
            promised_detect_ms_worst: ms(promise.detect_worst),
            promised_idle_packets_per_min: (promise.packets_per_s * 60.0).round() as u64,
            promised_idle_bytes_per_s: promise.bytes_per_s.round() as u64,
        }
    }
}

/// What passed the gate of this member, see [`Registry::gate`](crate::registry::Registry::gate).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct WorkStats {
    /// 1 once the member drains.
    pub draining: u64,
    /// Calls inside.
    pub calls: u64,
    /// Jobs inside.
    pub tasks: u64,
    /// What was not let in.
    pub refused: u64,
}

impl WorkStats {
    pub(crate) fn of(gate: &Gate) -> Self {
        Self { draining: gate.is_closed().into(), calls: gate.calls(), tasks: gate.tasks(), refused: gate.refused() }
    }
}

/// How it came that a member is believed to be in its state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Explanation {
    /// The member, as the view shows it.
    pub member: Arc<Member>,
    /// The verdict that stands.
    pub standing: Standing,
    /// The round-trip time to it, if it was probed from here.
    pub rtt: Option<Rtt>,
    /// What was seen and heard of it, in order; the last lines only.
    pub story: Vec<Told>,
    /// The names of whom it is about and of who told it, as far as they are known here.
    pub(crate) names: BTreeMap<NodeId, Arc<str>>,
}

impl Explanation {
    /// The name of who gave the verdict, or told something; the id where no name is known.
    pub fn name(&self, id: NodeId) -> String {
        self.names.get(&id).map_or_else(|| id.to_string(), ToString::to_string)
    }

    /// A line of the story in words, with names.
    pub fn words(&self, told: &Told) -> String {
        told.seen.told(|id| self.name(id))
    }

    /// Who told us, when they were asked last, that they found what the verdict says. Only the accuser hears them: of
    /// another's verdict, this is empty.
    pub fn witnesses(&self) -> Vec<NodeId> {
        let finding = self.standing.finding;
        if !finding.accuses() {
            return Vec::new();
        }
        let is_asked = |told: &Told| matches!(told.seen, Seen::Asked { .. } | Seen::Renewed);
        let asked = self.story.iter().rposition(is_asked).unwrap_or_default();
        let mut found = BTreeMap::new();
        for told in &self.story[asked..] {
            if let Seen::Testified { by, sent, answered, .. } = told.seen {
                // The last word of each counts.
                found.insert(by, answered == 0 || (finding == Finding::Lossy && answered < sent));
            }
        }
        found.into_iter().filter_map(|(by, agrees)| agrees.then_some(by)).collect()
    }
}

/// A line of a story.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// How long ago.
    pub ago: Duration,
    /// What.
    pub seen: Seen,
}

/// What a member has counted since its start, and what it holds now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Of the node.
    pub node: Counters,
    /// Of the socket.
    pub socket: SocketStats,
    /// Of the streams.
    pub streams: StreamStats,
    /// Of the driver.
    pub driver: DriverStats,
    /// How well the member is.
    pub health: Health,
    /// Of the seal.
    pub seal: SealStats,
    /// Of the recording; nothing without one.
    pub recording: RecordStats,
    /// Of the view.
    pub view: Sizes,
    /// Of the work in progress.
    pub work: WorkStats,
    /// What waits or is remembered in the node.
    pub queues: QueueLengths,
    /// How long every probe took that was answered; no figure of the list.
    pub rtts: Histogram,
    /// How long others' canaries took to here; no figure of the list.
    pub propagation: Histogram,
}

impl Stats {
    /// Every figure and its name: the node's as they are called there, the others after what they are of.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.node
            .each()
            .chain(self.of_socket())
            .chain(self.of_streams())
            .chain(self.of_driver_and_view())
            .chain(self.of_recording())
            .chain(self.of_work())
            .chain(self.of_queues())
            .chain(self.seal.each())
    }

    fn of_socket(&self) -> [(&'static str, u64); 17] {
        let SocketStats { gossip_sent, gossip_received, quic_sent, quic_received, drops } = self.socket;
        let (datagrams, bytes) = (|traffic: Traffic| traffic.datagrams, |traffic: Traffic| traffic.bytes);
        [
            ("socket_gossip_sent_datagrams", datagrams(gossip_sent)),
            ("socket_gossip_sent_bytes", bytes(gossip_sent)),
            ("socket_gossip_received_datagrams", datagrams(gossip_received)),
            ("socket_gossip_received_bytes", bytes(gossip_received)),
            ("socket_quic_sent_datagrams", datagrams(quic_sent)),
            ("socket_quic_sent_bytes", bytes(quic_sent)),
            ("socket_quic_received_datagrams", datagrams(quic_received)),
            ("socket_quic_received_bytes", bytes(quic_received)),
            ("socket_drops_gossip_send_full", drops.gossip_send_full),
            ("socket_drops_gossip_send_refused", drops.gossip_send_refused),
            ("socket_drops_gossip_send_invalid", drops.gossip_send_invalid),
            ("socket_drops_quic_send", drops.quic_send),
            ("socket_drops_quic_queue_full", drops.quic_queue_full),
            ("socket_drops_quic_too_large", drops.quic_too_large),
            ("socket_drops_quic_unserved", drops.quic_unserved),
            ("socket_drops_empty", drops.empty),
            ("socket_echoed_errors", drops.echoed_errors),
        ]
    }

    fn of_streams(&self) -> [(&'static str, u64); 12] {
        let streams = &self.streams;
        [
            ("streams_outbound_connections", streams.outbound_connections as u64),
            ("streams_inbound_connections", streams.inbound_connections as u64),
            ("streams_asks", streams.asks),
            ("streams_asks_failed", streams.asks_failed),
            ("streams_asks_repeated", streams.asks_repeated),
            ("streams_handshakes", streams.handshakes),
            ("streams_handshakes_failed", streams.handshakes_failed),
            ("streams_inbound_refused", streams.inbound_refused),
            ("streams_inbound_failed", streams.inbound_failed),
            ("streams_evicted", streams.evicted),
            ("streams_requests", streams.requests),
            ("streams_requests_refused", streams.requests_refused),
        ]
    }

    fn of_recording(&self) -> [(&'static str, u64); 3] {
        let RecordStats { inputs, bytes, ended_early } = self.recording;
        [("recording_inputs", inputs), ("recording_bytes", bytes), ("recording_ended_early", ended_early)]
    }

    fn of_work(&self) -> [(&'static str, u64); 4] {
        let WorkStats { draining, calls, tasks, refused } = self.work;
        [("is_draining", draining), ("work_calls", calls), ("work_tasks", tasks), ("work_refused", refused)]
    }

    fn of_queues(&self) -> [(&'static str, u64); 14] {
        // Taken apart, so that a new one cannot be forgotten here.
        let QueueLengths {
            rumors,
            repeats,
            contacts,
            limbo,
            goodbyes,
            graves,
            members,
            conversations,
            verdicts,
            awaited,
            cases,
            helps,
            timers,
            updates,
        } = self.queues;
        [
            ("queue_rumors", rumors as u64),
            ("queue_repeats", repeats as u64),
            ("queue_contacts", contacts as u64),
            ("queue_limbo", limbo as u64),
            ("queue_goodbyes", goodbyes as u64),
            ("queue_graves", graves as u64),
            ("queue_members", members as u64),
            ("queue_conversations", conversations as u64),
            ("queue_verdicts", verdicts as u64),
            ("queue_awaited", awaited as u64),
            ("queue_cases", cases as u64),
            ("queue_helps", helps as u64),
            ("queue_timers", timers as u64),
            ("queue_updates", updates as u64),
        ]
    }

    fn of_driver_and_view(&self) -> [(&'static str, u64); 23] {
        let (driver, view) = (&self.driver, &self.view);
        [
            ("health_score", self.health.score),
            ("probes_answered_permille", self.health.answered_permille),
            ("is_cut_off", self.health.cut_off),
            ("is_partition_suspected", self.health.partition_suspected),
            ("rtt_us_p50", self.health.rtt_us_p50),
            ("rtt_us_p99", self.health.rtt_us_p99),
            ("promised_detect_ms_p50", self.health.promised_detect_ms_p50),
            ("promised_detect_ms_p99", self.health.promised_detect_ms_p99),
            ("promised_detect_ms_worst", self.health.promised_detect_ms_worst),
            ("promised_idle_packets_per_min", self.health.promised_idle_packets_per_min),
            ("promised_idle_bytes_per_s", self.health.promised_idle_bytes_per_s),
            ("driver_turns", driver.turns),
            ("driver_stalls", driver.stalls),
            ("driver_stall_longest_ms", driver.stall_longest_ms),
            ("driver_sends_failed", driver.sends_failed),
            ("driver_requests_refused", driver.requests_refused),
            ("driver_inbound_refused", driver.inbound_refused),
            ("saved_view_left_out", driver.saved_view_left_out),
            ("view_members", view.members as u64),
            ("view_services", view.services as u64),
            ("view_instances", view.instances as u64),
            ("view_services_guarded", view.guarded as u64),
            ("view_mass_drops", view.mass_drops),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_a_wake_that_is_much_too_late_is_a_stall() {
        let mut stats = DriverStats::default();
        stats.note_wake(STALL);
        assert_eq!(stats.stalls, 0);
        stats.note_wake(Duration::from_secs(8));
        stats.note_wake(Duration::from_secs(1));
        assert_eq!((stats.stalls, stats.stall_longest_ms), (2, 8_000));
    }

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        let stats = Stats { view: Sizes { members: 3, ..Sizes::default() }, ..Stats::default() };
        let by_name: BTreeMap<_, _> = stats.each().collect();
        assert_eq!(by_name.len(), stats.each().count());
        assert_eq!(by_name["view_members"], 3);
    }
}
