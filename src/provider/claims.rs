//! Storage that follows pods: claims of home that are kept in a target.
//!
//! Longshore is the provisioner of the StorageClasses that name [`PROVISIONER`]. The host's scheduler chooses a node for a
//! pod before its claims are bound (`WaitForFirstConsumer`), writes the node on the claim, and waits for the volume. If the
//! node is ours:
//!
//! 1. a target is chosen and written on the claim, so that a restart chooses no other;
//! 2. a claim is made there, with the storage class that the StorageClass maps to;
//! 3. a PersistentVolume is made at home, bound to the claim and to the virtual node.
//!
//! The volume exists before the target has any storage for it: the target may wait for the delegate, which waits for the
//! host's scheduler, which waits for the volume. What fails in the target later is told by events on the claim. The
//! delegate mounts the target's claim; no kubelet of home ever mounts the volume.
//!
//! Everything follows from objects: the claim's annotation, the target's claim (its name has the UID of home's in it, and
//! so do its labels), and the volume, which names both claims by UID. Each step may be repeated, or come late.
//!
//! The life of a volume is that of any external provisioner (sig-storage-lib-external-provisioner): when home's claim goes,
//! Kubernetes releases the volume, and its reclaim policy says what becomes of the target's claim.

mod book;
mod keeper;
mod mounts;
mod plan;

pub use book::Claims;
pub use keeper::{Keeper, KeeperSetup, Site};
pub(super) use mounts::rename;
pub use mounts::{Mount, claims_of, held_for_claims};

/// The provisioner that StorageClasses of ours name.
pub const PROVISIONER: &str = "longshore.dev/claims";

/// The driver in volumes of ours, which exists in name only.
pub const DRIVER: &str = "longshore.dev";

/// Finalizer of volumes of ours: the target's claim is dealt with first, whoever deletes the volume.
pub const FINALIZER: &str = "longshore.dev/claim";
