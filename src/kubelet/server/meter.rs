//! From rates to counters: what tools read from a kubelet are seconds of CPU that only grow, and what a provider can say are
//! averages over the last seconds.
//!
//! Between two measurements a container has used the later one's average. A counter begins when its container is first
//! measured and again when it has restarted, which its start time tells; its reader sees the same rate as the provider.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::Running;
use crate::kubelet::provider::{ContainerUsage, PodKey, PodUsage, Usage};

/// Where counters begin, in nanoseconds: whatever runs has used some CPU, and readers take 0 for "not measured".
const FIRST: u64 = 1_000;

/// The counters of one node.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pods: HashMap<String, PodCounter>,
    /// All that was ever counted, so that it does not shrink with a pod that goes.
    node: u64,
    /// When the node was last counted.
    at: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct PodCounter {
    nanoseconds: u64,
    containers: HashMap<String, Counter>,
}

/// The CPU of one run of a container.
#[derive(Debug)]
struct Counter {
    started: Timestamp,
    at: Timestamp,
    nanoseconds: u64,
}

/// What node, pods and containers have used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// The sums; `None` before anything was measured.
    pub(super) node: Option<Measured>,
    /// In order of namespace and name.
    pub(super) pods: Vec<PodReading>,
    /// Why something is missing.
    pub(super) gaps: Vec<String>,
}

/// What one pod has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodReading {
    pub(super) key: PodKey,
    pub(super) started: Option<Timestamp>,
    /// The sums; `None` before it was measured.
    pub(super) measured: Option<Measured>,
    /// In order of their names; those that run.
    pub(super) containers: Vec<ContainerReading>,
}

/// What one container has used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerReading {
    pub(super) name: String,
    pub(super) started: Timestamp,
    /// `None` before it was measured.
    pub(super) measured: Option<Measured>,
}

/// A measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) at: Timestamp,
    /// CPU used so far, in nanoseconds of one core.
    pub(super) nanoseconds: u64,
    /// CPU in use, in billionths of a core.
    pub(super) nanocores: u64,
    /// The working set, in bytes.
    pub(super) memory: u64,
}

impl Meter {
    /// Counts what the provider has measured of the pods that run. What does not run any more is forgotten.
    pub(super) fn count(&mut self, usage: Usage, running: Vec<Running>, now: Timestamp) -> Reading {
        let mut measured: HashMap<String, PodUsage> =
            usage.pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        let mut known = std::mem::take(&mut self.pods);
        let mut pods = Vec::with_capacity(running.len());
        for Running { key, status } in running {
            let mut counter = known.remove(&key.uid).unwrap_or_default();
            let pod = measured.remove(&key.uid);
            pods.push(counter.count(key.clone(), &status, pod.as_ref()));
            self.pods.insert(key.uid, counter);
        }
        pods.sort_by(|one, other| one.key.namespace.cmp(&other.key.namespace).then(one.key.name.cmp(&other.key.name)));
        let node = self.node(&pods, now);
        Reading { node, pods, gaps: usage.gaps }
    }

    fn node(&mut self, pods: &[PodReading], now: Timestamp) -> Option<Measured> {
        let sums = pods.iter().filter_map(|pod| pod.measured);
        let (nanocores, memory) = sums.fold((0_u64, 0_u64), |(cores, bytes), pod| {
            (cores.saturating_add(pod.nanocores), bytes.saturating_add(pod.memory))
        });
        if memory == 0 && self.at.is_none() {
            return None;
        }
        let more = self.at.map_or(FIRST, |before| used(nanocores, between(before, now)));
        self.node = self.node.saturating_add(more);
        // A clock that was put back stands still until it has caught up.
        let at = self.at.map_or(now, |before| before.max(now));
        self.at = Some(at);
        Some(Measured { at, nanoseconds: self.node, nanocores, memory })
    }
}

