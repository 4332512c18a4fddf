//! Clients that follow their kubeconfig: credentials that were rotated are used within seconds, without a restart.
//!
//! The files are looked at, not watched: a Secret that is mounted changes by a link that is replaced two folders above, which
//! notifications of the system tell of in a different way everywhere.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::{Client, Config};

use super::link::{Exchange, WeakExchange};
use super::{ClientsError, build, host, target};
use crate::errors::chain;
use crate::metrics::Requests;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How to reach a cluster, as it was read, and where. It has no `Debug` because that would show credentials.
#[derive(Clone)]
pub struct Access {
    config: Config,
    origin: Origin,
    meter: Option<Arc<Requests>>,
}

/// Makes a client of a configuration, whose requests count.
pub(super) type Make = fn(Config, Option<Arc<Requests>>) -> kube::Result<Client>;

/// Where a configuration comes from.
#[derive(Clone)]
pub(super) enum Origin {
    /// From nowhere that could change, or where kube follows by itself (the service account of a pod).
    Fixed,
    /// From where kubectl has it.
    Usual { context: Option<String>, files: Files },
    /// From this file.
    File { path: PathBuf, context: Option<String>, files: Files },
}

impl Access {
    pub(super) fn new(config: Config, origin: Origin) -> Self {
        Self { config, origin, meter: None }
    }

    /// The same, whose clients count their requests.
    #[must_use]
    pub fn metered(self, requests: Arc<Requests>) -> Self {
        Self { meter: Some(requests), ..self }
    }

    /// Where requests count, if they do.
    pub(super) fn meter(&self) -> Option<&Arc<Requests>> {
        self.meter.as_ref()
    }

    fn files(&self) -> Option<&Files> {
        match &self.origin {
            Origin::Fixed => None,
            Origin::Usual { files, .. } | Origin::File { files, .. } => Some(files),
        }
    }

    /// The same, which follows nothing: somebody else says when it changes.
    pub(super) fn fixed(&self) -> Self {
        Self { origin: Origin::Fixed, ..self.clone() }
    }

    /// How the files looked that it was read from; another text when one of them has changed.
    pub fn look(&self) -> String {
        self.files().map(|files| format!("{files:?}")).unwrap_or_default()
    }

    /// Reads it again.
    async fn again(&self) -> Result<Self, ClientsError> {
        let again = match &self.origin {
            Origin::Fixed => return Ok(self.clone()),
            Origin::Usual { context, .. } => host(None, context.as_deref()).await?,
            Origin::File { path, context, .. } => target(path, context.as_deref()).await?,
        };
        Ok(Self { meter: self.meter.clone(), ..again })
    }
}

impl Deref for Access {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.config
    }
}

impl From<Config> for Access {
    fn from(config: Config) -> Self {
        Self::new(config, Origin::Fixed)
    }
}

/// Files, and how they looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Files(Vec<(PathBuf, Option<Look>)>);

/// How a file looks from outside: time, length and, where there is such a thing, its number.
type Look = (SystemTime, u64, u64);

impl Files {
    /// As they look now. To be taken before they are read, so that no change is missed.
    pub(super) async fn look(paths: Vec<PathBuf>) -> Self {
        let mut files = vec![];
        for path in paths {
            let look = look(&path).await;
            files.push((path, look));
        }
        Self(files)
    }

    /// With more of them.
    pub(super) async fn and(mut self, more: Vec<PathBuf>) -> Self {
        self.0.extend(Self::look(more).await.0);
        self
    }

    async fn again(&self) -> Self {
        Self::look(self.0.iter().map(|(path, _)| path.clone()).collect()).await
    }
}

async fn look(path: &Path) -> Option<Look> {
    let found = tokio::fs::metadata(path).await.ok()?;
    #[cfg(unix)]
    let number = std::os::unix::fs::MetadataExt::ino(&found);
    #[cfg(not(unix))]
    let number = 0;
    Some((found.modified().ok()?, found.len(), number))
}

/// A client that `make` makes of the newest configuration.
pub(super) async fn client(access: &Access, make: Make) -> Result<Client, ClientsError> {
    let first = build(access, make).await?;
    if access.files().is_none() {
        return Ok(first);
    }
    let exchange = Exchange::new(first);
    tokio::spawn(follow(access.clone(), exchange.downgrade(), make));
    Ok(exchange.client(access.config.default_namespace.clone()))
}

/// Replaces the client whenever the files change, for as long as anybody has it. What is under way with the old credentials
/// goes on. Files that cannot be used change nothing: they may be half written.
async fn follow(mut access: Access, current: WeakExchange, make: Make) {
    let mut complaint = String::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(current) = current.upgrade() else { return };
        let Some(known) = access.files() else { return };
        if known.again().await == *known {
            continue;
        }
        let address = super::address(&access);
        match renewed(&access, make).await {
            Ok((next, client)) => {
                tracing::info!(address, "the kubeconfig has changed; using its credentials");
                current.replace(client);
                access = next;
                complaint.clear();
            }
            Err(trouble) if trouble != complaint => {
                tracing::warn!(address, trouble, "the kubeconfig has changed and is not used");
                complaint = trouble;
            }
            Err(_) => {}
        }
    }
}

async fn renewed(access: &Access, make: Make) -> Result<(Access, Client), String> {
    let next = access.again().await.map_err(|error| chain(&error))?;
    if next.cluster_url != access.cluster_url {
        // It may be another cluster, and what runs in the old one would be taken for lost.
        let address = super::address(&next);
        return Err(format!("it names another address, {address}; restart Longshore if that is meant"));
    }
    let client = build(&next, make).await.map_err(|error| chain(&error))?;
    Ok((next, client))
}
