//! Mounts: a private mount namespace for each node, and the removal of what is mounted below a directory.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{UnmountFlags, unmount};

use crate::{command, files, process::SEARCH_PATH};

/// Why mounts could not be made or undone.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace could not be created.
    #[error("cannot create the node's mount namespace")]
    Create(#[source] command::Error),
    /// Something could not be unmounted.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// Places that the kubelet, containerd and the CNI plugins use whatever their configuration says.
/// In its own mount namespace, each node has its own; on the machine itself nothing is left in them.
const FIXED_PLACES: [&str; 4] = ["/var/lib/kubelet", "/var/lib/cni", "/var/log/containers", "/run/containerd"];

/// Creates a mount namespace that stays until [`unmount_below`] releases `dir`, and returns its path.
///
/// The node needs one of its own for another reason too: containerd sees the volumes that the kubelet mounts only if
/// both are in the same one.
pub(crate) fn create_namespace(dir: &Path) -> Result<PathBuf, Error> {
    let namespace = namespace(dir);
    if is_namespace(&namespace) {
        return Ok(namespace);
    }
    unmount_below(dir)?;
    files::create_dir(dir)?;
    files::write(&namespace, "")?;
    // The kernel refuses a namespace's handle below a mount that would propagate into that namespace.
    let dir_text = dir.to_string_lossy();
    command::run("mount", ["-n", "--bind", &dir_text, &dir_text]).map_err(Error::Create)?;
    command::run("mount", ["-n", "--make-private", &dir_text]).map_err(Error::Create)?;
    let mut setup = String::from("set -e; mount -n --make-rshared /");
    for place in FIXED_PLACES {
        files::create_dir(Path::new(place))?;
        let own = dir.join(place.trim_start_matches('/').replace('/', "-"));
        files::create_dir(&own)?;
        setup = format!("{setup}; mount -n --bind '{}' {place}", own.display());
    }
    let mut mount_flag = std::ffi::OsString::from("--mount=");
    mount_flag.push(&namespace);
    command::run_command(
        Command::new("unshare")
            .arg(mount_flag)
            .args(["--propagation", "slave", "sh", "-c", &setup])
            .env("PATH", SEARCH_PATH),
    )
    .map_err(Error::Create)?;
    Ok(namespace)
}

/// Path of the namespace that [`create_namespace`] creates.
pub(crate) fn namespace(dir: &Path) -> PathBuf {
    dir.join("mnt")
}

/// Where `ip netns` keeps its handles, a directory that it mounts onto itself, and where `mount` keeps notes.
const SHARED_PLACES: [&str; 2] = ["/run/netns", "/run/mount"];

/// Of the places that clusters need on the machine and create, those that exist.
pub(crate) fn existing_places() -> Vec<PathBuf> {
    places().filter(|path| path.exists()).collect()
}

/// Removes the places that are empty and not in `keep`.
pub(crate) fn remove_places(keep: &[PathBuf]) {
    for place in places().filter(|place| !keep.contains(place)) {
        if files::entries(&place).is_ok_and(|entries| entries.is_empty()) {
            _ = unmount_below(&place);
            _ = fs::remove_dir(place);
        }
    }
}

fn places() -> impl Iterator<Item = PathBuf> {
    FIXED_PLACES.into_iter().chain(SHARED_PLACES).map(PathBuf::from)
}

fn is_namespace(path: &Path) -> bool {
    mount_points().is_ok_and(|points| points.iter().any(|point| point == path))
}

/// Unmounts all that is mounted at or below `dir`, the last mounted first.
pub(crate) fn unmount_below(dir: &Path) -> Result<(), Error> {
    for point in mounted_below(dir)?.into_iter().rev() {
        // Lazily: a process of another mount namespace may still look at it.
        unmount(&point, UnmountFlags::DETACH).map_err(|error| files::Error::new("unmount", &point, error))?;
    }
    Ok(())
}

/// The mount points at or below `dir`, in the order of mounting.
pub(crate) fn mounted_below(dir: &Path) -> Result<Vec<PathBuf>, files::Error> {
    let mut points = mount_points()?;
    points.retain(|point| point.starts_with(dir));
    Ok(points)
}

fn mount_points() -> Result<Vec<PathBuf>, files::Error> {
    let text = files::read_text(Path::new("/proc/self/mountinfo"))?;
    Ok(text.lines().filter_map(mount_point).collect())
}

/// The mount point in a line of mountinfo, where blanks are written as three octal digits.
fn mount_point(line: &str) -> Option<PathBuf> {
    let field = line.split(' ').nth(4)?.as_bytes();
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_mount_points_are_understood() {
        let line = r"36 35 98:0 / /mnt/a\040b rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/mnt/a b")));
        assert_eq!(mount_point("36"), None);
    }
}
