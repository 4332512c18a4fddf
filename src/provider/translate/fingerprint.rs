//! A digest of what a delegate is made of.
//!
//! Drift is judged by the digest of what was sent, kept in an annotation of the delegate, never by the live delegate, which
//! the target's webhooks and defaults have changed. So the digest has to be the same in every process and build.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kubelet::annotations;
use crate::kubelet::document::PodDocument;
use crate::provider::names;

/// Fields of the spec that never reach a running delegate although they may change, or differ between a manifest and
/// the pod that was made of it.
const IGNORED: [&str; 2] = ["nodeName", "schedulingGates"];

/// A digest of the proxy's spec, labels and annotations: of all that a delegate is made of and that can change.
///
/// It is taken before the translation rather than after it, so that it depends neither on the target nor on the labels of
/// the virtual node, and so that a pod that is held has one too.
pub fn fingerprint(proxy: &PodDocument) -> u64 {
    let mut digest = Digest::new();
    digest.strings(proxy.metadata.labels.iter().flatten().map(|(key, value)| (key.as_str(), value.as_str())));
    // What we write on a proxy ourselves changes no delegate; lifted tolerations are put back before anybody sees them here.
    let ours = [names::LIFTED, names::CHOICE, names::FENCE];
    let users = annotations::users(proxy);
    digest.strings(users.iter().map(|(key, value)| (*key, *value)).filter(|(key, _)| !ours.contains(key)));
    match &*proxy.spec {
        Value::Object(spec) => digest.object(spec.iter().filter(|(field, _)| !IGNORED.contains(&field.as_str()))),
        other => digest.value(other),
    }
    digest.state
}

/// The fingerprint of the proxy that a delegate was last made from.
pub fn sent(delegate: &PodDocument) -> Option<u64> {
    let hex = delegate.annotation(names::SENT)?;
    // Exactly as we print it: `from_str_radix` alone would take a sign.
    (hex.len() == 16 && hex.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u64::from_str_radix(hex, 16).ok())?
}

/// A digest as [`sent`] reads it.
pub(in crate::provider) fn hex(digest: u64) -> String {
    format!("{digest:016x}")
}

/// The digest of one text.
pub(in crate::provider) fn of_text(text: &str) -> u64 {
    let mut digest = Digest::new();
    digest.bytes(b's', text.as_bytes());
    digest.state
}

/// FNV-1a of 64 bits over an unambiguous encoding: each value begins with a letter for its kind and the length that it
/// has, members of objects are in order of their names.
struct Digest {
    state: u64,
}

impl Digest {
    fn new() -> Self {
        Self { state: 0xcbf2_9ce4_8422_2325 }
    }

    fn raw(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn head(&mut self, kind: u8, len: usize) {
        self.raw(&[kind]);
        self.raw(&(len as u64).to_le_bytes());
    }

    fn bytes(&mut self, kind: u8, bytes: &[u8]) {
        self.head(kind, bytes.len());
        self.raw(bytes);
    }

    /// A map in order of its keys.
    fn strings<'a>(&mut self, map: impl Iterator<Item = (&'a str, &'a str)> + Clone) {
        self.head(b'm', map.clone().count());
        for (key, value) in map {
            self.bytes(b's', key.as_bytes());
            self.bytes(b's', value.as_bytes());
        }
    }

    fn object<'a>(&mut self, members: impl Iterator<Item = (&'a String, &'a Value)> + Clone) {
        // A JSON map is in order of its keys unless some dependency asks serde_json for the order of insertion.
        if members.clone().is_sorted_by_key(|(name, _)| name) {
            return self.members(members.clone().count(), members);
        }
        let members: BTreeMap<&String, &Value> = members.collect();
        self.members(members.len(), members.into_iter());
    }

    fn members<'a>(&mut self, count: usize, members: impl Iterator<Item = (&'a String, &'a Value)>) {
        self.head(b'o', count);
        for (name, value) in members {
            self.bytes(b's', name.as_bytes());
            self.value(value);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.head(b'z', 0),
            Value::Bool(truth) => self.head(b'b', usize::from(*truth)),
            Value::Number(number) => self.bytes(b'n', number.to_string().as_bytes()),
            Value::String(text) => self.bytes(b's', text.as_bytes()),
            Value::Array(entries) => {
                self.head(b'a', entries.len());
                for entry in entries {
                    self.value(entry);
                }
            }
            Value::Object(members) => self.object(members.iter()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::annotations::Annotations;
    use serde_json::json;

    fn pod(pod: Value) -> PodDocument {
        serde_json::from_value(pod).unwrap()
    }

    fn example() -> PodDocument {
        pod(json!({"metadata": {"name": "a", "labels": {"app": "web"}, "annotations": {"note": "ä"}},
            "spec": {"containers": [{"name": "c", "image": "i:1", "tty": true, "novel": null}], "grace": -1.5}}))
    }

    #[test]
    fn it_is_the_same_in_every_build() {
        assert_eq!(hex(fingerprint(&example())), "a5cbb328298cfca5");
    }

    #[test]
    fn labels_annotations_and_spec_count() {
        let original = fingerprint(&example());
        for changed in [
            json!({"labels": {"app": "db"}, "annotations": {"note": "ä"}}),
            json!({"labels": {"app": "web", "note": "ä"}}),
            json!({"annotations": {"note": "ä"}}),
        ] {
            let other = PodDocument::new(serde_json::from_value(changed).unwrap(), example().spec, Value::Null);
            assert_ne!(fingerprint(&other), original);
        }
        let mut other = example();
        other.spec["containers"][0]["image"] = json!("i:2");
        assert_ne!(fingerprint(&other), original);
    }

    #[test]
    fn what_reaches_no_delegate_does_not_count() {
        let mut other = example();
        other.metadata.uid = Some("u".into());
        other.metadata.resource_version = Some("7".into());
        other.metadata.labels.get_or_insert_default();
        other.spec["nodeName"] = json!("virtual");
        other.status = json!({"phase": "Running"}).into();
        assert_eq!(fingerprint(&other), fingerprint(&example()));
        let empty = pod(json!({"metadata": {"labels": {}}}));
        assert_eq!(fingerprint(&empty), fingerprint(&PodDocument::default()));
    }

    #[test]
    fn an_annotation_that_came_back_does_not_count() {
        let mut other = example();
        let back = Annotations::of(&other).patch(&[("cni/ip".to_owned(), "10.0.0.1".to_owned())].into()).unwrap();
        for (key, value) in back.as_object().unwrap() {
            let value = value.as_str().unwrap().to_owned();
            other.metadata.annotations.as_mut().unwrap().insert(key.clone(), value);
        }
        assert_eq!(fingerprint(&other), fingerprint(&example()));
        other.metadata.annotations.as_mut().unwrap().insert("cni/ip".into(), "the user's".into());
        assert_ne!(fingerprint(&other), fingerprint(&example()));
    }

    #[test]
    fn only_our_own_form_is_read_back() {
        let with = |text: &str| pod(json!({"metadata": {"annotations": {names::SENT: text}}}));
        assert_eq!(sent(&with(&hex(0xff))), Some(0xff));
        for odd in ["", "ff", "+00000000000000f", "zzzzzzzzzzzzzzzz", "00000000000000000"] {
            assert_eq!(sent(&with(odd)), None, "{odd}");
        }
    }
}
