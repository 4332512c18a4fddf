//! What chose the virtual node at home would choose no node of the target.
//!
//! Selectors and affinities that ask for a kind of machine (an architecture, a zone that the virtual node does not claim, a
//! label of the target's nodes) stay, and so does everything between pods.

use serde_json::{Value, json};

use super::Site;
use super::report::Report;
use super::spec::{Object, drop_entries, entries, text};
use crate::provider::names;
use crate::provider::part::Part;

const HOSTNAME: &str = "kubernetes.io/hostname";

/// Labels that the virtual node shares with the machines it stands for.
const KINDS: [&str; 4] = ["kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch"];

const OF_THE_NODE: &str = "it selects the virtual node, and no node of the target is that";
const OTHER_NODE: &str = "it selects other nodes of home";

/// Takes out what ties the pod to the virtual node.
pub(super) fn detach(spec: &mut Object, site: &Site, report: &mut Report) {
    tolerations(spec, report);
    selector(spec, site, report);
    affinity(spec, site, report);
}

/// Ties the pod to a part of the target through its scheduler, which also sees to it that there is room.
pub(super) fn pin(spec: &mut Object, part: &Part, why: String, report: &mut Report) {
    let Some((kind, requirements)) = part.requirements() else { return };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let mut place = spec;
    for field in ["affinity", "nodeAffinity", required] {
        let Value::Object(inner) = object_in(place, field) else { return };
        place = inner;
    }
    match place.get_mut("nodeSelectorTerms") {
        // All that are there are alternatives; an empty one matches nothing, and would match the part.
        Some(Value::Array(terms)) if !terms.is_empty() => {
            for term in terms.iter_mut().filter_map(Value::as_object_mut).filter(|term| !term.is_empty()) {
                match term.get_mut(kind) {
                    Some(Value::Array(fields)) => fields.extend(requirements.iter().cloned()),
                    _ => drop(term.insert(kind.into(), json!(requirements))),
                }
            }
        }
        _ => drop(place.insert("nodeSelectorTerms".into(), json!([{kind: requirements}]))),
    }
    report.changed(format!("spec.affinity.nodeAffinity.{required}"), why);
}

/// The object in a field, made if it is not there.
fn object_in<'a>(object: &'a mut Object, field: &str) -> &'a mut Value {
    let value = object.entry(field).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value
}

/// One pass for all, so that the report names them by their index at home.
fn tolerations(spec: &mut Object, report: &mut Report) {
    drop_entries(spec, "tolerations", |i, toleration| {
        let why = if text(toleration, "key") == Some(names::TAINT) {
            "it tolerates the virtual node, and no node of the target is that"
        } else if is_default(toleration) {
            "the host's admission adds it, and the target's adds its own"
        } else {
            return false;
        };
        report.dropped(format!("spec.tolerations[{i}]"), why);
        true
    });
}

/// Whether a toleration is as the admission plugin DefaultTolerationSeconds adds it.
fn is_default(toleration: &Value) -> bool {
    let key = text(toleration, "key");
    (key == Some("node.kubernetes.io/not-ready") || key == Some("node.kubernetes.io/unreachable"))
        && text(toleration, "operator") == Some("Exists")
        && text(toleration, "effect") == Some("NoExecute")
        && toleration.get("tolerationSeconds").and_then(Value::as_i64) == Some(300)
        && toleration.as_object().is_some_and(|fields| fields.len() == 4)
}

fn selector(spec: &mut Object, site: &Site, report: &mut Report) {
    let Some(Value::Object(selector)) = spec.get_mut("nodeSelector") else { return };
    let before = selector.len();
    selector.retain(|key, value| {
        let drops =
            is_identity(key) || (!KINDS.contains(&key.as_str()) && value.as_str().is_some_and(|v| site.claims(key, v)));
        if drops {
            report.dropped(format!("spec.nodeSelector[{key}]"), OF_THE_NODE);
        }
        !drops
    });
    if selector.is_empty() && before > 0 {
        spec.remove("nodeSelector");
    }
}

