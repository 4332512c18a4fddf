//! What is told about the delegates in a target: its events, as far as they concern the owners of the proxies.
//!
//! One watch on events, with a selector that the API server evaluates. Whose an event is, is told by the UID of the pod that
//! it is about; events of everybody else are passed over. Without the right to watch them nothing else suffers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures::stream::select_all;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;

use crate::errors::chain;
use crate::kubelet::provider::{PodNotice, ProviderPod, Told};
use crate::provider::reach::Reach;

/// Which events of delegates are shown at home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tales {
    /// Those of type Warning.
    #[default]
    Warnings,
    /// All.
    All,
    /// None; nothing is watched.
    None,
}

/// What was told longer ago than this when a watch begins is no news.
const FRESH: Duration = Duration::from_secs(300);

/// An event may come before the delegate that it is about, on a watch of its own; so long it waits, among so many.
const WAIT: Duration = Duration::from_secs(2);
const WAITING: usize = 256;

/// The events of one target.
pub(super) struct Events {
    client: Client,
    reach: Reach,
    target: String,
    tales: Tales,
    /// The proxy's UID of each delegate, by the delegate's own.
    owners: DashMap<Arc<str>, Arc<str>>,
}

impl Events {
    pub(super) fn new(client: Client, reach: Reach, target: &str, tales: Tales) -> Self {
        Self { client, reach, target: target.into(), tales, owners: DashMap::new() }
    }

    /// A delegate is there.
    pub(super) fn seen(&self, pod: &ProviderPod) {
        if self.tales != Tales::None && !self.owners.contains_key(&pod.instance.uid) {
            self.owners.insert(pod.instance.uid.clone(), pod.key.uid.as_str().into());
        }
    }

    /// A delegate has gone.
    pub(super) fn gone(&self, instance: &str) {
        self.owners.remove(instance);
    }

    /// A list has shown these and no others.
    pub(super) fn listed(&self, instances: &std::collections::HashSet<Arc<str>>) {
        self.owners.retain(|instance, _| instances.contains(instance));
    }

    /// Tells of every event, for as long as somebody listens.
    pub(super) async fn watch(&self, notices: mpsc::Sender<PodNotice>) {
        let selector = match self.tales {
            Tales::None => return std::future::pending().await,
            Tales::Warnings => "involvedObject.kind=Pod,type=Warning",
            Tales::All => "involvedObject.kind=Pod",
        };
        let config = watcher::Config::default().fields(selector);
        let watch = |events| watcher(events, config.clone()).backoff(crate::backoff::of_watches()).boxed();
        let mut stream = select_all(self.reach.apis::<Event>(&self.client).into_iter().map(watch));
        let (mut early, mut silent) = (VecDeque::<(Instant, Event)>::new(), false);
        loop {
            let due = early.front().map_or(WAIT, |(since, _)| WAIT.saturating_sub(since.elapsed()));
            let next = tokio::select! {
                next = stream.try_next() => next,
                () = tokio::time::sleep(due), if !early.is_empty() => {
                    if let Some((_, event)) = early.pop_front()
                        && let Some(uid) = self.owner(&event)
                        && !self.tell(uid, &event, &notices).await
                    {
                        return;
                    }
                    continue;
                }
            };
            let event = match next {
                Ok(Some(watcher::Event::InitApply(event))) if is_fresh(&event, Timestamp::now()) => event,
                Ok(Some(watcher::Event::Apply(event))) => event,
                // Only the end of a list shows that it can be read: its beginning is told before anybody is asked.
                Ok(Some(watcher::Event::InitDone)) => {
                    silent = false;
                    continue;
                }
                Ok(Some(_)) => continue,
                Ok(None) => return,
                Err(error) => {
                    if !std::mem::replace(&mut silent, true) {
                        let error = chain(&error);
                        tracing::warn!(target_cluster = self.target, error, "the target's events cannot be watched");
                    }
                    continue;
                }
            };
            let Some(uid) = self.owner(&event) else {
                if early.len() < WAITING {
                    early.push_back((Instant::now(), event));
                }
                continue;
            };
            if !self.tell(uid, &event, &notices).await {
                return;
            }
        }
    }

    fn owner(&self, event: &Event) -> Option<Arc<str>> {
        self.owners.get(event.involved_object.uid.as_deref()?).map(|owner| owner.clone())
    }

