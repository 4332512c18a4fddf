//! The copy of an object of home in a target: its content, and the patch that puts it right. Pure.
//!
//! A copy has home's data and type, and no labels or annotations of home: those are for controllers of home, and one of the
//! target may look for the same.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::{Map, Value, json};

use super::names::Key;
use crate::kubelet::provider::HostKind;
use crate::provider::names;
use crate::provider::translate::fingerprint::of_text;

/// Types of Secrets that never leave home: they are credentials for home itself.
const NEVER: [&str; 2] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];

/// Whose a copy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The id of the host cluster.
    pub host_id: String,
    /// The virtual node that needs it.
    pub node: String,
}

impl Owner {
    /// The label by which this virtual node says that it needs a copy; others may have theirs beside it.
    pub fn label(&self) -> String {
        format!("{}{}", names::NEEDED_BY, self.node)
    }
}

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// `type` of a Secret.
    kind: Option<String>,
    /// The fields of the object beside its metadata.
    fields: Map<String, Value>,
}

impl Content {
    /// The same for the same content.
    pub fn digest(&self) -> u64 {
        // Plain strings always serialize.
        of_text(&serde_json::to_string(&self.fields).unwrap_or_default())
    }
}

/// A Secret of this type is for home alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForHomeAlone(pub String);

/// The content of a ConfigMap's copy.
pub fn of_config_map(home: &ConfigMap) -> Content {
    let mut fields = Map::new();
    fields.insert("data".into(), json!(home.data.clone().unwrap_or_default()));
    fields.insert("binaryData".into(), json!(home.binary_data.clone().unwrap_or_default()));
    if home.immutable == Some(true) {
        fields.insert("immutable".into(), true.into());
    }
    Content { kind: None, fields }
}

/// The content of a Secret's copy.
pub fn of_secret(home: &Secret) -> Result<Content, ForHomeAlone> {
    let kind = home.type_.clone().unwrap_or_else(|| "Opaque".into());
    if NEVER.contains(&kind.as_str()) {
        return Err(ForHomeAlone(kind));
    }
    let mut fields = Map::new();
    fields.insert("data".into(), json!(home.data.clone().unwrap_or_default()));
    if home.immutable == Some(true) {
        fields.insert("immutable".into(), true.into());
    }
    Ok(Content { kind: Some(kind), fields })
}

/// The content of a ConfigMap with variables.
pub fn of_variables(variables: &BTreeMap<String, String>) -> Content {
    // Nobody else's data stay in it.
    let fields = [("data".to_owned(), json!(variables)), ("binaryData".to_owned(), json!({}))];
    Content { kind: None, fields: fields.into_iter().collect() }
}

/// The content of a Secret with tokens, by their keys.
pub fn of_tokens(tokens: BTreeMap<String, String>) -> Content {
    let data: BTreeMap<_, _> =
        tokens.into_iter().map(|(key, token)| (key, k8s_openapi::ByteString(token.into_bytes()))).collect();
    Content { kind: Some("Opaque".into()), fields: [("data".to_owned(), json!(data))].into_iter().collect() }
}

/// Where a copy comes from, as its annotations say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin<'a> {
    /// The namespace at home.
    pub namespace: &'a str,
    /// The name at home: of the object, or of the pod whose tokens they are.
    pub name: &'a str,
    /// The UID of the pod whose tokens they are.
    pub pod: Option<&'a str>,
    /// When tokens are to be renewed, in seconds of the epoch.
    pub renewal: Option<i64>,
}

fn annotations(origin: &Origin<'_>) -> Map<String, Value> {
    let mut annotations = Map::new();
    annotations.insert(names::NAMESPACE.into(), origin.namespace.into());
    annotations.insert(names::NAME.into(), origin.name.into());
    if let Some(renewal) = origin.renewal {
        annotations.insert(names::RENEWAL.into(), renewal.to_string().into());
    }
    annotations
}

fn labels(owner: &Owner, origin: &Origin<'_>) -> Map<String, Value> {
    let mut labels = Map::new();
    labels.insert(names::MANAGED_BY.into(), names::FIELD_MANAGER.into());
    labels.insert(names::HOST.into(), owner.host_id.as_str().into());
    labels.insert(owner.label(), "".into());
    if let Some(uid) = origin.pod {
        labels.insert(names::UID.into(), uid.into());
    }
    labels
}

/// A copy as it is created.
pub fn object(key: &Key, owner: &Owner, origin: &Origin<'_>, content: &Content) -> Value {
    let mut object = content.fields.clone();
    let kind = if key.kind.object() == HostKind::Secret { "Secret" } else { "ConfigMap" };
    object.insert("apiVersion".into(), "v1".into());
    object.insert("kind".into(), kind.into());
    let metadata = json!({"namespace": &*key.namespace, "name": &*key.name,
        "labels": labels(owner, origin), "annotations": annotations(origin)});
    object.insert("metadata".into(), metadata);
    if let Some(kind) = &content.kind {
        object.insert("type".into(), kind.as_str().into());
    }
    Value::Object(object)
}

