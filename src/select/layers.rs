//! What [tower](https://docs.rs/tower) needs: a stream of the instances of a service, a service that gives each call to
//! one of them and fails over, and a layer that turns work away once this member drains.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use tower::discover::Change;
use tower::{Layer, Service, ServiceExt};

use super::candidate::{Candidate, Place, Vitals};
use super::eject::Outcome;
use super::failover::GiveUp;
use super::picker::{Call, Picker, Picks};
use super::run::{CallError, Caller, Failure};
use super::selector::Selector;
use crate::registry::{Draining, Gate, Pass, Registry, Watch};
use crate::view::{Offered, StopReason};

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The healthy instances of a service as they come and go: as a stream of changes it is a
/// [`Discover`](tower::discover::Discover), to be mapped to connections.
///
/// An instance that was lost and is back is inserted again; one that changed is inserted in place of itself. The stream
/// ends with an error when the member stops.
pub struct Discovered {
    selector: Selector,
    shown: BTreeMap<Place, Offered>,
    todo: Vec<Change<Place, Offered>>,
    next: Waiting<(Watch, Result<(), StopReason>)>,
}

impl std::fmt::Debug for Discovered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovered").field("shown", &self.shown.len()).finish_non_exhaustive()
    }
}

impl Discovered {
    /// The instances of `service` that the selector wants, whatever it says of how many must be healthy or near.
    pub fn new(registry: &Registry, service: &str, selector: Selector) -> Self {
        let watch = registry.watch(service);
        let next = Box::pin(async move { (watch, Ok(())) });
        Self { selector, shown: BTreeMap::new(), todo: Vec::new(), next }
    }

    fn compare(&mut self, watch: &Watch) {
        let wanted = watch.current().healthy().iter().filter(|offered| self.selector.miss(offered).is_none());
        let now: BTreeMap<Place, Offered> = wanted.map(|offered| (Place::of(offered), offered.clone())).collect();
        for place in self.shown.keys().filter(|place| !now.contains_key(place)) {
            self.todo.push(Change::Remove(place.clone()));
        }
        for (place, offered) in &now {
            if self.shown.get(place).is_none_or(|shown| shown.instance != offered.instance) {
                self.todo.push(Change::Insert(place.clone(), offered.clone()));
            }
        }
        // The removals first: taken from the end.
        self.todo.reverse();
        self.shown = now;
    }
}

impl Stream for Discovered {
    type Item = Result<Change<Place, Offered>, StopReason>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(change) = self.todo.pop() {
                return Poll::Ready(Some(Ok(change)));
            }
            let (mut watch, result) = ready!(self.next.as_mut().poll(context));
            if let Err(reason) = result {
                self.next = Box::pin(std::future::pending());
                return Poll::Ready(Some(Err(reason)));
            }
            self.compare(&watch);
            self.next = Box::pin(async move {
                let result = watch.changed().await.map(drop);
                (watch, result)
            });
        }
    }
}

/// What a [`Balance`] must know of its requests and answers.
pub trait Policy<Req, Res, E> {
    /// How a try ended, which decides on ejection and on another try.
    fn outcome(&self, result: &Result<Res, E>) -> Outcome;

    /// The request once more, should it be tried at another instance; `None` if it cannot be told twice: then it is
    /// tried once.
    fn again(&self, request: &Req) -> Option<Req>;

    /// Whether it may be made twice although the first instance may have done the work. Otherwise it is tried again
    /// only if the instance certainly did nothing.
    fn may_repeat(&self, request: &Req) -> bool;

    /// What the picker is to know of it, such as its key.
    fn call(&self, _: &Req) -> Call {
        Call::new()
    }
}

/// A service that gives each request to an instance that is picked for it, and to another if that fails: everything
/// that the [`Caller`] does. Always ready; clones are the same.
///
/// `connect` makes what talks to an instance, once for each: a connection pool, or a connection that is made at need.
pub struct Balance<M, S, Y, P = Picker> {
    inside: Arc<Inside<M, S, Y, P>>,
}

struct Inside<M, S, Y, P> {
    caller: Caller<P>,
    connect: M,
    policy: Y,
    /// By token, for as long as the instance is known.
    services: Mutex<BTreeMap<u64, (Weak<Vitals>, S)>>,
}

impl<M, S, Y, P> Clone for Balance<M, S, Y, P> {
    fn clone(&self) -> Self {
        Self { inside: Arc::clone(&self.inside) }
    }
}

