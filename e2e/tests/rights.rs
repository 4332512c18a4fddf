//! Longshore with exactly the rights that it asks for, on clusters of the test's own that write down who does what.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use e2e::{
    Cluster, Context, IMAGE, LegacySocket, Pod, Result, Value, World, bail, container, deployment, ensure, json,
    kubelet_status, run, secs,
};
use lab::UpOptions;

const HOST: &str = "lshost";
const TARGET: &str = "lsthere";

/// The account that Longshore has on both sides.
const ACCOUNT: &str = "longshore";

const FOLLOW: &str = "longshore.dev/follow";

/// Has something to say from time to time.
const TICK: &str = "trap 'exit 0' TERM; while true; do echo tick; sleep 1 & wait $!; done";

/// Everything that asks for rights.
const TARGET_SPEC: &str = "serviceAccounts: {mode: Host}, events: All";
const NODE_SPEC: &str = "claims: true, services: true, placement: {evictAfterSeconds: 5}";

/// Two clusters with audit logs. Dropping it takes them down.
struct Audited {
    _policy: tempfile::NamedTempFile,
}

impl Audited {
    fn up() -> Result<Self> {
        let policy = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        let user = format!("system:serviceaccount:default:{ACCOUNT}");
        let rules = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": [user]}, {"level": "None"}]});
        fs::write(policy.path(), rules.to_string())?;
        let file = format!("--audit-policy-file={}", policy.path().display());
        // To its standard output, and so into its log. Where a watch can begin with a list, nothing is listed; the rights are for
        // API servers that cannot do that as well.
        let args = [file.as_str(), "--audit-log-path=-", "--feature-gates=WatchList=false"].map(str::to_owned);
        let args = Some(args.to_vec());
        World::lab()?.up_with(&[HOST, TARGET], &UpOptions { api_server_args: args, ..UpOptions::default() })?;
        Ok(Self { _policy: policy })
    }

    /// What the account has asked a cluster for: those that were allowed, and those that were not.
    fn asked(cluster: &str) -> Result<(BTreeSet<Used>, BTreeSet<Used>)> {
        let log = fs::read_to_string(World::lab()?.log(cluster, "kube-apiserver")?)?;
        let (mut allowed, mut denied) = (BTreeSet::new(), BTreeSet::new());
        for line in log.lines().filter(|line| line.starts_with("{\"kind\":\"Event\"")) {
            let event: Value = serde_json::from_str(line)?;
            let text = |field: &str| event["objectRef"][field].as_str().unwrap_or_default().to_owned();
            let mut resource = text("resource");
            if resource.is_empty() {
                continue;
            }
            let (subresource, verb) = (text("subresource"), event["verb"].as_str().unwrap_or_default().to_owned());
            if !subresource.is_empty() {
                resource = format!("{resource}/{subresource}");
            }
            let used = Used { namespace: text("namespace"), group: text("apiGroup"), resource, verb };
            match event["annotations"]["authorization.k8s.io/decision"].as_str() {
                Some("allow") => allowed.insert(used),
                _ => denied.insert(used),
            };
        }
        Ok((allowed, denied))
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        if let Ok(lab) = World::lab() {
            _ = lab.down_only(&[HOST, TARGET]);
        }
    }
}

/// A request, as far as rights go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Used {
    group: String,
    resource: String,
    verb: String,
    namespace: String,
}

/// A rule that Longshore asks for; without a namespace it is for all of them.
#[derive(Clone, Debug)]
struct Rule {
    namespace: String,
    group: String,
    resource: String,
    names: Vec<String>,
    verbs: Vec<String>,
}

impl Rule {
    fn body(&self) -> Value {
        let mut body = json!({"apiGroups": [self.group], "resources": [self.resource], "verbs": self.verbs});
        if !self.names.is_empty() {
            body["resourceNames"] = json!(self.names);
        }
        body
    }

