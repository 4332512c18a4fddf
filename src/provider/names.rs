//! The names that Longshore writes into other people's clusters, all in one place.
//!
//! They are an interface: a delegate that an older build has created is found and understood by them. Labels are what is
//! selected by; whatever may exceed the 63 characters of a label value is an annotation.

/// What every label and annotation of ours begins with.
pub const PREFIX: &str = "longshore.dev/";

/// The field manager of our writes.
pub const FIELD_MANAGER: &str = "longshore";

/// The key of the taint on virtual nodes.
pub const TAINT: &str = "longshore.dev/virtual-node";

/// The key of the taint on a virtual node whose target, or part of one, is closed to new pods.
pub const CORDONED: &str = "longshore.dev/cordoned";
/// Label of a virtual node: the name of the VirtualNode that it belongs to. The same key as that of its taint.
pub const VIRTUAL_NODE: &str = TAINT;

/// Annotation of a pod, and label of a namespace: where pods are offloaded to ([`super::offload`]).
pub const OFFLOAD: &str = "longshore.dev/offload";
/// Annotation of a pod, and label of a namespace: how they are, `Local`, `Remote` or `LocalAndRemote`.
pub const OFFLOAD_MODE: &str = "longshore.dev/offload-mode";
/// Annotation of a pod: what the webhook took off it and put on it, as JSON. Its delegate is made without that.
pub const CONSTRAINTS: &str = "longshore.dev/constraints";
/// Annotation of a pod: the devices that it claims, which home's scheduler is not asked for, as JSON. The webhook writes it, or a
/// user. Its delegate claims them.
pub const RESOURCE_CLAIMS: &str = "longshore.dev/resource-claims";
/// Label of a pod that stays at home as long as it has a place there: the name of the webhook that lets it go later.
pub const LATER: &str = "longshore.dev/offload-later";

/// Label of a delegate: the id of the host cluster.
pub const HOST: &str = "longshore.dev/host";
/// Label of a delegate: the virtual node that the proxy is bound to.
pub const NODE: &str = "longshore.dev/node";
/// Label of a delegate: the UID of the proxy, its identity on both sides.
pub const UID: &str = "longshore.dev/uid";

/// Annotation of a delegate: whose it is ([`origin`]), for the day on which somebody takes its labels off.
pub const ORIGIN: &str = "longshore.dev/origin";
/// Annotation of a delegate: the namespace of the proxy.
pub const NAMESPACE: &str = "longshore.dev/namespace";
/// Annotation of a delegate: the name of the proxy.
pub const NAME: &str = "longshore.dev/name";
/// Annotation of a delegate: the fingerprint, in hex, of the proxy that it was last made from.
pub const SENT: &str = "longshore.dev/sent";
/// Annotation of a delegate: what the next update has to know of the last one, as JSON.
pub const LAST: &str = "longshore.dev/last";
/// Annotation of a delegate that replaces one that has vanished: what home showed of that one, as JSON.
pub const BEFORE: &str = "longshore.dev/before";
/// Annotation of a delegate, for the downward API: the name of the proxy's node.
pub const NODE_NAME: &str = "longshore.dev/node-name";
/// Annotation of a delegate, for the downward API: the name of the proxy's service account.
pub const SERVICE_ACCOUNT: &str = "longshore.dev/service-account";
/// Annotation of a delegate, for the downward API: all labels of the proxy.
pub const LABELS: &str = "longshore.dev/labels";
/// Annotation of a delegate, for the downward API: all annotations of the proxy.
pub const ANNOTATIONS: &str = "longshore.dev/annotations";
/// Annotation of a delegate: the copies that it needs, as `kind/name` or `kind/name=name at home`, separated by spaces.
pub const FOLLOWS: &str = "longshore.dev/follows";
/// Annotation of a delegate: the tokens of home's service account that it needs, as JSON.
pub const TOKENS: &str = "longshore.dev/tokens";
/// Annotation of a Secret with tokens: when they are to be renewed, in seconds of the epoch.
pub const RENEWAL: &str = "longshore.dev/renewal";
/// Beginning of a label of a copy: a virtual node that needs it.
pub const NEEDED_BY: &str = "node.longshore.dev/";
/// Label of what is made for pods in a target; its value is [`FIELD_MANAGER`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label of what `longshore join` makes on either side: the Target that it is for.
pub const JOINED: &str = "longshore.dev/joined";
/// Label of what `longshore join` makes in a target: the id of the host cluster, of which a target may have several.
pub const JOINED_TO: &str = "longshore.dev/joined-to";
/// Annotation of a proxy: the node of the target that its delegate has to run on, where the target allows to name one.
pub const PIN: &str = "longshore.dev/pin-to-node";

