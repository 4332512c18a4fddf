//! What Longshore says of a Target and a VirtualNode, in their `status`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of a target. It is written when it changes, and by the process that serves the target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetStatus {
    /// `Accepted`: the spec and the kubeconfig can be used. `Reachable`: the API server answers. `Authorized`: it grants all
    /// that is needed. `Ready`: all of these, and pods can be started there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that the conditions are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version of its API server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How many of its nodes count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// How many delegates it has that have not ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegates: Option<u32>,
    /// What pods may use, as on the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub allocatable: BTreeMap<String, String>,
    /// How full it is with our pods, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The port of the node of its own name, if no VirtualNode names this target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What is known of a virtual node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualNodeStatus {
    /// `Accepted`: the spec can be used, and its targets exist. `Ready`: the node takes pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// The generation of the spec that the conditions are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The port of its kubelet API, which it keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How many of its targets are ready, of how many: `1/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<String>,
    /// How full it is, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// How much is used, of how much: `3/16`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    /// Pods.
    pub pods: String,
    /// CPUs that pods ask for.
    pub cpu: String,
    /// Memory that pods ask for.
    pub memory: String,
}

/// One aspect, as in `metav1.Condition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In a word.
    pub reason: String,
    /// In a sentence, with what to do.
    pub message: String,
    /// Since when it has this status.
    pub last_transition_time: String,
    /// The generation of the spec that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The verdict of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows yet.
    Unknown,
}

impl Condition {
    /// A condition without a time.
    pub fn new(kind: &str, verdict: Verdict, reason: &str, message: impl Into<String>) -> Self {
        let status = match verdict {
            Verdict::True => "True",
            Verdict::False => "False",
            Verdict::Unknown => "Unknown",
        };
        Self {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            ..Self::default()
        }
    }

    /// Whether it holds.
    pub fn holds(&self) -> bool {
        self.status == "True"
    }
}

/// Gives conditions their times: those of `before` where the status is the same, else `now`.
pub fn timed(mut conditions: Vec<Condition>, before: &[Condition], generation: i64, now: &str) -> Vec<Condition> {
    for condition in &mut conditions {
        let same = before.iter().find(|old| old.kind == condition.kind && old.status == condition.status);
        let since = same.map_or(now, |old| old.last_transition_time.as_str());
        condition.last_transition_time = if since.is_empty() { now.into() } else { since.into() };
        condition.observed_generation = Some(generation);
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_moves_with_the_status_only() {
        let ready = |verdict, reason| vec![Condition::new("Ready", verdict, reason, "")];
        let first = timed(ready(Verdict::False, "A"), &[], 1, "t1");
        let second = timed(ready(Verdict::False, "B"), &first, 2, "t2");
        assert_eq!((second[0].last_transition_time.as_str(), second[0].observed_generation), ("t1", Some(2)));
        assert_eq!(timed(ready(Verdict::True, "C"), &second, 2, "t3")[0].last_transition_time, "t3");
    }
}
