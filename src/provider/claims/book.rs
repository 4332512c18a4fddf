//! Which claims of home are kept in which target, for whoever places and creates pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use dashmap::DashMap;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Client;
use kube::api::{Api, DynamicObject};

use super::plan::{self, Unfit, Volume};
use super::{Mount, claims_of};
use crate::kubelet::provider::{PodDocument, PodError};

/// The volumes of one virtual node. It is kept up by the [`Keeper`](super::Keeper)'s watch; what that has not shown yet is
/// asked for.
pub struct Claims {
    host: Client,
    node: String,
    /// By their names.
    volumes: DashMap<String, Arc<Volume>>,
    /// By namespace and name of home's claim, those that are bound.
    bound: DashMap<(String, String), Arc<Volume>>,
}

impl Claims {
    /// An empty book.
    pub fn new(host: Client, node: &str) -> Arc<Self> {
        Arc::new(Self { host, node: node.into(), volumes: DashMap::new(), bound: DashMap::new() })
    }

    /// A volume is there, or has changed.
    pub(super) fn seen(&self, volume: Volume) -> Arc<Volume> {
        let volume = Arc::new(volume);
        let claim = (volume.claim.0.clone(), volume.claim.1.clone());
        self.volumes.insert(volume.name.clone(), volume.clone());
        if volume.phase == "Bound" {
            self.bound.insert(claim, volume.clone());
        } else {
            self.bound.remove_if(&claim, |_, known| known.uid == volume.uid);
        }
        volume
    }

    /// A volume has gone.
    pub(super) fn gone(&self, name: &str) {
        if let Some((_, volume)) = self.volumes.remove(name) {
            let claim = (volume.claim.0.clone(), volume.claim.1.clone());
            self.bound.remove_if(&claim, |_, known| known.uid == volume.uid);
        }
    }

    /// All that a list showed are these.
    pub(super) fn listed(&self, names: &std::collections::HashSet<String>) {
        let gone: Vec<_> =
            self.volumes.iter().map(|one| one.key().clone()).filter(|name| !names.contains(name)).collect();
        for name in gone {
            self.gone(&name);
        }
    }

    /// A volume that was seen.
    pub(super) fn volume(&self, name: &str) -> Option<Arc<Volume>> {
        self.volumes.get(name).map(|one| one.clone())
    }

    /// The volume to which a claim is bound.
    async fn of_claim(&self, namespace: &str, name: &str) -> Result<Result<Arc<Volume>, Unfit>, kube::Error> {
        let claims: Api<DynamicObject> = Api::namespaced_with(self.host.clone(), namespace, &plan::resource());
        let known = self.bound.get(&(namespace.to_owned(), name.to_owned())).map(|known| known.clone());
        if let Some(known) = known {
            // The watch of volumes may lag behind that of pods, and the claim be another one of the same name by now: its
            // pod must not get the data of the first.
            let there = claims.get_metadata_opt(name).await?;
            if there.and_then(|there| there.metadata.uid).is_some_and(|uid| uid == known.claim.2) {
                return Ok(Ok(known));
            }
        }
        let claim = claims.get_opt(name).await?;
        let bound = claim.as_ref().and_then(|claim| claim.data.pointer("/spec/volumeName")?.as_str());
        let volume = match bound.filter(|name| !name.is_empty()) {
            Some(volume) => {
                let volumes: Api<PersistentVolume> = Api::all(self.host.clone());
                volumes.get_opt(volume).await?.as_ref().and_then(Volume::read)
            }
            None => None,
        };
        let uid = claim.as_ref().and_then(|claim| claim.metadata.uid.as_deref());
        match volume {
            Some(ours) if ours.node == self.node && Some(ours.claim.2.as_str()) == uid => Ok(Ok(Arc::new(ours))),
            other => Ok(Err(plan::unfit(name, claim.as_ref(), other.as_ref(), &self.node))),
        }
    }

    async fn of_mount(&self, pod: &PodDocument, mount: &Mount) -> Result<Arc<Volume>, PodError> {
        match self.of_claim(pod.namespace(), &mount.claim).await {
            Ok(Ok(volume)) => Ok(volume),
            Ok(Err(Unfit::Never(message))) => Err(PodError::Held { field: mount.field.clone(), message }),
            Ok(Err(Unfit::NotYet(reason, message))) => Err(PodError::Waiting { reason: reason.into(), message }),
            Err(error) => Err(PodError::NoAnswer(error.into())),
        }
    }

    /// The target that keeps a pod's claims; `None` for a pod without claims, which may go anywhere.
    ///
    /// # Errors
    /// If one of them cannot be mounted in any target, or not yet; or if they are kept by different ones.
    pub async fn target_of(&self, pod: &PodDocument) -> Result<Option<(String, String)>, PodError> {
        let mut found: Option<(String, String)> = None;
        for mount in claims_of(pod) {
            let target = self.of_mount(pod, &mount).await?.remote.target.clone();
            match &found {
                Some((other, claim)) if *other != target => {
                    let message = format!(
                        "claim {} is kept in target {target}, and claim {claim} in target {other}; one pod cannot mount both",
                        mount.claim
                    );
                    return Err(PodError::Held { field: mount.field, message });
                }
                _ => found = Some((target, mount.claim)),
            }
        }
        Ok(found)
    }

    /// From home's names of a pod's claims to those in this target.
    ///
    /// # Errors
    /// If one of them is not kept there.
    pub async fn names(&self, pod: &PodDocument, target: &str) -> Result<BTreeMap<String, String>, PodError> {
        let mut names = BTreeMap::new();
        for mount in claims_of(pod) {
            let volume = self.of_mount(pod, &mount).await?;
            if volume.remote.target != target {
                let message =
                    format!("claim {} is kept in target {}, not in {target}", mount.claim, volume.remote.target);
                return Err(PodError::Held { field: mount.field, message });
            }
            names.insert(mount.claim, volume.remote.name.clone());
        }
        Ok(names)
    }
}
