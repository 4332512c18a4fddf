//! One request: who asks, may they, which pod, and then the provider.

use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CONNECTION, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Body, Refusal, bad_request, document, empty, json, metrics, stream, text};
use super::authn::Authenticator;
use super::authz::{Attributes, Authorizer};
use super::command;
use super::own::{self, Home};
use super::path::{PodPath, Route};
use super::query;
use super::splice::{Limits, splice};
use super::stats::{self, Stats};
use super::upgrade::{is_upgrade, without_credentials};
use super::{PodDirectory, Running};
use crate::kubelet::provider::{PodKey, Source, StreamError, StreamHandler, Tunnel, Upgrade};

/// How long a far end may take to grant an upgrade (the kubelet's `streamCreationTimeout`).
const OPENING: Duration = Duration::from_secs(30);

/// How long a client may take to switch after the 101.
const SWITCHING: Duration = Duration::from_secs(10);

/// What all connections share.
pub(super) struct Handler {
    pub(super) home: Home,
    /// When the server was made.
    pub(super) started: Timestamp,
    pub(super) streams: Arc<dyn StreamHandler>,
    pub(super) pods: Arc<dyn PodDirectory>,
    pub(super) stats: Stats,
    pub(super) authenticator: Authenticator,
    pub(super) authorizer: Authorizer,
    /// Connections and tunnels.
    pub(super) tasks: TaskTracker,
    /// Ends tunnels at once.
    pub(super) abort: CancellationToken,
}

/// What one connection knows of its client.
#[derive(Clone)]
pub(super) struct Peer {
    /// The chain of certificates that the handshake verified; empty where there was none.
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
    /// The place among the connections, which a tunnel keeps after its connection's HTTP has ended.
    pub(super) place: Arc<OwnedSemaphorePermit>,
}

impl Handler {
    /// The answer to a request. Never fails: an error is an answer too.
    pub(super) async fn handle<B>(&self, peer: Peer, mut request: Request<B>) -> Response<Body>
    where
        B: http_body::Body + Send + Unpin,
        B::Data: Send,
        B::Error: Into<Source>,
    {
        self.serve(peer, &mut request).await.unwrap_or_else(|refusal| {
            if let Refusal::Told(status, message) = &refusal {
                tracing::debug!(path = request.uri().path(), %status, message, "a request was refused");
            }
            refusal.into()
        })
    }

