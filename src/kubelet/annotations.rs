//! Annotations of an instance that its proxy shows too. Pure.
//!
//! Whose an annotation of a proxy is has to be readable from the proxy alone: a record of ours ([`RETURNED`]) names each
//! one that came back, with a digest of its value. One whose value is another by now is the user's, and so is every one
//! that the record does not name; neither is ever overwritten. One that the user has removed does not come back before its
//! value changes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::document::PodDocument;

/// Annotation of a proxy: the keys of those that came back from its instance, each with a digest of its value:
/// `KEY=DIGEST,KEY=DIGEST`.
pub const RETURNED: &str = "longshore.dev/returned-annotations";

/// What is kept of a proxy's annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    returned: Box<[Returned]>,
    /// Digests of the keys of all others.
    users: Box<[u64]>,
}

/// One that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Returned {
    key: Box<str>,
    /// Of its value.
    digest: u64,
    /// The user has not removed it.
    there: bool,
}

impl Annotations {
    /// Those of a proxy.
    pub fn of(proxy: &PodDocument) -> Self {
        let Some(all) = &proxy.metadata.annotations else { return Self::default() };
        let record = Record::of(proxy);
        let returned = record.entries().filter_map(|(key, digest)| {
            let now = all.get(key).map(|value| of_text(value));
            let ours = now.is_none_or(|now| now == digest);
            ours.then(|| Returned { key: key.into(), digest, there: now.is_some() })
        });
        let users = all.iter().filter(|(key, value)| *key != RETURNED && !record.holds(key, value));
        Self { returned: returned.collect(), users: users.map(|(key, _)| of_text(key)).collect() }
    }

    /// The merge patch of `metadata.annotations` with which the proxy shows all of `wanted` that it may; `None` where it
    /// does already.
    pub fn patch(&self, wanted: &BTreeMap<String, String>) -> Option<Value> {
        let known = |key: &str| self.returned.iter().find(|one| &*one.key == key);
        let wanted: Vec<_> = wanted
            .iter()
            .filter(|(key, _)| *key != RETURNED && !self.users.contains(&of_text(key)))
            .map(|(key, value)| (key.as_str(), value, of_text(value)))
            .collect();
        let mut patch = Map::new();
        for (key, value, digest) in &wanted {
            if known(key).is_none_or(|one| one.digest != *digest) {
                patch.insert((*key).into(), value.as_str().into());
            }
        }
        let is_wanted = |key: &str| wanted.iter().any(|(wanted, ..)| *wanted == key);
        for gone in self.returned.iter().filter(|one| one.there && !is_wanted(&one.key)) {
            patch.insert((*gone.key).into(), Value::Null);
        }
        if patch.is_empty() {
            return None;
        }
        let record: Vec<_> = wanted.iter().map(|(key, _, digest)| format!("{key}={digest:016x}")).collect();
        let record = if record.is_empty() { Value::Null } else { record.join(",").into() };
        patch.insert(RETURNED.into(), record);
        Some(Value::Object(patch))
    }
}

/// The annotations of a proxy that its user made: those that did not come back from its instance.
pub fn users(proxy: &PodDocument) -> BTreeMap<&str, &str> {
    let record = Record::of(proxy);
    let all = proxy.metadata.annotations.iter().flatten();
    all.filter(|(key, value)| *key != RETURNED && !record.holds(key, value))
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

/// The proxy as its user made it: without the annotations that came back from its instance.
pub fn without_returned(proxy: &PodDocument) -> Cow<'_, PodDocument> {
    if proxy.annotation(RETURNED).is_none() {
        return Cow::Borrowed(proxy);
    }
    let mut own = proxy.clone();
    let record = Record::of(proxy);
    if let Some(all) = &mut own.metadata.annotations {
        all.retain(|key, value| key != RETURNED && !record.holds(key, value));
    }
    Cow::Owned(own)
}

/// What a proxy says of the annotations that came back.
struct Record<'a>(&'a str);

impl<'a> Record<'a> {
    fn of(proxy: &'a PodDocument) -> Self {
        Self(proxy.annotation(RETURNED).unwrap_or_default())
    }

