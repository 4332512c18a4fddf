//! helm, built from its module.

use std::path::PathBuf;

use super::module::Beside;
use super::{Error, Toolchain};

const PROGRAM: Beside =
    Beside { name: "helm", module: "helm.sh/helm/v3", release: "v3.19.5", package: "helm.sh/helm/v3/cmd/helm" };

impl Toolchain {
    /// Builds helm unless the cache has it; minutes the first time.
    pub fn ensure_helm(&self) -> Result<PathBuf, Error> {
        self.ensure_beside(&PROGRAM)
    }
}
