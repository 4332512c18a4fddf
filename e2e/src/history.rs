//! What happened to pods, as a watch tells it: what lasted only a moment shows as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use futures::AsyncBufReadExt;
use futures::StreamExt;
use http::Request;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::{
    cluster::Cluster,
    pod::Pod,
    runtime::{block_on, spawn},
};

/// What a watch said about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is there.
    Added,
    /// It is different now.
    Modified,
    /// It is gone.
    Deleted,
}

/// One thing that a watch said.
#[derive(Clone, Debug)]
pub struct Observation {
    /// What happened.
    pub change: Change,
    /// The pod, as it is after that; as it was last if it is gone.
    pub pod: Pod,
    /// When it was heard of.
    pub at: Instant,
}

#[derive(Default)]
struct Record {
    observations: Vec<Observation>,
    broken: Option<String>,
}

/// Records until it is dropped.
pub struct History {
    record: Arc<Mutex<Record>>,
    cluster: Cluster,
    task: JoinHandle<()>,
}

impl History {
    /// Records from now on what happens to pods of the namespace that this cluster is seen from.
    pub fn record(cluster: &Cluster) -> Result<Self> {
        let path = cluster.path("pods")?;
        let client = cluster.client().clone();
        let list: Value = block_on(client.request(Request::get(&path).body(Vec::new())?))?;
        let mut first = Record::default();
        for item in list["items"].as_array().into_iter().flatten() {
            first.observations.push(Observation { change: Change::Added, pod: Pod(item.clone()), at: Instant::now() });
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let request = Request::get(format!("{path}?watch=1&resourceVersion={version}")).body(Vec::new())?;
        let record = Arc::new(Mutex::new(first));
        let shared = record.clone();
        let task = spawn(async move {
            let end = async {
                let mut lines = pin!(client.request_stream(request).await?.lines());
                while let Some(line) = lines.next().await {
                    let observation = parse(serde_json::from_str(&line?)?)?;
                    shared.lock().unwrap_or_else(PoisonError::into_inner).observations.push(observation);
                }
                bail!("the API server ended it")
            };
            let end: Result<()> = end.await;
            let why = end.err().map(|error| format!("{error:#}"));
            shared.lock().unwrap_or_else(PoisonError::into_inner).broken = why;
        });
        Ok(Self { record, cluster: cluster.clone(), task })
    }

    /// Everything so far. A gap in the record is an error.
    pub fn observations(&self) -> Result<Vec<Observation>> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = &record.broken {
            bail!("the watch of pods in {} broke off: {why}", self.cluster.name());
        }
        Ok(record.observations.clone())
    }

    /// Waits until the record shows something.
    pub fn wait<T>(&self, what: &str, within: Duration, look: impl Fn(&[Observation]) -> Option<T>) -> Result<T> {
        let end = Instant::now() + within;
        loop {
            let observations = self.observations()?;
            if let Some(found) = look(&observations) {
                return Ok(found);
            }
            ensure!(Instant::now() < end, "waited {within:?} for {what}; the record is\n{}", tell(&observations));
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the record has caught up with a pod's end.
    pub fn wait_for_end_of(&self, uid: &str) -> Result<()> {
        self.wait(&format!("the end of the pod {uid}"), crate::PATIENCE, |all| {
            all.iter().any(|one| one.change == Change::Deleted && one.pod.uid() == uid).then_some(())
        })
    }

    /// The phases that a pod went through.
    pub fn phases(&self, uid: &str) -> Result<Vec<String>> {
        let mut phases: Vec<String> = self
            .observations()?
            .iter()
            .filter(|one| one.pod.uid() == uid)
            .map(|one| one.pod.phase().to_owned())
            .collect();
        phases.dedup();
        Ok(phases)
    }

    /// UIDs of all delegates that each proxy ever had, by the proxy's UID.
    pub fn delegates_by_proxy(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut delegates: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for Observation { pod, .. } in &self.observations()? {
            if !pod.label("longshore.dev/uid").is_empty() {
                delegates.entry(pod.label("longshore.dev/uid").to_owned()).or_default().insert(pod.uid().to_owned());
            }
        }
        Ok(delegates)
    }

    /// Fails if any proxy had a second delegate, at once or one after the other: its work would be done twice.
    pub fn ensure_nothing_doubled(&self) -> Result<()> {
        for (proxy, delegates) in self.delegates_by_proxy()? {
            ensure!(
                delegates.len() == 1,
                "the proxy {proxy} had the delegates {delegates:?}; the record is\n{}",
                tell(&self.observations()?)
            );
        }
        Ok(())
    }

    /// What happened, in a line each.
    pub fn tell(&self) -> String {
        self.observations().map_or_else(|error| format!("{error:#}"), |all| tell(&all))
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn parse(mut event: Value) -> Result<Observation> {
    let change = match event["type"].as_str() {
        Some("ADDED") => Change::Added,
        Some("MODIFIED") => Change::Modified,
        Some("DELETED") => Change::Deleted,
        _ => bail!("it said {event}"),
    };
    Ok(Observation { change, pod: Pod(event["object"].take()), at: Instant::now() })
}

fn tell(observations: &[Observation]) -> String {
    let line = |one: &Observation| format!("    {:?} {}", one.change, one.pod);
    observations.iter().map(line).collect::<Vec<_>>().join("\n")
}
