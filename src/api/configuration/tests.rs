use super::*;
use crate::api::virtual_node::TaintEffect;

const EAST: &str = "\
apiVersion: longshore.dev/v1alpha1
kind: Target
metadata: {name: east}
spec:
  kubeconfig: {file: east.yaml}
";

fn from(text: &str) -> Result<Configuration, ConfigErrors> {
    parse(Path::new("conf/provider.yaml"), text)
}

/// What a user reads: the error and its sources.
fn message(error: &ConfigErrors) -> String {
    crate::errors::chain(error)
}

/// A virtual node with this spec, as a second document after [`EAST`].
fn node(spec: &str) -> String {
    format!("{EAST}---\napiVersion: longshore.dev/v1alpha1\nkind: VirtualNode\nmetadata:\n  name: a\nspec:\n{spec}")
}

macro_rules! refused {
    ($($name:ident: $text:expr;)*) => {$(
        #[test]
        fn $name() {
            let text: String = $text.into();
            let error = from(&text).expect_err("a refusal");
            insta::with_settings!({ description => text, omit_expression => true, prepend_module_to_snapshot => false }, {
                insta::assert_snapshot!(stringify!($name), message(&error));
            });
        }
    )*};
}

refused! {
    services_in_one_namespace: format!("{EAST}  namespaces: {{mapping: Single, single: far}}\n---\n\
        apiVersion: longshore.dev/v1alpha1\nkind: VirtualNode\nmetadata: {{name: a}}\n\
        spec: {{targets: [{{name: east}}], services: true}}\n");
    an_empty_file: "# nothing yet\n";
    not_yaml: "a: [1, 2\nb: }\n";
    a_duplicate_key: format!("{EAST}  kubeconfig: {{file: west.yaml}}\n");
    not_a_mapping: "- one\n- two\n";
    a_core_resource: "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n";
    a_newer_version: EAST.replace("v1alpha1", "v1");
    no_kind: "apiVersion: longshore.dev/v1alpha1\nmetadata: {name: x}\n";
    no_name: EAST.replace("{name: east}", "{}");
    no_spec: "apiVersion: longshore.dev/v1alpha1\nkind: Target\nmetadata: {name: east}\n";
    no_kubeconfig: EAST.replace("kubeconfig: {file: east.yaml}", "podIPs: Publish");
    a_bad_name: EAST.replace("east}", "East_1}");
    a_long_name: EAST.replace("east}", &format!("{}}}", "e".repeat(64)));
    other_metadata: EAST.replace("{name: east}", "{name: east, labels: {a: b}}");
    fields_of_later_versions: format!("{EAST}  scope: Cluster\n  guardrails: {{seccomp: false}}\n");
    bad_guardrails: format!("{EAST}  guardrails:
    namespaces: [shop-*, Shop, '']
    hostPath: [var/log, /var/../etc, /ok]
    addedCapabilities: [CAP_NET_ADMIN, net_raw, SYS_TIME]
    hostPID: yes please
  priorityClasses: {{high: '', low: Low}}
");
    no_namespaces: format!("{EAST}  guardrails: {{namespaces: []}}\n");
    other_mappings: format!("{EAST}  namespaces:\n    mapping: Prefixed\n    single: Far\n");
    wrong_types: format!("{EAST}  namespaces: {{create: 1}}\n  podIPs: true\n  heartbeat: {{timeoutSeconds: soon}}\n");
    a_hasty_heartbeat: format!("{EAST}  heartbeat:\n    timeoutSeconds: 5\n");
    a_shell_path: EAST.replace("east.yaml", "~/.kube/config");
    a_secret_reference: EAST.replace("{file: east.yaml}", "{file: east.yaml, secretRef: {name: east}}");
    no_targets: node("  targets: []\n");
    two_targets: node("  targets:\n  - name: east\n  - name: east\n");
    a_dangling_reference: node("  targets: [{name: west}]\n");
    bad_labels: node("  targets: [{name: east}]
  labels:
    kubernetes.io/hostname: a
    longshore.dev/x: a
    two words: a
    zone: Zürich
    version: 1.10
    empty:
");
    bad_taints: node("  targets: [{name: east}]
  taints:
  - {key: a, effect: NoSchedule}
  - {key: a, value: b, effect: NoSchedule}
  - {key: '-', effect: NoExecute}
  - {key: c, value: b c, effect: Repel}
  - {key: d}
");
    bad_ports: node("  targets: [{name: east}]\n  port: 70000\n");
    port_zero: node("  targets: [{name: east}]\n  port: 0\n");
    one_name_twice: format!("{EAST}---\n{EAST}");
    a_port_twice: format!("{0}---\n{1}", node("  targets: [{name: east}]\n  port: 10250\n"),
        node("  targets: [{name: east}]\n  port: 10250\n").split("---\n").nth(1).unwrap().replace("name: a", "name: b"));
    a_name_taken: format!("{}---\n{}", EAST.replace("east", "a"), node("  targets: [{name: east}]\n"));
    errors_in_every_document: format!("{}---\n{}", EAST.replace("file:", "path:"),
        node("  target: east\n  port: -1\n").replace("name: a", "name: A"));
}

#[test]
fn a_missing_file() {
    let error = load(Path::new("/nowhere/provider.yaml")).unwrap_err();
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("a_missing_file", message(&error));
    });
}

#[test]
fn a_file_that_is_not_text() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
    let error = message(&load(file.path()).unwrap_err());
    assert!(error.contains("stream did not contain valid UTF-8"), "{error}");
}

#[test]
fn a_target_has_defaults_and_a_node_of_its_name() {
    let configuration = from(EAST).unwrap();
    let target = &configuration.targets[0];
    assert_eq!(target.name, "east");
    assert_eq!(target.spec.kubeconfig.file.as_deref(), Some(Path::new("conf/east.yaml")));
    assert!(target.spec.namespaces.create);
    assert_eq!(target.spec.heartbeat.timeout_seconds, 40);
    assert_eq!(target.spec.pod_ips, crate::api::target::PodIps::Withhold);
    let node = &configuration.nodes[0];
    assert_eq!((node.name.as_str(), &node.spec), ("east", &VirtualNodeSpec::for_target("east")));
    assert_eq!(node.spec.targets[0].name, "east");
}

#[test]
fn a_named_target_has_only_the_nodes_that_name_it() {
    let spec =
        "  targets: [{name: east}]\n  labels: {zone: yes}\n  taints: [{key: a, effect: NoExecute}]\n  port: 10300\n";
    let configuration = from(&node(spec)).unwrap();
    assert_eq!(configuration.nodes.len(), 1);
    let node = &configuration.nodes[0].spec;
    assert_eq!(node.labels["zone"], "yes");
    assert_eq!(node.taints_of("a")[0].effect, TaintEffect::NoExecute);
    assert_eq!(node.port, Some(10300));
}

#[test]
fn absolute_kubeconfig_paths_stay() {
    let configuration = from(&EAST.replace("east.yaml", "/etc/east.yaml")).unwrap();
    assert_eq!(configuration.targets[0].spec.kubeconfig.file.as_deref(), Some(Path::new("/etc/east.yaml")));
}

#[test]
fn documents_without_content_do_not_matter() {
    assert_eq!(from(&format!("---\n# first\n---\n{EAST}---\n")).unwrap().targets.len(), 1);
}
