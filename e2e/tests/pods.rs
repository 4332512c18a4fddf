//! What a kubelet does for a pod, the target's does for its delegate: the rows of docs/pods.md on which a kubelet acts.

use e2e::{Cluster, IDLE, Pod, Result, Value, World, container, ensure, json, secs};

/// A container with more fields.
fn container_with(name: &str, script: &str, more: &Value) -> Value {
    let mut container = container(name, script);
    for (field, value) in more.as_object().into_iter().flatten() {
        container[field] = value.clone();
    }
    container
}

/// A pod that runs to its end, with more fields in its spec.
fn task(world: &World, name: &str, container: &Value, more: Value) -> Value {
    let mut spec = more;
    spec["containers"] = json!([container]);
    spec["restartPolicy"] = "Never".into();
    world.pod_of(name, spec)
}

/// What a pod has said when it has succeeded, by lines.
fn said(world: &World, name: &str) -> Result<Vec<String>> {
    world.host.wait_for_pod(name, "Succeeded", |pod| pod.phase() == "Succeeded")?;
    let logs = world.host.kubectl(&["logs", name])?.ok()?;
    Ok(logs.lines().map(str::to_owned).collect())
}

#[test]
fn probes_of_every_kind_are_carried_out() -> Result<()> {
    let world = World::new("probes")?;
    let serve = "mkdir /www; echo fine > /www/healthz; httpd -p 8080 -h /www; ";
    let quick = |probe: Value| {
        let mut probe = probe;
        (probe["periodSeconds"], probe["failureThreshold"]) = (1.into(), 20.into());
        // A busy machine is no reason to restart anything.
        probe["timeoutSeconds"] = 10.into();
        probe
    };
    let http =
        json!({"httpGet": {"path": "/healthz", "port": "web", "httpHeaders": [{"name": "X-Probe", "value": "y"}]}});
    let fine = json!({
        "ports": [{"name": "web", "containerPort": 8080}],
        "startupProbe": quick(json!({"exec": {"command": ["test", "-f", "/www/healthz"]}})),
        "livenessProbe": quick(http),
        "readinessProbe": quick(json!({"tcpSocket": {"port": 8080}})),
    });
    world.host.create(world.pod("fine", &[container_with("main", &format!("{serve}{IDLE}"), &fine)]))?;
    let deaf = json!({"readinessProbe": quick(json!({"grpc": {"port": 9999, "service": "x"}}))});
    world.host.create(world.pod("deaf", &[container_with("main", IDLE, &deaf)]))?;
    let mut dying = json!({"livenessProbe": quick(json!({"exec": {"command": ["false"]}}))});
    dying["livenessProbe"]["failureThreshold"] = 1.into();
    world.host.create(world.pod("dying", &[container_with("main", IDLE, &dying)]))?;

    let fine = world.host.wait_for_ready("fine")?;
    assert_eq!((fine.restarts(), &fine.container("main")["started"]), (0, &json!(true)), "{fine}");
    let dying = world.host.wait_for_pod("dying", "restarted by its liveness probe", |pod| pod.restarts() > 0)?;
    assert!(dying.container("main")["lastState"]["terminated"].is_object(), "{dying}");
    let message = world.east.wait_for_event("deaf", "Unhealthy")?;
    assert!(message.contains("9999"), "the gRPC probe was tried: {message}");
    assert!(!world.host.pod("deaf")?.is_ready(), "and its failure keeps the pod from being Ready");
    Ok(())
}

#[test]
fn lifecycle_hooks_run_and_the_grace_period_is_kept() -> Result<()> {
    let world = World::new("hooks")?;
    let say = |words: &str| json!({"exec": {"command": ["sh", "-c", format!("echo {words} > /proc/1/fd/1")]}});
    let hooks = json!({"lifecycle": {"postStart": say("hello"), "preStop": say("goodbye")}});
    // A shell that is process 1 ignores SIGTERM.
    let spec = json!({"containers": [container_with("main", "sleep 86400; true", &hooks)], "terminationGracePeriodSeconds": 3});
    world.host.create(world.pod_of("polite", spec))?;
    let proxy = world.host.wait_for_ready("polite")?;
    let logs = world.host.kubectl_beside(&["logs", "-f", "polite"])?;
    logs.wait_for_line("hello", secs(20))?;
    let begin = std::time::Instant::now();
    world.host.delete("pods", "polite")?;
    logs.wait_for_line("goodbye", secs(20))?;
    world.host.wait_for_gone(&proxy)?;
    let took = begin.elapsed();
    assert!(took >= secs(2), "it had its three seconds: {took:?}");
    Ok(())
}

