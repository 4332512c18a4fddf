//! The ConfigMaps and Secrets that a pod's variables refer to.

use serde_json::Value;

use crate::kubelet::provider::{HostView, Obstacle, PodDocument, PodError};

/// Looks for them: the pod has to wait for one that is missing, unless it is optional, which is worth a remark.
///
/// The reasons are those of the virtual-kubelet project.
pub(super) async fn check(document: &PodDocument, host: &dyn HostView) -> Result<Vec<Obstacle>, PodError> {
    let mut remarks = vec![];
    for Reference { secret, name, optional } in references(document) {
        let namespace = document.namespace();
        let (kind, found) = if secret {
            ("Secret", host.secret(namespace, name).await.map(|found| found.is_some()))
        } else {
            ("ConfigMap", host.config_map(namespace, name).await.map(|found| found.is_some()))
        };
        if found.map_err(PodError::NoAnswer)? {
            continue;
        }
        let message = format!("{kind} {namespace}/{name} is missing");
        if !optional {
            let message = format!("{message}; create it, or make the reference optional");
            return Err(PodError::Waiting { reason: format!("Mandatory{kind}NotFound"), message });
        }
        remarks.push(Obstacle { reason: format!("Optional{kind}NotFound"), message });
    }
    Ok(remarks)
}

#[derive(Debug, PartialEq)]
struct Reference<'a> {
    /// To a Secret, rather than a ConfigMap.
    secret: bool,
    name: &'a str,
    optional: bool,
}

/// What variables refer to, one by one (`env`) and as a whole (`envFrom`).
fn references(document: &PodDocument) -> Vec<Reference<'_>> {
    const PLACES: [(&str, bool); 4] = [
        ("/valueFrom/configMapKeyRef", false),
        ("/valueFrom/secretKeyRef", true),
        ("/configMapRef", false),
        ("/secretRef", true),
    ];
    let containers = ["initContainers", "containers"].into_iter().flat_map(|list| document.list(list));
    let sources =
        containers.flat_map(|one| ["env", "envFrom"].into_iter().filter_map(|list| one.get(list)?.as_array()));
    let found = sources.flatten().flat_map(|source| {
        PLACES.into_iter().filter_map(move |(place, secret)| {
            let reference = source.pointer(place)?;
            let optional = reference.get("optional").and_then(Value::as_bool).unwrap_or_default();
            Some(Reference { secret, name: reference.get("name")?.as_str()?, optional })
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn variables_refer_to_objects() {
        let document: PodDocument = serde_json::from_value(json!({"spec": {"containers": [{
            "env": [{"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}],
            "envFrom": [{"configMapRef": {"name": "c"}}],
        }]}}))
        .unwrap();
        let secret = Reference { secret: true, name: "s", optional: true };
        assert_eq!(references(&document), [secret, Reference { secret: false, name: "c", optional: false }]);
    }
}
