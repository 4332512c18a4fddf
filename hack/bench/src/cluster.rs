//! A cluster's API, as far as the measurement needs it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

/// Who is measured asks with this account's token, so that the audit log tells its requests from all others.
pub(crate) const ACCOUNT: &str = "subject";
/// Where that account and all pods are.
pub(crate) const NAMESPACE: &str = "bench";

/// An API server.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The kubeconfig of whoever is measured.
    pub(crate) kubeconfig: PathBuf,
}

impl Cluster {
    /// Opens a cluster, with a namespace and an account for whoever is measured; its kubeconfig is written into `dir`.
    pub(crate) async fn open(admin: &Path, dir: &Path, name: &str) -> Result<Self> {
        let read = Kubeconfig::read_from(admin)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        let path = dir.join(format!("{name}.kubeconfig"));
        let cluster = Self { client: Client::try_from(config)?, kubeconfig: path };
        let meta = |name: &str| json!({"name": name, "namespace": NAMESPACE});
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta(ACCOUNT)});
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "bench"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": NAMESPACE}]});
        let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
        let bindings = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        for (place, object) in [("/api/v1/namespaces", namespace), (&accounts, account), (bindings, binding)] {
            match cluster.send("POST", place, &object).await {
                Err(error) if !is_status(&error, 409) => return Err(error),
                _ => {}
            }
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"expirationSeconds": 86400}});
        let token = cluster.send("POST", &format!("{accounts}/{ACCOUNT}/token"), &request).await?;
        let mut text: Value = serde_json::from_slice(&std::fs::read(admin)?)?;
        text["users"][0]["user"] = json!({"token": token["status"]["token"]});
        std::fs::write(&cluster.kubeconfig, serde_json::to_vec(&text)?)?;
        Ok(cluster)
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder().method(method).uri(path).header("Content-Type", "application/json");
        Ok(self.client.request(request.body(bytes)?).await?)
    }

    /// Reads a list to its end without looking at it, and says how many bytes it has.
    pub(crate) async fn read(&self, path: &str) -> Result<usize> {
        Ok(self.client.request_text(Request::get(path).body(Vec::new())?).await?.len())
    }

    /// How many pods there are in the namespace.
    pub(crate) async fn pods(&self) -> Result<usize> {
        let list = self.send("GET", &format!("{}?limit=1", path("")), &Value::Null).await?;
        let more = list["metadata"]["remainingItemCount"].as_u64().unwrap_or_default();
        Ok(list["items"].as_array().context("no list")?.len() + usize::try_from(more)?)
    }
}

pub(crate) fn is_status(error: &anyhow::Error, code: u16) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == code)
}

/// The path of a pod; of all with an empty name.
pub(crate) fn path(name: &str) -> String {
    let all = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    if name.is_empty() { all } else { format!("{all}/{name}") }
}

/// A pod as users have it: bound to a node of home's by name, or left to the target's scheduler.
pub(crate) fn pod(name: &str, node: Option<&str>) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench", "tier": "web"}},
        "spec": {"terminationGracePeriodSeconds": 5, "containers": [{"name": "app", "image": "registry.example/app:1.0",
            "args": ["serve", "--port=8080"], "ports": [{"containerPort": 8080, "name": "http"}],
            "env": [{"name": "COLOUR", "value": "blue"}, {"name": "LEVEL", "value": "info"}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}}}]}});
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}
