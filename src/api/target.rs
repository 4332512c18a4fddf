//! `Target`: one remote cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::field::{FieldPath, Finding};
use super::guardrails::{self, Guardrails};
use crate::kubelet::partition::Policy;

/// What the user wants of one remote cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSpec {
    /// How to reach it.
    pub kubeconfig: KubeconfigSource,
    /// Where in it the delegates go.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// Whether the proxies show the delegates' addresses at home.
    #[serde(default, rename = "podIPs")]
    pub pod_ips: PodIps,
    /// When it counts as out of reach.
    #[serde(default)]
    pub heartbeat: Heartbeat,
    /// What becomes of its pods while it is out of reach.
    #[serde(default)]
    pub partition: Partition,
    /// What pods may do there beyond running their containers.
    #[serde(default)]
    pub guardrails: Guardrails,
    /// Names of PriorityClasses: at home to in the target; an empty one means none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub priority_classes: BTreeMap<String, String>,
    /// Names of RuntimeClasses: at home to in the target; an empty one means none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub runtime_classes: BTreeMap<String, String>,
    /// Names of schedulers: at home to in the target. Those that are not here are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub schedulers: BTreeMap<String, String>,
}

/// Where the credentials of a target are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigSource {
    /// A kubeconfig file. Relative paths start at the folder of the file that declares the target; once loaded, the
    /// path is resolved.
    pub file: PathBuf,
    /// Which of its contexts; the file's current one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// Which namespaces of a target the delegates go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Namespaces {
    /// From the proxy's namespace to the delegate's.
    pub mapping: Mapping,
    /// Whether missing namespaces are created; otherwise their pods wait until someone does.
    pub create: bool,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { mapping: Mapping::default(), create: true }
    }
}

/// From the proxy's namespace to the delegate's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mapping {
    /// The namespace of the same name.
    #[default]
    Same,
}

/// Whether addresses of delegates are shown at home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodIps {
    /// Proxies have no address: the networks may overlap, and a Service at home would send traffic to a stranger.
    #[default]
    Withhold,
    /// Proxies have the delegate's address: the networks are joined and do not overlap.
    Publish,
}

/// When a target counts as out of reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Heartbeat {
    /// After this long without an answer, the target is out of reach and its node not ready.
    pub timeout_seconds: u32,
}

impl Heartbeat {
    /// Below, one lost packet takes the node down; above, the host would notice nothing for an hour.
    const BOUNDS: std::ops::RangeInclusive<u32> = 10..=3600;

    /// The same as a duration.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.into())
    }
}

impl Default for Heartbeat {
    /// What the node controller of Kubernetes grants a kubelet by default.
    fn default() -> Self {
        Self { timeout_seconds: 40 }
    }
}

/// What becomes of a target's pods while it is out of reach; a pod's or a namespace's annotation wins over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Partition {
    /// Whether they wait or are replaced.
    pub policy: PartitionPolicy,
    /// With `Replace`, after this long without an answer.
    pub after_seconds: u32,
}

/// What becomes of a target's pods while it is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PartitionPolicy {
    /// They are left as they are, however long.
    #[default]
    Wait,
    /// They are failed and removed, so that their controllers start others.
    Replace,
}

impl Default for Partition {
    fn default() -> Self {
        // What Kubernetes grants the pods of a node that does not answer.
        Self { policy: PartitionPolicy::default(), after_seconds: 300 }
    }
}

impl Partition {
    /// The core's word for it.
    pub fn policy(&self) -> Policy {
        match self.policy {
            PartitionPolicy::Wait => Policy::Wait,
            PartitionPolicy::Replace => Policy::Replace(Duration::from_secs(self.after_seconds.into())),
        }
    }
}

impl TargetSpec {
    /// What is wrong with it, beyond its shape.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let file = FieldPath::of("spec.kubeconfig.file");
        if self.kubeconfig.file.as_os_str().is_empty() {
            findings.push(Finding::new(file, "is empty", "name the kubeconfig file of this target"));
        } else if self.kubeconfig.file.starts_with("~") {
            let remedy = "write the whole path, or one relative to the folder of this file";
            findings.push(Finding::new(file, "begins with `~`, which only shells understand", remedy));
        }
        if self.kubeconfig.context.as_deref() == Some("") {
            let remedy = "name a context of the kubeconfig, or remove the field to use its current one";
            findings.push(Finding::new(FieldPath::of("spec.kubeconfig.context"), "is empty", remedy));
        }
        if !Heartbeat::BOUNDS.contains(&self.heartbeat.timeout_seconds) {
            findings.push(Finding::new(
                FieldPath::of("spec.heartbeat.timeoutSeconds"),
                format!("{} is out of bounds", self.heartbeat.timeout_seconds),
                format!("give {} to {} seconds", Heartbeat::BOUNDS.start(), Heartbeat::BOUNDS.end()),
            ));
        }
        let after = self.partition.after_seconds;
        if after < self.heartbeat.timeout_seconds {
            findings.push(Finding::new(
                FieldPath::of("spec.partition.afterSeconds"),
                format!("{after} is less than spec.heartbeat.timeoutSeconds"),
                "pods are not replaced before their target counts as out of reach; give at least as much",
            ));
        }
        findings.extend(self.guardrails.findings());
        for (field, mapping) in [
            ("priorityClasses", &self.priority_classes),
            ("runtimeClasses", &self.runtime_classes),
            ("schedulers", &self.schedulers),
        ] {
            findings.extend(guardrails::mapping_findings(field, mapping));
        }
        findings
    }
}