impl PodCounter {
    fn count(&mut self, key: PodKey, status: &Value, usage: Option<&PodUsage>) -> PodReading {
        let mut before = std::mem::take(&mut self.containers);
        let mut containers = vec![];
        for (name, started) in running_containers(status) {
            let mut counter = before.remove(&name).filter(|counter| counter.started == started);
            let seen = usage.and_then(|pod| Some((pod, pod.containers.iter().find(|one| one.name == name)?)));
            // What was measured before it started was the run before this one.
            let seen = seen.filter(|(pod, _)| pod.at >= started);
            let measured = seen.map(|(pod, container)| self.advance(&mut counter, started, pod, container));
            self.containers.extend(counter.map(|counter| (name.clone(), counter)));
            containers.push(ContainerReading { name, started, measured });
        }
        containers.sort_by(|one, other| one.name.cmp(&other.name));
        let parts = containers.iter().filter_map(|one| one.measured);
        let sum = parts.reduce(|sum, part| Measured {
            at: sum.at.max(part.at),
            nanoseconds: 0,
            nanocores: sum.nanocores.saturating_add(part.nanocores),
            memory: sum.memory.saturating_add(part.memory),
        });
        let measured = sum.map(|sum| Measured { nanoseconds: self.nanoseconds, ..sum });
        PodReading { key, started: time(&status["startTime"]), measured, containers }
    }

    fn advance(
        &mut self,
        counter: &mut Option<Counter>,
        started: Timestamp,
        pod: &PodUsage,
        container: &ContainerUsage,
    ) -> Measured {
        let (span, known) = match counter.as_ref() {
            Some(counter) => (between(counter.at, pod.at), counter.nanoseconds),
            None => (pod.window.min(between(started, pod.at)), 0),
        };
        let least = if counter.is_none() { FIRST } else { 0 };
        let more = used(container.nanocores, span).max(least);
        self.nanoseconds = self.nanoseconds.saturating_add(more);
        let at = counter.as_ref().map_or(pod.at, |counter| counter.at.max(pod.at));
        let nanoseconds = known.saturating_add(more);
        *counter = Some(Counter { started, at, nanoseconds });
        Measured { at, nanoseconds, nanocores: container.nanocores, memory: container.memory }
    }
}

