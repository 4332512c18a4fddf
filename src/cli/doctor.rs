//! `longshore doctor`: what is left over on either side, and its removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
};
use k8s_openapi::api::networking::v1::Ingress;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::ObjectMeta;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::api::clients;
use crate::api::target::{Scope, TargetSpec};
use crate::errors::chain;
use crate::kubelet::node::status::REACHABLE;
use crate::kubelet::provider::HostKind;
use crate::leftovers::{
    self, Finding, Fix, Inventory, Kind, Object, Proxy, RemoteClaim, TargetInventory, Volume, findings,
};
use crate::only::only;
use crate::paging::{PAGE, next};
use crate::provider::claims::{DRIVER, FINALIZER};
use crate::provider::follow::names::{EVERYWHERE, Need};
use crate::provider::reach::Reach;
use crate::provider::target::marker;
use crate::provider::{follow, names};
use crate::run::drain::WHOLE;
use crate::run::rules::reach;

use super::{CliError, Clusters, ConfigurationArgs};

pub mod uninstall;

/// How long one cluster may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lease that nobody has renewed for this long is nobody's, whatever the clocks say.
const ABANDONED: i64 = 60;

/// The flags of `doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Remove what is certain to be left over
    #[arg(long)]
    fix: bool,
    /// Longshore is not to come back: its virtual nodes are left over too, and all that it has made in targets
    #[arg(long)]
    uninstall: bool,
    /// A target that is gone for good, so that nothing at home waits for it any more; may be repeated
    #[arg(long, value_name = "TARGET")]
    lost_target: Vec<String>,
    /// How to show what was found
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// The namespace of the leases by which replicas share the virtual nodes
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-node-lease")]
    lease_namespace: String,
    /// The nodes that may be left over, where that is known: others belong to another Longshore, whose leases are elsewhere.
    #[arg(skip)]
    nodes: Option<BTreeSet<String>>,
}

/// How findings are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A paragraph each.
    Text,
    /// One JSON document: a list.
    Json,
}

/// Why the doctor could not look.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The host is needed for every judgement.
    #[error("failed to read {what} of the host: {reason}")]
    ReadHost {
        /// What.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// There is no such target.
    #[error("failed to find target {0} in the configuration; correct --lost-target")]
    UnknownTarget(String),
    /// Something was found.
    #[error("{} left over; `longshore doctor --fix` removes those that are certain", left(*.0))]
    Found(usize),
    /// Not everything could be removed.
    #[error("failed to remove {0} of the things above")]
    Remove(usize),
}

fn left(number: usize) -> String {
    if number == 1 { "1 thing is".into() } else { format!("{number} things are") }
}

pub(super) async fn doctor(args: &DoctorArgs) -> Result<(), CliError> {
    let clusters = args.configuration.load().await?;
    let host = clients::client(&clusters.host).await.map_err(CliError::ConfigureHost)?;
    let known = |name: &String| clusters.configuration.targets.iter().any(|target| target.name == *name);
    if let Some(unknown) = args.lost_target.iter().find(|name| !known(name)) {
        return Err(DoctorError::UnknownTarget(unknown.clone()).into());
    }
    let targets = connect(&clusters).await;
    let found = findings(&look(args, &clusters, &host, &targets).await?);
    show(args.output, &found);
    if found.is_empty() {
        return Ok(());
    }
    if !args.fix {
        return Err(DoctorError::Found(found.len()).into());
    }
    let mut failed = 0;
    for finding in &found {
        let Some(fix) = &finding.fix else { continue };
        match remove(args, &host, &targets, fix).await {
            Ok(()) => eprintln!("removed: {} in {}", finding.object, finding.place),
            Err(reason) => {
                failed += 1;
                eprintln!("not removed: {} in {}: {reason}", finding.object, finding.place);
            }
        }
    }
    if failed > 0 { Err(DoctorError::Remove(failed).into()) } else { Ok(()) }
}

fn show(output: Output, found: &[Finding]) {
    match output {
        Output::Json => println!("{}", serde_json::json!(found)),
        Output::Text if found.is_empty() => println!("nothing is left over"),
        Output::Text => {
            for Finding { place, object, problem, remedy, .. } in found {
                println!("{place}: {object}\n  {problem}\n  {remedy}");
            }
        }
    }
}

/// A client for each target, or why there is none.
async fn connect(clusters: &Clusters) -> Vec<Result<Client, String>> {
    let clients = clusters.targets.iter().map(|access| async move {
        match access {
            Ok(access) => clients::client(access).await.map_err(|error| chain(&error)),
            Err(reason) => Err(reason.clone()),
        }
    });
    futures::future::join_all(clients).await
}

