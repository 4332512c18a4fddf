//! `longshore explain`: the delegate that a pod would have, and how it differs, without making it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::{Api, Client, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::api::clients::{self, Access};
use crate::api::configuration::{self, Configuration, Declared};
use crate::api::target::{Scope, TargetSpec};
use crate::api::virtual_node::VirtualNodeSpec;
use crate::errors::chain;
use crate::kubelet::sites::CHOICE;
use crate::kubelet::tolerations;
use crate::provider::claims::{claims_of, held_for_claims};
use crate::provider::follow::names::Names;
use crate::provider::follow::references;
use crate::provider::names::FOLLOWS;
use crate::provider::translate::{Site, namespace_owner, translate};
use crate::run::rules::{accounts, node_labels, own_labels, places, rules};

use super::{CliError, ConfigurationArgs};

mod manifest;
mod show;

use manifest::Subject;
use show::Explanation;

/// How long one cluster may take for one answer. What it would tell is only a part.
const PATIENCE: Duration = Duration::from_secs(5);

/// Shown where a cluster would tell more if it answered.
const UNKNOWN: &str = "unknown";

/// The flags of `explain`.
#[derive(Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// A pod of the host, as NAMESPACE/NAME
    #[arg(value_name = "NAMESPACE/POD", required_unless_present = "filename", conflicts_with = "filename")]
    pod: Option<String>,
    /// A manifest of pods, or of workloads with a pod template; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// The target [default: the pod's own, or the only one]
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The namespace of pods in a manifest that names none
    #[arg(long, short, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// How to show it
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How an explanation is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Each delegate as YAML, below a comment with the differences.
    Text,
    /// One YAML document: a list of explanations.
    Yaml,
    /// One JSON document: a list of explanations.
    Json,
}

/// Why there is nothing to explain, or no good news.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The manifest cannot be read.
    #[error("failed to read {path}; name a file that exists, or - for standard input")]
    ReadFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The manifest is no YAML.
    #[error("failed to understand {path} as YAML or JSON: {reason}")]
    ParseFile {
        /// The file.
        path: String,
        /// Why, with the place.
        reason: String,
    },
    /// The manifest has no pod.
    #[error("failed to find a pod in {0}, or a workload with a pod template")]
    FindPods(String),
    /// There is no such target, or it is not clear which.
    #[error("failed to choose a target: {reason}; give --target with one of {known}")]
    ChooseTarget {
        /// Why.
        reason: String,
        /// All that there are.
        known: String,
    },
    /// A pod is not named as it should be.
    #[error("failed to understand {0:?} as a pod; write NAMESPACE/NAME")]
    NamePod(String),
    /// The pod cannot be read.
    #[error("failed to read the pod {pod} of the host: {reason}")]
    ReadPod {
        /// The pod.
        pod: String,
        /// Why.
        reason: String,
    },
    /// Some would not run.
    #[error("{held} of {all} would be held at home, as said above")]
    Held {
        /// So many.
        held: usize,
        /// Of so many.
        all: usize,
    },
}

impl ExplainError {
    /// Whether the user has to write something else.
    pub(super) fn is_usage(&self) -> bool {
        !matches!(self, Self::ReadPod { .. } | Self::Held { .. })
    }
}

pub(super) async fn explain(args: &ExplainArgs) -> Result<(), CliError> {
    let (configuration, accesses) = if let Some(file) = &args.configuration.provider_config {
        // No cluster has to answer, and no kubeconfig has to be there.
        (configuration::load(file)?, None)
    } else {
        let clusters = args.configuration.load().await?;
        (clusters.configuration, Some(clusters.targets))
    };
    let host = connect_host(args).await;
    let subjects = match (&args.pod, &args.filename) {
        (Some(pod), _) => vec![live(pod, host).await?],
        (None, Some(path)) => manifest::read(&path.display().to_string(), &read(path)?, &args.namespace)?,
        (None, None) => vec![],
    };
    let host_id = host_id(args).await;
    let host_url = host_url(args).await;
    let mut explanations = Vec::new();
    for subject in &subjects {
        let (node, target) = place(&configuration, subject, args.target.as_deref())?;
        let known = configuration.targets.iter().position(|one| one.name == target.name);
        let access = match accesses.as_ref().zip(known) {
            Some((accesses, index)) => accesses[index].clone(),
            None => access_of(target).await,
        };
        explanations.push(of(subject, node, target, access, &host_id, &host_url).await);
    }
    print!("{}", show::render(args.output, &explanations));
    match explanations.iter().filter(|explanation| explanation.held.is_some()).count() {
        0 => Ok(()),
        held => Err(ExplainError::Held { held, all: explanations.len() }.into()),
    }
}

