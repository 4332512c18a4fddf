//! What becomes of a pod that asks to be offloaded. Pure.
//!
//! - `Remote`: home's scheduler is asked for the virtual nodes, and for nothing else: what the pod asks of its node (selector,
//!   affinity, spread) is about the machines of the target, and is kept in an annotation for its delegate
//!   ([`Constraints`]). Tolerations stay, and those of the virtual nodes' taints come to them.
//! - `LocalAndRemote`: the pod asks home's nodes what it asked them before. Only where it asks for kinds of nodes, the virtual
//!   nodes become an alternative to them. It does not tolerate them yet: a toleration is added later, if home has no place.
//!
//! Devices that a pod claims are not asked of home's scheduler, where the pod runs nowhere else: they are kept in an annotation
//! ([`Devices`]), and of the virtual nodes that are meant it goes to those whose targets give some.
//!
//! A pod that some controller made goes to no virtual node that had no room for one of its siblings, for as long as the node
//! says so ([`stuck`]).
//!
//! A pod that was through this before (a manifest that was taken from a pod) is taken back to its user's own first.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::roster::{Place, Roster};
use crate::api::virtual_node::{Taint, TaintEffect};
use crate::kubelet::stuck;
use crate::provider::names;
use crate::provider::offload::{Mode, Wish};
use crate::provider::translate::constraints::Constraints;
use crate::provider::translate::devices::{self, Devices, DevicesError};

type Object = Map<String, Value>;

/// What the decision is made by, beside the pod and its namespace.
pub struct Config<'a> {
    /// Where pods can go.
    pub roster: &'a Roster,
    /// The name of this webhook, which pods that stay at home first carry as a label.
    pub name: &'a str,
}

/// What is done with a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Admitted {
    /// The steps of a JSON patch (RFC 6902); none if it stays as it is.
    pub patch: Vec<Value>,
    /// What its creator should know.
    pub warnings: Vec<String>,
}

/// Why a pod is not created, in a sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// Decides on a pod that is about to be created in a namespace with these labels.
///
/// # Errors
/// When what it asks for makes no sense, or there is no such place.
pub fn admission(pod: &Value, labels: &BTreeMap<String, String>, config: &Config<'_>) -> Result<Admitted, Refusal> {
    if !pod["metadata"].is_object() || !pod["spec"].is_object() || is_none_of_ours(pod) {
        return Ok(Admitted::default());
    }
    let Some((wish, mode)) = asked(pod, labels)? else {
        let mut admitted = Admitted::default();
        if annotation(pod, names::OFFLOAD_MODE).is_some() {
            let (mode, place) = (names::OFFLOAD_MODE, names::OFFLOAD);
            admitted.warnings.push(format!(
                "the annotation {mode} says how, and nothing says that the pod is to be offloaded: it stays at home; add the \
                 annotation {place}, or label the namespace with it"
            ));
        }
        return Ok(admitted);
    };
    let (mut new, odd) = undone(pod);
    let mut warnings = vec![];
    if mode != Mode::Local && wish != Wish::Home {
        if let Some(error) = odd {
            return Err(Refusal(format!("the pod's annotation {} {error}", names::RESOURCE_CLAIMS)));
        }
        let places = places(&wish, config.roster, &mut warnings)?;
        if mode == Mode::LocalAndRemote {
            later(&mut new, &places, config.name, &mut warnings);
        } else {
            let places = with_devices(&new, &wish, places, &mut warnings);
            now(&mut new, &places);
        }
        say(&mut new, names::OFFLOAD, &wish.to_string());
        if mode != Mode::default() {
            say(&mut new, names::OFFLOAD_MODE, mode.name());
        }
    }
    Ok(Admitted { patch: difference(pod, &new), warnings })
}

/// Pods that nobody can have asked for: those that are bound already, a DaemonSet's, and delegates of another host.
fn is_none_of_ours(pod: &Value) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    pod["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty())
        || !pod["metadata"]["labels"][names::HOST].is_null()
        || owners.into_iter().any(|owner| owner["kind"] == "DaemonSet" && owner["controller"] == true)
}

fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"][key].as_str()
}

