//! The clusters of a run, which nobody else uses, and its end.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::{Lab, Simulation, UpOptions};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Cluster;
use crate::settings::Settings;
use crate::workload::OTHER_IMAGE;

const HOST: &str = "ch-host";
const TARGETS: [&str; 2] = ["ch-east", "ch-west"];

/// What simulated nodes offer. Their pods take their time, so that faults meet them half way.
const NODES: u32 = 4;
const PACE: Duration = Duration::from_millis(1500);

/// Clusters that go with this value.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) runtime: Runtime,
    /// The clusters' names: the host, then the targets.
    pub(crate) names: Vec<String>,
    pub(crate) host: Cluster,
    pub(crate) targets: Vec<Cluster>,
    real: bool,
    interrupted: Arc<AtomicBool>,
    /// Ends before the lock does.
    _clusters: Down,
    _lock: File,
}

/// Takes clusters down.
struct Down(Lab, Vec<String>);

impl Drop for Down {
    fn drop(&mut self) {
        let names: Vec<&str> = self.1.iter().map(String::as_str).collect();
        if let Err(error) = self.0.down_only(&names) {
            eprintln!("chaos: {:#}; `hack/clusters down {}` ends them", anyhow::Error::from(error), names.join(" "));
        }
    }
}

impl World {
    /// Brings up new clusters; whatever is left of an interrupted run goes first.
    pub(crate) fn up(settings: &Settings) -> Result<Self> {
        let path = std::env::temp_dir().join("longshore-storm.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path)?;
        ensure!(lock.try_lock().is_ok(), "another `make chaos` is under way on this machine");
        let lab = Lab::open()?;
        let (runtime, interrupted) = (Runtime::new()?, Arc::new(AtomicBool::new(false)));
        runtime.block_on(async { heed_signals(&interrupted) })?;
        let names: Vec<String> = std::iter::once(HOST).chain(TARGETS).map(ToOwned::to_owned).collect();
        let clusters = Down(lab.clone(), names);
        drop(Down(lab.clone(), clusters.1.clone()));
        let names: Vec<String> = clusters.1[..=settings.targets].to_vec();
        let targets: Vec<&str> = names[1..].iter().map(String::as_str).collect();
        let only_api = UpOptions { kubelet: Some(false), ..UpOptions::default() };
        if settings.real {
            lab.up_with(&[HOST], &only_api)?;
            lab.up(&targets)?;
            for target in &targets {
                lab.load_busybox(target, OTHER_IMAGE)?;
            }
        } else {
            let all: Vec<&str> = names.iter().map(String::as_str).collect();
            lab.up_with(&all, &only_api)?;
        }
        let open = |name: &String| anyhow::Ok(runtime.block_on(Cluster::open(&lab.kubeconfig(name)?))?);
        let host = open(&names[0])?;
        let targets = names[1..].iter().map(open).collect::<Result<_>>()?;
        let real = settings.real;
        let world = Self { lab, runtime, names, host, targets, real, interrupted, _clusters: clusters, _lock: lock };
        world.simulate()?;
        world.check()?;
        Ok(world)
    }

    /// Sees to it that the simulated nodes are at work.
    pub(crate) fn simulate(&self) -> Result<()> {
        for name in self.names[1..].iter().filter(|_| !self.real) {
            self.lab.simulate(name, &Simulation { nodes: NODES, pace: PACE, ..Simulation::default() })?;
        }
        Ok(())
    }

    /// Fails when the run was told to end.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::SeqCst), "interrupted");
        Ok(())
    }

    /// Waits until something holds; says how long that took.
    pub(crate) fn wait(&self, what: &str, within: Duration, mut done: impl FnMut() -> bool) -> Result<Duration> {
        let begun = Instant::now();
        while !done() {
            self.check()?;
            if begun.elapsed() > within {
                bail!("waited {within:?} in vain for {what}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(begun.elapsed())
    }
}

/// The first signal is remembered, and all is put in order; the second ends the process at once.
fn heed_signals(interrupted: &Arc<AtomicBool>) -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).context("signals cannot be heeded")?;
        let interrupted = interrupted.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if interrupted.swap(true, Ordering::SeqCst) {
                    std::process::exit(130);
                }
                eprintln!("chaos: ending; the clusters are taken down first");
            }
        });
    }
    Ok(())
}
