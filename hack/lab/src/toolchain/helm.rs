//! helm, built from its own module.

use std::path::{Path, PathBuf};

use super::{Error, Toolchain, build, recipe};
use crate::files;

/// The release of helm.
const RELEASE: &str = "v3.19.5";

const PACKAGE: &str = "helm.sh/helm/v3/cmd/helm";
const MAIN: &str = "package main\n\nfunc main() {}\n";

impl Toolchain {
    /// Builds helm unless the cache has it; some minutes the first time.
    pub fn ensure_helm(&self) -> Result<PathBuf, Error> {
        let module = module();
        let home = self.cache.join(format!("helm-{RELEASE}-{}", recipe(&[&module, MAIN])));
        build::once(&home, &format!("helm {RELEASE}"), |dir: &Path, log| {
            files::write(&dir.join("go.mod"), &module)?;
            files::write(&dir.join("main.go"), MAIN)?;
            build::compile(dir, PACKAGE, "bin/helm", log)
        })?;
        Ok(home.join("bin/helm"))
    }
}

/// A module that requires this release and nothing else, as for kwok.
fn module() -> String {
    format!("module longshore.dev/hack/helm\n\ngo 1.26.0\n\nrequire helm.sh/helm/v3 {RELEASE}\n")
}