/// What the pod asks for, or else its namespace; `None` if neither does.
fn asked(pod: &Value, labels: &BTreeMap<String, String>) -> Result<Option<(Wish, Mode)>, Refusal> {
    let said = |key: &str| {
        let of_pod = annotation(pod, key).map(|value| (value, "the pod's annotation"));
        of_pod.or_else(|| labels.get(key).map(|value| (value.as_str(), "the namespace's label")))
    };
    let refused = |whose: &str, key: &str, why: String| Refusal(format!("{whose} {key} {why}"));
    let Some((wish, whose)) = said(names::OFFLOAD) else { return Ok(None) };
    let wish = Wish::read(wish).map_err(|why| refused(whose, names::OFFLOAD, why))?;
    let mode = match said(names::OFFLOAD_MODE) {
        Some((mode, whose)) => Mode::read(mode).map_err(|why| refused(whose, names::OFFLOAD_MODE, why))?,
        None => Mode::default(),
    };
    Ok(Some((wish, mode)))
}

/// The virtual nodes that are meant. One that is named and unknown is no reason to refuse a pod that may go elsewhere: it may
/// have been removed.
fn places<'a>(wish: &Wish, roster: &'a Roster, warnings: &mut Vec<String>) -> Result<Vec<&'a Place>, Refusal> {
    if roster.places().is_empty() {
        let message = "there is no virtual node to offload pods to; create a Target, or remove the annotation or label";
        return Err(Refusal(format!("{message} {}", names::OFFLOAD)));
    }
    let Wish::Named(wanted) = wish else { return Ok(roster.places().iter().collect()) };
    let (places, unknown) = roster.find(wanted);
    if !unknown.is_empty() {
        let message = format!(
            "{} names {}, which is neither a target nor a virtual node here; known are {}",
            names::OFFLOAD,
            unknown.join(", "),
            roster.names()
        );
        if places.is_empty() {
            return Err(Refusal(message));
        }
        warnings.push(message);
    }
    Ok(places)
}

/// Of the virtual nodes that are meant those where a pod gets the devices that it claims, if it claims any; all where none
/// gives some, so that the pod is held there and tells the remedy.
fn with_devices<'a>(pod: &Value, wish: &Wish, places: Vec<&'a Place>, warnings: &mut Vec<String>) -> Vec<&'a Place> {
    if !devices::claims(&pod["spec"]) {
        return places;
    }
    let gives = |place: &&Place| place.devices.iter().any(|target| wish.allows(&place.node, target));
    let (some, none): (Vec<_>, Vec<_>) = places.iter().copied().partition(gives);
    let nodes = |places: &[&Place]| places.iter().map(|place| place.node.as_str()).collect::<Vec<_>>().join(", ");
    if some.is_empty() {
        warnings.push(format!(
            "the pod claims devices, and is held at {}, which give none; set spec.resourceClaims of their Targets to Remote",
            nodes(&none)
        ));
        return places;
    }
    if !none.is_empty() {
        warnings.push(format!("the pod claims devices, and does not go to {}, which give none", nodes(&none)));
    }
    some
}

/// The pod as its user made it, and what is wrong with the devices that it says by an annotation.
fn undone(pod: &Value) -> (Value, Option<DevicesError>) {
    let mut pod = pod.clone();
    let before = annotation(&pod, names::CONSTRAINTS).map(Constraints::read);
    // One that cannot be read is none of ours, and is written anew.
    if let (Some(Ok(constraints)), Some(spec)) = (before, pod["spec"].as_object_mut()) {
        constraints.undo(spec);
    }
    take(&mut pod, "annotations", names::CONSTRAINTS);
    take(&mut pod, "labels", names::LATER);
    let devices = annotation(&pod, names::RESOURCE_CLAIMS).map(Devices::read);
    let restored = match (devices, pod["spec"].as_object_mut()) {
        (Some(devices), Some(spec)) => devices.and_then(|devices| devices.restore(spec)),
        _ => return (pod, None),
    };
    if restored.is_ok() {
        take(&mut pod, "annotations", names::RESOURCE_CLAIMS);
    }
    (pod, restored.err())
}

/// Sends a pod away.
fn now(pod: &mut Value, places: &[&Place]) {
    let room = has_room(pod);
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let mut constraints = Constraints::of(spec);
    constraints.added.tolerations = lacking(spec.get("tolerations"), places);
    spec.remove("nodeSelector");
    spec.remove("topologySpreadConstraints");
    spec.insert("affinity".into(), required(&json!([virtual_nodes(places, room)])));
    if !constraints.added.tolerations.is_empty() {
        let mut all = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
        all.extend(constraints.added.tolerations.iter().cloned());
        spec.insert("tolerations".into(), all.into());
    }
    let devices = Devices::take(spec);
    say(pod, names::CONSTRAINTS, &constraints.print());
    if let Some(devices) = devices {
        give(pod, "annotations", names::RESOURCE_CLAIMS, &devices.print());
    }
}

