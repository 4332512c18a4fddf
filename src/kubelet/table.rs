//! All records of one virtual node, and what the shell keeps beside each of them.
//!
//! Both watches and all workers change records only through here. The map is a [`DashMap`]; no guard of it leaves this
//! module, so none is held across an await.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dashmap::DashMap;
use serde_json::Value;

use super::document::{PodDocument, PodKey};
use super::packed::Compact;
use super::provider::{Instance, Obstacle, ProviderPod};
use super::sites::{Index, NOWHERE};
use super::step::{Action, Answer, Event, InstanceView, Presence, ProxyView, Reach, Record, step};
use super::view::{Form, Home, instance_view, proxy_view};
use super::way::{Mark, Observer, Way};
use crate::shared::Shared;
use word::{Word, Words};

pub use ways::Census;
pub use weigh::{Found, Weighed};

/// The UID of a proxy pod.
pub type Uid = Arc<str>;

/// One of the two sides that are listed and watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host's proxies.
    Host,
    /// The instances at one site.
    Site(Index),
}

/// The records, by the proxy's UID.
#[derive(Debug)]
pub struct Table {
    /// In boxes: a map has room for up to twice as many as there are, and copies all when it grows.
    entries: DashMap<Uid, Box<Entry>>,
    /// The proxy that has this namespace and name ([`full_name`]) now.
    names: DashMap<Box<str>, Uid>,
    /// Those that proxies have.
    forms: Forms,
    host: Listing,
    /// By their indexes; at least one.
    sites: Vec<SiteState>,
    /// Proxies without a choice may have instances of a time in which there was nothing to choose: what is not listed
    /// everywhere is not known to be absent.
    unsure: AtomicBool,
    /// When the clock of pods' ways began.
    begun: Instant,
    observer: Option<Arc<dyn Observer>>,
}

type Forms = Mutex<Shared<Form>>;

/// What is known of a site.
#[derive(Debug, Default)]
struct SiteState {
    listing: Listing,
    /// A [`Reach`] as [`REACHES`] orders them.
    reach: AtomicU8,
    /// Two pods have called themselves instances of one proxy before home was listed.
    contested: AtomicBool,
}

const REACHES: [Reach; 3] = [Reach::Fine, Reach::Silent, Reach::Returning];

/// How far a side has been listed.
#[derive(Debug, Default)]
struct Listing {
    complete: AtomicBool,
    /// Counts the lists, so that what a list did not show can be told.
    epoch: AtomicU32,
}

/// What is kept of a pod.
#[derive(Debug)]
struct Entry {
    key: PodKey,
    record: Record,
    home: Home,
    /// The proxy as a whole until an instance has been made of it: in a burst there may be thousands that wait.
    body: Option<Compact>,
    words: Words,
    /// [`PodDocument::imprint`] of the proxy.
    imprint: Option<u64>,
    /// What was last written, what the API server made of it, and for which generation: where it normalizes or drops
    /// fields, the two differ for good, and that is no reason to write again.
    accepted: Option<(u64, u64, Option<i64>)>,
    /// The last look at whether home shows what the instance says.
    looked: Option<Weighed>,
    /// A timer for [`Event::ReportDue`] runs.
    deferred: bool,
    /// So does a slow one, for annotations.
    lingering: bool,
    /// The list of each side in which the pod was last seen.
    seen_host: u32,
    /// Of the two sites that have last shown an instance; there are hardly ever more.
    seen_sites: [(Index, u32); 2],
    /// How many instances have gone while somebody watched.
    gone: u32,
    /// When the record was made.
    since: Instant,
    /// How far it has come.
    way: Way,
}

/// A moment of the provider's side, as one pod has seen it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    site: Option<Index>,
    epoch: u32,
    gone: u32,
}

/// What a worker needs to write a report; a copy, since nothing may be held while it waits for the network.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Whose.
    pub key: PodKey,
    /// The proxy's version that the report is based on.
    pub version: u64,
    /// The proxy as home shows it.
    pub home: Home,
    /// The instance's last status; null where there is none.
    pub status: Value,
    /// The instance's annotations that the proxy may show.
    pub annotations: BTreeMap<String, String>,
    /// What keeps the instance from running.
    pub obstacle: Option<Obstacle>,
    /// What keeps the instance from following the newest spec.
    pub update: Option<Obstacle>,
    /// The instance is made of the newest spec.
    pub current: bool,
    /// See [`Table::reported`].
    pub accepted: Option<(u64, u64, Option<i64>)>,
    /// What it is, in short, for [`Table::looked`].
    pub weighed: Option<Weighed>,
}

