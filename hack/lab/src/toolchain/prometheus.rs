//! Prometheus and promtool, of Debian's package. It is unpacked beside the other programs and not installed, since it would
//! bring a service and the libraries of its web pages.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Toolchain, build};
use crate::{command, deps, files};

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Prometheus and its tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    /// The server.
    pub server: PathBuf,
    /// promtool.
    pub tool: PathBuf,
}

impl Toolchain {
    /// Those of this machine, or of Debian's package, which is fetched unless the cache has it.
    pub fn ensure_prometheus(&self) -> Result<Prometheus, Error> {
        if let [Some(server), Some(tool)] = PROGRAMS.map(deps::find) {
            return Ok(Prometheus { server, tool });
        }
        let home = self.cache.join("prometheus-debian");
        build::once(&home, "Prometheus, which is fetched", |dir: &Path, _| fetch(dir))?;
        let [server, tool] = PROGRAMS.map(|name| home.join("usr/bin").join(name));
        Ok(Prometheus { server, tool })
    }
}

fn fetch(dir: &Path) -> Result<(), Error> {
    let failed = |source| Error::Fetch { package: PACKAGE, source };
    let download = || command::run_command(Command::new("apt-get").current_dir(dir).args(["-q", "download", PACKAGE]));
    if download().is_err() {
        // The lists of packages may be missing or old.
        command::run("apt-get", ["-q", "update"]).map_err(failed)?;
        download().map_err(failed)?;
    }
    let names = std::fs::read_dir(dir).map_err(|error| files::Error::new("read", dir, error))?;
    let archives = names.flatten().map(|entry| entry.path());
    for archive in archives.filter(|path| path.extension().is_some_and(|end| end == "deb")) {
        command::run_command(Command::new("dpkg").arg("-x").arg(&archive).arg(dir)).map_err(failed)?;
        files::remove(&archive)?;
    }
    Ok(())
}
