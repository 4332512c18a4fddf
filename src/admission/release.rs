//! Pods of the mode `LocalAndRemote`: one that no node of home has taken for a while is let go.
//!
//! Only pods are watched that wait and have our label, so that idle means nothing. What is added to them is written on them
//! already ([`Constraints`]), so that nothing has to be remembered, and a second time changes nothing. A pod that is bound
//! meanwhile keeps a toleration that it does not need.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::watcher;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::kubelet::document::{PodDocument, PodKey};
use crate::kubelet::events::Events;
use crate::kubelet::host::{Host, WriteError};
use crate::provider::names;
use crate::provider::translate::constraints::Constraints;

/// How long it rests where a write was not taken.
const REST: Duration = Duration::from_secs(5);

/// When nothing is due.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What it needs.
pub(super) struct Setup {
    pub(super) host: Client,
    pub(super) identity: String,
    /// The value of the label.
    pub(super) name: String,
    pub(super) patience: Duration,
    pub(super) relist_after: Option<Duration>,
}

/// What a pod that waits looks like.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    key: PodKey,
    version: String,
    /// The scheduler has found no node; for how long it says so.
    unschedulable: Option<Duration>,
    /// What it lacks to go. The list that it is added to is there.
    lacks: Vec<Value>,
    has_list: bool,
}

/// A pod that waits.
struct Waiting {
    seen: Seen,
    due: Option<Instant>,
}

/// Lets pods go, for ever.
pub(super) async fn release(setup: Setup) {
    let Setup { host, identity, name, patience, relist_after } = setup;
    let events = Events::start(host.clone(), &identity);
    let host = Host::new(host);
    let config = watcher::Config::default()
        .labels(&format!("{}={name},!{}", names::LATER, names::HOST))
        .fields("spec.nodeName=,status.phase=Pending");
    let mut stream = crate::relist::watch(host.pods(), config, relist_after).boxed();
    let mut waiting: HashMap<String, Waiting> = HashMap::new();
    let mut listed: HashMap<String, Waiting> = HashMap::new();
    loop {
        let due = waiting.values().filter_map(|one| one.due).min().unwrap_or_else(|| Instant::now() + NEVER);
        tokio::select! {
            next = stream.next() => match next {
                Some(Ok(watcher::Event::Init)) => listed.clear(),
                Some(Ok(watcher::Event::InitApply(pod))) => {
                    let before = waiting.get(pod.uid());
                    if let Some(now) = look(&pod).map(|seen| waits(seen, before, patience, Instant::now())) {
                        listed.insert(pod.uid().to_owned(), now);
                    }
                }
                Some(Ok(watcher::Event::InitDone)) => waiting = std::mem::take(&mut listed),
                Some(Ok(watcher::Event::Apply(pod))) => match look(&pod) {
                    Some(seen) => {
                        let now = waits(seen, waiting.get(pod.uid()), patience, Instant::now());
                        waiting.insert(pod.uid().to_owned(), now);
                    }
                    None => drop(waiting.remove(pod.uid())),
                },
                Some(Ok(watcher::Event::Delete(pod))) => drop(waiting.remove(pod.uid())),
                Some(Err(error)) => {
                    let error = crate::errors::chain(&error);
                    tracing::debug!(error, "pods that may be let go cannot be watched; trying again");
                }
                None => return,
            },
            () = sleep_until(due) => {
                let now = Instant::now();
                let ripe: Vec<String> =
                    waiting.iter().filter(|(_, one)| one.due.is_some_and(|due| due <= now)).map(|(uid, _)| uid.clone()).collect();
                for uid in ripe {
                    let Some(one) = waiting.get_mut(&uid) else { continue };
                    let let_go = host.patch(&one.seen.key, &patch(&one.seen)).await;
                    let key = one.seen.key.clone();
                    match let_go {
                        Ok(_) => {
                            waiting.remove(&uid);
                            let message = format!("no node of this cluster has taken it for {} s: it may go to a virtual \
                                node from now on", patience.as_secs());
                            events.tell(&key, "OffloadAllowed", message);
                        }
                        // It has changed or gone: the watch tells; if not, then again.
                        Err(WriteError::Outdated | WriteError::Refused(_)) => one.due = Some(now + REST),
                        Err(error) => {
                            let error = crate::errors::chain(&error);
                            tracing::warn!(pod = %key, error, "a pod was not let go; trying again");
                            one.due = Some(now + REST);
                        }
                    }
                }
            }
        }
    }
}

