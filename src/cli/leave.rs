//! `longshore leave`: a target goes, with all that `longshore join` has made on either side.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::clients;
use crate::api::target::TargetSpec;
use crate::errors::chain;
use crate::only::{only, this};
use crate::provider::names::JOINED;
use crate::run::drain::{self, Leaving};

use super::CliError;
use super::ask::{AskError, Consent, Progress, ROUND, api_of, ask, ask_opt, consent};
use super::clusters::{Clusters, name_of, of_host};
use super::drain::concerned;
use super::join::{OtherHostArgs, TargetArgs};
use super::show::count;

mod node;
mod there;

use there::remove_namespace;

/// How long Longshore may take to let go of an empty node.
const LETS_GO: Duration = Duration::from_secs(40);

/// The flags of `leave`.
#[derive(Args)]
pub struct LeaveArgs {
    /// The name of the Target
    name: String,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    host: OtherHostArgs,
    /// What becomes of the pods that run there
    #[arg(long, value_enum, default_value_t = Pods::Drain)]
    pods: Pods,
    /// The target is gone for good: nothing waits for it, and its pods are removed from the host by force
    #[arg(long, conflicts_with = "target_kubeconfig")]
    lost: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// How many seconds its pods may take to go
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

/// What becomes of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pods {
    /// They are evicted as their disruption budgets allow, and their controllers make others elsewhere.
    Drain,
    /// They are deleted at once.
    Delete,
    /// They run on in the target, and nobody looks after them.
    Abandon,
}

/// Why a target has not left, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// A request failed.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Its kubeconfig is bad.
    #[error("failed to configure the target; correct --kubeconfig or --context")]
    ConfigureTarget(#[source] clients::ClientsError),
    /// There is no such Target.
    #[error("failed to find the Target {name} in the host{known}")]
    Find {
        /// The name.
        name: String,
        /// Those that there are, as half a sentence.
        known: String,
    },
    /// Its pods cannot be stopped.
    #[error(
        "failed to reach the target, so that its {} cannot be stopped: {reason}. Leave when it is back; or give --lost \
         if it is gone for good, or --pods abandon to let them run on",
        count(*pods, "pod")
    )]
    Dead {
        /// So many.
        pods: usize,
        /// Why.
        reason: String,
    },
    /// Nobody could be asked.
    #[error("failed to ask whether to go ahead, as this is no terminal; give --yes, or --dry-run to look only")]
    Nobody,
    /// Somebody said no.
    #[error("nothing was done")]
    Declined,
    /// It takes too long.
    #[error(
        "failed to empty the target within {seconds} s: {} left, such as {first}; it stays cordoned. Leave again, with \
         a longer --timeout or with --pods delete, or `longshore uncordon` it",
        count(*pods, "pod")
    )]
    Timeout {
        /// `--timeout`.
        seconds: u64,
        /// So many.
        pods: usize,
        /// One of them.
        first: String,
    },
    /// Something could not be removed.
    #[error("left, but {} left over, as said above", count(*.0, "thing"))]
    Left(usize),
}

impl LeaveError {
    /// The exit code.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::ConfigureTarget(_) | Self::Find { .. } | Self::Nobody => 2,
            Self::Timeout { .. } | Self::Left(_) => 3,
            Self::Declined => 4,
            Self::Ask(_) | Self::Dead { .. } => 1,
        }
    }
}

/// Everything that is known before anything is done.
struct Leave<'a> {
    args: &'a LeaveArgs,
    host: Client,
    host_id: String,
    /// The Target, if it is still there.
    target: Option<Value>,
    spec: Option<TargetSpec>,
    /// VirtualNodes that join made for it.
    ours: Vec<Value>,
    /// Other VirtualNodes that name it.
    others: Vec<String>,
    leaving: Vec<Leaving>,
    pods: Vec<PartialObjectMeta<Pod>>,
    /// With Longshore's own rights, or why not.
    worker: Result<Client, String>,
    /// With those of whoever leaves.
    admin: Option<Client>,
    /// Namespaces of the target that have something of its nodes.
    used: BTreeSet<String>,
}