    /// The verbs that nobody has used.
    fn unused(&self, used: &BTreeSet<Used>) -> Vec<String> {
        let is_used = |verb: &String| {
            used.iter().any(|one| {
                (&one.group, &one.resource, &one.verb) == (&self.group, &self.resource, verb)
                    && (self.namespace.is_empty() || self.namespace == one.namespace)
            })
        };
        let unused = self.verbs.iter().filter(|verb| !is_used(verb));
        unused.map(|verb| format!("{verb} {} ({}) {}", self.resource, self.group, self.namespace)).collect()
    }
}

/// The rules in what `longshore check` says of a place.
fn rules(output: &str, title: &str) -> Result<Vec<Rule>> {
    let (mut rules, mut namespace, mut here) = (Vec::new(), String::new(), false);
    let list = |text: &str| -> Result<Vec<String>> { Ok(serde_json::from_str(text)?) };
    for line in output.lines() {
        if line.starts_with("host: ") || line.starts_with("target ") {
            here = line.starts_with(title);
        } else if here && line == "# ClusterRole" {
            namespace.clear();
        } else if here && let Some(name) = line.strip_prefix("# Role in ") {
            name.clone_into(&mut namespace);
        } else if here && let Some(groups) = line.strip_prefix("- apiGroups: ") {
            let group = list(groups)?.remove(0);
            rules.push(Rule {
                namespace: namespace.clone(),
                group,
                resource: String::new(),
                names: vec![],
                verbs: vec![],
            });
        } else if here && let Some(rule) = rules.last_mut() {
            if let Some(resources) = line.strip_prefix("  resources: ") {
                rule.resource = list(resources)?.remove(0);
            } else if let Some(names) = line.strip_prefix("  resourceNames: ") {
                rule.names = list(names)?;
            } else if let Some(verbs) = line.strip_prefix("  verbs: ") {
                rule.verbs = list(verbs)?;
            }
        }
    }
    ensure!(!rules.is_empty(), "no rules for {title} in:\n{output}");
    Ok(rules)
}

