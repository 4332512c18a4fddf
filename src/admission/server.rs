//! The HTTPS server that API servers ask.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use moka::future::Cache;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::certificates::Material;
use super::decide::{self, Admitted, Config, Refusal};
use super::registration::{NAMESPACES, PODS};
use super::review::{self, Review};
use super::roster::Roster;
use crate::errors::chain;
use crate::kubelet::server::ServingCertificate;
use crate::provider::names;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection may wait for the next request: longer than the API server's, so that it never sends a request into
/// one that is being closed here.
const HEAD: Duration = Duration::from_secs(100);

/// How long a question may take to arrive.
const BODY: Duration = Duration::from_secs(10);

/// How large a question may be, in bytes: an object has at most 3 MiB in a request, and is escaped once.
const BODY_SIZE: usize = 8 << 20;

/// How many connections are served at once; more wait in the listener's backlog.
const CONNECTIONS: usize = 256;

/// How long open connections may go on after a shutdown has begun.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long accepting rests after a failure.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// How long the labels of a namespace are remembered: so that a burst of pods does not become one of requests.
const MEMORY: Duration = Duration::from_secs(2);

/// How many namespaces are remembered.
const MEMORIES: u64 = 1024;

/// What the server needs.
pub(super) struct Setup {
    pub(super) listener: TcpListener,
    pub(super) host: Client,
    pub(super) material: watch::Receiver<Option<Arc<Material>>>,
    pub(super) roster: watch::Receiver<Option<Arc<Roster>>>,
    pub(super) name: String,
    pub(super) shutdown: CancellationToken,
}

/// The certificate of the moment.
#[derive(Debug, Default)]
struct Shown(ArcSwapOption<ServingCertificate>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()?.resolve(hello)
    }
}

/// What all connections share.
struct Handler {
    namespaces: Api<Namespace>,
    labels: Cache<String, Arc<BTreeMap<String, String>>>,
    roster: watch::Receiver<Option<Arc<Roster>>>,
    name: String,
}

/// Serves until the shutdown; then gives open connections a few seconds.
pub(super) async fn serve(setup: Setup) {
    let Setup { listener, host, mut material, roster, name, shutdown } = setup;
    let shown = Arc::new(Shown::default());
    let following = {
        let shown = shown.clone();
        async move {
            loop {
                if let Some(material) = material.borrow_and_update().clone() {
                    match ServingCertificate::from_pem(material.certificate.as_bytes(), material.key.as_bytes()) {
                        Ok(certificate) => shown.0.store(Some(Arc::new(certificate))),
                        Err(error) => tracing::error!(error = chain(&error), "the webhook keeps its last certificate"),
                    }
                }
                if material.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        }
    };
    let tls = match tls(shown) {
        Ok(tls) => TlsAcceptor::from(Arc::new(tls)),
        Err(error) => return tracing::error!(%error, "TLS cannot be configured; there is no webhook"),
    };
    let handler = Arc::new(Handler {
        namespaces: Api::all(host),
        labels: Cache::builder().max_capacity(MEMORIES).time_to_live(MEMORY).build(),
        roster,
        name,
    });
    let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    let accepting = async {
        // Never closed, so this loop has no end of its own.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            match listener.accept().await {
                Ok((tcp, _)) => {
                    tasks.spawn(connection(tcp, place, tls.clone(), handler.clone(), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection; resting a moment");
                    sleep(ACCEPT_REST).await;
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accepting => {}
        () = following => {}
    }
    drop(listener);
    tasks.close();
    _ = timeout(FAREWELL, tasks.wait()).await;
}

fn tls(shown: Arc<Shown>) -> Result<rustls::ServerConfig, rustls::Error> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        // What is answered is no secret, and changes nothing but the asker's own object.
        .with_no_client_auth()
        .with_cert_resolver(shown);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connection(
    tcp: TcpStream,
    place: OwnedSemaphorePermit,
    tls: TlsAcceptor,
    handler: Arc<Handler>,
    shutdown: CancellationToken,
) {
    _ = tcp.set_nodelay(true);
    let tls = match timeout(HANDSHAKE, tls.accept(tcp)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake with the webhook failed"),
        Err(_) => return tracing::debug!("a TLS handshake with the webhook took too long"),
    };
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.handle(request).await) }
    });
    let mut connection = std::pin::pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(tls), service)
    );
    let served = tokio::select! {
        served = &mut connection => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the webhook ended badly");
    }
    drop(place);
}

impl Handler {
    async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/healthz") => return text(StatusCode::OK, "ok"),
            (&Method::GET, "/readyz") if self.roster.borrow().is_some() => return text(StatusCode::OK, "ok"),
            (&Method::GET, "/readyz") => {
                return text(StatusCode::SERVICE_UNAVAILABLE, "the virtual nodes are not known yet");
            }
            _ => {}
        }
        // An URL may have a path before ours.
        let labelled = path.ends_with(NAMESPACES);
        if !labelled && !path.ends_with(PODS) {
            return text(StatusCode::NOT_FOUND, "not found");
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview has to be posted");
        }
        let body = match timeout(BODY, Limited::new(request.into_body(), BODY_SIZE).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the question took too long"),
        };
        let review = match review::read(&body) {
            Ok(review) => review,
            Err(why) => return text(StatusCode::BAD_REQUEST, &why),
        };
        let decision = self.decide(&review, labelled).await;
        if let Ok(Err(Refusal(why))) | Err(why) = &decision {
            tracing::info!(namespace = review.request.namespace, why, "a pod was not admitted");
        }
        document(&review::answer(&review.request, decision))
    }

    async fn decide(&self, review: &Review, labelled: bool) -> Result<Result<Admitted, Refusal>, String> {
        let request = &review.request;
        if !request.is_new_pod() {
            return Ok(Ok(Admitted::default()));
        }
        let Some(roster) = self.roster.borrow().clone() else {
            return Err("the virtual nodes are not known yet; try again".into());
        };
        let labels = self.labels(&request.namespace, labelled).await?;
        let config = Config { roster: &roster, name: &self.name };
        Ok(decide::admission(&request.object, &labels, &config))
    }

    /// The labels of a namespace; with `labelled`, the API server has seen the one that asks for its pods.
    async fn labels(&self, namespace: &str, labelled: bool) -> Result<Arc<BTreeMap<String, String>>, String> {
        let read = || async {
            let found = self.namespaces.get_metadata_opt(namespace).await?;
            Ok::<_, kube::Error>(Arc::new(found.and_then(|found| found.metadata.labels).unwrap_or_default()))
        };
        let failed = |error: &kube::Error| format!("failed to read the labels of the namespace: {}", chain(error));
        let known = self.labels.try_get_with_by_ref(namespace, read()).await.map_err(|error| failed(&error))?;
        if !labelled || known.contains_key(names::OFFLOAD) {
            return Ok(known);
        }
        // It was labelled a moment ago.
        let fresh = read().await.map_err(|error| failed(&error))?;
        self.labels.insert(namespace.to_owned(), fresh.clone()).await;
        Ok(fresh)
    }
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

fn document(document: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
