//! kwok, which simulates nodes and what their kubelets do, built from its own module.

use std::path::{Path, PathBuf};

use super::{Error, Toolchain, build, recipe};
use crate::files;

/// The release of kwok.
const KWOK_VERSION: &str = "v0.8.0";

const KWOK: &str = "sigs.k8s.io/kwok/cmd/kwok";
const MAIN: &str = "package main\n\nfunc main() {}\n";

impl Toolchain {
    /// Builds kwok unless the cache has it; some minutes the first time.
    pub fn ensure_kwok(&self) -> Result<PathBuf, Error> {
        let module = module();
        let home = self.cache.join(format!("kwok-{KWOK_VERSION}-{}", recipe(&[&module, MAIN])));
        build::once(&home, &format!("kwok {KWOK_VERSION}"), |dir: &Path, log| {
            files::write(&dir.join("go.mod"), &module)?;
            files::write(&dir.join("main.go"), MAIN)?;
            build::compile(dir, KWOK, "bin/kwok", log)
        })?;
        Ok(home.join("bin/kwok"))
    }
}

/// A module that requires this release and nothing else: the rest of its requirements follow from it. An older Go fetches
/// the one that this release asks for.
fn module() -> String {
    format!("module longshore.dev/hack/kwok\n\ngo 1.26.0\n\nrequire sigs.k8s.io/kwok {KWOK_VERSION}\n")
}
