//! An explanation, for people and for programs.

use std::fmt::Write;

use serde::Serialize;

use super::Output;
use crate::cli::show::yaml;
use crate::kubelet::document::PodDocument;
use crate::provider::translate::{Change, Hold, Site, Translation, What};

/// What would become of a pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    /// `Deployment shop/web`
    pod: String,
    target: String,
    node: String,
    /// The pod in the target; absent for one that is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    delegate: Option<PodDocument>,
    /// How it differs.
    report: Vec<Change>,
    /// Why there would be none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<Held>,
    /// What is not certain.
    notes: Vec<String>,
}

/// What keeps a pod at home.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    field: String,
    message: String,
}

impl Explanation {
    pub(super) fn new(pod: &str, site: &Site, translation: Result<Translation, Hold>, notes: Vec<String>) -> Self {
        let (delegate, report, held) = match translation {
            Ok(Translation { delegate, report, .. }) => (Some(delegate), report, None),
            Err(Hold { field, message }) => (None, vec![], Some(Held { field, message })),
        };
        let (target, node) = (site.target.clone(), site.node_name.clone());
        Self { pod: pod.into(), target, node, delegate, report, held, notes }
    }
}

/// All explanations as text that ends with a line's end.
pub(super) fn render(output: Output, explanations: &[Explanation]) -> String {
    match output {
        Output::Text => explanations.iter().map(text).collect::<Vec<_>>().join("---\n"),
        Output::Yaml => yaml(&explanations),
        Output::Json => format!("{}\n", serde_json::json!(explanations)),
    }
}

/// YAML that may be applied, below a comment that tells the rest.
fn text(explanation: &Explanation) -> String {
    let Explanation { pod, target, node, delegate, report, held, notes } = explanation;
    let mut lines = vec![format!("{pod} on node {node}, in target {target}")];
    lines.extend(notes.iter().map(|note| format!("Note: {note}")));
    match held {
        Some(Held { field, message }) => lines.push(format!("HELD  {field}: {message}")),
        None if report.is_empty() => lines.push("Nothing differs.".into()),
        None => lines.extend(table(report)),
    }
    let mut text = String::new();
    for line in lines {
        // Writing to a String does not fail.
        _ = writeln!(text, "# {}", line.replace('\n', " "));
    }
    text + &delegate.as_ref().map(yaml).unwrap_or_default()
}

fn table(report: &[Change]) -> Vec<String> {
    let width = report.iter().map(|change| change.field.chars().count()).max().unwrap_or_default();
    let row = |what: &str, field: &str, why: &str| format!("{what:<8} {field:<width$}  {why}");
    let rows = report.iter().map(|change| {
        let what = match change.what {
            What::Dropped => "dropped",
            What::Changed => "changed",
            What::Kept => "kept",
        };
        row(what, &change.field, &change.why)
    });
    std::iter::once(row("WHAT", "FIELD", "WHY")).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::translate::translate;
    use serde_json::{Value, json};

    fn explanation(spec: &Value) -> Explanation {
        let proxy = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec});
        let site = Site { target: "east".into(), node_name: "virtual".into(), ..Site::default() };
        let translation = translate(&serde_json::from_value(proxy).unwrap(), &site);
        Explanation::new("Pod shop/web", &site, translation, vec!["it is said".into()])
    }

    #[test]
    fn text_is_yaml_below_a_comment() {
        let text = render(Output::Text, &[explanation(&json!({"nodeName": "virtual", "containers": []}))]);
        assert!(
            text.starts_with("# Pod shop/web on node virtual, in target east\n# Note: it is said\n# WHAT "),
            "{text}"
        );
        assert!(text.contains("# dropped  spec.nodeName "), "{text}");
        let pod: PodDocument = serde_saphyr::from_str(&text).unwrap();
        assert_eq!((pod.name(), &pod.spec["enableServiceLinks"]), ("web", &json!(false)));
    }

    #[test]
    fn a_pod_that_is_held_says_why_and_has_no_delegate() {
        let held = explanation(&json!({"hostNetwork": true}));
        assert!(render(Output::Text, &[held]).contains("# HELD  spec.hostNetwork: "));
        let both = [explanation(&json!({"hostNetwork": true})), explanation(&json!({}))];
        let json: Value = serde_json::from_str(&render(Output::Json, &both)).unwrap();
        assert_eq!((json[0].get("delegate"), &json[0]["held"]["field"]), (None, &json!("spec.hostNetwork")));
        assert_eq!((&json[1]["delegate"]["kind"], json[1].get("held")), (&json!("Pod"), None));
        let yaml: Value = serde_saphyr::from_str(&render(Output::Yaml, &both)).unwrap();
        assert_eq!(yaml, json);
    }
}
