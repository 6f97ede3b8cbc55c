//! The fate of a datagram, and the delay of a stream, between two hosts. Knows nothing of nodes, bytes or events.

mod delay;
mod preset;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use tidings::detector::Rtt;
use tidings::time::Time;

use crate::units::{Rate, Share, Size, Span};
use delay::Sampler;

pub use delay::Delay;
pub use preset::Preset;

/// The most bytes of a datagram that a network must carry; a larger one would need fragments.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;

/// How often one packet of a stream is sent again at most: with half of all packets lost, one in 2^64 needs more.
const RETRANSMITS_MAX: u32 = 64;

/// What QUIC waits beside the round trips before it sends again: the `max_ack_delay` of RFC 9000 section 18.2.
const RETRANSMIT_EXTRA: Duration = Duration::from_millis(25);

/// What a datagram has around it on the wire: Ethernet, IPv4 and UDP headers.
const HEADER_BYTES: usize = 42;

/// How the links of a class behave, each direction by itself.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkConfig {
    /// The one-way delay; each datagram's is drawn by itself, so two may overtake each other.
    pub delay: Delay,
    /// How likely a datagram is lost.
    pub loss: Share,
    /// Losses that come in bursts, beside `loss`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<Burst>,
    /// How likely a datagram arrives twice.
    pub duplication: Share,
    /// How likely a datagram is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: Share,
    /// How long those are held back.
    pub reorder_by: Span,
    /// How much fits through in a second; without, any amount does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Rate>,
    /// What waits at most where the bandwidth is used up; further datagrams are dropped.
    pub queue: Size,
    /// The largest UDP payload that passes; larger datagrams vanish without a word.
    pub mtu: Size,
}

impl Default for LinkConfig {
    /// A data centre: 0.2 to 2 ms, nothing lost, one datagram in a thousand twice.
    fn default() -> Self {
        Self {
            delay: Delay::Uniform(Span(Duration::from_micros(200)), Span::from_millis(2)),
            loss: Share(0.0),
            burst: None,
            duplication: Share(0.001),
            reorder: Share(0.0),
            reorder_by: Span::from_millis(10),
            bandwidth: None,
            queue: Size(256 * 1024),
            mtu: Size(1_472),
        }
    }
}

/// Losses in bursts (Gilbert 1960, Elliott 1963): a link is calm or in a burst, and each datagram may change that.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Burst {
    /// How likely a datagram begins a burst.
    pub begins: Share,
    /// How likely a datagram ends the burst: bursts are 1 / `ends` datagrams long.
    pub ends: Share,
    /// How likely a datagram is lost in a burst.
    pub loss_inside: Share,
    /// How likely a datagram is lost outside of bursts.
    pub loss_outside: Share,
}

impl Burst {
    /// The share of datagrams that it loses in the long run.
    pub fn mean_loss(&self) -> f64 {
        let inside = self.begins.0 / (self.begins.0 + self.ends.0).max(f64::MIN_POSITIVE);
        inside * self.loss_inside.0 + (1.0 - inside) * self.loss_outside.0
    }
}

/// A whole network: how links behave, and zones with the round trips between them.
#[derive(Clone, PartialEq, Debug)]
pub struct Network {
    /// All links, but for the delay where round trips are given.
    pub base: LinkConfig,
    /// The zones, by name; hosts stand in them in turn. May be empty.
    pub zones: Vec<String>,
    /// Round trips from zone to zone; empty, or as many rows and columns as there are zones.
    pub rtt: Vec<Vec<Span>>,
    /// The median wait above the round trips, as a share of them.
    pub jitter: Share,
}

impl Network {
    /// All links alike.
    pub const fn flat(base: LinkConfig) -> Self {
        Self { base, zones: Vec::new(), rtt: Vec::new(), jitter: Share(0.0) }
    }

