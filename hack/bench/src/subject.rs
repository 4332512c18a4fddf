//! Who is measured, as a process.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::settings::Settings;

/// How long a start and an end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nobody: pods go straight to the target.
    Plain,
    /// The bare API calls.
    Null,
    Longshore,
}

impl Kind {
    pub(crate) fn parse(name: &str) -> Self {
        match name {
            "plain" => Self::Plain,
            "null" => Self::Null,
            _ => Self::Longshore,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Null => "null",
            Self::Longshore => "longshore",
        }
    }

    /// Its virtual node; plain pods have none.
    pub(crate) fn node(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Null => Some("bench-null"),
            Self::Longshore => Some("bench-longshore"),
        }
    }
}

/// A process that offloads. It ends with this.
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    child: Option<Child>,
    command: Vec<String>,
    log: PathBuf,
}

impl Subject {
    /// Starts it and waits until its node is ready; `plain` is no process at all.
    pub(crate) async fn start(
        kind: Kind,
        settings: &Settings,
        dir: &Path,
        home: &Cluster,
        target: &Cluster,
    ) -> Result<Self> {
        let text = |path: &Path| path.display().to_string();
        let (host, remote, node) = (text(&home.kubeconfig), text(&target.kubeconfig), kind.node().unwrap_or_default());
        let command = match kind {
            Kind::Plain => vec![],
            Kind::Null => {
                let program = text(&null(&settings.out)?);
                vec![program, "--host".into(), host, "--target".into(), remote, "--node".into(), node.into()]
            }
            Kind::Longshore => {
                let file = dir.join("provider.yaml");
                let header = "apiVersion: longshore.dev/v1alpha1\nkind:";
                fs::write(
                    &file,
                    format!(
                        "{header} Target\nmetadata: {{name: east}}\nspec: {{kubeconfig: {{file: {remote}}}}}\n---\n\
                         {header} VirtualNode\nmetadata: {{name: {node}}}\nspec: {{targets: [{{name: east}}]}}\n"
                    ),
                )?;
                let program = text(&settings.longshore);
                let mut command: Vec<String> = vec![program, "run".into(), "--kubeconfig".into(), host];
                command.extend(["--provider-config".into(), text(&file), "--port".into(), "21250".into()]);
                command.extend(["--node-ip".into(), "172.30.0.1".into()]);
                command.extend(settings.flags.iter().cloned());
                command
            }
        };
        let mut subject = Self { kind, child: None, command, log: settings.out.join(format!("{}.log", kind.name())) };
        if kind != Kind::Plain {
            subject.spawn()?;
            subject.ready(home).await?;
        }
        Ok(subject)
    }

    /// Longshore by this command, which may not be ready yet.
    pub(crate) fn of(command: Vec<String>, log: PathBuf) -> Result<Self> {
        let mut subject = Self { kind: Kind::Longshore, child: None, command, log };
        subject.spawn()?;
        Ok(subject)
    }

    /// Starts the process, which may not be ready yet.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let [program, args @ ..] = self.command.as_slice() else { bail!("there is nothing to start") };
        // It dies with the measurement.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(args);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {program}"))?);
        Ok(())
    }

    pub(crate) async fn ready(&mut self, home: &Cluster) -> Result<()> {
        let begun = Instant::now();
        let path = format!("/api/v1/nodes/{}", self.kind.node().unwrap_or_default());
        loop {
            let node = home.send("GET", &path, &Value::Null).await.unwrap_or_default();
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            if conditions.any(|one| one["type"] == "Ready" && one["status"] == "True") {
                return Ok(());
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("{} has ended: {status}; its log is {}", self.kind.name(), self.log.display());
            }
            ensure!(begun.elapsed() < PATIENCE, "the node of {} is not ready", self.kind.name());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The id of the process, if it is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // The shell's own `kill`, lest a library be needed for one signal.
        Command::new("kill").args(["-TERM", &child.id().to_string()]).status()?;
        let begun = Instant::now();
        while child.try_wait()?.is_none() {
            if begun.elapsed() > PATIENCE {
                child.kill()?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = child.wait()?;
        let told = status.signal() == Some(15);
        ensure!(status.success() || told, "{} has ended badly: {status}", self.kind.name());
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// Builds the null offloader; Go's own cache makes that quick the second time.
fn null(out: &Path) -> Result<PathBuf> {
    let program = std::path::absolute(out.join("null-offloader"))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("null");
    let mut build = Command::new("go");
    build.current_dir(&source).env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "-buildvcs=false");
    let status = build.args(["build", "-trimpath", "-o"]).arg(&program).arg(".").status().context("cannot run go")?;
    ensure!(status.success(), "the null offloader cannot be built: {status}");
    Ok(program)
}
