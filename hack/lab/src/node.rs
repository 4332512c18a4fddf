//! The cluster's one real node: containerd, kubelet, kube-proxy and the pods' network.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    command,
    control_plane::flag,
    deps, files, image, kubeconfig, mounts, pki,
    process::{Spec, wait_until},
    toolchain::Toolchain,
};

pub(crate) const CONTAINERD: &str = "containerd";
pub(crate) const KUBELET: &str = "kubelet";
pub(crate) const KUBE_PROXY: &str = "kube-proxy";

/// Copies files instead of stacking file systems: works on any, also on a container's own overlay.
const SNAPSHOTTER: &str = "native";

/// Why a node or its images are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] files::Error),
    /// The mount namespace could not be created.
    #[error(transparent)]
    Mounts(#[from] mounts::Error),
    /// containerd does not listen.
    #[error("containerd does not answer; its log is {}, and ends with:\n{tail}", log.display())]
    Containerd {
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// An image could not be loaded.
    #[error("cannot load the image {}", path.display())]
    Load {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: command::Error,
    },
    /// The images could not be listed.
    #[error("cannot list the images of containerd")]
    List(#[source] command::Error),
    /// The CNI plugins have gone.
    #[error("there are no CNI plugins; `hack/clusters deps` installs them")]
    NoPlugins,
}

/// Writes all configuration and makes the mount namespace.
pub(crate) fn configure(cluster: &Cluster) -> Result<(), Error> {
    let dir = cluster.dir();
    for user in [pki::NODE, pki::KUBE_PROXY] {
        kubeconfig::write(&cluster.kubeconfig(user), cluster.plan(), &cluster.pki(), user)?;
    }
    for sub in ["cni", "manifests", "volume-plugins"] {
        files::create_dir(&dir.join(sub))?;
    }
    let plugins = deps::plugin_dir().ok_or(Error::NoPlugins)?;
    let network = network_config(&cluster.plan().scope(), &cluster.plan().pod_cidr(), dir);
    files::write_json(&dir.join("cni/10-pods.conflist"), &network)?;
    files::write(&dir.join("containerd.toml"), containerd_config(dir, &plugins))?;
    files::write_json(&dir.join("kubelet.json"), &kubelet_config(cluster))?;
    mounts::create_namespace(&mount_dir(cluster))?;
    Ok(())
}

pub(crate) fn containerd(cluster: &Cluster) -> Spec {
    let program = deps::find("containerd").unwrap_or_else(|| "containerd".into());
    let spec = cluster.spec(CONTAINERD, program, [flag("--config", cluster.dir().join("containerd.toml"))]);
    in_mount_namespace(cluster, spec)
}

pub(crate) fn kubelet(cluster: &Cluster, toolchain: &Toolchain) -> Spec {
    let args = [
        flag("--config", cluster.dir().join("kubelet.json")),
        flag("--kubeconfig", cluster.kubeconfig(pki::NODE)),
        flag("--root-dir", cluster.dir().join("kubelet")),
        format!("--hostname-override={}", cluster.plan().node()),
        format!("--node-ip={}", cluster.plan().ip()),
    ];
    in_mount_namespace(cluster, cluster.spec(KUBELET, toolchain.program(KUBELET), args))
}

pub(crate) fn kube_proxy(cluster: &Cluster, toolchain: &Toolchain) -> Spec {
    let args = [
        flag("--kubeconfig", cluster.kubeconfig(pki::KUBE_PROXY)),
        format!("--hostname-override={}", cluster.plan().node()),
        format!("--cluster-cidr={}", cluster.plan().pod_cidr()),
        "--proxy-mode=iptables".into(),
        // The limit is one for the whole machine, and no cluster's to set.
        "--conntrack-max-per-core=0".into(),
    ];
    cluster.spec(KUBE_PROXY, toolchain.program(KUBE_PROXY), args)
}

/// Loads those of the images that containerd does not have. `images` pairs references with archives.
pub(crate) fn load_missing(cluster: &Cluster, images: &[(&str, PathBuf)]) -> Result<(), Error> {
    wait_for_containerd(cluster)?;
    let present = ctr(cluster, &["images", "ls", "-q"]).map_err(Error::List)?;
    for (reference, archive) in images {
        if !present.lines().any(|line| line == *reference) {
            load(cluster, archive)?;
        }
    }
    Ok(())
}

/// Loads a docker or OCI archive for the kubelet to use.
pub(crate) fn load(cluster: &Cluster, archive: &Path) -> Result<(), Error> {
    let path = archive.to_string_lossy();
    ctr(cluster, &["images", "import", "--snapshotter", SNAPSHOTTER, &path])
        .map(drop)
        .map_err(|source| Error::Load { path: archive.to_owned(), source })
}

fn ctr(cluster: &Cluster, args: &[&str]) -> Result<String, command::Error> {
    let socket = cluster.containerd_socket();
    command::run("ctr", [&["--address", &socket.to_string_lossy(), "--namespace", "k8s.io"], args].concat())
}

fn wait_for_containerd(cluster: &Cluster) -> Result<(), Error> {
    let socket = cluster.containerd_socket();
    if wait_until(Duration::from_secs(20), || UnixStream::connect(&socket).is_ok()) {
        return Ok(());
    }
    let log = cluster.processes().log(CONTAINERD);
    Err(Error::Containerd { tail: files::tail(&log, 15), log })
}

fn mount_dir(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("mounts")
}

fn in_mount_namespace(cluster: &Cluster, spec: Spec) -> Spec {
    Spec { mount_namespace: Some(mounts::namespace(&mount_dir(cluster))), ..spec }
}

/// Whether the mount namespace is there.
pub(crate) fn has_mount_namespace(cluster: &Cluster) -> bool {
    let mounted = mounts::mounted_below(&mount_dir(cluster)).map_err(io::Error::other);
    mounted.is_ok_and(|points| points.contains(&mounts::namespace(&mount_dir(cluster))))
}

/// A routed link for each pod rather than a bridge: traffic between pods then passes the node's iptables, which
/// services need, without a kernel module for filtering on bridges.
fn network_config(name: &str, pod_cidr: &str, dir: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": name,
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_cidr}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": dir.join("pod-addresses"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd_config(dir: &Path, plugins: &Path) -> String {
    let (dir, plugins) = (dir.display(), plugins.display());
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/containerd-state"

[grpc]
  address = "{dir}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{dir}/cni"

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{SNAPSHOTTER}"
"#,
        pause = image::PAUSE
    )
}

