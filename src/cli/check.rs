//! `longshore check`: a line for each cluster, with what is wrong.

use crate::api::diagnosis::{Trouble, Version, diagnose_config};
use crate::api::rights::{Features, Right, host_follow_rights, host_rights, rules, target_rights};

use super::{CliError, ConfigurationArgs};

pub(super) async fn check(args: &ConfigurationArgs) -> Result<(), CliError> {
    let clusters = args.load().await?;
    let nodes = &clusters.configuration.nodes;
    let needed = [host_rights(Features::of(nodes.iter().map(|node| &node.spec))), host_follow_rights()].concat();
    let host = async { ("host".to_owned(), diagnose_config(&clusters.host, &needed).await) };
    let targets = clusters.configuration.targets.iter().zip(&clusters.targets).map(|(target, config)| async move {
        let title = format!("target {}", target.name);
        let needed = target_rights(&target.spec, Features::of_target(nodes, &target.name));
        (title, diagnose_config(config, &needed).await)
    });
    // All at once: each may take its whole deadline.
    let (host, targets) = tokio::join!(host, futures::future::join_all(targets));
    let results: Vec<_> = std::iter::once(host).chain(targets).collect();
    for (title, result) in &results {
        println!("{}", line(title, result));
    }
    match results.iter().filter(|(_, result)| result.is_err()).count() {
        0 => Ok(()),
        failed => Err(CliError::Check(failed)),
    }
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