impl Default for Table {
    fn default() -> Self {
        Self::new(1, false)
    }
}

impl Table {
    /// An empty table for so many sites. `unsure` says that proxies without a choice may have instances all the same.
    pub fn new(sites: usize, unsure: bool) -> Self {
        Self {
            entries: DashMap::default(),
            names: DashMap::default(),
            forms: Forms::default(),
            host: Listing::default(),
            sites: (0..sites.max(1)).map(|_| SiteState::default()).collect(),
            unsure: AtomicBool::new(unsure),
            begun: Instant::now(),
            observer: None,
        }
    }

    /// The same, of which somebody is told each step of a pod.
    #[must_use]
    pub fn observed(self, observer: Option<Arc<dyn Observer>>) -> Self {
        Self { observer, ..self }
    }

    /// A list of this side begins: absence means nothing before it ends.
    pub fn listing(&self, side: Side) {
        let listing = self.side(side);
        listing.epoch.fetch_add(1, Ordering::SeqCst);
        listing.complete.store(false, Ordering::SeqCst);
        if side == Side::Host {
            // What was taken for absent without having been seen to go may be in the list.
            for mut entry in self.entries.iter_mut() {
                if entry.record.proxy == Presence::Absent && !entry.record.memo.proxy_buried {
                    entry.record.proxy = Presence::Unknown;
                }
            }
        }
    }

    /// The list of this side is complete. Returns the UIDs of all records, since each may now be decided, with what
    /// follows at once for those that the list did not show; first those without an instance, which somebody may wait for.
    pub fn listed(&self, side: Side) -> Vec<(Uid, Vec<Action>)> {
        let listing = self.side(side);
        let epoch = listing.epoch.load(Ordering::SeqCst);
        // First the flag: an entry that is made from here on sees it by itself.
        listing.complete.store(true, Ordering::SeqCst);
        if self.sites.iter().all(|site| site.listing.complete.load(Ordering::SeqCst)) {
            self.unsure.store(false, Ordering::SeqCst);
        }
        let (mut keys, mut others) = (vec![], vec![]);
        for mut entry in self.entries.iter_mut() {
            let gone = match side {
                Side::Host => {
                    let known = entry.record.proxy.there().is_some() || entry.record.memo.watch_behind;
                    (entry.seen_host != epoch && known).then_some(Event::ProxyGone)
                }
                Side::Site(index) if entry.seen_sites.contains(&(index, epoch)) => None,
                Side::Site(index) => match (&entry.record.instance, &entry.record.elsewhere) {
                    (Presence::There(first), _) if first.site == index => Some(Event::NoInstance),
                    (_, Some(second)) if second.site == index => Some(Event::InstanceGone(second.uid.clone())),
                    _ => None,
                },
            };
            let actions = gone.map_or_else(Vec::new, |gone| step(&mut entry.record, gone));
            if side != Side::Host && entry.record.instance == Presence::Absent {
                self.mark(&mut entry, Mark::Gone);
            }
            let keys = if entry.record.instance.there().is_some() { &mut others } else { &mut keys };
            keys.push((entry.key().clone(), actions));
        }
        keys.append(&mut others);
        keys
    }

    /// Whether a site can be reached; one that is not there cannot.
    pub fn reach(&self, site: Index) -> Reach {
        let Some(state) = self.sites.get(usize::from(site)) else { return Reach::Silent };
        REACHES[usize::from(state.reach.load(Ordering::SeqCst)) % REACHES.len()]
    }

    /// A site can be reached, or not, from now on. Returns the UIDs of its records, since each may now be decided in another
    /// way.
    pub fn set_reach(&self, site: Index, reach: Reach) -> Vec<Uid> {
        let place = REACHES.iter().position(|one| *one == reach).and_then(|place| u8::try_from(place).ok());
        if let Some(state) = self.sites.get(usize::from(site)) {
            state.reach.store(place.unwrap_or_default(), Ordering::SeqCst);
        }
        let there = self.entries.iter().filter(|entry| place_of(&entry.record).is_none_or(|known| known == site));
        there.map(|entry| entry.key().clone()).collect()
    }

