//! One number for each thing that a client can wait for: it grows when, and only when, the answer would be another.
//! Knows the view by its versions, and nothing of what answers look like.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ask::Blocking;
use crate::view::{Reader, Slot};

/// Services that are gone whose number is remembered; of those before, only the largest is.
pub const GONE_MAX: usize = 4_096;

/// After news, who waits is answered no sooner than after this time ...
const COALESCE_MIN: Duration = Duration::from_millis(10);
/// ... and no later than after this: several changes at once are one answer, and not everybody comes back at once.
const COALESCE_MAX: Duration = Duration::from_millis(30);

/// What can be waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Subject<'a> {
    /// One service: its instances, their members and their checks.
    Service(&'a str),
    /// The list of services with their tags.
    Services,
    /// Every check.
    Checks,
    /// The members.
    Nodes,
    /// Everything: members, and instances with their checks.
    All,
}

/// The lists, which are always there.
const LISTS: usize = 4;

impl Subject<'_> {
    const EVERY_LIST: [Subject<'static>; LISTS] = [Subject::Services, Subject::Checks, Subject::Nodes, Subject::All];

    fn list(self) -> Option<usize> {
        match self {
            Self::Service(_) => None,
            Self::Services => Some(0),
            Self::Checks => Some(1),
            Self::Nodes => Some(2),
            Self::All => Some(3),
        }
    }
}

