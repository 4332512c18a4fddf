//! What the watches show: objects at home, and their copies in the target.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Resource;
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;

use super::copies::{Copy, Home, Seen};
use super::names::{CopyKind, Key, Names};
use super::{LINGER, Shared, lock, variables};
use crate::kubelet::provider::{HostChange, HostKind};
use crate::provider::names;

impl Shared {
    /// Watches the objects of a kind in a namespace of home, whose copies are in this namespace of the target.
    pub(super) fn follow_home(self: &Arc<Self>, kind: HostKind, namespace: &Arc<str>, target: &Arc<str>) {
        let mut homes = lock(&self.homes);
        homes.entry((kind, namespace.clone())).or_insert_with(|| {
            // Subscribed before anything is read: no change is missed.
            let changes = self.view.changes(kind, namespace);
            self.spawn(self.clone().hear_home(kind, namespace.clone(), target.clone(), changes))
        });
    }

    /// Ends the watches of what no copy comes from.
    pub(super) fn leave_homes(&self) {
        let mut homes = lock(&self.homes);
        let mut needed = HashSet::new();
        for copy in &self.copies {
            if let Some(Home::Object { kind, namespace, .. }) = &*lock(&copy.home) {
                needed.insert((*kind, namespace.clone()));
            }
        }
        homes.retain(|place, task| {
            let keep = needed.contains(place);
            if !keep {
                task.abort();
            }
            keep
        });
    }

