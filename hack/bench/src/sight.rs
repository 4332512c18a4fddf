//! When what was seen of each pod, by a watch on each side.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::{AsyncBufReadExt, StreamExt};
use http::Request;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::cluster::{Cluster, path};

/// The two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Home,
    Target,
}

/// What happens to a pod on a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Mark {
    Seen,
    Ready,
    Gone,
}

/// When things were asked for and when they were seen, since the beginning.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    pub(crate) created: Option<Duration>,
    pub(crate) deleted: Option<Duration>,
    marks: HashMap<(Side, Mark), Duration>,
}

impl Times {
    pub(crate) fn at(&self, side: Side, mark: Mark) -> Option<Duration> {
        self.marks.get(&(side, mark)).copied()
    }
}

/// All pods of a measurement. Its watches end with it.
pub(crate) struct Sight {
    inner: Arc<Mutex<Inner>>,
    tasks: Vec<JoinHandle<()>>,
    pub(crate) begun: Instant,
}

#[derive(Default)]
struct Inner {
    pods: HashMap<String, Times>,
    counts: HashMap<(Side, Mark), usize>,
    broken: Option<String>,
}

/// As little of an event as is needed, so that looking costs little of the machine that is measured.
#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

#[derive(Default)]
struct Status {
    ready: bool,
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Condition {
            r#type: String,
            status: String,
        }
        #[derive(Deserialize)]
        struct Of {
            #[serde(default)]
            conditions: Vec<Condition>,
        }
        let of = Of::deserialize(deserializer)?;
        Ok(Self { ready: of.conditions.iter().any(|one| one.r#type == "Ready" && one.status == "True") })
    }
}

impl Sight {
    /// Looks at both sides from now on.
    pub(crate) async fn begin(home: &Cluster, target: &Cluster) -> Result<Self> {
        let mut sight = Self { inner: Arc::default(), tasks: vec![], begun: Instant::now() };
        for (side, cluster) in [(Side::Home, home), (Side::Target, target)] {
            let list = cluster.send("GET", &format!("{}?limit=1", path("")), &Value::Null).await?;
            let version = list["metadata"]["resourceVersion"].as_str().context("no version")?.to_owned();
            let (inner, cluster, begun) = (sight.inner.clone(), cluster.clone(), sight.begun);
            sight.tasks.push(tokio::spawn(async move {
                let mut version = version;
                loop {
                    let from = begun.elapsed();
                    if let Err(error) = watch(&inner, side, &cluster, &mut version, begun).await {
                        lock(&inner).broken = Some(format!("the measurement's own watch of {side:?} broke: {error:#}"));
                        return;
                    }
                    // It goes on where it was; what happens in between is seen a little late.
                    eprintln!(
                        "bench: the watch of {side:?} ended after {:.1?} and goes on",
                        begun.elapsed().saturating_sub(from)
                    );
                }
            }));
        }
        Ok(sight)
    }

    pub(crate) fn created(&self, name: &str) {
        let at = self.begun.elapsed();
        lock(&self.inner).pods.entry(name.to_owned()).or_default().created = Some(at);
    }

    pub(crate) fn deleted(&self, name: &str) {
        let at = self.begun.elapsed();
        lock(&self.inner).pods.entry(name.to_owned()).or_default().deleted = Some(at);
    }

    /// How many pods have this behind them.
    pub(crate) fn count(&self, side: Side, mark: Mark) -> usize {
        lock(&self.inner).counts.get(&(side, mark)).copied().unwrap_or_default()
    }

    /// Waits until so many pods have this behind them.
    pub(crate) async fn wait(&self, side: Side, mark: Mark, count: usize, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        while self.count(side, mark) < count {
            if let Some(broken) = &lock(&self.inner).broken {
                bail!("{broken}");
            }
            if begun.elapsed() > patience {
                bail!("only {} of {count} pods were {mark:?} at {side:?} after {patience:?}", self.count(side, mark));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until this pod has this behind it.
    pub(crate) async fn wait_for(&self, name: &str, side: Side, mark: Mark, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        while lock(&self.inner).pods.get(name).is_none_or(|times| times.at(side, mark).is_none()) {
            ensure!(begun.elapsed() < patience, "{name} was not {mark:?} at {side:?} after {patience:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Everything so far.
    pub(crate) fn pods(&self) -> Vec<Times> {
        lock(&self.inner).pods.values().cloned().collect()
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn watch(
    inner: &Mutex<Inner>,
    side: Side,
    cluster: &Cluster,
    version: &mut String,
    begun: Instant,
) -> Result<()> {
    let path = format!("{}?watch=1&resourceVersion={version}&timeoutSeconds=3600", path(""));
    let stream = cluster.client.request_stream(Request::get(path).body(Vec::new())?).await?;
    let mut lines = pin!(stream.lines());
    while let Some(line) = lines.next().await {
        let line = line?;
        let at = begun.elapsed();
        let event: Event = serde_json::from_str(&line)?;
        let marks: &[Mark] = match event.r#type.as_str() {
            "ADDED" | "MODIFIED" if event.object.status.ready => &[Mark::Seen, Mark::Ready],
            "ADDED" | "MODIFIED" => &[Mark::Seen],
            "DELETED" => &[Mark::Gone],
            _ => bail!("{line}"),
        };
        *version = event.object.metadata.resource_version;
        let mut inner = lock(inner);
        for mark in marks {
            let times = inner.pods.entry(event.object.metadata.name.clone()).or_default();
            if let std::collections::hash_map::Entry::Vacant(vacant) = times.marks.entry((side, *mark)) {
                vacant.insert(at);
                *inner.counts.entry((side, *mark)).or_default() += 1;
            }
        }
    }
    Ok(())
}

/// No code panics while it holds the lock.
fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
