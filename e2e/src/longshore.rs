//! Longshore as a process.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{Berth, runtime, secs};

mod frozen;

pub use frozen::Frozen;

/// A stop takes as long as what is under way, which is no more than this.
const STOP_PATIENCE: Duration = secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// How to start Longshore.
#[derive(Clone, Debug)]
pub struct Options {
    /// The virtual node, which nobody else may have.
    pub node: String,
    /// The kubeconfig for the host.
    pub host: PathBuf,
    /// The kubeconfig for the target.
    pub target: PathBuf,
    /// After how many seconds without an answer of the target the node turns NotReady.
    pub heartbeat_seconds: u32,
    /// More fields of the Target's spec, in YAML's flow style; may be empty.
    pub target_spec: String,
    /// Further targets, by name, with their kubeconfigs.
    pub more_targets: Vec<(String, PathBuf)>,
    /// The weights of targets; one if they are not here.
    pub weights: BTreeMap<String, u32>,
    /// More fields of the VirtualNode's spec, in YAML's flow style; may be empty.
    pub node_spec: String,
    /// More flags of `longshore run`.
    pub flags: Vec<String>,
    /// It is told its address; otherwise it finds that.
    pub given_ip: bool,
    /// Where it runs; on the bridge itself without one.
    pub berth: Option<Arc<Berth>>,
}

/// A Longshore of the tests' own. It ends with this value.
pub struct Longshore {
    options: Options,
    port: u16,
    dir: TempDir,
    child: Mutex<Option<Child>>,
    lock: Option<File>,
}

impl Longshore {
    /// Starts it; it is not ready yet.
    pub fn start(options: Options) -> Result<Self> {
        let lock = lock(&options.node)?;
        Self::start_with(options, Some(lock))
    }

    /// Starts another replica for the same virtual node. It ends before this one.
    pub fn twin(&self) -> Result<Self> {
        Self::start_with(self.options.clone(), None)
    }

    /// As [`Longshore::twin`], somewhere else.
    pub fn twin_in(&self, berth: Arc<Berth>) -> Result<Self> {
        Self::start_with(Options { berth: Some(berth), ..self.options.clone() }, None)
    }

    /// As [`Longshore::twin`], started in another way.
    pub fn twin_with(&self, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let mut options = self.options.clone();
        change(&mut options);
        Self::start_with(options, None)
    }

