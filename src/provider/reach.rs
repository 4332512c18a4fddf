//! Where in a target something may be read: everywhere, or in the namespaces that the credentials are for.

use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use kube::core::{ApiResource, DynamicResourceScope};
use kube::{Api, Client, Resource};

/// The namespaces that may be read, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach(Option<Arc<[String]>>);

impl Reach {
    /// Only these, or all.
    pub fn new(within: Option<&[String]>) -> Self {
        Self(within.map(Into::into))
    }

    /// The only namespaces.
    pub fn within(&self) -> Option<&[String]> {
        self.0.as_deref()
    }

    /// The objects of a kind, in as many places as it takes.
    pub fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match &self.0 {
            None => vec![Api::all(client.clone())],
            Some(within) => within.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect(),
        }
    }

    /// The same for a kind that is known at run time only.
    pub fn apis_of<K>(&self, client: &Client, kind: &ApiResource) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        match &self.0 {
            None => vec![Api::all_with(client.clone(), kind)],
            Some(within) => {
                within.iter().map(|namespace| Api::namespaced_with(client.clone(), namespace, kind)).collect()
            }
        }
    }
}
