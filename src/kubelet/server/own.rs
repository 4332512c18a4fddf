//! What the server says of its node and of itself.

use std::fs;

use http::{Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::stats::Page;
use super::{Running, authn, authz};
use crate::kubelet::provider::Source;

/// Facts of the node that a server stands for.
#[derive(Clone)]
pub struct Home {
    /// The node's name.
    pub node: String,
    /// The cluster that has the node.
    pub host: Client,
    /// The port of the node's kubelet API.
    pub port: u16,
}

impl Home {
    /// All pods of the node, as the host answers: a `v1.PodList`, passed on as it comes.
    pub(super) async fn pods(&self) -> Result<Response<Body>, Source> {
        // The name of a node is a DNS name, in which nothing needs to be escaped.
        let uri = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.node);
        let request = Request::get(uri).header("accept", "application/json").body(Body::empty())?;
        let answer = self.host.send(request).await?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(format!("the host answers {}", answer.status()).into())
        }
    }

    /// The part of a `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1) that means something here.
    pub(super) fn configuration(&self) -> Value {
        let seconds = |time: std::time::Duration| format!("{}s", time.as_secs());
        json!({"kubeletconfig": {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "port": self.port,
            "readOnlyPort": 0,
            "enableServer": true,
            "enableDebuggingHandlers": true,
            "enableProfilingHandler": false,
            "enableSystemLogHandler": false,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true, "cacheTTL": seconds(authn::GOOD)},
            },
            "authorization": {"mode": "Webhook", "webhook": {
                "cacheAuthorizedTTL": seconds(authz::ALLOWED),
                "cacheUnauthorizedTTL": seconds(authz::DENIED),
            }},
        }})
    }
}

/// The pods that run, each as little more than its name: a `v1.PodList` like that of a kubelet, which makes it of what the
/// runtime knows.
pub(super) fn running_pods(running: &[Running]) -> Value {
    let pods: Vec<Value> = running
        .iter()
        .map(|Running { key, status }| {
            let containers = status["containerStatuses"].as_array().into_iter().flatten();
            let containers = containers.filter(|one| one["state"]["running"].is_object());
            let containers: Vec<_> =
                containers.map(|one| json!({"name": one["name"], "image": one["image"], "resources": {}})).collect();
            json!({
                "metadata": {"name": key.name, "namespace": key.namespace, "uid": key.uid},
                "spec": {"containers": containers},
                "status": {},
            })
        })
        .collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
}

/// The metrics of this process and this node, in the text format of Prometheus.
pub(super) fn metrics(node: &str, started: Timestamp, running: &[Running]) -> String {
    let mut page = process_page();
    page.family("kubelet_node_name", "gauge", "Always 1; the label tells the node");
    page.sample(&format!(r#"{{node="{node}"}}"#), "1", None);
    page.family("kubelet_server_start_time_seconds", "gauge", "When this node's API began to serve, since 1970");
    page.sample("", &started.as_second().to_string(), None);
    page.family("kubelet_running_pods", "gauge", "Pods for which the provider has an instance");
    page.sample("", &running.len().to_string(), None);
    let containers = running.iter().flat_map(|pod| pod.status["containerStatuses"].as_array().into_iter().flatten());
    let containers = containers.filter(|one| one["state"]["running"].is_object()).count();
    page.family("kubelet_running_containers", "gauge", "Containers that run");
    page.sample(r#"{container_state="running"}"#, &containers.to_string(), None);
    page.0
}

/// The metrics of this process, in the text format of Prometheus.
fn process_page() -> Page {
    let mut page = Page::default();
    page.family("longshore_build_info", "gauge", "Always 1; the labels tell the version");
    page.sample(&format!(r#"{{version="{}"}}"#, env!("CARGO_PKG_VERSION")), "1", None);
    if let Some(memory) = resident() {
        page.family(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of this process, which may serve other nodes too",
        );
        page.sample("", &memory.to_string(), None);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        page.family("process_open_fds", "gauge", "Open files of this process");
        page.sample("", &open.count().to_string(), None);
    }
    page
}

/// The resident memory of this process in bytes; `None` on a system that does not tell.
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::super::meter::tests::{at, running};
    use super::*;

    #[test]
    fn running_pods_are_a_pod_list() {
        let list = running_pods(&[running("a", at(0))]);
        assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PodList"), &json!("v1")));
        assert_eq!(list["items"][0]["metadata"]["uid"], "uid-a");
        assert_eq!(list["items"][0]["spec"]["containers"][0]["name"], "main");
    }

    #[test]
    fn metrics_of_the_process() {
        let page = metrics("n", at(0), &[running("a", at(0))]);
        for line in ["kubelet_running_pods 1", r#"kubelet_running_containers{container_state="running"} 1"#] {
            assert!(page.lines().any(|one| one == line), "{page}");
        }
        assert!(page.contains("process_resident_memory_bytes "), "{page}");
    }
}