/// Grants these rules to the account and nothing else.
fn grant(cluster: &str, rules: &[Rule]) -> Result<()> {
    let namespaces: BTreeSet<&str> = rules.iter().map(|rule| rule.namespace.as_str()).collect();
    for namespace in namespaces {
        let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
        let place = World::cluster(cluster, if namespace.is_empty() { "default" } else { namespace })?;
        let rules: Vec<_> = rules.iter().filter(|rule| rule.namespace == namespace).map(Rule::body).collect();
        place.create(json!({"kind": kind, "metadata": {"name": ACCOUNT}, "rules": rules}))?;
        place.create(json!({"kind": format!("{kind}Binding"), "metadata": {"name": ACCOUNT},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": ACCOUNT},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}]}))?;
    }
    Ok(())
}

/// What Longshore asks for on both sides when it has nothing.
fn wanted(dir: &Path, files: &[PathBuf; 2]) -> Result<[Vec<Rule>; 2]> {
    let (header, config) = ("apiVersion: longshore.dev/v1alpha1", dir.join("provider.yaml"));
    let target = format!(
        "{header}\nkind: Target\nmetadata: {{name: east}}\nspec: {{kubeconfig: {{file: {}}}, {TARGET_SPEC}}}\n",
        files[1].display()
    );
    let node = format!(
        "---\n{header}\nkind: VirtualNode\nmetadata: {{name: x}}\nspec: {{targets: [{{name: east}}], {NODE_SPEC}}}\n"
    );
    fs::write(&config, target + &node)?;
    let (host, config) = (files[0].to_string_lossy(), config.to_string_lossy());
    let output = World::longshore_command(&["check", "--kubeconfig", &host, "--provider-config", &config])?;
    let mut home = rules(&output.stdout, "host: ")?;
    // Granted by namespace, and so not asked for before a pod needs it.
    let tokens = ("serviceaccounts/token".to_owned(), vec!["create".to_owned()]);
    home.push(Rule {
        namespace: String::new(),
        group: String::new(),
        resource: tokens.0,
        names: vec![],
        verbs: tokens.1,
    });
    Ok([home, rules(&output.stdout, "target east: ")?])
}

#[test]
fn every_right_is_needed_and_none_is_missing() -> Result<()> {
    let _clusters = Audited::up()?;
    let dir = tempfile::tempdir()?;
    let files = [HOST, TARGET].map(|cluster| dir.path().join(cluster));
    for (cluster, file) in [HOST, TARGET].into_iter().zip(&files) {
        fs::write(file, World::cluster(cluster, "default")?.stranger_kubeconfig(ACCOUNT)?.to_string())?;
    }
    let granted = wanted(dir.path(), &files)?;
    for (cluster, rules) in [HOST, TARGET].into_iter().zip(&granted) {
        grant(cluster, rules)?;
    }
    let world = World::elsewhere("rights", HOST, TARGET, |options| {
        (options.host, options.target) = (files[0].clone(), files[1].clone());
        options.heartbeat_seconds = 10;
        options.target_spec = TARGET_SPEC.to_owned();
        options.node_spec = NODE_SPEC.to_owned();
    })?;
    world.wait_for_node()?;
    live(&world)?;

    let mut wrong = vec![];
    for (cluster, rules) in [HOST, TARGET].into_iter().zip(&granted) {
        let (used, denied) = Audited::asked(cluster)?;
        ensure!(used.len() > 20, "the audit log of {cluster} has {} kinds of requests", used.len());
        wrong.extend(denied.iter().map(|one| format!("{cluster}: missing: {one:?}")));
        wrong.extend(
            rules.iter().flat_map(|rule| rule.unused(&used)).map(|one| format!("{cluster}: not needed: {one}")),
        );
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    uninstall(&world)
}

/// Takes Longshore away from both clusters, although one does not answer at first. As the admin, and here, since nobody else
/// has anything in these clusters.
fn uninstall(world: &World) -> Result<()> {
    let (home, there) = (&world.host, &world.east);
    let data = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
    volume(there, "near-1", data.path())?;
    home.create(claim("more"))?;
    let mut main = container("main", TICK);
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    home.create(world.pod_of(
        "last",
        json!({"containers": [main],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "more"}}]}),
    ))?;
    let last = home.wait_for_ready("last")?;
    world.longshore().stop()?;
    home.delete_with("pods", "last", "gracePeriodSeconds=0")?;
    home.wait_for_gone(&last)?;
    home.delete("persistentvolumeclaims", "more")?;
    home.wait("the volume to be released", secs(60), |home| {
        let volumes = home.list("persistentvolumes", "")?;
        ensure!(volumes.len() == 1 && volumes[0]["status"]["phase"] == "Released", "{volumes:?}");
        Ok(())
    })?;

    let kubeconfig = |cluster| -> Result<String> { Ok(World::kubeconfig(cluster)?.to_string_lossy().into_owned()) };
    let config = world.longshore().config();
    let text = fs::read_to_string(&config)?;
    let begin = text.find("file: ").context("no kubeconfig")? + 6;
    let end = begin + text[begin..].find('}').context("no end")?;
    fs::write(&config, format!("{}{}{}", &text[..begin], kubeconfig(TARGET)?, &text[end..]))?;
    let (config, host) = (config.to_string_lossy().into_owned(), kubeconfig(HOST)?);
    let doctor = |more: &[&str]| -> Result<(i32, Vec<String>)> {
        let begin = Instant::now();
        let args = ["doctor", "--provider-config", &config, "--kubeconfig", &host, "--output", "json", "--uninstall"];
        let output = World::longshore_command(&[&args[..], more].concat())?;
        ensure!(begin.elapsed() < secs(90), "it has a deadline: {:?}", begin.elapsed());
        let found: Vec<Value> = serde_json::from_str(output.stdout.trim()).with_context(|| output.stderr.clone())?;
        Ok((output.code, found.iter().map(|one| format!("{} {}", one["place"], one["object"])).collect()))
    };
    World::lab()?.cut(TARGET)?;
    let cut = doctor(&["--fix"]).and_then(|(code, found)| {
        ensure!(code == 1 && found.iter().any(|one| one.contains("everything")), "{code} {found:?}");
        ensure!(home.find("nodes", world.longshore().node())?.is_none(), "the node is there");
        ensure!(home.list("persistentvolumes", "")?.len() == 1, "nobody has said that its data are lost");
        let (code, found) = doctor(&["--fix", "--lost-target", "east"])?;
        ensure!(code == 0, "{code} {found:?}");
        ensure!(home.list("persistentvolumes", "")?.is_empty(), "its finalizer holds it");
        assert_eq!(doctor(&["--lost-target", "east"])?, (0, vec![]), "home is clean");
        Ok(())
    });
    World::lab()?.heal(TARGET)?;
    cut?;

    // It comes back after all. Data are for people to give up.
    there.wait("the target to be clean, but for data", secs(90), |_| {
        let (_, found) = doctor(&["--fix"])?;
        ensure!(
            found.len() == 2 && found.iter().all(|one| one.contains("claim") || one.contains("namespace")),
            "{found:?}"
        );
        Ok(())
    })?;
    for claim in there.list("persistentvolumeclaims", "")? {
        there.delete("persistentvolumeclaims", claim["metadata"]["name"].as_str().unwrap_or_default())?;
    }
    there.wait("nothing to be left", secs(90), |_| {
        let (code, found) = doctor(&["--fix"])?;
        ensure!(code == 0 && found.is_empty(), "{found:?}");
        Ok(())
    })?;
    let left = there.find("namespaces", &world.namespace)?;
    ensure!(left.is_none_or(|one| !one["metadata"]["deletionTimestamp"].is_null()), "its namespace is there");
    Ok(())
}

fn claim(name: &str) -> Value {
    json!({"kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": {"storageClassName": "far",
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Mi"}}}})
}

/// A volume in the target.
fn volume(there: &Cluster, name: &str, path: &Path) -> Result<()> {
    there.create(json!({"kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
        "capacity": {"storage": "64Mi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "near",
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path}}}))?;
    Ok(())
}

fn wait_for_no(cluster: &Cluster, plural: &str, name: &str) -> Result<()> {
    cluster.wait(&format!("{name} of the {plural} to go"), secs(60), |cluster| {
        cluster.find(plural, name)?.map_or(Ok(()), |found| bail!("{} {}", found["metadata"], found["status"]))
    })
}

/// A life in which everything happens.
fn live(world: &World) -> Result<()> {
    let (home, there) = (&world.host, &world.east);
    home.create(json!({"kind": "ConfigMap", "metadata": {"name": "words"}, "data": {"key": "one"}}))?;
    home.create(json!({"kind": "Secret", "metadata": {"name": "jewels"}, "stringData": {"key": "one"}}))?;
    home.create(json!({"kind": "StorageClass", "metadata": {"name": "far"}, "provisioner": "longshore.dev/claims",
        "parameters": {"storageClassName": "near"}, "reclaimPolicy": "Delete", "allowVolumeExpansion": true,
        "volumeBindingMode": "WaitForFirstConsumer"}))?;
    there.create(json!({"kind": "StorageClass", "metadata": {"name": "near"},
        "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}))?;
    let data = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
    volume(there, "near-0", data.path())?;
    home.create(claim("data"))?;
    home.create(json!({"kind": "Service", "metadata": {"name": "web", "annotations": {FOLLOW: "true"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}}))?;
    home.create(json!({"kind": "Ingress", "metadata": {"name": "door", "annotations": {FOLLOW: "true"}},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}}))?;

    // What it waits for comes late, and is told.
    let mut main = container("main", TICK);
    main["envFrom"] = json!([{"configMapRef": {"name": "words"}}, {"secretRef": {"name": "late"}}]);
    main["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}, {"name": "jewels", "mountPath": "/jewels"}]);
    main["resources"] = json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "100m"}});
    home.create(world.pod_of(
        "web",
        json!({"containers": [main], "automountServiceAccountToken": true,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "jewels", "secret": {"secretName": "jewels"}}]}),
    ))?;
    home.wait_for_event("web", "MandatorySecretNotFound")?;
    home.create(json!({"kind": "Secret", "metadata": {"name": "late"}, "stringData": {"word": "one"}}))?;
    let proxy = home.wait_for_ready("web")?;

    no_room(world)?;
    streams(world, &proxy)?;
    changes(world)?;
    partition(world)?;

    // Whoever starts anew asks home whether what is in the target is right.
    world.longshore().kill9()?;
    world.longshore().restart()?;
    world.wait_for_node()?;
    home.patch("secrets", "jewels", &json!({"stringData": {"key": "three"}}))?;
    follows(there, "secrets", "jewels", "dGhyZWU=")?;

    ends(world, &proxy)
}

/// A pod that its target cannot schedule makes room for another one.
fn no_room(world: &World) -> Result<()> {
    let mut spec = world.placed(json!({"containers": [container("main", TICK)]}));
    // Bound by hand: the scheduler at home would know that there is no such node.
    spec["nodeName"] = world.longshore().node().into();
    spec["affinity"] = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        {"nodeSelectorTerms": [{"matchExpressions": [{"key": "nowhere", "operator": "Exists"}]}]}}});
    world.host.create(deployment("stuck", 1, &spec))?;
    let pods = world.host.wait_for_pods("app=stuck", 1, "there", |_| true)?;
    world.host.wait_for_event(pods[0].name(), "NoRoom")?;
    world.host.delete("deployments", "stuck")
}

