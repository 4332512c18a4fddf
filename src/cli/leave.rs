//! `longshore leave`: a target goes, with all that `longshore join` has made on either side.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams, Preconditions,
};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::api::clients;
use crate::api::target::TargetSpec;
use crate::errors::chain;
use crate::provider::follow::names::EVERYWHERE;
use crate::provider::names;
use crate::provider::names::{JOINED, JOINED_TO};
use crate::provider::reach::Reach;
use crate::provider::target::marker;
use crate::run::drain::{self, Leaving};
use crate::run::rules::reach;

use super::CliError;
use super::ask::{AskError, Consent, Progress, ROUND, api_of, ask, ask_opt, consent};
use super::clusters::{Clusters, name_of, of_host};
use super::drain::concerned;
use super::join::{OtherHostArgs, TargetArgs};

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
        "failed to reach the target, so that its {pods} pods cannot be stopped: {reason}. Leave when it is back; or give --lost \
         if it is gone for good, or --pods abandon to let them run on"
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
        "failed to empty the target within {seconds} s: {pods} pods are left, such as {first}; it stays cordoned. Leave again, with \
         a longer --timeout or with --pods delete, or `longshore uncordon` it"
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
    #[error("left, but {0} things are left over, as said above")]
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
    } else if let Ok(worker) = &leave.worker {
        if let Err(error) = ask("reach the target", worker.apiserver_version()).await {
            let address = index.and_then(|index| targets[index].as_ref().ok()).map(|access| clients::address(access));
            leave.worker = Err(error.of(&address.unwrap_or_default()));
        }
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

/// Something of ours in the target.
struct Thing {
    kind: &'static str,
    namespace: String,
    name: String,
    uid: Option<String>,
}

impl Leave<'_> {
    /// The best rights that there are in the target.
    fn there(&self) -> Result<&Client, String> {
        self.admin.as_ref().map_or_else(|| self.worker.as_ref().map_err(Clone::clone), Ok)
    }

    fn nodes(&self) -> BTreeSet<&str> {
        self.leaving.iter().map(|one| one.node.as_str()).collect()
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
        let mut say = |line: String| text += &format!("  {line}\n");
        let pods = self.pods.len();
        match (self.args.lost, self.args.pods) {
            _ if pods == 0 => {}
            (true, _) => {
                say(format!("remove {pods} pods from the host by force; what runs in the target is not known"))
            }
            (_, Pods::Drain) => {
                say(format!("cordon the target and evict {pods} pods, as their disruption budgets allow"))
            }
            (_, Pods::Delete) => say(format!("cordon the target and delete {pods} pods")),
            (_, Pods::Abandon) => {
                say(format!("leave {pods} pods as they are: their delegates run on, their node turns NotReady"))
            }
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
            left.push(format!("{} pods that run on in the target, with what they need", self.pods.len()));
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
            progress.say(format!("{} pods are left, such as {first}", pods.len()));
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
        let this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let params = DeleteParams { preconditions: Some(this), ..params.clone() };
        let what = format!("delete the pod {}", pod.name_any());
        match ask_opt(what, api.delete(&pod.name_any(), &params)).await {
            // A namesake: this one has gone.
            Err(error) if error.code() == Some(409) => Ok(()),
            other => other.map(drop),
        }
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
                self.remove_node(&node, left).await?;
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
                ask_opt(what, secrets.delete(&name, &DeleteParams::default())).await?;
            } else {
                left.push(format!(
                    "Secret {namespace}/{name} of the host, which was not made by `longshore join`; `kubectl -n {namespace} delete secret {name}`"
                ));
            }
        }
        remove_namespace(&self.host, &namespace).await;
        Ok(())
    }

    /// Longshore deletes the node of what is not declared any more; where nobody keeps it, it is deleted here.
    async fn remove_node(&self, node: &str, left: &mut Vec<String>) -> Result<(), LeaveError> {
        let nodes: Api<Node> = Api::all(self.host.clone());
        let begun = Instant::now();
        while begun.elapsed() < LETS_GO && self.stops() {
            if ask_opt(format!("look at the node {node}"), nodes.get_metadata(node)).await?.is_none() {
                return Ok(());
            }
            sleep(ROUND).await;
        }
        let pods = ask(format!("list the pods of node {node}"), drain::bound(&self.host, node)).await?;
        if !pods.is_empty() {
            left.push(format!(
                "node {node} of the host, with {} pods; `kubectl delete node {node}` removes them",
                pods.len()
            ));
            return Ok(());
        }
        ask_opt(format!("delete the node {node}"), nodes.delete(node, &DeleteParams::default())).await?;
        Ok(())
    }

    /// All that is ours in the target because of these nodes; with `all` pods too.
    async fn things(&self, all: bool) -> Result<Vec<Thing>, String> {
        let (client, reach) = (self.there()?, self.spec.as_ref().map(reach).unwrap_or_default());
        let mut things = vec![];
        if all {
            things.extend(self.list::<Pod>("pod", client, &reach).await?);
        }
        things.extend(self.list::<ConfigMap>("configmap", client, &reach).await?);
        things.extend(self.list::<Secret>("secret", client, &reach).await?);
        things.extend(self.list::<Service>("service", client, &reach).await?);
        things.extend(self.list::<Ingress>("ingress", client, &reach).await?);
        Ok(things)
    }

    async fn list<K>(&self, kind: &'static str, client: &Client, reach: &Reach) -> Result<Vec<Thing>, String>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let nodes = self.nodes();
        let params = ListParams::default().labels(&format!("{}={}", names::HOST, self.host_id));
        let mut things = vec![];
        for api in reach.apis::<K>(client) {
            let list = match ask(format!("list every {kind} of Longshore"), api.list_metadata(&params)).await {
                Ok(list) => list,
                // Who may not read them has made none.
                Err(error) if error.code() == Some(403) => continue,
                Err(error) => return Err(chain(&error)),
            };
            let found = list.items.into_iter().filter(|found| belongs(found.labels(), &nodes));
            things.extend(found.map(|found| Thing {
                kind,
                namespace: found.namespace().unwrap_or_default(),
                name: found.name_any(),
                uid: found.uid(),
            }));
        }
        Ok(things)
    }

    /// Removes what is left of the nodes in the target: delegates whose proxies have gone, copies, and empty namespaces.
    async fn clean(&self, left: &mut Vec<String>) {
        // Of a node that is shared, or has pods, delegates are somebody else's business.
        let alone = self.leaving.iter().all(|one| one.whole);
        let none_at_home = matches!(self.pods_now().await, Ok(pods) if pods.is_empty());
        let things = match self.things(alone && none_at_home).await {
            Ok(things) => things,
            Err(reason) => {
                left.push(format!("what Longshore has made in the target, which cannot be read: {reason}"));
                return;
            }
        };
        let Ok(client) = self.there() else { return };
        for thing in things {
            let object = json!({"apiVersion": if thing.kind == "ingress" { "networking.k8s.io/v1" } else { "v1" },
                "kind": match thing.kind { "pod" => "Pod", "configmap" => "ConfigMap", "secret" => "Secret", "service" => "Service", _ => "Ingress" },
                "metadata": {"name": thing.name, "namespace": thing.namespace}});
            let this = Preconditions { uid: thing.uid.clone(), ..Preconditions::default() };
            let params = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
            let what = format!("delete {}", super::ask::title(&object));
            if let Err(error) = ask_opt(what, api_of(client, &object).delete(&thing.name, &params)).await {
                left.push(chain(&error));
            }
        }
        for namespace in &self.used {
            self.clean_namespace(client, namespace, left).await;
        }
    }

    /// Removes what marks a namespace as used by this host, and the namespace where Longshore made it and nothing else is in it.
    async fn clean_namespace(&self, client: &Client, namespace: &str, left: &mut Vec<String>) {
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let delegates = ListParams::default().labels(&format!("{}={}", names::HOST, self.host_id));
        match ask("list delegates", pods.list_metadata(&delegates)).await {
            Ok(list) if list.items.is_empty() => {}
            // Those of other targets of this host.
            _ => return,
        }
        let markers: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        _ = ask_opt("delete the marker", markers.delete(&marker(&self.host_id), &DeleteParams::default())).await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let found = ask_opt("look at the namespace", namespaces.get_metadata(namespace)).await;
        let Ok(Some(found)) = found else { return };
        if found.labels().get(names::HOST) != Some(&self.host_id) || !is_empty(client, namespace).await {
            return;
        }
        let what = format!("delete the namespace {namespace}");
        if let Err(error) = ask_opt(what, namespaces.delete(namespace, &DeleteParams::default())).await {
            let command = format!("`kubectl delete namespace {namespace}` there, or give --kubeconfig");
            left.push(format!(
                "namespace {namespace} of the target, which Longshore made ({}); {command}",
                chain(&error)
            ));
        }
    }

    /// Removes the account, its token and its roles.
    async fn remove_account(&self, left: &mut Vec<String>) {
        let Some(admin) = &self.admin else {
            if self.target.is_some() && !self.args.lost {
                left.push(format!(
                    "Longshore's account and roles in the target, if `longshore join` made them; `longshore leave {} --kubeconfig FILE` removes them",
                    self.args.name
                ));
            }
            return;
        };
        let selector = format!("{JOINED}={},{JOINED_TO}={}", self.args.name, self.host_id);
        let within: Vec<String> = self.spec.iter().flat_map(|spec| spec.namespaces.names.clone()).collect();
        let mut homes = BTreeSet::new();
        // Bindings first: an account without them can do nothing, whatever fails afterwards.
        for kind in [
            ApiResource::erase::<RoleBinding>(&()),
            ApiResource::erase::<ClusterRoleBinding>(&()),
            ApiResource::erase::<Role>(&()),
            ApiResource::erase::<ClusterRole>(&()),
            ApiResource::erase::<Secret>(&()),
            ApiResource::erase::<ServiceAccount>(&()),
        ] {
            remove_all(admin, &kind, &selector, &within, &mut homes, left).await;
        }
        for namespace in homes {
            remove_namespace(admin, &namespace).await;
        }
    }
}

