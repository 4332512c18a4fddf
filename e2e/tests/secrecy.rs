//! What is secret is not in the log, however much is logged and whatever goes wrong.

use std::{fs, path::Path, process::Command};

use e2e::{Cluster, Context, IDLE, Result, Value, World, container, ensure, json, kubelet_status, run, secs};

/// Things that must not be found, each with what it is.
#[derive(Default)]
struct Needles(Vec<(String, String)>);

impl Needles {
    fn add(&mut self, what: &str, text: &str) {
        let text = text.trim();
        assert!(text.len() >= 16, "{what} is too short to be looked for");
        self.0.push((what.to_owned(), text.to_owned()));
        // A part of it would be as bad; of a token, the signature is what nobody can guess.
        if let Some((_, signature)) = text.rsplit_once('.').filter(|(_, signature)| signature.len() > 32) {
            self.0.push((format!("the signature of {what}"), signature.to_owned()));
        }
    }

    /// All credentials of a kubeconfig, as they stand in it and decoded.
    fn add_kubeconfig(&mut self, what: &str, kubeconfig: &Value) -> Result<()> {
        for user in kubeconfig["users"].as_array().context("no users")? {
            if let Some(token) = user["user"]["token"].as_str() {
                self.add(&format!("the token of {what}"), token);
            }
            if let Some(key) = user["user"]["client-key-data"].as_str() {
                self.add(&format!("the key of {what}"), &key[..64]);
                let pem = run(Command::new("base64").arg("--decode"), key.as_bytes())?.ok()?;
                self.add(&format!("the decoded key of {what}"), pem.lines().nth(1).context("no PEM")?);
            }
        }
        Ok(())
    }

    fn check(&self, place: &str, text: &str) {
        for (what, needle) in &self.0 {
            if let Some(line) = text.lines().find(|line| line.contains(needle.as_str())) {
                let at = line.find(needle.as_str()).unwrap_or_default();
                let before: String = line[..at].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
                panic!("{what} is in {place}, after: {before}");
            }
        }
    }
}

fn base64(text: &str) -> Result<String> {
    Ok(run(Command::new("base64").arg("--wrap=0"), text.as_bytes())?.ok()?.trim().to_owned())
}

/// A kubeconfig with a token that may do everything.
fn account(cluster: &Cluster, namespace: &str) -> Result<Value> {
    let kubeconfig = cluster.stranger_kubeconfig("longshore")?;
    cluster.create(json!({"kind": "ClusterRoleBinding", "metadata": {"name": format!("{namespace}-longshore")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "longshore", "namespace": namespace}]}))?;
    Ok(kubeconfig)
}

fn secret_of(needles: &mut Needles, round: u32) -> Result<Value> {
    let value = format!("the-crown-jewels-of-round-{round}");
    needles.add("a Secret", &value);
    needles.add("an encoded Secret", base64(&value)?.trim_end_matches('='));
    Ok(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "jewels"}, "stringData": {"key": value}}))
}

#[test]
fn nothing_secret_is_ever_logged() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (target, mut needles) = (dir.path().join("target"), Needles::default());
    fs::copy(World::kubeconfig("east")?, &target)?;
    let world = World::changed("secrecy", |options| {
        options.target.clone_from(&target);
        options.target_spec = "serviceAccounts: {mode: Host}".to_owned();
        options.flags = ["--log", "trace"].map(str::to_owned).to_vec();
    })?;
    world.wait_for_node()?;
    world.create_target_namespace()?;
    let rotate = |text: &str| -> Result<()> {
        fs::write(target.with_extension("fresh"), text)?;
        Ok(fs::rename(target.with_extension("fresh"), &target)?)
    };
    needles.add_kubeconfig("host", &world.host.admin_kubeconfig()?)?;
    needles.add_kubeconfig("east", &world.east.admin_kubeconfig()?)?;
    let good = account(&world.east, &world.namespace)?;
    needles.add_kubeconfig("the account in east", &good)?;
    rotate(&good.to_string())?;

    // A pod with a Secret, tokens of home, logs, streams of both protocols, and callers of every kind.
    world.host.create(secret_of(&mut needles, 1)?)?;
    let mut main = container("main", &format!("echo started; {IDLE}"));
    main["envFrom"] = json!([{"secretRef": {"name": "jewels"}}]);
    let spec = json!({"containers": [main], "automountServiceAccountToken": true});
    world.host.create(world.pod_of("keeper", spec))?;
    let proxy = world.host.wait_for_ready("keeper")?;
    let token = world.east.get("secrets", &format!("longshore-token-{}", proxy.uid()))?;
    let encoded = token["data"]["token-0"].as_str().context("no token of home")?;
    needles.add("an encoded token of home", encoded);
    needles.add("a token of home", &run(Command::new("base64").arg("--decode"), encoded.as_bytes())?.ok()?);
    for web_sockets in ["true", "false"] {
        let mut exec = world.host.kubectl_command(&["exec", "keeper", "--", "echo", "said"])?;
        exec.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", web_sockets);
        assert_eq!(run(&mut exec, b"")?.ok()?, "said\n");
    }
    assert_eq!(world.host.kubectl(&["logs", "keeper"])?.ok()?, "started\n");
    callers(&world, &mut needles)?;

    // The Secret changes, and everything fails that can.
    let second = secret_of(&mut needles, 2)?;
    world.host.patch("secrets", "jewels", &second)?;
    world.east.wait("the new Secret to follow", secs(60), |east| {
        let copy = east.get("secrets", "jewels")?;
        let value = base64(second["stringData"]["key"].as_str().unwrap_or_default())?;
        ensure!(copy["data"]["key"] == json!(value), "not yet");
        Ok(())
    })?;
    let mut bad = good.clone();
    bad["users"][0]["user"]["token"] = "a-bearer-token-that-is-refused".into();
    needles.add_kubeconfig("a refused kubeconfig", &bad)?;
    let broken = "users: [{name: x, user: {token: a-bearer-token-in-broken-yaml, ]";
    needles.add("a broken kubeconfig", "a-bearer-token-in-broken-yaml");
    let logged = |words: &str| {
        world.host.wait(&format!("{words:?} in the log"), secs(90), |_| {
            ensure!(world.longshore().log().contains(words), "not yet");
            Ok(())
        })
    };
    rotate(broken)?;
    logged("kubeconfig")?;
    rotate(&bad.to_string())?;
    logged("Unauthorized")?;
    world.host.wait("streams to be refused", secs(60), |host| {
        ensure!(host.kubectl(&["exec", "keeper", "--", "true"])?.code != 0, "with a refused token");
        Ok(())
    })?;
    starts_in_vain(&world, dir.path(), &mut needles, &good, [broken, &bad.to_string()])?;

    rotate(&good.to_string())?;
    world.host.wait("streams to work again", secs(90), |host| {
        host.kubectl(&["exec", "keeper", "--", "true"])?.ok().map(drop)
    })?;
    world.host.delete("pods", "keeper")?;
    world.host.wait_for_gone(&proxy)?;

    let log = world.longshore().log();
    for words in [" TRACE ", "DEBUG", "keeper"] {
        ensure!(log.contains(words), "so verbose a log has {words:?}");
    }
    needles.check("the log", &log);
    rotate(&world.east.admin_kubeconfig()?.to_string())?;
    world.east.delete("clusterrolebindings", &format!("{}-longshore", world.namespace))
}

