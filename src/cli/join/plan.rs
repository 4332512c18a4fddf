//! PURE  what is wished for -> the objects of both sides that make it so.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::api::rights::{Right, roles};
use crate::provider::names::{FIELD_MANAGER, JOINED, JOINED_TO, MANAGED_BY};

/// What a join is to make.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Wish {
    /// The name of the Target.
    pub(in crate::cli) name: String,
    /// The UID of the host's `kube-system`.
    pub(in crate::cli) host_id: String,
    /// The namespace of the account in the target.
    pub(in crate::cli) account_namespace: String,
    /// Whether that one is made too.
    pub(super) make_account_namespace: bool,
    /// The namespace of the Secret in the host.
    pub(in crate::cli) secret_namespace: String,
    /// Whether that one is made too.
    pub(super) make_secret_namespace: bool,
    /// Whether a token that does not end is kept in a Secret of the target.
    pub(super) lasting_token: bool,
    /// More labels of what is declared in the host.
    pub(super) labels: BTreeMap<String, String>,
    /// The spec of the Target as far as flags say something.
    pub(super) target: Value,
    /// The spec of a VirtualNode of the same name, if there has to be one.
    pub(super) node: Option<Value>,
}

impl Wish {
    /// The account in the target; hosts that share a target have one each.
    pub(in crate::cli) fn account(&self) -> String {
        let short: String = self.host_id.chars().take(8).collect();
        format!("longshore-{}-{short}", self.name)
    }

    /// The labels of what belongs to this target alone.
    fn labels(&self) -> Value {
        json!({MANAGED_BY: FIELD_MANAGER, JOINED: self.name, JOINED_TO: self.host_id})
    }

    fn object(&self, version: &str, kind: &str, namespace: Option<&str>) -> Value {
        let mut metadata = json!({"name": self.account(), "labels": self.labels()});
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        json!({"apiVersion": version, "kind": kind, "metadata": metadata})
    }

    /// What is made in the target, in this order.
    pub(super) fn target_side(&self, rights: &[Right]) -> Vec<Value> {
        const RBAC: &str = "rbac.authorization.k8s.io/v1";
        let home = Some(self.account_namespace.as_str());
        let mut objects = vec![];
        if self.make_account_namespace {
            objects.push(namespace(&self.account_namespace));
        }
        objects.push(self.object("v1", "ServiceAccount", home));
        if self.lasting_token {
            let mut secret = self.object("v1", "Secret", home);
            secret["type"] = "kubernetes.io/service-account-token".into();
            secret["metadata"]["annotations"] = json!({"kubernetes.io/service-account.name": self.account()});
            objects.push(secret);
        }
        for (place, rules) in roles(rights) {
            let kind = if place.is_some() { "Role" } else { "ClusterRole" };
            let mut role = self.object(RBAC, kind, place.as_deref());
            role["rules"] = json!(rules);
            objects.push(role);
            let mut binding = self.object(RBAC, &format!("{kind}Binding"), place.as_deref());
            binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": self.account()});
            binding["subjects"] = json!([{"kind": "ServiceAccount", "name": self.account(),
                "namespace": self.account_namespace}]);
            objects.push(binding);
        }
        objects
    }

    /// What is made in the host, in this order; without a kubeconfig the Secret is left out.
    pub(super) fn host_side(&self, kubeconfig: Option<&str>) -> Vec<Value> {
        let mut objects = vec![];
        if self.make_secret_namespace {
            objects.push(namespace(&self.secret_namespace));
        }
        if let Some(kubeconfig) = kubeconfig {
            objects.push(json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
                "metadata": {"name": self.name, "namespace": self.secret_namespace, "labels": self.labels()},
                "stringData": {"kubeconfig": kubeconfig}}));
        }
        objects.push(self.declaration("Target", &self.target));
        objects.extend(self.node.iter().map(|spec| self.declaration("VirtualNode", spec)));
        objects
    }

    /// The Target or a VirtualNode.
    pub(super) fn declaration(&self, kind: &str, spec: &Value) -> Value {
        let mut labels = Map::from_iter([(JOINED.to_owned(), json!(self.name))]);
        labels.extend(self.labels.iter().map(|(key, value)| (key.clone(), json!(value))));
        json!({"apiVersion": "longshore.dev/v1alpha1", "kind": kind, "spec": spec,
            "metadata": {"name": self.name, "labels": labels}})
    }
}

