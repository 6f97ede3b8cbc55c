//! Every name that was heard of, so that one that has nothing to offer now is told from one that never was. Names are
//! the same whatever their case, as DNS has it; the view knows them as they were written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::Event;
use crate::view::Reader;

/// Names of services and members that are remembered; past that, those that are gone are forgotten.
pub const HEARD_MAX: usize = 65_536;

#[derive(Clone, Default, Debug)]
pub(super) struct Heard {
    /// In lower case, with each way of writing it.
    services: BTreeMap<Box<str>, Vec<Arc<str>>>,
    nodes: BTreeSet<Box<str>>,
    /// What stands behind a dot within such a name: it has a name below it, and so is there.
    service_branches: BTreeSet<Box<str>>,
    node_branches: BTreeSet<Box<str>>,
}

/// Names that may be new.
#[derive(Default, Debug)]
pub(super) struct News {
    pub(super) services: BTreeSet<Arc<str>>,
    pub(super) nodes: BTreeSet<Arc<str>>,
    /// Something was missed: look at everything.
    pub(super) everything: bool,
}

impl News {
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::ServiceUp { instance, .. } | Event::ServiceChanged { instance, .. } => {
                self.services.insert(Arc::clone(&instance.service));
            }
            Event::MemberUp(member) | Event::MemberChanged(member) => {
                self.nodes.insert(Arc::clone(&member.name));
            }
            _ => {}
        }
    }
}

impl Heard {
    /// What is known now.
    pub(super) fn of(reader: &Reader) -> Self {
        let mut heard = Self::default();
        reader.services().iter().for_each(|service| heard.add_service(service.name()));
        reader.members().iter().for_each(|member| heard.add_node(&member.name));
        heard
    }

    /// How many names these are.
    pub(super) fn len(&self) -> usize {
        self.services.values().map(Vec::len).sum::<usize>() + self.nodes.len()
    }

    /// Whether any of these was not heard of before.
    pub(super) fn lacks(&self, news: &News) -> bool {
        let knows_service = |name: &Arc<str>| {
            let written = self.services.get(name.to_ascii_lowercase().as_str());
            written.is_some_and(|written| written.contains(name))
        };
        news.everything
            || !news.services.iter().all(knows_service)
            || !news.nodes.iter().all(|name| self.nodes.contains(name.to_ascii_lowercase().as_str()))
    }

    /// These names, and what was heard of before; if that is too much, only what is known now.
    pub(super) fn with(&self, news: &News, reader: &Reader) -> (Self, bool) {
        let mut heard = self.clone();
        if news.everything {
            reader.services().iter().for_each(|service| heard.add_service(service.name()));
            reader.members().iter().for_each(|member| heard.add_node(&member.name));
        }
        news.services.iter().for_each(|name| heard.add_service(name));
        news.nodes.iter().for_each(|name| heard.add_node(name));
        if heard.len() <= HEARD_MAX { (heard, false) } else { (Self::of(reader), true) }
    }

    /// The ways of writing the name of a service; `None` if it was never heard of.
    pub(super) fn service(&self, lower: &str) -> Option<&[Arc<str>]> {
        self.services.get(lower).map(Vec::as_slice)
    }

    /// Whether a service was heard of whose name ends with a dot and this.
    pub(super) fn is_service_branch(&self, lower: &str) -> bool {
        self.service_branches.contains(lower)
    }

    /// Whether this is, or ends, the name of a member that was heard of.
    pub(super) fn is_node(&self, lower: &str) -> bool {
        self.nodes.contains(lower) || self.node_branches.contains(lower)
    }

    fn add_service(&mut self, name: &Arc<str>) {
        let lower = name.to_ascii_lowercase();
        branches(&lower, &mut self.service_branches);
        let written = self.services.entry(lower.into()).or_default();
        if !written.contains(name) {
            written.push(Arc::clone(name));
        }
    }

    fn add_node(&mut self, name: &str) {
        let lower = name.to_ascii_lowercase();
        branches(&lower, &mut self.node_branches);
        self.nodes.insert(lower.into());
    }
}

fn branches(name: &str, into: &mut BTreeSet<Box<str>>) {
    into.extend(name.match_indices('.').map(|(at, _)| Box::from(&name[at + 1..])));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::View;

    fn news(services: &[&str], nodes: &[&str]) -> News {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        News { services: names(services), nodes: names(nodes), everything: false }
    }

    #[test]
    fn a_name_is_remembered_however_it_is_written_and_so_is_what_stands_behind_its_dots() {
        let reader = View::new().reader();
        let told = news(&["Web", "web", "a.b.db"], &["N1.lan"]);
        let heard = Heard::default();
        assert!(heard.lacks(&told));
        let (heard, _) = heard.with(&told, &reader);
        assert!(!heard.lacks(&told));
        assert!(heard.lacks(&news(&["WEB"], &[])), "written in yet another way");
        assert_eq!(heard.service("web").map(<[_]>::len), Some(2));
        assert!(heard.is_service_branch("b.db") && heard.is_service_branch("db") && !heard.is_service_branch("a.b.db"));
        assert!(heard.is_node("n1.lan") && heard.is_node("lan") && !heard.is_node("n1"));
        assert_eq!(heard.len(), 4);
    }

    #[test]
    fn past_the_limit_only_what_is_known_now_is_remembered() {
        let reader = View::new().reader();
        let names: Vec<String> = (0..HEARD_MAX).map(|n| format!("s{n}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let (heard, has_forgotten) = Heard::default().with(&news(&all, &[]), &reader);
        assert_eq!((heard.len(), has_forgotten), (HEARD_MAX, false));
        let (heard, has_forgotten) = heard.with(&news(&["one-more"], &[]), &reader);
        assert_eq!((heard.len(), has_forgotten), (0, true));
    }
}
