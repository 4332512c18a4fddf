//! How long a watch that was interrupted rests before it tries again.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;

/// A cluster that is back should be seen again within seconds. kube's own limit is 30 s, for the sake of many clients; here
/// there are a few watches a cluster.
const LIMIT: Duration = Duration::from_secs(3);

/// The pauses of a watch: kube's own, from 0.8 s and with jitter, but never longer than 3 s.
pub(crate) fn of_watches() -> impl Backoff {
    Limited::default()
}

#[derive(Default)]
struct Limited(DefaultBackoff);

impl Iterator for Limited {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LIMIT))
    }
}

impl Backoff for Limited {
    fn reset(&mut self) {
        self.0.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pause_is_longer_than_the_limit() {
        let mut pauses = of_watches();
        assert!((0..20).all(|_| pauses.next().is_some_and(|pause| pause <= LIMIT)));
    }
}
