//! A work queue of keys: a key that is added many times is handed out once, and never to two workers at a time.
//!
//! The same contract as client-go's workqueue. A channel was rejected (it would hand out duplicates), and so was one task
//! per pod (ten thousand of them cost more memory than their records).

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::table::Uid;

/// The queue; shared by reference.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Keys to hand out, oldest first, and since when they wait.
    ready: VecDeque<(Uid, Instant)>,
    /// Keys that need work: those in `ready`, and those that were added while a worker had them.
    dirty: HashSet<Uid>,
    /// Keys that workers have.
    busy: HashSet<Uid>,
}

impl Queue {
    /// Adds a key, unless it waits already.
    pub fn add(&self, key: &Uid) {
        let mut state = self.lock();
        if !state.dirty.insert(key.clone()) || state.busy.contains(key) {
            return;
        }
        state.ready.push_back((key.clone(), Instant::now()));
        drop(state);
        self.added.notify_one();
    }

    /// The next key. Whoever takes it gives it back with [`Queue::done`].
    pub async fn next(&self) -> Uid {
        loop {
            let added = self.added.notified();
            if let Some(key) = self.take() {
                return key;
            }
            added.await;
        }
    }

    /// The key's work is over; if it was added meanwhile, it is handed out again.
    pub fn done(&self, key: &Uid) {
        let mut state = self.lock();
        state.busy.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back((key.clone(), Instant::now()));
            drop(state);
            self.added.notify_one();
        }
    }

    /// How many keys wait for a worker.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// How long the first of them has waited.
    pub fn age(&self) -> Duration {
        self.lock().ready.front().map(|(_, since)| since.elapsed()).unwrap_or_default()
    }

    /// Whether no key waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self) -> Option<Uid> {
        let mut state = self.lock();
        let (key, _) = state.ready.pop_front()?;
        state.dirty.remove(&key);
        state.busy.insert(key.clone());
        if !state.ready.is_empty() {
            // One stored permit may stand for several additions.
            self.added.notify_one();
        }
        Some(key)
    }

    /// No code panics while it holds the lock, and the state is consistent between any two lines of it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    fn key(name: &str) -> Uid {
        name.into()
    }

    #[tokio::test]
    async fn a_key_is_handed_out_once_and_to_one_worker() {
        let queue = Queue::default();
        queue.add(&key("a"));
        queue.add(&key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(&key("a"));
        assert!(queue.is_empty(), "a worker has it");
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"));
        assert!(queue.is_empty());
    }

    #[test]
    fn the_first_key_is_the_oldest() {
        let queue = Queue::default();
        assert_eq!(queue.age(), Duration::ZERO);
        queue.add(&key("a"));
        std::thread::sleep(Duration::from_millis(2));
        queue.add(&key("b"));
        assert!(queue.age() >= Duration::from_millis(2));
        queue.take();
        queue.take();
        assert_eq!(queue.age(), Duration::ZERO);
    }

    #[tokio::test]
    async fn every_worker_is_woken() {
        let queue = Arc::new(Queue::default());
        let workers: Vec<_> = (0..4)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.next().await }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        for name in ["a", "b", "c", "d"] {
            queue.add(&key(name));
        }
        let mut seen = vec![];
        for worker in workers {
            let taken = tokio::time::timeout(Duration::from_secs(5), worker).await;
            seen.push(taken.expect("no worker sleeps while keys wait").unwrap());
        }
        seen.sort();
        assert_eq!(seen, ["a", "b", "c", "d"].map(key));
    }
}
