//! End-to-end tests of Longshore on real clusters: the words in which the tests are told.
//!
//! ```no_run
//! use e2e::{IDLE, World, container, secs};
//!
//! # fn main() -> e2e::Result<()> {
//! let world = World::new("hello")?;
//! world.host.create(world.pod("hello", &[container("main", IDLE)]))?;
//! let proxy = world.host.wait_for_ready("hello")?;
//! let delegate = world.delegate(&proxy)?;
//! assert_eq!(delegate.name(), "hello");
//! # Ok(())
//! # }
//! ```
//!
//! A [`World`] is a namespace of its own on both clusters and a Longshore between them. Waiting is always *for*
//! something, and a wait in vain reports what it waited for, what it saw last, the events on both sides and the end of
//! Longshore's log. Nothing skips: without root or clusters the tests fail and say so.

mod berth;
mod bespoke;
mod cluster;
mod collector;
mod command;
mod declared;
mod helm;
mod history;
mod hooked;
mod https;
mod injector;
mod longshore;
mod meddler;
mod pod;
mod prometheus;
mod report;
mod resource;
mod runtime;
mod solo;
mod stories;
mod terminal;
mod wire;
mod world;

use std::time::Duration;

pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};
pub use serde_json::{Value, json};

pub use crate::{
    berth::{Berth, Cut},
    bespoke::{Bespoke, write_json},
    cluster::Cluster,
    collector::{Collector, Span},
    command::{Background, Output, run},
    declared::Declared,
    helm::{helm, image},
    history::{Change, History, Observation},
    hooked::Hooked,
    injector::{Injector, SIDECAR},
    longshore::{Frozen, Longshore, Options},
    meddler::{Asked, Fault, Meddler},
    pod::{IDLE, IMAGE, Pod, container},
    prometheus::Prometheus,
    solo::Solo,
    stories::{deployment, job, stateful_set},
    terminal::Terminal,
    wire::{LegacySocket, kubelet_status, shown_certificate},
    world::World,
};

/// How long a pod may take to start or to stop, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
