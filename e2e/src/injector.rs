//! Mutating webhooks of others: as meshes have them, where every pod gets a container more, or with a policy of a test's own.

use anyhow::Result;
use http::Response;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    https::{Https, full},
    pod::{IDLE, container},
};

/// The name of the container that is added.
pub const SIDECAR: &str = "injected";

/// Changes the pods of one namespace, as they are created, until it is dropped.
pub struct Injector {
    cluster: Cluster,
    name: String,
    _server: Https,
}

impl Injector {
    /// Adds sidecars from now on in this namespace of the cluster.
    pub fn start(cluster: &Cluster, namespace: &str) -> Result<Self> {
        Self::patching(cluster, namespace, |_| {
            json!([
                {"op": "add", "path": "/spec/containers/-", "value": container(SIDECAR, IDLE)},
                {"op": "add", "path": "/metadata/labels/injected", "value": "true"},
            ])
        })
    }

    /// Changes each pod of this namespace from now on by the JSON patch that `patch` makes of it.
    pub fn patching(cluster: &Cluster, namespace: &str, patch: fn(&Value) -> Value) -> Result<Self> {
        let server = Https::start(move |request| async move {
            let review: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes())?;
            Ok(Response::new(full(reviewed(&review, patch).to_string())))
        })?;
        let name = format!("{namespace}-injector");
        let bundle = base64(server.certificate.as_bytes());
        cluster.create(json!({
            "kind": "MutatingWebhookConfiguration", "metadata": {"name": name},
            "webhooks": [{
                "name": "injector.longshore.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("{}/inject", server.url), "caBundle": bundle},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
            }],
        }))?;
        Ok(Self { cluster: cluster.clone(), name, _server: server })
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        _ = self.cluster.delete("mutatingwebhookconfigurations", &self.name);
    }
}

fn reviewed(review: &Value, patch: fn(&Value) -> Value) -> Value {
    let patch = patch(&review["request"]["object"]);
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch",
            "patch": base64(patch.to_string().as_bytes())},
    })
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0u32, |group, i| group << 8 | u32::from(chunk.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let digit = ALPHABET[(group >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}
