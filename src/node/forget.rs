//! An operator's word that a member is gone: made sure of first, so that nobody who lives is forgotten by mistake, then
//! told to everybody. It ends what a suspected split would hold.

use std::time::Duration;

use super::Node;
use crate::effect::{Event, InputError, NotForgotten, Outbox};
use crate::peer::{MemberState, NodeId};
use crate::story::Seen;
use crate::time::Time;
use crate::verdict::Finding;

/// Members being forgotten at once; further ones are refused and counted.
pub const FORGETS_MAX: usize = 64;

/// Whoever was heard this shortly ago lives. What it said before it was gone must have come in by then.
pub(super) const HEARD_WITHIN: Duration = Duration::from_millis(1_500);

impl Node {
    /// An operator says that a member is gone. If all looks so, others are asked once more, and the outcome is told by
    /// [`Event::Forgetting`].
    pub(super) fn forget(&mut self, now: Time, id: NodeId, out: &mut Outbox) -> Result<(), InputError> {
        self.may_forget(now, id).map_err(InputError::NotForgotten)?;
        if self.forgetting.contains(&id) {
            return Ok(());
        }
        if self.forgetting.len() >= FORGETS_MAX {
            self.counters.forgets_limited += 1;
            return Err(InputError::NotForgotten(NotForgotten::TooMany { limit: FORGETS_MAX }));
        }
        self.forgetting.insert(id);
        self.story.tell(now, id, Seen::GivenUp);
        self.detector.make_sure(now, id, &self.roster, &mut self.rng);
        self.heed_detector(now, out);
        self.look_at_forgetting(out);
        Ok(())
    }

    fn may_forget(&self, now: Time, id: NodeId) -> Result<(), NotForgotten> {
        if self.has_left || id == self.config.id {
            return Err(NotForgotten::Ourselves);
        }
        if self.is_cut_off() {
            return Err(NotForgotten::CutOff);
        }
        let entry = self.roster.get(id).ok_or(NotForgotten::Unknown { id })?;
        let heard = entry.evidence.last().map(|at| now.since(at));
        match entry.state {
            MemberState::Unreachable => match heard {
                Some(ago) if ago < HEARD_WITHIN => Err(NotForgotten::Heard { ago }),
                _ => Ok(()),
            },
            state @ (MemberState::Reachable | MemberState::Suspect) => Err(NotForgotten::Reachable { state }),
            state @ (MemberState::Down | MemberState::Left) => Err(NotForgotten::Gone { state }),
        }
    }

    /// Whether an operator waits for this member to be found gone.
    pub(super) fn is_forgetting(&self, id: NodeId) -> bool {
        self.forgetting.contains(&id)
    }

    /// Others reach it, or it could not be decided: then it stays.
    pub(super) fn not_gone(&mut self, id: NodeId, by: Option<NodeId>, out: &mut Outbox) {
        if self.forgetting.remove(&id) {
            let why = by.map_or(NotForgotten::Undecided, |by| NotForgotten::Answers { by });
            out.events.push(Event::Forgetting { id, result: Err(why) });
        }
    }

