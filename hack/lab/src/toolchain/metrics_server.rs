//! metrics-server, which makes the metrics API of what kubelets measure, built from its own module.

use std::path::{Path, PathBuf};

use super::{Error, Toolchain, build, recipe};
use crate::files;

/// The release of metrics-server.
const RELEASE: &str = "v0.9.0";

const PACKAGE: &str = "sigs.k8s.io/metrics-server/cmd/metrics-server";
const MAIN: &str = "package main\n\nfunc main() {}\n";

impl Toolchain {
    /// Builds metrics-server unless the cache has it; some minutes the first time.
    pub fn ensure_metrics_server(&self) -> Result<PathBuf, Error> {
        let module = module();
        let home = self.cache.join(format!("metrics-server-{RELEASE}-{}", recipe(&[&module, MAIN])));
        build::once(&home, &format!("metrics-server {RELEASE}"), |dir: &Path, log| {
            files::write(&dir.join("go.mod"), &module)?;
            files::write(&dir.join("main.go"), MAIN)?;
            build::compile(dir, PACKAGE, "bin/metrics-server", log)
        })?;
        Ok(home.join("bin/metrics-server"))
    }
}

/// A module that requires this release and nothing else: with Kubernetes' own libraries it does not come up.
fn module() -> String {
    format!("module longshore.dev/hack/metrics-server\n\ngo 1.26.0\n\nrequire sigs.k8s.io/metrics-server {RELEASE}\n")
}
