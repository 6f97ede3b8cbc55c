//! An accusation under trial: what the accuser and its witnesses saw of the accused, and when that is enough.
//!
//! A sequential probability ratio test (Wald, Annals of Mathematical Statistics 16, 1945) between two stories: the
//! accused answers as others do, or it answers to a fraction of that at most. How often others answer is measured in
//! the very same moments, on the links between the witnesses and the accuser, so that loss that befalls everybody, or
//! the accuser alone, speaks for the accused. Knows nothing of time or of messages.

use std::collections::BTreeMap;

use crate::peer::NodeId;

/// A member whose answers are fewer than this part of what others give is faulty.
const FAULTY_SHARE: f64 = 0.25;

/// A witness that has at least this part of the usual answers reaches the accused well, and clears it.
const REACHED_SHARE: f64 = 0.6;

/// Probes that a witness must have made before its word alone clears.
const REACHED_PROBES_MIN: u32 = 4;

/// A witness whose share of answers is at most this found the same as the accuser.
const AGREES_SHARE: f64 = 0.4;

/// The natural logarithm of how much likelier the one story must be: twenty is one in 485 million.
const CONVICTED_AT: f64 = 20.0;
const CLEARED_AT: f64 = -8.0;

/// The usual share of answers is never taken to be better than this, nor worse.
const USUAL_MAX: f64 = 0.95;
const USUAL_MIN: f64 = 0.15;

/// How many standard deviations the usual share is taken to be below what was seen: a few lucky answers of the accuser
/// must not make the accused look bad.
const DOUBT: f64 = 2.0;

/// How many probes of a usual link the first guess weighs.
const GUESS_WEIGHT: f64 = 6.0;

/// Unanswered probes after which a member is found silent by the only other one.
const ALONE_PROBES: u32 = 8;

/// Witnesses that a verdict needs where there are as many.
pub(super) const QUORUM: usize = 3;

/// Probes made, and how many of them were answered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) sent: u32,
    pub(crate) answered: u32,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.answered += other.answered;
    }

    fn share(self) -> f64 {
        if self.sent == 0 { 0.0 } else { f64::from(self.answered) / f64::from(self.sent) }
    }
}

/// What one witness saw.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Testimony {
    /// Of the accused.
    pub(crate) accused: Tally,
    /// Of the accuser, in the same moments.
    pub(crate) accuser: Tally,
}

/// How a case stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Ruling {
    /// More is to be seen.
    Open,
    /// Others reach the accused.
    Cleared { by: Option<NodeId> },
    /// They do not.
    Convicted { witnesses: u8, is_lossy: bool },
}

/// How the case stands, given what the accuser itself saw, what it saw of links of late (`guess`), and the witnesses.
/// `quorum` is how many witnesses are needed, and `probes` the least number of probes of the accused.
pub(super) fn rule(
    own: Tally,
    guess: f64,
    testimonies: &BTreeMap<NodeId, Testimony>,
    quorum: usize,
    probes: u32,
) -> Ruling {
    let mut accused = own;
    let mut control = Tally::default();
    for testimony in testimonies.values() {
        accused.add(testimony.accused);
        control.add(testimony.accuser);
    }
    let usual = usual(guess, control);
    let reaches = |seen: &Tally| seen.sent >= REACHED_PROBES_MIN && seen.share() >= REACHED_SHARE * usual;
    if let Some((by, _)) = testimonies.iter().find(|(_, testimony)| reaches(&testimony.accused)) {
        return Ruling::Cleared { by: Some(*by) };
    }
    let faulty = FAULTY_SHARE * usual;
    let silence = ((1.0 - faulty) / (1.0 - usual)).ln();
    let answer = FAULTY_SHARE.ln();
    let evidence = f64::from(accused.sent - accused.answered) * silence + f64::from(accused.answered) * answer;
    if evidence <= CLEARED_AT {
        return Ruling::Cleared { by: None };
    }
    let agrees = |seen: &Tally| seen.sent >= 2 && seen.share() <= AGREES_SHARE * usual;
    let witnesses = testimonies.values().filter(|testimony| agrees(&testimony.accused)).count();
    // Where nobody else is, silence is all that can be known.
    let is_enough = evidence >= CONVICTED_AT || (quorum == 0 && accused.answered == 0 && accused.sent >= ALONE_PROBES);
    if is_enough && witnesses >= quorum && (quorum == 0 || accused.sent >= probes) {
        let witnesses = u8::try_from(witnesses).unwrap_or(u8::MAX);
        return Ruling::Convicted { witnesses, is_lossy: accused.answered > 0 };
    }
    Ruling::Open
}

/// The share of answers that is usual: what was seen of links of late and in these moments, at the lower end of what
/// that may stand for (Wilson's score interval, 1927).
fn usual(guess: f64, control: Tally) -> f64 {
    let n = f64::from(control.sent) + GUESS_WEIGHT;
    let seen = (f64::from(control.answered) + guess.clamp(0.0, 1.0) * GUESS_WEIGHT) / n;
    let square = DOUBT * DOUBT;
    let spread = DOUBT * (seen * (1.0 - seen) / n + square / (4.0 * n * n)).sqrt();
    ((seen + square / (2.0 * n) - spread) / (1.0 + square / n)).clamp(USUAL_MIN, USUAL_MAX)
}

