//! The delegates in a target: create, change, delete, list and watch.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::mpsc;

use super::health::Health;
use super::load::Load;
use crate::kubelet::provider::{Deletion, Instance, PodDocument, PodError, PodKey, PodNotice, ProviderPod};
use crate::provider::feedback::{Addresses, provider_pod};
use crate::provider::follow::Follow;
use crate::provider::names;
use crate::provider::translate::update_patch;

const WATCH: &str = "pods";

/// The delegates of one virtual node in one target.
pub(super) struct Delegates {
    client: Client,
    host_id: String,
    /// Selects them.
    selector: String,
    addresses: Addresses,
    health: Arc<Health>,
    load: Load,
    follow: Arc<Follow>,
}

impl Delegates {
    pub(super) fn new(
        client: Client,
        host_id: &str,
        node: &str,
        addresses: Addresses,
        health: Arc<Health>,
        count_load: bool,
        follow: Arc<Follow>,
    ) -> Self {
        let selector = format!("{}={host_id},{}={node}", names::HOST, names::NODE);
        Self { client, host_id: host_id.into(), selector, addresses, health, load: Load::new(count_load), follow }
    }

    /// What they ask for.
    pub(super) fn load(&self) -> &Load {
        &self.load
    }

    fn api(&self, namespace: &str) -> Api<PodDocument> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A pod with our labels is a delegate only in the place where that of its proxy has to be: labels are written easily, and
    /// whoever may do so in one namespace must not speak for pods of another.
    fn read(&self, delegate: &PodDocument) -> Result<ProviderPod, PodError> {
        let pod = provider_pod(delegate, self.addresses).map_err(|error| PodError::Stranger(error.to_string()))?;
        if (super::mapped(&pod.key.namespace), &*pod.key.name) == (delegate.namespace(), delegate.name()) {
            return Ok(pod);
        }
        let (namespace, name) = (delegate.namespace(), delegate.name());
        Err(PodError::Stranger(format!(
            "pod {namespace}/{name} of the target calls itself the delegate of {}",
            pod.key
        )))
    }

    /// Creates a delegate; `None` where its namespace is missing. One that is there already for the same proxy is
    /// this one: the answer to an earlier request was lost.
    pub(super) async fn create(&self, delegate: &PodDocument, key: &PodKey) -> Result<Option<ProviderPod>, PodError> {
        let namespace = delegate.namespace();
        match self.api(namespace).create(&PostParams::default(), delegate).await {
            Ok(made) => self.read(&made).map(Some),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.occupied(delegate, key).await.map(Some),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(refusal(error, "pods")),
        }
    }

    /// Who has the name that a delegate needs?
    async fn occupied(&self, delegate: &PodDocument, key: &PodKey) -> Result<ProviderPod, PodError> {
        let (namespace, name) = (delegate.namespace(), delegate.name());
        let Some(holder) = self.api(namespace).get_opt(name).await.map_err(|error| refusal(error, "pods"))? else {
            return Err(PodError::Namesake(format!("{namespace}/{name} has just gone")));
        };
        if holder.label(names::HOST) != Some(&self.host_id) {
            return Err(PodError::Stranger(format!(
                "the target has a pod {namespace}/{name} that is not ours; rename one of the two, or delete the one there"
            )));
        }
        if holder.label(names::UID) == Some(&key.uid) {
            return self.read(&holder);
        }
        Err(PodError::Namesake(format!("{namespace}/{name}, UID {}", holder.uid())))
    }

