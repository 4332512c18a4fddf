//! What is kept of a pod: small projections of its documents.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::annotations::Annotations;
use super::document::{Keep, PodDocument};
use super::packed::{Condition, Conditions, Packed};
use super::partition::{DISRUPTION, PARTITION, UNREACHABLE};
use super::provider::ProviderPod;
use super::sites::{CHOICE, Index};
use super::step::{Health, InstanceView, Phase, ProxyView};
use super::tolerations::Defaults;

/// Conditions that are the kubelet's to write; all others belong to somebody else and stay untouched. `PodScheduled`
/// is the scheduler's once a pod is bound, and `DisruptionTarget` is shared: neither is compared.
/// (pkg/kubelet/types/pod_status.go)
pub const OWNED_CONDITIONS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    "PodResizePending",
    "PodResizeInProgress",
    DELEGATED,
    UP_TO_DATE,
];

/// Our own condition: whether the pod runs where it should, and if not, why.
pub const DELEGATED: &str = "longshore.dev/Delegated";

/// Our own condition, which is there only while it is `False`: why what runs is not made of the newest spec.
pub const UP_TO_DATE: &str = "longshore.dev/UpToDate";

/// Conditions that are written and not compared: others write them too.
const SHARED_CONDITIONS: [&str; 2] = [POD_SCHEDULED, DISRUPTION];

/// `v1.PodScheduled`: true of every pod that has a node.
pub(super) const POD_SCHEDULED: &str = "PodScheduled";

/// Fields of a pod status that other components own, or that the API server fixes.
pub(super) const FOREIGN_FIELDS: [&str; 4] =
    ["qosClass", "nominatedNodeName", "resourceClaimStatuses", "extendedResourceClaimStatus"];

/// The three lists of containers: field of the spec, field of the status.
pub(super) const CONTAINER_LISTS: [(&str, &str); 3] = [
    ("containers", "containerStatuses"),
    ("initContainers", "initContainerStatuses"),
    ("ephemeralContainers", "ephemeralContainerStatuses"),
];

/// Waiting reasons of a healthy start; any other reason is worth a report at once.
const PATIENT_REASONS: [&str; 3] = ["ContainerCreating", "PodInitializing", ""];

/// A container by name and image, in spec order.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Container {
    /// Its name.
    pub name: Box<str>,
    /// Its image, as the spec has it.
    pub image: Box<str>,
    /// Home shows that it has ended, and its restart policy would not start it again.
    pub done: bool,
}

/// What many proxies have alike, so that it is kept once for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Form {
    /// The readiness gates' condition types, in spec order.
    pub gates: Packed,
    /// Regular, init and ephemeral containers.
    pub containers: [Box<[Container]>; 3],
    /// The names of the fields that the status has.
    pub fields: Packed,
}

/// What the next report needs to know of the proxy as home shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Home {
    /// `metadata.generation`.
    pub generation: i64,
    /// `status.observedGeneration`.
    pub observed: Option<i64>,
    /// The phase.
    pub phase: Phase,
    /// `status.reason` and `status.message`, which belong to the phase.
    pub reason: Box<str>,
    /// See `reason`.
    pub message: Box<str>,
    /// `status.startTime`, which never changes once set.
    pub start_time: Option<Box<str>>,
    /// A container has started once.
    pub started: bool,
    /// Being deleted.
    pub deleting: bool,
    /// Its containers, and which fields its status has.
    pub form: Arc<Form>,
    /// The conditions that are ours, or a readiness gate.
    pub conditions: Conditions,
    /// [`digest`] of the status.
    pub digest: u64,
    /// The tolerations that would let the host evict it.
    pub defaults: Defaults,
    /// The value of its annotation [`PARTITION`].
    pub partition: Option<Box<str>>,
    /// Its annotations, as far as those of an instance may be added.
    pub annotations: Annotations,
}

