//! Makes answers: a question's bytes in, the answer's bytes out, from what is known at that moment. Knows no socket and
//! no clock.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::figures::{DnsCounts, Figures};
use super::heard::News;
use super::name::{self, Asked};
use super::near::Near;
use super::plan::{DnsPlan, Empty};
use super::wire::{self, Question, Read, Reply};
use super::zone::{Domain, People, Zone, is_plain_label, under};
use crate::offers::{EXTERNAL_ADDRESS, EXTERNAL_ID, EXTERNAL_NODE};
use crate::peer::{Member, NodeId};
use crate::record::{Host, Instance, Status as InstanceStatus};
use crate::view::{Offered, Reader, Service, Status};

/// Records of one answer; of more, so many are drawn.
pub const ANSWERS_MAX: usize = 1_024;

/// Bytes of the shortest record that is told of an instance: an address, with a pointer to its name.
const RECORD_BYTES_MIN: usize = 16;

/// The priority of every SRV record, or of those in the nearest zone.
const PRIORITY: u16 = 1;

/// What HAProxy divides the weights of SRV records by.
const WEIGHT_STEP: u32 = 256;

/// Bytes of one TXT record: an instance may say more of itself than any message holds.
const TEXT_BYTES_MAX: usize = 8_192;

/// Bytes of one text in it (RFC 1035 section 3.3).
const TEXT_PART_BYTES_MAX: usize = 255;

/// What a zone's SOA says to servers that copy it. Nobody can here.
const REFRESH: i32 = 3_600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;

/// How long it may be kept that something is not there, in seconds: what is not there may come at any moment.
const NEGATIVE_TTL: u32 = 0;

/// How a question came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// From where.
    pub ip: IpAddr,
    /// Whether over TCP: then it is known to come from there, and has more room.
    pub is_tcp: bool,
    /// The time, in nanoseconds since whenever.
    pub now: u64,
}

/// Answers questions.
#[derive(Clone)]
pub struct Handler {
    zone: Arc<Zone>,
    dice: Dice,
    /// The asked name in lower case.
    text: String,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler").field("zone", &self.zone).finish_non_exhaustive()
    }
}

impl Handler {
    /// Answers from the view of the member with the id `own`; `began` is the time of the start, in seconds since the
    /// Unix epoch.
    pub fn new(plan: DnsPlan, reader: Reader, own: NodeId, began: u32, counts: DnsCounts) -> Self {
        Self::of(Arc::new(Zone::new(plan, reader, own, began, counts)))
    }

    pub(super) fn of(zone: Arc<Zone>) -> Self {
        let dice = Dice(RandomState::new().hash_one(0));
        Self { zone, dice, text: String::new() }
    }

    /// Remembers the names of what is known now, in whatever case.
    pub fn look(&self) {
        self.zone.hear(&News { everything: true, ..News::default() });
    }

    /// Puts the answer to a question into `out`; gives whether there is one at all.
    pub fn answer(&mut self, from: Source, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let zone = Arc::clone(&self.zone);
        let figures = &*zone.counts.0;
        let by = if from.is_tcp { &figures.tcp } else { &figures.udp };
        by.count();
        let is_over = !from.is_tcp && zone.is_over(from);
        let question = match wire::read(bytes) {
            Read::Question(question) => question,
            Read::Nothing => {
                figures.dropped.count();
                return false;
            }
            Read::Wrong(_) if is_over => {
                figures.limited.count();
                return false;
            }
            Read::Wrong(code) => {
                figures.count_code(code, false);
                wire::refuse(bytes, code, out);
                return true;
            }
        };
        figures.count_kind(question.kind());
        let payload = zone.plan.udp_bytes_max;
        if is_over {
            if !zone.limiter.as_ref().is_some_and(super::limit::Limiter::tells) {
                figures.limited.count();
                return false;
            }
            figures.slipped.count();
            let reply = Reply { is_cut: true, ..Reply::new(ResponseCode::NoError) };
            wire::write(&question, &reply, question.room(payload), payload, out);
            if out.len() > bytes.len() {
                wire::refuse(bytes, ResponseCode::Refused, out);
            }
            return true;
        }
        if zone.reader.is_isolated() {
            figures.isolated.count();
        }
        let room = if from.is_tcp { u16::MAX } else { question.room(payload) };
        let reply = self.reply(&question, from.now, room);
        figures.count_code(reply.code, !reply.answers.is_empty());
        if wire::write(&question, &reply, room, payload, out) {
            figures.truncated.count();
        }
        let tells = matches!(reply.code, ResponseCode::NoError | ResponseCode::NXDomain);
        // A name with a pointer in it is longer when it is written out: nobody gets back more than was sent, for
        // nothing.
        if !tells && out.len() > bytes.len() {
            wire::refuse(bytes, reply.code, out);
        }
        true
    }

