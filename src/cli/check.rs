//! `longshore check`: a line for each cluster, with what is wrong.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};

use crate::api::clients::{self, Access};
use crate::api::diagnosis::{Trouble, Version, diagnose_config};
use crate::api::rights::{Features, Right, host_follow_rights, host_rights, resource_rights, rules, target_rights};
use crate::kubelet::certificate::CertificateSource;

use super::clusters::Clusters;
use super::{CheckArgs, CliError};

/// The flag of an API server that verifies kubelets.
const AUTHORITY: &str = "--kubelet-certificate-authority";

const SELF_SIGNED: &str = "its API server verifies kubelets (--kubelet-certificate-authority), so that kubectl logs and exec \
     fail with self-signed serving certificates; give --serving-certificate=host, or --tls-cert-file and \
     --tls-private-key-file, here and to longshore run";

/// How `longshore run` is to get its serving certificates, and the rights that it takes.
pub(super) type Serving = (CertificateSource, Vec<Right>);

pub(super) async fn check(args: &CheckArgs) -> Result<(), CliError> {
    let serving = (args.serving.source()?, args.serving.rights()?);
    let (failed, text) = report(&args.configuration.load().await?, Some(serving)).await;
    print!("{text}");
    if failed == 0 { Ok(()) } else { Err(CliError::Check(failed)) }
}

/// How many clusters cannot be used, and a line for each.
pub(super) async fn report(clusters: &Clusters, serving: Option<Serving>) -> (usize, String) {
    let nodes = &clusters.configuration.nodes;
    let mut needed = [host_rights(Features::of(nodes.iter().map(|node| &node.spec))), host_follow_rights()].concat();
    if clusters.resources.is_some() {
        needed.extend(resource_rights());
    }
    let (source, rights) = serving.map_or((None, vec![]), |(source, rights)| (Some(source), rights));
    needed.extend(rights);
    let host = async {
        let usable = diagnose_config(&clusters.host, &needed).await;
        let refused = usable.is_ok() && source == Some(CertificateSource::SelfSigned) && verifies(&clusters.host).await;
        (("host".to_owned(), usable), refused)
    };
    let targets = clusters.configuration.targets.iter().zip(&clusters.targets).map(|(target, config)| async move {
        let title = format!("target {}", target.name);
        let needed = target_rights(&target.spec, Features::of_target(nodes, &target.name));
        let result = match config {
            Ok(config) => diagnose_config(config, &needed).await,
            Err(reason) => Err(Trouble::Unauthorized { address: "its API server".into(), reason: reason.clone() }),
        };
        (title, result)
    });
    // All at once: each may take its whole deadline.
    let ((host, refused), targets) = tokio::join!(host, futures::future::join_all(targets));
    let results: Vec<_> = std::iter::once(host).chain(targets).collect();
    let failed = results.iter().filter(|(_, result)| result.is_err()).count() + usize::from(refused);
    let mut lines: Vec<_> = results.iter().map(|(title, result)| line(title, result) + "\n").collect();
    if refused {
        lines.push(format!("host: {SELF_SIGNED}\n"));
    }
    (failed, lines.concat())
}

/// Whether the host's API server is known to verify kubelets: where it runs as a pod, as kubeadm sets it up, its flags can be
/// read. Elsewhere nobody knows before the first `kubectl logs`, which the running Longshore then tells of.
async fn verifies(host: &Access) -> bool {
    let Ok(client) = clients::client(host).await else { return false };
    let pods: Api<Pod> = Api::namespaced(client, "kube-system");
    let found = pods.list(&ListParams::default().labels("component=kube-apiserver")).await;
    found.is_ok_and(|found| found.items.iter().any(has_authority))
}

fn has_authority(api_server: &Pod) -> bool {
    let containers = api_server.spec.iter().flat_map(|spec| &spec.containers);
    let words = containers.flat_map(|one| one.command.iter().chain(&one.args).flatten());
    words.into_iter().any(|word| word.starts_with(AUTHORITY) && !word.ends_with('='))
}

fn line(title: &str, result: &Result<Version, Trouble>) -> String {
    match result {
        Ok(Version(version)) => format!("{title}: ok, {version}"),
        Err(trouble) => format!("{title}: {trouble}{}", hint(trouble)),
    }
}

/// The rules that would help, if rules would.
fn hint(trouble: &Trouble) -> String {
    match trouble {
        Trouble::Forbidden { missing, .. } => grant(missing),
        _ => String::new(),
    }
}

/// The rules that grant `missing`, as a paragraph.
pub(super) fn grant(missing: &[Right]) -> String {
    format!("\n\nGrant them with these rules:\n{}\n", rules(missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_api_server_that_verifies_kubelets_is_known_by_its_flags() {
        let pod = |command: &[&str], args: &[&str]| -> Pod {
            let container = json!({"name": "kube-apiserver", "command": command, "args": args});
            serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap()
        };
        let server = "kube-apiserver";
        assert!(has_authority(&pod(&[server, "--kubelet-certificate-authority=/ca.crt"], &[])));
        assert!(has_authority(&pod(&[server], &["--kubelet-certificate-authority", "/ca.crt"])));
        assert!(!has_authority(&pod(&[server, "--kubelet-certificate-authority="], &[])));
        assert!(!has_authority(&pod(&[server, "--kubelet-client-certificate=/c"], &[])));
    }
}
