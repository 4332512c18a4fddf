//! metrics-server, which makes the metrics API of what kubelets measure, built from its module. The release is one whose
//! dependencies are no newer than those of Kubernetes.

use std::path::PathBuf;

use super::module::Beside;
use super::{Error, Toolchain};

const PROGRAM: Beside = Beside {
    name: "metrics-server",
    module: "sigs.k8s.io/metrics-server",
    release: "v0.8.0",
    package: "sigs.k8s.io/metrics-server/cmd/metrics-server",
};

impl Toolchain {
    /// Builds metrics-server unless the cache has it; minutes the first time.
    pub fn ensure_metrics_server(&self) -> Result<PathBuf, Error> {
        self.ensure_beside(&PROGRAM)
    }
}
