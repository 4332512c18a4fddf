//! Events on proxy pods: what users read in `kubectl describe`.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;

use super::document::PodKey;
use super::provider::Obstacle;

/// How many events may wait to be written; more are dropped, since no pod may wait for an event.
const WAITING: usize = 1024;

/// The API server's limit for a note is 1 kB; longer ones would be refused.
const NOTE_BYTES: usize = 1000;

/// Writes events in the background.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<(PodKey, EventType, Obstacle)>,
}

impl Events {
    /// Starts the writer, which ends with the last clone of this.
    pub fn start(client: Client, node: &str) -> Self {
        let reporter = Reporter { controller: "longshore".into(), instance: Some(node.into()) };
        let recorder = Recorder::new(client, reporter);
        let (sender, mut receiver) = mpsc::channel::<(PodKey, EventType, Obstacle)>(WAITING);
        tokio::spawn(async move {
            while let Some((key, type_, obstacle)) = receiver.recv().await {
                let event = Event {
                    type_,
                    reason: obstacle.reason,
                    note: Some(shorten(obstacle.message)),
                    action: "Offload".into(),
                    secondary: None,
                };
                if let Err(error) = recorder.publish(&event, &reference(&key)).await {
                    tracing::debug!(pod = %key, %error, "an event was not written");
                }
            }
        });
        Self { sender }
    }

    /// Something that the pod's owner should look at.
    pub fn warn(&self, key: &PodKey, obstacle: Obstacle) {
        self.send(key, EventType::Warning, obstacle);
    }

    /// Something worth knowing.
    pub fn tell(&self, key: &PodKey, reason: &str, message: String) {
        self.send(key, EventType::Normal, Obstacle { reason: reason.into(), message });
    }

    fn send(&self, key: &PodKey, type_: EventType, obstacle: Obstacle) {
        if self.sender.try_send((key.clone(), type_, obstacle)).is_err() {
            tracing::debug!(pod = %key, "too many events wait; one was dropped");
        }
    }
}

pub(crate) fn shorten(mut note: String) -> String {
    if note.len() > NOTE_BYTES {
        let mut end = NOTE_BYTES;
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
        let short = shorten("ä".repeat(900));
        assert!(short.len() <= NOTE_BYTES + '…'.len_utf8() && short.ends_with("ä…"), "{}", short.len());
        assert_eq!(shorten("as it is".into()), "as it is");
    }
}
