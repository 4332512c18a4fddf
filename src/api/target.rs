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
    /// Which events of the delegates the proxies show at home.
    #[serde(default)]
    pub events: Events,
    /// When it counts as out of reach.
    #[serde(default)]
    pub heartbeat: Heartbeat,
    /// What becomes of its pods while it is out of reach.
    #[serde(default)]
    pub partition: Partition,
    /// Whose tokens its pods have.
    #[serde(default)]
    pub service_accounts: ServiceAccounts,
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

/// Which events of delegates are shown at home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Events {
    /// Those of type Warning.
    #[default]
    Warnings,
    /// Those of type Normal too.
    All,
    /// None.
    None,
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

/// Whose tokens the pods of a target have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceAccounts {
    /// Where their account is.
    pub mode: AccountMode,
    /// With `Remote`: the account, in each namespace of the target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With `Host`: the address at which the target's pods reach the host's API server; that of the host's kubeconfig if
    /// not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
}

/// Where the account of a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccountMode {
    /// Nowhere: no token is mounted.
    #[default]
    None,
    /// In the target.
    Remote,
    /// At home: pods have tokens of their own account there, and talk to its API server.
    Host,
}

impl ServiceAccounts {
    /// With mode Host, the host and port of the host's API server as the target's pods reach it; `host_url` is its address
    /// as Longshore reaches it. An IPv6 address has no brackets.
    pub fn api_server(&self, host_url: &str) -> Option<(String, u16)> {
        // What was given was checked; what a kubeconfig has is an address.
        api_server(self.api_server.as_deref().unwrap_or(host_url)).ok()
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let at = |field: &str| FieldPath::of(&format!("spec.serviceAccounts.{field}"));
        match (self.mode, self.name.as_deref()) {
            (AccountMode::Remote, None | Some("")) => {
                let remedy = "name the service account of the target that its pods should have";
                findings.push(Finding::new(at("name"), "is missing", remedy));
            }
            (AccountMode::None | AccountMode::Host, Some(_)) => {
                let remedy = "remove it, or set spec.serviceAccounts.mode to Remote";
                findings.push(Finding::new(at("name"), "is only for mode Remote", remedy));
            }
            _ => {}
        }
        match (self.mode, self.api_server.as_deref()) {
            (AccountMode::Host, Some(url)) => {
                if let Err(problem) = api_server(url) {
                    let remedy = "give the address of the host's API server as https://HOST:PORT";
                    findings.push(Finding::new(at("apiServer"), problem, remedy));
                }
            }
            (AccountMode::None | AccountMode::Remote, Some(_)) => {
                let remedy = "remove it, or set spec.serviceAccounts.mode to Host";
                findings.push(Finding::new(at("apiServer"), "is only for mode Host", remedy));
            }
            _ => {}
        }
        findings
    }
}

/// The API server at an address. In-cluster clients know of no path.
fn api_server(url: &str) -> Result<(String, u16), String> {
    let uri: http::Uri = url.parse().map_err(|error| format!("is no address: {error}"))?;
    if uri.scheme_str() != Some("https") {
        return Err("does not begin with https://".into());
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("has a path, which clients in pods do not know of".into());
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or("names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().unwrap_or(443)))
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
        findings.extend(self.service_accounts.findings());
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn accounts(value: &Value) -> ServiceAccounts {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn accounts_are_read_and_checked() {
        for (value, server) in [
            (json!({}), ("172.30.0.10", 6443)),
            (json!({"mode": "Remote", "name": "runner"}), ("172.30.0.10", 6443)),
            (json!({"mode": "Host"}), ("172.30.0.10", 6443)),
            (json!({"mode": "Host", "apiServer": "https://api.example"}), ("api.example", 443)),
            (json!({"mode": "Host", "apiServer": "https://[fd00::1]:6443/"}), ("fd00::1", 6443)),
        ] {
            let spec = accounts(&value);
            assert_eq!(spec.findings(), [], "{value}");
            assert_eq!(spec.api_server("https://172.30.0.10:6443/"), Some((server.0.to_owned(), server.1)), "{value}");
        }
        for (value, field) in [
            (json!({"mode": "Remote"}), "name"),
            (json!({"name": "x"}), "name"),
            (json!({"mode": "Host", "apiServer": "http://x"}), "apiServer"),
            (json!({"mode": "Host", "apiServer": "https://x/y"}), "apiServer"),
            (json!({"mode": "Host", "apiServer": "not an address"}), "apiServer"),
            (json!({"mode": "Remote", "name": "x", "apiServer": "https://x"}), "apiServer"),
        ] {
            let findings = accounts(&value).findings();
            assert_eq!(findings.len(), 1, "{value}");
            assert!(format!("{:?}", findings[0]).contains(field), "{value}: {findings:?}");
        }
    }
}
