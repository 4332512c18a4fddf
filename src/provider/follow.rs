//! What a pod needs beside it: copies of the ConfigMaps and Secrets that it refers to, and tokens of its service account.
//!
//! Everything is copied before the delegate is created, and nothing that no pod refers to. A copy is shared by all pods that
//! need it, and by all virtual nodes of this host, each of which has a label on it; the last one that needs it no longer
//! deletes it. Who needs what stands in annotations of the delegates ([`needs`]), so that nothing has to be remembered.
//!
//! ```text
//!   create_pod ── prepare ──┐             ┌── GET, TokenRequest ──▶ host
//!   watch of delegates ─────┼─▶ Copy ─────┤
//!   watches at home ────────┤  (one at a  └── create, patch, delete ──▶ target
//!   watches of copies ──────┘   time each)
//! ```

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;
use futures::future::join_all;
use kube::Client;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::accounts::Tokens;
use self::copies::{Copy, Home, Outcome, Trouble, now};
use self::copy::Owner;
use self::names::{CopyKind, Key, Names, Need};
use self::needs::Needs;
use self::references::Reference;
use self::vouch::{Claim, Warrant};
use super::names as annotations;
use super::places::Places;
use super::reach::Reach;
use super::translate::Translation;
use crate::kubelet::provider::{HostKind, HostView, Obstacle, PodDocument, PodError, PodKey, PodNotice};

pub mod accounts;
pub mod copy;
pub mod names;
pub mod needs;
pub mod references;
pub mod variables;

mod copies;
mod vouch;
mod watches;

/// How long a copy outlives the last pod that needs it: the next pod often comes at once.
const LINGER: Duration = Duration::from_secs(5);

/// After what time it is looked again for what was missing a moment ago: when the answer that it is missing has been taken in.
const DOUBT: Duration = Duration::from_millis(500);

/// How often it is looked whether tokens are to be renewed, in memory.
const TICK: Duration = Duration::from_secs(10);

/// How many copies are worked on at the same time, beside those that pods wait for.
const AT_ONCE: usize = 8;

/// The copies of one virtual node in one target. Everything that runs for them ends with this.
pub struct Follow {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

/// A target, as far as copies go.
pub struct There {
    /// How to reach it.
    pub client: Client,
    /// Where in it something may be read.
    pub reach: Reach,
    /// Where in it things are.
    pub places: Places,
}

/// What all tasks share.
struct Shared {
    client: Client,
    reach: Reach,
    places: Places,
    view: Arc<dyn HostView>,
    owner: Owner,
    warrant: Warrant,
    names: Names,
    needs: Mutex<Needs>,
    copies: DashMap<Key, Arc<Copy>>,
    /// What is watched at home, by kind and namespace.
    homes: Mutex<HashMap<(HostKind, Arc<str>), AbortHandle>>,
    notices: Mutex<Option<mpsc::Sender<PodNotice>>>,
    permits: Semaphore,
    stop: CancellationToken,
}

/// What a pod that can be created now has in the target. Unless it is said to be made, its needs end with this.
pub struct Prepared<'a> {
    shared: &'a Arc<Shared>,
    who: String,
    keys: Vec<Key>,
    made: bool,
    /// What its copies are called.
    pub names: Names,
    /// What its delegate has to say about itself: annotations.
    pub annotations: Vec<(String, String)>,
    /// What its owner should know: optional things of which its variables are to be made, and that home does not have.
    pub remarks: Vec<Obstacle>,
}

impl Prepared<'_> {
    /// The delegate was created.
    pub fn made(mut self) {
        self.made = true;
        self.shared.needs().made(&self.who, &self.keys);
        self.shared.sweep();
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if !self.made {
            self.shared.needs().unpin(&self.who);
            self.shared.sweep();
        }
    }
}

