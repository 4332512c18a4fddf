//! One remote cluster as a provider: the shell around the pure functions beside it.
//!
//! Nothing is installed in a target. What Longshore has there are plain pods with labels that name host, virtual node and
//! proxy; one watch on them, one on events about them, one on the namespaces, one on the nodes, and two on the pods of others,
//! of which only the requests are kept.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::capacity::stock::WATCHES;
use super::claims::{Claims, held_for_claims};
use super::feedback::Addresses;
use super::follow::accounts::Accounts;
use super::follow::copy::Owner;
use super::follow::{Follow, There};
use super::part::Part;
use super::places::Places;
use super::reach::Reach;
use super::requests::{self, Requests};
use super::room::Room;
use super::services::Tracker;
use super::translate::{self, Rules, Site, Translation, classes};
use super::tunnel::Streams;
use crate::kubelet::node::Labels;
use crate::kubelet::provider::{
    ByteStream, Deletion, ExecOptions, HostView, Instance, LogOptions, NodeProvider, NodeReport, Obstacle, PodDocument,
    PodError, PodKey, PodLifecycleHandler, PodNotice, PodNotifier, Provider, ProviderPod, Source, StreamError,
    StreamHandler, Tunnel, Upgrade, Usage,
};

mod absent;
mod delegates;
mod health;
mod land;
mod load;
mod namespaces;
mod nodes;
mod quotas;
mod strangers;
mod tales;
mod usage;

pub use namespaces::marker;
pub use tales::Tales;

pub(in crate::provider) use delegates::refusal;

use absent::Absent;
use delegates::Delegates;
use health::Health;
use land::Land;
use load::Load;
use namespaces::Namespaces;
pub use quotas::Ceiling;
use strangers::Search;
use usage::Meters;

/// How long the creation of a pod waits until the labels of the virtual node are known.
const SIGHT: Duration = Duration::from_secs(5);

/// What [`Health`] calls the heartbeat.
const PING: &str = "version";

/// What a target provider is made of.
#[derive(Clone)]
pub struct TargetSetup {
    /// The target's name, for people.
    pub name: String,
    /// How to reach it, for requests and watches.
    pub client: Client,
    /// How to reach it for streams, without repetition of what failed: a stream cannot be repeated.
    pub streaming: Client,
    /// The id of the host cluster: the UID of its namespace `kube-system`.
    pub host_id: String,
    /// The virtual node that stands for it.
    pub node_name: String,
    /// The labels by which users select that node.
    pub node_labels: BTreeMap<String, String>,
    /// Those that somebody has given it by hand; `None` as long as it has not been seen.
    pub labels_by_hand: watch::Receiver<Option<Labels>>,
    /// What the target's configuration says of pods.
    pub rules: Arc<Rules>,
    /// Missing namespaces are created.
    pub create_namespaces: bool,
    /// Where in it the delegates go.
    pub places: Places,
    /// The only namespaces that may be used, or all of them. Where there are some, nothing else is read.
    pub reach: Reach,
    /// The part of it that the node stands for.
    pub part: Part,
    /// It is closed to new pods.
    pub cordoned: bool,
    /// Where the numbers of its capacity come from.
    pub source: CapacitySource,
    /// What it offers at most.
    pub ceiling: Ceiling,
    /// Whether delegates' addresses are shown at home.
    pub addresses: Addresses,
    /// Which events of the delegates are shown at home.
    pub tales: Tales,
    /// Pods of its node are given to one of several targets, by name.
    pub chosen: bool,
    /// Home, for what pods refer to.
    pub view: Arc<dyn HostView>,
    /// Whose tokens delegates have.
    pub accounts: Accounts,
    /// The delegates are listed anew after this long, lest an event that was lost stays so for ever.
    pub relist_after: Option<Duration>,
    /// Where home's claims are kept; `None` where none are.
    pub claims: Option<Arc<Claims>>,
    /// Who wants to know which labels the delegates have.
    pub tracker: Option<Arc<Tracker>>,
}

/// Where the numbers of a target's capacity come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CapacitySource {
    /// Its nodes.
    #[default]
    Nodes,
    /// The quotas of the namespaces that may be used.
    Quota,
    /// The ceiling alone.
    Static,
}

/// Runs pods in a target.
pub struct TargetProvider {
    setup: TargetSetup,
    client: Client,
    delegates: Delegates,
    namespaces: Arc<Namespaces>,
    streams: Streams,
    meters: Meters,
    health: Arc<Health>,
    load: Arc<Load>,
    land: Arc<Land>,
    follow: Arc<Follow>,
    room: Room,
    /// The priority classes that the target has said to lack.
    absent: Absent,
    /// The watches of namespaces and nodes, which end with this.
    _watches: JoinSet<()>,
}

