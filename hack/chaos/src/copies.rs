//! What pods refer to, and whether it is beside their delegates, and nothing else. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::judge::Rest;

/// A ConfigMap or a Secret of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    /// `configmaps` or `secrets`.
    pub(crate) resource: &'static str,
    pub(crate) name: String,
}

/// What a target has for a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) key: Key,
    /// What it is called at home.
    pub(crate) original: String,
    pub(crate) data: Value,
}

impl Copy {
    pub(crate) fn of(resource: &'static str, object: &Value) -> Self {
        let meta = &object["metadata"];
        let key = Key { namespace: text(&meta["namespace"]), resource, name: text(&meta["name"]) };
        Self { key, original: text(&meta["annotations"]["longshore.dev/name"]), data: object["data"].clone() }
    }
}

/// All ConfigMaps and Secrets that a pod names as variables or volumes.
pub(crate) fn needs(pod: &Value) -> BTreeSet<Key> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let mut found = BTreeSet::new();
    let mut need = |resource, name: &Value| {
        if let Some(name) = name.as_str() {
            found.insert(Key { namespace: namespace.clone(), resource, name: name.to_owned() });
        }
    };
    let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
    for container in items(&pod["spec"]["containers"]) {
        for from in items(&container["envFrom"]) {
            need("configmaps", &from["configMapRef"]["name"]);
            need("secrets", &from["secretRef"]["name"]);
        }
    }
    for volume in items(&pod["spec"]["volumes"]) {
        need("configmaps", &volume["configMap"]["name"]);
        need("secrets", &volume["secret"]["secretName"]);
    }
    found
}

/// Whether a delegate still needs anything.
pub(crate) fn is_live(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        && pod["metadata"]["deletionTimestamp"].is_null()
}

/// Whether a target has what its delegates need, as home has it, and nothing else. All are complete.
pub(crate) fn beside(home: &BTreeMap<Key, Value>, delegates: &[Value], copies: &[Copy]) -> Rest {
    let mut rest = Rest::default();
    let needed: BTreeSet<Key> = delegates.iter().filter(|pod| is_live(pod)).flat_map(needs).collect();
    for key in &needed {
        let title = format!("{}/{} in {}", key.resource, key.name, key.namespace);
        let wrong = match copies.iter().find(|copy| copy.key == *key) {
            None => "is needed by a delegate, and not there",
            Some(copy) => {
                let original = Key { name: copy.original.clone(), ..key.clone() };
                // What Longshore itself makes up has no original.
                match home.get(&original) {
                    Some(data) if *data != copy.data => "is not as it is at home",
                    _ => continue,
                }
            }
        };
        rest.disagreements.push((title.clone(), format!("{title} {wrong}")));
    }
    for copy in copies.iter().filter(|copy| !needed.contains(&copy.key)) {
        let title = format!("{}/{} in {}", copy.key.resource, copy.key.name, copy.key.namespace);
        rest.unsettled.push((title.clone(), format!("{title} is there, and no delegate needs it")));
    }
    rest
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn delegate(phase: &str) -> Value {
        json!({"metadata": {"namespace": "n"}, "status": {"phase": phase}, "spec": {
            "containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "settings"}}]}],
            "volumes": [{"name": "v", "secret": {"secretName": "key"}}]}})
    }

    fn key(resource: &'static str, name: &str) -> Key {
        Key { namespace: "n".into(), resource, name: name.into() }
    }

    fn copy(resource: &'static str, called: &str, data: &str) -> Copy {
        Copy { key: key(resource, called), original: called.into(), data: json!({"k": data}) }
    }

    fn home() -> BTreeMap<Key, Value> {
        [(key("configmaps", "settings"), json!({"k": "a"})), (key("secrets", "key"), json!({"k": "b"}))].into()
    }

    fn count(delegates: &[Value], copies: &[Copy]) -> (usize, usize) {
        let rest = beside(&home(), delegates, copies);
        (rest.disagreements.len(), rest.unsettled.len())
    }

    #[test]
    fn what_a_delegate_needs_is_there_as_it_is_at_home() {
        let both = [copy("configmaps", "settings", "a"), copy("secrets", "key", "b")];
        assert_eq!(count(&[delegate("Running")], &both), (0, 0));
        assert_eq!(count(&[delegate("Running")], &both[..1]), (1, 0), "one is missing");
        let old = [copy("configmaps", "settings", "old"), copy("secrets", "key", "b")];
        assert_eq!(count(&[delegate("Running")], &old), (1, 0), "one is old");
        let mut renamed = copy("configmaps", "settings", "old");
        (renamed.key.name, renamed.original) = ("settings-x".into(), "settings".into());
        let mut other = delegate("Running");
        other["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"] = "settings-x".into();
        assert_eq!(count(&[other], &[renamed, copy("secrets", "key", "b")]), (1, 0), "one of another name is old");
    }

    #[test]
    fn what_nobody_needs_is_not_there() {
        let both = [copy("configmaps", "settings", "a"), copy("secrets", "key", "b")];
        assert_eq!(count(&[], &both), (0, 2));
        assert_eq!(count(&[delegate("Succeeded")], &both), (0, 2));
    }
}
