//! Fewer events: what was told already is counted, and noisy pods are told of less.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long an event that happens again is the same one.
const MEMORY: Duration = Duration::from_secs(600);

/// How many events and pods are remembered; beyond, everything that is not fresh is forgotten.
const MEMORIES: usize = 4096;

/// A pod may be told of this often at once, and one time more after each pause (EventSourceObjectSpamFilter of client-go).
const BURST: u32 = 25;
const PAUSE: Duration = Duration::from_secs(300);

/// An event's name has to be one of a DNS subdomain, and ends with a digest.
const NAME_BYTES: usize = 253 - 17;

/// What is remembered of the events that were written.
#[derive(Default)]
pub(super) struct Thrift {
    written: HashMap<String, Written>,
    budgets: HashMap<String, Budget>,
}

struct Written {
    name: String,
    count: i32,
    last: Instant,
}

struct Budget {
    left: u32,
    since: Instant,
}

/// An event that was told before.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repetition {
    pub(super) name: String,
    /// How often, with this time.
    pub(super) count: i32,
}

impl Thrift {
    /// Counts an event that was written before.
    pub(super) fn again(&mut self, same: &str) -> Option<Repetition> {
        let known = self.written.get_mut(same).filter(|known| known.last.elapsed() < MEMORY)?;
        (known.count, known.last) = (known.count.saturating_add(1), Instant::now());
        Some(Repetition { name: known.name.clone(), count: known.count })
    }

    /// Whether this event was written before.
    pub(super) fn knows(&self, same: &str) -> bool {
        self.written.contains_key(same)
    }

    /// An event was written.
    pub(super) fn wrote(&mut self, same: &str, name: &str) {
        if self.written.len() >= MEMORIES {
            self.written.retain(|_, known| known.last.elapsed() < MEMORY / 2);
        }
        if self.written.len() < MEMORIES {
            self.written.insert(same.into(), Written { name: name.into(), count: 1, last: Instant::now() });
        }
    }

    /// Whether this pod may be told of once more; if so, it has been.
    pub(super) fn affords(&mut self, pod: &str) -> bool {
        if self.budgets.len() >= MEMORIES {
            // What is not here is as good as full.
            self.budgets.retain(|_, budget| budget.since.elapsed() < PAUSE * BURST && budget.left < BURST);
        }
        let now = Instant::now();
        let budget = self.budgets.entry(pod.into()).or_insert(Budget { left: BURST, since: now });
        let gained = u32::try_from(budget.since.elapsed().as_secs() / PAUSE.as_secs()).unwrap_or(BURST);
        if gained > 0 {
            (budget.left, budget.since) = (budget.left.saturating_add(gained).min(BURST), now);
        }
        let affords = budget.left > 0;
        budget.left = budget.left.saturating_sub(1);
        affords
    }
}

/// The name of an event about a pod, always the same for the same `id`.
pub(super) fn name_of(pod: &str, id: &str) -> String {
    let digest = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let pod = pod.get(..NAME_BYTES).unwrap_or(pod).trim_end_matches(['.', '-']);
    format!("{pod}.{digest:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_again_is_counted() {
        let mut thrift = Thrift::default();
        assert_eq!(thrift.again("a"), None);
        thrift.wrote("a", "pod.1");
        assert_eq!(thrift.again("a"), Some(Repetition { name: "pod.1".into(), count: 2 }));
        assert_eq!(thrift.again("a").unwrap().count, 3);
        assert_eq!(thrift.again("b"), None);
    }

    #[test]
    fn a_noisy_pod_is_told_of_less_and_harms_no_other() {
        let mut thrift = Thrift::default();
        assert_eq!((0..100).filter(|_| thrift.affords("noisy")).count(), 25);
        assert!(thrift.affords("quiet"));
    }

    #[test]
    fn memory_has_an_end() {
        let mut thrift = Thrift::default();
        for i in 0..3 * MEMORIES {
            thrift.wrote(&i.to_string(), "x");
            thrift.affords(&i.to_string());
        }
        assert!(thrift.written.len() <= MEMORIES);
    }

    #[test]
    fn names_are_the_same_for_the_same_and_short_enough() {
        assert_eq!(name_of("web", "1"), name_of("web", "1"));
        assert_ne!(name_of("web", "1"), name_of("web", "2"));
        assert!(name_of(&"a".repeat(253), "1").len() <= 253);
    }
}
