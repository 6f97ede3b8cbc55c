//! What every answer is made from: the member, what it offers, the numbers to wait by. Knows nothing of requests.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use super::ask::Blocking;
use super::auth::Tokens;
use super::certificate::{Certificate, Readings};
use super::consul::Shapes;
#[cfg(feature = "dns")]
use super::dns::DnsCounts;
use super::http::{HttpPlan, Traffic};
use super::index::{Index, Local, Subject};
use super::native;
use super::refusal::Refusal;
use crate::effect::Event;
use crate::net::driver::unix_ms;
use crate::net::tally::Tally;
use crate::offers::Offers;
use crate::peer::NodeId;
use crate::registry::{Events, Registry};
use crate::view::{Reader, Status};

/// Changes within this time after the first are looked at together.
const LOOK_AFTER: Duration = Duration::from_millis(15);

/// A setting, as `/v2/config` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Setting {
    /// Its name, as in the configuration file.
    pub key: String,
    /// Its value as text; `None` if it is not set, and for a secret.
    pub value: Option<String>,
    /// Where it comes from, if that is known.
    pub origin: Option<String>,
}

impl Setting {
    /// A setting of unknown origin.
    pub fn new(key: impl Into<String>, value: Option<String>) -> Self {
        Self { key: key.into(), value, origin: None }
    }
}

/// What can change while the interface is open.
#[derive(Debug)]
pub(super) struct Rules {
    /// Replaced whole; never held over an await.
    now: RwLock<RulesNow>,
}

#[derive(Debug)]
struct RulesNow {
    tokens: Option<Arc<Tokens>>,
    settings: Arc<[Setting]>,
    drain_timeout: Duration,
}

impl Rules {
    pub(super) fn new(tokens: Option<Tokens>, settings: Vec<Setting>, drain_timeout: Duration) -> Arc<Self> {
        let (tokens, settings) = (tokens.map(Arc::new), Arc::from(settings));
        Arc::new(Self { now: RwLock::new(RulesNow { tokens, settings, drain_timeout }) })
    }