    async fn serve<B>(&self, peer: Peer, request: &mut Request<B>) -> Result<Response<Body>, Refusal>
    where
        B: http_body::Body + Send + Unpin,
        B::Data: Send,
        B::Error: Into<Source>,
    {
        // Taken first, since the request cannot be borrowed by a future while its body is not Sync.
        let switch = hyper::upgrade::on(&mut *request);
        let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
        let user = self.authenticator.authenticate(&peer.certificates, &headers).await?;
        let route = Route::of(uri.path());
        self.authorizer.authorize(&user, Attributes::of(&route, &method)).await?;
        if let Some(allowed) = allowed_methods(&route)
            && !allowed.contains(&method)
        {
            return Ok(wrong_method(allowed));
        }
        let query = uri.query().unwrap_or_default();
        match route {
            Route::Healthz => Ok(text(StatusCode::OK, "ok")),
            Route::StatsSummary => {
                let reading = self.stats.read().await?;
                Ok(json(&stats::summary(&self.home.node, self.started, &reading)))
            }
            Route::ResourceMetrics => Ok(metrics(stats::resource_metrics(&*self.stats.read().await?))),
            Route::OwnMetrics => Ok(metrics(own::metrics(&self.home.node, self.started, &self.running_pods()))),
            Route::NoMetrics => Ok(metrics(String::new())),
            Route::Pods => self.home.pods().await.map(document).map_err(Refusal::from_host),
            Route::RunningPods => Ok(json(&own::running_pods(&self.running_pods()))),
            Route::Configz => Ok(json(&self.home.configuration())),
            Route::Logs { pod, container } => {
                let options = query::logs(query)?;
                let key = self.running(&pod, Some(&container))?;
                Ok(stream(self.streams.logs(&key, &container, options).await?))
            }
            Route::Exec { pod, container } => {
                let (options, upgrade) = (query::exec(query).map_err(bad_request)?, wanted(method, &headers)?);
                let key = self.running(&pod, Some(&container))?;
                self.switch(peer, switch, upgrade, |up| self.streams.exec(&key, &container, options, up)).await
            }
            Route::Run { pod, container } => {
                let form = command::form(&headers, request.body_mut()).await?;
                let options = query::run(if form.is_empty() { query } else { &form }).map_err(bad_request)?;
                let key = self.running(&pod, Some(&container))?;
                let ran = async {
                    let command = options.command.join(" ");
                    let far = opened(self.streams.exec(&key, &container, options, command::upgrade())).await?;
                    command::run(far, &command).await
                };
                let output = self.abort.run_until_cancelled(ran).await.unwrap_or_else(|| Err(leaving()))?;
                Ok(stream(Box::pin(futures::stream::once(async { Ok(output) }))))
            }
            Route::Attach { pod, container } => {
                let (options, upgrade) = (query::attach(query).map_err(bad_request)?, wanted(method, &headers)?);
                let key = self.running(&pod, Some(&container))?;
                self.switch(peer, switch, upgrade, |up| self.streams.attach(&key, &container, options, up)).await
            }
            Route::PortForward { pod } => {
                let (ports, upgrade) = (query::ports(query).map_err(bad_request)?, wanted(method, &headers)?);
                let key = self.running(&pod, None)?;
                self.switch(peer, switch, upgrade, |up| self.streams.port_forward(&key, ports, up)).await
            }
            Route::Lacking(_) => Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "a virtual node does not have this")),
            Route::Malformed(why) => Err(Refusal::new(StatusCode::BAD_REQUEST, why)),
            Route::Unknown => Err(Refusal::new(StatusCode::NOT_FOUND, "404 page not found")),
        }
    }

    /// What runs, in order of namespaces and names.
    fn running_pods(&self) -> Vec<Running> {
        let mut running = self.pods.running();
        running.sort_by(|one, other| (&one.key.namespace, &one.key.name).cmp(&(&other.key.namespace, &other.key.name)));
        running
    }

    /// The pod that a path means, if something runs for it.
    fn running(&self, path: &PodPath, container: Option<&str>) -> Result<PodKey, Refusal> {
        let found = self
            .pods
            .find(&path.namespace, &path.name)
            .filter(|found| path.uid.as_ref().is_none_or(|uid| *uid == found.key.uid))
            .ok_or_else(|| {
                let message = format!("pod \"{}_{}\" not found", path.name, path.namespace);
                Refusal::new(StatusCode::NOT_FOUND, message)
            })?;
        if found.running {
            return Ok(found.key);
        }
        let message = match container {
            Some(container) => {
                format!("container {container:?} in pod {:?} is waiting to start: ContainerCreating", path.name)
            }
            None => format!("pod {:?} is waiting to start", path.name),
        };
        Err(Refusal::new(StatusCode::BAD_REQUEST, message))
    }

    /// Opens the far end, and only then grants the client's upgrade.
    async fn switch<F>(
        &self,
        peer: Peer,
        switch: OnUpgrade,
        upgrade: Upgrade,
        open: impl FnOnce(Upgrade) -> F,
    ) -> Result<Response<Body>, Refusal>
    where
        F: Future<Output = Result<Tunnel, StreamError>>,
    {
        let protocol = upgrade.headers.get(UPGRADE).cloned();
        let Tunnel { headers, io: far } = opened(open(upgrade)).await?;
        let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
        *response.headers_mut() = headers;
        response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("Upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().entry(UPGRADE).or_insert(protocol);
        }
        let abort = self.abort.clone();
        self.tasks.spawn(async move {
            let copied = async {
                match timeout(SWITCHING, switch).await {
                    Ok(Ok(client)) => splice(TokioIo::new(client), far, Limits::default()).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a client went away before its stream began"),
                    Err(_) => tracing::debug!("a client did not take the stream that it asked for"),
                }
            };
            abort.run_until_cancelled(copied).await;
            drop(peer.place);
        });
        Ok(response)
    }
}

/// A far end, if it is granted in time.
async fn opened(opening: impl Future<Output = Result<Tunnel, StreamError>>) -> Result<Tunnel, Refusal> {
    let Ok(opened) = timeout(OPENING, opening).await else {
        return Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the far side did not open the stream in time"));
    };
    Ok(opened?)
}

/// The methods that a route knows; `None` where the method does not matter.
fn allowed_methods(route: &Route) -> Option<&'static [Method]> {
    match route {
        Route::Logs { .. }
        | Route::Healthz
        | Route::StatsSummary
        | Route::ResourceMetrics
        | Route::OwnMetrics
        | Route::NoMetrics
        | Route::Pods
        | Route::RunningPods
        | Route::Configz => Some(&[Method::GET]),
        Route::Run { .. } => Some(&[Method::POST]),
        Route::Exec { .. } | Route::Attach { .. } | Route::PortForward { .. } => Some(&[Method::GET, Method::POST]),
        Route::Lacking(_) | Route::Unknown | Route::Malformed(_) => None,
    }
}

fn wrong_method(allowed: &[Method]) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n");
    let list = match allowed {
        [Method::POST] => "POST",
        [_] => "GET",
        _ => "GET, POST",
    };
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(list));
    response
}

fn leaving() -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the node is served by another process from now on; try again")
}

fn wanted(method: Method, headers: &http::HeaderMap) -> Result<Upgrade, Refusal> {
    if !is_upgrade(headers) {
        let message = "unable to upgrade: the request has no Upgrade and Connection: Upgrade headers";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(Upgrade { method, headers: without_credentials(headers) })
}