    /// The round trip over all links as a member would come to see it: its mean, and its mean deviation.
    pub fn round_trip(&self) -> Rtt {
        const DRAWN: usize = 512;
        let drawn: Vec<Duration> = if self.rtt.is_empty() {
            // What is drawn is an estimate, the same each time.
            let mut rng = Xoshiro256PlusPlus::seed_from_u64(0);
            let sampler = self.base.delay.sampler().ok();
            let mut one_way = || sampler.as_ref().map_or(Duration::ZERO, |sampler| sampler.draw(&mut rng));
            (0..DRAWN).map(|_| one_way() + one_way()).collect()
        } else {
            self.rtt.iter().flatten().map(|rtt| rtt.0.mul_f64(1.0 + self.jitter.0)).collect()
        };
        let mean = |spans: &mut dyn Iterator<Item = Duration>| {
            spans.sum::<Duration>() / u32::try_from(drawn.len().max(1)).unwrap_or(u32::MAX)
        };
        let smoothed = mean(&mut drawn.iter().copied());
        let deviation = mean(&mut drawn.iter().map(|span| span.abs_diff(smoothed)));
        Rtt { smoothed, deviation }
    }
}

impl Default for Network {
    fn default() -> Self {
        Preset::Lan.network()
    }
}

/// What becomes of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It arrives after this delay.
    Arrives(Duration),
    /// It arrives twice.
    Twice(Duration, Duration),
    /// It is lost by chance.
    Lost,
    /// No way leads there: another side of a split, a cut, or an isolated host.
    Cut,
    /// The bandwidth is used up, and the queue before it is full.
    Overflow,
    /// It is larger than what passes.
    TooLarge,
}

/// A class of links, made ready.
#[derive(Clone, Debug)]
struct Profile {
    config: LinkConfig,
    delay: Sampler,
    typical: Duration,
}

impl Profile {
    fn new(config: LinkConfig) -> Result<Self, String> {
        for (what, share) in [("loss", config.loss), ("duplication", config.duplication), ("reorder", config.reorder)] {
            if !(0.0..=1.0).contains(&share.0) {
                return Err(format!("{what} {share} is not within 0 to 1"));
            }
        }
        Ok(Self { delay: config.delay.sampler()?, typical: config.delay.typical(), config })
    }

    fn draw(&self, rng: &mut impl Rng) -> Duration {
        let is_held = self.config.reorder.0 > 0.0 && rng.random_bool(self.config.reorder.0);
        self.delay.draw(rng) + if is_held { self.config.reorder_by.0 } else { Duration::ZERO }
    }
}

/// What a directed pair of hosts remembers, where its class needs that.
#[derive(Clone, Default, Debug)]
struct Wire {
    is_in_burst: bool,
    busy_until: Time,
}

/// What is wrong at one host.
#[derive(Clone, Copy, Default, Debug)]
struct Ailment {
    /// Losses of what it sends and of what it receives, beside the link's.
    loss: f64,
    is_isolated: bool,
}

/// All links: how their classes behave, and which of them are cut.
#[derive(Clone, Debug)]
pub struct Link {
    profiles: Vec<Profile>,
    zones: Vec<String>,
    /// The profile from zone to zone; empty if there is one for all.
    between: Vec<Vec<usize>>,
    pairs: BTreeMap<(usize, usize), usize>,
    /// Beside every link's own.
    loss: f64,
    ailments: Vec<Ailment>,
    /// The side of each host; hosts beyond the end are on side 0.
    sides: Vec<usize>,
    cuts: BTreeSet<(usize, usize)>,
    wires: BTreeMap<(usize, usize), Wire>,
}

