//! Makes calls with failover: picks, waits, tries again, hedges. The only part of choosing that needs a runtime.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::candidate::Candidate;
use super::eject::Outcome;
use super::error::PickError;
use super::failover::{Budget, Failover, FailoverError, GiveUp, Next, Tries};
use super::picker::{Call, Pick, Picker, Picks};
use crate::time::Time;

/// Why a try failed, as whoever made it saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure<E> {
    /// The instance failed, or the connection broke: what it did is not known.
    Failed(E),
    /// The instance said that it takes no work now, and did nothing.
    TurnedAway(E),
    /// No connection could be made.
    Refused(E),
    /// The instance answered well, and the answer is that the call is wrong: another instance would say the same.
    Rejected(E),
}

/// Why a call failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// There was nobody to call.
    #[error(transparent)]
    Nobody(#[from] PickError),
    /// An instance answered that the call is wrong.
    #[error("the call was rejected")]
    Rejected(E),
    /// Every try failed.
    #[error("{tries} {} failed: {why}", if *.tries == 1 { "try" } else { "tries" })]
    Failed {
        /// How many instances were tried.
        tries: usize,
        /// Why no further one was.
        why: Why,
        /// What the last one that failed said; `None` if it took longer than it may.
        last: Option<E>,
    },
}

/// Why no further instance was tried.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// The settings, the deadline or the budget.
    #[error(transparent)]
    GaveUp(#[from] GiveUp),
    /// There was no other to try.
    #[error(transparent)]
    Nobody(#[from] PickError),
}

/// Makes calls to one service. Share it: the budget is common to all its calls.
///
/// ```
/// # use std::{net::SocketAddr, sync::Arc};
/// # use tidings::{effect::Event, peer::*, record::Instance, view::View};
/// use tidings::select::failover::{Budget, Failover};
/// use tidings::select::run::{Caller, Failure};
/// use tidings::select::{Call, Picker};
///
/// # let addr = SocketAddr::from(([127, 0, 0, 1], 80));
/// # let member = Member {
/// #     peer: Peer { id: NodeId(1), addr, generation: Generation::first(1), nonce: 1 },
/// #     name: "a".into(), zone: "".into(), state: MemberState::Reachable, evidence: Evidence::default(),
/// #     software: "".into(), wire: (1, 1),
/// # };
/// # let mut view = View::new();
/// # view.apply(&Event::MemberUp(Arc::new(member)));
/// # for id in ["broken", "sound"] {
/// #     let instance = Arc::new(Instance::new("web", addr)?.with_id(id));
/// #     view.apply(&Event::ServiceUp { owner: NodeId(1), instance });
/// # }
/// # view.publish();
/// # view.ready();
/// # let reader = view.reader(); // of a program's registry: `registry.reader()`
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// let caller = Caller::new(Picker::new(reader, "web"), Failover::default(), Budget::default())?;
/// let answer = caller.call(Call::new(), true, async |instance| {
///     // Here goes the request to `instance.address()`.
///     match instance.offered().instance.id.as_str() {
///         "broken" => Err(Failure::Refused("connection refused")),
///         id => Ok(format!("{id} answers")),
///     }
/// });
/// assert_eq!(answer.await?, "sound answers");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Caller<P = Picker> {
    picker: P,
    failover: Failover,
    budget: Budget,
    origin: Instant,
}

/// How a try ended.
enum Ended<T, E> {
    Answered(T),
    Rejected(E),
    Failed(Outcome, Option<E>),
}

impl<P: Picks> Caller<P> {
    /// Calls the picker's service, or the chain's.
    ///
    /// # Errors
    /// See [`FailoverError`].
    pub fn new(picker: P, failover: Failover, budget: Budget) -> Result<Self, FailoverError> {
        failover.check()?;
        Ok(Self { picker, failover, budget, origin: Instant::now() })
    }

    /// The picker, or the chain of them.
    pub fn picker(&self) -> &P {
        &self.picker
    }