impl<M, S, Y, P: std::fmt::Debug> std::fmt::Debug for Balance<M, S, Y, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balance").field("caller", &self.inside.caller).finish_non_exhaustive()
    }
}

impl<M: Fn(&Candidate) -> S, S: Clone, Y, P: Picks> Balance<M, S, Y, P> {
    /// A service on top of this caller.
    pub fn new(caller: Caller<P>, policy: Y, connect: M) -> Self {
        Self { inside: Arc::new(Inside { caller, connect, policy, services: Mutex::default() }) }
    }

    /// The caller, with its picker and its budget.
    pub fn caller(&self) -> &Caller<P> {
        &self.inside.caller
    }
}

impl<M: Fn(&Candidate) -> S, S: Clone, Y, P> Inside<M, S, Y, P> {
    /// What talks to the instance. Those of instances that are gone are dropped when a new one comes.
    fn service(&self, candidate: &Candidate) -> S {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, service)) = services.get(&candidate.token()) {
            return service.clone();
        }
        services.retain(|_, (known, _)| known.strong_count() > 0);
        let service = (self.connect)(candidate);
        services.insert(candidate.token(), (Arc::downgrade(&candidate.vitals), service.clone()));
        service
    }

    /// One try.
    async fn attempt<Req>(&self, candidate: &Candidate, request: Req) -> Result<S::Response, S::Error>
    where
        S: Service<Req>,
    {
        self.service(candidate).oneshot(request).await
    }
}

impl<M, S, Y, P> Inside<M, S, Y, P>
where
    M: Fn(&Candidate) -> S,
    S: Clone,
    P: Picks,
{
    async fn call<Req>(self: Arc<Self>, request: Req) -> Result<S::Response, CallError<S::Error>>
    where
        S: Service<Req>,
        Y: Policy<Req, S::Response, S::Error>,
    {
        let (call, may_repeat) = (self.policy.call(&request), self.policy.may_repeat(&request));
        let Some(copy) = self.policy.again(&request) else { return self.once(call, request).await };
        // The copy goes first: from the original further ones are made. All of it is owned by each try, for a future
        // that borrows from its caller cannot be proven to be `Send` for every lifetime.
        let shared = Arc::new((Arc::clone(&self), request, Mutex::new(Some(copy))));
        let attempt = move |candidate: Arc<Candidate>| {
            let shared = Arc::clone(&shared);
            async move {
                let (inside, request, first) = &*shared;
                let copy = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                let copy = copy.or_else(|| inside.policy.again(request));
                let Some(copy) = copy else { return Err(Failure::Rejected(None)) };
                let result = inside.attempt(&candidate, copy).await;
                match inside.policy.outcome(&result) {
                    Outcome::Succeeded => Ok(result),
                    Outcome::Failed => Err(Failure::Failed(Some(result))),
                    Outcome::TurnedAway => Err(Failure::TurnedAway(Some(result))),
                    Outcome::Refused => Err(Failure::Refused(Some(result))),
                }
            }
        };
        match self.caller.call(call, may_repeat, attempt).await {
            Ok(result) => result.map_err(CallError::Rejected),
            Err(CallError::Nobody(nobody)) => Err(CallError::Nobody(nobody)),
            // An answer that says no is still an answer: the last one is passed on.
            Err(CallError::Failed { last: Some(Some(Ok(answer))), .. } | CallError::Rejected(Some(Ok(answer)))) => {
                Ok(answer)
            }
            Err(CallError::Failed { tries, why, last }) => {
                let last = last.flatten().and_then(Result::err);
                Err(CallError::Failed { tries, why, last })
            }
            Err(CallError::Rejected(Some(Err(error)))) => Err(CallError::Rejected(error)),
            // It could be told once more, and then no further.
            Err(CallError::Rejected(None)) => {
                Err(CallError::Failed { tries: 1, why: GiveUp::NotRepeatable.into(), last: None })
            }
        }
    }

    /// The only try of a request that cannot be told twice.
    async fn once<Req>(&self, call: Call, request: Req) -> Result<S::Response, CallError<S::Error>>
    where
        S: Service<Req>,
        Y: Policy<Req, S::Response, S::Error>,
    {
        let pick = self.caller.picker().pick_for(&call)?;
        let result = self.attempt(pick.candidate(), request).await;
        pick.finish(self.policy.outcome(&result));
        result.map_err(CallError::Rejected)
    }
}

