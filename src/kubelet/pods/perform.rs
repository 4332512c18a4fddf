//! Carries out one action and says what to do next.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{ANNOTATIONS, Shell, backoff};
use crate::errors::chain;
use crate::kubelet::document::{PodDocument, PodKey};
use crate::kubelet::host::WriteError;
use crate::kubelet::provider::{Deletion, Obstacle, PodError, Provider};
use crate::kubelet::sites::{CHOICE, Chosen, FENCE, Index};
use crate::kubelet::status::{Facts, desired, needs_whole_status, patch, pressing, shows, tells_its_end};
use crate::kubelet::step::{Action, Answer, Event, Evidence, ProxyView};
use crate::kubelet::table::{Found, Side, Snapshot, Uid, is_unschedulable};
use crate::kubelet::tolerations;
use crate::kubelet::view::{DELEGATED, digest};

impl Shell {
    /// The actions that follow from this one; `None` where the list that it came from goes on.
    pub(super) async fn perform(self: &Arc<Self>, uid: &Uid, action: Action) -> Option<Vec<Action>> {
        match action {
            Action::Place => Some(self.place(uid).await),
            Action::Fence => Some(self.fence(uid).await),
            Action::Create => Some(self.create(uid).await),
            Action::Update => Some(self.update(uid).await),
            Action::Delete { instance, site, grace } => Some(self.delete(uid, instance, site, grace).await),
            Action::Report { evidence, urgent } => self.report(uid, &evidence, urgent).await,
            Action::Lift => Some(self.lift_tolerations(uid).await),
            Action::FindProxy => Some(self.find_proxy(uid).await),
            Action::FindInstance => Some(self.find_instance(uid).await),
            Action::FindElsewhere(site) => Some(self.find_elsewhere(uid, site).await),
            Action::DeleteProxy => Some(self.delete_proxy(uid).await),
            Action::RetryAfter(attempts) => {
                self.wake(uid, backoff(attempts), Event::Retry);
                None
            }
            Action::Forget => {
                self.table.forget(uid);
                None
            }
        }
    }

    /// The provider at the place of this pod.
    fn provider(&self, uid: &Uid) -> Option<&Arc<dyn Provider>> {
        self.sites.get(self.table.site(uid)?)
    }

    /// What a write of ours has made of the proxy.
    fn written(&self, uid: &Uid, pod: PodDocument, answer: fn(ProxyView) -> Answer) -> Vec<Action> {
        let mut pod = tolerations::restored(pod);
        let (want, site) = (self.want(&mut pod), self.sites.of(&pod));
        self.table.written(uid, &pod, want, site, answer)
    }

    /// Writes where a pod that runs already is.
    async fn adopt(self: &Arc<Self>, uid: &Uid, site: Index) -> Vec<Action> {
        let Some(was) = self.table.snapshot(uid) else { return vec![] };
        self.write_choice(uid, &was.key, was.version, Chosen { site, why: "it runs there already".into() }).await
    }

    async fn place(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        if self.table.instance(uid).is_some()
            && let Some(site) = self.table.site(uid)
        {
            return self.adopt(uid, site).await;
        }
        // Without the document it is read again, and what it says may call for something else by now.
        let Some(pod) = self.table.body(uid) else { return self.find_proxy(uid).await };
        let Some(chooser) = self.sites.chooser() else { return self.table.step(uid, Event::Look) };
        let key = pod.key();
        let chosen = match chooser.choose(&pod, self.sites.of(&pod)).await {
            Ok(chosen) => chosen,
            Err(error) => return self.refused(uid, &key, &error),
        };
        self.write_choice(uid, &key, pod.version(), chosen).await
    }

    async fn write_choice(self: &Arc<Self>, uid: &Uid, key: &PodKey, version: u64, chosen: Chosen) -> Vec<Action> {
        let target = self.sites.name(chosen.site);
        let written = self.write_patch(uid, key, version, &choice_patch(&key.uid, version, target)).await;
        if written.is_ok() {
            tracing::info!(node = self.node, pod = %key, target_cluster = target, why = chosen.why, "placed");
            self.events.tell(key, "Placed", format!("in target {target}: {}", chosen.why));
        }
        written.unwrap_or_else(|actions| actions)
    }

