//! What the translation of pods has to know of a configuration.

use std::collections::BTreeMap;

use crate::api::target::{AccountMode, Mapping, Namespaces, ResourceClaims, Scope, TargetSpec};
use crate::kubelet::node::status::DEFAULT_LABELS;
use crate::provider::follow::accounts::{Accounts, ApiServer};
use crate::provider::names;
use crate::provider::places::Places;
use crate::provider::reach::Reach;
use crate::provider::translate::devices::Claimed;
use crate::provider::translate::{Guardrails, Rules};

/// What a target says of pods, in the provider's words.
pub(crate) fn rules(spec: &TargetSpec) -> Rules {
    let rails = spec.guardrails.clone();
    Rules {
        guardrails: Guardrails {
            namespaces: rails.namespaces,
            privileged: rails.privileged,
            host_path: rails.host_path,
            host_network: rails.host_network,
            host_pid: rails.host_pid,
            host_ipc: rails.host_ipc,
            added_capabilities: rails.added_capabilities,
            node_name: rails.node_name,
        },
        priority_classes: spec.priority_classes.clone(),
        runtime_classes: spec.runtime_classes.clone(),
        schedulers: spec.schedulers.clone(),
        claimed: match spec.resource_claims {
            ResourceClaims::Hold => Claimed::Hold,
            ResourceClaims::Remote => Claimed::Remote,
        },
    }
}

/// Whose tokens the pods of a target have; `host_url` is the address of the host's API server as Longshore reaches it.
pub(crate) fn accounts(spec: &TargetSpec, host_url: &str) -> Accounts {
    let accounts = &spec.service_accounts;
    match accounts.mode {
        AccountMode::None => Accounts::None,
        AccountMode::Remote => Accounts::Remote(accounts.name.clone().unwrap_or_default()),
        AccountMode::Host => match accounts.api_server(host_url) {
            Some((host, port)) => Accounts::Host(ApiServer { host, port }),
            None => Accounts::None,
        },
    }
}

/// The labels that a virtual node has beside those that every node has: those that the user wants on it, and the one by which
/// pods that ask for it select it, whatever else is true of the node.
pub(crate) fn own_labels(node: &str, wanted: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = wanted.clone();
    labels.insert(names::VIRTUAL_NODE.to_owned(), node.to_owned());
    labels
}

/// The labels by which pods select a virtual node, with those that the user wants on it.
pub(crate) fn node_labels(own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let defaults = DEFAULT_LABELS.map(|(key, value)| (key.to_owned(), value.to_owned()));
    defaults.into_iter().chain(own.clone()).collect()
}

/// Where in a target the delegates go.
pub(crate) fn places(namespaces: &Namespaces) -> Places {
    let given = |field: &Option<String>| field.clone().unwrap_or_default();
    match namespaces.mapping {
        Mapping::Same => Places::Same,
        Mapping::Prefixed => Places::Prefixed(given(&namespaces.prefix)),
        Mapping::Single => Places::Single(given(&namespaces.single)),
    }
}

/// Where in a target something may be read.
pub(crate) fn reach(spec: &TargetSpec) -> Reach {
    match spec.scope {
        Scope::Cluster => Reach::default(),
        Scope::Namespaces => Reach::new(Some(&spec.namespaces.names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_a_target_allows_what_the_translation_does() {
        let spec = serde_json::from_value(serde_json::json!({"kubeconfig": {"file": "east.yaml"}})).unwrap();
        assert_eq!(rules(&spec), Rules::default());
    }

    #[test]
    fn own_labels_win() {
        let labels = node_labels(&BTreeMap::from([("topology.kubernetes.io/zone".into(), "z".into())]));
        assert_eq!(labels["topology.kubernetes.io/zone"], "z");
        assert_eq!(labels["type"], "virtual-kubelet");
    }
}