    /// Where a pod runs, or will, if that is known.
    pub fn site(&self, uid: &Uid) -> Option<Index> {
        place_of(&self.entries.get(uid)?.record)
    }

    /// Whether this side has been listed completely.
    pub fn is_listed(&self, side: Side) -> bool {
        self.side(side).complete.load(Ordering::SeqCst)
    }

    /// Whether everything has been listed completely.
    pub fn all_listed(&self) -> bool {
        let sites = self.sites.iter().map(|site| &site.listing);
        sites.chain([&self.host]).all(|listing| listing.complete.load(Ordering::SeqCst))
    }

    /// Whether pods of a site have called themselves instances of one proxy although they have different names, when nobody knew
    /// the proxy's own yet: the wrong one may have been believed, and the right one is to be listed anew. Says so once.
    pub fn contested(&self, site: Index) -> bool {
        self.sites.get(usize::from(site)).is_some_and(|state| state.contested.swap(false, Ordering::SeqCst))
    }

    /// The host shows a proxy; `want` is the provider's fingerprint of it, and `site` where it runs.
    pub fn proxy_seen(&self, pod: &PodDocument, want: u64, site: Option<Index>) -> Uid {
        let (uid, view) = (Uid::from(pod.uid()), proxy_view(pod, want, site));
        self.names.insert(full_name(pod.namespace(), pod.name()), uid.clone());
        let mut entry = self.entry(&uid, || pod.key());
        if entry.key != pod.key() {
            // Somebody's pod at a site has claimed to be its instance.
            **entry = Entry::new(pod.key());
            self.conclude(&mut entry.record);
        }
        entry.seen_host = self.host.epoch.load(Ordering::SeqCst);
        let bound = self.is_new(&entry).then(|| self.waited(pod, &view));
        entry.see_proxy(pod, view, &self.forms, Event::ProxySeen);
        if let Some(waited) = bound {
            self.mark(&mut entry, Mark::Bound(waited));
            self.mark_found(&mut entry);
        }
        self.mark_proxy(&mut entry);
        uid
    }

    /// The provider's fingerprint of a proxy that has not changed in anything that it depends on.
    pub fn known_want(&self, pod: &PodDocument) -> Option<u64> {
        let (imprint, entry) = (pod.imprint()?, self.entries.get(pod.uid())?);
        entry.record.proxy.there().filter(|_| entry.imprint == Some(imprint)).map(|known| known.want)
    }

    /// The host shows a proxy in a version that is known already: the watch tells of an own write as well. Nothing of the
    /// document is read for that. `None` where there is more to it.
    pub fn proxy_known(&self, pod: &PodDocument) -> Option<Uid> {
        let uid = Uid::from(pod.uid());
        let mut entry = self.entries.get_mut(&uid)?;
        let known = entry.known(pod.version()).filter(|_| entry.key == pod.key())?;
        let made = entry.record.instance.there().is_some_and(|instance| instance.sent == known.want);
        let over = known.deleting.is_some() || known.health.phase.terminal();
        // Something may still have to be made of it.
        if !made && !over && entry.body.is_none() {
            return None;
        }
        self.conclude(&mut entry.record);
        entry.settle();
        entry.seen_host = self.host.epoch.load(Ordering::SeqCst);
        step(&mut entry.record, Event::ProxySeen(known));
        self.mark_proxy(&mut entry);
        drop(entry);
        self.names.insert(full_name(pod.namespace(), pod.name()), uid.clone());
        Some(uid)
    }

    /// The host shows a proxy that cannot be read: it is there, and stays what it was.
    pub fn proxy_unclear(&self, key: &PodKey) {
        let uid =
            if key.uid.is_empty() { self.named(&key.namespace, &key.name) } else { Some(key.uid.as_str().into()) };
        if let Some(mut entry) = uid.and_then(|uid| self.entries.get_mut(&uid)) {
            entry.seen_host = self.host.epoch.load(Ordering::SeqCst);
        }
    }

    /// A site shows an instance that cannot be read: it is there, and stays what it was.
    pub fn instance_unclear(&self, site: Index, instance: &Arc<str>) {
        let epoch = self.epoch(Side::Site(site));
        for mut entry in self.entries.iter_mut() {
            if entry.record.instances().any(|there| there.uid == *instance) {
                entry.see_site(site, epoch);
            }
        }
    }