    /// Writes a choice; what follows, in either case.
    async fn write_patch(
        self: &Arc<Self>,
        uid: &Uid,
        key: &PodKey,
        version: u64,
        patch: &Value,
    ) -> Result<Vec<Action>, Vec<Action>> {
        match self.host.patch_status(key, patch).await {
            Ok(pod) => Ok(self.written(uid, pod, Answer::Placed)),
            Err(WriteError::Outdated) => Err(self.table.step(uid, Event::Answer(Answer::Conflict(version)))),
            Err(error) => {
                tracing::warn!(node = self.node, pod = %key, error = chain(&error), "the choice was not written");
                Err(self.table.step(uid, Event::Answer(Answer::HostFailed)))
            }
        }
    }

    /// Confirms the choice of another process before it is acted on: every patch names a version, and this makes a new one.
    async fn fence(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        let Some(was) = self.table.snapshot(uid) else { return vec![] };
        let Some(site) = self.table.site(uid).filter(|site| self.sites.get(*site).is_some()) else {
            return self.table.step(uid, Event::Look);
        };
        let mut patch = choice_patch(&was.key.uid, was.version, self.sites.name(site));
        patch["metadata"]["annotations"][FENCE] = was.version.to_string().into();
        self.write_patch(uid, &was.key, was.version, &patch).await.unwrap_or_else(|actions| actions)
    }

    async fn create(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        // Without the document it is read again, and what it says may call for something else by now.
        let Some(pod) = self.table.body(uid) else { return self.find_proxy(uid).await };
        let asked = self.table.asking(uid);
        let Some(provider) = self.provider(uid) else { return self.table.step(uid, Event::Look) };
        match provider.create_pod(&pod).await {
            Ok(made) => {
                tracing::info!(node = self.node, pod = %pod.key(), uid = %uid, "created");
                self.table.created(uid);
                for remark in &made.remarks {
                    self.events.warn(&pod.key(), remark.clone());
                }
                self.table.made(uid, made, asked, Answer::Created)
            }
            Err(error) => self.refused(uid, &pod.key(), &error),
        }
    }

    async fn update(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        // Without the document it is read again, and what it says may call for something else by now.
        let Some(pod) = self.table.body(uid) else { return self.find_proxy(uid).await };
        let Some(instance) = self.table.instance(uid) else { return self.table.step(uid, Event::Look) };
        let asked = self.table.asking(uid);
        let Some(provider) = self.provider(uid) else { return self.table.step(uid, Event::Look) };
        match provider.update_pod(&pod, &instance).await {
            Ok(made) => {
                tracing::info!(node = self.node, pod = %pod.key(), "updated");
                self.table.made(uid, made, asked, Answer::Updated)
            }
            Err(error) => self.refused(uid, &pod.key(), &error),
        }
    }

    async fn delete(self: &Arc<Self>, uid: &Uid, instance: Arc<str>, site: Index, grace: Option<u32>) -> Vec<Action> {
        let (Some(key), Some(provider)) = (self.table.key(uid), self.sites.get(site)) else { return vec![] };
        match provider.delete_pod(&key, &instance, grace).await {
            Ok(Deletion::Started) => {
                tracing::info!(node = self.node, pod = %key, grace, "stopping");
                // Without a grace period of ours the instance has its own, which is never asked to be shorter.
                self.table.step(uid, Event::Answer(Answer::Stopping(instance, grace.unwrap_or(0))))
            }
            Ok(Deletion::Gone) => {
                let (_, actions) = self.instance_gone(&key, &instance);
                actions
            }
            Err(error) => {
                tracing::warn!(node = self.node, pod = %key, error = chain(&error), "could not be stopped; trying again");
                self.table.step(uid, Event::Answer(Answer::StopFailed))
            }
        }
    }