#[test]
fn security_contexts_hold() -> Result<()> {
    let world = World::new("security")?;
    let script = "id -u; id -g; id -G; touch /x 2>/dev/null || echo read-only; stat -c %g /data; \
                  grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '[:space:]' ' '; echo; \
                  cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let security = json!({
        "securityContext": {"readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false, "runAsGroup": 2345,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    });
    let pod = json!({
        "securityContext": {"runAsUser": 1234, "runAsNonRoot": true, "fsGroup": 3456, "supplementalGroups": [4567],
            "seccompProfile": {"type": "RuntimeDefault"},
            "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "443"}]},
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    world.host.create(task(&world, "fenced", &container_with("main", script, &security), pod))?;
    let lines = said(&world, "fenced")?;
    assert_eq!(lines[..2], ["1234", "2345"]);
    let groups: Vec<_> = lines[2].split(' ').collect();
    assert!(groups.contains(&"3456") && groups.contains(&"4567"), "{groups:?}");
    assert_eq!(lines[3..5], ["read-only", "3456"]);
    let status = lines[5].clone();
    assert!(status.contains("CapEff: 0000000000000000"), "a user who is not root has no capability: {status}");
    assert!(status.contains("NoNewPrivs: 1") && status.contains("Seccomp: 2"), "{status}");
    assert_eq!(lines[6], "443");
    Ok(())
}

#[test]
fn a_pod_has_its_names_and_resolvers() -> Result<()> {
    let world = World::new("names")?;
    let names = json!({
        "hostname": "alpha", "subdomain": "letters",
        "hostAliases": [{"ip": "192.0.2.7", "hostnames": ["far.example", "away.example"]}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"], "searches": ["shop.example"], "options": [{"name": "ndots", "value": "2"}]},
    });
    let script = "hostname; grep -E 'far|letters' /etc/hosts | tr -s '[:space:]' ' '; echo; cat /etc/resolv.conf";
    world.host.create(task(&world, "named", &container("main", script), names.clone()))?;
    let mut qualified = names;
    (qualified["setHostnameAsFQDN"], qualified["subdomain"]) = (true.into(), "l".into());
    world.host.create(task(&world, "qualified", &container("main", "hostname"), qualified))?;

    let text = said(&world, "named")?.join("\n");
    assert!(text.starts_with("alpha\n"), "{text}");
    for words in
        ["192.0.2.7 far.example away.example", &format!("alpha.letters.{}.svc.cluster.local alpha", world.namespace)]
    {
        assert!(text.contains(words), "{words} in {text}");
    }
    for line in ["nameserver 192.0.2.53", "search shop.example", "options ndots:2"] {
        assert!(text.lines().any(|other| other == line), "{line} in {text}");
    }
    assert_eq!(said(&world, "qualified")?, [format!("alpha.l.{}.svc.cluster.local", world.namespace)]);
    Ok(())
}

#[test]
fn variables_and_volumes_tell_what_is_true() -> Result<()> {
    let world = World::new("truth")?;
    let resource = |name: &str, resource: &str, divisor: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let script = "echo $GREETING; echo $ESCAPED; echo $CPU $MEMORY $NODE_CPU; echo $UID_; echo $NOTE; cat /down/uid; echo; \
                  cat /down/space; echo; cat /all/name; echo; stat -L -c %a /down/uid; cat /mine/own; cat /down/memory; echo; \
                  df -k /memory | tail -1 | tr -s ' ' | cut -d ' ' -f 2";
    let main = json!({
        "env": [field("NS", "metadata.namespace"), field("UID_", "metadata.uid"), field("NOTE", "metadata.annotations['note']"),
            {"name": "GREETING", "value": "$(NS) greets $(NOBODY)"}, {"name": "ESCAPED", "value": "$$(NS)"},
            resource("CPU", "limits.cpu", "1m"), resource("MEMORY", "requests.memory", "1Ki"),
            resource("NODE_CPU", "limits.ephemeral-storage", "1")],
        "resources": {"limits": {"cpu": "250m"}, "requests": {"memory": "8Mi"}},
        "volumeMounts": [{"name": "down", "mountPath": "/down"}, {"name": "all", "mountPath": "/all", "readOnly": true},
            {"name": "work", "mountPath": "/mine", "subPathExpr": "$(NS)"}, {"name": "memory", "mountPath": "/memory"}],
        "command": ["sh", "-c", format!("echo mine > /mine/own; {script}")],
    });
    let item = |path: &str, field: &str| json!({"path": path, "fieldRef": {"fieldPath": field}});
    let volumes = json!([
        {"name": "down", "downwardAPI": {"defaultMode": 0o440, "items": [item("uid", "metadata.uid"), item("space", "metadata.namespace"),
            {"path": "memory", "resourceFieldRef": {"containerName": "main", "resource": "requests.memory"}}]}},
        {"name": "all", "projected": {"sources": [{"downwardAPI": {"items": [item("name", "metadata.name")]}}]}},
        {"name": "work", "emptyDir": {}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "3Mi"}},
    ]);
    let mut pod = task(&world, "truth", &container_with("main", "", &main), json!({"volumes": volumes}));
    pod["metadata"]["annotations"] = json!({"note": "two words, $(NS) \"quoted\""});
    world.host.create(pod)?;
    let lines = said(&world, "truth")?;
    let uid = world.host.pod("truth")?.uid().to_owned();
    assert_eq!(lines[0], format!("{} greets $(NOBODY)", world.namespace));
    assert_eq!(lines[1], "$(NS)");
    assert!(lines[2].starts_with("250 8192 "), "{}", lines[2]);
    assert_eq!(lines[3], uid);
    assert_eq!(lines[4], "two words, $(NS) \"quoted\"");
    let rest = [uid.as_str(), &world.namespace, "truth", "440", "mine", "8388608", "3072"];
    assert_eq!(lines[5..], rest);
    Ok(())
}

#[test]
fn containers_are_told_the_addresses_that_they_have() -> Result<()> {
    let world = World::changed("addresses", |options| options.target_spec = "podIPs: Publish".to_owned())?;
    world.wait_for_node()?;
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let paths = ["status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs"];
    let names = ["POD", "PODS", "HOST", "HOSTS"];
    let env: Vec<_> = names.iter().zip(paths).map(|(name, path)| field(name, path)).collect();
    world.host.create(world.pod("told", &[container_with("main", IDLE, &json!({"env": env}))]))?;
    let proxy = world.host.wait_for_ready("told")?;
    let delegate = world.delegate(&proxy)?;
    let script =
        "echo $POD $PODS $HOST $HOSTS; ip -4 -o address show eth0 | tr -s ' ' | cut -d ' ' -f 4 | cut -d / -f 1";
    let told = world.host.kubectl(&["exec", "told", "--", "sh", "-c", script])?.ok()?;
    let (pod, host) = (delegate.text("/status/podIP"), delegate.text("/status/hostIP"));
    assert_eq!(told, format!("{pod} {pod} {host} {host}\n{pod}\n"));
    assert_eq!(proxy.text("/status/podIP"), pod, "where addresses are published it is the same at home");
    Ok(())
}

#[test]
fn containers_that_share_their_processes_see_each_other() -> Result<()> {
    let world = World::new("processes")?;
    let containers = [container("main", IDLE), container("beside", IDLE)];
    let mut pod = world.pod("together", &containers);
    pod["spec"]["shareProcessNamespace"] = true.into();
    world.host.create(pod)?;
    world.host.create(world.pod("apart", &containers))?;
    // The first process of a pod that shares them is that of its sandbox.
    for (name, shared) in [("together", true), ("apart", false)] {
        world.host.wait_for_ready(name)?;
        let first = world.host.kubectl(&["exec", name, "-c", "main", "--", "cat", "/proc/1/comm"])?.ok()?;
        assert_eq!(first == "pause\n", shared, "{name}: {first}");
    }
    Ok(())
}

#[test]
fn a_label_that_changes_at_home_reaches_the_volume_in_the_target() -> Result<()> {
    let world = World::new("live")?;
    let items = ["labels", "annotations"]
        .map(|path| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.{path}")}}));
    let main = container_with("main", IDLE, &json!({"volumeMounts": [{"name": "down", "mountPath": "/down"}]}));
    let spec = json!({"containers": [main], "volumes": [{"name": "down", "downwardAPI": {"items": items}}]});
    let mut pod = world.pod_of("live", spec);
    pod["metadata"]["annotations"] = json!({"note": "first"});
    world.host.create(pod)?;
    world.host.wait_for_ready("live")?;
    let read =
        |host: &Cluster, file: &str| host.kubectl(&["exec", "live", "--", "cat", &format!("/down/{file}")])?.ok();
    // Home's admission has added those of the node's place.
    let labels = read(&world.host, "labels")?;
    assert!(labels.starts_with("app=\"live\"\n") && !labels.contains("longshore.dev"), "{labels}");
    assert!(read(&world.host, "annotations")?.contains("note=\"first\""));

    let change = json!({"metadata": {"labels": {"tier": "front"}, "annotations": {"note": "second \"one\""}}});
    world.host.patch("pods", "live", &change)?;
    // The target's kubelet looks once a minute, as any kubelet.
    world.host.wait("the change in the volume", secs(150), |host| {
        let (labels, annotations) = (read(host, "labels")?, read(host, "annotations")?);
        ensure!(labels.starts_with("app=\"live\"\ntier=\"front\"\n"), "{labels}");
        ensure!(annotations.contains(r#"note="second \"one\"""#), "{annotations}");
        Ok(())
    })
}

#[test]
fn deadlines_and_restart_rules_are_the_targets_to_keep() -> Result<()> {
    let world = World::new("ends")?;
    world.host.create(task(&world, "late", &container("main", IDLE), json!({"activeDeadlineSeconds": 3})))?;
    let again = "test -f /work/once && exit 0; touch /work/once; exit 3";
    let rules = json!({
        "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [3]}}],
    });
    let work = json!({"volumes": [{"name": "work", "emptyDir": {}}]});
    world.host.create(task(&world, "again", &container_with("main", again, &rules), work))?;
    let late = world.host.wait_for_pod("late", "Failed", |pod| pod.phase() == "Failed")?;
    assert_eq!(late.text("/status/reason"), "DeadlineExceeded");
    let again = world.host.wait_for_pod("again", "Succeeded", |pod| pod.phase() == "Succeeded")?;
    assert_eq!(again.restarts(), 1, "{again}");
    Ok(())
}

#[test]
fn a_readiness_gate_is_evaluated_at_home() -> Result<()> {
    let world = World::new("gate")?;
    let gate = "example.com/warm";
    let spec = json!({"containers": [container("main", IDLE)], "readinessGates": [{"conditionType": gate}]});
    world.host.create(world.pod_of("gated", spec))?;
    let ready = |pod: &Pod| pod.condition("ContainersReady")["status"] == "True";
    let proxy = world.host.wait_for_pod("gated", "ready but for its gate", ready)?;
    assert_eq!(proxy.condition("Ready")["reason"], "ReadinessGatesNotReady", "{}", proxy.condition("Ready"));
    assert!(world.delegate(&proxy)?.is_ready(), "nobody sets the condition there");
    let condition = json!({"status": {"conditions": [{"type": gate, "status": "True"}]}});
    world.host.kubectl(&["patch", "pod", "gated", "--subresource=status", "-p", &condition.to_string()])?.ok()?;
    world.host.wait_for_ready("gated").map(drop)
}
