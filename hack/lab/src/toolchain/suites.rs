//! Kubernetes' own end-to-end suites, built from its module, and the program that runs them side by side.

use std::path::PathBuf;

use super::{Error, Toolchain, VERSION, build, module, recipe};

const PACKAGE: &str = "k8s.io/kubernetes/test/e2e";
const RUNNER: &str = "github.com/onsi/ginkgo/v2/ginkgo";
const MAIN: &str = "package main\n\nfunc main() {}\n";

/// The suites are the tests of a package.
const FLAGS: [&str; 4] = ["test", "-c", "-mod=mod", "-trimpath"];

impl Toolchain {
    /// Builds the suites and ginkgo unless the cache has them; some ten minutes the first time. Answers the path of e2e.test.
    pub fn ensure_suites(&self) -> Result<PathBuf, Error> {
        let home = self.cache.join(format!("suites-{VERSION}-{}", recipe(&[PACKAGE, RUNNER, MAIN])));
        build::once(&home, &format!("the suites of Kubernetes {VERSION}"), |dir, log| {
            module::create(dir, &[("main.go", MAIN)], build::go)?;
            build::compile(dir, RUNNER, "bin/ginkgo", log)?;
            build::compile_as(&FLAGS, dir, PACKAGE, "bin/e2e.test", log)
        })?;
        Ok(home.join("bin/e2e.test"))
    }
}