    /// Tells what became of members that an operator has given up: each as soon as nobody is being asked any more.
    pub(super) fn look_at_forgetting(&mut self, out: &mut Outbox) {
        let mut over = Vec::new();
        for &id in &self.forgetting {
            let result = match self.roster.get(id).map(|entry| (entry.state, entry.standing.finding)) {
                None | Some((MemberState::Down | MemberState::Left, _)) => Ok(()),
                Some((state @ (MemberState::Reachable | MemberState::Suspect), _)) => {
                    Err(NotForgotten::Reachable { state })
                }
                Some((MemberState::Unreachable, Finding::Clear)) => Err(NotForgotten::Undecided),
                Some((MemberState::Unreachable, _)) if !self.detector.has_case(id) => Err(NotForgotten::Undecided),
                Some((MemberState::Unreachable, _)) => continue,
            };
            over.push((id, result));
        }
        for (id, result) in over {
            self.forgetting.remove(&id);
            out.events.push(Event::Forgetting { id, result });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Nodes, addr};
    use super::*;
    use crate::effect::Input;

    fn forget(nodes: &mut Nodes, at: u16, id: u16) -> Result<(), InputError> {
        nodes.tell(addr(at), Input::Forget(NodeId(id.into())))
    }

    fn outcomes(nodes: &Nodes, at: u16) -> Vec<Result<(), NotForgotten>> {
        let of = |event: &Event| match event {
            Event::Forgetting { result, .. } => Some(result.clone()),
            _ => None,
        };
        nodes.events_of(at).filter_map(of).collect()
    }

    fn states(nodes: &Nodes, observers: &[u16], subject: u16) -> Vec<MemberState> {
        let of = |n: &u16| nodes.node(*n).reachability(NodeId(subject.into())).expect("a member").state;
        observers.iter().map(of).collect()
    }

    #[test]
    fn an_unreachable_member_is_gone_everywhere_soon_after_an_operator_says_so() {
        let mut nodes = Nodes::joined(7);
        nodes.run(Duration::from_secs(2));
        nodes.stop(4);
        nodes.run(Duration::from_secs(4));
        forget(&mut nodes, 1, 4).expect("it is unreachable");
        forget(&mut nodes, 1, 4).expect("it is being forgotten already");
        nodes.run(Duration::from_secs(6));
        assert_eq!(outcomes(&nodes, 1), [Ok(())]);
        assert_eq!(states(&nodes, &[1, 2, 3, 5, 6, 7], 4), [MemberState::Down; 6]);
        let told: Vec<String> = nodes.node(1).explain(NodeId(4)).map(|line| line.seen.to_string()).collect();
        assert!(told.iter().any(|line| line.contains("an operator")), "{told:?}");
        assert!(told.last().is_some_and(|line| line.contains("forgotten")), "{told:?}");
        let refused = forget(&mut nodes, 2, 4).expect_err("it is down").to_string();
        assert_eq!(refused, "it is down already");
    }

    #[test]
    fn a_split_holds_nobody_whom_an_operator_gives_up() {
        let mut nodes = Nodes::joined(8);
        nodes.run(Duration::from_secs(2));
        (6..=8).for_each(|n| nodes.stop(n));
        nodes.run(Duration::from_secs(90));
        assert_eq!(states(&nodes, &[1, 2, 3, 4, 5], 7), [MemberState::Unreachable; 5], "the split holds it");
        forget(&mut nodes, 2, 7).expect("it is unreachable");
        nodes.run(Duration::from_secs(10));
        assert_eq!(states(&nodes, &[1, 2, 3, 4, 5], 7), [MemberState::Down; 5]);
        assert_eq!(states(&nodes, &[1, 2, 3, 4, 5], 8), [MemberState::Unreachable; 5], "of it nobody said so");
    }

    #[test]
    fn a_member_that_lives_cannot_be_forgotten() {
        let mut nodes = Nodes::joined(6);
        nodes.run(Duration::from_secs(2));
        let refused = |nodes: &mut Nodes, id| forget(nodes, 1, id).expect_err("it lives").to_string();
        assert!(refused(&mut nodes, 3).contains("only a member that is unreachable"));
        assert!(refused(&mut nodes, 1).contains("itself"));
        assert!(refused(&mut nodes, 99).contains("no member"));
        // It is accused and cleared, and accused again so soon that it must bear it.
        crate::node::judged::accuse(&mut nodes, 1);
        nodes.run(Duration::from_millis(300));
        crate::node::judged::accuse(&mut nodes, 3);
        assert_eq!(states(&nodes, &[1], 3), [MemberState::Unreachable], "and yet it lives");
        let before = nodes.node(1).counters().members_down;
        for observer in [1, 4, 5, 6] {
            // Refused at once by whoever has just heard it, and else by those that are asked.
            let _ = forget(&mut nodes, observer, 3);
            nodes.run(Duration::from_secs(5));
            let outcomes = outcomes(&nodes, observer);
            assert!(outcomes.iter().all(Result::is_err), "at {observer}: {outcomes:?}");
        }
        assert_eq!(nodes.node(1).counters().members_down, before);
        assert!(nodes.node(3).peer().generation.bump() == 0, "it never had to begin another life");
    }

    #[test]
    fn the_last_but_one_of_a_cluster_can_be_given_up() {
        let mut nodes = Nodes::joined(2);
        nodes.run(Duration::from_secs(2));
        nodes.stop(2);
        nodes.run(Duration::from_secs(60));
        assert_ne!(states(&nodes, &[1], 2), [MemberState::Down], "without a witness nobody is gone by itself");
        let result = forget(&mut nodes, 1, 2);
        nodes.run(Duration::from_secs(10));
        assert!(result.is_ok() && outcomes(&nodes, 1) == [Ok(())], "{result:?} {:?}", outcomes(&nodes, 1));
    }

    #[test]
    fn so_many_are_forgotten_at_once_and_no_more() {
        let mut nodes = Nodes::joined(5);
        nodes.run(Duration::from_secs(2));
        nodes.stop(5);
        nodes.run(Duration::from_secs(4));
        nodes.node_mut(1).forgetting = (1_000..).take(FORGETS_MAX).map(NodeId).collect();
        let refused = forget(&mut nodes, 1, 5).expect_err("too many");
        assert_eq!(refused, InputError::NotForgotten(NotForgotten::TooMany { limit: FORGETS_MAX }));
        assert_eq!(nodes.node(1).counters().forgets_limited, 1);
    }
}
