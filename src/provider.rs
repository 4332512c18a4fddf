//! The Kubernetes provider: all that knows of target clusters.

pub mod capacity;
pub mod feedback;
pub mod names;
pub mod quantity;
pub mod target;
pub mod translate;
pub mod tunnel;
