//! The metrics API (`metrics.k8s.io`), by a real metrics-server beside a cluster's control plane.

use std::time::Duration;

use serde_json::json;

use crate::{Error, Lab, Process, command, process::wait_until, simulate::feed};

const NAME: &str = "metrics-server";

/// Where it listens, in the cluster's network.
const PORT: u16 = 4443;

/// How long the API may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);

impl Lab {
    /// Gives a cluster the metrics API. It asks all nodes every 10 s, which is as often as metrics-server can; the first
    /// numbers come after some 20 s. Builds metrics-server if need be.
    pub fn measure(&self, name: &str) -> Result<(), Error> {
        let program = self.toolchain().ensure_metrics_server()?;
        let kubeconfig = self.kubeconfig(name)?;
        let certificates = kubeconfig.with_file_name(NAME);
        let flags = ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"];
        let mut args = Vec::new();
        for flag in flags {
            args.extend([flag.into(), kubeconfig.clone().into_os_string()]);
        }
        args.extend(["--cert-dir".into(), certificates.into_os_string()]);
        args.push(format!("--secure-port={PORT}").into());
        let rest = [
            "--kubelet-insecure-tls",
            "--kubelet-use-node-status-port",
            "--kubelet-preferred-address-types=InternalIP",
            "--metric-resolution=10s",
            // It has to be less than that.
            "--kubelet-request-timeout=9s",
        ];
        args.extend(rest.map(Into::into));
        self.start(name, Process { name: NAME.into(), program, args, ..Process::default() })?;
        let mut kubectl = self.kubectl(name)?;
        kubectl.args(["apply", "--server-side", "--filename", "-"]);
        // By a name instead of an address of the cluster, the API server reaches it without kube-proxy.
        let address = self.plan(name)?.ip().to_string();
        feed(
            &mut kubectl,
            &json!({"apiVersion": "v1", "kind": "List", "items": [
                {
                    "apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": NAME, "namespace": "kube-system"},
                    "spec": {"type": "ExternalName", "externalName": address},
                },
                {
                    "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                    "metadata": {"name": "v1beta1.metrics.k8s.io"},
                    "spec": {
                        "group": "metrics.k8s.io", "version": "v1beta1",
                        "groupPriorityMinimum": 100, "versionPriority": 100, "insecureSkipTLSVerify": true,
                        "service": {"name": NAME, "namespace": "kube-system", "port": PORT},
                    },
                },
            ]}),
        )?;
        let answers = || {
            let mut kubectl = self.kubectl(name).ok()?;
            command::run_command(kubectl.args(["get", "--raw", "/apis/metrics.k8s.io/v1beta1"])).ok()
        };
        if wait_until(PATIENCE, || answers().is_some()) {
            return Ok(());
        }
        Err(Error::NoMetrics { seconds: PATIENCE.as_secs(), log: self.log(name, NAME)? })
    }
}
