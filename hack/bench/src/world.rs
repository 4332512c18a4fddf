//! The clusters of a run, which nobody else uses, and their end.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lab::{Lab, Simulation, UpOptions};

use crate::audit;
use crate::cluster::Cluster;
use crate::settings::Settings;

pub(crate) const HOST: &str = "b-host";
pub(crate) const TARGET: &str = "b-east";

/// How many pods a simulated node takes.
const PER_NODE: usize = 500;

/// Two clusters without kubelets; the target has simulated nodes.
pub(crate) struct World {
    pub(crate) lab: Lab,
    pub(crate) home: Cluster,
    pub(crate) target: Cluster,
    pub(crate) dir: PathBuf,
    keep: bool,
}

impl World {
    pub(crate) async fn up(settings: &Settings) -> Result<Self> {
        let world = Self::begin(settings, false).await?;
        let nodes = u32::try_from(settings.most().div_ceil(PER_NODE) + 4)?;
        let simulation = Simulation {
            nodes,
            cpu: "256".into(),
            memory: "1Ti".into(),
            pods: u32::try_from(PER_NODE)?,
            ..Simulation::default()
        };
        world.lab.simulate(TARGET, &simulation)?;
        Ok(world)
    }

    /// The target has one real node and no other.
    pub(crate) async fn real(settings: &Settings) -> Result<Self> {
        Self::begin(&Settings { keep: false, ..settings.clone() }, true).await
    }

    async fn begin(settings: &Settings, real: bool) -> Result<Self> {
        let lab = Lab::open()?;
        // Beside their state: it has to be there for as long as they are.
        let dir = std::env::temp_dir().join("longshore-bench");
        std::fs::create_dir_all(&dir)?;
        let policy = dir.join("audit-policy.yaml");
        std::fs::write(&policy, audit::policy())?;
        if !settings.keep {
            lab.down_only(&[HOST, TARGET])?;
        }
        for name in [HOST, TARGET] {
            lab.up_with(&[name], &options(&dir, name, real && name == TARGET))?;
        }
        let home = Cluster::open(&lab.kubeconfig(HOST)?, &dir, HOST).await?;
        let target = Cluster::open(&lab.kubeconfig(TARGET)?, &dir, TARGET).await?;
        Ok(Self { lab, home, target, dir, keep: settings.keep })
    }

    /// Ends both API servers and starts them again, one after the other.
    pub(crate) fn restart(&self) -> Result<()> {
        for name in [HOST, TARGET] {
            self.lab.stop(name, "kube-apiserver")?;
            self.lab.up_with(&[name], &options(&self.dir, name, false))?;
        }
        Ok(())
    }

    /// Where the audit log of a cluster is.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        log(&self.dir, name)
    }
}

fn options(dir: &Path, name: &str, kubelet: bool) -> UpOptions {
    let args = vec![
        format!("--audit-policy-file={}", dir.join("audit-policy.yaml").display()),
        format!("--audit-log-path={}", log(dir, name).display()),
        "--audit-log-maxsize=4000".into(),
    ];
    UpOptions { kubelet: Some(kubelet), api_server_args: Some(args), ..UpOptions::default() }
}

fn log(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.audit"))
}

impl Drop for World {
    fn drop(&mut self) {
        if self.keep {
            return eprintln!("bench: the clusters stay; `hack/clusters down {HOST} {TARGET}` ends them");
        }
        if let Err(error) = self.lab.down_only(&[HOST, TARGET]) {
            eprintln!("bench: {:#}; `hack/clusters down {HOST} {TARGET}` ends them", anyhow::Error::from(error));
        }
        _ = std::fs::remove_dir_all(&self.dir);
    }
}
