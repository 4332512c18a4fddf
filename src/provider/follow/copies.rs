//! One copy at a time: read at home, write in the target.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::core::{GroupVersionKind, ObjectMeta};
use serde_json::Value;

use super::accounts::{self, Tokens};
use super::copy::{self, Content, Holder, Origin};
use super::names::{CopyKind, Key};
use super::vouch::Claim;
use super::{Shared, lock, variables};
use crate::errors::chain;
use crate::kubelet::provider::{HostKind, PodError, Source};

/// How often a write is tried anew when somebody else was quicker.
const TRIES: usize = 4;

/// Where a copy comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// An object of home.
    Object { kind: HostKind, namespace: Arc<str>, name: Arc<str> },
    /// Tokens for this pod.
    Token { namespace: Arc<str>, pod: Arc<str>, uid: Arc<str>, tokens: Arc<Tokens> },
}

/// How a copy stands to home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is as home has it.
    Present,
    /// Home has none, and so there is none.
    Absent,
}

/// What the watches have shown since the copy was last looked at.
#[derive(Default)]
pub(super) struct Observed {
    /// The version at home; 0 where it has gone or nobody knows.
    pub(super) home: Option<u64>,
    /// The copy.
    pub(super) copy: Option<Seen>,
}

/// A copy as a watch has shown it.
pub(super) struct Seen {
    pub(super) uid: Arc<str>,
    pub(super) version: u64,
    /// It has gone, or is about to.
    pub(super) gone: bool,
    pub(super) renewal: Option<i64>,
}

/// A copy, or what may become one.
pub(super) struct Copy {
    pub(super) key: Key,
    /// `None` for one that was found, as long as no proxy has said where it comes from.
    pub(super) home: Mutex<Option<Home>>,
    /// What delegates say that need one that was found; nothing is done on their word alone.
    pub(super) claims: Mutex<Vec<Claim>>,
    pub(super) observed: Mutex<Observed>,
    pub(super) queued: AtomicBool,
    /// When tokens are to be renewed, in seconds of the epoch.
    pub(super) renewal: AtomicI64,
    /// Held while it is worked on.
    pub(super) state: tokio::sync::Mutex<State>,
}

/// What was last made of a copy.
#[derive(Default)]
pub(super) struct State {
    /// `None` where that is not known, or was not possible.
    pub(super) outcome: Option<Outcome>,
    pub(super) attempts: u32,
    uid: Option<Arc<str>>,
    /// The last one that was written, by which it is known again if somebody takes our labels off.
    written: Option<Arc<str>>,
    version: u64,
    home_version: u64,
    /// The digest of the content that the copy is known to have. Of Services much changes that is in no variable.
    content: Option<u64>,
    namespace_uid: Box<str>,
}

impl State {
    /// It is not known any more how the copy is.
    pub(super) fn doubt(&mut self) {
        self.outcome = None;
        self.content = None;
    }
}

impl Copy {
    pub(super) fn new(key: Key) -> Self {
        Self {
            key,
            home: Mutex::default(),
            claims: Mutex::default(),
            observed: Mutex::default(),
            queued: AtomicBool::new(false),
            renewal: AtomicI64::new(i64::MAX),
            state: tokio::sync::Mutex::default(),
        }
    }
}

/// Why a copy could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the target has an object of that name that is not ours")]
    Stranger,
    #[error("another host has a copy of that name in the target")]
    OtherHost,
    #[error("the namespace in the target has gone")]
    NamespaceGone,
    #[error("Secrets of type {0} never leave home")]
    ForHomeAlone(String),
    #[error("the variables of the Services of the namespace take {0} bytes, and do not fit into a ConfigMap")]
    TooManyServices(usize),
    #[error("it is not known where it comes from")]
    Unknown,
    #[error(transparent)]
    Pod(#[from] PodError),
}

