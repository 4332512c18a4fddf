//! What a translation has changed, for people.

use std::fmt;

use serde::Serialize;

/// One difference between a proxy and its delegate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The field of the proxy, as a path: `spec.containers[0].env[2].valueFrom.fieldRef`.
    pub field: String,
    /// What became of it.
    pub what: What,
    /// Why, as the rest of a sentence that begins with the field.
    pub why: String,
    /// The pod has less than it asks for, which its owner should know.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub loss: bool,
}

/// What became of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum What {
    /// The delegate does not have it.
    Dropped,
    /// The delegate has another value.
    Changed,
    /// The delegate has the same value, which means something else where it is.
    Kept,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            What::Dropped => "dropped",
            What::Changed => "changed",
            What::Kept => "kept",
        };
        write!(f, "{} is {what}: {}", self.field, self.why)
    }
}

/// The changes so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    changes: Vec<Change>,
}

impl Report {
    pub(super) fn dropped(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.changes.push(Change { field: field.into(), what: What::Dropped, why: why.into(), loss: false });
    }

    /// As [`Report::dropped`], of something that the pod will miss.
    pub(super) fn lost(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.changes.push(Change { field: field.into(), what: What::Dropped, why: why.into(), loss: true });
    }

    pub(super) fn changed(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.changes.push(Change { field: field.into(), what: What::Changed, why: why.into(), loss: false });
    }

    pub(super) fn kept(&mut self, field: impl Into<String>, why: impl Into<String>) {
        self.changes.push(Change { field: field.into(), what: What::Kept, why: why.into(), loss: false });
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}