    fn reply(&mut self, question: &Question, now: u64, room: u16) -> Reply {
        if question.edns.is_some_and(|edns| edns.version != 0) {
            return Reply::new(ResponseCode::BADVERS);
        }
        if !question.is_internet() || matches!(question.kind(), RecordType::AXFR | RecordType::IXFR) {
            return Reply::new(ResponseCode::Refused);
        }
        let mut text = std::mem::take(&mut self.text);
        let is_text = put_text(question.name(), &mut text);
        let zone = Arc::clone(&self.zone);
        let (asked, at) = name::read(&text, &zone.texts, &zone.plan.datacenter);
        let answer = Answer { zone: &zone, domain: &zone.domains[at], question, now, most: most(room) };
        let found = match asked {
            Asked::Elsewhere => Found::Elsewhere,
            _ if zone.reader.is_stopped() => Found::Unsure,
            _ if !is_text => Found::Nothing,
            asked => answer.find(asked, &mut self.dice),
        };
        self.text = text;
        answer.reply(found)
    }
}

/// The name in lower case with dots between its labels. Gives whether that says all of it: a label may hold any bytes,
/// dots too.
fn put_text(name: &Name, text: &mut String) -> bool {
    text.clear();
    let mut is_text = true;
    for label in name.iter() {
        match std::str::from_utf8(label) {
            Ok(label) if !label.contains('.') => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(label);
            }
            // What stands behind it still says whose it is.
            _ => {
                is_text = false;
                text.clear();
                text.push('?');
            }
        }
    }
    text.make_ascii_lowercase();
    is_text
}

impl Zone {
    /// Whether a network off this machine asks too much.
    fn is_over(&self, from: Source) -> bool {
        let ip = from.ip.to_canonical();
        !ip.is_loopback() && self.limiter.as_ref().is_some_and(|limiter| !limiter.admits(ip, from.now))
    }
}

impl Figures {
    fn count_kind(&self, kind: RecordType) {
        let figure = match kind {
            RecordType::A => &self.a,
            RecordType::AAAA => &self.aaaa,
            RecordType::SRV => &self.srv,
            RecordType::TXT => &self.txt,
            RecordType::PTR => &self.ptr,
            RecordType::SOA => &self.soa,
            RecordType::NS => &self.ns,
            RecordType::ANY => &self.any,
            _ => &self.other,
        };
        figure.count();
    }

    fn count_code(&self, code: ResponseCode, has_answers: bool) {
        let figure = match code {
            ResponseCode::NoError if has_answers => &self.answered,
            ResponseCode::NoError => &self.nodata,
            ResponseCode::NXDomain => &self.nxdomain,
            ResponseCode::Refused => &self.refused,
            ResponseCode::ServFail => &self.servfail,
            ResponseCode::NotImp => &self.notimp,
            ResponseCode::BADVERS => &self.badvers,
            _ => &self.formerr,
        };
        figure.count();
    }
}

/// The number of records that have no room, or are too many: so many are made at the most, and are found to have none.
fn most(room: u16) -> usize {
    (usize::from(room) / RECORD_BYTES_MIN + 1).min(ANSWERS_MAX)
}

/// What was found of a name.
enum Found {
    /// Records, and what may be helpful beside them.
    Records(Vec<Record>, Vec<Record>),
    /// The name is there, without such records.
    NoData,
    /// A service or a tag that is known, and has nothing to offer.
    Empty,
    /// Never heard of.
    Nothing,
    /// Nothing can be said.
    Unsure,
    /// Not of our domains.
    Elsewhere,
}

