//! How long the steps of pods take, for each virtual node and target. What belongs to nobody any more is not told any more.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::histogram::Histogram;

use crate::kubelet::way::{Observer, Passed, Step};
use crate::metrics::Metrics;
use crate::metrics::families::{POD_START, POD_START_STEP, POD_STOP, POD_STOP_STEP};
use crate::traces::Traces;

/// A pod of a warm image is there within a second; one that waits for room or an image may take some minutes.
const BUCKETS: [f64; 15] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

const START: [Step; 3] = [Step::Create, Step::Run, Step::Report];
const STOP: [Step; 3] = [Step::Request, Step::Terminate, Step::Remove];

/// All of them, by virtual node and target.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    known: Arc<Mutex<Known>>,
    traces: Option<Traces>,
}

type Known = BTreeMap<(String, String), Weak<Times>>;

/// The times of one target's pods.
#[derive(Debug)]
struct Times {
    start: Histogram,
    stop: Histogram,
    start_steps: [Histogram; 3],
    stop_steps: [Histogram; 3],
}

/// Counts the steps of one node's pods, and tells them to whoever keeps traces.
#[derive(Debug)]
struct Clerk {
    node: String,
    /// Names and times in the order of the node's sites.
    targets: Vec<(String, Arc<Times>)>,
    traces: Option<Traces>,
}

impl Ways {
    /// They are a part of these metrics from now on, and of traces, if somebody keeps any.
    pub(super) fn of(metrics: &Metrics, traces: Option<Traces>) -> Self {
        let ways = Self { traces, ..Self::default() };
        metrics.register(ways.clone());
        ways
    }

    /// Who counts for a node, which may be a part of a virtual node, with these targets in the order of its sites.
    pub(super) fn clerk(&self, node: &str, whole: &str, targets: &[String]) -> Arc<dyn Observer> {
        let mut known = self.lock();
        known.retain(|_, times| times.strong_count() > 0);
        let mut times = |target: &String| {
            let key = (whole.to_owned(), target.clone());
            let there = known.get(&key).and_then(Weak::upgrade);
            let times = there.unwrap_or_else(|| {
                let new = Arc::new(Times::new());
                known.insert(key, Arc::downgrade(&new));
                new
            });
            (target.clone(), times)
        };
        let targets = targets.iter().map(&mut times).collect();
        Arc::new(Clerk { node: node.to_owned(), targets, traces: self.traces.clone() })
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn new() -> Self {
        let new = || Histogram::new(BUCKETS);
        Self { start: new(), stop: new(), start_steps: [new(), new(), new()], stop_steps: [new(), new(), new()] }
    }
}

impl Observer for Clerk {
    fn passed(&self, passed: &Passed<'_>) {
        let Some((target, times)) = self.targets.get(usize::from(passed.site)) else { return };
        let (steps, all, whole) = match START.iter().position(|step| *step == passed.step) {
            Some(_) => (&times.start_steps, START, &times.start),
            None => (&times.stop_steps, STOP, &times.stop),
        };
        for (step, histogram) in all.iter().zip(steps) {
            if *step == passed.step {
                histogram.observe(passed.took.as_secs_f64());
            }
        }
        if passed.step == all[2] {
            whole.observe(passed.whole.as_secs_f64());
        }
        if let Some(traces) = &self.traces {
            traces.passed(&self.node, target, passed);
        }
    }
}

impl Collector for Ways {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let known = self.lock().clone();
        let known: Vec<_> = known.into_iter().filter_map(|(key, times)| Some((key, times.upgrade()?))).collect();
        for (family, pick) in [(&POD_START, 0), (&POD_STOP, 1)] {
            family.encode(&mut encoder, |samples| {
                known.iter().try_for_each(|((node, target), times)| {
                    samples.histogram([node, target], if pick == 0 { &times.start } else { &times.stop })
                })
            })?;
        }
        for (family, steps, pick) in [(&POD_START_STEP, START, 0), (&POD_STOP_STEP, STOP, 1)] {
            family.encode(&mut encoder, |samples| {
                known.iter().try_for_each(|((node, target), times)| {
                    let times = if pick == 0 { &times.start_steps } else { &times.stop_steps };
                    let mut each = steps.iter().zip(times);
                    each.try_for_each(|(step, times)| samples.histogram([node, target, step.name()], times))
                })
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kubelet::document::PodKey;

    #[test]
    fn steps_count_for_their_target_and_the_last_one_for_the_whole() {
        let metrics = Metrics::default();
        let ways = Ways::of(&metrics, None);
        let clerk = ways.clerk("both", "both", &["east".into(), "west".into()]);
        let key = PodKey { namespace: "ns".into(), name: "a".into(), uid: "u".into() };
        let second = Duration::from_secs(1);
        for (step, whole) in [(Step::Create, 1), (Step::Run, 2), (Step::Report, 3), (Step::Request, 1)] {
            clerk.passed(&Passed { key: &key, site: 1, step, took: second, whole: second * whole });
        }
        let page = metrics.page();
        for line in [
            r#"longshore_pod_start_duration_seconds_sum{virtual_node="both",target="west"} 3.0"#,
            r#"longshore_pod_start_duration_seconds_count{virtual_node="both",target="east"} 0"#,
            r#"longshore_pod_start_step_duration_seconds_sum{virtual_node="both",target="west",step="run"} 1.0"#,
            r#"longshore_pod_stop_step_duration_seconds_count{virtual_node="both",target="west",step="request"} 1"#,
            r#"longshore_pod_stop_duration_seconds_count{virtual_node="both",target="west"} 0"#,
        ] {
            assert!(page.lines().any(|one| one == line), "{line} is not in\n{page}");
        }
        drop(clerk);
        assert!(!metrics.page().contains("west"), "nobody counts any more");
    }
}
