//! The places where the pods of one node may run, each a provider of its own.
//!
//! With one site nothing has to be chosen. With several, the choice is written on the proxy ([`CHOICE`]) before anything is
//! created, so that whoever reads the proxy knows the only place where its instance can be: a restart with one site out of
//! reach neither doubles a pod nor keeps the others waiting.

use std::sync::Arc;

use async_trait::async_trait;

use super::document::{PodDocument, PodKey};
use super::provider::{
    ByteStream, ExecOptions, LogOptions, PodError, Provider, StreamError, StreamHandler, Tunnel, Upgrade, Usage,
};
use super::table::Table;
use crate::errors::chain;

/// Annotation of a proxy: the name of the site where it runs.
pub const CHOICE: &str = "longshore.dev/target";

/// Annotation of a proxy: the version for which its choice was written once more, by a process that found it and has to be
/// sure that no other choice, made before, arrives later.
pub const FENCE: &str = "longshore.dev/target-fence";

/// A site by its place in the node's list.
pub type Index = u8;

/// A site that this node does not have (any more): of what runs there nothing is known, and nothing can be done.
pub const NOWHERE: Index = Index::MAX;

/// One place where pods may run.
#[derive(Clone)]
pub struct Site {
    /// Its name, which is written on proxies and has to stay.
    pub name: Arc<str>,
    /// What runs pods there.
    pub provider: Arc<dyn Provider>,
}

/// A choice between sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub site: Index,
    /// Why this one, in a sentence for the pod's events.
    pub why: String,
}

/// Chooses between sites.
#[async_trait]
pub trait Chooser: Send + Sync + 'static {
    /// The site for a pod; `shunned` is where it was before and could not start.
    ///
    /// # Errors
    /// When no site will do now: tried again with backoff, and shown as any other refusal.
    async fn choose(&self, pod: &PodDocument, shunned: Option<Index>) -> Result<Chosen, PodError>;
}

/// All sites of a node, in the order of their indexes.
#[derive(Clone)]
pub struct Sites {
    all: Arc<[Site]>,
    /// The name of the only one, which is on pods of a time when there were several.
    only: Arc<str>,
    chooser: Option<Arc<dyn Chooser>>,
}

impl Sites {
    /// The one site of a node, whose pods need no choice. One that was chosen for a site of another name is not here.
    pub fn one(name: &str, provider: Arc<dyn Provider>) -> Self {
        Self { all: [Site { name: "".into(), provider }].into(), only: name.into(), chooser: None }
    }

    /// Several sites, at most 255, and who chooses between them.
    pub fn several(sites: Vec<Site>, chooser: Arc<dyn Chooser>) -> Self {
        Self { all: sites.into(), only: "".into(), chooser: Some(chooser) }
    }

    /// All of them, with their indexes.
    pub fn iter(&self) -> impl Iterator<Item = (Index, &Site)> {
        (0..).zip(self.all.iter())
    }

    /// The provider of a site; `None` for one that this node does not have.
    pub fn get(&self, index: Index) -> Option<&Arc<dyn Provider>> {
        self.all.get(usize::from(index)).map(|site| &site.provider)
    }

    /// The name of a site, as it is written on proxies; empty where there is nothing to choose.
    pub fn name(&self, index: Index) -> &str {
        self.all.get(usize::from(index)).map_or("", |site| &site.name)
    }

    /// Who chooses; nobody where there is one site only.
    pub fn chooser(&self) -> Option<&Arc<dyn Chooser>> {
        self.chooser.as_ref()
    }

    /// Where a proxy runs: its choice, or the only site there is. `None` where that is still to be chosen.
    pub fn of(&self, pod: &PodDocument) -> Option<Index> {
        let name = pod.annotation(CHOICE);
        if self.chooser.is_none() {
            return Some(name.filter(|name| **name != *self.only).map_or(0, |_| NOWHERE));
        }
        let name = name?;
        Some(self.iter().find(|(_, site)| &*site.name == name).map_or(NOWHERE, |(index, _)| index))
    }

    /// A digest of what an instance of this pod is made of. All sites of a node are of one kind and agree on it.
    pub fn fingerprint(&self, pod: &PodDocument) -> u64 {
        self.all.first().map_or(0, |site| site.provider.fingerprint(pod))
    }
}

/// Streams of all sites: each pod's from where it runs.
pub struct SiteStreams {
    sites: Sites,
    table: Arc<Table>,
}

impl SiteStreams {
    /// Streams of the pods of this table.
    pub fn new(sites: Sites, table: Arc<Table>) -> Self {
        Self { sites, table }
    }

    fn of(&self, pod: &PodKey) -> Option<&Arc<dyn Provider>> {
        self.sites.get(self.table.site(&pod.uid.as_str().into())?)
    }
}

fn nowhere(pod: &PodKey) -> StreamError {
    StreamError::NotFound(format!("pod {pod} does not run anywhere yet"))
}

#[async_trait]
impl StreamHandler for SiteStreams {
    async fn logs(&self, pod: &PodKey, container: &str, options: LogOptions) -> Result<ByteStream, StreamError> {
        self.of(pod).ok_or_else(|| nowhere(pod))?.logs(pod, container, options).await
    }

    async fn exec(
        &self,
        pod: &PodKey,
        container: &str,
        options: ExecOptions,
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        self.of(pod).ok_or_else(|| nowhere(pod))?.exec(pod, container, options, upgrade).await
    }

    async fn attach(
        &self,
        pod: &PodKey,
        container: &str,
        options: ExecOptions,
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        self.of(pod).ok_or_else(|| nowhere(pod))?.attach(pod, container, options, upgrade).await
    }

    async fn port_forward(&self, pod: &PodKey, ports: Vec<u16>, upgrade: Upgrade) -> Result<Tunnel, StreamError> {
        self.of(pod).ok_or_else(|| nowhere(pod))?.port_forward(pod, ports, upgrade).await
    }

    /// Of all sites together. One that cannot say hides no other.
    async fn usage(&self) -> Result<Usage, StreamError> {
        let asked = self.sites.iter().map(|(_, site)| async move { (site.name.clone(), site.provider.usage().await) });
        let (mut whole, mut unsupported) = (Usage::default(), None);
        for (name, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(part) => {
                    whole.pods.extend(part.pods);
                    whole.gaps.extend(part.gaps);
                }
                Err(error @ StreamError::Unsupported(_)) => unsupported = Some(error),
                Err(error) => whole.gaps.push(format!("{name}: {}", chain(&error))),
            }
        }
        match unsupported {
            Some(error) if whole == Usage::default() => Err(error),
            _ => Ok(whole),
        }
    }
}