/// Whether something in a target is there because of these nodes and no other.
fn belongs(labels: &std::collections::BTreeMap<String, String>, nodes: &BTreeSet<&str>) -> bool {
    let needed_by: Vec<&str> = labels.keys().filter_map(|key| key.strip_prefix(names::NEEDED_BY)).collect();
    match labels.get(names::NODE) {
        Some(node) => nodes.contains(node.as_str()),
        None => !needed_by.is_empty() && needed_by.iter().all(|node| nodes.contains(node)),
    }
}

/// Whether nobody has anything in a namespace but what every namespace has.
async fn is_empty(client: &Client, namespace: &str) -> bool {
    async fn none<K>(client: &Client, namespace: &str, counts: fn(&str) -> bool) -> bool
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(client.clone(), namespace);
        let list = ask("look into the namespace", api.list_metadata(&ListParams::default())).await;
        list.is_ok_and(|list| !list.items.iter().any(|found| counts(&found.name_any())))
    }
    none::<Pod>(client, namespace, |_| true).await
        && none::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(client, namespace, |_| true).await
        && none::<Service>(client, namespace, |_| true).await
        && none::<Secret>(client, namespace, |_| true).await
        && none::<ConfigMap>(client, namespace, |name| !EVERYWHERE.contains(&name)).await
        && none::<ServiceAccount>(client, namespace, |name| name != "default").await
}

