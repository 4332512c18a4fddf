//! Whether a pod asks for more than its whole node has. A pure decision, and the memory of the most that the node had.
//!
//! The host's scheduler binds no such pod, but others may: by `spec.nodeName`, or by a Binding. A kubelet refuses it for good
//! (the reasons `OutOf…` of its admission, pkg/kubelet/lifecycle/predicate.go), so that its controller makes another one. What
//! would fit if less ran there waits for room: it is the target's scheduler that says so, and it may change its mind.

use std::sync::{Mutex, PoisonError};

use super::quantity::Quantity;
use super::requests::{self, Requests};
use crate::kubelet::provider::{NodeReport, PodDocument, PodError};

/// The most of each resource that a node has had since this process began. Nodes of a target come and go, and nothing is
/// refused for good that may fit again in a minute.
#[derive(Debug, Default)]
pub struct Room {
    most: Mutex<Requests>,
}

impl Room {
    /// Refuses a pod that the node could not take if nothing else ran there. One that was taken up once is never refused.
    pub fn admit(&self, pod: &PodDocument, node: &NodeReport) -> Result<(), PodError> {
        let has_started = pod.status.get("startTime").is_some_and(|time| !time.is_null());
        // No code panics while this is held.
        let mut most = self.most.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, amount) in &node.capacity {
            let amount = amount.parse().unwrap_or(Quantity::ZERO);
            let known = most.entry(name.clone()).or_default();
            *known = (*known).max(amount);
        }
        match excess(&requests::of(&pod.spec), &most) {
            Some((name, asked, has)) if !has_started => Err(PodError::Rejected {
                reason: format!("OutOf{name}"),
                message: format!(
                    "the pod asks for {} of {name}, and the whole node has no more than {}",
                    asked.print(name),
                    has.print(name)
                ),
            }),
            _ => Ok(()),
        }
    }
}

/// The first resource of which more is asked for than there is, with both amounts. Of what the node does not have at all
/// nothing follows: it may not be known yet, and a node that is closed shows nothing.
fn excess<'a>(asks: &'a Requests, most: &Requests) -> Option<(&'a str, Quantity, Quantity)> {
    let counted = asks.iter().filter_map(|(name, asked)| Some((name.as_str(), *asked, *most.get(name)?)));
    counted.into_iter().find(|(_, asked, has)| *has > Quantity::ZERO && asked > has)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(cpu: &str, status: Value) -> PodDocument {
        let spec =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "example.com/gpu": "9"}}}]});
        PodDocument::new(kube::core::ObjectMeta::default(), spec, status)
    }

    fn reason(refused: Result<(), PodError>) -> Option<String> {
        match refused.err()? {
            PodError::Rejected { reason, .. } => Some(reason),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn what_the_whole_node_could_not_take_is_refused() {
        let (room, node) = (Room::default(), NodeReport::of([("cpu", "2"), ("memory", "1Gi")]));
        assert_eq!(reason(room.admit(&pod("2500m", Value::Null), &node)).as_deref(), Some("OutOfcpu"));
        assert!(room.admit(&pod("2", Value::Null), &node).is_ok(), "what it does not have is the scheduler's to judge");
    }

    #[test]
    fn what_was_taken_up_once_is_not_refused() {
        let (room, node) = (Room::default(), NodeReport::of([("cpu", "2")]));
        assert!(room.admit(&pod("4", json!({"startTime": "2026-01-01T00:00:00Z"})), &node).is_ok());
    }

    #[test]
    fn a_node_that_is_small_for_a_while_refuses_nothing() {
        let room = Room::default();
        assert!(room.admit(&pod("4", Value::Null), &NodeReport::default()).is_ok(), "not known yet");
        assert!(room.admit(&pod("4", Value::Null), &NodeReport::of([("cpu", "0")])).is_ok(), "nothing is open");
        assert!(room.admit(&pod("4", Value::Null), &NodeReport::of([("cpu", "8")])).is_ok());
        assert!(room.admit(&pod("4", Value::Null), &NodeReport::of([("cpu", "2")])).is_ok());
    }
}
