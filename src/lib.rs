//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod api;
pub mod cli;
pub mod kubelet;
