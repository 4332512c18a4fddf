//! Which providers there are, by name: what `longshore run --provider NAME` chooses from.
//!
//! A binary of its own with more of them is a few lines:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use clap::Parser;
//! use longshore::cli::Cli;
//! use longshore::memory::Memory;
//! use longshore::registry::Registry;
//!
//! let mut registry = Registry::default();
//! registry.add("mine", |_setup| Ok(Arc::new(Memory::new())));
//! Cli::parse().execute_with(&registry)?;
//! # Ok::<(), longshore::cli::CliError>(())
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kubelet::provider::{HostView, Provider, Source};
use crate::memory::Memory;

/// The name of the Kubernetes provider. It is not in the registry, since it serves as many nodes as are declared, each with
/// as many targets.
pub const KUBERNETES: &str = "kubernetes";

/// What a provider is made for.
#[derive(Clone)]
pub struct ProviderSetup {
    /// The name of its node.
    pub node: String,
    /// The host, as far as providers see it.
    pub host: Arc<dyn HostView>,
}

type Make = Box<dyn Fn(ProviderSetup) -> Result<Arc<dyn Provider>, Source> + Send + Sync>;

/// Providers by name, each of which makes one node.
pub struct Registry(BTreeMap<String, Make>);

impl Default for Registry {
    /// Those of this crate.
    fn default() -> Self {
        let mut registry = Self(BTreeMap::new());
        registry.add("memory", |setup| Ok(Arc::new(Memory::new().looking_at(setup.host))));
        registry
    }
}

impl Registry {
    /// Adds a provider, in the place of one that has the name. It is made within the runtime, before the node is.
    pub fn add(
        &mut self,
        name: impl Into<String>,
        make: impl Fn(ProviderSetup) -> Result<Arc<dyn Provider>, Source> + Send + Sync + 'static,
    ) {
        self.0.insert(name.into(), Box::new(make));
    }

    /// All names, the Kubernetes provider's first.
    pub fn names(&self) -> Vec<&str> {
        [KUBERNETES].into_iter().chain(self.0.keys().map(String::as_str)).collect()
    }

    /// Makes the provider of this name; `None` where there is none.
    ///
    /// # Errors
    /// Whatever it says itself.
    pub fn make(&self, name: &str, setup: ProviderSetup) -> Option<Result<Arc<dyn Provider>, Source>> {
        self.0.get(name).map(|make| make(setup))
    }

    /// Whether there is a provider of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_are_found_by_name() {
        let mut registry = Registry::default();
        registry.add("mine", |_| Ok(Arc::new(Memory::new())));
        assert_eq!(registry.names(), ["kubernetes", "memory", "mine"]);
        assert!(registry.has("mine") && !registry.has("yours"));
    }
}
