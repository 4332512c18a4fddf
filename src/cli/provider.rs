//! `longshore run --provider NAME`: one node on a provider of the registry.

use clap::Args;
use kube::Config;
use tokio_util::sync::CancellationToken;

use crate::api::clients;
use crate::kubelet::builder::NodeBuilder;
use crate::kubelet::host::Host;
use crate::kubelet::provider::Source;
use crate::registry::{KUBERNETES, ProviderSetup, Registry};
use crate::run::{OtherError, Sharing, keep_other};

use super::run::{Place, RunError};

/// Which provider runs the pods.
#[derive(Args)]
pub struct ProviderArgs {
    /// What runs the pods: `kubernetes` serves what is declared, `memory` pretends
    #[arg(long, value_name = "NAME", default_value = KUBERNETES)]
    provider: String,
    /// The name of the virtual node, for providers other than `kubernetes`
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
}

/// Why no other provider runs.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// There is none of this name.
    #[error("failed to find the provider {name:?}; --provider has to be one of: {known}")]
    Find {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// The node has no name.
    #[error("failed to name the node of the provider {name:?}: give --node-name")]
    NameNode {
        /// The provider.
        name: String,
    },
    /// The Kubernetes provider has its nodes declared.
    #[error("failed to use --node-name, which is for other providers: the nodes of `kubernetes` are declared")]
    NodeDeclared,
    /// The provider could not be made.
    #[error("failed to make the provider {name:?}")]
    Make {
        /// Its name.
        name: String,
        /// What it says.
        #[source]
        source: Source,
    },
}

impl ProviderError {
    /// Whether the flags are to blame.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Make { .. })
    }
}

impl ProviderArgs {
    /// Which other provider is wanted, and the name of its node; `None` for the Kubernetes provider.
    pub(super) fn other(&self, registry: &Registry) -> Result<Option<Other>, ProviderError> {
        let name = self.provider.clone();
        if name == KUBERNETES {
            return if self.node_name.is_some() { Err(ProviderError::NodeDeclared) } else { Ok(None) };
        }
        if !registry.has(&name) {
            return Err(ProviderError::Find { name, known: registry.names().join(", ") });
        }
        match self.node_name.clone() {
            Some(node) => Ok(Some(Other { provider: name, node })),
            None => Err(ProviderError::NameNode { name }),
        }
    }
}

/// A node on another provider.
pub(super) struct Other {
    provider: String,
    node: String,
}

/// Keeps it until it is told to stop.
pub(super) async fn run(
    other: Other,
    registry: &Registry,
    place: Place,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let Other { provider: name, node } = other;
    let client = clients::client(&place.host).await.map_err(RunError::ConnectHost)?;
    let setup = ProviderSetup { node: node.clone(), host: std::sync::Arc::new(Host::new(client.clone())) };
    let made = registry.make(&name, setup);
    let made = made.ok_or_else(|| ProviderError::Find { name: name.clone(), known: registry.names().join(", ") })?;
    let provider = made.map_err(|source| ProviderError::Make { name, source })?;
    let config: Config = (*place.host).clone();
    let build = || {
        NodeBuilder::new(&node, config.clone(), provider.clone())
            .address(place.node_ip, place.port)
            .bind(place.bind_address)
            .certificate(place.certificate.clone())
            .workers(place.workers)
            .relist_after(place.relist_after)
    };
    let sharing = Sharing { namespace: place.lease_namespace, identity: place.identity };
    let kept =
        keep_other(place.host.clone(), client, &node, sharing, (&place.metrics, place.traces), build, shutdown).await;
    kept.map_err(|error: OtherError| RunError::Run(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(provider: &str, node: Option<&str>) -> Result<Option<Other>, ProviderError> {
        let args = ProviderArgs { provider: provider.into(), node_name: node.map(Into::into) };
        args.other(&Registry::default())
    }

    #[test]
    fn a_provider_other_than_kubernetes_has_one_node() {
        assert!(other("kubernetes", None).unwrap().is_none());
        assert!(other("memory", Some("lake")).unwrap().is_some_and(|other| other.node == "lake"));
        assert!(matches!(other("memory", None), Err(ProviderError::NameNode { .. })));
        assert!(matches!(other("kubernetes", Some("lake")), Err(ProviderError::NodeDeclared)));
        let unknown = other("memry", Some("lake")).err().unwrap().to_string();
        assert!(unknown.ends_with("one of: kubernetes, memory"), "{unknown}");
    }
}
