//! The pod controller: a thin shell around [`step`](super::step::step) that drives any provider.
//!
//! ```text
//!   host watch ─┐                ┌─ worker ─┐   create/update/delete ─▶ provider
//!               ├▶ Table ▶ Queue ┼─ worker ─┼─▶
//!   notifier ───┘      ▲         └─ worker ─┘   report, delete ───────▶ host
//!                      └──────── answers ───┘
//! ```

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use kube::runtime::watcher;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contact::Contact;
use super::document::{PodDocument, PodKey};
use super::events::Events;
use super::host::Host;
use super::lanes::{Lane, Lanes};
use super::partition::Policy;
use super::provider::{Obstacle, PodNotice, Provider};
use super::queue::Queue;
use super::sites::{Index, Sites};
use super::step::{Action, Event, Reach};
use super::stuck::Backoff;
use super::table::{Census, Side, Table, Uid};
use super::tolerations;
use super::view;
use super::way::Observer;

mod perform;
mod search;
mod silence;

/// How often a provider without a notifier is asked for its pods.
const POLL: Duration = Duration::from_secs(5);

/// How long a change that no controller waits for may wait to be merged with the next.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// While more pods wait for a worker than there are workers, such a change waits for up to so many times as long: it is a write
/// more, and what it would show will be over when it is written.
const BUSY: u32 = 10;

/// How long annotations of an instance that have changed alone wait for a change of its status to go with.
const ANNOTATIONS: Duration = Duration::from_secs(10);

/// How long a pod that a list has shown waits at most for the end of the list, if nothing about it is urgent.
const LATER: Duration = Duration::from_secs(10);

/// How many notices may wait; a provider that is faster waits itself.
const NOTICES: usize = 128;

/// Actions in one go for one pod; whoever needs more is going in circles and gets a pause.
const PATIENCE: usize = 32;

/// Mirror pods stand for static pods of a real kubelet and are nobody else's business.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Drives the pods of one virtual node.
#[derive(Clone)]
pub struct PodController {
    shell: Arc<Shell>,
}

/// What the tasks of a controller share.
struct Shell {
    node: String,
    node_ip: String,
    host: Host,
    sites: Sites,
    events: Events,
    /// What becomes of the pods of each site in a silence, by its index.
    partitions: Vec<Policy>,
    move_after: Option<Duration>,
    evict_after: Option<Duration>,
    backoff: Mutex<Backoff>,
    table: Arc<Table>,
    queue: Queue,
    /// There once it runs.
    lanes: OnceLock<Arc<Lanes>>,
    /// The host is listed anew after this long.
    relist_after: Option<Duration>,
    /// A site is to be listed anew; by its index.
    relist: Vec<Notify>,
    /// The host has been listed once.
    home: watch::Sender<bool>,
    /// Those that wait for the end of a list; each may be there more than once.
    later: Mutex<Vec<Uid>>,
}

/// What a pod controller is made of.
pub struct PodSetup {
    /// The node whose pods these are.
    pub node: String,
    /// Its address at home.
    pub node_ip: String,
    /// Where the proxies are.
    pub host: Host,
    /// Where their instances may run.
    pub sites: Sites,
    /// Where their owners are told.
    pub events: Events,
    /// What becomes of pods that say nothing else when their site is silent, by its index.
    pub partitions: Vec<Policy>,
    /// Proxies without a choice may run all the same, since there was nothing to choose before.
    pub unsure: bool,
    /// A pod that could not be scheduled for so long moves to another site in which it fits, if at all.
    pub move_after: Option<Duration>,
    /// One that some controller made, and that has found no site for so long, is evicted, if at all.
    pub evict_after: Option<Duration>,
    /// The host is listed anew after this long, lest an event that was lost stays so for ever.
    pub relist_after: Option<Duration>,
    /// Who is told of each step of a pod, if anybody.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Where it can be read what a controller does, for as long as somebody has this.
#[derive(Clone)]
pub struct Pulse(Arc<Shell>);

/// What a controller does now.
#[derive(Clone, Debug)]
pub struct Beat {
    /// How many pods wait for a worker.
    pub queued: usize,
    /// How long the first of them has waited.
    pub age: Duration,
    /// How many pods of a site may be worked on at a time.
    pub workers: usize,
    /// By site: how many are worked on, and how many wait for that.
    pub lanes: Vec<(Lane, usize, usize)>,
    /// All pods, counted.
    pub census: Census,
}

impl Pulse {
    /// Looks at it. Goes over all records.
    pub fn beat(&self) -> Beat {
        let shell = &self.0;
        let lanes = shell.lanes.get();
        Beat {
            queued: shell.queue.len(),
            age: shell.queue.age(),
            workers: lanes.map_or(0, |lanes| lanes.limit()),
            lanes: lanes.map(|lanes| lanes.load()).unwrap_or_default(),
            census: shell.table.census(),
        }
    }
}

impl PodController {
    /// A controller that does nothing yet.
    pub fn new(setup: PodSetup) -> Self {
        let PodSetup { node, node_ip, host, sites, events, .. } = setup;
        let PodSetup { partitions, unsure, move_after, evict_after, relist_after, observer, .. } = setup;
        let count = sites.iter().count();
        let shell = Shell {
            node,
            node_ip,
            host,
            sites,
            events,
            partitions,
            move_after,
            evict_after,
            backoff: Mutex::default(),
            relist_after,
            table: Arc::new(Table::new(count, unsure).observed(observer)),
            queue: Queue::default(),
            lanes: OnceLock::new(),
            relist: (0..count).map(|_| Notify::new()).collect(),
            home: watch::Sender::new(false),
            later: Mutex::default(),
        };
        Self { shell: Arc::new(shell) }
    }

