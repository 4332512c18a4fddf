//! The shell: watches of what may have changed, and a worker that compares what is wanted with what is there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, DynamicObject};
use kube::core::{ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::plan::{self, Kind};
use super::{FOLLOW, Tracker};
use crate::errors::chain;
use crate::kubelet::queue::Queue;
use crate::provider::names;
use crate::provider::target::TargetProvider;
use crate::provider::teller::{self, Teller};

mod compare;

/// How long changes of pods are gathered.
const GATHER: Duration = Duration::from_millis(500);

/// How many objects are worked on at a time.
const WORKERS: usize = 2;

/// What lets Services and Ingresses follow the pods of a virtual node.
pub struct FollowerSetup {
    /// Home.
    pub host: Client,
    /// The id of the host cluster.
    pub host_id: String,
    /// The virtual node.
    pub node: String,
    /// Its targets.
    pub sites: Vec<Site>,
    /// By which the trackers of the targets tell of changes.
    pub news: Arc<Notify>,
}

/// A target.
pub struct Site {
    /// Its name.
    pub name: String,
    /// Its client, and its namespaces.
    pub provider: Arc<TargetProvider>,
    /// What delegates there are.
    pub tracker: Arc<Tracker>,
    /// Whether home is told the delegates' addresses.
    pub publish: bool,
}

/// Namespace and name.
type Name = (String, String);

/// Lets Services and Ingresses follow pods.
pub struct Follower {
    setup: FollowerSetup,
    queue: Queue,
    teller: Teller,
    failures: DashMap<Arc<str>, u32>,
    /// Home's objects in namespaces with offloaded pods.
    home: DashMap<(Kind, Name), Known>,
    /// What is ours in each target, by home's namespace and name.
    there: Vec<DashMap<(Kind, Name), There>>,
    /// Whether the Services of each target are all known.
    services_listed: Vec<AtomicBool>,
    /// Services whose owners know that their pods have no addresses at home, by UID.
    told: DashMap<String, ()>,
}

/// An object of home, as far as it decides whether to look at it.
struct Known {
    /// It asks to follow its pods.
    follows: bool,
    about: ObjectReference,
    selector: BTreeMap<String, String>,
}

/// An object of ours in a target.
#[derive(Clone, Debug, PartialEq, Eq)]
struct There {
    namespace: String,
    uid: String,
    /// What it was made from.
    sent: String,
}

/// Why something did not work; it is tried again.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the host does not answer")]
    Host(#[source] kube::Error),
    #[error("{0}")]
    Target(String),
}

impl Follower {
    /// A follower that does nothing yet.
    pub fn new(setup: FollowerSetup) -> Self {
        let teller = Teller::new(setup.host.clone(), &setup.node);
        let there = setup.sites.iter().map(|_| DashMap::new()).collect();
        let services_listed = setup.sites.iter().map(|_| AtomicBool::new(false)).collect();
        Self {
            setup,
            queue: Queue::default(),
            teller,
            failures: DashMap::new(),
            home: DashMap::new(),
            there,
            services_listed,
            told: DashMap::new(),
        }
    }

    /// Works until it is told to stop; what is under way is finished first.
    pub async fn run(self, shutdown: CancellationToken) {
        let (follower, tasks) = (Arc::new(self), TaskTracker::new());
        let watch = |watch: BoxFuture<'static, ()>| {
            let stop = shutdown.clone();
            tasks.spawn(async move { stop.run_until_cancelled(watch).await });
        };
        watch(Box::pin(follower.clone().watch_pods()));
        for index in 0..follower.setup.sites.len() {
            for kind in [Kind::Service, Kind::Ingress] {
                watch(Box::pin(follower.clone().watch_target(index, kind)));
            }
        }
        for _ in 0..WORKERS {
            let (follower, stop) = (follower.clone(), shutdown.clone());
            tasks.spawn(async move {
                while let Some(key) = stop.run_until_cancelled(follower.queue.next()).await {
                    follower.work(&key, &stop).await;
                    follower.queue.done(&key);
                }
                Some(())
            });
        }
        tasks.close();
        tasks.wait().await;
    }

    fn add(&self, kind: Kind, (namespace, name): &Name) {
        self.queue.add(&format!("{kind:?}/{namespace}/{name}").into());
    }

    async fn work(self: &Arc<Self>, key: &Arc<str>, shutdown: &CancellationToken) {
        let parts: Vec<_> = key.splitn(3, '/').collect();
        let [kind, namespace, name] = parts[..] else { return };
        let kind = if kind == "Service" { Kind::Service } else { Kind::Ingress };
        let Err(error) = self.compare(kind, &(namespace.to_owned(), name.to_owned())).await else {
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
        let (follower, key, stop) = (self.clone(), key.clone(), shutdown.clone());
        tokio::spawn(async move {
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
                follower.queue.add(&key);
            }
        });
    }

    /// Watches the namespaces of home that have offloaded pods, and looks again at what may select pods that came or went.
    async fn watch_pods(self: Arc<Self>) {
        let mut watched: HashMap<Arc<str>, Vec<Watch>> = HashMap::new();
        loop {
            let offloading: HashSet<Arc<str>> =
                self.setup.sites.iter().flat_map(|site| site.tracker.namespaces()).collect();
            watched.retain(|namespace, _| {
                let keep = offloading.contains(namespace);
                if !keep {
                    self.home.retain(|(_, (ns, _)), _| **ns != **namespace);
                }
                keep
            });
            for namespace in offloading {
                watched.entry(namespace.clone()).or_insert_with(|| {
                    let watch =
                        |kind| Watch(tokio::spawn(self.clone().watch_home(kind, namespace.clone())).abort_handle());
                    vec![watch(Kind::Service), watch(Kind::Ingress)]
                });
            }
            let changed: HashSet<_> = self.setup.sites.iter().flat_map(|site| site.tracker.changed()).collect();
            for namespace in &changed {
                self.look_at(namespace);
            }
            self.setup.news.notified().await;
            tokio::time::sleep(GATHER).await;
        }
    }

    /// All that home or a target has in a namespace of home.
    fn look_at(&self, namespace: &str) {
        let ours = |(_, (ns, _)): &(Kind, Name)| ns == namespace;
        let here = self.home.iter().map(|one| one.key().clone()).filter(ours).collect::<Vec<_>>();
        for (kind, name) in here {
            self.look(kind, &name);
        }
        let there = self.there.iter().flat_map(|there| there.iter().map(|one| one.key().clone()).collect::<Vec<_>>());
        for (kind, name) in there.filter(ours) {
            self.add(kind, &name);
        }
    }

    /// Looks at an object of home, which costs no request unless it asks to follow its pods.
    fn look(&self, kind: Kind, name: &Name) {
        let key = (kind, name.clone());
        let Some(known) = self.home.get(&key) else { return };
        if kind == Kind::Service {
            self.tell_of_addresses(&known, &name.0);
        }
        let follows = known.follows;
        drop(known);
        if follows || self.there.iter().any(|there| there.contains_key(&key)) {
            self.add(kind, name);
        }
    }

    /// Tells the owner of a Service that selects pods whose addresses home is not told: once for each Service.
    fn tell_of_addresses(&self, known: &Known, namespace: &str) {
        let hidden = |site: &&Site| !site.publish && site.tracker.selects(namespace, &known.selector);
        if let Some(site) = self.setup.sites.iter().find(hidden)
            && self.told.insert(known.about.uid.clone().unwrap_or_default(), ()).is_none()
        {
            let message = format!(
                "it selects pods that run in target {}, which have no addresses at home, so that it has no endpoints for \
                 them; clients in the target reach them if the annotation {FOLLOW} lets it follow them, and those at home if \
                 the networks are joined and the Target says podIPs: Publish",
                site.name
            );
            self.teller.warn(&known.about, "NoAddresses", message);
        }
    }

    /// All Ingresses of which anything is known: the Services that they point to are known now.
    fn look_at_ingresses(&self) {
        let here = self.home.iter().map(|one| one.key().clone()).collect::<Vec<_>>();
        let there = self.there.iter().flat_map(|there| there.iter().map(|one| one.key().clone()).collect::<Vec<_>>());
        for (kind, name) in here.into_iter().chain(there).filter(|(kind, _)| *kind == Kind::Ingress) {
            self.add(kind, &name);
        }
    }

    async fn watch_home(self: Arc<Self>, kind: Kind, namespace: Arc<str>) {
        let all: Api<DynamicObject> = Api::namespaced_with(self.setup.host.clone(), &namespace, &kind.resource());
        let mut stream = watcher(all, watcher::Config::default()).backoff(crate::backoff::of_watches()).boxed();
        let mut listed = HashSet::new();
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(object))) => {
                    listed.insert(object.name_any());
                    self.home_seen(kind, &object);
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    let gone =
                        |(k, (ns, name)): &(Kind, Name)| *k == kind && **ns == *namespace && !listed.contains(name);
                    let gone: Vec<_> = self.home.iter().map(|one| one.key().clone()).filter(gone).collect();
                    for (kind, name) in gone {
                        self.home.remove(&(kind, name.clone()));
                        self.add(kind, &name);
                    }
                }
                Ok(Some(watcher::Event::Apply(object))) => self.home_seen(kind, &object),
                Ok(Some(watcher::Event::Delete(object))) => {
                    let name = (object.namespace().unwrap_or_default(), object.name_any());
                    self.home.remove(&(kind, name.clone()));
                    self.add(kind, &name);
                }
                Ok(None) => return,
                Err(error) => self.interrupted("the host", kind, &error),
            }
        }
    }

    fn home_seen(&self, kind: Kind, object: &DynamicObject) {
        let name = (object.namespace().unwrap_or_default(), object.name_any());
        let resource = kind.resource();
        let known = Known {
            follows: object.annotations().contains_key(FOLLOW),
            about: teller::reference(&resource.api_version, &resource.kind, &object.metadata),
            selector: if kind == Kind::Service { plan::selector(object) } else { BTreeMap::new() },
        };
        self.home.insert((kind, name.clone()), known);
        self.look(kind, &name);
    }

    /// Follows what is ours in a target. What is there after a restart and nobody wants goes, since each is compared.
    async fn watch_target(self: Arc<Self>, index: usize, kind: Kind) {
        let Some(site) = self.setup.sites.get(index) else { return };
        let all =
            site.provider.reach().apis_of::<PartialObjectMeta<DynamicObject>>(site.provider.client(), &kind.resource());
        let config = watcher::Config::default().labels(&format!("{}={}", names::HOST, self.setup.host_id));
        let mut stream = crate::relist::watch_all(all, config, None).boxed();
        let mut listed = HashSet::new();
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed.clear(),
                Ok(Some(watcher::Event::InitApply(object))) => {
                    listed.extend(self.there_seen(index, kind, &object.metadata));
                }
                Ok(Some(watcher::Event::InitDone)) => {
                    let gone = |(k, name): &(Kind, Name)| *k == kind && !listed.contains(name);
                    let gone: Vec<_> = self.there[index].iter().map(|one| one.key().clone()).filter(gone).collect();
                    for (kind, name) in gone {
                        self.there_gone(index, kind, &name);
                    }
                    if kind == Kind::Service && !self.services_listed[index].swap(true, Ordering::SeqCst) {
                        self.look_at_ingresses();
                    }
                }
                Ok(Some(watcher::Event::Apply(object))) => drop(self.there_seen(index, kind, &object.metadata)),
                Ok(Some(watcher::Event::Delete(object))) => {
                    if let Some(name) = home_name(&object.metadata) {
                        self.there_gone(index, kind, &name);
                    }
                }
                Ok(None) => return,
                Err(error) => self.interrupted(&site.name, kind, &error),
            }
        }
    }

    fn there_seen(&self, index: usize, kind: Kind, object: &ObjectMeta) -> Option<Name> {
        let name = home_name(object)?;
        let there = There {
            namespace: object.namespace.clone().unwrap_or_default(),
            uid: object.uid.clone().unwrap_or_default(),
            sent: plan::sent(object).unwrap_or_default().to_owned(),
        };
        if self.there[index].insert((kind, name.clone()), there.clone()) != Some(there) {
            self.there_changed(kind, &name);
        }
        Some(name)
    }

    fn there_gone(&self, index: usize, kind: Kind, name: &Name) {
        self.there[index].remove(&(kind, name.clone()));
        self.there_changed(kind, name);
    }

    fn there_changed(&self, kind: Kind, name: &Name) {
        self.add(kind, name);
        if kind == Kind::Service {
            // Ingresses come and go with the Services that they point to.
            let ingress = |(kind, (ns, _)): &(Kind, Name)| *kind == Kind::Ingress && *ns == name.0;
            let follow =
                self.home.iter().filter(|one| one.follows && ingress(one.key())).map(|one| one.key().1.clone());
            for ingress in follow.collect::<Vec<_>>() {
                self.add(Kind::Ingress, &ingress);
            }
        }
    }

    fn interrupted(&self, place: &str, kind: Kind, error: &watcher::Error) {
        tracing::warn!(node = self.setup.node, place, ?kind, error = chain(error), "a watch is interrupted");
    }
}

/// A watch that ends with this.
struct Watch(AbortHandle);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Namespace and name at home of an object in a target.
fn home_name(object: &ObjectMeta) -> Option<Name> {
    let annotation = |key: &str| object.annotations.as_ref()?.get(key).cloned();
    Some((annotation(names::NAMESPACE)?, annotation(names::NAME)?))
}
