//! What a pod refers to by name, and how its delegate refers to the copies of it. Pure.
//!
//! Follows `VisitPodSecretNames` and `VisitPodConfigmapNames` of k8s.io/kubernetes/pkg/api/v1/pod. Where a volume of a kind
//! that this build has never heard of names a Secret as the others do, that is one as well.

use serde_json::{Map, Value};

use super::names::{Names, Need};
use crate::kubelet::provider::HostKind;

/// A reference to an object of the pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Of what kind.
    pub kind: HostKind,
    /// Its name at home.
    pub name: String,
    /// The pod does without as well; false if one of several references to it is not optional.
    pub optional: bool,
    /// The first field that refers to it, as a path.
    pub field: String,
}

/// What a delegate with these references says that it needs, where nothing is in the way; `None` where that is nothing.
pub fn print(references: &[Reference], names: &Names) -> Option<String> {
    let need = |reference: &Reference| Need {
        kind: reference.kind.into(),
        name: names.of(reference.kind, &reference.name),
        home: reference.name.clone(),
    };
    let needs: Vec<Need> = references.iter().map(need).collect();
    (!needs.is_empty()).then(|| super::names::print(&needs))
}

/// Where volumes that have been in Kubernetes for long, and those of CSI drivers, name a Secret.
const SECRET_FIELDS: [&str; 2] = ["secretRef", "nodePublishSecretRef"];

/// Ephemeral containers are added to a live pod, and count then.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Finds all references, and points them to the names that things have in the target; `redirected` is told of each change
/// with its path and the new name. `skipped` says which names are no references to home.
pub fn redirect(
    spec: &mut Map<String, Value>,
    names: &Names,
    skipped: impl Fn(&str) -> bool,
    mut redirected: impl FnMut(String, &str),
) -> Vec<Reference> {
    let mut found: Vec<Reference> = vec![];
    visit(spec, &mut |place| {
        let Value::String(name) = place.name else { return };
        if name.is_empty() || skipped(name) {
            return;
        }
        match found.iter_mut().find(|known| known.kind == place.kind && known.name == *name) {
            Some(known) => {
                if known.optional && !place.optional {
                    known.optional = false;
                    known.field.clone_from(&place.path);
                }
            }
            None => found.push(Reference {
                kind: place.kind,
                name: name.clone(),
                optional: place.optional,
                field: place.path.clone(),
            }),
        }
        let new = names.of(place.kind, name);
        if new != *name {
            redirected(place.path, &new);
            *name = new;
        }
    });
    found
}

/// A place where a pod names something.
struct Place<'a> {
    path: String,
    kind: HostKind,
    optional: bool,
    name: &'a mut Value,
}

