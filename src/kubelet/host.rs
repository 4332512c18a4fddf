//! The host's API, as far as a virtual node writes and reads it.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Request;
use kube::{Client, Resource};
use serde_json::Value;

use tokio::sync::broadcast;

use super::document::{PodDocument, PodKey};
use super::provider::{HostChange, HostKind, HostView, Source};
use super::references::Watches;
use super::stuck::KeptOff;

/// How often others may be faster at writing a Node.
const ATTEMPTS: u8 = 5;

/// What became of a write to a proxy.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The proxy has changed, or is another one by now: the watch will tell.
    #[error("the pod has changed meanwhile")]
    Outdated,
    /// The API server refuses this status for good.
    #[error("the host refuses the status: {0}")]
    Refused(String),
    /// No answer, or an error that time may cure.
    #[error("the host did not take the write")]
    NotTaken(#[source] kube::Error),
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 409 || status.code == 404 => Self::Outdated,
            kube::Error::Api(status) if status.code == 422 => Self::Refused(status.message),
            error => Self::NotTaken(error),
        }
    }
}

/// The host's pods, seen from a virtual node.
#[derive(Clone)]
pub struct Host {
    client: Client,
    /// Shared by all clones, so that several nodes need one watch.
    watches: Arc<Watches>,
}

impl Host {
    /// The host behind this client.
    pub fn new(client: Client) -> Self {
        Self { watches: Arc::new(Watches::new(client.clone())), client }
    }

    /// All pods, for the watch of a node.
    pub fn pods(&self) -> Api<PodDocument> {
        Api::all(self.client.clone())
    }

    fn namespace(&self, key: &PodKey) -> Api<PodDocument> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Reads a proxy; `None` if it is gone or another has its name.
    pub async fn pod(&self, key: &PodKey) -> Result<Option<PodDocument>, kube::Error> {
        let pod = self.namespace(key).get_opt(&key.name).await?.map(readable).transpose()?;
        Ok(pod.filter(|pod| pod.uid() == key.uid))
    }

    /// Patches a proxy's status (strategic merge); the patch carries UID and resource version.
    pub async fn patch_status(&self, key: &PodKey, patch: &Value) -> Result<PodDocument, WriteError> {
        let params = PatchParams { field_manager: Some("longshore".into()), ..PatchParams::default() };
        let written = self.namespace(key).patch_status(&key.name, &params, &Patch::Strategic(patch)).await;
        written.and_then(readable).map_err(WriteError::from)
    }

    /// Patches a proxy itself (RFC 6902); the patch tests what it changes, and fails with [`WriteError::Refused`] otherwise.
    pub async fn patch(&self, key: &PodKey, patch: &Value) -> Result<PodDocument, WriteError> {
        let patch = serde_json::from_value(patch.clone()).map_err(|error| WriteError::Refused(error.to_string()))?;
        let params = PatchParams { field_manager: Some("longshore".into()), ..PatchParams::default() };
        let written = self.namespace(key).patch(&key.name, &params, &Patch::Json::<()>(patch)).await;
        written.and_then(readable).map_err(WriteError::from)
    }

    /// The value of an annotation of a namespace.
    pub async fn namespace_annotation(&self, namespace: &str, key: &str) -> Result<Option<String>, kube::Error> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let found = namespaces.get_metadata_opt(namespace).await?;
        Ok(found.and_then(|found| found.metadata.annotations?.remove(key)))
    }

    /// Asks for the eviction of this proxy and no namesake of it. `false` where a disruption budget says no for now.
    pub async fn evict(&self, key: &PodKey) -> Result<bool, kube::Error> {
        let this = Preconditions { uid: Some(key.uid.clone()), ..Preconditions::default() };
        let options = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        let params = EvictParams { delete_options: Some(options), ..EvictParams::default() };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match pods.evict(&key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 429 => Ok(false),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Writes on a Node that pods of a controller have found no room there, until then; times in seconds since 1970.
    pub async fn no_room(&self, node: &str, controller: &str, until: i64, now: i64) -> Result<(), kube::Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        for attempt in 1..=ATTEMPTS {
            let mut kept_off = KeptOff::of(&nodes.get_metadata(node).await?.metadata);
            kept_off.add(controller, until);
            let Some(patch) = kept_off.patch(now) else { break };
            match nodes.patch_metadata(node, &PatchParams::default(), &Patch::Merge(patch)).await {
                // Somebody else has written it meanwhile, perhaps of another controller.
                Err(kube::Error::Api(status)) if status.code == 409 && attempt < ATTEMPTS => {}
                other => return other.map(drop),
            }
        }
        Ok(())
    }

    /// Removes a proxy for good: grace period 0, and only this UID. A proxy that is gone already is no error.
    pub async fn delete(&self, key: &PodKey) -> Result<(), kube::Error> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(key.uid.clone()), ..Preconditions::default() }),
            ..DeleteParams::default()
        };
        match remove(&self.client, &key.namespace, &key.name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            other => other,
        }
    }
}

/// Deletes a pod. The answer, which is the pod as it was, is not read: the watch tells the same.
///
/// # Errors
/// As those of `Api::delete`, which reads it twice.
pub async fn remove(client: &Client, namespace: &str, name: &str, params: &DeleteParams) -> Result<(), kube::Error> {
    let pods = Request::new(PodDocument::url_path(&(), Some(namespace)));
    let mut request = pods.delete(name, params).map_err(kube::Error::BuildRequest)?;
    request.headers_mut().insert(http::header::ACCEPT, http::HeaderValue::from_static(METADATA_ALONE));
    client.request_text(request).await.map(drop)
}

/// Asks for no more of an object.
const METADATA_ALONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";

/// Nothing may be concluded from a pod that can only be read in part.
fn readable(pod: PodDocument) -> Result<PodDocument, kube::Error> {
    match pod.unreadable {
        None => Ok(pod),
        Some(what) => Err(kube::Error::SerdeError(serde::de::Error::custom(what))),
    }
}

#[async_trait]
impl HostView for Host {
    async fn proxy(&self, key: &PodKey) -> Result<Option<PodDocument>, Source> {
        Ok(self.pod(key).await?)
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, Source> {
        Ok(Api::namespaced(self.client.clone(), namespace).get_opt(name).await?)
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Source> {
        Ok(Api::namespaced(self.client.clone(), namespace).get_opt(name).await?)
    }

    fn changes(&self, kind: HostKind, namespace: &str) -> broadcast::Receiver<HostChange> {
        self.watches.subscribe(kind, namespace)
    }

    async fn services(&self, namespace: &str) -> Result<Vec<Service>, Source> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        Ok(services.list(&ListParams::default()).await?.items)
    }

    async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: TokenRequestSpec,
    ) -> Result<TokenRequestStatus, Source> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
        let request = TokenRequest { spec: request, ..TokenRequest::default() };
        let answer = accounts.create_token_request(account, &PostParams::default(), &request).await?;
        answer.status.ok_or_else(|| format!("the host gave no token for service account {namespace}/{account}").into())
    }
}
