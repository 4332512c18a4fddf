//! What Longshore must be allowed to do, and whether it is.
//!
//! Asked before anything runs: a right that is missing shows otherwise hours later, as one verb that fails.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{Api, PostParams};
use kube::{Client, core::ObjectMeta};

use super::configuration::Declared;
use super::target::{CapacitySource, Events, Scope, TargetSpec};
use super::virtual_node::{Shape, VirtualNodeSpec};
use crate::kubelet::certificate::request::SIGNER;

pub mod install;

/// So many questions at a time: quick on a remote cluster, and no flood there.
const CONCURRENCY: usize = 32;

/// What is used that not everybody uses.
#[expect(clippy::struct_excessive_bools, reason = "they are independent features")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Claims are kept in targets.
    pub claims: bool,
    /// Services and Ingresses follow pods.
    pub services: bool,
    /// Nodes stand for parts of a target, which come and go.
    pub parts: bool,
    /// Pods that find no room are evicted.
    pub evictions: bool,
}

impl Features {
    /// What these nodes use.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a VirtualNodeSpec>) -> Self {
        nodes.into_iter().fold(Self::default(), |all, node| Self {
            claims: all.claims || node.claims,
            services: all.services || node.services,
            parts: all.parts || node.shape != Shape::Cluster,
            evictions: all.evictions || node.placement.evict_after_seconds > 0,
        })
    }

    /// What those of these nodes use that have this target.
    pub fn of_target(nodes: &[Declared<VirtualNodeSpec>], target: &str) -> Self {
        let nodes = nodes.iter().map(|node| &node.spec);
        Self::of(nodes.filter(|node| node.targets.iter().any(|one| one.name == target)))
    }
}

/// One verb on one resource, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The resource, in plural.
    pub resource: &'static str,
    /// The subresource, or empty.
    pub subresource: &'static str,
    /// The only namespace in which it is needed; empty for all, and for resources that have none.
    pub namespace: Cow<'static, str>,
    /// The only object on which it is needed; empty for all.
    pub name: &'static str,
    /// The verb.
    pub verb: &'static str,
    /// What Longshore does with it.
    pub why: &'static str,
}

impl Right {
    /// `pods/log` of resource and subresource, as rules write it.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    fn review(&self) -> SelfSubjectAccessReview {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            group: given(self.group),
            resource: given(self.resource),
            subresource: given(self.subresource),
            namespace: given(&self.namespace),
            name: given(self.name),
            verb: given(self.verb),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            ..SelfSubjectAccessReviewSpec::default()
        };
        SelfSubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None }
    }
}

impl fmt::Display for Right {
    /// `create pods/exec`, `get leases.coordination.k8s.io in kube-node-lease`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        if !self.namespace.is_empty() {
            write!(f, " in {}", self.namespace)?;
        }
        Ok(())
    }
}

/// Several verbs on the same thing.
struct On(&'static str, &'static str);