impl TargetProvider {
    /// A provider for this target, with its watches of namespaces and nodes under way. Does not wait for the target, which
    /// may be out of reach.
    pub fn start(setup: TargetSetup) -> Self {
        let client = setup.client.clone();
        let health = Arc::new(Health::new(&setup.name, setup.ceiling.clone(), setup.cordoned));
        let mut namespaces =
            Namespaces::new(client.clone(), setup.create_namespaces, setup.host_id.clone(), health.clone());
        if let Some(within) = setup.reach.within() {
            namespaces = namespaces.within(within);
        }
        let namespaces = Arc::new(namespaces);
        let mut watches = JoinSet::new();
        if setup.reach.within().is_none() {
            watches.spawn(namespaces.clone().watch());
        }
        let load = Arc::new(Load::default());
        let land = capacity(&setup, &load, &health, &mut watches);
        let choice = setup.chosen.then(|| setup.name.clone());
        let owner = Owner { host_id: setup.host_id.clone(), node: setup.node_name.clone() };
        let there = There { client: client.clone(), reach: setup.reach.clone(), places: setup.places.clone() };
        let follow = Arc::new(Follow::start(there, setup.view.clone(), owner, choice));
        let delegates = Delegates::new(&setup, health.clone(), follow.clone(), load.clone());
        Self {
            meters: Meters::new(client.clone(), &setup.name, delegates.selector(), &setup.reach),
            delegates,
            namespaces,
            streams: Streams::new(setup.streaming.clone()),
            client,
            health,
            load,
            land,
            follow,
            room: Room::default(),
            absent: Absent::default(),
            setup,
            _watches: watches,
        }
    }

    /// What our delegates there ask for, by resource.
    pub fn committed(&self) -> Requests {
        self.load.total()
    }

    /// How many of its nodes count; `None` while nobody knows.
    pub fn nodes(&self) -> Option<u32> {
        self.health.nodes()
    }

    /// Whether a delegate of this proxy was seen there.
    pub fn has(&self, proxy_uid: &str) -> bool {
        self.load.has(proxy_uid)
    }

    /// The part of it that the node stands for.
    pub fn part(&self) -> &Part {
        &self.setup.part
    }

    /// Why it would not take a pod now, although it may later: the target's autoscaler may make room, and what holds the pod
    /// may change.
    pub(in crate::provider) fn doubt(&self, pod: &PodDocument) -> Option<String> {
        match translate::translate(pod, &self.site(pod)) {
            Ok(translation) => {
                let spec = &translation.delegate.spec;
                self.land.obstacle(spec, &requests::of(spec))
            }
            Err(hold) => Some(PodError::from(hold).to_string()),
        }
    }

    /// Where in it things are.
    pub(in crate::provider) fn places(&self) -> &Places {
        &self.setup.places
    }

    /// How to reach it.
    pub(in crate::provider) fn client(&self) -> &Client {
        &self.client
    }

    /// Where in it something may be read.
    pub(in crate::provider) fn reach(&self) -> Reach {
        self.setup.reach.clone()
    }

    /// The namespace there for one of home's; it is made if it is missing and that is allowed.
    pub(in crate::provider) async fn namespace(&self, home: &str) -> Result<String, PodError> {
        let namespace = self.setup.places.namespace(home).into_owned();
        self.namespaces.ensure(&namespace).await?;
        Ok(namespace)
    }

    /// A namespace there is not what it was.
    pub(in crate::provider) fn forget_namespace(&self, namespace: &str) {
        self.namespaces.forget(namespace);
    }

    /// From home's names of a pod's claims to those in this target.
    async fn claims(&self, pod: &PodDocument) -> Result<BTreeMap<String, String>, PodError> {
        match &self.setup.claims {
            Some(claims) => claims.names(pod, &self.setup.name).await,
            None => {
                held_for_claims(pod, &self.setup.node_name).map_or_else(|| Ok(BTreeMap::new()), |hold| Err(hold.into()))
            }
        }
    }

    /// The labels by which pods select the virtual node, and no machine: those of its declaration, and those that it has by
    /// hand if no node there has a label of that key.
    fn node_labels(&self) -> BTreeMap<String, String> {
        let mut all = self.setup.node_labels.clone();
        if let Some(by_hand) = &*self.setup.labels_by_hand.borrow() {
            let known = by_hand.iter().filter(|(key, _)| self.land.lacks_label(key));
            all.extend(known.map(|(key, value)| (key.clone(), value.clone())));
        }
        all
    }

    fn site(&self, pod: &PodDocument) -> Site {
        let (namespace, name) = self.place(pod.namespace(), pod.name());
        Site {
            host_id: self.setup.host_id.clone(),
            part: self.setup.part.clone(),
            node_name: self.setup.node_name.clone(),
            node_labels: self.node_labels(),
            target: self.setup.name.clone(),
            rules: self.setup.rules.clone(),
            absent_priority_classes: self.absent.names(),
            namespace,
            name,
            claims: BTreeMap::new(),
            // Known when the delegate is about to be created, which is when it is needed.
            owner: None,
            names: self.follow.names(pod.namespace()),
            accounts: self.setup.accounts.clone(),
        }
    }