impl Follow {
    /// Begins to look after the copies of this owner in a target; `choice` is the target's name, where pods have a choice.
    pub fn start(there: There, view: Arc<dyn HostView>, owner: Owner, choice: Option<String>) -> Self {
        let There { client, reach, places } = there;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            client,
            reach,
            places,
            view,
            names: Names::new(&owner.host_id),
            warrant: Warrant { node: owner.node.clone(), target: choice },
            owner,
            needs: Mutex::default(),
            copies: DashMap::new(),
            homes: Mutex::default(),
            notices: Mutex::default(),
            permits: Semaphore::new(AT_ONCE),
            stop: stop.clone(),
        });
        shared.spawn(shared.clone().watch_copies(HostKind::ConfigMap));
        shared.spawn(shared.clone().watch_copies(HostKind::Secret));
        shared.spawn(shared.clone().tick());
        Self { shared, _stop: stop.drop_guard() }
    }

    /// The names of copies of this namespace of home where nothing is in the way.
    pub fn names(&self, namespace: &str) -> Names {
        self.shared.names_in(namespace)
    }

    /// Who is to be told when a pod that waits may be tried again.
    pub fn tell(&self, notices: mpsc::Sender<PodNotice>) {
        *lock(&self.shared.notices) = Some(notices);
    }

    /// Sees to it that everything is there that a delegate needs, in this namespace of the target.
    ///
    /// # Errors
    /// [`PodError::Waiting`] where something is missing at home or cannot be copied; the pod is woken when it can.
    pub async fn prepare(
        &self,
        pod: &PodDocument,
        translation: &Translation,
        namespace: &str,
        namespace_uid: &str,
    ) -> Result<Prepared<'_>, PodError> {
        let shared = &self.shared;
        let names = shared.names_in(pod.namespace());
        let who = who(&pod.key());
        shared.needs().begin(&who);
        let mut prepared = Prepared {
            shared,
            who: who.clone(),
            keys: vec![],
            made: false,
            names,
            annotations: vec![],
            remarks: vec![],
        };
        let place = Place { pod, namespace: namespace.into(), namespace_uid: Some(namespace_uid) };
        let Found { mut needs, mut failed, absent, remarks } =
            shared.find_all(&place, &translation.references, &mut prepared.names).await;
        prepared.remarks = remarks;
        if let (None, Some(tokens)) = (&failed, &translation.tokens) {
            match shared.provide_tokens(&place, tokens).await {
                Ok(need) => {
                    needs.push(need);
                    // Plain strings and numbers always serialize.
                    let text = serde_json::to_string(tokens).unwrap_or_default();
                    prepared.annotations.push((annotations::TOKENS.into(), text));
                }
                Err(error) => failed = Some(error),
            }
        }
        if let Some(error) = failed {
            // It counts for a while, so that home's watch goes on and can wake it.
            prepared.made = true;
            shared.wait(&place, absent);
            return Err(error);
        }
        if !needs.is_empty() {
            prepared.annotations.push((annotations::FOLLOWS.into(), names::print(&needs)));
        }
        prepared.keys = needs.iter().map(|need| key(&place.namespace, need.kind, &need.name)).collect();
        Ok(prepared)
    }

    /// Sees to it that what a live delegate has come to refer to is there as well, in this namespace of the target, and
    /// says what things are called.
    ///
    /// # Errors
    /// As [`Follow::prepare`].
    pub async fn extend(
        &self,
        pod: &PodDocument,
        references: &[Reference],
        namespace: &str,
    ) -> Result<(Vec<Need>, Names), PodError> {
        let shared = &self.shared;
        let mut names = shared.names_in(pod.namespace());
        let place = Place { pod, namespace: namespace.into(), namespace_uid: None };
        let who = who(&pod.key());
        shared.needs().begin(&who);
        let Found { needs, failed, absent, .. } = shared.find_all(&place, references, &mut names).await;
        if let Some(error) = failed {
            shared.wait(&place, absent);
            return Err(error);
        }
        let keys: Vec<_> = needs.iter().map(|need| key(&place.namespace, need.kind, &need.name)).collect();
        let known = shared.needs().knows(&who);
        if known {
            shared.needs().also(&who, &keys);
            shared.needs().unpin(&who);
        } else {
            // The watch will show it, with what it says that it needs.
            shared.needs().made(&who, &keys);
        }
        shared.sweep();
        Ok((needs, names))
    }

    /// A list of the delegates begins.
    pub fn listing(&self) {
        self.shared.needs().listing();
    }

    /// A delegate is there, which may be over.
    pub fn seen(&self, delegate: &PodDocument, over: bool) {
        self.shared.delegate_seen(delegate, over);
    }

    /// The delegate of this proxy has gone.
    pub fn gone(&self, proxy: &PodKey) {
        self.shared.needs().gone(&who(proxy));
        self.shared.sweep();
    }

    /// The list of the delegates is complete.
    pub fn listed(&self) {
        self.shared.needs().listed();
        self.shared.sweep();
        // What was found while nobody knew who needs it.
        for copy in &self.shared.copies {
            if !self.shared.needs().has(copy.key()) {
                self.shared.look(copy.value(), LINGER);
            }
        }
    }
}