    async fn report(self: &Arc<Self>, uid: &Uid, evidence: &Evidence, urgent: bool) -> Option<Vec<Action>> {
        if *evidence == Evidence::Instance
            && let Some(answer) = self.table.known_report(uid, urgent)
        {
            self.table.step(uid, Event::Answer(answer));
            return None;
        }
        let Some(snapshot) = self.table.snapshot(uid) else { return Some(vec![]) };
        let weighed = snapshot.weighed.filter(|_| *evidence == Evidence::Instance);
        // What it has told itself is more than what can be concluded, and takes no request.
        let told = *evidence == Evidence::Ended && tells_its_end(&snapshot.home, &snapshot.status);
        let evidence = if told { &Evidence::Instance } else { evidence };
        let home_status = if needs_whole_status(evidence, &snapshot.home, &snapshot.status) {
            match self.host.pod(&snapshot.key).await {
                Ok(Some(pod)) => pod.status.into_value(),
                Ok(None) => return Some(self.table.step(uid, Event::Answer(Answer::ProxyMissing))),
                Err(error) => return Some(self.host_failed(uid, &error)),
            }
        } else {
            Value::Null
        };
        let wanted = self.render(evidence, &snapshot, &home_status);
        let generation = wanted.get("observedGeneration").and_then(Value::as_i64);
        let asked = (digest(&wanted), generation);
        let accepted = snapshot.accepted == Some((asked.0, snapshot.home.digest, generation));
        let annotations = snapshot.home.annotations.patch(&snapshot.annotations);
        if accepted || shows(&snapshot.home, &wanted) {
            let over = snapshot.home.deleting || snapshot.home.phase.terminal();
            if annotations.is_none() || over {
                self.table.looked(uid, weighed, Found::Shown);
                self.table.step(uid, Event::Answer(Answer::Unchanged));
                return None;
            }
            // On their own they are worth a write only when nothing else has come for a while.
            if !self.table.report_due(uid) {
                if self.table.linger(uid) {
                    self.wake(uid, ANNOTATIONS, Event::ReportDue);
                }
                self.table.step(uid, Event::Answer(Answer::Deferred));
                return None;
            }
        } else if !urgent && !pressing(&snapshot.home, &wanted) {
            if self.table.defer(uid) {
                self.wake_to_report(uid);
            }
            self.table.looked(uid, weighed, Found::MayWait);
            self.table.step(uid, Event::Answer(Answer::Deferred));
            return None;
        }
        match evidence {
            Evidence::Leaving => {
                let message = "somebody in the target deletes the delegate".into();
                self.events.warn(&snapshot.key, Obstacle { reason: "DelegateDeleted".into(), message });
            }
            // What an attempt has met was told when it was met.
            Evidence::Waiting(obstacle) if self.table.known_obstacle(uid).is_none() => {
                self.events.warn(&snapshot.key, obstacle.clone());
            }
            Evidence::Instance => self.tell_unschedulable(&snapshot),
            _ => {}
        }
        let mut patch = patch(&snapshot.key.uid, snapshot.version, &snapshot.home, &wanted);
        if let Some(annotations) = annotations {
            patch["metadata"]["annotations"] = annotations;
        }
        Some(self.write(uid, &snapshot, &wanted, &patch, asked).await)
    }

    /// Once for each time that it happens: the condition on the proxy remembers.
    fn tell_unschedulable(&self, snapshot: &Snapshot) {
        let Some(obstacle) = snapshot.obstacle.as_ref().filter(|obstacle| is_unschedulable(obstacle)) else {
            return;
        };
        if snapshot.home.condition(DELEGATED).is_none_or(|shown| shown.reason != obstacle.reason) {
            let reason = "DelegateUnschedulable".into();
            self.events.warn(&snapshot.key, Obstacle { reason, message: obstacle.message.clone() });
        }
    }

    fn render(&self, evidence: &Evidence, snapshot: &Snapshot, home_status: &Value) -> Value {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        desired(
            evidence,
            &Facts {
                home: &snapshot.home,
                home_status,
                instance: &snapshot.status,
                obstacle: snapshot.obstacle.as_ref(),
                update: snapshot.update.as_ref(),
                current: snapshot.current,
                node_ip: &self.node_ip,
                now: &now,
            },
        )
    }

