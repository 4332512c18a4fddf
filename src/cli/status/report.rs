//! PURE  what was seen of all clusters -> how they are, and what is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::name;
use crate::cli::clusters::{Resources, text_of};
use crate::cli::show::{Cell, Palette, Tone, age, clean, count as counted, table};

/// What a target answered: its version, and how long that took.
pub(in crate::cli) type Answer = Result<(String, Duration), String>;

/// A pod that waits for longer is a problem.
const PATIENT: i64 = 120;

/// A pod that is being deleted for longer than this beyond its grace period is a problem.
const STUCK: i64 = 120;

/// A certificate that ends sooner is a problem.
const RENEW: i64 = 14 * 86_400;

/// What was seen.
pub(in crate::cli) struct Sight {
    pub(in crate::cli) declared: Resources,
    /// Nodes of the host.
    pub(in crate::cli) nodes: Vec<Value>,
    /// Their pods.
    pub(in crate::cli) pods: BTreeMap<String, Vec<Value>>,
    /// What targets answered, by name; those are missing that were not asked.
    pub(in crate::cli) answers: BTreeMap<String, Answer>,
    /// When client certificates end.
    pub(in crate::cli) certificates: BTreeMap<String, i64>,
    /// Seconds since 1970.
    pub(in crate::cli) now: i64,
}

/// How it all is.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Report {
    targets: Vec<TargetRow>,
    nodes: Vec<NodeRow>,
    pub(in crate::cli) problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TargetRow {
    name: String,
    /// `True`, `False` or `Unknown`.
    ready: String,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delegates: Option<u64>,
    /// Used and allocatable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// As this command saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_milliseconds: Option<u64>,
    cordoned: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeRow {
    name: String,
    ready: String,
    reason: String,
    targets: Vec<String>,
    #[serde(flatten)]
    pods: Pods,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<i64>,
    cordoned: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Pods {
    running: usize,
    pending: usize,
    failed: usize,
    succeeded: usize,
    terminating: usize,
}

/// Something that is wrong.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct Problem {
    /// `target east`
    about: String,
    what: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: &'static str,
}

/// Judges what was seen.
pub(in crate::cli) fn judge(sight: &Sight) -> Report {
    let mut report = Report::default();
    for target in &sight.declared.targets {
        judge_target(sight, target, &mut report);
    }
    let named: BTreeSet<&str> = sight.declared.nodes.iter().flat_map(targets_of).collect();
    let taken: BTreeSet<&str> = sight.declared.nodes.iter().map(name).collect();
    for declared in &sight.declared.nodes {
        judge_node(sight, name(declared), &targets_of(declared), declared, &mut report);
    }
    let lonely = sight.declared.targets.iter().map(name).filter(|one| !named.contains(one) && !taken.contains(one));
    for target in lonely {
        judge_node(sight, target, &[target], &Value::Null, &mut report);
    }
    report
}

fn targets_of(node: &Value) -> Vec<&str> {
    node["spec"]["targets"].as_array().into_iter().flatten().map(|target| text_of(target, "name")).collect()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == kind)
}

fn problem(about: &str, what: impl Into<String>, remedy: &'static str) -> Problem {
    Problem { about: about.into(), what: what.into(), remedy }
}