async fn look(
    args: &DoctorArgs,
    clusters: &Clusters,
    host: &Client,
    targets: &[Result<Client, String>],
) -> Result<Inventory, DoctorError> {
    let read = |what, reason| DoctorError::ReadHost { what, reason };
    let all: Api<Node> = Api::all(host.clone());
    let nodes = within(all.list(&ListParams::default())).await.map_err(|error| read("the nodes", error))?;
    let leases: Api<Lease> = Api::namespaced(host.clone(), &args.lease_namespace);
    let leases = within(leases.list(&ListParams::default())).await.map_err(|error| read("the leases", error))?;
    let leaderships: BTreeMap<_, _> = leases.items.iter().filter_map(leadership).collect();
    let nodes_of_configuration = clusters.configuration.nodes.iter().map(|node| node.name.clone());
    let mut configured: BTreeSet<_> = nodes_of_configuration.collect();
    // What cannot be used is declared all the same.
    let resources = clusters.resources.iter().flat_map(|all| all.nodes.iter().chain(&all.targets));
    configured.extend(resources.map(|resource| super::clusters::name_of(resource).to_owned()));
    // Those that stand for parts are as much configured as what they are parts of.
    let parts = nodes.items.iter().filter(|node| node.labels().get(WHOLE).is_some_and(|one| configured.contains(one)));
    let parts: Vec<_> = parts.map(ResourceExt::name_any).collect();
    configured.extend(parts);
    let is_foreign = |node: &str| args.nodes.as_ref().is_some_and(|nodes| !nodes.contains(node));
    let kept = |node: &str| leaderships.get(node) == Some(&true) || is_foreign(node);
    let found = |node: &Node| leftovers::Node { uid: node.uid().unwrap_or_default(), kept: kept(&node.name_any()) };
    let nodes: BTreeMap<_, _> =
        nodes.items.iter().filter(|node| is_ours(node)).map(|node| (node.name_any(), found(node))).collect();

    let mut proxies = BTreeMap::new();
    for node in nodes.keys().chain(&configured) {
        let pods: Api<Pod> = Api::all(host.clone());
        let list = within(pods.list_metadata(&ListParams::default().fields(&format!("spec.nodeName={node}")))).await;
        for pod in list.map_err(|error| read("the pods", error))?.items {
            let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
            let terminating = pod.metadata.deletion_timestamp.is_some();
            proxies.insert(pod.uid().unwrap_or_default(), Proxy { name, node: node.clone(), terminating });
        }
    }
    let all: Api<Namespace> = Api::all(host.clone());
    let all = within(all.list_metadata(&ListParams::default())).await.map_err(|error| read("the namespaces", error))?;
    let system = all.items.iter().find(|namespace| namespace.name_any() == "kube-system");
    let host_id = system.and_then(ResourceExt::uid).unwrap_or_default();
    let mut namespaces = all.items.iter().map(ResourceExt::name_any).collect();
    if args.uninstall {
        (configured, namespaces) = <_>::default();
    }
    let is_lost = |name: &String| args.lost_target.contains(name);
    let inventories = clusters.configuration.targets.iter().zip(targets).map(|(target, client)| async {
        let objects = match client {
            _ if is_lost(&target.name) => Ok(vec![]),
            Ok(client) => objects(client, &target.spec, &host_id).await,
            Err(error) => Err(error.clone()),
        };
        TargetInventory { name: target.name.clone(), objects }
    });
    // All at once: each may take its whole deadline.
    let targets = futures::future::join_all(inventories).await;
    let (claims, volumes) =
        storage(args, clusters, host).await.map_err(|error| read("the volumes and claims", error))?;
    Ok(Inventory { configured, nodes, namespaces, proxies, leaderships, claims, volumes, targets })
}

/// Whether a node of the host is one of Longshore's.
fn is_ours(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == REACHABLE)
}

/// The UIDs of the host's claims, and its volumes that stand for claims in targets.
async fn storage(
    args: &DoctorArgs,
    clusters: &Clusters,
    host: &Client,
) -> Result<(BTreeSet<String>, Vec<Volume>), String> {
    let volumes: Api<PersistentVolume> = Api::all(host.clone());
    let volumes = match within(volumes.list(&ListParams::default().labels(names::NODE))).await {
        Ok(list) => list.items,
        // Who may not read them has made none.
        Err(error) if error.contains("forbidden") => return Ok(Default::default()),
        Err(error) => return Err(error),
    };
    let claims: Api<PersistentVolumeClaim> = Api::all(host.clone());
    let claims = within(claims.list_metadata(&ListParams::default())).await?;
    let volume = |volume: &PersistentVolume| {
        let csi = volume.spec.as_ref()?.csi.as_ref().filter(|csi| csi.driver == DRIVER)?;
        let attribute = |key: &str| csi.volume_attributes.as_ref()?.get(key).cloned();
        let target = attribute("target")?;
        let remote = attribute("uid")?;
        let claim = || {
            Some(RemoteClaim {
                target: clusters.configuration.targets.iter().position(|known| known.name == target)?,
                namespace: attribute("namespace")?,
                name: attribute("claim")?,
                uid: remote.clone(),
            })
        };
        let policy = volume.spec.as_ref()?.persistent_volume_reclaim_policy.as_deref();
        Some(Volume {
            claim: claim(),
            retain: policy != Some("Delete") || args.lost_target.contains(&target),
            name: volume.name_any(),
            node: volume.labels().get(names::NODE).cloned().unwrap_or_default(),
            remote,
            released: volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released"),
        })
    };
    Ok((claims.items.iter().filter_map(ResourceExt::uid).collect(), volumes.iter().filter_map(volume).collect()))
}

