//! Events on objects of home that are no pods: claims, Services, Ingresses.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::core::ObjectMeta;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::kubelet::events::{NOTE_BYTES, shorten};

/// The same words about the same object are no news for so long.
const QUIET: Duration = Duration::from_secs(600);

/// Writes events, each message once in a while.
pub struct Teller {
    client: Client,
    reporter: Reporter,
    /// What was told last, by the object's UID and the reason.
    told: Mutex<HashMap<(String, String), (String, Instant)>>,
}

impl Teller {
    /// A teller that speaks for this virtual node.
    pub fn new(client: Client, node: &str) -> Self {
        let reporter = Reporter { controller: "longshore".into(), instance: Some(node.into()) };
        Self { client, reporter, told: Mutex::default() }
    }

    /// Something that the object's owner should look at.
    pub fn warn(&self, about: &ObjectReference, reason: &str, message: String) {
        self.tell(about, EventType::Warning, reason, message);
    }

    /// Something worth knowing.
    pub fn say(&self, about: &ObjectReference, reason: &str, message: String) {
        self.tell(about, EventType::Normal, reason, message);
    }

    fn tell(&self, about: &ObjectReference, type_: EventType, reason: &str, message: String) {
        {
            // Nothing panics while this is held.
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.retain(|_, (_, when)| when.elapsed() < QUIET);
            let key = (about.uid.clone().unwrap_or_default(), reason.to_owned());
            if told.get(&key).is_some_and(|(last, _)| *last == message) {
                return;
            }
            told.insert(key, (message.clone(), Instant::now()));
        }
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(shorten(message, NOTE_BYTES)),
            action: "Offload".into(),
            secondary: None,
        };
        // A recorder that has seen the reason before would count it and keep the first message.
        let (recorder, about) = (Recorder::new(self.client.clone(), self.reporter.clone()), about.clone());
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::debug!(kind = about.kind, name = about.name, %error, "an event was not written");
            }
        });
    }
}

/// How an event names its object.
pub fn reference(api_version: &str, kind: &str, metadata: &ObjectMeta) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.into()),
        kind: Some(kind.into()),
        namespace: metadata.namespace.clone(),
        name: metadata.name.clone(),
        uid: metadata.uid.clone(),
        ..ObjectReference::default()
    }
}
