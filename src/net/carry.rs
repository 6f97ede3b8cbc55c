//! Carries out what a node wants done: sends, asks, answers, shows and tells. Knows nothing of when a node is driven.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::driver::{Link, NODE_LOG};
use super::keys::Keyring;
use super::quic::{Inbound, Streams};
use super::recorder::Recorder;
use super::rotate::{KEY_ASKS_AT_ONCE, KeyChange, KeysError, KeysStatus, MemberKeys, Rotation, read_ring};
use super::seal::{OpenError, Opened, Seal};
use super::socket::Socket;
use super::stats::{DriverStats, Explanation, Health, Stats, Told, WorkStats};
use super::tls::ClusterTls;
use crate::detector::Rtt;
use crate::effect::{Event, Heard, Input, InputError, KeyProblem, Outbox, Reply, Request, StreamFailure, Warning};
use crate::node::{Agreement, Node};
use crate::pace::Warned;
use crate::peer::NodeId;
use crate::time::Time;
use crate::view::{StopReason, View};
use crate::wire::is_about_keys;

/// Questions of ours open at once; further ones fail as refused.
pub(crate) const REQUESTS_OPEN_MAX: usize = 64;

/// Questions of others open at once; further ones are refused.
pub(crate) const INBOUND_OPEN_MAX: usize = 256;

/// At most one line about refused input is logged in this time.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How long connections under the certificates of an old ring are kept, for answers that are under way.
const OLD_CONNECTIONS_END_AFTER: Duration = Duration::from_secs(1);

/// The answer to one of our questions.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To one of the node's.
    Node { token: u64, result: Result<Bytes, StreamFailure> },
    /// To one of ours: another member's ring.
    Keys(Keyring),
}

/// A node, and hands for everything that its outbox can ask for.
pub(crate) struct Carrier {
    node: Node,
    recorder: Option<Recorder>,
    outbox: Outbox,
    socket: Arc<Socket>,
    streams: Streams,
    view: View,
    link: Arc<Link>,
    answers: mpsc::UnboundedSender<Answer>,
    requests_open: usize,
    /// Questions of others that the node has not answered yet, by token.
    asked: BTreeMap<u64, oneshot::Sender<Option<Bytes>>>,
    next_token: u64,
    /// Who waits for a member to be forgotten.
    forgets: BTreeMap<NodeId, Vec<oneshot::Sender<Result<(), InputError>>>>,
    stop: Option<StopReason>,
    /// Who waits until everybody has heard that this member drains: one for each caller.
    drains: Vec<oneshot::Sender<Arc<Heard>>>,
    /// What was told of the answers to surveys.
    survey_heard: u64,
    /// Members came, went or changed since this was last taken.
    members_changed: bool,
    /// Services changed since this was last taken.
    services_changed: bool,
    /// Our ring, if it was changed since this was last taken.
    ring_changed: Option<Keyring>,
    refused: Throttle,
    seal: Seal,
    rotation: Rotation,
    warned: Warned,
    pub(crate) stats: DriverStats,
}

impl Carrier {
    pub(crate) fn new(
        (node, recorder): (Node, Option<Recorder>),
        (socket, streams): (Arc<Socket>, Streams),
        (view, link): (View, Arc<Link>),
        answers: mpsc::UnboundedSender<Answer>,
        (seal, rotation): (Seal, Rotation),
    ) -> Self {
        Self {
            node,
            recorder,
            outbox: Outbox::default(),
            socket,
            streams,
            view,
            link,
            answers,
            requests_open: 0,
            asked: BTreeMap::new(),
            next_token: 0,
            forgets: BTreeMap::new(),
            stop: None,
            drains: Vec::new(),
            survey_heard: 0,
            members_changed: false,
            services_changed: false,
            ring_changed: None,
            refused: Throttle::default(),
            seal,
            rotation,
            warned: Warned::default(),
            stats: DriverStats::default(),
        }
    }

    /// Hands the node one input, and carries out all that it wants done about it.
    pub(crate) fn hand(&mut self, input: Input<'_>) -> Result<(), InputError> {
        let now = self.link.clock.now();
        if let Some(recorder) = &mut self.recorder {
            recorder.before(now, &input);
        }
        let result = self.node.handle(now, input, &mut self.outbox);
        if let Some(recorder) = &mut self.recorder {
            recorder.after(&result, &self.outbox);
        }
        // Taken out while its parts are walked through; put back so that its memory is used again.
        let mut outbox = std::mem::take(&mut self.outbox);
        self.carry_out(&mut outbox);
        outbox.clear();
        self.outbox = outbox;
        if let Err(error) = &result {
            self.log_refused(now, error);
        }
        result
    }

