//! One build at a time, in a temporary directory that appears in the cache only when it is complete.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Error, VERSION, module::FLAGS};
use crate::{command, files, lock::Lock};

/// Linker flags beside the version: no symbol tables, they are half of the size.
pub(super) const LINK_FLAGS: &str = "-s -w";

/// Makes `home` by `build`, unless it exists. `build` gets a directory to fill and a log to append to.
pub(super) fn once(
    home: &Path,
    what: &str,
    build: impl FnOnce(&Path, &Path) -> Result<(), Error> + Send,
) -> Result<(), Error> {
    if home.exists() {
        return Ok(());
    }
    let _lock = Lock::acquire(&home.with_extension("lock"), || eprintln!("waiting for another build of {what}"))?;
    if home.exists() {
        return Ok(());
    }
    let parent = home.parent().unwrap_or(home);
    let work = tempfile::Builder::new()
        .prefix("building-")
        .tempdir_in(parent)
        .map_err(|error| files::Error::new("make a directory in", parent, error))?;
    let log = home.with_extension("log");
    files::remove(&log)?;
    let started = Instant::now();
    with_progress(what, || build(work.path(), &log))?;
    eprintln!("built {what} in {} s", started.elapsed().as_secs());
    fs::rename(work.path(), home).map_err(|error| files::Error::new("create", home, error))?;
    Ok(files::remove(&log)?)
}

/// Runs a go command and returns what it prints.
pub(super) fn go(dir: &Path, args: &[&str]) -> Result<String, command::Error> {
    command::run_command(go_command(dir).args(args))
}

/// Compiles a package into `output`, both relative to `dir`.
pub(super) fn compile(dir: &Path, package: &str, output: &str, log: &Path) -> Result<(), Error> {
    compile_as(&FLAGS, dir, package, output, log)
}

/// The same with a command and flags of its own.
pub(super) fn compile_as(flags: &[&str], dir: &Path, package: &str, output: &str, log: &Path) -> Result<(), Error> {
    let open = || fs::File::options().create(true).append(true).open(log);
    let log_file = open().map_err(|error| files::Error::new("open", log, error))?;
    let status = go_command(dir)
        .args(flags)
        .args(["-ldflags", &format!("{LINK_FLAGS} -X k8s.io/component-base/version.gitVersion={VERSION}")])
        .args(["-o", output, package])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log_file)
        .status()
        .map_err(Error::Start)?;
    if status.success() {
        return Ok(());
    }
    let tail = files::tail(log, 15);
    Err(Error::Build { what: package.to_owned(), log: log.to_owned(), tail })
}

/// Without C: the result runs in an empty image, and no compiler for it is needed.
fn go_command(dir: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(dir).env("CGO_ENABLED", "0").env("GOWORK", "off").env("GOFLAGS", "-buildvcs=false");
    command
}

/// Shows that something happens: each second on a terminal, else each half minute.
fn with_progress<T: Send>(what: &str, work: impl FnOnce() -> T + Send) -> T {
    let started = Instant::now();
    let terminal = io::stderr().is_terminal();
    eprintln!("building {what}: some minutes the first time");
    thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut shown = 0;
        while !work.is_finished() {
            thread::sleep(Duration::from_millis(100));
            let seconds = started.elapsed().as_secs();
            if terminal && seconds > shown {
                eprint!("\r{seconds} s ");
                _ = io::stderr().flush();
                shown = seconds;
            } else if !terminal && seconds >= shown + 30 {
                eprintln!("building {what}: {seconds} s");
                shown = seconds;
            }
        }
        if terminal {
            eprint!("\r");
        }
        work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
