//! Streams between hosts, as QUIC would carry them: a handshake, an idle limit, reliable bytes, a deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tidings::effect::{Input, Reply, Request, StreamFailure};
use tidings::time::Time;

use super::{Happening, HostIndex, World, is_open_both_ways};
use crate::link;

/// How long an asker waits for the answer on a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection without streams stays open; the next stream then needs a new handshake.
const CONNECTION_IDLE: Duration = Duration::from_secs(30);

/// Estimated packets and bytes of a QUIC handshake, of each side: padded first packets (RFC 9000 section 14.1), then
/// certificates of some 500 bytes and acknowledgements.
const HANDSHAKE_PACKETS: u64 = 4;
const HANDSHAKE_BYTES: u64 = 3_000;

/// Estimated bytes that a QUIC packet has beside its stream's.
const STREAM_OVERHEAD_BYTES: u64 = 40;

/// The streams and connections of a world.
#[derive(Default, Debug)]
pub(super) struct Streams {
    open: BTreeMap<u64, Stream>,
    next: u64,
    /// Open connections between two hosts (the lower number first), with the starts of both and their last use.
    connections: BTreeMap<(HostIndex, HostIndex), (u32, u32, Time)>,
    /// By host and by who opened it, connections to a process of a [`Machine`](super::Machine), with the asker's start.
    inbound: BTreeMap<(HostIndex, HostIndex), u32>,
}

/// A question on its way, or its answer.
#[derive(Debug)]
struct Stream {
    asker: HostIndex,
    asker_start: u32,
    asker_token: u64,
    to: Option<HostIndex>,
    /// The start of the process that got the question.
    asked_start: Option<u32>,
    is_answered: bool,
    question: Bytes,
}

impl Streams {
    /// Who waits for the answer.
    pub(super) fn asker(&self, token: u64) -> Option<HostIndex> {
        Some(self.open.get(&token)?.asker)
    }

    /// Whom the question went to.
    pub(super) fn asked(&self, token: u64) -> Option<HostIndex> {
        self.open.get(&token)?.to
    }
}

impl World {
    /// The question of a stream arrives.
    pub(super) fn question(&mut self, token: u64) {
        let Some(stream) = self.streams.open.get_mut(&token) else { return };
        let (asker, Some(to)) = (stream.asker, stream.to) else { return };
        if self.hosts[to].node.is_none() || !is_open_both_ways(&self.link, asker, to) {
            return;
        }
        stream.asked_start = Some(self.hosts[to].start);
        let bytes = std::mem::take(&mut stream.question);
        let from = self.hosts[asker].addr;
        self.tell_or_fail(to, Input::Request { from, token, bytes });
    }

    /// The answer of a stream arrives.
    pub(super) fn answer(&mut self, token: u64, bytes: Option<Bytes>) {
        let Some(stream) = self.streams.open.get(&token) else { return };
        let (asker, Some(to)) = (stream.asker, stream.to) else { return };
        if is_open_both_ways(&self.link, asker, to) {
            self.conclude(token, bytes.ok_or(StreamFailure::Refused));
        }
    }

    /// Nothing has come back in time, or it came before and the stream is no more.
    pub(super) fn deadline(&mut self, token: u64) {
        let Some(stream) = self.streams.open.get(&token) else { return };
        let failure = if stream.asked_start.is_some() { StreamFailure::Timeout } else { StreamFailure::Connection };
        self.conclude(token, Err(failure));
    }

    pub(super) fn ask(&mut self, asker: HostIndex, request: Request) {
        let stream = self.streams.next;
        self.streams.next += 1;
        let to = self.host_at(request.to.addr);
        let size = request.bytes.len();
        let is_marked = self.is_marked(&request.bytes);
        let host = &mut self.hosts[asker];
        host.traffic.streams += 1;
        host.traffic.marked_streams += u64::from(is_marked);
        let state = Stream {
            asker,
            asker_start: host.start,
            asker_token: request.token,
            to,
            asked_start: None,
            is_answered: false,
            question: request.bytes,
        };
        self.streams.open.insert(stream, state);
        self.queue.push(self.now + STREAM_TIMEOUT, Happening::StreamDeadline { stream });
        // Whatever gets nowhere waits for its deadline.
        let Some(to) = to.filter(|&to| self.hosts[to].node.is_some() && is_open_both_ways(&self.link, asker, to))
        else {
            return;
        };
        let is_open = self.connect(asker, to);
        if !is_open && !self.admit(asker, to) {
            self.streams.connections.remove(&(asker.min(to), asker.max(to)));
            let round_trip = self.link.stream_delay(asker, to, 0, &mut self.rng)
                + self.link.stream_delay(to, asker, 0, &mut self.rng);
            self.queue.push(self.now + round_trip, Happening::Answer { stream, bytes: None });
            return;
        }
        let handshake = if is_open {
            Duration::ZERO
        } else {
            self.link.stream_delay(asker, to, 0, &mut self.rng) + self.link.stream_delay(to, asker, 0, &mut self.rng)
        };
        let works_until = if handshake.is_zero() { self.now } else { self.occupy(|machine| machine.handshake) };
        let delay = handshake + self.stream_leg(asker, to, size);
        self.queue.push(works_until + delay, Happening::Question { stream });
    }

