//! Kubeconfig files that change on disk while they are in use.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use super::{Link, NodeSetup, StartError};
use crate::api::clients;
use crate::errors::chain;

/// How often a file is read.
const PERIOD: Duration = Duration::from_secs(3);

/// Gives each target clients that all nodes share, and answers what follows the files, for ever.
pub(super) async fn links(
    nodes: &mut [NodeSetup],
) -> Result<Vec<impl Future<Output = ()> + Send + 'static + use<>>, StartError> {
    let mut links: BTreeMap<String, Link> = BTreeMap::new();
    let mut follows = vec![];
    for target in nodes.iter_mut().flat_map(|node| &mut node.targets) {
        if let Some(link) = links.get(&target.name) {
            target.link = Some(link.clone());
            continue;
        }
        let failed = |source| StartError::BuildClient { what: format!("target {}", target.name), source };
        let link = Link::new(&target.config).await.map_err(failed)?;
        if let Some(file) = target.spec.kubeconfig.file.clone() {
            let address = clients::address(&target.config);
            let context = target.spec.kubeconfig.context.clone();
            follows.push(follow(target.name.clone(), file, context, address, link.clone()));
        }
        links.insert(target.name.clone(), link.clone());
        target.link = Some(link);
    }
    Ok(follows)
}

async fn follow(name: String, file: PathBuf, context: Option<String>, address: String, link: Link) {
    let mut known = tokio::fs::read(&file).await.ok();
    loop {
        tokio::time::sleep(PERIOD).await;
        let text = tokio::fs::read(&file).await.ok();
        if text == known || text.is_none() {
            continue;
        }
        known = text;
        let renewed = async {
            let config = clients::target(&file, context.as_deref()).await?;
            let moved = clients::address(&config) != address;
            if !moved {
                link.exchange(&config).await?;
            }
            Ok::<_, clients::ClientsError>(moved)
        };
        match renewed.await {
            Ok(false) => tracing::info!(target_name = name, "the kubeconfig has changed and is used from now on"),
            Ok(true) => {
                tracing::warn!(target_name = name, "the kubeconfig names another cluster now; restart to use it");
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(
                    target_name = name,
                    error,
                    "the kubeconfig has changed and cannot be used; the last one is"
                );
            }
        }
    }
}
