//! What must hold always, and what must hold once the world is whole again: one function per promise.
//!
//! The world calls the first kind after every event that could break them; experiments call the second kind.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use tidings::contact::CONTACTS_MAX;
use tidings::detector::{AWAITED_MAX, CASES_MAX, HELPS_MAX};
use tidings::node::exchange::CONVERSATIONS_MAX;
use tidings::node::{LIMBO_MAX, QueueLengths};
use tidings::peer::{NodeId, Peer};
use tidings::record::{Key, Owner, Version};
use tidings::roster::fingerprint_of;
use tidings::rumors::RUMORS_MAX;

use crate::link::DATAGRAM_BYTES_MAX;
use crate::process::Process;
use crate::world::{CHECKED_ALL_MAX, CHECKED_EVERY, HostIndex, World};

/// A live record as a node lists it.
pub type Listed = (Owner, Key, Version);

/// Every version of every record that its owner ever made.
pub type Ledger = BTreeMap<(Owner, Key), BTreeSet<Version>>;

/// The highest version of every record that one observer ever listed.
pub type Highest = BTreeMap<(Owner, Key), Version>;

/// The highest version of every record that one observer listed before it told that the record was withdrawn.
pub type Withdrawn = BTreeMap<(Owner, Key), Version>;

/// How many differences an error names; the rest is counted.
const NAMED_MAX: usize = 5;

/// Always: no datagram needs fragments.
///
/// # Errors
/// The size and the limit.
pub fn datagram_fits(bytes: &[u8]) -> Result<(), String> {
    if bytes.len() <= DATAGRAM_BYTES_MAX {
        return Ok(());
    }
    Err(format!("sent a datagram of {} bytes, the limit is {DATAGRAM_BYTES_MAX}", bytes.len()))
}

/// Always: whoever registered an instance sees it itself. `own` is sorted.
///
/// # Errors
/// The instances that are missing.
pub fn own_records_are_listed<'a>(registered: impl Iterator<Item = &'a Key>, own: &[Key]) -> Result<(), String> {
    nothing("registered here but not in its own view", registered.filter(|key| own.binary_search(key).is_err()))
}

/// Always: an observer never lists an older version of a record than it listed before. `highest` remembers.
///
/// # Errors
/// The records that fell, with both versions.
pub fn versions_never_fall(highest: &mut Highest, listed: &[Listed]) -> Result<(), String> {
    let mut fallen = Vec::new();
    for (owner, key, version) in listed {
        let highest = highest.entry((*owner, key.clone())).or_insert(*version);
        if version < highest {
            fallen.push(format!("{}: {highest} to {version}", named(*owner, key)));
        }
        *highest = (*highest).max(*version);
    }
    nothing("versions fell", fallen.iter())
}

/// Always: what an observer saw withdrawn does not come back to it, unless its owner made it anew.
///
/// # Errors
/// The records that came back, with the version they were withdrawn at and that they have.
pub fn nothing_withdrawn_returns(withdrawn: &Withdrawn, listed: &[Listed]) -> Result<(), String> {
    if withdrawn.is_empty() {
        return Ok(());
    }
    let back = listed.iter().filter_map(|(owner, key, version)| {
        let was = withdrawn.get(&(*owner, key.clone())).filter(|was| version <= *was)?;
        Some(format!("{} v{version}, withdrawn after v{was}", named(*owner, key)))
    });
    nothing("came back after its withdrawal", back)
}

/// Always: a node lists nothing that its owner never made.
///
/// # Errors
/// The records that nobody made.
pub fn only_what_was_made(ledger: &Ledger, listed: &[Listed]) -> Result<(), String> {
    let invented = listed.iter().filter(|(owner, key, version)| {
        !ledger.get(&(*owner, key.clone())).is_some_and(|versions| versions.contains(version))
    });
    nothing(
        "listed, but never made by its owner",
        invented.map(|(owner, key, v)| format!("{} v{v}", named(*owner, key))),
    )
}

/// Always: a node lists records of one start of an owner only. `listed` is sorted.
///
/// # Errors
/// The owners with records of two starts.
pub fn one_start_per_owner(listed: &[Listed]) -> Result<(), String> {
    let mixed = listed.windows(2).filter(|pair| pair[0].0.id == pair[1].0.id && pair[0].0.epoch != pair[1].0.epoch);
    nothing("records of two starts listed", mixed.map(|pair| pair[0].0.id))
}

/// Always: each change of an owner has a version of its own, or whoever compares versions takes two for one.
///
/// # Errors
/// The versions that two of its records have.
pub fn versions_are_used_once(own: &[(Key, Version)]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    nothing("versions used twice", own.iter().filter(|(_, version)| !seen.insert(*version)).map(|(_, version)| version))
}

