//! Kueue, which queues Jobs and pods by quotas, built from its own module, with the chart that is in there.

use std::path::{Path, PathBuf};

use super::{Error, Toolchain, build, recipe};
use crate::{command, files};

/// The release of Kueue.
const RELEASE: &str = "v0.17.0";

const MODULE: &str = "sigs.k8s.io/kueue";
const PACKAGE: &str = "sigs.k8s.io/kueue/cmd/kueue";
const MAIN: &str = "package main\n\nfunc main() {}\n";

/// Kueue as one installs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kueue {
    /// Its manager.
    pub program: PathBuf,
    /// Its chart for helm.
    pub chart: PathBuf,
}

impl Toolchain {
    /// Builds Kueue unless the cache has it; some minutes the first time.
    pub fn ensure_kueue(&self) -> Result<Kueue, Error> {
        let module = module();
        let home = self.cache.join(format!("kueue-{RELEASE}-{}", recipe(&[&module, MAIN])));
        build::once(&home, &format!("Kueue {RELEASE}"), |dir: &Path, log| {
            files::write(&dir.join("go.mod"), &module)?;
            files::write(&dir.join("main.go"), MAIN)?;
            build::compile(dir, PACKAGE, "bin/kueue", log)?;
            let failed = |source| Error::Download { module: format!("{MODULE}@{RELEASE}"), source };
            let source = build::go(dir, &["list", "-mod=mod", "-m", "-f", "{{.Dir}}", MODULE]).map_err(failed)?;
            let chart = Path::new(source.trim()).join("charts/kueue");
            let copy = ["-r".into(), "--no-preserve=mode".into(), chart.into_os_string(), dir.join("chart").into()];
            command::run("cp", copy).map(drop).map_err(failed)
        })?;
        Ok(Kueue { program: home.join("bin/kueue"), chart: home.join("chart") })
    }
}

/// A module that requires this release and nothing else, so that it is what is released.
fn module() -> String {
    format!("module longshore.dev/hack/kueue\n\ngo 1.26.0\n\nrequire {MODULE} {RELEASE}\n")
}