impl<M, S, Y, P> Balance<M, S, Y, P>
where
    M: Fn(&Candidate) -> S + Send + Sync + 'static,
    S: Clone + Send + 'static,
    Y: Send + Sync + 'static,
    P: Picks + Send + Sync + 'static,
{
    /// A single try, of a request that need not be shareable.
    #[cfg(feature = "tonic")]
    pub(super) fn once<Req>(&self, request: Req) -> Waiting<Result<S::Response, CallError<S::Error>>>
    where
        S: Service<Req>,
        S::Response: Send,
        S::Error: Send,
        S::Future: Send,
        Y: Policy<Req, S::Response, S::Error>,
        Req: Send + 'static,
    {
        let inside = Arc::clone(&self.inside);
        Box::pin(async move { inside.once(Call::new(), request).await })
    }
}

impl<M, S, Y, P, Req> Service<Req> for Balance<M, S, Y, P>
where
    M: Fn(&Candidate) -> S + Send + Sync + 'static,
    S: Service<Req> + Clone + Send + 'static,
    S::Response: Send,
    S::Error: Send,
    S::Future: Send,
    Y: Policy<Req, S::Response, S::Error> + Send + Sync + 'static,
    P: Picks + Send + Sync + 'static,
    Req: Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = Waiting<Result<S::Response, CallError<S::Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let inside = Arc::clone(&self.inside);
        Box::pin(inside.call(request))
    }
}

/// Turns work away once the member drains, and lets the drain wait for what is under way: up to the answer, not to the
/// end of an answer's body that is streamed.
#[derive(Clone, Debug)]
pub struct DrainLayer<F> {
    gate: Gate,
    refuse: F,
}

impl<F> DrainLayer<F> {
    /// A layer behind this gate, see [`Registry::gate`]. `refuse` makes the answer to what is turned away; a caller
    /// should understand from it that nothing was done: `503 Service Unavailable`, or gRPC's `UNAVAILABLE`.
    pub fn new(gate: &Gate, refuse: F) -> Self {
        Self { gate: gate.clone(), refuse }
    }
}

impl<S, F: Clone> Layer<S> for DrainLayer<F> {
    type Service = Drain<S, F>;

    fn layer(&self, inner: S) -> Drain<S, F> {
        Drain { inner, gate: self.gate.clone(), refuse: self.refuse.clone() }
    }
}

/// A service behind a gate; see [`DrainLayer`].
#[derive(Clone, Debug)]
pub struct Drain<S, F> {
    inner: S,
    gate: Gate,
    refuse: F,
}

impl<S, F, Req> Service<Req> for Drain<S, F>
where
    S: Service<Req>,
    S::Future: Send + 'static,
    S::Response: Send + 'static,
    S::Error: Send + 'static,
    F: Fn(Draining) -> Result<S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Waiting<Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match self.gate.call() {
            Ok(pass) => Box::pin(within(pass, self.inner.call(request))),
            Err(draining) => Box::pin(std::future::ready((self.refuse)(draining))),
        }
    }
}

