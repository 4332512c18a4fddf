//! What is wrong with a configuration or a cluster is said at once, in full, and where the user looks.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use e2e::{Bespoke, Cluster, IDLE, Output, Result, World, container, ensure, json, secs, write_json};
use tempfile::TempDir;

const HEADER: &str = "apiVersion: longshore.dev/v1alpha1";

/// A file with one Target, `east`, whose kubeconfig this is.
fn target_file(dir: &TempDir, kubeconfig: &Path) -> Result<PathBuf> {
    let path = dir.path().join("east.yaml");
    let spec = format!("spec:\n  kubeconfig:\n    file: {}\n", kubeconfig.display());
    fs::write(&path, format!("{HEADER}\nkind: Target\nmetadata:\n  name: east\n{spec}"))?;
    Ok(path)
}

/// `longshore run` or `longshore check` with this configuration and this kubeconfig for the host.
fn longshore(command: &str, config: &Path, host: &Path, more: &[&str]) -> Result<Output> {
    let (config, host) = (config.display().to_string(), host.display().to_string());
    let mut args = vec![command, "--provider-config", &config, "--kubeconfig", &host];
    args.extend(more);
    World::longshore_command(&args)
}

/// A kubeconfig for a port on which nobody listens.
fn nowhere(dir: &TempDir, cluster: &Cluster) -> Result<(PathBuf, String)> {
    let mut kubeconfig = cluster.admin_kubeconfig()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("https://127.0.0.1:{port}");
    kubeconfig["clusters"][0]["cluster"]["server"] = address.clone().into();
    Ok((write_json(dir, "nowhere", &kubeconfig)?, address))
}

/// Fails unless the command ended with this code and said all of this on standard error.
fn ensure_said(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    ensure!(output.code == code, "the exit code is {} and not {code}:\n{}", output.code, output.stderr);
    for word in words {
        ensure!(output.stderr.contains(word), "nothing is said about {word:?}:\n{}", output.stderr);
    }
    Ok(())
}

#[test]
fn a_bad_file_is_refused_with_all_that_is_wrong_in_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bad.yaml");
    let lines = [
        HEADER,
        "kind: Target",
        "metadata:",
        "  name: east",
        "spec:",
        "  kubeconfig:",
        "    file: east.kubeconfig",
        "  podIps: Publish",
        "  heartbeat:",
        "    timeoutSeconds: 5",
        "---",
        HEADER,
        "kind: VirtualNode",
        "metadata:",
        "  name: west",
        "spec:",
        "  targets:",
        "    - name: west",
        "---",
        HEADER,
        "kind: Tarjet",
    ];
    fs::write(&path, lines.join("\n"))?;
    for command in ["run", "check"] {
        let output = longshore(command, &path, &World::kubeconfig("host")?, &[])?;
        let place = |line: &str| format!("bad.yaml:{line}:");
        ensure_said(&output, 2, &[&place("8"), "Target `east`: spec.podIps: ", "podIPs"])?;
        ensure_said(&output, 2, &[&place("10"), "spec.heartbeat.timeoutSeconds: 5 is out of bounds", "10 to 3600"])?;
        ensure_said(&output, 2, &[&place("18"), "VirtualNode `west`: spec.targets[0].name: ", "name one of: east"])?;
        ensure_said(&output, 2, &[&place("21"), "kind: `Tarjet` is not supported", "use Target or VirtualNode"])?;
    }
    Ok(())
}

#[test]
fn a_file_that_is_no_yaml_or_not_there_is_refused() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let host = World::kubeconfig("host")?;
    let path = dir.path().join("torn.yaml");
    ensure_said(&longshore("run", &path, &host, &[])?, 2, &["failed to read", "torn.yaml", "No such file"])?;
    fs::write(&path, format!("{HEADER}\nkind: [Target\n"))?;
    ensure_said(&longshore("run", &path, &host, &[])?, 2, &["as YAML", "torn.yaml:"])?;
    fs::write(&path, "# nothing yet\n")?;
    ensure_said(&longshore("run", &path, &host, &[])?, 2, &["torn.yaml", "declare at least one Target"])
}

