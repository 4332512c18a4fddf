//! One cluster, seen from one namespace.

use std::{
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use http::Request;
use kube::{Client, Config};
use lab::Lab;
use serde_json::Value;

use crate::{
    PATIENCE,
    command::{Background, Output, run},
    pod::{self, Pod},
    report::Scene,
    resource,
    runtime::block_on,
};

const PAUSE: Duration = Duration::from_millis(150);

/// One cluster; all that has a namespace is in the one of the test.
#[derive(Clone)]
pub struct Cluster {
    name: String,
    namespace: String,
    config: Config,
    client: Client,
    lab: Lab,
    scene: Option<Arc<Scene>>,
}

impl Cluster {
    pub(crate) fn open(lab: &Lab, name: &str, namespace: &str) -> Result<Self> {
        let kubeconfig = kube::config::Kubeconfig::read_from(lab.kubeconfig(name)?)?;
        let config = block_on(Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()))?;
        // The client starts its worker in the runtime that it is made in.
        let client = block_on(async { Client::try_from(config.clone()) })?;
        Ok(Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            config,
            client,
            lab: lab.clone(),
            scene: None,
        })
    }

    /// The same cluster, with reports that tell of the whole scene.
    pub(crate) fn on(&self, scene: &Arc<Scene>) -> Self {
        Self { scene: Some(scene.clone()), ..self.clone() }
    }

    /// `host` or `east`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace that it is seen from.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The address of its API server and its node.
    pub fn address(&self) -> Result<String> {
        Ok(self.config.cluster_url.host().context("an API server without an address")?.to_owned())
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn path(&self, plural: &str) -> Result<String> {
        resource::path(plural, &self.namespace)
    }

    /// Creates an object, or several in a List; answers what became of the (last) one.
    pub fn create(&self, object: Value) -> Result<Value> {
        let object = resource::with_api_version(object);
        let path = self.path(&resource::plural(&object))?;
        self.send("POST", &path, "application/json", &object).with_context(|| {
            format!("failed to create {} {} in {}", object["kind"], object["metadata"]["name"], self.name)
        })
    }

    /// An object; `None` if there is none.
    pub fn find(&self, plural: &str, name: &str) -> Result<Option<Value>> {
        let path = format!("{}/{name}", self.path(plural)?);
        match self.send("GET", &path, "", &Value::Null) {
            Err(error) if is_not_found(&error) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// An object that has to be there.
    pub fn get(&self, plural: &str, name: &str) -> Result<Value> {
        self.find(plural, name)?.ok_or_else(|| anyhow!("there is no {name} among the {plural} of {}", self.name))
    }

    /// All objects of a kind with these labels; an empty selector means all.
    pub fn list(&self, plural: &str, selector: &str) -> Result<Vec<Value>> {
        let path = format!("{}?labelSelector={}", self.path(plural)?, selector.replace('=', "%3D").replace(',', "%2C"));
        let mut answer = self.send("GET", &path, "", &Value::Null)?;
        Ok(std::mem::take(answer["items"].as_array_mut().context("a list without items")?))
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, plural: &str, name: &str, patch: &Value) -> Result<Value> {
        self.send("PATCH", &format!("{}/{name}", self.path(plural)?), "application/merge-patch+json", patch)
    }

    /// Deletes an object with the grace period that it asks for; fine if there is none.
    pub fn delete(&self, plural: &str, name: &str) -> Result<()> {
        self.delete_with(plural, name, "propagationPolicy=Background")
    }

    /// Deletes an object with options, as query parameters.
    pub fn delete_with(&self, plural: &str, name: &str, options: &str) -> Result<()> {
        match self.send("DELETE", &format!("{}/{name}?{options}", self.path(plural)?), "", &Value::Null) {
            Err(error) if is_not_found(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Evicts a pod, as `kubectl drain` does.
    pub fn evict(&self, name: &str) -> Result<()> {
        let path = format!("{}/{name}/eviction", self.path("pods")?);
        let eviction = serde_json::json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        self.send("POST", &path, "application/json", &eviction).map(drop)
    }

    /// Changes the number of pods of a workload.
    pub fn scale(&self, plural: &str, name: &str, replicas: u32) -> Result<()> {
        self.patch(plural, name, &serde_json::json!({"spec": {"replicas": replicas}})).map(drop)
    }

    /// All pods with these labels, by name; an empty selector means all.
    pub fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let mut pods: Vec<_> = self.list("pods", selector)?.into_iter().map(Pod).collect();
        pods.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(pods)
    }

    /// A pod; `None` if there is none.
    pub fn find_pod(&self, name: &str) -> Result<Option<Pod>> {
        Ok(self.find("pods", name)?.map(Pod))
    }

    /// A pod that has to be there.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        self.get("pods", name).map(Pod)
    }

    /// The events about an object, oldest first.
    pub fn events_of(&self, name: &str) -> Result<Vec<Value>> {
        let events = self.list("events", "")?.into_iter();
        Ok(events.filter(|event| event["involvedObject"]["name"] == name).collect())
    }

    /// Waits until `look` succeeds. Its last error is what was seen last; an API server that refuses is no matter of
    /// waiting and fails at once.
    pub fn wait<T>(&self, what: &str, within: Duration, mut look: impl FnMut(&Self) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            let seen = match look(self) {
                Ok(found) => return Ok(found),
                Err(error) if error.downcast_ref::<kube::Error>().is_some() => {
                    return Err(error.context(format!("waiting for {what} in {}", self.name)));
                }
                Err(seen) => seen,
            };
            if begin.elapsed() > within {
                let story = self.scene.as_ref().map_or_else(String::new, |scene| scene.tell());
                bail!("waited {within:?} for {what} in {}; at last: {seen:#}\n{story}", self.name);
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until there are exactly so many pods with these labels, and all of them pass.
    pub fn wait_for_pods(
        &self,
        selector: &str,
        count: usize,
        what: &str,
        pass: impl Fn(&Pod) -> bool,
    ) -> Result<Vec<Pod>> {
        self.wait(&format!("{count} pods with {selector} that are {what}"), PATIENCE, |cluster| {
            let pods = cluster.pods(selector)?;
            ensure!(pods.len() == count && pods.iter().all(&pass), "{}", pod::list(&pods));
            Ok(pods)
        })
    }

    /// Waits until a pod passes.
    pub fn wait_for_pod(&self, name: &str, what: &str, pass: impl Fn(&Pod) -> bool) -> Result<Pod> {
        self.wait(&format!("the pod {name} to be {what}"), PATIENCE, |cluster| {
            let pod = cluster.find_pod(name)?.context("no such pod")?;
            ensure!(pass(&pod), "{pod}");
            Ok(pod)
        })
    }

    /// Waits until a pod is Ready.
    pub fn wait_for_ready(&self, name: &str) -> Result<Pod> {
        self.wait_for_pod(name, "Ready", Pod::is_ready)
    }

    /// Waits until a pod of this UID no longer exists.
    pub fn wait_for_gone(&self, pod: &Pod) -> Result<()> {
        self.wait(&format!("the pod {} ({}) to be gone", pod.name(), pod.uid()), PATIENCE, |cluster| {
            let found = cluster.find_pod(pod.name())?.filter(|found| found.uid() == pod.uid());
            found.map_or(Ok(()), |found| bail!("{found}"))
        })
    }

    /// Waits for an event about an object, and answers its message.
    pub fn wait_for_event(&self, name: &str, reason: &str) -> Result<String> {
        self.wait(&format!("the event {reason} about {name}"), PATIENCE, |cluster| {
            let events = cluster.events_of(name)?;
            let event = events.iter().find(|event| event["reason"] == reason);
            let reasons = || events.iter().map(|event| event["reason"].to_string()).collect::<Vec<_>>().join(", ");
            let event = event.with_context(|| format!("the events {}", reasons()))?;
            Ok(event["message"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// A kubectl command as the admin in the test's namespace.
    pub fn kubectl_command(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.lab.kubectl(&self.name)?;
        command.arg("--namespace").arg(&self.namespace).args(args);
        Ok(command)
    }

    /// Runs kubectl as the admin in the test's namespace.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl_with(args, b"")
    }

    /// As [`Cluster::kubectl`], with bytes as standard input.
    pub fn kubectl_with(&self, args: &[&str], stdin: &[u8]) -> Result<Output> {
        run(&mut self.kubectl_command(args)?, stdin)
    }

    /// A kubectl that goes on beside the test.
    pub fn kubectl_beside(&self, args: &[&str]) -> Result<Background> {
        Background::start(&mut self.kubectl_command(args)?)
    }

    fn send(&self, method: &str, path: &str, content: &str, body: &Value) -> Result<Value> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let mut request = Request::builder().method(method).uri(path);
        if !content.is_empty() {
            request = request.header("Content-Type", content);
        }
        Ok(block_on(self.client.request(request.body(bytes)?))?)
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 404)
}
