//! A claim gets its volume, and later its size.

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::{Keeper, Site, Trouble, from_target};
use crate::errors::chain;
use crate::kubelet::provider::{PodDocument, PodError};
use crate::provider::claims::claims_of;
use crate::provider::claims::plan::{self, Next, Remote, Sizes, Volume};
use crate::provider::{names, teller};

/// The reason that users know from other provisioners.
const FAILED: &str = "ProvisioningFailed";

impl Keeper {
    /// Does what there is to do about a claim of home.
    pub(super) async fn provide(&self, namespace: &str, name: &str) -> Result<(), Trouble> {
        let Some(claim) = self.home(namespace).get_opt(name).await.map_err(Trouble::Host)? else { return Ok(()) };
        match plan::next(&claim, &self.setup.node) {
            Next::Nothing => Ok(()),
            Next::Refuse(why) => {
                self.warn(&claim, FAILED, why);
                Ok(())
            }
            Next::Unchosen => {
                let class = self.class(&claim).await?;
                if class.volume_binding_mode.as_deref() != Some("WaitForFirstConsumer") {
                    let message = format!(
                        "StorageClass {} binds claims before a node is chosen for their pod, so that no target can be; make \
                         it anew with volumeBindingMode: WaitForFirstConsumer",
                        class.name_any()
                    );
                    self.warn(&claim, FAILED, message);
                }
                Ok(())
            }
            Next::Provision => self.provision(claim).await,
            Next::Compare(volume) => self.compare(&claim, &volume).await,
        }
    }

    fn warn(&self, claim: &DynamicObject, reason: &str, message: String) {
        self.teller.warn(&teller::reference("v1", "PersistentVolumeClaim", &claim.metadata), reason, message);
    }

    /// Something that is tried again, and that the claim's owner is told.
    fn failed(&self, claim: &DynamicObject, message: String) -> Trouble {
        self.warn(claim, FAILED, message.clone());
        Trouble::Told(message)
    }

    async fn provision(&self, claim: DynamicObject) -> Result<(), Trouble> {
        let class = self.class(&claim).await?;
        let claim = self.choose(claim).await?;
        let target = plan::choice(&claim.metadata).unwrap_or_default().to_owned();
        let Some(site) = self.site(&target) else {
            return Err(
                self.failed(&claim, format!("it was given to target {target}, which this node does not have any more"))
            );
        };
        let told = |error: PodError| self.failed(&claim, format!("target {target}: {}", chain(&error)));
        let namespace = site.provider.namespace(&claim.namespace().unwrap_or_default()).await.map_err(told)?;
        let wanted = plan::remote(&claim, self.identity(), &namespace, plan::remote_class(&class, &target));
        let made = self.make(site, &wanted).await.map_err(told)?;
        let remote = Remote { target, namespace, name: made.name_any(), uid: made.uid().unwrap_or_default() };
        let volume = plan::volume(&claim, &class, self.identity(), &remote);
        self.make_volume(&claim, volume).await?;
        tracing::info!(
            node = self.setup.node,
            claim = format!("{}/{}", claim.namespace().unwrap_or_default(), claim.name_any()),
            target_cluster = remote.target,
            "the claim has a volume"
        );
        let message = format!("claim {}/{} in target {} keeps its data", remote.namespace, remote.name, remote.target);
        self.teller.say(&teller::reference("v1", "PersistentVolumeClaim", &claim.metadata), "Provisioned", message);
        Ok(())
    }

    async fn class(&self, claim: &DynamicObject) -> Result<StorageClass, Trouble> {
        let name = claim.data.pointer("/spec/storageClassName").and_then(Value::as_str).unwrap_or_default();
        let classes: Api<StorageClass> = Api::all(self.setup.host.clone());
        let found = classes.get_opt(name).await.map_err(Trouble::Host)?;
        found.ok_or_else(|| self.failed(claim, format!("there is no StorageClass {name}; create it again")))
    }

