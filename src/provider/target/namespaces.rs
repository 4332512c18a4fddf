//! The target's namespaces: which there are, with their UIDs, and how to get a missing one.
//!
//! A delegate's owner is its namespace, by UID. One watch keeps the UIDs right: a namespace that was deleted and made anew
//! has another one, and a delegate with the old one would be collected as garbage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::PostParams;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::delegates::refusal;
use super::health::Health;
use crate::kubelet::provider::PodError;
use crate::provider::names;
use crate::provider::translate::{marker_owner, namespace_owner};

const WATCH: &str = "namespaces";

/// The namespaces of one target.
pub(super) struct Namespaces {
    api: Api<Namespace>,
    metadata: Api<PartialObjectMeta<Namespace>>,
    create: bool,
    host_id: String,
    /// Name to UID, of those that are not being deleted.
    known: DashMap<String, String>,
    /// The only ones that may be used, whose markers are kept in place of their UIDs.
    within: Option<Markers>,
    health: Arc<Health>,
}

/// What owns the delegates of a namespace, by UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// The namespace.
    Namespace(String),
    /// A ConfigMap of ours in it: name and UID.
    Marker(String, String),
}

impl Home {
    /// Whatever it is, it has another one when the namespace was made anew.
    pub(super) fn uid(&self) -> &str {
        match self {
            Self::Namespace(uid) | Self::Marker(_, uid) => uid,
        }
    }

    pub(super) fn owner(&self, namespace: &str) -> OwnerReference {
        match self {
            Self::Namespace(uid) => namespace_owner(namespace, uid),
            Self::Marker(name, uid) => marker_owner(name, uid),
        }
    }
}

/// The ConfigMaps of ours, where namespaces cannot be read.
struct Markers {
    client: Client,
    namespaces: Vec<String>,
    /// Namespace to UID, and when it was seen.
    known: DashMap<String, (String, Instant)>,
}

/// After so long a marker is looked at again before it is used: nobody watches it, and a delegate whose owner has gone would be
/// collected as garbage.
const FRESH: Duration = Duration::from_secs(30);

impl Namespaces {
    /// Those of this target; `host_id` is written on those that are made.
    pub(super) fn new(client: Client, create: bool, host_id: String, health: Arc<Health>) -> Self {
        Self {
            api: Api::all(client.clone()),
            metadata: Api::all(client),
            create,
            host_id,
            known: DashMap::new(),
            within: None,
            health,
        }
    }

    /// Only these, which are neither read nor created.
    pub(super) fn within(mut self, namespaces: &[String]) -> Self {
        let client = self.api.clone().into_client();
        self.within = Some(Markers { client, namespaces: namespaces.to_vec(), known: DashMap::new() });
        self
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

    /// What owns delegates in a namespace.
    pub(super) async fn ensure(&self, name: &str) -> Result<Home, PodError> {
        match &self.within {
            Some(markers) => markers.ensure(name, &self.host_id).await,
            None => self.uid(name).await.map(Home::Namespace),
        }
    }

    /// The UID of a namespace that takes pods, made if it is missing and that is allowed.
    async fn uid(&self, name: &str) -> Result<String, PodError> {
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
        let namespace = Namespace { metadata: ours(name, &self.host_id), ..Namespace::default() };
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
        if let Some(markers) = &self.within {
            markers.known.remove(name);
        }
    }
}

impl Markers {
    async fn ensure(&self, namespace: &str, host_id: &str) -> Result<Home, PodError> {
        if !self.namespaces.iter().any(|one| one == namespace) {
            return Err(PodError::Refused {
                reason: "NamespaceNotListed".into(),
                message: format!(
                    "namespace {namespace} of the target is not in spec.namespaces.names of the Target; add it there, and a \
                     Role for Longshore in it"
                ),
            });
        }
        // One for each host: two hosts may share a namespace.
        let name = marker(host_id);
        if let Some(known) = self.known.get(namespace).filter(|known| known.1.elapsed() < FRESH) {
            return Ok(Home::Marker(name, known.0.clone()));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_metadata_opt(&name).await.map_err(|error| refusal(error, "configmaps"))?;
        let uid = match found {
            Some(found) => found.metadata.uid,
            None => self.create(&api, &name, host_id).await?.uid,
        };
        let uid = uid.unwrap_or_default();
        self.known.insert(namespace.into(), (uid.clone(), Instant::now()));
        Ok(Home::Marker(name, uid))
    }

    async fn create(&self, api: &Api<ConfigMap>, name: &str, host_id: &str) -> Result<ObjectMeta, PodError> {
        let marker = ConfigMap { metadata: ours(name, host_id), ..ConfigMap::default() };
        match api.create(&PostParams::default(), &marker).await {
            Ok(made) => Ok(made.metadata),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                api.get_metadata(name).await.map(|found| found.metadata).map_err(|e| refusal(e, "configmaps"))
            }
            Err(error) => Err(refusal(error, "configmaps")),
        }
    }
}

/// The name of the ConfigMap that owns the delegates of a host in a namespace that cannot be read.
pub fn marker(host_id: &str) -> String {
    format!("longshore-{host_id}")
}

/// The metadata of what we make in a target beside delegates.
fn ours(name: &str, host_id: &str) -> ObjectMeta {
    let labels = [
        ("app.kubernetes.io/managed-by".to_owned(), names::FIELD_MANAGER.to_owned()),
        (names::HOST.to_owned(), host_id.to_owned()),
    ];
    ObjectMeta { name: Some(name.into()), labels: Some(labels.into()), ..ObjectMeta::default() }
}
