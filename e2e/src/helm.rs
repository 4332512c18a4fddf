//! What an installation is made with: the real helm, and the image that `make image` builds.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, anyhow, ensure};
use lab::toolchain::Toolchain;

/// Path of helm, which is built the first time.
pub fn helm() -> Result<PathBuf> {
    Ok(Toolchain::open()?.ensure_helm()?)
}

/// `$LONGSHORE_IMAGE`, or the archive that `hack/image` makes of this workspace; once per process. The release build takes
/// minutes the first time.
pub fn image() -> Result<&'static Path> {
    static IMAGE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let made = IMAGE.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    made.as_deref().map_err(|error| anyhow!("there is no image to test: {error}"))
}

fn build() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LONGSHORE_IMAGE").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
    let archive = root.join("target/image/longshore.tar");
    let mut command = Command::new(root.join("hack/image"));
    // What Cargo tells these tests about their package would make build scripts run anew, each time.
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let status = command.arg(&archive).stdin(Stdio::null()).stdout(Stdio::inherit()).status()?;
    ensure!(status.success(), "hack/image failed");
    Ok(archive)
}
