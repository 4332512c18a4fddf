//! A certificate from the host's signer: one request, watched until it is decided.

use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Client, ResourceExt};
use rcgen::KeyPair;
use tokio::time::{Instant, sleep, sleep_until};

use super::request::{self, SIGNER, Verdict};
use super::teller::Teller;
use crate::errors::chain;
use crate::kubelet::server::TlsError;

/// After this time it is said that a request waits; approvers that are programs are quicker.
const QUIET: Duration = Duration::from_secs(10);

/// How often it is said again; events vanish after an hour.
const REMIND: Duration = Duration::from_secs(3600);

/// How long a create rests that was not answered.
const RETRY: Duration = Duration::from_secs(5);

/// Why the host has given no certificate.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// There is no key, or the node's name fits into no certificate.
    #[error("failed to make a certificate request for the node")]
    Make(#[source] rcgen::Error),
    /// The host does not take the request.
    #[error(
        "failed to ask the host for a serving certificate; does Longshore have create, get, list and watch on \
         certificatesigningrequests?"
    )]
    Create(#[source] kube::Error),
    /// The host does not take the approval.
    #[error(
        "failed to approve the certificate request {name}; does Longshore have update on \
         certificatesigningrequests/approval and approve on the signer {SIGNER}? Without --approve-serving-certificates an \
         admin approves"
    )]
    Approve {
        /// Which.
        name: String,
        /// What the host said.
        #[source]
        source: kube::Error,
    },
    /// What has our request's name is another one.
    #[error("failed to approve the certificate request {0}: it is not the one that was sent")]
    Foreign(String),
    /// Somebody or the signer said no.
    #[error("failed to get the certificate request {name} signed: {why}")]
    Refused {
        /// Which.
        name: String,
        /// What was said.
        why: String,
    },
    /// It was removed undecided.
    #[error("failed to get the certificate request {0} signed: it was deleted, as is done with old ones; asking anew")]
    Deleted(String),
    /// What was signed is not of use.
    #[error("failed to use the certificate that the host has signed")]
    Use(#[from] TlsError),
}

/// A certificate that the host has signed.
pub(super) struct Signed {
    /// With its chain, PEM.
    pub(super) chain: Vec<u8>,
    /// PEM.
    pub(super) key: String,
}

/// Asks for a certificate with a new key, and waits for it, as long as that may take.
pub(super) async fn obtain(
    client: &Client,
    node: &str,
    address: IpAddr,
    mut approve: bool,
    teller: &Teller,
) -> Result<Signed, RequestError> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(RequestError::Make)?;
    let sent = request::object(node, address, &key).map_err(RequestError::Make)?;
    let (api, name): (Api<CertificateSigningRequest>, _) = (Api::all(client.clone()), sent.name_any());
    // The same one again if there was no answer: it may be there.
    while let Err(error) = create(&api, &sent).await {
        if matches!(&error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429) {
            return Err(RequestError::Create(error));
        }
        tracing::warn!(node, %error, "the host did not take a certificate request; trying again");
        sleep(RETRY).await;
    }
    let mut seen = watch_object(api.clone(), &name).backoff(crate::backoff::of_watches()).boxed();
    let (mut remind, mut waits_for) = (Instant::now() + QUIET, waits_for(&name, &Verdict::Pending));
    loop {
        let request = tokio::select! {
            seen = seen.next() => match seen {
                Some(Ok(Some(request))) => request,
                Some(Err(error)) => {
                    tracing::debug!(node, %error, "the watch of a certificate request is interrupted");
                    continue;
                }
                Some(Ok(None)) | None => return Err(RequestError::Deleted(name)),
            },
            () = sleep_until(remind) => {
                remind = Instant::now() + REMIND;
                teller.warn("ServingCertificatePending", waits_for.clone()).await;
                continue;
            }
        };
        let verdict = request::verdict(&request);
        waits_for = self::waits_for(&name, &verdict);
        match verdict {
            Verdict::Issued(chain) => return Ok(Signed { chain, key: key.serialize_pem() }),
            Verdict::Refused(why) => return Err(RequestError::Refused { name, why }),
            Verdict::Pending if approve => {
                let approved = request::approved(&sent, request).ok_or_else(|| RequestError::Foreign(name.clone()))?;
                match api.replace_subresource("approval", &name, &PostParams::default(), &approved).await {
                    Ok(_) => {}
                    // It has changed meanwhile: the watch tells.
                    Err(kube::Error::Api(status)) if status.is_conflict() => {}
                    // Somebody else may.
                    Err(source) => {
                        approve = false;
                        let error = RequestError::Approve { name: name.clone(), source };
                        teller.warn("ServingCertificateFailed", chain(&error)).await;
                    }
                }
            }
            Verdict::Pending | Verdict::Approved => {}
        }
    }
}

async fn create(api: &Api<CertificateSigningRequest>, request: &CertificateSigningRequest) -> Result<(), kube::Error> {
    match api.create(&PostParams::default(), request).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        made => made.map(drop),
    }
}

fn waits_for(name: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Approved => format!(
            "the certificate request {name} is approved, but nobody signs it; does the host's kube-controller-manager have a \
             CA for the signer {SIGNER} (--cluster-signing-cert-file)?"
        ),
        _ => format!(
            "the certificate request {name} waits for approval; a self-signed certificate is shown until then. Approve it \
             with: kubectl certificate approve {name}"
        ),
    }
}
