//! Connections that notice when the other side has vanished without a word.
//!
//! kube's own connector leaves that to the kernel's defaults, which are two hours for an idle connection and a quarter of an
//! hour for one with unanswered data. A cut link would leave every watch waiting for as long.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt, DynBody};
use kube::{Config, Result};
use tower::layer::layer_fn;
use tower::retry::RetryLayer;
use tower::util::BoxService;
use tower::{BoxError, ServiceBuilder, ServiceExt};

use super::meter::MeterLayer;
use crate::metrics::Requests;

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

/// A client for this configuration, without layers of ours but the one that counts what is sent, if any does. One that goes through a proxy has its connection to the proxy,
/// of which nothing can be concluded for the cluster behind it: kube's own connector serves there.
pub(super) fn builder(config: Config, meter: Option<Arc<Requests>>) -> Result<ClientBuilder<GenericService>> {
    let meter = meter.map(MeterLayer);
    if config.proxy_url.is_some() {
        let counted = layer_fn(|client| ServiceBuilder::new().option_layer(meter.clone()).service(client).boxed());
        return Ok(ClientBuilder::try_from(config)?.with_layer(&counted));
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PROBE));
    tcp.set_keepalive_interval(Some(PROBE));
    tcp.set_keepalive_retries(Some(PROBES));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(tcp)?);
    connector.set_connect_timeout(Some(config.connect_timeout.map_or(CONNECT, |limit| limit.min(CONNECT))));
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let client: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new()).build(connector);

    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry())))
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