    /// The budget of tries.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Makes a call with `attempt`, at one instance after another until one answers. Whether it may be made twice says
    /// `may_repeat`: then a try that failed, or took too long, is repeated elsewhere, though the first instance may
    /// have done the work. Otherwise only what certainly did nothing is.
    ///
    /// A try that is given up, because it takes too long, another one answered first, or this future is dropped, is
    /// dropped where it waits.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call<T, E>(
        &self,
        call: Call,
        may_repeat: bool,
        attempt: impl AsyncFn(Arc<Candidate>) -> Result<T, Failure<E>>,
    ) -> Result<T, CallError<E>> {
        let mut tries = self.failover.begin(call, may_repeat, &self.budget, self.now());
        let mut failed: Option<Option<E>> = None;
        loop {
            let pick = match (self.picker.pick_for(tries.call()), failed) {
                (Ok(pick), _) => pick,
                (Err(nobody), None) => return Err(CallError::Nobody(nobody)),
                (Err(nobody), Some(last)) => {
                    return Err(CallError::Failed { tries: tries.call().tries(), why: nobody.into(), last });
                }
            };
            let (outcome, last) = match self.hedged(pick, &mut tries, &attempt).await {
                Ended::Answered(answer) => return Ok(answer),
                Ended::Rejected(error) => return Err(CallError::Rejected(error)),
                Ended::Failed(outcome, last) => (outcome, last),
            };
            match tries.next(outcome, &self.budget, self.now(), self.picker.draw()) {
                Next::TryAfter(Duration::ZERO) => {}
                Next::TryAfter(wait) => sleep(wait).await,
                Next::GiveUp(why) => {
                    return Err(CallError::Failed { tries: tries.call().tries(), why: why.into(), last });
                }
            }
            failed = Some(last);
        }
    }

    /// One try, and a second one beside it if it is slow and the settings want that.
    async fn hedged<T, E>(
        &self,
        pick: Pick,
        tries: &mut Tries,
        attempt: &impl AsyncFn(Arc<Candidate>) -> Result<T, Failure<E>>,
    ) -> Ended<T, E> {
        tries.trying(pick.token());
        let mut first = pin!(single(pick, tries.try_for(self.now()), attempt));
        let Some(after) = tries.hedge_after() else { return first.await };
        tokio::select! {
            biased;
            ended = &mut first => return ended,
            () = sleep(after) => {}
        }
        let now = self.now();
        if !tries.may_hedge(&self.budget, now) {
            return first.await;
        }
        let Ok(pick) = self.picker.pick_for(tries.call()) else { return first.await };
        tries.trying(pick.token());
        let mut second = pin!(single(pick, tries.try_for(now), attempt));
        tokio::select! {
            biased;
            ended = &mut first => either(ended, second).await,
            ended = &mut second => either(ended, first).await,
        }
    }

    fn now(&self) -> Time {
        Time::from_nanos(1) + self.origin.elapsed()
    }
}

/// What ended first, unless it failed: then what the other one comes to.
async fn either<T, E>(ended: Ended<T, E>, other: impl Future<Output = Ended<T, E>>) -> Ended<T, E> {
    match ended {
        Ended::Failed(..) => other.await,
        ended => ended,
    }
}

