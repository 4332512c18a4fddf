//! The Kubernetes provider: all that knows of target clusters.

mod before;
pub mod bounds;
pub mod capacity;
pub mod claims;
pub mod feedback;
pub mod fit;
pub mod fleet;
pub mod follow;
mod glance;
pub mod names;
pub mod offload;
pub mod part;
pub mod placement;
pub mod places;
pub mod quantity;
pub mod reach;
pub mod requests;
pub mod room;
pub mod services;
pub mod target;
pub mod teller;
pub mod translate;
pub mod tunnel;