/// Streams of both protocols, and callers of the kubelet API.
fn streams(world: &World, proxy: &Pod) -> Result<()> {
    let home = &world.host;
    ensure!(home.kubectl(&["logs", "web"])?.ok()?.starts_with("tick\n"), "no logs");
    for web_sockets in ["true", "false"] {
        let command = |args: &[&str]| -> Result<_> {
            let mut command = home.kubectl_command(args)?;
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", web_sockets);
            command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", web_sockets);
            Ok(command)
        };
        assert_eq!(run(&mut command(&["exec", "web", "--", "echo", "said"])?, b"")?.ok()?, "said\n");
        for args in [&["attach", "web"][..], &["port-forward", "web", ":8080"]] {
            let stream = e2e::Background::start(&mut command(args)?)?;
            let line = if args[0] == "attach" { "tick" } else { "Forwarding from 127.0.0.1:" };
            stream.wait_for_line(line, secs(30))?;
        }
    }
    // Clients of old come by GET, and are passed on so.
    for stream in ["exec?command=true&stdout=true", "attach?stdout=true", "portforward?ports=8080"] {
        let path = format!("/api/v1/namespaces/{}/pods/web/{stream}", world.namespace);
        drop(LegacySocket::open(home, &path, "v4.channel.k8s.io")?);
    }
    // Whoever asks for usage makes it be measured; here there is nothing that measures, which is known by asking.
    let usage = format!("/api/v1/nodes/{}/proxy/metrics/resource", world.longshore().node());
    ensure!(home.kubectl(&["get", "--raw", &usage])?.ok()?.contains("resource_scrape_error"), "no metrics");
    let path = format!("/containerLogs/{}/web/main", world.namespace);
    let token = home.kubectl(&["create", "token", "default"])?.ok()?;
    assert_eq!(kubelet_status(&world.longshore().kubelet_url(), &path, Some(token.trim()))?, 403);
    ensure!(proxy.is_ready());
    Ok(())
}