/// The containers of a status that run, with the time of their start.
fn running_containers(status: &Value) -> impl Iterator<Item = (String, Timestamp)> {
    let lists = ["initContainerStatuses", "containerStatuses"].map(|list| status[list].as_array());
    lists.into_iter().flatten().flatten().filter_map(|container| {
        let started = time(&container["state"]["running"]["startedAt"])?;
        Some((container["name"].as_str()?.to_owned(), started))
    })
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// The time from one moment to a later one; nothing if it is not later.
fn between(before: Timestamp, after: Timestamp) -> Duration {
    Duration::try_from(after.duration_since(before)).unwrap_or_default()
}

fn used(nanocores: u64, span: Duration) -> u64 {
    u64::try_from(u128::from(nanocores) * span.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(in crate::kubelet::server) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    pub(in crate::kubelet::server) fn running(name: &str, started: Timestamp) -> Running {
        let started = started.to_string();
        let status = json!({
            "startTime": started,
            "containerStatuses": [{"name": "main", "state": {"running": {"startedAt": started}}}],
        });
        Running { key: PodKey { namespace: "ns".into(), name: name.into(), uid: format!("uid-{name}") }, status }
    }

    pub(in crate::kubelet::server) fn usage(name: &str, at: Timestamp, nanocores: u64, memory: u64) -> PodUsage {
        let containers = vec![ContainerUsage { name: "main".into(), nanocores, memory }];
        PodUsage { uid: format!("uid-{name}"), at, window: Duration::from_secs(10), containers }
    }

    fn one(pod: PodUsage) -> Usage {
        Usage { pods: vec![pod], gaps: vec![] }
    }

    fn main_of(reading: &Reading) -> Measured {
        reading.pods[0].containers[0].measured.unwrap()
    }

    #[test]
    fn a_reader_sees_the_rates_of_the_provider() {
        let mut meter = Meter::default();
        let half = 500_000_000;
        let first = meter.count(one(usage("a", at(100), half, 7)), vec![running("a", at(0))], at(101));
        let again = meter.count(one(usage("a", at(100), half, 7)), vec![running("a", at(0))], at(103));
        assert_eq!(main_of(&first), main_of(&again), "the same measurement is no news");
        let later = meter.count(one(usage("a", at(120), half, 9)), vec![running("a", at(0))], at(121));
        let (first, later) = (main_of(&first), main_of(&later));
        assert_eq!(first.nanoseconds, 5_000_000_000, "half a core in the window");
        assert_eq!(later.nanoseconds - first.nanoseconds, 10_000_000_000, "half a core for 20 s");
        assert_eq!((later.at, later.memory), (at(120), 9));
    }

    #[test]
    fn a_restart_begins_anew_and_the_pod_goes_on() {
        let mut meter = Meter::default();
        let core = 1_000_000_000;
        let before = meter.count(one(usage("a", at(100), core, 1)), vec![running("a", at(0))], at(100));
        // The measurement is still of the run before.
        let between = meter.count(one(usage("a", at(100), core, 1)), vec![running("a", at(105))], at(106));
        assert_eq!(between.pods[0].containers[0].measured, None);
        let after = meter.count(one(usage("a", at(108), core, 1)), vec![running("a", at(105))], at(109));
        assert_eq!(main_of(&after).nanoseconds, 3_000_000_000, "no more than since its start");
        let of_pod = |reading: &Reading| reading.pods[0].measured.unwrap().nanoseconds;
        assert_eq!(of_pod(&after), of_pod(&before) + 3_000_000_000);
    }

    #[test]
    fn an_idle_container_has_used_something() {
        let mut meter = Meter::default();
        let reading = meter.count(one(usage("a", at(10), 0, 1)), vec![running("a", at(0))], at(10));
        assert!(main_of(&reading).nanoseconds > 0);
    }

    #[test]
    fn the_node_never_counts_backwards() {
        let mut meter = Meter::default();
        let both = || vec![running("b", at(0)), running("a", at(0))];
        let core = 1_000_000_000;
        let two = |second| Usage {
            pods: vec![usage("a", at(second), core, 10), usage("b", at(second), core, 5)],
            gaps: vec![],
        };
        let first = meter.count(two(10), both(), at(10));
        let second = meter.count(two(20), both(), at(20));
        assert_eq!(second.pods[0].key.name, "a", "in order");
        assert_eq!(second.node.unwrap().nanocores, 2 * core);
        assert_eq!(second.node.unwrap().memory, 15);
        let (one, two) = (first.node.unwrap().nanoseconds, second.node.unwrap().nanoseconds);
        assert_eq!(two - one, 20_000_000_000);
        let third = meter.count(Usage::default(), vec![], at(30)).node.unwrap();
        assert_eq!((third.nanoseconds, third.memory), (two, 0));
        assert!(meter.pods.is_empty(), "what has gone is forgotten");
        let back = meter.count(Usage::default(), vec![], at(5)).node.unwrap();
        assert_eq!((back.at, back.nanoseconds), (at(30), two));
    }

    #[test]
    fn what_was_not_measured_is_not_shown_as_nothing() {
        let gaps = vec!["no metrics".to_owned()];
        let usage = Usage { pods: vec![], gaps: gaps.clone() };
        let reading = Meter::default().count(usage, vec![running("a", at(0))], at(9));
        assert_eq!(reading.gaps, gaps);
        assert_eq!((reading.node, reading.pods[0].measured), (None, None));
        assert_eq!(reading.pods[0].containers[0].started, at(0), "but it is there");
    }
}