/// Comes to the kubelet API with tokens of every kind.
fn callers(world: &World, needles: &mut Needles) -> Result<()> {
    world.host.create(json!({"kind": "ServiceAccount", "metadata": {"name": "caller"}}))?;
    let (url, path) = (world.longshore().kubelet_url(), format!("/containerLogs/{}/keeper/main", world.namespace));
    let caller = world.host.kubectl(&["create", "token", "caller"])?.ok()?;
    let stranger = world.east.kubectl(&["create", "token", "longshore"])?.ok()?;
    let vault = world.host.kubectl(&["create", "token", "caller", "--audience", "vault"])?.ok()?;
    for (what, token, status) in [
        ("a caller without rights", caller.as_str(), 403),
        ("a caller of another cluster", stranger.as_str(), 401),
        ("a token for somebody else", vault.as_str(), 401),
        ("rubbish", "a-token-that-nobody-has-ever-issued", 401),
    ] {
        needles.add(what, token);
        assert_eq!(kubelet_status(&url, &path, Some(token.trim()))?, status, "{what}");
    }
    Ok(())
}

/// Starts with kubeconfigs that are no good: broken ones, refused ones, and those of plugins that fail.
fn starts_in_vain(
    world: &World,
    dir: &Path,
    needles: &mut Needles,
    good: &Value,
    [broken, bad]: [&str; 2],
) -> Result<()> {
    let odd = "a-bearer-token\\u0007-that-no-header-can-carry";
    needles.add("an odd token", "-that-no-header-can-carry");
    let start = |kubeconfig: &str, needles: &Needles| -> Result<()> {
        let (file, config) = (dir.join("bad"), world.longshore().config());
        fs::write(&file, kubeconfig)?;
        for command in ["run", "check", "doctor"] {
            let (file, config) = (file.to_string_lossy(), config.to_string_lossy());
            let args = ["--log", "trace", command, "--kubeconfig", &file, "--provider-config", &config];
            let output = World::longshore_command(&args)?;
            ensure!(output.code != 0, "{command} with a bad kubeconfig: {output:?}");
            needles.check("the output of a start that fails", &format!("{}\n{}", output.stdout, output.stderr));
        }
        Ok(())
    };
    start(broken, needles)?;
    start(bad, needles)?;
    let odd = bad.replace("a-bearer-token-that-is-refused", odd);
    start(&odd, needles)?;
    let mut plugin = good.clone();
    plugin["users"][0]["user"] = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh",
        "args": ["-c", "echo said-by-a-plugin-on-stdout; echo said-by-a-plugin-on-stderr >&2; exit 1"],
        "env": [{"name": "PLUGIN", "value": "given-to-a-plugin-as-environment"}]}});
    for (what, text) in [
        ("what a plugin printed", "said-by-a-plugin-on-stdout"),
        ("what a plugin was given", "given-to-a-plugin-as-environment"),
    ] {
        needles.add(what, text);
    }
    start(&plugin.to_string(), needles)?;
    Ok(())
}