#[test]
fn a_missing_kubeconfig_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let absent = dir.path().join("absent.kubeconfig");
    for command in ["run", "check"] {
        let bad_target = target_file(&dir, &absent)?;
        let output = longshore(command, &bad_target, &World::kubeconfig("host")?, &[])?;
        ensure_said(&output, 2, &["east.yaml:7:", "Target `east`: spec.kubeconfig.file: ", "absent.kubeconfig"])?;
        let good_target = target_file(&dir, &World::kubeconfig("east")?)?;
        let output = longshore(command, &good_target, &absent, &[])?;
        ensure_said(&output, 2, &["host cluster", "absent.kubeconfig", "No such file"])?;
    }
    Ok(())
}

#[test]
fn a_wrong_context_is_answered_with_those_that_exist() -> Result<()> {
    let world = World::new("context")?;
    let dir = tempfile::tempdir()?;
    let mut kubeconfig = world.east.admin_kubeconfig()?;
    kubeconfig["contexts"][0]["name"] = "harbour".into();
    kubeconfig["current-context"] = "harbour".into();
    let path = write_json(&dir, "renamed", &kubeconfig)?;

    let config = target_file(&dir, &path)?;
    let text = fs::read_to_string(&config)?;
    fs::write(&config, format!("{text}    context: wharf\n"))?;
    let output = longshore("run", &config, &World::kubeconfig("host")?, &[])?;
    ensure_said(&output, 2, &["east.yaml:8:", "spec.kubeconfig.context: ", "`wharf`", "name one of: harbour"])?;

    let config = target_file(&dir, &World::kubeconfig("east")?)?;
    let output = longshore("run", &config, &path, &["--context", "wharf"])?;
    ensure_said(&output, 2, &["host cluster", "`wharf`", "name one of: harbour"])
}

#[test]
fn an_unreachable_target_makes_only_its_own_node_not_ready() -> Result<()> {
    let world = World::new("unreachable")?;
    let dir = tempfile::tempdir()?;
    let (nowhere, address) = nowhere(&dir, &world.east)?;
    let (host, east) = (World::kubeconfig("host")?, World::kubeconfig("east")?);
    let longshore = Bespoke::start(&world.host, &host, &[&nowhere, &east])?;

    let ready = longshore.wait_for_ready(0, "False", secs(30))?;
    assert_eq!(ready["reason"], "TargetUnreachable", "{ready}");
    let message = ready["message"].as_str().unwrap();
    assert!(message.to_lowercase().contains("connection refused"), "the condition says why: {message}");
    let line = longshore.wait_for_line("nothing listens there", secs(30))?;
    assert!(line.contains(&address) && line.contains("target-0"), "the log names target and address: {line}");

    longshore.wait_for_ready(1, "True", secs(30))?;
    let mut pod = world.pod("works", &[container("main", IDLE)]);
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": longshore.node(1)});
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("works")?;
    assert!(world.delegate(&proxy)?.is_ready(), "the other target works as if nothing were wrong");
    world.host.delete("pods", "works")?;
    world.host.wait_for_gone(&proxy)?;
    longshore.wait_for_ready(0, "False", secs(5)).map(drop)
}

#[test]
fn a_target_without_rights_is_told_which_are_missing() -> Result<()> {
    let world = World::new("powerless")?;
    world.create_target_namespace()?;
    let dir = tempfile::tempdir()?;
    let stranger = write_json(&dir, "stranger", &world.east.stranger_kubeconfig("stranger")?)?;
    let longshore = Bespoke::start(&world.host, &World::kubeconfig("host")?, &[&stranger])?;

    let line = longshore.wait_for_line("missing: ", secs(30))?;
    for right in ["create pods", "watch pods", "delete pods", "get pods/log", "create namespaces", "list nodes"] {
        assert!(line.contains(right), "the log names {right:?}: {line}");
    }
    world.host.wait("the node's condition to name verb and resource", secs(30), |_| {
        let ready = longshore.wait_for_ready(0, "False", secs(30))?;
        let message = ready["message"].as_str().unwrap_or_default();
        let named = |verb: &str, resource: &str| message.contains(&format!("cannot {verb} resource \"{resource}\""));
        let all = ["pods", "nodes", "namespaces"];
        ensure!(all.iter().all(|it| named("list", it) || named("watch", it)), "{ready}");
        ensure!(ready["reason"] == "TargetRefused", "{ready}");
        Ok(())
    })
}

