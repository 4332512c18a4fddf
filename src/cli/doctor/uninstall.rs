//! `longshore uninstall`: takes Longshore away in order. Targets and virtual nodes are removed while it runs, so that it empties
//! its nodes as it always does; then it is stopped, and what is left over goes. What a file declares nobody can remove while it
//! is served: its nodes are emptied from here. A target that does not answer holds nothing up: what waits for it is given up
//! after a while, and that is said.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::TypeMeta;
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{ABANDONED, DoctorArgs, Output, gone, leadership, look, remove, within};
use crate::api::clients;
use crate::api::configuration::{self, Configuration};
use crate::api::profile::{Programs, ProgramsError};
use crate::api::resource;
use crate::api::target::{DeletionPolicy, Target, TargetSpec};
use crate::api::virtual_node::VirtualNode;
use crate::cli::{CliError, Clusters, ConfigurationArgs};
use crate::errors::chain;
use crate::leftovers::{Finding, findings};
use crate::only::only;
use crate::run::drain::{self, WHOLE};

/// How often it looks what is left.
const PAUSE: Duration = Duration::from_secs(1);

/// Where leases are unless somebody says otherwise, and so those of several Longshores.
const SHARED_NAMESPACE: &str = "kube-node-lease";

/// How often leftovers are looked for: namespaces can go when what was in them has gone.
const ROUNDS: u32 = 5;

/// The flags of `uninstall`.
#[derive(Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Which Targets and VirtualNodes to remove: a label selector [default: all]
    #[arg(
        long,
        value_name = "LABELS",
        default_value = "",
        conflicts_with = "provider_config",
        hide_default_value = true
    )]
    selector: String,
    /// The file with the programs that may get credentials for ClusterProfiles, as `longshore run` has it [default: none may]
    #[arg(long, value_name = "FILE", conflicts_with = "provider_config")]
    clusterprofile_provider_file: Option<PathBuf>,
    /// The Deployment that runs Longshore, in the namespace of the leases, to be stopped once the nodes are empty [default:
    /// somebody else stops it]
    #[arg(long, value_name = "NAME")]
    deployment: Option<String>,
    /// How many seconds pods may take to go; those that wait for a target that does not answer are given up then
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    patience: u32,
    /// The namespace of the leases by which replicas share the virtual nodes
    #[arg(long, value_name = "NAMESPACE", default_value = SHARED_NAMESPACE)]
    lease_namespace: String,
}

/// Why Longshore could not be taken away.
#[derive(Debug, thiserror::Error)]
pub enum UninstallError {
    /// The programs for ClusterProfiles are not named as they have to be.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The host is needed for everything.
    #[error("failed to {what} in the host: {reason}")]
    UseHost {
        /// What was tried.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// Pods are protected by disruption budgets, or take too long.
    #[error(
        "failed to empty the virtual nodes within {patience} s: {pods} pods could not be evicted, such as {example}; nothing \
         else was stopped. Delete them or relax their PodDisruptionBudgets, and try again"
    )]
    Empty {
        /// How long was waited, in seconds.
        patience: u32,
        /// How many are left.
        pods: usize,
        /// One of them.
        example: String,
    },
    /// Somebody goes on keeping the nodes.
    #[error("failed to see Longshore stop: {node} is still kept; stop it, and try again")]
    Stop {
        /// One of its nodes.
        node: String,
    },
}

/// What is declared in the host, or in a file.
struct Declared {
    /// What Longshore will see go: nothing of a file.
    objects: Vec<DynamicObject>,
    /// The names that its nodes may have.
    nodes: BTreeSet<String>,
    configuration: Configuration,
    targets: Vec<Result<Client, String>>,
}

pub(in crate::cli) async fn uninstall(args: UninstallArgs) -> Result<(), CliError> {
    let access = args.configuration.host.load().await?;
    let host = clients::client(&access).await.map_err(CliError::ConfigureHost)?;
    let declared = read(&args, &host).await?;
    withdraw(&host, &declared.objects).await?;
    empty(&args, &host, &declared).await?;
    stop(&args, &host, &declared.nodes).await?;
    give_up(&host, &declared.nodes).await?;
    let Declared { configuration, targets, nodes, .. } = declared;
    let clusters = Clusters { configuration, host: access, targets: vec![], resources: None };
    let doctor = DoctorArgs {
        configuration: args.configuration,
        fix: true,
        uninstall: true,
        lost_target: vec![],
        output: Output::Text,
        lease_namespace: args.lease_namespace,
        nodes: Some(nodes),
    };
    tidy(doctor, &clusters, &host, &targets).await
}

