//! The Go module that builds Kubernetes from outside its repository.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Error, Toolchain, VERSION, build, recipe};
use crate::{command, files};

/// Flags of every build.
pub(super) const FLAGS: [&str; 3] = ["build", "-mod=mod", "-trimpath"];

/// A module needs a package of its own.
pub(super) const NO_MAIN: &str = "package main\n\nfunc main() {}\n";
pub(super) const AGNHOST_PACKAGE: &str = "k8s.io/kubernetes/test/images/agnhost";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Download {
    go_mod: String,
}

/// Writes `sources` and a go.mod for them into `dir`. `go` runs a go command there.
pub(super) fn create(
    dir: &Path,
    sources: &[(&str, &str)],
    go: impl Fn(&Path, &[&str]) -> Result<String, command::Error>,
) -> Result<(), Error> {
    create_for(None, dir, sources, go)
}

/// The same for a program of another module, which it requires in this release.
fn create_for(
    other: Option<(&str, &str)>,
    dir: &Path,
    sources: &[(&str, &str)],
    go: impl Fn(&Path, &[&str]) -> Result<String, command::Error>,
) -> Result<(), Error> {
    for (name, text) in sources {
        let path = dir.join(name);
        if let Some(parent) = path.parent() {
            files::create_dir(parent)?;
        }
        files::write(&path, text)?;
    }
    let module = format!("k8s.io/kubernetes@{VERSION}");
    // Outside any module, so that the version asked for is the version described.
    let described = go(dir, &["mod", "download", "-json", &module])
        .map_err(|source| Error::Download { module: module.clone(), source })?;
    let download: Download = serde_json::from_str(&described).map_err(|_| Error::Describe { module })?;
    let theirs = files::read_text(Path::new(&download.go_mod))?;
    let more = other.map(|(other, release)| format!("\nrequire {other} {release}\n")).unwrap_or_default();
    Ok(files::write(&dir.join("go.mod"), render(&theirs, VERSION) + &more)?)
}

/// A program of a module beside Kubernetes, built with Kubernetes' libraries and dependencies as Kubernetes itself is: most of its
/// packages are compiled already (of helm's 933 all but 242). Not all bear it: kwok does not compile, and metrics-server does not
/// come up.
pub(super) struct Beside {
    /// What it is called, also in the cache.
    pub(super) name: &'static str,
    /// Its module.
    pub(super) module: &'static str,
    /// Its release.
    pub(super) release: &'static str,
    /// Its package.
    pub(super) package: &'static str,
}

impl Toolchain {
    /// Builds a program unless the cache has it.
    pub(super) fn ensure_beside(&self, program: &Beside) -> Result<PathBuf, Error> {
        let Beside { name, module, release, package } = *program;
        let home = self.cache.join(format!("{name}-{release}-{}", recipe(&[module, package, NO_MAIN])));
        let output = format!("bin/{name}");
        build::once(&home, &format!("{name} {release}"), |dir: &Path, log| {
            create_for(Some((module, release)), dir, &[("main.go", NO_MAIN)], build::go)?;
            build::compile(dir, package, &output, log)
        })?;
        Ok(home.join(output))
    }
}

/// Turns Kubernetes' own go.mod into that of a module that requires Kubernetes.
///
/// Its dependencies are kept at its versions. Its libraries, which it takes from its own tree (`./staging/src/…`),
/// are published as v0.X.Y for Kubernetes v1.X.Y.
fn render(theirs: &str, version: &str) -> String {
    let library_version = version.replacen("v1.", "v0.", 1);
    let mut lines: Vec<String> = Vec::new();
    for line in theirs.lines() {
        lines.push(if line.starts_with("module ") {
            "module longshore.dev/hack/kubernetes".to_owned()
        } else if let Some((name, path)) = line.split_once(" => ./staging/src/") {
            format!("{name} => {path} {library_version}")
        } else {
            line.to_owned()
        });
    }
    lines.push(format!("\nrequire k8s.io/kubernetes {version}\n"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_libraries_are_taken_from_their_own_modules() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.25.0\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n";
        let ours = render(theirs, "v1.35.4");
        assert!(ours.contains("\tk8s.io/api => k8s.io/api v0.35.4\n"), "{ours}");
        assert!(ours.contains("\tk8s.io/api v0.0.0\n") && ours.contains("go 1.25.0"), "{ours}");
        assert!(ours.ends_with("require k8s.io/kubernetes v1.35.4\n"), "{ours}");
        assert!(!ours.contains("staging") && !ours.contains("module k8s.io"), "{ours}");
    }
}
