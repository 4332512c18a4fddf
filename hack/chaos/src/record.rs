//! What the API servers said. A watch that breaks off goes on where it was; where the server does not remember that far back,
//! because it was restarted, a list says what has changed meanwhile. Nobody could write while it was down.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde_json::Value;

use crate::cluster::{Cluster, sight};
use crate::judge::{Event, Side, Sight};

/// A history in the making, shared by the watches of both sides.
#[derive(Clone, Default)]
pub(crate) struct Record {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    events: Vec<Event>,
    /// How often a list had to stand in for a watch.
    lists: u64,
}

impl Record {
    /// Records one side from now on, for as long as the runtime lives.
    pub(crate) async fn follow(&self, side: Side, cluster: Cluster) -> Result<()> {
        let mut version = self.list(side, &cluster).await?;
        let record = self.clone();
        tokio::spawn(async move {
            loop {
                let ended = record.watch(side, &cluster, &mut version).await;
                let expired = ended.is_err_and(|error| error.downcast_ref::<Expired>().is_some());
                tokio::time::sleep(Duration::from_millis(100)).await;
                if expired && let Ok(now) = record.list(side, &cluster).await {
                    version = now;
                }
            }
        });
        Ok(())
    }

    /// Takes in what is there now, and what is there no more; answers the version of the list.
    async fn list(&self, side: Side, cluster: &Cluster) -> Result<String> {
        let list = cluster.get("/api/v1/pods").await?;
        let version = list["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned();
        let there: Vec<Sight> = list["items"].as_array().into_iter().flatten().map(sight).collect();
        let mut inner = self.lock();
        inner.lists += 1;
        let mut known: BTreeMap<String, Sight> = BTreeMap::new();
        for event in inner.events.iter().filter(|event| event.side == side) {
            if event.gone {
                known.remove(&event.pod.uid);
            } else {
                known.insert(event.pod.uid.clone(), event.pod.clone());
            }
        }
        known.retain(|uid, _| !there.iter().any(|pod| pod.uid == *uid));
        inner.events.extend(known.into_values().map(|pod| Event { side, gone: true, pod }));
        inner.events.extend(there.into_iter().map(|pod| Event { side, gone: false, pod }));
        Ok(version)
    }

    async fn watch(&self, side: Side, cluster: &Cluster, version: &mut String) -> Result<()> {
        let path = format!("/api/v1/pods?watch=1&allowWatchBookmarks=true&resourceVersion={version}");
        let stream = cluster.client.request_stream(Request::get(path).body(Vec::new())?).await;
        let stream =
            stream.map_err(|error| if is_expired(&error) { Expired.into() } else { anyhow::Error::from(error) })?;
        let mut lines = pin!(stream.lines());
        while let Some(line) = lines.next().await {
            let event: Value = serde_json::from_str(&line?)?;
            let object = &event["object"];
            let gone = match event["type"].as_str() {
                Some("ADDED" | "MODIFIED") => Some(false),
                Some("DELETED") => Some(true),
                Some("BOOKMARK") => None,
                _ if object["code"] == 410 => return Err(Expired.into()),
                _ => bail!("the watch said {event}"),
            };
            if let Some(gone) = gone {
                self.push(Event { side, gone, pod: sight(object) });
            }
            if let Some(next) = object["metadata"]["resourceVersion"].as_str() {
                next.clone_into(version);
            }
        }
        Ok(())
    }

    fn push(&self, event: Event) {
        self.lock().events.push(event);
    }

    /// Everything so far, and how often it comes from a list.
    pub(crate) fn events(&self) -> (Vec<Event>, u64) {
        let inner = self.lock();
        (inner.events.clone(), inner.lists)
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