pub(super) async fn leave(args: &LeaveArgs) -> Result<(), CliError> {
    let leave = look(args).await?;
    print!("{}", leave.told());
    if args.dry_run {
        return Ok(());
    }
    match consent(args.yes) {
        Consent::Given => {}
        Consent::Refused => return Err(LeaveError::Declined.into()),
        Consent::Nobody => return Err(LeaveError::Nobody.into()),
    }
    let left = leave.carry_out().await?;
    if left.is_empty() {
        println!("Target {} has left, and nothing of it is left", args.name);
        return Ok(());
    }
    for one in &left {
        println!("left: {one}");
    }
    Err(LeaveError::Left(left.len()).into())
}

async fn look(args: &LeaveArgs) -> Result<Leave<'_>, CliError> {
    let progress = Progress::start("looking at both clusters");
    let access = args.host.args().load().await?;
    let host = clients::client(&access).await.map_err(CliError::ConfigureHost)?;
    let Clusters { configuration, targets, resources, .. } = of_host(access, &host).await?;
    let host_id = super::host_id(&host).await?;
    let resources = resources.unwrap_or_default();
    let target = resources.targets.iter().find(|target| name_of(target) == args.name).cloned();
    let admin = match args.target.load().await.map_err(LeaveError::ConfigureTarget)? {
        Some(access) => Some(clients::client(&access).await.map_err(LeaveError::ConfigureTarget)?),
        None => None,
    };
    if target.is_none() && admin.is_none() {
        let known: Vec<_> = resources.targets.iter().map(name_of).collect();
        let known = if known.is_empty() { ", which has none".into() } else { format!("; it has {}", known.join(", ")) };
        return Err(LeaveError::Find { name: args.name.clone(), known }.into());
    }
    let index = configuration.targets.iter().position(|target| target.name == args.name);
    let worker = match index.map(|index| &targets[index]) {
        Some(Ok(access)) => clients::client(access).await.map_err(|error| chain(&error)),
        Some(Err(reason)) => Err(reason.clone()),
        None => Err("there is no Target that says how to reach it".into()),
    };
    let names_it = |node: &&Value| {
        node["spec"]["targets"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == args.name.as_str()))
    };
    let (ours, others): (Vec<&Value>, Vec<&Value>) = resources
        .nodes
        .iter()
        .filter(names_it)
        .partition(|node| node["metadata"]["labels"][JOINED] == args.name.as_str());
    let nodes: Vec<_> = configuration.nodes.iter().map(|node| (node.name.clone(), node.spec.clone())).collect();
    let mut leave = Leave {
        args,
        host,
        host_id,
        target,
        spec: index.map(|index| configuration.targets[index].spec.clone()),
        ours: ours.into_iter().cloned().collect(),
        others: others.into_iter().map(|node| name_of(node).to_owned()).collect(),
        leaving: concerned(&args.name, &nodes),
        pods: vec![],
        worker,
        admin,
        used: BTreeSet::new(),
    };
    leave.pods = leave.pods_now().await?;
    progress.say("looking at the target");
    if args.lost {
        leave.worker = Err("it is said to be lost".into());
    } else if let Ok(worker) = &leave.worker
        && let Err(error) = ask("reach the target", worker.apiserver_version()).await
    {
        let address = index.and_then(|index| targets[index].as_ref().ok()).map(|access| clients::address(access));
        leave.worker = Err(error.of(&address.unwrap_or_default()));
    }
    if let (Some(reason), false) = (leave.worker.as_ref().err(), args.lost)
        && args.pods != Pods::Abandon
        && leave.target.is_some()
        && !leave.pods.is_empty()
    {
        return Err(LeaveError::Dead { pods: leave.pods.len(), reason: reason.clone() }.into());
    }
    if let Ok(found) = leave.things(true).await {
        leave.used = found.iter().map(|thing| thing.namespace.clone()).collect();
    }
    Ok(leave)
}

