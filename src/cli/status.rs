//! `longshore status`: how targets, nodes and pods are, and what is wrong.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::api::clients::{self, Access};
use crate::api::configuration::Configuration;
use crate::api::diagnosis::classify;
use crate::api::target::TargetSpec;
use crate::kubelet::node::status::REACHABLE;
use crate::paging::{PAGE, next};

use super::ask::{AskError, PATIENCE, Progress, ask};
use super::clusters::{Clusters, ConfigurationArgs, Resources};
use super::show::{Output, Palette, count};
use super::{CliError, clusters};

mod report;

pub(super) use report::{Answer, Report, Sight};

/// The flags of `status`.
#[derive(Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub(super) configuration: ConfigurationArgs,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show it again and again, until it is stopped
    #[arg(long, short)]
    watch: bool,
    /// How many seconds lie between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    interval: u64,
    /// Do not ask the targets themselves, only the host
    #[arg(long)]
    no_targets: bool,
}

/// Why there is no status, or no good one.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// A request failed.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// Something is wrong, and was said.
    #[error("{} found, as said above", count(*.0, "problem"))]
    Problems(usize),
}

pub(super) async fn status(args: &StatusArgs) -> Result<(), CliError> {
    loop {
        let progress = (!args.watch).then(|| Progress::start("looking at all clusters"));
        let clusters = args.configuration.load().await?;
        let host = clients::client(&clusters.host).await.map_err(CliError::ConfigureHost)?;
        let report = look(&clusters, &host, !args.no_targets).await?;
        drop(progress);
        let text = match args.output.document(&report) {
            // A stream of documents, each to be told from the next.
            Some(document) if args.watch && args.output == Output::Yaml => format!("---\n{document}"),
            Some(document) => document,
            None => report.text(Palette::of_stdout()),
        };
        if !args.watch {
            print!("{text}");
            return match report.problems.len() {
                0 => Ok(()),
                problems => Err(StatusError::Problems(problems).into()),
            };
        }
        if args.output == Output::Table && std::io::stdout().is_terminal() {
            // From the top, over what was there: no flicker.
            print!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"));
        } else {
            println!("{text}");
        }
        _ = std::io::Write::flush(&mut std::io::stdout());
        sleep(Duration::from_secs(args.interval)).await;
    }
}

/// Everything that is to be seen, judged.
pub(super) async fn look(clusters: &Clusters, host: &Client, targets: bool) -> Result<Report, StatusError> {
    let Clusters { configuration, targets: accesses, resources, .. } = clusters;
    let probes = async { if targets { probe(configuration, accesses).await } else { BTreeMap::new() } };
    let (nodes, answers) = tokio::join!(nodes(host, configuration), probes);
    let nodes = nodes?;
    let mut pods = BTreeMap::new();
    for node in &nodes {
        pods.insert(node.name_any(), pods_of(host, &node.name_any()).await?);
    }
    let certificates =
        configuration.targets.iter().zip(accesses).filter_map(|(target, access)| {
            Some((target.name.clone(), clients::certificate_end(access.as_ref().ok()?)?))
        });
    let sight = Sight {
        declared: declared(configuration, resources.as_ref()),
        nodes: nodes.iter().map(|node| json!(node)).collect(),
        pods,
        answers,
        certificates: certificates.collect(),
        now: Timestamp::now().as_second(),
    };
    Ok(report::judge(&sight))
}

/// Targets and VirtualNodes as the host would have them.
pub(super) fn declared(configuration: &Configuration, resources: Option<&Resources>) -> Resources {
    if let Some(resources) = resources {
        return resources.clone();
    }
    let target = |target: &crate::api::configuration::Declared<TargetSpec>| json!({"kind": "Target", "metadata": {"name": target.name}, "spec": target.spec});
    let nodes = configuration.nodes.iter();
    Resources {
        targets: configuration.targets.iter().map(target).collect(),
        nodes: nodes
            .map(|node| json!({"kind": "VirtualNode", "metadata": {"name": node.name}, "spec": node.spec}))
            .collect(),
    }
}

/// The virtual nodes of this configuration that are there, whole or in parts.
async fn nodes(host: &Client, configuration: &Configuration) -> Result<Vec<Node>, AskError> {
    let all: Api<Node> = Api::all(host.clone());
    let list = ask("list the nodes of the host", all.list(&ListParams::default())).await?;
    let ours = |node: &Node| {
        let name = node.name_any();
        let whole = node.labels().get(crate::run::drain::WHOLE);
        let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == REACHABLE)
            && configuration.nodes.iter().any(|one| one.name == name || Some(&one.name) == whole)
    };
    Ok(list.items.into_iter().filter(ours).collect())
}

/// The pods that are bound to a node.
pub(super) async fn pods_of(host: &Client, node: &str) -> Result<Vec<Value>, AskError> {
    let all: Api<Pod> = Api::all(host.clone());
    let mut params = Some(ListParams::default().fields(&format!("spec.nodeName={node}")).limit(PAGE));
    let mut pods = vec![];
    while let Some(asked) = params {
        let list = ask(format!("list the pods of node {node}"), all.list(&asked)).await?;
        pods.extend(list.items.iter().map(|pod| json!(pod)));
        params = next(asked, &list.metadata);
    }
    Ok(pods)
}

/// How long each target takes to answer, with the connection made anew as for a first request, and once more.
async fn probe(configuration: &Configuration, accesses: &[Result<Access, String>]) -> BTreeMap<String, Answer> {
    let probes = configuration.targets.iter().zip(accesses).map(|(target, access)| async move {
        let answer = match access {
            Ok(access) => probe_one(access).await,
            Err(reason) => Err(reason.clone()),
        };
        (target.name.clone(), answer)
    });
    futures::future::join_all(probes).await.into_iter().collect()
}

async fn probe_one(access: &Access) -> Answer {
    let client = clients::client(access).await.map_err(|error| crate::errors::chain(&error))?;
    let address = clients::address(access);
    let mut version = String::new();
    let mut took = Duration::ZERO;
    // The first one makes the connection, which requests of a running Longshore have already.
    for _ in 0..2 {
        let begun = Instant::now();
        version = match timeout(PATIENCE, client.apiserver_version()).await {
            Ok(Ok(version)) => version.git_version,
            Ok(Err(error)) => return Err(classify(&address, &error).to_string()),
            Err(_) => return Err(format!("{address} gave no answer within {} s", PATIENCE.as_secs())),
        };
        took = begun.elapsed();
    }
    Ok((version, took))
}

/// The name of what is declared.
fn name(resource: &Value) -> &str {
    clusters::name_of(resource)
}
