//! Classes and schedulers: objects and programs of the cluster that a pod refers to by name.
//!
//! The configuration of a target may map a name of home to one of the target, or to none. Without that, names of classes are
//! the same on both sides. A priority class that the target lacks is left out, and that is said: the pod runs, at another
//! priority. A runtime class is how well a pod is fenced in, and nobody may run without: the target refuses it, and it waits.

use serde_json::Value;

use super::Site;
use super::report::Report;
use super::spec::Object;

/// Maps the names.
pub(super) fn map(spec: &mut Object, site: &Site, report: &mut Report) {
    let target = &site.target;
    for (field, setting, mapping) in [
        ("priorityClassName", "priorityClasses", &site.rules.priority_classes),
        ("runtimeClassName", "runtimeClasses", &site.rules.runtime_classes),
        ("schedulerName", "schedulers", &site.rules.schedulers),
    ] {
        let Some(name) = spec.get(field).and_then(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned)
        else {
            continue;
        };
        let path = format!("spec.{field}");
        let Some(there) = mapping.get(&name).or((field != "schedulerName").then_some(&name)) else {
            spec.remove(field);
            report.dropped(path, why_no_scheduler(&name, target));
            continue;
        };
        if there.is_empty() {
            spec.remove(field);
            report.dropped(path, format!("spec.{setting} of the Target {target} has none for {name}"));
        } else if field == "priorityClassName" && site.absent_priority_classes.contains(there) {
            spec.remove(field);
            let why = format!(
                "target {target} has no PriorityClass {there}, so that the pod has the target's default priority; create \
                 it there, or map {name} in spec.{setting} of the Target {target}"
            );
            report.lost(path, why);
        } else if *there != name {
            report.changed(path, format!("spec.{setting} of the Target {target} has {there} for {name}"));
            spec.insert(field.into(), there.as_str().into());
        }
    }
}

fn why_no_scheduler(name: &str, target: &str) -> String {
    if name == "default-scheduler" {
        return "it is the host's default, and the target has its own".into();
    }
    format!(
        "it is a scheduler of home, which has placed the pod; if target {target} has one for it, map {name} in \
         spec.schedulers of the Target {target}"
    )
}

/// The priority class that an API server's refusal of a pod says to be missing.
///
/// It is a text, since the plugin Priority says no more (`plugin/pkg/admission/priority`). Should it ever change, the pod
/// waits with that refusal until the class is there or mapped.
pub(in crate::provider) fn missing_priority_class(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("no PriorityClass with name ")?;
    rest.split_once(" was found").map(|(name, _)| name)
}

/// The runtime class that an API server's refusal of a pod says to be missing (`plugin/pkg/admission/runtimeclass`).
pub(in crate::provider) fn missing_runtime_class(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("RuntimeClass \"")?;
    rest.split_once("\" not found").map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::translate::{Change, Rules};
    use serde_json::json;

    fn mapped(spec: Value, site: &Site) -> (Value, Vec<Change>) {
        let Value::Object(mut spec) = spec else { unreachable!() };
        let mut report = Report::default();
        map(&mut spec, site, &mut report);
        (Value::Object(spec), report.into_changes())
    }

    fn names(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
        pairs.iter().map(|(home, target)| ((*home).to_owned(), (*target).to_owned())).collect()
    }

    #[test]
    fn classes_have_the_same_name_there_and_schedulers_are_homes() {
        let spec = json!({"priorityClassName": "high", "runtimeClassName": "gvisor", "schedulerName": "volcano"});
        let (after, report) = mapped(spec, &Site::default());
        assert_eq!(after, json!({"priorityClassName": "high", "runtimeClassName": "gvisor"}));
        assert_eq!(report.len(), 1);
    }

    #[test]
    fn names_are_mapped_to_others_or_to_none() {
        let site = Site {
            rules: Rules {
                priority_classes: names(&[("high", "urgent")]),
                runtime_classes: names(&[("gvisor", "")]),
                schedulers: names(&[("volcano", "volcano")]),
                ..Rules::default()
            }
            .into(),
            ..Site::default()
        };
        let spec = json!({"priorityClassName": "high", "runtimeClassName": "gvisor", "schedulerName": "volcano"});
        let (after, report) = mapped(spec, &site);
        assert_eq!(after, json!({"priorityClassName": "urgent", "schedulerName": "volcano"}));
        let fields: Vec<_> = report.iter().map(|change| change.field.as_str()).collect();
        assert_eq!(fields, ["spec.priorityClassName", "spec.runtimeClassName"]);
    }

    #[test]
    fn a_priority_class_that_the_target_lacks_is_left_out_and_that_is_a_loss() {
        let site = Site { absent_priority_classes: ["high".to_owned()].into(), ..Site::default() };
        let (after, report) = mapped(json!({"priorityClassName": "high"}), &site);
        assert_eq!(after, json!({}));
        assert!(report[0].loss, "{report:?}");
        assert_eq!(mapped(json!({"priorityClassName": "low"}), &site).1, []);
    }

    #[test]
    fn refusals_name_the_class_that_is_missing() {
        let refusal = r#"pods "a" is forbidden: no PriorityClass with name high was found"#;
        assert_eq!(missing_priority_class(refusal), Some("high"));
        assert_eq!(missing_priority_class("exceeded quota"), None);
        let refusal = r#"pods "a" is forbidden: pod rejected: RuntimeClass "gvisor" not found"#;
        assert_eq!(missing_runtime_class(refusal), Some("gvisor"));
        assert_eq!(missing_runtime_class(r#"RuntimeClass "x" is fine"#), None);
    }
}