/// Always: who says to miss nothing of an owner up to a version lists every record that the owner has, and made by
/// then. In more than a few hundred hosts nobody could pay for the question, and it is not asked.
///
/// # Errors
/// The first host that says so wrongly, and what it lacks.
pub fn watermarks_are_true(world: &World) -> Result<(), String> {
    if world.host_count() > WATERMARKS_ASKED_MAX {
        return Ok(());
    }
    let truth: BTreeMap<Owner, Vec<(Key, Version)>> = world
        .running()
        .map(|(_, node)| (Owner { id: node.peer().id, epoch: node.peer().epoch() }, node.own_records()))
        .collect();
    for (host, node) in world.running() {
        let Some(node) = node.as_tidings() else { continue };
        let listed: BTreeMap<(Owner, Key), Version> =
            node.present_records().into_iter().map(|(owner, key, version)| ((owner, key), version)).collect();
        for (owner, watermark) in node.watermarks() {
            let made = truth.get(&owner).into_iter().flatten().filter(|(_, version)| *version <= watermark);
            let missing =
                made.filter(|(key, version)| listed.get(&(owner, key.clone())).is_none_or(|here| here < version));
            let what = format!("host {host}: says to have all up to {watermark}, and lacks");
            nothing(&what, missing.map(|(key, version)| format!("{} v{version}", named(owner, key))))?;
        }
    }
    Ok(())
}

/// Hosts of a world that is asked whether watermarks are true.
const WATERMARKS_ASKED_MAX: usize = 256;

/// Always: no queue is longer than its named limit, so that no stranger can make a node grow.
///
/// # Errors
/// The queue, its length and its limit.
pub fn queues_are_bounded(queues: &QueueLengths) -> Result<(), String> {
    let limits = [
        ("rumors", queues.rumors, RUMORS_MAX),
        ("repeats", queues.repeats, RUMORS_MAX),
        ("contacts", queues.contacts, CONTACTS_MAX),
        ("limbo", queues.limbo, LIMBO_MAX),
        ("conversations", queues.conversations, CONVERSATIONS_MAX),
        ("verdicts", queues.verdicts, RUMORS_MAX),
        ("probes awaited", queues.awaited, AWAITED_MAX),
        ("cases", queues.cases, CASES_MAX),
        ("cases witnessed", queues.helps, HELPS_MAX),
    ];
    let longer = limits.iter().filter(|(_, len, limit)| len > limit);
    nothing("queues over their limit", longer.map(|(name, len, limit)| format!("{name} {len}, the limit is {limit}")))
}

/// Whether all running nodes have equal fingerprints: [`all_views_equal`] without the words, quick enough to be
/// asked after every event.
pub fn views_agree(world: &World) -> bool {
    let mut fingerprints = world.running().map(|(_, node)| {
        let digest = node.digest();
        (digest.records, digest.members, digest.reachable)
    });
    let Some(first) = fingerprints.next() else { return true };
    fingerprints.all(|other| other == first)
}

/// Once whole: all running nodes see the same records and the same members.
///
/// # Errors
/// Which hosts differ from the view that most hosts have, and in what.
pub fn all_views_equal(world: &World) -> Result<(), String> {
    let mut camps: BTreeMap<(u64, u64, u64), Vec<HostIndex>> = BTreeMap::new();
    for (host, node) in world.running() {
        let digest = node.digest();
        camps.entry((digest.records, digest.members, digest.reachable)).or_default().push(host);
    }
    // The largest camp is the measure; among equals the one with the lowest host, so that messages repeat.
    let Some(most) = camps.values().max_by_key(|hosts| (hosts.len(), std::cmp::Reverse(hosts[0]))) else {
        return Ok(());
    };
    let model = View::of(world, most[0]);
    let odd: Vec<&Vec<HostIndex>> = camps.values().filter(|hosts| *hosts != most).collect();
    if odd.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} hosts agree with host {}", most.len(), most[0]);
    for hosts in odd.iter().take(NAMED_MAX) {
        let difference = View::of(world, hosts[0]).difference(&model);
        write!(text, "; hosts {hosts:?} differ: {difference}").expect("writing to a string does not fail");
    }
    if odd.len() > NAMED_MAX {
        write!(text, "; and {} more views", odd.len() - NAMED_MAX).expect("writing to a string does not fail");
    }
    Err(text)
}

