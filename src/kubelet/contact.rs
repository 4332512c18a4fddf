//! Whether the provider's side answers, and since when it does not.
//!
//! The provider is asked every few seconds, by one task, and everybody else reads what it found: the node's condition, the
//! pods' readiness, and what becomes of pods whose side is gone for good. Our own absence (a process that was stopped, a
//! machine that slept) is no silence of theirs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::provider::NodeProvider;
use crate::errors::chain;

/// How often the provider is asked, and how long an answer may take: a cut link is noticed within their sum.
const HEARTBEAT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(4);

/// How often it is asked while it does not answer.
const IMPATIENT: Duration = Duration::from_secs(1);

/// A pause between two questions that is longer than this was ours.
const ABSENCE: Duration = Duration::from_secs(20);

/// What is known of the provider's side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Contact {
    /// It has not been asked yet.
    #[default]
    Unheard,
    /// It answers.
    Answers,
    /// It does not answer now; that may be a short break.
    Doubtful(String),
    /// It has not answered for as long as a short break may take.
    Silent {
        /// Since when: its last answer, or our first question.
        since: Instant,
        /// What happened instead of an answer.
        message: String,
    },
}

impl Contact {
    /// Whether the side counts as out of reach.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent { .. })
    }
}

/// Asks the provider until it is told to stop; `silence` is how long a short break may take.
pub async fn keep(
    provider: Arc<dyn NodeProvider>,
    silence: Duration,
    contact: watch::Sender<Contact>,
    shutdown: CancellationToken,
) {
    let mut tracker = Tracker::new(silence, Instant::now());
    loop {
        let pause = match tokio::time::timeout(PATIENCE, provider.ping()).await {
            Ok(Ok(())) => {
                tracker.heard(Instant::now());
                contact.send_replace(Contact::Answers);
                HEARTBEAT
            }
            Ok(Err(error)) => {
                contact.send_replace(tracker.missed(Instant::now(), chain(error.as_ref())));
                IMPATIENT
            }
            Err(_) => {
                let message = format!("no answer within {} s", PATIENCE.as_secs());
                contact.send_replace(tracker.missed(Instant::now(), message));
                IMPATIENT
            }
        };
        if shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return;
        }
    }
}

/// From single questions to [`Contact`]. Pure but for the times that it is given.
struct Tracker {
    silence: Duration,
    last_look: Instant,
    last_answer: Option<Instant>,
    since: Option<Instant>,
}

impl Tracker {
    fn new(silence: Duration, now: Instant) -> Self {
        Self { silence, last_look: now, last_answer: None, since: None }
    }

    fn heard(&mut self, now: Instant) {
        (self.last_look, self.last_answer, self.since) = (now, Some(now), None);
    }

    fn missed(&mut self, now: Instant, message: String) -> Contact {
        let absent = now.duration_since(self.last_look) > ABSENCE;
        let since = match self.since {
            Some(since) if !absent => since,
            _ if absent => now,
            _ => self.last_answer.unwrap_or(self.last_look),
        };
        (self.last_look, self.since) = (now, Some(since));
        if now.duration_since(since) >= self.silence {
            Contact::Silent { since, message }
        } else {
            Contact::Doubtful(message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(40);

    fn secs(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn silence_counts_from_the_last_answer() {
        let start = Instant::now();
        let mut tracker = Tracker::new(SILENCE, start);
        tracker.heard(secs(start, 5));
        for at in [14, 30, 44] {
            assert_eq!(tracker.missed(secs(start, at), "x".into()), Contact::Doubtful("x".into()), "{at}");
        }
        assert_eq!(
            tracker.missed(secs(start, 45), "x".into()),
            Contact::Silent { since: secs(start, 5), message: "x".into() }
        );
        tracker.heard(secs(start, 50));
        assert!(!tracker.missed(secs(start, 60), "x".into()).is_silent(), "it begins anew");
    }

    #[test]
    fn a_side_that_was_never_heard_gets_its_time_too() {
        let start = Instant::now();
        let mut tracker = Tracker::new(SILENCE, start);
        assert!(!tracker.missed(secs(start, 4), String::new()).is_silent());
        assert!(!tracker.missed(secs(start, 20), String::new()).is_silent());
        assert!(tracker.missed(secs(start, 40), String::new()).is_silent());
    }

    #[test]
    fn our_own_absence_is_no_silence_of_theirs() {
        let start = Instant::now();
        let mut tracker = Tracker::new(SILENCE, start);
        tracker.heard(start);
        // Stopped for ten minutes, and the question that was under way has timed out.
        assert!(!tracker.missed(secs(start, 600), String::new()).is_silent());
        assert!(!tracker.missed(secs(start, 610), String::new()).is_silent());
        assert!(tracker.missed(secs(start, 625), String::new()) != Contact::Answers);
        let mut silent = Tracker::new(SILENCE, start);
        silent.missed(secs(start, 10), String::new());
        assert!(!silent.missed(secs(start, 700), String::new()).is_silent(), "it begins anew after the absence");
    }
}
