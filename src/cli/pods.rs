//! `longshore pods`: each proxy beside its delegate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use clap::Args;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::clients;
use crate::errors::chain;
use crate::kubelet::sites::CHOICE;
use crate::provider::names;
use crate::run::drain::WHOLE;
use crate::run::rules::reach;

use super::CliError;
use super::ask::{AskError, Progress, ask};
use super::clusters::{Clusters, ConfigurationArgs, text_of};
use super::show::{Cell, Output, Palette, Tone, age, table};
use super::status::pods_of;

/// The flags of `pods`.
#[derive(Args)]
pub struct PodsArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Only pods of this namespace of the host
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only pods of this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Only pods that are not as they should be: not ready, or not in the same state on both sides
    #[arg(long)]
    problems: bool,
    /// How to show them
    #[arg(long, short, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Why pods are not shown.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// A request failed.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// There is no such target.
    #[error("failed to find the target {name:?}; correct --target: {known}")]
    Target {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
}

/// A proxy and its delegate.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    namespace: String,
    name: String,
    node: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    proxy: State,
    /// Missing where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    delegate: Option<Delegate>,
    /// Why it is not known whether there is a delegate.
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<String>,
    /// Since the status at home was last written.
    #[serde(skip_serializing_if = "Option::is_none")]
    feedback_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct State {
    /// As kubectl shows it.
    status: String,
    /// `1/2`
    ready: String,
    is_ready: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Delegate {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(flatten)]
    state: State,
}

pub(super) async fn pods(args: &PodsArgs) -> Result<(), CliError> {
    let progress = Progress::start("looking at all clusters");
    let clusters = args.configuration.load().await?;
    let targets = &clusters.configuration.targets;
    if let Some(name) = &args.target
        && !targets.iter().any(|target| target.name == *name)
    {
        let known = clusters.names();
        return Err(PodsError::Target { name: name.clone(), known }.into());
    }
    let host = clients::client(&clusters.host).await.map_err(CliError::ConfigureHost)?;
    let rows = look(&clusters, &host).await.map_err(PodsError::from)?;
    let wanted = |row: &Row| {
        args.namespace.as_ref().is_none_or(|namespace| *namespace == row.namespace)
            && args.target.as_ref().is_none_or(|target| row.target.as_ref() == Some(target))
            && (!args.problems || row.is_problem())
    };
    let rows: Vec<Row> = rows.into_iter().filter(wanted).collect();
    drop(progress);
    match args.output.document(&rows) {
        Some(document) => print!("{document}"),
        None if rows.is_empty() => println!("no pods"),
        None => print!("{}", text(Palette::of_stdout(), &rows)),
    }
    Ok(())
}

/// All proxies of this configuration, beside their delegates.
pub(super) async fn look(clusters: &Clusters, host: &Client) -> Result<Vec<Row>, AskError> {
    let host_id = super::host_id(host).await?;
    let configuration = &clusters.configuration;
    let delegates = configuration.targets.iter().zip(&clusters.targets).map(|(target, access)| {
        let host_id = &host_id;
        async move {
            let found = match access {
                Ok(access) => delegates(access, &target.spec, host_id).await,
                Err(reason) => Err(reason.clone()),
            };
            (target.name.clone(), found)
        }
    });
    let delegates: BTreeMap<_, _> = futures::future::join_all(delegates).await.into_iter().collect();
    let now = Timestamp::now().as_second();
    let mut rows = vec![];
    for node in &configuration.nodes {
        let targets: Vec<&str> = node.spec.targets.iter().map(|target| target.name.as_str()).collect();
        let mut places = BTreeSet::from([node.name.clone()]);
        let nodes: Api<Node> = Api::all(host.clone());
        let parts = ListParams::default().labels(&format!("{WHOLE}={}", node.name));
        let parts = ask("list the nodes of parts", nodes.list_metadata(&parts)).await?;
        places.extend(parts.items.iter().map(ResourceExt::name_any));
        for place in places {
            for proxy in pods_of(host, &place).await? {
                rows.push(row(&proxy, &place, &targets, &delegates, now));
            }
        }
    }
    rows.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    Ok(rows)
}

type Delegates = BTreeMap<String, Result<Vec<Value>, String>>;

