//! `Target`: one remote cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{FieldPath, Finding};
use super::guardrails::{self, Guardrails};
use super::names;
use super::status::TargetStatus;
use crate::kubelet::partition::Policy;
use crate::provider::quantity::Quantity;

/// What the user wants of one remote cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "longshore.dev",
    version = "v1alpha1",
    kind = "Target",
    plural = "targets",
    status = "TargetStatus",
    doc = "A remote cluster that runs pods of this one.",
    category = "longshore"
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetSpec {
    /// How to reach it.
    pub kubeconfig: KubeconfigSource,
    /// How much of it the credentials reach.
    #[serde(default)]
    pub scope: Scope,
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
    /// How much of it the virtual node offers.
    #[serde(default)]
    pub capacity: Capacity,
    /// It gets no new pods; those that are there stay. `longshore drain` sets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    /// What becomes of its pods when the Target, or the VirtualNode, is removed.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Whose tokens its pods have.
    #[serde(default)]
    pub service_accounts: ServiceAccounts,
    /// Whose devices pods get that claim some (`spec.resourceClaims` of the pod).
    #[serde(default)]
    pub resource_claims: ResourceClaims,
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

/// How much of a target the credentials reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// The whole cluster: a ClusterRole.
    #[default]
    Cluster,
    /// The namespaces in `namespaces.names`, which exist: a Role in each. Nothing else is read.
    Namespaces,
}

/// What becomes of the pods of a Target or VirtualNode that is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Its pods are evicted in order, then the Node is deleted. The credentials in use are kept until then.
    #[default]
    Drain,
    /// Nothing is touched any more: delegates run on, and the Node turns NotReady.
    Abandon,
}

/// Where the credentials of a target are: `secretRef`, `clusterProfileRef` or `file`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubeconfigSource {
    /// A Secret of the host with a kubeconfig that holds all credentials itself: whoever writes the Secret must not make
    /// Longshore run a program or read a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretReference>,
    /// A ClusterProfile of the host (multicluster.x-k8s.io/v1alpha1) that says where the cluster is and how to get credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_profile_ref: Option<ClusterProfileReference>,
    /// A kubeconfig file. In a file that declares the target, relative paths start at the folder of that file; in the API, it
    /// is a whole path on Longshore's own file system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Which of its contexts; the current one if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// A key of a Secret of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// Its namespace; that of Longshore's leases if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// The key.
    #[serde(default = "kubeconfig_key")]
    pub key: String,
}

/// A ClusterProfile of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterProfileReference {
    /// Its namespace; that of Longshore's leases if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

fn kubeconfig_key() -> String {
    "kubeconfig".to_owned()
}

/// Which namespaces of a target the delegates go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Namespaces {
    /// From the proxy's namespace to the delegate's.
    pub mapping: Mapping,
    /// Whether missing namespaces are created; otherwise their pods wait until someone does. With the scope `Namespaces`
    /// none is.
    pub create: bool,
    /// With the mapping `Prefixed`, what comes before the name of the proxy's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// With the mapping `Single`, the namespace of all delegates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single: Option<String>,
    /// With the scope `Namespaces`, the namespaces of the target that may be used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

impl Default for Namespaces {
    fn default() -> Self {
        Self { mapping: Mapping::default(), create: true, prefix: None, single: None, names: Vec::new() }
    }
}

/// From the proxy's namespace to the delegate's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mapping {
    /// The namespace of the same name.
    #[default]
    Same,
    /// The namespace of the same name with `prefix` before it.
    Prefixed,
    /// The namespace `single` for all; delegates' names get a suffix that tells their namespaces apart.
    Single,
}

/// How much of a target the virtual node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Capacity {
    /// Where the numbers come from; `Nodes` if not given, with the scope `Namespaces` `Quota`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<CapacitySource>,
    /// At most so much of each resource: `cpu: "16"`. With the source `Static`, exactly so much.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, String>,
    /// So many percent are kept free.
    #[schemars(range(max = 90))]
    pub headroom_percent: u32,
}