    /// Namespace and name in the target.
    fn place(&self, namespace: &str, name: &str) -> (String, String) {
        let places = &self.setup.places;
        (places.namespace(namespace).into_owned(), places.name(namespace, name).into_owned())
    }

    fn place_of(&self, key: &PodKey) -> (String, String) {
        self.place(&key.namespace, &key.name)
    }

    /// Takes in what a refusal says of the target; whether another translation follows from it.
    fn learn(&self, message: &str) -> bool {
        let missing = classes::missing_priority_class(message);
        missing.inspect(|class| self.absent.note(class)).is_some()
    }

    /// What a refusal alone does not say.
    fn with_remedy(&self, error: PodError) -> PodError {
        match error {
            PodError::Refused { reason, message } if classes::missing_runtime_class(&message).is_some() => {
                let target = &self.setup.name;
                let remedy =
                    format!("create it in target {target}, or map it in spec.runtimeClasses of the Target {target}");
                PodError::Refused { reason, message: format!("{message}; {remedy}") }
            }
            other => other,
        }
    }
}

/// Starts to follow what the target offers.
fn capacity(setup: &TargetSetup, load: &Arc<Load>, health: &Arc<Health>, watches: &mut JoinSet<()>) -> Arc<Land> {
    let (by_nodes, by_quota) = (setup.source == CapacitySource::Nodes, setup.source == CapacitySource::Quota);
    let namespaces = match (&setup.places, setup.reach.within()) {
        (Places::Single(only), _) => vec![only.clone()],
        // What one of many namespaces bounds bounds none of the others, unless it is known which they are.
        (places, None) => {
            let homes = setup.rules.guardrails.only_namespaces().unwrap_or_default();
            homes.iter().map(|home| places.namespace(home).into_owned()).collect()
        }
        (_, Some(within)) => within.to_vec(),
    };
    let quota = by_quota || (by_nodes && !namespaces.is_empty());
    let land = Arc::new(Land::new(setup.part.clone(), by_nodes, quota, load.clone()));
    if setup.source == CapacitySource::Static {
        quotas::fixed(&setup.ceiling.limits, health);
        return land;
    }
    if by_nodes {
        watches.spawn(nodes::watch(setup.client.clone(), land.clone(), health.clone()));
    }
    if quota {
        let (client, land, health) = (setup.client.clone(), land.clone(), health.clone());
        let scope = quotas::Scope { namespaces: namespaces.clone(), everywhere: setup.reach.within().is_none() };
        watches.spawn(quotas::watch(client, scope, by_quota, land, health));
    }
    let search = Search {
        client: setup.client.clone(),
        reach: setup.reach.clone(),
        host_id: setup.host_id.clone(),
        node: setup.node_name.clone(),
        bound: by_nodes,
        quotas: namespaces,
        relist_after: setup.relist_after,
    };
    for watch in 0..WATCHES {
        watches.spawn(strangers::watch(search.clone(), watch, land.clone(), health.clone()));
    }
    watches.spawn(land.clone().tell(health.clone()));
    land
}

/// What the pod's owner should know of the translation.
fn losses(translation: &Translation) -> Vec<Obstacle> {
    let losses = translation.report.iter().filter(|change| change.loss);
    losses.map(|change| Obstacle { reason: "OffloadChanged".into(), message: change.to_string() }).collect()
}

#[async_trait]
impl PodLifecycleHandler for TargetProvider {
    async fn create_pod(&self, pod: &PodDocument) -> Result<ProviderPod, PodError> {
        // Where there are several targets, it was asked before one was chosen.
        if !self.setup.chosen {
            self.room.admit(pod, &self.health.report().borrow())?;
        }
        // It was registered before this pod could be bound to it; only the watch of it may begin later than that of pods.
        let mut labels = self.setup.labels_by_hand.clone();
        let _ = tokio::time::timeout(SIGHT, labels.wait_for(Option::is_some)).await;
        let (namespace, _) = self.place(pod.namespace(), pod.name());
        // Before the namespace, as the translation: pods that are held must leave none behind.
        let claims = self.claims(pod).await?;
        for attempt in 0.. {
            let site = self.site(pod);
            let preview = translate::translate(pod, &site)?;
            let home = self.namespaces.ensure(&namespace).await?;
            let prepared = self.follow.prepare(pod, &preview, &namespace, home.uid()).await?;
            let translation = if claims.is_empty() && prepared.names == site.names {
                preview
            } else {
                let site = Site { names: prepared.names.clone(), claims: claims.clone(), ..site };
                translate::translate(pod, &site)?
            };
            let mut remarks = losses(&translation);
            let mut delegate = translation.delegate;
            delegate.metadata.owner_references = Some(vec![home.owner(&namespace)]);
            let annotations = delegate.metadata.annotations.get_or_insert_default();
            annotations.extend(prepared.annotations.iter().cloned());
            let delegate = translate::created(delegate, pod);
            match self.delegates.create(&delegate, &pod.key()).await {
                Ok(Some(made)) => {
                    remarks.extend(prepared.remarks.iter().cloned());
                    prepared.made();
                    return Ok(ProviderPod { remarks, ..made });
                }
                // The namespace that was known has gone meanwhile.
                Ok(None) if attempt == 0 => self.namespaces.forget(&namespace),
                Ok(None) => break,
                // From now on it is translated in another way.
                Err(PodError::Refused { message, .. }) if attempt == 0 && self.learn(&message) => {}
                Err(error) => return Err(self.with_remedy(error)),
            }
        }
        Err(PodError::Refused {
            reason: "NotFound".into(),
            message: format!("namespace {namespace} of target {} comes and goes", self.setup.name),
        })
    }

