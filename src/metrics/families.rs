//! Every metric by name, type, unit and labels: what the code encodes, and what docs/observability.md is generated from.

use std::array;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

/// A family of metrics with `N` labels.
#[derive(Debug)]
pub struct Family<const N: usize> {
    /// Its name without unit, and without the `_total` of counters.
    stem: &'static str,
    unit: Option<Unit>,
    kind: Kind,
    labels: [&'static str; N],
    help: &'static str,
}

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many were how large.
    Histogram,
}

/// A family in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its whole name, as queries have it; histograms have `_bucket`, `_sum` and `_count` after it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// `seconds`, `bytes`, or nothing for numbers of things.
    pub unit: String,
    /// The names of its labels.
    pub labels: Vec<&'static str>,
    /// What it means.
    pub help: &'static str,
}

impl Kind {
    /// The name in OpenMetrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl<const N: usize> Family<N> {
    const fn new(
        stem: &'static str,
        unit: Option<Unit>,
        kind: Kind,
        labels: [&'static str; N],
        help: &'static str,
    ) -> Self {
        Self { stem, unit, kind, labels, help }
    }

    /// Encodes the family, with the samples that `fill` adds.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn encode(
        &'static self,
        encoder: &mut DescriptorEncoder<'_>,
        fill: impl FnOnce(&mut Samples<'_, N>) -> fmt::Result,
    ) -> fmt::Result {
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let metric = encoder.encode_descriptor(self.stem, self.help, self.unit.as_ref(), kind)?;
        fill(&mut Samples { metric, labels: &self.labels })
    }

    /// In words.
    pub fn describe(&self) -> Description {
        let unit = self.unit.as_ref().map_or("", Unit::as_str);
        let parts = [self.stem, unit, if self.kind == Kind::Counter { "total" } else { "" }];
        Description {
            name: parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_"),
            kind: self.kind,
            unit: unit.to_owned(),
            labels: self.labels.to_vec(),
            help: self.help,
        }
    }
}

/// The samples of a family. The values of labels are in the order of their names.
pub struct Samples<'a, const N: usize> {
    metric: MetricEncoder<'a>,
    labels: &'static [&'static str; N],
}

impl<const N: usize> Samples<'_, N> {
    /// Adds a gauge.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn gauge(&mut self, labels: [&str; N], value: f64) -> fmt::Result {
        let labels: [_; N] = array::from_fn(|at| (self.labels[at], labels[at]));
        self.metric.encode_family(&labels)?.encode_gauge(&value)
    }

    /// Adds a number of things.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn number(&mut self, labels: [&str; N], value: usize) -> fmt::Result {
        let labels: [_; N] = array::from_fn(|at| (self.labels[at], labels[at]));
        self.metric.encode_family(&labels)?.encode_gauge(&value)
    }

    /// Adds a counter.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn counter(&mut self, labels: [&str; N], value: u64) -> fmt::Result {
        let labels: [_; N] = array::from_fn(|at| (self.labels[at], labels[at]));
        self.metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Adds a counter of time.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn seconds(&mut self, labels: [&str; N], value: f64) -> fmt::Result {
        let labels: [_; N] = array::from_fn(|at| (self.labels[at], labels[at]));
        self.metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    /// Adds a histogram.
    ///
    /// # Errors
    /// Those of the encoder.
    pub fn histogram(&mut self, labels: [&str; N], value: &Histogram) -> fmt::Result {
        let labels: [_; N] = array::from_fn(|at| (self.labels[at], labels[at]));
        value.encode(self.metric.encode_family(&labels)?)
    }
}