/// The node of a lease of leadership, and whether somebody renews it.
fn leadership(lease: &Lease) -> Option<(String, bool)> {
    let node = lease.name_any().strip_prefix("longshore-")?.to_owned();
    let spec = lease.spec.as_ref()?;
    let age = Timestamp::now().as_second() - spec.renew_time.as_ref()?.0.as_second();
    Some((node, spec.holder_identity.is_some() && age < ABANDONED))
}

/// All that is ours in a target, as far as it may be read.
async fn objects(client: &Client, spec: &TargetSpec, host_id: &str) -> Result<Vec<Object>, String> {
    let reach = reach(spec);
    let mut objects = list::<Pod>(client, &reach, Kind::Pod, host_id).await?;
    objects.extend(strays(client, &reach, host_id).await?);
    objects.extend(list::<ConfigMap>(client, &reach, Kind::ConfigMap, host_id).await?);
    // It owns delegates, and goes with its namespace.
    objects.retain(|object| object.kind != Kind::ConfigMap || object.name != marker(host_id));
    objects.extend(list::<Secret>(client, &reach, Kind::Secret, host_id).await?);
    objects.extend(list::<PersistentVolumeClaim>(client, &reach, Kind::Claim, host_id).await?);
    objects.extend(list::<Service>(client, &reach, Kind::Service, host_id).await?);
    objects.extend(list::<Ingress>(client, &reach, Kind::Ingress, host_id).await?);
    if spec.scope == Scope::Namespaces {
        return Ok(objects);
    }
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let params = ListParams::default().labels(&format!("{}={host_id}", names::HOST));
    for found in within(namespaces.list_metadata(&params)).await?.items {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &found.name_any());
        let busy = !within(pods.list_metadata(&ListParams::default().limit(1))).await?.items.is_empty()
            || has_claims(client, &found.name_any()).await?
            || has_others::<ConfigMap>(client, &found.name_any(), host_id).await?
            || has_others::<Secret>(client, &found.name_any(), host_id).await?
            || has_others::<Service>(client, &found.name_any(), host_id).await?;
        objects.push(Object { busy, ..object(Kind::Namespace, found.metadata) });
    }
    Ok(objects)
}