/// Where a pod's delegate goes.
struct Place<'a> {
    pod: &'a PodDocument,
    namespace: Arc<str>,
    /// `None` for a delegate that is there, and its namespace with it.
    namespace_uid: Option<&'a str>,
}

/// What became of references.
struct Found<'a> {
    needs: Vec<Need>,
    failed: Option<PodError>,
    /// Those that home does not have.
    absent: Vec<&'a Reference>,
    /// See [`Prepared::remarks`].
    remarks: Vec<Obstacle>,
}

/// Marks, among the reasons of this module, a reference to something that home does not have. The pod's owner reads a reason
/// that names its kind, as the virtual-kubelet project has it.
const MISSING: &str = "ReferenceMissing";

fn key(namespace: &Arc<str>, kind: CopyKind, name: &str) -> Key {
    Key { namespace: namespace.clone(), kind, name: name.into() }
}

impl Shared {
    /// No code panics while it holds the lock.
    fn needs(&self) -> MutexGuard<'_, Needs> {
        lock(&self.needs)
    }

    /// The names of copies of this namespace of home where nothing is in the way.
    fn names_in(&self, namespace: &str) -> Names {
        self.names.clone().within(&self.places, namespace)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let stop = self.stop.clone();
        let task = async move {
            stop.run_until_cancelled(task).await;
        };
        tokio::spawn(task).abort_handle()
    }

    /// Copies all that a pod refers to, and takes in what things are called.
    async fn find_all<'a>(
        self: &Arc<Self>,
        place: &Place<'_>,
        references: &'a [Reference],
        names: &mut Names,
    ) -> Found<'a> {
        let results = join_all(references.iter().map(|reference| self.copy_one(place, reference))).await;
        let mut found = Found { needs: vec![], failed: None, absent: vec![], remarks: vec![] };
        let mut missing = vec![];
        for (result, reference) in results.into_iter().zip(references) {
            match result {
                Ok((need, outcome)) => {
                    if outcome == Outcome::Absent && reference.is_variable() {
                        let reason = format!("Optional{}NotFound", kind_name(reference.kind));
                        let message = missing_message(place.pod.namespace(), reference);
                        found.remarks.push(Obstacle { reason, message });
                    }
                    if need.name != names.of(reference.kind, &need.home) {
                        names.suffix(reference.kind, &need.home);
                    }
                    found.needs.push(need);
                }
                Err(PodError::Waiting { reason, message }) if reason == MISSING => {
                    missing.push(message);
                    found.absent.push(reference);
                }
                Err(error) => found.failed = Some(error),
            }
        }
        if !missing.is_empty() {
            let kind = found.absent.first().map_or("Object", |reference| kind_name(reference.kind));
            let reason = format!("Mandatory{kind}NotFound");
            found.failed = Some(PodError::Waiting { reason, message: missing.join("; ") });
        }
        found
    }

    /// A pod waits for what is not there.
    fn wait(self: &Arc<Self>, place: &Place<'_>, absent: Vec<&Reference>) {
        self.needs().wait(&who(&place.pod.key()), Instant::now());
        // What has appeared since it was looked for has told nobody.
        let names = self.names_in(place.pod.namespace());
        for reference in absent {
            let key = key(&place.namespace, reference.kind.into(), &names.of(reference.kind, &reference.name));
            if let Some(copy) = self.copies.get(&key) {
                self.look(copy.value(), DOUBT);
            }
        }
    }

    /// Copies what a pod refers to, under the first name that can be had.
    async fn copy_one(self: &Arc<Self>, place: &Place<'_>, reference: &Reference) -> Result<(Need, Outcome), PodError> {
        let (kind, home) = (CopyKind::from(reference.kind), reference.name.as_str());
        let names = self.names_in(place.pod.namespace());
        let (plain, suffixed) = (names.plain(home), names.suffixed(home));
        let candidates = if Names::is_reserved(reference.kind, home) {
            vec![suffixed]
        } else if self.copies.contains_key(&key(&place.namespace, kind, &suffixed)) {
            // The same name could not be had before, and its copy is there.
            vec![suffixed, plain.clone()]
        } else {
            vec![plain.clone(), suffixed]
        };
        let mut trouble = None;
        for name in candidates {
            let key = key(&place.namespace, kind, &name);
            let origin =
                Home::Object { kind: reference.kind, namespace: place.pod.namespace().into(), name: home.into() };
            let is_suffixed = name != plain;
            match self.ensure(place, &key, origin).await {
                Ok(Outcome::Present) => return Ok((Need { kind, name, home: home.into() }, Outcome::Present)),
                Ok(Outcome::Absent) if !reference.optional => return Err(missing(place.pod.namespace(), reference)),
                // Under the same name the pod would find whatever somebody puts there.
                Ok(Outcome::Absent) if is_suffixed => {
                    return Ok((Need { kind, name, home: home.into() }, Outcome::Absent));
                }
                Ok(Outcome::Absent) => {}
                Err(Trouble::OtherHost) => trouble = Some(Trouble::OtherHost.at(&reference.field, &key)),
                Err(error) => return Err(error.at(&reference.field, &key)),
            }
        }
        Err(trouble.unwrap_or_else(|| missing(place.pod.namespace(), reference)))
    }

    async fn provide_tokens(self: &Arc<Self>, place: &Place<'_>, tokens: &Tokens) -> Result<Need, PodError> {
        let name = accounts::secret_name(place.pod.uid());
        let key = key(&place.namespace, CopyKind::Token, &name);
        let origin = Home::Token {
            namespace: place.pod.namespace().into(),
            pod: place.pod.name().into(),
            uid: place.pod.uid().into(),
            tokens: Arc::new(tokens.clone()),
        };
        match self.ensure(place, &key, origin).await {
            Ok(_) => Ok(Need { kind: CopyKind::Token, home: name.clone(), name }),
            Err(error) => Err(error.at("spec.serviceAccountName", &key)),
        }
    }

    /// Sees to it that a copy is as home has it. The usual answer needs no request.
    async fn ensure(self: &Arc<Self>, place: &Place<'_>, key: &Key, home: Home) -> Result<Outcome, Trouble> {
        // Before it is looked up: what is needed is not removed.
        self.needs().pin(&who(&place.pod.key()), key);
        let (copy, _) = self.copy(key, Some(home));
        let mut state = copy.state.lock().await;
        let news = state.outcome != Some(Outcome::Present);
        let outcome = self.bring(&copy, &mut state, place.namespace_uid).await?;
        state.attempts = 0;
        drop(state);
        if news && outcome == Outcome::Present {
            self.wake(key);
        }
        Ok(outcome)
    }

    /// The copy of this name, and whether it is news where it comes from. What it comes from is watched from now on.
    fn copy(self: &Arc<Self>, key: &Key, home: Option<Home>) -> (Arc<Copy>, bool) {
        let copy = self.copies.entry(key.clone()).or_insert_with(|| Arc::new(Copy::new(key.clone()))).clone();
        let Some(home) = home else { return (copy, false) };
        let news = lock(&copy.home).replace(home.clone()).is_none();
        lock(&copy.claims).clear();
        // After it is said where the copy comes from: a watch that nothing needs ends.
        if let Home::Object { kind, namespace, .. } = &home {
            self.follow_home(*kind, namespace, &key.namespace);
        }
        (copy, news)
    }

    /// The copy of this name, and whether a delegate's word of where it comes from is news.
    fn claimed(self: &Arc<Self>, key: &Key, claim: Claim) -> (Arc<Copy>, bool) {
        let (copy, _) = self.copy(key, None);
        let news = lock(&copy.home).is_none();
        if news {
            lock(&copy.claims).push(claim);
        }
        (copy, news)
    }

    fn delegate_seen(self: &Arc<Self>, delegate: &PodDocument, over: bool) {
        let Some(proxy) = vouch::proxy(delegate) else { return };
        let who = who(&proxy);
        if over {
            self.needs().ended(&who);
            return self.sweep();
        }
        if self.needs().knows(&who) {
            return self.needs().seen(&who, Vec::new);
        }
        let needs = names::parse(delegate.annotation(annotations::FOLLOWS).unwrap_or_default());
        let namespace: Arc<str> = delegate.namespace().into();
        let keys: Vec<Key> = needs.iter().map(|need| key(&namespace, need.kind, &need.name)).collect();
        self.needs().seen(&who, || keys.clone());
        for (need, key) in needs.iter().zip(&keys) {
            let (copy, news) = self.claimed(key, Claim::new(&proxy, need));
            if news {
                self.look(&copy, Duration::ZERO);
            }
        }
        self.sweep();
    }

    /// Looks at what nobody needs any more, after a while.
    fn sweep(self: &Arc<Self>) {
        let freed = self.needs().take_freed();
        for key in freed {
            if let Some(copy) = self.copies.get(&key) {
                self.look(copy.value(), LINGER);
            }
        }
    }

    /// Looks at a copy, now or later.
    fn look(self: &Arc<Self>, copy: &Arc<Copy>, after: Duration) {
        if after.is_zero() && copy.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let (shared, copy) = (self.clone(), copy.clone());
        self.spawn(async move {
            tokio::time::sleep(after).await;
            // It is never closed.
            let _permit = shared.permits.acquire().await;
            shared.settle(&copy).await;
        });
    }

    /// Those that wait for this may be tried again.
    fn wake(&self, key: &Key) {
        let waiting = self.needs().waiting(key);
        let notices = lock(&self.notices).clone();
        if let (false, Some(notices)) = (waiting.is_empty(), notices) {
            self.spawn(async move {
                for who in waiting {
                    let uid = who.split(' ').next().unwrap_or_default().into();
                    // Nobody may listen any more; then there is nobody who waits.
                    let _ = notices.send(PodNotice::Wake(uid)).await;
                }
            });
        }
    }

    /// Renews tokens and forgets pods that wait no longer, now and then.
    async fn tick(self: Arc<Self>) {
        let mut interval = tokio::time::interval(TICK);
        loop {
            interval.tick().await;
            self.needs().expire(Instant::now());
            self.sweep();
            let now = now();
            for copy in &self.copies {
                if copy.key().kind == CopyKind::Token && copy.renewal.load(Ordering::SeqCst) <= now {
                    self.look(copy.value(), Duration::ZERO);
                }
            }
        }
    }
}

/// By what a pod is known among [`Needs`]. The UID alone would do, were it not that anybody in the target can write it on a pod
/// elsewhere.
fn who(proxy: &PodKey) -> String {
    format!("{} {proxy}", proxy.uid)
}

fn missing(namespace: &str, reference: &Reference) -> PodError {
    PodError::Waiting { reason: MISSING.into(), message: missing_message(namespace, reference) }
}

fn missing_message(namespace: &str, reference: &Reference) -> String {
    let (field, name) = (&reference.field, &reference.name);
    let kind = kind_name(reference.kind).to_lowercase();
    format!("{field}: {kind} {namespace}/{name} does not exist; create it")
}

fn kind_name(kind: HostKind) -> &'static str {
    match kind {
        HostKind::ConfigMap => "ConfigMap",
        HostKind::Secret => "Secret",
        HostKind::Service => "Service",
    }
}

/// No code panics while it holds such a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
