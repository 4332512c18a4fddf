//! Several targets behind one virtual node: who gets a pod, and what the node offers as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::capacity;
use super::claims::Claims;
use super::names;
use super::offload;
use super::placement::{self, Candidate, Strategy};
use super::requests::{self, Requests};
use super::target::TargetProvider;
use crate::kubelet::contact::Contact;
use crate::kubelet::provider::{NodeProvider, NodeReport, PodDocument, PodError, Source};
use crate::kubelet::sites::{Chooser, Chosen, Index};

/// How long a choice counts although the target's watch does not show the delegate yet.
const RESERVATION: Duration = Duration::from_secs(60);

/// One of several targets.
pub struct Member {
    /// Its name.
    pub name: String,
    /// See [`Candidate::weight`].
    pub weight: u32,
    /// It takes no new pods, for it is being removed.
    pub leaving: bool,
    /// It takes no new pods, for somebody has closed it.
    pub cordoned: bool,
    /// What runs pods there.
    pub provider: Arc<TargetProvider>,
    /// Whether it answers.
    pub contact: watch::Receiver<Contact>,
}

/// The targets of one virtual node.
pub struct Fleet {
    node: String,
    members: Vec<Member>,
    strategy: Strategy,
    /// Choices that no watch shows yet, by the proxy's UID.
    reserved: Mutex<HashMap<String, Reserved>>,
    /// Where home's claims are kept: their pods have no choice.
    claims: Option<Arc<Claims>>,
    report: watch::Receiver<NodeReport>,
    _sum: JoinSet<()>,
}

struct Reserved {
    member: usize,
    requests: Requests,
    since: Instant,
}

impl Fleet {
    /// A fleet of these targets behind the node `node`, in the order of their sites.
    pub fn new(node: &str, members: Vec<Member>, strategy: Strategy, claims: Option<Arc<Claims>>) -> Self {
        let (sender, report) = watch::channel(NodeReport::default());
        let mut tasks = JoinSet::new();
        let sources = members.iter().map(|member| (member.provider.node_status(), member.contact.clone())).collect();
        tasks.spawn(sum(sources, sender));
        Self { node: node.into(), members, strategy, reserved: Mutex::default(), claims, report, _sum: tasks }
    }

    /// The target of a pod that no claim binds to one, by its index, and why; without a pod, that of one which asks for
    /// nothing.
    pub(super) fn choose_freely(
        &self,
        pod: Option<&PodDocument>,
        shunned: Option<Index>,
    ) -> Result<(usize, String), PodError> {
        let requests = pod.map(|pod| requests::of(&pod.spec)).unwrap_or_default();
        let uid = pod.map(PodDocument::uid).unwrap_or_default();
        let doubts = self.members.iter().map(|member| pod.and_then(|pod| member.doubt(pod))).collect();
        // Nothing waits while this is held, and no code panics.
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let mut candidates = self.candidates(uid, doubts, &mut reserved);
        let wish = pod.and_then(|pod| pod.annotation(names::OFFLOAD));
        for candidate in &mut candidates {
            let objection = offload::objection(wish, &self.node, &candidate.name);
            candidate.trouble = objection.or(candidate.trouble.take());
        }
        let (member, why) = placement::choose(self.strategy, &requests, &candidates, shunned.map(usize::from))
            .map_err(|none| PodError::Refused { reason: "NoTarget".into(), message: none.to_string() })?;
        if !uid.is_empty() {
            reserved.insert(uid.into(), Reserved { member, requests, since: Instant::now() });
        }
        Ok((member, why))
    }

