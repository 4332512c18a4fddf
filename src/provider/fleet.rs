//! Several targets behind one virtual node: who gets a pod, and what the node offers as a whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::capacity;
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
    /// It takes no new pods.
    pub leaving: bool,
    /// What runs pods there.
    pub provider: Arc<TargetProvider>,
    /// Whether it answers.
    pub contact: watch::Receiver<Contact>,
}

/// The targets of one virtual node.
pub struct Fleet {
    members: Vec<Member>,
    strategy: Strategy,
    /// Choices that no watch shows yet, by the proxy's UID.
    reserved: Mutex<HashMap<String, Reserved>>,
    report: watch::Receiver<NodeReport>,
    _sum: JoinSet<()>,
}

struct Reserved {
    member: usize,
    requests: Requests,
    since: Instant,
}

impl Fleet {
    /// A fleet of these targets, in the order of their sites.
    pub fn new(members: Vec<Member>, strategy: Strategy) -> Self {
        let (sender, report) = watch::channel(NodeReport::default());
        let mut tasks = JoinSet::new();
        let sources = members.iter().map(|member| (member.provider.node_status(), member.contact.clone())).collect();
        tasks.spawn(sum(sources, sender));
        Self { members, strategy, reserved: Mutex::default(), report, _sum: tasks }
    }

    fn candidates(&self, pod: &PodDocument, reserved: &mut HashMap<String, Reserved>) -> Vec<Candidate> {
        reserved.retain(|uid, it| {
            uid != pod.uid() && it.since.elapsed() < RESERVATION && !self.members[it.member].provider.has(uid)
        });
        let mut candidates: Vec<_> = self.members.iter().map(Member::candidate).collect();
        for it in reserved.values() {
            requests::add(&mut candidates[it.member].committed, &it.requests);
        }
        candidates
    }
}

impl Member {
    fn candidate(&self) -> Candidate {
        let report = self.provider.node_status().borrow().clone();
        let trouble = match &*self.contact.borrow() {
            _ if self.leaving => Some("it is being removed".into()),
            Contact::Answers => report.trouble.as_ref().map(|trouble| trouble.message.clone()),
            Contact::Unheard => Some("it has not answered yet".into()),
            Contact::Doubtful(message) | Contact::Silent { message, .. } => Some(message.clone()),
        };
        let read = |(name, amount): (&String, &String)| Some((name.clone(), amount.parse().ok()?));
        Candidate {
            name: self.name.clone(),
            weight: self.weight,
            trouble,
            allocatable: report.allocatable.iter().filter_map(read).collect(),
            committed: self.provider.committed(),
        }
    }
}

#[async_trait]
impl Chooser for Fleet {
    async fn choose(&self, pod: &PodDocument, shunned: Option<Index>) -> Result<Chosen, PodError> {
        let requests = requests::of(&pod.spec);
        // Nothing waits while this is held, and no code panics.
        let mut reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner);
        let candidates = self.candidates(pod, &mut reserved);
        let (member, why) = placement::choose(self.strategy, &requests, &candidates, shunned.map(usize::from))
            .map_err(|none| PodError::Refused { reason: "NoTarget".into(), message: none.to_string() })?;
        reserved.insert(pod.uid().into(), Reserved { member, requests, since: Instant::now() });
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