async fn within<T>(pass: Pass, answer: impl Future<Output = T>) -> T {
    let answer = answer.await;
    drop(pass);
    answer
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::time::Duration;

    use tower::service_fn;

    use super::*;
    use crate::peer::MemberState;
    use crate::record::Instance;
    use crate::select::balance::RoundRobin;
    use crate::select::failover::{Budget, Failover};
    use crate::select::fixture::Fleet;

    const PATIENCE: Duration = Duration::from_secs(20);

    struct Words;

    impl Policy<String, String, &'static str> for Words {
        fn outcome(&self, result: &Result<String, &'static str>) -> Outcome {
            match result {
                Ok(answer) if answer == "busy" => Outcome::TurnedAway,
                Ok(_) => Outcome::Succeeded,
                Err(_) => Outcome::Refused,
            }
        }

        fn again(&self, request: &String) -> Option<String> {
            (request != "once").then(|| request.clone())
        }

        fn may_repeat(&self, _: &String) -> bool {
            true
        }
    }

    type Connected = tower::util::BoxCloneSyncService<String, String, &'static str>;

    fn connect(candidate: &Candidate) -> Connected {
        let id = candidate.offered().instance.id.to_string();
        let answer = move |request: String| {
            let id = id.clone();
            async move {
                match id.as_str() {
                    "0000" => Err("refused"),
                    "0001" => Ok("busy".to_owned()),
                    id => Ok(format!("{request} by {id}")),
                }
            }
        };
        Connected::new(service_fn(answer))
    }

    fn balance(fleet: &Fleet) -> Balance<fn(&Candidate) -> Connected, Connected, Words> {
        let picker = Picker::new(fleet.reader(), "web").with_seed(1).with_balancer(Box::new(RoundRobin::default()));
        let caller = Caller::new(picker, Failover::default(), Budget::default()).expect("it makes sense");
        Balance::new(caller, Words, connect)
    }

    #[tokio::test]
    async fn a_request_goes_on_to_an_instance_that_takes_it() {
        let mut fleet = Fleet::of_weights(&[1, 1, 1]);
        let mut balance = balance(&fleet);
        for _ in 0..12 {
            assert_eq!(balance.ready().await.unwrap().call("done".to_owned()).await.unwrap(), "done by 0002");
        }
        // The last answer is passed on when nobody says yes, and connections of who is gone are dropped.
        fleet.withdraw(2);
        assert_eq!(balance.call("done".to_owned()).await.unwrap(), "busy");
        assert_eq!(balance.inside.services.lock().unwrap().len(), 3);
        fleet.up(3, crate::select::fixture::instance("0003"));
        fleet.member(0, MemberState::Suspect);
        for _ in 0..4 {
            balance.call("done".to_owned()).await.unwrap();
        }
        assert_eq!(balance.inside.services.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_request_that_cannot_be_told_twice_is_tried_once() {
        let fleet = Fleet::of_weights(&[1]);
        let mut balance = balance(&fleet);
        let error = balance.call("once".to_owned()).await.unwrap_err();
        assert_eq!(error, CallError::Rejected("refused"));
        assert_eq!(balance.caller().picker().stats().for_refused, 1, "what is found out is taken in all the same");
        let nobody = Fleet::default();
        assert!(matches!(self::balance(&nobody).call("once".to_owned()).await, Err(CallError::Nobody(_))));
    }

    #[tokio::test]
    async fn a_drain_turns_work_away_and_waits_for_what_is_under_way() {
        let gate = Gate::new();
        let refuse = |_: Draining| Ok::<_, Infallible>("unavailable");
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let released = Arc::new(tokio::sync::Mutex::new(Some(released)));
        let inner = service_fn(move |()| {
            let released = Arc::clone(&released);
            async move {
                if let Some(released) = released.lock().await.take() {
                    released.await.expect("it is released");
                }
                Ok("served")
            }
        });
        let mut service = DrainLayer::new(&gate, refuse).layer(inner);
        let under_way = tokio::spawn(service.call(()));
        gate.close();
        assert_eq!(service.call(()).await, Ok("unavailable"));
        assert_eq!(gate.calls(), 1);
        release.send(()).expect("somebody waits");
        assert_eq!(under_way.await.unwrap(), Ok("served"));
        tokio::time::timeout(PATIENCE, gate.idle()).await.expect("nothing is inside");
    }

    async fn next(discovered: &mut Discovered) -> Result<Change<Place, Offered>, StopReason> {
        let next = std::future::poll_fn(|context| Pin::new(&mut *discovered).poll_next(context));
        tokio::time::timeout(PATIENCE, next).await.expect("it comes").expect("it goes on")
    }

    #[tokio::test]
    async fn instances_are_discovered_as_they_come_change_and_go() {
        let registry = Registry::builder("layers-test", "a").start().await.expect("it starts");
        let mut discovered = Discovered::new(&registry, "web", Selector::new());
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let web = Instance::new("web", address).expect("valid");
        let mut web = registry.register(web).await.expect("it is new");
        assert!(matches!(next(&mut discovered).await, Ok(Change::Insert(..))));
        web.update(|web| web.weight = 7).await.expect("it is there");
        assert!(matches!(next(&mut discovered).await, Ok(Change::Insert(_, now)) if now.instance.weight == 7));
        drop(web);
        assert!(matches!(next(&mut discovered).await, Ok(Change::Remove(place)) if place.owner == registry.id()));
        registry.leave().await.expect("it leaves");
        assert!(matches!(next(&mut discovered).await, Err(StopReason::Left)));
    }
}