    /// Whatever cannot be read is not there: somebody else wrote it.
    fn entries(&self) -> impl Iterator<Item = (&'a str, u64)> + use<'a> {
        self.0.split(',').filter_map(|entry| {
            let (key, digest) = entry.split_once('=')?;
            Some((key, u64::from_str_radix(digest, 16).ok()?))
        })
    }

    fn holds(&self, key: &str, value: &str) -> bool {
        self.entries().any(|(known, digest)| known == key && digest == of_text(value))
    }
}

/// FNV-1a of 64 bits: the same in every build, since it is written down.
fn of_text(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |state, byte| (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn proxy(annotations: &Value) -> PodDocument {
        serde_json::from_value(json!({"metadata": {"annotations": annotations}})).unwrap()
    }

    fn wanted(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    /// The proxy after a patch, as the API server would make it.
    fn after(proxy: &PodDocument, patch: &Value) -> PodDocument {
        let mut all = json!(proxy.metadata.annotations.clone().unwrap_or_default());
        for (key, value) in patch.as_object().unwrap() {
            if value.is_null() {
                all.as_object_mut().unwrap().remove(key);
            } else {
                all[key] = value.clone();
            }
        }
        self::proxy(&all)
    }

    #[test]
    fn what_came_back_is_known_again_and_changes_nothing() {
        let bare = proxy(&json!({"mine": "1"}));
        let want = wanted(&[("cni/ip", "10.0.0.1"), ("mine", "2")]);
        let patch = Annotations::of(&bare).patch(&want).unwrap();
        assert_eq!(patch["cni/ip"], "10.0.0.1");
        assert_eq!(patch.get("mine"), None, "the user has it");
        let shown = after(&bare, &patch);
        assert_eq!(Annotations::of(&shown).patch(&want), None);
        assert_eq!(without_returned(&shown).metadata, bare.metadata, "to the delegate it never came back");
    }

    #[test]
    fn a_value_follows_and_goes() {
        let shown =
            after(&proxy(&json!({})), &Annotations::default().patch(&wanted(&[("a", "1"), ("b", "1")])).unwrap());
        let patch = Annotations::of(&shown).patch(&wanted(&[("a", "2")])).unwrap();
        assert_eq!((&patch["a"], &patch["b"]), (&json!("2"), &Value::Null));
        let patch = Annotations::of(&after(&shown, &patch)).patch(&wanted(&[])).unwrap();
        assert_eq!(patch[RETURNED], Value::Null, "the record goes with the last of them");
    }

    #[test]
    fn what_the_user_has_changed_is_the_users() {
        let want = wanted(&[("a", "1")]);
        let mut shown = after(&proxy(&json!({})), &Annotations::default().patch(&want).unwrap());
        shown.metadata.annotations.as_mut().unwrap().insert("a".into(), "theirs".into());
        assert_eq!(Annotations::of(&shown).patch(&want), None);
        assert_eq!(Annotations::of(&shown).patch(&wanted(&[("a", "2")])), None, "never overwritten");
        assert_eq!(Annotations::of(&shown).patch(&wanted(&[])), None, "nor removed");
        assert_eq!(without_returned(&shown).annotation("a"), Some("theirs"), "from now on the delegate gets it");
    }

    #[test]
    fn what_the_user_has_removed_stays_away_until_it_changes() {
        let want = wanted(&[("a", "1")]);
        let mut shown = after(&proxy(&json!({})), &Annotations::default().patch(&want).unwrap());
        shown.metadata.annotations.as_mut().unwrap().remove("a");
        assert_eq!(Annotations::of(&shown).patch(&want), None);
        assert_eq!(Annotations::of(&shown).patch(&wanted(&[("a", "2")])).unwrap()["a"], "2");
    }

    #[test]
    fn a_record_that_somebody_has_tampered_with_loses_nothing_of_the_users() {
        for record in ["", "a", "a=zz", "=,=", "a=0"] {
            let shown = proxy(&json!({"a": "1", RETURNED: record}));
            assert_eq!(Annotations::of(&shown).patch(&wanted(&[("a", "2")])), None, "{record}");
            assert_eq!(without_returned(&shown).annotation("a"), Some("1"), "{record}");
        }
    }
}
