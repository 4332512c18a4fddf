//! The shell: watches in, workers out.
//!
//! Home's claims are watched by their metadata, which says whether they are for us, and read when they are; volumes of
//! ours and the targets' claims are selected by label.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use futures::stream::select_all;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Api, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Claims;
use super::plan::{self, Identity, Volume};
use crate::errors::chain;
use crate::kubelet::provider::PodError;
use crate::kubelet::queue::Queue;
use crate::provider::fleet::Fleet;
use crate::provider::names;
use crate::provider::quantity::Quantity;
use crate::provider::target::TargetProvider;
use crate::provider::teller::{self, Teller};

mod provide;
mod release;

/// How many claims and volumes are worked on at a time.
const WORKERS: usize = 4;

/// What keeps the claims of a virtual node.
pub struct KeeperSetup {
    /// Home.
    pub host: Client,
    /// The id of the host cluster.
    pub host_id: String,
    /// The virtual node.
    pub node: String,
    /// Its targets.
    pub sites: Vec<Site>,
    /// Who chooses between several of them.
    pub fleet: Option<Arc<Fleet>>,
    /// What those who place and create pods read.
    pub claims: Arc<Claims>,
}

/// A target.
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its client, and its namespaces.
    pub provider: Arc<TargetProvider>,
}

/// Provides the claims of one virtual node with volumes, and deals with volumes whose claim has gone.
pub struct Keeper {
    setup: KeeperSetup,
    queue: Queue,
    teller: Teller,
    /// Failures in a row, by key.
    failures: DashMap<Arc<str>, u32>,
    /// Home's claim for each claim in a target, by the latter's UID.
    remotes: DashMap<String, (String, String)>,
    /// What the target has made of a volume when the sizes were last compared, by the volume's UID.
    sizes: DashMap<String, Quantity>,
    /// One claim at a time is given a target: those of one pod have to get the same.
    choosing: tokio::sync::Mutex<()>,
}

/// Why something did not work; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the host does not answer")]
    Host(#[source] kube::Error),
    #[error("{0}")]
    Told(String),
}

/// What a target's answer means.
fn from_target(error: kube::Error) -> PodError {
    crate::provider::target::refusal(error, "persistentvolumeclaims")
}

impl Keeper {
    /// A keeper that does nothing yet.
    pub fn new(setup: KeeperSetup) -> Self {
        let teller = Teller::new(setup.host.clone(), &setup.node);
        Self {
            setup,
            queue: Queue::default(),
            teller,
            failures: DashMap::new(),
            remotes: DashMap::new(),
            sizes: DashMap::new(),
            choosing: tokio::sync::Mutex::default(),
        }
    }

    /// Works until it is told to stop; what is under way is finished first.
    pub async fn run(self, shutdown: CancellationToken) {
        let (keeper, tasks) = (Arc::new(self), TaskTracker::new());
        let watch = |watch: futures::future::BoxFuture<'static, ()>| {
            let stop = shutdown.clone();
            tasks.spawn(async move { stop.run_until_cancelled(watch).await });
        };
        watch(Box::pin(keeper.clone().watch_claims()));
        watch(Box::pin(keeper.clone().watch_volumes()));
        for index in 0..keeper.setup.sites.len() {
            watch(Box::pin(keeper.clone().watch_remotes(index)));
            watch(Box::pin(keeper.clone().watch_warnings(index)));
        }
        for _ in 0..WORKERS {
            let (keeper, stop) = (keeper.clone(), shutdown.clone());
            tasks.spawn(async move {
                while let Some(key) = stop.run_until_cancelled(keeper.queue.next()).await {
                    keeper.work(&key, &stop).await;
                    keeper.queue.done(&key);
                }
                Some(())
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    async fn work(self: &Arc<Self>, key: &Arc<str>, shutdown: &CancellationToken) {
        let done = match key.splitn(3, '/').collect::<Vec<_>>()[..] {
            ["claim", namespace, name] => self.provide(namespace, name).await,
            ["volume", name] => self.release(name).await,
            _ => Ok(()),
        };
        let Err(error) = done else {
            self.failures.remove(key);
            return;
        };
        tracing::warn!(node = self.setup.node, key = &**key, error = chain(&error), "not done; trying again");
        let failures = {
            let mut failures = self.failures.entry(key.clone()).or_default();
            *failures = failures.saturating_add(1);
            *failures
        };
        let pause = Duration::from_millis(500 << failures.min(7)).min(Duration::from_secs(60));
        let (keeper, key, stop) = (self.clone(), key.clone(), shutdown.clone());
        tokio::spawn(async move {
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                keeper.queue.add(&key);
            }
        });
    }

    fn identity(&self) -> Identity<'_> {
        Identity { host_id: &self.setup.host_id, node: &self.setup.node }
    }

    fn home(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.setup.host.clone(), namespace, &plan::resource())
    }