    fn start_with(options: Options, lock: Option<File>) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
        let mut file = String::new();
        let header = "apiVersion: longshore.dev/v1alpha1";
        let (node, target, seconds) = (&options.node, options.target.display(), options.heartbeat_seconds);
        let more = &options.target_spec;
        _ = writeln!(file, "{header}\nkind: Target\nmetadata: {{name: east}}");
        _ = writeln!(
            file,
            "spec: {{kubeconfig: {{file: {target}}}, heartbeat: {{timeoutSeconds: {seconds}}}, {more}}}"
        );
        _ = writeln!(file, "---\n{header}\nkind: VirtualNode\nmetadata: {{name: {node}}}");
        let more_names = options.more_targets.iter().map(|(name, _)| name.as_str());
        let names: Vec<_> = std::iter::once("east")
            .chain(more_names)
            .map(|name| format!("{{name: {name}, weight: {}}}", options.weights.get(name).unwrap_or(&1)))
            .collect();
        let names = names.join(", ");
        _ = writeln!(file, "spec: {{targets: [{names}], {}}}", options.node_spec);
        for (name, kubeconfig) in &options.more_targets {
            let path = kubeconfig.display();
            _ = writeln!(file, "---\n{header}\nkind: Target\nmetadata: {{name: {name}}}");
            _ = writeln!(
                file,
                "spec: {{kubeconfig: {{file: {path}}}, heartbeat: {{timeoutSeconds: {seconds}}}, {more}}}"
            );
        }
        fs::write(dir.path().join("provider.yaml"), file)?;
        let longshore = Self { port: free_port()?, options, dir, child: Mutex::default(), lock };
        longshore.restart()?;
        Ok(longshore)
    }

    /// Starts it again after [`Longshore::stop`] or [`Longshore::kill9`].
    pub fn restart(&self) -> Result<()> {
        self.restart_with(&[])
    }

    /// The same, with these environment variables.
    pub fn restart_with(&self, environment: &[(&str, &str)]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = Command::new("setpriv");
        // Dies with the thread that started it, should the tests be killed.
        command.args(["--pdeathsig", "KILL"]);
        let berth = self.options.berth.as_ref();
        if let Some(berth) = berth {
            command.arg("nsenter").arg(berth.entry());
        }
        command.arg(binary()?).arg("run");
        command.arg("--kubeconfig").arg(&self.options.host);
        command.arg("--provider-config").arg(self.dir.path().join("provider.yaml"));
        command.args(["--port", &self.port.to_string()]);
        if self.options.given_ip {
            command.args(["--node-ip", &berth.map_or(BRIDGE.to_owned(), |berth| berth.ip().to_string())]);
        }
        command.args(&self.options.flags).envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A thread of the runtime lives as long as the tests do; the one of a test does not.
        let child = runtime::block_on(runtime::spawn(async move { command.spawn() }))?;
        *self.child() = Some(child.context("failed to start Longshore with setpriv")?);
        Ok(())
    }

    /// Ends it as a power cut would.
    pub fn kill9(&self) -> Result<()> {
        let mut child = self.child().take().context("Longshore does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&self) -> Result<ExitStatus> {
        let mut child = self.child().take().context("Longshore does not run")?;
        let status = terminate(&mut child);
        _ = child.kill();
        _ = child.wait();
        status
    }

    /// Whether it has ended by itself, after which it can be started again.
    pub fn has_ended(&self) -> Result<bool> {
        let mut guard = self.child();
        let child = guard.as_mut().context("Longshore does not run")?;
        if child.try_wait()?.is_none() {
            return Ok(false);
        }
        *guard = None;
        Ok(true)
    }

    /// Fails if it has ended by itself.
    pub fn check(&self) -> Result<()> {
        let mut guard = self.child();
        let child = guard.as_mut().context("Longshore does not run")?;
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("Longshore has ended with {status}:\n{}", self.log()),
        }
    }

    /// How it has ended, if it was started and runs no more. It can be started again then.
    pub fn ended(&self) -> Result<Option<ExitStatus>> {
        match self.child().as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Everything that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The file that declares its target and its node.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("provider.yaml")
    }

    pub(crate) fn log_path(&self) -> PathBuf {
        self.dir.path().join("longshore.log")
    }

    /// Its virtual node.
    pub fn node(&self) -> &str {
        &self.options.node
    }

    /// Where its kubelet API listens.
    pub fn kubelet_url(&self) -> String {
        format!("https://{BRIDGE}:{}", self.port)
    }

    /// The port of its kubelet API.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its resident memory.
    pub fn rss_kib(&self) -> Result<u64> {
        let pid = self.child().as_ref().context("Longshore does not run")?.id();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.check().is_ok()
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Longshore {
    fn drop(&mut self) {
        if self.child().is_some() {
            _ = self.stop();
        }
        // Still held: whoever waits for it sees that it is gone and makes a new one.
        if self.lock.is_some() {
            _ = fs::remove_file(lock_path(&self.options.node));
        }
    }
}

/// The machine's own address on the clusters' bridge.
pub(crate) const BRIDGE: &str = "172.30.0.1";

fn terminate(child: &mut Child) -> Result<ExitStatus> {
    let pid = Pid::from_raw(i32::try_from(child.id())?).context("no pid")?;
    kill_process(pid, Signal::TERM)?;
    let end = Instant::now() + STOP_PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        ensure!(Instant::now() < end, "Longshore did not end within {STOP_PATIENCE:?} after SIGTERM");
        thread::sleep(PAUSE);
    }
}

/// Two runs of the tests on one machine must not have the same virtual node at once.
fn lock(node: &str) -> Result<File> {
    let path = lock_path(node);
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        file.lock()?;
        if fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino())) {
            return Ok(file);
        }
    }
}

fn lock_path(node: &str) -> PathBuf {
    env::temp_dir().join(format!("longshore-{node}.lock"))
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((BRIDGE, 0)).context("the clusters' bridge is not there")?.local_addr()?.port())
}

/// `$LONGSHORE_BIN`, or what Cargo builds of this workspace; once per process.
pub(crate) fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow!("there is no Longshore to test: {error}"))
}

fn build() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LONGSHORE_BIN").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "LONGSHORE_BIN is {}, which is no file", path.display());
        return Ok(path);
    }
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--package", "longshore", "--bin", "longshore", "--example", "memory"]);
    cargo.args(["--features", "crash-points"]);
    cargo.args(["--message-format", "json"]);
    // What Cargo tells these tests about their package would make build scripts run anew, each time.
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            cargo.env_remove(name);
        }
    }
    let output = cargo.arg("--manifest-path").arg(manifest).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "cargo build failed");
    // Each line is a message; the one about the program names it.
    let messages = String::from_utf8(output.stdout)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.rev().filter(|message| message["target"]["kind"][0] == "bin");
    let path = programs.find_map(|message| message["executable"].as_str().map(PathBuf::from));
    path.context("cargo built no program")
}
