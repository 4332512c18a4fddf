//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod api;
mod backoff;
pub mod cli;
pub mod errors;
pub mod kubelet;
pub mod leader;
pub mod leftovers;
pub mod provider;
mod relist;
pub mod run;