fn trouble(what: &'static str) -> impl Fn(String) -> CliError {
    move |reason| UninstallError::UseHost { what, reason }.into()
}

async fn list(args: &UninstallArgs, host: &Client, kind: ApiResource) -> Result<Vec<DynamicObject>, String> {
    let api: Api<DynamicObject> = Api::all_with(host.clone(), &kind);
    let listed = match within(api.list(&ListParams::default().labels(&args.selector))).await {
        // Without the definition there is none.
        Err(error) if error.contains("NotFound") || error.contains("not found") => return Ok(vec![]),
        listed => listed?,
    };
    let types = Some(TypeMeta { api_version: kind.api_version, kind: kind.kind });
    Ok(listed.items.into_iter().map(|object| DynamicObject { types: types.clone(), ..object }).collect())
}

/// Everything that is needed of Targets, while they are there.
async fn read(args: &UninstallArgs, host: &Client) -> Result<Declared, CliError> {
    let programs = args.clusterprofile_provider_file.as_deref().map(Programs::read).transpose();
    let programs = programs.map_err(UninstallError::Programs)?.unwrap_or_default();
    let (objects, configuration) = match &args.configuration.provider_config {
        Some(file) => (vec![], configuration::load(file)?),
        None => declared(args, host).await?,
    };
    let mut nodes: BTreeSet<_> = objects.iter().map(ResourceExt::name_any).collect();
    nodes.extend(configuration.nodes.iter().map(|node| node.name.clone()));
    nodes.extend(kept(args, host).await?);
    let all: Api<Node> = Api::all(host.clone());
    let all =
        within(all.list_metadata(&ListParams::default().labels(WHOLE))).await.map_err(trouble("list the nodes"))?;
    let parts = all.items.iter().filter(|node| node.labels().get(WHOLE).is_some_and(|whole| nodes.contains(whole)));
    let parts: Vec<_> = parts.map(ResourceExt::name_any).collect();
    nodes.extend(parts);
    let clients = configuration.targets.iter().map(|target| connect(args, host, &target.spec, &programs));
    // All at once: a program that gets credentials may take its time.
    let targets = futures::future::join_all(clients).await;
    Ok(Declared { objects, nodes, configuration, targets })
}

/// What the host declares, as it is and as far as it can be used.
async fn declared(args: &UninstallArgs, host: &Client) -> Result<(Vec<DynamicObject>, Configuration), CliError> {
    let targets = list(args, host, ApiResource::erase::<Target>(&())).await.map_err(trouble("list the targets"))?;
    let nodes =
        list(args, host, ApiResource::erase::<VirtualNode>(&())).await.map_err(trouble("list the virtual nodes"))?;
    let usable = targets.iter().filter(|one| resource::target(&one.name_any(), &one.data["spec"]).is_ok());
    let document = |one: &DynamicObject| {
        json!({"apiVersion": crate::api::API_VERSION, "kind": "Target", "metadata": {"name": one.name_any()},
            "spec": one.data["spec"]})
        .to_string()
    };
    let documents: Vec<_> = usable.map(document).collect();
    let configuration = if documents.is_empty() {
        Configuration { targets: vec![], nodes: vec![] }
    } else {
        configuration::parse("targets of the host".as_ref(), &documents.join("\n---\n"))?
    };
    // A target first: without its virtual node it would get one of its own name.
    Ok((targets.into_iter().chain(nodes).collect(), configuration))
}

/// The nodes that replicas share by leases of a namespace of their own. After an attempt that was given up nothing else tells
/// which nodes these are; in the namespace of all nodes' leases they may be those of another Longshore.
async fn kept(args: &UninstallArgs, host: &Client) -> Result<Vec<String>, CliError> {
    if args.lease_namespace == SHARED_NAMESPACE {
        return Ok(vec![]);
    }
    let leases: Api<Lease> = Api::namespaced(host.clone(), &args.lease_namespace);
    let found = within(leases.list(&ListParams::default())).await.map_err(trouble("list the leases"))?;
    Ok(found.items.iter().filter_map(leadership).map(|(node, _)| node).collect())
}