    /// The records, for whoever asks which pods there are.
    pub fn table(&self) -> Arc<Table> {
        self.shell.table.clone()
    }

    /// Where it can be read what it does.
    pub fn pulse(&self) -> Pulse {
        Pulse(self.shell.clone())
    }

    /// Works on so many pods of each site at a time until it is told to stop; an action that is under way is finished first.
    /// `contacts` say whether each site answers, by its index.
    pub async fn run(self, workers: usize, contacts: Vec<watch::Receiver<Contact>>, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        // As many as all sites can keep busy, and those pods that have none yet.
        let lanes = self.shell.lanes.get_or_init(|| Arc::new(Lanes::new(workers))).clone();
        for _ in 0..workers.max(1).saturating_mul(self.shell.sites.iter().count() + 1) {
            tasks.spawn(self.shell.clone().work(lanes.clone(), shutdown.clone()));
        }
        let (shell, stop) = (self.shell.clone(), shutdown.clone());
        tasks.spawn(async move {
            stop.run_until_cancelled(shell.watch_host()).await;
        });
        for (index, site) in self.shell.sites.iter() {
            let (shell, stop, provider) = (self.shell.clone(), shutdown.clone(), site.provider.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(shell.watch_site(index, &*provider)).await;
            });
        }
        for (index, contact) in (0..).zip(contacts) {
            let (shell, stop) = (self.shell.clone(), shutdown.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(shell.watch_contact(index, contact)).await;
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

impl Shell {
    /// Follows the host's pods that are bound to this node.
    async fn watch_host(self: Arc<Self>) {
        let config = watcher::Config::default().fields(&format!("spec.nodeName={}", self.node));
        let mut stream = crate::relist::watch(self.host.pods(), config, self.relist_after).boxed();
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => self.table.listing(Side::Host),
                Ok(Some(watcher::Event::InitApply(pod) | watcher::Event::Apply(pod))) => self.proxy_seen(pod),
                Ok(Some(watcher::Event::InitDone)) => {
                    self.listed(Side::Host);
                }
                Ok(Some(watcher::Event::Delete(pod))) => self.queue.add(&self.table.proxy_gone(&pod.key())),
                Ok(None) => return,
                Err(error) => tracing::warn!(node = self.node, %error, "the watch of the host's pods is interrupted"),
            }
        }
    }

    fn proxy_seen(&self, pod: PodDocument) {
        if let Some(what) = &pod.unreadable {
            let key = pod.key();
            tracing::warn!(node = self.node, pod = %key, error = &**what, "a pod of the host cannot be read; leaving it as it is");
            let message = format!("it is left as it is, since it cannot be read: {what}");
            self.events.warn(&key, Obstacle { reason: "Unreadable".into(), message });
            return self.table.proxy_unclear(&key);
        }
        if pod.annotation(MIRROR).is_some() {
            return;
        }
        let known = self.table.proxy_known(&pod);
        self.queue.add(&known.unwrap_or_else(|| self.take_in(tolerations::restored(pod))));
    }

    /// Takes in a proxy as the host shows it.
    fn take_in(&self, mut pod: PodDocument) -> Uid {
        let (want, site) = (self.want(&mut pod), self.sites.of(&pod));
        self.table.proxy_seen(&pod, want, site)
    }

    /// The provider's fingerprint of a proxy, whose spec is read only where it has changed.
    fn want(&self, pod: &mut PodDocument) -> u64 {
        let known = self.table.known_want(pod);
        if known.is_some() {
            view::skim(pod);
        }
        known.unwrap_or_else(|| self.sites.fingerprint(pod))
    }

    /// Follows the pods of a site, by its notifier or by asking.
    async fn watch_site(self: Arc<Self>, site: Index, provider: &dyn Provider) {
        let Some(relist) = self.relist.get(usize::from(site)) else { return };
        let (sender, mut receiver) = mpsc::channel(NOTICES);
        let told = async {
            let permits = Semaphore::new(search::AT_A_TIME);
            let mut searches = FuturesUnordered::new();
            loop {
                tokio::select! {
                    notice = receiver.recv() => {
                        let Some(notice) = notice else { return };
                        if matches!(notice, PodNotice::Listed) {
                            let unseen = self.table.unseen(site).into_iter();
                            searches.extend(unseen.map(|(key, instance)| self.search(site, provider, &permits, key, instance)));
                        }
                        self.notice(site, notice);
                    }
                    Some(()) = searches.next() => {}
                }
            }
        };
        let teller = async {
            loop {
                let tell = async {
                    match provider.notifier() {
                        Some(notifier) => notifier.notify(sender.clone()).await,
                        None => self.poll(provider, &sender).await,
                    }
                    tokio::time::sleep(DEBOUNCE).await;
                };
                tokio::select! {
                    () = tell => {}
                    () = relist.notified() => {}
                }
            }
        };
        tokio::join!(told, teller);
    }

    /// One complete look at a provider that does not notify; a failed one says nothing at all.
    async fn poll(&self, provider: &dyn Provider, notices: &mpsc::Sender<PodNotice>) {
        if !PodNotice::listing(notices).await {
            return;
        }
        match provider.get_pods().await {
            Ok(pods) => {
                let seen = pods.into_iter().map(|pod| PodNotice::Seen(Box::new(pod)));
                for notice in seen.chain(std::iter::once(PodNotice::Listed)) {
                    if notices.send(notice).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => tracing::warn!(node = self.node, %error, "the provider's pods could not be listed"),
        }
        tokio::time::sleep(POLL).await;
    }

    fn notice(self: &Arc<Self>, site: Index, notice: PodNotice) {
        match notice {
            PodNotice::Listing(taken) => {
                self.table.listing(Side::Site(site));
                // The teller may have been dropped meanwhile.
                let _ = taken.send(());
            }
            PodNotice::Seen(pod) => {
                let (uid, actions) = self.table.instance_seen(site, *pod);
                if self.table.is_listed(Side::Site(site)) {
                    self.queue.add(&uid);
                } else {
                    self.unless_later(uid, &actions);
                }
            }
            PodNotice::Unclear(instance) => self.table.instance_unclear(site, &instance),
            PodNotice::Gone { key, instance } => {
                let (uid, actions) = self.instance_gone(&key, &instance);
                self.start_timers(&uid, &actions);
                self.queue.add(&uid);
            }
            PodNotice::Wake(uid) => {
                self.table.step(&uid, Event::Retry);
                self.queue.add(&uid);
            }
            // Whose it is, is known when home is listed.
            told @ PodNotice::Told(..) if !*self.home.borrow() => {
                let (shell, mut home) = (self.clone(), self.home.subscribe());
                tokio::spawn(async move {
                    if home.wait_for(|listed| *listed).await.is_ok() {
                        shell.notice(site, told);
                    }
                });
            }
            PodNotice::Told(uid, instance, told) => {
                // Whoever calls his pod the instance of a proxy does not speak to its owner by it.
                let theirs = self.table.instance(&uid).is_some_and(|known| known.uid == instance);
                if let Some(key) = self.table.key(&uid).filter(|_| theirs) {
                    self.events.mirror(&key, *told);
                }
            }
            PodNotice::Listed => {
                self.listed(Side::Site(site));
                if self.table.reach(site) == Reach::Returning {
                    tokio::spawn(self.clone().welcome(site));
                }
            }
        }
    }

    /// Puts a pod in the queue for which something is to be done, unless that may wait. Most of what a list shows home shows too. To
    /// find that out for each would keep those waiting that have no instance yet, which is known when the list is complete.
    fn unless_later(self: &Arc<Self>, uid: Uid, actions: &[Action]) {
        if actions.iter().all(|action| matches!(action, Action::Report { urgent: false, .. })) {
            self.later(uid);
        } else {
            self.queue.add(&uid);
        }
    }

    /// Comes back to a pod when a list is complete, as to all; after a while at the latest, since a list may never be.
    fn later(self: &Arc<Self>, uid: Uid) {
        let mut later = self.lock_later();
        later.push(uid);
        if later.len() > 1 {
            return;
        }
        let shell = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LATER).await;
            let late = std::mem::take(&mut *shell.lock_later());
            for uid in &late {
                shell.queue.add(uid);
            }
        });
    }