async fn delegates(
    access: &clients::Access,
    spec: &crate::api::target::TargetSpec,
    host_id: &str,
) -> Result<Vec<Value>, String> {
    let client = clients::client(access).await.map_err(|error| chain(&error))?;
    let params = ListParams::default().labels(&format!("{}={host_id}", names::HOST));
    let mut found = vec![];
    for api in reach(spec).apis::<Pod>(&client) {
        let list = ask("list delegates", api.list(&params)).await;
        let list = list.map_err(|error| error.of(&clients::address(access)))?;
        found.extend(list.items.iter().map(|pod| json!(pod)));
    }
    Ok(found)
}

fn row(proxy: &Value, node: &str, targets: &[&str], delegates: &Delegates, now: i64) -> Row {
    let metadata = &proxy["metadata"];
    let uid = text_of(metadata, "uid");
    let is_of = |pod: &&Value| pod["metadata"]["labels"][names::UID] == uid;
    // Where it should be, and else wherever it is: what is shown must not be what is meant.
    let chosen = metadata["annotations"][CHOICE].as_str();
    let likely = chosen.or_else(|| (targets.len() == 1).then(|| targets[0]));
    let order = likely.into_iter().chain(targets.iter().copied().filter(|target| Some(*target) != likely));
    let found = order.clone().find_map(|target| {
        let pods = delegates.get(target)?.as_ref().ok()?;
        Some((target, pods.iter().find(is_of)?))
    });
    let unknown = found.is_none().then(|| {
        let silent = order.filter_map(|target| Some((target, delegates.get(target)?.as_ref().err()?)));
        silent.map(|(target, reason)| format!("target {target}: {reason}")).next()
    });
    let delegate = |pod: &Value| Delegate {
        namespace: text_of(&pod["metadata"], "namespace").into(),
        name: text_of(&pod["metadata"], "name").into(),
        node: pod["spec"]["nodeName"].as_str().map(Into::into),
        state: state(pod),
    };
    Row {
        namespace: text_of(metadata, "namespace").into(),
        name: text_of(metadata, "name").into(),
        node: node.into(),
        target: found.map(|(target, _)| target).or(likely).map(Into::into),
        proxy: state(proxy),
        delegate: found.map(|(_, pod)| delegate(pod)),
        unknown: unknown.flatten(),
        feedback_seconds: feedback(metadata).map(|time| now - time),
        age_seconds: time(&metadata["creationTimestamp"]).map(|made| now - made),
    }
}