async fn connect(
    args: &UninstallArgs,
    host: &Client,
    spec: &TargetSpec,
    programs: &Programs,
) -> Result<Client, String> {
    let context = spec.kubeconfig.context.as_deref();
    let access = match (&spec.kubeconfig.secret_ref, &spec.kubeconfig.file) {
        (Some(secret), _) => {
            let namespace = secret.namespace.as_deref().unwrap_or(&args.lease_namespace);
            let secrets: Api<Secret> = Api::namespaced(host.clone(), namespace);
            let found = within(secrets.get(&secret.name)).await?;
            let bytes = found.data.and_then(|mut data| data.remove(&secret.key));
            let bytes = bytes.ok_or_else(|| format!("its Secret has no key {}", secret.key))?;
            let text = String::from_utf8(bytes.0).map_err(|_| "its kubeconfig is no text".to_owned())?;
            let origin = format!("of the Secret {namespace}/{}", secret.name);
            clients::secret(&origin, &text, context).await
        }
        (None, Some(file)) => clients::target(file, context).await,
        (None, None) => {
            let profile = spec.kubeconfig.cluster_profile_ref.as_ref().ok_or("it has no kubeconfig")?;
            let (name, leases) = (&profile.name, &args.lease_namespace);
            let access = crate::cli::clusters::of_profile(host, name, profile, leases, programs).await?;
            return clients::client(&access).await.map_err(|error| chain(&error));
        }
    };
    clients::client(&access.map_err(|error| chain(&error))?).await.map_err(|error| chain(&error))
}

async fn withdraw(host: &Client, objects: &[DynamicObject]) -> Result<(), CliError> {
    for object in objects {
        let Some(types) = &object.types else { continue };
        let target = types.kind == "Target";
        let kind = if target { ApiResource::erase::<Target>(&()) } else { ApiResource::erase::<VirtualNode>(&()) };
        let api: Api<DynamicObject> = Api::all_with(host.clone(), &kind);
        gone(within(api.delete(&object.name_any(), &only(object.uid()))).await)
            .map_err(trouble("remove what is declared"))?;
        println!("removed: {} {}", types.kind, object.name_any());
    }
    Ok(())
}

/// What is left of the nodes.
struct Left {
    nodes: Vec<String>,
    pods: Vec<PartialObjectMeta<Pod>>,
}

/// Those of `names` that are nodes of Longshore, and their pods.
async fn left(host: &Client, names: &BTreeSet<String>) -> Result<Left, CliError> {
    let nodes: Api<Node> = Api::all(host.clone());
    let nodes = within(nodes.list(&ListParams::default())).await.map_err(trouble("list the nodes"))?;
    let ours = |node: &&Node| names.contains(&node.name_any()) && super::is_ours(node);
    let nodes: Vec<_> = nodes.items.iter().filter(ours).map(ResourceExt::name_any).collect();
    let mut pods = vec![];
    for node in &nodes {
        pods.extend(within(drain::bound(host, node)).await.map_err(trouble("list the pods"))?);
    }
    Ok(Left { nodes, pods })
}

/// Waits until the nodes are empty and have been removed, or the rest waits for a target that does not answer. Nobody removes
/// those of a file before Longshore has stopped, and nobody else evicts their pods.
async fn empty(args: &UninstallArgs, host: &Client, declared: &Declared) -> Result<(), CliError> {
    let abandoned =
        |target: &configuration::Declared<TargetSpec>| target.spec.deletion_policy == DeletionPolicy::Abandon;
    let abandoned = declared.configuration.targets.iter().any(abandoned);
    let of_file = args.configuration.provider_config.is_some();
    let end = Instant::now() + Duration::from_secs(args.patience.into());
    let mut shown = None;
    loop {
        let Left { nodes, pods } = left(host, &declared.nodes).await?;
        if nodes.is_empty() || (of_file && pods.is_empty()) {
            return Ok(());
        }
        if shown != Some(pods.len()) {
            println!("waiting for {} pods to leave the virtual nodes", pods.len());
            shown = Some(pods.len());
        }
        if of_file && !abandoned {
            for node in &nodes {
                within(drain::cordon(host, node, true)).await.map_err(trouble("cordon a node"))?;
            }
            drain::evict(host, &pods).await.map_err(|error| trouble("evict pods")(chain(&error)))?;
        }
        if Instant::now() < end {
            sleep(PAUSE).await;
            continue;
        }
        let mut staying = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let Some(example) = staying.next() else { return Ok(()) };
        if abandoned {
            println!("pods stay where they are, as the deletionPolicy of their target says");
            return Ok(());
        }
        let example = format!("{}/{}", example.namespace().unwrap_or_default(), example.name_any());
        let pods = 1 + staying.count();
        return Err(UninstallError::Empty { patience: args.patience, pods, example }.into());
    }
}

