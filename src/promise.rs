//! What settings promise: how soon a crash is known to everybody, and what a member sends while nothing happens. One
//! pure function of the settings and of what the network is like. The simulator holds it against what it sees.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::detector::{Rtt, probes_of_an_attempt, until_convicted, until_refuted};
use crate::node::Tuning;
use crate::peer::{Generation, NodeId, Peer};
use crate::wire::{Fingerprints, HEADER_BYTES, Header, Kind, Outgoing, Probe, SEAL_BYTES, SwimMessage, SwimSection};

/// How late things are done beside the network: timers, processors, news that waits for more to travel with.
const LATE: Duration = Duration::from_millis(5);

/// The circumstances that a promise is made for.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Conditions {
    /// Members of the cluster.
    pub members: usize,
    /// The round-trip time over all links; `None` if nothing is known of them yet.
    pub rtt: Option<Rtt>,
    /// The share of probes that is answered, from 0 to 1.
    pub answered: f64,
}

/// What settings promise of a crash, and of the traffic of a member.
///
/// The times are for one crash at a time, with links as the [`Conditions`] say. What is lost beyond that costs a
/// further round of questions now and then.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Promise {
    /// Half of all crashes are known to every member after this time.
    pub detect_p50: Duration,
    /// 99 of 100 are.
    pub detect_p99: Duration,
    /// All are: the observer had just looked.
    pub detect_worst: Duration,
    /// Datagrams that a member sends in a second while nothing happens.
    pub packets_per_s: f64,
    /// Their UDP payload, sealed, in bytes a second.
    pub bytes_per_s: f64,
}

impl Promise {
    /// What these settings promise. Nothing is sent and nothing noticed where there is nobody else.
    pub fn of(tuning: &Tuning, conditions: &Conditions) -> Self {
        let Conditions { members, rtt, answered } = *conditions;
        let watch = &tuning.watch;
        // The crash comes at any moment of its observer's period. The verdict then crosses the tree along which news
        // travels, half of the members at each step. Each tells its program once it was not refuted.
        let steps = f64::from(u32::try_from(members).unwrap_or(u32::MAX).max(1)).log2();
        let one_way = rtt.map_or(Duration::ZERO, |rtt| rtt.smoothed / 2);
        let rest = until_convicted(watch, rtt, answered) + one_way.mul_f64(steps) + until_refuted(rtt) + LATE;
        let after = |share: f64| watch.observe_every.mul_f64(share) + rest;
        let is_alone = members < 2;
        // Each member observes one, is observed by one, and is foca's choice once in a period; who is probed answers
        // whatever reaches it.
        let reached = answered.clamp(0.0, 1.0).sqrt();
        let per_second = |period: Duration| if is_alone { 0.0 } else { 1.0 / period.as_secs_f64().max(1e-3) };
        let probes = per_second(watch.observe_every) * probes_of_an_attempt(watch, answered) * (1.0 + reached);
        let swim = per_second(tuning.probe_period) * (1.0 + reached);
        Self {
            detect_p50: after(0.5),
            detect_p99: after(0.99),
            detect_worst: after(1.0),
            packets_per_s: probes + swim,
            bytes_per_s: probes * probe_bytes() as f64 + swim * swim_bytes() as f64,
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, worst] = [self.detect_p50, self.detect_p99, self.detect_worst].map(|span| span.as_secs_f64());
        write!(f, "a crash is known to everybody after {p50:.2} s (p50), {p99:.2} s (p99), {worst:.2} s (worst); ")?;
        write!(f, "an idle member sends {:.1} packets and {:.0} bytes a second", self.packets_per_s, self.bytes_per_s)
    }
}

/// A datagram as it is on the wire, with our fingerprints, as every one has them.
fn datagram_bytes(fill: impl FnOnce(&mut Outgoing)) -> usize {
    let nobody = SocketAddr::from(([0, 0, 0, 0], 0));
    let peer = Peer { id: NodeId(0), addr: nobody, generation: Generation::first(0), nonce: 0 };
    let mut outgoing = Outgoing::new(&Header::new(Kind::Gossip, 0, &peer, 0));
    fill(&mut outgoing);
    outgoing
        .fingerprints(Fingerprints { records: 0, members: 0, wants_answer: false, epoch: 0 })
        .expect("fingerprints always fit");
    outgoing.finish().len() + SEAL_BYTES
}

fn probe_bytes() -> usize {
    // A number as it is after some hours.
    let ping = Probe::Ping { number: u32::from(u16::MAX), accusation: None };
    datagram_bytes(|outgoing| outgoing.probe(&ping).expect("a probe fits a datagram"))
}

fn swim_bytes() -> usize {
    let ping = SwimSection {
        src_bump: 0,
        src_incarnation: 0,
        dst_nonce: u32::MAX,
        dst_bump: 0,
        message: SwimMessage::Ping(0),
        updates: Vec::new(),
    };
    datagram_bytes(|outgoing| outgoing.swim(&ping).expect("a ping fits a datagram"))
}

const _: () = assert!(HEADER_BYTES + SEAL_BYTES < 100, "an idle member's datagrams are small");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn what_ships_promises_a_second_and_two_and_a_half_packets() {
        let promise = Promise::of(&Tuning::default(), &Profile::Lan.conditions());
        let ms = |span: Duration| span.as_millis();
        assert!((950..1_100).contains(&ms(promise.detect_p50)), "{promise}");
        assert!(ms(promise.detect_worst) - ms(promise.detect_p50) == 500, "half a period");
        assert!(
            (2.3..2.5).contains(&promise.packets_per_s) && (150.0..210.0).contains(&promise.bytes_per_s),
            "{promise}"
        );
    }

    #[test]
    fn loss_costs_time_and_packets_and_nobody_else_costs_nothing() {
        let calm = Profile::Lan.conditions();
        let lossy = Conditions { answered: 0.49, ..calm };
        let (at_ease, troubled) = (Promise::of(&Tuning::default(), &calm), Promise::of(&Tuning::default(), &lossy));
        assert!(troubled.detect_p50 > at_ease.detect_p50 && troubled.packets_per_s > at_ease.packets_per_s);
        let alone = Promise::of(&Tuning::default(), &Conditions { members: 1, rtt: None, answered: 1.0 });
        assert_eq!((alone.packets_per_s, alone.bytes_per_s), (0.0, 0.0));
    }
}