/// Declares the families, and [`all`] of them.
macro_rules! families {
    ($($name:ident: $kind:ident $stem:literal $(in $unit:ident)? [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $name: Family<{ <[&str]>::len(&[$($label),*]) }> =
                Family::new($stem, families!(@unit $($unit)?), Kind::$kind, [$($label),*], $help);
        )*

        /// All families, in the order of the docs.
        pub fn all() -> Vec<Description> {
            vec![$($name.describe()),*]
        }
    };
    (@unit) => { None };
    (@unit $unit:ident) => { Some(Unit::$unit) };
}

families! {
    POD_START: Histogram "longshore_pod_start_duration" in Seconds ["virtual_node", "target"]
        "From a pod's binding to its being ready at home";
    POD_START_STEP: Histogram "longshore_pod_start_step_duration" in Seconds ["virtual_node", "target", "step"]
        "The steps of that: create (bound to delegate created), run (created to ready there), report (ready there to ready at home)";
    POD_STOP: Histogram "longshore_pod_stop_duration" in Seconds ["virtual_node", "target"]
        "From a pod's deletion to its being gone at home, its grace period included";
    POD_STOP_STEP: Histogram "longshore_pod_stop_step_duration" in Seconds ["virtual_node", "target", "step"]
        "The steps of that: request (deleted to its delegate asked to stop), terminate (asked to gone there), remove (gone there to gone at home)";
    PODS: Gauge "longshore_pods" ["virtual_node", "target", "phase"]
        "Pods by the phase that home shows, or terminating; without a target as long as none is chosen";
    PODS_HELD: Gauge "longshore_pods_held" ["virtual_node", "target"]
        "Pods that something keeps from running or from following their spec; their events and conditions say what";
    RECORDS: Gauge "longshore_records" ["virtual_node"]
        "Pods that are remembered, on either side";
    QUEUE_PODS: Gauge "longshore_queue_pods" ["virtual_node"]
        "Pods that wait for a worker";
    QUEUE_AGE: Gauge "longshore_queue_age" in Seconds ["virtual_node"]
        "How long the first of them has waited";
    WORKERS: Gauge "longshore_workers" ["virtual_node"]
        "Pods of one target that may be worked on at a time";
    WORKERS_BUSY: Gauge "longshore_workers_busy" ["virtual_node", "target"]
        "Pods of the target that are worked on";
    WORKERS_WAITING: Gauge "longshore_workers_waiting_pods" ["virtual_node", "target"]
        "Pods that wait since as many of their target are worked on as may be";
    API_REQUESTS: Counter "longshore_api_requests" ["side", "target", "verb", "code"]
        "Requests to API servers by the status of the answer, repetitions included; the code 0 means that none came";
    API_DURATION: Histogram "longshore_api_request_duration" in Seconds ["side", "target", "verb"]
        "How long API servers took until they began to answer";
    WATCHES: Gauge "longshore_watches" ["side", "target"]
        "Watches that are open";
    WATCH_ENDS: Counter "longshore_watch_ends" ["side", "target", "how"]
        "Watches that have ended and began anew: closed by the API server, as it does from time to time, or broken";
    TARGET_ANSWERS: Gauge "longshore_target_answers" ["virtual_node", "target"]
        "1 if the target has answered its last heartbeat, else 0";
    TARGET_SILENCE: Gauge "longshore_target_silence" in Seconds ["virtual_node", "target"]
        "For how long the target counts as silent, so that its node is not ready; else 0";
    NODE_CAPACITY: Gauge "longshore_node_capacity" ["node", "resource"]
        "What the node shows as capacity, in the resource's own unit: cores, bytes, numbers";
    NODE_ALLOCATABLE: Gauge "longshore_node_allocatable" ["node", "resource"]
        "What pods may use of that";
    NODE_REQUESTED: Gauge "longshore_node_requested" ["node", "resource"]
        "What the pods of the node ask for";
    LEADER: Gauge "longshore_leader" ["node"]
        "1 if this replica keeps the node, 0 if it waits for that";
    SERVING_CERTIFICATE: Gauge "longshore_serving_certificate_expiry_timestamp" in Seconds ["node"]
        "When the certificate of the node's kubelet API ends, since 1970";
    CLIENT_CERTIFICATE: Gauge "longshore_client_certificate_expiry_timestamp" in Seconds ["side", "target"]
        "When the client certificate of a kubeconfig ends, since 1970; none for other credentials";
    BUILD: Gauge "longshore_build_info" ["version"]
        "Always 1; the label tells the version";
    CPU: Counter "process_cpu" in Seconds []
        "CPU used by this process";
    MEMORY: Gauge "process_resident_memory" in Bytes []
        "Memory of this process";
    FILES: Gauge "process_open_fds" []
        "Open files of this process";
    START: Gauge "process_start_time" in Seconds []
        "When this process began, since 1970";
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/observability.md");
    const MARKS: [&str; 2] = ["<!-- metrics: generated -->\n", "<!-- end of metrics -->\n"];

    fn table() -> String {
        let head = "| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n".to_owned();
        let row = |Description { name, kind, labels, help, .. }: Description| {
            let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {} | {} | {help} |\n", kind.name(), labels.join(" "))
        };
        std::iter::once(head).chain(all().into_iter().map(row)).collect()
    }

    /// `UPDATE_DOCS=1` writes the table anew.
    #[test]
    fn the_docs_have_every_metric_as_the_code_has_it() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (before, rest) = page.split_once(MARKS[0]).expect("no table");
        let (_, after) = rest.split_once(MARKS[1]).expect("the table has no end");
        let now = [before, MARKS[0], &table(), MARKS[1], after].concat();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(PAGE, &now).unwrap();
        }
        let page = std::fs::read_to_string(PAGE).unwrap();
        assert!(page == now, "docs/observability.md is out of date; run this test with UPDATE_DOCS=1");
    }

    #[test]
    fn names_follow_the_conventions() {
        for Description { name, kind, unit, labels, .. } in all() {
            assert!(name.starts_with("longshore_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
            assert!(kind != Kind::Histogram || unit == "seconds", "{name}");
            assert!(
                !labels.iter().any(|label| ["pod", "uid", "namespace"].contains(label)),
                "{name}: by nodes, never by pods"
            );
        }
    }
}
