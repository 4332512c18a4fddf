//! Looks for what a list has not shown.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{Shell, backoff};
use crate::errors::chain;
use crate::kubelet::document::PodKey;
use crate::kubelet::provider::{PodNotice, Provider};
use crate::kubelet::sites::Index;
use crate::kubelet::table::{Side, Uid};

/// How many are looked for at a time, at each site.
pub(super) const AT_A_TIME: usize = 16;

impl Shell {
    /// Looks for an instance that a list has not shown. That is no proof: what is listed is selected by labels, which anybody
    /// may take off, and a proxy that went on the ground of it would leave a pod behind that nobody knows.
    pub(super) async fn search(
        self: &Arc<Self>,
        site: Index,
        provider: &dyn Provider,
        permits: &Semaphore,
        key: PodKey,
        instance: Arc<str>,
    ) {
        let uid = Uid::from(key.uid.as_str());
        for attempts in 1.. {
            let found = {
                // It is never closed.
                let _permit = permits.acquire().await;
                if !self.table.has(&uid, &instance) {
                    return;
                }
                let asked = self.table.epoch(Side::Site(site));
                let found = provider.get_pod(&key).await;
                // It may have gone since the answer, and the list that has begun meanwhile would have to say so.
                if asked != self.table.epoch(Side::Site(site)) {
                    continue;
                }
                found
            };
            match found {
                Ok(found) => {
                    let (same, other) = match found {
                        Some(pod) if pod.instance.uid == instance => (Some(pod), None),
                        other => (None, other),
                    };
                    if same.is_none() {
                        self.notice(site, PodNotice::Gone { key, instance });
                    }
                    for pod in same.into_iter().chain(other) {
                        self.notice(site, PodNotice::Seen(Box::new(pod)));
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(node = self.node, pod = %key, error = chain(&error), "not listed, and could not be looked for; trying again");
                    tokio::time::sleep(backoff(attempts)).await;
                }
            }
        }
    }
}
