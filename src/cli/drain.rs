//! `longshore drain` and `longshore uncordon`: a target gets no new pods, and those that it has go elsewhere.

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use crate::api::clients::{self, ClientsError};
use crate::api::target::Target;
use crate::api::virtual_node::{Shape, VirtualNode, VirtualNodeSpec};
use crate::run::drain::{self, Leaving};

use super::{CliError, HostArgs};

/// How often it looks what is left.
const ROUND: Duration = Duration::from_secs(2);

/// The flags of `drain`.
#[derive(Args)]
pub struct DrainArgs {
    /// The name of the Target
    target: String,
    /// Evict pods, too, that no controller makes again elsewhere
    #[arg(long)]
    force: bool,
    /// How many seconds to wait for all pods to go; 0 means as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    #[command(flatten)]
    host: HostArgs,
}

/// The flags of `uncordon`.
#[derive(Args)]
pub struct UncordonArgs {
    /// The name of the Target
    target: String,
    #[command(flatten)]
    host: HostArgs,
}

/// Why a target is not empty.
#[derive(Debug, thiserror::Error)]
pub enum DrainError {
    /// There is no client for the host.
    #[error("failed to connect to the host cluster")]
    ConnectHost(#[source] ClientsError),
    /// Nobody has declared it in the API.
    #[error(
        "failed to find the Target {0} in the host; one that is declared in a file is closed there, by spec.cordoned: true"
    )]
    FindTarget(String),
    /// The host did not do what was asked.
    #[error("failed to {what}")]
    Ask {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        #[source]
        source: kube::Error,
    },
    /// Nobody would make these again.
    #[error("failed to drain the target: no controller makes these pods again elsewhere, delete them or give --force: {}", .0.join(", "))]
    Bare(Vec<String>),
    /// It takes too long.
    #[error("failed to drain the target within {seconds} s: {} pods are left, such as {first}; it stays cordoned", .left)]
    Timeout {
        /// `--timeout`.
        seconds: u64,
        /// How many are left.
        left: usize,
        /// One of them.
        first: String,
    },
}

fn ask(what: &'static str) -> impl Fn(kube::Error) -> DrainError {
    move |source| DrainError::Ask { what, source }
}

/// Closes a target and evicts its pods, as their disruption budgets allow.
pub(super) async fn drain(args: &DrainArgs) -> Result<(), CliError> {
    let host = connect(&args.host).await?;
    let leaving = leaving(&host, &args.target).await?;
    let pods = there(&host, &leaving).await?;
    let bare: Vec<_> = pods.iter().filter(|pod| !has_controller(pod)).map(full_name).collect();
    if !bare.is_empty() && !args.force {
        return Err(DrainError::Bare(bare).into());
    }
    set(&host, &args.target, true).await?;
    println!("target {} is cordoned", args.target);
    for one in leaving.iter().filter(|one| one.whole) {
        close(&host, one).await?;
    }
    let begun = Instant::now();
    let mut before = None;
    loop {
        let pods = there(&host, &leaving).await?;
        if before != Some(pods.len()) {
            println!("{} pods are left", pods.len());
        }
        let Some(first) = pods.first().map(full_name) else { break };
        if args.timeout > 0 && begun.elapsed() >= Duration::from_secs(args.timeout) {
            return Err(DrainError::Timeout { seconds: args.timeout, left: pods.len(), first }.into());
        }
        before = Some(pods.len());
        drain::evict(&host, &pods).await.map_err(ask("evict pods"))?;
        tokio::time::sleep(ROUND).await;
    }
    println!("target {0} is empty; `longshore uncordon {0}` opens it again", args.target);
    Ok(())
}

/// Opens a target again.
pub(super) async fn uncordon(args: &UncordonArgs) -> Result<(), CliError> {
    let host = connect(&args.host).await?;
    let leaving = leaving(&host, &args.target).await?;
    set(&host, &args.target, false).await?;
    for one in leaving.iter().filter(|one| one.whole) {
        drain::open(&host, &one.node, one.parts).await.map_err(ask("uncordon the node"))?;
    }
    println!("target {} is open", args.target);
    Ok(())
}

async fn connect(host: &HostArgs) -> Result<Client, CliError> {
    let access = host.load().await?;
    Ok(clients::client(&access).await.map_err(DrainError::ConnectHost)?)
}

