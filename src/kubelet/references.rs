//! Watches of what pods refer to at home: one for each kind and namespace, for as long as somebody listens.
//!
//! They are watches of metadata: of a change only the name and the version are told, so that no content of an object that
//! no pod refers to is ever read.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use super::provider::{HostChange, HostKind};

/// How many changes may wait for a listener; one that is slower has to read all it needs again.
const WAITING: usize = 1024;

type Place = (HostKind, String);

/// The watches that somebody listens to.
pub(super) struct Watches {
    client: Client,
    open: Mutex<HashMap<Place, broadcast::Sender<HostChange>>>,
}

impl Watches {
    pub(super) fn new(client: Client) -> Self {
        Self { client, open: Mutex::default() }
    }

    /// Listens. The watch ends when nobody does any more.
    pub(super) fn subscribe(self: &Arc<Self>, kind: HostKind, namespace: &str) -> broadcast::Receiver<HostChange> {
        let place = (kind, namespace.to_owned());
        let mut open = self.lock();
        if let Some(sender) = open.get(&place) {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(WAITING);
        open.insert(place.clone(), sender.clone());
        tokio::spawn(self.clone().keep(place, sender));
        receiver
    }

    async fn keep(self: Arc<Self>, place: Place, sender: broadcast::Sender<HostChange>) {
        tracing::debug!(kind = ?place.0, namespace = place.1, "the watch of what pods refer to begins");
        loop {
            let watch = async {
                match place.0 {
                    HostKind::ConfigMap => watch::<ConfigMap>(&self.client, &place.1, &sender).await,
                    HostKind::Secret => watch::<Secret>(&self.client, &place.1, &sender).await,
                    HostKind::Service => watch::<Service>(&self.client, &place.1, &sender).await,
                }
            };
            tokio::select! {
                () = watch => {}
                () = sender.closed() => {}
            }
            // Whoever subscribes does so under this lock, and either sees that the watch is open or opens another.
            let mut open = self.lock();
            if sender.receiver_count() == 0 {
                open.remove(&place);
                tracing::debug!(kind = ?place.0, namespace = place.1, "the watch of what pods refer to ends");
                return;
            }
        }
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<Place, broadcast::Sender<HostChange>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn watch<K>(client: &Client, namespace: &str, sender: &broadcast::Sender<HostChange>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<PartialObjectMeta<K>> = Api::namespaced(client.clone(), namespace);
    let mut stream = watcher(api, watcher::Config::default()).backoff(crate::backoff::of_watches()).boxed();
    loop {
        let change = match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => HostChange::Listing,
            Ok(Some(watcher::Event::InitApply(object) | watcher::Event::Apply(object))) => HostChange::Seen {
                name: object.name_any().into(),
                version: object.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default(),
            },
            Ok(Some(watcher::Event::Delete(object))) => HostChange::Gone { name: object.name_any().into() },
            Ok(Some(watcher::Event::InitDone)) => HostChange::Listed,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(namespace, %error, "the watch of what pods refer to is interrupted");
                continue;
            }
        };
        // Nobody may listen by now, which the caller sees.
        let _ = sender.send(change);
    }
}