    /// The claim with a target written on it.
    async fn choose(&self, claim: DynamicObject) -> Result<DynamicObject, Trouble> {
        if plan::choice(&claim.metadata).is_some() {
            return Ok(claim);
        }
        let _one_at_a_time = self.choosing.lock().await;
        let target = match (&self.setup.fleet, self.setup.sites.as_slice()) {
            (None, [only]) => only.name.clone(),
            (None, _) => return Err(Trouble::Told("nobody chooses between the targets".into())),
            (Some(fleet), sites) => {
                let pod = self.user(&claim).await?;
                if let Some(target) = self.sibling(&claim, pod.as_ref()).await? {
                    target
                } else {
                    let chosen = fleet.choose_freely(pod.as_ref(), None);
                    let (index, _) = chosen.map_err(|error| self.failed(&claim, chain(&error)))?;
                    sites.get(index).map(|site| site.name.clone()).unwrap_or_default()
                }
            }
        };
        // The version makes it fail if another replica has chosen meanwhile.
        let patch = json!({"metadata": {"uid": claim.uid(), "resourceVersion": claim.resource_version(),
            "annotations": {names::CHOICE: target}}});
        let home = self.home(&claim.namespace().unwrap_or_default());
        home.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.map_err(Trouble::Host)
    }

    /// The pod for which the scheduler waits.
    async fn user(&self, claim: &DynamicObject) -> Result<Option<PodDocument>, Trouble> {
        let pods: Api<PodDocument> = Api::namespaced(self.setup.host.clone(), &claim.namespace().unwrap_or_default());
        let pods = pods.list(&ListParams::default().fields("spec.nodeName=")).await.map_err(Trouble::Host)?;
        let name = claim.name_any();
        Ok(pods.items.into_iter().find(|pod| claims_of(pod).iter().any(|mount| mount.claim == name)))
    }

    /// The target of another claim of the same pod.
    async fn sibling(&self, claim: &DynamicObject, pod: Option<&PodDocument>) -> Result<Option<String>, Trouble> {
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        for mount in pod.map(claims_of).unwrap_or_default().iter().filter(|mount| mount.claim != name) {
            let other = self.home(&namespace).get_metadata_opt(&mount.claim).await.map_err(Trouble::Host)?;
            let Some(other) = other.filter(|other| plan::is_ours(&other.metadata, &self.setup.node)) else { continue };
            if let Some(target) = plan::choice(&other.metadata) {
                return Ok(Some(target.to_owned()));
            }
        }
        Ok(None)
    }

    /// The claim in a target; one that is there already for the same claim of home is this one.
    async fn make(&self, site: &Site, wanted: &DynamicObject) -> Result<DynamicObject, PodError> {
        let namespace = wanted.namespace().unwrap_or_default();
        let claims = Keeper::remote(site, &namespace);
        match claims.create(&PostParams::default(), wanted).await {
            Ok(made) => Ok(made),
            Err(kube::Error::Api(status)) if status.is_already_exists() => {
                let found = claims.get(&wanted.name_any()).await.map_err(from_target)?;
                let ours =
                    [names::HOST, names::UID].iter().all(|key| found.labels().get(*key) == wanted.labels().get(*key));
                if ours && found.metadata.deletion_timestamp.is_none() {
                    return Ok(found);
                }
                let what =
                    if ours { "is being deleted" } else { "is not ours; delete it, or rename the claim at home" };
                Err(PodError::Stranger(format!("claim {namespace}/{} is there and {what}", wanted.name_any())))
            }
            Err(error) => {
                if matches!(&error, kube::Error::Api(status) if status.is_not_found()) {
                    site.provider.forget_namespace(&namespace);
                }
                Err(from_target(error))
            }
        }
    }

