//! One virtual node with all that runs for it, from the beginning of a leadership to its end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::board::{Kept, Served, Shown};
use super::parts::PART;
use super::rules::{accounts, node_labels, places, reach, rules};
use super::{NodeSetup, NodeTarget, Shared, StartError};
use crate::api::clients::{self, Access};
use crate::api::target::{CapacitySource as Capacity, Events as MirroredEvents, PodIps};
use crate::api::virtual_node::{Strategy as Declared, Taint};
use crate::kubelet::contact::{self, Contact};
use crate::kubelet::events::Events;
use crate::kubelet::node::{Connect, Labels, NodeController, NodeIdentity, status};
use crate::kubelet::pods::{PodController, PodSetup};
use crate::kubelet::provider::NodeProvider;
use crate::kubelet::server::{Authenticator, Authorizer, Home, Server, ServingCertificate, server_config};
use crate::kubelet::sites::{self, Site, SiteStreams, Sites};
use crate::provider::claims::{self, Claims, Keeper, KeeperSetup};
use crate::provider::feedback::Addresses;
use crate::provider::fleet::{Fleet, Member};
use crate::provider::placement::Strategy;
use crate::provider::services::{self, Follower, FollowerSetup, Tracker};
use crate::provider::target::{CapacitySource, Ceiling, Tales, TargetProvider, TargetSetup};

/// The parts of one virtual node, ready to run, all but its server.
pub(super) struct Unit {
    pods: PodController,
    keeper: NodeController,
    heartbeats: Vec<Heartbeat>,
    /// Whether each site answers.
    contacts: Vec<watch::Receiver<Contact>>,
    /// Where claims are kept.
    claims: Option<Keeper>,
    /// What follows pods into the targets.
    services: Option<Follower>,
    _shown: Shown,
}

/// Something that is asked whether it answers.
struct Heartbeat {
    provider: Arc<dyn NodeProvider>,
    silence: Duration,
    contact: watch::Sender<Contact>,
}

impl Unit {
    /// Makes the parts. Nothing is written to the host before [`Unit::run`].
    pub(super) async fn build(
        shared: &Shared,
        node: &NodeSetup,
        node_ip: IpAddr,
        certificate: Arc<ServingCertificate>,
    ) -> Result<(Self, Server), StartError> {
        let (setup, host) = (&shared.setup, &shared.host);
        let mut by_name = std::collections::BTreeMap::new();
        let (mut members, mut heartbeats, mut contacts, mut partitions) = (vec![], vec![], vec![], vec![]);
        let book = node.claims.then(|| Claims::new(host.clone(), &node.name));
        let news = Arc::new(Notify::new());
        let (mut claim_sites, mut service_sites) = (vec![], vec![]);
        let labels = watch::Sender::default();
        for target in &node.targets {
            let tracker = node.services.then(|| Arc::new(Tracker::new(news.clone())));
            let provider = connect(shared, node, target, book.clone(), tracker.clone(), labels.subscribe()).await?;
            service_sites.extend(tracker.map(|tracker| services::Site {
                name: target.name.clone(),
                provider: provider.clone(),
                tracker,
                publish: target.spec.pod_ips == PodIps::Publish,
            }));
            claim_sites.push(claims::Site { name: target.name.clone(), provider: provider.clone() });
            let contact = watch::Sender::default();
            contacts.push(contact.subscribe());
            partitions.push(target.spec.partition.policy());
            by_name.insert(target.name.clone(), Served { provider: provider.clone(), contact: contact.subscribe() });
            members.push(Member {
                name: target.name.clone(),
                leaving: target.leaving,
                cordoned: target.spec.cordoned,
                weight: target.weight,
                provider: provider.clone(),
                contact: contact.subscribe(),
            });
            heartbeats.push(Heartbeat { provider, silence: target.spec.heartbeat.timeout(), contact });
        }
        let (sites, status, whole, fleet) = join(members, node, &contacts, &mut heartbeats, book.clone());
        let services = node.services.then(|| {
            let (host_id, node) = (setup.host_id.clone(), node.name.clone());
            Follower::new(FollowerSetup { host: host.clone(), host_id, node, sites: service_sites, news })
        });
        let claims = book.map(|claims| {
            let (host_id, node) = (setup.host_id.clone(), node.name.clone());
            Keeper::new(KeeperSetup { host: host.clone(), host_id, node, sites: claim_sites, fleet, claims })
        });

        let whole_name = node.part.as_ref().map(|(whole, _)| whole.clone());
        let site_names: Vec<String> = node.targets.iter().map(|target| target.name.clone()).collect();
        let several = node.several;
        let unsure = several && had_no_choice(shared, &node.name).await;
        let ip = node_ip.to_string();
        let pods = PodController::new(PodSetup {
            node: node.name.clone(),
            node_ip: ip.clone(),
            host: shared.view.clone(),
            sites: sites.clone(),
            events: Events::start(host.clone(), &node.name),
            partitions,
            unsure,
            relist_after: setup.relist_after,
            move_after: patience(node.placement.move_after_seconds),
            evict_after: patience(node.placement.evict_after_seconds),
            observer: Some(shared.ways.clerk(&node.name, whole_name.as_deref().unwrap_or(&node.name), &site_names)),
        });
        let shown = shared.board.show(
            &node.name,
            Kept {
                whole: whole_name,
                report: status.node_status(),
                contact: whole.clone(),
                targets: by_name,
                sites: site_names,
                pulse: pods.pulse(),
                serving: certificate.clone(),
            },
        );

        let tls = server_config(certificate, shared.trust.clone())?;
        let authenticator = Authenticator::new(host.clone(), shared.trust.clone());
        let authorizer = Authorizer::new(host.clone(), node.name.clone());
        let streams = Arc::new(SiteStreams::new(sites, pods.table()));
        let home = Home { node: node.name.clone(), host: host.clone(), port: node.port };
        let server = Server::new(home, streams, pods.table(), authenticator, authorizer, tls);

        let identity = NodeIdentity {
            name: node.name.clone(),
            ip,
            port: node.port,
            labels: node.labels.clone(),
            taints: taints(&node.taints),
            choice: several && !unsure,
            annotations: node.part.iter().map(|(_, part)| (PART.to_owned(), json!(part).to_string())).collect(),
        };
        let keeper = NodeController::new(identity, host.clone(), lease_client(setup.host.clone()), status, whole);
        let keeper = keeper.telling(labels);
        Ok((Self { pods, keeper, heartbeats, contacts, claims, services, _shown: shown }, server))
    }

