//! What runs here, where those can see it who report on it: which targets are served, and how they are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::kubelet::contact::Contact;
use crate::kubelet::pods::Pulse;
use crate::kubelet::provider::NodeReport;
use crate::kubelet::server::ServingCertificate;
use crate::provider::capacity;
use crate::provider::target::TargetProvider;

/// All nodes that this process keeps now, by name.
#[derive(Clone, Default)]
pub(super) struct Board(Arc<Mutex<BTreeMap<String, Kept>>>);

/// A node that is kept.
#[derive(Clone)]
pub(super) struct Kept {
    /// The VirtualNode of which it stands for a part, if it does.
    pub(super) whole: Option<String>,
    /// What it offers as a whole.
    pub(super) report: watch::Receiver<NodeReport>,
    /// Whether it answers as a whole.
    pub(super) contact: watch::Receiver<Contact>,
    /// Its targets, by name.
    pub(super) targets: BTreeMap<String, Served>,
    /// Their names in the order of the node's sites.
    pub(super) sites: Vec<String>,
    /// What its controller does.
    pub(super) pulse: Pulse,
    /// What its kubelet API shows.
    pub(super) serving: Arc<ServingCertificate>,
}

/// A target that is served.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) provider: Arc<TargetProvider>,
    pub(super) contact: watch::Receiver<Contact>,
}

impl Board {
    /// Shows a node until the answer is dropped.
    pub(super) fn show(&self, node: &str, kept: Kept) -> Shown {
        self.lock().insert(node.into(), kept);
        Shown { board: self.clone(), node: node.into() }
    }

    /// A node, if it is kept here.
    pub(super) fn node(&self, name: &str) -> Option<Kept> {
        let all = self.lock();
        if let Some(one) = all.get(name) {
            return Some(one.clone());
        }
        // Of one that is many, all that are kept here.
        let parts: Vec<_> = all.values().filter(|one| one.whole.as_deref() == Some(name)).collect();
        let reports: Vec<_> = parts.iter().map(|one| (one.report.borrow().clone(), false)).collect();
        let (_, report) = watch::channel(capacity::together(&reports));
        let silent = parts.iter().find(|one| one.contact.borrow().is_silent());
        let first = parts.first()?;
        let contact = silent.unwrap_or(first).contact.clone();
        let (sites, pulse, serving) = (first.sites.clone(), first.pulse.clone(), first.serving.clone());
        let numbered = parts.iter().enumerate().flat_map(|(number, one)| {
            let key = move |target: &String| if number == 0 { target.clone() } else { format!("{target} {number}") };
            one.targets.iter().map(move |(target, served)| (key(target), served.clone()))
        });
        Some(Kept { whole: None, report, contact, targets: numbered.collect(), sites, pulse, serving })
    }

    /// All nodes that are kept here.
    pub(super) fn all(&self) -> Vec<(String, Kept)> {
        self.lock().iter().map(|(name, kept)| (name.clone(), kept.clone())).collect()
    }

    /// A target as every node serves it that is kept here and names it.
    pub(super) fn target(&self, name: &str) -> Vec<Served> {
        self.lock().values().filter_map(|kept| kept.targets.get(name).cloned()).collect()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node is shown as long as this lives.
pub(super) struct Shown {
    board: Board,
    node: String,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.board.lock().remove(&self.node);
    }
}