impl Trouble {
    /// What the pod's owner reads.
    pub(super) fn at(self, field: &str, key: &Key) -> PodError {
        let (reason, message) = match self {
            Self::Pod(error) => return error,
            Self::Stranger | Self::OtherHost => (
                "ReferenceConflict",
                format!(
                    "{field}: the target has a {key} that is not ours and is left alone; rename one of the two, or delete \
                     the one there"
                ),
            ),
            Self::ForHomeAlone(kind) => (
                "ReferenceHeld",
                format!("{field}: {key} is of type {kind}, and such credentials for home never leave it; use another"),
            ),
            Self::TooManyServices(_) => (
                "ReferenceHeld",
                format!("{field}: {self}; set it to false, and let the pod find Services by their names"),
            ),
            Self::NamespaceGone | Self::Unknown => ("ReferenceFailed", format!("{field}: {key}: {self}")),
        };
        PodError::Waiting { reason: reason.into(), message }
    }
}

/// Seconds since 1970, by which tokens are renewed.
pub(super) fn now() -> i64 {
    let now = Timestamp::now().as_second();
    #[cfg(feature = "crash-points")]
    let now = now + ahead();
    now
}

/// By how many seconds this clock is ahead of home's: no API server gives a token that ends in less than ten minutes, which is
/// long for a test. For tests alone, and in no release build.
#[cfg(feature = "crash-points")]
fn ahead() -> i64 {
    static AHEAD: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *AHEAD.get_or_init(|| std::env::var("LONGSHORE_TOKENS_AHEAD").map_or(0, |text| text.parse().unwrap_or_default()))
}

impl Shared {
    /// Does what there is to do about a copy.
    pub(super) async fn settle(self: &Arc<Self>, copy: &Arc<Copy>) {
        let mut state = copy.state.lock().await;
        copy.queued.store(false, Ordering::SeqCst);
        let needed = self.needs().has(&copy.key);
        if !needed && !self.needs().is_complete() {
            return;
        }
        let result =
            if needed { self.bring(copy, &mut state, None).await } else { self.release(copy, &mut state).await };
        match result {
            Ok(outcome) => {
                state.attempts = 0;
                if needed && outcome == Outcome::Present {
                    self.wake(&copy.key);
                }
            }
            // The next delegate that needs it may have a better word.
            Err(Trouble::Unknown) => tracing::debug!(copy = %copy.key, "it is not known where a copy comes from"),
            Err(error) => {
                state.attempts = state.attempts.saturating_add(1);
                tracing::warn!(copy = %copy.key, error = chain(&error), "a copy in the target is not as it should be");
                let pause = Duration::from_millis(500 << state.attempts.min(7)).min(Duration::from_secs(60));
                self.look(copy, pause);
            }
        }
    }

    /// Where a copy comes from that was found. Delegates can be forged by whoever may create pods in the target, who could so
    /// have any Secret of home copied there, or tokens of any pod made: their proxies at home are asked.
    async fn vouched(self: &Arc<Self>, copy: &Copy) -> Result<Home, Trouble> {
        loop {
            let Some(claim) = lock(&copy.claims).last().cloned() else { return Err(Trouble::Unknown) };
            let proxy = self.view.proxy(&claim.proxy).await.map_err(PodError::NoAnswer)?;
            let home =
                proxy.and_then(|proxy| self.warrant.home(&claim, &copy.key, &self.names_in(proxy.namespace()), &proxy));
            if let Some(home) = home {
                lock(&copy.home).replace(home.clone());
                lock(&copy.claims).clear();
                if let Home::Object { kind, namespace, .. } = &home {
                    self.follow_home(*kind, namespace, &copy.key.namespace);
                }
                return Ok(home);
            }
            tracing::warn!(copy = %copy.key, pod = %claim.proxy, "a delegate needs what its proxy does not refer to");
            lock(&copy.claims).retain(|other| *other != claim);
        }
    }