    /// The instances that the list of a site has not shown, which is complete: their proxies, and their own UIDs. They count as
    /// shown until somebody has looked for each.
    pub fn unseen(&self, site: Index) -> Vec<(PodKey, Arc<str>)> {
        let epoch = self.epoch(Side::Site(site));
        let mut unseen = vec![];
        for mut entry in self.entries.iter_mut().filter(|entry| !entry.seen_sites.contains(&(site, epoch))) {
            let missing = entry.record.instances().find(|one| one.site == site).map(|one| one.uid.clone());
            if let Some(instance) = missing {
                entry.see_site(site, epoch);
                unseen.push((entry.key.clone(), instance));
            }
        }
        unseen
    }

    /// Whether a proxy still has this instance, as far as is known.
    pub fn has(&self, uid: &Uid, instance: &str) -> bool {
        self.known(uid).is_some_and(|entry| entry.record.instances().any(|one| &*one.uid == instance))
    }

    /// The host shows that a proxy has gone.
    pub fn proxy_gone(&self, key: &PodKey) -> Uid {
        let uid = Uid::from(key.uid.as_str());
        let mut entry = self.entry(&uid, || key.clone());
        step(&mut entry.record, Event::ProxyGone);
        entry.body = None;
        self.mark(&mut entry, Mark::Removed);
        uid
    }

    /// A site shows an instance. Returns whose it is, and what follows.
    pub fn instance_seen(&self, site: Index, pod: ProviderPod) -> (Uid, Vec<Action>) {
        let uid = Uid::from(pod.key.uid.as_str());
        let view = instance_view(&pod, site);
        let epoch = self.epoch(Side::Site(site));
        let mut entry = self.entry(&uid, || pod.key.clone());
        if entry.key != pod.key {
            tracing::warn!(pod = %pod.key, proxy = %entry.key, "somebody's pod claims to be the instance of another proxy");
            if let Some(state) = self.sites.get(usize::from(site)).filter(|_| !self.is_listed(Side::Host)) {
                state.contested.store(true, Ordering::SeqCst);
            }
            return (uid, vec![]);
        }
        let actions = entry.see_instance(pod, epoch, &view.clone(), Event::InstanceSeen(view));
        if !self.is_listed(Side::Site(site)) {
            self.mark(&mut entry, Mark::Found(site));
        }
        if entry.record.instance.there().is_some_and(|instance| instance.health.ready) {
            self.mark(&mut entry, Mark::ReadyThere);
        }
        (uid, actions)
    }

    /// The provider shows that an instance has gone. Also returns the proxy that has the same name now and may have waited
    /// for it, if that is another one; and what to do at once.
    pub fn instance_gone(&self, key: &PodKey, instance: &Arc<str>) -> (Uid, Option<Uid>, Vec<Action>) {
        let uid = Uid::from(key.uid.as_str());
        let actions = {
            let mut entry = self.entry(&uid, || key.clone());
            if entry.key != *key {
                return (uid.clone(), None, vec![]);
            }
            entry.gone = entry.gone.wrapping_add(1);
            let actions = step(&mut entry.record, Event::InstanceGone(instance.clone()));
            if entry.record.instance == Presence::Absent {
                self.mark(&mut entry, Mark::Gone);
            }
            actions
        };
        let namesake = self.named(&key.namespace, &key.name).filter(|other| *other != uid);
        (uid, namesake, actions)
    }

    /// Runs [`step`] on a record; nothing where there is none.
    pub fn step(&self, uid: &Uid, event: Event) -> Vec<Action> {
        let Some(mut entry) = self.known(uid) else { return vec![] };
        if event == Event::ReportDue {
            entry.deferred = false;
            entry.lingering = false;
        }
        let mark = match event {
            Event::Answer(Answer::Stopping(..)) => Some(Mark::Asked),
            Event::Answer(Answer::ProxyDeleted) => Some(Mark::Removed),
            _ => None,
        };
        let actions = step(&mut entry.record, event);
        if let Some(mark) = mark {
            self.mark(&mut entry, mark);
        }
        actions
    }

    /// Which list of this side is the latest, for an answer to be told from one that is older than a list.
    pub fn epoch(&self, side: Side) -> u32 {
        self.side(side).epoch.load(Ordering::SeqCst)
    }