    async fn hear_home(
        self: Arc<Self>,
        kind: HostKind,
        namespace: Arc<str>,
        target: Arc<str>,
        mut changes: broadcast::Receiver<HostChange>,
    ) {
        let names = self.names_in(&namespace);
        let mut listed: Option<HashSet<Arc<str>>> = None;
        loop {
            match changes.recv().await {
                Ok(HostChange::Listing) => listed = Some(HashSet::new()),
                Ok(HostChange::Seen { name, version }) => {
                    self.home_changed(kind, &target, &names, &name, version);
                    if let Some(listed) = &mut listed {
                        listed.insert(name);
                    }
                }
                Ok(HostChange::Gone { name }) => self.home_changed(kind, &target, &names, &name, 0),
                Ok(HostChange::Listed) => {
                    if let Some(listed) = listed.take() {
                        self.home_listed(kind, &namespace, |name| listed.contains(name));
                    }
                }
                // What was missed may be anything.
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    listed = None;
                    self.home_listed(kind, &namespace, |_| false);
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn home_changed(self: &Arc<Self>, kind: HostKind, target: &Arc<str>, names: &Names, name: &Arc<str>, version: u64) {
        // All Services of a namespace are in one.
        let name = if kind == HostKind::Service { variables::NAME } else { name };
        for name in [names.plain(name).into(), names.suffixed(name).into()] {
            let key = Key { namespace: target.clone(), kind: CopyKind::from(kind), name };
            if let Some(copy) = self.copies.get(&key).map(|copy| copy.clone()) {
                self.observe_home(&copy, version);
            }
        }
    }

    /// What a complete list does not show is looked for.
    fn home_listed(self: &Arc<Self>, kind: HostKind, namespace: &Arc<str>, there: impl Fn(&Arc<str>) -> bool) {
        let copies: Vec<_> = self.copies.iter().map(|copy| copy.value().clone()).collect();
        for copy in copies {
            let home = lock(&copy.home).clone();
            if let Some(Home::Object { kind: of, namespace: within, name }) = home
                && (of, &within) == (kind, namespace)
                && !there(&name)
            {
                self.observe_home(&copy, 0);
            }
        }
    }

    fn observe_home(self: &Arc<Self>, copy: &Arc<Copy>, version: u64) {
        let mut observed = lock(&copy.observed);
        observed.home = match observed.home {
            // It comes from many, of which each has its own version, and one that has gone has none.
            Some(before) if copy.key.kind == CopyKind::Services => {
                Some(if before == 0 || version == 0 { 0 } else { before.max(version) })
            }
            _ => Some(version),
        };
        drop(observed);
        self.look(copy, Duration::ZERO);
    }

    /// Follows the copies of this virtual node in the target: whatever somebody does to them is put right while they are
    /// needed, and those that nobody needs go.
    pub(super) async fn watch_copies(self: Arc<Self>, kind: HostKind) {
        match kind {
            HostKind::ConfigMap | HostKind::Service => self.watch::<ConfigMap>(kind).await,
            HostKind::Secret => self.watch::<Secret>(kind).await,
        }
    }

    async fn watch<K>(self: &Arc<Self>, kind: HostKind)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let places = self.reach.apis::<PartialObjectMeta<K>>(&self.client);
        let selector = format!("{}={},{}", names::HOST, self.owner.host_id, self.owner.label());
        let config = watcher::Config::default().labels(&selector);
        let mut stream = crate::relist::watch_all(places, config, None).boxed();
        let mut listed: HashSet<Key> = HashSet::new();
        let mut told = false;
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(found))) => {
                    listed.insert(self.key_of(kind, &found.metadata));
                    self.copy_seen(kind, &found.metadata, false);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    told = false;
                    self.copies_listed(kind, &listed);
                }
                Ok(Some(watcher::Event::Apply(found))) => {
                    let going = found.metadata.deletion_timestamp.is_some();
                    self.copy_seen(kind, &found.metadata, going);
                }
                Ok(Some(watcher::Event::Delete(found))) => self.copy_seen(kind, &found.metadata, true),
                Ok(None) => return,
                Err(error) if told => tracing::debug!(?kind, %error, "the watch of copies is still interrupted"),
                Err(error) => {
                    told = true;
                    tracing::warn!(?kind, %error, "the watch of copies in the target is interrupted");
                }
            }
        }
    }

    fn copy_seen(self: &Arc<Self>, kind: HostKind, metadata: &ObjectMeta, gone: bool) {
        let key = self.key_of(kind, metadata);
        let copy = if gone {
            let Some(copy) = self.copies.get(&key).map(|copy| copy.clone()) else { return };
            copy
        } else {
            self.copy(&key, None).0
        };
        let renewal = metadata.annotations.as_ref().and_then(|all| all.get(names::RENEWAL)?.parse().ok());
        let version = metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default();
        let uid = metadata.uid.as_deref().unwrap_or_default().into();
        lock(&copy.observed).copy = Some(Seen { uid, version, gone, renewal });
        let needed = self.needs().has(&key);
        self.look(&copy, if needed { Duration::ZERO } else { LINGER });
    }

    /// A copy that a complete list does not show has gone.
    fn copies_listed(self: &Arc<Self>, kind: HostKind, listed: &HashSet<Key>) {
        let copies: Vec<_> = self.copies.iter().map(|copy| copy.value().clone()).collect();
        for copy in copies {
            if copy.key.kind.object() == kind && !listed.contains(&copy.key) {
                self.spawn(self.clone().check(copy));
            }
        }
    }

    /// Looks whether a copy that was not listed is there: it may be younger than the list.
    async fn check(self: Arc<Self>, copy: Arc<Copy>) {
        copy.state.lock().await.doubt();
        self.look(&copy, Duration::ZERO);
    }

    fn key_of(&self, kind: HostKind, metadata: &ObjectMeta) -> Key {
        let name = metadata.name.as_deref().unwrap_or_default();
        let tokens = metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(names::UID));
        let kind = match kind {
            HostKind::Secret if tokens => CopyKind::Token,
            HostKind::ConfigMap if name == self.names.of(HostKind::Service, variables::NAME) => CopyKind::Services,
            kind => kind.into(),
        };
        Key { namespace: metadata.namespace.as_deref().unwrap_or_default().into(), kind, name: name.into() }
    }
}
