//! Being a witness: another member accuses somebody, and asks what we see of both. Knows nothing of what the accuser
//! makes of it.

use std::time::Duration;

use super::salvo::{Purpose, Salvo};
use super::{Act, Detector, Tally};
use crate::peer::{NodeId, Peer};
use crate::time::Time;
use crate::wire::Probe;

/// Accusations of others that we witness at once; further ones are not answered and counted.
pub const HELPS_MAX: usize = 256;

/// Probes that a witness makes in one case, at most.
pub(super) const HELP_PROBES_MAX: u8 = 24;

/// Members that we do not know, or otherwise, about whom we are asked at once: whoever asks could make us probe any
/// address.
const STRANGERS_MAX: usize = 8;

/// How long a witness remembers what it saw for being asked again.
pub(super) const HELP_KEPT: Duration = Duration::from_secs(3);

/// What we see for one accuser in one case.
#[derive(Debug)]
pub(super) struct Help {
    pub(super) accused: Salvo,
    pub(super) accuser: Salvo,
    pub(super) wanted: u8,
    /// How long the accuser would wait for an answer.
    pub(super) wait: Duration,
    /// Whether we know the accused.
    pub(super) is_known: bool,
    pub(super) asked: Time,
    pub(super) is_reported: bool,
}

impl Detector {
    pub(super) fn on_ask(
        &mut self,
        now: Time,
        from: Peer,
        (number, accused): (u32, Peer),
        (probes, wait): (u8, Duration),
        is_known: bool,
    ) {
        self.counts.asks_received += 1;
        let at = (from.id, number);
        if let Some(help) = self.helps.get_mut(&at) {
            help.asked = now;
            if help.is_reported {
                help.wanted = help.wanted.saturating_add(probes.clamp(1, 6)).min(HELP_PROBES_MAX);
                let goes_on = help.accused.pings.len() < usize::from(help.wanted);
                help.is_reported = !goes_on;
                help.accused.next = now;
                // What we have seen so far may have been lost on its way.
                self.report(now, at);
            }
            return;
        }
        if self.helps.len() >= HELPS_MAX {
            self.helps.retain(|_, help| now.since(help.asked) <= HELP_KEPT);
        }
        let strangers = self.helps.values().filter(|help| !help.is_known).count();
        if self.helps.len() >= HELPS_MAX || (!is_known && strangers >= STRANGERS_MAX) {
            self.counts.asks_limited += 1;
            return;
        }
        let help = Help {
            accused: Salvo::new(accused, now),
            accuser: Salvo::new(from, now),
            wanted: probes.clamp(1, 6),
            wait,
            is_known,
            asked: now,
            is_reported: false,
        };
        self.helps.insert(at, help);
        self.step_help(now, at);
    }

    pub(super) fn step_helps(&mut self, now: Time) {
        let due: Vec<_> = self
            .helps
            .iter()
            .filter(|(_, help)| !help.is_reported && help.accused.next <= now)
            .map(|(at, _)| *at)
            .collect();
        for at in due {
            self.step_help(now, at);
        }
    }

    fn step_help(&mut self, now: Time, at: (NodeId, u32)) {
        let help = &self.helps[&at];
        let (accused, accuser) = (help.accused.peer, help.accuser.peer);
        let made = help.accused.pings.len();
        let timeout = self.timeout(accused.id).max(help.wait);
        if made >= usize::from(help.wanted) {
            let last = help.accused.pings.iter().filter(|ping| !ping.was_answered).map(|ping| ping.at + timeout).max();
            let help = self.helps.get_mut(&at).expect("just looked at");
            if let Some(last) = last.filter(|last| *last > now) {
                help.accused.next = last;
                return;
            }
            help.is_reported = true;
            self.report(now, at);
            return;
        }
        let to_accused = self.ping(now, accused, Purpose::Accused(at.0, at.1));
        let to_accuser = self.ping(now, accuser, Purpose::Accuser(at.0, at.1));
        let help = self.helps.get_mut(&at).expect("just looked at");
        help.accused.pings.push(to_accused);
        help.accuser.pings.push(to_accuser);
        // The accuser waits: the next does not wait for this one to be judged.
        help.accused.next = now + timeout / 3;
    }

    fn report(&mut self, now: Time, at: (NodeId, u32)) {
        let help = &self.helps[&at];
        let clip = |tally: Tally| (tally.sent.min(255) as u8, tally.answered.min(255) as u8);
        let accused = clip(help.accused.tally(now, self.timeout(help.accused.peer.id).max(help.wait)));
        let accuser = clip(help.accuser.tally(now, self.timeout(at.0)));
        let to = help.accuser.peer;
        self.acts.push(Act::Say { to, probe: Probe::Report { case: at.1, accused, accuser } });
    }
}
