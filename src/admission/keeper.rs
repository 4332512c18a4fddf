//! Certificates in a Secret, which all replicas share. Whoever sees that it is time writes the next; the others take it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::certificates::{CertificateError, Material, renewed};
use super::registration::Registration;
use crate::errors::chain;
use crate::kubelet::server::ServingCertificate;
use crate::provider::names;

/// How often it is looked whether certificates are due, without a request.
const LOOK: Duration = Duration::from_secs(3600);

/// How long it rests after a failure.
const REST: Duration = Duration::from_secs(3);

/// How often somebody else may be faster.
const ATTEMPTS: u8 = 5;

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// They cannot be made.
    #[error(transparent)]
    Make(#[from] CertificateError),
    /// The Secret cannot be read.
    #[error("failed to read the Secret {0} with the certificates of the webhook; grant get, list and watch on it")]
    Read(String, #[source] kube::Error),
    /// The Secret cannot be written.
    #[error(
        "failed to write the Secret {0} with the certificates of the webhook; grant create and update on Secrets there"
    )]
    Write(String, #[source] kube::Error),
    /// Others write it all the time.
    #[error("failed to write the Secret {0}, which somebody else changes all the time; find out who does")]
    Contend(String),
}

fn name(registration: &Registration) -> String {
    format!("{}-webhook", registration.name)
}

fn place(registration: &Registration) -> String {
    format!("{}/{}", registration.own_namespace, name(registration))
}

fn material(secret: &Secret) -> Material {
    let text = |key: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        bytes.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    Material {
        authorities: text("ca.crt"),
        authority_key: text("ca.key"),
        certificate: text("tls.crt"),
        key: text("tls.key"),
    }
}

fn secret(material: &Material, before: Option<&Secret>, registration: &Registration) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = [
        ("ca.crt", &material.authorities),
        ("ca.key", &material.authority_key),
        ("tls.crt", &material.certificate),
        ("tls.key", &material.key),
    ];
    let labels: BTreeMap<_, _> = [(names::MANAGED_BY.to_owned(), names::FIELD_MANAGER.to_owned())].into();
    let fresh = ObjectMeta { name: Some(name(registration)), labels: Some(labels), ..ObjectMeta::default() };
    Secret {
        metadata: before.map_or(fresh, |before| before.metadata.clone()),
        data: Some(data.into_iter().map(|(key, text)| (key.to_owned(), bytes(text))).collect()),
        ..Secret::default()
    }
}

/// Writes what is due; answers the Secret as it is then, and `None` if somebody else was faster.
async fn settle(
    api: &Api<Secret>,
    there: Option<&Secret>,
    registration: &Registration,
) -> Result<Option<Secret>, KeeperError> {
    let now = Timestamp::now().as_second();
    let Some(next) = renewed(there.map(material).as_ref(), &registration.reach.names(), now)? else {
        return Ok(there.cloned());
    };
    let next = secret(&next, there, registration);
    let params = PostParams { field_manager: Some(names::FIELD_MANAGER.into()), ..PostParams::default() };
    let written = match there {
        None => api.create(&params, &next).await,
        // With the resource version of what it replaces.
        Some(_) => api.replace(&name(registration), &params, &next).await,
    };
    match written {
        Ok(written) => {
            tracing::info!(secret = place(registration), "renewed the certificates of the webhook");
            Ok(Some(written))
        }
        Err(kube::Error::Api(status)) if status.code == 409 || (status.code == 404 && there.is_some()) => Ok(None),
        Err(error) => Err(KeeperError::Write(place(registration), error)),
    }
}

/// The certificates of a webhook, made if there are none.
///
/// # Errors
/// When the Secret can be neither read nor written.
pub async fn provide(host: Client, registration: &Registration) -> Result<Material, KeeperError> {
    let api: Api<Secret> = Api::namespaced(host, &registration.own_namespace);
    for _ in 0..ATTEMPTS {
        let there = api.get_opt(&name(registration)).await;
        let there = there.map_err(|error| KeeperError::Read(place(registration), error))?;
        if let Some(secret) = settle(&api, there.as_ref(), registration).await? {
            return Ok(material(&secret));
        }
    }
    Err(KeeperError::Contend(place(registration)))
}

/// Keeps them, and tells each change, for ever.
pub(super) async fn keep(host: Client, registration: Registration, tell: watch::Sender<Option<Arc<Material>>>) {
    let api: Api<Secret> = Api::namespaced(host, &registration.own_namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", name(&registration)));
    let mut stream = watcher(api.clone(), config).backoff(crate::backoff::of_watches()).boxed();
    // Unknown before the first list is complete.
    let (mut there, mut listed): (Option<Option<Secret>>, Option<Secret>) = (None, None);
    let mut due = Instant::now() + LOOK;
    let mut complained = false;
    loop {
        tokio::select! {
            next = stream.try_next() => match next {
                Ok(Some(watcher::Event::Init)) => { listed = None; continue }
                Ok(Some(watcher::Event::InitApply(secret))) => { listed = Some(secret); continue }
                Ok(Some(watcher::Event::InitDone)) => there = Some(listed.take()),
                Ok(Some(watcher::Event::Apply(secret))) => there = Some(Some(secret)),
                Ok(Some(watcher::Event::Delete(_))) => there = Some(None),
                Ok(None) => return,
                Err(error) => {
                    complain(&mut complained, &format!("the Secret {}: {}", place(&registration), chain(&error)));
                    continue;
                }
            },
            () = sleep_until(due) => {}
        }
        due = Instant::now() + LOOK;
        let Some(known) = &there else { continue };
        // Good or due, as long as it can be shown it is better than nothing.
        if let Some(known) = known.as_ref().map(material)
            && ServingCertificate::from_pem(known.certificate.as_bytes(), known.key.as_bytes()).is_ok()
        {
            publish(&tell, known);
        }
        match settle(&api, known.as_ref(), &registration).await {
            Ok(Some(secret)) => {
                complained = false;
                publish(&tell, material(&secret));
                there = Some(Some(secret));
            }
            // The watch tells.
            Ok(None) => {}
            Err(error) => {
                complain(&mut complained, &chain(&error));
                due = Instant::now() + REST;
            }
        }
    }
}

fn publish(tell: &watch::Sender<Option<Arc<Material>>>, material: Material) {
    tell.send_if_modified(|known| {
        let news = known.as_deref() != Some(&material);
        if news {
            *known = Some(Arc::new(material));
        }
        news
    });
}

fn complain(complained: &mut bool, what: &str) {
    if std::mem::replace(complained, true) {
        tracing::debug!(what, "the certificates of the webhook cannot be kept");
    } else {
        tracing::error!(what, "the certificates of the webhook cannot be kept; trying again");
    }
}