/// A promise for when the world is whole again, and where it is made.
#[derive(Clone, Copy, Debug)]
pub struct Promise {
    /// The promise in a few words.
    pub name: &'static str,
    /// What it stands for.
    pub stands_for: &'static str,
    /// Asks for it.
    pub check: fn(&World) -> Result<(), String>,
}

/// Every promise for when the world is whole again.
pub const PROMISES: &[Promise] = &[
    Promise {
        name: "nobody stopped by itself",
        stands_for: "only a clone of an id or a name may stop a node, and nobody made one",
        check: nobody_stopped,
    },
    Promise {
        name: "all live views are equal",
        stands_for: "anti-entropy: equal fingerprints, or a sync (Demers et al. 1987); also after any partition",
        check: all_views_equal,
    },
    Promise {
        name: "nobody live is called dead",
        stands_for: "SWIM's refutation (Das, Gupta and Motivala 2002, section 4.2), and rejoining after a split",
        check: the_living_are_seen,
    },
    Promise {
        name: "dead owners are gone",
        stands_for: "SWIM's strong completeness: every crash is noticed by every live member",
        check: the_dead_are_gone,
    },
    Promise {
        name: "who says to miss nothing misses nothing",
        stands_for: "watermarks: a sync tells only what lies above them",
        check: watermarks_are_true,
    },
    Promise {
        name: "nothing registered is lost",
        stands_for: "a registration ends by its owner's word or its owner's death only",
        check: registered_records_are_listed,
    },
    Promise {
        name: "nothing withdrawn is back",
        stands_for: "tombstones and watermarks: what its owner took back stays gone",
        check: nothing_else_is_listed,
    },
    Promise {
        name: "all programs were told the same",
        stands_for: "applied in order to an empty view, a node's events give its whole knowledge",
        check: all_were_told_the_same,
    },
];

/// Once whole: nobody stopped whom the experiment did not stop.
///
/// # Errors
/// The first host that did, and why.
pub fn nobody_stopped(world: &World) -> Result<(), String> {
    world.fatals().next().map_or(Ok(()), |(host, fatal)| Err(format!("host {host} stopped: {fatal}")))
}

/// Once whole: what the programs were told makes the same view everywhere, and the one that their nodes have.
///
/// # Errors
/// The first host where it does not.
pub fn all_were_told_the_same(world: &World) -> Result<(), String> {
    let told: Vec<_> = world.running().filter_map(|(host, node)| Some((host, node, world.shadow(host)?))).collect();
    let Some((first, _, model)) = told.first() else { return Ok(()) };
    for (host, node, shadow) in &told {
        let known = shadow.is_all(&node.present_members(), &node.present_records());
        known.map_err(|what| format!("host {host}: {what}"))?;
        shadow.is_like(model).map_err(|what| format!("hosts {first} and {host}: {what}"))?;
    }
    Ok(())
}

/// Once whole: every running node sees every running member.
///
/// # Errors
/// The first host that does not, and whom it misses.
pub fn the_living_are_seen(world: &World) -> Result<(), String> {
    let members = running_starts(world);
    for (host, node) in looked_at(world) {
        if sees_just(node, &members) {
            continue;
        }
        let seen = seen_starts(node);
        nothing(&format!("host {host}: members not seen"), members.difference(&seen).map(start_in_words))?;
    }
    Ok(())
}

/// Once whole: no running node sees a member that does not run.
///
/// # Errors
/// The first host that does, and whom it sees.
pub fn the_dead_are_gone(world: &World) -> Result<(), String> {
    let members = running_starts(world);
    for (host, node) in looked_at(world) {
        if sees_just(node, &members) {
            continue;
        }
        let seen = seen_starts(node);
        let what = format!("host {host}: members seen that do not run");
        nothing(&what, seen.difference(&members).map(start_in_words))?;
    }
    Ok(())
}

/// Once whole: every running node lists everything that is registered at running nodes.
///
/// # Errors
/// The first host that does not, and what it lacks.
pub fn registered_records_are_listed(world: &World) -> Result<(), String> {
    let records = world.registered_records();
    for (host, node) in looked_at(world) {
        if lists_just(node, &records) {
            continue;
        }
        let seen = listed_instances(node);
        nothing(&format!("host {host}: lost"), records.difference(&seen).map(|(owner, key)| named(*owner, key)))?;
    }
    Ok(())
}

/// Once whole: no running node lists anything that is not registered at a running node.
///
/// # Errors
/// The first host that does, and what.
pub fn nothing_else_is_listed(world: &World) -> Result<(), String> {
    let records = world.registered_records();
    for (host, node) in looked_at(world) {
        if lists_just(node, &records) {
            continue;
        }
        let seen = listed_instances(node);
        let what = format!("host {host}: listed, but not registered");
        nothing(&what, seen.difference(&records).map(|(owner, key)| named(*owner, key)))?;
    }
    Ok(())
}

