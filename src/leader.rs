//! Leadership of a virtual node, over a Lease of its own in the host.
//!
//! Replicas of Longshore share the nodes among them: each node is kept by whoever holds its lease. A lease fences nothing by
//! itself (its holder may be asleep and wake up later), so nothing relies on it for safety: every write of the core is safe
//! when it comes late. It only keeps two replicas from doing the same work.
//!
//! Semantics follow client-go's leader election: the age of a foreign claim is measured by our own clock from when it was
//! last seen to change, so that clocks need not agree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::api::clients::{self, Access, ClientsError};

/// How long a claim holds without renewal.
const DURATION: Duration = Duration::from_secs(10);

/// A holder that could not renew for this long gives up by itself, before anybody else may claim.
const DEADLINE: Duration = Duration::from_secs(7);

/// How often a holder renews and the others look.
const RETRY: Duration = Duration::from_secs(2);

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The namespace of the leases of nodes. Whoever reads them may take for granted that each belongs to its Node.
const OF_NODES: &str = "kube-node-lease";

/// After so many renewals at most the Node is looked for no more: the first one of all registers it only when it leads, and a
/// VirtualNode that is many nodes has none of its own name.
const LOOKS: u32 = 32;

/// How much later a replica claims for each node that it has already, and at most: so that they are shared.
const MODESTY: Duration = Duration::from_millis(300);
const MODESTY_LIMIT: Duration = Duration::from_millis(1500);

/// A replica that would like to keep nodes.
#[derive(Clone)]
pub struct Replica {
    leases: Api<Lease>,
    /// Where the owners of leases are; `None` where these need none.
    nodes: Option<Api<Node>>,
    identity: String,
    stands: Stands,
}

/// The nodes that this replica keeps, or would like to: `true` for those that it keeps.
#[derive(Clone, Default)]
struct Stands(Arc<Mutex<BTreeMap<String, bool>>>);

impl Stands {
    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many it keeps.
    fn held(&self) -> usize {
        self.lock().values().filter(|ours| **ours).count()
    }
}

/// One of them, until this is dropped.
struct Stand {
    stands: Stands,
    node: String,
}

impl Stand {
    fn set(&self, ours: bool) {
        self.stands.lock().insert(self.node.clone(), ours);
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.stands.lock().remove(&self.node);
    }
}

impl Replica {
    /// A replica of this identity, which nobody else has. Its leases are in `namespace`; its requests have a connection of
    /// their own and are never repeated.
    ///
    /// # Errors
    /// When there is no client.
    pub async fn new(access: &Access, namespace: &str, identity: String) -> Result<Self, ClientsError> {
        let client: Client = clients::streaming_client(access).await?;
        let nodes = (namespace == OF_NODES).then(|| Api::all(client.clone()));
        Ok(Self { leases: Api::namespaced(client, namespace), nodes, identity, stands: Stands::default() })
    }

    /// The nodes that this replica keeps or would like to, by name, and whether it keeps them.
    pub fn nodes(&self) -> Vec<(String, bool)> {
        self.stands.lock().iter().map(|(node, ours)| (node.clone(), *ours)).collect()
    }

    /// Waits for the leadership of a node; `None` if it is told to stop before.
    pub async fn claim(&self, node: &str, shutdown: &CancellationToken) -> Option<Term> {
        shutdown.run_until_cancelled(self.campaign(node)).await
    }