    /// Makes a copy what it should be, if there is any doubt that it is.
    pub(super) async fn bring(
        self: &Arc<Self>,
        copy: &Copy,
        state: &mut State,
        namespace_uid: Option<&str>,
    ) -> Result<Outcome, Trouble> {
        take_in(copy, state);
        if let Some(uid) = namespace_uid.filter(|uid| **uid != *state.namespace_uid) {
            // In a namespace that was made anew there is no copy; of one that was found it is not known where it is.
            if !state.namespace_uid.is_empty() {
                state.doubt();
            }
            state.namespace_uid = uid.into();
        }
        if copy.key.kind == CopyKind::Token && copy.renewal.load(Ordering::SeqCst) <= now() {
            state.outcome = None;
        }
        if let Some(outcome) = state.outcome {
            return Ok(outcome);
        }
        let known = lock(&copy.home).clone();
        let home = match known {
            Some(home) => home,
            None => self.vouched(copy).await?,
        };
        let outcome = match &home {
            Home::Object { kind, namespace, name } => {
                let origin = Origin { namespace, name, pod: None, renewal: None };
                if let Some((content, version)) = self.read(*kind, namespace, name).await? {
                    let digest = Some(content.digest());
                    if copy.key.kind != CopyKind::Services || state.uid.is_none() || state.content != digest {
                        state.content = None;
                        self.write(copy, state, &origin, &content).await?;
                        state.content = digest;
                    }
                    state.home_version = version;
                    Outcome::Present
                } else {
                    if let Some(uid) = state.uid.take() {
                        self.delete(&copy.key, &uid, None).await?;
                    }
                    state.home_version = 0;
                    Outcome::Absent
                }
            }
            Home::Token { namespace, pod, uid, tokens } => {
                let (content, renewal) = self.request(namespace, pod, uid, tokens).await?;
                let origin = Origin { namespace, name: pod, pod: Some(uid), renewal: Some(renewal) };
                self.write(copy, state, &origin, &content).await?;
                copy.renewal.store(renewal, Ordering::SeqCst);
                Outcome::Present
            }
        };
        state.outcome = Some(outcome);
        Ok(outcome)
    }

    /// The content of an object of home and its version.
    async fn read(&self, kind: HostKind, namespace: &str, name: &str) -> Result<Option<(Content, u64)>, Trouble> {
        let version = |metadata: &ObjectMeta| {
            metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
        };
        let failed = |error: Source| unread(kind, namespace, &error);
        Ok(match kind {
            HostKind::ConfigMap => {
                let found = self.view.config_map(namespace, name).await.map_err(failed)?;
                found.map(|found| (copy::of_config_map(&found), version(&found.metadata)))
            }
            HostKind::Secret => match self.view.secret(namespace, name).await.map_err(failed)? {
                Some(found) => {
                    let content = copy::of_secret(&found).map_err(|kind| Trouble::ForHomeAlone(kind.0))?;
                    Some((content, version(&found.metadata)))
                }
                None => None,
            },
            HostKind::Service => {
                let found = self.view.services(namespace).await.map_err(failed)?;
                let variables = variables::of(namespace, &found).map_err(|many| Trouble::TooManyServices(many.0))?;
                // Whatever changes from now on has a higher one.
                let version = found.iter().map(|service| version(&service.metadata)).max().unwrap_or_default();
                Some((copy::of_variables(&variables), version))
            }
        })
    }