    /// Patches what may change of a live pod, and only of this one.
    pub(super) async fn update(&self, delegate: &PodDocument, instance: &Instance) -> Result<ProviderPod, PodError> {
        let api = self.api(delegate.namespace());
        let live = api.get(delegate.name()).await.map_err(|error| refusal(error, "pods"))?;
        if live.uid() != &*instance.uid {
            return Err(PodError::Namesake(format!("{}/{}", live.namespace(), live.name())));
        }
        let patch = update_patch(delegate, &live);
        let patched = api.patch(delegate.name(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        self.read(&patched.map_err(|error| refusal(error, "pods"))?)
    }

    /// Deletes this very delegate.
    pub(super) async fn delete(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        grace: Option<u32>,
    ) -> Result<Deletion, PodError> {
        match self.api(namespace).delete(name, &only(uid, grace)).await {
            Ok(_) => Ok(Deletion::Started),
            // Not found, or another UID has the name.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Deletion::Gone),
            Err(error) => Err(refusal(error, "pods")),
        }
    }

    pub(super) async fn get(&self, namespace: &str, key: &PodKey) -> Result<Option<ProviderPod>, PodError> {
        let found = self.api(namespace).get_opt(&key.name).await.map_err(|error| refusal(error, "pods"))?;
        found.filter(|pod| pod.label(names::UID) == Some(&key.uid)).map(|pod| self.read(&pod)).transpose()
    }

    pub(super) async fn list(&self) -> Result<Vec<ProviderPod>, PodError> {
        let all: Api<PodDocument> = Api::all(self.client.clone());
        let list = all.list(&ListParams::default().labels(&self.selector)).await;
        let pods = list.map_err(|error| refusal(error, "pods"))?.items;
        Ok(pods.iter().filter_map(|pod| self.read_or_tell(pod)).collect())
    }

    fn read_or_tell(&self, pod: &PodDocument) -> Option<ProviderPod> {
        self.read(pod).inspect_err(|error| tracing::warn!(%error, "a delegate cannot be read")).ok()
    }

    /// Tells of every delegate, for as long as somebody listens.
    pub(super) async fn watch(&self, notices: mpsc::Sender<PodNotice>) {
        let config = watcher::Config::default().labels(&self.selector);
        let mut stream =
            watcher(Api::<PodDocument>::all(self.client.clone()), config).backoff(crate::backoff::of_watches()).boxed();
        loop {
            let notice = match stream.try_next().await {
                // The watcher yields this before it asks for the list.
                Ok(Some(watcher::Event::Init)) => {
                    self.load.listing();
                    self.follow.listing();
                    if !PodNotice::listing(&notices).await {
                        return;
                    }
                    None
                }
                Ok(Some(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => {
                    let read = self.read_or_tell(&pod);
                    if read.is_some() {
                        self.load.seen(&pod);
                        self.follow.seen(&pod);
                    }
                    read.map(|pod| PodNotice::Seen(Box::new(pod)))
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    self.load.listed();
                    self.follow.listed();
                    self.health.works(WATCH);
                    Some(PodNotice::Listed)
                }
                Ok(Some(watcher::Event::Delete(pod))) => self.gone(pod).await,
                Ok(None) => return,
                Err(error) => {
                    self.health.interrupted(WATCH, &error);
                    None
                }
            };
            if let Some(notice) = notice
                && notices.send(notice).await.is_err()
            {
                return;
            }
        }
    }

    /// A delegate left the selection: it has gone, or somebody has taken our labels off it. The second would leave a pod
    /// that runs and that nobody knows, so where the object was not being deleted we look, and put the labels back.
    async fn gone(&self, pod: PodDocument) -> Option<PodNotice> {
        let read = self.read_or_tell(&pod)?;
        if pod.metadata.deletion_timestamp.is_none()
            && let Some(restored) = self.restore(&pod).await
        {
            return self.read_or_tell(&restored).map(|pod| PodNotice::Seen(Box::new(pod)));
        }
        let pod = read;
        self.load.gone(&pod.key.uid);
        self.follow.gone(&pod.key);
        Some(PodNotice::Gone { key: pod.key, instance: pod.instance.uid })
    }

    async fn restore(&self, pod: &PodDocument) -> Option<PodDocument> {
        let api = self.api(pod.namespace());
        let there = api.get_opt(pod.name()).await.ok()??;
        if there.uid() != pod.uid() {
            return None;
        }
        // The event shows the pod as it was when it still matched.
        let labels = [names::HOST, names::NODE, names::UID].map(|key| (key, pod.label(key)));
        let labels: serde_json::Map<_, _> = labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let patch = serde_json::json!({"metadata": {"uid": pod.uid(), "labels": labels}});
        tracing::warn!(
            pod = format!("{}/{}", pod.namespace(), pod.name()),
            "somebody took our labels off; restoring them"
        );
        api.patch(pod.name(), &PatchParams::default(), &Patch::Strategic(patch)).await.ok()
    }
}

/// What a failed request means for the pod: an answer that says no, or none that counts.
pub(super) fn refusal(error: kube::Error, resource: &str) -> PodError {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 408 | 409 | 429) => {
            let reason = if status.reason.is_empty() { status.code.to_string() } else { status.reason.clone() };
            let message =
                if status.message.is_empty() { format!("the target refuses {resource}") } else { status.message };
            PodError::Refused { reason, message }
        }
        other => PodError::NoAnswer(Box::new(other)),
    }
}

/// Deletes the object of this UID only: a late deletion never hits a namesake.
fn only(uid: &str, grace: Option<u32>) -> DeleteParams {
    DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: Some(uid.into()), ..Preconditions::default() }),
        ..DeleteParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;
    use serde_json::json;

    fn answer(code: u16) -> PodError {
        let status = Status { code, reason: "R".into(), message: "m".into(), ..Status::default() };
        refusal(kube::Error::Api(Box::new(status)), "pods")
    }

    #[test]
    fn a_deletion_names_the_delegate() {
        let sent = serde_json::to_value(only("d-1", Some(3))).unwrap();
        assert_eq!(sent["preconditions"], json!({"uid": "d-1"}));
        assert_eq!(sent["gracePeriodSeconds"], json!(3));
    }

    #[test]
    fn a_no_is_told_from_an_overload() {
        for code in [400, 401, 403, 404, 413, 422] {
            assert!(matches!(answer(code), PodError::Refused { .. }), "{code}");
        }
        for code in [408, 409, 429, 500, 503, 504] {
            assert!(matches!(answer(code), PodError::NoAnswer(_)), "{code}: it may work, or may have worked");
        }
    }
}