/// Whether a label tells one node of home from another, rather than one kind of machine from another.
fn is_identity(key: &str) -> bool {
    key == HOSTNAME || key.starts_with(names::PREFIX)
}

impl Site {
    fn claims(&self, key: &str, value: &str) -> bool {
        self.node_labels.get(key).is_some_and(|label| label == value)
    }
}

/// What becomes of a requirement on nodes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It asks for a kind of machine.
    Stays,
    /// It is about nodes of home, and the virtual node satisfies it.
    Satisfied,
    /// It is about nodes of home, and the virtual node does not satisfy it.
    Unsatisfied,
}

/// What is left of a term, whose requirements hold all together.
#[derive(PartialEq, Eq)]
enum Term {
    Stays,
    /// Nothing is left to require.
    Emptied,
    /// It was never true of the virtual node, so that the pod is not there because of it.
    Other,
}

fn affinity(spec: &mut Object, site: &Site, report: &mut Report) {
    let Some(Value::Object(affinity)) = spec.get_mut("affinity") else { return };
    if let Some(Value::Object(nodes)) = affinity.get_mut("nodeAffinity") {
        let before = nodes.len();
        required(nodes, site, report);
        let path = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution";
        drop_entries(nodes, "preferredDuringSchedulingIgnoredDuringExecution", |i, preferred| {
            let drops = preferred.get_mut("preference").is_some_and(|preference| {
                term(&format!("{path}[{i}].preference"), preference, site, report) != Term::Stays
            });
            if drops {
                report.dropped(format!("{path}[{i}]"), "it prefers nodes of home alone");
            }
            drops
        });
        if nodes.is_empty() && before > 0 {
            affinity.remove("nodeAffinity");
            if affinity.is_empty() {
                spec.remove("affinity");
            }
        }
    }
}

/// Terms are alternatives: where nothing is left of one, every node of the target will do, and the whole block goes.
fn required(nodes: &mut Object, site: &Site, report: &mut Report) {
    let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution";
    let field = "requiredDuringSchedulingIgnoredDuringExecution";
    let Some(Value::Object(selector)) = nodes.get_mut(field) else { return };
    let (mut any_node, mut other) = (false, false);
    drop_entries(selector, "nodeSelectorTerms", |i, alternative| {
        let left = term(&format!("{path}.nodeSelectorTerms[{i}]"), alternative, site, report);
        any_node |= left == Term::Emptied;
        other |= left == Term::Other;
        left == Term::Other
    });
    if any_node {
        report.dropped(path, "one of its alternatives is satisfied by the virtual node alone");
        nodes.remove(field);
    } else if other && entries(selector, "nodeSelectorTerms").is_empty() {
        report.dropped(path, OTHER_NODE);
        nodes.remove(field);
    }
}

fn term(path: &str, term: &mut Value, site: &Site, report: &mut Report) -> Term {
    let Some(term) = term.as_object_mut() else { return Term::Stays };
    let mut found = Vec::new();
    for part in ["matchExpressions", "matchFields"] {
        drop_entries(term, part, |i, requirement| {
            let verdict = judge(part, requirement, site);
            if verdict != Verdict::Stays {
                found.push((format!("{path}.{part}[{i}]"), verdict));
            }
            verdict != Verdict::Stays
        });
    }
    if found.iter().any(|(_, verdict)| *verdict == Verdict::Unsatisfied) {
        report.dropped(path, OTHER_NODE);
        return Term::Other;
    }
    let dropped = !found.is_empty();
    for (field, _) in found {
        report.dropped(field, OF_THE_NODE);
    }
    if dropped && term.is_empty() { Term::Emptied } else { Term::Stays }
}

