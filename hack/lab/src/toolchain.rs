//! Kubernetes' programs, built once from Go modules into a cache.

mod build;
mod helm;
mod kueue;
mod kwok;
mod metrics_server;
mod module;
mod prometheus;
mod suites;

use std::{
    env, io,
    path::{Path, PathBuf},
};

pub use kueue::Kueue;
pub use prometheus::Prometheus;

use crate::{command, files, image::hex_digest};

/// The Kubernetes release that clusters run.
///
/// 1.35 is the last that works with containerd 1.x, which is what Debian 12 has.
pub const VERSION: &str = "v1.35.4";
/// The oldest Go that builds it.
pub(crate) const GO_MINOR: u32 = 25;

const MAIN: &str = include_str!("../kubernetes/main.go");
const PAUSE: &str = include_str!("../kubernetes/pause/main.go");

/// The names that the one binary answers to.
const COMPONENTS: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"];

/// Why there are no programs to run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place for the cache.
    #[error("cannot tell where to cache programs: set LONGSHORE_CACHE or HOME")]
    NoCache,
    /// The module could not be downloaded.
    #[error("cannot download {module}; does `go env GOPROXY` name a module proxy that can be reached?")]
    Download {
        /// The module with its version.
        module: String,
        /// Why.
        source: command::Error,
    },
    /// The module's description is not as expected.
    #[error("cannot understand what `go mod download` says of {module}")]
    Describe {
        /// The module with its version.
        module: String,
    },
    /// The build could not be started.
    #[error("cannot run go; `hack/clusters deps` tells how to get it")]
    Start(#[source] io::Error),
    /// The build failed.
    #[error("cannot build {what}; the log is {}, and ends with:\n{tail}", log.display())]
    Build {
        /// What was being built.
        what: String,
        /// The build's log.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// A Debian package could not be fetched.
    #[error("cannot fetch the Debian package {package}; on another system, install Prometheus and promtool")]
    Fetch {
        /// The package.
        package: &'static str,
        /// Why.
        source: command::Error,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// The cache of built programs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    cache: PathBuf,
}

impl Toolchain {
    /// Uses `$LONGSHORE_CACHE`, else `$XDG_CACHE_HOME/longshore`, else `$HOME/.cache/longshore`. Builds nothing yet.
    pub fn open() -> Result<Self, Error> {
        let dir = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = dir("LONGSHORE_CACHE")
            .or_else(|| Some(dir("XDG_CACHE_HOME")?.join("longshore")))
            .or_else(|| Some(dir("HOME")?.join(".cache/longshore")))
            .ok_or(Error::NoCache)?;
        let cache = std::path::absolute(&cache).map_err(|error| files::Error::new("find", &cache, error))?;
        Ok(Self { cache })
    }

    /// Path of a program, whether or not it is built: a Kubernetes component, `kubectl`, `etcd` or `pause`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.kubernetes().join("bin").join(name)
    }

    /// Path of agnhost, Kubernetes' own test image program, whether or not it is built.
    pub fn agnhost(&self) -> PathBuf {
        self.cache.join(format!("agnhost-{VERSION}-{}", recipe(&[module::NO_MAIN]))).join("bin/agnhost")
    }

    /// Builds all programs of a cluster unless the cache has them; minutes the first time.
    pub fn ensure(&self) -> Result<(), Error> {
        build::once(&self.kubernetes(), &format!("Kubernetes {VERSION}"), |dir, log| {
            module::create(dir, &[("main.go", MAIN), ("pause/main.go", PAUSE)], build::go)?;
            build::compile(dir, ".", "bin/kube", log)?;
            build::compile(dir, "./pause", "bin/pause", log)?;
            for name in COMPONENTS {
                let link = dir.join("bin").join(name);
                std::os::unix::fs::symlink("kube", &link).map_err(|error| files::Error::new("create", &link, error))?;
            }
            Ok(())
        })
    }

    /// Builds agnhost unless the cache has it.
    pub fn ensure_agnhost(&self) -> Result<PathBuf, Error> {
        let program = self.agnhost();
        let home = program.parent().and_then(Path::parent).unwrap_or(&self.cache);
        build::once(home, &format!("agnhost of Kubernetes {VERSION}"), |dir, log| {
            module::create(dir, &[("main.go", module::NO_MAIN)], build::go)?;
            build::compile(dir, module::AGNHOST_PACKAGE, "bin/agnhost", log)
        })?;
        Ok(program)
    }

    fn kubernetes(&self) -> PathBuf {
        self.cache.join(format!("kubernetes-{VERSION}-{}", recipe(&[MAIN, PAUSE])))
    }
}

/// Names all that decides what a build gives, so that a changed recipe builds anew.
fn recipe(sources: &[&str]) -> String {
    let parts = [VERSION, &module::FLAGS.join(" "), build::LINK_FLAGS];
    let text = parts.iter().chain(sources).copied().collect::<Vec<_>>().join("\n");
    hex_digest(text.as_bytes())[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_changes_the_recipe() {
        assert_eq!(recipe(&["a"]), recipe(&["a"]));
        assert_ne!(recipe(&["a"]), recipe(&["b"]));
        assert_eq!(recipe(&["a"]).len(), 12);
    }

    #[test]
    fn every_component_is_in_the_program() {
        for name in COMPONENTS {
            assert!(MAIN.contains(&format!("\"{name}\"")), "{name}");
        }
    }
}
