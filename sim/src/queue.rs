//! What happens next: events ordered by time, and among equals by when they were planned.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use tidings::time::Time;

/// Events to come. The order of two events never depends on anything but their times and the order of [`push`].
///
/// [`push`]: Self::push
#[derive(Debug)]
pub struct Queue<E> {
    heap: BinaryHeap<Planned<E>>,
    sequence: u64,
}

impl<E> Queue<E> {
    /// A queue without events.
    pub const fn new() -> Self {
        Self { heap: BinaryHeap::new(), sequence: 0 }
    }

    /// Plans `event` for `at`, after every event that is already planned for that moment.
    pub fn push(&mut self, at: Time, event: E) {
        self.heap.push(Planned { at, sequence: self.sequence, event });
        self.sequence += 1;
    }

    /// When the next event happens.
    pub fn next_at(&self) -> Option<Time> {
        self.heap.peek().map(|planned| planned.at)
    }

    /// Takes the next event if it happens at `limit` or before.
    pub fn pop_until(&mut self, limit: Time) -> Option<(Time, E)> {
        if self.next_at()? > limit {
            return None;
        }
        self.heap.pop().map(|planned| (planned.at, planned.event))
    }

    /// How many events are planned, void ones included.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether nothing is planned.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Planned<E> {
    at: Time,
    sequence: u64,
    event: E,
}

impl<E> Ord for Planned<E> {
    /// Reversed: the heap gives its greatest first, and the next event is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Planned<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_moment_come_in_the_order_they_were_planned() {
        let mut queue = Queue::new();
        for (at, name) in [(2, "c"), (1, "a"), (2, "d"), (1, "b"), (0, "start")] {
            queue.push(Time::from_nanos(at), name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_until(Time::from_nanos(9))).map(|(_, name)| name).collect();
        assert_eq!(order, ["start", "a", "b", "c", "d"]);
    }

    #[test]
    fn an_event_after_the_limit_stays() {
        let mut queue = Queue::new();
        queue.push(Time::from_nanos(5), ());
        assert_eq!(queue.pop_until(Time::from_nanos(4)), None);
        assert_eq!(queue.pop_until(Time::from_nanos(5)), Some((Time::from_nanos(5), ())));
        assert!(queue.is_empty());
    }
}
