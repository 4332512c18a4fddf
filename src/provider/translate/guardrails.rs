//! What a target lets the host's pods do beyond running their containers: everything that reaches into the node below.
//!
//! A pod that asks for more is held, with the field that asks and the guardrail that would allow it.

use serde_json::Value;

use super::spec::{Object, containers, entries, list, text};
use super::{Hold, Site};
use crate::kubelet::document::PodDocument;
use crate::provider::names;

/// What is allowed. By default every namespace may offload, and nothing more is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent switches, as in a pod")]
pub struct Guardrails {
    /// The namespaces of the host that may offload: names, in which `*` stands for any characters.
    pub namespaces: Vec<String>,
    /// Privileged containers, unmasked `/proc`, and host processes on Windows.
    pub privileged: bool,
    /// Under which directories of nodes pods may mount what is there; `/` means all.
    pub host_path: Vec<String>,
    /// The network of nodes.
    pub host_network: bool,
    /// The processes of nodes.
    pub host_pid: bool,
    /// The shared memory of nodes.
    pub host_ipc: bool,
    /// Capabilities that may be added; `ALL` means all.
    pub added_capabilities: Vec<String>,
    /// Pods may name a node of the target.
    pub node_name: bool,
}

impl Guardrails {
    /// The only namespaces of the host that may offload, if they are named one by one.
    pub fn only_namespaces(&self) -> Option<&[String]> {
        only(&self.namespaces)
    }
}

/// These names, if none of them stands for more than one.
pub(crate) fn only(names: &[String]) -> Option<&[String]> {
    (!names.is_empty() && names.iter().all(|name| !name.contains('*'))).then_some(names)
}

impl Default for Guardrails {
    fn default() -> Self {
        Self {
            namespaces: vec!["*".into()],
            privileged: false,
            host_path: vec![],
            host_network: false,
            host_pid: false,
            host_ipc: false,
            added_capabilities: vec![],
            node_name: false,
        }
    }
}

/// Capabilities that are no privilege to add, since container runtimes give them to any container: what the level
/// `baseline` of the Pod Security Standards lets everyone add.
const ORDINARY: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

impl Site {
    fn forbid(&self, field: impl Into<String>, what: &str, guardrail: &str) -> Hold {
        let target = &self.target;
        Hold::new(
            field,
            format!(
                "{what}, which target {target} does not allow; set spec.guardrails.{guardrail} of the Target {target} to \
                 allow it, or let the pod do without"
            ),
        )
    }
}

/// Holds a pod that asks for more than the target allows.
pub(super) fn check(proxy: &PodDocument, spec: &Object, site: &Site) -> Result<(), Hold> {
    let rails = &site.rules.guardrails;
    if !rails.namespaces.iter().any(|pattern| fits(pattern, proxy.namespace())) {
        let what = format!("pods of namespace {} would run there", proxy.namespace());
        return Err(site.forbid("metadata.namespace", &what, "namespaces"));
    }
    if proxy.annotation(names::PIN).is_some() && !rails.node_name {
        let field = format!("metadata.annotations[{}]", names::PIN);
        return Err(site.forbid(field, "the pod names a node of the target", "nodeName"));
    }
    for (field, allowed, what) in [
        ("hostNetwork", rails.host_network, "the pod would share its node's network"),
        ("hostPID", rails.host_pid, "the pod would see its node's processes"),
        ("hostIPC", rails.host_ipc, "the pod would share its node's memory"),
    ] {
        if !allowed && spec.get(field) == Some(&Value::Bool(true)) {
            return Err(site.forbid(format!("spec.{field}"), what, &format!("{field}: true")));
        }
    }
    if let Some(security) = spec.get("securityContext") {
        check_host_process("spec", security, site)?;
    }
    for (i, volume) in entries(spec, "volumes").iter().enumerate() {
        let Some(source) = volume.get("hostPath").filter(|source| !source.is_null()) else { continue };
        let path = text(source, "path").unwrap_or_default();
        if !rails.host_path.iter().any(|allowed| is_below(path, allowed)) {
            let what = format!("the pod would mount {path} of its node");
            return Err(site.forbid(format!("spec.volumes[{i}].hostPath"), &what, "hostPath"));
        }
    }
    containers(spec).try_for_each(|(path, container)| check_container(&path, container, site))
}

