//! What the machine must have, and how to get it.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use crate::{command, files, image, process::SEARCH_PATH, toolchain};

/// Why the machine cannot run clusters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not root.
    #[error("clusters need root, for network namespaces, mounts and cgroups: run this with sudo or in a root shell")]
    NotRoot,
    /// Go is missing or too old.
    #[error("Go 1.{} or newer is needed to build Kubernetes, and {found}; see https://go.dev/dl", toolchain::GO_MINOR)]
    Go {
        /// What was found instead.
        found: String,
    },
    /// Something is missing and cannot be installed from here.
    #[error("missing: {}.\nOn Debian or Ubuntu: apt-get install --no-install-recommends {}", missing.join(", "), packages.join(" "))]
    Missing {
        /// The programs.
        missing: Vec<String>,
        /// The Debian packages that have them.
        packages: Vec<String>,
    },
    /// apt-get failed.
    #[error("cannot install {}", packages.join(" "))]
    Install {
        /// The packages.
        packages: Vec<String>,
        /// Why.
        source: command::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Programs and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 11] = [
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("containerd-shim-runc-v2", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("iptables-restore", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("mount", "mount"),
];

/// CNI plugins that the pods' network is made of.
const PLUGINS: [&str; 4] = ["ptp", "portmap", "host-local", "loopback"];

/// Where distributions install CNI plugins.
const PLUGIN_DIRS: [&str; 4] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni", "/usr/lib/x86_64-linux-gnu/cni"];

/// What the container image is made with, the package that has it, and where it may be: one of these is enough.
const FILES: [(&str, &str, &[&str]); 2] = [
    (
        "a list of public CAs",
        "ca-certificates",
        &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"],
    ),
    (
        "a static C library (libc.a)",
        "libc6-dev",
        &[
            "/usr/lib/x86_64-linux-gnu/libc.a",
            "/usr/lib/aarch64-linux-gnu/libc.a",
            "/usr/lib64/libc.a",
            "/usr/lib/libc.a",
        ],
    ),
];

/// Checks all, and installs missing packages if this is root on a Debian-like machine. Returns what it installed.
pub fn ensure() -> Result<Vec<String>, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    check_go()?;
    let (_, packages) = missing();
    if !packages.is_empty() {
        if find("apt-get").is_none() {
            return still_missing().map(|()| Vec::new());
        }
        install(&packages)?;
    }
    still_missing()?;
    Ok(packages)
}

fn still_missing() -> Result<(), Error> {
    let (missing, packages) = missing();
    if missing.is_empty() { Ok(()) } else { Err(Error::Missing { missing, packages }) }
}

/// What is missing, and the packages that have it.
fn missing() -> (Vec<String>, Vec<String>) {
    let programs = PROGRAMS.iter().filter(|(program, _)| find(program).is_none());
    let mut all: Vec<(String, String)> = programs.map(|&(name, package)| (name.into(), package.into())).collect();
    if plugin_dir().is_none() {
        all.push((format!("CNI plugins ({})", PLUGINS.join(", ")), "containernetworking-plugins".into()));
    }
    if busybox().is_none() {
        all.push(("a static busybox".into(), "busybox-static".into()));
    }
    let absent = FILES.iter().filter(|(_, _, places)| !places.iter().any(|place| Path::new(place).is_file()));
    all.extend(absent.map(|&(name, package, _)| (name.into(), package.into())));
    let mut packages: Vec<String> = all.iter().map(|(_, package)| package.clone()).collect();
    packages.sort();
    packages.dedup();
    (all.into_iter().map(|(name, _)| name).collect(), packages)
}

/// The directory that has all CNI plugins.
pub(crate) fn plugin_dir() -> Option<PathBuf> {
    let has_all = |dir: &PathBuf| PLUGINS.iter().all(|plugin| dir.join(plugin).exists());
    PLUGIN_DIRS.iter().map(PathBuf::from).find(has_all)
}

/// A busybox that runs in an image without libraries.
pub fn busybox() -> Option<PathBuf> {
    find("busybox").filter(|path| fs::read(path).is_ok_and(|elf| image::is_static(&elf)))
}

/// A program where the components will look for it.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(SEARCH_PATH).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn check_go() -> Result<(), Error> {
    let version = command::run("go", ["env", "GOVERSION"]).map_err(|_| Error::Go { found: "there is none".into() })?;
    match go_minor(&version) {
        Some(minor) if minor >= toolchain::GO_MINOR => Ok(()),
        _ => Err(Error::Go { found: format!("this is {}", version.trim()) }),
    }
}

/// 26 for `go1.26.8`.
fn go_minor(version: &str) -> Option<u32> {
    version.trim().strip_prefix("go1.")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn install(packages: &[String]) -> Result<(), Error> {
    eprintln!("installing {}", packages.join(" "));
    let _guard = NoServices::forbid()?;
    let apt = |args: &[&str]| {
        let mut command = std::process::Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-q", "-y"]).args(args);
        command::run_command(&mut command).map_err(|source| Error::Install { packages: packages.to_vec(), source })
    };
    apt(&["update"])?;
    let names: Vec<&str> = packages.iter().map(String::as_str).collect();
    apt(&[&["install", "--no-install-recommends"], names.as_slice()].concat()).map(drop)
}

/// While it lives, Debian's packages do not start the services that they bring: nobody asked for a system containerd.
struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    fn forbid() -> Result<Self, files::Error> {
        let path = PathBuf::from("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Self { policy: None });
        }
        files::write(&path, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .map_err(|error| files::Error::new("write", &path, error))?;
        Ok(Self { policy: Some(path) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.policy {
            _ = fs::remove_file(policy);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_understood() {
        assert_eq!(go_minor("go1.26.8\n"), Some(26));
        assert_eq!(go_minor("go1.25rc1"), Some(25));
        assert_eq!(go_minor("devel"), None);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let error = Error::Missing { missing: vec!["runc".into()], packages: vec!["runc".into()] }.to_string();
        assert!(error.contains("missing: runc") && error.contains("install --no-install-recommends runc"));
    }
}
