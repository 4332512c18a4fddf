//! Serving what is declared in the host: one task that knows all of it, decides what should run ([`plan`]), and starts, stops
//! and replaces what differs. Nothing else is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::drain::{self, Leaving};
use super::keeper::{CertificateSlot, keep_on};
use super::parts;
use super::plan::{self, Declared, Plan, Planned};
use super::rules::own_labels;
use super::targets::Targets;
use super::verdict::Acceptance;
use super::watches::{self, Kind, News, Resource};
use super::{NodeSetup, NodeTarget, Shared, WatchSetup};
use crate::api::resource;
use crate::api::target::{DeletionPolicy, KubeconfigSource, TargetSpec};
use crate::api::virtual_node::{Shape as NodeShape, VirtualNodeSpec};

mod report;

use report::Report;

/// How often what runs is looked at, without a request.
const TICK: Duration = Duration::from_secs(1);

/// How often kubeconfig files are looked at, in ticks.
const FILES: u64 = 3;

/// How long a start waits for Secrets, lest nodes be started without targets that are about to be known.
const SECRETS: Duration = Duration::from_secs(5);

/// How much news may wait.
const BACKLOG: usize = 256;

/// Serves what is declared until it is told to stop; then every action that is under way is finished.
pub(super) async fn serve(shared: Arc<Shared>, watch: WatchSetup, shutdown: CancellationToken) {
    let (sender, mut news) = mpsc::channel(BACKLOG);
    let mut watches = tokio::task::JoinSet::new();
    for kind in [Kind::Target, Kind::VirtualNode] {
        watches.spawn(watches::resources(shared.host.clone(), kind, watch.selector.clone(), sender.clone()));
    }
    let mut desk = Desk::new(shared, watch, sender);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0_u64;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(first) = news.recv() => {
                let mut dirty = desk.take(first);
                while let Ok(more) = news.try_recv() {
                    dirty |= desk.take(more);
                }
                if dirty {
                    desk.reconcile().await;
                }
            }
            _ = tick.tick() => {
                ticks += 1;
                if desk.unfinished || (ticks.is_multiple_of(FILES) && desk.targets.have_files()) {
                    desk.reconcile().await;
                }
            }
        }
        desk.report();
    }
    desk.stop().await;
}

/// All that is known and under way.
struct Desk {
    shared: Arc<Shared>,
    watch: WatchSetup,
    news: mpsc::Sender<News>,
    begun: Instant,
    listed: BTreeSet<&'static str>,
    targets: Targets,
    nodes: BTreeMap<String, Node>,
    plan: Plan,
    running: BTreeMap<String, Runs>,
    /// What has to end before a node of this name may begin.
    ends: BTreeMap<String, JoinHandle<()>>,
    drains: BTreeMap<(String, String), (Leaving, AbortOnDropHandle<()>)>,
    /// Members that have nothing to leave any more.
    emptied: BTreeSet<(String, String)>,
    /// Nodes that we have closed to the scheduler.
    cordoned: BTreeSet<String>,
    report: Report,
    /// Something could not be done and is tried again with the next tick.
    unfinished: bool,
    /// Why a node could not be started.
    obstacles: BTreeMap<String, String>,
}

/// A VirtualNode.
struct Node {
    resource: Resource,
    acceptance: Acceptance,
    good: Option<VirtualNodeSpec>,
}

/// A node that runs.
struct Runs {
    planned: Planned,
    shape: Shape,
    stop: CancellationToken,
    /// None for one that is many nodes, each of which has a port of its own.
    listener: Option<Arc<TcpListener>>,
    certificate: CertificateSlot,
}

/// All of a node that cannot change while it runs.
#[derive(Clone, PartialEq)]
struct Shape {
    members: Vec<(plan::PlannedMember, TargetSpec, String)>,
    spec: VirtualNodeSpec,
    port: u16,
}