fn judge(part: &str, requirement: &Value, site: &Site) -> Verdict {
    let Some(key) = text(requirement, "key") else { return Verdict::Stays };
    let values = || requirement.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let operator = text(requirement, "operator").unwrap_or_default();
    let own = if part == "matchFields" {
        if key != "metadata.name" {
            return Verdict::Stays;
        }
        Some(site.node_name.as_str())
    } else if is_identity(key) {
        let name = (key == HOSTNAME || key == names::VIRTUAL_NODE).then_some(site.node_name.as_str());
        site.node_labels.get(key).map(String::as_str).or(name)
    } else {
        let selects = match operator {
            "In" => values().any(|value| site.claims(key, value)),
            "Exists" => site.node_labels.contains_key(key),
            _ => false,
        };
        return if selects && !KINDS.contains(&key) { Verdict::Satisfied } else { Verdict::Stays };
    };
    let satisfied = match operator {
        "In" => values().any(|value| own == Some(value)),
        "NotIn" => values().all(|value| own != Some(value)),
        "Exists" => own.is_some(),
        "DoesNotExist" => own.is_none(),
        // A comparison of numbers, or something new: taken as true, as the pod is on the virtual node.
        _ => true,
    };
    if satisfied { Verdict::Satisfied } else { Verdict::Unsatisfied }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detached(spec: Value) -> (Value, Vec<String>) {
        let site = Site {
            node_name: "virtual".into(),
            node_labels: [
                ("kubernetes.io/hostname", "virtual"),
                ("kubernetes.io/os", "linux"),
                ("kubernetes.io/arch", "amd64"),
                ("type", "virtual-kubelet"),
                ("topology.kubernetes.io/zone", "east"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
            ..Site::default()
        };
        let Value::Object(mut spec) = spec else { unreachable!() };
        let mut report = Report::default();
        detach(&mut spec, &site, &mut report);
        (Value::Object(spec), report.into_changes().into_iter().map(|change| change.field).collect())
    }

    fn required(terms: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn tolerations_of_the_virtual_node_and_of_admission_go() {
        let (after, report) = detached(json!({"tolerations": [
            {"key": "longshore.dev/virtual-node", "operator": "Exists"},
            {"key": "gpu", "operator": "Exists"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
            {"operator": "Exists"}
        ]}));
        let left: Vec<&Value> = after["tolerations"].as_array().unwrap().iter().map(|t| &t["key"]).collect();
        assert_eq!(left, [&json!("gpu"), &json!("node.kubernetes.io/unreachable"), &Value::Null]);
        assert_eq!(report, ["spec.tolerations[0]", "spec.tolerations[2]"]);
        assert_eq!(detached(json!({"tolerations": [{"key": names::TAINT}]})).0, json!({}));
    }

    #[test]
    fn selectors_of_the_virtual_node_go_and_those_of_machines_stay() {
        let (after, report) = detached(json!({"nodeSelector": {"kubernetes.io/hostname": "other",
            "longshore.dev/shape": "x", "type": "virtual-kubelet", "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": "west", "disk": "ssd", "odd": 7}}));
        let left = json!({"nodeSelector": {"kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "west",
            "disk": "ssd", "odd": 7}});
        assert_eq!(after, left);
        assert_eq!(report.len(), 3);
        assert_eq!(detached(json!({"nodeSelector": {"type": "virtual-kubelet"}})).0, json!({}));
    }

    #[test]
    fn a_required_term_keeps_what_is_about_machines() {
        let arch = json!({"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]});
        let ssd = json!({"key": "disk", "operator": "NotIn", "values": ["hdd"]});
        let (after, report) = detached(required(&json!([{
            "matchExpressions": [{"key": "type", "operator": "In", "values": ["virtual-kubelet"]}, arch, ssd],
            "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["virtual"]}]
        }])));
        assert_eq!(after, required(&json!([{"matchExpressions": [arch, ssd]}])));
        let path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
        assert_eq!(report, [format!("{path}.matchExpressions[0]"), format!("{path}.matchFields[0]")]);
    }

    #[test]
    fn a_term_that_is_emptied_frees_the_pod() {
        let ssd = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
        let home = json!({"matchExpressions": [{"key": "type", "operator": "Exists"}]});
        let mut spec = required(&json!([ssd, home]));
        assert_eq!(detached(spec.clone()).0, json!({}));
        spec["affinity"]["podAffinity"] = json!({"x": 1});
        assert_eq!(detached(spec).0, json!({"affinity": {"podAffinity": {"x": 1}}}));
    }

    #[test]
    fn an_alternative_about_another_node_of_home_frees_nobody() {
        let ssd = json!({"matchExpressions": [{"key": "disk", "operator": "Exists"}]});
        let other = json!({"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": ["metal-1"]}]});
        assert_eq!(detached(required(&json!([ssd, other]))).0, required(&json!([ssd])));
        assert_eq!(detached(required(&json!([other]))).0, json!({}), "bound by hand");
        let not = json!({"matchExpressions": [{"key": HOSTNAME, "operator": "NotIn", "values": ["metal-1"]},
            {"key": "disk", "operator": "Exists"}]});
        assert_eq!(detached(required(&json!([not]))).0, required(&json!([ssd])));
    }

    #[test]
    fn a_term_that_was_empty_matches_nothing_and_stays() {
        let spec = required(&json!([{}]));
        assert_eq!(detached(spec.clone()), (spec, vec![]));
    }

    #[test]
    fn preferences_go_when_nothing_is_left_of_them() {
        let key = "preferredDuringSchedulingIgnoredDuringExecution";
        let ours = json!({"weight": 1, "preference": {"matchExpressions": [{"key": "type", "operator": "Exists"}]}});
        let theirs = json!({"weight": 2, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}});
        let (after, report) = detached(json!({"affinity": {"nodeAffinity": {key: [ours, theirs]}}}));
        assert_eq!(after, json!({"affinity": {"nodeAffinity": {key: [theirs]}}}));
        let path = format!("spec.affinity.nodeAffinity.{key}[0]");
        assert_eq!(report, [format!("{path}.preference.matchExpressions[0]"), path]);
        assert_eq!(detached(json!({"affinity": {"nodeAffinity": {key: [ours]}}})).0, json!({}));
    }

    #[test]
    fn a_pod_is_pinned_by_every_alternative() {
        let pinned = |spec: Value| {
            let Value::Object(mut spec) = spec else { unreachable!() };
            let mut report = Report::default();
            pin(&mut spec, &Part::Node("metal-1".into()), "so".into(), &mut report);
            assert_eq!(report.into_changes().len(), 1);
            Value::Object(spec)
        };
        let name = json!({"key": "metadata.name", "operator": "In", "values": ["metal-1"]});
        assert_eq!(pinned(json!({"affinity": null})), required(&json!([{"matchFields": [name]}])));
        let (ssd, gpu) = (json!({"key": "disk", "operator": "Exists"}), json!({"key": "gpu", "operator": "Exists"}));
        let terms = json!([{"matchExpressions": [ssd]}, {"matchFields": [gpu]}, {}]);
        let both = json!([{"matchExpressions": [ssd], "matchFields": [name]}, {"matchFields": [gpu, name]}, {}]);
        assert_eq!(pinned(required(&terms)), required(&both));
        let Value::Object(mut spec) = json!({}) else { unreachable!() };
        pin(&mut spec, &Part::All, String::new(), &mut Report::default());
        assert!(spec.is_empty());
        let pool = Part::Pool { label: Some(("pool".into(), "a".into())), without: vec!["other".into()] };
        pin(&mut spec, &pool, String::new(), &mut Report::default());
        let (is, is_not) = (
            json!({"key": "pool", "operator": "In", "values": ["a"]}),
            json!({"key": "other", "operator": "DoesNotExist"}),
        );
        assert_eq!(Value::Object(spec), required(&json!([{"matchExpressions": [is, is_not]}])));
    }

    #[test]
    fn what_is_between_pods_stays() {
        let spec = json!({"affinity": {"podAntiAffinity": {"x": []}}, "topologySpreadConstraints": [{"maxSkew": 1}]});
        assert_eq!(detached(spec.clone()), (spec, vec![]));
    }
}
