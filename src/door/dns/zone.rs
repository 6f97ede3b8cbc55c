//! What DNS knows: its domains, the view, and what is derived from it for looking up by name in any case, or by
//! address.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::rr::Name;

use super::figures::DnsCounts;
use super::heard::{Heard, News};
use super::limit::Limiter;
use super::near::Near;
use super::plan::DnsPlan;
use crate::offers::External;
use crate::peer::{Member, NodeId};
use crate::record::Host;
use crate::view::{Reader, Service};

/// What is looked up by address is derived anew at most this often, in nanoseconds: it takes a look at everything.
const SURVEY_EVERY: u64 = 1_000_000_000;

/// A domain, with the names that answers have.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) name: Name,
    /// `ns.DOMAIN`.
    pub(super) server: Name,
    pub(super) hostmaster: Name,
    /// Below it are members.
    pub(super) node: Name,
    /// Below it are addresses.
    pub(super) addr: Name,
    service: Name,
}

impl Domain {
    fn new(domain: &str, datacenter: &str) -> Self {
        let whole = |text: String| Name::from_ascii(text).expect("a domain is checked when the plan is made");
        Self {
            name: whole(format!("{domain}.")),
            server: whole(format!("ns.{domain}.")),
            hostmaster: whole(format!("hostmaster.{domain}.")),
            node: whole(format!("node.{datacenter}.{domain}.")),
            addr: whole(format!("addr.{datacenter}.{domain}.")),
            service: whole(format!("service.{domain}.")),
        }
    }
}

/// A name with one label more before it; `None` if there is no room, or the label is none.
pub(super) fn under(label: &str, parent: &Name) -> Option<Name> {
    Name::new().append_label(label.as_bytes()).ok()?.append_domain(parent).ok()
}

/// Whether every resolver takes this for a label of a host's name.
pub(super) fn is_plain_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// The members by name.
#[derive(Debug)]
pub(super) struct People {
    of: Arc<Vec<Arc<Member>>>,
    by_name: BTreeMap<Box<str>, Vec<usize>>,
}

impl People {
    fn new(of: Arc<Vec<Arc<Member>>>) -> Self {
        let mut by_name = BTreeMap::<Box<str>, Vec<usize>>::new();
        for (at, member) in of.iter().enumerate() {
            by_name.entry(member.name.to_ascii_lowercase().into()).or_default().push(at);
        }
        Self { of, by_name }
    }

    /// Those of a name in lower case: several, if one took the name of another that is gone.
    pub(super) fn named(&self, lower: &str) -> impl Iterator<Item = &Arc<Member>> {
        self.by_name.get(lower).into_iter().flatten().map(|at| &self.of[*at])
    }

    /// Whether its name leads to this member, and to no other that is present.
    pub(super) fn is_alone(&self, member: &Member) -> bool {
        let mut present = self.named_as(&member.name).filter(|other| other.state.is_present());
        present.next().is_some_and(|first| first.peer.id == member.peer.id) && present.next().is_none()
    }

    fn named_as(&self, name: &str) -> impl Iterator<Item = &Arc<Member>> {
        // Nearly all are written in lower case.
        let lower = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            std::borrow::Cow::Owned(name.to_ascii_lowercase())
        } else {
            std::borrow::Cow::Borrowed(name)
        };
        self.by_name.get(&*lower).into_iter().flatten().map(|at| &self.of[*at])
    }

    pub(super) fn with_id(&self, id: NodeId) -> Option<&Arc<Member>> {
        self.of.iter().find(|member| member.peer.id == id)
    }
}

/// A name that an address leads back to.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Back {
    Node(Arc<str>),
    Service(Arc<str>),
}

/// What is looked up by address, and the nodes without a member.
#[derive(Default, Debug)]
pub(super) struct Survey {
    /// When it was made, and of which publication of the view; `None` before the first.
    of: Option<(u64, u64)>,
    back: BTreeMap<IpAddr, BTreeSet<Back>>,
    external: BTreeMap<Box<str>, BTreeSet<IpAddr>>,
}

impl Survey {
    fn new(reader: &Reader, now: u64) -> Self {
        let mut survey = Self { of: Some((reader.published(), now)), ..Self::default() };
        let members = reader.members();
        for member in members.iter().filter(|member| member.state.is_present()) {
            let back = survey.back.entry(member.peer.addr.ip().to_canonical()).or_default();
            back.insert(Back::Node(Arc::clone(&member.name)));
        }
        let of_members: BTreeSet<IpAddr> = survey.back.keys().copied().collect();
        for service in reader.services() {
            survey.add(&service, &of_members);
        }
        survey
    }

    fn add(&mut self, service: &Service, of_members: &BTreeSet<IpAddr>) {
        for offered in service.all() {
            let own = match &offered.instance.address.host {
                Host::Ip(ip) if !ip.is_unspecified() => Some(ip.to_canonical()),
                _ => None,
            };
            if let Some(external) = External::of(&offered.instance) {
                let node: Box<str> = external.node.to_ascii_lowercase().into();
                let ips = self.external.entry(node).or_default();
                if let Some(ip) = external.address.parse().ok().map(|ip: IpAddr| ip.to_canonical()).or(own) {
                    ips.insert(ip);
                    self.back.entry(ip).or_default().insert(Back::Node(external.node));
                }
            }
            if let Some(ip) = own.filter(|ip| !of_members.contains(ip)) {
                self.back.entry(ip).or_default().insert(Back::Service(Arc::clone(service.name())));
            }
        }
    }