    async fn write(
        self: &Arc<Self>,
        uid: &Uid,
        was: &Snapshot,
        wanted: &Value,
        patch: &Value,
        asked: (u64, Option<i64>),
    ) -> Vec<Action> {
        match self.host.patch_status(&was.key, patch).await {
            Ok(pod) => {
                let phase = wanted.get("phase").and_then(Value::as_str);
                tracing::debug!(node = self.node, pod = %was.key, phase, "reported");
                self.table.reported_known(uid, pod.version(), asked).unwrap_or_else(|| {
                    let mut pod = tolerations::restored(pod);
                    let want = self.want(&mut pod);
                    self.table.reported(uid, &pod, want, asked)
                })
            }
            Err(WriteError::Outdated) => self.table.step(uid, Event::Answer(Answer::Conflict(was.version))),
            Err(error) => {
                tracing::warn!(node = self.node, pod = %was.key, error = chain(&error), "the status was not written");
                if let WriteError::Refused(message) = error {
                    self.events.warn(&was.key, Obstacle { reason: "StatusRefused".into(), message });
                    return self.table.step(uid, Event::Answer(Answer::StatusRefused));
                }
                self.table.step(uid, Event::Answer(Answer::HostFailed))
            }
        }
    }

    async fn lift_tolerations(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        let Some(was) = self.table.snapshot(uid) else { return vec![] };
        match self.host.patch(&was.key, &was.home.defaults.patch(&was.key.uid)).await {
            Ok(pod) => {
                tracing::debug!(node = self.node, pod = %was.key, "kept from eviction");
                self.written(uid, pod, Answer::Lifted)
            }
            // The patch tests what it changes.
            Err(WriteError::Outdated | WriteError::Refused(_)) => {
                self.table.step(uid, Event::Answer(Answer::Conflict(was.version)))
            }
            Err(error) => {
                tracing::warn!(node = self.node, pod = %was.key, error = chain(&error), "could not be kept from eviction");
                self.table.step(uid, Event::Answer(Answer::HostFailed))
            }
        }
    }

    async fn find_proxy(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        let Some(key) = self.table.key(uid) else { return vec![] };
        let asked = self.table.epoch(Side::Host);
        match self.host.pod(&key).await {
            // A list that began since may not show it any more, and nobody would tell of its end: ask again.
            Ok(Some(_)) if asked != self.table.epoch(Side::Host) => self.table.step(uid, Event::Look),
            Ok(Some(pod)) if pod.spec.get("nodeName").and_then(Value::as_str) == Some(&self.node) => {
                self.take_in(tolerations::restored(pod));
                self.table.step(uid, Event::Look)
            }
            Ok(_) => {
                tracing::info!(node = self.node, pod = %key, uid = %uid, "what runs for this pod has no owner any more");
                self.table.step(uid, Event::Answer(Answer::ProxyMissing))
            }
            Err(error) => self.host_failed(uid, &error),
        }
    }

    async fn find_instance(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        let Some(key) = self.table.key(uid) else { return vec![] };
        if self.table.site(uid).is_none() {
            return self.find_anywhere(uid, &key).await;
        }
        let asked = self.table.asking(uid);
        let Some(provider) = self.provider(uid) else {
            return self.table.step(uid, Event::Answer(Answer::StopFailed));
        };
        match provider.get_pod(&key).await {
            Ok(Some(found)) => self.table.made(uid, found, asked, Answer::Created),
            Ok(None) => self.table.missing(uid, asked),
            Err(error) => {
                tracing::warn!(node = self.node, pod = %key, error = chain(&error), "could not be looked for; trying again");
                self.table.step(uid, Event::Answer(Answer::StopFailed))
            }
        }
    }

    async fn find_elsewhere(self: &Arc<Self>, uid: &Uid, site: Index) -> Vec<Action> {
        let (Some(key), Some(provider)) = (self.table.key(uid), self.sites.get(site)) else {
            return self.table.step(uid, Event::Answer(Answer::NotElsewhere(site)));
        };
        let asked = self.table.asking_at(uid, site);
        match provider.get_pod(&key).await {
            Ok(Some(found)) => self.table.made(uid, found, asked, Answer::Created),
            Ok(None) => self.table.step(uid, Event::Answer(Answer::NotElsewhere(site))),
            Err(error) => {
                tracing::warn!(node = self.node, pod = %key, error = chain(&error), "could not be looked for; trying again");
                self.table.step(uid, Event::Answer(Answer::StopFailed))
            }
        }
    }