    /// Runs until it is told to stop, or one of the parts fails; then every action that is under way is finished.
    pub(super) async fn run(self, workers: usize, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { pods, keeper, heartbeats, contacts, claims, services, _shown } = self;
        let mut tasks: JoinSet<Result<(), StartError>> = JoinSet::new();
        let stop = || shutdown.clone();
        let (b, c) = (stop(), stop());
        tasks.spawn(async move {
            pods.run(workers, contacts, b).await;
            Ok(())
        });
        if let Some(services) = services {
            let stop = stop();
            tasks.spawn(async move {
                services.run(stop).await;
                Ok(())
            });
        }
        if let Some(claims) = claims {
            let stop = stop();
            tasks.spawn(async move {
                claims.run(stop).await;
                Ok(())
            });
        }
        for Heartbeat { provider, silence, contact } in heartbeats {
            let stop = stop();
            tasks.spawn(async move {
                contact::keep(provider, silence, contact, stop).await;
                Ok(())
            });
        }
        tasks.spawn(async move { Ok(keeper.run(c).await?) });
        crate::kubelet::tasks::all(tasks, &shutdown).await
    }
}

/// What makes a client for the node's lease.
fn lease_client(host: Access) -> Connect {
    Arc::new(move || {
        let host = host.clone();
        Box::pin(async move { Ok(clients::streaming_client(&host).await?) })
    })
}

/// So many seconds; 0 means for ever.
fn patience(seconds: u32) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds.into()))
}