/// How many probes each of `witnesses` should make at first, so that silence alone would be enough.
pub(super) fn probes_wanted(guess: f64, own: u32, witnesses: usize) -> u8 {
    let controls = Tally { sent: 2 * witnesses as u32, answered: (2.0 * witnesses as f64 * guess) as u32 };
    let usual = usual(guess, controls);
    let silence = ((1.0 - FAULTY_SHARE * usual) / (1.0 - usual)).ln();
    let wanted = (CONVICTED_AT / silence).ceil() - f64::from(own);
    // A third of the witnesses' reports may be lost.
    let each = wanted / (witnesses.max(1) as f64 * 0.66);
    (each.ceil().max(0.0) as u8).clamp(2, 6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::rngs::Xoshiro256PlusPlus;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn tally(sent: u32, answered: u32) -> Tally {
        Tally { sent, answered }
    }

    fn testimonies(each: &[(Tally, Tally)]) -> BTreeMap<NodeId, Testimony> {
        each.iter().zip(1..).map(|(&(accused, accuser), id)| (NodeId(id), Testimony { accused, accuser })).collect()
    }

    #[test]
    fn silence_at_a_quorum_on_clean_links_convicts() {
        let seen = testimonies(&[(tally(3, 0), tally(3, 3)); 4]);
        let ruling = rule(tally(4, 0), 1.0, &seen, QUORUM, 0);
        assert_eq!(ruling, Ruling::Convicted { witnesses: 4, is_lossy: false });
    }

    #[test]
    fn whoever_is_silent_for_as_many_probes_as_were_wanted_is_convicted_on_lossy_links_too() {
        let seen = |probes, answers| testimonies(&[(tally(probes, 0), tally(probes, answers)); 4]);
        assert_eq!(rule(tally(9, 0), 0.8, &seen(16, 13), QUORUM, 74), Ruling::Open);
        let convicted = Ruling::Convicted { witnesses: 4, is_lossy: false };
        assert_eq!(rule(tally(9, 0), 0.8, &seen(17, 14), QUORUM, 74), convicted);
        assert_eq!(rule(tally(9, 0), 0.5, &seen(24, 12), QUORUM, 74), convicted);
    }

    #[test]
    fn silence_at_fewer_than_a_quorum_does_not() {
        let seen = testimonies(&[(tally(9, 0), tally(9, 9)); 2]);
        assert_eq!(rule(tally(20, 0), 1.0, &seen, QUORUM, 0), Ruling::Open);
    }

    #[test]
    fn one_witness_that_reaches_the_accused_clears_it() {
        let mut each = vec![(tally(6, 0), tally(6, 6)); 5];
        each.push((tally(4, 4), tally(4, 4)));
        assert_eq!(rule(tally(9, 0), 1.0, &testimonies(&each), QUORUM, 0), Ruling::Cleared { by: Some(NodeId(6)) });
    }

    #[test]
    fn an_accuser_whose_own_links_are_bad_convicts_nobody() {
        // The witnesses do not reach the accuser either.
        let seen = testimonies(&[(tally(3, 0), tally(3, 0)); 4]);
        assert_eq!(rule(tally(4, 0), 0.9, &seen, QUORUM, 0), Ruling::Open);
    }

    #[test]
    fn a_member_behind_heavy_loss_is_faulty_and_one_as_lossy_as_all_is_not() {
        let seen = testimonies(&[(tally(8, 1), tally(8, 8)); 4]);
        let ruling = rule(tally(8, 1), 0.98, &seen, QUORUM, 0);
        assert_eq!(ruling, Ruling::Convicted { witnesses: 4, is_lossy: true });
        let seen = testimonies(&[(tally(8, 4), tally(8, 4)); 4]);
        assert!(matches!(rule(tally(8, 0), 0.5, &seen, QUORUM, 0), Ruling::Cleared { .. }));
    }

    /// The promise behind the threshold, where it can be counted: at 20 % loss each way no member that lives is
    /// convicted in 20,000 cases that begin with three lost probes.
    #[test]
    fn lossy_links_convict_nobody() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut sample =
            |share: f64, sent: u32| tally(sent, (0..sent).filter(|_| rng.random_bool(share)).count() as u32);
        let answers = 0.8 * 0.8;
        for _ in 0..20_000 {
            let mut own = tally(3, 0);
            let mut seen = testimonies(&[(Tally::default(), Tally::default()); 6]);
            for _ in 0..8 {
                own.add(sample(answers, 1));
                for testimony in seen.values_mut() {
                    testimony.accused.add(sample(answers, 1));
                    testimony.accuser.add(sample(answers, 1));
                }
                match rule(own, 1.0, &seen, QUORUM, 0) {
                    Ruling::Open => {}
                    Ruling::Cleared { .. } => break,
                    convicted @ Ruling::Convicted { .. } => panic!("{convicted:?} on {own:?} and {seen:?}"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_convict_ever_had_a_quorum_that_reached_it(
            own in (0u32..20, 0u32..20),
            each in proptest::collection::vec(((0u32..12, 0u32..12), (0u32..12, 0u32..12)), 0..8),
            guess in 0.0f64..1.0,
        ) {
            let clip = |(sent, answered): (u32, u32)| tally(sent, answered.min(sent));
            let each: Vec<_> = each.into_iter().map(|(a, b)| (clip(a), clip(b))).collect();
            if let Ruling::Convicted { witnesses, .. } = rule(clip(own), guess, &testimonies(&each), QUORUM, 0) {
                let silent = each.iter().filter(|(seen, _)| seen.sent >= 2 && seen.share() < 0.5).count();
                prop_assert!(usize::from(witnesses) >= QUORUM && silent >= QUORUM);
            }
        }
    }
}
