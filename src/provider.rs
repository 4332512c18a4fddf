//! The Kubernetes provider: all that knows of target clusters.

pub mod bounds;
pub mod capacity;
pub mod feedback;
pub mod fleet;
pub mod follow;
pub mod names;
pub mod placement;
pub mod quantity;
pub mod requests;
pub mod target;
pub mod translate;
pub mod tunnel;
