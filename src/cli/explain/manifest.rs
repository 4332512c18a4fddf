//! Pods in manifests, and those that workloads would make.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::{Map, Value, json};

use super::ExplainError;
use crate::kubelet::document::PodDocument;

/// A pod to explain.
pub(super) struct Subject {
    /// What it is, for people: `Deployment shop/web`.
    pub(super) title: String,
    /// The pod.
    pub(super) pod: PodDocument,
    /// Whether the host has it like this.
    pub(super) is_live: bool,
}

/// All pods of a file with YAML or JSON documents.
pub(super) fn read(path: &str, text: &str, namespace: &str) -> Result<Vec<Subject>, ExplainError> {
    let failed = |reason: String| ExplainError::ParseFile { path: path.into(), reason };
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| failed(error.to_string()))?;
    let mut subjects = Vec::new();
    for document in &documents {
        collect(document, namespace, &mut subjects).map_err(&failed)?;
    }
    if subjects.is_empty() { Err(ExplainError::FindPods(path.into())) } else { Ok(subjects) }
}

fn collect(object: &Value, namespace: &str, subjects: &mut Vec<Subject>) -> Result<(), String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let template = match kind {
        "Pod" => Some(object),
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            object.pointer("/spec/template")
        }
        "CronJob" => object.pointer("/spec/jobTemplate/spec/template"),
        "PodTemplate" => object.get("template"),
        _ => {
            let items = object["items"].as_array();
            return items.into_iter().flatten().try_for_each(|item| collect(item, namespace, subjects));
        }
    };
    let Some(template) = template else { return Err(format!("a {kind} without a pod template")) };
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or(namespace);
    let title = format!("{kind} {namespace}/{name}");
    let pod = pod(template).map_err(|reason| format!("{title}: {reason}"))?;
    subjects.push(Subject { pod: completed(pod, kind, namespace, name), title, is_live: false });
    Ok(())
}

/// The pod of a template, or of a manifest, which need not say that it is one.
fn pod(template: &Value) -> Result<PodDocument, String> {
    let part = |field: &str| template.get(field).filter(|value| !value.is_null()).cloned();
    let pod = json!({
        "metadata": part("metadata").unwrap_or_else(|| Value::Object(Map::new())),
        "spec": part("spec").unwrap_or_default(),
    });
    let pod: PodDocument = serde_json::from_value(pod).map_err(|error| error.to_string())?;
    match &pod.unreadable {
        None => Ok(pod),
        Some(what) => Err(what.to_string()),
    }
}

/// A pod with what its controller and the host's admission are certain to add, as far as it matters here.
fn completed(mut pod: PodDocument, kind: &str, namespace: &str, name: &str) -> PodDocument {
    pod.metadata.namespace = Some(namespace.into());
    pod.metadata.name = Some(match kind {
        "Pod" => name.to_owned(),
        "StatefulSet" => format!("{name}-0"),
        _ => format!("{name}-xxxxx"),
    });
    if kind == "DaemonSet" {
        pod.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".into(),
            kind: kind.into(),
            name: name.into(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
    }
    if let Value::Object(spec) = &mut *pod.spec {
        spec.entry("serviceAccountName").or_insert_with(|| "default".into());
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "
apiVersion: v1
kind: List
items:
- {kind: Pod, metadata: {name: one, namespace: shop}, spec: {containers: [], novel: 1}}
- {kind: Service, metadata: {name: web}}
---
kind: StatefulSet
metadata: {name: db}
spec: {template: {metadata: {labels: {app: db}}, spec: {containers: [], serviceAccountName: keeper}}}
---
kind: CronJob
metadata: {name: nightly}
spec: {jobTemplate: {spec: {template: {spec: {containers: []}}}}}
";

    #[test]
    fn pods_are_found_wherever_they_are() {
        let subjects = read("x.yaml", MANIFEST, "home").unwrap();
        let titles: Vec<_> = subjects.iter().map(|subject| subject.title.as_str()).collect();
        assert_eq!(titles, ["Pod shop/one", "StatefulSet home/db", "CronJob home/nightly"]);
        assert_eq!(subjects[0].pod.spec["novel"], 1);
        assert_eq!((subjects[1].pod.name(), subjects[1].pod.label("app")), ("db-0", Some("db")));
        assert_eq!(subjects[1].pod.spec["serviceAccountName"], "keeper");
        assert_eq!(subjects[2].pod.spec["serviceAccountName"], "default");
    }

    #[test]
    fn the_pods_of_a_daemon_set_are_known_as_such() {
        let text = r#"{"kind": "DaemonSet", "metadata": {"name": "d"}, "spec": {"template": {"spec": {}}}}"#;
        let owner = read("x.json", text, "home").unwrap()[0].pod.metadata.owner_references.clone().unwrap();
        assert_eq!((owner[0].kind.as_str(), owner[0].controller), ("DaemonSet", Some(true)));
    }

    #[test]
    fn what_is_no_pod_is_said() {
        let error = |text: &str| read("x.yaml", text, "home").err().unwrap().to_string();
        assert!(error("kind: Service").contains("find a pod in x.yaml"));
        assert!(error("a: [").contains("understand x.yaml as YAML"));
        assert!(error("kind: Job\nmetadata: {name: j}").contains("a Job without a pod template"));
        assert!(error("kind: Pod\nmetadata: {name: j, labels: 7}").contains("Pod home/j"));
    }
}