    /// What is to be remembered while the provider is asked for a pod; see [`Table::made`].
    pub fn asking(&self, uid: &Uid) -> Asked {
        let (site, gone) = self.entries.get(uid).map_or((None, 0), |entry| (place_of(&entry.record), entry.gone));
        Asked { site, epoch: self.epoch_of(site), gone }
    }

    /// The same, where another site is asked than that where the pod is or will be.
    pub fn asking_at(&self, uid: &Uid, site: Index) -> Asked {
        Asked { site: Some(site), epoch: self.epoch_of(Some(site)), ..self.asking(uid) }
    }

    fn epoch_of(&self, site: Option<Index>) -> u32 {
        self.epoch(Side::Site(site.unwrap_or(NOWHERE)))
    }

    /// The provider was asked, and has nothing; unless another site has to be asked by now.
    pub fn missing(&self, uid: &Uid, asked: Asked) -> Vec<Action> {
        let here = self.asking(uid).site == asked.site;
        self.step(uid, if here { Event::Answer(Answer::InstanceMissing) } else { Event::Look })
    }

    /// The worker's create or update has made this. If a list has begun since it was asked, or an instance has gone, what was
    /// made may have gone as well, and nobody would ever tell: then it counts for nothing, and is asked for again. Where
    /// another site was chosen meanwhile, it is where it was asked for all the same.
    pub fn made(&self, uid: &Uid, pod: ProviderPod, asked: Asked, answer: fn(InstanceView) -> Answer) -> Vec<Action> {
        let now = Asked { site: asked.site, epoch: self.epoch_of(asked.site), gone: self.asking(uid).gone };
        let (Some(site), true) = (asked.site, asked == now) else {
            return self.step(uid, Event::Answer(Answer::Doubtful(asked.site)));
        };
        let (view, epoch) = (instance_view(&pod, site), asked.epoch);
        let Some(mut entry) = self.known(uid) else { return vec![] };
        entry.see_instance(pod, epoch, &view.clone(), Event::Answer(answer(view)))
    }

    /// The worker's report was written and has made the proxy this; `digest` and `generation` are of what was asked for.
    pub fn reported(&self, uid: &Uid, pod: &PodDocument, want: u64, asked: (u64, Option<i64>)) -> Vec<Action> {
        let Some(mut entry) = self.known(uid) else { return vec![] };
        // A report changes no choice.
        let site = entry.record.proxy.there().and_then(|proxy| proxy.site);
        let view = proxy_view(pod, want, site);
        let actions = entry.see_proxy(pod, view, &self.forms, |view| Event::Answer(Answer::Reported(view)));
        entry.accepted = Some((asked.0, entry.home.digest, asked.1));
        self.mark_proxy(&mut entry);
        actions
    }

    /// The same, where the watch has shown that version before the answer came. `None` where it has not.
    pub fn reported_known(&self, uid: &Uid, version: u64, asked: (u64, Option<i64>)) -> Option<Vec<Action>> {
        let mut entry = self.known(uid)?;
        let known = entry.known(version)?;
        let actions = step(&mut entry.record, Event::Answer(Answer::Reported(known)));
        entry.accepted = Some((asked.0, entry.home.digest, asked.1));
        self.mark_proxy(&mut entry);
        Some(actions)
    }

    /// The proxy was changed by a write of ours, and is this now.
    pub fn written(
        &self,
        uid: &Uid,
        pod: &PodDocument,
        want: u64,
        site: Option<Index>,
        answer: fn(ProxyView) -> Answer,
    ) -> Vec<Action> {
        let view = proxy_view(pod, want, site);
        let Some(mut entry) = self.known(uid) else { return vec![] };
        entry.see_proxy(pod, view, &self.forms, |view| Event::Answer(answer(view)))
    }

    /// Marks that a report waits; `true` if the caller is to start the timer.
    pub fn defer(&self, uid: &Uid) -> bool {
        self.entries.get_mut(uid).is_some_and(|mut entry| !std::mem::replace(&mut entry.deferred, true))
    }

    /// Marks that annotations wait; `true` if the caller is to start the timer.
    pub fn linger(&self, uid: &Uid) -> bool {
        self.entries.get_mut(uid).is_some_and(|mut entry| !std::mem::replace(&mut entry.lingering, true))
    }

    /// Whether a report that waited is due.
    pub fn report_due(&self, uid: &Uid) -> bool {
        self.entries.get(uid).is_some_and(|entry| entry.record.memo.report_due)
    }

