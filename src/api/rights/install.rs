//! What an installation grants beside the rights that are asked for at the start: parts that only some need, each where it
//! is needed. The chart has them from here (`files/rights.json`).

use super::{On, Right};

/// What replicas need in the namespace of the leases by which they share the nodes.
pub fn lease_rights() -> Vec<Right> {
    On("coordination.k8s.io", "leases").verbs(&["get", "create", "update"], "share the virtual nodes among replicas")
}

/// What is needed where Secrets are that Targets name.
pub fn kubeconfig_rights() -> Vec<Right> {
    On("", "secrets").verbs(&["get", "list", "watch"], "read the kubeconfigs of targets")
}

/// What is needed where pods have tokens of their own accounts in targets (`serviceAccounts: {mode: Host}`).
pub fn token_rights() -> Vec<Right> {
    On("", "serviceaccounts/token").verbs(&["create"], "make tokens for pods in targets")
}

/// What `longshore uninstall` needs in the host beside all that Longshore has.
pub fn uninstall_rights() -> Vec<Right> {
    let group = "longshore.dev";
    [
        On(group, "targets").verbs(&["delete"], "remove the targets"),
        On(group, "virtualnodes").verbs(&["delete"], "remove the virtual nodes"),
        On("", "namespaces").verbs(&["list"], "tell which namespaces of targets nobody needs"),
    ]
    .concat()
}

/// What it needs in the namespace of the leases.
pub fn uninstall_lease_rights() -> Vec<Right> {
    On("coordination.k8s.io", "leases").verbs(&["list", "delete"], "see when the replicas have stopped")
}

#[cfg(test)]
mod tests;
