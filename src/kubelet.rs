//! The core: what every virtual kubelet needs, and nothing of clusters.
//!
//! A [`provider`] runs pods somewhere; the core makes a node of it.

pub mod document;
pub mod provider;
pub mod server;
