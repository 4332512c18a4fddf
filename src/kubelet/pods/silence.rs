//! What the shell does about a site that does not answer: pods are told, kept from eviction, or given up; and about one that
//! answers, and cannot take what it was given.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shell;
use crate::kubelet::contact::Contact;
use crate::kubelet::document::PodDocument;
use crate::kubelet::partition::{self, Policy};
use crate::kubelet::provider::Obstacle;
use crate::kubelet::sites::Index;
use crate::kubelet::step::{Event, Reach};
use crate::kubelet::stuck::{self, Backoff, Looks};
use crate::kubelet::table::Uid;

/// How often ages and patience are looked at while the provider's side answers, and while it does not.
const CALM: Duration = Duration::from_secs(10);
const ALERT: Duration = Duration::from_secs(1);

/// A proxy is kept from eviction when it is this old, or as soon as its side is silent; a short break is no reason, since the
/// host evicts nobody for another five minutes. So late, because it is a change of the
/// spec, and who counts the generations of a fresh pod should count his own changes only (Kubernetes' suites do so for four
/// and a half minutes), and because a pod of a short life then costs no write. Who is younger when all replicas end for good is
/// evicted as from any node that is gone: 350 s later, at the soonest.
const AGE: Duration = Duration::from_secs(330);

/// How long all others wait until leftovers are stopped when the side is back, and how often that is looked at.
const SWEEP: Duration = Duration::from_secs(10);
const SWEEPING: Duration = Duration::from_millis(20);

impl Shell {
    /// Follows the contact to a site until its teller is gone.
    pub(super) async fn watch_contact(self: Arc<Self>, site: Index, mut contact: watch::Receiver<Contact>) {
        let mut namespaces = Namespaces::default();
        let mut looks = Looks::default();
        loop {
            let now = contact.borrow_and_update().clone();
            self.hear(site, &now);
            self.lift(site, &now);
            if let Contact::Silent { since, .. } = now {
                self.give_up(site, since, &mut namespaces).await;
            } else {
                namespaces = Namespaces::default();
                self.help_stuck(site, &mut looks).await;
            }
            let pause = if now == Contact::Answers { CALM } else { ALERT };
            if let Ok(Err(_)) = tokio::time::timeout(pause, contact.changed()).await {
                return;
            }
        }
    }

    fn hear(&self, site: Index, contact: &Contact) {
        let target_cluster = self.sites.name(site);
        match (contact, self.table.reach(site)) {
            (Contact::Silent { message, .. }, Reach::Fine | Reach::Returning) => {
                tracing::warn!(
                    node = self.node,
                    target_cluster,
                    message,
                    "the target does not answer; its pods are not ready from now on"
                );
                self.reach(site, Reach::Silent);
            }
            (Contact::Answers, Reach::Silent) => {
                tracing::info!(node = self.node, target_cluster, "the target answers again; listing its pods anew");
                self.reach(site, Reach::Returning);
                if let Some(relist) = self.relist.get(usize::from(site)) {
                    relist.notify_one();
                }
            }
            _ => {}
        }
    }

    fn reach(&self, site: Index, reach: Reach) {
        for uid in self.table.set_reach(site, reach) {
            self.queue.add(&uid);
        }
    }

    /// The list is complete again: first what has no owner any more is stopped, then all goes on.
    pub(super) async fn welcome(self: Arc<Self>, site: Index) {
        let stale = self.table.stale(site);
        if !stale.is_empty() {
            tracing::info!(
                node = self.node,
                pods = stale.len(),
                "stopping what was given up while the target was silent"
            );
        }
        for uid in &stale {
            self.table.step(uid, Event::Retry);
            self.queue.add(uid);
        }
        // Each is tried once: what does not work is tried again later, and others need not wait for it.
        let begun = Instant::now();
        while self.table.unswept(&stale) && begun.elapsed() < SWEEP {
            tokio::time::sleep(SWEEPING).await;
        }
        for uid in self.table.set_reach(site, Reach::Fine) {
            self.table.step(&uid, Event::Retry);
            self.queue.add(&uid);
        }
    }

    /// Keeps old proxies from eviction, and all of them once their side is silent.
    fn lift(&self, site: Index, contact: &Contact) {
        let age = if contact.is_silent() { Duration::ZERO } else { AGE };
        for uid in self.table.evictable(site, age) {
            self.table.step(&uid, Event::LiftDue);
            self.queue.add(&uid);
        }
    }