    pub(super) fn reply(&mut self, index: HostIndex, reply: Reply) {
        let start = self.hosts[index].start;
        // The asker may have given up, or ended, in the meantime.
        let Some(stream) = self.streams.open.get_mut(&reply.token) else { return };
        if (stream.to, stream.asked_start) != (Some(index), Some(start)) {
            self.fail(index, format!("replies to request {}, which it never got", reply.token));
        }
        if std::mem::replace(&mut stream.is_answered, true) {
            self.fail(index, format!("replies to request {} twice", reply.token));
        }
        let asker = stream.asker;
        if !is_open_both_ways(&self.link, asker, index) {
            return;
        }
        let bytes = reply.bytes.as_deref().unwrap_or_default();
        let (size, is_marked) = (bytes.len(), self.is_marked(bytes));
        self.hosts[index].traffic.marked_streams += u64::from(is_marked);
        let delay = self.stream_leg(index, asker, size);
        self.queue.push(self.now + delay, Happening::Answer { stream: reply.token, bytes: reply.bytes });
    }

    /// Uses the connection between two hosts, and says whether there was one already.
    fn connect(&mut self, asker: HostIndex, to: HostIndex) -> bool {
        let (low, high) = (asker.min(to), asker.max(to));
        let starts = (self.hosts[low].start, self.hosts[high].start);
        let before = self.streams.connections.insert((low, high), (starts.0, starts.1, self.now));
        let was_open = before.is_some_and(|(low_start, high_start, used)| {
            (low_start, high_start) == starts && self.now.since(used) < CONNECTION_IDLE
        });
        if !was_open {
            for host in [asker, to] {
                self.hosts[host].traffic.stream_packets += HANDSHAKE_PACKETS;
                self.hosts[host].traffic.stream_bytes += HANDSHAKE_BYTES;
            }
        }
        was_open
    }

    /// Whether a process lets another open a connection: on a machine it has places for so many, and closes the one
    /// that is idle for longest, and long enough, for a newcomer.
    fn admit(&mut self, asker: HostIndex, to: HostIndex) -> bool {
        let Some(machine) = self.processors.as_ref().map(|processors| &processors.machine) else { return true };
        let (max, idle_min) = (machine.inbound_max, machine.inbound_idle_min);
        let starts: Vec<u32> = self.hosts.iter().map(|host| host.start).collect();
        let Streams { connections, inbound, .. } = &mut self.streams;
        let last_used = |host: HostIndex, from: HostIndex, start: u32| {
            let (low, high) = (host.min(from), host.max(from));
            let (low_start, high_start, used) = connections.get(&(low, high))?;
            ((*low_start, *high_start) == (starts[low], starts[high]) && start == starts[from]).then_some(*used)
        };
        inbound.retain(|&(host, from), start| {
            host != to || last_used(host, from, *start).is_some_and(|used| self.now.since(used) < CONNECTION_IDLE)
        });
        let guests = inbound.range((to, 0)..(to + 1, 0)).filter(|((_, from), _)| *from != asker);
        let guests = guests.filter_map(|(&(_, from), &start)| Some((last_used(to, from, start)?, from)));
        let guests: Vec<(Time, HostIndex)> = guests.collect();
        if guests.len() >= max {
            let longest_idle = guests.iter().min().filter(|(used, _)| self.now.since(*used) >= idle_min);
            let Some(&(_, from)) = longest_idle else { return false };
            inbound.remove(&(to, from));
            connections.remove(&(to.min(from), to.max(from)));
        }
        inbound.insert((to, asker), starts[asker]);
        true
    }

    /// Counts `size` bytes of a stream and says how long they take.
    fn stream_leg(&mut self, from: HostIndex, to: HostIndex, size: usize) -> Duration {
        let packets = link::packets(size) as u64;
        let sender = &mut self.hosts[from].traffic;
        sender.stream_packets += packets;
        sender.stream_bytes += size as u64 + packets * STREAM_OVERHEAD_BYTES;
        // Every other packet is acknowledged (RFC 9000 section 13.2.2).
        let receiver = &mut self.hosts[to].traffic;
        receiver.stream_packets += packets.div_ceil(2);
        receiver.stream_bytes += packets.div_ceil(2) * STREAM_OVERHEAD_BYTES;
        let slowness = self.hosts[from].slowness + self.hosts[to].slowness;
        slowness + self.link.stream_delay(from, to, size, &mut self.rng)
    }

    fn conclude(&mut self, token: u64, result: Result<Bytes, StreamFailure>) {
        let Some(stream) = self.streams.open.remove(&token) else { return };
        self.fates.streams_failed += u64::from(result.is_err());
        let asker = &self.hosts[stream.asker];
        if asker.node.is_some() && asker.start == stream.asker_start {
            self.tell_or_fail(stream.asker, Input::Response { token: stream.asker_token, result });
        }
    }
}
