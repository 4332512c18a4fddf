//! The delegates in a target: create, change, delete, list and watch.

use std::collections::HashSet;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, TryStreamExt};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use super::TargetSetup;
use super::health::Health;
use super::load::Load;
use super::tales::Events;
use crate::kubelet::host::remove;
use crate::kubelet::provider::{Deletion, Instance, PodDocument, PodError, PodKey, PodNotice, ProviderPod};
use crate::kubelet::step::Phase;
use crate::only::only;
use crate::provider::feedback::{Addresses, identified, identity};
use crate::provider::follow::Follow;
use crate::provider::follow::names::Need;
use crate::provider::glance::glance;
use crate::provider::names;
use crate::provider::places::Places;
use crate::provider::reach::Reach;
use crate::provider::services::Tracker;
use crate::provider::translate::{Refreshed, devices};

mod strays;

const WATCH: &str = "pods";

/// When a delegate is looked for again of which nobody knows whether it is there, and at most how much later each time.
const LOOK: Duration = Duration::from_millis(500);
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// How often an update is begun anew because the delegate has changed since it was read.
const ATTEMPTS: usize = 4;

/// The delegates of one virtual node in one target.
pub(super) struct Delegates {
    client: Client,
    /// The target's name, for people.
    target: String,
    host_id: String,
    node: String,
    /// Selects them.
    selector: String,
    addresses: Addresses,
    health: Arc<Health>,
    load: Arc<Load>,
    /// The places that may be read.
    reach: Reach,
    /// Where delegates have to be.
    places: Places,
    tracker: Option<Arc<Tracker>>,
    events: Events,
    follow: Arc<Follow>,
    relist_after: Option<Duration>,
}

impl Delegates {
    pub(super) fn new(setup: &TargetSetup, health: Arc<Health>, follow: Arc<Follow>, load: Arc<Load>) -> Self {
        let (client, host_id, node) = (setup.client.clone(), setup.host_id.clone(), setup.node_name.clone());
        let reach = setup.reach.clone();
        Self {
            selector: format!("{}={host_id},{}={node}", names::HOST, names::NODE),
            events: Events::new(client.clone(), reach.clone(), &setup.name, setup.tales),
            target: setup.name.clone(),
            addresses: setup.addresses,
            places: setup.places.clone(),
            load,
            relist_after: setup.relist_after,
            tracker: setup.tracker.clone(),
            reach,
            client,
            host_id,
            node,
            health,
            follow,
        }
    }

    /// Selects them by their labels.
    pub(super) fn selector(&self) -> &str {
        &self.selector
    }

    fn api(&self, namespace: &str) -> Api<PodDocument> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// A delegate as the core sees it. Its status is taken out of it.
    fn read(&self, delegate: &mut PodDocument) -> Result<ProviderPod, PodError> {
        let identity = self.identity(delegate)?;
        Ok(identified(delegate, identity, self.addresses))
    }

    /// Whose delegate this is, and its own UID.
    fn identity(&self, delegate: &PodDocument) -> Result<(PodKey, Arc<str>), PodError> {
        readable(delegate)?;
        let (key, uid) = identity(delegate).map_err(|error| PodError::Stranger(error.to_string()))?;
        if is_in_place(&self.places, delegate, &key) {
            return Ok((key, uid));
        }
        let (namespace, name) = (delegate.namespace(), delegate.name());
        let message = format!("pod {namespace}/{name} of the target calls itself the delegate of {key}");
        Err(PodError::Stranger(message))
    }

    /// Creates a delegate; `None` where its namespace is missing. One that is there already for the same proxy is
    /// this one: the answer to an earlier request was lost.
    pub(super) async fn create(&self, delegate: &PodDocument, key: &PodKey) -> Result<Option<ProviderPod>, PodError> {
        let namespace = delegate.namespace();
        if devices::claims(&delegate.spec) {
            self.try_claims(delegate).await?;
        }
        match self.api(namespace).create(&PostParams::default(), delegate).await {
            Ok(mut made) => self.read(&mut made).map(Some),
            Err(kube::Error::Api(status)) if status.is_already_exists() => self.occupied(delegate, key).await.map(Some),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(refusal(error, "pods")),
        }
    }