    /// What a report is made from.
    pub fn snapshot(&self, uid: &Uid) -> Option<Snapshot> {
        let entry = self.entries.get(uid)?;
        let proxy = entry.record.proxy.there()?;
        let sent = entry.record.instance.there().map(|instance| instance.sent);
        Some(Snapshot {
            key: entry.key.clone(),
            version: proxy.version,
            home: entry.home.clone(),
            status: entry.word().status(),
            annotations: entry.word().annotations(),
            obstacle: entry.word().obstacle.clone(),
            update: sent.and_then(|_| entry.record.memo.obstacle.clone()),
            current: sent.is_none_or(|sent| sent == proxy.want),
            accepted: entry.accepted,
            weighed: Weighed::of(&entry),
        })
    }

    /// The proxy as a whole, if it is still kept.
    pub fn body(&self, uid: &Uid) -> Option<PodDocument> {
        serde_json::from_slice(&self.entries.get(uid)?.body.as_ref()?.text()).ok()
    }

    /// Whose record it is.
    pub fn key(&self, uid: &Uid) -> Option<PodKey> {
        Some(self.entries.get(uid)?.key.clone())
    }

    /// The obstacle that the last attempt met, and that home shows.
    pub fn known_obstacle(&self, uid: &Uid) -> Option<Obstacle> {
        self.entries.get(uid)?.record.memo.obstacle.clone()
    }

    /// The instance as the provider's calls name it.
    pub fn instance(&self, uid: &Uid) -> Option<Instance> {
        let entry = self.entries.get(uid)?;
        let view = entry.record.instance.there()?;
        Some(Instance {
            uid: view.uid.clone(),
            version: view.version,
            sent: view.sent,
            deleting: view.deleting,
            obstacle: entry.word().obstacle.clone(),
        })
    }

    /// Drops a record on which both sides are absent; anything newer keeps it.
    pub fn forget(&self, uid: &Uid) {
        let over = |record: &Record| record.proxy == Presence::Absent && record.instance == Presence::Absent;
        if let Some((_, entry)) = self.entries.remove_if(uid, |_, entry| over(&entry.record)) {
            let name = full_name(&entry.key.namespace, &entry.key.name);
            self.names.remove_if(&name, |_, holder| holder == uid);
        }
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn named(&self, namespace: &str, name: &str) -> Option<Uid> {
        self.names.get(&full_name(namespace, name)).map(|uid| uid.clone())
    }

    fn side(&self, side: Side) -> &Listing {
        match side {
            Side::Host => &self.host,
            // Nothing is ever listed at a site that is not there.
            Side::Site(index) => self.sites.get(usize::from(index)).map_or(&NEVER, |state| &state.listing),
        }
    }

    fn known(&self, uid: &Uid) -> Option<dashmap::mapref::one::RefMut<'_, Uid, Box<Entry>>> {
        let mut entry = self.entries.get_mut(uid)?;
        self.conclude(&mut entry.record);
        entry.settle();
        Some(entry)
    }

    fn entry(&self, uid: &Uid, key: impl FnOnce() -> PodKey) -> dashmap::mapref::one::RefMut<'_, Uid, Box<Entry>> {
        let mut entry = self.entries.entry(uid.clone()).or_insert_with(|| Box::new(Entry::new(key())));
        self.conclude(&mut entry.record);
        entry.settle();
        entry
    }

    /// Whether a pod of which no instance was seen has none.
    fn is_absent(&self, record: &Record) -> bool {
        let everywhere = || self.sites.iter().all(|site| site.listing.complete.load(Ordering::SeqCst));
        match &record.proxy {
            Presence::There(proxy) => match proxy.site {
                Some(site) => self.is_listed(Side::Site(site)),
                // The choice is written before anything is created.
                None => !self.unsure.load(Ordering::SeqCst) || everywhere(),
            },
            Presence::Absent | Presence::Unknown => everywhere(),
        }
    }

    /// What is unknown of a side that is listed is absent.
    fn conclude(&self, record: &mut Record) {
        if record.proxy == Presence::Unknown && self.is_listed(Side::Host) {
            // Not `ProxyGone`: the proxy may be new rather than gone.
            record.proxy = Presence::Absent;
        }
        if record.instance == Presence::Unknown && self.is_absent(record) {
            record.instance = Presence::Absent;
        }
        // Without a place there is nothing that could be silent.
        record.reach = place_of(record).map_or(Reach::Fine, |site| self.reach(site));
        if record.reach != Reach::Silent {
            record.memo.give_up = false;
        }
    }
}

