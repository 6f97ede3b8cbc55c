//! Settings by what a person knows: what kind of network it is, and within what time a crash shall be known. Knows
//! nothing of where settings are read from.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::detector::{Rtt, Watch};
use crate::knobs::{self, Knob, KnobError, Value};
use crate::node::Tuning;
use crate::promise::{Conditions, Promise};

/// The least that answers may be waited for where a crash shall be known soon, as a part of what the profile has.
const WITHIN_LEAST: u32 = 2;

/// The most that they are waited for: longer, and the witnesses would not be done while a case is open.
const WITHIN_MOST: Duration = Duration::from_millis(400);

/// The most tries that are derived.
const TRIES_MOST: usize = 6;

/// The shortest period that is derived; it may be set to less.
const OBSERVE_LEAST: Duration = Duration::from_millis(100);

/// The longest.
const OBSERVE_MOST: Duration = Duration::from_secs(60);

/// What kind of network the members live in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Profile {
    /// One data centre, or one region: round trips of a few milliseconds. What ships.
    #[default]
    Lan,
    /// Regions far apart: round trips of up to some hundred milliseconds.
    Wan,
    /// One machine, as in tests and at a developer's desk.
    Local,
}

impl Profile {
    /// Every profile.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Wan, Self::Local];

    /// What it is called.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
            Self::Local => "local",
        }
    }

    /// Its settings.
    pub fn tuning(self) -> Tuning {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let shipped = Tuning::default();
        match self {
            Self::Lan => shipped,
            Self::Wan => Tuning {
                probe_period: s(10),
                probe_rtt: s(2),
                gossip_period: ms(500),
                watch: Watch { observe_every: s(2), answer_within: ms(300), evict_after: s(60), ..shipped.watch },
                ..shipped
            },
            // Processes of one machine wait for its processors rather than for the network: to wait for less than
            // this would accuse whoever is not scheduled.
            Self::Local => Tuning {
                probe_period: s(2),
                probe_rtt: ms(200),
                gossip_period: ms(100),
                watch: Watch { observe_every: ms(500), answer_within: ms(60), evict_after: s(15), ..shipped.watch },
                ..shipped
            },
        }
    }

    /// The network that it is meant for, and a hundred members: what is promised before anything was measured.
    pub fn conditions(self) -> Conditions {
        let rtt = |smoothed, deviation| Rtt {
            smoothed: Duration::from_micros(smoothed),
            deviation: Duration::from_micros(deviation),
        };
        let rtt = match self {
            Self::Lan => rtt(2_200, 900),
            // Five regions on four continents, all pairs of members.
            Self::Wan => rtt(133_000, 60_000),
            Self::Local => rtt(60, 30),
        };
        Conditions { members: 100, rtt: Some(rtt), answered: 1.0 }
    }

    /// Its settings, but that a crash is known to everybody within this time, where no probe is lost: the periods and
    /// timeouts follow from it, at the least traffic.
    ///
    /// # Errors
    /// [`KnobError::Range`] with what can be reached.
    pub fn detecting_within(self, within: Duration) -> Result<Tuning, KnobError> {
        self.derive(&self.tuning(), within)
    }

    /// Derives the periods and timeouts of `base` from the time.
    fn derive(self, base: &Tuning, within: Duration) -> Result<Tuning, KnobError> {
        let conditions = self.conditions();
        let worst = |tuning: &Tuning| Promise::of(tuning, &conditions).detect_worst;
        let with = |observe_every: Duration, answer_within: Duration, tries: usize| {
            let watch = Watch { observe_every, answer_within, tries, ..base.watch.clone() };
            Tuning { watch, ..base.clone() }
        };
        // All that is waited for grows and shrinks alike; what is left is the period.
        let scale = within.as_secs_f64() / worst(base).as_secs_f64();
        let least = base.watch.answer_within / WITHIN_LEAST;
        let answer_within = base.watch.answer_within.mul_f64(scale).clamp(least, WITHIN_MOST.max(least));
        let answer_within = Duration::from_millis(answer_within.as_millis() as u64);
        // With time to spare, fewer members are asked about for a burst of loss.
        let more = if scale >= 4.0 { 2 } else { usize::from(scale >= 2.0) };
        let rest = |tries| worst(&with(OBSERVE_LEAST, answer_within, tries)) - OBSERVE_LEAST;
        let fewest = (base.watch.tries - 1).max(1);
        let tries = [(base.watch.tries + more).min(TRIES_MOST), base.watch.tries, fewest]
            .into_iter()
            .find(|tries| rest(*tries) + OBSERVE_LEAST <= within);
        let reach = |tuning: &Tuning| Duration::from_millis(worst(tuning).as_millis() as u64 + 1);
        let out_of_reach = || KnobError::Range {
            name: "detect_within",
            least: Value::Span(reach(&with(OBSERVE_LEAST, least, fewest))).to_string(),
            most: Value::Span(OBSERVE_MOST).to_string(),
            found: Value::Span(within).to_string(),
        };
        let tries = tries.filter(|_| within <= OBSERVE_MOST).ok_or_else(out_of_reach)?;
        let observe_every = Duration::from_millis((within - rest(tries)).as_millis() as u64);
        Ok(with(observe_every, answer_within, tries))
    }

    /// The settings of a member: those of the profile, or what `detect_within` makes of them; `explicit` ones win.
    ///
    /// # Errors
    /// As for [`detecting_within`](Self::detecting_within) and [`knobs::check`]; [`KnobError::Together`] if with the
    /// explicit ones a crash cannot be known within that time.
    pub fn settle<'k>(
        self,
        detect_within: Option<Duration>,
        explicit: impl IntoIterator<Item = &'k (&'static Knob, Value)>,
    ) -> Result<Tuning, KnobError> {
        let explicit: Vec<_> = explicit.into_iter().collect();
        let set = |tuning: &mut Tuning| explicit.iter().try_for_each(|(knob, value)| knob.set(tuning, *value));
        let mut tuning = self.tuning();
        set(&mut tuning)?;
        if let Some(within) = detect_within {
            // What is set explicitly counts in what is derived, and is not derived itself.
            tuning = self.derive(&tuning, within)?;
            set(&mut tuning)?;
        }
        knobs::check(&tuning)?;
        let worst = Promise::of(&tuning, &self.conditions()).detect_worst;
        if let Some(within) = detect_within.filter(|within| worst > *within) {
            let Watch { observe_every, answer_within, tries, .. } = tuning.watch;
            let [within, worst, observe_every, answer_within] =
                [within, Duration::from_millis(worst.as_millis() as u64), observe_every, answer_within]
                    .map(Value::Span);
            let what = format!(
                "with observe_every={observe_every}, answer_within={answer_within} and tries={tries} a crash may take \
                 {worst} to be known, and detect_within is {within}"
            );
            return Err(KnobError::Together(what));
        }
        Ok(tuning)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Profile {
    type Err = KnobError;

    fn from_str(name: &str) -> Result<Self, KnobError> {
        let unknown = || KnobError::Unreadable {
            name: "profile",
            expected: "lan, wan or local",
            found: name.chars().take(64).collect(),
        };
        Self::ALL.into_iter().find(|profile| profile.as_str() == name).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_goes_together_and_is_read_by_its_name() {
        for profile in Profile::ALL {
            assert_eq!(knobs::check(&profile.tuning()), Ok(()));
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert_eq!(Profile::default().tuning(), Tuning::default());
        let error = "moon".parse::<Profile>().expect_err("no such network").to_string();
        assert_eq!(error, "profile is lan, wan or local, not \"moon\"");
    }

    #[test]
    fn what_is_asked_for_is_promised_and_no_more_than_that_is_paid() {
        for profile in Profile::ALL {
            for ms in [1_200, 1_500, 2_000, 3_000, 5_000, 10_000, 30_000, 60_000] {
                let within = Duration::from_millis(ms);
                let Ok(tuning) = profile.settle(Some(within), &[]) else {
                    assert!(profile == Profile::Wan && ms <= 2_000, "{profile} {ms}");
                    continue;
                };
                assert_eq!(knobs::check(&tuning), Ok(()), "{profile} {ms}");
                let worst = Promise::of(&tuning, &profile.conditions()).detect_worst;
                assert!(worst <= within && worst + Duration::from_millis(2) >= within, "{profile} {ms}: {worst:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_reached_is_refused_with_what_can() {
        let error = Profile::Lan.detecting_within(Duration::from_millis(50)).expect_err("too soon").to_string();
        let least = error.strip_prefix("detect_within is from ").and_then(|rest| rest.split(' ').next());
        let least = least.and_then(|span| span.strip_suffix("ms")).and_then(|ms| ms.parse().ok()).expect("a span");
        assert!(Profile::Lan.detecting_within(Duration::from_millis(least)).is_ok(), "{error}");
        assert!(Profile::Lan.detecting_within(Duration::from_millis(least - 5)).is_err(), "{error}");
        assert!(Profile::Lan.detecting_within(Duration::from_secs(61)).is_err());
    }

    #[test]
    fn what_is_set_explicitly_wins_or_is_told_to_be_in_the_way() {
        let explicit = |text| knobs::parse(text).expect("it is one");
        let tuning = Profile::Wan.settle(None, &[explicit("tries=5")]).expect("they go together");
        assert_eq!((tuning.watch.tries, tuning.watch.observe_every), (5, Duration::from_secs(2)));
        let within = Some(Duration::from_secs(2));
        let tuning = Profile::Lan.settle(within, &[explicit("observe_every=500ms")]).expect("sooner than asked");
        assert_eq!(tuning.watch.observe_every, Duration::from_millis(500));
        let error = Profile::Lan.settle(within, &[explicit("observe_every=5s")]).expect_err("too slow").to_string();
        assert!(error.contains("observe_every=5s") && error.contains("detect_within is 2s"), "{error}");
    }
}
