//! The usual workloads, for pods of [`World::placed`](crate::World::placed).

use serde_json::{Value, json};

/// A Deployment whose pods carry the label `app` of its name.
pub fn deployment(name: &str, replicas: u32, pod_spec: &Value) -> Value {
    json!({
        "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": selector(name), "template": template(name, pod_spec)},
    })
}

/// A StatefulSet whose pods carry the label `app` of its name.
pub fn stateful_set(name: &str, replicas: u32, pod_spec: &Value) -> Value {
    json!({
        "kind": "StatefulSet", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "serviceName": name, "selector": selector(name), "template": template(name, pod_spec),
        },
    })
}

/// A Job whose pods carry the label `app` of its name; they are never restarted in place.
pub fn job(name: &str, completions: u32, parallelism: u32, pod_spec: &Value) -> Value {
    let mut template = template(name, pod_spec);
    template["spec"]["restartPolicy"] = "Never".into();
    json!({
        "kind": "Job", "metadata": {"name": name},
        "spec": {"completions": completions, "parallelism": parallelism, "backoffLimit": 0, "template": template},
    })
}

fn selector(name: &str) -> Value {
    json!({"matchLabels": {"app": name}})
}

fn template(name: &str, pod_spec: &Value) -> Value {
    json!({"metadata": {"labels": {"app": name}}, "spec": pod_spec})
}