#[test]
fn a_host_without_rights_ends_the_run_and_names_them() -> Result<()> {
    let world = World::new("landless")?;
    let dir = tempfile::tempdir()?;
    let stranger = write_json(&dir, "stranger", &world.host.stranger_kubeconfig("stranger")?)?;
    let config = target_file(&dir, &World::kubeconfig("east")?)?;
    let output = longshore("run", &config, &stranger, &[])?;
    let rights =
        ["list pods", "watch pods", "patch pods/status", "create nodes", "patch nodes/status", "create events"];
    ensure_said(&output, 1, &rights)?;
    ensure_said(&output, 1, &["leases.coordination.k8s.io in kube-node-lease", "Grant them with these rules"])
}

#[test]
fn check_tells_of_both_clusters_and_answers_by_its_exit_code() -> Result<()> {
    let world = World::new("check")?;
    let dir = tempfile::tempdir()?;
    let (host, east) = (World::kubeconfig("host")?, World::kubeconfig("east")?);

    let good = longshore("check", &target_file(&dir, &east)?, &host, &[])?;
    ensure!(good.code == 0, "two clusters in order are no failure: {good:?}");
    for title in ["host: ok, v1.", "target east: ok, v1."] {
        assert!(good.stdout.contains(title), "{title:?} is said: {}", good.stdout);
    }

    // The webhook's rights are asked for where there is one.
    let limited = write_json(&dir, "limited", &world.host.stranger_kubeconfig("limited")?)?;
    let file = target_file(&dir, &east)?;
    let poor = |flags: &[&str]| Ok::<_, e2e::Error>(longshore("check", &file, &limited, flags)?.stdout);
    let (without, webhook) = (poor(&[])?, poor(&["--webhook", "--lease-namespace", "longshore-system"])?);
    let secrets = "update secrets in longshore-system";
    assert!(!without.contains(secrets) && webhook.contains(secrets), "{without} {webhook}");
    let registers = poor(&["--webhook-register"])?;
    for words in
        ["update secrets in kube-node-lease", "patch mutatingwebhookconfigurations.admissionregistration.k8s.io"]
    {
        assert!(registers.contains(words), "{words:?} is said: {registers}");
    }
    assert!(!webhook.contains("mutatingwebhookconfigurations"), "{webhook}");

    let (nowhere, address) = nowhere(&dir, &world.east)?;
    let bad = longshore("check", &target_file(&dir, &nowhere)?, &host, &[])?;
    ensure_said(&bad, 1, &["1 of the checks above failed"])?;
    assert!(bad.stdout.contains("host: ok, v1."), "the host is checked all the same: {}", bad.stdout);
    let words = format!("target east: failed to reach {address}: connection refused");
    assert!(bad.stdout.contains(&words), "the target's trouble is told: {}", bad.stdout);

    world.create_target_namespace()?;
    let stranger = write_json(&dir, "stranger", &world.east.stranger_kubeconfig("stranger")?)?;
    let poor = longshore("check", &target_file(&dir, &stranger)?, &host, &[])?;
    assert_eq!(poor.code, 1, "{poor:?}");
    for words in ["missing: get pods, list pods", "create pods/exec", "resources: [\"pods/exec\"]"] {
        assert!(poor.stdout.contains(words), "{words:?} is said: {}", poor.stdout);
    }
    Ok(())
}
