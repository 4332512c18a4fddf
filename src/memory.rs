//! The in-memory provider: pods that run nowhere, and turn Ready at once.
//!
//! It is the shortest provider that shows what each part of the [contract](crate::kubelet::provider) is for
//! (`docs/provider.md` leads through it), and serves to try a host without any target. What it runs ends with the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, watch};

use crate::kubelet::naive::NaiveNode;
use crate::kubelet::provider::{
    ByteStream, ContainerUsage, Deletion, HostView, Instance, LogOptions, NodeProvider, NodeReport, PodDocument,
    PodError, PodKey, PodLifecycleHandler, PodNotice, PodNotifier, PodUsage, Provider, ProviderPod, Source,
    StreamError, StreamHandler, Usage,
};

mod references;
mod status;

/// What every node of this provider offers.
const CAPACITY: [(&str, &str); 4] =
    [("cpu", "64"), ("memory", "256Gi"), ("ephemeral-storage", "256Gi"), ("pods", "1000")];

/// What every container is said to use: thousandths of a core in billionths, and bytes.
const NANOCORES: u64 = 10_000_000;
const MEMORY: u64 = 16 << 20;

/// How many changes may wait for a notifier; one that is slower lists again.
const CHANGES: usize = 1024;

/// Runs pods in memory.
pub struct Memory {
    pods: Mutex<BTreeMap<String, Run>>,
    changes: broadcast::Sender<Change>,
    node: NaiveNode,
    /// Where pods' ConfigMaps and Secrets are looked for, if anywhere.
    host: Option<Arc<dyn HostView>>,
    notifies: bool,
    /// Tells instances of this process from those of an earlier one.
    epoch: i128,
    count: AtomicU32,
    version: AtomicU64,
}

/// A pod that runs.
#[derive(Clone)]
struct Run {
    document: PodDocument,
    pod: ProviderPod,
    began: Timestamp,
    ip: String,
}

/// What a notifier is told.
#[derive(Clone)]
enum Change {
    Seen(Box<ProviderPod>),
    Gone(PodKey, Arc<str>),
}

impl Change {
    /// Whether the containers of this pod have ended.
    fn ends(&self, uid: &str) -> bool {
        match self {
            Self::Seen(pod) => pod.key.uid == uid && pod.status["phase"] != "Running",
            Self::Gone(key, _) => key.uid == uid,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            pods: Mutex::default(),
            changes: broadcast::Sender::new(CHANGES),
            node: NaiveNode::new(NodeReport::of(CAPACITY)),
            host: None,
            notifies: true,
            epoch: Timestamp::now().as_nanosecond(),
            count: AtomicU32::default(),
            version: AtomicU64::default(),
        }
    }

    /// One whose pods wait for the ConfigMaps and Secrets that they refer to.
    #[must_use]
    pub fn looking_at(mut self, host: Arc<dyn HostView>) -> Self {
        self.host = Some(host);
        self
    }