/// Once whole: all of [`PROMISES`] but that views are equal, which is asked apart because it is cheaper.
///
/// # Errors
/// Those of the first promise that is broken.
pub fn views_are_true(world: &World) -> Result<(), String> {
    // Equal views are all as true as any one of them; unequal ones are looked at one by one.
    PROMISES.iter().filter(|promise| promise.name != "all live views are equal").try_for_each(|p| (p.check)(world))
}

/// The fingerprint over members that every node has whose view is true.
pub fn true_members(world: &World) -> u64 {
    world.running().fold(0, |sum, (_, node)| sum.wrapping_add(fingerprint_of(&node.peer(), 0)))
}

/// The running nodes whose views are looked through, one by one: in a large world one of all that say to have equal
/// views, and of those every so many-th besides, for fingerprints may be wrong.
fn looked_at(world: &World) -> impl Iterator<Item = (HostIndex, &Process)> {
    let mut camps = BTreeSet::new();
    let is_large = world.host_count() > CHECKED_ALL_MAX;
    world.running().filter(move |(host, node)| {
        let digest = node.digest();
        let is_first = camps.insert((digest.records, digest.members, digest.reachable));
        is_first || !is_large || host.is_multiple_of(CHECKED_EVERY)
    })
}

fn running_starts(world: &World) -> BTreeSet<(NodeId, u64)> {
    world.running().map(|(_, node)| start_of(&node.peer())).collect()
}

/// Whether a node sees `members` and nobody else: quick, for thousands of nodes are asked one after the other.
fn sees_just(node: &Process, members: &BTreeSet<(NodeId, u64)>) -> bool {
    let mut seen: Vec<_> = node.live_members().iter().chain([&node.peer()]).map(start_of).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.iter().eq(members)
}

/// Whether a node lists the instances `records` and nothing else: quick, too.
fn lists_just(node: &Process, records: &BTreeSet<(Owner, Key)>) -> bool {
    let listed = node.live_records();
    let instances = listed.iter().filter(|(_, key, _)| !key.is_member());
    instances.map(|(owner, key, _)| (owner, key)).eq(records.iter().map(|(owner, key)| (owner, key)))
}

fn seen_starts(node: &Process) -> BTreeSet<(NodeId, u64)> {
    // A node need not list itself.
    node.live_members().iter().chain([&node.peer()]).map(start_of).collect()
}

fn listed_instances(node: &Process) -> BTreeSet<(Owner, Key)> {
    let listed = node.live_records().into_iter().filter(|(_, key, _)| !key.is_member());
    listed.map(|(owner, key, _)| (owner, key)).collect()
}

fn start_in_words((id, epoch): &(NodeId, u64)) -> String {
    format!("{id}#{epoch}")
}

/// [`all_views_equal`] and [`views_are_true`], the cheap question first.
///
/// # Errors
/// Those of both.
pub fn settled(world: &World) -> Result<(), String> {
    all_views_equal(world)?;
    views_are_true(world)
}

/// What one host sees.
struct View {
    records: BTreeSet<Listed>,
    members: BTreeSet<(NodeId, Peer2)>,
    /// Whom it holds accused, itself included, and by which turn.
    accused: BTreeSet<(NodeId, u32)>,
}

/// The part of a peer that fingerprints cover.
type Peer2 = (u64, u64);

impl View {
    fn of(world: &World, host: HostIndex) -> Self {
        let node = world.node(host).expect("camps hold running hosts only");
        Self {
            records: node.live_records().into_iter().collect(),
            members: node.live_members().iter().map(|p| (p.id, (p.epoch(), u64::from(p.generation.bump())))).collect(),
            accused: node.as_tidings().map(|node| node.accused().collect()).unwrap_or_default(),
        }
    }

    fn difference(&self, model: &Self) -> String {
        let record = |(owner, key, version): &Listed| format!("{} v{version}", named(*owner, key));
        let member = |(id, (epoch, bump)): &(NodeId, Peer2)| format!("{id}#{epoch}.{bump}");
        let accused = |(id, turn): &(NodeId, u32)| format!("{id} by turn {turn}");
        let parts = [
            nothing("lacks", model.records.difference(&self.records).map(record)),
            nothing("has besides", self.records.difference(&model.records).map(record)),
            nothing("lacks members", model.members.difference(&self.members).map(member)),
            nothing("has members besides", self.members.difference(&model.members).map(member)),
            nothing("does not accuse", model.accused.difference(&self.accused).map(accused)),
            nothing("accuses besides", self.accused.difference(&model.accused).map(accused)),
        ];
        let parts: Vec<String> = parts.into_iter().filter_map(Result::err).collect();
        if parts.is_empty() { "only in their fingerprints".to_owned() } else { parts.join(", ") }
    }
}

