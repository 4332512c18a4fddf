//! Events on proxy pods: what users read in `kubectl describe`.
//!
//! Those of our own, and those that were told about an instance elsewhere and concern the pod's owner all the same. One task
//! writes them, one after the other; what repeats itself becomes a count, and a pod that is noisy is told less of
//! (as the event correlator of client-go does it).

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use super::document::PodKey;
use super::provider::{Obstacle, Told};

mod thrift;

use thrift::{Repetition, Thrift, name_of};

/// How many events may wait to be written; more are dropped, since no pod may wait for an event.
const WAITING: usize = 1024;

/// The API server's limit for a note is 1 kB; longer ones would be refused.
pub(crate) const NOTE_BYTES: usize = 1000;

/// The API server's limit for reasons, actions and reporting instances.
const WORD_BYTES: usize = 128;

/// The reporting controller of our own events.
const CONTROLLER: &str = "longshore";

/// Writes events in the background.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<(PodKey, Telling)>,
}

/// What is told of a pod.
enum Telling {
    Own { warning: bool, what: Obstacle },
    Mirrored(Told),
}

impl Events {
    /// Starts the writer, which ends with the last clone of this.
    pub fn start(client: Client, node: &str) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(PodKey, Telling)>(WAITING);
        let mut writer = Writer { client, node: node.into(), thrift: Thrift::default() };
        tokio::spawn(async move {
            while let Some((key, telling)) = receiver.recv().await {
                if let Err(error) = writer.write(&key, telling).await {
                    tracing::debug!(pod = %key, %error, "an event was not written");
                }
            }
        });
        Self { sender }
    }

    /// Something that the pod's owner should look at.
    pub fn warn(&self, key: &PodKey, what: Obstacle) {
        self.send(key, Telling::Own { warning: true, what });
    }

    /// Something worth knowing.
    pub fn tell(&self, key: &PodKey, reason: &str, message: String) {
        let what = Obstacle { reason: reason.into(), message };
        self.send(key, Telling::Own { warning: false, what });
    }

    /// Something that was told about the pod's instance.
    pub fn mirror(&self, key: &PodKey, told: Told) {
        self.send(key, Telling::Mirrored(told));
    }

    fn send(&self, key: &PodKey, telling: Telling) {
        if self.sender.try_send((key.clone(), telling)).is_err() {
            tracing::debug!(pod = %key, "too many events wait; one was dropped");
        }
    }
}

/// The one who writes.
struct Writer {
    client: Client,
    node: String,
    thrift: Thrift,
}

impl Writer {
    async fn write(&mut self, key: &PodKey, telling: Telling) -> Result<(), kube::Error> {
        let now = Timestamp::now();
        match telling {
            Telling::Own { warning, what } => {
                let same = [&*key.uid, &*what.reason, &*what.message].join("\n");
                let event = event(key, warning, what, CONTROLLER.into(), self.node.clone());
                match self.thrift.again(&same) {
                    Some(Repetition { name, count }) if self.count(key, &name, count, now).await? => Ok(()),
                    _ => {
                        let name = name_of(&key.name, &format!("{same}\n{now}"));
                        self.thrift.wrote(&same, &name);
                        self.create(key, &name, event, now).await.map(drop)
                    }
                }
            }
            Telling::Mirrored(told) => {
                if !self.thrift.affords(&key.uid) {
                    return Ok(());
                }
                // The same event has the same name in every process: whoever tells it again meets it.
                let name = name_of(&key.name, &told.id);
                let what = Obstacle { reason: told.reason, message: told.message };
                let event = event(key, told.warning, what, told.controller, told.instance);
                if self.thrift.knows(&told.id) && self.count(key, &name, told.count, now).await? {
                    return Ok(());
                }
                self.thrift.wrote(&told.id, &name);
                if !self.create(key, &name, event, now).await? && told.count > 1 {
                    self.count(key, &name, told.count, now).await?;
                }
                Ok(())
            }
        }
    }

    fn api(&self, key: &PodKey) -> Api<Event> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Whether it was new.
    async fn create(&self, key: &PodKey, name: &str, event: Event, now: Timestamp) -> Result<bool, kube::Error> {
        let metadata =
            ObjectMeta { name: Some(name.into()), namespace: Some(key.namespace.clone()), ..ObjectMeta::default() };
        let event = Event { metadata, event_time: Some(MicroTime(now)), ..event };
        match self.api(key).create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(false),
            made => made.map(|_| true),
        }
    }

    /// Makes an event one of a series; `false` if it is no longer there.
    async fn count(&self, key: &PodKey, name: &str, count: i32, now: Timestamp) -> Result<bool, kube::Error> {
        // Below two there is no series.
        let series = EventSeries { count: count.max(2), last_observed_time: MicroTime(now) };
        let patch = Patch::Merge(json!({"series": series}));
        match self.api(key).patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
            patched => patched.map(|_| true),
        }
    }
}

fn event(key: &PodKey, warning: bool, what: Obstacle, controller: String, instance: String) -> Event {
    Event {
        action: Some("Offload".into()),
        note: Some(shorten(what.message, NOTE_BYTES)),
        reason: Some(shorten(what.reason, WORD_BYTES - '…'.len_utf8())),
        regarding: Some(reference(key)),
        reporting_controller: Some(controller),
        reporting_instance: Some(shorten(instance, WORD_BYTES - '…'.len_utf8())),
        type_: Some(if warning { "Warning" } else { "Normal" }.into()),
        ..Event::default()
    }
}

pub(crate) fn shorten(mut note: String, limit: usize) -> String {
    if note.len() > limit {
        let mut end = limit;
        while !note.is_char_boundary(end) {
            end -= 1;
        }
        note.truncate(end);
        note.push('…');
    }
    note
}

fn reference(key: &PodKey) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(key.uid.clone()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let short = shorten("ä".repeat(900), NOTE_BYTES);
        assert!(short.len() <= NOTE_BYTES + '…'.len_utf8() && short.ends_with("ä…"), "{}", short.len());
        assert_eq!(shorten("as it is".into(), NOTE_BYTES), "as it is");
    }
}