/// Stops Longshore, and waits until nobody keeps its nodes.
async fn stop(args: &UninstallArgs, host: &Client, names: &BTreeSet<String>) -> Result<(), CliError> {
    if let Some(name) = &args.deployment {
        let deployments: Api<Deployment> = Api::namespaced(host.clone(), &args.lease_namespace);
        let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let scaled = within(deployments.patch_scale(name, &PatchParams::default(), &none)).await;
        gone(scaled.map(drop)).map_err(trouble("stop Longshore"))?;
        println!("stopped: deployment {name}");
    }
    let leases: Api<Lease> = Api::namespaced(host.clone(), &args.lease_namespace);
    // One that was killed has its leases until they are old.
    let end = Instant::now() + Duration::from_secs(ABANDONED.unsigned_abs() + 30);
    loop {
        let found = within(leases.list(&ListParams::default())).await.map_err(trouble("list the leases"))?;
        let kept = |lease: &Lease| leadership(lease).filter(|(node, kept)| *kept && names.contains(node));
        let Some((node, _)) = found.items.iter().find_map(kept) else { return Ok(()) };
        if Instant::now() > end {
            return Err(UninstallError::Stop { node }.into());
        }
        sleep(PAUSE).await;
    }
}

/// Lets go of pods that were to go, and of whose delegates nobody knows.
async fn give_up(host: &Client, names: &BTreeSet<String>) -> Result<(), CliError> {
    for pod in left(host, names).await?.pods {
        if pod.metadata.deletion_timestamp.is_none() {
            continue;
        }
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let api: Api<Pod> = Api::namespaced(host.clone(), &namespace);
        gone(within(api.delete(&name, &only(pod.uid()).grace_period(0))).await.map(drop))
            .map_err(trouble("remove a pod"))?;
        println!("given up: pod {namespace}/{name}; what ran for it in its target may still run there");
    }
    Ok(())
}

/// Removes what is left over on both sides, and says what cannot be.
async fn tidy(
    mut doctor: DoctorArgs,
    clusters: &Clusters,
    host: &Client,
    targets: &[Result<Client, String>],
) -> Result<(), CliError> {
    let mut rest: Vec<Finding> = vec![];
    for round in 0..ROUNDS {
        let inventory = look(&doctor, clusters, host, targets).await?;
        for target in &inventory.targets {
            let Err(reason) = &target.objects else { continue };
            println!("{} does not answer: what is there stays there ({reason})", target.name);
            doctor.lost_target.push(target.name.clone());
        }
        let found = if round == 0 && !doctor.lost_target.is_empty() {
            findings(&look(&doctor, clusters, host, targets).await?)
        } else {
            findings(&inventory)
        };
        let fixes: Vec<_> = found.iter().filter_map(|finding| Some((finding, finding.fix.as_ref()?))).collect();
        let idle = fixes.is_empty();
        for (finding, fix) in fixes {
            match remove(&doctor, host, targets, fix).await {
                Ok(()) => println!("removed: {} in {}", finding.object, finding.place),
                Err(reason) => println!("not removed: {} in {}: {reason}", finding.object, finding.place),
            }
        }
        rest = found;
        if idle {
            break;
        }
        sleep(PAUSE).await;
    }
    for Finding { place, object, problem, remedy, .. } in &rest {
        println!("left: {object} in {place}\n  {problem}\n  {remedy}");
    }
    Ok(())
}
