//! Pods that find no room where they are: who is evicted when, and how others get to know that a node has none. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::document::PodDocument;

/// Annotation of a Node: the controllers whose pods found no room there, by UID, each with the second since 1970 until which
/// their pods should be kept off it, as JSON.
pub const NO_ROOM: &str = "longshore.dev/no-room";

/// So many controllers are remembered on a Node; the one whose time ends first is forgotten first.
const REMEMBERED: usize = 100;

/// The wait doubles so often at most.
const DOUBLINGS: u32 = 5;

/// How often a pod that is stuck is looked at again: as often as it would wait to be helped, within these bounds.
const LOOKS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// Whether a controller's pods should be kept off a node with this annotation, `now` in seconds since 1970. For whoever decides
/// where new pods go, such as an admission webhook.
pub fn no_room(annotation: Option<&str>, controller: &str, now: i64) -> bool {
    remembered(annotation).get(controller).is_some_and(|until| *until > now)
}

/// The annotation with one more controller, and without those whose time is over.
pub fn remember(annotation: Option<&str>, controller: &str, until: i64, now: i64) -> String {
    let mut all = remembered(annotation);
    all.retain(|_, until| *until > now);
    all.insert(controller.into(), until);
    while all.len() > REMEMBERED {
        let Some(first) = all.iter().min_by_key(|(_, until)| **until).map(|(uid, _)| uid.clone()) else { break };
        all.remove(&first);
    }
    json!(all).to_string()
}

fn remembered(annotation: Option<&str>) -> BTreeMap<String, i64> {
    annotation.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Kind, name and UID of the controller that would make another pod for this one, and not for the same node.
pub fn controller(pod: &PodDocument) -> Option<(String, String, String)> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    let bound = ["DaemonSet", "Node"].contains(&owner.kind.as_str());
    (!bound).then(|| (owner.kind.clone(), owner.name.clone(), owner.uid.clone()))
}

/// How often pods of each controller were evicted, so that the next ones get more time.
#[derive(Debug, Default)]
pub struct Backoff {
    rounds: HashMap<String, (u32, Instant)>,
}

impl Backoff {
    /// How long the pods of a controller have to be stuck before they are evicted.
    pub fn patience(&self, controller: &str, first: Duration) -> Duration {
        first * 2_u32.pow(self.rounds.get(controller).map_or(0, |(rounds, _)| (*rounds).min(DOUBLINGS)))
    }

    /// Pods of this controller were evicted. Those of one round count once.
    pub fn evicted(&mut self, controller: &str, first: Duration, now: Instant) {
        let (rounds, last) = self.rounds.entry(controller.into()).or_insert((0, now));
        if *rounds == 0 || now.duration_since(*last) >= first {
            *rounds += 1;
            *last = now;
        }
        let longest = first * 2_u32.pow(DOUBLINGS + 1);
        self.rounds.retain(|_, (_, last)| now.duration_since(*last) < longest);
    }
}

/// Which of the pods that are stuck are to be looked at, which costs a request each.
#[derive(Debug, Default)]
pub struct Looks(HashMap<std::sync::Arc<str>, Duration>);

impl Looks {
    /// Of these, each with how long it has been stuck, those that have just been so for one of the `times`, or have not been
    /// looked at for a while.
    pub fn due(
        &mut self,
        stuck: Vec<(std::sync::Arc<str>, Duration)>,
        times: &[Duration],
    ) -> Vec<(std::sync::Arc<str>, Duration)> {
        let mut known = std::mem::take(&mut self.0);
        let pause = times.iter().min().copied().unwrap_or_default().clamp(LOOKS.0, LOOKS.1);
        let mut due = vec![];
        for (uid, waited) in stuck {
            let last = known.remove(&uid).filter(|last| *last <= waited);
            let crossed = times.iter().any(|time| *time <= waited && last.is_none_or(|last| last < *time));
            let looks = crossed || last.is_some_and(|last| waited.saturating_sub(last) >= pause);
            if looks {
                due.push((uid.clone(), waited));
            }
            if let Some(at) = if looks { Some(waited) } else { last } {
                self.0.insert(uid, at);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_node_remembers_who_found_no_room_for_a_time() {
        let first = remember(None, "a", 100, 50);
        assert!(no_room(Some(&first), "a", 99) && !no_room(Some(&first), "a", 100) && !no_room(Some(&first), "b", 99));
        let second = remember(Some(&first), "b", 300, 200);
        assert_eq!(second, r#"{"b":300}"#);
        assert!(!no_room(Some("odd"), "a", 0) && !no_room(None, "a", 0));
        let many = (0..200).fold(String::new(), |all, i| remember(Some(&all), &format!("c{i}"), 1000 + i, 0));
        assert!(!no_room(Some(&many), "c99", 0) && no_room(Some(&many), "c100", 0));
    }

    #[test]
    fn only_pods_that_are_made_again_elsewhere_are_evicted() {
        let pod = |kind: &str, controller: bool| -> PodDocument {
            let owner = json!({"apiVersion": "v1", "kind": kind, "name": "n", "uid": "u", "controller": controller});
            serde_json::from_value(json!({"metadata": {"ownerReferences": [owner]}})).unwrap()
        };
        assert_eq!(controller(&pod("ReplicaSet", true)).unwrap().2, "u");
        assert_eq!(controller(&pod("ReplicaSet", false)), None);
        assert_eq!(controller(&pod("DaemonSet", true)), None);
    }

    #[test]
    fn each_round_waits_longer() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.patience("a", secs(10)), secs(10));
        backoff.evicted("a", secs(10), now);
        backoff.evicted("a", secs(10), now + secs(1));
        assert_eq!(backoff.patience("a", secs(10)), secs(20), "the same round");
        for round in 1..10 {
            backoff.evicted("a", secs(10), now + secs(20 * round));
        }
        assert_eq!(backoff.patience("a", secs(10)), secs(320));
        backoff.evicted("b", secs(10), now + secs(5000));
        assert_eq!(backoff.patience("a", secs(10)), secs(10), "long ago");
    }

    #[test]
    fn the_stuck_are_looked_at_seldom() {
        let (mut looks, times) = (Looks::default(), [secs(30), secs(100)]);
        let mut due = |waited: u64| looks.due(vec![("a".into(), secs(waited))], &times).len();
        assert_eq!([due(3), due(31), due(41), due(61), due(71), due(101), due(110)], [0, 1, 0, 1, 0, 1, 0]);
        assert_eq!([due(33), due(34)], [1, 0], "stuck anew");
    }
}
