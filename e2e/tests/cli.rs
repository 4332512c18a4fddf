//! The commands of a platform team's day: a cluster joins, is looked at, and leaves; and nothing of it is left.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{
    Background, Cluster, Declared, IDLE, IMAGE, Output, Result, Terminal, Value, World, bail, container, ensure, json,
    run, secs, write_json,
};
use tempfile::TempDir;

/// A command about a target of the test, on its clusters.
struct Line {
    host: PathBuf,
    east: PathBuf,
    name: String,
    labels: String,
    apart: String,
}

/// Whatever has failed: nothing of the test stays behind.
impl Drop for Line {
    fn drop(&mut self) {
        let joined = format!("longshore.dev/joined={}", self.name);
        for name in ["host", "east"] {
            let Ok(cluster) = World::cluster(name, "default") else { continue };
            for kinds in ["targets", "virtualnodes", "clusterroles,clusterrolebindings"] {
                _ = cluster.kubectl(&["delete", kinds, "-l", &joined, "--wait=false"]);
            }
            _ = cluster.delete("namespaces", &self.apart);
            _ = cluster.delete("nodes", &self.name);
        }
    }
}

impl Line {
    fn new(world: &Declared, name: &str) -> Result<Self> {
        Ok(Self {
            host: World::kubeconfig("host")?,
            east: World::kubeconfig("east")?,
            name: world.name(name),
            labels: format!("e2e={}", world.namespace),
            apart: format!("{}-apart", world.namespace),
        })
    }