/// The patch (RFC 6902) with which a copy of this UID gets its content again, whatever became of it. Where it is right
/// already, the API server writes nothing.
pub fn patch(uid: &str, owner: &Owner, origin: &Origin<'_>, content: &Content) -> Value {
    let mut operations = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
    operations.extend(
        labels(owner, origin)
            .into_iter()
            .map(|(key, value)| json!({"op": "add", "path": label_path(&key), "value": value})),
    );
    if let Some(kind) = &content.kind {
        // It cannot change: a copy of another type is made anew.
        operations.push(json!({"op": "test", "path": "/type", "value": kind}));
    }
    operations.push(json!({"op": "add", "path": "/metadata/annotations", "value": annotations(origin)}));
    operations.extend(
        content.fields.iter().map(|(field, value)| json!({"op": "add", "path": format!("/{field}"), "value": value})),
    );
    operations.into()
}

/// The patch with which a virtual node says that it does not need a copy any more, if it is still as it was seen.
pub fn release(uid: &str, version: &str, owner: &Owner) -> Value {
    json!([{"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "remove", "path": label_path(&owner.label())}])
}

/// A label as a JSON pointer (RFC 6901).
fn label_path(key: &str) -> String {
    format!("/metadata/labels/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// Who has a name in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This host: it is a copy of ours.
    Ours,
    /// Another host, with a copy of its own.
    OtherHost,
    /// Somebody else: never touched.
    Stranger,
}

/// Who has an object with these labels.
pub fn holder(labels: Option<&BTreeMap<String, String>>, owner: &Owner) -> Holder {
    match labels.and_then(|labels| labels.get(names::HOST)) {
        Some(host) if *host == owner.host_id => Holder::Ours,
        Some(_) => Holder::OtherHost,
        None => Holder::Stranger,
    }
}

/// Whether a virtual node other than ours needs it as well.
pub fn is_shared(labels: Option<&BTreeMap<String, String>>, owner: &Owner) -> bool {
    let ours = owner.label();
    labels.into_iter().flatten().any(|(key, _)| key.starts_with(names::NEEDED_BY) && *key != ours)
}

#[cfg(test)]
mod tests {
    use super::super::names::CopyKind;
    use super::*;

    fn owner() -> Owner {
        Owner { host_id: "home".into(), node: "virtual".into() }
    }

    fn origin() -> Origin<'static> {
        Origin { namespace: "shop", name: "settings", pod: None, renewal: None }
    }

    fn key(kind: CopyKind) -> Key {
        Key { namespace: "shop".into(), kind, name: "settings".into() }
    }

    #[test]
    fn a_copy_has_the_data_and_nothing_else_of_home() {
        let home: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "settings", "namespace": "shop",
            "labels": {"app": "web"}, "annotations": {"a": "b"}, "finalizers": ["f"]},
            "data": {"k": "v"}, "binaryData": {"b": "AAE="}, "immutable": true}))
        .unwrap();
        let copy = object(&key(CopyKind::ConfigMap), &owner(), &origin(), &of_config_map(&home));
        let expected = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "namespace": "shop",
            "labels": {"app.kubernetes.io/managed-by": "longshore", "longshore.dev/host": "home",
                "node.longshore.dev/virtual": ""},
            "annotations": {"longshore.dev/namespace": "shop", "longshore.dev/name": "settings"}},
            "data": {"k": "v"}, "binaryData": {"b": "AAE="}, "immutable": true});
        assert_eq!(copy, expected);
    }

    #[test]
    fn a_secret_keeps_its_type_and_some_never_leave() {
        let secret =
            |kind: &str| serde_json::from_value::<Secret>(json!({"type": kind, "data": {"k": "dg=="}})).unwrap();
        let copy = of_secret(&secret("kubernetes.io/dockerconfigjson")).unwrap();
        let copy = object(&key(CopyKind::Secret), &owner(), &origin(), &copy);
        assert_eq!((&copy["type"], &copy["data"]["k"]), (&json!("kubernetes.io/dockerconfigjson"), &json!("dg==")));
        for kind in NEVER {
            assert_eq!(of_secret(&secret(kind)), Err(ForHomeAlone(kind.into())));
        }
    }

    #[test]
    fn a_patch_replaces_all_content_of_this_very_copy() {
        let tokens = of_tokens([("token-0".to_owned(), "secret".to_owned())].into());
        let origin = Origin { pod: Some("u-1"), renewal: Some(7), ..origin() };
        let patch = patch("c-1", &owner(), &origin, &tokens);
        let operations = patch.as_array().unwrap();
        assert_eq!(operations[0], json!({"op": "test", "path": "/metadata/uid", "value": "c-1"}));
        let paths: Vec<_> = operations.iter().map(|operation| operation["path"].as_str().unwrap()).collect();
        assert!(paths.contains(&"/metadata/labels/node.longshore.dev~1virtual"), "{paths:?}");
        assert!(paths.contains(&"/metadata/labels/longshore.dev~1uid"), "{paths:?}");
        let last = operations.last().unwrap();
        assert_eq!(last, &json!({"op": "add", "path": "/data", "value": {"token-0": "c2VjcmV0"}}));
    }

    #[test]
    fn holders_are_told_by_their_labels() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        assert_eq!(holder(None, &owner()), Holder::Stranger);
        assert_eq!(holder(Some(&labels(&[("app", "x")])), &owner()), Holder::Stranger);
        assert_eq!(holder(Some(&labels(&[(names::HOST, "home")])), &owner()), Holder::Ours);
        assert_eq!(holder(Some(&labels(&[(names::HOST, "away")])), &owner()), Holder::OtherHost);
        assert!(!is_shared(Some(&labels(&[("node.longshore.dev/virtual", "")])), &owner()));
        assert!(is_shared(Some(&labels(&[("node.longshore.dev/other", "")])), &owner()));
    }
}