impl Leave<'_> {
    /// The best rights that there are in the target.
    fn there(&self) -> Result<&Client, String> {
        self.admin.as_ref().map_or_else(|| self.worker.as_ref().map_err(Clone::clone), Ok)
    }

    /// The nodes that go. What is there because of a shared one may be there for others too, and its keeper lets go of it.
    fn nodes(&self) -> BTreeSet<&str> {
        self.leaving.iter().filter(|one| one.whole).map(|one| one.node.as_str()).collect()
    }

    async fn node_names(&self) -> Result<Vec<(Leaving, String)>, AskError> {
        let mut all = vec![];
        for one in &self.leaving {
            let names = if one.parts {
                ask("list the nodes of parts", drain::parts_of(&self.host, &one.node)).await?
            } else {
                vec![one.node.clone()]
            };
            all.extend(names.into_iter().map(|name| (one.clone(), name)));
        }
        Ok(all)
    }

    /// The pods of the host that are, or will be, in the target.
    async fn pods_now(&self) -> Result<Vec<PartialObjectMeta<Pod>>, AskError> {
        let mut all = vec![];
        for (leaving, node) in self.node_names().await? {
            let pods = ask(format!("list the pods of node {node}"), drain::bound(&self.host, &node)).await?;
            all.extend(pods.into_iter().filter(|pod| leaving.concerns(pod)));
        }
        Ok(all)
    }

    /// The plan, as a person reads it.
    fn told(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let mut say = |line: String| _ = writeln!(text, "  {line}");
        let pods = self.pods.len();
        let what = match (self.args.lost, self.args.pods) {
            (true, _) => "remove {} from the host by force; what runs in the target is not known",
            (_, Pods::Drain) => "close the target to new pods, and evict {}, as disruption budgets allow",
            (_, Pods::Delete) => "close the target to new pods, and delete {}",
            (_, Pods::Abandon) => "leave {} running in the target, with nobody to look after; the node turns NotReady",
        };
        if pods > 0 {
            say(what.replace("{}", &count(pods, "pod")));
        }
        if self.target.is_some() {
            say(format!("delete Target {} in the host, with its Secret if `longshore join` made it", self.args.name));
        }
        for node in &self.ours {
            say(format!("delete VirtualNode {} in the host", name_of(node)));
        }
        if !self.used.is_empty() && self.stops() {
            say("remove copies and empty namespaces that Longshore made for these pods in the target".into());
        }
        if self.admin.is_some() {
            say("remove Longshore's account, token and roles in the target".into());
        }
        for node in &self.others {
            say(format!("keep VirtualNode {node}, which names the target: it was not made by `longshore join`"));
        }
        format!("To let Target {} go:\n{text}", self.args.name)
    }

    /// Whether nothing runs there afterwards.
    fn stops(&self) -> bool {
        !self.args.lost && self.args.pods != Pods::Abandon
    }

    /// Does it; answers what is left, each with what to do.
    async fn carry_out(&self) -> Result<Vec<String>, LeaveError> {
        let progress = Progress::start("letting go");
        let mut left = vec![];
        if self.target.is_some() {
            if self.stops() {
                self.empty(&progress).await?;
            }
            self.undeclare(&progress, &mut left).await?;
        }
        progress.say("cleaning up in the target");
        if self.stops() {
            self.clean(&mut left).await;
        } else if self.args.lost {
            left.push("whatever is in the target, which was not looked at; if it comes back, run `longshore leave` again with --kubeconfig, and stop its pods by hand".into());
        } else if !self.pods.is_empty() {
            left.push(format!("{} in the target, with what it needs", count(self.pods.len(), "running pod")));
        }
        self.remove_account(&mut left).await;
        left.extend(self.others.iter().map(|node| {
            format!("VirtualNode {node} names the target; take it out of its spec.targets, or `kubectl delete virtualnode {node}`")
        }));
        Ok(left)
    }

    /// Evicts or deletes pods until none is left.
    async fn empty(&self, progress: &Progress) -> Result<(), LeaveError> {
        self.patch_target(&json!({"spec": {"cordoned": true}})).await?;
        for (_, node) in self.node_names().await?.iter().filter(|(leaving, _)| leaving.whole) {
            ask(format!("cordon the node {node}"), drain::cordon(&self.host, node, true)).await?;
        }
        let begun = Instant::now();
        loop {
            let pods = self.pods_now().await?;
            let Some(first) = pods.first() else { return Ok(()) };
            let first = format!("{}/{}", first.namespace().unwrap_or_default(), first.name_any());
            progress.say(format!("{} left, such as {first}", count(pods.len(), "pod")));
            if begun.elapsed() > Duration::from_secs(self.args.timeout) {
                return Err(LeaveError::Timeout { seconds: self.args.timeout, pods: pods.len(), first });
            }
            if self.args.pods == Pods::Delete {
                let running: Vec<_> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
                for pod in running {
                    self.delete_pod(pod, &DeleteParams::default()).await?;
                }
            } else {
                ask("evict pods", drain::evict(&self.host, &pods)).await?;
            }
            sleep(ROUND).await;
        }
    }

    async fn delete_pod(&self, pod: &PartialObjectMeta<Pod>, params: &DeleteParams) -> Result<(), AskError> {
        let api: Api<Pod> = Api::namespaced(self.host.clone(), &pod.namespace().unwrap_or_default());
        let params = DeleteParams { preconditions: Some(this(pod.uid())), ..params.clone() };
        let what = format!("delete the pod {}", pod.name_any());
        of_these(ask_opt(what, api.delete(&pod.name_any(), &params)).await)
    }

    async fn patch_target(&self, patch: &Value) -> Result<(), AskError> {
        let Some(target) = &self.target else { return Ok(()) };
        let api = api_of(&self.host, target);
        let what = format!("change Target {}", self.args.name);
        ask_opt(what, api.patch(&self.args.name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
    }

    /// Removes what is declared, waits until Longshore has let go of the nodes, and removes the Secret.
    async fn undeclare(&self, progress: &Progress, left: &mut Vec<String>) -> Result<(), LeaveError> {
        let policy = if self.stops() { "Drain" } else { "Abandon" };
        self.patch_target(&json!({"spec": {"deletionPolicy": policy}})).await?;
        for object in self.ours.iter().chain(&self.target) {
            let what = format!("delete {}", super::ask::title(object));
            ask_opt(what, api_of(&self.host, object).delete(name_of(object), &DeleteParams::default())).await?;
        }
        if self.args.lost {
            for pod in self.pods_now().await? {
                self.delete_pod(&pod, &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() })
                    .await?;
            }
        }
        progress.say("waiting for the node to go");
        let ours: BTreeSet<&str> = self.ours.iter().map(name_of).collect();
        let implied = self.ours.is_empty() && self.others.is_empty();
        for (leaving, node) in self.node_names().await? {
            if leaving.whole && (implied || ours.contains(leaving.node.as_str())) {
                let patience = if self.args.pods == Pods::Abandon { Duration::ZERO } else { LETS_GO };
                left.extend(node::remove(&self.host, &node, patience).await?);
            }
        }
        let Some((namespace, name, _)) =
            self.spec.as_ref().and_then(|spec| super::clusters::secret_of(&spec.kubeconfig))
        else {
            return Ok(());
        };
        let secrets: Api<Secret> = Api::namespaced(self.host.clone(), &namespace);
        let what = format!("look at the Secret {namespace}/{name}");
        if let Some(found) = ask_opt(what, secrets.get_metadata(&name)).await? {
            if found.labels().get(JOINED) == Some(&self.args.name) {
                let what = format!("delete the Secret {namespace}/{name}");
                of_these(ask_opt(what, secrets.delete(&name, &only(found.uid()))).await)?;
            } else {
                left.push(format!(
                    "Secret {namespace}/{name} of the host, which was not made by `longshore join`; `kubectl -n {namespace} delete secret {name}`"
                ));
            }
        }
        remove_namespace(&self.host, &namespace).await;
        Ok(())
    }
}

/// What has gone needs no deletion, whether another has its name by now or none.
fn of_these<T>(deleted: Result<Option<T>, AskError>) -> Result<(), AskError> {
    match deleted {
        Err(error) if error.code() == Some(409) => Ok(()),
        other => other.map(drop),
    }
}
