//! The trial of an accused member that answers again: whether it answers as others do. Knows nothing of who accused it.

use std::time::Duration;

use super::salvo::Purpose;
use super::{Act, Detector, Tally};
use crate::time::Time;

/// Probes of a trial, how long after each other, and the share of the usual answers that ends the accusation.
const TRIAL_PROBES: u8 = 16;
pub(super) const TRIAL_EVERY: Duration = Duration::from_millis(150);
const TRIAL_SHARE: f64 = 0.8;

impl Detector {
    pub(super) fn step_trials(&mut self, now: Time) {
        let due: Vec<_> = self.trials.iter().filter(|(_, salvo)| salvo.next <= now).map(|(id, _)| *id).collect();
        for id in due {
            let salvo = &self.trials[&id];
            let peer = salvo.peer;
            if salvo.pings.len() < usize::from(TRIAL_PROBES) {
                let ping = self.ping(now, peer, Purpose::Trial);
                let salvo = self.trials.get_mut(&id).expect("just looked at");
                salvo.pings.push(ping);
                salvo.next = now + TRIAL_EVERY;
                continue;
            }
            let timeout = self.timeout(id);
            let salvo = self.trials.remove(&id).expect("just looked at");
            let Tally { sent, answered } = salvo.tally(now, timeout);
            if f64::from(answered) >= TRIAL_SHARE * self.answers.ratio() * f64::from(sent) {
                self.counts.releases += 1;
                self.acts.push(Act::Release { peer, sent, answered });
            }
        }
    }
}