    async fn update_pod(&self, pod: &PodDocument, instance: &Instance) -> Result<ProviderPod, PodError> {
        let mut fresh = translate::refresh(pod, &self.site(pod))?;
        let mut followed = Ok(vec![]);
        if !fresh.references.is_empty() {
            let namespace = self.setup.places.namespace(pod.namespace());
            // In memory, as a rule.
            match self.follow.extend(pod, &fresh.references, &namespace).await {
                Ok((needs, names)) => {
                    fresh = translate::refresh(pod, &Site { names, ..self.site(pod) })?;
                    followed = Ok(needs);
                }
                Err(error) => followed = Err(error),
            }
        }
        self.delegates.update(fresh, followed, instance).await
    }

    async fn delete_pod(&self, key: &PodKey, instance: &str, grace: Option<u32>) -> Result<Deletion, PodError> {
        let (namespace, name) = self.place_of(key);
        self.delegates.delete(&namespace, &name, instance, grace).await
    }

    async fn get_pod(&self, key: &PodKey) -> Result<Option<ProviderPod>, PodError> {
        let (namespace, name) = self.place_of(key);
        self.delegates.get(&namespace, &name, key).await
    }

    async fn get_pods(&self) -> Result<Vec<ProviderPod>, PodError> {
        self.delegates.list().await
    }

    fn fingerprint(&self, pod: &PodDocument) -> u64 {
        translate::fingerprint(pod)
    }
}

#[async_trait]
impl PodNotifier for TargetProvider {
    async fn notify(&self, notices: mpsc::Sender<PodNotice>) {
        self.follow.tell(notices.clone());
        self.delegates.watch(notices).await;
    }
}

#[async_trait]
impl NodeProvider for TargetProvider {
    async fn ping(&self) -> Result<(), Source> {
        match self.client.apiserver_version().await {
            Ok(version) => {
                self.health.version(version.git_version);
                self.health.works(PING);
                Ok(())
            }
            // It answers, and does not want us: its pods run on, and nobody may take them for lost.
            Err(kube::Error::Api(status)) if (400..500).contains(&status.code) => {
                let refused = matches!(status.code, 401 | 403).then(|| status.message.clone());
                self.health.refused(PING, refused, &status.message);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn node_status(&self) -> watch::Receiver<NodeReport> {
        self.health.report()
    }
}

#[async_trait]
impl StreamHandler for TargetProvider {
    async fn logs(&self, pod: &PodKey, container: &str, options: LogOptions) -> Result<ByteStream, StreamError> {
        let (namespace, name) = self.place_of(pod);
        self.streams.logs(&namespace, &name, container, &options).await
    }

    async fn exec(
        &self,
        pod: &PodKey,
        container: &str,
        options: ExecOptions,
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        let (namespace, name) = self.place_of(pod);
        self.streams.exec(&namespace, &name, container, &options, upgrade).await
    }

    async fn attach(
        &self,
        pod: &PodKey,
        container: &str,
        options: ExecOptions,
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        let (namespace, name) = self.place_of(pod);
        self.streams.attach(&namespace, &name, container, &options, upgrade).await
    }

    async fn port_forward(&self, pod: &PodKey, ports: Vec<u16>, upgrade: Upgrade) -> Result<Tunnel, StreamError> {
        let (namespace, name) = self.place_of(pod);
        self.streams.port_forward(&namespace, &name, &ports, upgrade).await
    }

    async fn usage(&self) -> Result<Usage, StreamError> {
        Ok(self.meters.read().await)
    }
}

impl Provider for TargetProvider {
    fn notifier(&self) -> Option<&dyn PodNotifier> {
        Some(self)
    }
}
