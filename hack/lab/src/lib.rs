//! Real Kubernetes clusters on one Linux machine, without Docker.
//!
//! ```text
//!   root network namespace                  namespace longshore-east
//!   ┌───────────────────────────┐           ┌──────────────────────────────────────────────┐
//!   │ longshore0  172.30.0.1/24 │           │ eth0 172.30.0.11/24                          │
//!   │   ├── ls-host ────────────┼── ...     │ etcd, kube-apiserver, -controller-manager,   │
//!   │   └── ls-east ────────────┼───────────┤ -scheduler, -proxy, kubelet, containerd      │
//!   └───────────────────────────┘           │   pods 10.201.0.0/16, services 10.101.0.0/16 │
//!                                           └──────────────────────────────────────────────┘
//! ```
//!
//! Each cluster is a set of ordinary processes in a network namespace of its own, so taking the bridge's side of its
//! link down is a real partition. Kubernetes is built from its Go modules once and cached; containerd, runc and the
//! CNI plugins are the distribution's.
//!
//! ```no_run
//! let lab = lab::Lab::open()?;
//! lab.up(&["host", "east"])?;
//! println!("export KUBECONFIG={}", lab.kubeconfig("host")?.display());
//! lab.cut("east")?;
//! lab.heal("east")?;
//! lab.down()?;
//! # Ok::<(), lab::Error>(())
//! ```
//!
//! Everything needs root.

mod api;
mod cgroup;
mod cluster;
mod command;
mod control_plane;
pub mod deps;
mod files;
pub mod image;
mod kubeconfig;
mod lab;
mod lock;
mod measure;
mod mounts;
mod name;
mod network;
mod node;
mod pki;
mod plan;
mod process;
mod simulate;
mod status;
mod teardown;
pub mod toolchain;

pub use crate::{
    lab::{Error, Lab, Process, UpOptions},
    name::{ClusterName, InvalidName},
    plan::Plan,
    simulate::Simulation,
    status::ClusterStatus,
};
