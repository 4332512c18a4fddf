//! Serving certificates, on a host whose API server verifies kubelets and whose signer signs for a minute at most.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use e2e::{
    Berth, Cluster, Context, Options, PATIENCE, Result, Value, World, anyhow, bail, container, ensure, json, secs,
    shown_certificate, write_json,
};
use lab::UpOptions;
use rcgen::{CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, SanType};

const HOST: &str = "certs";
const BRIDGE: &str = "172.30.0.1";

/// A container that says something every second.
const TALK: &str = "trap 'exit 0' TERM; while true; do echo tick; sleep 1 & wait $!; done";

const HOST_SIGNS: &str = "--serving-certificate=host";
const APPROVE: &str = "--approve-serving-certificates";

/// The cluster. Dropping it takes it down.
struct Verifying;

static SHARED: LazyLock<Mutex<Weak<Verifying>>> = LazyLock::new(Mutex::default);

impl Verifying {
    fn up() -> Result<Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verifying) = shared.upgrade() {
            return Ok(verifying);
        }
        let authority = format!("--kubelet-certificate-authority={}", pki()?.join("ca.crt").display());
        World::lab()?.up_with(
            &[HOST],
            &UpOptions {
                kubelet: Some(false),
                api_server_args: Some(vec![authority]),
                controller_manager_args: Some(vec!["--cluster-signing-duration=60s".into()]),
            },
        )?;
        let verifying = Arc::new(Self);
        *shared = Arc::downgrade(&verifying);
        Ok(verifying)
    }
}

impl Drop for Verifying {
    fn drop(&mut self) {
        // Whoever wants one now waits until this one is gone.
        let _shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(lab) = World::lab() {
            _ = lab.down_only(&[HOST]);
        }
    }
}

/// The cluster's keys and certificates, beside those of the other clusters.
fn pki() -> Result<PathBuf> {
    let known = World::kubeconfig("host")?;
    let state = known.parent().and_then(Path::parent).context("a kubeconfig without a place")?;
    Ok(state.join(HOST).join("pki"))
}

fn world(name: &str, change: impl FnOnce(&mut Options)) -> Result<World> {
    World::elsewhere(name, HOST, "east", change)
}

fn flags(world: &mut Options, flags: &[&str]) {
    world.flags = flags.iter().map(ToString::to_string).collect();
}

/// A pod that talks, on the node; its logs are what is asked for.
fn talker(world: &World) -> Result<()> {
    world.wait_for_node()?;
    world.host.create(world.pod("talker", &[container("main", TALK)]))?;
    world.host.wait_for_ready("talker").map(drop)
}

/// Logs and exec go through the API server, which verifies.
fn streams_work(world: &World) -> Result<()> {
    world.host.wait("the logs of talker", PATIENCE, |host| {
        let output = host.kubectl(&["logs", "talker"])?;
        ensure!(output.stdout.contains("tick"), "{output:?}");
        Ok(())
    })?;
    let said = world.host.kubectl(&["exec", "talker", "--", "echo", "said"])?.ok()?;
    ensure!(said == "said\n", "{said}");
    Ok(())
}

fn streams_fail(world: &World) -> Result<()> {
    let output = world.host.kubectl(&["logs", "talker"])?;
    ensure!(output.code != 0 && output.stderr.contains("x509"), "{output:?}");
    Ok(())
}

/// Waits for an event about the node, and answers its message.
fn told(world: &World, reason: &str) -> Result<String> {
    let node = format!("involvedObject.name={}", world.longshore().node());
    world.host.wait(&format!("the event {reason} about the node"), PATIENCE, |host| {
        let args = ["get", "events", "-n", "default", "--field-selector", &node, "-o", "json"];
        let list: Value = serde_json::from_str(&host.kubectl(&args)?.ok()?)?;
        let events = list["items"].as_array().cloned().unwrap_or_default();
        let found = events.iter().find(|event| event["reason"] == reason);
        let found = found.with_context(|| format!("{events:?}\n{}", world.longshore().log()))?;
        Ok(found["message"].as_str().unwrap_or_default().to_owned())
    })
}

/// All certificate requests for the node, the oldest first.
fn requests(world: &World) -> Result<Vec<Value>> {
    let selector = format!("longshore.dev/node={}", world.longshore().node());
    let mut all = world.host.list("certificatesigningrequests", &selector)?;
    all.sort_by_key(|one| one["metadata"]["creationTimestamp"].to_string());
    Ok(all)
}

