//! The bridge, and each cluster's network namespace and link to it.

use std::{fs, path::Path};

use crate::{
    command,
    plan::{BRIDGE, BRIDGE_IP, BRIDGE_PREFIX, Plan},
    process::run_in_network,
};

/// Why the network is not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bridge could not be made.
    #[error("cannot set up the bridge {BRIDGE}")]
    CreateBridge(#[source] command::Error),
    /// A cluster's namespace or link could not be made.
    #[error("cannot set up the network of cluster {name}")]
    Connect {
        /// The cluster.
        name: String,
        /// Why.
        source: command::Error,
    },
    /// A link could not be switched.
    #[error("cannot switch the link of cluster {name}; is the cluster up?")]
    Switch {
        /// The cluster.
        name: String,
        /// Why.
        source: command::Error,
    },
    /// Something could not be removed.
    #[error("cannot remove a network device or namespace")]
    Remove(#[source] command::Error),
}

fn ip(words: &str) -> Result<String, command::Error> {
    command::run("ip", words.split_whitespace())
}

fn device(name: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(name)
}

/// Makes the bridge with the machine's own address; fine if it is there.
pub(crate) fn ensure_bridge() -> Result<(), Error> {
    let all = || {
        if !device(BRIDGE).exists() {
            ip(&format!("link add {BRIDGE} type bridge"))?;
        }
        ip(&format!("address replace {BRIDGE_IP}/{BRIDGE_PREFIX} dev {BRIDGE}"))?;
        ip(&format!("link set {BRIDGE} up"))
    };
    all().map(drop).map_err(Error::CreateBridge)
}

/// Removes the bridge unless a cluster still hangs on it.
pub(crate) fn remove_idle_bridge() -> Result<(), Error> {
    let ports = fs::read_dir(device(BRIDGE).join("brif")).map_or(0, Iterator::count);
    if ports == 0 && device(BRIDGE).exists() {
        ip(&format!("link delete {BRIDGE}")).map_err(Error::Remove)?;
    }
    Ok(())
}

/// Whether the cluster has its namespace and its link.
pub(crate) fn is_connected(plan: &Plan) -> bool {
    plan.network_namespace().exists() && device(&plan.link()).exists() && device(BRIDGE).exists()
}

/// Makes the cluster's namespace and its link to the bridge.
pub(crate) fn connect(plan: &Plan) -> Result<(), Error> {
    let (scope, link, address, mac) = (plan.scope(), plan.link(), plan.ip(), plan.mac());
    let inside = |words: &str| run_in_network(&plan.network_namespace(), &words.split_whitespace().collect::<Vec<_>>());
    let all = || {
        ip(&format!("netns add {scope}"))?;
        ip(&format!("link add {link} type veth peer name eth0 address {mac} netns {scope}"))?;
        ip(&format!("link set {link} master {BRIDGE} up"))?;
        inside("ip link set lo up")?;
        inside(&format!("ip address add {address}/{BRIDGE_PREFIX} dev eth0"))?;
        inside("ip link set eth0 up")?;
        inside(&format!("ip route add default via {BRIDGE_IP}"))?;
        // Some twenty instances of inotify a cluster: with a kernel's default of 128 the kubelet of the seventh dies.
        let script = "echo 1 >/proc/sys/net/ipv4/ip_forward; f=/proc/sys/fs/inotify/max_user_instances; \
                      [ $(cat $f) -ge 1024 ] || echo 1024 >$f";
        run_in_network(&plan.network_namespace(), &["sh", "-c", script])
    };
    all().map(drop).map_err(|source| Error::Connect { name: plan.name().to_string(), source })
}

/// Removes the cluster's link and namespace, with all that lives in them; fine if there are none.
pub(crate) fn disconnect(plan: &Plan) -> Result<(), Error> {
    if device(&plan.link()).exists() {
        ip(&format!("link delete {}", plan.link())).map_err(Error::Remove)?;
    }
    if plan.network_namespace().exists() {
        ip(&format!("netns delete {}", plan.scope())).map_err(Error::Remove)?;
    }
    Ok(())
}

/// Takes the bridge's side of the cluster's link down or up.
pub(crate) fn switch(plan: &Plan, up: bool) -> Result<(), Error> {
    ip(&format!("link set {} {}", plan.link(), if up { "up" } else { "down" }))
        .map(drop)
        .map_err(|source| Error::Switch { name: plan.name().to_string(), source })
}

/// Whether the cluster's link is down.
pub(crate) fn is_cut(plan: &Plan) -> bool {
    fs::read_to_string(device(&plan.link()).join("flags")).is_ok_and(|flags| !is_up(&flags))
}

/// Reads the lowest bit of an interface's hexadecimal flags.
fn is_up(flags: &str) -> bool {
    u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).is_ok_and(|flags| flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_flag_means_up() {
        assert!(is_up("0x1003\n"));
        assert!(!is_up("0x1002\n"));
    }
}