    async fn campaign(&self, node: &str) -> Term {
        let name = lease_name(node);
        let mut foreign: Option<Foreign> = None;
        let stand = Stand { stands: self.stands.clone(), node: node.into() };
        stand.set(false);
        loop {
            match self.look(&name, &mut foreign).await {
                Ok(Look::Ours(lease)) => {
                    tracing::info!(node, identity = self.identity, "keeping this node");
                    stand.set(true);
                    return Term { replica: self.clone(), node: node.into(), lease: *lease, _stand: stand };
                }
                Ok(Look::Theirs(holder)) => {
                    tracing::debug!(node, holder, "another replica keeps this node");
                    sleep(RETRY).await;
                }
                Ok(Look::Lost) => {}
                Err(error) => {
                    tracing::warn!(node, error, "the node's leadership cannot be looked at; trying again");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Whether somebody keeps this node, as far as it can be seen; who cannot look lets others go on.
    pub async fn is_taken(&self, node: &str) -> bool {
        let found = within(self.leases.get_opt(&lease_name(node))).await.ok().flatten();
        found.and_then(|lease| lease.spec?.holder_identity).is_some_and(|holder| !holder.is_empty())
    }

    /// The Node as the owner of its lease, if it is there.
    async fn owner(&self, node: &str) -> Option<OwnerReference> {
        let found = within(self.nodes.as_ref()?.get_metadata_opt(node)).await.ok().flatten()?;
        Some(OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: node.into(),
            uid: found.metadata.uid?,
            ..OwnerReference::default()
        })
    }

    /// One look at a lease, and a claim if it is free.
    async fn look(&self, name: &str, foreign: &mut Option<Foreign>) -> Result<Look, String> {
        let found = within(self.leases.get_opt(name)).await?;
        let verdict = judge(found.as_ref(), foreign.as_ref(), &self.identity, Instant::now());
        match verdict {
            Verdict::Wait(seen) => {
                let holder = seen.holder.clone();
                *foreign = Some(seen);
                return Ok(Look::Theirs(holder));
            }
            // Whoever has fewer nodes comes first.
            Verdict::Claim if foreign.is_some() || found.is_none() => {
                let held = u32::try_from(self.stands.held()).unwrap_or(u32::MAX);
                sleep(MODESTY.saturating_mul(held).min(MODESTY_LIMIT)).await;
            }
            Verdict::Claim => {}
        }
        let transfers = !is_held_by(found.as_ref(), &self.identity);
        let claim = claimed(found.clone().unwrap_or_default(), name, &self.identity, transfers);
        let params = PostParams::default();
        let written = match found {
            Some(_) => timeout(PATIENCE, self.leases.replace(name, &params, &claim)).await,
            None => timeout(PATIENCE, self.leases.create(&params, &claim)).await,
        };
        match written {
            Ok(Ok(lease)) => Ok(Look::Ours(Box::new(lease))),
            // Another one was faster.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(Look::Lost),
            Ok(Err(error)) => Err(crate::errors::chain(&error)),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}

/// What one look has found.
enum Look {
    Ours(Box<Lease>),
    Theirs(String),
    Lost,
}

/// A claim of somebody else, and since when it is unchanged as far as we have seen.
#[derive(Clone, Debug, PartialEq)]
struct Foreign {
    holder: String,
    version: Option<String>,
    since: Instant,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Claim,
    Wait(Foreign),
}

/// Whether a lease is free for us. Pure but for the time that it is given.
fn judge(lease: Option<&Lease>, known: Option<&Foreign>, us: &str, now: Instant) -> Verdict {
    let Some(lease) = lease else { return Verdict::Claim };
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
    if holder.is_empty() || holder == us {
        return Verdict::Claim;
    }
    let version = lease.metadata.resource_version.clone();
    let since = known.filter(|known| known.version == version).map_or(now, |known| known.since);
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    if now.duration_since(since) >= seconds.map_or(DURATION, Duration::from_secs) {
        return Verdict::Claim;
    }
    Verdict::Wait(Foreign { holder, version, since })
}

fn is_held_by(lease: Option<&Lease>, identity: &str) -> bool {
    lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref()) == Some(identity)
}

/// The lease as we hold it from now on.
fn claimed(lease: Lease, name: &str, identity: &str, transfers: bool) -> Lease {
    let (mut metadata, spec) = (lease.metadata, lease.spec.unwrap_or_default());
    metadata.name = Some(name.into());
    let now = MicroTime(Timestamp::now());
    let count = spec.lease_transitions.unwrap_or_default();
    Lease {
        metadata,
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.into()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if transfers { Some(now.clone()) } else { spec.acquire_time.or_else(|| Some(now.clone())) },
            renew_time: Some(now),
            lease_transitions: Some(if transfers { count.saturating_add(1) } else { count }),
            ..spec
        }),
    }
}

/// The name of a node's lease of leadership, beside the one by which the node itself shows that it lives.
fn lease_name(node: &str) -> String {
    format!("longshore-{node}")
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(crate::errors::chain(&error)),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The leadership of one node, until it is lost.
pub struct Term {
    replica: Replica,
    node: String,
    lease: Lease,
    _stand: Stand,
}

impl Term {
    /// Renews until the leadership is lost.
    pub async fn hold(&mut self) {
        let name = lease_name(&self.node);
        let mut renewed = Instant::now();
        let mut renewal = 0_u32;
        loop {
            sleep(RETRY).await;
            renewal = renewal.saturating_add(1);
            let asked = Instant::now();
            if self.lease.metadata.owner_references.is_none() && renewal.is_power_of_two() && renewal <= LOOKS {
                self.lease.metadata.owner_references = self.replica.owner(&self.node).await.map(|owner| vec![owner]);
            }
            let claim = claimed(self.lease.clone(), &name, &self.replica.identity, false);
            match timeout(PATIENCE, self.replica.leases.replace(&name, &PostParams::default(), &claim)).await {
                Ok(Ok(lease)) => (self.lease, renewed) = (lease, asked),
                // Somebody has written it, or removed it: it may still be ours.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => {
                    match within(self.replica.leases.get_opt(&name)).await {
                        Ok(Some(lease)) if is_held_by(Some(&lease), &self.replica.identity) => self.lease = lease,
                        // Its Node was deleted, and it with it: that is nobody's claim. Whoever is faster has it.
                        Ok(None) => match self.remake(&name).await {
                            Ok(lease) => (self.lease, renewed, renewal) = (lease, asked, 0),
                            Err(error) => tracing::warn!(node = self.node, error, "the lease could not be made anew"),
                        },
                        Ok(_) => {
                            tracing::warn!(node = self.node, "another replica has taken this node over");
                            return;
                        }
                        Err(error) => tracing::warn!(node = self.node, error, "the leadership cannot be looked at"),
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(node = self.node, %error, "the leadership was not renewed; trying again");
                }
                Err(_) => tracing::warn!(node = self.node, "the leadership was not renewed in time; trying again"),
            }
            if renewed.elapsed() >= DEADLINE {
                tracing::warn!(node = self.node, "the leadership could not be renewed for {} s", DEADLINE.as_secs());
                return;
            }
        }
    }

    /// Makes a lease that has gone anew.
    async fn remake(&self, name: &str) -> Result<Lease, String> {
        let bare = Lease { metadata: ObjectMeta::default(), spec: self.lease.spec.clone() };
        let claim = claimed(bare, name, &self.replica.identity, false);
        within(self.replica.leases.create(&PostParams::default(), &claim)).await
    }

    /// Renews while a task runs, which is told to stop when the leadership is lost, and what becomes of it. Nobody else can be
    /// kept from beginning until it has ended, and need not be.
    ///
    /// # Panics
    /// When the task has panicked.
    pub async fn hold_while<T>(&mut self, mut task: JoinHandle<T>, stop: &CancellationToken) -> T {
        let ended = tokio::select! {
            ended = &mut task => Some(ended),
            () = self.hold() => None,
        };
        stop.cancel();
        let ended = match ended {
            Some(ended) => ended,
            None => task.await,
        };
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// Gives the leadership back, so that another replica need not wait for its end.
    pub async fn release(self) {
        let name = lease_name(&self.node);
        let mut lease = self.lease.clone();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = within(self.replica.leases.replace(&name, &PostParams::default(), &lease)).await {
            tracing::debug!(node = self.node, error, "the leadership was not given back; it will run out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.into());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.into()),
            lease_duration_seconds: Some(10),
            ..LeaseSpec::default()
        });
        lease
    }

    #[test]
    fn a_free_lease_or_our_own_is_claimed_at_once() {
        let now = Instant::now();
        assert_eq!(judge(None, None, "us", now), Verdict::Claim);
        assert_eq!(judge(Some(&lease("", "1")), None, "us", now), Verdict::Claim);
        assert_eq!(judge(Some(&lease("us", "1")), None, "us", now), Verdict::Claim, "the same replica has restarted");
    }

    #[test]
    fn a_foreign_claim_holds_until_it_was_unchanged_for_its_duration_by_our_clock() {
        let start = Instant::now();
        let Verdict::Wait(seen) = judge(Some(&lease("them", "1")), None, "us", start) else { panic!("claimed") };
        let later = |seconds| start + Duration::from_secs(seconds);
        let Verdict::Wait(seen) = judge(Some(&lease("them", "2")), Some(&seen), "us", later(9)) else {
            panic!("claimed")
        };
        assert!(matches!(judge(Some(&lease("them", "2")), Some(&seen), "us", later(18)), Verdict::Wait(_)), "renewed");
        assert_eq!(judge(Some(&lease("them", "2")), Some(&seen), "us", later(19)), Verdict::Claim);
    }

    #[test]
    fn clocks_that_jump_neither_free_a_claim_nor_hold_it() {
        let start = Instant::now();
        let times = ["1970-01-01T00:00:00Z", "2100-01-01T00:00:00Z"];
        for time in times.map(|time| time.parse::<Timestamp>().unwrap()) {
            let mut lease = lease("them", "1");
            lease.spec.as_mut().unwrap().renew_time = Some(MicroTime(time));
            let Verdict::Wait(seen) = judge(Some(&lease), None, "us", start) else { panic!("claimed at {time}") };
            assert_eq!(judge(Some(&lease), Some(&seen), "us", start + DURATION), Verdict::Claim, "{time}");
        }
    }

    #[test]
    fn a_renewal_counts_no_transition() {
        let taken = claimed(lease("them", "1"), "n", "us", true);
        let spec = taken.spec.clone().unwrap();
        assert_eq!((spec.lease_transitions, spec.holder_identity.as_deref()), (Some(1), Some("us")));
        let renewed = claimed(taken, "n", "us", false).spec.unwrap();
        assert_eq!(renewed.lease_transitions, Some(1));
        assert_eq!(renewed.acquire_time, spec.acquire_time);
    }
}