/// Tells what the answers about a subject are now, as a hash.
pub(super) type Digest = dyn Fn(Subject<'_>) -> u64 + Send + Sync;

/// Tells the version of what this agent knows beside the view: its own checks, or what these print.
pub(super) type LocalVersion = dyn Fn() -> u64 + Send + Sync;

/// Tells whether any of that is in the answers about a subject.
pub(super) type IsLocal = dyn Fn(Subject<'_>) -> bool + Send + Sync;

/// Where answers come from beside the view.
pub(super) struct Local {
    pub(super) version: Box<LocalVersion>,
    /// What checks print is in answers, and wakes nobody.
    pub(super) printed: Box<LocalVersion>,
    pub(super) concerns: Box<IsLocal>,
}

impl Local {
    /// Nowhere.
    pub(super) fn nothing() -> Self {
        Self { version: Box::new(|| 0), printed: Box::new(|| 0), concerns: Box::new(|_| false) }
    }
}

/// A service of this name there is never: no record can have it.
const NOBODYS: Subject<'static> = Subject::Service("");

/// The numbers of all subjects.
pub(super) struct Index {
    reader: Reader,
    digest: Box<Digest>,
    local: Local,
    /// The last number that was given to anything.
    last: AtomicU64,
    services: Mutex<Services>,
    lists: Mutex<[Option<Entry>; LISTS]>,
    jitter: AtomicU64,
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("last", &self.last).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Services {
    known: BTreeMap<Arc<str>, Entry>,
    /// Those that are gone, the longest first.
    gone: VecDeque<(Arc<str>, u64)>,
    gone_at: BTreeMap<Arc<str>, u64>,
    /// The number of every service that nothing else is known of.
    unknown: u64,
}

/// The state of a subject.
struct Entry {
    index: u64,
    hash: u64,
    seen: Seen,
    news: watch::Sender<u64>,
    /// Answers that were made of what was seen, by the kind of the answer.
    answers: BTreeMap<u8, Answer>,
}

/// An answer that was made.
struct Answer {
    body: Bytes,
    /// The version of what our checks print that is in it, if any is.
    printed: Option<u64>,
}

/// Of which version of its sources a hash is.
#[derive(Clone, Debug)]
struct Seen {
    slot: Option<(Arc<Slot>, u64)>,
    published: u64,
    local: u64,
}

impl Seen {
    fn is_same(&self, other: &Self) -> bool {
        self.is_same_view(other) && self.local == other.local
    }

    fn is_same_view(&self, other: &Self) -> bool {
        let same_slot = match (&self.slot, &other.slot) {
            (Some((slot, version)), Some((other, others))) => Arc::ptr_eq(slot, other) && version == others,
            (None, None) => true,
            _ => false,
        };
        same_slot && self.published == other.published
    }
}

impl Index {
    /// Numbers begin at `boot_ms`, the time of the start in milliseconds since the Unix epoch: so they do not go back
    /// when an agent is started again, unless it gave more than a thousand a second.
    pub(super) fn new(reader: Reader, boot_ms: u64, digest: Box<Digest>, local: Local) -> Self {
        let first = boot_ms.max(1);
        Self {
            reader,
            digest,
            local,
            last: AtomicU64::new(first),
            services: Mutex::new(Services { unknown: first, ..Services::default() }),
            lists: Mutex::new(std::array::from_fn(|_| None)),
            jitter: AtomicU64::new(first),
        }
    }

    /// A panic of another holder leaves the maps whole: nothing in here is changed halfway.
    fn services(&self) -> MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lists(&self) -> MutexGuard<'_, [Option<Entry>; LISTS]> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn seen(&self, subject: Subject<'_>) -> Seen {
        let local = (self.local.version)();
        match subject {
            Subject::Service(name) => {
                let slot = self.reader.slot(name).map(|slot| {
                    let version = slot.version();
                    (slot, version)
                });
                Seen { slot, published: 0, local }
            }
            _ => Seen { slot: None, published: self.reader.published(), local },
        }
    }

    /// The number of a subject as it is now. What is read afterwards is at least as new.
    pub(super) fn now(&self, subject: Subject<'_>) -> u64 {
        let Subject::Service(name) = subject else {
            let mut lists = self.lists();
            let entry = &mut lists[subject.list().expect("all others are lists")];
            return self.refresh(entry, subject, |_| self.next()).index;
        };
        let mut services = self.services();
        let services = &mut *services;
        if let Some(entry) = services.known.get_mut(name) {
            self.look(entry, subject);
            let (index, is_idle) = (entry.index, entry.news.receiver_count() == 0);
            if is_idle && entry.seen.slot.is_none() {
                services.forget(name);
            }
            return index;
        }
        if self.reader.slot(name).is_none() {
            return services.unknown(name);
        }
        let mut entry = None;
        let index = self.refresh(&mut entry, subject, |_| self.next()).index;
        services.known.insert(Arc::from(name), entry.expect("it was made just now"));
        index
    }

    /// An answer of this kind that was made of exactly what is there now, with its number.
    pub(super) fn answer(&self, service: &str, kind: u8) -> Option<(u64, Bytes)> {
        let index = self.now(Subject::Service(service));
        let services = self.services();
        let entry = services.known.get(service)?;
        let answer =
            entry.answers.get(&kind).filter(|answer| entry.index == index && self.is_printed(answer.printed))?;
        Some((index, answer.body.clone()))
    }

    /// Makes an answer and keeps it for as long as nothing changes.
    pub(super) fn keep_answer(&self, service: &str, kind: u8, make: impl FnOnce() -> Bytes) -> (u64, Bytes) {
        let subject = Subject::Service(service);
        let index = self.now(subject);
        let before = self.seen(subject);
        let printed = (self.local.concerns)(subject).then(|| (self.local.printed)());
        let body = make();
        let mut services = self.services();
        // What changed while it was made is not in it, perhaps; then it is for this one request only.
        if let Some(entry) = services.known.get_mut(service)
            && entry.index == index
            && entry.seen.is_same(&before)
            && before.is_same(&self.seen(subject))
            && self.is_printed(printed)
        {
            entry.answers.insert(kind, Answer { body: body.clone(), printed });
        }
        (index, body)
    }

    /// Whether what our checks print now is of this version, where that counts.
    fn is_printed(&self, version: Option<u64>) -> bool {
        version.is_none_or(|version| version == (self.local.printed)())
    }

    /// The entry as it is now; a new one gets the number that `index` gives for what was seen.
    fn refresh<'e>(
        &self,
        entry: &'e mut Option<Entry>,
        subject: Subject<'_>,
        index: impl FnOnce(&Seen) -> u64,
    ) -> &'e mut Entry {
        if let Some(entry) = entry {
            self.look(entry, subject);
            return entry;
        }
        let seen = self.seen(subject);
        let hash = self.hash(subject, &seen);
        let index = index(&seen);
        entry.insert(Entry { index, hash, seen, news: watch::Sender::new(index), answers: BTreeMap::new() })
    }

    /// What is there, as it was seen: a service that was not there then is not, even if it has come since. Taken for
    /// there, it would have the hash of what is there with the number of what is not, and its coming would wake nobody.
    fn hash(&self, subject: Subject<'_>, seen: &Seen) -> u64 {
        let is_nobodys = matches!(subject, Subject::Service(_)) && seen.slot.is_none();
        (self.digest)(if is_nobodys { NOBODYS } else { subject })
    }

    fn look(&self, entry: &mut Entry, subject: Subject<'_>) {
        let seen = self.seen(subject);
        if entry.seen.is_same(&seen) {
            return;
        }
        let is_others = entry.seen.is_same_view(&seen) && !(self.local.concerns)(subject);
        let hash = if is_others { entry.hash } else { self.hash(subject, &seen) };
        entry.seen = seen;
        if is_others {
            return;
        }
        entry.answers.clear();
        if hash != entry.hash {
            entry.hash = hash;
            entry.index = self.next();
            entry.news.send_replace(entry.index);
        }
    }

    /// Looks at the services that may have changed and that somebody waits for, and at the lists likewise. The others
    /// are looked at when somebody asks; of those that are gone, only the number is kept.
    pub(super) fn look_at<'n>(&self, services: impl IntoIterator<Item = &'n str>) {
        for name in services {
            let is_awaited = self.services().known.get(name).map(|entry| entry.news.receiver_count() > 0);
            let is_gone = || self.reader.slot(name).is_none();
            if is_awaited.is_some_and(|is_awaited| is_awaited || is_gone()) {
                self.now(Subject::Service(name));
            }
        }
        for subject in Subject::EVERY_LIST {
            let mut lists = self.lists();
            let entry = &mut lists[subject.list().expect("it is a list")];
            if let Some(entry) = entry.as_mut().filter(|entry| entry.news.receiver_count() > 0) {
                self.look(entry, subject);
            }
        }
    }

    /// The services that somebody asked for.
    pub(super) fn asked(&self) -> Vec<Arc<str>> {
        self.services().known.keys().cloned().collect()
    }

    /// Waits until the number of the subject is another than the one that the client knows, but no longer than it says,
    /// and gives it. An index of 0, and one that is not ours, does not wait.
    pub(super) async fn newer(&self, subject: Subject<'_>, than: Blocking, closing: &mut watch::Receiver<bool>) -> u64 {
        if than.index == 0 {
            return self.now(subject);
        }
        let deadline = Instant::now() + self.shortened(than.wait);
        let mut waiter = self.waiter(subject);
        let now = self.now(subject);
        if now != than.index {
            return now;
        }
        let is_news = tokio::select! {
            biased;
            _ = waiter.news.wait_for(|index| *index != than.index) => true,
            () = tokio::time::sleep_until(deadline) => false,
            _ = closing.wait_for(|is_closing| *is_closing) => false,
        };
        if is_news {
            let spread = COALESCE_MAX - COALESCE_MIN;
            let pause = COALESCE_MIN + spread.mul_f64(self.random());
            tokio::time::sleep_until(deadline.min(Instant::now() + pause)).await;
        }
        self.now(subject)
    }

    /// Up to a sixteenth less, so that clients that began together do not end together.
    fn shortened(&self, wait: Duration) -> Duration {
        wait - wait.mul_f64(self.random() / 16.0)
    }

    /// Between 0 and 1 (splitmix64): only for spreading load.
    fn random(&self) -> f64 {
        let mut z = self.jitter.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn waiter<'a>(&'a self, subject: Subject<'a>) -> Waiter<'a> {
        let news = match subject {
            Subject::Service(name) => {
                let mut services = self.services();
                if let Some(entry) = services.known.get(name) {
                    entry.news.subscribe()
                } else {
                    // What was told of an unknown service must be its number while it is waited for.
                    let index = |seen: &Seen| seen.slot.is_none().then(|| services.unknown(name));
                    let mut entry = None;
                    let made = self.refresh(&mut entry, subject, |seen| index(seen).unwrap_or_else(|| self.next()));
                    let news = made.news.subscribe();
                    services.known.insert(Arc::from(name), entry.expect("it was made just now"));
                    news
                }
            }
            _ => {
                let mut lists = self.lists();
                let entry = &mut lists[subject.list().expect("all others are lists")];
                self.refresh(entry, subject, |_| self.next()).news.subscribe()
            }
        };
        Waiter { index: self, subject, news }
    }

    #[cfg(test)]
    fn sizes(&self) -> (usize, usize) {
        let services = self.services();
        (services.known.len(), services.gone.len())
    }
}