    /// Asks home for the tokens of a pod. Also answers when they are to be renewed.
    async fn request(&self, namespace: &str, pod: &str, uid: &str, tokens: &Tokens) -> Result<(Content, i64), Trouble> {
        let (mut data, mut renewal) = (BTreeMap::new(), i64::MAX);
        for (index, token) in tokens.tokens.iter().enumerate() {
            let request = TokenRequestSpec {
                audiences: token.audience.iter().cloned().collect(),
                expiration_seconds: Some(token.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(pod.into()),
                    uid: Some(uid.into()),
                }),
            };
            let asked = now();
            let answer = self.view.token(namespace, &tokens.account, request).await;
            let answer = answer.map_err(|error| no_token(namespace, &tokens.account, &error))?;
            renewal = renewal.min(accounts::renewal(asked, answer.expiration_timestamp.0.as_second()));
            data.insert(accounts::key(index), answer.token);
        }
        Ok((copy::of_tokens(data), renewal))
    }

    /// Makes the copy have this content.
    async fn write(
        &self,
        copy: &Copy,
        state: &mut State,
        origin: &Origin<'_>,
        content: &Content,
    ) -> Result<(), Trouble> {
        let (key, api) = (&copy.key, self.api(&copy.key));
        for _ in 0..TRIES {
            let result = if let Some(uid) = &state.uid {
                let patch = read_json(copy::patch(uid, &self.owner, origin, content))?;
                api.patch(&key.name, &PatchParams::default(), &Patch::Json::<()>(patch)).await
            } else {
                let object = read_json(copy::object(key, &self.owner, origin, content))?;
                api.create(&PostParams::default(), &object).await
            };
            match (result, state.uid.clone()) {
                (Ok(written), known) => {
                    if known.is_none() {
                        tracing::info!(copy = %key, "copied to the target");
                    }
                    state.uid = written.metadata.uid.as_deref().map(Into::into);
                    state.written.clone_from(&state.uid);
                    state.version = version(&written.metadata);
                    return Ok(());
                }
                (Err(kube::Error::Api(status)), Some(_)) if status.code == 404 => state.uid = None,
                // Another has the name, or it cannot be changed: an immutable one, or one of another type.
                (Err(kube::Error::Api(status)), Some(uid)) if status.code == 422 => {
                    if self.metadata(key).await?.is_some_and(|found| found.uid.as_deref() == Some(&uid)) {
                        self.delete(key, &uid, None).await?;
                    }
                    state.uid = None;
                }
                (Err(kube::Error::Api(status)), None) if status.is_already_exists() => {
                    let Some(found) = self.metadata(key).await? else { continue };
                    let known = found.uid.is_some() && found.uid.as_deref() == state.written.as_deref();
                    match copy::holder(found.labels.as_ref(), &self.owner) {
                        _ if known => state.uid = found.uid.map(Into::into),
                        Holder::Ours => state.uid = found.uid.map(Into::into),
                        Holder::OtherHost => return Err(Trouble::OtherHost),
                        Holder::Stranger => return Err(Trouble::Stranger),
                    }
                }
                (Err(kube::Error::Api(status)), None) if status.code == 404 => return Err(Trouble::NamespaceGone),
                (Err(error), _) => return Err(refused(error, key).into()),
            }
        }
        Err(PodError::NoAnswer(format!("{key} comes and goes in the target").into()).into())
    }

    /// Lets go of a copy that nobody needs here, and deletes it unless another virtual node needs it.
    async fn release(self: &Arc<Self>, copy: &Copy, state: &mut State) -> Result<Outcome, Trouble> {
        take_in(copy, state);
        if let Some(uid) = state.uid.clone() {
            if copy.key.kind == CopyKind::Token {
                self.delete(&copy.key, &uid, None).await?;
            } else if let Some(found) = self.metadata(&copy.key).await?
                && found.uid.as_deref() == Some(&uid)
            {
                // Whoever comes to need it meanwhile changes the version.
                let version = found.resource_version.unwrap_or_default();
                if copy::is_shared(found.labels.as_ref(), &self.owner) {
                    let patch = read_json(copy::release(&uid, &version, &self.owner))?;
                    let patched = self
                        .api(&copy.key)
                        .patch(&copy.key.name, &PatchParams::default(), &Patch::Json::<()>(patch))
                        .await;
                    patched.map_err(|error| refused(error, &copy.key))?;
                } else {
                    self.delete(&copy.key, &uid, Some(version)).await?;
                }
            }
            tracing::info!(copy = %copy.key, "no longer needed in the target");
        }
        *state = State::default();
        self.copies.remove_if(&copy.key, |key, _| !self.needs().has(key));
        if copy.key.kind != CopyKind::Token {
            self.leave_homes();
        }
        Ok(Outcome::Absent)
    }

    async fn metadata(&self, key: &Key) -> Result<Option<ObjectMeta>, PodError> {
        let found = self.api(key).get_metadata_opt(&key.name).await.map_err(|error| refused(error, key))?;
        Ok(found.map(|found| found.metadata))
    }

    /// Deletes this very object; fine if it has gone.
    async fn delete(&self, key: &Key, uid: &str, version: Option<String>) -> Result<(), PodError> {
        let preconditions = Preconditions { uid: Some(uid.into()), resource_version: version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match self.api(key).delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            // Without a version, another UID has the name.
            Err(kube::Error::Api(status)) if status.code == 409 && version.is_none() => Ok(()),
            Err(error) => Err(refused(error, key)),
        }
    }

    fn api(&self, key: &Key) -> Api<DynamicObject> {
        let kind = if key.kind.object() == HostKind::Secret { "Secret" } else { "ConfigMap" };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
        Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
    }
}

