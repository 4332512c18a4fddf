//! What tools read of CPU and memory: the summary (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`) and the resource metrics
//! (`pkg/kubelet/metrics/collectors/resource_metrics.go`).

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::meter::{Measured, Meter, Reading};
use super::{PodDirectory, Running};
use crate::kubelet::provider::{StreamError, StreamHandler, Usage};

/// For how long a measurement serves others who ask, too. Metrics APIs have news every 10 s at most.
const FRESH: Duration = Duration::from_secs(3);

/// How long the provider may take; metrics-server gives up after 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// Measures while somebody asks.
pub(super) struct Stats {
    streams: Arc<dyn StreamHandler>,
    pods: Arc<dyn PodDirectory>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    meter: Meter,
    last: Option<(Instant, Arc<Reading>)>,
}

impl Stats {
    pub(super) fn new(streams: Arc<dyn StreamHandler>, pods: Arc<dyn PodDirectory>) -> Self {
        Self { streams, pods, state: Mutex::default() }
    }

    /// What is used now. Those who ask at the same time wait for one answer.
    pub(super) async fn read(&self) -> Result<Arc<Reading>, StreamError> {
        let mut state = self.state.lock().await;
        if let Some((when, reading)) = &state.last
            && when.elapsed() < FRESH
            && knows(reading, &self.pods.running())
        {
            return Ok(reading.clone());
        }
        let gap = |why: String| Usage { pods: vec![], gaps: vec![why] };
        let usage = match timeout(PATIENCE, self.streams.usage()).await {
            Ok(Ok(usage)) => usage,
            Ok(Err(error @ StreamError::Unsupported(_))) => return Err(error),
            Ok(Err(error)) => gap(crate::errors::chain(&error)),
            Err(_) => gap(format!("no measurement within {} s", PATIENCE.as_secs())),
        };
        // After the usage: what was measured is known by now.
        let reading = Arc::new(state.meter.count(usage, self.pods.running(), Timestamp::now()));
        state.last = Some((Instant::now(), reading.clone()));
        Ok(reading)
    }
}

/// Whether all pods that run were there when it was read: whoever has just seen one start finds it.
fn knows(reading: &Reading, running: &[Running]) -> bool {
    let known: HashSet<&str> = reading.pods.iter().map(|pod| pod.key.uid.as_str()).collect();
    running.iter().all(|pod| known.contains(pod.key.uid.as_str()))
}

/// The summary of a node since `started`. Of network, file systems and volumes nothing is known, so that the short form is
/// the whole one.
pub(super) fn summary(node: &str, started: Timestamp, reading: &Reading) -> Value {
    let pods: Vec<Value> = reading
        .pods
        .iter()
        .map(|pod| {
            let containers: Vec<Value> = pod
                .containers
                .iter()
                .map(|one| with(json!({"name": one.name, "startTime": seconds(one.started)}), one.measured))
                .collect();
            let key = &pod.key;
            let mut stats = json!({
                "podRef": {"name": key.name, "namespace": key.namespace, "uid": key.uid},
                "containers": containers,
            });
            // The field has no "unknown"; a pod without one has just been made.
            stats["startTime"] = seconds(pod.started.unwrap_or(started)).into();
            with(stats, pod.measured)
        })
        .collect();
    json!({"node": with(json!({"nodeName": node, "startTime": seconds(started)}), reading.node), "pods": pods})
}

fn with(mut stats: Value, measured: Option<Measured>) -> Value {
    if let (Some(Measured { at, nanoseconds, nanocores, memory }), Some(stats)) = (measured, stats.as_object_mut()) {
        let stats: &mut Map<String, Value> = stats;
        let time = seconds(at);
        stats.insert(
            "cpu".into(),
            json!({"time": time, "usageNanoCores": nanocores, "usageCoreNanoSeconds": nanoseconds}),
        );
        stats.insert("memory".into(), json!({"time": time, "workingSetBytes": memory}));
    }
    stats
}

