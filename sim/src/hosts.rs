//! Which hosts are meant: `3`, `0-9`, `zone eu`, `any 10%`, a group's name, and lists of these.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::units::Share;
use crate::world::{HostIndex, World};

/// A choice of hosts, as it is written. Terms are joined by commas; each adds hosts.
///
/// | term | means |
/// |---|---|
/// | `all` | every host |
/// | `7`, `0-9` | hosts by number |
/// | `zone eu` | the hosts of a zone |
/// | `any 5`, `any 10%`, `any zone` | hosts drawn from those that run, or one whole zone |
/// | `half` | half of the hosts, drawn |
/// | `down` | the hosts on which no process runs |
/// | `slow` | the hosts of the group of that name |
/// | `not slow` | the hosts that the term behind it does not mean |
/// | `observers of slow` | the hosts whose members observe one of those that the term behind it means |
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hosts {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, PartialEq, Debug)]
enum Term {
    All,
    Range(HostIndex, HostIndex),
    Zone(String),
    Any(usize),
    AnyShare(f64),
    AnyZone,
    Down,
    Group(String),
    Not(Box<Self>),
    ObserversOf(Box<Self>),
}

impl Eq for Term {}

/// Why hosts cannot be chosen so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostsError {
    /// The text is no choice.
    #[error("{0:?} does not say which hosts: write all, 7, 0-9, \"zone a\", \"any 5\", \"any 10%\", half, down, not X")]
    Unreadable(String),
    /// A host that does not exist.
    #[error("host {host}: there are {count}")]
    NoSuchHost {
        /// The number.
        host: HostIndex,
        /// How many hosts there are.
        count: usize,
    },
    /// A group, or a zone, that does not exist.
    #[error("no group or zone {0:?}")]
    NoSuchGroup(String),
    /// More hosts than run.
    #[error("any {wanted}: only {count} run")]
    TooFew {
        /// How many are wanted.
        wanted: usize,
        /// How many run.
        count: usize,
    },
}

impl Hosts {
    /// These very hosts.
    pub fn of(hosts: &[HostIndex]) -> Self {
        let text = hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let terms = hosts.iter().map(|&host| Term::Range(host, host)).collect();
        Self { text, terms }
    }

    /// The hosts that are meant now, in order. `planned` hosts there will be, even if not all are there yet.
    ///
    /// # Errors
    /// What does not exist.
    pub fn choose(
        &self,
        world: &World,
        planned: usize,
        groups: &BTreeMap<String, Vec<HostIndex>>,
        rng: &mut impl Rng,
    ) -> Result<Vec<HostIndex>, HostsError> {
        let mut chosen = BTreeSet::new();
        for term in &self.terms {
            chosen.extend(term.choose(world, world.host_count().max(planned), groups, rng)?);
        }
        Ok(chosen.into_iter().collect())
    }
}

impl Term {
    fn choose(
        &self,
        world: &World,
        count: usize,
        groups: &BTreeMap<String, Vec<HostIndex>>,
        rng: &mut impl Rng,
    ) -> Result<Vec<HostIndex>, HostsError> {
        let of_zone = |zone: &str| (0..count).filter(|&host| world.zone(host) == zone).collect::<Vec<_>>();
        Ok(match self {
            Self::All => (0..count).collect(),
            Self::Range(_, last) if *last >= count => return Err(HostsError::NoSuchHost { host: *last, count }),
            Self::Range(first, last) => (*first..=*last).collect(),
            Self::Zone(zone) => match of_zone(zone) {
                hosts if hosts.is_empty() => return Err(HostsError::NoSuchGroup(zone.clone())),
                hosts => hosts,
            },
            Self::AnyZone => {
                let zones: Vec<&str> = (0..count).map(|host| world.zone(host)).collect();
                zones.choose(rng).map(|zone| of_zone(zone)).unwrap_or_default()
            }
            Self::Any(wanted) => draw(world, *wanted, rng)?,
            Self::AnyShare(share) => draw(world, ((count as f64 * share).round() as usize).max(1), rng)?,
            Self::Down => (0..count).filter(|&host| world.node(host).is_none()).collect(),
            Self::Group(name) => groups.get(name).cloned().ok_or_else(|| HostsError::NoSuchGroup(name.clone()))?,
            Self::Not(term) => {
                let others = term.choose(world, count, groups, rng)?;
                (0..count).filter(|host| !others.contains(host)).collect()
            }
            Self::ObserversOf(term) => {
                let meant = term.choose(world, count, groups, rng)?;
                let ids: BTreeSet<_> = meant.iter().filter_map(|&host| Some(world.node(host)?.peer().id)).collect();
                let observes = |node: &Process| node.as_tidings()?.observed();
                let observers = world.running().filter(|(_, node)| observes(node).is_some_and(|id| ids.contains(&id)));
                observers.map(|(host, _)| host).collect()
            }
        })
    }
}