impl Services {
    /// The number of a service that is not there.
    fn unknown(&self, name: &str) -> u64 {
        self.gone_at.get(name).copied().unwrap_or(self.unknown).max(self.unknown)
    }

    /// Keeps of a service that is not there, and that nobody waits for, only its number.
    fn forget(&mut self, name: &str) {
        let Some((name, entry)) = self.known.remove_entry(name) else { return };
        if entry.index <= self.unknown {
            return;
        }
        if self.gone_at.insert(Arc::clone(&name), entry.index).is_some() {
            self.gone.retain(|(other, _)| *other != name);
        }
        self.gone.push_back((name, entry.index));
        if self.gone.len() > GONE_MAX
            && let Some((name, index)) = self.gone.pop_front()
        {
            self.gone_at.remove(&name);
            // Nobody may see a number go back.
            self.unknown = self.unknown.max(index);
        }
    }
}

/// Somebody who waits.
struct Waiter<'a> {
    index: &'a Index,
    subject: Subject<'a>,
    news: watch::Receiver<u64>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Subject::Service(name) = self.subject else { return };
        let mut services = self.index.services();
        let is_last = |entry: &Entry| entry.news.receiver_count() == 1 && entry.seen.slot.is_none();
        if services.known.get(name).is_some_and(is_last) {
            services.forget(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::effect::{Event, GoneReason};
    use crate::peer::{Evidence, Generation, Member, MemberState, NodeId, Peer};
    use crate::record::Instance;
    use crate::view::View;

    const BOOT: u64 = 1_700_000_000_000;

    struct Lab {
        view: View,
        index: Arc<Index>,
        closing: watch::Sender<bool>,
        digests: Arc<AtomicU64>,
        local: Arc<AtomicU64>,
        printed: Arc<AtomicU64>,
    }

    fn member(id: u64) -> Arc<Member> {
        let addr = SocketAddr::from(([127, 0, 0, 1], id as u16));
        let peer = Peer { id: NodeId(id), addr, generation: Generation::first(1), nonce: id };
        Arc::new(Member {
            peer,
            name: Arc::from(format!("m{id}")),
            zone: Arc::from(""),
            state: MemberState::Reachable,
            evidence: Evidence::default(),
            software: Arc::from("0"),
            wire: (1, 1),
        })
    }

    fn web(service: &str, port: u16) -> Arc<Instance> {
        let addr = SocketAddr::from(([127, 0, 0, 1], port));
        Arc::new(Instance::new(service, addr).unwrap().with_id(&format!("{service}-{port}")))
    }

    impl Lab {
        fn new() -> Self {
            let mut view = View::new();
            view.apply(&Event::MemberUp(member(1)));
            view.publish();
            let reader = view.reader();
            let of = view.reader();
            let (digests, local) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let printed = Arc::new(AtomicU64::new(0));
            let prints = Arc::clone(&printed);
            let (counted, version) = (Arc::clone(&digests), Arc::clone(&local));
            let digest = move |subject: Subject<'_>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let text = match subject {
                    // Ports count in this lab, and weights do not.
                    Subject::Service(name) => of.service(name).map(|s| ports(&s)).unwrap_or_default(),
                    _ => of.services().iter().map(|service| ports(service)).collect::<Vec<_>>().join(";"),
                };
                xxhash_rust::xxh3::xxh3_64(text.as_bytes())
            };
            let local_to = Local {
                version: Box::new(move || version.load(Ordering::Relaxed)),
                printed: Box::new(move || prints.load(Ordering::Relaxed)),
                // What this agent knows is in the answers about `web` only.
                concerns: Box::new(|subject| matches!(subject, Subject::Service("web"))),
            };
            let index = Arc::new(Index::new(reader, BOOT, Box::new(digest), local_to));
            Self { view, index, closing: watch::Sender::new(false), digests, local, printed }
        }

        /// How many digests this makes.
        fn digests(&self, of: impl FnOnce(&Index)) -> u64 {
            let before = self.digests.load(Ordering::Relaxed);
            of(&self.index);
            self.digests.load(Ordering::Relaxed) - before
        }

        fn up(&mut self, instance: &Arc<Instance>) {
            self.view.apply(&Event::ServiceUp { owner: NodeId(1), instance: Arc::clone(instance) });
            self.view.publish();
        }

        fn down(&mut self, instance: &Arc<Instance>) {
            let (owner, reason) = (NodeId(1), GoneReason::Withdrawn);
            self.view.apply(&Event::ServiceDown { owner, instance: Arc::clone(instance), reason });
            self.view.publish();
        }

        fn poll(&self, service: &'static str, index: u64) -> tokio::task::JoinHandle<u64> {
            let (room, mut closing) = (Arc::clone(&self.index), self.closing.subscribe());
            tokio::spawn(async move {
                let than = Blocking { index, wait: Duration::from_secs(60) };
                room.newer(Subject::Service(service), than, &mut closing).await
            })
        }
    }

    fn ports(service: &crate::view::Service) -> String {
        service.all().iter().map(|o| o.instance.address.port.to_string()).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn a_number_grows_only_when_the_answer_is_another() {
        let mut lab = Lab::new();
        let (one, other) = (web("web", 80), web("other", 81));
        lab.up(&one);
        let first = lab.index.now(Subject::Service("web"));
        assert!(first > BOOT);
        lab.up(&other);
        lab.up(&Arc::new(Instance::clone(&one).with_weight(9)));
        assert_eq!(lab.index.now(Subject::Service("web")), first);
        lab.up(&web("web", 82));
        assert!(lab.index.now(Subject::Service("web")) > first);
    }

    #[test]
    fn an_unknown_service_has_a_number_that_others_do_not_change_and_that_never_goes_back() {
        let mut lab = Lab::new();
        let unknown = lab.index.now(Subject::Service("web"));
        assert_eq!(unknown, BOOT);
        lab.up(&web("other", 1));
        assert_eq!(lab.index.now(Subject::Service("web")), unknown);
        let one = web("web", 80);
        lab.up(&one);
        let known = lab.index.now(Subject::Service("web"));
        lab.down(&one);
        let gone = lab.index.now(Subject::Service("web"));
        assert!(unknown < known && known < gone);
        assert_eq!(lab.index.now(Subject::Service("web")), gone);
        lab.up(&one);
        assert!(lab.index.now(Subject::Service("web")) > gone);
    }

    #[test]
    fn names_that_nobody_offers_take_no_memory_and_those_gone_a_bounded_one() {
        let mut lab = Lab::new();
        for n in 0..100 {
            lab.index.now(Subject::Service(&format!("never-{n}")));
        }
        assert_eq!(lab.index.sizes(), (0, 0));
        let mut last = 0;
        for n in 0..GONE_MAX + 10 {
            let one = web(&format!("s{n}"), 80);
            lab.up(&one);
            lab.index.now(Subject::Service(&one.service));
            lab.down(&one);
            last = lab.index.now(Subject::Service("s0")).max(last);
            lab.index.now(Subject::Service(&one.service));
        }
        assert_eq!(lab.index.sizes(), (0, GONE_MAX));
        assert!(lab.index.now(Subject::Service("s0")) >= last, "what was forgotten does not go back");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_digested_that_nobody_waits_for_or_that_is_of_others() {
        let mut lab = Lab::new();
        for name in ["web", "other"] {
            lab.up(&web(name, 80));
            lab.index.now(Subject::Service(name));
        }
        lab.index.now(Subject::Nodes);
        lab.up(&web("web", 81));
        assert_eq!(lab.digests(|index| index.look_at(["web", "other"])), 0, "nobody waits");
        let index = lab.index.now(Subject::Service("web"));
        let waiting = lab.poll("web", index);
        tokio::task::yield_now().await;
        lab.up(&web("web", 82));
        assert_eq!(lab.digests(|index| index.look_at(["web", "other"])), 1);
        assert!(waiting.await.unwrap() > index);

        lab.index.now(Subject::Service("other"));
        lab.local.fetch_add(1, Ordering::Relaxed);
        let both = |index: &Index| ["web", "other"].map(|name| index.now(Subject::Service(name)));
        let made = |lab: &Lab| lab.digests(|index| assert!(both(index).iter().all(|number| *number > BOOT)));
        assert_eq!(made(&lab), 1, "a change of our own is in answers about web alone");
        assert_eq!(made(&lab), 0);
    }

    #[test]
    fn an_answer_is_kept_until_it_would_be_another_even_if_that_wakes_nobody() {
        let mut lab = Lab::new();
        let kept = |lab: &Lab| ["web", "other"].map(|name| lab.index.answer(name, 0).is_some());
        let make = |lab: &Lab| ["web", "other"].map(|name| lab.index.keep_answer(name, 0, || Bytes::from(name)).0);
        for name in ["web", "other"] {
            lab.up(&web(name, 80));
        }
        assert_eq!(kept(&lab), [false, false]);
        let before = make(&lab);
        assert_eq!(kept(&lab), [true, true]);
        lab.printed.fetch_add(1, Ordering::Relaxed);
        assert_eq!(kept(&lab), [false, true], "what our checks print is in answers about web alone");
        assert_eq!((make(&lab), kept(&lab)), (before, [true, true]), "and no number is another");
        // Printed while the answer is made: it may be in it, or not.
        lab.index.keep_answer("web", 1, || {
            lab.printed.fetch_add(1, Ordering::Relaxed);
            Bytes::new()
        });
        assert!(lab.index.answer("web", 1).is_none());
        lab.local.fetch_add(1, Ordering::Relaxed);
        make(&lab);
        lab.up(&web("web", 81));
        assert_eq!(kept(&lab), [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_comes_while_it_begins_to_be_waited_for_wakes() {
        let mut view = View::new();
        view.apply(&Event::MemberUp(member(1)));
        view.publish();
        let (reader, of) = (view.reader(), view.reader());
        let coming = Mutex::new(Some(view));
        // It comes just before its digest is made, after it was seen that it is not there.
        let digest = move |subject: Subject<'_>| {
            if let Some(mut view) = coming.lock().unwrap().take() {
                view.apply(&Event::ServiceUp { owner: NodeId(1), instance: web("web", 80) });
                view.publish();
            }
            match subject {
                Subject::Service(name) => of.service(name).map_or(0, |service| service.all().len() as u64),
                _ => 0,
            }
        };
        let index = Index::new(reader, BOOT, Box::new(digest), Local::nothing());
        let (_closing, mut closes) = watch::channel(false);
        let than = Blocking { index: BOOT, wait: Duration::from_secs(60) };
        let began = Instant::now();
        assert!(index.newer(Subject::Service("web"), than, &mut closes).await > BOOT);
        assert!(began.elapsed() < Duration::from_secs(1), "at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_wakes_who_waits_for_it_and_nobody_else() {
        let mut lab = Lab::new();
        let one = web("web", 80);
        lab.up(&one);
        let index = lab.index.now(Subject::Service("web"));
        let (of_web, of_other) = (lab.poll("web", index), lab.poll("other", BOOT));
        tokio::task::yield_now().await;
        lab.up(&web("web", 81));
        lab.index.look_at(["web"]);
        let began = Instant::now();
        assert!(of_web.await.unwrap() > index);
        assert!((COALESCE_MIN..=COALESCE_MAX + Duration::from_millis(1)).contains(&began.elapsed()));
        assert!(!of_other.is_finished());
        lab.up(&web("other", 1));
        lab.index.look_at(["other"]);
        assert!(of_other.await.unwrap() > BOOT, "an unknown service can be waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_in_vain_is_answered_a_little_before_the_time_and_holds_nothing() {
        let lab = Lab::new();
        for _ in 0..32 {
            let began = Instant::now();
            assert_eq!(lab.poll("web", BOOT).await.unwrap(), BOOT);
            let waited = began.elapsed().as_secs_f64();
            assert!((56.2..=60.0).contains(&waited), "{waited}");
        }
        assert_eq!(lab.index.sizes(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn an_index_that_is_not_ours_and_zero_do_not_wait() {
        let lab = Lab::new();
        let began = Instant::now();
        for index in [0, 1, BOOT + 5, u64::MAX] {
            assert_eq!(lab.poll("web", index).await.unwrap(), BOOT);
        }
        assert!(began.elapsed() < Duration::from_millis(1));
        let poll = lab.poll("web", BOOT);
        tokio::task::yield_now().await;
        lab.closing.send_replace(true);
        assert_eq!(poll.await.unwrap(), BOOT, "an agent that ends answers");
    }
}
