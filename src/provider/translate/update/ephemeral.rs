//! Ephemeral containers (`kubectl debug`), which are added to a pod that runs, through a subresource, and never go.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Update, fingerprint};
use crate::kubelet::document::PodDocument;
use crate::kubelet::provider::HostKind;
use crate::provider::before::Before;
use crate::provider::follow::references::Reference;
use crate::provider::names;
use crate::provider::translate::spec::text;
use crate::provider::translate::{Hold, Site, Translation, translate};

const FIELD: &str = "ephemeralContainers";

/// What a delegate should be now.
#[derive(Clone, Debug, PartialEq)]
pub struct Refreshed {
    /// With its ephemeral containers, unless they are held.
    pub delegate: PodDocument,
    /// Why the ephemeral containers stay at home; all else follows.
    pub held: Option<Hold>,
    /// What its ephemeral containers refer to and were perhaps the first to.
    pub references: Vec<Reference>,
}

impl Refreshed {
    /// What makes a live delegate so.
    pub fn update(&self, live: &PodDocument) -> Update {
        Update::new(&self.delegate, live)
    }
}

/// Translates a changed proxy that has a delegate already. An ephemeral container is translated as every other container,
/// with the same guards; since it can never be taken back, one that is held holds nothing but its like.
pub fn refresh(proxy: &PodDocument, site: &Site) -> Result<Refreshed, Hold> {
    let added = proxy.list(FIELD);
    if added.is_empty() {
        return Ok(Refreshed { delegate: translate(proxy, site)?.delegate, held: None, references: vec![] });
    }
    let count = proxy.list("containers").len();
    let mut all = proxy.clone();
    if let Some(Value::Array(containers)) = all.spec.get_mut("containers") {
        containers.extend_from_slice(added);
    }
    match translate(&all, site) {
        Ok(mut translation) => {
            let references = std::mem::take(&mut translation.references);
            let references = references.into_iter().filter_map(|reference| added_reference(reference, count)).collect();
            Ok(Refreshed { delegate: apart(translation, proxy), held: None, references })
        }
        Err(hold) => {
            let Some(own) = of_added(&hold, count) else { return Err(hold) };
            Ok(Refreshed { delegate: translate(proxy, site)?.delegate, held: Some(own), references: vec![] })
        }
    }
}

/// Puts the ephemeral containers back into their own list.
fn apart(Translation { mut delegate, .. }: Translation, proxy: &PodDocument) -> PodDocument {
    let added: BTreeSet<_> = proxy.list(FIELD).iter().filter_map(|c| text(c, "name")).collect();
    if let Some(Value::Array(containers)) = delegate.spec.get_mut("containers") {
        let is_added = |c: &Value| text(c, "name").is_some_and(|name| added.contains(name));
        let (ephemeral, regular) = std::mem::take(containers).into_iter().partition(is_added);
        *containers = regular;
        let ephemeral: Vec<Value> = ephemeral;
        delegate.spec[FIELD] = ephemeral.into();
    }
    sign(&mut delegate, proxy);
    delegate
}

/// The hold of an ephemeral container under its own name; `None` for any other.
fn of_added(hold: &Hold, count: usize) -> Option<Hold> {
    Some(Hold { field: own_path(&hold.field, count)?, message: hold.message.clone() })
}

/// A reference of an ephemeral container under its own name; `None` for one that the pod has had from the beginning.
fn added_reference(reference: Reference, count: usize) -> Option<Reference> {
    match own_path(&reference.field, count) {
        Some(field) => Some(Reference { field, ..reference }),
        None => (reference.kind == HostKind::Service).then_some(reference),
    }
}

/// The path of a field of an ephemeral container that was counted after the regular ones.
fn own_path(path: &str, count: usize) -> Option<String> {
    let (index, rest) = path.strip_prefix("spec.containers[")?.split_once(']')?;
    let index = index.parse::<usize>().ok()?.checked_sub(count)?;
    Some(format!("spec.{FIELD}[{index}]{rest}"))
}

fn sign(delegate: &mut PodDocument, proxy: &PodDocument) {
    let sent = fingerprint::hex(fingerprint::fingerprint(proxy));
    delegate.metadata.annotations.get_or_insert_default().insert(names::SENT.into(), sent);
}

/// A new delegate, as it is created: it says that its ephemeral containers are still to come, and carries what home showed
/// of those before it.
pub fn created(mut delegate: PodDocument, proxy: &PodDocument) -> PodDocument {
    if !proxy.list(FIELD).is_empty() {
        let mut bare = proxy.clone();
        bare.spec.as_object_mut().map(|spec| spec.remove(FIELD));
        sign(&mut delegate, &bare);
    }
    if let Some(before) = Before::of(proxy) {
        delegate.metadata.annotations.get_or_insert_default().insert(names::BEFORE.into(), before.print());
    }
    delegate
}