/// Whether somebody's data are in a namespace.
async fn has_claims(client: &Client, namespace: &str) -> Result<bool, String> {
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    match within(claims.list_metadata(&ListParams::default().limit(1))).await {
        Ok(list) => Ok(!list.items.is_empty()),
        Err(error) if error.contains("forbidden") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether somebody else has put something into a namespace.
async fn has_others<K>(client: &Client, namespace: &str, host_id: &str) -> Result<bool, String>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let params = ListParams::default().labels(&format!("{}!={host_id}", names::HOST));
    match within(api.list_metadata(&params)).await {
        Ok(list) => Ok(list.items.iter().any(|found| !EVERYWHERE.contains(&found.name_any().as_str()))),
        Err(error) if error.contains("forbidden") => Ok(false),
        Err(error) => Err(error),
    }
}

async fn list<K>(client: &Client, reach: &Reach, kind: Kind, host_id: &str) -> Result<Vec<Object>, String>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let mut objects = vec![];
    let params = ListParams::default().labels(&format!("{}={host_id}", names::HOST));
    for api in reach.apis::<K>(client) {
        match within(api.list_metadata(&params)).await {
            Ok(list) => {
                let found = list.items.into_iter();
                objects.extend(found.map(|found: PartialObjectMeta<K>| object(kind, found.metadata)));
            }
            // Who may not read them has made none.
            Err(error) if kind != Kind::Pod && error.contains("forbidden") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(objects)
}

/// Delegates without our label, which say by an annotation that they are ours.
async fn strays(client: &Client, reach: &Reach, host_id: &str) -> Result<Vec<Object>, String> {
    let mut strays = vec![];
    for api in reach.apis::<Pod>(client) {
        let mut params = Some(ListParams::default().labels(&format!("{}!={host_id}", names::HOST)).limit(PAGE));
        while let Some(asked) = params {
            let page = within(api.list_metadata(&asked)).await?;
            for found in page.items {
                let origin = found.annotations().get(names::ORIGIN);
                let Some((node, proxy)) = origin.and_then(|origin| names::read_origin(origin, host_id)) else {
                    continue;
                };
                let (node, proxy) = (node.to_owned(), proxy.to_owned());
                strays.push(Object { proxy, node, ..object(Kind::Pod, found.metadata) });
            }
            params = next(asked, &page.metadata);
        }
    }
    Ok(strays)
}

fn object(kind: Kind, metadata: ObjectMeta) -> Object {
    let follows = metadata.annotations.as_ref().and_then(|all| all.get(names::FOLLOWS));
    let need = |need: Need| match need.kind.object() {
        HostKind::ConfigMap | HostKind::Service => (Kind::ConfigMap, need.name),
        HostKind::Secret => (Kind::Secret, need.name),
    };
    let needs = follows.map(|text| follow::names::parse(text).into_iter().map(need).collect()).unwrap_or_default();
    let nodes = metadata.labels.iter().flatten().filter_map(|(key, _)| key.strip_prefix(names::NEEDED_BY));
    let needed_by = nodes.map(str::to_owned).collect();
    let label = |key: &str| metadata.labels.as_ref().and_then(|all| all.get(key).cloned()).unwrap_or_default();
    Object {
        kind,
        proxy: label(names::UID),
        node: label(names::NODE),
        needs,
        needed_by,
        terminating: metadata.deletion_timestamp.is_some(),
        namespace: metadata.namespace.unwrap_or_default(),
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        busy: false,
    }
}

async fn remove(args: &DoctorArgs, host: &Client, targets: &[Result<Client, String>], fix: &Fix) -> Result<(), String> {
    match fix {
        Fix::RemoveNode { name: node, uid } => {
            let nodes: Api<Node> = Api::all(host.clone());
            gone(within(nodes.delete(node, &only(uid.clone()))).await)?;
            remove_leadership(args, host, node).await
        }
        Fix::RemoveLeadership(node) => remove_leadership(args, host, node).await,
        Fix::ReleaseVolume { name, claim } => {
            if let Some(RemoteClaim { target, namespace, name, uid }) = claim {
                let (kind, target) = (Kind::Claim, *target);
                let (namespace, name, uid) = (namespace.clone(), name.clone(), uid.clone());
                let fix = Fix::Remove { target, kind, namespace, name, uid };
                Box::pin(remove(args, host, targets, &fix)).await?;
            }
            release_volume(host, name).await
        }
        Fix::Remove { target, kind, namespace, name, uid } => {
            let Some(Ok(client)) = targets.get(*target) else { return Err("the target cannot be reached".into()) };
            let params = only(uid.clone());
            let deleted = match kind {
                Kind::Pod => delete::<Pod>(client, namespace, name, &params).await,
                Kind::ConfigMap => delete::<ConfigMap>(client, namespace, name, &params).await,
                Kind::Secret => delete::<Secret>(client, namespace, name, &params).await,
                Kind::Claim => delete::<PersistentVolumeClaim>(client, namespace, name, &params).await,
                Kind::Service => delete::<Service>(client, namespace, name, &params).await,
                Kind::Ingress => delete::<Ingress>(client, namespace, name, &params).await,
                Kind::Namespace => {
                    let namespaces: Api<Namespace> = Api::all(client.clone());
                    within(namespaces.delete(name, &params)).await.map(drop)
                }
            };
            gone(deleted)
        }
    }
}

/// Lets a volume go that waits for us, and for nobody else.
async fn release_volume(host: &Client, name: &str) -> Result<(), String> {
    let volumes: Api<PersistentVolume> = Api::all(host.clone());
    let Some(found) = within(volumes.get_opt(name)).await? else { return Ok(()) };
    let finalizers: Vec<&String> = found.finalizers().iter().filter(|one| *one != FINALIZER).collect();
    let patch = serde_json::json!({"metadata": {"uid": found.uid(), "resourceVersion": found.resource_version(),
        "finalizers": finalizers}});
    gone(within(volumes.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await)?;
    gone(within(volumes.delete(name, &only(found.uid()))).await)
}

async fn remove_leadership(args: &DoctorArgs, host: &Client, node: &str) -> Result<(), String> {
    let leases: Api<Lease> = Api::namespaced(host.clone(), &args.lease_namespace);
    gone(within(leases.delete(&format!("longshore-{node}"), &DeleteParams::default())).await.map(drop))
}

async fn delete<K>(client: &Client, namespace: &str, name: &str, params: &DeleteParams) -> Result<(), String>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    within(api.delete(name, params)).await.map(drop)
}

/// What is gone already needs no removal.
fn gone<T>(result: Result<T, String>) -> Result<(), String> {
    match result {
        Err(error) if !error.contains("NotFound") && !error.contains("not found") => Err(error),
        _ => Ok(()),
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}