fn follows(there: &Cluster, plural: &str, name: &str, value: &str) -> Result<()> {
    there.wait(&format!("the change of {name} among the {plural} to follow"), secs(60), |there| {
        let found = there.find(plural, name)?.context("there is none")?;
        ensure!(found["data"]["key"] == json!(value), "{}", found["data"]);
        Ok(())
    })
}

/// Everything changes that can.
fn changes(world: &World) -> Result<()> {
    let (home, there) = (&world.host, &world.east);
    home.patch("configmaps", "words", &json!({"data": {"key": "two"}}))?;
    follows(there, "configmaps", "words", "two")?;
    home.patch("secrets", "jewels", &json!({"stringData": {"key": "two"}}))?;
    follows(there, "secrets", "jewels", "dHdv")?;
    home.kubectl(&["label", "pod", "web", "color=blue"])?.ok()?;
    there.wait_for_pod("web", "blue", |pod| pod.0["metadata"]["labels"]["color"] == "blue")?;
    there.kubectl(&["annotate", "pod", "web", "example.com/told=here"])?.ok()?;
    home.wait_for_pod("web", "told", |pod| pod.0["metadata"]["annotations"]["example.com/told"] == "here")?;
    home.kubectl(&[
        "debug",
        "web",
        "--image",
        IMAGE,
        "--image-pull-policy",
        "IfNotPresent",
        "--container",
        "guest",
        "--",
        "true",
    ])?
    .ok()?;
    there.wait_for_pod("web", "visited", |pod| pod.0["spec"]["ephemeralContainers"][0]["name"] == "guest")?;
    let resize = json!({"spec": {"containers": [{"name": "main", "resources": {"limits": {"cpu": "200m"}}}]}});
    home.kubectl(&["patch", "pod", "web", "--subresource", "resize", "--patch", &resize.to_string()])?.ok()?;
    there
        .wait_for_pod("web", "resized", |pod| pod.0["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "200m")?;
    for plural in ["services", "ingresses"] {
        let name = if plural == "services" { "web" } else { "door" };
        there
            .wait(&format!("{name} among the {plural}"), secs(60), |there| there.find(plural, name)?.context("none"))?;
        home.patch(plural, name, &json!({"metadata": {"labels": {"color": "blue"}}}))?;
        there.wait(&format!("the change of {name} to follow"), secs(60), |there| {
            let found = there.get(plural, name)?;
            ensure!(found["metadata"]["labels"]["color"] == "blue", "{}", found["metadata"]);
            Ok(())
        })?;
    }
    home.wait("home to show the size that the target has given", secs(60), |home| {
        let claim = home.get("persistentvolumeclaims", "data")?;
        ensure!(claim["status"]["capacity"]["storage"] == "64Mi", "{}", claim["status"]);
        Ok(())
    })?;
    // It cannot grow there, which is told.
    home.patch("persistentvolumeclaims", "data", &json!({"spec": {"resources": {"requests": {"storage": "96Mi"}}}}))?;
    home.wait_for_event("data", "VolumeResizeFailed").map(drop)
}

/// The target does not answer for a while: the pod is kept from eviction.
fn partition(world: &World) -> Result<()> {
    let endless = |pod: &Pod| {
        let all = pod.0["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let key = "node.kubernetes.io/unreachable";
        all.iter().any(|one| one["key"] == key && one["tolerationSeconds"].is_null())
    };
    World::lab()?.cut(TARGET)?;
    let kept = world.host.wait_for_pod("web", "kept from eviction", endless);
    World::lab()?.heal(TARGET)?;
    kept?;
    world.host.wait_for_ready("web").map(drop)
}

/// Everything goes.
fn ends(world: &World, proxy: &Pod) -> Result<()> {
    let (home, there) = (&world.host, &world.east);
    home.delete("ingresses", "door")?;
    wait_for_no(there, "ingresses", "door")?;
    home.delete("pods", "web")?;
    home.wait_for_gone(proxy)?;
    for (plural, name) in [("services", "web"), ("configmaps", "words"), ("secrets", "jewels"), ("secrets", "late")] {
        wait_for_no(there, plural, name)?;
    }
    home.delete("persistentvolumeclaims", "data")?;
    home.wait("the volume to go", secs(60), |home| {
        let volumes = home.list("persistentvolumes", "")?;
        ensure!(volumes.is_empty(), "{} are there", volumes.len());
        Ok(())
    })?;
    ensure!(there.list("persistentvolumeclaims", "")?.is_empty(), "a claim is left");
    Ok(())
}
