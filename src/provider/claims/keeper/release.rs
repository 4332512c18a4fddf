//! What becomes of a volume whose claim has gone.

use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Keeper, Site, Trouble, from_target};
use crate::errors::chain;
use crate::only::only;
use crate::provider::claims::FINALIZER;
use crate::provider::claims::plan::{Fate, Volume};
use crate::provider::{names, teller};

impl Keeper {
    /// Does what there is to do about a volume of ours.
    pub(super) async fn release(&self, name: &str) -> Result<(), Trouble> {
        let volumes: Api<PersistentVolume> = Api::all(self.setup.host.clone());
        // Read anew: the reclaim policy may have been changed a moment ago, to keep the data.
        let Some(found) = volumes.get_opt(name).await.map_err(Trouble::Host)? else { return Ok(()) };
        let Some(volume) = Volume::read(&found).filter(|volume| volume.node == self.setup.node) else { return Ok(()) };
        let fate = volume.fate();
        if fate == Fate::Stay {
            return Ok(());
        }
        let Some(site) = self.site(&volume.remote.target) else {
            let target = &volume.remote.target;
            let message = format!("its data are in target {target}, which this node does not have any more");
            return Err(self.volume_failed(&found, message));
        };
        let dealt = match fate {
            Fate::Remove => self.remove(site, &volume).await,
            _ => self.let_go(site, &volume).await,
        };
        dealt.map_err(|error| {
            let error = from_target(error);
            self.volume_failed(&found, format!("target {}: {}", site.name, chain(&error)))
        })?;
        let finalizers: Vec<&String> = found.finalizers().iter().filter(|one| *one != FINALIZER).collect();
        if finalizers.len() < found.finalizers().len() {
            let patch = json!({"metadata": {"uid": volume.uid, "resourceVersion": found.resource_version(),
                "finalizers": finalizers}});
            gone(volumes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await)?;
        }
        if fate == Fate::Remove {
            gone(volumes.delete(name, &only(volume.uid.clone())).await)?;
        }
        tracing::info!(
            node = self.setup.node,
            volume = name,
            target_cluster = site.name,
            ?fate,
            "the volume is released"
        );
        Ok(())
    }

    fn volume_failed(&self, volume: &PersistentVolume, message: String) -> Trouble {
        let about = teller::reference("v1", "PersistentVolume", &volume.metadata);
        self.teller.warn(&about, "VolumeFailedDelete", message.clone());
        Trouble::Told(message)
    }

    /// Deletes the target's claim, and only this one. Its protection there waits for delegates that still mount it.
    async fn remove(&self, site: &Site, volume: &Volume) -> Result<(), kube::Error> {
        let claims = Keeper::remote(site, &volume.remote.namespace);
        match claims.delete(&volume.remote.name, &only(volume.remote.uid.clone())).await {
            // Gone already, or another has the name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Takes our labels off the target's claim, which is its users' from now on.
    async fn let_go(&self, site: &Site, volume: &Volume) -> Result<(), kube::Error> {
        let none = Value::Null;
        let patch = json!({"metadata": {"uid": volume.remote.uid,
            "labels": {names::HOST: none, names::NODE: none, names::UID: none}}});
        let claims = Keeper::remote(site, &volume.remote.namespace);
        match claims.patch(&volume.remote.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }
}

/// What is gone already is no trouble; what has changed is looked at again.
fn gone<T>(result: Result<T, kube::Error>) -> Result<(), Trouble> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop).map_err(Trouble::Host),
    }
}
