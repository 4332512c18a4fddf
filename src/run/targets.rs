//! The targets that are declared: from resources and Secrets to specs and clients that can be used. What was good last stays
//! in use until something better comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::verdict::Acceptance;
use super::watches::{self, Content, News, NoProfile, ProfileContent, Resource, SecretKey};
use crate::api::clients::{self, Access, ClientsError, Link};
use crate::api::profile::{self, ProfileError, Programs};
use crate::api::resource;
use crate::api::target::{KubeconfigSource, TargetSpec};
use crate::errors::chain;
use crate::metrics::Metrics;

/// How long a credential plugin of a kubeconfig file may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until a kubeconfig that could not be used is tried again although it is the same.
const AGAIN: Duration = Duration::from_secs(30);

/// All targets.
pub(super) struct Targets {
    host: Client,
    /// Where Secrets are that have no namespace.
    namespace: String,
    news: mpsc::Sender<News>,
    metrics: Metrics,
    declared: BTreeMap<String, Resource>,
    programs: Arc<Programs>,
    secrets: BTreeMap<SecretKey, Watched<Content>>,
    profiles: BTreeMap<profile::Key, Watched<ProfileContent>>,
    linked: BTreeMap<String, Linked>,
    /// Nothing for one whose Secret is not known yet.
    acceptance: BTreeMap<String, Acceptance>,
    /// The kubeconfigs that could not be used, and why.
    failed: BTreeMap<String, (String, Instant, Acceptance)>,
}

/// A Secret or ClusterProfile that some target names.
struct Watched<T> {
    content: Option<T>,
    _watch: AbortOnDropHandle<()>,
}

/// What targets name.
#[derive(Default)]
struct Wanted {
    secrets: BTreeSet<SecretKey>,
    profiles: BTreeSet<profile::Key>,
}

/// A target that can be used.
pub(super) struct Linked {
    /// Its last good spec.
    pub(super) spec: TargetSpec,
    /// Its last good configuration.
    pub(super) config: Access,
    /// Where it is, for people and for comparison.
    pub(super) address: String,
    /// Its clients, which change with the configuration.
    pub(super) link: Link,
    /// Which kubeconfig this is.
    pub(super) digest: String,
}

/// A kubeconfig.
enum Found {
    /// As it was read from a file.
    File(Box<Access>),
    /// A text, and where it comes from: a Secret, or whatever we have assembled it of.
    Text { origin: String, text: String, assembled: bool },
}

impl Found {
    fn digest(&self, context: Option<&str>) -> String {
        let text = match self {
            Self::File(access) => format!("file {context:?} {}", access.look()),
            Self::Text { text, .. } => format!("secret {context:?} {text}"),
        };
        format!("{:x}", Sha256::digest(text))
    }
}