fn judge_target(sight: &Sight, target: &Value, report: &mut Report) {
    let (name, status) = (name(target), &target["status"]);
    let about = format!("target {name}");
    let answer = sight.answers.get(name);
    let in_api = !target["metadata"]["uid"].is_null();
    // A file has no status: what can be known of such a target is whether it answers.
    let (ready, reason) = match (condition(target, "Ready"), answer) {
        (Some(ready), _) => (text_of(ready, "status").to_owned(), text_of(ready, "reason").to_owned()),
        (None, Some(Ok(_))) if !in_api => ("True".into(), "Answers".into()),
        (None, Some(Err(_))) if !in_api => ("False".into(), "Unreachable".into()),
        (None, _) => ("Unknown".into(), String::new()),
    };
    match condition(target, "Ready") {
        Some(condition) if condition["status"] != "True" => {
            let message = text_of(condition, "message");
            let what = if message.is_empty() { format!("is not ready: {reason}") } else { message.to_owned() };
            report.problems.push(problem(&about, what, ""));
        }
        None if in_api => {
            let remedy = "start `longshore run`, or see to it that its --selector has this Target";
            report.problems.push(problem(&about, "no Longshore has looked at it", remedy));
        }
        Some(_) | None => {}
    }
    let accepted = condition(target, "Accepted").filter(|one| one["status"] == "False" && ready == "True");
    if let Some(accepted) = accepted {
        report.problems.push(problem(&about, text_of(accepted, "message"), ""));
    }
    // Longshore may well reach what this machine does not; and what neither does is one problem, in whosever words.
    let told = in_api && reason == "Unreachable";
    if let Some(Err(reason)) = answer
        && (!in_api || (ready != "True" && !told))
        && !report.problems.iter().any(|one| one.about == about && one.what.contains(reason.as_str()))
    {
        report.problems.push(problem(&about, reason.clone(), ""));
    }
    if let Some(end) = sight.certificates.get(name).filter(|end| **end - sight.now < RENEW) {
        let left = *end - sight.now;
        let what = if left > 0 {
            format!("its client certificate ends in {}", age(left))
        } else {
            "its client certificate has ended".into()
        };
        report.problems.push(problem(&about, what, "put a kubeconfig with a new one into its Secret or file"));
    }
    let usage = |field: &str| status["usage"][field].as_str().map(ToOwned::to_owned);
    let version = status["version"].as_str().map(ToOwned::to_owned);
    report.targets.push(TargetRow {
        name: name.into(),
        ready,
        reason,
        version: version.or_else(|| Some(answer?.as_ref().ok()?.0.clone())),
        nodes: status["nodes"].as_u64(),
        delegates: status["delegates"].as_u64(),
        pods: usage("pods"),
        cpu: usage("cpu"),
        memory: usage("memory"),
        latency_milliseconds: answer.and_then(|answer| {
            let took = answer.as_ref().ok()?.1.as_millis();
            u64::try_from(took).ok()
        }),
        cordoned: target["spec"]["cordoned"] == true,
    });
}

fn judge_node(sight: &Sight, declared: &str, targets: &[&str], resource: &Value, report: &mut Report) {
    let about = format!("node {declared}");
    if let Some(accepted) = condition(resource, "Accepted").filter(|one| one["status"] == "False") {
        report.problems.push(problem(&about, text_of(accepted, "message"), ""));
    }
    let label = crate::run::drain::WHOLE;
    let parts: Vec<&Value> = sight
        .nodes
        .iter()
        .filter(|node| name(node) == declared || node["metadata"]["labels"][label] == declared)
        .collect();
    if parts.is_empty() {
        let remedy = "it comes with the first answer of its target; is `longshore run` running?";
        report.problems.push(problem(&about, "there is no such Node in the host yet", remedy));
    }
    for node in parts {
        let ready = condition(node, "Ready").unwrap_or(&Value::Null);
        let name = name(node);
        let about = format!("node {name}");
        if ready["status"] != "True" {
            let what = format!("is not ready: {}: {}", text_of(ready, "reason"), text_of(ready, "message"));
            // The host's own word for a node whose Lease nobody renews.
            let silent = ready["reason"] == "NodeStatusUnknown";
            let remedy = if silent { "nobody keeps it; is `longshore run` running?" } else { "" };
            report.problems.push(problem(&about, what, remedy));
        }
        let pods = sight.pods.get(name).map_or(&[][..], Vec::as_slice);
        judge_pods(sight.now, pods, report);
        report.nodes.push(NodeRow {
            name: name.into(),
            ready: text_of(ready, "status").into(),
            reason: text_of(ready, "reason").into(),
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            pods: count(pods),
            age_seconds: seconds(&node["metadata"]["creationTimestamp"]).map(|made| sight.now - made),
            cordoned: node["spec"]["unschedulable"] == true,
        });
    }
}