    fn site(&self, target: &str) -> Option<&Site> {
        self.setup.sites.iter().find(|site| site.name == target)
    }

    fn remote(site: &Site, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(site.provider.client().clone(), namespace, &plan::resource())
    }

    fn add_claim(&self, namespace: &str, name: &str) {
        self.queue.add(&format!("claim/{namespace}/{name}").into());
    }

    async fn watch_claims(self: Arc<Self>) {
        let all: Api<PartialObjectMeta<PersistentVolumeClaim>> = Api::all(self.setup.host.clone());
        let mut stream = watcher(all, watcher::Config::default()).backoff(crate::backoff::of_watches()).boxed();
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::InitApply(claim) | watcher::Event::Apply(claim))) => {
                    if plan::is_ours(&claim.metadata, &self.setup.node) || plan::is_unchosen(&claim.metadata) {
                        self.add_claim(&claim.namespace().unwrap_or_default(), &claim.name_any());
                    }
                }
                // What becomes of its volume is for Kubernetes to say.
                Ok(Some(watcher::Event::Init | watcher::Event::InitDone | watcher::Event::Delete(_))) => {}
                Ok(None) => return,
                Err(error) => self.interrupted("the host's claims", &error),
            }
        }
    }

    async fn watch_volumes(self: Arc<Self>) {
        let all: Api<PersistentVolume> = Api::all(self.setup.host.clone());
        let config = watcher::Config::default().labels(&format!("{}={}", plan::NODE_LABEL, self.setup.node));
        let mut stream = watcher(all, config).backoff(crate::backoff::of_watches()).boxed();
        let mut listed = HashSet::new();
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(volume))) => {
                    listed.insert(volume.name_any());
                    self.volume_seen(&volume);
                }
                Ok(Some(watcher::Event::InitDone)) => self.setup.claims.listed(&listed),
                Ok(Some(watcher::Event::Apply(volume))) => self.volume_seen(&volume),
                Ok(Some(watcher::Event::Delete(volume))) => self.setup.claims.gone(&volume.name_any()),
                Ok(None) => return,
                Err(error) => self.interrupted("the host's volumes", &error),
            }
        }
    }

    fn volume_seen(&self, volume: &PersistentVolume) {
        let Some(volume) = Volume::read(volume) else { return };
        let volume = self.setup.claims.seen(volume);
        if volume.fate() != plan::Fate::Stay {
            self.queue.add(&format!("volume/{}", volume.name).into());
        }
    }

    /// Follows the claims that we have made in a target: their sizes, and their end.
    async fn watch_remotes(self: Arc<Self>, index: usize) {
        let Some(site) = self.setup.sites.get(index) else { return };
        let all = site.provider.reach().apis::<PersistentVolumeClaim>(site.provider.client());
        let selector = format!("{}={},{}={}", names::HOST, self.setup.host_id, names::NODE, self.setup.node);
        let config = watcher::Config::default().labels(&selector);
        let mut stream = crate::relist::watch_all(all, config, None).boxed();
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::InitApply(claim) | watcher::Event::Apply(claim))) => self.remote_seen(&claim),
                Ok(Some(watcher::Event::Delete(claim))) => {
                    self.remotes.remove(&claim.uid().unwrap_or_default());
                    self.remote_lost(site, &claim);
                }
                Ok(Some(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Ok(None) => return,
                Err(error) => self.interrupted(&format!("the claims of target {}", site.name), &error),
            }
        }
    }

    fn remote_seen(&self, claim: &PersistentVolumeClaim) {
        let annotation = |key: &str| claim.annotations().get(key).cloned();
        let (Some(namespace), Some(name)) = (annotation(names::NAMESPACE), annotation(names::NAME)) else { return };
        self.remotes.insert(claim.uid().unwrap_or_default(), (namespace.clone(), name.clone()));
        // Its size may have come to differ from what home shows.
        let has = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage")?.0.parse().ok());
        let volume = claim.labels().get(names::UID).and_then(|uid| self.setup.claims.volume(&plan::volume_name(uid)));
        if let Some(volume) = volume.filter(|volume| has > volume.capacity) {
            self.sizes.remove(&volume.uid);
            self.add_claim(&namespace, &name);
        }
    }

    /// Somebody has deleted a claim in the target while home's is there: its data are gone, and an empty one in its place
    /// would only hide that.
    fn remote_lost(&self, site: &Site, claim: &PersistentVolumeClaim) {
        let Some(uid) = claim.labels().get(names::UID) else { return };
        let Some(volume) = self.setup.claims.volume(&plan::volume_name(uid)) else { return };
        if volume.phase == "Bound" && Some(&volume.remote.uid) == claim.uid().as_ref() {
            let message = format!(
                "claim {}/{}, which keeps the data in target {}, was deleted there; delete this claim to begin anew",
                volume.remote.namespace, volume.remote.name, site.name
            );
            self.teller.warn(&about(&volume.claim), "ClaimLost", message);
        }
    }

    /// Tells home what goes wrong with claims in a target. Events of the time before are not told again.
    async fn watch_warnings(self: Arc<Self>, index: usize) {
        let Some(site) = self.setup.sites.get(index) else { return };
        let config = watcher::Config::default().fields("involvedObject.kind=PersistentVolumeClaim,type=Warning");
        let watch = |events| watcher(events, config.clone()).backoff(crate::backoff::of_watches()).boxed();
        let mut stream = select_all(site.provider.reach().apis::<Event>(site.provider.client()).into_iter().map(watch));
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Apply(event))) => {
                    let Some(home) = event.involved_object.uid.as_ref().and_then(|uid| self.remotes.get(uid)) else {
                        continue;
                    };
                    let (namespace, name) = home.clone();
                    drop(home);
                    let said = event.message.unwrap_or_default();
                    let reason = event.reason.unwrap_or_else(|| "ProvisioningFailed".into());
                    self.tell_claim(&namespace, &name, &reason, format!("in target {}: {said}", site.name)).await;
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(error) => self.interrupted(&format!("the events of target {}", site.name), &error),
            }
        }
    }

    async fn tell_claim(&self, namespace: &str, name: &str, reason: &str, message: String) {
        // An event belongs to a UID.
        if let Ok(Some(claim)) = self.home(namespace).get_metadata_opt(name).await {
            self.teller.warn(&teller::reference("v1", "PersistentVolumeClaim", &claim.metadata), reason, message);
        }
    }

    fn interrupted(&self, what: &str, error: &watcher::Error) {
        tracing::warn!(node = self.setup.node, what, error = chain(error), "a watch is interrupted");
    }
}

fn about((namespace, name, uid): &(String, String, String)) -> k8s_openapi::api::core::v1::ObjectReference {
    let metadata = kube::core::ObjectMeta {
        namespace: Some(namespace.clone()),
        name: Some(name.clone()),
        uid: Some(uid.clone()),
        ..kube::core::ObjectMeta::default()
    };
    teller::reference("v1", "PersistentVolumeClaim", &metadata)
}