/// Holds a container, of whatever kind, that asks for more than the target allows; `path` is where it is in the pod.
pub(in crate::provider) fn check_container(path: &str, container: &Value, site: &Site) -> Result<(), Hold> {
    let rails = &site.rules.guardrails;
    let Some(security) = container.get("securityContext") else { return Ok(()) };
    let within = |field: &str| format!("{path}.securityContext.{field}");
    if !rails.privileged {
        let what = "the container would have all rights on its node";
        if security.get("privileged") == Some(&Value::Bool(true)) {
            return Err(site.forbid(within("privileged"), what, "privileged: true"));
        }
        if text(security, "procMount") == Some("Unmasked") {
            return Err(site.forbid(within("procMount"), "the container would have an open /proc", "privileged: true"));
        }
        check_host_process(path, security, site)?;
    }
    let added = security.get("capabilities").map_or(&[][..], |capabilities| list(capabilities, "add"));
    for name in added {
        let name = name.as_str().unwrap_or_default();
        let allowed = rails.added_capabilities.iter().any(|allowed| allowed == "ALL" || allowed == name);
        if !allowed && !ORDINARY.contains(&name) {
            let what = format!("the container would have the capability {name}");
            return Err(site.forbid(within("capabilities.add"), &what, "addedCapabilities"));
        }
    }
    Ok(())
}

fn check_host_process(path: &str, security: &Value, site: &Site) -> Result<(), Hold> {
    let asks = security.get("windowsOptions").and_then(|options| options.get("hostProcess"));
    if asks == Some(&Value::Bool(true)) && !site.rules.guardrails.privileged {
        let field = format!("{path}.securityContext.windowsOptions.hostProcess");
        return Err(site.forbid(field, "the pod would run as processes of its node", "privileged: true"));
    }
    Ok(())
}

/// Whether a pattern, in which `*` stands for any characters, is this text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    // `rest` has at least one part, the last of which ends the text; those before it may be anywhere, the first being best.
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(tail)
}