impl Link {
    /// Links between all hosts, none cut.
    ///
    /// # Errors
    /// What of the configuration makes no sense.
    pub fn new(network: &Network) -> Result<Self, String> {
        let mut profiles = vec![Profile::new(network.base.clone())?];
        let mut between = Vec::new();
        let zones = network.zones.len();
        if !network.rtt.is_empty() {
            if network.rtt.len() != zones || network.rtt.iter().any(|row| row.len() != zones) {
                return Err(format!("rtt: {zones} zones need {zones} rows of {zones} round trips"));
            }
            for row in &network.rtt {
                let mut classes = Vec::new();
                for rtt in row {
                    let delay = Delay::of_round_trip(rtt.0, network.jitter.0);
                    profiles.push(Profile::new(LinkConfig { delay, ..network.base.clone() })?);
                    classes.push(profiles.len() - 1);
                }
                between.push(classes);
            }
        }
        Ok(Self {
            profiles,
            zones: network.zones.clone(),
            between,
            pairs: BTreeMap::new(),
            loss: 0.0,
            ailments: Vec::new(),
            sides: Vec::new(),
            cuts: BTreeSet::new(),
            wires: BTreeMap::new(),
        })
    }

    /// The zone that a host stands in; empty if there are none.
    pub fn zone(&self, host: usize) -> &str {
        if self.zones.is_empty() { "" } else { &self.zones[host % self.zones.len()] }
    }

    /// Gives some directed pairs a class of their own.
    ///
    /// # Errors
    /// What of the configuration makes no sense.
    pub fn set_pairs(
        &mut self,
        config: LinkConfig,
        pairs: impl IntoIterator<Item = (usize, usize)>,
    ) -> Result<(), String> {
        self.profiles.push(Profile::new(config)?);
        let class = self.profiles.len() - 1;
        self.pairs.extend(pairs.into_iter().map(|pair| (pair, class)));
        Ok(())
    }

    /// From now on datagrams are lost with this probability, beside what their link loses.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss(&mut self, loss: f64) {
        assert_probability("loss", loss);
        self.loss = loss;
    }

    /// From now on whatever this host sends or receives is lost with this probability, beside what its link loses.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss_at(&mut self, host: usize, loss: f64) {
        assert_probability("loss", loss);
        self.ailment(host).loss = loss;
    }

    /// Cuts a host off from everybody, or ends that.
    pub fn set_isolated(&mut self, host: usize, is_isolated: bool) {
        self.ailment(host).is_isolated = is_isolated;
    }

    fn ailment(&mut self, host: usize) -> &mut Ailment {
        if self.ailments.len() <= host {
            self.ailments.resize(host + 1, Ailment::default());
        }
        &mut self.ailments[host]
    }

    /// Separates the groups from each other; hosts in no group form one more. Replaces an earlier split.
    pub fn split(&mut self, groups: &[Vec<usize>]) {
        self.sides.clear();
        for (index, group) in groups.iter().enumerate() {
            for &host in group {
                if self.sides.len() <= host {
                    self.sides.resize(host + 1, 0);
                }
                self.sides[host] = index + 1;
            }
        }
    }

    /// Ends the split; cuts stay.
    pub fn unite(&mut self) {
        self.sides.clear();
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// Ends the cut of one direction.
    pub fn mend(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    /// Ends the split, every cut and every isolation. Loss stays.
    pub fn heal(&mut self) {
        self.sides.clear();
        self.cuts.clear();
        self.ailments.iter_mut().for_each(|ailment| ailment.is_isolated = false);
    }

    /// Ends every loss that was set: links lose what is their own again.
    pub fn calm(&mut self) {
        self.loss = 0.0;
        self.ailments.iter_mut().for_each(|ailment| ailment.loss = 0.0);
    }

    /// Whether anything gets from one host to the other.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        let is_isolated = |host: usize| self.ailments.get(host).is_some_and(|ailment| ailment.is_isolated);
        self.side(from) == self.side(to)
            && (self.cuts.is_empty() || !self.cuts.contains(&(from, to)))
            && !is_isolated(from)
            && !is_isolated(to)
    }

    /// Decides what becomes of a datagram of `size` bytes sent at `now`.
    pub fn fate(&mut self, now: Time, from: usize, to: usize, size: usize, rng: &mut impl Rng) -> Fate {
        if !self.is_open(from, to) {
            return Fate::Cut;
        }
        let profile = &self.profiles[self.class(from, to)];
        let config = &profile.config;
        if size > config.mtu.0 {
            return Fate::TooLarge;
        }
        let loss = self.loss_between(config.loss.0, from, to);
        if loss > 0.0 && rng.random_bool(loss) {
            return Fate::Lost;
        }
        let mut wait = Duration::ZERO;
        if config.burst.is_some() || config.bandwidth.is_some() {
            let wire = self.wires.entry((from, to)).or_default();
            if config.burst.as_ref().is_some_and(|burst| wire.loses(burst, rng)) {
                return Fate::Lost;
            }
            if let Some(bandwidth) = config.bandwidth {
                match wire.queue(now, size, bandwidth.0, config.queue.0) {
                    Some(waited) => wait = waited,
                    None => return Fate::Overflow,
                }
            }
        }
        let first = wait + profile.draw(rng);
        if config.duplication.0 > 0.0 && rng.random_bool(config.duplication.0) {
            return Fate::Twice(first, wait + profile.draw(rng));
        }
        Fate::Arrives(first)
    }

    /// How long `size` bytes of a stream take one way: a stream loses nothing, loss only delays it.
    ///
    /// Packets are sent side by side, so the unluckiest decides. Each of its losses costs what a QUIC probe timeout
    /// takes: about three round trips and the longest wait for an acknowledgement (RFC 9002 section 6.2.1).
    pub fn stream_delay(&self, from: usize, to: usize, size: usize, rng: &mut impl Rng) -> Duration {
        let profile = &self.profiles[self.class(from, to)];
        let burst = profile.config.burst.as_ref().map_or(0.0, Burst::mean_loss);
        let loss = either(self.loss_between(profile.config.loss.0, from, to), burst);
        let losses = (0..packets(size)).map(|_| losses(loss, rng)).max().unwrap_or(0);
        let transfer = profile.config.bandwidth.map_or(0.0, |bandwidth| size as f64 * 8.0 / bandwidth.0);
        profile.delay.draw(rng) + Duration::from_secs_f64(transfer) + (profile.typical * 6 + RETRANSMIT_EXTRA) * losses
    }

    fn class(&self, from: usize, to: usize) -> usize {
        if let Some(&class) = (!self.pairs.is_empty()).then(|| self.pairs.get(&(from, to))).flatten() {
            return class;
        }
        match self.between.len() {
            0 => 0,
            zones => self.between[from % zones][to % zones],
        }
    }

    fn loss_between(&self, own: f64, from: usize, to: usize) -> f64 {
        let at = |host: usize| self.ailments.get(host).map_or(0.0, |ailment| ailment.loss);
        [self.loss, at(from), at(to)].into_iter().fold(own, either)
    }

    fn side(&self, host: usize) -> usize {
        self.sides.get(host).copied().unwrap_or(0)
    }
}

