//! What the API servers said, with the order of each server kept. A watch that breaks off goes on where it was. Where the
//! server does not remember that far back, because it was restarted, a list says what has changed meanwhile, and the record
//! says that it has a gap: what came and went in it nobody has seen.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, sight};
use crate::judge::{Change, Event, Side, Sight};

/// A watch that has been silent for so long may be dead: bookmarks come more often.
const SILENCE: Duration = Duration::from_secs(90);

/// How long to wait before a watch is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// A history in the making, shared by the watches of all sides. Ends with this.
pub(crate) struct Record {
    inner: Arc<Mutex<Inner>>,
    tasks: Vec<JoinHandle<()>>,
}

struct Inner {
    begun: Instant,
    events: Vec<Event>,
    /// What is there now, by side and UID.
    known: BTreeMap<(Side, String), Sight>,
    /// The last version of each side.
    versions: BTreeMap<Side, u64>,
    gaps: Vec<(Duration, Side)>,
    /// Events that were older than the one before: the record cannot be trusted.
    disorder: u64,
}

/// A history.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) events: Vec<Event>,
    /// When a list had to stand in for a watch.
    pub(crate) gaps: Vec<(Duration, Side)>,
    pub(crate) disorder: u64,
}

impl Record {
    /// A record that counts time from this moment.
    pub(crate) fn new(begun: Instant) -> Self {
        let inner = Inner {
            begun,
            events: vec![],
            known: BTreeMap::new(),
            versions: BTreeMap::new(),
            gaps: vec![],
            disorder: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)), tasks: vec![] }
    }

    /// Records one side from now on.
    pub(crate) async fn follow(&mut self, side: Side, cluster: Cluster) -> Result<()> {
        let mut version = list(&self.inner, side, &cluster).await?;
        let inner = self.inner.clone();
        self.tasks.push(tokio::spawn(async move {
            loop {
                let ended = watch(&inner, side, &cluster, &mut version).await;
                let expired = ended.is_err_and(|error| error.downcast_ref::<Expired>().is_some());
                tokio::time::sleep(PAUSE).await;
                if expired && let Ok(now) = list(&inner, side, &cluster).await {
                    let mut inner = lock(&inner);
                    let at = inner.begun.elapsed();
                    inner.gaps.push((at, side));
                    version = now;
                }
            }
        }));
        Ok(())
    }

    /// Everything so far.
    pub(crate) fn history(&self) -> History {
        let inner = lock(&self.inner);
        History { events: inner.events.clone(), gaps: inner.gaps.clone(), disorder: inner.disorder }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Inner {
    fn push(&mut self, side: Side, change: Change, pod: Sight) {
        let at = self.begun.elapsed();
        let key = (side, pod.uid.clone());
        match change {
            Change::There => self.known.insert(key, pod.clone()),
            Change::Gone | Change::Missed => self.known.remove(&key),
        };
        self.events.push(Event { at, side, change, pod });
    }

    /// An event of a watch, which has to be newer than all before it.
    fn hear(&mut self, side: Side, change: Change, pod: Sight) {
        let last = self.versions.entry(side).or_default();
        if pod.version <= *last {
            self.disorder += 1;
        }
        *last = pod.version.max(*last);
        self.push(side, change, pod);
    }

    /// A complete list stands in for the watch.
    fn take_in(&mut self, side: Side, version: u64, there: Vec<Sight>) {
        let gone = |(of, uid): &(Side, String)| *of == side && !there.iter().any(|pod| pod.uid == *uid);
        let missed: Vec<Sight> = self.known.iter().filter(|(key, _)| gone(key)).map(|(_, pod)| pod.clone()).collect();
        for pod in missed {
            self.push(side, Change::Missed, pod);
        }
        for pod in there {
            if self.known.get(&(side, pod.uid.clone())) != Some(&pod) {
                self.push(side, Change::There, pod);
            }
        }
        self.versions.insert(side, version);
    }
}

/// Takes in what is there now, and what is there no more; answers the version of the list.
async fn list(inner: &Mutex<Inner>, side: Side, cluster: &Cluster) -> Result<String> {
    let list = cluster.get("/api/v1/pods").await?;
    let version = list["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned();
    let there = list["items"].as_array().into_iter().flatten().map(sight).collect();
    lock(inner).take_in(side, version.parse()?, there);
    Ok(version)
}

async fn watch(inner: &Mutex<Inner>, side: Side, cluster: &Cluster, version: &mut String) -> Result<()> {
    let path = format!("/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
    let stream = cluster.client.request_stream(Request::get(path).body(Vec::new())?);
    let stream = tokio::time::timeout(SILENCE, stream).await?;
    let stream =
        stream.map_err(|error| if is_expired(&error) { Expired.into() } else { anyhow::Error::from(error) })?;
    let mut lines = pin!(stream.lines());
    while let Some(line) = tokio::time::timeout(SILENCE, lines.next()).await? {
        let event: Value = serde_json::from_str(&line?)?;
        let object = &event["object"];
        let change = match event["type"].as_str() {
            Some("ADDED" | "MODIFIED") => Some(Change::There),
            Some("DELETED") => Some(Change::Gone),
            Some("BOOKMARK") => None,
            _ if object["code"] == 410 => return Err(Expired.into()),
            _ => bail!("the watch said {event}"),
        };
        if let Some(change) = change {
            lock(inner).hear(side, change, sight(object));
        }
        if let Some(next) = object["metadata"]["resourceVersion"].as_str() {
            next.clone_into(version);
        }
    }
    Ok(())
}

/// No code panics while it holds the lock.
fn lock(inner: &Mutex<Inner>) -> std::sync::MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Expired;

impl std::fmt::Display for Expired {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the API server does not remember that far back")
    }
}

impl std::error::Error for Expired {}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, version: u64) -> Sight {
        Sight { uid: uid.into(), version, ..Sight::default() }
    }

    fn told(inner: &Inner) -> Vec<(Change, &str, u64)> {
        inner.events.iter().map(|event| (event.change, event.pod.uid.as_str(), event.pod.version)).collect()
    }

    #[test]
    fn a_list_tells_what_was_missed_and_nothing_twice() {
        let record = Record::new(Instant::now());
        let mut inner = lock(&record.inner);
        for (uid, version) in [("a", 1), ("b", 2), ("c", 3)] {
            inner.hear(Side::Host, Change::There, pod(uid, version));
        }
        inner.push(Side::Target(0), Change::There, pod("t", 1));
        inner.take_in(Side::Host, 9, vec![pod("a", 1), pod("b", 7), pod("d", 8)]);
        let tail = told(&inner).split_off(4);
        assert_eq!(tail, [(Change::Missed, "c", 3), (Change::There, "b", 7), (Change::There, "d", 8)]);
    }

    #[test]
    fn an_event_out_of_order_is_noticed() {
        let record = Record::new(Instant::now());
        let mut inner = lock(&record.inner);
        for version in [5, 6, 6, 4] {
            inner.hear(Side::Host, Change::There, pod("a", version));
        }
        inner.hear(Side::Target(0), Change::There, pod("t", 1));
        assert_eq!(inner.disorder, 2);
    }
}