    /// The names that an address leads back to.
    pub(super) fn back(&self, ip: IpAddr, domain: &Domain) -> Vec<Name> {
        let plain = |name: &Arc<str>, parent: &Name| {
            let is_plain = name.split('.').all(is_plain_label);
            let labels = is_plain.then(|| name.split('.').map(str::as_bytes))?;
            Name::from_labels(labels).ok()?.append_domain(parent).ok()
        };
        let name = |back: &Back| match back {
            Back::Node(name) => plain(name, &domain.node),
            Back::Service(name) => plain(name, &domain.service),
        };
        self.back.get(&ip.to_canonical()).into_iter().flatten().filter_map(name).collect()
    }

    /// The addresses of a node without a member; `None` if there is no such node.
    pub(super) fn external(&self, lower: &str) -> Option<&BTreeSet<IpAddr>> {
        self.external.get(lower)
    }
}

/// Everything that answers are made from.
pub(super) struct Zone {
    pub(super) plan: DnsPlan,
    pub(super) texts: Vec<Arc<str>>,
    pub(super) domains: Vec<Domain>,
    pub(super) reader: Reader,
    pub(super) counts: DnsCounts,
    pub(super) limiter: Option<Limiter>,
    /// Seconds since the Unix epoch at the start, so that serial numbers go on growing over a restart.
    pub(super) began: u32,
    own: NodeId,
    near: ArcSwap<Near>,
    heard: ArcSwap<Heard>,
    people: ArcSwap<People>,
    survey: ArcSwap<Survey>,
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone").field("domains", &self.texts).finish_non_exhaustive()
    }
}

impl Zone {
    pub(super) fn new(plan: DnsPlan, reader: Reader, own: NodeId, began: u32, counts: DnsCounts) -> Self {
        let mut texts = vec![Arc::clone(&plan.domain)];
        for text in &plan.alternatives {
            if !texts.contains(text) {
                texts.push(Arc::clone(text));
            }
        }
        // Of one domain within another, names are of the longer one.
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let zone = Self {
            domains: texts.iter().map(|text| Domain::new(text, &plan.datacenter)).collect(),
            texts,
            counts,
            limiter: Limiter::new(plan.rate),
            began,
            own,
            near: ArcSwap::default(),
            heard: ArcSwap::from_pointee(Heard::of(&reader)),
            people: ArcSwap::from_pointee(People::new(reader.members())),
            survey: ArcSwap::default(),
            plan,
            reader,
        };
        zone.counts.0.heard.set(zone.heard.load().len() as u64);
        zone.measure(&BTreeMap::new());
        zone
    }

    /// Remembers names.
    pub(super) fn hear(&self, news: &News) {
        let before = self.heard.load();
        if !before.lacks(news) {
            return;
        }
        let (heard, has_forgotten) = before.with(news, &self.reader);
        self.counts.0.heard.set(heard.len() as u64);
        if has_forgotten {
            self.counts.0.forgotten.count();
        }
        self.heard.store(Arc::new(heard));
    }

    /// Orders the zones by what was measured to members.
    pub(super) fn measure(&self, measured: &BTreeMap<NodeId, Duration>) {
        let people = self.people();
        let mut by_zone = BTreeMap::<_, Vec<_>>::new();
        for member in people.of.iter() {
            if let Some(time) = measured.get(&member.peer.id) {
                by_zone.entry(Arc::clone(&member.zone)).or_default().push(*time);
            }
        }
        let own = people.with_id(self.own).map(|member| Arc::clone(&member.zone));
        let near = Near::new(own.unwrap_or_default(), by_zone);
        if **self.near.load() != near {
            self.near.store(Arc::new(near));
        }
    }

    /// How far zones are; `None` if that is not asked for.
    pub(super) fn near(&self) -> Option<Arc<Near>> {
        self.plan.near.then(|| self.near.load_full())
    }

    /// Every service of a name in lower case, however it is written; `None` if it was never heard of.
    pub(super) fn services(&self, lower: &str) -> Option<Vec<Arc<Service>>> {
        match self.heard.load().service(lower) {
            Some(written) => Some(written.iter().filter_map(|name| self.reader.service(name)).collect()),
            // It may have come just now.
            None => self.reader.service(lower).map(|service| vec![service]),
        }
    }

    pub(super) fn heard(&self) -> Arc<Heard> {
        self.heard.load_full()
    }

    /// The members now.
    pub(super) fn people(&self) -> Arc<People> {
        let members = self.reader.members();
        let people = self.people.load();
        if Arc::ptr_eq(&people.of, &members) {
            return Arc::clone(&people);
        }
        let people = Arc::new(People::new(members));
        self.people.store(Arc::clone(&people));
        people
    }

    /// What is looked up by address, as it was a second ago at most, by `now` in nanoseconds since whenever.
    pub(super) fn survey(&self, now: u64) -> Arc<Survey> {
        let survey = self.survey.load();
        if let Some((published, made)) = survey.of
            && (published == self.reader.published() || now.saturating_sub(made) < SURVEY_EVERY)
        {
            return Arc::clone(&survey);
        }
        let survey = Arc::new(Survey::new(&self.reader, now));
        self.survey.store(Arc::clone(&survey));
        survey
    }

    /// The address of this name server: where it listens, or, if that says nothing to others, where its member is.
    pub(super) fn own_ip(&self) -> Option<IpAddr> {
        let bind = self.plan.bind.ip().to_canonical();
        if !bind.is_unspecified() {
            return Some(bind);
        }
        self.people().with_id(self.own).map(|member| member.peer.addr.ip().to_canonical())
    }
}