impl On {
    fn verbs(&self, verbs: &[&'static str], why: &'static str) -> Vec<Right> {
        let (resource, subresource) = self.1.split_once('/').unwrap_or((self.1, ""));
        let right = |&verb| Right { group: self.0, resource, subresource, namespace: "".into(), name: "", verb, why };
        verbs.iter().map(right).collect()
    }
}

fn only(rights: Vec<Right>, namespace: &'static str, name: &'static str) -> Vec<Right> {
    rights.into_iter().map(|right| Right { namespace: namespace.into(), name, ..right }).collect()
}

fn evictions() -> Vec<Right> {
    On("", "pods/eviction").verbs(&["create"], "evict pods that find no room in their target, and empty nodes that go")
}

fn nodes_delete() -> Vec<Right> {
    On("", "nodes").verbs(&["delete"], "remove virtual nodes whose VirtualNode, or whose part of a target, has gone")
}

/// What claims need in the host cluster.
fn host_claims() -> Vec<Right> {
    let why = "keep claims in targets";
    [
        On("", "persistentvolumeclaims").verbs(&["get", "list", "watch", "patch"], why),
        On("", "persistentvolumeclaims/status").verbs(&["patch"], why),
        On("", "persistentvolumes").verbs(&["get", "list", "watch", "create", "patch", "delete"], why),
        On("storage.k8s.io", "storageclasses").verbs(&["get"], why),
    ]
    .concat()
}

/// What is needed in the host cluster where this is used.
pub fn host_rights(features: Features) -> Vec<Right> {
    let mut rights = host_basics();
    if features.claims {
        rights.extend(host_claims());
    }
    if features.parts {
        rights.extend(nodes_delete());
    }
    if features.parts || features.evictions {
        rights.extend(evictions());
    }
    if features.services {
        let why = "let Services and Ingresses follow pods";
        rights.extend(On("", "services").verbs(&["get", "list", "watch"], why));
        rights.extend(On("networking.k8s.io", "ingresses").verbs(&["get", "list", "watch"], why));
    }
    rights
}

/// What is needed in the host beside [`host_rights`] where it signs the serving certificates of the kubelet API; to approve
/// them as well, if Longshore does.
pub fn serving_rights(approve: bool) -> Vec<Right> {
    let group = "certificates.k8s.io";
    let why = "get serving certificates for the kubelet API";
    let mut rights = On(group, "certificatesigningrequests").verbs(&["create", "get", "list", "watch"], why);
    if approve {
        let why = "approve the certificate requests of the virtual nodes";
        rights.extend(On(group, "certificatesigningrequests/approval").verbs(&["update"], why));
        rights.extend(only(On(group, "signers").verbs(&["approve"], why), "", SIGNER));
    }
    rights
}

fn host_basics() -> Vec<Right> {
    let authentication = "authenticate callers of the kubelet API";
    [
        On("", "pods").verbs(&["get", "list", "watch", "delete"], "follow the pods of the virtual nodes"),
        On("", "pods").verbs(&["patch"], "keep pods from eviction while their target is out of reach"),
        On("", "pods/status").verbs(&["patch"], "report the state of pods"),
        On("", "nodes").verbs(&["get", "list", "watch", "create", "patch"], "register the virtual nodes"),
        On("", "nodes/status").verbs(&["patch"], "report the state of the virtual nodes"),
        only(
            On("coordination.k8s.io", "leases").verbs(&["get", "create", "update"], "keep the virtual nodes alive"),
            "kube-node-lease",
            "",
        ),
        On("events.k8s.io", "events").verbs(&["create", "patch"], "tell users what happens to their pods"),
        On("authentication.k8s.io", "tokenreviews").verbs(&["create"], authentication),
        On("authorization.k8s.io", "subjectaccessreviews").verbs(&["create"], "authorise callers of the kubelet API"),
        only(
            On("", "configmaps").verbs(&["get", "list", "watch"], authentication),
            "kube-system",
            "extension-apiserver-authentication",
        ),
        On("", "namespaces").verbs(&["get"], "identify this cluster in the targets; read partition policies"),
    ]
    .concat()
}

/// What is needed in the host beside [`host_rights`] where Targets and VirtualNodes of the host are served. Secrets are read
/// one by one, where Targets name them; that they may be is found out there.
pub fn resource_rights() -> Vec<Right> {
    let group = "longshore.dev";
    [
        On(group, "targets").verbs(&["get", "list", "watch"], "know the targets"),
        On(group, "virtualnodes").verbs(&["get", "list", "watch"], "know the virtual nodes"),
        On(group, "targets/status").verbs(&["patch"], "say how the targets are"),
        On(group, "virtualnodes/status").verbs(&["patch"], "say how the virtual nodes are"),
        nodes_delete(),
        evictions(),
    ]
    .concat()
}

/// What is needed in the host beside [`host_rights`] where Longshore serves a webhook, whose certificates are in a Secret of
/// this namespace, and `register`s it by itself.
pub fn admission_rights(namespace: &str, register: bool) -> Vec<Right> {
    let secret =
        On("", "secrets").verbs(&["get", "list", "watch", "create", "update"], "keep the webhook's certificates");
    let within = |right: Right| Right { namespace: namespace.to_owned().into(), ..right };
    let mut rights: Vec<_> = secret.into_iter().map(within).collect();
    if register {
        let verbs = &["get", "list", "watch", "create", "patch"];
        let group = "admissionregistration.k8s.io";
        rights.extend(On(group, "mutatingwebhookconfigurations").verbs(verbs, "register the webhook"));
    }
    rights
}

/// What is needed in the host for pods that refer to ConfigMaps and Secrets, or are told of Services. It may be granted in their
/// namespaces alone; a
/// pod elsewhere waits then, and says so.
pub fn host_follow_rights() -> Vec<Right> {
    let follow = "let what pods refer to follow them to their target";
    let verbs = &["get", "list", "watch"];
    [
        On("", "configmaps").verbs(verbs, follow),
        On("", "secrets").verbs(verbs, follow),
        On("", "services").verbs(verbs, "tell containers of the Services of their namespace"),
    ]
    .concat()
}

/// What is needed in a target that is used as `spec` says, and for this: with the scope `Cluster` in all of it, with
/// `Namespaces` in each of them and nowhere else.
pub fn target_rights(spec: &TargetSpec, features: Features) -> Vec<Right> {
    let mut rights = pod_rights(spec, features);
    if spec.scope == Scope::Cluster {
        rights.extend(cluster_rights(spec));
        return rights;
    }
    if spec.capacity.source_in(spec.scope) == CapacitySource::Quota {
        rights.extend(On("", "resourcequotas").verbs(&["list", "watch"], "know how much may be used"));
    }
    let within = |namespace: &String| {
        rights.iter().map(|right| Right { namespace: namespace.clone().into(), ..right.clone() }).collect::<Vec<_>>()
    };
    spec.namespaces.names.iter().flat_map(within).collect()
}

/// What is needed in every namespace that pods go to.
fn pod_rights(spec: &TargetSpec, features: Features) -> Vec<Right> {
    let both = &["get", "create"];
    let all = &["get", "list", "watch", "create", "patch", "delete"];
    let mut rights = [
        On("", "pods").verbs(all, "run delegate pods"),
        On("", "pods/ephemeralcontainers").verbs(&["patch"], "serve kubectl debug"),
        On("", "pods/resize").verbs(&["patch"], "resize pods in place"),
        On("", "pods/log").verbs(&["get"], "serve kubectl logs"),
        On("", "pods/exec").verbs(both, "serve kubectl exec"),
        On("", "pods/attach").verbs(both, "serve kubectl attach"),
        On("", "pods/portforward").verbs(both, "serve kubectl port-forward"),
        On("", "configmaps").verbs(all, "hold copies of what pods refer to"),
        On("", "secrets").verbs(all, "hold copies of what pods refer to"),
        On("metrics.k8s.io", "pods").verbs(&["list"], "serve kubectl top and autoscalers"),
    ]
    .concat();
    let watch = &["list", "watch"];
    if spec.events != Events::None {
        rights.extend(On("", "events").verbs(watch, "show warnings about delegates on their proxies"));
    } else if features.claims {
        rights.extend(On("", "events").verbs(watch, "tell home what goes wrong with claims"));
    }
    if features.claims {
        rights.extend(On("", "persistentvolumeclaims").verbs(all, "keep claims of home"));
    }
    if features.services {
        let (all, why) =
            (&["get", "list", "watch", "create", "update", "delete"], "let Services and Ingresses follow pods");
        rights.extend(On("", "services").verbs(all, why));
        rights.extend(On("networking.k8s.io", "ingresses").verbs(all, why));
    }
    rights
}

/// What is needed beside that where all of a target is used.
fn cluster_rights(spec: &TargetSpec) -> Vec<Right> {
    let mut rights = On("", "namespaces").verbs(&["get", "list", "watch"], "find the delegates' namespaces");
    if spec.namespaces.create {
        rights.extend(On("", "namespaces").verbs(&["create"], "create the delegates' namespaces"));
    }
    if spec.capacity.source_in(spec.scope) == CapacitySource::Nodes {
        rights.extend(On("", "nodes").verbs(&["list", "watch"], "know the target's capacity"));
        if spec.namespaces.single.is_some() || spec.guardrails.only_namespaces().is_some() {
            rights.extend(On("", "resourcequotas").verbs(&["list", "watch"], "know how much may be used"));
        }
    }
    rights
}

/// The rules that grant `rights`, by the namespace of their Role; those of the ClusterRole have none.
pub fn roles(rights: &[Right]) -> BTreeMap<Option<String>, Vec<PolicyRule>> {
    let mut roles: BTreeMap<Option<String>, Vec<PolicyRule>> = BTreeMap::new();
    for right in rights {
        let namespace = (!right.namespace.is_empty()).then(|| right.namespace.clone().into_owned());
        let granted = roles.entry(namespace).or_default();
        let names = (!right.name.is_empty()).then(|| vec![right.name.to_owned()]);
        let same = |rule: &&mut PolicyRule| {
            rule.api_groups.as_deref() == Some(&[right.group.to_owned()])
                && rule.resources.as_deref() == Some(&[right.full_resource()])
                && rule.resource_names == names
        };
        match granted.iter_mut().find(same) {
            Some(rule) => rule.verbs.push(right.verb.to_owned()),
            None => granted.push(PolicyRule {
                api_groups: Some(vec![right.group.to_owned()]),
                resources: Some(vec![right.full_resource()]),
                resource_names: names,
                verbs: vec![right.verb.to_owned()],
                ..PolicyRule::default()
            }),
        }
    }
    roles
}

/// Those of `rights` that the API server does not grant.
pub async fn missing(client: &Client, rights: &[Right]) -> Result<Vec<Right>, kube::Error> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let ask = |right: Right| {
        let reviews = reviews.clone();
        async move {
            let answer = reviews.create(&PostParams::default(), &right.review()).await?;
            Ok((!answer.status.is_some_and(|status| status.allowed)).then_some(right))
        }
    };
    // In order: the user compares the list with a ClusterRole.
    stream::iter(rights.iter().cloned().map(ask))
        .buffered(CONCURRENCY)
        .try_filter_map(|right| async move { Ok(right) })
        .try_collect()
        .await
}

