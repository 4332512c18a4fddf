//! The CustomResourceDefinitions, from the same types that read files.
//!
//! The API server needs no more than the types say: shapes, defaults and bounds are derived. What a schema cannot say are
//! rules between fields, in CEL (`RULES`); each of them is also a finding of the types' own check, which says more.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::target::Target;
use super::virtual_node::VirtualNode;

/// Kind, place in the schema, rule, and what to tell whoever breaks it.
type Rule = (&'static str, &'static str, &'static str, &'static str);

/// The rules between fields.
const RULES: &[Rule] = &[
    ("Target", "spec.kubeconfig", "has(self.secretRef) != has(self.file)", "give either secretRef or file"),
    ("Target", "spec.kubeconfig.file", "self.startsWith('/')", "give the whole path of the file, as Longshore sees it"),
    (
        "Target",
        "spec",
        "self.scope == 'Namespaces' ? has(self.namespaces.names) && size(self.namespaces.names) > 0 : \
         !has(self.namespaces.names)",
        "list namespaces.names with scope: Namespaces, and only then",
    ),
    (
        "Target",
        "spec.namespaces",
        "(self.mapping == 'Prefixed') == has(self.prefix)",
        "give prefix with mapping: Prefixed, and only then",
    ),
    (
        "Target",
        "spec.namespaces",
        "(self.mapping == 'Single') == has(self.single)",
        "give single with mapping: Single, and only then",
    ),
    (
        "Target",
        "spec.capacity",
        "!has(self.source) || self.source != 'Static' || has(self.limits)",
        "give limits with source: Static",
    ),
    (
        "Target",
        "spec",
        "self.partition.afterSeconds >= self.heartbeat.timeoutSeconds",
        "partition.afterSeconds must not be less than heartbeat.timeoutSeconds",
    ),
    ("VirtualNode", "spec.targets", "size(self) > 0", "name at least one target"),
    ("VirtualNode", "spec", "self.shape == oldSelf.shape", "shape cannot be changed; make another VirtualNode"),
    (
        "VirtualNode",
        "spec",
        "self.shape == 'Cluster' || size(self.targets) == 1",
        "a shape other than Cluster is of one target; make a VirtualNode for each",
    ),
];

/// Bounds without which the API server could not tell what a rule may cost, and list semantics.
const BOUNDS: &[(&str, &str, &str, u32)] = &[
    ("Target", "spec.namespaces.names", "maxItems", 1000),
    ("VirtualNode", "spec.targets", "maxItems", 64),
    ("VirtualNode", "spec.taints", "maxItems", 100),
    ("VirtualNode", "spec.port", "minimum", 1),
];

/// The columns of `kubectl get`: is it well, and how full.
fn columns(kind: &str) -> Value {
    let ready = |field: &str| format!(r#".status.conditions[?(@.type=="Ready")].{field}"#);
    let column = |name: &str, path: String| json!({"name": name, "type": "string", "jsonPath": path});
    let usage = |name: &str, field: &str| column(name, format!(".status.usage.{field}"));
    let mut columns = vec![column("Ready", ready("status")), column("Reason", ready("reason"))];
    if kind == "Target" {
        columns.push(column("Version", ".status.version".into()));
        columns.push(json!({"name": "Nodes", "type": "integer", "jsonPath": ".status.nodes"}));
    } else {
        columns.push(column("Targets", ".status.targets".into()));
    }
    columns.extend([usage("Pods", "pods"), usage("CPU", "cpu"), usage("Memory", "memory")]);
    columns.push(json!({"name": "Message", "type": "string", "priority": 1, "jsonPath": ready("message")}));
    if kind == "VirtualNode" {
        columns.push(json!({"name": "Port", "type": "integer", "priority": 1, "jsonPath": ".status.port"}));
    }
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    columns.into()
}

/// Both definitions, as JSON.
pub fn all() -> Vec<Value> {
    [Target::crd(), VirtualNode::crd()].iter().map(complete).collect()
}

/// Both definitions, as a stream of YAML documents.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    let documents: Result<Vec<_>, _> = all().iter().map(serde_saphyr::to_string).collect();
    Ok(documents?.join("---\n"))
}

fn complete(crd: &CustomResourceDefinition) -> Value {
    let mut crd = json!(crd);
    let kind = crd["spec"]["names"]["kind"].as_str().unwrap_or_default().to_owned();
    let version = &mut crd["spec"]["versions"][0];
    version["additionalPrinterColumns"] = columns(&kind);
    let schema = &mut version["schema"]["openAPIV3Schema"];
    tidy(schema);
    for (_, path, name, bound) in BOUNDS.iter().filter(|bound| bound.0 == kind) {
        if let Some(place) = at(schema, path) {
            place.insert((*name).into(), (*bound).into());
        }
    }
    for (_, path, rule, message) in RULES.iter().filter(|rule| rule.0 == kind) {
        if let Some(place) = at(schema, path) {
            let rules = place.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
            if let Some(rules) = rules.as_array_mut() {
                rules.push(json!({"rule": rule, "message": message}));
            }
        }
    }
    // A label's value at most, since it becomes one.
    let name =
        json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": super::names::MAX_NODE_NAME}}});
    if let Some(properties) = at(schema, "").and_then(|root| root.get_mut("properties")) {
        properties["metadata"] = name;
    }
    // Each once: the API server sees to it, and cheaper than by a rule.
    for (list, key) in [("status.conditions", "type"), ("spec.targets", "name")] {
        if let Some(list) = at(schema, list) {
            list.insert("x-kubernetes-list-type".into(), "map".into());
            list.insert("x-kubernetes-list-map-keys".into(), json!([key]));
            if let Some(item) = list.get_mut("items").and_then(Value::as_object_mut) {
                item.insert("required".into(), json!([key]));
                // A key has no default.
                if let Some(field) = item.get_mut("properties").and_then(|all| all.get_mut(key)) {
                    field.as_object_mut().map(|field| field.remove("default"));
                }
            }
        }
    }
    crd
}

/// The schema of a field.
fn at<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut place = schema;
    for key in path.split('.').filter(|key| !key.is_empty()) {
        place = place.get_mut("properties")?.get_mut(key)?;
    }
    place.as_object_mut()
}

/// Takes away what the API server does not want: that unknown fields are refused, which it does by itself, and Rust's names of
/// number formats, which it does not know.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.get("additionalProperties") == Some(&Value::Bool(false)) {
                fields.remove("additionalProperties");
            }
            let foreign = |format: &Value| format.as_str().is_some_and(|name| name.starts_with("uint"));
            if fields.get("format").is_some_and(foreign) {
                fields.remove("format");
            }
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text.replace('\n', " ");
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_change_on_purpose_only() {
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("crds", yaml().unwrap());
        });
    }

    #[test]
    fn every_rule_and_bound_has_its_place() {
        let text = yaml().unwrap();
        for crd in all() {
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            let mut schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
            for (_, path, ..) in RULES.iter().filter(|rule| rule.0 == kind) {
                assert!(at(&mut schema, path).unwrap().contains_key("x-kubernetes-validations"), "{path}");
            }
            for (_, path, name, _) in BOUNDS.iter().filter(|bound| bound.0 == kind) {
                assert!(at(&mut schema, path).unwrap().contains_key(*name), "{path}");
            }
        }
        assert!(!text.contains("additionalProperties: false"));
    }
}
