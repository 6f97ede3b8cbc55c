//! The fate of a datagram, and the delay of a stream, between two hosts. Knows nothing of nodes, bytes or events.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::{Rng, RngExt};
use tidings::time::Time;

/// The most bytes of a datagram that a network must carry; a larger one would need fragments.
pub const DATAGRAM_BYTES_MAX: usize = 1_200;

/// How often one packet of a stream is sent again at most: with half of all packets lost, one in 2^64 needs more.
const RETRANSMITS_MAX: u32 = 64;

/// What QUIC waits beside the round trips before it sends again: the `max_ack_delay` of RFC 9000 section 18.2.
const RETRANSMIT_EXTRA: Duration = Duration::from_millis(25);

/// How all links behave.
#[derive(Clone, PartialEq, Debug)]
pub struct LinkConfig {
    /// The shortest one-way delay.
    pub delay_min: Duration,
    /// The longest one-way delay; each datagram's is drawn evenly, so two may overtake each other.
    pub delay_max: Duration,
    /// How likely a datagram is lost, 0 to 1.
    pub loss: f64,
    /// How likely a datagram arrives twice, 0 to 1.
    pub duplication: f64,
}

impl Default for LinkConfig {
    /// A data centre: 0.2 to 2 ms, nothing lost, one datagram in a thousand twice.
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(200),
            delay_max: Duration::from_millis(2),
            loss: 0.0,
            duplication: 0.001,
        }
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
    /// No way leads there: another side of a split, or a cut.
    Cut,
}

/// All links: their common behaviour, and which of them are cut.
#[derive(Clone, Debug)]
pub struct Link {
    config: LinkConfig,
    /// The side of each host; hosts beyond the end are on side 0.
    sides: Vec<usize>,
    cuts: BTreeSet<(usize, usize)>,
}

impl Link {
    /// Links between all hosts, none cut.
    ///
    /// # Panics
    /// If a probability is not within 0 to 1, or the delays are not a range.
    pub fn new(config: LinkConfig) -> Self {
        assert_probability("loss", config.loss);
        assert_probability("duplication", config.duplication);
        assert!(
            config.delay_min <= config.delay_max,
            "delay_min {:?} is above delay_max {:?}",
            config.delay_min,
            config.delay_max
        );
        Self { config, sides: Vec::new(), cuts: BTreeSet::new() }
    }

