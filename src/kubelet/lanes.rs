//! So many pods of a site are worked on at the same time, and no more: a site that is slow keeps no worker from the others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sites::Index;
use super::table::Uid;

/// Where a pod is, or will be; `None` before that is chosen.
pub type Lane = Option<Index>;

/// The limits of all sites.
#[derive(Debug)]
pub struct Lanes {
    limit: usize,
    lanes: Mutex<HashMap<Lane, State>>,
}

#[derive(Debug, Default)]
struct State {
    busy: usize,
    waiting: VecDeque<Uid>,
}

impl Lanes {
    /// So many at a time of each site, at least one.
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), lanes: Mutex::default() }
    }

    /// Whether the pod can be worked on now. Otherwise it waits, and [`Lanes::leave`] hands it to somebody.
    pub fn enter(&self, lane: Lane, pod: &Uid) -> bool {
        let mut lanes = self.lock();
        let state = lanes.entry(lane).or_default();
        if state.busy >= self.limit {
            state.waiting.push_back(pod.clone());
            return false;
        }
        state.busy += 1;
        true
    }

    /// The work on a pod is over. Whoever is told of one that has waited works on that next, in its place.
    pub fn leave(&self, lane: Lane) -> Option<Uid> {
        let mut lanes = self.lock();
        let state = lanes.get_mut(&lane)?;
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.busy = state.busy.saturating_sub(1);
        }
        next
    }

    /// How many are worked on at a time of each.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many wait, of all.
    pub fn waiting(&self) -> usize {
        self.lock().values().map(|state| state.waiting.len()).sum()
    }

    /// Each that was ever entered, with how many are worked on, and how many wait.
    pub fn load(&self) -> Vec<(Lane, usize, usize)> {
        self.lock().iter().map(|(lane, state)| (*lane, state.busy, state.waiting.len())).collect()
    }

    /// No code panics while it holds the lock, and the state is consistent between any two lines of it.
    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, State>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lane_makes_others_wait_and_no_other_lane() {
        let lanes = Lanes::new(2);
        let pods: Vec<Uid> = ["a", "b", "c", "d"].into_iter().map(Uid::from).collect();
        assert!(lanes.enter(Some(0), &pods[0]) && lanes.enter(Some(0), &pods[1]));
        assert!(!lanes.enter(Some(0), &pods[2]) && !lanes.enter(Some(0), &pods[3]));
        assert!(lanes.enter(Some(1), &pods[2]) && lanes.enter(None, &pods[2]));
        assert_eq!(lanes.waiting(), 2);
        let mut load = lanes.load();
        load.sort_unstable();
        assert_eq!(load, [(None, 1, 0), (Some(0), 2, 2), (Some(1), 1, 0)]);
        assert_eq!(lanes.leave(Some(0)).as_ref(), Some(&pods[2]), "in its place");
        assert!(!lanes.enter(Some(0), &pods[0]));
        assert_eq!(lanes.leave(Some(0)).as_ref(), Some(&pods[3]));
        assert_eq!(lanes.leave(Some(0)).as_ref(), Some(&pods[0]));
        assert_eq!(lanes.leave(Some(0)), None);
        assert!(lanes.enter(Some(0), &pods[1]));
    }
}