impl Home {
    /// The part of a proxy document that reports depend on.
    pub fn of(pod: &PodDocument) -> Self {
        let status = &pod.status;
        let gates: Vec<&str> =
            pod.list("readinessGates").iter().filter_map(|gate| gate.get("conditionType")?.as_str()).collect();
        let conditions = items(status, "conditions")
            .filter(|c| {
                let kind = text(c, "type");
                let ours = OWNED_CONDITIONS.contains(&kind) || SHARED_CONDITIONS.contains(&kind);
                ours || gates.contains(&kind)
            })
            .map(|c| Condition {
                kind: text(c, "type"),
                status: text(c, "status"),
                reason: text(c, "reason"),
                since: c.get("lastTransitionTime").and_then(Value::as_str),
            });
        let conditions = Conditions::new(conditions);
        Self {
            generation: pod.metadata.generation.unwrap_or_default(),
            observed: status.get("observedGeneration").and_then(Value::as_i64),
            phase: Phase::parse(text(status, "phase")),
            reason: text(status, "reason").into(),
            message: text(status, "message").into(),
            start_time: status.get("startTime").and_then(Value::as_str).map(Into::into),
            started: started(status),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            conditions,
            form: Arc::new(Form {
                gates: Packed::new(gates),
                containers: CONTAINER_LISTS.map(|(field, shown)| {
                    let done = |c: &Value| {
                        let shown = items(status, shown).find(|shown| text(shown, "name") == text(c, "name"));
                        let code = shown.and_then(exit_code);
                        code.is_some_and(|code| field == "ephemeralContainers" || !starts_again(pod, c, Some(code)))
                    };
                    let container = |c: &Value| Container {
                        name: text(c, "name").into(),
                        image: text(c, "image").into(),
                        done: done(c),
                    };
                    pod.list(field).iter().map(container).collect()
                }),
                fields: Packed::new(status.as_object().into_iter().flat_map(Map::keys).map(String::as_str)),
            }),
            digest: digest(status),
            defaults: Defaults::of(pod),
            partition: pod.annotation(PARTITION).map(Into::into),
            annotations: Annotations::of(pod),
        }
    }

    /// The status of one of our conditions or a readiness gate; `False` where it is absent.
    pub fn condition(&self, kind: &str) -> Option<Condition<'_>> {
        self.conditions.iter().find(|c| c.kind == kind)
    }
}

/// As much of a spec as [`Home::of`] and [`proxy_view`] look at.
const SKIMMED: Keep = Keep::Fields(&[
    ("restartPolicy", Keep::All),
    ("readinessGates", Keep::All),
    ("tolerations", Keep::All),
    ("containers", Keep::Each(&CONTAINER)),
    ("initContainers", Keep::Each(&CONTAINER)),
    ("ephemeralContainers", Keep::Each(&CONTAINER)),
]);

const CONTAINER: Keep = Keep::Fields(&[
    ("name", Keep::All),
    ("image", Keep::All),
    ("restartPolicy", Keep::All),
    ("restartPolicyRules", Keep::All),
]);

/// Reads no more of a proxy's spec than [`Home::of`] and [`proxy_view`] look at, unless it was read already.
pub fn skim(pod: &mut PodDocument) {
    pod.spec.skim(&SKIMMED);
}

/// The part of a proxy document that decisions depend on. `want` is the provider's fingerprint of it, `site` what it says of
/// where it runs.
pub fn proxy_view(pod: &PodDocument, want: u64, site: Option<Index>) -> ProxyView {
    ProxyView {
        version: pod.version(),
        deleting: pod.deleting(),
        health: health(&pod.status),
        replaceable: replaceable(pod),
        once: text(&pod.spec, "restartPolicy") == "Never"
            && pod.list("containers").iter().any(|container| !starts_again(pod, container, None)),
        want,
        site,
        chosen: pod.annotation(CHOICE).is_some(),
        given_up: given_up(&pod.status),
        evictable: Defaults::of(pod).any(),
    }
}

/// Whether a pod was failed because its side did not answer. Read from home's status, since whoever wrote it may have died
/// before it could remove the pod.
fn given_up(status: &Value) -> bool {
    text(status, "phase") == Phase::Failed.name()
        && text(status, "reason") == UNREACHABLE
        && items(status, "conditions").any(|c| text(c, "type") == DISRUPTION && text(c, "reason") == UNREACHABLE)
}

