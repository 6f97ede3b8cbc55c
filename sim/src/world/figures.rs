//! The figures of a world: what was sent, and what became of it.

use std::fmt;
use std::ops::Sub;

use tidings::time::Time;

use crate::trace::Clock;

/// What a host sent, QUIC's share estimated: sizes are UDP payloads.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Traffic {
    /// Gossip datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub datagram_bytes: u64,
    /// Streams opened.
    pub streams: u64,
    /// Packets of streams and handshakes.
    pub stream_packets: u64,
    /// Their bytes.
    pub stream_bytes: u64,
    /// Datagrams that held the marker, see [`World::set_marker`](super::World::set_marker).
    pub marked_datagrams: u64,
    /// Questions and answers on streams that held the marker.
    pub marked_streams: u64,
}

impl Traffic {
    /// Packets of both kinds.
    pub const fn packets(&self) -> u64 {
        self.datagrams + self.stream_packets
    }

    /// Bytes of both kinds.
    pub const fn bytes(&self) -> u64 {
        self.datagram_bytes + self.stream_bytes
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.datagram_bytes += other.datagram_bytes;
        self.streams += other.streams;
        self.stream_packets += other.stream_packets;
        self.stream_bytes += other.stream_bytes;
        self.marked_datagrams += other.marked_datagrams;
        self.marked_streams += other.marked_streams;
    }
}

impl Sub for Traffic {
    type Output = Self;

    /// What was sent since `earlier`, a reading of the same host or world.
    fn sub(self, earlier: Self) -> Self {
        Self {
            datagrams: self.datagrams - earlier.datagrams,
            datagram_bytes: self.datagram_bytes - earlier.datagram_bytes,
            streams: self.streams - earlier.streams,
            stream_packets: self.stream_packets - earlier.stream_packets,
            stream_bytes: self.stream_bytes - earlier.stream_bytes,
            marked_datagrams: self.marked_datagrams - earlier.marked_datagrams,
            marked_streams: self.marked_streams - earlier.marked_streams,
        }
    }
}

/// What became of all datagrams so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Fates {
    /// Put on their way, each copy of a doubled one counted.
    pub sent: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Stopped by a split or a cut.
    pub cut: u64,
    /// Arrived twice.
    pub doubled: u64,
    /// Arrived where no process listens.
    pub unheard: u64,
    /// Dropped in front of a link that was full.
    pub overflowed: u64,
    /// Vanished because they were larger than the link carries.
    pub too_large: u64,
    /// Waited for a frozen or blocked process.
    pub held: u64,
    /// Dropped because too much waited for a frozen or blocked process.
    pub held_dropped: u64,
    /// Took longer because of a slow host.
    pub slowed: u64,
    /// Wakes that came late because of a freeze.
    pub wakes_missed: u64,
    /// Streams that failed.
    pub streams_failed: u64,
    /// Starts with an older state than there should have been, because a disk was full.
    pub stale_starts: u64,
    /// Inputs to processes whose clock does not run as ours does.
    pub skewed_inputs: u64,
    /// Starts whose epoch came from a wall clock that was set wrongly.
    pub stepped_starts: u64,
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that gives the same run again.
    pub seed: u64,
    /// Simulated time so far.
    pub now: Time,
    /// Inputs that nodes took in.
    pub inputs: u64,
    /// Inputs that they did not accept.
    pub refused: u64,
    /// What became of the datagrams.
    pub fates: Fates,
    /// What each host sent.
    pub hosts: Vec<Traffic>,
    /// The hash over all inputs and outputs.
    pub hash: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut total = Traffic::default();
        self.hosts.iter().for_each(|host| total.add(host));
        write!(
            f,
            "seed {} at {}: {} hosts, {} inputs ({} refused), {} datagrams of {} bytes ({} lost, {} cut, {} unheard), \
             {} streams of {} bytes, hash {:016x}",
            self.seed,
            Clock(self.now),
            self.hosts.len(),
            self.inputs,
            self.refused,
            total.datagrams,
            total.datagram_bytes,
            self.fates.lost,
            self.fates.cut,
            self.fates.unheard,
            total.streams,
            total.stream_bytes,
            self.hash
        )
    }
}