/// The rules that would grant `rights`, as YAML to paste into a role.
pub fn rules(rights: &[Right]) -> String {
    let mut verbs: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for right in rights {
        let verbs = verbs.entry((&*right.namespace, right.group, right.full_resource(), right.name)).or_default();
        // One may be needed for several things.
        if !verbs.contains(&right.verb) {
            verbs.push(right.verb);
        }
    }
    let mut lines = Vec::new();
    let mut role = None;
    for ((namespace, group, resource, name), verbs) in verbs {
        if role != Some(namespace) {
            let title = if namespace.is_empty() { "ClusterRole".to_owned() } else { format!("Role in {namespace}") };
            lines.push(format!("# {title}"));
            role = Some(namespace);
        }
        lines.push(format!("- apiGroups: [{group:?}]"));
        lines.push(format!("  resources: [{resource:?}]"));
        if !name.is_empty() {
            lines.push(format!("  resourceNames: [{name:?}]"));
        }
        lines.push(format!("  verbs: {verbs:?}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_read_as_rules() {
        let rights: Vec<_> = host_rights(Features::default()).into_iter().filter(|right| right.verb == "get").collect();
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!("rules", rules(&rights));
        });
    }

    #[test]
    fn namespaces_are_created_only_where_that_is_wanted() {
        let spec = |create| {
            let text = format!(r#"{{"kubeconfig": {{"file": "x"}}, "namespaces": {{"create": {create}}}}}"#);
            serde_json::from_str::<TargetSpec>(&text).unwrap()
        };
        let creates = |rights: Vec<Right>| rights.iter().any(|right| right.to_string() == "create namespaces");
        assert!(creates(target_rights(&spec(true), Features::default())));
        assert!(!creates(target_rights(&spec(false), Features::default())));
    }
    #[test]
    fn what_nobody_uses_needs_no_rights() {
        let names = |features| host_rights(features).iter().map(ToString::to_string).collect::<Vec<_>>();
        let none = names(Features::default());
        let claims = names(Features { claims: true, ..Features::default() });
        assert!(!none.iter().any(|right| right.contains("persistentvolume") || right.contains("services")), "{none:?}");
        assert!(claims.contains(&"create persistentvolumes".to_owned()), "{claims:?}");
        let services = names(Features { services: true, ..Features::default() });
        assert!(services.contains(&"watch ingresses.networking.k8s.io".to_owned()), "{services:?}");
    }

    #[test]
    fn in_namespaces_nothing_is_needed_outside_of_them() {
        let text = r#"{"kubeconfig": {"file": "x"}, "scope": "Namespaces", "namespaces": {"names": ["a", "b"]}}"#;
        let all = Features { claims: true, services: true, ..Features::default() };
        let rights = target_rights(&serde_json::from_str(text).unwrap(), all);
        assert!(rights.iter().all(|right| ["a", "b"].contains(&&*right.namespace)));
        let roles = roles(&rights);
        let pods =
            roles[&Some("a".to_owned())].iter().find(|rule| rule.resources == Some(vec!["pods".into()])).unwrap();
        assert_eq!(pods.verbs, ["get", "list", "watch", "create", "patch", "delete"]);
        assert_eq!(roles.len(), 2);
    }
}
