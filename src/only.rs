//! Deletions that never hit a namesake.

use kube::api::{DeleteParams, Preconditions};

/// Deletes the object of this UID, and no other that has got its name: a deletion that comes late is refused with a 409.
pub(crate) fn only(uid: impl Into<Option<String>>) -> DeleteParams {
    DeleteParams { preconditions: Some(this(uid)), ..DeleteParams::default() }
}

/// The same as a precondition, for deletions that state more.
pub(crate) fn this(uid: impl Into<Option<String>>) -> Preconditions {
    // An empty one is met by no object, where none at all would be met by every one.
    Preconditions { uid: Some(uid.into().unwrap_or_default()), ..Preconditions::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_without_a_uid_hits_nobody() {
        let uid = |params: DeleteParams| params.preconditions.and_then(|this| this.uid);
        assert_eq!(uid(only("a".to_owned())), Some("a".into()));
        assert_eq!(uid(only(None)), Some(String::new()));
    }
}
