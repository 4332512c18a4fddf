//! Services and Ingresses that follow pods into their targets.
//!
//! A Service or an Ingress of home with the annotation [`FOLLOW`] is made in the targets too, as long as it selects pods
//! that are offloaded there (an Ingress: as long as a Service that it points to is there), so that clients in the target
//! reach the delegates, whose labels have the same names. What is there and is not ours is never touched.
//!
//! Nothing is remembered: what is wanted follows from home's object and the delegates, what is there from our labels. Per
//! namespace with offloaded pods there are two watches at home, and per target two of what is ours.

mod follower;
mod plan;
mod tracker;

pub use follower::{Follower, FollowerSetup, Site};
pub use tracker::Tracker;

/// Annotation of a Service or Ingress: `true` for all targets, or their names with commas between them.
pub const FOLLOW: &str = "longshore.dev/follow";
