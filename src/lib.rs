//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod admission;
pub mod api;
mod backoff;
pub mod cli;
pub mod errors;
pub mod kubelet;
pub mod leader;
pub mod leftovers;
pub mod memory;
pub mod metrics;
mod only;
mod paging;
pub mod provider;
pub mod registry;
mod relist;
pub mod run;
mod shared;
pub mod traces;