    async fn make_volume(&self, claim: &DynamicObject, volume: Value) -> Result<(), Trouble> {
        let volumes: Api<PersistentVolume> = Api::all(self.setup.host.clone());
        let volume: PersistentVolume = serde_json::from_value(volume)
            .map_err(|error| self.failed(claim, format!("its volume is malformed: {error}")))?;
        match volumes.create(&PostParams::default(), &volume).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                Err(self.failed(claim, status.message))
            }
            Err(error) => Err(Trouble::Host(error)),
        }
    }

    /// Lets the sizes of home's claim, its volume and the target's claim follow each other.
    async fn compare(&self, claim: &DynamicObject, volume: &str) -> Result<(), Trouble> {
        let Some(volume) = self.setup.claims.volume(volume) else { return Ok(()) };
        if Some(&volume.claim.2) != claim.uid().as_ref() {
            return Ok(());
        }
        let Some(site) = self.site(&volume.remote.target) else { return Ok(()) };
        // The usual case needs no request.
        let asked = claim.data.pointer("/spec/resources/requests/storage").and_then(Value::as_str);
        let shown = claim.data.pointer("/status/capacity/storage").and_then(Value::as_str);
        let known = |text: Option<&str>| text.and_then(|text| text.parse().ok());
        let settled =
            self.sizes.get(&volume.uid).is_some_and(|size| known(asked) <= Some(*size) && known(shown) >= Some(*size));
        if settled {
            return Ok(());
        }
        let claims = Keeper::remote(site, &volume.remote.namespace);
        let told = |error| self.failed(claim, format!("target {}: {}", site.name, chain(&from_target(error))));
        let Some(remote) = claims.get_opt(&volume.remote.name).await.map_err(told)? else { return Ok(()) };
        if Some(&volume.remote.uid) != remote.uid().as_ref() {
            return Ok(());
        }
        self.write_sizes(site, claim, &volume, plan::sizes(claim, &volume, &remote)).await?;
        if let Some(has) = known(remote.data.pointer("/status/capacity/storage").and_then(Value::as_str)) {
            self.sizes.insert(volume.uid.clone(), has);
        }
        Ok(())
    }

    async fn write_sizes(
        &self,
        site: &Site,
        claim: &DynamicObject,
        volume: &Volume,
        sizes: Sizes,
    ) -> Result<(), Trouble> {
        let params = PatchParams::default();
        let Remote { namespace, name, uid, .. } = &volume.remote;
        if let Some(size) = sizes.ask {
            let patch = json!({"metadata": {"uid": uid}, "spec": {"resources": {"requests": {"storage": size}}}});
            match Keeper::remote(site, namespace).patch(name, &params, &Patch::Merge(patch)).await {
                Ok(_) => {
                    let message = format!("claim {namespace}/{name} in target {} asks for {size} now", site.name);
                    self.teller.say(
                        &teller::reference("v1", "PersistentVolumeClaim", &claim.metadata),
                        "Resizing",
                        message,
                    );
                }
                Err(error) => {
                    let message = format!("target {}: {}", site.name, chain(&from_target(error)));
                    self.warn(claim, "VolumeResizeFailed", message.clone());
                    return Err(Trouble::Told(message));
                }
            }
        }
        if let Some(size) = sizes.volume {
            let volumes: Api<PersistentVolume> = Api::all(self.setup.host.clone());
            let patch = json!({"metadata": {"uid": volume.uid}, "spec": {"capacity": {"storage": size}}});
            volumes.patch(&volume.name, &params, &Patch::Merge(patch)).await.map_err(Trouble::Host)?;
        }
        if let Some(size) = sizes.claim {
            let patch = json!({"metadata": {"uid": claim.uid()}, "status": {"capacity": {"storage": size}}});
            let home = self.home(&claim.namespace().unwrap_or_default());
            home.patch_status(&claim.name_any(), &params, &Patch::Merge(patch)).await.map_err(Trouble::Host)?;
        }
        Ok(())
    }
}
