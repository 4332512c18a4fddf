//! The certificate that a node's API shows: where it comes from, and when another one takes its place.
//!
//! Each replica has a key of its own, which never leaves the process. Whatever goes wrong with a renewal, the certificate
//! that is there goes on being shown: a pod must not suffer for it, and a client that does not verify does not mind.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Client;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::server::{ServingCertificate, TlsError};
use crate::errors::chain;

mod files;
mod host;
pub mod plan;
pub mod request;
mod teller;

use files::Files;
pub use files::FilesError;
pub use host::RequestError;
use teller::Teller;

/// How often given files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How often it is said at most that a client does not trust the certificate.
const REFUSAL: Duration = Duration::from_secs(600);

/// Where serving certificates come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CertificateSource {
    /// Each node signs its own. Enough for API servers that do not verify kubelets.
    #[default]
    SelfSigned,
    /// Somebody keeps them in these files, PEM. The same for all nodes of the process.
    Files {
        /// The certificate with its chain, the leaf first.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The host's signer `kubernetes.io/kubelet-serving`.
    Host {
        /// Requests of our own are approved by ourselves; otherwise somebody else has to.
        approve: bool,
    },
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// None could be made.
    #[error(transparent)]
    Make(#[from] TlsError),
    /// The given files are of no use.
    #[error(transparent)]
    Load(#[from] FilesError),
}

/// The serving certificate of one node, before it is kept.
pub struct Certificate {
    source: CertificateSource,
    node: String,
    address: IpAddr,
    serving: Arc<ServingCertificate>,
    files: Option<Files>,
}

impl Certificate {
    /// A certificate to begin with: that of the files, else one that signs itself. Nothing is written to the host.
    ///
    /// # Errors
    /// When the files cannot be used, or the node has a name that no certificate can have.
    pub fn load(source: CertificateSource, node: &str, address: IpAddr) -> Result<Self, CertificateError> {
        let (serving, files) = match &source {
            CertificateSource::SelfSigned | CertificateSource::Host { .. } => {
                (ServingCertificate::self_signed(node, &[address])?, None)
            }
            CertificateSource::Files { certificate, key } => {
                let files = Files::read(certificate, key)?;
                (files.certificate()?, Some(files))
            }
        };
        Ok(Self { source, node: node.into(), address, serving: Arc::new(serving), files })
    }

    /// What the server shows.
    pub fn serving(&self) -> Arc<ServingCertificate> {
        self.serving.clone()
    }

    /// Gets the certificate that is wanted, and renews it for as long as the answer lives.
    pub fn keep(self, client: Client) -> KeptCertificate {
        let serving = self.serving();
        let (sender, ready) = watch::channel(!matches!(self.source, CertificateSource::Host { .. }));
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let teller = Teller::new(client.clone(), &self.node);
            tokio::join!(self.watch_refusals(&teller), self.renew(client, &teller, &sender));
        }));
        KeptCertificate { serving, ready, _task: task }
    }

    async fn renew(&self, client: Client, teller: &Teller, ready: &watch::Sender<bool>) {
        match &self.source {
            CertificateSource::SelfSigned => loop {
                self.until_due(SystemTime::now()).await;
                if let Err(error) = self.serving.sign_anew(&self.node, &[self.address]) {
                    tracing::error!(node = self.node, error = chain(&error), "the certificate was not renewed");
                    sleep(plan::rest(u32::MAX)).await;
                }
            },
            CertificateSource::Files { .. } => self.follow_files(teller).await,
            CertificateSource::Host { approve } => {
                let mut failures = 0_u32;
                loop {
                    let got = host::obtain(&client, &self.node, self.address, *approve, teller).await;
                    match got.and_then(|pem| Ok(self.serving.replace(&pem.chain, pem.key.as_bytes())?)) {
                        Ok(()) => {
                            failures = 0;
                            ready.send_replace(true);
                            tracing::info!(node = self.node, "the host has signed the node's serving certificate");
                            self.until_due(SystemTime::now()).await;
                        }
                        Err(error) => {
                            failures = failures.saturating_add(1);
                            teller.warn("ServingCertificateFailed", chain(&error)).await;
                            sleep(plan::rest(failures)).await;
                        }
                    }
                }
            }
        }
    }

    /// Waits until the certificate, which was put there at `since`, should be renewed.
    async fn until_due(&self, since: SystemTime) {
        let Ok(described) = self.serving.describe() else { return sleep(plan::rest(u32::MAX)).await };
        let due = plan::due(since, described.until);
        // In steps, since the clock of sleeps stands still while a machine is suspended.
        while let Some(pause) = plan::pause(SystemTime::now(), due) {
            sleep(pause).await;
        }
    }

    async fn follow_files(&self, teller: &Teller) {
        let Some(mut known) = self.files.clone() else { return };
        let mut said = None;
        loop {
            if let Ok(described) = self.serving.describe()
                && let Some(trouble) = plan::trouble(&described, self.address, SystemTime::now())
                && said != Some(trouble)
            {
                teller.warn("ServingCertificateUnfit", trouble.to_string()).await;
                said = Some(trouble);
            }
            sleep(LOOK).await;
            let changed = match known.read_again().await {
                Ok(None) => continue,
                Ok(Some(files)) => files.show(&self.serving).map(|()| files).map_err(FilesError::from),
                Err(error) => Err(error),
            };
            match changed {
                Ok(files) => {
                    (known, said) = (files, None);
                    tracing::info!(node = self.node, "the serving certificate was read again");
                }
                // Somebody may be writing; the pair that is shown is a good one.
                Err(error) => tracing::warn!(
                    node = self.node,
                    error = chain(&error),
                    "the files of the serving certificate have changed and cannot be used; the old one is shown"
                ),
            }
        }
    }

    /// Says that somebody does not trust the certificate: the user sees a failed `kubectl logs` and not why.
    async fn watch_refusals(&self, teller: &Teller) {
        loop {
            self.serving.refusal().await;
            teller.warn("ServingCertificateRefused", plan::refusal(&self.source).into()).await;
            sleep(REFUSAL).await;
        }
    }
}

/// A certificate that is renewed. It is no longer when this is dropped, but goes on being shown.
pub struct KeptCertificate {
    serving: Arc<ServingCertificate>,
    ready: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

impl KeptCertificate {
    /// What the server shows.
    pub fn serving(&self) -> Arc<ServingCertificate> {
        self.serving.clone()
    }

    /// Waits for the certificate that is wanted, but no longer than this: an approval may take days, and pods do not wait for
    /// it. Answers whether it is there.
    pub async fn ready(&self, patience: Duration) -> bool {
        let mut ready = self.ready.clone();
        timeout(patience, ready.wait_for(|ready| *ready)).await.is_ok_and(|ready| ready.is_ok())
    }
}