/// The part of a provider's pod that decisions depend on; `site` is where that provider is.
pub fn instance_view(pod: &ProviderPod, site: Index) -> InstanceView {
    InstanceView {
        uid: pod.instance.uid.clone(),
        version: pod.instance.version,
        sent: pod.instance.sent,
        deleting: pod.instance.deleting,
        health: health(&pod.status),
        started: begun(&pod.status),
        site,
    }
}

/// What controllers act on in a status.
pub fn health(status: &Value) -> Health {
    let ready =
        items(status, "conditions").any(|c| text(c, "type") == "ContainersReady" && text(c, "status") == "True");
    let trouble = all_containers(status).any(|c| {
        c.pointer("/state/waiting").is_some_and(|waiting| !PATIENT_REASONS.contains(&text(waiting, "reason")))
    });
    Health { phase: Phase::parse(text(status, "phase")), ready, trouble }
}

/// Whether a container of this very instance has started: counts of restarts may include those of earlier ones.
fn begun(status: &Value) -> bool {
    let id = |c: &&Value| !text(c, "containerID").is_empty();
    started_containers(status).next().is_some()
        || CONTAINER_LISTS.into_iter().take(2).flat_map(|(_, field)| items(status, field)).any(|c| id(&c))
}

/// Whether a container has started once.
fn started(status: &Value) -> bool {
    all_containers(status).any(has_started)
}

fn has_started(container: &Value) -> bool {
    container.pointer("/state/running").is_some()
        || container.pointer("/state/terminated").is_some()
        || container.get("restartCount").and_then(Value::as_i64).unwrap_or_default() > 0
}

/// Whether a pod whose instance vanished may start anew: nothing has started yet, or each container that has would be
/// started again by its restart policy, which is also what the API server allows to be shown
/// (ValidateContainerStateTransition in pkg/apis/core/validation). Init containers run again with every start of a pod, as
/// on a kubelet that has lost the sandbox, unless the pod is never restarted; that home goes on to show their first end is
/// the status' affair.
fn replaceable(pod: &PodDocument) -> bool {
    if !started(&pod.status) {
        return true;
    }
    let init = |status: &Value| pod.list("initContainers").iter().any(|c| text(c, "name") == text(status, "name"));
    let spec = |status: &Value| pod.list("containers").iter().find(|c| text(c, "name") == text(status, "name"));
    let never = text(&pod.spec, "restartPolicy") == "Never";
    all_containers(&pod.status).filter(|status| has_started(status)).all(|status| match spec(status) {
        Some(container) => starts_again(pod, container, exit_code(status)),
        // An ephemeral container is never started again, and keeps nobody else from it.
        None => !(never && init(status)),
    })
}

/// Those of the regular and init containers that have started and do not wait for a restart already, with the lists that
/// they are in.
fn started_containers(status: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    let begun = |c: &&Value| c.pointer("/state/running").is_some() || c.pointer("/state/terminated").is_some();
    CONTAINER_LISTS
        .into_iter()
        .take(2)
        .flat_map(move |(list, field)| items(status, field).filter(begun).map(move |c| (list, c)))
}

/// Whether the restart policy of a container, or else of its pod, starts it again after this exit code; without one, after a
/// failure at least. Follows ContainerShouldRestart in pkg/api/v1/pod/util.go (KEP-5307).
fn starts_again(pod: &PodDocument, container: &Value, exit_code: Option<i64>) -> bool {
    let own = text(container, "restartPolicy");
    let ruled = exit_code.is_some_and(|code| {
        !own.is_empty() && items(container, "restartPolicyRules").find(|rule| matches(rule, code)).is_some_and(restarts)
    });
    let policy = if own.is_empty() { text(&pod.spec, "restartPolicy") } else { own };
    ruled
        || match policy {
            "Never" => false,
            "OnFailure" => exit_code != Some(0),
            _ => true,
        }
}

