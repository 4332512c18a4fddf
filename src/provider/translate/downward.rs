//! The downward API tells a container what it would tell at home.
//!
//! A reference whose answer differs in the target is pointed to an annotation or label of ours on the delegate, which
//! carries home's answer. A literal instead would freeze what a volume follows, and a `$(…)` in it would be expanded.
//! References follow `pkg/fieldpath` of Kubernetes; what is formatted there is formatted here ([`quote`]).

use std::collections::BTreeMap;

use serde_json::Value;

use super::report::Report;
use super::spec::{CONTAINERS, Object, entries_mut, text};
use super::{fingerprint, quote, residue};
use crate::kubelet::document::PodDocument;
use crate::provider::names;

/// Redirects the references that need it and gives the annotations that they need.
///
/// `node_name` is what `spec.nodeName` answers for a proxy that is not bound yet; a delegate that is `renamed` has not the name
/// of its proxy.
pub(super) fn redirect(
    spec: &mut Object,
    proxy: &PodDocument,
    node_name: &str,
    renamed: bool,
    report: &mut Report,
) -> BTreeMap<String, String> {
    let mut carried = BTreeMap::new();
    let mut follow = |path: String, holder: &mut Value| {
        let Some(Value::String(field)) = holder.get_mut("fieldRef").and_then(|r| r.get_mut("fieldPath")) else {
            return;
        };
        let Some(new) = target(field, proxy, node_name, renamed, &mut carried) else { return };
        let why = format!("{field} is told as it is at home, by {new}");
        report.changed(format!("{path}.fieldRef"), why);
        *field = new;
    };
    for kind in CONTAINERS {
        for (i, container) in entries_mut(spec, kind).iter_mut().enumerate() {
            let Some(container) = container.as_object_mut() else { continue };
            for (j, variable) in entries_mut(container, "env").iter_mut().enumerate() {
                if let Some(from) = variable.get_mut("valueFrom") {
                    follow(format!("spec.{kind}[{i}].env[{j}].valueFrom"), from);
                }
            }
        }
    }
    // Its downward part tells the namespace, and goes away with the volume.
    let token = residue::token_volume(spec).map(str::to_owned);
    for (i, volume) in entries_mut(spec, "volumes").iter_mut().enumerate() {
        if token.is_some() && text(volume, "name") == token.as_deref() {
            continue;
        }
        let path = format!("spec.volumes[{i}]");
        items(&path, volume, &mut follow);
        if let Some(Value::Object(projected)) = volume.get_mut("projected") {
            for (j, source) in entries_mut(projected, "sources").iter_mut().enumerate() {
                items(&format!("{path}.projected.sources[{j}]"), source, &mut follow);
            }
        }
    }
    carried
}

fn items(path: &str, holder: &mut Value, follow: &mut impl FnMut(String, &mut Value)) {
    let Some(Value::Object(downward)) = holder.get_mut("downwardAPI") else { return };
    for (i, item) in entries_mut(downward, "items").iter_mut().enumerate() {
        follow(format!("{path}.downwardAPI.items[{i}]"), item);
    }
}

/// Where a reference has to point on the delegate, if not where it does; what it needs there is added to `carried`.
fn target(
    field: &str,
    proxy: &PodDocument,
    node_name: &str,
    renamed: bool,
    carried: &mut BTreeMap<String, String>,
) -> Option<String> {
    let spec = |field: &str| text(&proxy.spec, field).unwrap_or_default();
    let (annotation, value) = match field {
        "metadata.name" if renamed => return Some(annotation(names::NAME)),
        "metadata.namespace" => return Some(annotation(names::NAMESPACE)),
        "metadata.uid" => return Some(format!("metadata.labels['{}']", names::UID)),
        // `spec.host` is what v1beta1 called it; the API still takes it.
        "spec.nodeName" | "spec.host" => {
            let bound = Some(spec("nodeName")).filter(|name| !name.is_empty());
            (names::NODE_NAME.to_owned(), Some(bound.unwrap_or(node_name).to_owned()))
        }
        "spec.serviceAccountName" => (names::SERVICE_ACCOUNT.to_owned(), Some(spec("serviceAccountName").to_owned())),
        "metadata.labels" => (names::LABELS.to_owned(), Some(all(proxy.metadata.labels.as_ref()))),
        "metadata.annotations" => (names::ANNOTATIONS.to_owned(), Some(all(proxy.metadata.annotations.as_ref()))),
        _ => match subscript(field)? {
            ("metadata.labels", key) if names::owns_label(key) => {
                (named(names::HOME_LABEL, key), proxy.label(key).map(str::to_owned))
            }
            ("metadata.annotations", key) if names::owns_annotation(key) || key == names::LAST_APPLIED => {
                (named(names::HOME_ANNOTATION, key), proxy.annotation(key).map(str::to_owned))
            }
            _ => return None,
        },
    };
    let path = self::annotation(&annotation);
    // A key that home does not have either is left out here too: a kubelet answers with nothing.
    if let Some(value) = value {
        carried.insert(annotation, value);
    }
    Some(path)
}

fn annotation(key: &str) -> String {
    format!("metadata.annotations['{key}']")
}

fn named(prefix: &str, key: &str) -> String {
    format!("{prefix}{}", fingerprint::hex(fingerprint::of_text(key)))
}

