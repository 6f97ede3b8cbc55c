//! Carries out what a node wants done: sends, asks, answers, shows and tells. Knows nothing of when a node is driven.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::driver::{Link, NODE_LOG};
use super::quic::{Inbound, Streams};
use super::socket::Socket;
use super::stats::{DriverStats, Stats};
use crate::effect::{Event, Input, InputError, Outbox, Reply, Request, StreamFailure};
use crate::node::Node;
use crate::peer::NodeId;
use crate::time::Time;
use crate::view::{StopReason, View};

/// Questions of ours open at once; further ones fail as refused.
pub(crate) const REQUESTS_OPEN_MAX: usize = 64;

/// Questions of others open at once; further ones are refused.
pub(crate) const INBOUND_OPEN_MAX: usize = 256;

/// At most one line about refused input is logged in this time.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The answer to one of our questions.
#[derive(Debug)]
pub(crate) struct Answer {
    token: u64,
    result: Result<Bytes, StreamFailure>,
}

/// A node, and hands for everything that its outbox can ask for.
pub(crate) struct Carrier {
    node: Node,
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
    stop: Option<StopReason>,
    /// Members came, went or changed since this was last taken.
    members_changed: bool,
    refused: Throttle,
    pub(crate) stats: DriverStats,
}

impl Carrier {
    pub(crate) fn new(
        node: Node,
        (socket, streams): (Arc<Socket>, Streams),
        (view, link): (View, Arc<Link>),
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Self {
        Self {
            node,
            outbox: Outbox::default(),
            socket,
            streams,
            view,
            link,
            answers,
            requests_open: 0,
            asked: BTreeMap::new(),
            next_token: 0,
            stop: None,
            members_changed: false,
            refused: Throttle::default(),
            stats: DriverStats::default(),
        }
    }

    /// Hands the node one input, and carries out all that it wants done about it.
    pub(crate) fn hand(&mut self, input: Input<'_>) -> Result<(), InputError> {
        let now = self.link.clock.now();
        let result = self.node.handle(now, input, &mut self.outbox);
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

    fn carry_out(&mut self, outbox: &mut Outbox) {
        for datagram in &outbox.datagrams {
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
            let _ = answers.send(Answer { token, result });
        });
    }

    pub(crate) fn answered(&mut self, Answer { token, result }: Answer) {
        self.requests_open -= 1;
        // What the node refused it has counted, and `hand` has logged.
        let _ = self.hand(Input::Response { token, result });
    }

    pub(crate) fn asked(&mut self, Inbound { from, request, answer }: Inbound) {
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

    /// Shows and tells events: first the view, then its watches, then the listeners, so that whoever hears of a
    /// change finds it in the view.
    fn tell(&mut self, events: &mut Vec<Event>) {
        let mut is_ready = false;
        for event in events.iter() {
            self.view.apply(event);
            match event {
                Event::Ready => is_ready = true,
                Event::Warning(warning) => tracing::warn!(target: NODE_LOG, "{warning}"),
                Event::Fatal(fatal) => self.stop = Some(StopReason::Fatal(fatal.clone())),
                Event::ServiceUp { .. } | Event::ServiceChanged { .. } | Event::ServiceDown { .. } => {}
                Event::MemberUp(_)
                | Event::MemberChanged(_)
                | Event::MemberDown(_)
                | Event::MemberLeft(_)
                | Event::MemberForgotten(_) => self.members_changed = true,
            }
        }
        let services = self.view.publish();
        if is_ready {
            self.view.ready();
            self.link.tell_status();
        }
        self.link.hub.tell(services, events.drain(..));
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

    pub(crate) fn members_changed(&self) -> bool {
        self.members_changed
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            node: self.node.counters(),
            socket: self.socket.stats(),
            streams: self.streams.stats(),
            driver: self.stats,
            view: self.view.sizes(),
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