/// One answer in the making.
struct Answer<'a> {
    zone: &'a Zone,
    domain: &'a Domain,
    question: &'a Question,
    now: u64,
    /// Records that it can have: to make more of them would only take time.
    most: usize,
}

/// Instances to be told of.
struct Picks<'s> {
    /// Each with its weight: 0 for one that drains.
    all: Vec<(&'s Offered, u32)>,
    /// Whether they are the last known good.
    is_stale: bool,
    /// How far zones are, where nearer ones come first.
    near: Option<Arc<Near>>,
}

impl Picks<'_> {
    /// How many zones are nearer than that of an instance; 0 where it makes no difference.
    fn rank(&self, offered: &Offered) -> u16 {
        let zone = offered.instance.zone.as_ref().unwrap_or(&offered.member.zone);
        self.near.as_ref().map_or(0, |near| near.rank(zone))
    }
}

impl Answer<'_> {
    fn find(&self, asked: Asked<'_>, dice: &mut Dice) -> Found {
        let found = match asked {
            Asked::Apex => self.apex(),
            Asked::Server => self.server(),
            Asked::Branch => Found::NoData,
            Asked::Service { path, namespace } => self.path(path, namespace, dice),
            Asked::Standard { service, tag, namespace } => match self.zone.services(service) {
                Some(services) => self.service(service, &services, tag, namespace, dice),
                None => Found::Nothing,
            },
            Asked::Node(path) => self.node(path),
            Asked::Addr(ip) => self.addr(ip),
            Asked::Reverse(ip) => self.reverse(ip),
            Asked::Nothing | Asked::Elsewhere => Found::Nothing,
        };
        match found {
            // It may only not have been heard of yet.
            Found::Nothing if self.zone.reader.status() == Status::Joining => Found::Unsure,
            found => found,
        }
    }

    fn reply(&self, found: Found) -> Reply {
        let mut reply = Reply { is_ours: true, ..Reply::new(ResponseCode::NoError) };
        match found {
            Found::Records(answers, additional) => {
                reply.answers = answers;
                reply.additional = additional;
                return reply;
            }
            Found::Unsure => return Reply::new(ResponseCode::ServFail),
            Found::Elsewhere => return Reply::new(ResponseCode::Refused),
            Found::Nothing => reply.code = ResponseCode::NXDomain,
            Found::Empty if self.zone.plan.empty == Empty::NxDomain => reply.code = ResponseCode::NXDomain,
            Found::Empty | Found::NoData => {}
        }
        reply.authority = vec![self.soa(NEGATIVE_TTL)];
        reply
    }

    /// A record of the very name that was asked for, as it was written.
    fn own(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(self.question.name().clone(), ttl, data)
    }

    /// What a name that exists is answered with when no type is asked for (RFC 8482).
    fn least(&self) -> Found {
        let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        Found::Records(vec![self.own(0, data)], Vec::new())
    }

    fn soa(&self, ttl: u32) -> Record {
        let Domain { name, server, hostmaster, .. } = self.domain;
        // Grows with every change of the view, and wraps round as serial numbers do (RFC 1982).
        let serial = self.zone.began.wrapping_add(self.zone.reader.published() as u32);
        let data = SOA::new(server.clone(), hostmaster.clone(), serial, REFRESH, RETRY, EXPIRE, NEGATIVE_TTL);
        Record::from_rdata(name.clone(), ttl, RData::SOA(data))
    }

    fn apex(&self) -> Found {
        let server = &self.domain.server;
        match self.question.kind() {
            RecordType::SOA => Found::Records(vec![self.soa(0)], Vec::new()),
            RecordType::NS => {
                let additional = self.zone.own_ip().map(|ip| Record::from_rdata(server.clone(), 0, address(ip)));
                let answer = self.own(0, RData::NS(NS(server.clone())));
                Found::Records(vec![answer], additional.into_iter().collect())
            }
            RecordType::ANY => self.least(),
            _ => Found::NoData,
        }
    }

    fn server(&self) -> Found {
        self.addresses(self.zone.own_ip(), 0)
    }

    /// Those of the addresses that are asked for.
    fn addresses(&self, ips: impl IntoIterator<Item = IpAddr>, ttl: u32) -> Found {
        let kind = self.question.kind();
        if kind == RecordType::ANY {
            return self.least();
        }
        let wanted = ips.into_iter().filter(|ip| is_of_kind(*ip, kind));
        let records: Vec<_> = wanted.take(ANSWERS_MAX).map(|ip| self.own(ttl, address(ip))).collect();
        if records.is_empty() { Found::NoData } else { Found::Records(records, Vec::new()) }
    }

    fn addr(&self, ip: IpAddr) -> Found {
        self.addresses([ip], self.node_ttl())
    }

    fn node_ttl(&self) -> u32 {
        u32::try_from(self.zone.plan.node_ttl.as_secs()).unwrap_or(u32::MAX).min(i32::MAX as u32)
    }

    fn node(&self, lower: &str) -> Found {
        let people = self.zone.people();
        let present: Vec<_> = people.named(lower).filter(|member| member.state.is_present()).collect();
        if !present.is_empty() {
            if self.question.kind() == RecordType::TXT && self.zone.plan.has_text {
                let texts = present.iter().map(|member| self.own(self.node_ttl(), of_member(member)));
                return Found::Records(texts.collect(), Vec::new());
            }
            let ips: BTreeSet<_> = present.iter().map(|member| member.peer.addr.ip().to_canonical()).collect();
            return self.addresses(ips, self.node_ttl());
        }
        if let Some(ips) = self.zone.survey(self.now).external(lower) {
            return self.addresses(ips.iter().copied(), self.node_ttl());
        }
        if people.named(lower).next().is_some() || self.zone.heard().is_node(lower) {
            return if self.question.kind() == RecordType::ANY { self.least() } else { Found::Empty };
        }
        Found::Nothing
    }

    fn reverse(&self, ip: IpAddr) -> Found {
        let names = self.zone.survey(self.now).back(ip, self.domain);
        if names.is_empty() {
            // Of other addresses we know nothing, also not that they have no name.
            return Found::Elsewhere;
        }
        match self.question.kind() {
            RecordType::PTR => {
                let records = names.into_iter().take(ANSWERS_MAX).map(|name| self.own(self.node_ttl(), back(name)));
                Found::Records(records.collect(), Vec::new())
            }
            RecordType::ANY => self.least(),
            _ => Found::NoData,
        }
    }

    /// Finds where the tag ends and the service begins: the longest name that is one is meant.
    fn path(&self, path: &str, namespace: Option<&str>, dice: &mut Dice) -> Found {
        let starts = std::iter::once(0).chain(path.match_indices('.').map(|(at, _)| at + 1));
        for start in starts {
            if let Some(services) = self.zone.services(&path[start..]) {
                let tag = (start > 0).then(|| &path[..start - 1]);
                return self.service(&path[start..], &services, tag, namespace, dice);
            }
        }
        if self.zone.heard().is_service_branch(path) { Found::NoData } else { Found::Nothing }
    }

    fn service(
        &self,
        lower: &str,
        services: &[Arc<Service>],
        tag: Option<&str>,
        namespace: Option<&str>,
        dice: &mut Dice,
    ) -> Found {
        let kind = self.question.kind();
        let is_told = matches!(kind, RecordType::A | RecordType::AAAA | RecordType::SRV)
            || (kind == RecordType::TXT && self.zone.plan.has_text);
        if kind == RecordType::ANY {
            return self.least();
        }
        if !is_told {
            return Found::NoData;
        }
        let picks = self.picks(services, tag, namespace);
        let ttl = if picks.is_stale { 0 } else { self.zone.plan.ttls.of(lower) };
        let found = match kind {
            RecordType::SRV => self.srv(&picks, ttl, dice),
            RecordType::TXT => {
                let picked = self.drawn(picks.all.clone(), |(offered, _)| picks.rank(offered), dice);
                let texts = picked.iter().filter_map(|(offered, _)| Some(self.own(ttl, of_instance(offered)?)));
                Found::Records(texts.collect(), Vec::new())
            }
            _ => self.hosts(&picks, ttl, dice),
        };
        match found {
            Found::Records(records, _) if records.is_empty() => Found::Empty,
            Found::Records(records, additional) => {
                if picks.is_stale {
                    self.zone.counts.0.stale.count();
                }
                Found::Records(records, additional)
            }
            other => other,
        }
    }

    /// The instances to be told of: the healthy ones and those that drain; if there are none, the last known good ones,
    /// should they be kept for use.
    fn picks<'s>(&self, services: &'s [Arc<Service>], tag: Option<&str>, namespace: Option<&str>) -> Picks<'s> {
        let is_asked_for = |offered: &&Offered| is_asked_for(&offered.instance, tag, namespace);
        let is_passing =
            |offered: &&Offered| !self.zone.plan.only_passing || offered.instance.status == InstanceStatus::Passing;
        let weighed = |offered: &'s Offered| (offered, offered.instance.weight);
        let healthy = services.iter().flat_map(|service| service.healthy());
        let mut all: Vec<_> = healthy.filter(is_asked_for).filter(is_passing).map(weighed).collect();
        let is_stale = all.is_empty();
        if is_stale {
            let stale = services.iter().flat_map(|service| service.stale());
            all = stale.filter(is_asked_for).filter(is_passing).map(weighed).collect();
        }
        let is_stale = is_stale && !all.is_empty();
        let draining = services.iter().flat_map(|service| service.unhealthy()).filter(|offered| is_draining(offered));
        all.extend(draining.filter(is_asked_for).map(|offered| (offered, 0)));
        Picks { all, is_stale, near: self.zone.near() }
    }

    /// A and AAAA records. What is to get nothing is not there: unlike SRV, they have no weights.
    fn hosts(&self, picks: &Picks<'_>, ttl: u32, dice: &mut Dice) -> Found {
        let (mut ips, mut names) = (Vec::new(), Vec::new());
        for (offered, _) in picks.all.iter().filter(|(_, weight)| *weight > 0) {
            match place(offered) {
                Place::Ip(ip) => ips.push((ip, picks.rank(offered))),
                Place::Name(name) => names.push((name, picks.rank(offered))),
            }
        }
        if ips.is_empty() && !names.is_empty() {
            // A name that stands for another stands for that one alone (RFC 1034 section 3.6.2).
            let names = self.drawn(names, |(_, rank)| *rank, dice);
            let alias = names.first().and_then(|(name, _)| Name::from_ascii(name).ok());
            let record = alias.map(|mut alias| {
                alias.set_fqdn(true);
                self.own(ttl, RData::CNAME(CNAME(alias)))
            });
            return Found::Records(record.into_iter().collect(), Vec::new());
        }
        let is_there = !ips.is_empty();
        ips.retain(|(ip, _)| is_of_kind(*ip, self.question.kind()));
        if ips.is_empty() && is_there {
            // It only has addresses of the other kind.
            return Found::NoData;
        }
        // One that is in several zones counts as in the nearest.
        ips.sort_unstable();
        ips.dedup_by_key(|(ip, _)| *ip);
        let ips = self.drawn(ips, |(_, rank)| *rank, dice);
        let records = ips.into_iter().map(|(ip, _)| self.own(ttl, address(ip)));
        Found::Records(records.collect(), Vec::new())
    }

    fn srv(&self, picks: &Picks<'_>, ttl: u32, dice: &mut Dice) -> Found {
        let most = picks.all.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        let people = self.zone.people();
        let with_port = picks.all.iter().filter(|(offered, _)| offered.instance.address.port != 0);
        let placed =
            with_port.map(|&(offered, weight)| (place(offered), offered.instance.address.port, weight, offered));
        let mut places: Vec<_> = placed.collect();
        // Several may be at one place: a program that was registered twice. The heaviest stands for all.
        places.sort_unstable_by(|a, b| (a.0, a.1, b.2).cmp(&(b.0, b.1, a.2)));
        places.dedup_by_key(|(place, port, ..)| (*place, *port));
        let places = self.drawn(places, |(.., offered)| picks.rank(offered), dice);
        let (mut answers, mut additional) = (Vec::with_capacity(places.len()), Vec::with_capacity(places.len()));
        let mut told = BTreeSet::new();
        for (place, port, weight, offered) in places {
            let target = match place {
                Place::Ip(ip) => self.target(ip, offered, &people),
                Place::Name(name) => Name::from_ascii(name).ok(),
            };
            let Some(mut target) = target else { continue };
            target.set_fqdn(true);
            if let Place::Ip(ip) = place
                && told.insert(target.clone())
            {
                additional.push(Record::from_rdata(target.clone(), ttl, address(ip)));
            }
            // Who reads priorities goes farther only if nobody nearer answers (RFC 2782).
            let priority = PRIORITY.saturating_add(picks.rank(offered));
            answers.push(self.own(ttl, RData::SRV(SRV::new(priority, scaled(weight, most), port, target))));
        }
        Found::Records(answers, additional)
    }

    /// The name that an address has here: its member's, if that can be a name and leads nowhere else.
    fn target(&self, ip: IpAddr, offered: &Offered, people: &People) -> Option<Name> {
        let member = &offered.member;
        let is_members = member.peer.addr.ip().to_canonical() == ip;
        if is_members && is_plain_label(&member.name) && people.is_alone(member) {
            return under(&member.name, &self.domain.node);
        }
        let hex = match ip {
            IpAddr::V4(ip) => format!("{:08x}", ip.to_bits()),
            IpAddr::V6(ip) => format!("{:032x}", ip.to_bits()),
        };
        under(&hex, &self.domain.addr)
    }

    /// Those of the lowest rank first, beyond that in any order, and no more than the answer can have.
    fn drawn<T>(&self, mut all: Vec<T>, rank: impl Fn(&T) -> u16, dice: &mut Dice) -> Vec<T> {
        dice.shuffle(&mut all);
        if self.zone.plan.near {
            all.sort_by_key(rank);
        }
        if all.len() > ANSWERS_MAX && self.most == ANSWERS_MAX {
            self.zone.counts.0.capped.count();
        }
        all.truncate(self.most);
        all
    }
}

