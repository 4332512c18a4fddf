//! The control plane's processes and their flags.

use std::path::{Path, PathBuf};

use crate::{cluster::Cluster, files, kubeconfig, pki, process::Spec, toolchain::Toolchain};

pub(crate) const ETCD: &str = "etcd";
pub(crate) const API_SERVER: &str = "kube-apiserver";
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(crate) const SCHEDULER: &str = "kube-scheduler";

/// Load tests make controllers busy; the default of 20 calls a second would be what they measure.
const BUSY_CLIENT: [&str; 2] = ["--kube-api-qps=500", "--kube-api-burst=1000"];

/// Writes the kubeconfigs of the control plane and of the admin.
pub(crate) fn configure(cluster: &Cluster) -> Result<(), files::Error> {
    for user in [pki::ADMIN, pki::CONTROLLER_MANAGER, pki::SCHEDULER] {
        kubeconfig::write(&cluster.kubeconfig(user), cluster.plan(), &cluster.pki(), user)?;
    }
    Ok(())
}

pub(crate) fn etcd(cluster: &Cluster, toolchain: &Toolchain) -> Spec {
    let args = [
        flag("--data-dir", cluster.dir().join("etcd")),
        // A cluster is thrown away after a crash of the machine, so nothing is gained by waiting for the disk.
        "--unsafe-no-fsync".into(),
        "--listen-client-urls=http://127.0.0.1:2379".into(),
        "--advertise-client-urls=http://127.0.0.1:2379".into(),
        "--listen-peer-urls=http://127.0.0.1:2380".into(),
        "--log-level=warn".into(),
    ];
    cluster.spec(ETCD, toolchain.program(ETCD), args)
}

pub(crate) fn api_server(cluster: &Cluster, toolchain: &Toolchain, extra: &[String]) -> Spec {
    let (plan, pki) = (cluster.plan(), cluster.pki());
    let mut args = vec![
        "--etcd-servers=http://127.0.0.1:2379".into(),
        format!("--service-cluster-ip-range={}", plan.service_cidr()),
        format!("--advertise-address={}", plan.ip()),
        "--secure-port=6443".into(),
        flag("--tls-cert-file", pki.certificate(pki::API_SERVER)),
        flag("--tls-private-key-file", pki.key(pki::API_SERVER)),
        flag("--client-ca-file", pki.certificate(pki::CA)),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        "--allow-privileged".into(),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        flag("--service-account-key-file", pki.service_account_public_key()),
        flag("--service-account-signing-key-file", pki.service_account_key()),
        flag("--kubelet-client-certificate", pki.certificate(pki::API_SERVER_KUBELET_CLIENT)),
        flag("--kubelet-client-key", pki.key(pki::API_SERVER_KUBELET_CLIENT)),
        "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
        flag("--requestheader-client-ca-file", pki.certificate(pki::FRONT_PROXY_CA)),
        format!("--requestheader-allowed-names={}", pki::FRONT_PROXY_NAME),
        "--requestheader-username-headers=X-Remote-User".into(),
        "--requestheader-group-headers=X-Remote-Group".into(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
        flag("--proxy-client-cert-file", pki.certificate(pki::FRONT_PROXY_CLIENT)),
        flag("--proxy-client-key-file", pki.key(pki::FRONT_PROXY_CLIENT)),
    ];
    args.extend_from_slice(extra);
    cluster.spec(API_SERVER, toolchain.program(API_SERVER), args)
}

pub(crate) fn controller_manager(cluster: &Cluster, toolchain: &Toolchain, extra: &[String]) -> Spec {
    let pki = cluster.pki();
    let args = [
        flag("--kubeconfig", cluster.kubeconfig(pki::CONTROLLER_MANAGER)),
        flag("--root-ca-file", pki.certificate(pki::CA)),
        flag("--service-account-private-key-file", pki.service_account_key()),
        flag("--cluster-signing-cert-file", pki.certificate(pki::CA)),
        flag("--cluster-signing-key-file", pki.key(pki::CA)),
        "--use-service-account-credentials".into(),
        // There is one: an election would only delay the start.
        "--leader-elect=false".into(),
    ];
    let args = args.into_iter().chain(BUSY_CLIENT.map(String::from)).chain(extra.iter().cloned());
    cluster.spec(CONTROLLER_MANAGER, toolchain.program(CONTROLLER_MANAGER), args)
}

pub(crate) fn scheduler(cluster: &Cluster, toolchain: &Toolchain) -> Spec {
    let args = [flag("--kubeconfig", cluster.kubeconfig(pki::SCHEDULER)), "--leader-elect=false".into()];
    let args = args.into_iter().chain(BUSY_CLIENT.map(String::from));
    cluster.spec(SCHEDULER, toolchain.program(SCHEDULER), args)
}

pub(crate) fn flag(name: &str, path: impl Into<PathBuf>) -> String {
    let path: PathBuf = path.into();
    format!("{name}={}", Path::display(&path))
}