impl Wire {
    /// Whether a burst takes this datagram; it may begin or end with it.
    fn loses(&mut self, burst: &Burst, rng: &mut impl Rng) -> bool {
        let turns = if self.is_in_burst { burst.ends.0 } else { burst.begins.0 };
        self.is_in_burst ^= rng.random_bool(turns);
        rng.random_bool(if self.is_in_burst { burst.loss_inside.0 } else { burst.loss_outside.0 })
    }

    /// How long the datagram waits and is sent; `None` if more than `queue` bytes wait before it.
    fn queue(&mut self, now: Time, size: usize, bandwidth: f64, queue: usize) -> Option<Duration> {
        let waits = self.busy_until.since(now);
        if waits.as_secs_f64() * bandwidth / 8.0 > queue as f64 {
            return None;
        }
        let wait = waits + Duration::from_secs_f64((size + HEADER_BYTES) as f64 * 8.0 / bandwidth);
        self.busy_until = now + wait;
        Some(wait)
    }
}

/// The probability that one of two independent mishaps happens.
fn either(one: f64, other: f64) -> f64 {
    if other == 0.0 { one } else { 1.0 - (1.0 - one) * (1.0 - other) }
}

fn losses(loss: f64, rng: &mut impl Rng) -> u32 {
    if loss == 0.0 {
        return 0;
    }
    (0..RETRANSMITS_MAX).take_while(|_| rng.random_bool(loss)).count() as u32
}