impl Desk {
    fn new(shared: Arc<Shared>, watch: WatchSetup, news: mpsc::Sender<News>) -> Self {
        let (namespace, metrics) = (shared.setup.lease_namespace.clone(), shared.setup.metrics.clone());
        let targets = Targets::new(shared.host.clone(), namespace, watch.programs.clone(), news.clone(), metrics);
        Self {
            report: Report::new(shared.host.clone(), shared.board.clone(), news.clone()),
            shared,
            watch,
            news,
            begun: Instant::now(),
            listed: BTreeSet::new(),
            targets,
            nodes: BTreeMap::new(),
            plan: Plan::default(),
            running: BTreeMap::new(),
            ends: BTreeMap::new(),
            drains: BTreeMap::new(),
            emptied: BTreeSet::new(),
            cordoned: BTreeSet::new(),
            unfinished: false,
            obstacles: BTreeMap::new(),
        }
    }

    /// Takes something in; answers whether what runs may have to change.
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Listed(Kind::Target, list) => {
                self.listed.insert("targets");
                self.targets.list(list);
            }
            News::Listed(Kind::VirtualNode, list) => {
                self.listed.insert("nodes");
                let there: BTreeSet<_> = list.iter().map(|resource| resource.name.clone()).collect();
                self.nodes.retain(|name, _| there.contains(name));
                for resource in list {
                    self.see(resource);
                }
            }
            News::Seen(Kind::Target, resource) => return self.targets.see(*resource),
            News::Seen(Kind::VirtualNode, resource) => return self.see(*resource),
            News::Gone(Kind::Target, name) => self.targets.forget(&name),
            News::Gone(Kind::VirtualNode, name) => drop(self.nodes.remove(&name)),
            News::Secret(key, content) => self.targets.secret(&key, content),
            News::Profile(key, content) => self.targets.profile(&key, content),
            News::Diagnosed(target, number, result) => {
                self.report.diagnosed(&target, number, result);
                return false;
            }
            News::Emptied(node, target) => {
                tracing::info!(node, target_name = target, "nothing is left there");
                self.emptied.insert((node, target));
            }
            News::Unwritten(kind, name) => {
                self.report.unwritten(kind, &name);
                return false;
            }
        }
        true
    }

    /// Answers whether there is more than a new status.
    fn see(&mut self, resource: Resource) -> bool {
        if resource.deleting {
            return self.nodes.remove(&resource.name).is_some();
        }
        if let Some(known) = self.nodes.get_mut(&resource.name)
            && known.resource.spec == resource.spec
        {
            known.resource = resource;
            return false;
        }
        let (acceptance, good) = match resource::virtual_node(&resource.name, &resource.spec) {
            Ok(spec) => (Acceptance::Good, Some(spec)),
            Err(findings) => {
                let before = self.nodes.get(&resource.name).and_then(|node| node.good.clone());
                (Acceptance::Bad("Invalid", resource::sentence(&findings)), before)
            }
        };
        self.nodes.insert(resource.name.clone(), Node { resource, acceptance, good });
        true
    }

    /// Makes what runs what should run.
    async fn reconcile(&mut self) {
        self.unfinished = false;
        self.obstacles.clear();
        self.targets.accept().await;
        if self.listed.len() < 2 {
            return;
        }
        let declared = self.declared();
        self.shared.roster.send_if_modified(|known| {
            let roster = plan::roster(&declared);
            let news = known.as_deref() != Some(&roster);
            *known = Some(Arc::new(roster));
            news
        });
        if self.targets.are_waiting() && self.begun.elapsed() < SECRETS {
            self.unfinished = true;
            return;
        }
        let running = self.running.iter().map(|(name, runs)| (name.clone(), runs.planned.clone())).collect();
        let policy =
            |target: &str| self.targets.good(target).map_or(DeletionPolicy::Drain, |spec| spec.deletion_policy);
        self.plan = plan::plan(&declared, &running, &self.emptied, policy);
        self.stop_what_has_gone();
        for (name, planned) in self.plan.nodes.clone() {
            self.start(&name, planned).await;
        }
        self.drain();
        let used: BTreeSet<_> =
            self.running.values().flat_map(|runs| runs.planned.members.iter().map(|one| one.name.clone())).collect();
        self.targets.release(&used);
    }

    fn declared(&self) -> Declared {
        let nodes = self.nodes.iter();
        let good = nodes
            .clone()
            .filter_map(|(name, node)| Some((name.clone(), (node.resource.made.clone(), node.good.clone()?))));
        let port = |status: &serde_json::Value| u16::try_from(status.get("port")?.as_u64()?).ok();
        let of_nodes = nodes.filter_map(|(name, node)| Some((name.clone(), port(&node.resource.status)?)));
        let of_targets = self.targets.declared().filter_map(|(name, one)| Some((name.clone(), port(&one.status)?)));
        Declared {
            nodes: good.collect(),
            ports: of_targets.chain(of_nodes).collect(),
            first_port: self.watch.first_port,
            known: self.targets.declared().map(|(name, _)| name.clone()).collect(),
            targets: self.targets.usable(),
        }
    }

    fn stop_what_has_gone(&mut self) {
        let gone: Vec<_> = self.running.keys().filter(|name| !self.plan.nodes.contains_key(*name)).cloned().collect();
        for name in gone {
            let Some(runs) = self.running.remove(&name) else { continue };
            runs.stop.cancel();
            let left = |member: &plan::PlannedMember| self.emptied.contains(&(name.clone(), member.name.clone()));
            if runs.planned.members.iter().all(left) {
                // Not earlier: whoever keeps a node registers it again.
                let (end, host, node) = (self.ends.remove(&name), self.shared.host.clone(), name.clone());
                let many = runs.planned.spec.shape != NodeShape::Cluster;
                let end = tokio::spawn(async move {
                    if let Some(end) = end {
                        _ = end.await;
                    }
                    if many {
                        drain::delete_parts(&host, &node).await;
                    } else {
                        drain::delete_node(&host, &node).await;
                    }
                });
                self.ends.insert(name.clone(), end);
            } else {
                tracing::info!(node = name, "not served any longer; what runs there is left as it is");
            }
        }
    }

    /// Starts a node, or replaces it where it differs from what runs.
    async fn start(&mut self, name: &str, planned: Planned) {
        let Some((setup, shape)) = self.setup(name, &planned) else { return };
        let before = self.running.get(name);
        if let Some(runs) = before
            && runs.shape == shape
        {
            if let Some(runs) = self.running.get_mut(name) {
                runs.planned = planned;
            }
            return;
        }
        let listener = if planned.spec.shape != NodeShape::Cluster {
            None
        } else if let Some(runs) = before.filter(|runs| runs.planned.port == planned.port) {
            runs.listener.clone()
        } else {
            let address = SocketAddr::new(self.shared.setup.bind_address, planned.port);
            match TcpListener::bind(address).await {
                Ok(listener) => Some(Arc::new(listener)),
                Err(error) => {
                    let message = format!("failed to listen on {address}: {error}; free the port, or give spec.port");
                    self.obstacles.insert(name.into(), message);
                    self.unfinished = true;
                    return;
                }
            }
        };
        let certificate = before.map(|runs| runs.certificate.clone()).unwrap_or_default();
        if let Some(runs) = before {
            tracing::info!(node = name, "what this node is made of has changed");
            runs.stop.cancel();
        }
        let (stop, end, shared) = (CancellationToken::new(), self.ends.remove(name), self.shared.clone());
        let (its_listener, its_certificate, its_stop) = (listener.clone(), certificate.clone(), stop.clone());
        let task = tokio::spawn(async move {
            if let Some(end) = end {
                _ = end.await;
            }
            match its_listener {
                Some(listener) => keep_on(shared, setup, listener, its_certificate, its_stop).await,
                None => parts::keep(shared, setup, its_stop).await,
            }
        });
        self.ends.insert(name.into(), task);
        self.running.insert(name.into(), Runs { planned, shape, stop, listener, certificate });
    }

    fn setup(&self, name: &str, planned: &Planned) -> Option<(NodeSetup, Shape)> {
        let (mut targets, mut members) = (vec![], vec![]);
        for member in &planned.members {
            let linked = self.targets.linked(&member.name)?;
            targets.push(NodeTarget {
                name: member.name.clone(),
                spec: linked.spec.clone(),
                config: linked.config.clone(),
                link: Some(linked.link.clone()),
                weight: member.weight,
                leaving: member.leaving,
            });
            // These are exchanged, or matter only at the end.
            let spec = TargetSpec {
                kubeconfig: KubeconfigSource::default(),
                deletion_policy: DeletionPolicy::default(),
                ..linked.spec.clone()
            };
            members.push((member.clone(), spec, linked.address.clone()));
        }
        let spec = &planned.spec;
        let shape = Shape { members, spec: spec.clone(), port: planned.port };
        let setup = NodeSetup {
            name: name.into(),
            // Even if one of them can be used so far: what another has must not be taken for this one's.
            several: spec.targets.len() > 1 || planned.members.len() > 1,
            shape: spec.shape,
            pool_label: spec.pool_label.clone(),
            part: None,
            targets,
            placement: spec.placement.clone(),
            labels: own_labels(name, &spec.labels),
            taints: spec.taints_of(name),
            port: planned.port,
            claims: spec.claims,
            services: spec.services,
        };
        Some((setup, shape))
    }

    /// Empties what leaves, and nothing else.
    fn drain(&mut self) {
        let mut wanted = BTreeMap::new();
        for (node, runs) in &self.running {
            let alone = runs.planned.members.len() == 1 && runs.planned.spec.targets.len() < 2;
            for member in runs.planned.members.iter().filter(|member| member.leaving) {
                let (node, target, whole) = (node.clone(), member.name.clone(), runs.planned.leaving);
                let parts = runs.planned.spec.shape != NodeShape::Cluster;
                wanted.insert((node.clone(), target.clone()), Leaving { node, target, whole, alone, parts });
            }
        }
        self.emptied.retain(|key| wanted.contains_key(key));
        self.drains.retain(|key, (leaving, _)| wanted.get(key) == Some(leaving));
        for (key, leaving) in wanted {
            if leaving.whole {
                self.cordoned.insert(key.0.clone());
            }
            if self.drains.contains_key(&key) || self.emptied.contains(&key) {
                continue;
            }
            let (host, news, its) = (self.shared.host.clone(), self.news.clone(), leaving.clone());
            let task = tokio::spawn(async move {
                let (node, target) = (its.node.clone(), its.target.clone());
                drain::empty(host, its).await;
                _ = news.send(News::Emptied(node, target)).await;
            });
            self.drains.insert(key, (leaving, AbortOnDropHandle::new(task)));
        }
        let leaving: BTreeSet<_> =
            self.running.iter().filter(|(_, runs)| runs.planned.leaving).map(|(name, _)| name.clone()).collect();
        let back: Vec<_> = self.cordoned.iter().filter(|name| !leaving.contains(*name)).cloned().collect();
        for node in back {
            self.cordoned.remove(&node);
            if let Some(runs) = self.running.get(&node) {
                let (host, many) = (self.shared.host.clone(), runs.planned.spec.shape != NodeShape::Cluster);
                tokio::spawn(async move {
                    if let Err(error) = drain::open(&host, &node, many).await {
                        tracing::warn!(node, %error, "the node stays cordoned; `kubectl uncordon` it");
                    }
                });
            }
        }
    }

    /// Looks at what runs and says what has changed.
    fn report(&mut self) {
        if self.listed.len() < 2 {
            return;
        }
        self.report.targets(&self.targets, &self.plan);
        for (name, node) in &mut self.nodes {
            let obstacle = self.obstacles.get(name).or_else(|| self.plan.problems.get(name));
            let port = self.running.get(name).map(|runs| runs.planned.port);
            self.report.node(&mut node.resource, &node.acceptance, obstacle, port, &self.plan);
        }
    }

    async fn stop(self) {
        for runs in self.running.values() {
            runs.stop.cancel();
        }
        for (_, end) in self.ends {
            if let Err(error) = end.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}
