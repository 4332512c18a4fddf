//! Events about a virtual node itself.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};

use crate::kubelet::events::{NOTE_BYTES, shorten};

/// Where events about what has no namespace are.
const NAMESPACE: &str = "default";

/// Tells of a node, in the log and in `kubectl describe node`.
pub(super) struct Teller {
    events: Api<Event>,
    node: String,
}

impl Teller {
    pub(super) fn new(client: Client, node: &str) -> Self {
        Self { events: Api::namespaced(client, NAMESPACE), node: node.into() }
    }

    /// Says it. An event that cannot be written is in the log all the same.
    pub(super) async fn warn(&self, reason: &str, message: String) {
        tracing::warn!(node = self.node, reason, "{message}");
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", self.node, now.as_nanosecond())),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            action: Some("Serve".into()),
            reason: Some(reason.into()),
            note: Some(shorten(message, NOTE_BYTES - '…'.len_utf8())),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(self.node.clone()),
                // As kubelets do it: `kubectl describe node` looks for this.
                uid: Some(self.node.clone()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("longshore".into()),
            reporting_instance: Some(shorten(self.node.clone(), 120)),
            type_: Some("Warning".into()),
            ..Event::default()
        };
        if let Err(error) = self.events.create(&PostParams::default(), &event).await {
            tracing::debug!(node = self.node, %error, "an event was not written");
        }
    }
}
