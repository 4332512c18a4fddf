//! The removal of a cluster, and the proof that nothing is left of it.

use std::{path::Path, thread, time::Duration};

use crate::{
    cluster::Cluster,
    files, mounts, network,
    process::{self, wait_until},
};

/// How long processes that are not part of the cluster may take to end in good order.
const EXTRA_PATIENCE: Duration = Duration::from_secs(5);

/// Why something is left of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process could not be killed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// The network could not be removed.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// Something could not be unmounted.
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    /// A file could not be removed.
    #[error(transparent)]
    File(#[from] files::Error),
    /// All steps went well, and yet something is there.
    #[error("cluster {name} is down, but left behind: {}", left.join(", "))]
    Left {
        /// The cluster.
        name: String,
        /// What is left.
        left: Vec<String>,
    },
}

/// Removes all that runs and exists for the cluster; fine if there is nothing.
pub(crate) fn remove(cluster: &Cluster) -> Result<(), Error> {
    let components = cluster.components();
    cluster.processes().ask_to_end(EXTRA_PATIENCE, |name| !components.contains(&name))?;
    kill(cluster)?;
    network::disconnect(cluster.plan())?;
    mounts::unmount_below(cluster.dir())?;
    cluster.cgroup().remove()?;
    files::remove_tree(cluster.dir())?;
    let left = leftovers(cluster, cluster.dir());
    if left.is_empty() { Ok(()) } else { Err(Error::Left { name: cluster.plan().name().to_string(), left }) }
}

/// Kills the cluster's processes, and with them all descendants: they are born in the cluster's cgroup.
fn kill(cluster: &Cluster) -> Result<(), Error> {
    let cgroup = cluster.cgroup();
    cluster.processes().kill_all()?;
    let gone = wait_until(Duration::from_secs(15), || {
        let members = cgroup.members();
        for pid in &members {
            // One that cannot be killed shows up as left over.
            _ = process::kill_member(*pid, &cgroup);
        }
        members.is_empty()
    });
    if !gone {
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Everything that is still there of a cluster, in words.
fn leftovers(cluster: &Cluster, dir: &Path) -> Vec<String> {
    let plan = cluster.plan();
    let members = cluster.cgroup().members().into_iter().map(|pid| format!("process {pid}"));
    let mounted = mounts::mounted_below(dir).unwrap_or_default().into_iter();
    let files = [plan.network_namespace(), Path::new("/sys/class/net").join(plan.link()), dir.to_owned()];
    members
        .chain(mounted.map(|point| format!("mount {}", point.display())))
        .chain(files.into_iter().filter(|path| path.exists()).map(|path| path.display().to_string()))
        .collect()
}
