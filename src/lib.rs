//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod api;
pub mod kubelet;