    /// A proxy without a choice: it was told to go before there was one, or somebody has taken it away.
    async fn find_anywhere(self: &Arc<Self>, uid: &Uid, key: &PodKey) -> Vec<Action> {
        for (index, site) in self.sites.iter() {
            let asked = (self.table.asking(uid), self.table.epoch(Side::Site(index)));
            match site.provider.get_pod(key).await {
                Ok(None) => {}
                // What was found may have gone meanwhile, and nobody would ever tell.
                Ok(Some(_)) if asked != (self.table.asking(uid), self.table.epoch(Side::Site(index))) => {
                    return self.table.step(uid, Event::Answer(Answer::Doubtful(None)));
                }
                Ok(Some(found)) => {
                    self.table.instance_seen(index, found);
                    return self.table.step(uid, Event::Look);
                }
                Err(error) => {
                    let (pod, error) = (key, chain(&error));
                    tracing::warn!(node = self.node, %pod, error, "could not be looked for; trying again");
                    return self.table.step(uid, Event::Answer(Answer::StopFailed));
                }
            }
        }
        self.table.step(uid, Event::Answer(Answer::InstanceMissing))
    }

    async fn delete_proxy(self: &Arc<Self>, uid: &Uid) -> Vec<Action> {
        let Some(key) = self.table.key(uid) else { return vec![] };
        match self.host.delete(&key).await {
            Ok(()) => {
                tracing::info!(node = self.node, pod = %key, "gone");
                self.table.step(uid, Event::Answer(Answer::ProxyDeleted))
            }
            Err(error) => self.host_failed(uid, &error),
        }
    }

    fn refused(self: &Arc<Self>, uid: &Uid, key: &PodKey, error: &PodError) -> Vec<Action> {
        let (obstacle, retry) = explain(error);
        if let PodError::Rejected { .. } = error {
            tracing::warn!(node = self.node, pod = %key, error = chain(error), "rejected");
            self.events.warn(key, obstacle.clone());
            return self.table.step(uid, Event::Answer(Answer::Rejected(obstacle)));
        }
        tracing::warn!(node = self.node, pod = %key, error = chain(error), "cannot be offloaded now");
        // The predecessor's grace period is no news, and a repetition is none either.
        let news = self.table.known_obstacle(uid).as_ref() != Some(&obstacle);
        if news && !matches!(error, PodError::Namesake(_)) {
            self.events.warn(key, obstacle.clone());
        }
        self.table.step(uid, Event::Answer(Answer::Refused { obstacle, retry }))
    }

    fn host_failed(self: &Arc<Self>, uid: &Uid, error: &kube::Error) -> Vec<Action> {
        tracing::warn!(node = self.node, %uid, error = chain(error), "the host does not answer; trying again");
        self.table.step(uid, Event::Answer(Answer::HostFailed))
    }
}

/// The status subresource takes annotations, and a right less is needed. The version makes it fail if anybody else, another
/// replica above all, has chosen meanwhile.
fn choice_patch(uid: &str, version: u64, target: &str) -> Value {
    json!({"metadata": {"uid": uid, "resourceVersion": version.to_string(), "annotations": {CHOICE: target}}})
}

/// What the pod's owner reads, and whether trying again may help.
fn explain(error: &PodError) -> (Obstacle, bool) {
    let (reason, retry) = match error {
        PodError::Held { .. } => ("OffloadHeld", false),
        PodError::Rejected { reason, .. } => (reason.as_str(), false),
        PodError::Namesake(_) => ("WaitingForNamesake", true),
        PodError::Stranger(_) => ("NameConflict", true),
        PodError::Waiting { reason, .. } => (reason.as_str(), true),
        PodError::Refused { .. } => ("TargetRefused", true),
        PodError::NoAnswer(_) => ("TargetUnreachable", true),
    };
    (Obstacle { reason: reason.into(), message: chain(error) }, retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_fenced() {
        let metadata = json!({"uid": "u", "resourceVersion": "7", "annotations": {"longshore.dev/target": "east"}});
        assert_eq!(choice_patch("u", 7, "east"), json!({"metadata": metadata}));
    }

    #[test]
    fn only_a_change_of_the_pod_helps_one_that_is_held() {
        let held = PodError::Held { field: "spec.volumes[0]".into(), message: "no".into() };
        let (obstacle, retry) = explain(&held);
        assert_eq!((obstacle.message.as_str(), retry), ("spec.volumes[0]: no", false));
        assert!(explain(&PodError::Stranger("x".into())).1);
    }
}