fn visit(spec: &mut Map<String, Value>, found: &mut impl FnMut(Place<'_>)) {
    for list in CONTAINERS {
        for (i, container) in items(spec.get_mut(list)).enumerate() {
            let path = format!("spec.{list}[{i}]");
            for (j, variable) in items(container.get_mut("env")).enumerate() {
                let Some(from) = variable.get_mut("valueFrom") else { continue };
                for (field, kind) in [("configMapKeyRef", HostKind::ConfigMap), ("secretKeyRef", HostKind::Secret)] {
                    named(from, field, "name", kind, &format!("{path}.env[{j}].valueFrom"), found);
                }
            }
            for (j, source) in items(container.get_mut("envFrom")).enumerate() {
                for (field, kind) in [("configMapRef", HostKind::ConfigMap), ("secretRef", HostKind::Secret)] {
                    named(source, field, "name", kind, &format!("{path}.envFrom[{j}]"), found);
                }
            }
        }
    }
    for (i, volume) in items(spec.get_mut("volumes")).enumerate() {
        visit_volume(volume, &format!("spec.volumes[{i}]"), found);
    }
    for (i, secret) in items(spec.get_mut("imagePullSecrets")).enumerate() {
        // A kubelet pulls without those that are not there.
        let (path, kind) = (format!("spec.imagePullSecrets[{i}]"), HostKind::Secret);
        if let Some(name) = secret.get_mut("name") {
            found(Place { path, kind, optional: true, name });
        }
    }
}

fn visit_volume(volume: &mut Value, path: &str, found: &mut impl FnMut(Place<'_>)) {
    let Some(fields) = volume.as_object_mut() else { return };
    for (field, source) in fields {
        match field.as_str() {
            "configMap" => place(source, "name", HostKind::ConfigMap, format!("{path}.{field}"), found),
            "secret" => place(source, "secretName", HostKind::Secret, format!("{path}.{field}"), found),
            "projected" => {
                // A token of the target goes with the certificates of the target.
                let sources = source.get("sources").and_then(Value::as_array);
                let token = |source: &Value| source.get("serviceAccountToken").is_some_and(|token| !token.is_null());
                let remote = sources.is_some_and(|sources| sources.iter().any(token));
                for (i, source) in items(source.get_mut("sources")).enumerate() {
                    let name = source.pointer("/configMap/name").and_then(Value::as_str);
                    if remote && name.is_some_and(|name| Names::is_reserved(HostKind::ConfigMap, name)) {
                        continue;
                    }
                    let path = format!("{path}.projected.sources[{i}]");
                    named(source, "configMap", "name", HostKind::ConfigMap, &path, found);
                    named(source, "secret", "name", HostKind::Secret, &path, found);
                }
            }
            _ => {
                let path = format!("{path}.{field}");
                for field in SECRET_FIELDS {
                    named(source, field, "name", HostKind::Secret, &path, found);
                }
                // azureFile
                place(source, "secretName", HostKind::Secret, format!("{path}.secretName"), found);
            }
        }
    }
}

/// The reference in a field of `holder`.
fn named(holder: &mut Value, field: &str, name: &str, kind: HostKind, path: &str, found: &mut impl FnMut(Place<'_>)) {
    if let Some(reference) = holder.get_mut(field) {
        place(reference, name, kind, format!("{path}.{field}"), found);
    }
}

fn place(reference: &mut Value, name: &str, kind: HostKind, path: String, found: &mut impl FnMut(Place<'_>)) {
    let optional = reference.get("optional") == Some(&Value::Bool(true));
    if let Some(name) = reference.get_mut(name) {
        found(Place { path, kind, optional, name });
    }
}

fn items(list: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    list.and_then(Value::as_array_mut).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: &Value) -> Vec<String> {
        let mut spec = spec.as_object().unwrap().clone();
        let references = redirect(&mut spec, &Names::new("home"), |name| name == "ours", |_, _| {});
        let kind = |kind| if kind == HostKind::Secret { "secret" } else { "configmap" };
        references
            .iter()
            .map(|it| format!("{}/{}{} {}", kind(it.kind), it.name, if it.optional { "?" } else { "" }, it.field))
            .collect()
    }

    #[test]
    fn every_place_is_known() {
        let spec = json!({
            "containers": [{"env": [{"value": "x"}, {"valueFrom": {"configMapKeyRef": {"name": "a", "key": "k"}}},
                    {"valueFrom": {"secretKeyRef": {"name": "b", "key": "k", "optional": true}}},
                    {"valueFrom": {"fieldRef": {}}}],
                "envFrom": [{"configMapRef": {"name": "c", "optional": true}}, {"secretRef": {"name": "d"}}]}],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "e"}}]}],
            "volumes": [{"configMap": {"name": "f"}}, {"secret": {"secretName": "g", "optional": true}},
                {"projected": {"sources": [{"configMap": {"name": "h"}}, {"secret": {"name": "i"}},
                    {"downwardAPI": {}}, {"secret": {"name": "ours"}}]}},
                {"csi": {"nodePublishSecretRef": {"name": "j"}}}, {"rbd": {"secretRef": {"name": "k"}}},
                {"azureFile": {"secretName": "l"}}, {"emptyDir": {}}, {"configMap": {"name": ""}},
                {"inventedIn2031": {"secretRef": {"name": "m"}}}, 7],
            "imagePullSecrets": [{"name": "n"}, {}]
        });
        assert_eq!(
            found(&spec),
            [
                "configmap/e spec.initContainers[0].envFrom[0].configMapRef",
                "configmap/a spec.containers[0].env[1].valueFrom.configMapKeyRef",
                "secret/b? spec.containers[0].env[2].valueFrom.secretKeyRef",
                "configmap/c? spec.containers[0].envFrom[0].configMapRef",
                "secret/d spec.containers[0].envFrom[1].secretRef",
                "configmap/f spec.volumes[0].configMap",
                "secret/g? spec.volumes[1].secret",
                "configmap/h spec.volumes[2].projected.sources[0].configMap",
                "secret/i spec.volumes[2].projected.sources[1].secret",
                "secret/j spec.volumes[3].csi.nodePublishSecretRef",
                "secret/k spec.volumes[4].rbd.secretRef",
                "secret/l spec.volumes[5].azureFile.secretName",
                "secret/m spec.volumes[8].inventedIn2031.secretRef",
                "secret/n? spec.imagePullSecrets[0]",
            ]
        );
    }

    #[test]
    fn one_that_is_needed_makes_all_needed() {
        let spec = json!({"containers": [{"envFrom": [{"configMapRef": {"name": "a", "optional": true}},
            {"secretRef": {"name": "a"}}, {"configMapRef": {"name": "a"}}]}]});
        let field = "spec.containers[0].envFrom";
        assert_eq!(
            found(&spec),
            [format!("configmap/a {field}[2].configMapRef"), format!("secret/a {field}[1].secretRef")]
        );
    }

    #[test]
    fn references_are_pointed_to_the_names_in_the_target() {
        let mut names = Names::new("home");
        names.suffix(HostKind::Secret, "s");
        let volumes = json!([{"secret": {"secretName": "s"}}, {"configMap": {"name": "s"}},
            {"projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt", "items": []}}]}}]);
        let Value::Object(mut spec) = json!({"volumes": volumes}) else { unreachable!() };
        let mut told = vec![];
        redirect(&mut spec, &names, |_| false, |path, name| told.push(format!("{path} {name}")));
        let (secret, root) = (names.suffixed("s"), names.suffixed("kube-root-ca.crt"));
        assert_eq!(spec["volumes"][0]["secret"]["secretName"], json!(secret));
        assert_eq!(spec["volumes"][1], volumes[1]);
        let source = &spec["volumes"][2]["projected"]["sources"][0]["configMap"];
        assert_eq!(source, &json!({"name": root, "items": []}));
        let expected = [
            format!("spec.volumes[0].secret {secret}"),
            format!("spec.volumes[2].projected.sources[0].configMap {root}"),
        ];
        assert_eq!(told, expected);
    }
}
