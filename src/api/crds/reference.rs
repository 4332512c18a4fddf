//! docs/reference.md: every field of every resource, from the types. `UPDATE_DOCS=1` writes it anew.

use std::fmt::Write as _;

use schemars::{Schema, schema_for};
use serde_json::Value;

use super::RULES;
use crate::api::status::{TargetStatus, VirtualNodeStatus};
use crate::api::target::{Target, TargetSpec};
use crate::api::virtual_node::{VirtualNode, VirtualNodeSpec};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");

const INTRODUCTION: &str = "# Reference of the resources

Generated from the types that read them. All are of `longshore.dev/v1alpha1` and in no namespace; the same documents serve in
`--provider-config` files. What the fields are for: [configuration](configuration.md), [resources](resources.md),
[capacity](capacity.md), [placement](placement.md).
";

/// A schema, and where its references lead.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: &'a Value,
    schema: &'a Value,
}

impl<'a> Place<'a> {
    fn at(self, schema: &'a Value) -> Self {
        Self { schema, ..self }
    }

    /// Without references, and what may be null as if it could not.
    fn resolved(self) -> Self {
        if let Some(path) = self.schema["$ref"].as_str() {
            let found = self.root.pointer(path.trim_start_matches('#'));
            return self.at(found.unwrap_or_else(|| panic!("{path} leads nowhere"))).resolved();
        }
        let alternatives = self.schema["anyOf"].as_array().into_iter().flatten();
        let real: Vec<_> = alternatives.filter(|one| one["type"] != "null").collect();
        match real[..] {
            [one] => self.at(one).resolved(),
            _ => self,
        }
    }

    fn kind(self) -> String {
        let here = self.resolved().schema;
        if !values(here).is_empty() {
            return "word".into();
        }
        let kind = match &here["type"] {
            Value::Array(kinds) => kinds.iter().find(|kind| **kind != "null").and_then(Value::as_str),
            kind => kind.as_str(),
        };
        match kind {
            Some("array") => format!("list of {}s", self.at(&here["items"]).kind()),
            Some("object") if here["additionalProperties"].is_object() => {
                format!("map to {}s", self.at(&here["additionalProperties"]).kind())
            }
            Some("integer" | "number") => "number".into(),
            Some("boolean") => "true or false".into(),
            Some("string") => "text".into(),
            Some(other) => other.into(),
            None => panic!("no type in {here}"),
        }
    }

    /// The bounds of a number, as far as they say more than its type.
    fn bounds(self) -> String {
        let here = self.resolved().schema;
        let bound = |name: &str| here[name].as_f64().filter(|bound| *bound != 0.0);
        match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => format!(" From {least} to {most}."),
            (None, Some(most)) => format!(" At most {most}."),
            (Some(least), None) => format!(" At least {least}."),
            (None, None) => String::new(),
        }
    }
}

/// The words that a schema allows, each with its meaning.
fn values(schema: &Value) -> Vec<(&str, &str)> {
    let documented = schema["oneOf"].as_array().into_iter().flatten();
    let documented =
        documented.filter_map(|one| Some((one["const"].as_str()?, one["description"].as_str().unwrap_or_default())));
    let bare = schema["enum"].as_array().into_iter().flatten().filter_map(|one| Some((one.as_str()?, "")));
    documented.chain(bare).collect()
}

fn rows(path: &str, place: Place<'_>, text: &mut String) {
    let here = place.resolved();
    let fields = here.schema["properties"].as_object().into_iter().flatten();
    let required: Vec<_> = here.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, schema) in fields {
        let (field, below) = (here.at(schema), format!("{path}.{name}"));
        let inner = field.resolved();
        let item = inner.at(&inner.schema["items"]);
        let deeper = match inner.schema["properties"].is_object() {
            true => Some((below.clone(), inner)),
            false if inner.schema["items"].is_object() && item.resolved().schema["properties"].is_object() => {
                Some((format!("{below}[]"), item))
            }
            false => None,
        };
        let default = match &schema["default"] {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            // Those of its fields are told below.
            Value::Null | Value::Object(_) => String::new(),
            default => format!("`{default}`"),
        };
        let meaning = schema["description"].as_str().or(inner.schema["description"].as_str()).unwrap_or_default();
        assert!(!meaning.is_empty(), "{below} has no description");
        let mut meaning = meaning.replace('\n', " ") + &field.bounds();
        for (value, what) in values(inner.schema) {
            _ = write!(meaning, "<br>`{value}`{}{}", if what.is_empty() { "" } else { ": " }, what.replace('\n', " "));
        }
        _ = writeln!(text, "| `{below}` | {} | {default} | {} |", field.kind(), meaning.replace('|', "\\|"));
        if let Some((below, deeper)) = deeper {
            rows(&below, deeper, text);
        }
    }
}

fn chapter(kind: &str, about: &str, parts: [(&str, Schema); 2]) -> String {
    let mut text = format!("\n## {kind}\n\n{about}\n\n| Field | Type | Default | Meaning |\n|---|---|---|---|\n");
    let [spec, status] = parts.map(|(path, schema)| (path, schema.to_value()));
    rows(spec.0, Place { root: &spec.1, schema: &spec.1 }, &mut text);
    text += "\nBetween fields:\n\n";
    for (_, path, _, message) in RULES.iter().filter(|rule| rule.0 == kind) {
        _ = writeln!(text, "- `{path}`: {message}");
    }
    text += "\n| What Longshore says | Type | Default | Meaning |\n|---|---|---|---|\n";
    rows(status.0, Place { root: &status.1, schema: &status.1 }, &mut text);
    text
}

fn about(crd: &Value) -> String {
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"].as_str().unwrap_or_default().to_owned()
}

fn markdown() -> String {
    use kube::CustomResourceExt;
    let about = |crd| about(&serde_json::json!(crd));
    let target = [("spec", schema_for!(TargetSpec)), ("status", schema_for!(TargetStatus))];
    let node = [("spec", schema_for!(VirtualNodeSpec)), ("status", schema_for!(VirtualNodeStatus))];
    INTRODUCTION.to_owned()
        + &chapter("Target", &about(Target::crd()), target)
        + &chapter("VirtualNode", &about(VirtualNode::crd()), node)
}

#[test]
fn the_page_of_the_docs_is_what_the_types_say() {
    let now = markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &now).unwrap();
    }
    let page = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(page == now, "docs/reference.md is out of date; run this test with UPDATE_DOCS=1");
}

#[test]
fn every_field_that_the_api_server_takes_is_told() {
    fn paths(path: &str, schema: &Value, all: &mut Vec<String>) {
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let below = format!("{path}{name}");
            paths(&format!("{below}."), schema, all);
            paths(&format!("{below}[]."), &schema["items"], all);
            all.push(below);
        }
    }
    let page = markdown();
    for crd in super::all() {
        let mut all = vec![];
        paths("", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut all);
        let fields: Vec<_> =
            all.iter().filter(|path| path.starts_with("spec.") || path.starts_with("status.")).collect();
        assert!(fields.len() > 20, "{all:?}");
        for field in fields {
            assert!(page.contains(&format!("| `{field}` |")), "{field} is not told");
        }
    }
}
