//! What is kept of the instances of one proxy, as their sites last showed them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;

use crate::kubelet::packed::Compact;
use crate::kubelet::provider::{Obstacle, ProviderPod};
use crate::kubelet::step::{InstanceView, Record};

use super::is_unschedulable;

/// An instance as its site last showed it.
#[derive(Debug, Default)]
pub(super) struct Word {
    /// Whose it is.
    instance: Arc<str>,
    /// As text: a parsed one takes many times as much.
    status: Compact,
    /// What the proxy may show; empty for none.
    annotations: Box<[u8]>,
    pub(super) obstacle: Option<Obstacle>,
    /// Since when it cannot be scheduled.
    pub(super) unschedulable: Option<Instant>,
}

impl Word {
    fn of(pod: ProviderPod, before: Option<&Self>) -> Self {
        let some = Some(&pod.annotations).filter(|all| !all.is_empty());
        let annotations = some.and_then(|all| serde_json::to_vec(all).ok()).unwrap_or_default().into();
        let refused = pod.instance.obstacle.as_ref().is_some_and(is_unschedulable);
        let since = before.and_then(|before| before.unschedulable);
        Self {
            status: serde_json::to_vec(&pod.status).map(|text| Compact::new(&text)).unwrap_or_default(),
            annotations,
            unschedulable: refused.then(|| since.unwrap_or_else(Instant::now)),
            instance: pod.instance.uid,
            obstacle: pod.instance.obstacle,
        }
    }

    /// The status; null where there is none.
    pub(super) fn status(&self) -> Value {
        serde_json::from_slice(&self.status.text()).unwrap_or_default()
    }

    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        serde_json::from_slice(&self.annotations).unwrap_or_default()
    }
}

/// One word for each instance of a record, which is hardly ever more than one.
///
/// One for the record alone was rejected: where the second instance comes to count, because the first has gone or since the
/// proxy says so, home was told what the first had said, until the second changed.
#[derive(Debug, Default)]
pub(super) struct Words {
    first: Word,
    second: Option<Box<Word>>,
}

impl Words {
    /// The word of the instance that counts; of the last one, where none is there.
    pub(super) fn current(&self, record: &Record) -> &Word {
        match &self.second {
            Some(second) if counts(record, second) => second,
            _ => &self.first,
        }
    }

    /// Whether the current word is that of the instance that counts.
    pub(super) fn count(&self, record: &Record) -> bool {
        counts(record, self.current(record))
    }

    /// Keeps what a site has shown, if the record goes by it.
    pub(super) fn keep(&mut self, pod: ProviderPod, view: &InstanceView, record: &Record) {
        self.settle(record);
        let is = |known: &InstanceView| known.uid == view.uid && known.version == view.version;
        if record.instance.there().is_some_and(is) {
            let before = Some(&self.first).filter(|first| first.instance == view.uid);
            self.first = Word::of(pod, before);
        } else if record.elsewhere.as_deref().is_some_and(is) {
            let before = self.second.as_deref().filter(|second| second.instance == view.uid);
            self.second = Some(Box::new(Word::of(pod, before)));
        }
    }

    /// Follows the record, in which another instance may have come to count.
    pub(super) fn settle(&mut self, record: &Record) {
        if let Some(second) = self.second.as_deref_mut()
            && counts(record, second)
        {
            std::mem::swap(&mut self.first, second);
        }
        if record.elsewhere.is_none() {
            self.second = None;
        } else if record.elsewhere.as_deref().is_some_and(|other| other.uid == self.first.instance) {
            self.second = Some(Box::new(std::mem::take(&mut self.first)));
        }
    }
}

fn counts(record: &Record, word: &Word) -> bool {
    record.instance.there().is_some_and(|instance| instance.uid == word.instance)
}
