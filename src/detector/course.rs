//! What is to be expected: how long the detector takes from its first probe of a silent member until it says so, by the
//! very figures that it goes by, and how long whoever is accused and well takes to refute it. Knows nothing of how that
//! is told to everybody.

use std::time::Duration;

use super::case::probes_wanted;
use super::link::{Answers, Rtt};
use super::{FIRST_TIMEOUT, TRIES_MAX, Watch};

/// For how long a verdict must stand, at least and at most, before it is believed to last. In one data centre 20 ms
/// were as good as 30 in the simulator, where nobody waits for a processor. A longer doubt would cost more than it
/// spares.
const REFUTED_WITHIN_MIN: Duration = Duration::from_millis(30);
const REFUTED_WITHIN_MAX: Duration = Duration::from_millis(250);

/// How much longer an answer may take on a link that nobody knows than what is usual.
pub(super) fn unknown(usual: Option<Rtt>, least: Duration) -> Duration {
    usual.map_or(FIRST_TIMEOUT.max(least), |rtt| rtt.timeout(least) * 3 / 2)
}

/// The probes of an attempt, when this share of probes is answered.
fn tries(watch: &Watch, answers: Answers) -> u8 {
    answers.tries(u8::try_from(watch.tries).unwrap_or(TRIES_MAX).min(TRIES_MAX), TRIES_MAX)
}

/// From the first probe of a member that is silent until its observer finds it so: an attempt, and a case.
///
/// `usual` is the round trip over all links, `answered` the share of probes that is answered.
pub(crate) fn until_convicted(watch: &Watch, usual: Option<Rtt>, answered: f64) -> Duration {
    let least = watch.answer_within;
    // The observer knows its link. How far that is from what is usual, nobody knows; that it is not steady in itself is
    // the lesser part of the deviation over all links.
    let known = usual.map_or(FIRST_TIMEOUT.max(least), |rtt| least.max(rtt.smoothed + rtt.deviation));
    let answers = Answers::with_ratio(answered);
    let attempt = known * u32::from(tries(watch, answers));
    // Those that are asked need not know the accused. They probe at every third of their timeout, and report when the
    // last probe has waited for the whole of it. The failed attempt makes the link look worse.
    let mut seen = answers;
    seen.note(false);
    let probes = probes_wanted(seen.ratio(), u32::from(tries(watch, answers)), watch.witnesses);
    let timeout = unknown(usual, least);
    let witness = timeout + timeout / 3 * u32::from(probes - 1);
    attempt + witness + usual.map_or(Duration::ZERO, |rtt| rtt.smoothed)
}

/// From a verdict on a member that lives until its refutation is here: as long as an answer over a usual link takes.
/// In the first moments after a short cut verdicts that were right come to the other side, and all are refuted: of half
/// of 20 members that were split off for 3 s, no program heard of any, where 36 were told of some in 20 such splits.
pub(crate) fn until_refuted(usual: Option<Rtt>) -> Duration {
    let answer = usual.map_or(Duration::ZERO, |rtt| rtt.smoothed + rtt.deviation);
    answer.clamp(REFUTED_WITHIN_MIN, REFUTED_WITHIN_MAX)
}

/// The probes that an attempt makes of a member that lives, in the mean.
pub(crate) fn probes_of_an_attempt(watch: &Watch, answered: f64) -> f64 {
    let answers = Answers::with_ratio(answered);
    (0..tries(watch, answers)).map(|made| (1.0 - answers.ratio()).powi(i32::from(made))).sum()
}