/// What there is to know of a pod; `None` if there is nothing to do for it any more.
fn look(pod: &PodDocument) -> Option<Seen> {
    if pod.unreadable.is_some() || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let constraints = Constraints::read(pod.annotation(names::CONSTRAINTS)?).ok()?;
    let tolerations = pod.list("tolerations");
    let lacks: Vec<_> = constraints.added.tolerations.into_iter().filter(|one| !tolerations.contains(one)).collect();
    if lacks.is_empty() {
        return None;
    }
    let conditions = pod.status["conditions"].as_array().into_iter().flatten();
    let mut unschedulable = conditions
        .filter(|one| one["type"] == "PodScheduled" && one["status"] == "False" && one["reason"] == "Unschedulable");
    let unschedulable = unschedulable.next().map(|condition| {
        let since = condition["lastTransitionTime"].as_str().and_then(|time| time.parse::<Timestamp>().ok());
        let age = since.map(|since| Timestamp::now().duration_since(since));
        age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
    });
    Some(Seen {
        key: pod.key(),
        version: pod.metadata.resource_version.clone().unwrap_or_default(),
        unschedulable,
        lacks,
        has_list: pod.spec["tolerations"].is_array(),
    })
}

/// When it is due. Who was seen waiting goes on waiting; of one that was not seen before, the condition says how long it has
/// waited already; one that was seen without it begins now, since a scheduling gate counts in the condition and not here.
fn waits(seen: Seen, before: Option<&Waiting>, patience: Duration, now: Instant) -> Waiting {
    let due = seen.unschedulable.map(|age| match before {
        Some(Waiting { due: Some(due), .. }) => *due,
        Some(_) => now + patience,
        None => now + patience.saturating_sub(age),
    });
    Waiting { seen, due }
}

/// The JSON patch (RFC 6902) that lets a pod go, if it is as it was seen.
fn patch(seen: &Seen) -> Value {
    let mut steps = vec![
        json!({"op": "test", "path": "/metadata/uid", "value": seen.key.uid}),
        json!({"op": "test", "path": "/metadata/resourceVersion", "value": seen.version}),
    ];
    if !seen.has_list {
        steps.push(json!({"op": "add", "path": "/spec/tolerations", "value": []}));
    }
    let added = seen.lacks.iter().map(|one| json!({"op": "add", "path": "/spec/tolerations/-", "value": one}));
    steps.extend(added);
    Value::Array(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn pod(tolerations: &Value, conditions: &Value) -> PodDocument {
        let mut constraints = Constraints::default();
        constraints.added.tolerations = vec![json!({"key": "a"}), json!({"key": "b"})];
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "resourceVersion": "7",
                "annotations": {names::CONSTRAINTS: constraints.print()}},
            "spec": {"tolerations": tolerations}, "status": {"conditions": conditions}}))
        .unwrap()
    }

    fn unschedulable(seconds_ago: i64) -> Value {
        let since = Timestamp::now() - k8s_openapi::jiff::SignedDuration::from_secs(seconds_ago);
        json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "lastTransitionTime": since.to_string()}])
    }

    #[test]
    fn what_is_there_already_is_not_added() {
        let seen = look(&pod(&json!([{"key": "b"}]), &json!([]))).unwrap();
        assert_eq!((seen.unschedulable, &seen.lacks), (None, &vec![json!({"key": "a"})]));
        assert_eq!(look(&pod(&json!([{"key": "b"}, {"key": "a"}]), &unschedulable(99))), None);
        let steps = patch(&seen);
        assert_eq!(steps[0]["value"], "u");
        assert_eq!(steps[1]["value"], "7");
        assert_eq!(steps[2], json!({"op": "add", "path": "/spec/tolerations/-", "value": {"key": "a"}}));
        let bare = patch(&look(&pod(&Value::Null, &json!([]))).unwrap());
        assert_eq!(bare[2], json!({"op": "add", "path": "/spec/tolerations", "value": []}));
        assert_eq!(bare.as_array().unwrap().len(), 5);
    }

    #[test]
    fn a_pod_is_due_when_it_has_waited_long_enough() {
        let now = Instant::now();
        let due = |conditions: &Value, before: Option<&Waiting>| {
            waits(look(&pod(&json!([]), conditions)).unwrap(), before, PATIENCE, now).due
        };
        let gated = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
        assert_eq!(due(&gated, None), None);
        // Of a pod that was waiting before we came, the condition says how long.
        let left = due(&unschedulable(20), None).unwrap() - now;
        assert!(left > Duration::from_secs(5) && left < Duration::from_secs(12), "{left:?}");
        assert_eq!(due(&unschedulable(99), None), Some(now));
        assert_eq!(due(&unschedulable(-99), None), Some(now + PATIENCE), "clocks differ");
        // One that was gated begins when it is not.
        let seen = waits(look(&pod(&json!([]), &gated)).unwrap(), None, PATIENCE, now);
        assert_eq!(due(&unschedulable(99), Some(&seen)), Some(now + PATIENCE));
        let seen = Waiting { due: Some(now + REST), ..seen };
        assert_eq!(due(&unschedulable(99), Some(&seen)), Some(now + REST));
        assert_eq!(due(&gated, Some(&seen)), None);
    }

    #[test]
    fn what_makes_no_sense_is_let_alone() {
        let mut odd = pod(&json!([]), &unschedulable(99));
        odd.metadata.annotations = Some([(names::CONSTRAINTS.to_owned(), "{".to_owned())].into());
        assert_eq!(look(&odd), None);
        odd.metadata.annotations = None;
        assert_eq!(look(&odd), None);
    }
}
