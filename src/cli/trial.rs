//! `longshore test`: whether pods run in a target, from end to end.

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{Api, AttachParams, DeleteParams, ListParams, LogParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep, timeout};

use crate::api::clients;
use crate::api::diagnosis::diagnose;
use crate::api::rights::{Features, target_rights};
use crate::api::virtual_node::{Shape, VirtualNodeSpec};
use crate::errors::chain;
use crate::kubelet::sites::CHOICE;
use crate::provider::names;
use crate::run::drain::WHOLE;
use crate::run::rules::places;

use super::CliError;
use super::ask::{AskError, PATIENCE, Progress, ROUND, ask, ask_opt};
use super::clusters::ConfigurationArgs;
use super::show::{Cell, Output, Palette, Tone, clean, table};

/// What the container says, and is asked to say.
const WORD: &str = "longshore-test";

/// Says a word, and ends as soon as it is told to.
const SCRIPT: &str = "echo longshore-test; trap 'exit 0' TERM; sleep 3600 & wait";

/// The flags of `test`.
#[derive(Args)]
pub struct TestArgs {
    /// The name of the target
    name: String,
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// The namespace of the host for the pod
    #[arg(long, short, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// An image that has `sh`, `echo` and `sleep`
    #[arg(long, value_name = "IMAGE", default_value = "busybox:stable")]
    image: String,
    /// How many seconds the pod may take to start, and to end
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    timeout: u64,
    /// How to show the result
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Why a target has not passed.
#[derive(Debug, thiserror::Error)]
pub enum TestError {
    /// There is no such target.
    #[error("failed to find the target {name:?}; {known}")]
    Target {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Nothing stands for it in the host.
    #[error("failed to find a virtual node for the target {0}; create a VirtualNode that names it")]
    Node(String),
    /// A step failed, and was told.
    #[error("target {name} has not passed the test: {step}")]
    Failed {
        /// The target.
        name: String,
        /// What failed.
        step: &'static str,
    },
    /// Somebody stopped it.
    #[error("the test of target {0} was stopped")]
    Stopped(String),
}

impl TestError {
    /// The exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Target { .. } => 2,
            _ => 1,
        }
    }
}

/// One step and how it went.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    #[serde(rename = "step")]
    name: &'static str,
    passed: bool,
    milliseconds: u128,
    says: String,
}

struct Trial<'a> {
    args: &'a TestArgs,
    pods: Api<Pod>,
    events: Api<Event>,
    delegates: Api<Pod>,
    pod: Pod,
    /// Once it was created.
    uid: Option<String>,
    steps: Vec<Step>,
}

