//! How long a datagram takes one way: distributions with their units.

use std::time::Duration;

use rand::{Rng, RngExt};
use rand_distr::{Distribution, LogNormal, Normal};
use serde::{Deserialize, Serialize};

use crate::units::Span;

/// The longest delay that is ever drawn: a tail without end would be an artefact of the distribution.
const DELAY_MAX: Duration = Duration::from_secs(30);

/// A distribution of one-way delays.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Delay {
    /// Always the same.
    Constant(Span),
    /// Drawn evenly between two spans.
    Uniform(Span, Span),
    /// Normal around a mean; what falls below zero is zero.
    Normal {
        /// The mean.
        mean: Span,
        /// The standard deviation.
        deviation: Span,
    },
    /// A floor that light and switches need, and above it a queue with a long tail.
    Lognormal {
        /// The floor.
        min: Span,
        /// The median of the whole delay; above `min`.
        median: Span,
        /// The standard deviation of the logarithm of what is above the floor: 0.5 is calm, 1.5 wild.
        sigma: f64,
    },
    /// Drawn from what was measured, each value as likely.
    Measured(Vec<Span>),
}

/// A distribution made ready for drawing.
#[derive(Clone, Debug)]
pub(super) enum Sampler {
    Constant(Duration),
    Uniform(u64, u64),
    Normal(Normal<f64>),
    Lognormal(f64, LogNormal<f64>),
    Measured(Vec<Duration>),
}

impl Delay {
    /// A delay of around half a round trip, with a tail of `jitter` (a share of it).
    pub fn of_round_trip(rtt: Duration, jitter: f64) -> Self {
        let min = rtt / 2;
        let median = min.mul_f64(1.0 + jitter) + Duration::from_nanos(1);
        Self::Lognormal { min: Span(min), median: Span(median), sigma: 0.5 }
    }

    /// The mean, as a planner would guess it: for timeouts, not for statistics.
    pub fn typical(&self) -> Duration {
        match self {
            Self::Constant(span) => span.0,
            Self::Uniform(low, high) => (low.0 + high.0) / 2,
            Self::Normal { mean, .. } => mean.0,
            Self::Lognormal { median, .. } => median.0,
            Self::Measured(values) => {
                let sum: Duration = values.iter().map(|value| value.0).sum();
                sum / u32::try_from(values.len().max(1)).unwrap_or(u32::MAX)
            }
        }
    }

    pub(super) fn sampler(&self) -> Result<Sampler, String> {
        let seconds = |span: &Span| span.0.as_secs_f64();
        Ok(match self {
            Self::Constant(span) => Sampler::Constant(span.0),
            Self::Uniform(low, high) if low <= high => {
                Sampler::Uniform(low.0.as_nanos() as u64, high.0.as_nanos() as u64)
            }
            Self::Uniform(low, high) => return Err(format!("delay: {low} is above {high}")),
            Self::Normal { mean, deviation } => Sampler::Normal(
                Normal::new(seconds(mean), seconds(deviation)).map_err(|error| format!("delay: {error}"))?,
            ),
            Self::Lognormal { min, median, .. } if median <= min => {
                return Err(format!("delay: the median {median} is not above the floor {min}"));
            }
            Self::Lognormal { min, median, sigma } => {
                let above = seconds(median) - seconds(min);
                let tail = LogNormal::new(above.ln(), *sigma).map_err(|error| format!("delay: sigma: {error}"))?;
                Sampler::Lognormal(seconds(min), tail)
            }
            Self::Measured(values) if values.is_empty() => return Err("delay: nothing was measured".to_owned()),
            Self::Measured(values) => Sampler::Measured(values.iter().map(|value| value.0).collect()),
        })
    }
}

impl Sampler {
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Duration {
        let seconds = match self {
            Self::Constant(span) => return *span,
            Self::Uniform(low, high) => return Duration::from_nanos(rng.random_range(*low..=*high)),
            Self::Measured(values) => return values[rng.random_range(0..values.len())],
            Self::Normal(normal) => normal.sample(rng),
            Self::Lognormal(min, tail) => min + tail.sample(rng),
        };
        Duration::from_secs_f64(seconds.clamp(0.0, DELAY_MAX.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;

    fn median_ms(delay: &Delay) -> f64 {
        let sampler = delay.sampler().expect("well formed");
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut drawn: Vec<_> = (0..10_001).map(|_| sampler.draw(&mut rng)).collect();
        drawn.sort_unstable();
        drawn[5_000].as_secs_f64() * 1e3
    }

    #[test]
    fn the_median_drawn_is_the_median_asked_for() {
        let ms = Span::from_millis;
        for (delay, expected) in [
            (Delay::Constant(ms(3)), 3.0),
            (Delay::Uniform(ms(2), ms(6)), 4.0),
            (Delay::Normal { mean: ms(10), deviation: ms(2) }, 10.0),
            (Delay::Lognormal { min: ms(5), median: ms(8), sigma: 0.7 }, 8.0),
            (Delay::Measured(vec![ms(1), ms(7), ms(9)]), 7.0),
        ] {
            let median = median_ms(&delay);
            assert!((median - expected).abs() < 0.15, "{delay:?}: {median}");
        }
    }

    #[test]
    fn a_distribution_that_is_none_is_refused() {
        let ms = Span::from_millis;
        assert!(Delay::Uniform(ms(2), ms(1)).sampler().is_err());
        assert!(Delay::Lognormal { min: ms(5), median: ms(5), sigma: 1.0 }.sampler().is_err());
        assert!(Delay::Measured(Vec::new()).sampler().is_err());
    }
}