/// Whether an absolute path is this directory or below it. The API server lets no `..` through, and we don't either.
fn is_below(path: &str, directory: &str) -> bool {
    if path.split('/').any(|part| part == "..") {
        return false;
    }
    let parts = |path: &str| -> Vec<String> {
        path.split('/').filter(|part| !part.is_empty() && *part != ".").map(str::to_owned).collect()
    };
    path.starts_with('/') && parts(path).starts_with(&parts(directory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::translate::Rules;
    use serde_json::json;

    fn site(guardrails: Guardrails) -> Site {
        let rules = Rules { guardrails, ..Rules::default() };
        Site { target: "east".into(), rules: rules.into(), ..Site::default() }
    }

    fn held(metadata: Value, spec: &Value, guardrails: Guardrails) -> Option<Hold> {
        let proxy = PodDocument::new(serde_json::from_value(metadata).unwrap(), Value::Null, Value::Null);
        check(&proxy, spec.as_object().unwrap(), &site(guardrails)).err()
    }

    fn held_by(spec: &Value, guardrails: Guardrails) -> Option<String> {
        held(json!({"namespace": "shop"}), spec, guardrails).map(|hold| hold.field)
    }

    #[test]
    fn nothing_that_reaches_beyond_the_pod_is_allowed_by_default_and_each_by_its_guardrail() {
        let container = |security: Value| json!({"containers": [{}, {"securityContext": security}]});
        for (spec, field, allowing) in [
            (
                json!({"hostNetwork": true}),
                "spec.hostNetwork",
                Guardrails { host_network: true, ..Guardrails::default() },
            ),
            (json!({"hostPID": true}), "spec.hostPID", Guardrails { host_pid: true, ..Guardrails::default() }),
            (json!({"hostIPC": true}), "spec.hostIPC", Guardrails { host_ipc: true, ..Guardrails::default() }),
            (
                json!({"volumes": [{"hostPath": {"path": "/var/log/x"}}]}),
                "spec.volumes[0].hostPath",
                Guardrails { host_path: vec!["/var/log".into()], ..Guardrails::default() },
            ),
            (
                container(json!({"privileged": true})),
                "spec.containers[1].securityContext.privileged",
                Guardrails { privileged: true, ..Guardrails::default() },
            ),
            (
                container(json!({"procMount": "Unmasked"})),
                "spec.containers[1].securityContext.procMount",
                Guardrails { privileged: true, ..Guardrails::default() },
            ),
            (
                container(json!({"windowsOptions": {"hostProcess": true}})),
                "spec.containers[1].securityContext.windowsOptions.hostProcess",
                Guardrails { privileged: true, ..Guardrails::default() },
            ),
            (
                json!({"securityContext": {"windowsOptions": {"hostProcess": true}}}),
                "spec.securityContext.windowsOptions.hostProcess",
                Guardrails { privileged: true, ..Guardrails::default() },
            ),
            (
                container(json!({"capabilities": {"add": ["CHOWN", "NET_ADMIN"]}})),
                "spec.containers[1].securityContext.capabilities.add",
                Guardrails { added_capabilities: vec!["NET_ADMIN".into()], ..Guardrails::default() },
            ),
        ] {
            assert_eq!(held_by(&spec, Guardrails::default()).as_deref(), Some(field));
            assert_eq!(held_by(&spec, allowing), None, "{spec}");
        }
        let harmless = json!({"hostNetwork": false, "containers": [{"securityContext": {"privileged": false,
            "procMount": "Default", "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}}]});
        assert_eq!(held_by(&harmless, Guardrails::default()), None);
    }

    #[test]
    fn a_refusal_names_the_field_and_the_guardrail() {
        let hold = held(json!({"namespace": "shop"}), &json!({"hostNetwork": true}), Guardrails::default()).unwrap();
        assert!(hold.message.contains("spec.guardrails.hostNetwork: true of the Target east"), "{hold}");
    }

    #[test]
    fn namespaces_are_allowed_by_name_or_pattern() {
        let allowed = |patterns: &[&str]| {
            let namespaces = patterns.iter().map(ToString::to_string).collect();
            held_by(&json!({}), Guardrails { namespaces, ..Guardrails::default() }).is_none()
        };
        for patterns in [&["shop"][..], &["*"], &["no", "sh*"], &["*op"], &["s*p"], &["s*h*o*p"], &["shop*"]] {
            assert!(allowed(patterns), "{patterns:?}");
        }
        for patterns in [&[][..], &["sho"], &["shopp"], &["sh*s"], &["*x*"], &["shop*p"]] {
            assert!(!allowed(patterns), "{patterns:?}");
        }
    }

    #[test]
    fn a_node_may_be_named_where_that_is_allowed() {
        let metadata = json!({"namespace": "shop", "annotations": {"longshore.dev/pin-to-node": "n"}});
        let hold = held(metadata.clone(), &json!({}), Guardrails::default()).unwrap();
        assert_eq!(hold.field, "metadata.annotations[longshore.dev/pin-to-node]");
        assert_eq!(held(metadata, &json!({}), Guardrails { node_name: true, ..Guardrails::default() }), None);
    }

    #[test]
    fn directories_are_compared_by_their_parts() {
        assert!(is_below("/var/log", "/var/log/") && is_below("/var/log/pods", "/var/log") && is_below("/x", "/"));
        assert!(!is_below("/var/logs", "/var/log") && !is_below("/var/log/../run", "/var/log") && !is_below("", "/"));
    }

    #[test]
    fn every_capability_may_be_added_by_all() {
        let spec = json!({"initContainers": [{"securityContext": {"capabilities": {"add": ["SYS_TIME", "ALL"]}}}]});
        assert_eq!(
            held_by(&spec, Guardrails { added_capabilities: vec!["ALL".into()], ..Guardrails::default() }),
            None
        );
        let one = Guardrails { added_capabilities: vec!["SYS_TIME".into()], ..Guardrails::default() };
        assert!(held_by(&spec, one).is_some());
    }
}
