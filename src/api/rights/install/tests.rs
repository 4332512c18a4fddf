//! The chart is in step with the types and lists here. `UPDATE_CHART=1 cargo test --lib rights::install` writes what is not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};

use super::super::{Features, admission_rights, host_follow_rights, host_rights, resource_rights, roles};
use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

/// Fails if a file is not as it should be, unless it may be written.
fn in_step(path: &str, wanted: &str) {
    if std::env::var_os("UPDATE_CHART").is_some() {
        fs::write(root().join(path), wanted).unwrap();
    }
    assert!(read(path) == wanted, "{path} is not current: UPDATE_CHART=1 cargo test --lib rights::install");
}

fn cluster(rights: &[Right]) -> Vec<PolicyRule> {
    let mut granted = roles(rights);
    let everywhere = granted.remove(&None).unwrap_or_default();
    assert!(granted.is_empty(), "{granted:?}");
    everywhere
}

/// What a feature needs beyond the rest.
fn extra(features: Features) -> Vec<PolicyRule> {
    let basics = host_rights(Features::default());
    cluster(&host_rights(features).into_iter().filter(|right| !basics.contains(right)).collect::<Vec<_>>())
}

fn rights() -> Value {
    let all = [host_rights(Features::default()), resource_rights()].concat();
    let (mut host, mut host_in) = (vec![], BTreeMap::new());
    for (namespace, rules) in roles(&all) {
        match namespace {
            Some(namespace) => drop(host_in.insert(namespace, rules)),
            None => host = rules,
        }
    }
    let mut webhook = roles(&admission_rights("RELEASE", true));
    let mut of_webhook = |namespace: Option<&str>| webhook.remove(&namespace.map(Into::into)).unwrap_or_default();
    json!({
        "webhook": of_webhook(None),
        "webhookRelease": of_webhook(Some("RELEASE")),
        "host": host,
        "hostIn": host_in,
        "claims": extra(Features { claims: true, ..Features::default() }),
        "services": extra(Features { services: true, ..Features::default() }),
        "follow": cluster(&host_follow_rights()),
        "tokens": cluster(&token_rights()),
        "kubeconfigs": cluster(&kubeconfig_rights()),
        "profiles": cluster(&profile_rights()),
        "release": cluster(&[lease_rights(), kubeconfig_rights()].concat()),
        "uninstall": cluster(&uninstall_rights()),
        "uninstallRelease": cluster(&uninstall_lease_rights()),
    })
}

#[test]
fn the_chart_grants_what_is_asked_for() {
    in_step("charts/longshore/files/rights.json", &(serde_json::to_string_pretty(&rights()).unwrap() + "\n"));
}

#[test]
fn the_chart_has_the_definitions_of_this_version() {
    in_step("charts/longshore/files/crds.yaml", &crate::api::crds::yaml().unwrap());
}

#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = read("charts/longshore/Chart.yaml");
    for field in ["version", "appVersion"] {
        let line = format!("{field}: {}", env!("CARGO_PKG_VERSION"));
        assert!(chart.lines().any(|one| one == line), "Chart.yaml should say {line}");
    }
}

/// One value with its default.
struct Row {
    path: String,
    kind: String,
    default: Value,
    text: String,
}

/// Each default has a schema, and each schema a default.
fn rows(path: &str, schema: &Value, default: &Value, rows: &mut Vec<Row>) {
    let properties = schema["properties"].as_object();
    let Some(properties) = properties else {
        let text = schema["description"].as_str().unwrap_or_default().to_owned();
        assert!(!text.is_empty(), "{path} has no description");
        let kind = match (&schema["enum"], &schema["type"]) {
            (Value::Array(known), _) => known.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            (_, Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
            (_, kind) => kind.as_str().unwrap_or_default().to_owned(),
        };
        rows.push(Row { path: path.to_owned(), kind, default: default.clone(), text });
        return;
    };
    assert_eq!(schema["additionalProperties"], false, "{path} takes what nobody knows");
    let given = default.as_object().unwrap_or_else(|| panic!("values.yaml has no {path}"));
    for name in given.keys() {
        assert!(properties.contains_key(name), "values.schema.json has no {path}.{name}");
    }
    for (name, schema) in properties {
        if path.is_empty() && name == "global" {
            continue;
        }
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = given.get(name).unwrap_or_else(|| panic!("values.yaml has no {below}"));
        self::rows(&below, schema, default, rows);
    }
}

#[test]
fn every_value_has_a_default_a_schema_and_a_line_in_the_docs() {
    let schema: Value = serde_json::from_str(&read("charts/longshore/values.schema.json")).unwrap();
    let values: Value = serde_saphyr::from_str(&read("charts/longshore/values.yaml")).unwrap();
    let mut all = vec![];
    rows("", &schema, &values, &mut all);
    let mut page =
        "# Values of the chart\n\nGenerated from `charts/longshore/values.schema.json` and `values.yaml`; helm \
        refuses what is not here.\n\n| Value | Type | Default | Meaning |\n|---|---|---|---|\n"
            .to_owned();
    for Row { path, kind, default, text } in all {
        let (kind, text) = (kind.replace('|', "\\|"), text.replace('|', "\\|"));
        _ = writeln!(page, "| `{path}` | {kind} | `{default}` | {text} |");
    }
    in_step("docs/values.md", &page);
}