pub(super) async fn test(args: &TestArgs) -> Result<(), CliError> {
    let clusters = args.configuration.load().await?;
    let configuration = &clusters.configuration;
    let index = configuration.targets.iter().position(|target| target.name == args.name);
    let Some(index) = index else {
        let known = clusters.names();
        return Err(TestError::Target { name: args.name.clone(), known }.into());
    };
    let target = &configuration.targets[index];
    let stands = configuration.nodes.iter().find(|node| node.spec.targets.iter().any(|one| one.name == args.name));
    let node = stands.ok_or_else(|| TestError::Node(args.name.clone()))?;
    let host = clients::client(&clusters.host).await.map_err(CliError::ConfigureHost)?;
    let streams = clients::streaming_client(&clusters.host).await.map_err(CliError::ConfigureHost)?;
    let progress = Progress::start("reaching the target");
    let begun = Instant::now();
    let needed = target_rights(&target.spec, Features::of_target(&configuration.nodes, &target.name));
    let reached = match &clusters.targets[index] {
        Ok(access) => match clients::client(access).await {
            Ok(client) => match diagnose(&client, &clients::address(access), &needed).await {
                Ok(version) => Ok((client, version.0)),
                Err(trouble) => Err(trouble.to_string()),
            },
            Err(error) => Err(chain(&error)),
        },
        Err(reason) => Err(reason.clone()),
    };
    let (client, says) = match reached {
        Ok((client, version)) => (Ok(client), format!("{version}, all rights")),
        Err(reason) => (Err(()), reason),
    };
    let reach = Step { name: "reach", passed: client.is_ok(), milliseconds: begun.elapsed().as_millis(), says };
    let Ok(client) = client else { return finish(args, &[reach]) };
    let there = places(&target.spec.namespaces).namespace(&args.namespace).into_owned();
    let mut trial = Trial {
        args,
        // Its streams last as long as they are read, and nothing is sent twice.
        pods: Api::namespaced(streams, &args.namespace),
        events: Api::namespaced(host.clone(), &args.namespace),
        delegates: Api::namespaced(client, &there),
        pod: pod(args, &node.name, &node.spec),
        uid: None,
        steps: vec![reach],
    };
    let stopped = tokio::select! {
        () = trial.run(&progress) => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    trial.clear(&progress, &host).await;
    drop(progress);
    if stopped {
        return Err(TestError::Stopped(args.name.clone()).into());
    }
    finish(args, &trial.steps)
}

fn finish(args: &TestArgs, steps: &[Step]) -> Result<(), CliError> {
    match args.output.document(&steps) {
        Some(document) => print!("{document}"),
        None => print!("{}", text(Palette::of_stdout(), steps)),
    }
    match steps.iter().find(|step| !step.passed) {
        None => Ok(()),
        Some(failed) => Err(TestError::Failed { name: args.name.clone(), step: failed.name }.into()),
    }
}

fn text(palette: Palette, steps: &[Step]) -> String {
    let row = |step: &Step| {
        let (mark, tone) = if step.passed { ("ok", Tone::Good) } else { ("FAILED", Tone::Bad) };
        vec![
            Cell::from(step.name),
            Cell::new(mark, tone),
            Cell::from(format!("{}ms", step.milliseconds)),
            Cell::from(&step.says),
        ]
    };
    table(palette, &["STEP", "RESULT", "TOOK", "SAYS"], &steps.iter().map(row).collect::<Vec<_>>())
}

/// A pod that goes to this node, and to this target of it.
fn pod(args: &TestArgs, node: &str, spec: &VirtualNodeSpec) -> Pod {
    let label = if spec.shape == Shape::Cluster { "kubernetes.io/hostname" } else { WHOLE };
    let tolerations: Vec<Value> =
        spec.taints_of(node).iter().map(|taint| json!({"key": taint.key, "operator": "Exists"})).collect();
    let mut pod = json!({
        "metadata": {"generateName": format!("{WORD}-"), "labels": {names::MANAGED_BY: WORD}},
        "spec": {
            "nodeSelector": {label: node}, "tolerations": tolerations, "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5, "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": args.image, "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", SCRIPT],
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}}],
        },
    });
    if spec.targets.len() > 1 {
        pod["metadata"]["annotations"] = json!({CHOICE: args.name});
    }
    // It is one, by its making.
    serde_json::from_value(pod).unwrap_or_default()
}