    /// Nothing in it is changed halfway, whoever panicked.
    fn now(&self) -> RwLockReadGuard<'_, RulesNow> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut RulesNow)) {
        change(&mut self.now.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn tokens(&self) -> Option<Arc<Tokens>> {
        self.now().tokens.clone()
    }

    pub(super) fn settings(&self) -> Arc<[Setting]> {
        Arc::clone(&self.now().settings)
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        self.now().drain_timeout
    }

    pub(super) fn set_tokens(&self, tokens: Tokens) {
        self.change(|now| now.tokens = Some(Arc::new(tokens)));
    }

    pub(super) fn set_drain_timeout(&self, timeout: Duration) {
        self.change(|now| now.drain_timeout = timeout);
    }

    /// Those of the same key are replaced; others stay.
    pub(super) fn set_settings(&self, changed: Vec<Setting>) {
        self.change(|now| {
            let mut all: BTreeMap<String, Setting> =
                changed.into_iter().map(|setting| (setting.key.clone(), setting)).collect();
            now.settings = now.settings.iter().map(|old| all.remove(&old.key).unwrap_or_else(|| old.clone())).collect();
        });
    }
}

/// What was counted of requests.
#[derive(Default, Debug)]
pub(super) struct Figures {
    pub(super) requests: AtomicU64,
    pub(super) client_errors: AtomicU64,
    pub(super) server_errors: AtomicU64,
    pub(super) unauthorized: AtomicU64,
    pub(super) forbidden: AtomicU64,
    pub(super) bodies_refused: AtomicU64,
    pub(super) unsupported: AtomicU64,
    /// Requests that wait for a change now.
    pub(super) polls_open: AtomicU64,
    /// Streams of events that are open now.
    pub(super) streams_open: AtomicU64,
    /// Streams that were refused, because too many were open.
    pub(super) streams_refused: AtomicU64,
    /// Requests by the path of their route and the code of their answer.
    pub(super) by_route: Tally<u16>,
}

/// What every answer is made from.
pub(super) struct Desk {
    pub(super) registry: Registry,
    pub(super) offers: Offers,
    pub(super) reader: Reader,
    pub(super) shapes: Shapes,
    /// The numbers of `/v1`.
    pub(super) index: Arc<Index>,
    /// The numbers of `/v2`, which shows more, and so changes more often.
    pub(super) native: Arc<Index>,
    pub(super) cluster: Arc<str>,
    pub(super) rules: Arc<Rules>,
    /// Where we listen.
    pub(super) addr: SocketAddr,
    pub(super) closing: watch::Receiver<bool>,
    pub(super) traffic: Arc<Traffic>,
    certificate: Option<Arc<Certificate>>,
    pub(super) figures: Figures,
    #[cfg(feature = "dns")]
    pub(super) dns: Option<DnsCounts>,
    pub(super) began: Instant,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Desk {
    /// Needs a tokio runtime; what keeps the numbers new runs on it until `closing`.
    pub(super) fn open(
        offers: Offers,
        plan: HttpPlan,
        addr: SocketAddr,
        certificate: Option<Arc<Certificate>>,
        closing: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let registry = offers.registry().clone();
        let reader = registry.reader();
        let shapes =
            Shapes { reader: reader.clone(), offers: offers.clone(), datacenter: Arc::clone(&plan.datacenter) };
        let (of, ours, changes, prints) = (shapes.clone(), shapes.clone(), offers.changes(), offers.clone());
        let local = Local {
            version: Box::new(move || *changes.borrow()),
            printed: Box::new(move || prints.printed()),
            concerns: Box::new(move |subject| ours.is_local(subject)),
        };
        let index = Arc::new(Index::new(reader.clone(), unix_ms(), Box::new(move |subject| of.digest(subject)), local));
        let of = reader.clone();
        let native = Arc::new(Index::new(
            reader.clone(),
            unix_ms(),
            Box::new(move |subject| native::digest(&of, subject)),
            Local::nothing(),
        ));
        // Listens before anything is answered: what changes afterwards is heard.
        let news = News {
            events: registry.events(),
            local: offers.changes(),
            reader: reader.clone(),
            indexes: [Arc::clone(&index), Arc::clone(&native)],
        };
        tokio::spawn(news.keep(closing.clone()));
        Arc::new(Self {
            registry,
            offers,
            reader,
            shapes,
            index,
            native,
            cluster: plan.cluster,
            rules: Rules::new(plan.tokens, plan.settings, plan.drain_timeout),
            addr,
            closing,
            traffic: Arc::default(),
            certificate,
            figures: Figures::default(),
            #[cfg(feature = "dns")]
            dns: plan.dns,
            began: Instant::now(),
        })
    }

    /// Why what is known may be old: nobody should act upon it without being told so.
    pub(super) fn doubt(&self) -> Option<String> {
        match self.reader.status() {
            Status::Joining => Some("the agent has not joined yet: what it knows may lack a lot".to_owned()),
            Status::Stopped(reason) => Some(format!("the agent's member has stopped: {reason}")),
            Status::Ready if self.reader.is_isolated() => {
                Some("the agent is cut off from all other members: what it knows may be old".to_owned())
            }
            Status::Ready => None,
        }
    }

    /// Refuses while what is known may be old: clients that cannot be told otherwise keep their last answer then.
    pub(super) fn certain(&self) -> Result<(), Refusal> {
        match self.doubt() {
            None => Ok(()),
            Some(why) => Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why)),
        }
    }

    /// Waits as a blocking query does, and gives the number to tell. What is read afterwards is at least as new.
    pub(super) async fn newer(&self, subject: Subject<'_>, than: Blocking) -> u64 {
        self.note_discovery(subject);
        if than.index == 0 {
            return self.index.now(subject);
        }
        let _open = Open::new(&self.figures.polls_open);
        self.index.newer(subject, than, &mut self.closing.clone()).await
    }

    /// The same for `/v2`.
    pub(super) async fn newer_native(&self, subject: Subject<'_>, than: Blocking) -> u64 {
        self.note_discovery(subject);
        if than.index == 0 {
            return self.native.now(subject);
        }
        let _open = Open::new(&self.figures.polls_open);
        self.native.newer(subject, than, &mut self.closing.clone()).await
    }

    /// Counts that somebody asks for the instances of a service.
    pub(super) fn note_discovery(&self, subject: Subject<'_>) {
        if let Subject::Service(name) = subject {
            self.registry.tallies().note_discovery(name, self.reader.service(name).is_some());
        }
    }

