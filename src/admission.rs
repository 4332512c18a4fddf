//! Pods that ask to be offloaded, sent on their way by a mutating webhook.
//!
//! ```text
//! API server ── HTTPS ── server ── review ── decide (PURE: pod, labels of its namespace, roster -> patch or refusal)
//!                          │                   │
//!        certificates (PURE), kept in          └─ roster: the virtual nodes that this Longshore serves
//!        a Secret that replicas share (keeper)
//!
//! one replica: registrar (the MutatingWebhookConfiguration), release (pods that stayed at home first)
//! ```
//!
//! The webhook only makes pods select virtual nodes and tolerate them, which users can do themselves. What runs when it is
//! gone goes on; what does not ask is never asked about ([`registration`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::leader::Replica;

use self::certificates::Material;
use self::registration::Registration;
use self::roster::Roster;

pub mod certificates;
pub mod decide;
pub mod keeper;
pub mod registration;
pub mod roster;

mod registrar;
mod release;
mod review;
mod server;

/// What a webhook needs.
#[derive(Clone, Debug)]
pub struct AdmissionSetup {
    /// Where it listens.
    pub bind: SocketAddr,
    /// Which one it is, and how the API server reaches it.
    pub registration: Registration,
    /// It writes the MutatingWebhookConfiguration by itself.
    pub register: bool,
    /// How long a pod of the mode `LocalAndRemote` has to be unschedulable at home before it may go.
    pub patience: Duration,
}

/// Why there is no webhook.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The address is taken, not of this machine, or reserved.
    #[error("failed to listen on {address} for the webhook; free the port, or give another --webhook-bind")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// What it works with.
pub struct Surroundings {
    /// The host.
    pub host: Client,
    /// Who we are among the replicas.
    pub replica: Replica,
    /// The name by which events say who tells them.
    pub identity: String,
    /// Where pods can go; `None` as long as that is not known.
    pub roster: watch::Receiver<Option<Arc<Roster>>>,
    /// Pods are listed anew after this long.
    pub relist_after: Option<Duration>,
}

/// A webhook that has its address.
pub struct Webhook {
    setup: AdmissionSetup,
    listener: TcpListener,
}

impl Webhook {
    /// Takes the address. Nothing is served before [`Webhook::run`].
    ///
    /// # Errors
    /// When it is not to be had.
    pub async fn bind(setup: AdmissionSetup) -> Result<Self, AdmissionError> {
        let address = setup.bind;
        let listener = TcpListener::bind(address).await.map_err(|source| AdmissionError::Bind { address, source })?;
        Ok(Self { setup, listener })
    }

    /// Serves until it is told to stop.
    pub async fn run(self, with: Surroundings, shutdown: CancellationToken) {
        let Self { setup, listener } = self;
        let (sender, material) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let (host, registration) = (with.host.clone(), setup.registration.clone());
        let stop = shutdown.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(keeper::keep(host, registration, sender)).await;
        });
        tasks.spawn(server::serve(server::Setup {
            listener,
            host: with.host.clone(),
            material: material.clone(),
            roster: with.roster.clone(),
            name: setup.registration.name.clone(),
            shutdown: shutdown.clone(),
        }));
        tasks.spawn(lead(setup, with, material, shutdown));
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Does what one replica is enough for, whenever that is ours to do. Everything that is done twice is harmless.
async fn lead(
    setup: AdmissionSetup,
    with: Surroundings,
    material: watch::Receiver<Option<Arc<Material>>>,
    shutdown: CancellationToken,
) {
    let name = format!("webhook.{}", setup.registration.name);
    while let Some(mut term) = with.replica.claim(&name, &shutdown).await {
        let stop = shutdown.child_token();
        let release = release::release(release::Setup {
            host: with.host.clone(),
            identity: with.identity.clone(),
            name: setup.registration.name.clone(),
            patience: setup.patience,
            relist_after: with.relist_after,
        });
        let register = setup
            .register
            .then(|| registrar::register(with.host.clone(), setup.registration.clone(), material.clone()));
        let its_stop = stop.clone();
        let work = tokio::spawn(async move {
            let both = async {
                tokio::join!(release, futures::future::OptionFuture::from(register));
            };
            its_stop.run_until_cancelled(Box::pin(both)).await;
        });
        term.hold_while(work, &stop).await;
        term.release().await;
    }
}