fn kubelet_config(cluster: &Cluster) -> Value {
    let (dir, pki) = (cluster.dir(), cluster.pki());
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.certificate(pki::CA)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.certificate(pki::NODE),
        "tlsPrivateKeyFile": pki.key(pki::NODE),
        "containerRuntimeEndpoint": format!("unix://{}", cluster.containerd_socket().display()),
        "clusterDomain": "cluster.local",
        "staticPodPath": dir.join("manifests"),
        "podLogsDir": dir.join("pod-logs"),
        "volumePluginDir": dir.join("volume-plugins"),
        "maxPods": 250,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cluster.cgroup().path(),
        "enforceNodeAllocatable": [],
        // The machine is the user's, with whatever swap, cgroups and free disk it has.
        "failSwapOn": false,
        "failCgroupV1": false,
        "localStorageCapacityIsolation": false,
        "imageGCHighThresholdPercent": 100,
        // `make bench` reads 100 MB at once; a log that is rotated is read no further back.
        "containerLogMaxSize": "500Mi",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_addresses_of_their_cluster() {
        let config = network_config("longshore-east", "10.201.0.0/16", Path::new("/d"));
        assert_eq!(config["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.201.0.0/16");
        assert_eq!(config["plugins"][0]["ipam"]["dataDir"], "/d/pod-addresses");
    }

    #[test]
    fn containerd_keeps_to_the_clusters_directory() {
        let config = containerd_config(Path::new("/d"), Path::new("/usr/lib/cni"));
        assert!(config.contains("address = \"/d/containerd.sock\""), "{config}");
        assert!(config.contains("sandbox_image = \"longshore.dev/pause:1\""), "{config}");
    }
}