    /// From now on datagrams are lost with this probability.
    ///
    /// # Panics
    /// If `loss` is not within 0 to 1.
    pub fn set_loss(&mut self, loss: f64) {
        assert_probability("loss", loss);
        self.config.loss = loss;
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

    /// Cuts one direction.
    pub fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// Ends the split and every cut. Loss stays.
    pub fn heal(&mut self) {
        self.sides.clear();
        self.cuts.clear();
    }

    /// Whether anything gets from one host to the other.
    pub fn is_open(&self, from: usize, to: usize) -> bool {
        self.side(from) == self.side(to) && !self.cuts.contains(&(from, to))
    }

    /// Decides what becomes of a datagram of `size` bytes sent at `now`.
    ///
    /// Neither the time nor the size matters yet: bursts of loss and bandwidth will need them.
    pub fn fate(&self, _now: Time, from: usize, to: usize, _size: usize, rng: &mut impl Rng) -> Fate {
        if !self.is_open(from, to) {
            return Fate::Cut;
        }
        if self.config.loss > 0.0 && rng.random_bool(self.config.loss) {
            return Fate::Lost;
        }
        let delay = self.delay(rng);
        if self.config.duplication > 0.0 && rng.random_bool(self.config.duplication) {
            return Fate::Twice(delay, self.delay(rng));
        }
        Fate::Arrives(delay)
    }

    /// How long `size` bytes of a stream take one way: a stream loses nothing, loss only delays it.
    ///
    /// Packets are sent side by side, so the unluckiest decides. Each of its losses costs what a QUIC probe timeout
    /// takes: about three round trips and the longest wait for an acknowledgement (RFC 9002 section 6.2.1).
    pub fn stream_delay(&self, size: usize, rng: &mut impl Rng) -> Duration {
        let packets = packets(size);
        let losses = (0..packets).map(|_| self.losses(rng)).max().unwrap_or(0);
        let round_trip = self.config.delay_min + self.config.delay_max;
        self.delay(rng) + (round_trip * 3 + RETRANSMIT_EXTRA) * losses
    }

    fn losses(&self, rng: &mut impl Rng) -> u32 {
        let loss = self.config.loss;
        if loss == 0.0 {
            return 0;
        }
        (0..RETRANSMITS_MAX).take_while(|_| rng.random_bool(loss)).count() as u32
    }

    fn delay(&self, rng: &mut impl Rng) -> Duration {
        rng.random_range(self.config.delay_min..=self.config.delay_max)
    }

    fn side(&self, host: usize) -> usize {
        self.sides.get(host).copied().unwrap_or(0)
    }
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

    fn fates(link: &Link, from: usize, to: usize) -> Vec<Fate> {
        let mut rng = rng();
        (0..SAMPLES).map(|_| link.fate(Time::ZERO, from, to, 100, &mut rng)).collect()
    }

    #[test]
    fn delays_stay_in_range_and_let_datagrams_overtake() {
        let config = LinkConfig { duplication: 0.0, ..LinkConfig::default() };
        let link = Link::new(config.clone());
        let delays: Vec<_> = fates(&link, 0, 1)
            .into_iter()
            .map(|fate| match fate {
                Fate::Arrives(delay) => delay,
                other => panic!("{other:?} on a link without loss"),
            })
            .collect();
        assert!(delays.iter().all(|delay| (config.delay_min..=config.delay_max).contains(delay)));
        assert!(delays.windows(2).any(|pair| pair[1] < pair[0]), "no datagram ever overtook another");
    }

    #[test]
    fn loss_and_duplication_happen_as_often_as_said() {
        let link = Link::new(LinkConfig { loss: 0.3, duplication: 0.1, ..LinkConfig::default() });
        let fates = fates(&link, 0, 1);
        let share = |wanted: fn(&Fate) -> bool| fates.iter().filter(|f| wanted(f)).count() as f64 / SAMPLES as f64;
        // Five standard deviations of a share over 20,000 draws are below 0.017.
        assert!((share(|fate| *fate == Fate::Lost) - 0.3).abs() < 0.017);
        assert!((share(|fate| matches!(fate, Fate::Twice(..))) - 0.07).abs() < 0.017);
    }

    #[test]
    fn a_split_stops_both_directions_and_a_cut_only_one() {
        let mut link = Link::new(LinkConfig::default());
        link.split(&[vec![0, 1], vec![2]]);
        for (from, to, is_open) in [(0, 1, true), (0, 2, false), (2, 0, false), (3, 0, false), (3, 4, true)] {
            assert_eq!(link.is_open(from, to), is_open, "{from} to {to}");
        }
        assert!(fates(&link, 0, 2).iter().all(|fate| *fate == Fate::Cut));

        link.heal();
        link.cut(0, 1);
        assert!(!link.is_open(0, 1));
        assert!(link.is_open(1, 0));
        link.heal();
        assert!(link.is_open(0, 1));
    }

    #[test]
    fn loss_only_delays_a_stream() {
        let calm = Link::new(LinkConfig::default());
        let lossy = Link::new(LinkConfig { loss: 0.3, ..LinkConfig::default() });
        let total = |link: &Link| {
            let mut rng = rng();
            (0..1_000).map(|_| link.stream_delay(20_000, &mut rng)).sum::<Duration>()
        };
        assert!(total(&calm) <= LinkConfig::default().delay_max * 1_000);
        assert!(total(&lossy) > RETRANSMIT_EXTRA * 1_000, "17 packets at 30 % loss: some packet is always lost");
    }

    #[test]
    fn even_total_loss_ends() {
        let dead = Link::new(LinkConfig { loss: 1.0, ..LinkConfig::default() });
        assert!(dead.stream_delay(1, &mut rng()) > RETRANSMIT_EXTRA * (RETRANSMITS_MAX - 1));
    }
}
