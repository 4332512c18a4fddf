//! A cluster's API, as far as the run needs it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use crate::judge::Sight;

/// How long an answer may take. The run's own link is never cut, but a server may be down.
const PATIENCE: Duration = Duration::from_secs(10);

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
        config.connect_timeout = Some(Duration::from_secs(2));
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
        Ok(tokio::time::timeout(PATIENCE, request).await.context("no answer")??)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, "", &Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.send("POST", path, "application/json", object).await
    }

    pub(crate) async fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.send("PATCH", path, "application/merge-patch+json", change).await
    }

    pub(crate) async fn strategic_patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.send("PATCH", path, "application/strategic-merge-patch+json", change).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> Result<Value> {
        self.send("DELETE", path, "application/json", options).await
    }

    /// Makes a namespace unless it is there.
    pub(crate) async fn ensure_namespace(&self, name: &str) -> Result<()> {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        match self.create("/api/v1/namespaces", &object).await {
            Err(error) if self.get(&format!("/api/v1/namespaces/{name}")).await.is_err() => Err(error),
            _ => Ok(()),
        }
    }

    /// The items of a list.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path).await?["items"].as_array().context("no list")?.clone())
    }

    /// All pods of the cluster that have these labels.
    pub(crate) async fn pods(&self, selector: &str) -> Result<Vec<Sight>> {
        let path = format!("/api/v1/pods?labelSelector={}", selector.replace('=', "%3D"));
        Ok(self.list(&path).await?.iter().map(sight).collect())
    }
}

/// The path of a pod.
pub(crate) fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A pod in a word.
pub(crate) fn sight(pod: &Value) -> Sight {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let statuses = || pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let conditions = pod["status"]["conditions"].as_array();
    Sight {
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
        uid: text("/metadata/uid"),
        version: text("/metadata/resourceVersion").parse().unwrap_or_default(),
        proxy: text("/metadata/labels/longshore.dev~1uid"),
        controller: text("/metadata/ownerReferences/0/kind"),
        node: text("/spec/nodeName"),
        once: pod["spec"]["restartPolicy"] == "Never",
        phase: text("/status/phase"),
        ready: conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")),
        terminating: pod.pointer("/metadata/deletionTimestamp").is_some(),
        running: statuses().any(|one| one["state"]["running"].is_object()),
        restarts: statuses().filter_map(|one| one["restartCount"].as_u64()).sum(),
    }
}
