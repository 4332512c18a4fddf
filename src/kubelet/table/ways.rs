//! What others may know of the records, and nothing is decided by: how far each pod is on its way, and how many there are.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{Entry, Side, Table, Uid, place_of};
use crate::kubelet::document::PodDocument;
use crate::kubelet::sites::Index;
use crate::kubelet::step::{Phase, ProxyView};
use crate::kubelet::view::POD_SCHEDULED;
use crate::kubelet::way::{Mark, Passed, Tick};

/// How many pods there are of which kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All records.
    pub records: usize,
    /// Proxies by where they are, or will be, and the phase that home shows, or `Terminating`.
    pub pods: BTreeMap<(Option<Index>, &'static str), usize>,
    /// Those that something keeps from running, or from following their spec.
    pub held: BTreeMap<Option<Index>, usize>,
}

impl Table {
    /// A worker has created the pod's instance.
    pub fn created(&self, uid: &Uid) {
        if let Some(mut entry) = self.entries.get_mut(uid)
            && let Some(site) = place_of(&entry.record)
        {
            self.mark(&mut entry, Mark::Created(site));
        }
    }

    /// Counts all pods, one after the other.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for entry in &self.entries {
            census.records += 1;
            let Some(proxy) = entry.record.proxy.there() else { continue };
            let site = place_of(&entry.record);
            let phase = if proxy.deleting.is_some() { "Terminating" } else { proxy.health.phase.name() };
            *census.pods.entry((site, phase)).or_default() += 1;
            let held = entry.record.memo.obstacle.is_some() || entry.word().obstacle.is_some();
            if held && !proxy.health.phase.terminal() {
                *census.held.entry(site).or_default() += 1;
            }
        }
        census
    }

    /// Whether a proxy has not been seen at home yet, and somebody wants to know of its way.
    pub(super) fn is_new(&self, entry: &Entry) -> bool {
        self.observer.is_some() && entry.way.is_new()
    }

    fn now(&self) -> Tick {
        // It wraps around.
        (self.begun.elapsed().as_millis() & u128::from(Tick::MAX)).try_into().unwrap_or_default()
    }

    /// Something has happened to a pod.
    pub(super) fn mark(&self, entry: &mut Entry, mark: Mark) {
        let Some(observer) = &self.observer else { return };
        if let Some((site, step, took, whole)) = entry.way.pass(mark, self.now()) {
            observer.passed(&Passed { key: &entry.key, site, step, took, whole });
        }
    }

    /// A list has shown the instance of a proxy before another has shown the proxy.
    pub(super) fn mark_found(&self, entry: &mut Entry) {
        let Some((site, ready)) = entry.record.instance.there().map(|one| (one.site, one.health.ready)) else { return };
        self.mark(entry, Mark::Found(site));
        if ready {
            self.mark(entry, Mark::ReadyThere);
        }
    }

    /// What a proxy shows of its way.
    pub(super) fn mark_proxy(&self, entry: &mut Entry) {
        let Some(proxy) = entry.record.proxy.there() else { return };
        if !entry.way.awaits(proxy.deleting.is_some()) {
            return;
        }
        if proxy.deleting.is_some() {
            if let Some(site) = entry.record.instance.there().map(|instance| instance.site) {
                self.mark(entry, Mark::Leaving(site));
            }
        } else if proxy.health.ready {
            self.mark(entry, Mark::ReadyHome);
        }
    }

    /// How long a proxy that is seen for the first time has waited to be seen; `None` if it is not to be started. One that is
    /// in a list may have waited for as long as nobody has looked, by the clock of its scheduler.
    pub(super) fn waited(&self, pod: &PodDocument, view: &ProxyView) -> Option<Duration> {
        let fresh = view.deleting.is_none() && view.health.phase == Phase::Pending && !view.health.ready;
        fresh.then(|| if self.is_listed(Side::Host) { Duration::ZERO } else { since_bound(pod) })
    }
}