/// Lets a pod go where it may go later.
fn later(pod: &mut Value, places: &[&Place], name: &str, warnings: &mut Vec<String>) {
    if devices::claims(&pod["spec"]) {
        warnings.push(
            "the pod claims devices, which home's scheduler finds at home alone: it does not go to a virtual node; use the \
             mode Remote for devices of a target"
                .into(),
        );
    }
    let room = has_room(pod);
    let Some(spec) = pod["spec"].as_object_mut() else { return };
    let mut constraints = Constraints::of(spec);
    constraints.added.tolerations = lacking(spec.get("tolerations"), places);
    for place in places.iter().filter(|place| !place.taints.iter().any(repels)) {
        warnings.push(format!(
            "the virtual node {} has no taint, so that nothing keeps the pod at home first; remove spec.taints of the \
             VirtualNode",
            place.node
        ));
    }
    let selector = match spec.remove("nodeSelector") {
        Some(Value::Object(selector)) => selector,
        _ => Object::new(),
    };
    let terms = "/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let own = spec.get("affinity").and_then(|affinity| affinity.pointer(terms)).and_then(Value::as_array);
    let own = own.filter(|terms| !terms.is_empty()).cloned();
    if let (true, None, Some(room)) = (selector.is_empty(), &own, &room) {
        // Any node, as it was, but one that has no room. No node of home ever says so.
        require(spec, &json!([{"matchExpressions": [room]}]));
    } else if !selector.is_empty() || own.is_some() {
        let mut alternatives = own.unwrap_or_else(|| vec![json!({"matchExpressions": []})]);
        // An empty term matches no node, and must not begin to.
        let terms = alternatives.iter_mut().filter_map(Value::as_object_mut).filter(|term| !term.is_empty());
        for term in terms.filter(|_| !selector.is_empty()) {
            let selected = selector.iter().map(|(key, value)| json!({"key": key, "operator": "In", "values": [value]}));
            let mut all = term.get("matchExpressions").and_then(Value::as_array).cloned().unwrap_or_default();
            all.extend(selected);
            term.insert("matchExpressions".into(), all.into());
        }
        alternatives.push(virtual_nodes(places, room));
        require(spec, &json!(alternatives));
    }
    if !constraints.added.tolerations.is_empty() {
        give(pod, "labels", names::LATER, name);
    }
    say(pod, names::CONSTRAINTS, &constraints.print());
}

/// The object in a field; an empty one where there is none.
fn object(field: Option<&Value>) -> Object {
    field.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn required(terms: &Value) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
}

/// Makes these terms those of the required node affinity.
fn require(spec: &mut Object, terms: &Value) {
    let mut affinity = object(spec.get("affinity"));
    let mut nodes = object(affinity.get("nodeAffinity"));
    nodes.insert("requiredDuringSchedulingIgnoredDuringExecution".into(), json!({"nodeSelectorTerms": terms}));
    affinity.insert("nodeAffinity".into(), nodes.into());
    spec.insert("affinity".into(), affinity.into());
}

/// The term that these virtual nodes satisfy, and no other node; if they have `room`.
fn virtual_nodes(places: &[&Place], room: Option<Value>) -> Value {
    let nodes: Vec<_> = places.iter().map(|place| place.node.as_str()).collect();
    let mut all = vec![json!({"key": names::VIRTUAL_NODE, "operator": "In", "values": nodes})];
    all.extend(room);
    json!({"matchExpressions": all})
}

/// What nodes satisfy that had room for the pods of this one's controller; nothing if no controller makes another pod.
fn has_room(pod: &Value) -> Option<Value> {
    let mut owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let controller = owners.find(|owner| owner["controller"] == true)?;
    let label = stuck::label(controller["uid"].as_str()?)?;
    Some(json!({"key": label, "operator": "DoesNotExist"}))
}

