//! A cluster's API, as far as the run needs it.

use std::path::Path;

use anyhow::{Context, Result};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use crate::judge::Sight;

/// An API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
}

impl Cluster {
    pub(crate) async fn open(kubeconfig: &Path) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // A server that is being restarted is no reason to wait for long.
        config.connect_timeout = Some(std::time::Duration::from_secs(2));
        config.default_retry = false;
        Ok(Self { client: Client::try_from(config)? })
    }

    async fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> Result<Value> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let mut request = Request::builder().method(method).uri(path);
        if !content.is_empty() {
            request = request.header("Content-Type", content);
        }
        let request = self.client.request(request.body(bytes)?);
        Ok(tokio::time::timeout(std::time::Duration::from_secs(10), request).await.context("no answer")??)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, "", &Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.send("POST", path, "application/json", object).await
    }

    pub(crate) async fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.send_patch(path, "application/merge-patch+json", change).await
    }

    pub(crate) async fn send_patch(&self, path: &str, kind: &str, change: &Value) -> Result<Value> {
        self.send("PATCH", path, kind, change).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.send("DELETE", path, "application/json", options).await
    }

    /// All pods of the cluster, or those with these labels.
    pub(crate) async fn pods(&self, selector: &str) -> Result<Vec<Sight>> {
        let path = format!("/api/v1/pods?labelSelector={}", selector.replace('=', "%3D"));
        let list = self.get(&path).await?;
        Ok(list["items"].as_array().context("no list")?.iter().map(sight).collect())
    }
}

/// The path of a pod.
pub(crate) fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A pod in a word.
pub(crate) fn sight(pod: &Value) -> Sight {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let statuses = pod["status"]["containerStatuses"].as_array();
    let conditions = pod["status"]["conditions"].as_array();
    Sight {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        proxy: text("/metadata/labels/longshore.dev~1uid"),
        phase: text("/status/phase"),
        ready: conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")),
        terminating: pod.pointer("/metadata/deletionTimestamp").is_some(),
        restarts: statuses.into_iter().flatten().filter_map(|one| one["restartCount"].as_u64()).sum(),
    }
}