    /// `false` if nobody listens any more.
    async fn tell(&self, proxy: Arc<str>, event: &Event, notices: &mpsc::Sender<PodNotice>) -> bool {
        let instance = event.involved_object.uid.as_deref().unwrap_or_default().into();
        notices.send(PodNotice::Told(proxy, instance, Box::new(told(&self.target, event)))).await.is_ok()
    }
}

/// The component whose events keep its name: at home, too, it is the pod's node that tells of them, and whoever looks for
/// them by `source=kubelet` finds them.
const KUBELET: &str = "kubelet";

/// An event of the target in the words of home. The kubelet tells as that of the pod's node; every other component is one of
/// that target, lest its scheduler be taken for home's.
fn told(target: &str, event: &Event) -> Told {
    let source = event.source.as_ref();
    let component = source.and_then(|source| source.component.as_deref());
    let component = component.or(event.reporting_component.as_deref()).filter(|name| !name.is_empty());
    // A qualified name, of which a controller's own prefix is no part any more.
    let name = component.and_then(|name| name.rsplit('/').next()).filter(|name| is_name(name)).unwrap_or("unknown");
    let target = if is_subdomain(target) { target } else { "target" };
    let host = source.and_then(|source| source.host.as_deref()).or(event.reporting_instance.as_deref());
    let instance = host.filter(|host| !host.is_empty()).map_or(target.to_owned(), |host| format!("{target}/{host}"));
    let series = event.series.as_ref().and_then(|series| series.count);
    Told {
        id: event.metadata.uid.clone().unwrap_or_default(),
        warning: event.type_.as_deref() == Some("Warning"),
        reason: event.reason.clone().filter(|reason| !reason.is_empty()).unwrap_or_else(|| "Unknown".into()),
        message: event.message.clone().unwrap_or_default(),
        controller: if name == KUBELET { KUBELET.into() } else { format!("{target}.longshore.dev/{name}") },
        instance,
        count: series.or(event.count).unwrap_or(1),
    }
}

fn is_name(text: &str) -> bool {
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && ends_well(text.chars().next())
        && ends_well(text.chars().next_back())
}

fn is_subdomain(text: &str) -> bool {
    text.len() <= 63 && is_name(text) && !text.chars().any(|c| c.is_ascii_uppercase() || c == '_' || c == '.')
}

/// Whether an event that a list shows is news.
fn is_fresh(event: &Event, now: Timestamp) -> bool {
    let times = [
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    let latest = times.into_iter().flatten().max();
    latest
        .is_some_and(|latest| now.duration_since(latest).as_secs() < i64::try_from(FRESH.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn event(event: Value) -> Event {
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn the_kubelet_tells_as_the_nodes_and_others_as_the_targets() {
        let told = |source: Value| {
            let event = json!({"metadata": {"uid": "e"}, "involvedObject": {}, "type": "Warning", "reason": "BackOff",
                "message": "no", "count": 4, "source": source});
            told("east", &self::event(event))
        };
        let kubelet = told(json!({"component": "kubelet", "host": "node-1"}));
        assert_eq!((kubelet.controller.as_str(), kubelet.instance.as_str()), ("kubelet", "east/node-1"));
        assert!(kubelet.warning && kubelet.count == 4 && kubelet.reason == "BackOff");
        let scheduler = told(json!({"component": "default-scheduler"}));
        assert_eq!(scheduler.controller, "east.longshore.dev/default-scheduler");
    }

    #[test]
    fn odd_tellers_are_told_of_all_the_same() {
        let told =
            told("Ost!", &event(json!({"metadata": {}, "involvedObject": {}, "reportingComponent": "a.io/wörker"})));
        assert_eq!((told.controller.as_str(), told.instance.as_str()), ("target.longshore.dev/unknown", "target"));
        assert_eq!((told.reason.as_str(), told.count, told.warning), ("Unknown", 1, false));
    }

    #[test]
    fn an_old_event_in_a_list_is_no_news() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let at = |time: &str| event(json!({"metadata": {}, "involvedObject": {}, "lastTimestamp": time}));
        assert!(is_fresh(&at("2026-01-01T00:59:00Z"), now));
        assert!(!is_fresh(&at("2026-01-01T00:40:00Z"), now));
        assert!(is_fresh(&at("2026-01-01T01:02:00Z"), now), "its clock is ahead");
        assert!(!is_fresh(&event(json!({"metadata": {}, "involvedObject": {}})), now));
    }
}
