//! The life of one pod: a pure function from what has been seen to what should be written.
//!
//! [`step`] is the only source of writes for a pod's life, on either side. It works on small hashable records, so that a
//! model checker can run the very same function against every order of crashes, late answers and lost events.
//!
//! ```text
//!   host watch ──ProxySeen/Gone──▶ ┌────────┐ ──Create/Update/Delete──▶ provider ──┐
//!   provider ─InstanceSeen/Gone──▶ │ Record │ ──Report/DeleteProxy────▶ host ──────┤
//!          ┌──────Answer─────────▶ └────────┘                                      │
//!          └───────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Rules that the shape of this function keeps:
//!
//! - **Absence is knowledge.** Nothing is created, deleted or declared lost on the ground of something absent before that
//!   side has been listed completely ([`Presence::Unknown`] allows no conclusion).
//! - **The UID is the identity.** A record belongs to one proxy UID; an instance is stopped by its own UID; what has gone
//!   once does not come back through a late answer ([`Memo::buried`]).
//! - **A terminal phase is a latch.** A proxy that is Succeeded or Failed gets no new instance, ever.
//! - **Silence is no knowledge.** While the provider's side does not answer ([`Reach::Silent`]) nothing is started and nothing
//!   given up, unless the user has chosen that ([`Event::GiveUp`]).
//! - **Everything is safe twice.** Actions are derived from the record anew after every answer; the memo only spares
//!   writes (and holds back repetition after a failure), and losing it in a crash costs nothing but a repeated write.

mod decide;
mod fold;
mod record;

pub use record::{
    Action, Answer, Event, Evidence, Health, InstanceView, Memo, Phase, Presence, ProxyView, Reach, Record,
};

use decide::decide;
use fold::fold;

/// Folds an event into the record and says what to do now, in this order. After an answer the list is derived anew; an
/// answer of [`Answer::Unchanged`] or [`Answer::Deferred`] goes on with the rest of the list.
pub fn step(record: &mut Record, event: Event) -> Vec<Action> {
    let wait = match &event {
        Event::Answer(Answer::Refused { retry: true, .. } | Answer::StopFailed | Answer::HostFailed) => {
            Some(Wait::Write)
        }
        Event::InstanceGone(_) | Event::NoInstance => Some(Wait::Loss),
        _ => None,
    };
    fold(record, event);
    let mut actions = decide(record);
    match wait {
        Some(Wait::Write) => actions.insert(0, Action::RetryAfter(record.memo.attempts)),
        Some(Wait::Loss) if record.memo.blocked => actions.insert(0, Action::RetryAfter(record.memo.losses)),
        _ => {}
    }
    actions
}

/// After what a [`Action::RetryAfter`] is due.
enum Wait {
    /// A write did not work.
    Write,
    /// The instance vanished, and not for the first time.
    Loss,
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