fn start_of(peer: &Peer) -> (NodeId, u64) {
    (peer.id, peer.epoch())
}

fn named(owner: Owner, key: &Key) -> String {
    format!("{}#{}/{key}", owner.id, owner.epoch)
}

/// `Err` with `what` and the first few offenders if there are any.
pub(crate) fn nothing<T: std::fmt::Display>(what: &str, offenders: impl Iterator<Item = T>) -> Result<(), String> {
    let all: Vec<String> = offenders.map(|offender| offender.to_string()).collect();
    if all.is_empty() {
        return Ok(());
    }
    let shown = all[..all.len().min(NAMED_MAX)].join(", ");
    let more = if all.len() > NAMED_MAX { format!(" and {} more", all.len() - NAMED_MAX) } else { String::new() };
    Err(format!("{what}: {shown}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { id: NodeId(1), epoch: 1 };

    fn listed(key: &str, version: Version) -> Listed {
        (OWNER, Key::from(key), version)
    }

    #[test]
    fn a_datagram_of_exactly_the_limit_fits() {
        assert_eq!(datagram_fits(&[0; DATAGRAM_BYTES_MAX]), Ok(()));
        let error = datagram_fits(&[0; DATAGRAM_BYTES_MAX + 1]).expect_err("one byte too many");
        assert!(error.contains("1201") && error.contains("1200"), "{error}");
    }

    #[test]
    fn an_own_record_that_is_not_listed_is_named() {
        let keys = [Key::from("a"), Key::from("b")];
        assert_eq!(own_records_are_listed(keys.iter(), &keys), Ok(()));
        let error = own_records_are_listed(keys.iter(), &keys[..1]).expect_err("b is missing");
        assert!(error.ends_with(": b"), "{error}");
    }

    #[test]
    fn a_version_that_falls_is_noticed_even_after_the_record_was_away() {
        let mut highest = Highest::new();
        assert_eq!(versions_never_fall(&mut highest, &[listed("a", 3)]), Ok(()));
        assert_eq!(versions_never_fall(&mut highest, &[]), Ok(()));
        let error = versions_never_fall(&mut highest, &[listed("a", 2)]).expect_err("3 to 2");
        assert!(error.contains("3 to 2"), "{error}");
        assert_eq!(versions_never_fall(&mut highest, &[listed("a", 3)]), Ok(()));
    }

    #[test]
    fn a_record_that_comes_back_is_noticed_and_one_made_anew_is_not() {
        let withdrawn = Withdrawn::from([((OWNER, Key::from("a")), 3)]);
        assert_eq!(nothing_withdrawn_returns(&withdrawn, &[listed("a", 5), listed("b", 3)]), Ok(()));
        assert!(nothing_withdrawn_returns(&withdrawn, &[listed("a", 3)]).is_err());
        assert!(nothing_withdrawn_returns(&withdrawn, &[listed("a", 2)]).is_err());
    }

    #[test]
    fn a_version_that_its_owner_never_made_is_named() {
        let ledger = Ledger::from([((OWNER, Key::from("a")), BTreeSet::from([1, 2]))]);
        assert_eq!(only_what_was_made(&ledger, &[listed("a", 2)]), Ok(()));
        assert!(only_what_was_made(&ledger, &[listed("a", 3)]).is_err());
        assert!(only_what_was_made(&ledger, &[listed("b", 1)]).is_err());
    }

    #[test]
    fn a_version_that_two_records_have_is_named() {
        let own = |versions: [Version; 2]| [(Key::from("a"), versions[0]), (Key::from("b"), versions[1])];
        assert_eq!(versions_are_used_once(&own([3, 2])), Ok(()));
        assert!(versions_are_used_once(&own([3, 3])).expect_err("twice").ends_with(": 3"));
    }

    #[test]
    fn records_of_two_starts_of_one_owner_are_noticed() {
        let older = (Owner { epoch: 0, ..OWNER }, Key::from("a"), 1);
        assert_eq!(one_start_per_owner(&[listed("a", 1), listed("b", 2)]), Ok(()));
        assert!(one_start_per_owner(&[older, listed("a", 1)]).is_err());
    }
}
