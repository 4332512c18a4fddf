//! What a user declares, and what can be known of it before anything runs.
//!
//! ```text
//!   provider.yaml ──► document ──► decode ──► Target, VirtualNode ──► Configuration
//!                     (places)    (shapes)        (findings)        (references)
//!                                                                         │
//!   kubeconfigs ─────────────────► clients ◄──────────────────────────────┘
//!                                     │
//!                                  rights, diagnosis
//! ```
//!
//! Only fields that this version honours exist. A field that is silently ignored would be a promise broken later, so
//! everything else is refused by name.

pub mod clients;
pub mod configuration;
pub mod crds;
mod decode;
pub mod diagnosis;
mod document;
pub mod field;
pub mod guardrails;
pub mod names;
pub mod profile;
pub mod resource;
pub mod rights;
pub mod status;
pub mod target;
pub mod virtual_node;

pub use configuration::{ConfigErrors, Configuration, Declared};
pub use diagnosis::{Trouble, Version};
pub use rights::Right;
pub use target::TargetSpec;
pub use virtual_node::{Taint, TaintEffect, VirtualNodeSpec};

/// The API version of every resource of Longshore.
pub const API_VERSION: &str = "longshore.dev/v1alpha1";
