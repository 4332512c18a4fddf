//! How much of what a target says is taken home. Pure.
//!
//! A kubelet keeps its own statuses short; whoever may write statuses in a target need not. Longshore writes to home what it is
//! told, so that it sets the limit.

use serde_json::Value;

/// What a kubelet takes of a container's last words (MaxContainerTerminationMessageLength in pkg/kubelet/container), and so
/// the longest text that is taken whole.
const TEXT: usize = 4 << 10;

/// No list or object in a status of a kubelet's is as long.
const ENTRIES: usize = 256;

/// No status of a kubelet's is as large; of one that is, the fields that this build does not know stay away.
const WHOLE: usize = 256 << 10;

/// The fields of a status that home's users and controllers cannot do without.
const KNOWN: [&str; 12] = [
    "phase",
    "reason",
    "message",
    "conditions",
    "startTime",
    "podIP",
    "podIPs",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "resize",
    "allocatedResources",
];

/// Shortens what is too long in a status. `length` is that of the text which all of it was read from, if there is one: what is no
/// longer as a whole than one text may be is taken as it is, but for containers that are told twice.
pub fn bound(status: &mut Value, length: Option<usize>) {
    let short = length.is_some_and(|length| length <= TEXT);
    if !short {
        shorten(status);
    }
    if let Value::Object(fields) = &mut *status {
        for list in ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"] {
            if let Some(Value::Array(all)) = fields.get_mut(list)
                && all.len() > 1
            {
                let mut names = std::collections::HashSet::new();
                all.retain(|one| names.insert(one.get("name").and_then(Value::as_str).map(str::to_owned)));
            }
        }
    }
    if !short
        && size(status) > WHOLE
        && let Value::Object(fields) = status
    {
        fields.retain(|field, _| KNOWN.contains(&field.as_str()));
    }
}

/// A text of a target, not longer than home takes it.
pub fn text(text: &mut String) {
    if text.len() > TEXT {
        let end = (0..=TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        text.truncate(end);
        text.push('…');
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(string) => text(string),
        Value::Array(items) => {
            items.truncate(ENTRIES);
            items.iter_mut().for_each(shorten);
        }
        Value::Object(fields) => {
            let surplus: Vec<_> = fields.keys().skip(ENTRIES).cloned().collect();
            for key in surplus {
                fields.remove(&key);
            }
            fields.values_mut().for_each(shorten);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + size(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_kubelets_status_stays_as_it_is() {
        let usual = json!({"phase": "Failed", "message": "m".repeat(TEXT), "novel": {"x": [1, 2]},
            "containerStatuses": [{"name": "a"}, {"name": "b"}]});
        let mut bounded = usual.clone();
        bound(&mut bounded, None);
        assert_eq!(bounded, usual);
    }

    #[test]
    fn what_is_too_long_is_shortened() {
        let many: Vec<_> = (0..1000).map(|i| json!({"name": format!("c{i}")})).collect();
        let mut status = json!({"message": "ä".repeat(TEXT), "conditions": many,
            "containerStatuses": [{"name": "a", "x": 1}, {"name": "a", "x": 2}]});
        bound(&mut status, None);
        let message = status["message"].as_str().unwrap();
        assert!(message.len() <= TEXT + '…'.len_utf8() && message.ends_with("ä…"));
        assert_eq!(status["conditions"].as_array().unwrap().len(), ENTRIES);
        assert_eq!(status["containerStatuses"], json!([{"name": "a", "x": 1}]), "one of a name");
    }

    #[test]
    fn of_a_huge_status_only_what_is_known_is_left() {
        let junk: Vec<_> = (0..100).map(|_| "j".repeat(TEXT)).collect();
        let mut status = json!({"phase": "Running", "junk": junk});
        bound(&mut status, None);
        assert_eq!(status, json!({"phase": "Running"}));
    }

    #[test]
    fn a_short_status_is_taken_as_it_is_but_for_what_it_tells_twice() {
        let mut status = json!({"phase": "Running", "containerStatuses": [{"name": "a"}, {"name": "a"}]});
        let length = status.to_string().len();
        bound(&mut status, Some(length));
        assert_eq!(status, json!({"phase": "Running", "containerStatuses": [{"name": "a"}]}));
        let long = json!({"message": "m".repeat(TEXT + 1)});
        let mut status = long.clone();
        bound(&mut status, Some(long.to_string().len()));
        assert_ne!(status, long);
    }
}
