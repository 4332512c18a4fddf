//! Long-lived processes that outlive this one: started with a record on disk, found and killed by that record.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::{cgroup::Cgroup, command, files};

/// Why a process could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started.
    #[error("cannot start {name}; `hack/clusters deps` installs or names what is missing")]
    Start {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name} has died; its log is {}, and ends with:\n{tail}", log.display())]
    Died {
        /// Its name.
        name: String,
        /// Where it logs to.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// It could not be signalled.
    #[error("cannot stop {name} (pid {pid})")]
    Signal {
        /// Its name.
        name: String,
        /// Its process id.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// What tells a process from all others, also from a later one with the same id, and across reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    pid: i32,
    /// Clock ticks from boot to the start of the process.
    start: u64,
    boot: String,
}

impl Identity {
    fn of(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start = start_unless_dead(&text)?;
        Some(Self { pid, start, boot: boot_id() })
    }

    fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Sends a signal to exactly this process; nothing happens if it has ended.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(descriptor) => descriptor,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // Compared after opening: from here on the descriptor cannot come to mean another process.
        if !self.is_alive() {
            return Ok(());
        }
        match pidfd_send_signal(descriptor, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Kills one process by its current id, if it is still among `members`' processes when it is looked at again.
pub(crate) fn kill_member(pid: i32, cgroup: &Cgroup) -> io::Result<()> {
    let Some(identity) = Identity::of(pid) else { return Ok(()) };
    if cgroup.members().contains(&pid) { identity.signal(Signal::KILL) } else { Ok(()) }
}

/// The start time in the text of `/proc/PID/stat`; `None` for a process that has ended but is not reaped yet.
fn start_unless_dead(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, which may itself contain spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if matches!(fields.first(), Some(&"Z" | &"X")) { None } else { fields.get(19)?.parse().ok() }
}

/// Changes with every boot of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// A process to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    /// Beside PATH and HOME, which are always set.
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) network_namespace: PathBuf,
    pub(crate) mount_namespace: Option<PathBuf>,
}

/// A process that was started, as it is remembered on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    spec: Spec,
    identity: Identity,
}

/// The processes of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    records: PathBuf,
    logs: PathBuf,
    home: PathBuf,
    cgroup: Cgroup,
}

impl Processes {
    pub(crate) fn new(dir: &Path, cgroup: Cgroup) -> Self {
        Self { records: dir.join("processes"), logs: dir.join("log"), home: dir.join("home"), cgroup }
    }

    /// The log of the process `name`.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Names of all processes that should run.
    pub(crate) fn names(&self) -> Result<Vec<String>, files::Error> {
        let names = files::entries(&self.records)?;
        let stem = |path: PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
        Ok(names.into_iter().filter(|path| path.extension().is_some_and(|e| e == "json")).filter_map(stem).collect())
    }

    pub(crate) fn is_running(&self, name: &str) -> Result<bool, files::Error> {
        Ok(self.record(name)?.is_some_and(|record| record.identity.is_alive()))
    }

    /// Id of the process; `None` if it does not run.
    pub(crate) fn pid(&self, name: &str) -> Result<Option<i32>, files::Error> {
        Ok(self.record(name)?.filter(|record| record.identity.is_alive()).map(|record| record.identity.pid))
    }

    /// Makes the process run as `spec` says: starts it, or restarts it if it runs otherwise. Says whether it did.
    pub(crate) fn ensure(&self, spec: Spec) -> Result<bool, Error> {
        if let Some(record) = self.record(&spec.name)?
            && record.identity.is_alive()
        {
            if record.spec == spec {
                return Ok(false);
            }
            self.stop(&spec.name, Duration::from_secs(5))?;
        }
        self.start(spec)?;
        Ok(true)
    }

