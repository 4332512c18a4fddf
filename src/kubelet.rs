//! The core: what every virtual kubelet needs, and nothing of clusters.
//!
//! A [`provider`] runs pods somewhere; the core makes a node of it.

pub mod annotations;
pub mod builder;
pub mod certificate;
pub mod contact;
pub mod document;
pub mod events;
pub mod host;
pub mod lanes;
pub mod naive;
pub mod node;
pub mod packed;
pub mod partition;
pub mod pods;
pub mod provider;
pub mod queue;
pub mod references;
pub mod server;
pub mod sites;
pub mod status;
pub mod step;
pub mod stuck;
pub mod table;
pub(crate) mod tasks;
pub mod tolerations;
pub mod view;
pub mod way;
