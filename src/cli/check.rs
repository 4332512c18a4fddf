//! `longshore check`: a line for each cluster, with what is wrong.

use crate::api::diagnosis::{Trouble, Version, diagnose_config};
use crate::api::rights::{Features, Right, host_follow_rights, host_rights, resource_rights, rules, target_rights};

use super::CliError;
use super::clusters::{Clusters, ConfigurationArgs};

pub(super) async fn check(args: &ConfigurationArgs) -> Result<(), CliError> {
    let (failed, text) = report(&args.load().await?).await;
    print!("{text}");
    if failed == 0 { Ok(()) } else { Err(CliError::Check(failed)) }
}

/// How many clusters cannot be used, and a line for each.
pub(super) async fn report(clusters: &Clusters) -> (usize, String) {
    let nodes = &clusters.configuration.nodes;
    let mut needed = [host_rights(Features::of(nodes.iter().map(|node| &node.spec))), host_follow_rights()].concat();
    if clusters.resources.is_some() {
        needed.extend(resource_rights());
    }
    let host = async { ("host".to_owned(), diagnose_config(&clusters.host, &needed).await) };
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
    let (host, targets) = tokio::join!(host, futures::future::join_all(targets));
    let results: Vec<_> = std::iter::once(host).chain(targets).collect();
    let failed = results.iter().filter(|(_, result)| result.is_err()).count();
    let lines: Vec<_> = results.iter().map(|(title, result)| line(title, result) + "\n").collect();
    (failed, lines.concat())
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
