//! One cgroup per cluster, under which all its processes and pods live: what a teardown kills by.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{files, process::wait_until};

/// Where the kernel's cgroup hierarchies are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// The child that the components live in. Version 2 allows no processes beside child groups.
const SYSTEM: &str = "system";

/// A cluster's cgroup, in every hierarchy of version 1 or the one of version 2.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    name: String,
}

impl Cgroup {
    pub(crate) fn new(name: String) -> Self {
        Self { name }
    }

    /// The group's path as the kubelet names it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }

    pub(crate) fn create(&self) -> Result<(), files::Error> {
        for root in hierarchies()? {
            let group = root.join(&self.name);
            inherit(&root, &group)?;
            inherit(&group, &group.join(SYSTEM))?;
        }
        Ok(())
    }

    /// Moves a process into the group of the components.
    pub(crate) fn join(&self, pid: i32) -> Result<(), files::Error> {
        for root in hierarchies()? {
            let processes = root.join(&self.name).join(SYSTEM).join("cgroup.procs");
            match fs::write(&processes, pid.to_string()) {
                // It has ended already: whoever started it finds out with a better message.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(()),
                result => result.map_err(|error| files::Error::new("move a process into", &processes, error))?,
            }
        }
        Ok(())
    }

    /// All processes in the group or below it.
    pub(crate) fn members(&self) -> BTreeSet<i32> {
        let mut members = BTreeSet::new();
        for group in self.groups() {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            members.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        members
    }

    /// Removes the group and all below it. The kernel frees a group some time after its last process.
    pub(crate) fn remove(&self) -> Result<(), files::Error> {
        wait_until(Duration::from_secs(5), || {
            self.groups().iter().rev().for_each(|group| _ = fs::remove_dir(group));
            self.groups().is_empty()
        });
        match self.groups().first() {
            Some(group) => Err(files::Error::new("remove", group, std::io::ErrorKind::ResourceBusy)),
            None => Ok(()),
        }
    }

    /// Directories of the group in all hierarchies, parents before children.
    fn groups(&self) -> Vec<PathBuf> {
        let roots = hierarchies().unwrap_or_default();
        let mut groups: Vec<_> = roots.iter().map(|root| root.join(&self.name)).filter(|dir| dir.is_dir()).collect();
        let mut next = 0;
        while next < groups.len() {
            let children = files::entries(&groups[next]).unwrap_or_default();
            groups.extend(children.into_iter().filter(|path| path.is_dir()));
            next += 1;
        }
        groups
    }
}

/// The mount points of all hierarchies: one for version 2, else one for each set of controllers.
fn hierarchies() -> Result<Vec<PathBuf>, files::Error> {
    let mount = Path::new(MOUNT);
    if mount.join("cgroup.controllers").exists() {
        return Ok(vec![mount.to_owned()]);
    }
    // `cpu` and `cpuacct` are often links to `cpu,cpuacct`: count it once.
    let dirs = files::entries(mount)?.into_iter().filter_map(|path| path.canonicalize().ok());
    let unique: BTreeSet<_> = dirs.filter(|path| path.join("cgroup.procs").exists()).collect();
    Ok(unique.into_iter().collect())
}

/// Creates `child` such that processes can live in it and have all that `parent` has.
fn inherit(parent: &Path, child: &Path) -> Result<(), files::Error> {
    if let Ok(controllers) = fs::read_to_string(parent.join("cgroup.controllers")) {
        // One at a time, errors ignored: some controllers refuse, and no component needs those.
        for controller in controllers.split_whitespace() {
            _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    files::create_dir(child)?;
    // Version 1 starts with empty sets, in which no process can run.
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let (from, to) = (parent.join(file), child.join(file));
        if from.exists() && fs::read_to_string(&to).is_ok_and(|set| set.trim().is_empty()) {
            let set = fs::read_to_string(&from).map_err(|error| files::Error::new("read", &from, error))?;
            if !set.trim().is_empty() {
                files::write(&to, set.trim())?;
            }
        }
    }
    Ok(())
}