/// The reason of the condition `PodScheduled` (v1.PodReasonUnschedulable) with which a scheduler gives up for now.
pub const UNSCHEDULABLE: &str = "Unschedulable";

/// The reason of an obstacle: claims that the pod needs are not there, for which its scheduler waits without a word.
pub const CLAIMS_AWAITED: &str = "WaitingForResourceClaims";

/// Whether an obstacle is one for which a pod cannot be scheduled where it is.
pub fn is_unschedulable(obstacle: &Obstacle) -> bool {
    [UNSCHEDULABLE, CLAIMS_AWAITED].contains(&obstacle.reason.as_str())
}

/// A listing of a site that does not exist.
static NEVER: Listing = Listing { complete: AtomicBool::new(false), epoch: AtomicU32::new(0) };

/// Namespace and name in one piece; neither can have a slash.
fn full_name(namespace: &str, name: &str) -> Box<str> {
    [namespace, "/", name].concat().into()
}

/// Where a pod's instance is, or will be.
fn place_of(record: &Record) -> Option<Index> {
    let chosen = record.proxy.there().and_then(|proxy| proxy.site);
    record.instance.there().map(|instance| instance.site).or(chosen)
}

impl Entry {
    fn new(key: PodKey) -> Self {
        Self {
            key,
            record: Record::default(),
            home: Home::default(),
            body: None,
            words: Words::default(),
            imprint: None,
            accepted: None,
            looked: None,
            deferred: false,
            lingering: false,
            seen_host: 0,
            seen_sites: [(NOWHERE, 0); 2],
            gone: 0,
            since: Instant::now(),
            way: Way::default(),
        }
    }

    /// The proxy, if this is the version in which it was read last.
    fn known(&self, version: u64) -> Option<ProxyView> {
        self.record.proxy.there().filter(|known| known.version == version && version > 0).cloned()
    }

    fn see_proxy(
        &mut self,
        pod: &PodDocument,
        view: ProxyView,
        forms: &Forms,
        event: impl Fn(ProxyView) -> Event,
    ) -> Vec<Action> {
        let (version, want) = (view.version, view.want);
        let actions = step(&mut self.record, event(view));
        if self.record.proxy.there().is_some_and(|known| known.version == version) {
            self.home = Home::of(pod);
            let form = std::mem::take(&mut self.home.form);
            // Nothing panics while they are locked.
            self.home.form = forms.lock().unwrap_or_else(PoisonError::into_inner).one(form);
            self.imprint = pod.imprint();
            let made = self.record.instance.there().is_some_and(|instance| instance.sent == want);
            let over = self.home.deleting || self.home.phase.terminal();
            // In a restart the instance may not have been listed yet. What has started has one as a rule; if not, it is read again.
            let listed_soon = self.home.started && self.record.instance == Presence::Unknown;
            self.body =
                if made || over || listed_soon { None } else { pod.to_text().ok().map(|text| Compact::new(&text)) };
        }
        actions
    }

    /// The latest list of this site, or what came after it, has shown an instance.
    fn see_site(&mut self, site: Index, epoch: u32) {
        if self.seen_sites[0].0 != site {
            self.seen_sites.swap(0, 1);
        }
        self.seen_sites[0] = (site, epoch);
    }

    fn see_instance(&mut self, pod: ProviderPod, epoch: u32, view: &InstanceView, event: Event) -> Vec<Action> {
        let actions = step(&mut self.record, event);
        self.see_site(view.site, epoch);
        self.words.keep(pod, view, &self.record);
        let known = self.record.instance.there();
        if known.is_some_and(|known| known.uid == view.uid && known.version == view.version)
            && self.record.proxy.there().is_some_and(|proxy| proxy.want == view.sent)
        {
            self.body = None;
        }
        actions
    }

    /// Before each step, since the one before may have changed which instance counts.
    fn settle(&mut self) {
        self.words.settle(&self.record);
    }

    /// What the instance that counts has last shown.
    fn word(&self) -> &Word {
        self.words.current(&self.record)
    }
}

mod select;
mod ways;
mod weigh;
mod word;

#[cfg(test)]
mod tests;
