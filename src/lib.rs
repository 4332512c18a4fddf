//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod api;
pub mod cli;
pub mod errors;
pub mod kubelet;
pub mod provider;
pub mod run;