/// How many packets `size` bytes of a stream need.
pub(crate) fn packets(size: usize) -> usize {
    size.div_ceil(DATAGRAM_BYTES_MAX).max(1)
}

fn assert_probability(what: &str, value: f64) {
    assert!((0.0..=1.0).contains(&value), "{what} {value} is not within 0 to 1");
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;

    const SAMPLES: usize = 20_000;

    fn rng() -> Xoshiro256PlusPlus {
        Xoshiro256PlusPlus::seed_from_u64(1)
    }

    fn link(config: LinkConfig) -> Link {
        Link::new(&Network::flat(config)).expect("well formed")
    }

    fn fates(link: &mut Link, from: usize, to: usize) -> Vec<Fate> {
        let mut rng = rng();
        (0..SAMPLES).map(|_| link.fate(Time::ZERO, from, to, 100, &mut rng)).collect()
    }

    fn share(fates: &[Fate], wanted: fn(&Fate) -> bool) -> f64 {
        fates.iter().filter(|fate| wanted(fate)).count() as f64 / fates.len() as f64
    }

    #[test]
    fn delays_stay_in_range_and_let_datagrams_overtake() {
        let mut link = link(LinkConfig { duplication: Share(0.0), ..LinkConfig::default() });
        let delays: Vec<_> = fates(&mut link, 0, 1)
            .into_iter()
            .map(|fate| match fate {
                Fate::Arrives(delay) => delay,
                other => panic!("{other:?} on a link without loss"),
            })
            .collect();
        let range = Duration::from_micros(200)..=Duration::from_millis(2);
        assert!(delays.iter().all(|delay| range.contains(delay)));
        assert!(delays.windows(2).any(|pair| pair[1] < pair[0]), "no datagram ever overtook another");
    }

    #[test]
    fn loss_and_duplication_happen_as_often_as_said() {
        let mut link = link(LinkConfig { loss: Share(0.3), duplication: Share(0.1), ..LinkConfig::default() });
        let fates = fates(&mut link, 0, 1);
        // Five standard deviations of a share over 20,000 draws are below 0.017.
        assert!((share(&fates, |fate| *fate == Fate::Lost) - 0.3).abs() < 0.017);
        assert!((share(&fates, |fate| matches!(fate, Fate::Twice(..))) - 0.07).abs() < 0.017);
    }

    #[test]
    fn losses_of_link_world_and_hosts_add_up_as_independent_chances() {
        let mut link = link(LinkConfig { loss: Share(0.1), ..LinkConfig::default() });
        link.set_loss(0.2);
        link.set_loss_at(1, 0.5);
        let lost = share(&fates(&mut link, 0, 1), |fate| *fate == Fate::Lost);
        assert!((lost - (1.0 - 0.9 * 0.8 * 0.5)).abs() < 0.018, "{lost}");
        link.calm();
        let lost = share(&fates(&mut link, 0, 1), |fate| *fate == Fate::Lost);
        assert!((lost - 0.1).abs() < 0.011, "{lost}");
    }

    #[test]
    fn bursts_lose_their_mean_in_runs() {
        let burst = Burst { begins: Share(0.01), ends: Share(0.1), loss_inside: Share(0.8), loss_outside: Share(0.0) };
        let mean = burst.mean_loss();
        let mut link = link(LinkConfig { burst: Some(burst), duplication: Share(0.0), ..LinkConfig::default() });
        let fates = fates(&mut link, 0, 1);
        let lost = share(&fates, |fate| *fate == Fate::Lost);
        assert!((lost - mean).abs() < 0.02, "{lost}, not {mean}");
        let pairs = fates.windows(2).filter(|pair| pair[0] == Fate::Lost && pair[1] == Fate::Lost).count() as f64;
        assert!(pairs / SAMPLES as f64 > 3.0 * lost * lost, "losses are not in runs");
    }

    #[test]
    fn a_narrow_link_delays_and_then_drops() {
        let config = LinkConfig {
            delay: Delay::Constant(Span::default()),
            bandwidth: Some(Rate(8e3)),
            queue: Size(1_000),
            duplication: Share(0.0),
            ..LinkConfig::default()
        };
        let mut link = link(config);
        let mut rng = rng();
        // 158 and 42 bytes at a thousand bytes a second: each takes 0.2 s, and a thousand bytes may wait.
        let fates: Vec<_> = (0..8).map(|_| link.fate(Time::ZERO, 0, 1, 158, &mut rng)).collect();
        assert_eq!(fates[0], Fate::Arrives(Duration::from_millis(200)));
        assert_eq!(fates[2], Fate::Arrives(Duration::from_millis(600)));
        assert_eq!(fates[7], Fate::Overflow);
        let later = Time::ZERO + Duration::from_secs(10);
        assert_eq!(link.fate(later, 0, 1, 158, &mut rng), Fate::Arrives(Duration::from_millis(200)));
        assert_eq!(link.fate(later, 0, 1, 1_473, &mut rng), Fate::TooLarge);
    }

    #[test]
    fn zones_decide_the_delay_and_pairs_override_it() {
        let mut link = Link::new(&Preset::Wan5.network()).expect("a preset");
        let mut rng = rng();
        let mut delay = |link: &mut Link, from, to| loop {
            if let Fate::Arrives(delay) = link.fate(Time::ZERO, from, to, 100, &mut rng) {
                return delay;
            }
        };
        assert_eq!((link.zone(0), link.zone(3), link.zone(8)), ("us-east", "asia", "asia"));
        assert!(delay(&mut link, 0, 5) < Duration::from_millis(2), "both stand in the first zone");
        assert!(delay(&mut link, 3, 4) >= Duration::from_micros(162_500), "half of 325 ms");
        let quick = LinkConfig { delay: Delay::Constant(Span::from_millis(1)), ..LinkConfig::default() };
        link.set_pairs(quick, [(3, 4)]).expect("well formed");
        assert_eq!(delay(&mut link, 3, 4), Duration::from_millis(1));
    }

    #[test]
    fn a_split_stops_both_directions_and_a_cut_only_one() {
        let mut link = link(LinkConfig::default());
        link.split(&[vec![0, 1], vec![2]]);
        for (from, to, is_open) in [(0, 1, true), (0, 2, false), (2, 0, false), (3, 0, false), (3, 4, true)] {
            assert_eq!(link.is_open(from, to), is_open, "{from} to {to}");
        }
        assert!(fates(&mut link, 0, 2).iter().all(|fate| *fate == Fate::Cut));

        link.heal();
        link.cut(0, 1);
        assert!(!link.is_open(0, 1));
        assert!(link.is_open(1, 0));
        link.heal();
        assert!(link.is_open(0, 1));
        link.set_isolated(1, true);
        assert!(!link.is_open(0, 1) && !link.is_open(1, 2) && link.is_open(0, 2));
    }

    #[test]
    fn loss_only_delays_a_stream() {
        let calm = link(LinkConfig::default());
        let lossy = link(LinkConfig { loss: Share(0.3), ..LinkConfig::default() });
        let total = |link: &Link| {
            let mut rng = rng();
            (0..1_000).map(|_| link.stream_delay(0, 1, 20_000, &mut rng)).sum::<Duration>()
        };
        assert!(total(&calm) <= Duration::from_millis(2) * 1_000);
        assert!(total(&lossy) > RETRANSMIT_EXTRA * 1_000, "17 packets at 30 % loss: some packet is always lost");
    }

    #[test]
    fn even_total_loss_ends() {
        let dead = link(LinkConfig { loss: Share(1.0), ..LinkConfig::default() });
        assert!(dead.stream_delay(0, 1, 1, &mut rng()) > RETRANSMIT_EXTRA * (RETRANSMITS_MAX - 1));
    }

    #[test]
    fn every_preset_is_well_formed() {
        for (name, preset) in Preset::ALL {
            assert!(Link::new(&preset.network()).is_ok(), "{name}");
        }
    }
}