    /// Moves pods that a site cannot schedule to another one in which they fit, if there is one; those that stay are evicted
    /// some time later.
    async fn help_stuck(&self, site: Index, looks: &mut Looks) {
        let move_after = self.move_after.filter(|_| self.sites.chooser().is_some());
        let times: Vec<_> = [move_after, self.evict_after].into_iter().flatten().collect();
        let Some(first) = times.iter().min() else { return };
        for (uid, waited) in looks.due(self.table.stuck(site, *first), &times) {
            let Some(key) = self.table.key(&uid) else { continue };
            let Ok(Some(pod)) = self.host.pod(&key).await else { continue };
            let moves =
                move_after.is_some_and(|after| waited >= after) && self.move_away(site, &uid, &pod, waited).await;
            if !moves && let Some(after) = self.evict_after {
                self.evict(site, &pod, waited, after).await;
            }
        }
    }

    /// Answers whether there is another site for it.
    async fn move_away(&self, site: Index, uid: &Uid, pod: &PodDocument, waited: Duration) -> bool {
        let Some(chooser) = self.sites.chooser() else { return false };
        let Ok(chosen) = chooser.choose(pod, Some(site)).await else { return false };
        if chosen.site == site {
            return false;
        }
        let (from, to) = (self.sites.name(site), self.sites.name(chosen.site));
        let message = format!("target {from} could not schedule it for {} s; {to} may", waited.as_secs());
        self.events.warn(&pod.key(), Obstacle { reason: "Moving".into(), message });
        self.table.step(uid, Event::Move);
        self.queue.add(uid);
        true
    }

    /// Evicts a pod that its controller makes again, if it has been stuck for long enough.
    async fn evict(&self, site: Index, pod: &PodDocument, waited: Duration, after: Duration) {
        let Some((kind, name, controller)) = stuck::controller(pod) else { return };
        let patience = self.backoff().patience(&controller, after);
        if waited < patience {
            return;
        }
        let key = pod.key();
        let (now, next) = (Timestamp::now().as_second(), patience.saturating_mul(2));
        let until = now.saturating_add(i64::try_from(next.as_secs()).unwrap_or(i64::MAX));
        // First: what the eviction calls for comes at once.
        if let Err(error) = self.host.no_room(&self.node, &controller, until, now).await {
            tracing::warn!(node = self.node, pod = %key, %error, "the node does not say that it has no room for these pods");
        }
        match self.host.evict(&key).await {
            Ok(true) => {
                self.backoff().evicted(&controller, after, Instant::now());
                tracing::info!(node = self.node, pod = %key, waited = waited.as_secs(), "evicted, for want of room");
                let target = Some(self.sites.name(site)).filter(|name| !name.is_empty());
                let target = target.map_or_else(|| "its target".to_owned(), |name| format!("target {name}"));
                let message = format!(
                    "{target} could not schedule it for {} s; it is evicted so that {kind} {name} makes another one",
                    waited.as_secs()
                );
                self.events.warn(&key, Obstacle { reason: "NoRoom".into(), message });
            }
            Ok(false) => tracing::debug!(pod = %key, "a disruption budget keeps the pod from eviction"),
            Err(error) => tracing::warn!(node = self.node, pod = %key, %error, "the pod was not evicted; trying again"),
        }
    }

    /// No code panics while it holds the lock.
    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up those pods whose users have waited for long enough.
    async fn give_up(&self, site: Index, since: Instant, namespaces: &mut Namespaces) {
        let whole = self.partitions.get(usize::from(site)).copied().unwrap_or_default();
        for (uid, key, own) in self.table.partitioned(site) {
            let namespace = match &own {
                Some(_) => None,
                None => self.policy_of(&key.namespace, namespaces).await,
            };
            if let Some(Err(message)) = own.as_deref().map(|own| partition::parse(own, whole))
                && namespaces.warned.insert(uid.clone())
            {
                self.events.warn(&key, Obstacle { reason: "InvalidPartitionPolicy".into(), message });
            }
            let Policy::Replace(after) = partition::policy(own.as_deref(), namespace.as_deref(), whole) else {
                continue;
            };
            if since.elapsed() >= after {
                tracing::warn!(node = self.node, pod = %key, "given up, as its policy Replace wants");
                self.table.step(&uid, Event::GiveUp);
                self.queue.add(&uid);
            }
        }
    }

    /// The annotation of a namespace, read once in each silence; one that cannot be read is read again.
    async fn policy_of(&self, namespace: &str, namespaces: &mut Namespaces) -> Option<String> {
        if let Some(known) = namespaces.annotations.get(namespace) {
            return known.clone();
        }
        match self.host.namespace_annotation(namespace, partition::PARTITION).await {
            Ok(found) => namespaces.annotations.entry(namespace.into()).or_insert(found).clone(),
            Err(error) => {
                tracing::warn!(namespace, %error, "the namespace's partition policy cannot be read; its pods wait");
                Some("Wait".into())
            }
        }
    }
}

/// What is known of namespaces for as long as a silence lasts.
#[derive(Default)]
struct Namespaces {
    annotations: BTreeMap<String, Option<String>>,
    warned: std::collections::BTreeSet<Arc<str>>,
}