    /// Opens a datagram and hands it to the node. One that does not open goes no further: it is counted, and its
    /// sender and the operator are told where that makes sense.
    pub(crate) fn receive(&mut self, from: SocketAddr, bytes: &mut [u8]) {
        let opened = self.seal.open(bytes, |id| self.node.nonce_of(id));
        match opened {
            Ok(Opened { bytes, is_other_key }) => {
                let _ = self.hand(Input::Datagram { from, bytes });
                if is_other_key && self.rotation.should_tell(from, self.link.clock.now()) {
                    self.exchange_keys(from);
                }
            }
            Err(OpenError::Key { problem, is_hello }) => self.refuse(from, problem, is_hello),
            Err(_) => {}
        }
    }

    fn refuse(&mut self, from: SocketAddr, problem: KeyProblem, is_hello: bool) {
        // What was sealed for an earlier start of ours does not open; there is nobody to blame.
        if matches!(problem, KeyProblem::DoesNotOpen { .. }) && !is_hello {
            return;
        }
        let now = self.link.clock.now();
        if let Some(refusal) = self.seal.refusal(&self.node.peer(), now)
            && self.socket.send(from, &refusal).is_err()
        {
            self.stats.sends_failed += 1;
        }
        let warning = Warning::Key { from, problem };
        if self.warned.may_tell(now, from, &warning) {
            self.tell(&mut vec![Event::Warning(warning)]);
        }
    }

    fn carry_out(&mut self, outbox: &mut Outbox) {
        for datagram in &mut outbox.datagrams {
            if let Err(error) = self.seal.seal(datagram.nonce, &mut datagram.bytes) {
                tracing::error!(target: NODE_LOG, to = %datagram.to, %error, "a datagram was not sealed, nor sent");
                continue;
            }
            if let Err(error) = self.socket.send(datagram.to, &datagram.bytes) {
                self.stats.sends_failed += 1;
                tracing::trace!(target: NODE_LOG, to = %datagram.to, %error, "a datagram was not sent");
            }
        }
        for request in outbox.requests.drain(..) {
            self.ask(request);
        }
        for reply in outbox.replies.drain(..) {
            self.reply(reply);
        }
        if !outbox.events.is_empty() {
            self.tell(&mut outbox.events);
        }
        self.link.note_peer(self.node.peer());
        let heard = self.node.survey_heard();
        if std::mem::replace(&mut self.survey_heard, heard) < heard {
            self.link.surveyed.notify_waiters();
        }
    }

    fn ask(&mut self, Request { token, to, bytes }: Request) {
        if self.requests_open >= REQUESTS_OPEN_MAX {
            self.stats.requests_refused += 1;
            self.answer_later(token, std::future::ready(Err(StreamFailure::Refused)));
        } else {
            let answer = self.streams.ask(to.addr, bytes);
            self.answer_later(token, answer);
        }
    }

