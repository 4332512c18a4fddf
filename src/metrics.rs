//! What this process tells of itself to Prometheus, in the text format of OpenMetrics (docs/observability.md lists it).
//!
//! ```text
//!   clients ── Requests ─┐                         ┌─ Collector: requests of each cluster
//!   pods ───── ways ─────┼─▶ counted on the way    ├─ Collector: what run shows          ──▶ page, at each scrape
//!   queues, targets, … ──┘   or read at a scrape ──┴─ Collector: the process
//! ```
//!
//! Nothing here is global, and nothing is named by pods: labels are nodes, targets and small fixed sets. What happens often
//! is counted by atomics that are there already when it happens; all else is read when somebody asks, so that it costs nothing
//! otherwise.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

pub mod families;
mod process;
mod requests;

pub use requests::{Requests, Side, Verb, WatchEnd};

/// The media type of a [`Metrics::page`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of a process. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    clusters: Clusters,
}

/// The requests to each cluster that somebody still sends to.
#[derive(Clone, Debug, Default)]
struct Clusters(Arc<Mutex<ByName>>);

type ByName = BTreeMap<(Side, String), Weak<Requests>>;

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self { registry: Arc::default(), clusters: Clusters::default() };
        metrics.register(process::Process::new());
        metrics.register(metrics.clusters.clone());
        metrics
    }
}

impl Metrics {
    /// Adds what is encoded at each scrape. A family belongs to one collector.
    pub fn register(&self, collector: impl Collector) {
        lock(&self.registry).register_collector(Box::new(collector));
    }

    /// The requests to the host, which is home.
    pub fn home(&self) -> Arc<Requests> {
        self.clusters.of(Side::Home, "")
    }

    /// The requests to a target. They are forgotten when nobody has them any more.
    pub fn target(&self, name: &str) -> Arc<Requests> {
        self.clusters.of(Side::Target, name)
    }

    /// All of it now.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a String does not fail.
        _ = text::encode(&mut page, &lock(&self.registry));
        page
    }
}

impl Clusters {
    fn of(&self, side: Side, name: &str) -> Arc<Requests> {
        let mut all = lock(&self.0);
        all.retain(|_, requests| requests.strong_count() > 0);
        let known = all.get(&(side, name.to_owned())).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let requests = Arc::new(Requests::default());
            all.insert((side, name.to_owned()), Arc::downgrade(&requests));
            requests
        })
    }
}

impl Collector for Clusters {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = lock(&self.0).clone();
        let all: Vec<_> =
            all.into_iter().filter_map(|((side, name), requests)| Some((side, name, requests.upgrade()?))).collect();
        requests::encode(&all, encoder)
    }
}

/// No code panics while it holds a lock of metrics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_open_metrics() {
        let page = Metrics::default().page();
        assert!(page.ends_with("# EOF\n"), "{page}");
        assert!(page.contains("\nlongshore_build_info{version=\""), "{page}");
    }

    #[test]
    fn a_cluster_is_told_as_long_as_somebody_sends_to_it() {
        let metrics = Metrics::default();
        let east = metrics.target("east");
        east.answered(Verb::Get, 200, std::time::Duration::from_millis(3));
        assert!(Arc::ptr_eq(&east, &metrics.target("east")), "all clients of a cluster count together");
        let line = r#"longshore_api_requests_total{side="target",target="east",verb="get",code="200"} 1"#;
        let page = metrics.page();
        assert!(page.contains(line), "{page}");
        drop(east);
        assert!(!metrics.page().contains("east"), "it has gone");
    }
}
