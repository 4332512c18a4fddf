//! Pods that find no room where they are: who is evicted when, and how others get to know that a node has none. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::document::PodDocument;

/// Annotation of a Node: the controllers whose pods found no room there, by UID, each with the second since 1970 until which
/// their pods should be kept off it, as JSON.
pub const NO_ROOM: &str = "longshore.dev/no-room";

/// The prefix of a label that the Node has for each of them, for as long: `no-room.longshore.dev/UID`. A pod whose required node
/// affinity wants a node without the label of its controller waits elsewhere, and is scheduled when the time is over; whoever
/// adds that has nothing to remember.
const LABELS: &str = "no-room.longshore.dev/";

/// So many controllers are remembered on a Node; the one whose time ends first is forgotten first.
const REMEMBERED: usize = 100;

/// The wait doubles so often at most.
const DOUBLINGS: u32 = 5;

/// How often a pod that is stuck is looked at again: as often as it would wait to be helped, within these bounds.
const LOOKS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));

/// The label of a Node that has no room for the pods of this controller; none for a UID that no API server gives.
pub fn label(controller: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let ends = |c: char| c.is_ascii_alphanumeric();
    let fits = controller.len() <= 63 && controller.starts_with(ends) && controller.ends_with(ends);
    (fits && controller.chars().all(plain)).then(|| format!("{LABELS}{controller}"))
}

/// Whether a label of a Node says for whom it has no room.
pub fn is_label(key: &str) -> bool {
    key.starts_with(LABELS)
}

/// Whose pods a Node has no room for, by what it says of itself; times in seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptOff {
    version: Option<String>,
    said: Option<String>,
    until: BTreeMap<String, i64>,
    labels: BTreeSet<String>,
}

impl KeptOff {
    /// What a Node says.
    pub fn of(node: &ObjectMeta) -> Self {
        let said = node.annotations.as_ref().and_then(|all| all.get(NO_ROOM)).cloned();
        let until = said.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let labels = node.labels.iter().flatten().map(|(key, _)| key).filter(|key| is_label(key));
        Self { version: node.resource_version.clone(), said, until, labels: labels.cloned().collect() }
    }

    /// Adds a controller.
    pub fn add(&mut self, controller: &str, until: i64) {
        self.until.insert(controller.into(), until);
    }

    /// The merge patch, of this version of the Node, by which it says what is so now; nothing if it does already.
    pub fn patch(mut self, now: i64) -> Option<Value> {
        self.until.retain(|_, until| *until > now);
        while self.until.len() > REMEMBERED {
            let Some(first) = self.until.iter().min_by_key(|(_, until)| **until).map(|(uid, _)| uid.clone()) else {
                break;
            };
            self.until.remove(&first);
        }
        let wanted: BTreeSet<String> = self.until.keys().filter_map(|uid| label(uid)).collect();
        let says = (!self.until.is_empty()).then(|| json!(self.until).to_string());
        if says == self.said && wanted == self.labels {
            return None;
        }
        let mut labels: Map<String, Value> =
            self.labels.difference(&wanted).map(|key| (key.clone(), Value::Null)).collect();
        labels.extend(wanted.difference(&self.labels).map(|key| (key.clone(), "".into())));
        let metadata = json!({"resourceVersion": self.version, "labels": labels, "annotations": {NO_ROOM: says}});
        Some(json!({"metadata": metadata}))
    }
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

    /// The Node after a merge patch.
    fn patched(node: &ObjectMeta, patch: &Value) -> ObjectMeta {
        let merged = |field: &str| {
            let mut all = json!(node)[field].as_object().cloned().unwrap_or_default();
            all.extend(patch["metadata"][field].as_object().cloned().unwrap_or_default());
            all.retain(|_, value| !value.is_null());
            all
        };
        serde_json::from_value(json!({"labels": merged("labels"), "annotations": merged("annotations")})).unwrap()
    }

    fn kept_off(node: &ObjectMeta, controller: &str, until: i64, now: i64) -> ObjectMeta {
        let mut kept = KeptOff::of(node);
        kept.add(controller, until);
        patched(node, &kept.patch(now).unwrap())
    }

    #[test]
    fn a_node_says_who_found_no_room_for_a_time() {
        let bare: ObjectMeta =
            serde_json::from_value(json!({"labels": {"zone": "a"}, "resourceVersion": "7"})).unwrap();
        assert_eq!(KeptOff::of(&bare).patch(0), None);
        let first = kept_off(&bare, "a", 100, 50);
        assert_eq!(json!(first.labels), json!({"zone": "a", "no-room.longshore.dev/a": ""}));
        assert_eq!(KeptOff::of(&first).patch(99), None, "it is said already");
        let second = kept_off(&first, "b", 300, 200);
        assert_eq!(json!(second.labels), json!({"zone": "a", "no-room.longshore.dev/b": ""}));
        assert_eq!(json!(second.annotations), json!({NO_ROOM: r#"{"b":300}"#}));
        let over = KeptOff::of(&second).patch(300).unwrap();
        let bare_again = patched(&second, &over);
        assert_eq!((json!(bare_again.labels), json!(bare_again.annotations)), (json!({"zone": "a"}), json!({})));
        let mut versioned = KeptOff::of(&bare);
        versioned.add("a", 9);
        assert_eq!(versioned.patch(0).unwrap()["metadata"]["resourceVersion"], "7", "nobody's word is lost");
    }

    #[test]
    fn labels_follow_what_is_remembered_whatever_became_of_them() {
        let odd: ObjectMeta = serde_json::from_value(json!({"labels": {"no-room.longshore.dev/x": ""},
            "annotations": {NO_ROOM: "odd"}}))
        .unwrap();
        let mended = patched(&odd, &KeptOff::of(&odd).patch(0).unwrap());
        assert_eq!((json!(mended.labels), json!(mended.annotations)), (json!({}), json!({})));
        let lost: ObjectMeta = serde_json::from_value(json!({"annotations": {NO_ROOM: r#"{"a":9}"#}})).unwrap();
        let mended = patched(&lost, &KeptOff::of(&lost).patch(0).unwrap());
        assert_eq!(json!(mended.labels), json!({"no-room.longshore.dev/a": ""}));
        let many = (0..200).fold(ObjectMeta::default(), |all, i| kept_off(&all, &format!("c{i}"), 1000 + i, 0));
        let labels = many.labels.unwrap();
        assert_eq!(labels.len(), REMEMBERED);
        assert!(!labels.contains_key("no-room.longshore.dev/c99") && labels.contains_key("no-room.longshore.dev/c100"));
    }

    #[test]
    fn a_uid_that_is_none_makes_no_label() {
        assert!(label("1b4e28ba-2fa1-11d2-883f-0016d3cca427").is_some());
        for odd in ["", "a b", "-a", "a-", "a/b", &"a".repeat(64)] {
            assert_eq!(label(odd), None, "{odd}");
        }
        let mut kept = KeptOff::default();
        kept.add("a b", 9);
        assert_eq!(kept.patch(0).unwrap()["metadata"]["labels"], json!({}));
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
