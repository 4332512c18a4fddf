//! Two clusters, a namespace on both, and Longshore between them.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use lab::Lab;
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    berth::Berth,
    cluster::Cluster,
    command::Output,
    history::History,
    longshore::{self, Longshore, Options},
    pod::{self, Pod},
    report::Scene,
    secs,
};

/// Where a test takes place. Dropping it deletes the test's namespaces.
pub struct World {
    /// The cluster that users talk to.
    pub host: Cluster,
    /// The cluster that pods run in.
    pub east: Cluster,
    /// The test's namespace, in both.
    pub namespace: String,
    dock: Arc<Dock>,
}

/// A Longshore that the tests of one process share, and the namespaces that they leave for it to clear.
struct Dock {
    longshore: Longshore,
    host: Cluster,
    east: Cluster,
    left: Mutex<Vec<String>>,
}

static SHARED: LazyLock<Mutex<Weak<Dock>>> = LazyLock::new(Mutex::default);

impl World {
    /// A world with the Longshore that all tests of this process share.
    pub fn new(name: &str) -> Result<Self> {
        let dock = {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(dock) = shared.upgrade() {
                dock
            } else {
                let dock = Arc::new(Dock::open(&format!("e2e-{}", test_file()))?);
                *shared = Arc::downgrade(&dock);
                dock
            }
        };
        Self::on(dock, name)
    }

    /// A world with a Longshore of its own, for tests that harm it.
    pub fn alone(name: &str) -> Result<Self> {
        let dock = Dock::open(&format!("e2e-{}-{name}", test_file()))?;
        Self::on(Arc::new(dock), name)
    }

    /// A world with a Longshore of its own, and more fields of its VirtualNode's spec.
    pub fn alone_with(name: &str, node_spec: &str) -> Result<Self> {
        let (node, lab) = (format!("e2e-{}-{name}", test_file()), lab()?);
        let options = options(node, lab.kubeconfig("host")?, lab.kubeconfig("east")?);
        let dock = Dock::start(Options { node_spec: node_spec.to_owned(), ..options })?;
        dock.wait_for_node()?;
        Self::on(Arc::new(dock), name)
    }

    /// A world with a Longshore of its own that has this kubeconfig for its target; its node need not get Ready.
    pub fn aiming_at(name: &str, target: PathBuf) -> Result<Self> {
        let (node, host) = (format!("e2e-{}-{name}", test_file()), lab()?.kubeconfig("host")?);
        let dock = Dock::start(Options { heartbeat_seconds: 10, ..options(node, host, target) })?;
        Self::on(Arc::new(dock), name)
    }

    /// A world with a Longshore of its own that has more fields of its Target's spec, and this kubeconfig for the host, or
    /// that of the admin.
    pub fn with_spec(name: &str, host: Option<PathBuf>, target_spec: &str) -> Result<Self> {
        let lab = lab()?;
        let host = host.map_or_else(|| lab.kubeconfig("host"), Ok)?;
        let dock = Dock::start(Options {
            target_spec: target_spec.to_owned(),
            ..options(format!("e2e-{}-{name}", test_file()), host, lab.kubeconfig("east")?)
        })?;
        dock.wait_for_node()?;
        Self::on(Arc::new(dock), name)
    }

