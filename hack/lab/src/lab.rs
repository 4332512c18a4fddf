//! All clusters of the machine: the library's front door.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsString,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use crate::{
    cluster::{self, Cluster, Record},
    command, deps, files, image,
    lock::Lock,
    mounts,
    name::{ClusterName, InvalidName},
    network, node, pki,
    plan::{self, Plan},
    process,
    status::{self, ClusterStatus},
    teardown,
    toolchain::{self, Toolchain},
};

/// Unix sockets below the state directory must keep within the kernel's 108 bytes.
const MAX_STATE_PATH: usize = 60;
/// How long a process of [`Lab::start`] may take to end in good order.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Why clusters are not as asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state directory cannot be used.
    #[error("the path {} is too long for sockets below it: set LONGSHORE_STATE to one of at most {MAX_STATE_PATH} bytes", path.display())]
    StatePath {
        /// The directory.
        path: PathBuf,
    },
    /// A name that no cluster can have.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// No such cluster.
    #[error("there is no cluster {name}; `hack/clusters up {name}` makes one")]
    Unknown {
        /// Its name.
        name: ClusterName,
    },
    /// No more addresses.
    #[error("there are too many clusters; `hack/clusters down NAME` makes room")]
    Full,
    /// The machine lacks something.
    #[error(transparent)]
    Deps(#[from] deps::Error),
    /// Kubernetes could not be built.
    #[error(transparent)]
    Toolchain(#[from] toolchain::Error),
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// An image could not be made.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// An image could not be loaded.
    #[error(transparent)]
    Node(#[from] node::Error),
    /// The bridge or a link is not as asked for.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// A process could not be started or stopped.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// Simulated nodes did not come up.
    #[error("simulated nodes are not Ready after {seconds} s; kwok's log is {}", log.display())]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// The log.
        log: PathBuf,
    },
    /// The metrics API did not come up.
    #[error("the metrics API does not answer after {seconds} s; metrics-server's log is {}", log.display())]
    NoMetrics {
        /// How long was waited.
        seconds: u64,
        /// The log.
        log: PathBuf,
    },
    /// A cluster did not come up. What runs of it is left for inspection; `up` again repairs it.
    #[error("cluster {name} did not come up")]
    Up {
        /// Its name.
        name: ClusterName,
        /// Why.
        source: Box<cluster::Error>,
    },
    /// kubectl failed.
    #[error("cannot set up an add-on of a cluster")]
    Kubectl(#[source] command::Error),
    /// kubectl could not be run, or did not take what it was given.
    #[error("cannot create the objects of an add-on")]
    Feed(#[source] io::Error),
    /// A cluster could not be removed.
    #[error("cluster {name} is not down")]
    Down {
        /// Its name.
        name: ClusterName,
        /// Why.
        source: Box<teardown::Error>,
    },
}

/// What [`Lab::up_with`] can vary. Unset options leave a running cluster as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpOptions {
    /// Whether there is a real node; a new cluster has one unless told otherwise.
    /// A cluster without can get one later, but does not lose it again.
    pub kubelet: Option<bool>,
    /// Arguments for the API server beside the usual ones; none for a new cluster unless told otherwise.
    pub api_server_args: Option<Vec<String>>,
    /// The same for the controller manager.
    pub controller_manager_args: Option<Vec<String>>,
}

/// A process to run beside a cluster, in its network: see [`Lab::start`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Names it among the cluster's processes, for logs and status.
    pub name: String,
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its environment, beside `PATH` and `HOME`; nothing is inherited.
    pub env: BTreeMap<String, String>,
}

/// All clusters of this machine.
///
/// Several processes may use it at once: changes wait for each other.
#[derive(Clone, Debug)]
pub struct Lab {
    state: PathBuf,
    toolchain: Toolchain,
}

impl Lab {
    /// Opens the lab at `$LONGSHORE_STATE`, else `/var/lib/longshore/clusters`. Changes nothing.
    pub fn open() -> Result<Self, Error> {
        let state = env::var_os("LONGSHORE_STATE").filter(|path| !path.is_empty());
        let state = state.map_or_else(|| PathBuf::from("/var/lib/longshore/clusters"), PathBuf::from);
        let state = std::path::absolute(&state).map_err(|error| files::Error::new("find", &state, error))?;
        if state.as_os_str().len() > MAX_STATE_PATH {
            return Err(Error::StatePath { path: state });
        }
        Ok(Self { state, toolchain: Toolchain::open()? })
    }

    /// The programs that clusters run.
    pub fn toolchain(&self) -> &Toolchain {
        &self.toolchain
    }

    /// Path of a kubectl of the clusters' version.
    pub fn kubectl_path(&self) -> PathBuf {
        self.toolchain.program("kubectl")
    }

    /// The machine's own address as the clusters see it: what to listen on for calls from pods and API servers.
    pub fn bridge_ip(&self) -> Ipv4Addr {
        plan::BRIDGE_IP
    }

    /// Names of all clusters, running or not.
    pub fn names(&self) -> Result<Vec<ClusterName>, Error> {
        let names = files::entries(&self.state)?.into_iter().filter(|path| path.join("cluster.json").exists());
        Ok(names.filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }

    /// Brings clusters up side by side; quick for those that run, and repairs those that do not quite.
    ///
    /// Installs and builds what is missing first, which takes minutes on a new machine. When it returns, the API
    /// server and the node are ready, the default service account exists and the images [`image::PAUSE`] and
    /// [`image::BUSYBOX`] are loaded. A cut link is healed.
    pub fn up(&self, names: &[&str]) -> Result<(), Error> {
        self.up_with(names, &UpOptions::default())
    }

    /// As [`Lab::up`], with options for all of the clusters.
    pub fn up_with(&self, names: &[&str], options: &UpOptions) -> Result<(), Error> {
        let names = parse(names)?;
        deps::ensure()?;
        self.toolchain.ensure()?;
        let _lock = self.lock()?;
        self.remember_places()?;
        let mut clusters = Vec::new();
        for name in names {
            clusters.push(self.allocate(&name, options)?);
        }
        let images = self.base_images()?;
        network::ensure_bridge()?;
        in_parallel(clusters, |mut cluster| {
            let name = cluster.plan().name().clone();
            cluster.up(&self.toolchain, &images).map_err(|source| Error::Up { name, source: Box::new(source) })
        })
    }

    /// Removes all clusters and everything that was made for them, except the cache of programs.
    pub fn down(&self) -> Result<(), Error> {
        let _lock = self.lock()?;
        self.remove(self.names()?)
    }

    /// Removes the named clusters; fine if there are none of that name. The last one takes the bridge along.
    pub fn down_only(&self, names: &[&str]) -> Result<(), Error> {
        let names = parse(names)?;
        let _lock = self.lock()?;
        self.remove(names)
    }

    /// Addresses and names of a cluster.
    pub fn plan(&self, name: &str) -> Result<Plan, Error> {
        Ok(self.cluster(name)?.plan().clone())
    }

    /// Path of a kubeconfig with all rights. It works from the root network namespace and from any cluster's.
    pub fn kubeconfig(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(self.cluster(name)?.kubeconfig(pki::ADMIN))
    }

    /// A command that runs kubectl on a cluster; add arguments.
    pub fn kubectl(&self, name: &str) -> Result<Command, Error> {
        let mut command = Command::new(self.kubectl_path());
        command.env("KUBECONFIG", self.kubeconfig(name)?);
        Ok(command)
    }

    /// A command that runs another in a cluster's network; add the program and its arguments.
    pub fn exec(&self, name: &str) -> Result<Command, Error> {
        Ok(process::in_network(&self.cluster(name)?.plan().network_namespace()))
    }

    /// Cuts a cluster off from the machine and all other clusters, as a broken cable would. Its insides work on.
    pub fn cut(&self, name: &str) -> Result<(), Error> {
        Ok(network::switch(self.cluster(name)?.plan(), false)?)
    }

    /// Undoes [`Lab::cut`].
    pub fn heal(&self, name: &str) -> Result<(), Error> {
        Ok(network::switch(self.cluster(name)?.plan(), true)?)
    }

    /// Loads an image archive, as [`image::Image::write`] and `docker save` make them, into a cluster's node.
    pub fn load_image(&self, name: &str, archive: &Path) -> Result<(), Error> {
        Ok(node::load(&self.cluster(name)?, archive)?)
    }

    /// Loads what [`image::BUSYBOX`] has into a cluster's node, as an image of another name.
    pub fn load_busybox(&self, name: &str, reference: &str) -> Result<(), Error> {
        let archive = tempfile::Builder::new().suffix(".tar").tempfile().map_err(Error::Feed)?;
        image::busybox(reference, &deps::busybox().unwrap_or_default())?.write(archive.path())?;
        self.load_image(name, archive.path())
    }

    /// How all clusters do.
    pub fn status(&self) -> Result<Vec<ClusterStatus>, Error> {
        let clusters = self.names()?.into_iter().map(|name| self.cluster(name.as_str()));
        let clusters: Vec<Cluster> = clusters.collect::<Result<_, _>>()?;
        Ok(thread::scope(|scope| {
            let asked: Vec<_> = clusters.iter().map(|cluster| scope.spawn(|| status::of(cluster))).collect();
            asked.into_iter().map(join).collect::<Result<_, _>>()
        })?)
    }

    /// Path of the log of one of a cluster's processes.
    pub fn log(&self, name: &str, process: &str) -> Result<PathBuf, Error> {
        Ok(self.cluster(name)?.processes().log(process))
    }

    /// Starts a process in a cluster's network, unless it runs already with the same arguments. It outlives the
    /// caller; [`Lab::stop`] or taking the cluster down ends it.
    pub fn start(&self, name: &str, process: Process) -> Result<(), Error> {
        let cluster = self.cluster(name)?;
        let mut spec = cluster.spec(&process.name, process.program, []);
        spec.args = process.args;
        spec.env = process.env;
        cluster.processes().ensure(spec)?;
        Ok(())
    }

    /// Ends a process of [`Lab::start`], or one of the cluster's own, which `up` starts again. SIGTERM first.
    pub fn stop(&self, name: &str, process: &str) -> Result<(), Error> {
        Ok(self.cluster(name)?.processes().stop(process, STOP_PATIENCE)?)
    }

    /// Id of one of a cluster's processes; `None` if it does not run.
    pub fn pid(&self, name: &str, process: &str) -> Result<Option<i32>, Error> {
        Ok(self.cluster(name)?.processes().pid(process)?)
    }

    fn cluster(&self, name: &str) -> Result<Cluster, Error> {
        let name = name.parse()?;
        Cluster::load(&self.state, &name)?.ok_or(Error::Unknown { name })
    }

    fn lock(&self) -> Result<Lock, files::Error> {
        Lock::acquire(&self.state.join("lock"), || eprintln!("waiting for another hack/clusters to finish"))
    }

    /// Loads a cluster, or makes up one with an index of its own.
    fn allocate(&self, name: &ClusterName, options: &UpOptions) -> Result<Cluster, Error> {
        let mut record = match Cluster::load(&self.state, name)? {
            Some(cluster) => cluster.record().clone(),
            None => Record {
                index: self.free_index()?,
                kubelet: options.kubelet.unwrap_or(true),
                api_server_args: Vec::new(),
                controller_manager_args: Vec::new(),
                prepared_in_boot: None,
            },
        };
        record.kubelet |= options.kubelet == Some(true);
        if let Some(args) = &options.api_server_args {
            record.api_server_args.clone_from(args);
        }
        if let Some(args) = &options.controller_manager_args {
            record.controller_manager_args.clone_from(args);
        }
        Ok(Cluster::save(&self.state, name, record)?)
    }

    fn free_index(&self) -> Result<u8, Error> {
        let mut taken = BTreeSet::new();
        for name in self.names()? {
            taken.insert(self.cluster(name.as_str())?.plan().index());
        }
        plan::free_index(&taken).ok_or(Error::Full)
    }

    /// Archives of the images that every cluster has.
    fn base_images(&self) -> Result<Vec<(&'static str, PathBuf)>, Error> {
        let dir = self.state.join("images");
        let (pause, busybox) = (dir.join("pause.tar"), dir.join("busybox.tar"));
        files::create_dir(&dir)?;
        if !pause.exists() {
            image::pause(&self.toolchain.program("pause"))?.write(&pause)?;
        }
        if !busybox.exists() {
            image::busybox(image::BUSYBOX, &deps::busybox().unwrap_or_default())?.write(&busybox)?;
        }
        Ok(vec![(image::PAUSE, pause), (image::BUSYBOX, busybox)])
    }

    fn remove(&self, names: Vec<ClusterName>) -> Result<(), Error> {
        let mut clusters = Vec::new();
        for name in names {
            clusters.extend(Cluster::load(&self.state, &name)?);
        }
        in_parallel(clusters, |cluster| {
            let name = cluster.plan().name().clone();
            teardown::remove(&cluster).map_err(|source| Error::Down { name, source: Box::new(source) })
        })?;
        network::remove_idle_bridge()?;
        if self.names()?.is_empty() {
            let places = self.places()?;
            mounts::remove_places(&places);
            files::remove_tree(&self.state)?;
            // Ours only if nobody else uses it.
            _ = self.state.parent().map(fs::remove_dir);
        }
        Ok(())
    }

    /// Remembers what is on the machine before the first cluster, to be able to leave just that.
    fn remember_places(&self) -> Result<(), Error> {
        if !self.places_path().exists() {
            files::write_json(&self.places_path(), &mounts::existing_places())?;
        }
        Ok(())
    }

    fn places(&self) -> Result<Vec<PathBuf>, files::Error> {
        // Without a memory, everything was there.
        Ok(files::read_json(&self.places_path())?.unwrap_or_else(mounts::existing_places))
    }

    fn places_path(&self) -> PathBuf {
        self.state.join("places.json")
    }
}

/// Valid names, each once, in the given order.
fn parse(names: &[&str]) -> Result<Vec<ClusterName>, InvalidName> {
    let mut parsed: Vec<ClusterName> = Vec::new();
    for name in names {
        let name = name.parse()?;
        if !parsed.contains(&name) {
            parsed.push(name);
        }
    }
    Ok(parsed)
}

/// Does `work` for all clusters at once, and returns the first error after all have ended.
fn in_parallel(clusters: Vec<Cluster>, work: impl Fn(Cluster) -> Result<(), Error> + Sync) -> Result<(), Error> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = clusters.into_iter().map(|cluster| scope.spawn(move || work(cluster))).collect();
        let ended: Vec<_> = running.into_iter().map(join).collect();
        ended.into_iter().collect()
    })
}

fn join<T>(handle: thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
