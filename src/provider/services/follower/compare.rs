//! What is wanted of one object in each target, against what is there.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, PostParams};

use super::plan::{self, Kind};
use super::{Follower, Name, Site, There, Trouble};
use crate::errors::chain;
use crate::kubelet::provider::PodError;
use crate::only::only;
use crate::provider::{names, teller};

impl Follower {
    /// Makes, changes or removes an object in each target, as home's asks for now.
    pub(super) async fn compare(&self, kind: Kind, name: &Name) -> Result<(), Trouble> {
        let known = self.home.contains_key(&(kind, name.clone()));
        if !known && !self.there.iter().any(|there| there.contains_key(&(kind, name.clone()))) {
            return Ok(());
        }
        let home: Api<DynamicObject> = Api::namespaced_with(self.setup.host.clone(), &name.0, &kind.resource());
        let home = home.get_opt(&name.1).await.map_err(Trouble::Host)?;
        if let Some(home) = &home {
            self.advise(kind, home);
        }
        let mut outcome = Ok(());
        for index in 0..self.setup.sites.len() {
            // One target that is out of reach must not keep the others waiting.
            outcome = outcome.and(self.compare_in(index, kind, name, home.as_ref()).await);
        }
        outcome
    }

    fn about(kind: Kind, home: &DynamicObject) -> ObjectReference {
        let resource = kind.resource();
        teller::reference(&resource.api_version, &resource.kind, &home.metadata)
    }

    /// Tells the owner of a Service that asks for what cannot be.
    fn advise(&self, kind: Kind, home: &DynamicObject) {
        let asks = home.annotations().get(super::FOLLOW).is_some_and(|wish| wish != "false");
        if kind == Kind::Service && asks && plan::selector(home).is_empty() {
            let message = "it has no selector, so that it follows no pods".to_owned();
            self.teller.warn(&Self::about(kind, home), "NotFollowed", message);
        }
    }

    fn wanted(&self, index: usize, kind: Kind, home: &DynamicObject) -> bool {
        let site = &self.setup.sites[index];
        let namespace = home.namespace().unwrap_or_default();
        plan::follows(home, &site.name)
            && match kind {
                Kind::Service => site.tracker.selects(&namespace, &plan::selector(home)),
                Kind::Ingress => plan::backends(home)
                    .into_iter()
                    .any(|service| self.there[index].contains_key(&(Kind::Service, (namespace.clone(), service)))),
            }
    }

    async fn compare_in(
        &self,
        index: usize,
        kind: Kind,
        name: &Name,
        home: Option<&DynamicObject>,
    ) -> Result<(), Trouble> {
        let site = &self.setup.sites[index];
        if kind == Kind::Ingress && !self.services_listed[index].load(Ordering::SeqCst) {
            // It is looked at again when they are.
            return Ok(());
        }
        let there = self.there[index].get(&(kind, name.clone())).map(|there| there.clone());
        match (home.filter(|home| self.wanted(index, kind, home)), there) {
            (None, None) => Ok(()),
            (None, Some(there)) => self.remove(site, kind, name, home, &there).await,
            (Some(home), there) => {
                let told = |error: PodError| {
                    let message = format!("target {}: {}", site.name, chain(&error));
                    let reason = if matches!(error, PodError::Stranger(_)) { "NameConflict" } else { "FollowFailed" };
                    self.teller.warn(&Self::about(kind, home), reason, message.clone());
                    Trouble::Target(message)
                };
                let namespace = site.provider.namespace(&name.0).await.map_err(told)?;
                let wanted = plan::copy(kind, home, &self.setup.host_id, &namespace);
                match there {
                    Some(there) if plan::sent(&wanted.metadata) == Some(&there.sent) => Ok(()),
                    _ => self.write(site, kind, home, wanted).await.map_err(told),
                }
            }
        }
    }

    /// Creates the object, or writes it over the one that is there.
    async fn write(
        &self,
        site: &Site,
        kind: Kind,
        home: &DynamicObject,
        wanted: DynamicObject,
    ) -> Result<(), PodError> {
        let (namespace, name) = (wanted.namespace().unwrap_or_default(), wanted.name_any());
        let resource = kind.resource();
        let refused = |error| crate::provider::target::refusal(error, &resource.plural);
        let api: Api<DynamicObject> = Api::namespaced_with(site.provider.client().clone(), &namespace, &resource);
        let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
        match api.create(&params, &wanted).await {
            Ok(_) => {
                let message = format!("it is in target {} too, where clients reach the pods by it", site.name);
                self.teller.say(&Self::about(kind, home), "Followed", message);
                return Ok(());
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                if matches!(&error, kube::Error::Api(status) if status.is_not_found()) {
                    site.provider.forget_namespace(&namespace);
                }
                return Err(refused(error));
            }
        }
        let live = api.get(&name).await.map_err(refused)?;
        if !plan::is_ours(&live.metadata, &self.setup.host_id) {
            return Err(PodError::Stranger(format!(
                "there is a {} {namespace}/{name} that is not ours; rename one of the two, or delete the one there",
                resource.kind
            )));
        }
        if plan::sent(&live.metadata) == plan::sent(&wanted.metadata) {
            return Ok(());
        }
        if let Some(next) = plan::merged(&wanted, &live) {
            // It carries UID and version: another one, or one that has changed meanwhile, is a conflict, and tried again.
            return api.replace(&name, &params, &next).await.map(drop).map_err(refused);
        }
        api.delete(&name, &only(live.uid())).await.map_err(refused)?;
        api.create(&params, &wanted).await.map(drop).map_err(refused)
    }

    async fn remove(
        &self,
        site: &Site,
        kind: Kind,
        name: &Name,
        home: Option<&DynamicObject>,
        there: &There,
    ) -> Result<(), Trouble> {
        let failed = |error: kube::Error| Trouble::Target(format!("target {}: {}", site.name, chain(&error)));
        // Pods of another virtual node may need it still, and the list of ours may be under way.
        if kind == Kind::Service
            && let Some(home) = home.filter(|home| plan::follows(home, &site.name))
        {
            let selector = plan::selector(home);
            if !selector.is_empty() {
                let pods: Api<Pod> = Api::namespaced(site.provider.client().clone(), &there.namespace);
                let mut labels = format!("{}={}", names::HOST, self.setup.host_id);
                for (key, value) in &selector {
                    _ = write!(labels, ",{key}={value}");
                }
                let list = pods.list_metadata(&ListParams::default().labels(&labels).limit(1)).await.map_err(failed)?;
                if !list.items.is_empty() {
                    return Ok(());
                }
            }
        }
        let api: Api<DynamicObject> =
            Api::namespaced_with(site.provider.client().clone(), &there.namespace, &kind.resource());
        match api.delete(&name.1, &only(there.uid.clone())).await {
            Ok(_) => {
                tracing::info!(
                    node = self.setup.node,
                    ?kind,
                    name = name.1,
                    target_cluster = site.name,
                    "follows no longer"
                );
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}
