//! Where resources are found in the API.

use anyhow::{Result, bail};
use serde_json::Value;

const CORE: &[&str] = &[
    "pods",
    "events",
    "configmaps",
    "secrets",
    "serviceaccounts",
    "persistentvolumeclaims",
    "persistentvolumes",
    "resourcequotas",
    "services",
    "namespaces",
    "nodes",
    "limitranges",
];
const APPS: &[&str] = &["daemonsets", "deployments", "replicasets", "statefulsets"];
const FLOW: &[&str] = &["flowschemas", "prioritylevelconfigurations"];
const RBAC: &[&str] = &["clusterroles", "clusterrolebindings", "roles", "rolebindings"];
const OURS: &[&str] = &["targets", "virtualnodes"];
const DEVICES: &[&str] = &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"];
const KUEUE: &[&str] = &["clusterqueues", "localqueues", "resourceflavors", "workloads"];
const ADMISSION: &[&str] = &[
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
];
const CLUSTER_SCOPED: &[&str] = &[
    "namespaces",
    "nodes",
    "persistentvolumes",
    "storageclasses",
    "clusterroles",
    "clusterrolebindings",
    "certificatesigningrequests",
    "flowschemas",
    "prioritylevelconfigurations",
    "priorityclasses",
    "runtimeclasses",
    "targets",
    "virtualnodes",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingwebhookconfigurations",
    "customresourcedefinitions",
    "clusterqueues",
    "resourceflavors",
    "deviceclasses",
    "resourceslices",
];

/// The path of a resource's objects, in `namespace` unless they have none.
pub(crate) fn path(plural: &str, namespace: &str) -> Result<String> {
    let group = match plural {
        _ if CORE.contains(&plural) => "/api/v1",
        _ if APPS.contains(&plural) => "/apis/apps/v1",
        _ if RBAC.contains(&plural) => "/apis/rbac.authorization.k8s.io/v1",
        _ if KUEUE.contains(&plural) => "/apis/kueue.x-k8s.io/v1beta2",
        _ if OURS.contains(&plural) => "/apis/longshore.dev/v1alpha1",
        _ if ADMISSION.contains(&plural) => "/apis/admissionregistration.k8s.io/v1",
        _ if DEVICES.contains(&plural) => "/apis/resource.k8s.io/v1",
        _ if FLOW.contains(&plural) => "/apis/flowcontrol.apiserver.k8s.io/v1",
        "certificatesigningrequests" => "/apis/certificates.k8s.io/v1",
        "poddisruptionbudgets" => "/apis/policy/v1",
        "horizontalpodautoscalers" => "/apis/autoscaling/v2",
        "jobs" => "/apis/batch/v1",
        "storageclasses" => "/apis/storage.k8s.io/v1",
        "ingresses" => "/apis/networking.k8s.io/v1",
        "endpointslices" => "/apis/discovery.k8s.io/v1",
        "clusterprofiles" => "/apis/multicluster.x-k8s.io/v1alpha1",
        "customresourcedefinitions" => "/apis/apiextensions.k8s.io/v1",
        "priorityclasses" => "/apis/scheduling.k8s.io/v1",
        "runtimeclasses" => "/apis/node.k8s.io/v1",
        _ => bail!("the tests do not know the resource {plural}; add it to e2e/src/resource.rs"),
    };
    Ok(if CLUSTER_SCOPED.contains(&plural) {
        format!("{group}/{plural}")
    } else {
        format!("{group}/namespaces/{namespace}/{plural}")
    })
}

/// The resource of an object.
pub(crate) fn plural(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    match kind.strip_suffix("cy") {
        Some(stem) => format!("{stem}cies"),
        None => format!("{kind}{}", if kind.ends_with('s') { "es" } else { "s" }),
    }
}

/// Sets `apiVersion` for the kinds that tests use, so that they need not say it.
pub(crate) fn with_api_version(mut object: Value) -> Value {
    if object["apiVersion"].is_null() {
        let version = match plural(&object).as_str() {
            plural if APPS.contains(&plural) => "apps/v1",
            plural if ADMISSION.contains(&plural) => "admissionregistration.k8s.io/v1",
            plural if KUEUE.contains(&plural) => "kueue.x-k8s.io/v1beta2",
            plural if DEVICES.contains(&plural) => "resource.k8s.io/v1",
            plural if RBAC.contains(&plural) => "rbac.authorization.k8s.io/v1",
            "poddisruptionbudgets" => "policy/v1",
            "jobs" => "batch/v1",
            "storageclasses" => "storage.k8s.io/v1",
            "ingresses" => "networking.k8s.io/v1",
            "priorityclasses" => "scheduling.k8s.io/v1",
            "runtimeclasses" => "node.k8s.io/v1",
            _ => "v1",
        };
        object["apiVersion"] = version.into();
    }
    object
}