fn seconds(time: &Value) -> Option<i64> {
    time.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

fn count(pods: &[Value]) -> Pods {
    let mut count = Pods::default();
    for pod in pods {
        let place = match text_of(&pod["status"], "phase") {
            _ if !pod["metadata"]["deletionTimestamp"].is_null() => &mut count.terminating,
            "Running" => &mut count.running,
            "Failed" => &mut count.failed,
            "Succeeded" => &mut count.succeeded,
            _ => &mut count.pending,
        };
        *place += 1;
    }
    count
}

fn judge_pods(now: i64, pods: &[Value], report: &mut Report) {
    for pod in pods {
        let about = format!("pod {}/{}", text_of(&pod["metadata"], "namespace"), text_of(&pod["metadata"], "name"));
        if let Some(since) = seconds(&pod["metadata"]["deletionTimestamp"]) {
            if now - since > STUCK {
                let what = format!("should have ended {} ago", age(now - since));
                report.problems.push(problem(&about, what, "its end is not known while its target does not answer"));
            }
            continue;
        }
        let waits = seconds(&pod["metadata"]["creationTimestamp"]).is_some_and(|made| now - made > PATIENT);
        if waits && text_of(&pod["status"], "phase") == "Pending" {
            let (reason, message) = why(pod);
            let what = format!("waits: {reason}{}{message}", if message.is_empty() { "" } else { ": " });
            report.problems.push(problem(&about, what, "`longshore explain` and its events say more"));
        }
    }
}

/// Why a pod does not run.
fn why(pod: &Value) -> (String, String) {
    let waiting = ["initContainerStatuses", "containerStatuses"]
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten()
        .map(|container| &container["state"]["waiting"])
        .find(|waiting| !["", "PodInitializing", "ContainerCreating"].contains(&text_of(waiting, "reason")));
    let unmet = || {
        let conditions = pod["status"]["conditions"].as_array()?;
        conditions.iter().find(|one| one["status"] == "False" && !text_of(one, "message").is_empty())
    };
    let said = waiting.or_else(unmet).unwrap_or(&pod["status"]);
    let reason = text_of(said, "reason");
    (if reason.is_empty() { "Pending".into() } else { reason.into() }, text_of(said, "message").into())
}

impl Report {
    /// As a person reads it.
    pub(super) fn text(&self, palette: Palette) -> String {
        let mut text = String::new();
        let optional = |value: Option<&String>| Cell::from(value.map_or("", String::as_str));
        let state = |ready: &str, cordoned: bool| {
            let closed = if cordoned { ",Cordoned" } else { "" };
            match ready {
                "True" => Cell::new(format!("Ready{closed}"), if cordoned { Tone::Doubtful } else { Tone::Good }),
                "False" => Cell::new(format!("NotReady{closed}"), Tone::Bad),
                _ => Cell::new(format!("Unknown{closed}"), Tone::Doubtful),
            }
        };
        if self.targets.is_empty() {
            return "no Target is declared; `longshore join NAME --kubeconfig FILE` declares one\n".into();
        }
        let rows: Vec<Vec<Cell>> = self
            .targets
            .iter()
            .map(|row| {
                let latency = row.latency_milliseconds;
                let tone = latency.map_or(Tone::Faint, |took| if took > 1000 { Tone::Doubtful } else { Tone::Plain });
                vec![
                    Cell::from(&row.name),
                    state(&row.ready, row.cordoned),
                    optional(row.version.as_ref()),
                    Cell::from(row.nodes.map_or(String::new(), |nodes| nodes.to_string())),
                    optional(row.pods.as_ref()),
                    optional(row.cpu.as_ref()),
                    optional(row.memory.as_ref()),
                    Cell::new(latency.map_or(String::new(), |took| format!("{took}ms")), tone),
                ]
            })
            .collect();
        text += &table(palette, &["TARGET", "STATUS", "VERSION", "NODES", "PODS", "CPU", "MEMORY", "LATENCY"], &rows);
        text.push('\n');
        let number =
            |count: usize, tone: Tone| Cell::new(count.to_string(), if count == 0 { Tone::Faint } else { tone });
        let rows: Vec<Vec<Cell>> = self
            .nodes
            .iter()
            .map(|row| {
                vec![
                    Cell::from(&row.name),
                    state(&row.ready, row.cordoned),
                    Cell::from(row.targets.join(",")),
                    number(row.pods.running, Tone::Good),
                    number(row.pods.pending, Tone::Doubtful),
                    number(row.pods.failed, Tone::Bad),
                    number(row.pods.terminating, Tone::Doubtful),
                    Cell::from(row.age_seconds.map_or(String::new(), age)),
                ]
            })
            .collect();
        let titles = ["NODE", "STATUS", "TARGETS", "RUNNING", "PENDING", "FAILED", "TERMINATING", "AGE"];
        text += &table(palette, &titles, &rows);
        if !self.problems.is_empty() {
            _ = writeln!(text, "\n{}", palette.paint(Tone::Bad, &counted(self.problems.len(), "problem")));
        }
        for Problem { about, what, remedy } in &self.problems {
            _ = writeln!(text, "  {} {}", palette.paint(Tone::Strong, &format!("{}:", clean(about))), clean(what));
            if !remedy.is_empty() {
                _ = writeln!(text, "    {}", palette.paint(Tone::Faint, remedy));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sight() -> Sight {
        let ready = json!([{"type": "Ready", "status": "True", "reason": "Ready", "message": ""}]);
        let made = "2026-01-01T00:00:00Z";
        Sight {
            declared: Resources {
                targets: vec![json!({"metadata": {"name": "east", "uid": "u"}, "status": {"conditions": ready,
                    "version": "v1.35.4", "nodes": 3, "usage": {"pods": "2/110", "cpu": "0.2/4", "memory": "1/8Gi"}}})],
                nodes: vec![],
            },
            nodes: vec![
                json!({"metadata": {"name": "east", "creationTimestamp": made}, "status": {"conditions": ready}}),
            ],
            pods: BTreeMap::new(),
            answers: [("east".to_owned(), Ok(("v1.35.4".to_owned(), Duration::from_millis(7))))].into(),
            certificates: BTreeMap::new(),
            now: made.parse::<Timestamp>().unwrap().as_second() + 300,
        }
    }

    fn pod(phase: &str, status: &Value) -> Value {
        let mut pod = json!({"metadata": {"namespace": "shop", "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": status});
        pod["status"]["phase"] = phase.into();
        pod
    }

    #[test]
    fn what_is_well_has_no_problems() {
        let report = judge(&sight());
        assert_eq!(report.problems.len(), 0, "{:?}", report.problems);
        let text = report.text(Palette::plain());
        let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "east Ready v1.35.4 3 2/110 0.2/4 1/8Gi 7ms");
        assert_eq!(lines[4], "east Ready east 0 0 0 0 5m");
    }

    #[test]
    fn what_nobody_serves_and_nobody_keeps_is_told_with_a_remedy() {
        let mut seen = sight();
        seen.declared.targets[0]["status"] = Value::Null;
        seen.nodes[0]["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown",
            "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."}]);
        let report = judge(&seen);
        let told: Vec<_> = report.problems.iter().map(|one| (one.about.as_str(), one.remedy)).collect();
        assert!(told[0].0 == "target east" && told[0].1.contains("longshore run"), "{told:?}");
        assert!(told[1].0 == "node east" && told[1].1.contains("nobody keeps it"), "{told:?}");
        seen.nodes.clear();
        assert!(judge(&seen).problems[1].what.contains("no such Node"));
    }

    #[test]
    fn a_pod_that_waits_for_long_says_why() {
        let mut seen = sight();
        let waiting =
            json!({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no"}}}]});
        let mut ending = pod("Running", &json!({}));
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:01Z".into();
        seen.pods.insert("east".into(), vec![pod("Pending", &waiting), pod("Running", &json!({})), ending]);
        let report = judge(&seen);
        assert_eq!(report.problems[0].what, "waits: ImagePullBackOff: no");
        assert!(report.problems[1].what.starts_with("should have ended"), "{:?}", report.problems);
        assert_eq!(report.nodes[0].pods, Pods { running: 1, pending: 1, terminating: 1, ..Pods::default() });
        seen.now -= 250;
        assert!(judge(&seen).problems.is_empty(), "not yet");
    }

    #[test]
    fn a_target_of_a_file_is_judged_by_its_answer() {
        let mut seen = sight();
        seen.declared.targets = vec![json!({"metadata": {"name": "east"}, "spec": {}})];
        assert_eq!((judge(&seen).targets[0].ready.as_str(), judge(&seen).problems.len()), ("True", 0));
        seen.answers.insert("east".into(), Err("refused".into()));
        assert_eq!(judge(&seen).problems[0].what, "refused");
    }

    #[test]
    fn what_neither_longshore_nor_this_machine_reaches_is_one_problem() {
        let mut seen = sight();
        seen.answers.insert("east".into(), Err("failed to reach https://east: timed out".into()));
        assert_eq!(judge(&seen).problems.len(), 0, "Longshore does");
        let ready = |reason: &str| {
            json!([{"type": "Ready", "status": "False", "reason": reason,
                "message": "failed to reach https://east: no route to it"}])
        };
        seen.declared.targets[0]["status"]["conditions"] = ready("Unreachable");
        assert_eq!(judge(&seen).problems.len(), 1);
        seen.declared.targets[0]["status"]["conditions"] = ready("CapacityUnknown");
        assert_eq!(judge(&seen).problems.len(), 2);
    }

    #[test]
    fn certificates_that_end_soon_are_told() {
        let mut seen = sight();
        seen.certificates.insert("east".into(), seen.now + 86_400 * 3);
        assert_eq!(judge(&seen).problems[0].what, "its client certificate ends in 3d");
    }
}