/// How long ago the pod was bound, by its condition.
fn since_bound(pod: &PodDocument) -> Duration {
    let conditions = pod.status.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let mut bound = conditions.filter(|one| one["type"] == POD_SCHEDULED && one["status"] == "True");
    let time = bound.find_map(|one| one["lastTransitionTime"].as_str()?.parse::<Timestamp>().ok());
    time.and_then(|time| Duration::try_from(Timestamp::now().duration_since(time)).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;
    use crate::kubelet::provider::{Instance, ProviderPod};
    use crate::kubelet::step::{Answer, Event};
    use crate::kubelet::way::{Observer, Step};

    #[derive(Debug, Default)]
    struct Notebook(Mutex<Vec<(String, Step, bool)>>);

    impl Observer for Notebook {
        fn passed(&self, passed: &Passed<'_>) {
            let long = passed.whole > Duration::from_secs(100);
            self.0.lock().unwrap().push((passed.key.name.clone(), passed.step, long));
        }
    }

    fn proxy(name: &str, version: u64, bound: &str, ready: bool, deleting: bool) -> PodDocument {
        let status = if ready { "True" } else { "False" };
        let mut pod = json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": version.to_string()},
            "spec": {"containers": [{"name": "main"}]},
            "status": {"phase": if ready { "Running" } else { "Pending" }, "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": bound},
                {"type": "ContainersReady", "status": status},
            ]},
        });
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(5);
        }
        serde_json::from_value(pod).unwrap()
    }

    fn instance(name: &str, version: u64, ready: bool) -> ProviderPod {
        let status = if ready { "True" } else { "False" };
        ProviderPod {
            key: proxy(name, 1, "", false, false).key(),
            instance: Instance { uid: "i".into(), version, sent: 0, deleting: None, obstacle: None },
            status: json!({"phase": "Running", "conditions": [{"type": "ContainersReady", "status": status}]}),
            annotations: BTreeMap::new(),
            remarks: vec![],
        }
    }

    #[test]
    fn the_way_of_a_pod_is_told_from_its_binding_to_its_end() {
        let notebook = Arc::new(Notebook::default());
        let table = Table::new(1, false).observed(Some(notebook.clone()));
        for side in [Side::Host, Side::Site(0)] {
            table.listing(side);
            table.listed(side);
        }
        let old = "2020-01-01T00:00:00Z";
        let uid = table.proxy_seen(&proxy("a", 1, old, false, false), 0, Some(0));
        let asked = table.asking(&uid);
        table.made(&uid, instance("a", 1, false), asked, Answer::Created);
        table.created(&uid);
        table.instance_seen(0, instance("a", 2, true));
        table.reported(&uid, &proxy("a", 2, old, true, false), 0, (0, None));
        assert_eq!(table.census().pods, BTreeMap::from([((Some(0), "Running"), 1)]));
        table.proxy_seen(&proxy("a", 3, old, true, true), 0, Some(0));
        assert_eq!(table.census().pods, BTreeMap::from([((Some(0), "Terminating"), 1)]));
        table.step(&uid, Event::Answer(Answer::Stopping("i".into(), 5)));
        table.instance_gone(&instance("a", 2, true).key, &"i".into());
        table.step(&uid, Event::Answer(Answer::ProxyDeleted));
        let steps = [Step::Create, Step::Run, Step::Report, Step::Request, Step::Terminate, Step::Remove];
        let told = notebook.0.lock().unwrap().clone();
        assert_eq!(told, steps.map(|step| ("a".to_owned(), step, false)), "a pod that was seen at once has not waited");
    }

    #[test]
    fn a_pod_of_a_list_has_waited_since_it_was_bound_and_one_that_runs_has_no_way() {
        let notebook = Arc::new(Notebook::default());
        let table = Table::new(1, false).observed(Some(notebook.clone()));
        table.listing(Side::Host);
        for (name, ready) in [("waits", false), ("runs", true)] {
            let uid = table.proxy_seen(&proxy(name, 1, "2026-01-01T00:00:00Z", ready, false), 0, Some(0));
            table.created(&uid);
        }
        assert_eq!(*notebook.0.lock().unwrap(), [("waits".to_owned(), Step::Create, true)]);
    }

    #[test]
    fn a_pod_whose_instance_is_listed_first_has_the_end_of_its_way() {
        let notebook = Arc::new(Notebook::default());
        let table = Table::new(1, false).observed(Some(notebook.clone()));
        for (name, ready) in [("starts", false), ("ready", true)] {
            table.instance_seen(0, instance(name, 1, ready));
            table.proxy_seen(&proxy(name, 1, "2026-01-01T00:00:00Z", false, false), 0, Some(0));
            table.instance_seen(0, instance(name, 2, true));
            table.reported(&name.into(), &proxy(name, 2, "2026-01-01T00:00:00Z", true, false), 0, (0, None));
        }
        let reported = |name: &str| (name.to_owned(), Step::Report, true);
        assert_eq!(*notebook.0.lock().unwrap(), [reported("starts"), reported("ready")]);
    }
}
