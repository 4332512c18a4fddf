//! What is declared in the host, as it changes.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::api::diagnosis::Trouble;
use crate::api::diagnosis::Version;
use crate::api::profile;
use crate::api::target::Target;
use crate::api::virtual_node::VirtualNode;

/// Which resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Target,
    VirtualNode,
}

/// A resource as the API server has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Resource {
    pub(super) name: String,
    pub(super) generation: i64,
    /// When it was made, in a form that sorts.
    pub(super) made: String,
    pub(super) deleting: bool,
    pub(super) spec: Value,
    pub(super) status: Value,
}

/// Namespace and name of a Secret.
pub(super) type SecretKey = (String, String);

/// The content of a Secret; `None` if there is none, and why it cannot be read.
pub(super) type Content = Result<Option<BTreeMap<String, Vec<u8>>>, String>;

/// The status of a ClusterProfile, or why it is not known.
pub(super) type ProfileContent = Result<Option<Value>, NoProfile>;

/// Why a ClusterProfile is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoProfile {
    /// The host has no such kind.
    Undefined,
    /// The API server refuses, and says why.
    Forbidden(String),
}

/// Something has changed.
pub(super) enum News {
    /// A complete list.
    Listed(Kind, Vec<Resource>),
    /// One is there, or has changed.
    Seen(Kind, Box<Resource>),
    /// One has gone.
    Gone(Kind, String),
    /// A Secret.
    Secret(SecretKey, Content),
    /// A ClusterProfile.
    Profile(profile::Key, ProfileContent),
    /// What a target says of itself; the number is that of the question.
    Diagnosed(String, u64, Result<Version, Trouble>),
    /// A target has nothing left on a node.
    Emptied(String, String),
    /// A status was not written.
    Unwritten(Kind, String),
}

/// Tells of resources of a kind with these labels, for ever.
pub(super) async fn resources(client: Client, kind: Kind, selector: String, news: mpsc::Sender<News>) {
    let resource = match kind {
        Kind::Target => ApiResource::erase::<Target>(&()),
        Kind::VirtualNode => ApiResource::erase::<VirtualNode>(&()),
    };
    let api: Api<DynamicObject> = Api::all_with(client, &resource);
    let config = watcher::Config::default().labels(&selector);
    let mut stream = watcher(api, config).backoff(crate::backoff::of_watches()).boxed();
    let mut listed = vec![];
    let mut complained = false;
    loop {
        let next = match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                listed.clear();
                continue;
            }
            Ok(Some(watcher::Event::InitApply(object))) => {
                listed.push(read(object));
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => {
                complained = false;
                News::Listed(kind, std::mem::take(&mut listed))
            }
            Ok(Some(watcher::Event::Apply(object))) => News::Seen(kind, Box::new(read(object))),
            Ok(Some(watcher::Event::Delete(object))) => News::Gone(kind, object.name_any()),
            Ok(None) => return,
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    let error = crate::errors::chain(&error);
                    tracing::warn!(
                        ?kind,
                        error,
                        "the resources cannot be watched; are the definitions there (`longshore \
                        crds | kubectl apply -f -`), and may they be listed and watched? trying again"
                    );
                }
                continue;
            }
        };
        if news.send(next).await.is_err() {
            return;
        }
    }
}

fn read(mut object: DynamicObject) -> Resource {
    let metadata = &object.metadata;
    Resource {
        name: object.name_any(),
        generation: metadata.generation.unwrap_or_default(),
        made: metadata.creation_timestamp.as_ref().map(|time| time.0.to_string()).unwrap_or_default(),
        deleting: metadata.deletion_timestamp.is_some(),
        spec: object.data.get_mut("spec").map(Value::take).unwrap_or_default(),
        status: object.data.get_mut("status").map(Value::take).unwrap_or_default(),
    }
}

/// Tells of one Secret, for ever.
pub(super) async fn secret(client: Client, key: SecretKey, news: mpsc::Sender<News>) {
    let api: Api<Secret> = Api::namespaced(client, &key.0);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
    let mut stream = watcher(api, config).backoff(crate::backoff::of_watches()).boxed();
    let mut listed = None;
    loop {
        let content = match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                listed = None;
                continue;
            }
            Ok(Some(watcher::Event::InitApply(secret))) => {
                listed = Some(data(secret));
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => Ok(listed.take()),
            Ok(Some(watcher::Event::Apply(secret))) => Ok(Some(data(secret))),
            Ok(Some(watcher::Event::Delete(_))) => Ok(None),
            Ok(None) => return,
            Err(error) => match refusal(&error) {
                Some(message) => Err(message),
                None => continue,
            },
        };
        if news.send(News::Secret(key.clone(), content)).await.is_err() {
            return;
        }
    }
}

/// Tells of one ClusterProfile, for ever.
pub(super) async fn profile(client: Client, key: profile::Key, news: mpsc::Sender<News>) {
    let api: Api<DynamicObject> = Api::namespaced_with(client, &key.0, &profile::resource());
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
    let mut stream = watcher(api, config).backoff(crate::backoff::of_watches()).boxed();
    let status = |mut object: DynamicObject| object.data.get_mut("status").map(Value::take).unwrap_or_default();
    let (mut listed, mut said) = (None, None);
    loop {
        let content = match stream.try_next().await {
            Ok(Some(watcher::Event::Init)) => {
                listed = None;
                continue;
            }
            Ok(Some(watcher::Event::InitApply(object))) => {
                listed = Some(status(object));
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => Ok(listed.take()),
            Ok(Some(watcher::Event::Apply(object))) => Ok(Some(status(object))),
            Ok(Some(watcher::Event::Delete(_))) => Ok(None),
            Ok(None) => return,
            Err(error) => match (is_unknown(&error), refusal(&error)) {
                (true, _) => Err(NoProfile::Undefined),
                (false, Some(message)) => Err(NoProfile::Forbidden(message)),
                (false, None) => continue,
            },
        };
        // It is asked for again and again while there is no such thing, and changes for other reasons than ours.
        if said.as_ref() == Some(&content) {
            continue;
        }
        said = Some(content.clone());
        if news.send(News::Profile(key.clone(), content)).await.is_err() {
            return;
        }
    }
}

fn data(secret: Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
}

/// The API server does not know what is asked for.
fn is_unknown(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}

/// What the API server says where we may not read.
fn refusal(error: &watcher::Error) -> Option<String> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 401 | 403) =>
        {
            Some(status.message.clone())
        }
        _ => None,
    }
}