fn draw(world: &World, wanted: usize, rng: &mut impl Rng) -> Result<Vec<HostIndex>, HostsError> {
    let mut hosts: Vec<HostIndex> = (0..world.host_count()).filter(|&host| world.is_free(host)).collect();
    if wanted > hosts.len() {
        return Err(HostsError::TooFew { wanted, count: hosts.len() });
    }
    hosts.shuffle(rng);
    hosts.truncate(wanted);
    hosts.sort_unstable();
    Ok(hosts)
}

impl FromStr for Term {
    type Err = HostsError;

    fn from_str(text: &str) -> Result<Self, HostsError> {
        let unreadable = || HostsError::Unreadable(text.to_owned());
        let word = text.trim();
        if let Some(rest) = word.strip_prefix("not ") {
            return Ok(Self::Not(Box::new(rest.parse()?)));
        }
        if let Some(rest) = word.strip_prefix("observers of ") {
            return Ok(Self::ObserversOf(Box::new(rest.parse()?)));
        }
        if let Some(zone) = word.strip_prefix("zone ") {
            return Ok(Self::Zone(zone.trim().to_owned()));
        }
        if let Some(count) = word.strip_prefix("any ") {
            return match count.trim() {
                "zone" => Ok(Self::AnyZone),
                share if share.ends_with('%') => {
                    share.parse::<Share>().map(|share| Self::AnyShare(share.0)).map_err(|_| unreadable())
                }
                count => count.parse().map(Self::Any).map_err(|_| unreadable()),
            };
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            let (first, last) = word.split_once('-').unwrap_or((word, word));
            let number = |text: &str| text.trim().parse::<HostIndex>().map_err(|_| unreadable());
            let (first, last) = (number(first)?, number(last)?);
            return if first <= last { Ok(Self::Range(first, last)) } else { Err(unreadable()) };
        }
        match word {
            "all" => Ok(Self::All),
            "half" => Ok(Self::AnyShare(0.5)),
            "down" => Ok(Self::Down),
            name if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                Ok(Self::Group(name.to_owned()))
            }
            _ => Err(unreadable()),
        }
    }
}

impl TryFrom<String> for Hosts {
    type Error = HostsError;

    fn try_from(text: String) -> Result<Self, HostsError> {
        let terms = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { text, terms })
    }
}

impl From<Hosts> for String {
    fn from(hosts: Hosts) -> Self {
        hosts.text
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    use super::*;
    use crate::link::Preset;
    use crate::world::WorldConfig;

    fn chosen(text: &str) -> Result<Vec<HostIndex>, HostsError> {
        let mut config = WorldConfig::new(1);
        config.network = Preset::Region3.network();
        let mut world = World::new(config);
        (0..10).for_each(|_| {
            world.add_node(&[]);
        });
        let groups = BTreeMap::from([("slow".to_owned(), vec![2, 5])]);
        let hosts = Hosts::try_from(text.to_owned())?;
        hosts.choose(&world, 10, &groups, &mut Xoshiro256PlusPlus::seed_from_u64(1))
    }

    #[test]
    fn hosts_are_chosen_by_number_zone_group_and_chance() {
        assert_eq!(chosen("0-2, 7"), Ok(vec![0, 1, 2, 7]));
        assert_eq!(chosen("zone b"), Ok(vec![1, 4, 7]));
        assert_eq!(chosen("slow"), Ok(vec![2, 5]));
        assert_eq!(chosen("not slow").map(|hosts| hosts.len()), Ok(8));
        assert_eq!(chosen("any 30%").map(|hosts| hosts.len()), Ok(3));
        assert_eq!(chosen("half").map(|hosts| hosts.len()), Ok(5));
        assert_eq!(chosen("down"), Ok(Vec::new()));
    }

    #[test]
    fn everybody_has_one_observer_once_all_know_each_other() {
        let mut world = World::new(WorldConfig::new(1));
        (0..6).for_each(|host| {
            world.add_node(if host == 0 { &[] } else { &[0] });
        });
        world.run_until_settled(std::time::Duration::from_secs(30)).expect("they join");
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut observers = BTreeSet::new();
        for host in 0..6 {
            let hosts = Hosts::try_from(format!("observers of {host}")).expect("it can be read");
            let chosen = hosts.choose(&world, 6, &BTreeMap::new(), &mut rng).expect("they exist");
            assert!(chosen.len() == 1 && chosen[0] != host, "{host}: {chosen:?}");
            observers.extend(chosen);
        }
        assert_eq!(observers.len(), 6);
    }

    #[test]
    fn what_does_not_exist_is_named() {
        for (text, named) in [("12", "host 12"), ("fast", "fast"), ("any 11", "any 11"), ("9-3", "9-3"), ("a b", "a b")]
        {
            let error = chosen(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
