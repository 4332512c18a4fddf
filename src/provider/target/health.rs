//! What a target says about itself: its node report, and which of its APIs refuse us.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::runtime::watcher;
use tokio::sync::watch;

use super::quotas::Ceiling;
use crate::errors::chain;
use crate::kubelet::provider::{NodeReport, NodeTaint, Obstacle};
use crate::provider::names;

/// Shared by the watches of one target.
pub(super) struct Health {
    target: String,
    ceiling: Ceiling,
    /// It is closed to new pods.
    cordoned: bool,
    report: watch::Sender<NodeReport>,
    /// What nobody knows of its capacity.
    unknown: Mutex<Option<Obstacle>>,
    /// How many nodes there are that count; negative while nobody knows.
    nodes: AtomicI64,
    /// The watches that are interrupted, and what each is refused, if it is.
    interrupted: Mutex<BTreeMap<&'static str, Option<String>>>,
}

impl Health {
    pub(super) fn new(target: &str, ceiling: Ceiling, cordoned: bool) -> Self {
        Self {
            ceiling,
            cordoned,
            target: target.into(),
            report: watch::Sender::default(),
            nodes: AtomicI64::new(-1),
            unknown: Mutex::default(),
            interrupted: Mutex::default(),
        }
    }

    pub(super) fn report(&self) -> watch::Receiver<NodeReport> {
        self.report.subscribe()
    }

    /// The target's version, from whoever asked.
    pub(super) fn version(&self, version: String) {
        self.report.send_if_modified(|report| {
            let news = report.kubelet_version.is_empty();
            if news {
                report.kubelet_version = version;
            }
            news
        });
    }

    /// How many nodes count.
    pub(super) fn nodes(&self) -> Option<u32> {
        u32::try_from(self.nodes.load(Ordering::Relaxed)).ok()
    }

    /// So many nodes count.
    pub(super) fn count(&self, nodes: usize) {
        self.nodes.store(i64::try_from(nodes).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// A new sum of the nodes; what the target said otherwise stays.
    pub(super) fn resources(&self, sum: NodeReport) {
        let mut sum = self.ceiling.apply(sum);
        if self.cordoned {
            sum.taints.push(NodeTaint::no_schedule(names::CORDONED));
        }
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&sum.trouble);
        self.report.send_if_modified(|report| {
            let mut next = NodeReport { trouble: report.trouble.clone(), ..sum };
            if next.kubelet_version.is_empty() {
                next.kubelet_version.clone_from(&report.kubelet_version);
            }
            let news = *report != next;
            *report = next;
            news
        });
        self.publish();
    }

    /// A watch works.
    pub(super) fn works(&self, watch: &'static str) {
        if self.lock().remove(watch).is_some() {
            tracing::info!(target_cluster = self.target, watch, "the watch of the target works again");
        }
        self.publish();
    }

    /// A watch is interrupted. That the target is out of reach is for the ping to judge; that it refuses is said at once.
    pub(super) fn interrupted(&self, watch: &'static str, error: &watcher::Error) {
        self.refused(watch, refusal(error), &chain(error));
    }

    /// The same for any request: `refusal` is the message if it was refused for want of rights.
    pub(super) fn refused(&self, watch: &'static str, refusal: Option<String>, error: &str) {
        if self.lock().insert(watch, refusal).is_none() {
            tracing::warn!(target_cluster = self.target, watch, error, "a watch of the target is interrupted");
        } else {
            tracing::debug!(target_cluster = self.target, watch, error, "the watch is still interrupted");
        }
        self.publish();
    }

    fn publish(&self) {
        let refused: Vec<String> = self.lock().values().flatten().cloned().collect();
        let trouble =
            (!refused.is_empty()).then(|| Obstacle { reason: "TargetRefused".into(), message: refused.join("; ") });
        let trouble = trouble.or_else(|| self.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone());
        self.report.send_if_modified(|report| {
            let news = report.trouble != trouble;
            report.trouble = trouble;
            news
        });
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.interrupted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message of a refusal for want of rights.
fn refusal(error: &watcher::Error) -> Option<String> {
    let (watcher::Error::WatchError(status)
    | watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    matches!(status.code, 401 | 403).then(|| status.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn refused(message: &str) -> watcher::Error {
        let status = Status { code: 403, message: message.into(), ..Status::default() };
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_is_trouble_until_the_watch_works() {
        let health = Health::new("east", Ceiling::default(), false);
        let report = health.report();
        health.interrupted("nodes", &refused("nodes is forbidden"));
        assert_eq!(report.borrow().trouble.as_ref().unwrap().message, "nodes is forbidden");
        health.works("pods");
        assert!(report.borrow().trouble.is_some(), "another watch");
        health.works("nodes");
        assert!(report.borrow().trouble.is_none());
    }

    #[test]
    fn resources_and_trouble_do_not_overwrite_each_other() {
        let health = Health::new("east", Ceiling::default(), false);
        health.interrupted("pods", &refused("no"));
        health.version("v1.35.4".into());
        health.resources(NodeReport { architecture: "arm64".into(), ..NodeReport::default() });
        let report = health.report().borrow().clone();
        assert!(report.trouble.is_some());
        assert_eq!((report.architecture.as_str(), report.kubelet_version.as_str()), ("arm64", "v1.35.4"));
    }
}