    /// Gives the node of a cluster an image of kubectl, and answers its name.
    pub fn load_kubectl(cluster: &str) -> Result<&'static str> {
        const KUBECTL: &str = "longshore.dev/kubectl:1";
        let lab = lab()?;
        let archive = tempfile::Builder::new().suffix(".tar").tempfile()?;
        let image = lab::image::Image::new(KUBECTL).program(&lab.kubectl_path(), "/usr/bin/kubectl")?;
        image.entrypoint(["/usr/bin/kubectl"]).write(archive.path())?;
        lab.load_image(cluster, archive.path())?;
        Ok(KUBECTL)
    }

    /// A world with a Longshore of its own that is started in another way; its node need not get Ready.
    pub fn changed(name: &str, change: impl FnOnce(&mut Options)) -> Result<Self> {
        Self::elsewhere(name, "host", "east", change)
    }

    /// The same between other clusters, which have to be up. In the world they are `host` and `east` all the same.
    pub fn elsewhere(name: &str, host: &str, target: &str, change: impl FnOnce(&mut Options)) -> Result<Self> {
        let lab = lab()?;
        let node = format!("e2e-{}-{name}", test_file());
        let mut options = options(node, lab.kubeconfig(host)?, lab.kubeconfig(target)?);
        change(&mut options);
        let clusters = [host, target].map(|cluster| Cluster::open(lab, cluster, "default"));
        Self::on(Arc::new(Dock::between(options, clusters)?), name)
    }

    /// The clusters of this machine, with `host` and `east` up.
    pub fn lab() -> Result<&'static Lab> {
        lab()
    }

    /// A cluster seen from a namespace.
    pub fn cluster(name: &str, namespace: &str) -> Result<Cluster> {
        Cluster::open(lab()?, name, namespace)
    }

    /// A world with a Longshore whose links can be cut, and more fields of its Target's spec.
    pub fn cuttable(name: &str, target_spec: &str) -> Result<(Self, Arc<Berth>)> {
        let lab = lab()?;
        let node = format!("e2e-{}-{name}", test_file());
        let berth = Arc::new(Berth::new()?);
        let dock = Dock::start(Options {
            heartbeat_seconds: 10,
            target_spec: target_spec.to_owned(),
            berth: Some(berth.clone()),
            ..options(node, lab.kubeconfig("host")?, lab.kubeconfig("east")?)
        })?;
        dock.wait_for_node()?;
        Ok((Self::on(Arc::new(dock), name)?, berth))
    }

    /// A world with a second target, `west`, behind the same virtual node, and more fields of its spec. All links can be cut.
    pub fn with_west(name: &str, node_spec: &str) -> Result<(Self, Cluster, Arc<Berth>)> {
        let lab = lab()?;
        lab.up(&["west"])?;
        let berth = Arc::new(Berth::new()?);
        let dock = Dock::start(Options {
            heartbeat_seconds: 10,
            more_targets: vec![("west".to_owned(), lab.kubeconfig("west")?)],
            node_spec: node_spec.to_owned(),
            berth: Some(berth.clone()),
            ..options(format!("e2e-{}-{name}", test_file()), lab.kubeconfig("host")?, lab.kubeconfig("east")?)
        })?;
        dock.wait_for_node()?;
        let world = Self::on(Arc::new(dock), name)?;
        let west = Cluster::open(lab, "west", &world.namespace)?;
        Ok((world, west, berth))
    }

    fn on(dock: Arc<Dock>, name: &str) -> Result<Self> {
        let lab = lab()?;
        let namespace = unique(name);
        let clusters = [&dock.host, &dock.east].map(|cluster| Cluster::open(lab, cluster.name(), &namespace));
        let clusters = clusters.into_iter().collect::<Result<Vec<_>>>()?;
        clusters[0].create(json!({"kind": "Namespace", "metadata": {"name": namespace}}))?;
        let scene = Arc::new(Scene { log: dock.longshore.log_path(), clusters: clusters.clone() });
        let world = Self { host: clusters[0].on(&scene), east: clusters[1].on(&scene), namespace, dock };
        world.host.wait("the service account of the new namespace", PATIENCE, |host| {
            host.find("serviceaccounts", "default")?.context("none yet")
        })?;
        Ok(world)
    }

    /// The Longshore between the clusters.
    pub fn longshore(&self) -> &Longshore {
        &self.dock.longshore
    }

    /// Waits until the virtual node is Ready by word of the process that runs now.
    pub fn wait_for_node(&self) -> Result<Value> {
        self.dock.wait_for_node()
    }

    /// A pod spec with what brings it to the virtual node. The grace period is short unless it says otherwise.
    pub fn placed(&self, mut spec: Value) -> Value {
        spec["nodeSelector"] = json!({"kubernetes.io/hostname": self.longshore().node()});
        spec["tolerations"] = json!([{"key": "longshore.dev/virtual-node", "operator": "Exists"}]);
        if spec["terminationGracePeriodSeconds"].is_null() {
            spec["terminationGracePeriodSeconds"] = json!(1);
        }
        spec
    }

    /// A pod for the virtual node.
    pub fn pod(&self, name: &str, containers: &[Value]) -> Value {
        self.pod_of(name, json!({"containers": containers}))
    }

    /// A pod for the virtual node that is never restarted.
    pub fn one_shot(&self, name: &str, containers: &[Value]) -> Value {
        self.pod_of(name, json!({"containers": containers, "restartPolicy": "Never"}))
    }

    /// A pod for the virtual node, by its whole spec.
    pub fn pod_of(&self, name: &str, spec: Value) -> Value {
        json!({"kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": self.placed(spec)})
    }

    /// The delegates of a proxy; there must not be more than one, which is for tests to say.
    pub fn delegates(&self, proxy: &Pod) -> Result<Vec<Pod>> {
        self.east.pods(&format!("longshore.dev/uid={}", proxy.uid()))
    }

    /// The one delegate of a proxy that is known to have one.
    pub fn delegate(&self, proxy: &Pod) -> Result<Pod> {
        let mut delegates = self.delegates(proxy)?;
        ensure!(delegates.len() == 1, "{} has these delegates: {}", proxy, pod::list(&delegates));
        delegates.pop().context("no delegate")
    }

    /// All delegates of this virtual node in the test's namespace.
    pub fn all_delegates(&self) -> Result<Vec<Pod>> {
        self.east.pods(&format!("longshore.dev/node={}", self.longshore().node()))
    }

    /// Waits until no delegate of this virtual node is left in the test's namespace.
    pub fn wait_for_no_delegates(&self) -> Result<()> {
        let selector = format!("longshore.dev/node={}", self.longshore().node());
        self.east.wait_for_pods(&selector, 0, "all gone", |_| true).map(drop)
    }

    /// Records from now on what happens to pods of the test's namespace in the target.
    pub fn record_target(&self) -> Result<History> {
        History::record(&self.east)
    }

    /// Records from now on what happens to pods of the test's namespace at home.
    pub fn record_home(&self) -> Result<History> {
        History::record(&self.host)
    }

    /// Makes the test's namespace in the target before Longshore does.
    pub fn create_target_namespace(&self) -> Result<()> {
        self.east.create(json!({"kind": "Namespace", "metadata": {"name": self.namespace}}))?;
        let account = |east: &Cluster| east.find("serviceaccounts", "default")?.context("none yet");
        self.east.wait("the service account of the new namespace", PATIENCE, account).map(drop)
    }

    /// Runs Longshore with arguments to its end, as for a configuration that it must refuse.
    pub fn longshore_command(args: &[&str]) -> Result<Output> {
        crate::command::run(process::Command::new(longshore::binary()?).args(args), b"")
    }

    /// The program that is tested.
    pub fn longshore_binary() -> Result<PathBuf> {
        Ok(longshore::binary()?.to_owned())
    }

    /// Path of a cluster's kubeconfig with all rights.
    pub fn kubeconfig(cluster: &str) -> Result<PathBuf> {
        Ok(lab()?.kubeconfig(cluster)?)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The last test waits for all of them, so that nobody waits twice.
        _ = self.host.delete("namespaces", &self.namespace);
        self.dock.left.lock().unwrap_or_else(PoisonError::into_inner).push(self.namespace.clone());
    }
}