/// Removes a namespace that `longshore join` made, once it is empty.
async fn remove_namespace(client: &Client, namespace: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = ask_opt("look at the namespace", namespaces.get_metadata(namespace)).await;
    let made = matches!(found, Ok(Some(found)) if found.labels().contains_key(JOINED));
    if made && is_empty(client, namespace).await {
        _ = ask_opt("delete the namespace", namespaces.delete(namespace, &DeleteParams::default())).await;
    }
}

/// Removes all with these labels: everywhere, or in these namespaces where that is all that may be read.
async fn remove_all(
    client: &Client,
    kind: &ApiResource,
    selector: &str,
    within: &[String],
    homes: &mut BTreeSet<String>,
    left: &mut Vec<String>,
) {
    let params = ListParams::default().labels(selector);
    let what = || format!("list every {} of the account", kind.kind);
    let everywhere: Api<DynamicObject> = Api::all_with(client.clone(), kind);
    let mut found = vec![];
    match ask(what(), everywhere.list_metadata(&params)).await {
        Ok(list) => found.extend(list.items),
        Err(error) if error.code() == Some(403) && !within.is_empty() => {
            if kind.kind.starts_with("Cluster") {
                // Who may not read them has made none.
                return;
            }
            for namespace in within {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, kind);
                match ask(what(), api.list_metadata(&params)).await {
                    Ok(list) => found.extend(list.items),
                    Err(error) => left.push(format!("{} of the target, in namespace {namespace}", chain(&error))),
                }
            }
        }
        Err(error) => left.push(format!("{} of the target; remove those with the labels {selector}", chain(&error))),
    }
    for one in found {
        let mut object =
            json!({"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": one.name_any()}});
        if let Some(namespace) = one.namespace() {
            object["metadata"]["namespace"] = namespace.as_str().into();
            if kind.kind == "ServiceAccount" {
                homes.insert(namespace);
            }
        }
        let what = format!("delete {}", super::ask::title(&object));
        if let Err(error) =
            ask_opt(what, api_of(client, &object).delete(&one.name_any(), &DeleteParams::default())).await
        {
            left.push(chain(&error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_too_does_not_belong_to_the_nodes_that_go() {
        let nodes = BTreeSet::from(["east"]);
        let labels =
            |all: &[(&str, &str)]| all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert!(belongs(&labels(&[(names::NODE, "east")]), &nodes));
        assert!(!belongs(&labels(&[(names::NODE, "west")]), &nodes));
        assert!(belongs(&labels(&[("node.longshore.dev/east", "")]), &nodes));
        assert!(!belongs(&labels(&[("node.longshore.dev/east", ""), ("node.longshore.dev/west", "")]), &nodes));
        assert!(!belongs(&labels(&[]), &nodes));
    }
}