/// Where the numbers of a target's capacity come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CapacitySource {
    /// From its nodes.
    #[default]
    Nodes,
    /// From the ResourceQuotas of the namespaces in `namespaces.names`.
    Quota,
    /// From `limits` alone.
    Static,
}

impl Capacity {
    /// Where the numbers come from.
    pub fn source_in(&self, scope: Scope) -> CapacitySource {
        self.source.unwrap_or(match scope {
            Scope::Cluster => CapacitySource::Nodes,
            Scope::Namespaces => CapacitySource::Quota,
        })
    }
}

/// Whether addresses of delegates are shown at home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PodIps {
    /// Proxies have no address: the networks may overlap, and a Service at home would send traffic to a stranger.
    #[default]
    Withhold,
    /// Proxies have the delegate's address: the networks are joined and do not overlap.
    Publish,
}

/// Which events of delegates are shown at home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Heartbeat {
    /// After this long without an answer, the target is out of reach and its node not ready.
    #[schemars(range(min = 10, max = 3600))]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Partition {
    /// Whether they wait or are replaced.
    pub policy: PartitionPolicy,
    /// With `Replace`, after this long without an answer.
    pub after_seconds: u32,
}

/// What becomes of a target's pods while it is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccountMode {
    /// Nowhere: no token is mounted.
    #[default]
    None,
    /// In the target.
    Remote,
    /// At home: pods have tokens of their own account there, and talk to its API server.
    Host,
}