/// Whether a restart rule is about this exit code.
fn matches(rule: &Value, exit_code: i64) -> bool {
    let Some(codes) = rule.get("exitCodes") else { return false };
    let listed = items(codes, "values").any(|value| value.as_i64() == Some(exit_code));
    match text(codes, "operator") {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

fn restarts(rule: &Value) -> bool {
    text(rule, "action") == "Restart"
}

fn exit_code(status: &Value) -> Option<i64> {
    status.pointer("/state/terminated/exitCode").and_then(Value::as_i64)
}

/// A digest of all in a status that is ours to write, so that what home shows can be compared with what it should show
/// without keeping either. Foreign fields and conditions, transition times and the order of conditions do not count; nor
/// do generations, which are compared apart.
pub fn digest(status: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(fields) = status.as_object() {
        let mut names: Vec<_> = fields.keys().collect();
        names.sort_unstable();
        for name in names {
            let value = &fields[name];
            match name.as_str() {
                "observedGeneration" => {}
                field if FOREIGN_FIELDS.contains(&field) => {}
                "conditions" => {
                    let mut seen: Vec<_> = items(status, "conditions")
                        .filter(|c| OWNED_CONDITIONS.contains(&text(c, "type")))
                        .map(|c| (text(c, "type"), text(c, "status"), text(c, "reason"), text(c, "message")))
                        .collect();
                    seen.sort_unstable();
                    seen.hash(&mut hasher);
                }
                _ if empty(value) => {}
                _ => {
                    name.hash(&mut hasher);
                    hash_value(value, &mut hasher);
                }
            }
        }
    }
    hasher.finish()
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Feeds a value, objects by sorted key.
fn hash_value(value: &Value, hasher: &mut DefaultHasher) {
    std::mem::discriminant(value).hash(hasher);
    match value {
        Value::Null => {}
        Value::Bool(b) => b.hash(hasher),
        Value::Number(n) => n.hash(hasher),
        Value::String(s) => s.hash(hasher),
        Value::Array(items) => {
            items.len().hash(hasher);
            for item in items {
                hash_value(item, hasher);
            }
        }
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().filter(|name| !empty(&fields[*name])).collect();
            names.sort_unstable();
            for name in names {
                name.hash(hasher);
                hash_value(&fields[name], hasher);
            }
        }
    }
}

/// The string at a key; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The entries of a list at a key; none where there is no list.
pub(super) fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// All container statuses of a pod status: regular, init, ephemeral.
fn all_containers(status: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.into_iter().flat_map(move |(_, field)| items(status, field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(policy: &str, status: Value) -> PodDocument {
        let spec = json!({"restartPolicy": policy, "containers": [{"name": "c"}]});
        PodDocument::new(kube::core::ObjectMeta::default(), spec, status)
    }

    fn terminated(code: i64) -> Value {
        json!({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": code}}}]})
    }

    #[test]
    fn a_containers_own_restart_policy_counts() {
        let pod = |policy: &str, container: Value, state: Value| {
            let spec = json!({"restartPolicy": policy, "containers": [container]});
            let status = json!({"containerStatuses": [{"name": "c", "state": state}]});
            PodDocument::new(kube::core::ObjectMeta::default(), spec, status)
        };
        let running = || json!({"running": {}});
        let ended = |code: i64| json!({"terminated": {"exitCode": code}});
        let own = |policy: &str| json!({"name": "c", "restartPolicy": policy});
        assert!(!replaceable(&pod("Always", own("Never"), running())));
        assert!(replaceable(&pod("Never", own("Always"), running())));
        assert!(replaceable(&pod("Never", own("OnFailure"), ended(1))));
        assert!(!replaceable(&pod("Never", own("OnFailure"), ended(0))));
        let ruled = |operator: &str| {
            json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": operator, "values": [42]}}]})
        };
        assert!(replaceable(&pod("Never", ruled("In"), ended(42))));
        assert!(!replaceable(&pod("Never", ruled("In"), ended(1))));
        assert!(replaceable(&pod("Never", ruled("NotIn"), ended(1))));
        assert!(!replaceable(&pod("Never", ruled("In"), running())), "nobody knows how it would have ended");
        assert!(!proxy_view(&pod("Never", own("Always"), running()), 0, None).once);
        assert!(proxy_view(&pod("Never", json!({"name": "c"}), running()), 0, None).once);
    }

    #[test]
    fn a_spec_that_was_skimmed_shows_the_same() {
        let container = |name: &str| {
            json!({"name": name, "image": "i", "restartPolicy": "Never", "env": [{"name": "A", "value": "b"}],
                "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]})
        };
        let ended = |name: &str| json!({"name": name, "state": {"terminated": {"exitCode": 42}}});
        let toleration = json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 300});
        let whole = json!({"metadata": {"uid": "u", "resourceVersion": "4", "annotations": {"a": "b"}},
            "spec": {"restartPolicy": "OnFailure", "readinessGates": [{"conditionType": "g"}], "tolerations": [toleration],
                "containers": [container("c")], "initContainers": [container("i")],
                "ephemeralContainers": [container("e")], "volumes": [{"name": "v"}]},
            "status": {"phase": "Running", "containerStatuses": [ended("c")], "initContainerStatuses": [ended("i")],
                "ephemeralContainerStatuses": [ended("e")], "conditions": [{"type": "g", "status": "True"}]}});
        for spec in [whole["spec"].clone(), json!({}), json!({"containers": 5})] {
            let mut text = whole.clone();
            text["spec"] = spec;
            let read = || serde_json::from_str::<PodDocument>(&text.to_string()).unwrap();
            let (whole, mut skimmed) = (read(), read());
            skim(&mut skimmed);
            assert_eq!(Home::of(&skimmed), Home::of(&whole));
            assert_eq!(proxy_view(&skimmed, 7, Some(0)), proxy_view(&whole, 7, Some(0)));
            assert_eq!((skimmed.imprint(), skimmed.to_text().unwrap()), (whole.imprint(), whole.to_text().unwrap()));
        }
    }

    #[test]
    fn init_containers_run_again_unless_the_pod_never_does() {
        let pod = |policy: &str| {
            let spec =
                json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
            let status = json!({"initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}}],
                "containerStatuses": [{"name": "c", "state": {"waiting": {}}}]});
            PodDocument::new(kube::core::ObjectMeta::default(), spec, status)
        };
        assert!(replaceable(&pod("Always")) && replaceable(&pod("OnFailure")) && !replaceable(&pod("Never")));
        let done = |policy| Home::of(&pod(policy)).form.containers[1][0].done;
        assert!(!done("Always") && done("OnFailure") && done("Never"), "what the API server lets go back");
    }

    #[test]
    fn what_may_start_anew() {
        let running = json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]});
        assert!(replaceable(&pod("Never", json!({"phase": "Pending"}))), "nothing has started");
        assert!(replaceable(&pod("Always", running.clone())));
        assert!(replaceable(&pod("Always", terminated(0))));
        assert!(replaceable(&pod("OnFailure", terminated(1))));
        assert!(!replaceable(&pod("OnFailure", terminated(0))), "completed work is not run again");
        assert!(!replaceable(&pod("Never", running)));
    }

    #[test]
    fn a_container_may_have_a_restart_policy_of_its_own() {
        let spec = |own: Value| json!({"restartPolicy": "Always", "containers": [own]});
        let pod = |own: Value, code| PodDocument::new(kube::core::ObjectMeta::default(), spec(own), terminated(code));
        assert!(!replaceable(&pod(json!({"name": "c", "restartPolicy": "Never"}), 1)));
        assert!(!replaceable(&pod(json!({"name": "c", "restartPolicy": "OnFailure"}), 0)));
        let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}});
        let ruled = |code| pod(json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": [rule]}), code);
        assert!(replaceable(&ruled(42)) && !replaceable(&ruled(41)));
    }

    #[test]
    fn a_digest_ignores_what_is_not_ours() {
        let ours = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let theirs = json!({"phase": "Running", "qosClass": "Burstable", "observedGeneration": 4, "reason": "",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "mine/Gate", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        assert_eq!(digest(&ours), digest(&theirs));
        let tampered = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]});
        assert_ne!(digest(&ours), digest(&tampered));
    }

    #[test]
    fn trouble_is_what_somebody_should_look_at() {
        let waiting = |reason| json!({"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": reason}}}]});
        assert!(!health(&waiting("ContainerCreating")).trouble);
        assert!(health(&waiting("CrashLoopBackOff")).trouble);
    }
}
