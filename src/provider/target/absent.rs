//! What a target has said to lack, so that it is not asked again for each pod.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Somebody may create it meanwhile: after this long the next pod asks again, which costs one refused request.
const LIFETIME: Duration = Duration::from_secs(60);

/// Names that the target lacks.
#[derive(Default)]
pub(super) struct Absent {
    since: Mutex<BTreeMap<String, Instant>>,
}

impl Absent {
    /// Notes that the target lacks this one.
    pub(super) fn note(&self, name: &str) {
        self.lock().insert(name.to_owned(), Instant::now());
    }

    /// All that the target lacks.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        // Nothing panics while it is held.
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|_, since| since.elapsed() < LIFETIME);
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_lacking_is_believed_for_a_minute() {
        let absent = Absent::default();
        absent.note("high");
        assert_eq!(absent.names(), ["high".to_owned()].into());
        tokio::time::advance(LIFETIME).await;
        assert!(absent.names().is_empty());
    }
}