/// The patch that adds those that are not there. What ran in an earlier delegate is not run again.
pub(super) fn patch(fresh: &PodDocument, live: &PodDocument, before: &Before) -> Option<Value> {
    let there = |name: &str| live.list(FIELD).iter().any(|other| text(other, "name") == Some(name));
    let is_new = |c: &&Value| text(c, "name").is_some_and(|name| !there(name) && !before.ephemeral.contains_key(name));
    let added: Vec<_> = fresh.list(FIELD).iter().filter(is_new).cloned().collect();
    (!added.is_empty()).then(|| json!({"metadata": {"uid": live.uid()}, "spec": {FIELD: added}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::follow::names::{CopyKind, Need};
    use crate::provider::translate::sent;

    fn proxy(ephemeral: &Value) -> PodDocument {
        serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "image": "i"}], FIELD: ephemeral}}))
        .unwrap()
    }

    fn live(proxy: &PodDocument) -> PodDocument {
        let mut live = created(translate(proxy, &Site::default()).unwrap().delegate, proxy);
        live.metadata.uid = Some("d".into());
        live
    }

    #[test]
    fn what_ephemeral_containers_refer_to_follows_them() {
        let from = |name: &str| json!([{"configMapRef": {"name": name}}]);
        let mut pod = proxy(&json!([{"name": "e", "image": "debug", "envFrom": from("late")},
            {"name": "f", "image": "debug", "envFrom": from("early")}]));
        pod.spec["containers"][0]["envFrom"] = from("early");
        let site = Site::default();
        let fresh = refresh(&pod, &site).unwrap();
        let found: Vec<_> = fresh.references.iter().map(|one| (one.name.as_str(), one.field.as_str())).collect();
        let services = crate::provider::follow::variables::NAME;
        assert_eq!(
            found,
            [("late", "spec.ephemeralContainers[0].envFrom[0].configMapRef"), (services, "spec.enableServiceLinks")]
        );
        let of_services = crate::provider::follow::variables::source(&site.names);
        assert_eq!(fresh.delegate.spec[FIELD][0]["envFrom"], json!([of_services, from("late")[0]]));

        let mut live = live(&pod);
        live.metadata.annotations.get_or_insert_default().insert(names::FOLLOWS.into(), "configmap/early".into());
        let need = |name: &str| Need { kind: CopyKind::ConfigMap, name: name.into(), home: name.into() };
        let mut update = fresh.update(&live);
        update.follow(&live, &[need("early")]);
        assert_eq!(update.whole["metadata"]["annotations"].get(names::FOLLOWS), None);
        update.follow(&live, &[need("early"), need("late")]);
        for patch in [&update.whole, &update.part] {
            assert_eq!(patch["metadata"]["annotations"][names::FOLLOWS], "configmap/early configmap/late");
        }
    }

    fn debugger() -> Value {
        json!([{"name": "e", "image": "debug", "targetContainerName": "c",
            "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}]}])
    }

    #[test]
    fn one_is_added_in_the_words_of_the_target() {
        let changed = proxy(&debugger());
        let live = live(&proxy(&json!([])));
        assert_ne!(sent(&live), Some(fingerprint::fingerprint(&changed)), "there is something to do");
        let fresh = refresh(&changed, &Site::default()).unwrap();
        let update = fresh.update(&live);
        let added = update.ephemeral.unwrap();
        assert_eq!(added["metadata"]["uid"], "d");
        let container = &added["spec"][FIELD][0];
        assert_eq!(container["targetContainerName"], "c", "a field that only they have");
        let path = &container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"];
        assert_eq!(path, "metadata.annotations['longshore.dev/namespace']");
        assert_eq!(update.whole.get("spec"), None, "it is no regular container");
        let says = &update.whole["metadata"]["annotations"][names::SENT];
        assert_eq!(says, &json!(fingerprint::hex(fingerprint::fingerprint(&changed))));
    }

    #[test]
    fn one_that_is_there_or_was_is_not_added_again() {
        let changed = proxy(&debugger());
        let fresh = refresh(&changed, &Site::default()).unwrap();
        let mut there = live(&changed);
        there.spec[FIELD] = json!([{"name": "e"}]);
        assert_eq!(fresh.update(&there).ephemeral, None);
        let mut shown = changed;
        shown.status = json!({"ephemeralContainerStatuses": [{"name": "e", "state": {"running": {}}}]}).into();
        assert_eq!(fresh.update(&live(&shown)).ephemeral, None);
    }

    #[test]
    fn a_new_delegate_of_a_pod_with_some_is_not_complete() {
        let pod = proxy(&debugger());
        assert_ne!(sent(&live(&pod)), Some(fingerprint::fingerprint(&pod)));
        let plain = proxy(&json!([]));
        assert_eq!(live(&plain).annotation(names::BEFORE), None);
    }

    #[test]
    fn one_that_is_held_holds_nothing_else() {
        let rights = json!([{"name": "e", "image": "debug", "securityContext": {"privileged": true}}]);
        let fresh = refresh(&proxy(&rights), &Site::default()).unwrap();
        let field = fresh.held.as_ref().unwrap().field.clone();
        assert!(field.starts_with("spec.ephemeralContainers[0]."), "{field}");
        assert_eq!(fresh.update(&live(&proxy(&json!([])))).ephemeral, None);
    }
}
