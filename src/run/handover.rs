//! From one replica to the next: who has let a node go is asked about it until the host knows better.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::time::{Instant, sleep};

use crate::leader::Replica;

/// How often the node is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// Longer than a replica that waits for a node takes to notice that it is free: after that, nobody waits.
const ALONE: Duration = Duration::from_millis(2500);

/// How long the one that has the node now may take to register it.
const PATIENCE: Duration = Duration::from_secs(6);

/// Waits until the host asks somebody else about a node of which the lease was given back, or nobody takes it.
///
/// The API server connects to the address that the Node names. Between the end of one replica and the registration by the next
/// it would be refused, and with it whoever wants logs or a shell at this moment.
pub(super) async fn handed_over(host: &Client, replica: &Replica, node: &str, ip: IpAddr, port: u16) {
    let nodes: Api<Node> = Api::all(host.clone());
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        match nodes.get_opt(node).await {
            Ok(Some(found)) if names(&found, ip, port) => {}
            Ok(Some(_)) => {
                // Who asked where it is just before still comes here.
                sleep(LOOK).await;
                return;
            }
            // Nobody asks for what is not there, and of what is not to be known nothing follows.
            Ok(None) | Err(_) => return,
        }
        if begun.elapsed() >= ALONE && !replica.is_taken(node).await {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Whether a Node is reached at this address.
fn names(node: &Node, ip: IpAddr, port: u16) -> bool {
    let Some(status) = &node.status else { return false };
    let mut addresses = status.addresses.iter().flatten();
    let here = addresses.any(|one| one.type_ == "InternalIP" && one.address.parse() == Ok(ip));
    let kubelet = status.daemon_endpoints.as_ref().and_then(|all| all.kubelet_endpoint.as_ref());
    here && kubelet.is_some_and(|kubelet| kubelet.port == i32::from(port))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_at_one_address_and_port() {
        let node: Node = serde_json::from_value(json!({"status": {
            "addresses": [{"type": "Hostname", "address": "east"}, {"type": "InternalIP", "address": "10.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}}}}))
        .unwrap();
        let ip = |text: &str| text.parse().unwrap();
        assert!(names(&node, ip("10.0.0.1"), 10250));
        assert!(!names(&node, ip("10.0.0.2"), 10250), "another replica");
        assert!(!names(&node, ip("10.0.0.1"), 10251), "another replica of the same machine");
        assert!(!names(&Node::default(), ip("10.0.0.1"), 10250));
    }
}