    /// The target that keeps a pod's claims, if it has any.
    async fn bound(&self, pod: &PodDocument) -> Result<Option<(usize, String)>, PodError> {
        let Some(claims) = &self.claims else { return Ok(None) };
        let Some((target, claim)) = claims.target_of(pod).await? else { return Ok(None) };
        let refused = |message| PodError::Refused { reason: "NoTarget".into(), message };
        let place = self.members.iter().position(|member| member.name == target).ok_or_else(|| {
            refused(format!("its claim {claim} is kept in target {target}, which this node does not have any more"))
        })?;
        if let Some(trouble) = self.members[place].candidate().trouble {
            return Err(refused(format!("its claim {claim} is kept in target {target}: {trouble}")));
        }
        // It may have been reserved for when the claim was given its target; the watch will count it.
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner).remove(pod.uid());
        Ok(Some((place, format!("it keeps the claim {claim}"))))
    }

    fn candidates(
        &self,
        pod: &str,
        doubts: Vec<Option<String>>,
        reserved: &mut HashMap<String, Reserved>,
    ) -> Vec<Candidate> {
        reserved.retain(|uid, it| {
            uid != pod && it.since.elapsed() < RESERVATION && !self.members[it.member].provider.has(uid)
        });
        let members = self.members.iter().zip(doubts);
        let mut candidates: Vec<_> = members.map(|(member, doubt)| Candidate { doubt, ..member.candidate() }).collect();
        for it in reserved.values() {
            requests::add(&mut candidates[it.member].committed, &it.requests);
        }
        candidates
    }
}

impl Member {
    /// Why it would not take this pod now; not asked of one that takes none.
    fn doubt(&self, pod: &PodDocument) -> Option<String> {
        if self.leaving || self.cordoned || *self.contact.borrow() != Contact::Answers {
            return None;
        }
        self.provider.doubt(pod)
    }

    fn candidate(&self) -> Candidate {
        let report = self.provider.node_status().borrow().clone();
        let trouble = match &*self.contact.borrow() {
            _ if self.leaving => Some("it is being removed".into()),
            _ if self.cordoned => Some("it is cordoned".into()),
            Contact::Answers => report.trouble.as_ref().map(|trouble| trouble.message.clone()),
            Contact::Unheard => Some("it has not answered yet".into()),
            Contact::Doubtful(message) | Contact::Silent { message, .. } => Some(message.clone()),
        };
        let read = |(name, amount): (&String, &String)| Some((name.clone(), amount.parse().ok()?));
        Candidate {
            name: self.name.clone(),
            weight: self.weight,
            trouble,
            doubt: None,
            allocatable: report.allocatable.iter().filter_map(read).collect(),
            committed: self.provider.committed(),
        }
    }
}

#[async_trait]
impl Chooser for Fleet {
    async fn choose(&self, pod: &PodDocument, shunned: Option<Index>) -> Result<Chosen, PodError> {
        let (member, why) = match self.bound(pod).await? {
            Some(bound) => bound,
            None => self.choose_freely(Some(pod), shunned)?,
        };
        let site = Index::try_from(member).map_err(|error| PodError::NoAnswer(error.into()))?;
        Ok(Chosen { site, why })
    }
}

#[async_trait]
impl NodeProvider for Fleet {
    /// It answers if one of its targets does.
    async fn ping(&self) -> Result<(), Source> {
        let mut last: Source = "there are no targets".into();
        for member in &self.members {
            match &*member.contact.borrow() {
                Contact::Answers => return Ok(()),
                Contact::Unheard => {}
                Contact::Doubtful(message) | Contact::Silent { message, .. } => {
                    last = format!("target {}: {message}", member.name).into();
                }
            }
        }
        Err(last)
    }

    fn node_status(&self) -> watch::Receiver<NodeReport> {
        self.report.clone()
    }
}

/// Sums the reports of all targets up whenever one of them changes. A target that is out of reach offers nothing, since
/// nothing can be started there; one that is in trouble takes the node down only if all are.
async fn sum(
    mut sources: Vec<(watch::Receiver<NodeReport>, watch::Receiver<Contact>)>,
    sum: watch::Sender<NodeReport>,
) {
    loop {
        let reports: Vec<_> = sources
            .iter_mut()
            .map(|(report, contact)| {
                let silent = contact.borrow_and_update().is_silent();
                (report.borrow_and_update().clone(), silent)
            })
            .collect();
        let next = capacity::together(&reports);
        sum.send_if_modified(|known| {
            let news = *known != next;
            *known = next;
            news
        });
        let changes = sources.iter_mut().map(|(report, contact)| {
            Box::pin(async move {
                tokio::select! {
                    changed = report.changed() => changed.is_ok(),
                    changed = contact.changed() => changed.is_ok(),
                }
            })
        });
        if !futures::future::select_all(changes).await.0 {
            return;
        }
    }
}