/// Where an instance is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place<'a> {
    Ip(IpAddr),
    Name(&'a str),
}

fn place(offered: &Offered) -> Place<'_> {
    match &offered.instance.address.host {
        // It listens on whatever addresses its machine has.
        Host::Ip(ip) if ip.is_unspecified() => Place::Ip(offered.member.peer.addr.ip().to_canonical()),
        Host::Ip(ip) => Place::Ip(ip.to_canonical()),
        Host::Name(name) => Place::Name(name),
    }
}

/// Whether an instance finishes what it has: it should get nothing new, and is still there for what it has.
fn is_draining(offered: &Offered) -> bool {
    offered.is_present
        && offered.instance.status == InstanceStatus::Draining
        && offered.member.state == crate::peer::MemberState::Reachable
}

/// Whether an instance is of the namespace, and has the tag or is of the group of that name. One of a group is found by
/// that alone: it is kept apart.
fn is_asked_for(instance: &Instance, tag: Option<&str>, namespace: Option<&str>) -> bool {
    let is_same = |own: &Option<Arc<str>>, asked: Option<&str>| match (own, asked) {
        (Some(own), Some(asked)) => own.eq_ignore_ascii_case(asked),
        (own, asked) => own.is_none() && asked.is_none(),
    };
    if !is_same(&instance.namespace, namespace) {
        return false;
    }
    let Some(tag) = tag else { return instance.group.is_none() };
    let has_tag = || instance.tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
    if instance.group.is_none() { has_tag() } else { is_same(&instance.group, Some(tag)) }
}

