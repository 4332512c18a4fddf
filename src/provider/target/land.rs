//! What a target offers: what its watches tell, brought together and said when it has changed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::health::Health;
use super::load::Load;
use super::quotas;
use crate::kubelet::provider::NodeReport;
use crate::provider::capacity::stock::Stock;
use crate::provider::capacity::sum;
use crate::provider::fit;
use crate::provider::part::Part;
use crate::provider::requests::{self, Requests};

/// At most so often a new sum is said: pods come and go in a busy target all the time.
const GATHER: Duration = Duration::from_secs(1);

/// What a target has and what may be used of it.
pub(super) struct Land {
    part: Part,
    /// The nodes count; otherwise the quotas do.
    by_nodes: bool,
    load: Arc<Load>,
    stock: Mutex<Stock>,
    known: Mutex<Known>,
    changed: Notify,
}

/// What has been listed.
#[derive(Default)]
struct Known {
    nodes: bool,
    /// What quotas allow; `None` until that is known.
    quota: Option<Requests>,
}

impl Land {
    /// Nothing is known yet. `quota` says that quotas are waited for.
    pub(super) fn new(part: Part, by_nodes: bool, quota: bool, load: Arc<Load>) -> Self {
        let known = Known { nodes: !by_nodes, quota: (!quota).then(Requests::new) };
        Self { part, by_nodes, load, stock: Mutex::default(), known: Mutex::new(known), changed: Notify::new() }
    }

    pub(super) fn part(&self) -> &Part {
        &self.part
    }

    /// Changes what is known of nodes and pods.
    pub(super) fn change(&self, change: impl FnOnce(&mut Stock)) {
        change(&mut self.stock());
        self.changed.notify_one();
    }

    /// The same, where it may turn out to be no change.
    pub(super) fn change_if(&self, change: impl FnOnce(&mut Stock) -> bool) {
        if change(&mut self.stock()) {
            self.changed.notify_one();
        }
    }

    /// All nodes have been listed.
    pub(super) fn nodes_known(&self) {
        self.known().nodes = true;
        self.changed.notify_one();
    }

    /// So much do the quotas allow; what they do not name is open.
    pub(super) fn quota(&self, quota: Requests) {
        self.known().quota = Some(quota);
        self.changed.notify_one();
    }

    /// Says what is offered, for ever: soon after the first change, and then at most once in a while.
    pub(super) async fn tell(self: Arc<Self>, health: Arc<Health>) {
        loop {
            self.changed.notified().await;
            let Some((report, nodes)) = self.report() else { continue };
            if let Some(nodes) = nodes {
                health.count(nodes);
            }
            health.resources(report);
            tokio::time::sleep(GATHER).await;
        }
    }

    /// What is offered, and how many nodes count; `None` before everything has been listed: the sum of half of it would
    /// take resources away from the node for a moment, or promise what others use.
    fn report(&self) -> Option<(NodeReport, Option<usize>)> {
        let (quota, nodes) = {
            let known = self.known();
            (known.quota.clone()?, known.nodes)
        };
        let mut stock = self.stock();
        if !nodes || !stock.strangers().known() {
            return None;
        }
        let mut free = quota;
        requests::subtract(&mut free, stock.under_quota());
        if !self.by_nodes {
            return Some((quotas::report(&free), None));
        }
        let count = stock.offers().filter(|offer| offer.share.counts()).count();
        let sum = self.load.on_nodes(|ours| sum(stock.offers(), &self.part, ours));
        Some((quotas::at_most(sum, &free), Some(count)))
    }

    /// Why no node would take a pod with this spec now, if that is so and the nodes are known.
    pub(super) fn obstacle(&self, spec: &serde_json::Value, asks: &Requests) -> Option<String> {
        if !self.by_nodes || !self.known().nodes {
            return None;
        }
        let stock = self.stock();
        self.load.on_nodes(|ours| fit::obstacle(spec, asks, stock.offers(), ours))
    }

    /// No code panics while it holds a lock.
    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
