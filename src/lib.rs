//! Longshore offloads pods from one Kubernetes cluster to others.

pub mod kubelet;
pub mod provider;
