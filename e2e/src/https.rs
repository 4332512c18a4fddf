//! HTTPS servers of the tests' own, on the clusters' bridge.

use std::{convert::Infallible, net::TcpListener, sync::Arc};

use anyhow::Result;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer},
};

use crate::{longshore::BRIDGE, runtime::spawn};

/// An answer; its body may break.
pub(crate) type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// A server with a certificate that signs itself. It ends with this value, and all its connections with it.
pub(crate) struct Https {
    /// `https://…`
    pub(crate) url: String,
    /// The certificate, PEM.
    pub(crate) certificate: String,
    task: JoinHandle<()>,
}

impl Https {
    /// Answers every request by `answer`; a failure breaks the connection.
    pub(crate) fn start<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> Result<Self>
    where
        F: Future<Output = Result<Answer>> + Send + 'static,
    {
        let listener = TcpListener::bind((BRIDGE, 0))?;
        listener.set_nonblocking(true)?;
        let certified = rcgen::generate_simple_self_signed([BRIDGE.to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let tls = ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![certified.cert.der().clone()], key.into())?;
        let url = format!("https://{BRIDGE}:{}", listener.local_addr()?.port());
        let task = spawn(serve(listener, TlsAcceptor::from(Arc::new(tls)), answer));
        Ok(Self { url, certificate: certified.cert.pem(), task })
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve<F>(
    listener: TcpListener,
    tls: TlsAcceptor,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Result<Answer>> + Send + 'static,
{
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, answer) = (tls.clone(), answer.clone());
        connections.spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = service_fn(answer);
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// A body that is whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> BoxBody<Bytes, std::io::Error> {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed()
}