    /// One that tells of no change by itself, so that it has to be asked.
    #[must_use]
    pub fn polled(mut self) -> Self {
        self.notifies = false;
        self
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Run>> {
        // Nothing panics while it is held, and what it holds would be whole all the same.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_version(&self) -> u64 {
        self.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn tell(&self, change: Change) {
        // Nobody may be listening.
        let _ = self.changes.send(change);
    }
}

#[async_trait]
impl PodLifecycleHandler for Memory {
    async fn create_pod(&self, document: &PodDocument) -> Result<ProviderPod, PodError> {
        if let Some(known) = self.get_pod(&document.key()).await? {
            return Ok(known);
        }
        let remarks = match &self.host {
            Some(host) => references::check(document, &**host).await?,
            None => vec![],
        };
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let (began, ip) = (Timestamp::now(), status::address(number));
        let mut pods = self.pods();
        // Another call may have come first meanwhile.
        let run = pods.entry(document.uid().into()).or_insert_with(|| {
            let instance = Instance {
                uid: format!("memory-{:x}-{number}", self.epoch).into(),
                version: self.next_version(),
                sent: self.fingerprint(document),
                deleting: None,
                obstacle: None,
            };
            let (status, annotations) = (status::of(document, began, &ip, None), BTreeMap::new());
            let pod = ProviderPod { key: document.key(), instance, status, annotations, remarks };
            Run { document: document.clone(), pod, began, ip }
        });
        let made = run.pod.clone();
        run.pod.remarks.clear();
        self.tell(Change::Seen(Box::new(run.pod.clone())));
        Ok(made)
    }

    async fn update_pod(&self, document: &PodDocument, instance: &Instance) -> Result<ProviderPod, PodError> {
        let mut pods = self.pods();
        let run = pods.get_mut(document.uid()).filter(|run| run.pod.instance.uid == instance.uid);
        let run = run.ok_or_else(|| PodError::NoAnswer(format!("no instance {}", instance.uid).into()))?;
        run.pod.status = status::of(document, run.began, &run.ip, Some(&run.pod.status));
        run.pod.instance.version = self.next_version();
        run.pod.instance.sent = self.fingerprint(document);
        run.document = document.clone();
        self.tell(Change::Seen(Box::new(run.pod.clone())));
        Ok(run.pod.clone())
    }

    async fn delete_pod(&self, key: &PodKey, instance: &str, grace: Option<u32>) -> Result<Deletion, PodError> {
        let mut pods = self.pods();
        if pods.get(&key.uid).is_none_or(|run| *run.pod.instance.uid != *instance) {
            return Ok(Deletion::Gone);
        }
        let Some(mut run) = pods.remove(&key.uid) else { return Ok(Deletion::Gone) };
        // Nothing needs any time to end. How it ended is told first, since nobody can ask afterwards.
        run.pod.status = status::ended(&run.pod.status, 0);
        run.pod.instance.version = self.next_version();
        run.pod.instance.deleting = Some(grace.unwrap_or_default());
        let uid = run.pod.instance.uid.clone();
        self.tell(Change::Seen(Box::new(run.pod)));
        self.tell(Change::Gone(key.clone(), uid));
        Ok(if self.notifies { Deletion::Started } else { Deletion::Gone })
    }

    async fn get_pod(&self, key: &PodKey) -> Result<Option<ProviderPod>, PodError> {
        Ok(self.pods().get(&key.uid).map(|run| run.pod.clone()))
    }

    async fn get_pods(&self) -> Result<Vec<ProviderPod>, PodError> {
        Ok(self.pods().values().map(|run| run.pod.clone()).collect())
    }
}

#[async_trait]
impl PodNotifier for Memory {
    async fn notify(&self, notices: mpsc::Sender<PodNotice>) {
        if !PodNotice::listing(&notices).await {
            return;
        }
        let (mut changes, all) = {
            // Under the lock: no change is in neither.
            let pods = self.pods();
            let all: Vec<_> = pods.values().map(|run| run.pod.clone()).collect();
            (self.changes.subscribe(), all)
        };
        let seen = all.into_iter().map(|pod| PodNotice::Seen(Box::new(pod)));
        for notice in seen.chain([PodNotice::Listed]) {
            if notices.send(notice).await.is_err() {
                return;
            }
        }
        // Whoever was too slow starts again with a list: the caller calls again.
        while let Ok(change) = changes.recv().await {
            let notice = match change {
                Change::Seen(pod) => PodNotice::Seen(pod),
                Change::Gone(key, instance) => PodNotice::Gone { key, instance },
            };
            if notices.send(notice).await.is_err() {
                return;
            }
        }
    }
}

#[async_trait]
impl NodeProvider for Memory {
    async fn ping(&self) -> Result<(), Source> {
        self.node.ping().await
    }

    fn node_status(&self) -> watch::Receiver<NodeReport> {
        self.node.node_status()
    }
}

#[async_trait]
impl StreamHandler for Memory {
    async fn logs(&self, pod: &PodKey, container: &str, options: LogOptions) -> Result<ByteStream, StreamError> {
        let (changes, run) = {
            let pods = self.pods();
            (self.changes.subscribe(), pods.get(&pod.uid).cloned())
        };
        let run = run.ok_or_else(|| StreamError::NotFound(format!("pod {pod} does not run")))?;
        if options.previous {
            return Err(StreamError::BadRequest(format!("container {container} has no previous instance")));
        }
        let time = if options.timestamps { format!("{:.9} ", run.began) } else { String::new() };
        let line = format!("{time}{container} of {pod} runs in memory since {:.0}\n", run.began);
        let lines = stream::iter((options.tail_lines != Some(0)).then_some(Ok(line.into())));
        if !options.follow || run.pod.status["phase"] != "Running" {
            return Ok(lines.boxed());
        }
        let uid = pod.uid.clone();
        let end = stream::once(async move {
            let mut changes = changes;
            while changes.recv().await.is_ok_and(|change| !change.ends(&uid)) {}
        });
        Ok(lines.chain(end.filter_map(|()| async { None })).boxed())
    }

    async fn usage(&self) -> Result<Usage, StreamError> {
        let at = Timestamp::now();
        let usage = |run: &Run| PodUsage {
            uid: run.pod.key.uid.clone(),
            at,
            window: at.duration_since(run.began).unsigned_abs(),
            containers: names(&run.document)
                .map(|name| ContainerUsage { name: name.into(), nanocores: NANOCORES, memory: MEMORY })
                .collect(),
        };
        let running = |run: &&Run| run.pod.status["phase"] == "Running";
        Ok(Usage { pods: self.pods().values().filter(running).map(usage).collect(), gaps: vec![] })
    }
}

impl Provider for Memory {
    fn notifier(&self) -> Option<&dyn PodNotifier> {
        self.notifies.then_some(self)
    }
}

/// The names of a pod's containers.
fn names(document: &PodDocument) -> impl Iterator<Item = &str> {
    document.list("containers").iter().filter_map(|container| container.get("name").and_then(Value::as_str))
}

#[cfg(test)]
mod tests;