    /// Nothing panics while it is locked.
    fn lock_later(&self) -> MutexGuard<'_, Vec<Uid>> {
        self.later.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance is gone, by whatever way we know: a proxy of the same name need not wait any longer.
    fn instance_gone(&self, key: &PodKey, instance: &Arc<str>) -> (Uid, Vec<Action>) {
        let (uid, namesake, actions) = self.table.instance_gone(key, instance);
        if let Some(waiting) = namesake {
            self.table.step(&waiting, Event::Retry);
            self.queue.add(&waiting);
        }
        (uid, actions)
    }

    fn listed(self: &Arc<Self>, side: Side) {
        // They are among all, which follow; cleared first, lest one be forgotten that another site shows meanwhile.
        self.lock_later().clear();
        let pods = self.table.listed(side);
        if side == Side::Host {
            self.home.send_replace(true);
            for (_, relist) in (0..).zip(&self.relist).filter(|(site, _)| self.table.contested(*site)) {
                relist.notify_one();
            }
        }
        tracing::debug!(node = self.node, ?side, pods = pods.len(), "listed");
        let all = self.table.all_listed();
        for (uid, actions) in pods {
            self.start_timers(&uid, &actions);
            if all {
                self.queue.add(&uid);
            } else {
                let actions = self.table.step(&uid, Event::Look);
                self.unless_later(uid, &actions);
            }
        }
    }