/// A namespace that several targets may share, and that goes with the last of them.
fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {JOINED: ""}}})
}

/// The rights in words, a line for each purpose.
pub(super) fn purposes(rights: &[Right]) -> Vec<String> {
    let mut purposes: Vec<(&str, Vec<String>)> = vec![];
    for right in rights {
        let group = if right.group.is_empty() { String::new() } else { format!(".{}", right.group) };
        let what = format!("{} {}{group}", right.verb, right.full_resource());
        match purposes.iter_mut().find(|(why, _)| *why == right.why) {
            Some((_, all)) if all.contains(&what) => {}
            Some((_, all)) => all.push(what),
            None => purposes.push((right.why, vec![what])),
        }
    }
    let line = |(why, all): (&str, Vec<String>)| {
        // Resources with the same verbs together: `get, list pods`.
        let mut verbs: Vec<(String, Vec<&str>)> = vec![];
        for what in &all {
            let (verb, resource) = what.split_once(' ').unwrap_or((what, ""));
            match verbs.iter_mut().find(|(one, _)| one == resource) {
                Some((_, verbs)) => verbs.push(verb),
                None => verbs.push((resource.to_owned(), vec![verb])),
            }
        }
        let all: Vec<_> = verbs.iter().map(|(resource, verbs)| format!("{} {resource}", verbs.join(", "))).collect();
        format!("{why}: {}", all.join("; "))
    };
    purposes.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::rights::{Features, target_rights};
    use crate::api::target::TargetSpec;

    fn wish() -> Wish {
        Wish {
            name: "east".into(),
            host_id: "01234567-89ab".into(),
            account_namespace: "longshore".into(),
            secret_namespace: "longshore".into(),
            lasting_token: true,
            ..Wish::default()
        }
    }

    fn rights(spec: &Value) -> Vec<Right> {
        let spec: TargetSpec = serde_json::from_value(spec.clone()).unwrap();
        target_rights(&spec, Features::default())
    }

    fn titles(objects: &[Value]) -> Vec<String> {
        objects.iter().map(crate::cli::ask::title).collect()
    }

    #[test]
    fn all_of_a_target_needs_one_cluster_role_and_namespaces_need_a_role_each() {
        let all = wish().target_side(&rights(&json!({"kubeconfig": {}})));
        let name = "longshore-east-01234567";
        assert_eq!(
            titles(&all),
            [
                format!("ServiceAccount longshore/{name}"),
                format!("Secret longshore/{name}"),
                format!("ClusterRole {name}"),
                format!("ClusterRoleBinding {name}"),
            ]
        );
        let spec = json!({"kubeconfig": {}, "scope": "Namespaces", "namespaces": {"names": ["a", "b"]}});
        let some = wish().target_side(&rights(&spec));
        assert_eq!(
            titles(&some)[2..],
            ["Role a", "RoleBinding a", "Role b", "RoleBinding b"].map(|title| {
                let (kind, place) = title.split_once(' ').unwrap();
                format!("{kind} {place}/{name}")
            })
        );
        assert_eq!(some[3]["subjects"][0]["namespace"], "longshore");
    }

    #[test]
    fn no_rule_has_a_star() {
        let rules = wish().target_side(&rights(&json!({"kubeconfig": {}})))[2]["rules"].to_string();
        assert!(!rules.contains('*'), "{rules}");
    }

    #[test]
    fn without_a_kubeconfig_there_is_no_secret() {
        let wish = Wish { make_secret_namespace: true, labels: [("a".into(), "b".into())].into(), ..wish() };
        assert_eq!(titles(&wish.host_side(None)), ["Namespace longshore", "Target east"]);
        let all = wish.host_side(Some("x"));
        assert_eq!(titles(&all), ["Namespace longshore", "Secret longshore/east", "Target east"]);
        assert_eq!(all[2]["metadata"]["labels"]["a"], "b");
    }

    #[test]
    fn rights_are_told_by_their_purpose() {
        let told = purposes(&rights(&json!({"kubeconfig": {}})));
        assert_eq!(told[0], "run delegate pods: get, list, watch, create, patch, delete pods");
        assert!(told.contains(&"serve kubectl exec: get, create pods/exec".to_owned()), "{told:?}");
    }
}