/// Annotation of a proxy, which says nothing to its delegate: tolerations that were lifted.
pub use crate::kubelet::tolerations::LIFTED;

/// Annotation of a proxy, which says nothing to its delegate: the target that was chosen.
pub use crate::kubelet::sites::CHOICE;

/// Annotation of a proxy, which says nothing to its delegate: when that choice was confirmed.
pub use crate::kubelet::sites::FENCE;

/// Annotation of a proxy, which says nothing to its delegate: those of its annotations that the delegate gave it.
pub use crate::kubelet::annotations::RETURNED;

/// Beginning of an annotation of a delegate, for the downward API: a label of the proxy that the delegate cannot have
/// under its own key. A digest of the key follows, which may be too long to repeat.
pub const HOME_LABEL: &str = "longshore.dev/home-label-";
/// The same as [`HOME_LABEL`] for an annotation of the proxy.
pub const HOME_ANNOTATION: &str = "longshore.dev/home-annotation-";

/// The annotation in which `kubectl apply` keeps a manifest. On a delegate it would be a lie that kubectl believes.
pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The values of [`HOST`], [`NODE`] and [`UID`] in one: none of them can have a slash, as values of labels.
pub fn origin(host_id: &str, node: &str, uid: &str) -> String {
    format!("{host_id}/{node}/{uid}")
}

/// The node and the UID that an [`origin`] names, if it names this host.
pub fn read_origin<'a>(origin: &'a str, host_id: &str) -> Option<(&'a str, &'a str)> {
    let (node, uid) = origin.strip_prefix(host_id)?.strip_prefix('/')?.split_once('/')?;
    (!node.is_empty() && !uid.is_empty() && !uid.contains('/')).then_some((node, uid))
}

/// Whether a delegate's label of this key is ours, whoever set it before.
pub fn owns_label(key: &str) -> bool {
    [HOST, NODE, UID].contains(&key)
}

/// Whether a delegate's annotation of this key is ours, whoever set it before.
pub fn owns_annotation(key: &str) -> bool {
    [
        ORIGIN,
        NAMESPACE,
        NAME,
        SENT,
        LAST,
        BEFORE,
        NODE_NAME,
        SERVICE_ACCOUNT,
        LABELS,
        ANNOTATIONS,
        LIFTED,
        CHOICE,
        FENCE,
        RETURNED,
        CONSTRAINTS,
        RESOURCE_CLAIMS,
        FOLLOWS,
        TOKENS,
    ]
    .contains(&key)
        || key.starts_with(HOME_LABEL)
        || key.starts_with(HOME_ANNOTATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_the_prefix() {
        let all = [
            TAINT,
            HOST,
            NODE,
            UID,
            ORIGIN,
            NAMESPACE,
            NAME,
            SENT,
            LAST,
            NODE_NAME,
            SERVICE_ACCOUNT,
            LABELS,
            ANNOTATIONS,
            OFFLOAD,
        ];
        assert!(all.iter().chain(&[HOME_LABEL, HOME_ANNOTATION]).all(|name| name.starts_with(PREFIX)));
    }

    #[test]
    fn other_keys_under_the_prefix_belong_to_users() {
        assert!(!owns_annotation("longshore.dev/offload"));
        assert!(!owns_label("longshore.dev/namespace"), "that one is an annotation");
        assert!(owns_annotation("longshore.dev/home-label-0123"));
    }
}