/// The tolerations that a pod with these lacks for all taints of these nodes.
fn lacking(tolerations: Option<&Value>, places: &[&Place]) -> Vec<Value> {
    let mut lacking: Vec<Value> = vec![];
    for taint in places.iter().flat_map(|place| &place.taints).filter(|taint| repels(taint)) {
        let own = tolerations.and_then(Value::as_array).into_iter().flatten();
        if !own.chain(&lacking).any(|toleration| tolerates(toleration, taint)) {
            let Taint { key, value, effect } = taint;
            lacking.push(json!({"key": key, "operator": "Equal", "value": value, "effect": effect}));
        }
    }
    lacking
}

fn repels(taint: &Taint) -> bool {
    taint.effect != TaintEffect::PreferNoSchedule
}

/// `Toleration.ToleratesTaint` of k8s.io/component-helpers; comparisons of numbers tolerate nothing here, so that a toleration
/// more is added, which does no harm.
fn tolerates(toleration: &Value, taint: &Taint) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    if !text("effect").is_empty() && toleration["effect"] != json!(taint.effect) {
        return false;
    }
    if !text("key").is_empty() && text("key") != taint.key {
        return false;
    }
    match text("operator") {
        "Exists" => true,
        "" | "Equal" => !text("key").is_empty() && text("value") == taint.value,
        _ => false,
    }
}

fn say(pod: &mut Value, key: &str, value: &str) {
    if annotation(pod, key).is_none() || key == names::CONSTRAINTS {
        give(pod, "annotations", key, value);
    }
}

fn give(pod: &mut Value, map: &str, key: &str, value: &str) {
    if !pod["metadata"][map].is_object() {
        pod["metadata"][map] = json!({});
    }
    pod["metadata"][map][key] = value.into();
}

fn take(pod: &mut Value, map: &str, key: &str) {
    if let Some(map) = pod["metadata"].get_mut(map).and_then(Value::as_object_mut) {
        map.remove(key);
    }
}

/// The steps that take claims off containers, or give them back.
fn claims_of_containers(old: &Value, new: &Value) -> Vec<Value> {
    let list = |spec: &Value, kind: &str| spec[kind].as_array().cloned().unwrap_or_default();
    let mut steps = vec![];
    for kind in ["initContainers", "containers"] {
        for (i, (old, new)) in list(old, kind).iter().zip(&list(new, kind)).enumerate() {
            let (was, is) = (&old["resources"], &new["resources"]);
            let path = format!("/spec/{kind}/{i}/resources");
            match (was.get("claims"), is.get("claims")) {
                (was, is) if was == is => {}
                (_, Some(_)) if !was.is_object() => steps.push(json!({"op": "add", "path": path, "value": is})),
                (_, Some(claims)) => {
                    steps.push(json!({"op": "add", "path": format!("{path}/claims"), "value": claims}));
                }
                (_, None) => steps.push(json!({"op": "remove", "path": format!("{path}/claims")})),
            }
        }
    }
    steps
}

/// The steps from one pod to the other. Nothing else than these fields may differ.
fn difference(old: &Value, new: &Value) -> Vec<Value> {
    let fields = [
        ("metadata", "annotations"),
        ("metadata", "labels"),
        ("spec", "nodeSelector"),
        ("spec", "affinity"),
        ("spec", "tolerations"),
        ("spec", "topologySpreadConstraints"),
        ("spec", "resourceClaims"),
    ];
    let mut steps = claims_of_containers(&old["spec"], &new["spec"]);
    for (part, field) in fields {
        let (was, is) = (old[part].get(field), new[part].get(field));
        if was == is || is.is_some_and(Value::is_null) {
            continue;
        }
        let path = format!("/{part}/{field}");
        match is {
            // Members of their own: whoever else changes the pod has others.
            Some(Value::Object(members)) if part == "metadata" && was.is_some_and(Value::is_object) => {
                let old = was.and_then(Value::as_object);
                let pointer = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                for (key, value) in members {
                    if old.and_then(|old| old.get(key)) != Some(value) {
                        steps.push(json!({"op": "add", "path": pointer(key), "value": value}));
                    }
                }
                for key in old.into_iter().flat_map(Map::keys).filter(|key| !members.contains_key(*key)) {
                    steps.push(json!({"op": "remove", "path": pointer(key)}));
                }
            }
            Some(value) => steps.push(json!({"op": "add", "path": path, "value": value})),
            None => steps.push(json!({"op": "remove", "path": path})),
        }
    }
    steps
}

#[cfg(test)]
mod tests;