impl Targets {
    pub(super) fn new(
        host: Client,
        namespace: String,
        programs: Arc<Programs>,
        news: mpsc::Sender<News>,
        metrics: Metrics,
    ) -> Self {
        Self {
            host,
            namespace,
            news,
            metrics,
            declared: BTreeMap::new(),
            programs,
            secrets: BTreeMap::new(),
            profiles: BTreeMap::new(),
            linked: BTreeMap::new(),
            acceptance: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// A complete list.
    pub(super) fn list(&mut self, list: Vec<Resource>) {
        self.declared = list.into_iter().filter(|one| !one.deleting).map(|one| (one.name.clone(), one)).collect();
    }

    /// Answers whether there is more than a new status.
    pub(super) fn see(&mut self, resource: Resource) -> bool {
        if resource.deleting {
            return self.declared.remove(&resource.name).is_some();
        }
        let spec = resource.spec.clone();
        let before = self.declared.insert(resource.name.clone(), resource);
        before.is_none_or(|before| before.spec != spec)
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.declared.remove(name);
    }

    pub(super) fn secret(&mut self, key: &SecretKey, content: Content) {
        if let Some(watched) = self.secrets.get_mut(key) {
            watched.content = Some(content);
        }
    }

    pub(super) fn profile(&mut self, key: &profile::Key, content: ProfileContent) {
        if let Some(watched) = self.profiles.get_mut(key) {
            watched.content = Some(content);
        }
    }

    pub(super) fn declared(&self) -> impl Iterator<Item = (&String, &Resource)> {
        self.declared.iter()
    }

    /// Those that are declared and can be used.
    pub(super) fn usable(&self) -> BTreeMap<String, TargetSpec> {
        let linked = self.linked.iter().filter(|(name, _)| self.declared.contains_key(*name));
        linked.map(|(name, linked)| (name.clone(), linked.spec.clone())).collect()
    }

    pub(super) fn linked(&self, name: &str) -> Option<&Linked> {
        self.linked.get(name)
    }

    pub(super) fn good(&self, name: &str) -> Option<&TargetSpec> {
        self.linked.get(name).map(|linked| &linked.spec)
    }

    /// `None` while its Secret is not known.
    pub(super) fn acceptance(&self, name: &str) -> Option<&Acceptance> {
        self.acceptance.get(name)
    }

    /// Whether the Secret of one is not known yet.
    pub(super) fn are_waiting(&self) -> bool {
        self.declared.keys().any(|name| !self.acceptance.contains_key(name))
    }

    /// Whether one has a kubeconfig file, which nobody tells of when it changes.
    pub(super) fn have_files(&self) -> bool {
        let file = |spec: &serde_json::Value| spec["kubeconfig"]["file"].is_string();
        self.declared.values().any(|one| file(&one.spec)) || !self.failed.is_empty()
    }

    /// Lets go of those that are neither declared nor in use.
    pub(super) fn release(&mut self, used: &BTreeSet<String>) {
        self.linked.retain(|name, _| self.declared.contains_key(name) || used.contains(name));
        self.acceptance.retain(|name, _| self.declared.contains_key(name));
        self.failed.retain(|name, _| self.declared.contains_key(name) || used.contains(name));
    }

    /// Looks at every target anew. What has not changed costs nothing.
    pub(super) async fn accept(&mut self) {
        let names: BTreeSet<_> = self.declared.keys().chain(self.linked.keys()).cloned().collect();
        let mut wanted = Wanted::default();
        for name in names {
            match self.accept_one(&name, &mut wanted).await {
                Some(acceptance) => drop(self.acceptance.insert(name, acceptance)),
                None => drop(self.acceptance.remove(&name)),
            }
        }
        self.secrets.retain(|key, _| wanted.secrets.contains(key));
        self.profiles.retain(|key, _| wanted.profiles.contains(key));
    }

    async fn accept_one(&mut self, name: &str, wanted: &mut Wanted) -> Option<Acceptance> {
        let parsed = self.declared.get(name).map(|one| resource::target(name, &one.spec));
        let last = self.linked.get(name).map(|linked| linked.spec.clone());
        // With a spec that cannot be used, the credentials of the last good one are renewed all the same.
        let (spec, verdict) = match parsed {
            Some(Ok(spec)) => (spec, Acceptance::Good),
            Some(Err(findings)) => {
                let bad = Acceptance::Bad("Invalid", resource::sentence(&findings));
                let Some(last) = last else { return Some(bad) };
                (last, bad)
            }
            None => (last?, Acceptance::Good),
        };
        let found = match self.find(&spec.kubeconfig, wanted).await? {
            Ok(found) => found,
            Err(bad) => return Some(bad),
        };
        match self.link(name, spec, found).await {
            Ok(()) => Some(verdict),
            Err(bad) => Some(if verdict == Acceptance::Good { bad } else { verdict }),
        }
    }

    /// The kubeconfig; `None` while it is not known.
    async fn find(&mut self, source: &KubeconfigSource, wanted: &mut Wanted) -> Option<Result<Found, Acceptance>> {
        if let Some(file) = &source.file {
            let read = clients::target(file, source.context.as_deref()).await;
            let bad = |error| Acceptance::Bad("InvalidKubeconfig", chain(&error));
            return Some(read.map(|access| Found::File(Box::new(access))).map_err(bad));
        }
        if let Some(reference) = &source.cluster_profile_ref {
            let key = profile::key(reference, &self.namespace);
            return self.find_profile(&key, wanted);
        }
        let secret = source.secret_ref.as_ref()?;
        let namespace = secret.namespace.clone().unwrap_or_else(|| self.namespace.clone());
        let key = (namespace, secret.name.clone());
        let text = self.find_secret(&key, &secret.key, "correct spec.kubeconfig.secretRef.key", wanted)?;
        let origin = format!("of the Secret {}/{}", key.0, key.1);
        Some(text.map(|text| Found::Text { origin, text, assembled: false }))
    }

    /// What a Secret has under a key; `None` while it is not known.
    fn find_secret(
        &mut self,
        key: &SecretKey,
        field: &str,
        remedy: &str,
        wanted: &mut Wanted,
    ) -> Option<Result<String, Acceptance>> {
        wanted.secrets.insert(key.clone());
        let (host, news) = (self.host.clone(), self.news.clone());
        let watched = self.secrets.entry(key.clone()).or_insert_with(|| {
            let watch = tokio::spawn(watches::secret(host, key.clone(), news));
            Watched { content: None, _watch: AbortOnDropHandle::new(watch) }
        });
        let which = format!("the Secret {}/{}", key.0, key.1);
        let bad = |reason, message| Some(Err(Acceptance::Bad(reason, message)));
        match watched.content.as_ref()? {
            Err(message) => bad("SecretForbidden", format!("failed to read {which}: {message}")),
            Ok(None) => bad("SecretNotFound", format!("there is no Secret {}/{}; create it", key.0, key.1)),
            Ok(Some(data)) => match data.get(field).map(|bytes| String::from_utf8(bytes.clone())) {
                None => {
                    let known: Vec<_> = data.keys().map(String::as_str).collect();
                    let known = known.join(", ");
                    bad("SecretKeyNotFound", format!("{which} has no key `{field}`, but these: {known}; {remedy}"))
                }
                Some(Err(_)) => bad("InvalidKubeconfig", format!("the key `{field}` of {which} is no text")),
                Some(Ok(text)) => Some(Ok(text)),
            },
        }
    }

    /// The kubeconfig that a ClusterProfile stands for; `None` while it, or the Secret with its credentials, is not known.
    fn find_profile(&mut self, key: &profile::Key, wanted: &mut Wanted) -> Option<Result<Found, Acceptance>> {
        wanted.profiles.insert(key.clone());
        let (host, news) = (self.host.clone(), self.news.clone());
        let watched = self.profiles.entry(key.clone()).or_insert_with(|| {
            let watch = tokio::spawn(watches::profile(host, key.clone(), news));
            Watched { content: None, _watch: AbortOnDropHandle::new(watch) }
        });
        let status = match known_profile(key, watched.content.as_ref()?) {
            Ok(status) => status,
            Err(bad) => return Some(Err(bad)),
        };
        let way = match profile::way(key, status, &self.programs, &self.namespace) {
            Ok(way) => way,
            Err(error) => {
                let reason = match error {
                    ProfileError::Refuse { .. } => "RefusedClusterProfile",
                    ProfileError::FindProvider { .. } | ProfileError::ReadExtension { .. } => "InvalidClusterProfile",
                };
                return Some(Err(Acceptance::Bad(reason, error.to_string())));
            }
        };
        let secret = match way.credentials.secret() {
            None => None,
            Some((secret, field)) => {
                match self.find_secret(secret, field, "its cluster manager puts it there", wanted)? {
                    Ok(text) => Some(text),
                    Err(bad) => return Some(Err(bad)),
                }
            }
        };
        let made = way.kubeconfig(secret.as_deref()).map_err(|why| {
            let which = way.credentials.secret().map(|((namespace, name), _)| format!("the Secret {namespace}/{name}"));
            Acceptance::Bad("InvalidKubeconfig", format!("{} {why}", which.unwrap_or_default()))
        });
        Some(made.map(|text| Found::Text { origin: way.origin(), text, assembled: true }))
    }

    /// Makes clients where the kubeconfig is another one.
    async fn link(&mut self, name: &str, spec: TargetSpec, found: Found) -> Result<(), Acceptance> {
        let digest = found.digest(spec.kubeconfig.context.as_deref());
        let origin = match &found {
            Found::File(access) => clients::address(access),
            Found::Text { origin, .. } => format!("the kubeconfig {origin}"),
        };
        if let Some(linked) = self.linked.get_mut(name)
            && linked.digest == digest
        {
            linked.spec = spec;
            self.failed.remove(name);
            return Ok(());
        }
        if let Some((failed, at, why)) = self.failed.get(name)
            && *failed == digest
            && at.elapsed() < AGAIN
        {
            return Err(why.clone());
        }
        let made = timeout(PATIENCE, self.make(name, spec, found, digest.clone())).await;
        let error = match made {
            Ok(Ok(linked)) => {
                tracing::info!(target_name = name, address = linked.address, "these credentials are used from now on");
                self.failed.remove(name);
                self.linked.insert(name.into(), linked);
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => {
                let reason = format!("no credentials within {} s", PATIENCE.as_secs());
                ClientsError::Build { address: origin, reason }
            }
        };
        let reason = match error {
            ClientsError::RefuseField { .. } => "RefusedKubeconfig",
            _ => "InvalidKubeconfig",
        };
        let why = Acceptance::Bad(reason, chain(&error));
        self.failed.insert(name.into(), (digest, Instant::now(), why.clone()));
        Err(why)
    }

    async fn make(&self, name: &str, spec: TargetSpec, found: Found, digest: String) -> Result<Linked, ClientsError> {
        let config = match found {
            Found::File(access) => *access,
            Found::Text { origin, text, assembled: true } => clients::assembled(&origin, &text).await?,
            Found::Text { origin, text, assembled: false } => {
                clients::secret(&origin, &text, spec.kubeconfig.context.as_deref()).await?
            }
        };
        let config = config.metered(self.metrics.target(name));
        let address = format!("{}{}", clients::address(&config), config.cluster_url.path().trim_end_matches('/'));
        let same = self.linked.get(name).filter(|linked| linked.address == address);
        let link = match same {
            Some(linked) => {
                linked.link.exchange(&config).await?;
                linked.link.clone()
            }
            None => Link::new(&config).await?,
        };
        Ok(Linked { spec, config, address, link, digest })
    }
}

/// The status of a ClusterProfile that is there.
fn known_profile<'a>(key: &profile::Key, content: &'a ProfileContent) -> Result<&'a Value, Acceptance> {
    let (namespace, name) = key;
    let (reason, message) = match content {
        Ok(Some(status)) => return Ok(status),
        Ok(None) => (
            "ClusterProfileNotFound",
            format!("there is no ClusterProfile {namespace}/{name}; correct spec.kubeconfig.clusterProfileRef"),
        ),
        Err(NoProfile::Undefined) => (
            "ClusterProfileUndefined",
            "the host has no ClusterProfiles of multicluster.x-k8s.io/v1alpha1; install the definition of the cluster \
             inventory, or name a Secret in spec.kubeconfig.secretRef"
                .to_owned(),
        ),
        Err(NoProfile::Forbidden(message)) => {
            ("ClusterProfileForbidden", format!("failed to read the ClusterProfile {namespace}/{name}: {message}"))
        }
    };
    Err(Acceptance::Bad(reason, message))
}