#[test]
fn who_verifies_is_told_what_to_do_about_self_signed_certificates() -> Result<()> {
    let _cluster = Verifying::up()?;
    let world = world("own", |_| {})?;
    talker(&world)?;
    streams_fail(&world)?;
    let message = told(&world, "ServingCertificateRefused")?;
    ensure!(message.contains("--serving-certificate=host"), "{message}");

    // An API server that kubeadm runs is a pod of this kind; nobody runs this one.
    let check = |flags: &[&str]| {
        let (kubeconfig, config) = (World::kubeconfig(HOST)?, world.longshore().config());
        let (kubeconfig, config) = (kubeconfig.display().to_string(), config.display().to_string());
        let args = ["check", "--kubeconfig", &kubeconfig, "--provider-config", &config];
        World::longshore_command(&[&args, flags].concat())
    };
    check(&[])?.ok()?;
    let system = World::cluster(HOST, "kube-system")?;
    let mut server = container("main", "exit");
    server["command"] = json!(["kube-apiserver", "--kubelet-certificate-authority=/etc/kubernetes/pki/ca.crt"]);
    system
        .create(json!({"kind": "Pod", "metadata": {"name": "api-server", "labels": {"component": "kube-apiserver"}},
        "spec": {"containers": [server], "nodeSelector": {"no": "where"}}}))?;
    let refused = check(&[]);
    let fine = check(&[HOST_SIGNS]);
    system.delete("pods", "api-server")?;
    let refused = refused?;
    ensure!(refused.code == 1 && refused.stdout.contains("verifies kubelets"), "{refused:?}");
    fine?.ok().map(drop)
}

#[test]
fn a_certificate_that_an_admin_approves_is_shown() -> Result<()> {
    let _cluster = Verifying::up()?;
    let world = world("admin", |options| flags(options, &[HOST_SIGNS]))?;
    // Pods do not wait for an admin.
    talker(&world)?;
    let message = told(&world, "ServingCertificatePending")?;
    let pending = requests(&world)?;
    ensure!(pending.len() == 1 && pending[0]["status"]["certificate"].is_null(), "{pending:?}");
    let name = pending[0]["metadata"]["name"].as_str().context("no name")?;
    ensure!(message.contains(&format!("kubectl certificate approve {name}")), "{message}");
    streams_fail(&world)?;
    world.host.kubectl(&["certificate", "approve", name])?.ok()?;
    streams_work(&world)
}

