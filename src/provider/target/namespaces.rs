//! The target's namespaces: which there are, with their UIDs, and how to get a missing one.
//!
//! A delegate's owner is its namespace, by UID. One watch keeps the UIDs right: a namespace that was deleted and made anew
//! has another one, and a delegate with the old one would be collected as garbage.

use std::sync::Arc;

use dashmap::DashMap;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::PostParams;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::delegates::refusal;
use super::health::Health;
use crate::kubelet::provider::PodError;
use crate::provider::names;

const WATCH: &str = "namespaces";

/// The namespaces of one target.
pub(super) struct Namespaces {
    api: Api<Namespace>,
    metadata: Api<PartialObjectMeta<Namespace>>,
    create: bool,
    host_id: String,
    /// Name to UID, of those that are not being deleted.
    known: DashMap<String, String>,
    health: Arc<Health>,
}

impl Namespaces {
    /// Those of this target; `host_id` is written on those that are made.
    pub(super) fn new(client: Client, create: bool, host_id: String, health: Arc<Health>) -> Self {
        Self {
            api: Api::all(client.clone()),
            metadata: Api::all(client),
            create,
            host_id,
            known: DashMap::new(),
            health,
        }
    }

    /// Keeps the UIDs right, for ever.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut stream =
            watcher(self.metadata.clone(), watcher::Config::default()).backoff(crate::backoff::of_watches()).boxed();
        let mut listed: Vec<String> = vec![];
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(namespace))) => {
                    listed.push(namespace.name_any());
                    self.apply(&namespace);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    self.known.retain(|name, _| listed.contains(name));
                    self.health.works(WATCH);
                }
                Ok(Some(watcher::Event::Apply(namespace))) => self.apply(&namespace),
                Ok(Some(watcher::Event::Delete(namespace))) => self.forget(&namespace.name_any()),
                Ok(None) => return,
                Err(error) => self.health.interrupted(WATCH, &error),
            }
        }
    }

    fn apply(&self, namespace: &PartialObjectMeta<Namespace>) {
        let name = namespace.name_any();
        match (&namespace.metadata.deletion_timestamp, &namespace.metadata.uid) {
            (None, Some(uid)) => {
                self.known.insert(name, uid.clone());
            }
            _ => self.forget(&name),
        }
    }

    /// The UID of a namespace that takes pods, made if it is missing and that is allowed.
    pub(super) async fn ensure(&self, name: &str) -> Result<String, PodError> {
        if let Some(uid) = self.known.get(name) {
            return Ok(uid.clone());
        }
        let found = match self.api.get_metadata_opt(name).await.map_err(|error| refusal(error, "namespaces"))? {
            Some(found) => found.metadata,
            None if self.create => self.create(name).await?,
            None => {
                return Err(PodError::Refused {
                    reason: "NotFound".into(),
                    message: format!(
                        "the target has no namespace {name}; create it there, or set spec.namespaces.create in the Target"
                    ),
                });
            }
        };
        if found.deletion_timestamp.is_some() {
            return Err(PodError::Refused {
                reason: "Terminating".into(),
                message: format!("namespace {name} of the target is being deleted"),
            });
        }
        let uid = found.uid.unwrap_or_default();
        self.known.insert(name.into(), uid.clone());
        Ok(uid)
    }

    async fn create(&self, name: &str) -> Result<ObjectMeta, PodError> {
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(name.into()),
                labels: Some(
                    [
                        ("app.kubernetes.io/managed-by".to_owned(), names::FIELD_MANAGER.to_owned()),
                        (names::HOST.to_owned(), self.host_id.clone()),
                    ]
                    .into(),
                ),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        match self.api.create(&PostParams::default(), &namespace).await {
            Ok(made) => {
                tracing::info!(namespace = name, "created a namespace in the target");
                Ok(made.metadata)
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                self.api.get_metadata(name).await.map(|found| found.metadata).map_err(|e| refusal(e, "namespaces"))
            }
            Err(error) => Err(refusal(error, "namespaces")),
        }
    }

    /// The namespace is not what it was; it is looked up when it is needed again.
    pub(super) fn forget(&self, name: &str) {
        self.known.remove(name);
    }
}
