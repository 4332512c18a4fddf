//! What a target lets the host's pods do beyond running their containers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::field::{FieldPath, Finding};

/// What is allowed in a target. By default every namespace of the host may offload, and no pod may reach beyond itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches, as in a pod")]
pub struct Guardrails {
    /// Which namespaces of the host may offload to this target: names, in which `*` stands for any characters.
    pub namespaces: Vec<String>,
    /// Privileged containers, unmasked `/proc`, and host processes on Windows.
    pub privileged: bool,
    /// Under which directories of its nodes pods may mount what is there; `/` means all.
    pub host_path: Vec<String>,
    /// The network of its nodes.
    pub host_network: bool,
    /// The processes of its nodes.
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    /// The shared memory of its nodes.
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    /// Which capabilities containers may add beyond those that any container has; `ALL` means all.
    pub added_capabilities: Vec<String>,
    /// Pods may name a node of the target, by an annotation.
    pub node_name: bool,
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            namespaces: vec!["*".into()],
            privileged: false,
            host_path: vec![],
            host_network: false,
            host_pid: false,
            host_ipc: false,
            added_capabilities: vec![],
            node_name: false,
        }
    }
}

impl Guardrails {
    /// The only namespaces of the host that may offload, if they are named one by one.
    pub(super) fn only_namespaces(&self) -> Option<&[String]> {
        crate::provider::translate::guardrails::only(&self.namespaces)
    }

    /// What is wrong with it, beyond its shape.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let at = |field: &str, index: usize| FieldPath::of("spec.guardrails").key(field).index(index);
        let mut findings = Vec::new();
        if self.namespaces.is_empty() {
            let remedy = "name the namespaces that may offload to this target, or remove the field to allow all";
            findings.push(Finding::new(FieldPath::of("spec.guardrails.namespaces"), "is empty", remedy));
        }
        for (i, pattern) in self.namespaces.iter().enumerate() {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-*".contains(c);
            if pattern.is_empty() || !pattern.chars().all(fits) {
                let remedy = "write a namespace's name, with `*` for any characters";
                findings.push(Finding::new(at("namespaces", i), format!("{pattern:?} fits no namespace"), remedy));
            }
        }
        for (i, path) in self.host_path.iter().enumerate() {
            if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                let message = format!("{path:?} is no absolute path without `..`");
                findings.push(Finding::new(at("hostPath", i), message, "write it as /var/log, or / for all"));
            }
        }
        for (i, name) in self.added_capabilities.iter().enumerate() {
            let fits = |c: char| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit();
            if name.is_empty() || name.starts_with("CAP_") || !name.chars().all(fits) {
                let message = format!("{name:?} is not how pods write a capability");
                let remedy = "write it as in a pod, such as NET_ADMIN, or ALL for all";
                findings.push(Finding::new(at("addedCapabilities", i), message, remedy));
            }
        }
        findings
    }
}

/// What is wrong with a mapping of names of the host to names of the target.
pub(super) fn mapping_findings(field: &str, mapping: &BTreeMap<String, String>) -> Vec<Finding> {
    let fits = |name: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        name.len() <= 253 && name.chars().all(inner)
    };
    let bad = mapping.iter().filter(|(home, target)| home.is_empty() || !fits(home) || !fits(target));
    let finding = |(home, target): (&String, &String)| {
        let message = format!("{home:?}: {target:?} are not both names");
        let remedy = "write the name at home and the one in the target, or \"\" for none there";
        Finding::new(FieldPath::of("spec").key(field).key(home), message, remedy)
    };
    bad.map(finding).collect()
}
