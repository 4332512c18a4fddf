//! The way from a meddler to its API server.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, Uri, uri::PathAndQuery};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig},
};

/// What is silent for so long has vanished. Whoever asks has to notice that here as if nobody stood in between.
const PROBE: Duration = Duration::from_secs(3);
const PROBES: u32 = 2;
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

type Send = dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, Result<Response<Incoming>>> + std::marker::Send + Sync;

/// Sends requests as they are, once.
pub(super) struct Upstream {
    server: Uri,
    send: Arc<Send>,
}

impl Upstream {
    /// As the user of this kubeconfig, which has a client certificate.
    pub(super) async fn new(kubeconfig: Kubeconfig) -> Result<Self> {
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(UNACKNOWLEDGED));
        tcp.set_keepalive(Some(PROBE));
        tcp.set_keepalive_interval(Some(PROBE));
        tcp.set_keepalive_retries(Some(PROBES));
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let client: Client<_, Full<Bytes>> =
            Client::builder(TokioExecutor::new()).build(config.rustls_https_connector_with_connector(tcp)?);
        let send = move |request| -> BoxFuture<'static, Result<Response<Incoming>>> {
            let answer = client.request(request);
            Box::pin(async move { Ok(answer.await?) })
        };
        Ok(Self { server: config.cluster_url, send: Arc::new(send) })
    }

    /// A request without a server, for this one.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>> {
        let (mut parts, body) = request.into_parts();
        let mut uri = self.server.clone().into_parts();
        uri.path_and_query = Some(parts.uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/")));
        parts.uri = Uri::from_parts(uri).context("an address")?;
        (self.send)(Request::from_parts(parts, Full::new(body))).await
    }
}