fn options(node: String, host: PathBuf, target: PathBuf) -> Options {
    Options {
        node,
        host,
        target,
        heartbeat_seconds: 40,
        target_spec: String::new(),
        more_targets: Vec::new(),
        weights: BTreeMap::new(),
        node_spec: String::new(),
        flags: Vec::new(),
        given_ip: true,
        berth: None,
    }
}

impl Dock {
    fn open(node: &str) -> Result<Self> {
        let lab = lab()?;
        let (host, target) = (lab.kubeconfig("host")?, lab.kubeconfig("east")?);
        let dock = Self::start(options(node.to_owned(), host, target))?;
        dock.wait_for_node()?;
        Ok(dock)
    }

    fn start(options: Options) -> Result<Self> {
        let lab = lab()?;
        Self::between(options, ["host", "east"].map(|cluster| Cluster::open(lab, cluster, "default")))
    }

    fn between(options: Options, [host, east]: [Result<Cluster>; 2]) -> Result<Self> {
        Ok(Self { longshore: Longshore::start(options)?, host: host?, east: east?, left: Mutex::default() })
    }

    fn wait_for_node(&self) -> Result<Value> {
        let name = self.longshore.node();
        self.host.wait(&format!("the node {name} to be Ready"), secs(30), |host| {
            self.longshore.check()?;
            let node = host.find("nodes", name)?.with_context(|| format!("no node\n{}", self.longshore.log()))?;
            let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True");
            ensure!(ready, "{conditions:?}\n{}", self.longshore.log());
            Ok(node)
        })
    }