    fn join(&self, more: &[&str]) -> Result<Output> {
        World::longshore_command(&self.join_args(more).iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn join_args(&self, more: &[&str]) -> Vec<String> {
        let mut args: Vec<String> = ["join", &self.name, "--labels", &self.labels].map(Into::into).into();
        args.extend(["--secret-namespace".to_owned(), self.apart.clone()]);
        args.extend(["--kubeconfig".to_owned(), self.east.to_string_lossy().into_owned()]);
        args.extend(["--host-kubeconfig".to_owned(), self.host.to_string_lossy().into_owned()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args
    }

    fn leave(&self, more: &[&str]) -> Result<Output> {
        let host = self.host.to_string_lossy();
        let mut args = vec!["leave", &self.name, "--host-kubeconfig", &host];
        args.extend(more);
        World::longshore_command(&args)
    }

    fn leave_wholly(&self, more: &[&str]) -> Result<Output> {
        let east = self.east.to_string_lossy();
        let mut args = vec!["--kubeconfig", &east];
        args.extend(more);
        self.leave(&args)
    }

    /// Any other command.
    fn run(&self, args: &[&str]) -> Result<Output> {
        let host = self.host.to_string_lossy();
        let mut all = args.to_vec();
        all.extend(["--kubeconfig", &host]);
        World::longshore_command(&all)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let output = self.run(&all)?;
        serde_json::from_str(&output.stdout).map_err(|error| anyhow(format!("{error}: {output:?}")))
    }
}

fn and<'a>(flags: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [flags, more].concat()
}

fn anyhow(text: String) -> e2e::Error {
    e2e::anyhow!(text)
}

/// The item of a list with this field.
fn find<'a>(list: &'a Value, field: &str, value: &str) -> Result<&'a Value> {
    let found = list.as_array().and_then(|all| all.iter().find(|one| one[field] == value));
    found.ok_or_else(|| anyhow(format!("no {field}={value} in {list}")))
}

/// All that `longshore join` made and is still there.
fn made(cluster: &Cluster, line: &Line) -> Result<Vec<String>> {
    let joined = format!("longshore.dev/joined={}", line.name);
    let all = "targets,virtualnodes,clusterroles,clusterrolebindings,roles,rolebindings,secrets,serviceaccounts";
    let kinds =
        if cluster.name() == "host" { all } else { all.split_once("virtualnodes,").map_or(all, |(_, rest)| rest) };
    let found = cluster.kubectl(&["get", kinds, "-A", "-l", &joined, "-o", "name"])?.ok()?;
    let mut found: Vec<String> = found.lines().map(Into::into).collect();
    found.extend(cluster.find("namespaces", &line.apart)?.map(|_| format!("namespace/{}", line.apart)));
    Ok(found)
}

fn wait_for_nothing(cluster: &Cluster, line: &Line) -> Result<()> {
    cluster.wait("all that was made to be gone", secs(60), |cluster| {
        let left = made(cluster, line)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn a_cluster_joins_runs_pods_is_looked_at_and_leaves_nothing() -> Result<()> {
    let world = Declared::start("joins")?;
    let line = Line::new(&world, "east")?;
    let account = ["--account-namespace", &line.apart];
    let with = |more: &[&'static str]| and(&account, more);

    // Whoever only looks, or cannot be asked, changes nothing.
    let dry = line.join(&with(&["--dry-run"]))?.ok()?;
    for words in
        ["create  ClusterRole ", &format!("create  Target {}", line.name), "run delegate pods: get, list, watch"]
    {
        assert!(dry.contains(words), "{words:?} in {dry}");
    }
    let asked = line.join(&account)?;
    assert!(asked.code == 2 && asked.stderr.contains("give --yes"), "{asked:?}");
    assert_eq!([made(&world.host, &line)?, made(&world.east, &line)?], [vec![""; 0], vec![]]);

    let joined = line.join(&with(&["--yes"]))?.ok()?;
    assert!(joined.contains(&format!("joined: Target {} is ready, v1.", line.name)), "{joined}");
    let again = line.join(&with(&["--yes"]))?.ok()?;
    assert!(again.contains("keep    ClusterRole ") && !again.contains("  create  "), "{again}");

    world.host.create(json!({"kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"COLOR": "red"}}))?;
    let mut pod = world.pod(&line.name, "web", &[container("main", IDLE)]);
    pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    world.host.create(pod)?;
    let proxy = world.host.wait_for_ready("web")?;
    ensure!(!world.log().contains("forbidden"), "{}", world.log());

    let status = line.json(&["status"])?;
    let target = find(&status["targets"], "name", &line.name)?;
    assert_eq!((&target["ready"], &target["delegates"].is_u64()), (&json!("True"), &true), "{target}");
    assert!(target["latencyMilliseconds"].is_u64() && target["version"].as_str().is_some_and(|v| v.starts_with("v1.")));
    let node = find(&status["nodes"], "name", &line.name)?;
    assert_eq!((&node["running"], &node["targets"]), (&json!(1), &json!([line.name])), "{node}");
    let text = status["problems"].to_string();
    assert!(!text.contains(&line.name), "{text}");
    let table = line.run(&["status"])?.stdout;
    assert!(table.starts_with("TARGET ") && !table.contains('\x1b'), "{table:?}");

    let pods = line.json(&["pods", "-n", &world.namespace])?;
    let row = find(&pods, "name", "web")?;
    assert_eq!((&row["proxy"]["status"], &row["delegate"]["status"]), (&json!("Running"), &json!("Running")), "{row}");
    assert_eq!((&row["target"], &row["delegate"]["name"]), (&json!(line.name), &json!("web")), "{row}");
    assert!(row["feedbackSeconds"].is_i64(), "{row}");

    // What needed a file before takes what is declared as well.
    let explained = line.json(&["explain", &format!("{}/web", world.namespace)])?;
    assert_eq!(
        (&explained[0]["target"], &explained[0]["delegate"]["metadata"]["name"]),
        (&json!(line.name), &json!("web"))
    );
    let checked = line.run(&["check"])?.stdout;
    assert!(checked.contains(&format!("target {}: ok, v1.", line.name)), "{checked}");

    let steps = line.json(&["test", &line.name, "-n", &world.namespace, "--image", IMAGE])?;
    let names: Vec<_> = steps.as_array().into_iter().flatten().map(|step| step["step"].clone()).collect();
    assert_eq!(json!(names), json!(["reach", "create", "delegate", "status", "logs", "exec", "delete"]), "{steps}");
    assert!(steps.as_array().into_iter().flatten().all(|step| step["passed"] == true), "{steps}");
    for cluster in [&world.host, &world.east] {
        let names: Vec<_> = cluster.pods("")?.iter().map(|pod| pod.name().to_owned()).collect();
        assert_eq!(names, ["web"], "in {}", cluster.name());
    }

    let left = line.leave_wholly(&["--yes", "--timeout", "120"])?;
    assert!(left.code == 0 && left.stdout.contains("nothing of it is left"), "{left:?}\n{}", world.log());
    world.host.wait_for_gone(&proxy)?;
    for cluster in [&world.host, &world.east] {
        wait_for_nothing(cluster, &line)?;
    }
    ensure!(world.host.find("nodes", &line.name)?.is_none(), "the node is left");
    assert!(world.east.pods("")?.is_empty() && world.east.find("configmaps", "settings")?.is_none());
    let gone = line.leave(&["--yes"])?;
    assert!(gone.code == 2 && gone.stderr.contains("failed to find the Target"), "{gone:?}");
    Ok(())
}

/// A kubeconfig of somebody who has all rights in the test's namespace of the target, and none outside.
fn owner(world: &Declared, dir: &TempDir) -> Result<PathBuf> {
    let kubeconfig = world.east.stranger_kubeconfig("owner")?;
    world.east.create(json!({"kind": "RoleBinding", "metadata": {"name": "owner"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "owner", "namespace": world.namespace}]}))?;
    write_json(dir, "owner.yaml", &kubeconfig)
}

#[test]
fn the_owner_of_a_namespace_joins_with_it_by_what_is_kept_in_git() -> Result<()> {
    let world = Declared::start("gitops")?;
    let dir = tempfile::tempdir()?;
    let mut line = Line::new(&world, "part")?;
    line.east = owner(&world, &dir)?;
    world.east.create(json!({"kind": "ResourceQuota", "metadata": {"name": "all"},
        "spec": {"hard": {"requests.cpu": "1", "requests.memory": "1Gi", "pods": "5"}}}))?;
    let flags = ["--namespaces", &world.namespace];
    let with = |more: &[&'static str]| and(&flags, more);

    let yaml = line.join(&with(&["-o", "yaml"]))?.ok()?;
    assert!(!yaml.contains("ClusterRole") && !yaml.contains("token:") && yaml.contains("kind: Role\n"), "{yaml}");
    let there = line.join(&with(&["-o", "yaml", "--only", "target"]))?.ok()?;
    let east = line.east.to_string_lossy().into_owned();
    world.east.kubectl_with(&["apply", "--kubeconfig", &east, "-f", "-"], there.as_bytes())?.ok()?;
    let kubeconfig = line.join(&with(&["-o", "kubeconfig"]))?.ok()?;
    fs::write(dir.path().join("kubeconfig"), &kubeconfig)?;
    world.host.create(json!({"kind": "Namespace", "metadata": {"name": line.apart}}))?;
    let file = format!("--from-file=kubeconfig={}", dir.path().join("kubeconfig").display());
    let secret = ["create", "secret", "generic", &line.name, &file, "--namespace", &line.apart];
    world.host.kubectl(&secret)?.ok()?;
    let here = line.join(&with(&["-o", "yaml", "--only", "host"]))?.ok()?;
    world.host.kubectl_with(&["apply", "-f", "-"], here.as_bytes())?.ok()?;
    world.wait_for("targets", &line.name, "Ready", "True", secs(60))?;

    let mut pod = world.pod(&line.name, "web", &[container("main", IDLE)]);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10m", "memory": "8Mi"}});
    world.host.create(pod)?;
    world.host.wait_for_ready("web")?;
    let steps = line.run(&["test", &line.name, "-n", &world.namespace, "--image", IMAGE])?;
    assert_eq!(steps.code, 0, "{steps:?}");

    // What somebody else made is said and stays.
    let left = line.leave_wholly(&["--yes", "--pods", "delete"])?;
    assert_eq!(left.code, 3, "{left:?}\n{}", world.log());
    assert!(left.stdout.contains("which was not made by `longshore join`"), "{left:?}");
    ensure!(world.east.find("configmaps", "kube-root-ca.crt")?.is_some() && world.east.pods("")?.is_empty());
    let maps = world.east.list("configmaps", "")?;
    assert_eq!(maps.len(), 1, "the marker is gone: {maps:?}");
    assert_eq!(made(&world.east, &line)?, [""; 0]);
    Ok(())
}

#[test]
fn a_dead_target_leaves_in_time_and_says_what_is_left() -> Result<()> {
    let world = Declared::start("dead")?;
    let line = Line::new(&world, "east")?;
    line.join(&["--account-namespace", &line.apart, "--yes"])?.ok()?;
    world.host.create(world.pod(&line.name, "web", &[container("main", IDLE)]))?;
    let proxy = world.host.wait_for_ready("web")?;

    let mut nowhere = world.east.admin_kubeconfig()?;
    nowhere["clusters"][0]["cluster"]["server"] = json!("https://172.30.0.1:9");
    let secrets = World::cluster("host", &line.apart)?;
    secrets.patch("secrets", &line.name, &json!({"stringData": {"kubeconfig": nowhere.to_string()}}))?;
    world.wait_for("targets", &line.name, "Ready", "False", secs(60))?;

    let status = line.run(&["status"])?;
    assert!(status.code == 1 && status.stdout.contains(&format!("target {}:", line.name)), "{status:?}");
    assert!(status.stdout.contains("connection refused"), "{status:?}");
    let pods = line.json(&["pods", "-n", &world.namespace, "--problems"])?;
    assert!(find(&pods, "name", "web")?["unknown"].as_str().is_some_and(|why| why.contains("172.30.0.1:9")), "{pods}");
    let test = line.run(&["test", &line.name, "-n", &world.namespace, "--image", IMAGE])?;
    assert!(test.code == 1 && test.stdout.contains("FAILED"), "{test:?}");
    assert_eq!(world.host.pods("")?.len(), 1, "the test left nothing");

    let refused = line.leave(&["--yes"])?;
    assert!(refused.code == 1 && refused.stderr.contains("give --lost"), "{refused:?}");
    assert!(world.host.find("targets", &line.name)?.is_some(), "nothing was done");
    let lost = line.leave(&["--yes", "--lost"])?;
    assert!(lost.code == 3 && lost.stdout.contains("left: whatever is in the target"), "{lost:?}");
    world.host.wait_for_gone(&proxy)?;
    let node = world.host.find("nodes", &line.name)?;
    assert!(node.is_none(), "{node:?}\n{lost:?}\n{}", world.log());
    wait_for_nothing(&world.host, &line)?;

    // It is back, and what was left goes.
    assert_eq!(world.east.pods("")?.len(), 1);
    let back = line.leave_wholly(&["--yes"])?;
    assert_eq!(back.code, 0, "{back:?}");
    wait_for_nothing(&world.east, &line)?;
    world.east.wait("the delegate to go", secs(60), |east| match east.pods("")?.first() {
        Some(pod) => bail!("{pod}"),
        None => Ok(()),
    })
}

/// All files below a folder, as one text each.
fn files(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push((path.clone(), fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}

#[test]
fn a_debug_bundle_tells_much_and_no_secret() -> Result<()> {
    let world = Declared::start("bundle")?;
    let line = Line::new(&world, "east")?;
    line.join(&["--account-namespace", &line.apart, "--yes"])?.ok()?;
    // Secrets wherever people put them.
    let (variable, annotation, secret, log) = ("v4riable-secret", "ann0tation-secret", "s3cret-secret", "l0g-secret");
    world.host.create(json!({"kind": "Secret", "metadata": {"name": "settings"}, "stringData": {"WORD": secret}}))?;
    let mut pod = world.pod(&line.name, "web", &[container("main", IDLE)]);
    pod["metadata"]["annotations"] = json!({"example.com/password": annotation});
    pod["spec"]["containers"][0]["env"] = json!([{"name": "PASSWORD", "value": variable}]);
    pod["spec"]["containers"][0]["envFrom"] = json!([{"secretRef": {"name": "settings"}}]);
    world.host.create(pod)?;
    world.host.wait_for_ready("web")?;
    let kubeconfig = World::cluster("host", &line.apart)?.get("secrets", &line.name)?;
    let encoded = kubeconfig["data"]["kubeconfig"].as_str().unwrap_or_default().to_owned();
    let token = World::cluster("east", &line.apart)?.list("secrets", "")?;
    let token = token[0]["data"]["token"].as_str().unwrap_or_default().to_owned();
    let template = "-o=go-template={{range .items}}{{.data.token | base64decode}}{{end}}";
    let plain = World::cluster("east", &line.apart)?.kubectl(&["get", "secrets", template])?.ok()?;
    ensure!(plain.len() > 100 && token.len() > 100 && encoded.len() > 100, "there are secrets to find");

    let dir = tempfile::tempdir()?;
    let said =
        format!("{}\nWARN refused: Authorization: Bearer {log}\nINFO proxy http://me:{log}@proxy:1\n", world.log());
    fs::write(dir.path().join("run.log"), said + &plain)?;
    let (folder, archive) = (dir.path().join("out"), dir.path().join("out.tar.gz"));
    let run_log = dir.path().join("run.log").to_string_lossy().into_owned();
    for place in [&folder, &archive] {
        line.run(&["debug-bundle", "--file", &place.to_string_lossy(), "--run-log", &run_log])?.ok()?;
    }
    run(Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(dir.path()).arg("--one-top-level=unpacked"), b"")?
        .ok()?;
    let found = [files(&folder)?, files(&dir.path().join("unpacked"))?].concat();
    for seed in [variable, annotation, secret, log, &plain, &token, &encoded] {
        let leak = found.iter().find(|(_, text)| text.contains(seed));
        assert!(leak.is_none(), "{seed} in {:?}", leak.map(|(path, _)| path));
    }
    for (name, words) in [
        ("configuration.yaml", line.name.as_str()),
        ("status.yaml", "latencyMilliseconds"),
        ("proxies.yaml", "name: web"),
        ("nodes.yaml", "longshore.dev/Reachable"),
        ("events.yaml", "reason: "),
        ("rights.txt", "ok, v1."),
        ("run.log", "WARN refused"),
    ] {
        let files: Vec<_> = found.iter().filter(|(path, _)| path.ends_with(name)).collect();
        assert!(
            files.len() == 2 && files.iter().all(|(_, text)| text.contains(words)),
            "{words:?} in {name}: {files:?}"
        );
    }
    let again = line.run(&["debug-bundle", "--file", &archive.to_string_lossy()])?;
    assert!(again.code == 1 && again.stderr.contains("choose another place with --file"), "{again:?}");
    line.leave_wholly(&["--yes", "--pods", "delete"])?.ok().map(drop)
}

/// `longshore status` has colours on a terminal, where it may, and nowhere else; watched, it paints over what was there. Other
/// targets of the host may have problems, so that its exit code is either of two.
fn colours_are_for_terminals(line: &Line) -> Result<()> {
    let binary = World::longshore_binary()?;
    let host = line.host.to_string_lossy().into_owned();
    let good = "\x1b[32mReady\x1b[0m";
    // As typed at a prompt, with a last word that tells that all has been printed.
    let shown = |redirect: &str, no_color: Option<&str>| -> Result<String> {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!(r#""$0" status --kubeconfig "$1" {redirect}; echo "ended with $?""#)]);
        shell.arg(&binary).arg(&host).env("TERM", "xterm").env_remove("NO_COLOR");
        shell.envs(no_color.map(|value| ("NO_COLOR", value)));
        let terminal = Terminal::open(shell, 40, 140)?;
        terminal.wait_for("ended with ", secs(60))?;
        Ok(terminal.screen())
    };
    let on_a_terminal = shown("", None)?;
    ensure!(on_a_terminal.contains(&line.name) && on_a_terminal.contains(good), "{on_a_terminal:?}");
    let unwanted = shown("", Some("1"))?;
    ensure!(unwanted.contains(&line.name) && !has_colours(&unwanted), "{unwanted:?}");
    // But for the sign of life, which is not for the pipe.
    let piped = shown("2> /dev/null | cat", None)?;
    ensure!(piped.contains(&line.name) && !piped.contains('\x1b'), "{piped:?}");
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("status");
    shown(&format!("> {}", file.display()), None)?;
    let written = fs::read_to_string(&file)?;
    ensure!(written.contains(&line.name) && !written.contains('\x1b'), "{written:?}");

    let watch = || {
        let mut watch = Command::new(&binary);
        watch.args(["status", "--watch", "--interval", "1", "--kubeconfig", &host]).env("TERM", "xterm");
        watch.env_remove("NO_COLOR");
        watch
    };
    let terminal = Terminal::open(watch(), 40, 140)?;
    terminal.wait_for(good, secs(60))?;
    let cordon = json!({"spec": {"cordoned": true}});
    World::cluster("host", "default")?.patch("targets", &line.name, &cordon)?;
    terminal.wait_for("\x1b[33mReady,Cordoned\x1b[0m", secs(60))?;
    let screen = terminal.screen();
    ensure!(screen.matches("\x1b[H").count() > 1 && screen.contains("\x1b[J"), "from the top each time: {screen:?}");
    drop(terminal);
    let watch = Background::start(&mut watch())?;
    let seen = |watch: &Background| watch.lines().iter().filter(|said| said.starts_with("TARGET ")).count();
    World::cluster("host", "default")?.wait("a second look", secs(60), |_| {
        ensure!(seen(&watch) > 1, "{:?}", watch.lines());
        Ok(())
    })?;
    ensure!(!watch.lines().concat().contains('\x1b'), "{:?}", watch.lines());
    Ok(())
}

/// Whether a text has codes of colours and the like; those that move the cursor are no such.
fn has_colours(text: &str) -> bool {
    let ends = |rest: &str| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m');
    text.split("\x1b[").skip(1).any(ends)
}

#[test]
fn a_person_is_asked_and_sees_colours_and_kubectl_has_a_plugin() -> Result<()> {
    let world = Declared::start("person")?;
    let line = Line::new(&world, "east")?;
    let binary = World::longshore_binary()?;
    let open = |args: &[String]| {
        let mut command = Command::new(&binary);
        command.args(args).env("TERM", "xterm").env_remove("NO_COLOR");
        Terminal::open(command, 40, 140)
    };
    let terminal = open(&line.join_args(&["--account-namespace", &line.apart]))?;
    terminal.wait_for("Go ahead? [y/N]", secs(30))?;
    terminal.type_in("n\n")?;
    assert_eq!(terminal.wait(secs(20))?, 4);
    assert_eq!(made(&world.host, &line)?, [""; 0]);
    let terminal = open(&line.join_args(&["--account-namespace", &line.apart, "--claims"]))?;
    terminal.wait_for("Go ahead? [y/N]", secs(30))?;
    terminal.type_in("y\n")?;
    terminal.wait_for("is ready", secs(60))?;
    assert_eq!(terminal.wait(secs(20))?, 0);

    colours_are_for_terminals(&line)?;

    let dir = tempfile::tempdir()?;
    std::os::unix::fs::symlink(&binary, dir.path().join("kubectl-longshore"))?;
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(World::lab()?.kubectl_path());
    command.args(["longshore", "status", "-o", "json"]).env("PATH", &path).env("KUBECONFIG", &line.host);
    let output = run(&mut command, b"")?;
    let status: Value = serde_json::from_str(&output.stdout)?;
    find(&status["targets"], "name", &line.name)?;
    let mut command = Command::new(World::lab()?.kubectl_path());
    command.args(["longshore", "status", "--nonsense"]).env("PATH", &path);
    let output = run(&mut command, b"")?;
    assert!(output.code == 2 && output.stderr.contains("Usage: kubectl longshore status"), "{output:?}");
    assert_eq!(world.host.get("virtualnodes", &line.name)?["spec"]["claims"], true);
    line.leave_wholly(&["--yes"])?.ok()?;
    for cluster in [&world.host, &world.east] {
        wait_for_nothing(cluster, &line)?;
    }
    Ok(())
}
