//! What follows from a cluster's name and index: its addresses and the names of its kernel objects.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use crate::name::ClusterName;

/// Indexes run below this: pods use 10.200–10.249, services 10.100–10.149.
const MAX_CLUSTERS: u8 = 50;

/// The bridge that joins all clusters, in the root network namespace.
pub(crate) const BRIDGE: &str = "longshore0";
/// The machine's own address on the bridge.
pub(crate) const BRIDGE_IP: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
/// Prefix length of the bridge's subnet.
pub(crate) const BRIDGE_PREFIX: u8 = 24;

/// Addresses and names of one cluster. No two clusters on a machine share any of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    name: ClusterName,
    index: u8,
}

impl Plan {
    pub(crate) fn new(name: ClusterName, index: u8) -> Self {
        Self { name, index }
    }

    /// The cluster's name.
    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// Address of the API server, the node and its kubelet, reachable from the root network namespace.
    pub fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, 0, 10 + self.index)
    }

    /// Hardware address of the cluster's side of the link: always the same, or a cluster that is made anew would be out
    /// of reach until all others have forgotten its old one.
    pub(crate) fn mac(&self) -> String {
        format!("02:6c:73:00:00:{:02x}", self.index)
    }

    /// URL of the API server.
    pub fn server(&self) -> String {
        format!("https://{}:6443", self.ip())
    }

    /// The range that pods get their addresses from.
    pub fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", 200 + self.index)
    }

    /// The range that services get their addresses from.
    pub fn service_cidr(&self) -> String {
        format!("10.{}.0.0/16", 100 + self.index)
    }

    /// The first service address, which Kubernetes gives to `default/kubernetes`.
    pub(crate) fn api_service_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 100 + self.index, 0, 1)
    }

    /// Name of the cluster's one real node.
    pub fn node(&self) -> String {
        format!("{}-node", self.name)
    }

    /// Name of the network namespace, the cgroup and the CNI network.
    pub(crate) fn scope(&self) -> String {
        format!("longshore-{}", self.name)
    }

    /// Where the network namespace can be entered.
    pub fn network_namespace(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(self.scope())
    }

    /// The bridge's side of the cluster's link.
    pub(crate) fn link(&self) -> String {
        format!("ls-{}", self.name)
    }
}

/// The lowest index that is not taken; `None` when all are.
pub(crate) fn free_index(taken: &BTreeSet<u8>) -> Option<u8> {
    (0..MAX_CLUSTERS).find(|index| !taken.contains(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(name: &str, index: u8) -> Plan {
        Plan::new(name.parse().unwrap(), index)
    }

    #[test]
    fn clusters_share_no_address() {
        let (first, last) = (plan("host", 0), plan("east", MAX_CLUSTERS - 1));
        assert_eq!(first.server(), "https://172.30.0.10:6443");
        assert_eq!((first.pod_cidr(), first.service_cidr()), ("10.200.0.0/16".into(), "10.100.0.0/16".into()));
        assert_eq!(last.ip(), Ipv4Addr::new(172, 30, 0, 59));
        assert_eq!((last.pod_cidr(), last.service_cidr()), ("10.249.0.0/16".into(), "10.149.0.0/16".into()));
    }

    #[test]
    fn the_longest_name_fits_an_interface() {
        assert!(plan("abcdefghij", 0).link().len() <= 15);
    }

    #[test]
    fn indexes_fill_gaps_and_run_out() {
        assert_eq!(free_index(&BTreeSet::new()), Some(0));
        assert_eq!(free_index(&BTreeSet::from([0, 2])), Some(1));
        assert_eq!(free_index(&(0..MAX_CLUSTERS).collect()), None);
    }
}