/// As `metav1.Time` is written: without fractions.
fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// The resource metrics, in the text format of Prometheus.
///
/// A container that has not been measured yet counts 0 at the moment of its start, where its counter began; one that
/// cannot be measured is left out.
pub(super) fn resource_metrics(reading: &Reading) -> String {
    let mut page = Page::default();
    let (counter, gauge) = ("counter", "gauge");
    let failed = !reading.gaps.is_empty();
    let containers = || {
        reading.pods.iter().flat_map(|pod| {
            pod.containers.iter().map(move |one| {
                let labels =
                    format!(r#"{{container="{}",pod="{}",namespace="{}"}}"#, one.name, pod.key.name, pod.key.namespace);
                (labels, one)
            })
        })
    };
    page.family("container_cpu_usage_seconds_total", counter, "CPU used by the container, in seconds of one core");
    for (labels, one) in containers() {
        match one.measured {
            Some(measured) => page.sample(&labels, &cpu(measured.nanoseconds), Some(measured.at)),
            None if failed => {}
            None => page.sample(&labels, "0", Some(one.started)),
        }
    }
    page.family("container_memory_working_set_bytes", gauge, "Working set of the container");
    for (labels, one) in containers() {
        if let Some(measured) = one.measured {
            page.sample(&labels, &measured.memory.to_string(), Some(measured.at));
        }
    }
    page.family("container_start_time_seconds", gauge, "Start of the container, in seconds since 1970");
    for (labels, one) in containers() {
        page.sample(&labels, &one.started.as_second().to_string(), None);
    }
    if let Some(node) = reading.node {
        page.family("node_cpu_usage_seconds_total", counter, "CPU used by the node's pods, in seconds of one core");
        page.sample("", &cpu(node.nanoseconds), Some(node.at));
        page.family("node_memory_working_set_bytes", gauge, "Working set of the node's pods");
        page.sample("", &node.memory.to_string(), Some(node.at));
    }
    let pods = || {
        reading.pods.iter().map(|pod| (format!(r#"{{namespace="{}",pod="{}"}}"#, pod.key.namespace, pod.key.name), pod))
    };
    page.family("pod_cpu_usage_seconds_total", counter, "CPU used by the pod, in seconds of one core");
    for (labels, pod) in pods() {
        match (pod.measured, pod.started) {
            (Some(measured), _) => page.sample(&labels, &cpu(measured.nanoseconds), Some(measured.at)),
            (None, Some(started)) if !failed => page.sample(&labels, "0", Some(started)),
            _ => {}
        }
    }
    page.family("pod_memory_working_set_bytes", gauge, "Working set of the pod");
    for (labels, pod) in pods() {
        if let Some(measured) = pod.measured {
            page.sample(&labels, &measured.memory.to_string(), Some(measured.at));
        }
    }
    page.family("resource_scrape_error", gauge, "1 if some pods could not be measured");
    page.sample("", if failed { "1" } else { "0" }, None);
    page.0
}

/// Nanoseconds as seconds, exactly.
fn cpu(nanoseconds: u64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

/// A page of metrics as it grows: the last family names its samples.
#[derive(Default)]
pub(super) struct Page(pub(super) String, &'static str);

impl Page {
    pub(super) fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.1 = name;
        // Writing to a String cannot fail.
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Labels are those of Kubernetes, in which nothing needs to be escaped.
    pub(super) fn sample(&mut self, labels: &str, value: &str, at: Option<Timestamp>) {
        let name = self.1;
        _ = match at {
            Some(at) => writeln!(self.0, "{name}{labels} {value} {}", at.as_millisecond()),
            None => writeln!(self.0, "{name}{labels} {value}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::meter::tests::{at, running, usage};
    use super::*;

    fn reading() -> Reading {
        let usage = Usage { pods: vec![usage("a", at(10), 250_000_000, 4096)], gaps: vec![] };
        Meter::default().count(usage, vec![running("a", at(0)), running("new", at(9))], at(11))
    }

    #[test]
    fn resource_metrics_as_metrics_server_reads_them() {
        let page = resource_metrics(&reading());
        for line in [
            r#"container_cpu_usage_seconds_total{container="main",pod="a",namespace="ns"} 2.500000000 1800000010000"#,
            r#"container_cpu_usage_seconds_total{container="main",pod="new",namespace="ns"} 0 1800000009000"#,
            r#"container_memory_working_set_bytes{container="main",pod="a",namespace="ns"} 4096 1800000010000"#,
            r#"container_start_time_seconds{container="main",pod="a",namespace="ns"} 1800000000"#,
            "node_cpu_usage_seconds_total 0.000001000 1800000011000",
            "node_memory_working_set_bytes 4096 1800000011000",
            r#"pod_cpu_usage_seconds_total{namespace="ns",pod="a"} 2.500000000 1800000010000"#,
            "resource_scrape_error 0",
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains(r#"memory_working_set_bytes{container="main",pod="new""#), "{page}");
    }

    #[test]
    fn what_cannot_be_measured_is_an_error_and_no_number() {
        let usage = Usage { pods: vec![], gaps: vec!["why".into()] };
        let page = resource_metrics(&Meter::default().count(usage, vec![running("a", at(0))], at(1)));
        assert!(page.contains("resource_scrape_error 1"), "{page}");
        assert!(
            !page.contains("cpu_usage_seconds_total{") && !page.contains("node_cpu_usage_seconds_total 0"),
            "{page}"
        );
    }

    #[test]
    fn a_summary_of_node_and_pods() {
        let summary = summary("virtual", at(-50), &reading());
        assert_eq!(summary["node"]["nodeName"], "virtual");
        assert_eq!(summary["node"]["memory"]["workingSetBytes"], 4096);
        assert_eq!(summary["pods"][0]["podRef"], json!({"name": "a", "namespace": "ns", "uid": "uid-a"}));
        let container = &summary["pods"][0]["containers"][0];
        assert_eq!((&container["name"], &container["startTime"]), (&json!("main"), &json!("2027-01-15T08:00:00Z")));
        assert_eq!(container["cpu"]["usageNanoCores"], 250_000_000);
        assert_eq!(container["cpu"]["usageCoreNanoSeconds"], 2_500_000_000_u64);
        assert_eq!(summary["pods"][1]["containers"].as_array().unwrap().len(), 1, "it is there before it is measured");
        assert!(summary["pods"][1]["cpu"].is_null(), "{summary}");
    }
}
