//! Selectors that the host's API server has completed.
//!
//! From `matchLabelKeys` it makes requirements of the selector beside them (KEP-3243, KEP-3633), and refuses a selector
//! that has them already. So the target's would refuse what the host's has made; it makes its own from the same labels.

use serde_json::Value;

use super::report::Report;
use super::spec::{Object, drop_entries, entries_mut};

/// Takes out what the host's API server has added.
pub(super) fn strip(spec: &mut Object, report: &mut Report) {
    for (i, constraint) in entries_mut(spec, "topologySpreadConstraints").iter_mut().enumerate() {
        strip_term(&format!("spec.topologySpreadConstraints[{i}]"), constraint, report);
    }
    let Some(Value::Object(affinity)) = spec.get_mut("affinity") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(Value::Object(terms)) = affinity.get_mut(kind) else { continue };
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in entries_mut(terms, required).iter_mut().enumerate() {
            strip_term(&format!("spec.affinity.{kind}.{required}[{i}]"), term, report);
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, weighted) in entries_mut(terms, preferred).iter_mut().enumerate() {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                strip_term(&format!("spec.affinity.{kind}.{preferred}[{i}].podAffinityTerm"), term, report);
            }
        }
    }
}

/// `mismatchLabelKeys` may stand beside a selector with the same key, and so may what was made of them.
fn strip_term(path: &str, term: &mut Value, report: &mut Report) {
    let Some(term) = term.as_object_mut() else { return };
    let Some(Value::Array(keys)) = term.get("matchLabelKeys").cloned() else { return };
    let Some(Value::Object(selector)) = term.get_mut("labelSelector") else { return };
    drop_entries(selector, "matchExpressions", |i, requirement| {
        let drops = requirement.get("key").is_some_and(|key| keys.contains(key))
            && requirement.get("operator").and_then(Value::as_str) == Some("In");
        if drops {
            let why = "the host's API server has made it of matchLabelKeys, and the target's makes its own";
            report.dropped(format!("{path}.labelSelector.matchExpressions[{i}]"), why);
        }
        drops
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_made_of_match_label_keys_goes() {
        let made = json!({"key": "pod-template-hash", "operator": "In", "values": ["abc"]});
        let own = json!({"key": "tier", "operator": "In", "values": ["front"]});
        let term = |expressions: Value| {
            json!({"labelSelector": {"matchLabels": {"app": "web"}, "matchExpressions": expressions},
                "matchLabelKeys": ["pod-template-hash"], "mismatchLabelKeys": ["tenant"]})
        };
        let tenant = json!({"key": "tenant", "operator": "NotIn", "values": ["a"]});
        let spec = |expressions: &Value| {
            json!({"topologySpreadConstraints": [{"maxSkew": 1}, term(expressions.clone())], "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term(expressions.clone())]},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 1, "podAffinityTerm": term(expressions.clone())}]}}})
        };
        let Value::Object(mut stripped) = spec(&json!([own, made, tenant])) else { unreachable!() };
        let mut report = Report::default();
        strip(&mut stripped, &mut report);
        assert_eq!(Value::Object(stripped), spec(&json!([own, tenant])));
        assert_eq!(
            report.into_changes().into_iter().map(|change| change.field).collect::<Vec<_>>(),
            [
                "spec.topologySpreadConstraints[1].labelSelector.matchExpressions[1]",
                "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector.matchExpressions[1]",
                "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm\
                 .labelSelector.matchExpressions[1]",
            ]
        );
    }

    #[test]
    fn a_selector_of_which_nothing_is_left_still_selects_all() {
        let made = json!({"key": "a", "operator": "In", "values": ["b"]});
        let spec = json!({"topologySpreadConstraints": [{"labelSelector": {"matchExpressions": [made]},
            "matchLabelKeys": ["a"]}, {"labelSelector": {"matchExpressions": [made]}}, {"matchLabelKeys": ["a"]}]});
        let Value::Object(mut stripped) = spec else { unreachable!() };
        strip(&mut stripped, &mut Report::default());
        let left = json!([{"labelSelector": {}, "matchLabelKeys": ["a"]},
            {"labelSelector": {"matchExpressions": [made]}}, {"matchLabelKeys": ["a"]}]);
        assert_eq!(stripped["topologySpreadConstraints"], left);
    }
}