/// A service account that may do everything that Longshore needs, but for certificates.
fn account(host: &Cluster, name: &str) -> Result<(tempfile::TempDir, PathBuf)> {
    let groups = [
        "",
        "events.k8s.io",
        "coordination.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "networking.k8s.io",
        "storage.k8s.io",
    ];
    let kubeconfig = host.stranger_kubeconfig(name)?;
    host.create(json!({"kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}]}))?;
    host.create(json!({"kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}]}))?;
    let dir = tempfile::tempdir()?;
    let path = write_json(&dir, "kubeconfig.json", &kubeconfig)?;
    Ok((dir, path))
}

#[test]
fn certificates_are_renewed_without_an_admin_and_without_a_break() -> Result<()> {
    let _cluster = Verifying::up()?;
    let host = World::cluster(HOST, "default")?;
    let (_dir, kubeconfig) = account(&host, "longshore")?;
    let world = world("renewal", |options| {
        options.host = kubeconfig.clone();
        flags(options, &[HOST_SIGNS, APPROVE]);
    })?;
    // It says which rights are missing, and does not start.
    let longshore = world.longshore();
    world.host.wait("the start to be refused", PATIENCE, |_| {
        let ended = longshore.ended()?.context("it runs")?;
        ensure!(!ended.success(), "{ended}");
        Ok(())
    })?;
    let log = longshore.log();
    for line in
        [r#"resources: ["certificatesigningrequests/approval"]"#, r#"resourceNames: ["kubernetes.io/kubelet-serving"]"#]
    {
        ensure!(log.contains(line), "no {line} in\n{log}");
    }
    let mut role = host.get("clusterroles", "longshore")?;
    let rules = role["rules"].as_array_mut().context("no rules")?;
    let group = ["certificates.k8s.io"];
    rules.extend([
        json!({"apiGroups": group, "resources": ["certificatesigningrequests"], "verbs": ["create", "get", "list", "watch"]}),
        json!({"apiGroups": group, "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]}),
        json!({"apiGroups": group, "resources": ["signers"], "resourceNames": ["kubernetes.io/kubelet-serving"],
            "verbs": ["approve"]}),
    ]);
    host.patch("clusterroles", "longshore", &json!({"rules": rules}))?;
    world.host.wait("the right to approve", PATIENCE, |_| {
        let kubeconfig = kubeconfig.display().to_string();
        let right = ["auth", "can-i", "approve", "signers.certificates.k8s.io/kubernetes.io/kubelet-serving"];
        ensure!(host.kubectl(&[&right[..], &["--kubeconfig", &kubeconfig]].concat())?.code == 0, "not yet");
        Ok(())
    })?;
    longshore.restart()?;
    talker(&world)?;
    streams_work(&world)?;

    let stream = world.host.kubectl_beside(&["logs", "--follow", "talker"])?;
    stream.wait_for_line("tick", PATIENCE)?;
    let first = shown_certificate(BRIDGE, longshore.port())?;
    let second = world.host.wait("another certificate", secs(120), |_| {
        let shown = shown_certificate(BRIDGE, longshore.port())?;
        ensure!(shown != first, "the same; {}", longshore.log());
        Ok(shown)
    })?;
    let lines = stream.lines().len();
    streams_work(&world)?;
    world.host.wait("the open stream to go on", PATIENCE, |_| {
        ensure!(stream.lines().len() > lines + 2, "{lines} lines");
        Ok(())
    })?;
    let requests = requests(&world)?;
    ensure!(requests.len() >= 2, "{requests:?}");
    for request in &requests {
        ensure!(request["spec"]["username"] == "system:serviceaccount:default:longshore", "{request}");
    }

    // Another replica has a certificate of its own before the Node names its address.
    let twin = longshore.twin()?;
    world.host.wait("the certificate of the other replica", PATIENCE, |_| {
        let log = twin.log();
        ensure!(log.contains("has signed the node's serving certificate"), "{log}");
        Ok(())
    })?;
    longshore.stop()?;
    let verified = world.host.wait("the other replica to serve", secs(90), |host| {
        let node = host.get("nodes", longshore.node())?;
        let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
        ensure!(*port == twin.port(), "{port}\n{}", twin.log());
        let output = host.kubectl(&["logs", "talker"])?;
        if output.stderr.contains("x509") {
            return Ok(Err(anyhow!("the Node names an address without a certificate: {output:?}")));
        }
        ensure!(output.stdout.contains("tick"), "{output:?}");
        Ok(Ok(()))
    })?;
    verified?;
    let theirs = shown_certificate(BRIDGE, twin.port())?;
    ensure!(theirs != first && theirs != second, "it has a certificate of the first replica");
    longshore.restart()
}

#[test]
fn given_files_are_read_again_when_they_change() -> Result<()> {
    let _cluster = Verifying::up()?;
    let dir = tempfile::tempdir()?;
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
    write_pair(&certificate, &key, "192.0.2.1")?;
    let world = world("files", |options| {
        let [certificate, key] = [&certificate, &key].map(|path| path.display().to_string());
        flags(options, &["--tls-cert-file", &certificate, "--tls-private-key-file", &key]);
    })?;
    talker(&world)?;
    streams_fail(&world)?;
    let message = told(&world, "ServingCertificateUnfit")?;
    ensure!(message.contains(BRIDGE), "{message}");
    // Half of a change does no harm.
    fs::write(&key, "half of a")?;
    let before = shown_certificate(BRIDGE, world.longshore().port())?;
    world.host.wait("the change to be seen", PATIENCE, |_| {
        let log = world.longshore().log();
        ensure!(log.contains("the old one is shown"), "{log}");
        Ok(())
    })?;
    ensure!(shown_certificate(BRIDGE, world.longshore().port())? == before, "another certificate");
    write_pair(&certificate, &key, BRIDGE)?;
    streams_work(&world)
}

/// A certificate for this address, signed by the cluster's CA.
fn write_pair(certificate: &Path, key: &Path, address: &str) -> Result<()> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = DistinguishedName::new();
    authority.distinguished_name.push(DnType::CommonName, format!("{HOST}-ca"));
    let issuer = Issuer::new(authority, KeyPair::from_pem(&fs::read_to_string(pki()?.join("ca.key"))?)?);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(address.parse()?)];
    let own = KeyPair::generate()?;
    fs::write(certificate, params.signed_by(&own, &issuer)?.pem())?;
    fs::write(key, own.serialize_pem())?;
    Ok(())
}

#[test]
fn a_node_moves_to_the_new_address_of_its_machine() -> Result<()> {
    let _cluster = Verifying::up()?;
    let (berth, spare) = (Arc::new(Berth::new()?), Berth::new()?);
    let world = world("moves", |options| {
        options.berth = Some(berth.clone());
        options.given_ip = false;
        flags(options, &[HOST_SIGNS, APPROVE]);
    })?;
    talker(&world)?;
    streams_work(&world)?;
    let address = || -> Result<String> {
        let node = world.host.get("nodes", world.longshore().node())?;
        let addresses = &node["status"]["addresses"];
        ensure!(addresses.as_array().is_some_and(|all| all.len() == 1), "{addresses}");
        Ok(addresses[0]["address"].as_str().unwrap_or_default().to_owned())
    };
    ensure!(address()? == berth.ip().to_string(), "{}", address()?);
    let uid = world.host.pod("talker")?.uid().to_owned();
    berth.move_to(&spare)?;
    world.host.wait("the Node to name the new address", secs(120), |_| {
        let address = address()?;
        ensure!(address == spare.ip().to_string(), "{address}\n{}", world.longshore().log());
        Ok(())
    })?;
    streams_work(&world)?;
    match world.host.pod("talker")? {
        pod if pod.uid() == uid => Ok(()),
        other => bail!("another pod: {other}"),
    }
}