    fn start(&self, spec: Spec) -> Result<(), Error> {
        for dir in [&self.records, &self.logs, &self.home] {
            files::create_dir(dir)?;
        }
        let failed = |source| Error::Start { name: spec.name.clone(), source };
        let log = fs::File::options().create(true).append(true).open(self.log(&spec.name)).map_err(failed)?;
        let mut command = Command::new("nsenter");
        command.arg(prefixed("--net=", &spec.network_namespace));
        if let Some(namespace) = &spec.mount_namespace {
            command.arg(prefixed("--mount=", namespace));
        }
        command.arg("--").arg(&spec.program).args(&spec.args);
        // A clean environment: a proxy setting of the caller would send the API server's calls astray.
        command.env_clear().env("PATH", SEARCH_PATH).env("HOME", &self.home).envs(&spec.env);
        command.current_dir(&self.home).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log);
        let mut child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).map_err(|error| failed(io::Error::other(error)))?;
        // nsenter becomes the program without forking, and nothing here forks in its first instant, so that all
        // descendants are born in the cgroup.
        self.cgroup.join(pid)?;
        let identity = Identity::of(pid);
        // Reaped even if this process lives on, as a test runner does.
        thread::spawn(move || child.wait());
        let Some(identity) = identity else { return Err(self.died(&spec.name)) };
        let path = self.record_path(&spec.name);
        Ok(files::write_json(&path, &Record { spec, identity })?)
    }

    /// Asks a process to end, kills it after `patience`, and forgets it. Fine if it does not run.
    pub(crate) fn stop(&self, name: &str, patience: Duration) -> Result<(), Error> {
        let Some(Record { identity, .. }) = self.record(name)? else { return Ok(()) };
        let failed = |source| Error::Signal { name: name.to_owned(), pid: identity.pid, source };
        identity.signal(Signal::TERM).map_err(failed)?;
        if !wait_until(patience, || !identity.is_alive()) {
            identity.signal(Signal::KILL).map_err(failed)?;
            wait_until(Duration::from_secs(5), || !identity.is_alive());
        }
        Ok(files::remove(&self.record_path(name))?)
    }

    /// Asks all processes that `chosen` picks to end, and waits for them no longer than `patience`.
    pub(crate) fn ask_to_end(&self, patience: Duration, chosen: impl Fn(&str) -> bool) -> Result<(), Error> {
        let mut asked = Vec::new();
        for name in self.names()?.into_iter().filter(|name| chosen(name)) {
            let Some(Record { identity, .. }) = self.record(&name)? else { continue };
            let pid = identity.pid;
            identity.signal(Signal::TERM).map_err(|source| Error::Signal { name, pid, source })?;
            asked.push(identity);
        }
        wait_until(patience, || asked.iter().all(|identity| !identity.is_alive()));
        Ok(())
    }

    /// Kills all recorded processes at once.
    pub(crate) fn kill_all(&self) -> Result<(), Error> {
        for name in self.names()? {
            let Some(Record { identity, .. }) = self.record(&name)? else { continue };
            let pid = identity.pid;
            identity.signal(Signal::KILL).map_err(|source| Error::Signal { name, pid, source })?;
        }
        Ok(())
    }

    /// Fails if one of the processes does not run.
    pub(crate) fn check(&self, names: &[&str]) -> Result<(), Error> {
        for name in names {
            if !self.is_running(name)? {
                return Err(self.died(name));
            }
        }
        Ok(())
    }

    fn died(&self, name: &str) -> Error {
        let log = self.log(name);
        Error::Died { name: name.to_owned(), tail: files::tail(&log, 15), log }
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.records.join(format!("{name}.json"))
    }

    fn record(&self, name: &str) -> Result<Option<Record>, files::Error> {
        files::read_json(&self.record_path(name))
    }
}

/// Where components find runc, iptables and the like; ordinary users' PATH lacks the sbin directories.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Polls `done` until it holds; false if it never did.
pub(crate) fn wait_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(25));
    }
}

fn prefixed(flag: &str, path: &Path) -> OsString {
    let mut text = OsString::from(flag);
    text.push(path);
    text
}

/// A command that runs in a network namespace, in the foreground.
pub(crate) fn in_network(namespace: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(prefixed("--net=", namespace)).arg("--");
    command
}

/// Runs a command in a network namespace and waits for it.
pub(crate) fn run_in_network(namespace: &Path, words: &[&str]) -> Result<String, command::Error> {
    command::run_command(in_network(namespace).args(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(!Identity { start: me.start + 1, ..me.clone() }.is_alive());
        assert!(!Identity { boot: "other".into(), ..me }.is_alive());
    }

    #[test]
    fn odd_program_names_do_not_shift_the_start_time() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(start_unless_dead(&format!("7 (a) b (c)) S {rest}")), Some(4242));
        assert_eq!(start_unless_dead(&format!("7 (a) Z {rest}")), None);
    }
}
