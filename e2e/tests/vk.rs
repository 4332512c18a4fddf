//! The end-to-end suite of the virtual-kubelet project (hack/vk), against nodes of both providers.

use std::{path::Path, process::Command, time::Duration};

use e2e::{Background, Result, Solo, World, ensure, secs};
use lab::{Lab, Simulation, UpOptions};

/// The first run compiles the suite.
const PATIENCE: Duration = secs(600);

/// All tests of the suite.
const TESTS: [&str; 9] = [
    "TestCreatePodWithMandatoryInexistentConfigMap",
    "TestCreatePodWithMandatoryInexistentSecrets",
    "TestCreatePodWithOptionalInexistentConfigMap",
    "TestCreatePodWithOptionalInexistentSecrets",
    "TestGetMetricsResource",
    "TestGetPods",
    "TestGetStatsSummary",
    "TestPodLifecycleForceDelete",
    "TestPodLifecycleGracefulDelete",
];

/// Runs the suite but for some tests, and sees that all others have passed. docs/provider.md says why some are left out.
fn suite(namespace: &str, node: &str, without: &[&str]) -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("hack").join("vk");
    let mut go = Command::new("go");
    go.current_dir(dir).envs([("CGO_ENABLED", "0"), ("GOWORK", "off"), ("GOFLAGS", "-buildvcs=false")]);
    go.args(["test", "-trimpath", "-count", "1", "-v", ".", "-args"]);
    go.arg("-kubeconfig").arg(World::kubeconfig("host")?);
    go.args(["-namespace", namespace, "-node-name", node, "-without", &without.join(",")]);
    let (code, lines) = Background::start(&mut go)?.wait(PATIENCE)?;
    let said = lines.join("\n");
    ensure!(code == 0, "the suite failed:\n{said}");
    for test in TESTS.iter().filter(|test| !without.contains(test)) {
        ensure!(said.contains(&format!("--- PASS: TestVirtualKubelet/{test} ")), "{test} did not run:\n{said}");
    }
    Ok(())
}

#[test]
fn the_memory_provider_passes() -> Result<()> {
    let solo = Solo::provider("vk", "memory")?;
    suite(&solo.namespace, &solo.node, &[])
}

const TARGET: &str = "vksim";

/// Goes with its cluster.
struct Target(Lab);

impl Drop for Target {
    fn drop(&mut self) {
        _ = self.0.down_only(&[TARGET]);
    }
}

#[test]
fn the_kubernetes_provider_passes() -> Result<()> {
    let target = Target(Lab::open()?);
    target.0.up_with(&[TARGET], &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
    target.0.simulate(TARGET, &Simulation::default())?;
    World::lab()?;
    let world = World::elsewhere("kube", "host", TARGET, |options| options.target_spec = "podIPs: Publish".to_owned())?;
    world.wait_for_node()?;
    // The target measures nothing: it has no metrics API, and its pods are no processes.
    suite(&world.namespace, world.longshore().node(), &["TestGetMetricsResource"])
}
