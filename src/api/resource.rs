//! Resources as the API server keeps them. It has checked their shape by the schema of another build, perhaps; so they are
//! read with the same care as a file, and one that cannot be read harms no other.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::decode::decode;
use super::document;
use super::field::{FieldPath, Finding};
use super::names;
use super::target::TargetSpec;
use super::virtual_node::VirtualNodeSpec;

#[derive(Deserialize)]
struct Holder<S> {
    spec: S,
}

/// The spec of a Target, or all that is wrong with it.
///
/// # Errors
/// When it cannot be used.
pub fn target(name: &str, spec: &Value) -> Result<TargetSpec, Vec<Finding>> {
    read(name, spec, TargetSpec::findings)
}

/// The spec of a VirtualNode, or all that is wrong with it.
///
/// # Errors
/// When it cannot be used.
pub fn virtual_node(name: &str, spec: &Value) -> Result<VirtualNodeSpec, Vec<Finding>> {
    read(name, spec, VirtualNodeSpec::findings)
}

fn read<S: DeserializeOwned>(name: &str, spec: &Value, check: fn(&S) -> Vec<Finding>) -> Result<S, Vec<Finding>> {
    if let Err(why) = names::check_name(name) {
        let field = FieldPath::of("metadata.name");
        return Err(vec![Finding::new(field, format!("`{name}` {why}"), "make it anew with another name")]);
    }
    // JSON is YAML.
    let documents = document::parse(&json!({"spec": spec}).to_string());
    let Some(root) = documents.ok().and_then(|documents| documents.into_iter().next()) else {
        return Err(vec![Finding::new(FieldPath::of("spec"), "cannot be read", "write it anew")]);
    };
    let (holder, mut findings) = decode::<Holder<S>>(&root);
    if let Some(holder) = &holder {
        findings.extend(check(&holder.spec));
    }
    match holder {
        Some(holder) if findings.is_empty() => Ok(holder.spec),
        _ => Err(findings),
    }
}

/// Findings as one message.
pub fn sentence(findings: &[Finding]) -> String {
    let one = |finding: &Finding| format!("{}: {}; {}", finding.field, finding.message, finding.remedy);
    findings.iter().map(one).collect::<Vec<_>>().join(". ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_schema_let_through_is_found_here() {
        let findings = target("east", &json!({"kubeconfig": {}, "heartbeat": {"timeoutSeconds": 1}})).unwrap_err();
        let text = sentence(&findings);
        assert!(text.contains("spec.kubeconfig: names no kubeconfig"), "{text}");
        assert!(text.contains("spec.heartbeat.timeoutSeconds: 1 is out of bounds"), "{text}");
        let spec = target("east", &json!({"kubeconfig": {"secretRef": {"name": "east"}}})).unwrap();
        assert_eq!(spec.kubeconfig.secret_ref.unwrap().key, "kubeconfig");
        assert!(virtual_node("a", &json!({"targets": []})).is_err());
    }
}
