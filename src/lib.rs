//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod api;
mod backoff;
mod relist;
pub mod cli;
pub mod errors;
pub mod kubelet;
pub mod leader;
pub mod leftovers;
pub mod provider;
pub mod run;