fn read(path: &Path) -> Result<String, ExplainError> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(path)
    };
    text.map_err(|source| ExplainError::ReadFile { path: path.display().to_string(), source })
}

async fn connect_host(args: &ExplainArgs) -> Result<Client, String> {
    let host = &args.configuration.host;
    let config =
        clients::host(host.kubeconfig.as_deref(), host.context.as_deref()).await.map_err(|error| chain(&error))?;
    clients::client(&config).await.map_err(|error| chain(&error))
}

/// The address of the host's API server.
async fn host_url(args: &ExplainArgs) -> String {
    let host = &args.configuration.host;
    let config = clients::host(host.kubeconfig.as_deref(), host.context.as_deref()).await;
    config.map_or_else(|_| format!("https://{UNKNOWN}"), |config| config.cluster_url.to_string())
}

/// A pod as the host has it.
async fn live(name: &str, host: Result<Client, String>) -> Result<Subject, ExplainError> {
    let parts = name.split_once('/').filter(|(namespace, pod)| !namespace.is_empty() && !pod.is_empty());
    let (namespace, pod) = parts.ok_or_else(|| ExplainError::NamePod(name.into()))?;
    let failed = |reason| ExplainError::ReadPod { pod: name.into(), reason };
    let api = Api::namespaced(host.map_err(failed)?, namespace);
    match get(&api, pod).await.map_err(failed)? {
        Some(document) => {
            // As the pod controller sees it.
            Ok(Subject { title: format!("Pod {name}"), pod: tolerations::restored(document), is_live: true })
        }
        None => Err(failed("there is none; `kubectl get pods -A` lists those that there are".into())),
    }
}