    /// Tries to create a delegate that claims devices, and leaves nothing: a pod that has lost them would have started by the
    /// time the answer shows it. Without an answer nothing is known, so that nothing is created.
    async fn try_claims(&self, delegate: &PodDocument) -> Result<(), PodError> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        match self.api(delegate.namespace()).create(&params, delegate).await {
            Ok(answer) => match devices::left_out(delegate, &answer) {
                Some(field) => Err(without_devices(&field, &self.target)),
                None => Ok(()),
            },
            // The creation itself finds these, and knows what follows.
            Err(kube::Error::Api(status)) if status.is_already_exists() || status.is_not_found() => Ok(()),
            Err(error) => Err(refusal(error, "pods")),
        }
    }

    /// Who has the name that a delegate needs?
    async fn occupied(&self, delegate: &PodDocument, key: &PodKey) -> Result<ProviderPod, PodError> {
        let (namespace, name) = (delegate.namespace(), delegate.name());
        let Some(holder) = self.api(namespace).get_opt(name).await.map_err(|error| refusal(error, "pods"))? else {
            return Err(PodError::Namesake(format!("{namespace}/{name} has just gone")));
        };
        readable(&holder)?;
        let other = if holder.label(names::HOST) == Some(&self.host_id) {
            PodError::Namesake(format!("{namespace}/{name}, UID {}", holder.uid()))
        } else {
            PodError::Stranger(format!(
                "the target has a pod {namespace}/{name} that is not ours; rename one of the two, or delete the one there"
            ))
        };
        self.identify(holder, key).await?.ok_or(other).and_then(|mut ours| self.read(&mut ours))
    }

    /// Patches what may change of a live pod, and only of this one. What is refused keeps nothing else from following.
    /// `followed` says what it needs beside it as well, or why its new containers cannot be added yet.
    pub(super) async fn update(
        &self,
        fresh: Refreshed,
        followed: Result<Vec<Need>, PodError>,
        instance: &Instance,
    ) -> Result<ProviderPod, PodError> {
        let (needs, held) = match followed {
            Ok(needs) => (Some(needs), fresh.held.clone().map(PodError::from)),
            Err(error) => (None, Some(error)),
        };
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.update_once(&fresh, needs.as_deref(), held.is_some(), instance).await {
                Err(Rejected::Changed(_)) if attempt < ATTEMPTS => {}
                Err(Rejected::Changed(error) | Rejected::For(error)) => return Err(error),
                Ok((updated, refused)) => return held.or(refused).map_or(Ok(updated), Err),
            }
        }
    }

    /// One attempt: every patch is for the delegate as it was read. One that comes late, when another process has brought
    /// the delegate further, would take that back, and forget what home has taken away since.
    async fn update_once(
        &self,
        fresh: &Refreshed,
        needs: Option<&[Need]>,
        is_held: bool,
        instance: &Instance,
    ) -> Result<(ProviderPod, Option<PodError>), Rejected> {
        let api = self.api(fresh.delegate.namespace());
        let name = fresh.delegate.name();
        let live = api.get(name).await.map_err(|error| refusal(error, "pods"))?;
        if live.uid() != &*instance.uid {
            return Err(PodError::Namesake(format!("{}/{}", live.namespace(), live.name())).into());
        }
        let mut version = live.metadata.resource_version.clone();
        let mut update = fresh.update(&live);
        let params = PatchParams::default();
        let mut refused = None;
        match needs {
            Some(needs) => update.follow(&live, needs),
            None => update.ephemeral = None,
        }
        let of = |version: &Option<String>, mut patch: Value| {
            patch["metadata"]["resourceVersion"] = version.clone().into();
            Patch::Strategic(patch)
        };
        for (subresource, patch) in [("ephemeralcontainers", update.ephemeral), ("resize", update.resize)] {
            let Some(patch) = patch else { continue };
            match api.patch_subresource(subresource, name, &params, &of(&version, patch)).await {
                Ok(patched) => version = patched.metadata.resource_version,
                Err(error) if is_conflict(&error) => return Err(Rejected::Changed(refusal(error, "pods"))),
                Err(error) => {
                    refused = refused.or_else(|| Some(refusal(error, &format!("pods/{subresource}"))));
                }
            }
        }
        let patch = if refused.is_none() && !is_held { update.whole } else { update.part };
        match api.patch(name, &params, &of(&version, patch)).await {
            Ok(mut patched) => Ok((self.read(&mut patched)?, refused)),
            Err(error) if is_conflict(&error) => Err(Rejected::Changed(refusal(error, "pods"))),
            Err(error) => Err(refusal(error, "pods").into()),
        }
    }

    /// Deletes this very delegate.
    pub(super) async fn delete(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        grace: Option<u32>,
    ) -> Result<Deletion, PodError> {
        match remove(&self.client, namespace, name, &within(uid, grace)).await {
            Ok(()) => Ok(Deletion::Started),
            // Not found, or another UID has the name.
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(Deletion::Gone),
            Err(error) => Err(refusal(error, "pods")),
        }
    }

    pub(super) async fn get(&self, namespace: &str, name: &str, key: &PodKey) -> Result<Option<ProviderPod>, PodError> {
        let found = self.api(namespace).get_opt(name).await.map_err(|error| refusal(error, "pods"))?;
        let Some(found) = found else { return Ok(None) };
        readable(&found)?;
        self.identify(found, key).await?.map(|mut pod| self.read(&mut pod)).transpose()
    }

    /// This pod, if it is the delegate of this proxy. Its labels say so, or they have been taken off while nobody looked:
    /// then they are put back, since no list would ever show it again.
    async fn identify(&self, pod: PodDocument, key: &PodKey) -> Result<Option<PodDocument>, PodError> {
        if pod.label(names::UID) == Some(&key.uid) {
            return Ok(Some(pod));
        }
        if pod.annotation(names::ORIGIN) != Some(&names::origin(&self.host_id, &self.node, &key.uid)) {
            return Ok(None);
        }
        self.relabel(&pod.metadata, &key.uid).await.map(Some).map_err(|error| refusal(error, "pods"))
    }

    pub(super) async fn list(&self) -> Result<Vec<ProviderPod>, PodError> {
        let mut pods: Vec<PodDocument> = vec![];
        for api in self.reach.apis::<PodDocument>(&self.client) {
            let list = api.list(&ListParams::default().labels(&self.selector)).await;
            pods.extend(list.map_err(|error| refusal(error, "pods"))?.items);
        }
        Ok(pods.iter_mut().filter_map(|pod| told(self.read(pod))).collect())
    }

    /// Tells of every delegate, and what is told about it, for as long as somebody listens.
    pub(super) async fn watch(&self, notices: mpsc::Sender<PodNotice>) {
        let listed = Notify::new();
        let recovery = async {
            listed.notified().await;
            self.recover().await;
            future::pending::<()>().await;
        };
        tokio::select! {
            () = self.watch_pods(notices.clone(), &listed) => {}
            () = self.events.watch(notices) => {}
            () = recovery => {}
        }
    }

    /// `ready` is told of every complete list.
    async fn watch_pods(&self, notices: mpsc::Sender<PodNotice>, ready: &Notify) {
        let mut listed = None;
        let config = watcher::Config::default().labels(&self.selector);
        let places = self.reach.apis::<PodDocument>(&self.client);
        let mut stream = crate::relist::watch_all(places, config, self.relist_after).boxed();
        // Those that may have gone, by UID, and whoever finds out.
        let (mut doubtful, mut searches) = (HashSet::<Arc<str>>::new(), FuturesUnordered::new());
        loop {
            let event = tokio::select! {
                event = stream.try_next() => event,
                Some((uid, notice)) = searches.next() => {
                    doubtful.remove(&uid);
                    if let Some(notice) = notice && notices.send(notice).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let notice = match event {
                Ok(Some(watcher::Event::Init)) => {
                    self.load.listing();
                    self.track(Tracker::listing);
                    self.follow.listing();
                    listed = Some(HashSet::new());
                    if !PodNotice::listing(&notices).await {
                        return;
                    }
                    None
                }
                Ok(Some(watcher::Event::InitApply(mut pod) | watcher::Event::Apply(mut pod))) => {
                    let over = is_over(&pod);
                    if !self.load.is_settled(&pod, over) {
                        glance(&mut pod);
                    }
                    let read = told(self.read(&mut pod));
                    if read.is_some() || pod.unreadable.is_some() {
                        self.load.seen(&pod, over);
                        self.track(|tracker| tracker.seen(&pod));
                        self.follow.seen(&pod, over);
                    }
                    if read.is_none() && self.is_stray(&pod.metadata) {
                        let metadata = pod.metadata.clone();
                        searches.push(async move { self.put_right(metadata).await }.boxed());
                    }
                    let unclear = PodNotice::Unclear(pod.uid().into());
                    Some(read.map_or(unclear, |pod| {
                        self.events.seen(&pod);
                        if let Some(listed) = &mut listed {
                            listed.insert(pod.instance.uid.clone());
                        }
                        PodNotice::Seen(Box::new(pod))
                    }))
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    self.load.listed();
                    self.track(Tracker::listed);
                    self.follow.listed();
                    if let Some(listed) = listed.take() {
                        self.events.listed(&listed);
                    }
                    self.health.works(WATCH);
                    ready.notify_one();
                    for uid in &doubtful {
                        if notices.send(PodNotice::Unclear(uid.clone())).await.is_err() {
                            return;
                        }
                    }
                    Some(PodNotice::Listed)
                }
                Ok(Some(watcher::Event::Delete(pod))) if has_ended(&pod) => self.gone(&pod),
                Ok(Some(watcher::Event::Delete(pod))) => {
                    let uid: Arc<str> = pod.uid().into();
                    doubtful.insert(uid.clone());
                    searches.push(async move { (uid, self.look_for(pod).await) }.boxed());
                    None
                }
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

    fn track(&self, tell: impl FnOnce(&Tracker)) {
        if let Some(tracker) = &self.tracker {
            tell(tracker);
        }
    }

    /// A delegate has gone.
    fn gone(&self, pod: &PodDocument) -> Option<PodNotice> {
        let (key, instance) = told(self.identity(pod))?;
        self.track(|tracker| tracker.gone(pod.uid()));
        self.load.gone(&key.uid);
        self.follow.gone(&key);
        self.events.gone(&instance);
        Some(PodNotice::Gone { key, instance })
    }

    /// A delegate left the selection: it has gone, or somebody has taken our labels off it. The second would leave a pod
    /// that runs and that nobody knows, so we look, and put the labels back. As long as nobody answers, it may be there.
    async fn look_for(&self, pod: PodDocument) -> Option<PodNotice> {
        let mut pause = LOOK;
        loop {
            match self.restore(&pod).await {
                Ok(Some(mut restored)) => {
                    return told(self.read(&mut restored)).map(|pod| PodNotice::Seen(Box::new(pod)));
                }
                Ok(None) => return self.gone(&pod),
                Err(error) => {
                    let pod = format!("{}/{}", pod.namespace(), pod.name());
                    tracing::warn!(
                        pod,
                        error = crate::errors::chain(&error),
                        "a delegate may have lost its labels; looking again"
                    );
                }
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_LOOK.min(pause * 2);
        }
    }

    /// Puts our labels back on a pod; `None` if it is there no more.
    async fn restore(&self, pod: &PodDocument) -> kube::Result<Option<PodDocument>> {
        let there = self.api(pod.namespace()).get_opt(pod.name()).await?;
        let Some(there) = there.filter(|there| there.uid() == pod.uid()) else { return Ok(None) };
        // The event shows the pod as it was when it still matched.
        let Some(uid) = pod.label(names::UID) else { return Ok(Some(there)) };
        if self.labels(uid).iter().all(|(key, value)| there.label(key) == Some(value)) {
            return Ok(Some(there));
        }
        self.relabel(&there.metadata, uid).await.map(Some)
    }

    /// Our labels on the delegate of the proxy with this UID.
    fn labels<'a>(&'a self, uid: &'a str) -> [(&'static str, &'a str); 3] {
        [(names::HOST, &self.host_id), (names::NODE, &self.node), (names::UID, uid)]
    }

    /// Puts our labels on a pod, and only on this one: it is the delegate of the proxy with this UID.
    async fn relabel(&self, pod: &ObjectMeta, uid: &str) -> kube::Result<PodDocument> {
        let labels: serde_json::Map<_, _> =
            self.labels(uid).into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let patch = serde_json::json!({"metadata": {"uid": pod.uid, "labels": labels}});
        let (namespace, name) = (pod.namespace.as_deref().unwrap_or_default(), pod.name.as_deref().unwrap_or_default());
        tracing::warn!(pod = format!("{namespace}/{name}"), "somebody took our labels off; restoring them");
        self.api(namespace).patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
    }
}

/// Says so where a delegate could not be read.
fn told<T>(read: Result<T, PodError>) -> Option<T> {
    read.inspect_err(|error| tracing::warn!(%error, "a delegate cannot be read")).ok()
}

/// Whether a delegate has ended.
fn is_over(pod: &PodDocument) -> bool {
    pod.status.get("phase").and_then(Value::as_str).is_some_and(|phase| Phase::parse(phase).terminal())
}

/// Whether the last state of a pod is that of one which was removed, and did not only leave the selection: an API server
/// removes a pod only when its grace period is over, and shows that.
fn has_ended(pod: &PodDocument) -> bool {
    pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Why an update was not made.
enum Rejected {
    /// The delegate has changed since it was read.
    Changed(PodError),
    /// Whatever else.
    For(PodError),
}

impl From<PodError> for Rejected {
    fn from(error: PodError) -> Self {
        Self::For(error)
    }
}

/// What is told of a target that leaves out what a pod claims.
fn without_devices(field: &str, target: &str) -> PodError {
    let message = format!(
        "target {target} would leave {field} out, so that the pod would start without its devices: its API server is older than \
         resource.k8s.io, or has it switched off, or a webhook there takes claims off; mend that, or let the pod go elsewhere"
    );
    PodError::Refused { reason: "DevicesLeftOut".into(), message }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

/// Whether a pod is where the delegate of this proxy has to be. Labels are written easily, and whoever may do so in one
/// namespace must not speak for pods of another.
fn is_in_place(places: &Places, pod: &PodDocument, proxy: &PodKey) -> bool {
    let name = places.name(&proxy.namespace, &proxy.name);
    (&*places.namespace(&proxy.namespace), &*name) == (pod.namespace(), pod.name())
}

/// Nothing may be concluded from a pod that can only be read in part, not even that it is somebody else's.
fn readable(pod: &PodDocument) -> Result<(), PodError> {
    let Some(what) = &pod.unreadable else { return Ok(()) };
    let message = format!("pod {}/{} of the target cannot be read: {what}", pod.namespace(), pod.name());
    Err(PodError::Refused { reason: "Unreadable".into(), message })
}

/// What a failed request means for the pod: an answer that says no, or none that counts.
pub(in crate::provider) fn refusal(error: kube::Error, resource: &str) -> PodError {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 408 | 409 | 429) => {
            let message = if status.message.is_empty() {
                format!("the target refuses {resource}")
            } else {
                status.message.clone()
            };
            PodError::Refused { reason: kind(status.code, &status.reason, &message), message }
        }
        other => PodError::NoAnswer(Box::new(other)),
    }
}

/// A word for who has refused. The API server gives one and the same reason for quota, admission and want of rights.
fn kind(code: u16, reason: &str, message: &str) -> String {
    let says = |word: &str| message.contains(word);
    match code {
        401 | 403 if says(": User \"") && says(" cannot ") => "Forbidden".into(),
        403 if says("exceeded quota") || says("failed quota") => "QuotaExceeded".into(),
        403 => "AdmissionDenied".into(),
        // A policy or a webhook may give any code.
        _ if says("denied request") || says("denied the request") => "AdmissionDenied".into(),
        _ if reason.is_empty() => code.to_string(),
        _ => reason.into(),
    }
}

/// Deletes the object of this UID only, within so many seconds.
fn within(uid: &str, grace: Option<u32>) -> DeleteParams {
    DeleteParams { grace_period_seconds: grace, ..only(uid.to_owned()) }
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
    fn it_is_told_who_has_refused() {
        let rights = "pods is forbidden: User \"system:x\" cannot create resource \"pods\" in API group \"\"";
        for (code, reason, message, expected) in [
            (403, "Forbidden", rights, "Forbidden"),
            (403, "Forbidden", "pods \"a\" is forbidden: exceeded quota: q, requested: pods=1", "QuotaExceeded"),
            (403, "Forbidden", "pods \"a\" is forbidden: failed quota: q: must specify cpu", "QuotaExceeded"),
            (403, "Forbidden", "pods \"a\" is forbidden: violates PodSecurity", "AdmissionDenied"),
            (
                422,
                "Invalid",
                "pods \"a\" is forbidden: ValidatingAdmissionPolicy 'p' denied request: no",
                "AdmissionDenied",
            ),
            (400, "", "admission webhook \"w\" denied the request: no", "AdmissionDenied"),
            (422, "Invalid", "Pod \"a\" is invalid: spec", "Invalid"),
            (404, "", "no", "404"),
        ] {
            assert_eq!(kind(code, reason, message), expected, "{message}");
        }
    }

    #[test]
    fn a_deletion_names_the_delegate() {
        let sent = serde_json::to_value(within("d-1", Some(3))).unwrap();
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

    #[test]
    fn what_left_the_selection_has_ended_only_if_its_grace_is_over() {
        let last = |metadata: serde_json::Value| {
            let pod: PodDocument = serde_json::from_value(json!({"metadata": metadata})).unwrap();
            has_ended(&pod)
        };
        let when = "2026-01-01T00:00:00Z";
        assert!(last(json!({"deletionTimestamp": when, "deletionGracePeriodSeconds": 0})));
        assert!(!last(json!({"deletionTimestamp": when, "deletionGracePeriodSeconds": 30})), "it still ends");
        assert!(!last(json!({})), "it runs, and somebody has taken its labels off");
    }
}