async fn single<T, E>(
    pick: Pick,
    at_most: Option<Duration>,
    attempt: &impl AsyncFn(Arc<Candidate>) -> Result<T, Failure<E>>,
) -> Ended<T, E> {
    let answer = attempt(Arc::clone(pick.candidate()));
    let answer = match at_most {
        Some(at_most) => timeout(at_most, answer).await,
        None => Ok(answer.await),
    };
    let (outcome, ended) = match answer {
        Ok(Ok(answer)) => (Outcome::Succeeded, Ended::Answered(answer)),
        Ok(Err(Failure::Rejected(error))) => (Outcome::Succeeded, Ended::Rejected(error)),
        Ok(Err(Failure::Failed(error))) => (Outcome::Failed, Ended::Failed(Outcome::Failed, Some(error))),
        Ok(Err(Failure::TurnedAway(error))) => (Outcome::TurnedAway, Ended::Failed(Outcome::TurnedAway, Some(error))),
        Ok(Err(Failure::Refused(error))) => (Outcome::Refused, Ended::Failed(Outcome::Refused, Some(error))),
        Err(_) => (Outcome::Failed, Ended::Failed(Outcome::Failed, None)),
    };
    pick.finish(outcome);
    ended
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::future::pending;
    use std::rc::Rc;
    use std::sync::Mutex;

    use super::*;
    use crate::select::balance::RoundRobin;
    use crate::select::failover::Backoff;
    use crate::select::fixture::Fleet;

    fn caller(fleet: &Fleet, failover: Failover) -> Caller {
        let picker = Picker::new(fleet.reader(), "web").with_seed(1).with_balancer(Box::new(RoundRobin::default()));
        Caller::new(picker, failover, Budget::default()).expect("it makes sense")
    }

    /// Lets simulated time go by.
    async fn pass(time: Duration) {
        let _ = timeout(time, pending::<()>()).await;
    }

    fn five() -> Fleet {
        Fleet::of_weights(&[1; 5])
    }

    fn id(candidate: &Arc<Candidate>) -> String {
        candidate.offered().instance.id.to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_to_another_instance_each_time_and_never_to_the_same() {
        let fleet = five();
        let caller = caller(&fleet, Failover { tries_max: 5, ..Failover::default() });
        let tried = Mutex::new(Vec::new());
        let answer: Result<(), _> = caller
            .call(Call::new(), true, async |instance| {
                tried.lock().unwrap().push(id(&instance));
                Err(Failure::Failed("broken"))
            })
            .await;
        let why = Why::GaveUp(GiveUp::Tries);
        assert_eq!(answer, Err(CallError::Failed { tries: 5, why, last: Some("broken") }));
        let tried = tried.into_inner().unwrap();
        assert_eq!(tried.iter().collect::<BTreeSet<_>>().len(), 5, "{tried:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_survive_one_dead_instance_of_five_and_touch_it_once() {
        let fleet = five();
        let caller = caller(&fleet, Failover::default());
        let touched = Mutex::new(0);
        for _ in 0..1_000 {
            let answer = caller.call(Call::new(), false, async |instance| {
                if id(&instance) != "0002" {
                    return Ok(());
                }
                *touched.lock().unwrap() += 1;
                Err(Failure::Refused("connection refused"))
            });
            answer.await.expect("another one takes it");
        }
        assert_eq!(touched.into_inner().unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_not_be_made_twice_is_made_once() {
        let fleet = five();
        let caller = caller(&fleet, Failover::default());
        let failing = async |_| Err::<(), _>(Failure::Failed("broken"));
        let error = caller.call(Call::new(), false, failing).await.unwrap_err();
        assert_eq!(error.to_string(), "1 try failed: it must not be made twice");
        let rejecting = async |_| Err::<(), _>(Failure::Rejected("no such customer"));
        let error = caller.call(Call::new(), true, rejecting).await.unwrap_err();
        assert_eq!(error, CallError::Rejected("no such customer"));
        let candidates = caller.picker().candidates().unwrap();
        assert!(candidates.iter().all(|candidate| candidate.pending() == 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_that_hangs_ends_at_its_limit_and_the_call_at_its_deadline() {
        let fleet = five();
        let ms = Duration::from_millis;
        let backoff = Backoff { first: ms(1), max: ms(1) };
        let failover =
            Failover { per_try: Some(ms(100)), deadline: Some(ms(250)), tries_max: 8, backoff, ..Failover::default() };
        let caller = caller(&fleet, failover);
        let start = Instant::now();
        let hanging = async |_| pending::<Result<(), Failure<()>>>().await;
        let error = caller.call(Call::new(), true, hanging).await.unwrap_err();
        assert_eq!(error, CallError::Failed { tries: 3, why: Why::GaveUp(GiveUp::Deadline), last: None });
        assert!((ms(249)..ms(253)).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    /// A member that only we cannot reach is healthy for everybody else: no gossip takes it out of our view, unless we
    /// observe it. What we find out by calling it stays with us.
    #[tokio::test(start_paused = true)]
    async fn whoever_alone_cannot_reach_an_instance_avoids_it_within_1500_ms_and_no_call_fails() {
        let fleet = five();
        let ms = Duration::from_millis;
        let failover = Failover { per_try: Some(ms(250)), ..Failover::default() };
        // In turn, which is the worst: others look at who is slow, too.
        let caller = Rc::new(caller(&fleet, failover));
        let begun = Rc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let calling = tokio::task::LocalSet::new();
        let calls = calling.run_until(async {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..400 {
                let (caller, begun) = (Rc::clone(&caller), Rc::clone(&begun));
                calls.spawn_local(async move {
                    let attempt = async |instance: Arc<Candidate>| {
                        if id(&instance) == "0002" {
                            begun.lock().unwrap().push(start.elapsed());
                            pending::<()>().await;
                        }
                        pass(ms(1)).await;
                        Ok::<_, Failure<()>>(())
                    };
                    caller.call(Call::new(), true, attempt).await
                });
                pass(ms(10)).await;
            }
            calls.join_all().await
        });
        assert!(calls.await.iter().all(Result::is_ok));
        let begun = begun.lock().unwrap();
        assert!(!begun.is_empty() && begun.iter().all(|at| *at < ms(1_500)), "{begun:?}");
        assert_eq!(fleet.service().healthy().len(), 5, "the view is as it was");
    }

    #[tokio::test(start_paused = true)]
    async fn a_hedge_answers_for_an_instance_that_is_slow_and_the_slow_call_is_cancelled() {
        let fleet = five();
        let ms = Duration::from_millis;
        let caller = caller(&fleet, Failover { hedge_after: Some(ms(50)), ..Failover::default() });
        let tried = Mutex::new(Vec::new());
        let start = Instant::now();
        let attempt = async |instance: Arc<Candidate>| {
            tried.lock().unwrap().push(id(&instance));
            let is_first = tried.lock().unwrap().len() == 1;
            pass(if is_first { ms(1_000) } else { ms(10) }).await;
            Ok::<_, Failure<()>>(id(&instance))
        };
        let answer = caller.call(Call::new(), true, attempt).await.unwrap();
        assert_eq!(start.elapsed(), ms(60));
        let tried = tried.into_inner().unwrap();
        assert_eq!((tried.len(), &answer), (2, &tried[1]));
        assert_ne!(tried[0], tried[1]);
        assert_eq!(caller.picker().stats().cancelled, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_fails_beside_a_hedge_leaves_the_answer_to_the_other() {
        let fleet = five();
        let ms = Duration::from_millis;
        let caller = caller(&fleet, Failover { hedge_after: Some(ms(50)), ..Failover::default() });
        let count = Mutex::new(0);
        let attempt = async |_| {
            *count.lock().unwrap() += 1;
            let is_first = *count.lock().unwrap() == 1;
            pass(if is_first { ms(100) } else { ms(1) }).await;
            if is_first { Ok("slow but sound") } else { Err(Failure::Failed(())) }
        };
        assert_eq!(caller.call(Call::new(), true, attempt).await, Ok("slow but sound"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_to_call_is_told_apart_from_nobody_left() {
        let none = Fleet::default();
        let answering = async |_| Ok::<_, Failure<()>>(());
        let error = caller(&none, Failover::default()).call(Call::new(), true, answering).await.unwrap_err();
        assert_eq!(error, CallError::Nobody(PickError::UnknownService { name: "web".into() }));
        let one = Fleet::of_weights(&[1]);
        let failing = async |_| Err::<(), _>(Failure::Failed("broken"));
        let error = caller(&one, Failover::default()).call(Call::new(), true, failing).await.unwrap_err();
        assert_eq!(error.to_string(), "1 try failed: every instance of \"web\" was tried: 1 of 1");
    }
}