async fn get<K>(api: &Api<K>, name: &str) -> Result<Option<K>, String>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    match timeout(PATIENCE, api.get_opt(name)).await {
        Ok(answer) => answer.map_err(|error| chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// Which cluster the host is.
async fn host_id(args: &ExplainArgs) -> Result<String, String> {
    let namespaces: Api<Namespace> = Api::all(connect_host(args).await?);
    let namespace = get(&namespaces, "kube-system").await?;
    namespace.and_then(|namespace| namespace.uid()).ok_or_else(|| "it has no namespace kube-system".into())
}

/// The virtual node and the target that a pod has, or would have.
fn place<'a>(
    configuration: &'a Configuration,
    subject: &Subject,
    asked: Option<&str>,
) -> Result<(&'a Declared<VirtualNodeSpec>, &'a Declared<TargetSpec>), ExplainError> {
    let known = || configuration.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    let failed = |reason: String| ExplainError::ChooseTarget { reason, known: known() };
    let bound = subject.pod.spec.get("nodeName").and_then(serde_json::Value::as_str);
    let node = configuration.nodes.iter().find(|node| Some(node.name.as_str()) == bound);
    let only = match node {
        Some(node) if node.spec.targets.len() == 1 => Some(node.spec.targets[0].name.as_str()),
        None if configuration.targets.len() == 1 => Some(configuration.targets[0].name.as_str()),
        _ => None,
    };
    let name = asked.or_else(|| subject.pod.annotation(CHOICE)).or(only);
    let name = name.ok_or_else(|| failed(format!("{} may go to several", subject.title)))?;
    let target = configuration.targets.iter().find(|target| target.name == name);
    let target = target.ok_or_else(|| failed(format!("there is no target {name}")))?;
    let stands_for = |node: &&Declared<VirtualNodeSpec>| node.spec.targets.iter().any(|one| one.name == name);
    let node = node.filter(stands_for).or_else(|| configuration.nodes.iter().find(stands_for));
    let node = node.ok_or_else(|| failed(format!("no virtual node stands for target {name}")))?;
    Ok((node, target))
}

/// How to reach the target of a file.
async fn access_of(target: &Declared<TargetSpec>) -> Result<Access, String> {
    let source = &target.spec.kubeconfig;
    let file = source.file.as_ref().ok_or("it has no kubeconfig file")?;
    clients::target(file, source.context.as_deref()).await.map_err(|error| chain(&error))
}

async fn of(
    subject: &Subject,
    node: &Declared<VirtualNodeSpec>,
    target: &Declared<TargetSpec>,
    access: Result<Access, String>,
    host_id: &Result<String, String>,
    host_url: &str,
) -> Explanation {
    let mut notes = Vec::new();
    if !subject.is_live {
        notes.push("the manifest is taken as it is; the host's API server and admission may add to it".to_owned());
    }
    let host_id = host_id.clone().unwrap_or_else(|reason| {
        notes.push(format!("the id of the host is not known: {reason}"));
        UNKNOWN.into()
    });
    let places = places(&target.spec.namespaces);
    let namespace = places.namespace(subject.pod.namespace());
    let mut site = Site {
        names: Names::new(&host_id).within(&places, subject.pod.namespace()),
        accounts: accounts(&target.spec, host_url),
        host_id,
        node_name: node.name.clone(),
        node_labels: node_labels(&own_labels(&node.name, &node.spec.labels)),
        target: target.name.clone(),
        rules: rules(&target.spec).into(),
        name: places.name(subject.pod.namespace(), subject.pod.name()).into_owned(),
        owner: Some(namespace_owner(&namespace, UNKNOWN)),
        namespace: namespace.into_owned(),
        ..Site::default()
    };
    if let Err(reason) = ask(&mut site, subject, target, access, &mut notes).await {
        notes.push(format!("target {} could not be asked for its classes: {reason}", target.name));
    }
    let translation = match held_for_claims(&subject.pod, &site.node_name).filter(|_| !node.spec.claims) {
        Some(hold) => Err(hold),
        None => translate(&subject.pod, &site),
    };
    let translation = translation.map(|mut translation| {
        let needs = references::print(&translation.references, &site.names);
        let annotations = translation.delegate.metadata.annotations.get_or_insert_default();
        annotations.extend(needs.map(|needs| (FOLLOWS.to_owned(), needs)));
        translation
    });
    if translation.is_ok() && !claims_of(&subject.pod).is_empty() {
        notes.push("whether a claim can follow, and what it is called in the target, shows when it is bound".into());
    }
    Explanation::new(&subject.title, &site, translation, notes)
}

/// Completes a site with what the target knows.
async fn ask(
    site: &mut Site,
    subject: &Subject,
    target: &Declared<TargetSpec>,
    access: Result<Access, String>,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    if target.spec.scope == Scope::Namespaces {
        notes.push(format!("target {} is used by namespaces, so that its classes are not known", target.name));
        if !target.spec.namespaces.names.contains(&site.namespace) {
            notes.push(format!(
                "its namespace {} is not in spec.namespaces.names, so that the pod waits",
                site.namespace
            ));
        }
        return Ok(());
    }
    let client = clients::client(&access?).await.map_err(|error| chain(&error))?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match get(&namespaces, &site.namespace).await? {
        Some(found) => site.owner = Some(namespace_owner(&site.namespace, &found.uid().unwrap_or_default())),
        None if target.spec.namespaces.create => {
            notes.push(format!("namespace {} of the target will be created", site.namespace));
        }
        None => notes.push(format!("target {} has no namespace {}, for which pods wait", target.name, site.namespace)),
    }
    let Ok(first) = translate(&subject.pod, site) else { return Ok(()) };
    let class = first.delegate.spec.get("priorityClassName").and_then(serde_json::Value::as_str);
    if let Some(class) = class
        && get(&Api::<PriorityClass>::all(client), class).await?.is_none()
    {
        site.absent_priority_classes.insert(class.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::document::PodDocument;
    use serde_json::{Value, json};

    fn configuration() -> Configuration {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("provider.yaml");
        let target = |target: &str| {
            format!(
                "---\napiVersion: longshore.dev/v1alpha1\nkind: Target\nmetadata: {{name: {target}}}\n\
                 spec: {{kubeconfig: {{file: {target}.yaml}}}}\n"
            )
        };
        let mut text = ["east", "west", "lonely"].map(target).concat();
        text += "---\napiVersion: longshore.dev/v1alpha1\nkind: VirtualNode\nmetadata: {name: both}\n\
                 spec: {targets: [{name: east}, {name: west}]}\n";
        std::fs::write(&path, text).unwrap();
        configuration::load(&path).unwrap()
    }

    fn subject(pod: Value) -> Subject {
        let pod: PodDocument = serde_json::from_value(pod).unwrap();
        Subject { title: "Pod n/p".into(), pod, is_live: true }
    }

    #[test]
    fn a_pod_is_placed_by_flag_choice_or_node() {
        let configuration = configuration();
        let placed = |pod: Value, asked| {
            place(&configuration, &subject(pod), asked).map(|(node, target)| (node.name.as_str(), target.name.as_str()))
        };
        assert_eq!(placed(json!({}), Some("west")).unwrap(), ("both", "west"));
        assert_eq!(placed(json!({"spec": {"nodeName": "lonely"}}), None).unwrap(), ("lonely", "lonely"));
        let chosen = json!({"metadata": {"annotations": {CHOICE: "west"}}, "spec": {"nodeName": "both"}});
        assert_eq!(placed(chosen, None).unwrap(), ("both", "west"));
        let error = placed(json!({"spec": {"nodeName": "both"}}), None).unwrap_err().to_string();
        assert!(error.contains("may go to several; give --target with one of east, west, lonely"), "{error}");
        assert!(placed(json!({}), Some("north")).unwrap_err().is_usage());
    }
}