/// The sites of a node, what it is made of as a whole, and whether that answers.
fn join(
    members: Vec<Member>,
    node: &NodeSetup,
    contacts: &[watch::Receiver<Contact>],
    heartbeats: &mut Vec<Heartbeat>,
    claims: Option<Arc<Claims>>,
) -> (Sites, Arc<dyn NodeProvider>, watch::Receiver<Contact>, Option<Arc<Fleet>>) {
    if let ([only], [contact], false) = (members.as_slice(), contacts, node.several) {
        return (Sites::one(&only.name, only.provider.clone()), only.provider.clone(), contact.clone(), None);
    }
    let site = |member: &Member| Site { name: member.name.as_str().into(), provider: member.provider.clone() };
    let sites = members.iter().map(site).collect();
    let strategy = match node.placement.strategy {
        Declared::Spread => Strategy::Spread,
        Declared::Pack => Strategy::Pack,
        Declared::Ordered => Strategy::Ordered,
    };
    // The node is silent when its last target is: after that target's own time.
    let silence = heartbeats.iter().map(|one| one.silence).max().unwrap_or_default();
    let fleet = Arc::new(Fleet::new(&node.name, members, strategy, claims));
    let contact = watch::Sender::default();
    let whole = contact.subscribe();
    heartbeats.push(Heartbeat { provider: fleet.clone(), silence, contact });
    (Sites::several(sites, fleet.clone()), fleet.clone(), whole, Some(fleet))
}

/// Whether the node may have pods of a time in which it had one target, and nothing was written on them. Who cannot tell
/// assumes so: it only means to wait until all targets have been listed.
async fn had_no_choice(shared: &Shared, node: &str) -> bool {
    let nodes: Api<Node> = Api::all(shared.host.clone());
    match nodes.get_metadata_opt(node).await {
        Ok(Some(known)) if !known.annotations().contains_key(status::CHOICE) => {}
        Ok(_) => return false,
        Err(_) => return true,
    }
    let pods: Api<Pod> = Api::all(shared.host.clone());
    match pods.list_metadata(&ListParams::default().fields(&format!("spec.nodeName={node}"))).await {
        Ok(list) => list.items.iter().any(|pod| !pod.annotations().contains_key(sites::CHOICE)),
        Err(_) => true,
    }
}

/// The clients of a target: for requests and watches, and for streams.
pub(super) async fn target_clients(target: &NodeTarget) -> Result<[Client; 2], StartError> {
    match &target.link {
        Some(link) => Ok([link.client(), link.streaming()]),
        None => clients::both(&target.config).await.map_err(|source| {
            let what = format!("target {}", target.name);
            StartError::BuildClient { what, source }
        }),
    }
}

/// The Kubernetes provider of a target, for a node.
async fn connect(
    shared: &Shared,
    node: &NodeSetup,
    target: &NodeTarget,
    claims: Option<Arc<Claims>>,
    tracker: Option<Arc<Tracker>>,
    labels_by_hand: watch::Receiver<Option<Labels>>,
) -> Result<Arc<TargetProvider>, StartError> {
    let [client, streaming] = target_clients(target).await?;
    // All of them were checked.
    let limits = target.spec.capacity.limits.iter();
    Ok(Arc::new(TargetProvider::start(TargetSetup {
        name: target.name.clone(),
        client,
        streaming,
        host_id: shared.setup.host_id.clone(),
        node_name: node.name.clone(),
        node_labels: node_labels(&node.labels),
        labels_by_hand,
        rules: Arc::new(rules(&target.spec)),
        create_namespaces: target.spec.namespaces.create,
        places: places(&target.spec.namespaces),
        reach: reach(&target.spec),
        part: node.part.as_ref().map(|(_, part)| part.clone()).unwrap_or_default(),
        cordoned: target.spec.cordoned || target.leaving,
        source: match target.spec.capacity.source_in(target.spec.scope) {
            Capacity::Nodes => CapacitySource::Nodes,
            Capacity::Quota => CapacitySource::Quota,
            Capacity::Static => CapacitySource::Static,
        },
        ceiling: Ceiling {
            limits: limits.filter_map(|(name, amount)| Some((name.clone(), amount.parse().ok()?))).collect(),
            headroom_percent: target.spec.capacity.headroom_percent,
        },
        addresses: match target.spec.pod_ips {
            PodIps::Withhold => Addresses::Withhold,
            PodIps::Publish => Addresses::Publish,
        },
        tales: match target.spec.events {
            MirroredEvents::Warnings => Tales::Warnings,
            MirroredEvents::All => Tales::All,
            MirroredEvents::None => Tales::None,
        },
        chosen: node.several,
        claims,
        tracker,
        view: Arc::new(shared.view.clone()),
        accounts: accounts(&target.spec, &shared.setup.host.cluster_url.to_string()),
        relist_after: shared.setup.relist_after,
    })))
}

fn taints(taints: &[Taint]) -> Vec<Value> {
    taints.iter().map(|taint| json!(taint)).collect()
}
