//! Connections that notice when the other side has vanished without a word, and no more of them than it takes.
//!
//! kube's own connector leaves the first to the kernel's defaults, which are two hours for an idle connection and a quarter of
//! an hour for one with unanswered data. A cut link would leave every watch waiting for as long.
//!
//! And it speaks HTTP/1.1 alone, which takes a connection with a TLS handshake for each request that is under way at the same
//! time. Requests share one here, by HTTP/2. Watches do not: an API server takes so many requests on a connection at a time
//! (`--http2-max-streams-per-connection`), and a target with a list of namespaces has several watches in each of them.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as HttpClient, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt, DynBody};
use kube::{Config, Error, Result};
use tower::layer::layer_fn;
use tower::retry::RetryLayer;
use tower::util::BoxService;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};

use super::again::Again;
use super::meter::MeterLayer;
use crate::metrics::{Requests, Verb};

/// What a client speaks through, as kube's own builder has it.
type GenericService = BoxService<Request<Body>, Response<Box<DynBody>>, BoxError>;

/// After how long a silent connection is probed, and how long until the next probe.
const PROBE: Duration = Duration::from_secs(3);

/// How many probes may stay unanswered: with [`PROBE`], a dead idle connection ends within 9 s.
const PROBES: u32 = 2;

/// How long data that was sent may stay unacknowledged. An acknowledgement comes from the other side's kernel, however slow
/// its API server is.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// How long it may take until a connection is there, its TLS handshake included.
const CONNECT: Duration = Duration::from_secs(8);

/// When the other side of a shared connection is asked whether it is there while it owes an answer. The kernel may answer for a
/// proxy between here and an API server that has gone, and who gives up waiting for one answer of many does not end the
/// connection.
const PING: Duration = Duration::from_secs(5);

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// By one request at a time.
    Apart,
    /// By all requests that are under way, but for watches.
    Shared,
}

/// A client for this configuration, without layers of ours but the one that counts what is sent, if any does. One that goes
/// through a proxy has its connection to the proxy, of which nothing can be concluded for the cluster behind it: kube's own
/// connector serves there.
pub(super) fn builder(
    config: Config,
    meter: Option<Arc<Requests>>,
    connections: Use,
) -> Result<ClientBuilder<GenericService>> {
    let meter = meter.map(MeterLayer);
    if config.proxy_url.is_some() {
        let counted = layer_fn(|client| ServiceBuilder::new().option_layer(meter.clone()).service(client).boxed());
        return Ok(ClientBuilder::try_from(config)?.with_layer(&counted));
    }
    let client = Transport {
        apart: HttpClient::builder(TokioExecutor::new()).build(connector(&config, Use::Apart)?),
        shared: match connections {
            Use::Apart => None,
            Use::Shared => Some(shared(&config)?),
        },
    };
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(Again::new())))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .option_layer(meter)
        .map_err(BoxError::from)
        .map_response(|answer: Response<Incoming>| {
            answer.map(|body| Box::new(body.map_err(BoxError::from)) as Box<DynBody>)
        })
        .service(client)
        .boxed();
    Ok(ClientBuilder::new(service, config.default_namespace))
}

type Connector = TimeoutConnector<HttpsConnector<HttpConnector>>;

fn connector(config: &Config, connections: Use) -> Result<Connector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PROBE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let tls = match connections {
        Use::Apart => config.rustls_https_connector_with_connector(tcp)?,
        Use::Shared => {
            let mut tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
            if let Some(name) = &config.tls_server_name {
                let name = name.clone().try_into().map_err(|error| Error::Service(Box::new(error)))?;
                tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
            }
            tls.enable_http1().enable_http2().wrap_connector(tcp)
        }
    };
    let mut connector = TimeoutConnector::new(tls);
    connector.set_connect_timeout(Some(config.connect_timeout.map_or(CONNECT, |limit| limit.min(CONNECT))));
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    Ok(connector)
}

/// Connections for many requests each, where the API server speaks HTTP/2, which all do but behind some proxies.
fn shared(config: &Config) -> Result<HttpClient<Connector, Body>> {
    let mut client = HttpClient::builder(TokioExecutor::new());
    client.timer(TokioTimer::new()).http2_keep_alive_interval(PING).http2_keep_alive_timeout(UNACKNOWLEDGED);
    Ok(client.build(connector(config, Use::Shared)?))
}

/// Sends requests by the connections that are meant for them.
#[derive(Clone)]
struct Transport {
    apart: HttpClient<Connector, Body>,
    shared: Option<HttpClient<Connector, Body>>,
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Incoming>;
    type Error = hyper_util::client::legacy::Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> ResponseFuture {
        if let Some(uri) = consistent(request.uri()) {
            *request.uri_mut() = uri;
        }
        let uri = request.uri();
        let verb = Verb::of(request.method(), uri.path(), uri.query().unwrap_or_default());
        match &self.shared {
            Some(shared) if !matches!(verb, Verb::Watch | Verb::Connect) => shared.request(request),
            _ => self.apart.request(request),
        }
    }
}

/// A watch that begins with a list, as kube asks for it, takes any state that the API server happens to have. One of several that
/// has fallen behind would bring back what has gone long ago; without a version the list is as new as the request.
fn consistent(uri: &Uri) -> Option<Uri> {
    let (path, query) = (uri.path(), uri.query().filter(|query| query.contains("sendInitialEvents=true"))?);
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{path}?{}", query.strip_suffix("&resourceVersion=0")?).parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_a_watch_is_as_new_as_its_request() {
        let asked = |uri: &str| consistent(&uri.parse().unwrap()).map(|uri| uri.to_string());
        let list = "https://east:6443/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert_eq!(asked(&format!("{list}&resourceVersion=0")).as_deref(), Some(list));
        assert_eq!(asked("https://east:6443/api/v1/pods?watch=true&resourceVersion=0"), None);
        assert_eq!(asked(&format!("{list}&resourceVersion=10")), None);
    }
}
