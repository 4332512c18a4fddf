//! What delegates use, by the target's metrics API (`metrics.k8s.io/v1beta1`, as `kubectl top pod` reads it): rights in
//! namespaces are enough for it, and the target's nodes are not asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;
use http::Request;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use kube::core::ObjectMeta;
use serde::Deserialize;

use crate::errors::chain;
use crate::kubelet::provider::{ContainerUsage, PodUsage, Usage};
use crate::provider::names;
use crate::provider::quantity::Quantity;
use crate::provider::reach::Reach;

/// Reads the usage of the delegates of one virtual node in one target.
pub(super) struct Meters {
    client: Client,
    target: String,
    /// One for each place that has to be asked.
    paths: Vec<String>,
    /// The log has said that there are no numbers.
    told: AtomicBool,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<PodMetrics>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: ObjectMeta,
    timestamp: Timestamp,
    #[serde(default)]
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    usage: Amounts,
}

#[derive(Deserialize)]
struct Amounts {
    cpu: String,
    memory: String,
}

impl Meters {
    /// `selector` are the labels of the delegates, `reach` the namespaces where they may be.
    pub(super) fn new(client: Client, target: &str, selector: &str, reach: &Reach) -> Self {
        let selector = selector.replace('/', "%2F").replace('=', "%3D").replace(',', "%2C");
        let path = |place: &str| format!("/apis/metrics.k8s.io/v1beta1{place}/pods?labelSelector={selector}");
        let paths = match reach.within() {
            None => vec![path("")],
            Some(within) => within.iter().map(|namespace| path(&format!("/namespaces/{namespace}"))).collect(),
        };
        Self { client, target: target.into(), paths, told: AtomicBool::new(false) }
    }

    /// What the delegates use now. A target without a metrics API is a gap, and said once in the log.
    pub(super) async fn read(&self) -> Usage {
        let mut whole = Usage::default();
        for answer in join_all(self.paths.iter().map(|path| self.list(path))).await {
            match answer {
                Ok(list) => whole.pods.extend(list.items.into_iter().filter_map(usage)),
                Err(error) => whole.gaps.push(explain(&self.target, &error)),
            }
        }
        let told = self.told.swap(!whole.gaps.is_empty(), Ordering::Relaxed);
        match whole.gaps.first() {
            Some(gap) if !told => {
                tracing::warn!(target_cluster = self.target, "the pods' CPU and memory are not known: {gap}");
            }
            None if told => tracing::info!(target_cluster = self.target, "the metrics API of the target answers"),
            _ => {}
        }
        whole
    }

    async fn list(&self, path: &str) -> Result<List, kube::Error> {
        let request = Request::get(path).body(vec![]).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }
}

/// Why there are no numbers, and what to do about it.
fn explain(target: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            format!("target {target} has no metrics API; install metrics-server there")
        }
        kube::Error::Api(status) if status.code == 403 => format!(
            "target {target} does not let its metrics be read; grant list on pods of metrics.k8s.io: {}",
            status.message
        ),
        kube::Error::Api(status) if status.code == 503 => {
            format!("the metrics API of target {target} is not available; is its metrics-server running?")
        }
        other => format!("the metrics API of target {target} does not answer: {}", chain(other)),
    }
}

/// One pod; `None` for one that is not ours, or of which not all can be read: half of a pod would look like a small one.
fn usage(pod: PodMetrics) -> Option<PodUsage> {
    let uid = pod.metadata.labels?.remove(names::UID)?;
    let containers = pod.containers.into_iter().map(|container| {
        let amount = |text: &str| text.parse::<Quantity>().ok();
        Some(ContainerUsage {
            nanocores: amount(&container.usage.cpu)?.nanos(),
            memory: amount(&container.usage.memory)?.units(),
            name: container.name,
        })
    });
    let window = pod.window.parse::<SignedDuration>().ok().and_then(|window| Duration::try_from(window).ok());
    Some(PodUsage {
        uid,
        at: pod.timestamp,
        window: window.unwrap_or_default(),
        containers: containers.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(containers: &Value, labels: &Value) -> Option<PodUsage> {
        let pod = json!({
            "metadata": {"name": "a", "namespace": "ns", "labels": labels},
            "timestamp": "2026-11-01T10:00:00Z", "window": "1m10.5s", "containers": containers,
        });
        usage(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn pod_metrics_as_metrics_server_writes_them() {
        let containers = json!([
            {"name": "main", "usage": {"cpu": "1234567n", "memory": "20Mi"}},
            {"name": "side", "usage": {"cpu": "0", "memory": "512Gi"}},
        ]);
        let read = read(&containers, &json!({"longshore.dev/uid": "u"})).unwrap();
        assert_eq!((read.uid.as_str(), read.window), ("u", Duration::from_millis(70_500)));
        assert_eq!((read.containers[0].nanocores, read.containers[0].memory), (1_234_567, 20 << 20));
        assert_eq!((read.containers[1].nanocores, read.containers[1].memory), (0, 512 << 30));
    }

    #[test]
    fn strangers_and_half_pods_are_left_out() {
        let good = json!({"name": "main", "usage": {"cpu": "1m", "memory": "1"}});
        let bad = json!({"name": "side", "usage": {"cpu": "much", "memory": "1"}});
        assert_eq!(read(&json!([good]), &json!({"app": "a"})), None);
        assert_eq!(read(&json!([good, bad]), &json!({"longshore.dev/uid": "u"})), None);
    }
}
