//! The kubelet's HTTPS API, by which the host's API server (and whoever it authorises) reaches into pods.
//!
//! ```text
//! TCP ── TLS ── HTTP/1.1 ── who asks? ── may they? ── which pod? ── StreamHandler
//!       tls     (hyper)     authn         authz        PodDirectory   (the provider)
//!       trust                                                             │
//!                                     101, then splice: bytes both ways ──┘
//! ```
//!
//! No protocol of exec, attach and port-forward is spoken here: an upgrade is granted when the far end has granted it,
//! and from then on bytes are copied.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::handler::{Handler, Peer};
use self::stats::Stats;
use super::provider::{PodKey, StreamHandler};

mod answer;
mod authn;
mod authz;
mod command;
#[cfg(test)]
mod fakes;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handler;
mod meter;
mod own;
mod path;
mod query;
mod splice;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod upgrade;

pub use self::authn::{Authenticator, AuthnError, User};
pub use self::authz::{Authorizer, AuthzError};
pub use self::own::Home;
pub use self::tls::{Described, ServingCertificate, Tls, TlsError, server_config};
pub use self::trust::{ClientTrust, TrustError};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection may wait for the next request, or take to send its head. Longer than the 90 s after which Go
/// closes its idle connections, so that the API server never sends a request into one that is being closed here.
const HEAD: Duration = Duration::from_secs(100);

/// How large a request's head may be, in bytes. A command of `kubectl exec` is in it, and an URI has at most 64 KiB.
const HEAD_SIZE: usize = 128 * 1024;

/// How many connections are served at once, tunnels included; more wait in the listener's backlog.
const CONNECTIONS: usize = 4096;

/// How long open connections may go on after a shutdown has begun.
const FAREWELL: Duration = Duration::from_secs(5);

/// After how long a silent connection is probed, and between probes: peers that vanish without a word are found.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// How long accepting rests after a failure (usually: no file descriptors left).
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// Tells which pod a request means.
pub trait PodDirectory: Send + Sync + 'static {
    /// The pod of this name on this server's node, if there is one. Called for every request: must not block.
    fn find(&self, namespace: &str, name: &str) -> Option<Found>;

    /// All pods that the provider has an instance of, in no order.
    fn running(&self) -> Vec<Running>;
}

/// A pod that the provider has an instance of.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Its identity.
    pub key: PodKey,
    /// The instance's status in home's terms (`v1.PodStatus` as JSON); null where there is none yet.
    pub status: Value,
}

/// A pod that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its identity.
    pub key: PodKey,
    /// Whether the provider has an instance of it.
    pub running: bool,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, not of this machine, or reserved.
    #[error(
        "failed to listen on {address} for the kubelet API; free the port (is another kubelet on this machine?) or choose \
         another address"
    )]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The server of one node. Each node needs its own, with its own port: an authorisation names the node.
pub struct Server {
    handler: Handler,
    acceptor: TlsAcceptor,
    certificate: Arc<ServingCertificate>,
}

impl Server {
    /// A server for the node `home` that serves the pods of `pods` by `streams`, to those whom `authorizer` lets.
    pub fn new(
        home: Home,
        streams: Arc<dyn StreamHandler>,
        pods: Arc<dyn PodDirectory>,
        authenticator: Authenticator,
        authorizer: Authorizer,
        tls: Tls,
    ) -> Self {
        let (tasks, abort) = (TaskTracker::new(), CancellationToken::new());
        let (stats, started) = (Stats::new(streams.clone(), pods.clone()), Timestamp::now());
        let handler = Handler { home, started, streams, pods, stats, authenticator, authorizer, tasks, abort };
        Self { handler, acceptor: TlsAcceptor::from(tls.config), certificate: tls.certificate }
    }

    /// Takes the address; port 0 takes any free port. Nothing is served before [`Bound::serve`].
    pub async fn bind(self, address: SocketAddr) -> Result<Bound, ServerError> {
        let failed = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Bound { server: self, listener, address })
    }

    /// Serves whoever comes to this listener until `shutdown`; then takes no more connections and gives the open ones a few
    /// seconds.
    pub async fn serve(self, listener: Arc<TcpListener>, shutdown: CancellationToken) {
        let Self { handler, acceptor, certificate } = self;
        let handler = Arc::new(handler);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let accepting = async {
            // Never closed, so this loop has no end of its own.
            while let Ok(place) = Arc::clone(&places).acquire_owned().await {
                match listener.accept().await {
                    Ok((tcp, _)) => {
                        let connection = Connection {
                            handler: Arc::clone(&handler),
                            acceptor: acceptor.clone(),
                            certificate: certificate.clone(),
                            shutdown: shutdown.clone(),
                        };
                        handler.tasks.spawn(connection.serve(tcp, Arc::new(place)));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "failed to accept a connection; resting a moment");
                        sleep(ACCEPT_REST).await;
                    }
                }
            }
        };
        shutdown.run_until_cancelled(accepting).await;
        drop(listener);
        handler.tasks.close();
        if timeout(FAREWELL, handler.tasks.wait()).await.is_err() {
            handler.abort.cancel();
            handler.tasks.wait().await;
        }
    }
}

/// A server that has its address.
pub struct Bound {
    server: Server,
    listener: TcpListener,
    address: SocketAddr,
}

impl Bound {
    /// The address, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// See [`Server::serve`].
    pub async fn serve(self, shutdown: CancellationToken) {
        self.server.serve(Arc::new(self.listener), shutdown).await;
    }
}

struct Connection {
    handler: Arc<Handler>,
    acceptor: TlsAcceptor,
    certificate: Arc<ServingCertificate>,
    shutdown: CancellationToken,
}

impl Connection {
    async fn serve(self, tcp: TcpStream, place: Arc<tokio::sync::OwnedSemaphorePermit>) {
        let abort = self.handler.abort.clone();
        abort.run_until_cancelled(self.serve_to_the_end(tcp, place)).await;
    }

    async fn serve_to_the_end(self, tcp: TcpStream, place: Arc<tokio::sync::OwnedSemaphorePermit>) {
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        if let Err(error) = tcp.set_nodelay(true).and_then(|()| SockRef::from(&tcp).set_tcp_keepalive(&keepalive)) {
            tracing::debug!(%error, "failed to set the options of a connection; it is served as it is");
        }
        let tls = match timeout(HANDSHAKE, self.acceptor.accept(tcp)).await {
            Ok(Ok(tls)) => tls,
            Ok(Err(error)) => {
                if tls::is_refusal(&error) {
                    self.certificate.was_refused();
                }
                return tracing::debug!(%error, "a TLS handshake failed");
            }
            Err(_) => return tracing::debug!("a TLS handshake took too long"),
        };
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default().into();
        let peer = Peer { certificates, place };
        let handler = self.handler;
        let service = service_fn(move |request| {
            let (handler, peer) = (Arc::clone(&handler), peer.clone());
            async move { Ok::<_, std::convert::Infallible>(handler.handle(peer, request).await) }
        });
        let mut connection = std::pin::pin!(
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(HEAD_SIZE)
                .serve_connection(TokioIo::new(tls), service)
                .with_upgrades()
        );
        let served = tokio::select! {
            served = &mut connection => served,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended badly");
        }
    }
}
