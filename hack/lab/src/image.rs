//! Container images from static files, without a registry or an image builder.

pub(crate) mod tar;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{command, files};
use tar::Tar;

/// The image that holds each pod's namespaces.
pub const PAUSE: &str = "longshore.dev/pause:1";
/// A shell and the usual small tools (`httpd`, `nc`, `tar`, `wget`, …), loaded into every cluster.
pub const BUSYBOX: &str = "longshore.dev/busybox:1";

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not what containers need.
    #[error("{} needs shared libraries: an image of single files takes static programs only", path.display())]
    Dynamic {
        /// The program.
        path: PathBuf,
    },
    /// The list of busybox's tools could not be read.
    #[error("cannot ask busybox for its tools; `hack/clusters deps` installs busybox-static")]
    ListTools(#[source] command::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// An image under construction: one layer of files, and what to run.
#[derive(Clone, Debug)]
pub struct Image {
    reference: String,
    layer: Tar,
    dirs: BTreeSet<String>,
    entrypoint: Vec<String>,
    cmd: Vec<String>,
    user: String,
}

impl Image {
    /// An image with a root user, `/etc`, and `/tmp`. `reference` is its full name with a tag.
    #[must_use]
    pub fn new(reference: &str) -> Self {
        let mut image = Self {
            reference: reference.to_owned(),
            layer: Tar::default(),
            dirs: BTreeSet::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: String::new(),
        };
        image.add_dir("tmp", 0o1777);
        for dir in ["root", "home", "var", "proc", "sys", "dev"] {
            image.add_dir(dir, 0o755);
        }
        image
            .data("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
            .data("/etc/group", b"root:x:0:\nnobody:x:65534:\n", 0o644)
    }

    /// Adds a file with the given contents; its directories are added as needed.
    #[must_use]
    pub fn data(mut self, path: &str, contents: &[u8], mode: u32) -> Self {
        let path = self.add_parents(path);
        self.layer.file(&path, contents, mode);
        self
    }

    /// Adds a program from this machine, which must be static.
    pub fn program(self, from: &Path, to: &str) -> Result<Self, Error> {
        let contents = files::read(from)?;
        if !is_static(&contents) {
            return Err(Error::Dynamic { path: from.to_owned() });
        }
        Ok(self.data(to, &contents, 0o755))
    }

    /// Adds a file from this machine as it is.
    pub fn file(self, from: &Path, to: &str) -> Result<Self, Error> {
        let contents = files::read(from)?;
        Ok(self.data(to, &contents, 0o644))
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        let path = self.add_parents(path);
        self.layer.link(&path, target);
        self
    }

    /// What runs, whatever a pod's `args` say.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// What runs, or what the entrypoint gets, unless a pod's `args` say otherwise.
    #[must_use]
    pub fn cmd<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.cmd = words.into_iter().map(Into::into).collect();
        self
    }

    /// The user it runs as, like `65534:65534`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Writes the image as a docker archive, which `load-image` and `ctr images import` take.
    pub fn write(self, path: &Path) -> Result<(), Error> {
        Ok(files::write(path, self.archive())?)
    }

    fn archive(self) -> Vec<u8> {
        let layer = self.layer.finish();
        let digest = hex_digest(&layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"],
                "Entrypoint": self.entrypoint,
                "Cmd": self.cmd,
                "User": self.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        })
        .to_string();
        let config_name = format!("{}.json", hex_digest(config.as_bytes()));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": [self.reference], "Layers": [layer_name]}]);
        let mut archive = Tar::default();
        archive.file(&config_name, config.as_bytes(), 0o644);
        archive.file(&layer_name, &layer, 0o644);
        archive.file("manifest.json", manifest.to_string().as_bytes(), 0o644);
        archive.finish()
    }

    fn add_dir(&mut self, path: &str, mode: u32) {
        if self.dirs.insert(path.to_owned()) {
            self.layer.dir(path, mode);
        }
    }

    /// Adds the directories above `path`, and returns it without the leading slash.
    fn add_parents(&mut self, path: &str) -> String {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            self.add_dir(&path[..end], 0o755);
        }
        path.to_owned()
    }
}

/// The pause image, from a static program.
pub(crate) fn pause(program: &Path) -> Result<Image, Error> {
    Ok(Image::new(PAUSE).program(program, "/pause")?.entrypoint(["/pause"]))
}

/// The busybox image, with a link in `/bin` for each of its tools.
pub(crate) fn busybox(reference: &str, program: &Path) -> Result<Image, Error> {
    let tools = command::run_command(Command::new(program).arg("--list")).map_err(Error::ListTools)?;
    let image = Image::new(reference).program(program, "/bin/busybox")?.cmd(["sh"]);
    let tools = tools.lines().filter(|tool| *tool != "busybox");
    Ok(tools.fold(image, |image, tool| image.link(&format!("/bin/{tool}"), "busybox")))
}

/// Whether an ELF program runs without a dynamic loader.
pub(crate) fn is_static(elf: &[u8]) -> bool {
    const LOADER_SEGMENT: u32 = 3;
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = elf.get(at..at + size)?;
        bytes.iter().rev().try_fold(0usize, |number, byte| number.checked_mul(256)?.checked_add(usize::from(*byte)))
    };
    let has_loader = || {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        Some((0..count).any(|i| number(table + i * size, 4) == Some(LOADER_SEGMENT as usize)))
    };
    // 64-bit, little-endian: what Kubernetes runs on.
    elf.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) && has_loader() == Some(false)
}

/// The machine's architecture in the words of images and of Go.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_layer_and_tag() {
        let archive = Image::new("longshore.dev/a:1").data("/usr/bin/a", b"x", 0o755).cmd(["a"]).archive();
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains("manifest.json") && text.contains("longshore.dev/a:1") && text.contains("usr/bin/a"));
        assert!(text.contains(r#""Cmd":["a"]"#));
    }

    #[test]
    fn parents_are_added_once() {
        let image = Image::new("a:1").data("/a/b/c", b"", 0o644).data("/a/b/d", b"", 0o644);
        assert!(image.dirs.contains("a") && image.dirs.contains("a/b"));
        let layer = image.layer.finish();
        assert_eq!(layer.windows(5).filter(|window| window == b"a/b/\0").count(), 1);
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(!is_static(b"#!/bin/sh\n"));
        assert!(!is_static(&std::fs::read("/bin/sh").unwrap()));
    }

    #[test]
    fn digests_are_hexadecimal() {
        assert_eq!(hex_digest(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