/// Takes in what the watches have shown.
fn take_in(copy: &Copy, state: &mut State) {
    let observed = std::mem::take(&mut *lock(&copy.observed));
    if let Some(seen) = observed.copy {
        let same = state.uid.as_ref() == Some(&seen.uid);
        if seen.gone {
            if same {
                state.uid = None;
                state.outcome = state.outcome.filter(|outcome| *outcome == Outcome::Absent);
            }
        } else if seen.version > state.version {
            let found = state.uid.is_none() && state.version == 0;
            state.uid = Some(seen.uid);
            state.version = seen.version;
            state.doubt();
            // Tokens that were found are good until they are to be renewed: nobody asks for all anew after a restart.
            if let (true, CopyKind::Token, Some(renewal)) = (found, copy.key.kind, seen.renewal) {
                copy.renewal.store(renewal, Ordering::SeqCst);
                state.outcome = Some(Outcome::Present);
            }
        }
    }
    if let Some(version) = observed.home {
        let news = match state.outcome {
            Some(Outcome::Present) => version == 0 || version > state.home_version,
            Some(Outcome::Absent) => version > 0,
            None => false,
        };
        if news {
            state.outcome = None;
        }
    }
}

fn version(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

fn read_json<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, PodError> {
    serde_json::from_value(value).map_err(|error| PodError::NoAnswer(error.into()))
}

fn refused(error: kube::Error, key: &Key) -> PodError {
    match error {
        kube::Error::Api(status) if (400..500).contains(&status.code) && !matches!(status.code, 408 | 409 | 429) => {
            PodError::Refused { reason: status.reason, message: format!("{key}: {}", status.message) }
        }
        error => PodError::NoAnswer(Box::new(error)),
    }
}

/// The code of an API server's answer.
fn code(error: &Source) -> Option<u16> {
    match error.downcast_ref::<kube::Error>()? {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Whether nothing can be made because the namespace is being deleted (NamespaceLifecycle in the admission of the API server).
fn is_ending(error: &Source) -> bool {
    let causes = match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.details.as_ref().map(|details| details.causes.as_slice()),
        _ => None,
    };
    causes.unwrap_or_default().iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn unread(kind: HostKind, namespace: &str, error: &Source) -> PodError {
    let (resource, otherwise) = match kind {
        HostKind::ConfigMap => ("configmaps", ""),
        HostKind::Secret => ("secrets", ""),
        HostKind::Service => ("services", ", or set enableServiceLinks of the pod to false"),
    };
    if code(error) == Some(403) {
        let message = format!(
            "Longshore may not read {resource} in namespace {namespace} at home: grant it get, list and watch on \
             {resource} there, by a RoleBinding or for all namespaces{otherwise}"
        );
        return PodError::Waiting { reason: "ReferenceForbidden".into(), message };
    }
    let message = format!("{resource} of namespace {namespace} cannot be read at home: {}", chain(&**error));
    PodError::Waiting { reason: "HomeUnreachable".into(), message }
}

fn no_token(namespace: &str, account: &str, error: &Source) -> PodError {
    let (reason, message) = match code(error) {
        Some(403) if is_ending(error) => {
            ("TokenRefused", format!("no token for {namespace}/{account}: the namespace is being deleted at home"))
        }
        Some(403) => (
            "TokenForbidden",
            format!(
                "Longshore may not create serviceaccounts/token in namespace {namespace} at home: grant it there by a \
                 RoleBinding to a ClusterRole with verb create on serviceaccounts/token ({})",
                chain(&**error)
            ),
        ),
        Some(404) => (
            "ServiceAccountMissing",
            format!("service account {namespace}/{account} does not exist; create it ({})", chain(&**error)),
        ),
        Some(_) => ("TokenRefused", format!("no token for {namespace}/{account}: {}", chain(&**error))),
        None => ("HomeUnreachable", format!("no token for {namespace}/{account}: {}", chain(&**error))),
    };
    PodError::Waiting { reason: reason.into(), message }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_namespace_that_ends_is_no_lack_of_rights() {
        let reason = |causes: Value| {
            let status: Status = serde_json::from_value(json!({"code": 403, "details": {"causes": causes}})).unwrap();
            match no_token("shop", "default", &kube::Error::Api(Box::new(status)).into()) {
                PodError::Waiting { reason, .. } => reason,
                other => panic!("{other}"),
            }
        };
        assert_eq!(reason(json!([])), "TokenForbidden");
        assert_eq!(reason(json!([{"reason": "NamespaceTerminating"}])), "TokenRefused");
    }
}
