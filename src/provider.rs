//! The Kubernetes provider: all that knows of targets.

pub mod tunnel;