fn all(map: Option<&BTreeMap<String, String>>) -> String {
    map.map(quote::lines).unwrap_or_default()
}

/// `path['key']` taken apart: `SplitMaybeSubscriptedPath` in pkg/fieldpath.
fn subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['").filter(|(path, _)| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::translate::report::Change;
    use serde_json::json;

    fn proxy() -> PodDocument {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"tier": "front", "app": "web"},
                "annotations": {"note": "two\nlines", "longshore.dev/sent": "theirs",
                    "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
            "spec": {"nodeName": "virtual", "serviceAccountName": "shopkeeper"}
        }))
        .unwrap()
    }

    /// Where an environment variable points afterwards, and what the delegate carries for it.
    fn env(field: &str) -> (String, BTreeMap<String, String>, Vec<Change>) {
        let spec = json!({"containers": [{"env": [{"name": "A"}, {"valueFrom": {"fieldRef": {"fieldPath": field}}}]}]});
        let Value::Object(mut spec) = spec else { unreachable!() };
        let mut report = Report::default();
        let carried = redirect(&mut spec, &proxy(), "fallback", false, &mut report);
        let path = spec["containers"][0]["env"][1]["valueFrom"]["fieldRef"]["fieldPath"].as_str().unwrap().to_owned();
        (path, carried, report.into_changes())
    }

    #[test]
    fn what_is_the_same_in_the_target_stays() {
        for field in [
            "metadata.name",
            "metadata.labels['app']",
            "metadata.annotations['note']",
            "metadata.annotations['absent']",
            "status.podIP",
            "status.podIPs",
            "status.hostIP",
            "spec.inventedIn2031",
            "['x']",
            "",
        ] {
            let (path, carried, report) = env(field);
            assert_eq!((path.as_str(), carried.len(), report.len()), (field, 0, 0));
        }
    }

    #[test]
    fn what_differs_is_told_by_annotations_that_carry_homes_answer() {
        for (field, key, value) in [
            ("spec.nodeName", names::NODE_NAME, "virtual"),
            ("spec.host", names::NODE_NAME, "virtual"),
            ("spec.serviceAccountName", names::SERVICE_ACCOUNT, "shopkeeper"),
            ("metadata.labels", names::LABELS, "app=\"web\"\ntier=\"front\""),
            (
                "metadata.annotations",
                names::ANNOTATIONS,
                "kubectl.kubernetes.io/last-applied-configuration=\"{}\"\nlongshore.dev/sent=\"theirs\"\n\
                 note=\"two\\nlines\"",
            ),
        ] {
            let (path, carried, report) = env(field);
            assert_eq!(path, annotation(key));
            assert_eq!(carried, [(key.to_owned(), value.to_owned())].into());
            assert_eq!(report[0].field, "spec.containers[0].env[1].valueFrom.fieldRef");
        }
        assert_eq!(env("metadata.namespace").0, "metadata.annotations['longshore.dev/namespace']");
        assert_eq!(env("metadata.uid").0, "metadata.labels['longshore.dev/uid']");
    }

    #[test]
    fn keys_that_the_delegate_cannot_have_are_carried_under_another() {
        for (key, value) in [(names::SENT, "theirs"), (names::LAST_APPLIED, "{}")] {
            let (path, carried, _) = env(&annotation(key));
            let other = named(names::HOME_ANNOTATION, key);
            assert_eq!(path, annotation(&other));
            assert_eq!(carried, [(other, value.to_owned())].into());
        }
        let (path, carried, _) = env("metadata.labels['longshore.dev/host']");
        assert_eq!(path, annotation(&named(names::HOME_LABEL, names::HOST)));
        assert!(carried.is_empty(), "home has no such label, so the answer is nothing there too");
    }

    #[test]
    fn an_unbound_proxy_will_be_on_the_virtual_node() {
        let spec = json!({"initContainers": [{"env": [{"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]}]});
        let Value::Object(mut spec) = spec else { unreachable!() };
        let carried = redirect(&mut spec, &PodDocument::default(), "fallback", false, &mut Report::default());
        assert_eq!(carried[names::NODE_NAME], "fallback");
    }

    #[test]
    fn volumes_are_followed_plain_and_projected() {
        let item = json!({"path": "p", "fieldRef": {"fieldPath": "metadata.uid"}});
        let limit = json!({"path": "q", "resourceFieldRef": {"resource": "limits.cpu"}});
        let spec = json!({"volumes": [{"downwardAPI": {"items": [limit, item]}},
            {"projected": {"sources": [{"novel": 1}, {"downwardAPI": {"items": [item]}}]}},
            {"name": "kube-api-access-abcde", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [item]}}]}}]});
        let Value::Object(mut changed) = spec.clone() else { unreachable!() };
        let mut report = Report::default();
        redirect(&mut changed, &proxy(), "", false, &mut report);
        let fields: Vec<String> = report.into_changes().into_iter().map(|change| change.field).collect();
        assert_eq!(
            fields,
            [
                "spec.volumes[0].downwardAPI.items[1].fieldRef",
                "spec.volumes[1].projected.sources[1].downwardAPI.items[0].fieldRef"
            ]
        );
        assert_eq!(changed["volumes"][0]["downwardAPI"]["items"][0], limit);
        assert_eq!(changed["volumes"][2], spec["volumes"][2]);
    }
}