    /// A worker: one key after the other. A pod whose site has enough to do keeps none of them waiting.
    async fn work(self: Arc<Self>, lanes: Arc<Lanes>, shutdown: CancellationToken) {
        loop {
            let uid = tokio::select! {
                () = shutdown.cancelled() => return,
                uid = self.queue.next() => uid,
            };
            let lane = self.table.site(&uid);
            let mut next = lanes.enter(lane, &uid).then_some(uid);
            while let Some(uid) = next {
                self.settle(&uid, lane).await;
                self.queue.done(&uid);
                // Most pods of a list are as they should be, which takes no request: without this, one worker after the other
                // would go through thousands of them, and nobody else would have a turn meanwhile.
                tokio::task::yield_now().await;
                if shutdown.is_cancelled() {
                    return;
                }
                next = lanes.leave(lane);
            }
        }
    }

    /// Does what there is to do for a pod, until there is nothing left or it has to wait. One that turns out to belong to
    /// another site than `lane` goes on there.
    async fn settle(self: &Arc<Self>, uid: &Uid, lane: Lane) {
        let mut actions = self.table.step(uid, Event::Look);
        for _ in 0..PATIENCE {
            if actions.is_empty() {
                return;
            }
            if self.table.site(uid).is_some_and(|site| lane != Some(site)) {
                self.start_timers(uid, &actions);
                return self.queue.add(uid);
            }
            actions = match self.perform(uid, actions.remove(0)).await {
                Some(answered) => answered,
                None => actions,
            };
        }
        tracing::warn!(%uid, "this pod does not settle; taking a pause");
        self.wake(uid, DEBOUNCE, Event::Look);
    }

    /// Starts those timers among the actions of an event that no worker sees.
    fn start_timers(self: &Arc<Self>, uid: &Uid, actions: &[Action]) {
        for action in actions {
            if let Action::RetryAfter(attempts) = action {
                self.wake(uid, backoff(*attempts), Event::Retry);
            }
        }
    }

    /// Comes back to a pod whose change may wait, when there is time for it.
    fn wake_to_report(self: &Arc<Self>, uid: &Uid) {
        let (shell, uid) = (self.clone(), uid.clone());
        tokio::spawn(async move {
            for _ in 0..BUSY {
                tokio::time::sleep(DEBOUNCE).await;
                if !shell.is_busy() {
                    break;
                }
            }
            shell.table.step(&uid, Event::ReportDue);
            shell.queue.add(&uid);
        });
    }

    /// Whether more pods wait than there are workers for.
    fn is_busy(&self) -> bool {
        let busy = |lanes: &Arc<Lanes>| self.queue.len().saturating_add(lanes.waiting()) > lanes.limit();
        self.lanes.get().is_some_and(busy)
    }

    /// Comes back to a pod later, with an event.
    fn wake(self: &Arc<Self>, uid: &Uid, after: Duration, event: Event) {
        let (shell, uid) = (self.clone(), uid.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            shell.table.step(&uid, event);
            shell.queue.add(&uid);
        });
    }
}

/// The pause after so many failures in a row: 0.2 s doubled each time, at most a minute.
fn backoff(attempts: u32) -> Duration {
    Duration::from_millis(200 << attempts.saturating_sub(1).min(9)).min(Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backoff_doubles_up_to_a_minute() {
        assert_eq!(backoff(1), Duration::from_millis(200));
        assert_eq!(backoff(2), Duration::from_millis(400));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(60));
    }
}