/// Whose devices pods get that claim some by dynamic resource allocation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ResourceClaims {
    /// Nobody's: such pods are held at home.
    #[default]
    Hold,
    /// The target's: the ResourceClaims and ResourceClaimTemplates that a pod names are those of its namespace there, and its
    /// scheduler allocates.
    Remote,
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
        let mut findings = self.check_kubeconfig();
        findings.extend(self.check_namespaces());
        findings.extend(self.check_capacity());
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

    /// Whether its pods get devices that they claim.
    pub fn gives_devices(&self) -> bool {
        self.resource_claims != ResourceClaims::Hold
    }

    fn check_kubeconfig(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let path = FieldPath::of("spec.kubeconfig");
        let KubeconfigSource { secret_ref, cluster_profile_ref, file, context } = &self.kubeconfig;
        match (secret_ref, file) {
            (None, None) if cluster_profile_ref.is_none() => {
                let remedy = "add `secretRef`, `clusterProfileRef` or `file`";
                findings.push(Finding::new(path.clone(), "names no kubeconfig", remedy));
            }
            (None, None) => {}
            (secret, file) if (secret.is_some() && file.is_some()) || cluster_profile_ref.is_some() => {
                let remedy = "keep one of `secretRef`, `clusterProfileRef` and `file`";
                findings.push(Finding::new(path.clone(), "names two kubeconfigs", remedy));
            }
            (Some(secret), _) => {
                for (field, value) in [("name", &secret.name), ("key", &secret.key)] {
                    if value.is_empty() {
                        let remedy = "name the Secret, and its key with the kubeconfig";
                        findings.push(Finding::new(path.key("secretRef").key(field), "is empty", remedy));
                    }
                }
            }
            (None, Some(file)) if file.as_os_str().is_empty() => {
                let remedy = "name the kubeconfig file of this target";
                findings.push(Finding::new(path.key("file"), "is empty", remedy));
            }
            (None, Some(file)) if file.starts_with("~") => {
                let remedy = "write the whole path, or one relative to the folder of this file";
                findings.push(Finding::new(path.key("file"), "begins with `~`, which only shells understand", remedy));
            }
            (None, Some(_)) => {}
        }
        if cluster_profile_ref.as_ref().is_some_and(|profile| profile.name.is_empty()) {
            let field = path.key("clusterProfileRef").key("name");
            findings.push(Finding::new(field, "is empty", "name the ClusterProfile"));
        }
        if cluster_profile_ref.is_some() && context.is_some() {
            let message = "means nothing with clusterProfileRef, which is no kubeconfig";
            findings.push(Finding::new(path.key("context"), message, "remove it"));
        } else if context.as_deref() == Some("") {
            let remedy = "name a context of the kubeconfig, or remove the field to use its current one";
            findings.push(Finding::new(path.key("context"), "is empty", remedy));
        }
        findings
    }

    fn check_namespaces(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let path = FieldPath::of("spec.namespaces");
        let Namespaces { mapping, prefix, single, names, .. } = &self.namespaces;
        let mut belongs = |field: &str, given: bool, wanted: bool, to: &str| {
            if wanted && !given {
                findings.push(Finding::new(path.key(field), format!("is missing with {to}"), "add it"));
            } else if given && !wanted {
                let message = format!("means nothing without {to}");
                findings.push(Finding::new(path.key(field), message, format!("remove it, or set {to}")));
            }
        };
        belongs("prefix", prefix.is_some(), *mapping == Mapping::Prefixed, "mapping: Prefixed");
        belongs("single", single.is_some(), *mapping == Mapping::Single, "mapping: Single");
        belongs("names", !names.is_empty(), self.scope == Scope::Namespaces, "scope: Namespaces");
        let remedy = "use lower-case letters, digits and `-`, at most 63";
        // What follows a prefix is a name, so that a prefix may end in `-`.
        let texts = prefix.iter().map(|prefix| (path.key("prefix"), format!("{prefix}x")));
        let texts = texts.chain(single.iter().map(|name| (path.key("single"), name.clone())));
        let listed = names.iter().enumerate().map(|(i, name)| (path.key("names").index(i), name.clone()));
        for (field, text) in texts.chain(listed) {
            if let Err(why) = names::check_label_name(&text) {
                findings.push(Finding::new(field, format!("`{text}` {why}"), remedy));
            }
        }
        let mut seen = BTreeSet::new();
        for (index, name) in names.iter().enumerate() {
            if !seen.insert(name) {
                let field = path.key("names").index(index);
                findings.push(Finding::new(field, format!("`{name}` is in the list already"), "remove it"));
            }
        }
        if let Some(single) = single
            && self.scope == Scope::Namespaces
            && !names.is_empty()
            && !names.contains(single)
        {
            let remedy = "add it to spec.namespaces.names";
            findings.push(Finding::new(path.key("single"), format!("`{single}` is not among the names"), remedy));
        }
        findings
    }

    fn check_capacity(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let path = FieldPath::of("spec.capacity");
        let source = self.capacity.source_in(self.scope);
        if source == CapacitySource::Nodes && self.scope == Scope::Namespaces {
            let remedy = "use Quota or Static";
            findings.push(Finding::new(path.key("source"), "nodes cannot be read with scope: Namespaces", remedy));
        }
        if source == CapacitySource::Quota && self.scope == Scope::Cluster {
            let remedy = "use Nodes or Static, or set scope: Namespaces";
            findings.push(Finding::new(path.key("source"), "quotas are read with scope: Namespaces only", remedy));
        }
        if source == CapacitySource::Static && self.capacity.limits.is_empty() {
            findings.push(Finding::new(
                path.key("limits"),
                "is missing with source: Static",
                "give cpu, memory and pods",
            ));
        }
        for (name, amount) in &self.capacity.limits {
            if amount.parse::<Quantity>().is_err() {
                let field = path.key("limits").key(name);
                findings.push(Finding::new(
                    field,
                    format!("`{amount}` is no quantity"),
                    "write it like `500m` or `16Gi`",
                ));
            }
        }
        if self.capacity.headroom_percent > 90 {
            let message = format!("{} is out of bounds", self.capacity.headroom_percent);
            findings.push(Finding::new(path.key("headroomPercent"), message, "give 0 to 90"));
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