    /// The names of all figures of the interface.
    pub(super) const FIGURES: [&'static str; 19] = [
        "http_requests",
        "http_client_errors",
        "http_server_errors",
        "http_unauthorized",
        "http_forbidden",
        "http_bodies_refused",
        "http_unsupported",
        "http_polls_open",
        "http_streams_open",
        "http_streams_refused",
        "http_connections",
        "http_connections_open",
        "http_connections_refused",
        "http_connections_broken",
        "http_connections_slow",
        "http_accepts_failed",
        "http_handshakes_failed",
        "http_certificates_taken",
        "http_certificates_refused",
    ];

    /// Every figure of the interface, by name.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let (figures, traffic) = (&self.figures, &self.traffic);
        let of = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let certificate = self.certificate.as_ref();
        let readings =
            |one: fn(&Readings) -> &AtomicU64| certificate.map_or(0, |certificate| of(one(&certificate.readings)));
        let values = [
            of(&figures.requests),
            of(&figures.client_errors),
            of(&figures.server_errors),
            of(&figures.unauthorized),
            of(&figures.forbidden),
            of(&figures.bodies_refused),
            of(&figures.unsupported),
            of(&figures.polls_open),
            of(&figures.streams_open),
            of(&figures.streams_refused),
            of(&traffic.connections),
            of(&traffic.open),
            of(&traffic.refused_full),
            of(&traffic.broken),
            of(&traffic.slow),
            of(&traffic.accept_failed),
            of(&traffic.handshakes_failed),
            readings(|readings| &readings.taken),
            readings(|readings| &readings.refused),
        ];
        Self::FIGURES.into_iter().zip(values)
    }
}

/// Counts something open while it lives.
pub(super) struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    pub(super) fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Hears what may have changed, and lets the index look.
struct News {
    events: Events,
    local: watch::Receiver<u64>,
    reader: Reader,
    indexes: [Arc<Index>; 2],
}

/// What may have changed.
#[derive(Default)]
struct Changed {
    services: BTreeSet<Arc<str>>,
    members: BTreeSet<NodeId>,
    everything: bool,
}

impl Changed {
    fn note(&mut self, event: &Event) {
        match event {
            Event::ServiceUp { instance, .. } | Event::ServiceDown { instance, .. } => {
                self.services.insert(Arc::clone(&instance.service));
            }
            Event::ServiceChanged { before, instance, .. } => {
                self.services.extend([Arc::clone(&before.service), Arc::clone(&instance.service)]);
            }
            Event::MemberUp(member)
            | Event::MemberChanged(member)
            | Event::MemberDown(member)
            | Event::MemberLeft(member)
            | Event::MemberForgotten(member) => {
                self.members.insert(member.peer.id);
            }
            _ => {}
        }
    }
}

impl News {
    async fn keep(mut self, mut closing: watch::Receiver<bool>) {
        loop {
            let mut changed = Changed::default();
            tokio::select! {
                _ = closing.wait_for(|is_closing| *is_closing) => return,
                event = self.events.next() => match event {
                    Some(Ok(event)) => changed.note(&event),
                    Some(Err(_)) => changed.everything = true,
                    None => return,
                },
                told = self.local.changed() => match told {
                    Ok(()) => changed.everything = true,
                    Err(_) => return,
                },
            }
            tokio::time::sleep(LOOK_AFTER).await;
            self.take_rest(&mut changed);
            self.look(changed);
        }
    }

    fn take_rest(&mut self, changed: &mut Changed) {
        while let Some(event) = self.events.heard_already() {
            match event {
                Ok(event) => changed.note(&event),
                Err(_) => changed.everything = true,
            }
        }
        if self.local.has_changed().unwrap_or(false) {
            self.local.mark_unchanged();
            changed.everything = true;
        }
    }

    fn look(&self, changed: Changed) {
        let Changed { mut services, members, everything } = changed;
        if everything {
            services.extend(self.indexes.iter().flat_map(|index| index.asked()));
        } else if !members.is_empty() {
            // One that a member no longer offers was told as such.
            let of = self
                .reader
                .services()
                .into_iter()
                .filter(|service| service.all().iter().any(|offered| members.contains(&offered.member.peer.id)));
            services.extend(of.map(|service| Arc::clone(service.name())));
        }
        for index in &self.indexes {
            index.look_at(services.iter().map(|name| &**name));
        }
    }
}
