//! The webhook for pods that ask to be offloaded, for a test's own namespace.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    cluster::Cluster,
    longshore::{BRIDGE, free_port},
    pod::{IDLE, container},
    world::{World, unique},
};

/// A webhook that some Longshore serves and registers. Dropping it removes what the Longshore has made for it.
pub struct Hooked {
    host: Cluster,
    name: String,
    port: u16,
}

impl Hooked {
    /// One that is still to be served, with these flags of `longshore run`.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { host: World::cluster("host", "kube-node-lease")?, name: unique(name), port: free_port()? })
    }

    /// The flags by which `longshore run` serves it; pods may go after so many seconds without a place at home.
    pub fn flags(&self, after: u32) -> Vec<String> {
        let (name, port) = (&self.name, self.port);
        [
            "--webhook-bind",
            &format!("{BRIDGE}:{port}"),
            "--webhook-url",
            &format!("https://{BRIDGE}:{port}"),
            "--webhook-namespaces",
            &format!("e2e-hook={name}"),
            "--webhook-name",
            name,
            "--webhook-register",
            "--offload-after",
            &after.to_string(),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Has the API server ask it about this namespace, and waits until it does.
    pub fn cover(&self, host: &Cluster, namespace: &str, wish: &str) -> Result<()> {
        host.patch("namespaces", namespace, &json!({"metadata": {"labels": {"e2e-hook": self.name}}}))?;
        self.wait_until_it_answers(host, wish)
    }

    /// Waits until a pod that wishes so is changed by it. Nothing is created.
    pub fn wait_until_it_answers(&self, host: &Cluster, wish: &str) -> Result<()> {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "probe", "annotations": {"longshore.dev/offload": wish}},
            "spec": {"containers": [container("main", IDLE)]}});
        host.wait("the webhook to answer", PATIENCE, |host| {
            let output = host
                .kubectl_with(&["create", "--dry-run=server", "-o", "json", "-f", "-"], pod.to_string().as_bytes())?;
            let pod: Value = serde_json::from_str(&output.ok()?)?;
            ensure!(pod["spec"]["affinity"].is_object(), "the pod was not changed: {}", pod["spec"]);
            Ok(())
        })
    }

    /// What the API server trusts.
    pub fn trusted(&self) -> Result<String> {
        let configuration = self.host.find("mutatingwebhookconfigurations", &self.name)?.context("there is none")?;
        let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str();
        bundle.map(str::to_owned).with_context(|| format!("no bundle in {configuration}"))
    }

    /// What `longshore webhook` prints, as the API server would take it.
    pub fn printed(&self) -> Result<Value> {
        let (kubeconfig, url) = (World::kubeconfig("host")?, format!("https://{BRIDGE}:{}", self.port));
        let kubeconfig = kubeconfig.to_string_lossy().into_owned();
        let args = ["webhook", "--kubeconfig", &kubeconfig, "--webhook-url", &url, "--webhook-name", &self.name];
        let printed = World::longshore_command(&args)?.ok()?;
        let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-o", "json", "-f", "-"];
        Ok(serde_json::from_str(&self.host.kubectl_with(&apply, printed.as_bytes())?.ok()?)?)
    }

    /// Removes the Secret with its certificates.
    pub fn forget_certificates(&self) -> Result<()> {
        self.host.delete("secrets", &format!("{}-webhook", self.name))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Hooked {
    fn drop(&mut self) {
        // Asked for by nobody from now on, so that no pod depends on it.
        _ = self.host.delete("mutatingwebhookconfigurations", &self.name);
        _ = self.host.delete("secrets", &format!("{}-webhook", self.name));
        _ = self.host.kubectl(&["delete", "lease", &format!("longshore-webhook.{}", self.name), "--ignore-not-found"]);
    }
}
