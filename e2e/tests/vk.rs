//! The end-to-end suite of the virtual-kubelet project (hack/vk), against nodes of both providers.

use std::{path::Path, process::Command, time::Duration};

use e2e::{Background, Context, IDLE, Injector, Result, Solo, Value, World, ensure, json, secs};
use lab::{Lab, Simulation};

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

/// A target of the test's own, since a metrics API is there for everybody.
const TARGET: &str = "vkeast";

/// Goes with its cluster.
struct Target(Lab);

impl Drop for Target {
    fn drop(&mut self) {
        _ = self.0.down_only(&[TARGET]);
    }
}

/// Gives the target what the suite's pods ask for: they name images as if there were a registry.
fn load_images(lab: &Lab) -> Result<()> {
    let busybox = lab::deps::busybox().context("no busybox")?;
    for name in ["foo", "bar", "baz"] {
        let archive = tempfile::Builder::new().suffix(".tar").tempfile()?;
        let image = lab::image::Image::new(&format!("docker.io/library/{name}:latest"));
        let image = image.program(&busybox, "/bin/busybox")?.link("/bin/sleep", "busybox");
        image.entrypoint(["/bin/busybox", "sh", "-c", IDLE]).write(archive.path())?;
        lab.load_image(TARGET, archive.path())?;
    }
    Ok(())
}

/// A policy of the target, which has no registry: a name without a tag would be asked for there each time.
fn unpulled(pod: &Value) -> Value {
    let count = pod["spec"]["containers"].as_array().map_or(0, Vec::len);
    let patch = |index| {
        let path = format!("/spec/containers/{index}/imagePullPolicy");
        json!({"op": "add", "path": path, "value": "IfNotPresent"})
    };
    (0..count).map(patch).collect()
}

#[test]
fn the_kubernetes_provider_passes() -> Result<()> {
    let target = Target(Lab::open()?);
    target.0.up(&[TARGET])?;
    load_images(&target.0)?;
    target.0.measure(TARGET)?;
    World::lab()?;
    let world = World::elsewhere("kube", "host", TARGET, |options| options.target_spec = "podIPs: Publish".to_owned())?;
    world.wait_for_node()?;
    let _policy = Injector::patching(&world.east, &world.namespace, unpulled)?;
    let (namespace, node) = (world.namespace.as_str(), world.longshore().node());
    // It wants a pod to have stopped a second after its deletion; a kubelet looks at its containers once a second.
    suite(namespace, node, &["TestPodLifecycleGracefulDelete"])?;
    // What runs on a simulated node stops at once, and nobody can measure it.
    target.0.simulate(TARGET, &Simulation::default())?;
    world.east.kubectl(&["cordon", &format!("{TARGET}-node")])?.ok()?;
    suite(namespace, node, &["TestGetMetricsResource"])
}