fn time(value: &Value) -> Option<i64> {
    value.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// When we last wrote the status, as the API server has noted.
fn feedback(metadata: &Value) -> Option<i64> {
    let fields = metadata["managedFields"].as_array()?.iter();
    let ours = fields.filter(|one| one["manager"] == names::FIELD_MANAGER && one["subresource"] == "status");
    ours.filter_map(|one| time(&one["time"])).max()
}

/// The state of a pod, in the words of kubectl.
fn state(pod: &Value) -> State {
    let status = &pod["status"];
    let list = |field: &str| status[field].as_array().cloned().unwrap_or_default();
    let containers = list("containerStatuses");
    let wanted = pod["spec"]["containers"].as_array().map_or(containers.len(), Vec::len);
    let ready = containers.iter().filter(|container| container["ready"] == true).count();
    let waiting = list("initContainerStatuses").iter().chain(&containers).find_map(|container| {
        ["waiting", "terminated"].iter().find_map(|kind| {
            let reason = container["state"][kind]["reason"].as_str()?;
            (!["", "Completed"].contains(&reason)).then(|| reason.to_owned())
        })
    });
    let text = |field: &str| status[field].as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    let state = if pod["metadata"]["deletionTimestamp"].is_null() {
        text("reason").or(waiting).or_else(|| text("phase")).unwrap_or_else(|| "Pending".into())
    } else {
        "Terminating".into()
    };
    let conditions = list("conditions");
    let is_ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
    State { status: state, ready: format!("{ready}/{wanted}"), is_ready }
}

impl Row {
    fn is_problem(&self) -> bool {
        let over = ["Succeeded", "Completed"].contains(&self.proxy.status.as_str());
        let differs = self.delegate.as_ref().is_none_or(|delegate| delegate.state != self.proxy);
        !over && (!self.proxy.is_ready || differs)
    }
}

fn text(palette: Palette, rows: &[Row]) -> String {
    let state = |state: &State| {
        let tone = match state.status.as_str() {
            _ if state.is_ready => Tone::Good,
            "Succeeded" | "Completed" => Tone::Faint,
            "Running" | "Pending" | "Terminating" | "ContainerCreating" | "PodInitializing" => Tone::Doubtful,
            _ => Tone::Bad,
        };
        Cell::new(format!("{} {}", state.status, state.ready), tone)
    };
    let cells = |row: &Row| {
        let delegate = match (&row.delegate, &row.unknown) {
            (Some(delegate), _) => state(&delegate.state),
            (None, Some(_)) => Cell::new("unknown", Tone::Doubtful),
            (None, None) => Cell::new("none", Tone::Bad),
        };
        let place = row.delegate.as_ref().map(|delegate| {
            // Where it has another name there, that is worth to know.
            let same = delegate.namespace == row.namespace && delegate.name == row.name;
            let name = if same { String::new() } else { format!("{}/{} ", delegate.namespace, delegate.name) };
            format!("{name}{}", delegate.node.as_deref().map_or(String::new(), |node| format!("on {node}")))
        });
        vec![
            Cell::from(&row.namespace),
            Cell::from(&row.name),
            Cell::from(&row.node),
            state(&row.proxy),
            Cell::from(row.target.as_deref().unwrap_or_default()),
            delegate,
            Cell::from(place.unwrap_or_default()),
            Cell::from(row.feedback_seconds.map_or(String::new(), age)),
            Cell::from(row.age_seconds.map_or(String::new(), age)),
        ]
    };
    let titles = ["NAMESPACE", "POD", "NODE", "PROXY", "TARGET", "DELEGATE", "WHERE", "FEEDBACK", "AGE"];
    let mut text = table(palette, &titles, &rows.iter().map(cells).collect::<Vec<_>>());
    let unknown: BTreeSet<&str> = rows.iter().filter_map(|row| row.unknown.as_deref()).collect();
    for reason in unknown {
        _ = writeln!(text, "\nunknown: {}", super::show::clean(reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> Value {
        json!({"metadata": {"namespace": "shop", "name": "web", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
            "managedFields": [
                {"manager": "longshore", "subresource": "status", "time": "2026-01-01T00:00:10Z"},
                {"manager": "kube-scheduler", "subresource": "status", "time": "2026-01-01T00:00:50Z"}]},
            "spec": {"containers": [{}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{"ready": true, "state": {"running": {}}}]}})
    }

    fn delegate(uid: &str) -> Value {
        json!({"metadata": {"namespace": "shop", "name": "web-1", "labels": {names::UID: uid}},
            "spec": {"containers": [{}], "nodeName": "n1"},
            "status": {"phase": "Running", "containerStatuses": [{"ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}})
    }

    #[test]
    fn a_delegate_is_found_wherever_it_is() {
        let delegates = [("east".into(), Ok(vec![delegate("x")])), ("west".into(), Ok(vec![delegate("u")]))].into();
        let row = row(&proxy(), "both", &["east", "west"], &delegates, 1_767_225_600 + 70);
        assert_eq!((row.target.as_deref(), row.feedback_seconds, row.age_seconds), (Some("west"), Some(60), Some(70)));
        assert!(row.is_problem(), "the two differ");
        let shown = text(Palette::plain(), &[row]);
        assert!(shown.contains("Running 1/1   west     CrashLoopBackOff 0/1   shop/web-1 on n1   60s"), "{shown}");
    }

    #[test]
    fn no_delegate_and_no_answer_are_two_things() {
        let none = row(&proxy(), "east", &["east"], &[("east".into(), Ok(vec![]))].into(), 0);
        assert_eq!((none.delegate.is_some(), none.unknown), (false, None));
        let silent = row(&proxy(), "east", &["east"], &[("east".into(), Err("refused".into()))].into(), 0);
        assert_eq!(silent.unknown.as_deref(), Some("target east: refused"));
        assert!(text(Palette::plain(), &[silent]).ends_with("\nunknown: target east: refused\n"));
    }
}