    /// Clears the namespaces of all tests: at home first, while Longshore can still let the proxies go.
    fn clear(&self) {
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        for namespace in &left {
            if let Err(error) = self.clear_home(namespace) {
                eprintln!("the namespace {namespace} of a test is not gone: {error:#}");
            }
            _ = self.east.delete("namespaces", namespace);
        }
    }

    fn clear_home(&self, namespace: &str) -> Result<()> {
        let gone = |host: &Cluster| {
            let found = host.find("namespaces", namespace)?;
            found.map_or(Ok(()), |found| bail!("{}", found["status"]))
        };
        if self.longshore.is_running() && self.host.wait("the namespace to go", secs(30), gone).is_ok() {
            return Ok(());
        }
        let host = Cluster::open(lab()?, self.host.name(), namespace)?;
        for pod in host.pods("")? {
            host.delete_with("pods", pod.name(), "gracePeriodSeconds=0")?;
        }
        self.host.wait("the namespace to go", secs(30), gone)?;
        bail!("it had to be forced")
    }
}

impl Drop for Dock {
    fn drop(&mut self) {
        self.clear();
        if self.longshore.is_running() {
            _ = self.longshore.stop();
        }
        _ = self.host.delete("nodes", self.longshore.node());
        // Those of its parts, where it has some.
        let parts = format!("longshore.dev/virtual-node={}", self.longshore.node());
        for node in self.host.list("nodes", &parts).unwrap_or_default() {
            _ = self.host.delete("nodes", node["metadata"]["name"].as_str().unwrap_or_default());
        }
    }
}

/// The clusters, brought up once per process.
pub(crate) fn lab() -> Result<&'static Lab> {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    let lab = LAB.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Err("they need root".to_owned());
        }
        let lab = Lab::open().map_err(|error| format!("{:#}", anyhow!(error)))?;
        lab.up(&["host", "east"]).map_err(|error| format!("{:#}", anyhow!(error)))?;
        // Built before anybody waits for it.
        longshore::binary().map_err(|error| format!("{error:#}"))?;
        Ok(lab)
    });
    lab.as_ref().map_err(|error| anyhow!("the end-to-end tests cannot run: {error}"))
}

/// The name of the file that the running test is in.
fn test_file() -> String {
    let program = env::args_os().next().unwrap_or_default();
    let stem = Path::new(&program).file_stem().and_then(|stem| stem.to_str()).unwrap_or("tests").to_owned();
    // A node cannot have an underscore in its name.
    stem.rsplit_once('-').map_or(stem.clone(), |(file, _)| file.to_owned()).replace('_', "-")
}

/// A name that no earlier run has left anything of.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs() % 1_000_000;
    format!("e2e-{name}-{}-{now}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}
