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
    lab: Lab,
    pub(crate) home: Cluster,
    pub(crate) target: Cluster,
    pub(crate) dir: PathBuf,
    keep: bool,
}

impl World {
    pub(crate) async fn up(settings: &Settings) -> Result<Self> {
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
            let args = vec![
                format!("--audit-policy-file={}", policy.display()),
                format!("--audit-log-path={}", log(&dir, name).display()),
                "--audit-log-maxsize=4000".into(),
            ];
            let options = UpOptions { kubelet: Some(false), api_server_args: Some(args), ..UpOptions::default() };
            lab.up_with(&[name], &options)?;
        }
        let nodes = u32::try_from(settings.most().div_ceil(PER_NODE) + 4)?;
        let simulation = Simulation {
            nodes,
            cpu: "256".into(),
            memory: "1Ti".into(),
            pods: u32::try_from(PER_NODE)?,
            ..Simulation::default()
        };
        lab.simulate(TARGET, &simulation)?;
        let home = Cluster::open(&lab.kubeconfig(HOST)?, &dir, HOST).await?;
        let target = Cluster::open(&lab.kubeconfig(TARGET)?, &dir, TARGET).await?;
        Ok(Self { lab, home, target, dir, keep: settings.keep })
    }

    /// Where the audit log of a cluster is.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        log(&self.dir, name)
    }
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