/// The nodes that have the target, and which of their pods are concerned.
async fn leaving(host: &Client, target: &str) -> Result<Vec<Leaving>, DrainError> {
    let targets: Api<DynamicObject> = Api::all_with(host.clone(), &ApiResource::erase::<Target>(&()));
    if targets.get_metadata_opt(target).await.map_err(ask("read the Target"))?.is_none() {
        return Err(DrainError::FindTarget(target.into()));
    }
    let nodes: Api<DynamicObject> = Api::all_with(host.clone(), &ApiResource::erase::<VirtualNode>(&()));
    let list = nodes.list(&ListParams::default()).await.map_err(ask("list VirtualNodes"))?;
    let nodes = list
        .items
        .iter()
        .filter_map(|node| Some((node.name_any(), serde_json::from_value(node.data.get("spec")?.clone()).ok()?)));
    Ok(concerned(target, &nodes.collect::<Vec<(String, VirtualNodeSpec)>>()))
}

/// A node with other targets stays open, and keeps the pods of those.
pub(super) fn concerned(target: &str, nodes: &[(String, VirtualNodeSpec)]) -> Vec<Leaving> {
    let leaving = |name: &str, spec: &VirtualNodeSpec| {
        let alone = spec.targets.len() == 1;
        let (node, target, parts) = (name.to_owned(), target.to_owned(), spec.shape != Shape::Cluster);
        Leaving { node, target, whole: alone, alone, parts }
    };
    let named = nodes.iter().filter(|(_, spec)| spec.targets.iter().any(|one| one.name == target));
    let all: Vec<_> = named.map(|(name, spec)| leaving(name, spec)).collect();
    if all.is_empty() { vec![leaving(target, &VirtualNodeSpec::for_target(target))] } else { all }
}

async fn set(host: &Client, target: &str, cordoned: bool) -> Result<(), DrainError> {
    let targets: Api<DynamicObject> = Api::all_with(host.clone(), &ApiResource::erase::<Target>(&()));
    let patch = Patch::Merge(json!({"spec": {"cordoned": cordoned}}));
    targets.patch(target, &PatchParams::default(), &patch).await.map_err(ask("write spec.cordoned of the Target"))?;
    Ok(())
}

async fn close(host: &Client, leaving: &Leaving) -> Result<(), DrainError> {
    let nodes = nodes(host, leaving).await?;
    for node in nodes {
        drain::cordon(host, &node, true).await.map_err(ask("cordon the node"))?;
    }
    Ok(())
}

async fn nodes(host: &Client, leaving: &Leaving) -> Result<Vec<String>, DrainError> {
    if !leaving.parts {
        return Ok(vec![leaving.node.clone()]);
    }
    drain::parts_of(host, &leaving.node).await.map_err(ask("list nodes"))
}

/// The pods that have to go. Those of a DaemonSet would be back at once, and stay.
async fn there(host: &Client, leaving: &[Leaving]) -> Result<Vec<PartialObjectMeta<Pod>>, DrainError> {
    let mut all = vec![];
    for one in leaving {
        for node in nodes(host, one).await? {
            let pods = drain::bound(host, &node).await.map_err(ask("list pods"))?;
            all.extend(pods.into_iter().filter(|pod| one.concerns(pod) && !is_of_node(pod)));
        }
    }
    Ok(all)
}

fn is_of_node(pod: &PartialObjectMeta<Pod>) -> bool {
    pod.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.kind == "DaemonSet")
}

fn has_controller(pod: &PartialObjectMeta<Pod>) -> bool {
    pod.owner_references().iter().any(|owner| owner.controller == Some(true))
}

fn full_name(pod: &PartialObjectMeta<Pod>) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::virtual_node::TargetReference;

    #[test]
    fn only_what_is_in_the_target_goes() {
        let several = VirtualNodeSpec {
            targets: ["east", "west"].map(|name| TargetReference { name: name.into(), weight: 1 }).into(),
            ..VirtualNodeSpec::for_target("")
        };
        let nodes = [("many".to_owned(), several), ("own".to_owned(), VirtualNodeSpec::for_target("east"))];
        let shown: Vec<_> = concerned("east", &nodes).iter().map(|one| (one.node.clone(), one.whole)).collect();
        assert_eq!(shown, [("many".to_owned(), false), ("own".to_owned(), true)]);
        let implied = concerned("north", &nodes);
        assert_eq!((implied.len(), implied[0].node.as_str(), implied[0].alone), (1, "north", true));
    }
}