/// The weight of an SRV record. HAProxy divides by 256 and rounds up: so weights up to 256 arrive there as they are,
/// and larger ones in proportion. All others only look at proportions.
fn scaled(weight: u32, most: u32) -> u16 {
    let most_told = u32::from(u16::MAX);
    let scaled = match weight {
        0 => 0,
        _ if most <= WEIGHT_STEP => (weight * WEIGHT_STEP).min(most_told),
        // No weight is above 65,535, so this fits; none that is something becomes nothing.
        _ => (weight.min(most_told) * most_told / most.min(most_told)).clamp(1, most_told),
    };
    u16::try_from(scaled).unwrap_or(u16::MAX)
}

fn is_of_kind(ip: IpAddr, kind: RecordType) -> bool {
    if ip.is_ipv4() { kind == RecordType::A } else { kind == RecordType::AAAA }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn back(name: Name) -> RData {
    RData::PTR(PTR(name))
}

/// Texts of the form `key=value` (RFC 1464), as many as have room. One that is too long is left out whole.
fn texts(pairs: impl IntoIterator<Item = String>) -> Option<RData> {
    let mut room = TEXT_BYTES_MAX;
    let mut parts = Vec::new();
    for pair in pairs.into_iter().filter(|pair| pair.len() <= TEXT_PART_BYTES_MAX) {
        let Some(left) = room.checked_sub(pair.len() + 1) else { break };
        room = left;
        parts.push(pair);
    }
    (!parts.is_empty()).then(|| RData::TXT(TXT::new(parts)))
}

fn of_member(member: &Member) -> RData {
    let zone = (!member.zone.is_empty()).then(|| format!("zone={}", member.zone));
    let said = [format!("id={}", member.peer.id), format!("version={}", member.software)];
    // It has an id at least, which has room.
    texts(said.into_iter().chain(zone)).unwrap_or_else(|| RData::TXT(TXT::new(vec![String::new()])))
}

fn of_instance(offered: &Offered) -> Option<RData> {
    let instance = &offered.instance;
    let of = |key: &str, value: Option<&Arc<str>>| value.map(|value| format!("{key}={value}"));
    let said = [
        Some(format!("id={}", instance.id)),
        of("version", instance.version.as_ref()),
        of("zone", instance.zone.as_ref()),
        of("protocol", instance.protocol.as_ref()),
    ];
    let is_mark = |key: &str| [EXTERNAL_NODE, EXTERNAL_ADDRESS, EXTERNAL_ID].contains(&key);
    let meta = instance.meta.iter().filter(|(key, _)| !is_mark(key)).map(|(key, value)| format!("{key}={value}"));
    texts(said.into_iter().flatten().chain(meta))
}

/// Random enough for spreading load (splitmix64); nothing secret hangs on it.
#[derive(Clone, Debug)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `count`, which is not 0.
    fn below(&mut self, count: usize) -> usize {
        // The upper half is the better one, and nothing here has four thousand millions of parts.
        (((self.next() >> 32) * count as u64) >> 32) as usize
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for at in (1..all.len()).rev() {
            let other = self.below(at + 1);
            all.swap(at, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As HAProxy reads a weight.
    fn read_by_haproxy(weight: u16) -> u32 {
        u32::from(weight).div_ceil(256)
    }

    #[test]
    fn small_weights_arrive_in_haproxy_as_they_are() {
        for weight in 0..=256 {
            assert_eq!(read_by_haproxy(scaled(weight, 256)), weight);
        }
        assert_eq!([scaled(10, 10), scaled(1, 10)].map(read_by_haproxy), [10, 1]);
    }

    #[test]
    fn large_weights_arrive_in_proportion_and_none_becomes_nothing() {
        assert_eq!([65_535, 32_768, 1, 0].map(|weight| scaled(weight, 65_535)), [65_535, 32_768, 1, 0]);
        assert_eq!([1_000, 500, 1].map(|weight| scaled(weight, 1_000)), [65_535, 32_767, 65]);
        for weight in 1..=65_535 {
            assert!(scaled(weight, 65_535) > 0 && scaled(weight, weight) > 0, "{weight}");
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_left_out_and_the_others_have_a_limit() {
        let long = format!("k={}", "x".repeat(254));
        assert!(texts([long.clone()]).is_none());
        let Some(RData::TXT(text)) = texts([long, "a=b".to_owned()]) else { panic!("one is left") };
        assert_eq!(text.to_string(), "a=b");
        let many = texts((0..1_000).map(|n| format!("{n:0200}")));
        let Some(RData::TXT(text)) = many else { panic!("some are left") };
        assert_eq!(text.to_string().len(), 8_192 / 201 * 200);
    }

    #[test]
    fn every_order_comes_up_about_as_often() {
        let mut dice = Dice(7);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..6_000 {
            let mut order = [0, 1, 2];
            dice.shuffle(&mut order);
            *counts.entry(order).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
