//! A pod as a document: what crosses the boundary between the core and a provider.
//!
//! `spec` and `status` stay JSON, so that a field of a Kubernetes newer than this build is neither lost nor
//! reordered; `metadata` is the typed [`ObjectMeta`], whose fields have not grown in years. Generated pod structs were
//! rejected: they drop what they do not know, silently.

use std::borrow::Cow;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::NamespaceResourceScope;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use json::{Json, Keep};

mod json;
mod metadata;

/// A `v1/Pod`, lossless in `spec` and `status`.
///
/// Reading one never fails: in a list or a watch, a single pod whose metadata make no sense would hide all others. What
/// cannot be read is left out and said in [`PodDocument::unreadable`], and nothing is to be concluded from such a document
/// but that the pod is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "Wire")]
pub struct PodDocument {
    api_version: Cow<'static, str>,
    kind: Cow<'static, str>,
    /// The typed metadata, without `managedFields`.
    pub metadata: ObjectMeta,
    /// The pod's spec as the API server sent it; `Null` where a document has none.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub spec: Json,
    /// The pod's status as the API server sent it; `Null` where a document has none.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub status: Json,
    /// What of the metadata could not be read, and why.
    #[serde(skip)]
    pub unreadable: Option<Box<str>>,
}

/// A pod as it comes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    #[serde(default = "v1", deserialize_with = "word")]
    api_version: Cow<'static, str>,
    #[serde(default = "pod", deserialize_with = "word")]
    kind: Cow<'static, str>,
    #[serde(default)]
    metadata: Json,
    #[serde(default)]
    spec: Json,
    #[serde(default)]
    status: Json,
}

/// A pod as it is kept.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Text<'a, T> {
    api_version: &'a str,
    kind: &'a str,
    metadata: &'a ObjectMeta,
    spec: T,
    status: T,
}

impl From<Wire> for PodDocument {
    fn from(wire: Wire) -> Self {
        let Wire { api_version, kind, metadata, spec, status } = wire;
        let (metadata, unreadable) = metadata::read(metadata);
        Self { api_version, kind, metadata, spec, status, unreadable }
    }
}

/// A text, which is most of the time one that is known.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Cow<'static, str>, D::Error> {
    struct Word;

    impl Visitor<'_> for Word {
        type Value = Cow<'static, str>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            let known = [v1(), pod()].into_iter().find(|known| known == text);
            Ok(known.unwrap_or_else(|| Cow::Owned(text.to_owned())))
        }
    }

    deserializer.deserialize_str(Word)
}

fn v1() -> Cow<'static, str> {
    Cow::Borrowed("v1")
}

fn pod() -> Cow<'static, str> {
    Cow::Borrowed("Pod")
}

impl PodDocument {
    /// A document of these three parts.
    pub fn new(metadata: ObjectMeta, spec: impl Into<Json>, status: impl Into<Json>) -> Self {
        let (spec, status) = (spec.into(), status.into());
        Self { api_version: v1(), kind: pod(), metadata, spec, status, unreadable: None }
    }

    /// The document as JSON, without a look at what nobody has looked at.
    ///
    /// # Errors
    /// None: all of it can be written.
    pub fn to_text(&self) -> serde_json::Result<Vec<u8>> {
        let Self { api_version, kind, metadata, spec, status, .. } = self;
        let (spec, status) = (spec.as_it_came(), status.as_it_came());
        serde_json::to_vec(&Text { api_version, kind, metadata, spec, status })
    }

    /// A digest of labels, annotations and spec, as they came; `None` where the spec was made or changed here. What has the same
    /// is the same; what is the same may have another, where fields are in another order.
    pub fn imprint(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (&self.metadata.labels, &self.metadata.annotations, self.spec.text()?).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// The namespace; empty where a document has none.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// The name; empty where a document has none.
    pub fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }

    /// The UID; empty where a document has none.
    pub fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The identity of this pod.
    pub fn key(&self) -> PodKey {
        PodKey { namespace: self.namespace().into(), name: self.name().into(), uid: self.uid().into() }
    }

    /// The resource version as a number, which is how versions of one object are compared (KEP-5504); 0 where it is
    /// absent or no number.
    pub fn version(&self) -> u64 {
        self.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default()
    }

    /// The grace period in seconds of a pod that is being deleted; `None` while it is not.
    pub fn deleting(&self) -> Option<u32> {
        self.metadata.deletion_timestamp.as_ref()?;
        Some(self.metadata.deletion_grace_period_seconds.and_then(|s| u32::try_from(s).ok()).unwrap_or_default())
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(key).map(String::as_str)
    }

    /// The entries of a list in the spec, such as `containers`; empty where there is none.
    pub fn list(&self, field: &str) -> &[Value] {
        self.spec.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}

impl kube::Resource for PodDocument {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        pod()
    }

    fn group((): &()) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn version((): &()) -> Cow<'_, str> {
        v1()
    }

    fn plural((): &()) -> Cow<'_, str> {
        Cow::Borrowed("pods")
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The identity of a proxy pod: the UID identifies, namespace and name only address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// Namespace in the host.
    pub namespace: String,
    /// Name in the host.
    pub name: String,
    /// UID in the host.
    pub uid: String,
}

impl std::fmt::Display for PodKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_nobody_knows_survives_the_round_trip() {
        let sent = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"inventedIn2031": {"deep": [1, 2]}, "containers": [{"name": "c", "novel": true}]},
            "status": {"phase": "Running", "alsoNew": "x"}});
        let document: PodDocument = serde_json::from_value(sent.clone()).unwrap();
        assert_eq!(serde_json::to_value(&document).unwrap(), sent);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_said() {
        let document: PodDocument = serde_json::from_value(json!({"metadata": {"name": "a", "uid": "u",
            "labels": {"app": 7}, "deletionTimestamp": "soon"}, "spec": {"nodeName": "n"}, "status": 5}))
        .unwrap();
        assert_eq!((document.name(), document.uid(), document.label("app")), ("a", "u", None));
        let unreadable = document.unreadable.unwrap();
        assert!(unreadable.contains("metadata.labels: ") && unreadable.contains("metadata.deletionTimestamp: "));
        for nonsense in [json!([1, [2]]), json!("a"), json!(-1), json!(1), json!(1.5), json!(true)] {
            let nonsense: PodDocument = serde_json::from_value(json!({"metadata": nonsense})).unwrap();
            assert!(nonsense.unreadable.is_some());
        }
        let null: PodDocument = serde_json::from_value(json!({"metadata": null})).unwrap();
        assert_eq!(null.unreadable, None);
        let none: PodDocument = serde_json::from_value(json!({"spec": {}})).unwrap();
        assert_eq!(none.unreadable, None);
    }

    #[test]
    fn managed_fields_are_passed_over() {
        let text = r#"{"metadata": {"managedFields": [{"manager": 5, "fieldsV1": {"f:a": {}}}], "name": "a"}}"#;
        let document: PodDocument = serde_json::from_str(text).unwrap();
        assert_eq!((document.name(), &document.metadata.managed_fields, &document.unreadable), ("a", &None, &None));
    }

    #[test]
    fn deletion_is_seen_with_its_grace() {
        let mut document = PodDocument::default();
        document.metadata.deletion_grace_period_seconds = Some(30);
        assert_eq!(document.deleting(), None, "grace alone deletes nothing");
        document.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(document.deleting(), Some(30));
    }
}