impl Trial<'_> {
    async fn run(&mut self, progress: &Progress) {
        progress.say("create: waiting");
        let begun = Instant::now();
        let created = self.create().await;
        if !self.note("create", begun, created) {
            return;
        }
        for step in ["delegate", "status", "logs", "exec"] {
            progress.say(format!("{step}: waiting"));
            let begun = Instant::now();
            let limit = Duration::from_secs(self.args.timeout);
            let work = async {
                match step {
                    "delegate" => self.delegate().await,
                    "status" => self.ready().await,
                    "logs" => self.logs().await,
                    _ => self.exec().await,
                }
            };
            let result = match timeout(limit, work).await {
                Ok(result) => result,
                Err(_) => Err(self.late(begun).await),
            };
            if !self.note(step, begun, result) {
                return;
            }
        }
        let begun = Instant::now();
        progress.say("delete: waiting");
        let result = match timeout(Duration::from_secs(self.args.timeout), self.delete()).await {
            Ok(result) => result,
            Err(_) => Err(self.late(begun).await),
        };
        self.note("delete", begun, result);
    }

    fn note(&mut self, step: &'static str, begun: Instant, result: Result<String, String>) -> bool {
        let passed = result.is_ok();
        let says = clean(&result.unwrap_or_else(|reason| reason));
        self.steps.push(Step { name: step, passed, milliseconds: begun.elapsed().as_millis(), says });
        passed
    }

    async fn create(&mut self) -> Result<String, String> {
        let made = ask("create a pod", self.pods.create(&PostParams::default(), &self.pod)).await;
        let made = made.map_err(|error| chain(&error))?;
        self.uid = made.uid();
        self.pod.metadata.name = Some(made.name_any());
        Ok(format!("{}/{}", self.args.namespace, made.name_any()))
    }

    fn name(&self) -> String {
        self.pod.name_any()
    }

    async fn instances(&self) -> Result<Vec<String>, AskError> {
        let params = ListParams::default().labels(&format!("{}={}", names::UID, self.uid.clone().unwrap_or_default()));
        let list = ask("list delegates", self.delegates.list_metadata(&params)).await?;
        Ok(list.items.iter().map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect())
    }

    async fn delegate(&self) -> Result<String, String> {
        loop {
            if let Some(found) = self.instances().await.map_err(|error| chain(&error))?.pop() {
                return Ok(format!("{found} in the target"));
            }
            self.not_over().await?;
            sleep(ROUND / 5).await;
        }
    }

    /// Nothing comes of a pod that has failed.
    async fn not_over(&self) -> Result<Value, String> {
        let found = ask_opt("look at the pod", self.pods.get(&self.name())).await.map_err(|error| chain(&error))?;
        let found = json!(found.ok_or("somebody has deleted it")?);
        match found["status"]["phase"].as_str() {
            Some("Failed" | "Succeeded") => Err(format!("it has ended: {}", found["status"])),
            _ => Ok(found),
        }
    }

    async fn ready(&self) -> Result<String, String> {
        loop {
            let pod = self.not_over().await?;
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            if conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True") {
                return Ok("Ready at home".into());
            }
            sleep(ROUND / 5).await;
        }
    }

    async fn logs(&self) -> Result<String, String> {
        let mut failed = "it says nothing".to_owned();
        for _ in 0..20 {
            match ask("read its logs", self.pods.logs(&self.name(), &LogParams::default())).await {
                Ok(text) if text.contains(WORD) => return Ok("what the container says".into()),
                Ok(_) => {}
                Err(error) => failed = chain(&error),
            }
            sleep(ROUND / 2).await;
        }
        Err(failed)
    }

    async fn exec(&self) -> Result<String, String> {
        let params = AttachParams::default().stdin(false).stderr(false);
        let command = ["echo", WORD];
        let mut process = ask("run a command in it", self.pods.exec(&self.name(), command, &params))
            .await
            .map_err(|error| chain(&error))?;
        let mut said = String::new();
        let mut stdout = process.stdout().ok_or("it has no output")?;
        let read = timeout(PATIENCE, stdout.read_to_string(&mut said)).await;
        match read {
            Ok(Ok(_)) if said.contains(WORD) => Ok("what a command in it says".into()),
            Ok(Ok(_)) => Err(format!("a command in it says {said:?} in place of {WORD:?}")),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("a command in it gave no answer within {} s", PATIENCE.as_secs())),
        }
    }

    async fn ask_to_go(&self) -> Result<(), AskError> {
        let this = Preconditions { uid: self.uid.clone(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        match ask_opt("delete the pod", self.pods.delete(&self.name(), &params)).await {
            Err(error) if error.code() == Some(409) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn delete(&self) -> Result<String, String> {
        self.ask_to_go().await.map_err(|error| chain(&error))?;
        loop {
            let home = ask_opt("look at the pod", self.pods.get_metadata(&self.name())).await;
            let home = home.map_err(|error| chain(&error))?;
            if home.is_none() && self.instances().await.map_err(|error| chain(&error))?.is_empty() {
                return Ok("gone on both sides".into());
            }
            sleep(ROUND / 5).await;
        }
    }

    /// Why a step takes so long, as far as it is told.
    async fn late(&self, begun: Instant) -> String {
        let mut reasons = vec![format!("not within {} s", begun.elapsed().as_secs())];
        if let Ok(Some(pod)) = ask_opt("look at the pod", self.pods.get(&self.name())).await {
            let pod = json!(pod);
            if pod["spec"]["nodeName"].is_null() {
                reasons.push("home's scheduler has not bound it".into());
            }
            let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let unmet = conditions.iter().filter(|one| one["status"] == "False");
            reasons.extend(unmet.filter_map(|one| one["message"].as_str()).map(ToOwned::to_owned));
        }
        let params = ListParams::default().fields(&format!("involvedObject.name={}", self.name()));
        if let Ok(list) = ask("list its events", self.events.list(&params)).await {
            let warnings = list.items.iter().filter(|event| event.type_.as_deref() == Some("Warning"));
            reasons.extend(
                warnings
                    .filter_map(|event| Some(format!("{}: {}", event.reason.as_deref()?, event.message.as_deref()?))),
            );
        }
        reasons.dedup();
        reasons.join("; ")
    }

    /// Whatever has happened, nothing stays behind.
    async fn clear(&mut self, progress: &Progress, host: &Client) {
        progress.say("removing the pod");
        if self.uid.is_none() {
            return;
        }
        let over = self.steps.iter().any(|step| step.name == "delete" && step.passed);
        if !over {
            let left = match timeout(Duration::from_secs(self.args.timeout), self.delete()).await {
                Ok(Ok(_)) => None,
                Ok(Err(reason)) => Some(reason),
                Err(_) => Some(format!("it did not go within {} s", self.args.timeout)),
            };
            if let Some(reason) = left {
                let says = format!("{}/{} is left: {}", self.args.namespace, self.name(), clean(&reason));
                self.steps.push(Step { name: "remove", passed: false, milliseconds: 0, says });
                return;
            }
        }
        // Its events would tell of a pod that nobody knows.
        let events: Api<Event> = Api::namespaced(host.clone(), &self.args.namespace);
        let params = ListParams::default().fields(&format!("involvedObject.name={}", self.name()));
        _ = ask("remove its events", events.delete_collection(&DeleteParams::default(), &params)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::virtual_node::TargetReference;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TestArgs,
    }

    #[test]
    fn the_pod_goes_to_the_target_that_is_tested() {
        let args = Line::parse_from(["test", "east"]).args;
        let alone = json!(pod(&args, "east", &VirtualNodeSpec::for_target("east")));
        assert_eq!(alone["spec"]["nodeSelector"], json!({"kubernetes.io/hostname": "east"}));
        assert_eq!(alone["spec"]["tolerations"][0]["key"], "longshore.dev/virtual-node");
        assert!(alone["metadata"]["annotations"].is_null());
        let mut several = VirtualNodeSpec::for_target("east");
        several.targets.push(TargetReference { name: "west".into(), weight: 1 });
        assert_eq!(json!(pod(&args, "both", &several))["metadata"]["annotations"][CHOICE], "east");
    }

    #[test]
    fn steps_are_a_table() {
        let steps = [Step { name: "logs", passed: false, milliseconds: 12, says: "no".into() }];
        assert_eq!(text(Palette::plain(), &steps), "STEP   RESULT   TOOK   SAYS\nlogs   FAILED   12ms   no\n");
    }
}