    fn answer_later(
        &mut self,
        token: u64,
        answer: impl Future<Output = Result<Bytes, StreamFailure>> + Send + 'static,
    ) {
        self.requests_open += 1;
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let result = answer.await;
            // Fails only when the driver has ended.
            let _ = answers.send(Answer::Node { token, result });
        });
    }

    pub(crate) fn answered(&mut self, answer: Answer) {
        let (token, result) = match answer {
            Answer::Node { token, result } => (token, result),
            Answer::Keys(ring) => return self.consider_ring(&ring),
        };
        self.requests_open -= 1;
        // What the node refused it has counted, and `hand` has logged.
        let _ = self.hand(Input::Response { token, result });
    }

    pub(crate) fn asked(&mut self, Inbound { from, request, answer }: Inbound) {
        if is_about_keys(&request) {
            // Fails only when who asked has gone.
            let _ = answer.send(self.answer_about_keys(&request));
            return;
        }
        if self.asked.len() >= INBOUND_OPEN_MAX {
            self.asked.retain(|_, answer| !answer.is_closed());
        }
        if self.asked.len() >= INBOUND_OPEN_MAX {
            self.stats.inbound_refused += 1;
            // Fails only when who asked has gone.
            let _ = answer.send(None);
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token, answer);
        if self.hand(Input::Request { from, token, bytes: request }).is_err() {
            self.reply(Reply { token, bytes: None });
        }
    }

    fn reply(&mut self, Reply { token, bytes }: Reply) {
        if let Some(answer) = self.asked.remove(&token) {
            // Fails only when who asked has gone.
            let _ = answer.send(bytes);
        }
    }

    /// Takes the asker's ring if it is newer, and tells ours.
    fn answer_about_keys(&mut self, request: &[u8]) -> Option<Bytes> {
        // First: to whom ours must not be told, theirs must not be believed.
        self.rotation.told()?;
        self.consider_ring(&read_ring(request).ok()?);
        self.rotation.told()
    }

    fn consider_ring(&mut self, told: &Keyring) {
        if let Some((ring, tls)) = self.rotation.newer(told) {
            self.install_ring(ring, &tls);
        }
    }

    fn install_ring(&mut self, ring: Keyring, tls: &ClusterTls) {
        if let Err(error) = self.streams.renew(tls, Some(OLD_CONNECTIONS_END_AFTER)) {
            tracing::error!(target: NODE_LOG, %error, "streams cannot use the new keys; all stays as it was");
            return;
        }
        self.seal.set_keys(&ring);
        let keys: Vec<String> = ring.list().iter().map(ToString::to_string).collect();
        tracing::info!(target: NODE_LOG, revision = ring.revision(), in_use = ring.in_use().id(), ?keys,
            "the cluster keys have changed");
        self.link.keyring.send_replace(Some(ring.clone()));
        self.ring_changed = Some(ring.clone());
        self.rotation.take(ring, self.link.clock.now());
    }

    /// Changes our ring. The others learn of it by [`keys_status`](Self::keys_status).
    pub(crate) fn change_keys(&mut self, change: &KeyChange) -> Result<(), KeysError> {
        let (ring, tls) = self.rotation.plan(change)?;
        self.install_ring(ring, &tls);
        Ok(())
    }

    /// Tells our ring to every present member and gathers theirs; `done` hears when the last has answered.
    pub(crate) fn keys_status(&self, done: oneshot::Sender<Result<KeysStatus, KeysError>>) {
        let ours = match self.rotation.list() {
            Ok(ours) => ours,
            Err(error) => {
                // Fails only when who asked has gone.
                let _ = done.send(Err(error));
                return;
            }
        };
        let me = self.node.peer().id;
        let members = self.link.reader.members();
        let others = members.iter().filter(|member| member.state.is_present() && member.peer.id != me);
        let asks: Vec<_> = others
            .map(|member| {
                let ask = self.rotation.told().map(|ring| self.streams.ask(member.peer.addr, ring));
                (member.peer.id, Arc::clone(&member.name), member.peer.addr, ask)
            })
            .collect();
        let answers = self.answers.clone();
        tokio::spawn(async move {
            let permits = Arc::new(Semaphore::new(KEY_ASKS_AT_ONCE));
            let mut tasks = JoinSet::new();
            for (id, name, addr, ask) in asks {
                let (permits, answers) = (Arc::clone(&permits), answers.clone());
                tasks.spawn(async move {
                    // Never closed; and without a permit there would merely be more at once.
                    let _permit = permits.acquire().await;
                    let keys = match ask {
                        Some(ask) => ask.await.and_then(|bytes| read_ring(&bytes).map_err(|_| StreamFailure::Refused)),
                        None => Err(StreamFailure::Refused),
                    };
                    let told = keys.as_ref().map(Keyring::list).map_err(|failure| *failure);
                    if let Ok(ring) = keys {
                        // Fails only when the driver has ended.
                        let _ = answers.send(Answer::Keys(ring));
                    }
                    MemberKeys { id, name, addr, keys: told }
                });
            }
            let mut members = tasks.join_all().await;
            members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
            let _ = done.send(Ok(KeysStatus { ours, members }));
        });
    }

    /// Tells our ring to whoever listens at `to`, and hears theirs.
    fn exchange_keys(&self, to: SocketAddr) {
        let Some(ring) = self.rotation.told() else { return };
        let (ask, answers) = (self.streams.ask(to, ring), self.answers.clone());
        tokio::spawn(async move {
            if let Some(ring) = ask.await.ok().and_then(|bytes| read_ring(&bytes).ok()) {
                let _ = answers.send(Answer::Keys(ring));
            }
        });
    }

    /// Shows and tells events: first the view, then its watches, then the listeners, so that whoever hears of a
    /// change finds it in the view.
    fn tell(&mut self, events: &mut Vec<Event>) {
        let mut is_ready = false;
        if self.rotation.explains_refusals() {
            events.retain(|event| match event {
                Event::Warning(warning @ Warning::Key { problem: KeyProblem::Refused, .. }) => {
                    self.link.note_refusal(warning);
                    tracing::debug!(target: NODE_LOG, "{warning}; keys are changing");
                    false
                }
                _ => true,
            });
        }
        self.view.pass(self.link.clock.now());
        for event in events.iter() {
            self.view.apply(event);
            match event {
                Event::Ready => is_ready = true,
                Event::Warning(warning) => {
                    self.link.note_refusal(warning);
                    tracing::warn!(target: NODE_LOG, "{warning}");
                }
                Event::PartitionSuspected(split) => {
                    tracing::warn!(target: NODE_LOG, lost = split.lost, kept = split.kept, "a split is suspected: {split}");
                }
                Event::PartitionOver => tracing::info!(target: NODE_LOG, "no split is suspected any more"),
                Event::CutOff(true) => {
                    tracing::warn!(target: NODE_LOG, "nobody answers: this member is cut off, and accuses nobody");
                }
                Event::Forgetting { id, result } => {
                    for done in self.forgets.remove(id).into_iter().flatten() {
                        // Fails only when who asked has gone.
                        let _ = done.send(result.clone().map_err(InputError::NotForgotten));
                    }
                }
                Event::CutOff(false) => tracing::info!(target: NODE_LOG, "members answer again"),
                Event::Drained(heard) => {
                    for done in self.drains.drain(..) {
                        // Fails only when who asked has gone.
                        let _ = done.send(Arc::clone(heard));
                    }
                }
                Event::Fatal(fatal) => self.stop = Some(StopReason::Fatal(fatal.clone())),
                Event::ServiceUp { .. } | Event::ServiceChanged { .. } | Event::ServiceDown { .. } => {}
                Event::MassDrop { .. } | Event::MassDropOver { .. } => {}
                Event::MemberUp(_) | Event::MemberChanged(_) | Event::MemberDown(_) | Event::MemberLeft(_) => {
                    self.members_changed = true;
                }
                Event::MemberForgotten(member) => {
                    self.members_changed = true;
                    self.seal.forget(member.peer.id);
                }
            }
        }
        let services = self.view.publish();
        self.services_changed |= !services.is_empty();
        for found in self.view.take_found() {
            match &found {
                Event::MassDrop { service, lost, kept } => {
                    tracing::warn!(target: NODE_LOG, %service, lost, kept,
                        "{lost} instances were lost at once: they are kept as the last known good");
                }
                Event::MassDropOver { service } => {
                    tracing::info!(target: NODE_LOG, %service, "no instances are kept as the last known good any more");
                }
                _ => {}
            }
            events.push(found);
        }
        if is_ready {
            self.view.ready();
            // A view of which some was not saved while it was joining.
            self.services_changed = true;
        }
        self.link.hub.tell(services, events.drain(..));
        if is_ready {
            // Last: whoever waited for it finds in its watches what the view shows.
            self.link.tell_status();
        }
    }

    /// Tells everybody that this member takes no new work; `done` hears who confirmed it, and is dropped if the node
    /// refuses.
    pub(crate) fn drain(&mut self, within: Duration, done: oneshot::Sender<Arc<Heard>>) {
        self.drains.retain(|waiting| !waiting.is_closed());
        self.drains.push(done);
        if self.hand(Input::Drain(within)).is_err() {
            self.drains.clear();
        }
    }

    pub(crate) fn seeds(&mut self, seeds: Vec<SocketAddr>) {
        let _ = self.hand(Input::Seeds(seeds));
    }

    fn log_refused(&mut self, now: Time, error: &InputError) {
        let Some(unsaid) = self.refused.says_at(now) else { return };
        if let InputError::Bug(_) = error {
            tracing::error!(target: NODE_LOG, unsaid, "{error}");
        } else {
            tracing::trace!(target: NODE_LOG, unsaid, "input refused: {error}");
        }
    }

    pub(crate) fn next_wake(&self) -> Option<Time> {
        self.node.next_wake()
    }

    /// Why the driver must stop; `None` while it may go on.
    pub(crate) fn take_stop(&mut self) -> Option<StopReason> {
        self.stop.take()
    }

    /// The addresses of the members known now, if any changed since this was last asked.
    pub(crate) fn take_members(&mut self) -> Option<Vec<(NodeId, SocketAddr)>> {
        std::mem::take(&mut self.members_changed).then(|| self.node.known_addrs())
    }

    /// Our ring, if it was changed since this was last asked.
    pub(crate) fn take_ring(&mut self) -> Option<Keyring> {
        self.ring_changed.take()
    }

    pub(crate) fn agreement(&self) -> Agreement {
        self.node.agreement()
    }

    pub(crate) fn services_changed(&self) -> bool {
        self.services_changed
    }

    pub(crate) fn take_services_changed(&mut self) -> bool {
        std::mem::take(&mut self.services_changed)
    }

    pub(crate) fn members_changed(&self) -> bool {
        self.members_changed
    }

    /// Lets a member be forgotten; `done` hears what became of it.
    pub(crate) fn forget(&mut self, id: NodeId, done: oneshot::Sender<Result<(), InputError>>) {
        // First, because the outcome may come at once.
        let waiting = self.forgets.entry(id).or_default();
        waiting.retain(|done| !done.is_closed());
        waiting.push(done);
        if let Err(error) = self.hand(Input::Forget(id)) {
            // Whoever asked earlier may have a case that goes on: it was refused to the newest alone.
            let waiting = self.forgets.entry(id).or_default();
            if let Some(done) = waiting.pop() {
                // Fails only when who asked has gone.
                let _ = done.send(Err(error));
            }
            if waiting.is_empty() {
                self.forgets.remove(&id);
            }
        }
    }

    pub(crate) fn explain(&self, now: Time, id: NodeId) -> Option<Explanation> {
        let member = self.link.reader.members().iter().find(|member| member.peer.id == id).cloned()?;
        let (standing, rtt) = match self.node.reachability(id) {
            Some(known) => (known.standing, known.rtt),
            None => (self.node.own_standing(), None),
        };
        let story = self.node.explain(id).map(|line| Told { ago: now.since(line.at), seen: line.seen });
        let story: Vec<Told> = story.collect();
        let told: BTreeSet<NodeId> = story.iter().filter_map(|told| told.seen.by()).chain([standing.by]).collect();
        let members = self.link.reader.members();
        let told = members.iter().filter(|member| told.contains(&member.peer.id));
        let names = told.map(|member| (member.peer.id, Arc::clone(&member.name))).collect();
        Some(Explanation { member, standing, rtt, story, names })
    }

    pub(crate) fn rtts(&self) -> BTreeMap<NodeId, Rtt> {
        self.node.rtts().collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            node: self.node.counters(),
            socket: self.socket.stats(),
            streams: self.streams.stats(),
            driver: self.stats,
            health: Health::of(&self.node),
            seal: self.seal.stats(),
            recording: self.recorder.as_ref().map(|recorder| recorder.stats).unwrap_or_default(),
            view: self.view.sizes(),
            work: WorkStats::of(&self.link.gate),
            queues: self.node.queues(),
            rtts: *self.node.rtts_seen(),
            propagation: *self.node.propagation(),
        }
    }

    /// Ends the streams; nothing is asked or answered after.
    pub(crate) fn close(&self) {
        self.streams.close();
    }
}

/// Lets one line through in a while, and counts the others.
#[derive(Default, Debug)]
pub(crate) struct Throttle {
    said: Option<Time>,
    unsaid: u64,
}

impl Throttle {
    /// Whether to speak now; if so, how many times it was not since the last time.
    pub(crate) fn says_at(&mut self, now: Time) -> Option<u64> {
        if self.said.is_some_and(|said| now.since(said) < LOG_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_tells_how_much_it_swallowed() {
        let mut throttle = Throttle::default();
        let at = |ms| Time::from(Duration::from_millis(ms));
        assert_eq!(throttle.says_at(at(0)), Some(0));
        assert_eq!(throttle.says_at(at(10)), None);
        assert_eq!(throttle.says_at(at(999)), None);
        assert_eq!(throttle.says_at(at(1_000)), Some(2));
    }
}
