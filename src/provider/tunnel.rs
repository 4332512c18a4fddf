//! Logs, exec, attach and port-forward in a target.
//!
//! What the host's API server sends to a kubelet, SPDY/3.1 or WebSocket, is what a target's API server takes at the
//! subresources of a pod. So the client's upgrade is repeated there, with its own headers, and bytes are copied; no
//! protocol inside is understood here, and none can be misunderstood. Longshore needs `get` and `create` on `pods/exec`,
//! `pods/attach` and `pods/portforward` there (from 1.35 an upgrade by GET needs `create` too), and `get` on `pods/log`.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::time::timeout;

use self::message::message_of;
use self::query::Query;
use crate::kubelet::provider::{ByteStream, ExecOptions, LogOptions, Source, StreamError, Tunnel, Upgrade};

mod message;
mod query;

/// How long a target may take to answer an upgrade (the kubelet's `streamCreationTimeout` is 30 s; this one should be
/// the first to end).
const OPENING: Duration = Duration::from_secs(25);

/// How much of an error's body is read, in bytes.
const ERROR_SIZE: usize = 64 * 1024;

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_STREAM_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Headers of a client that reach the target. A list of what may pass, not of what may not: whatever is added to HTTP or to
/// Kubernetes as a credential stays here.
const FORWARDED: [HeaderName; 6] = [
    STREAM_PROTOCOL,
    SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_VERSION,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_EXTENSIONS,
    USER_AGENT,
];

/// Headers of a target's answer that reach the client.
const RETURNED: [HeaderName; 6] = [
    UPGRADE,
    STREAM_PROTOCOL,
    ACCEPTED_STREAM_PROTOCOLS,
    SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_EXTENSIONS,
];

/// The streams of one target.
#[derive(Clone)]
pub struct Streams {
    target: Client,
}

impl Streams {
    /// Streams by this client of the target. Build it for streams alone, with `kube::Config::default_retry` off (it would
    /// repeat a refused upgrade up to 15 times) and `read_timeout` unset (it would end quiet streams).
    pub fn new(target: Client) -> Self {
        Self { target }
    }

    /// The logs of a container. Names are those of the target.
    pub async fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: &LogOptions,
    ) -> Result<ByteStream, StreamError> {
        let uri = Query::logs(container, options).uri(namespace, pod, "log");
        let request = Request::get(uri).header(ACCEPT_ENCODING, "identity").body(Body::empty()).map_err(not_sent)?;
        // No time-out: with `follow`, a kubelet may hold back its answer until the first line.
        let response = self.target.send(request).await.map_err(not_sent)?;
        if response.status() == StatusCode::OK {
            return Ok(Box::pin(response.into_body().into_data_stream().map_err(std::io::Error::other)));
        }
        Err(refused(response).await)
    }

    /// Runs a command in a container.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: &ExecOptions,
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        self.open(Query::exec(container, options).uri(namespace, pod, "exec"), upgrade).await
    }

    /// Attaches to the main process of a container.
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: &ExecOptions,
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        self.open(Query::exec(container, options).uri(namespace, pod, "attach"), upgrade).await
    }

    /// Forwards to ports of a pod; `ports` is empty for SPDY.
    pub async fn port_forward(
        &self,
        namespace: &str,
        pod: &str,
        ports: &[u16],
        upgrade: Upgrade,
    ) -> Result<Tunnel, StreamError> {
        self.open(Query::ports(ports).uri(namespace, pod, "portforward"), upgrade).await
    }

    async fn open(&self, uri: String, upgrade: Upgrade) -> Result<Tunnel, StreamError> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.parse().map_err(|_| too_long())?;
        *request.headers_mut() = forwarded(&upgrade.headers)
            .ok_or_else(|| StreamError::BadRequest("the request has no Upgrade header".to_owned()))?;
        *request.method_mut() = if upgrade.method == Method::GET { Method::GET } else { Method::POST };
        timeout(OPENING, async {
            let response = self.target.send(request).await.map_err(not_sent)?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                return Err(refused(response).await);
            }
            let headers = returned(response.headers());
            let io = hyper::upgrade::on(response).await.map_err(not_sent)?;
            Ok(Tunnel { headers, io: Box::new(TokioIo::new(io)) })
        })
        .await
        .map_err(not_sent)?
    }
}

fn not_sent(error: impl Into<Source>) -> StreamError {
    StreamError::NoAnswer(error.into())
}

fn too_long() -> StreamError {
    StreamError::BadRequest(
        "the command is too long to be sent to the target; put it into a file or a ConfigMap".into(),
    )
}

/// The headers of the upgrade that the target gets; `None` if it is no upgrade.
fn forwarded(client: &HeaderMap) -> Option<HeaderMap> {
    let protocol = client.get(UPGRADE)?;
    let mut headers = select(client, &FORWARDED);
    headers.insert(UPGRADE, protocol.clone());
    // Not the client's: it may name further headers, which are not among those that pass.
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    Some(headers)
}

/// The headers of the target's 101 that the client gets.
fn returned(target: &HeaderMap) -> HeaderMap {
    let mut headers = select(target, &RETURNED);
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers
}

/// These headers only, every value of each in order.
fn select(from: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let mut selected = HeaderMap::new();
    for name in names {
        for value in from.get_all(name) {
            selected.append(name, value.clone());
        }
    }
    selected
}

/// What becomes of an answer that is not the one hoped for.
async fn refused(response: Response<Body>) -> StreamError {
    let status = response.status();
    let body = Limited::new(response.into_body(), ERROR_SIZE).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let message = message_of(status, &body);
    if status == StatusCode::UNAUTHORIZED {
        // Passed on, it would tell the user to log in, which is not what is wrong.
        tracing::warn!(message, "a target refuses Longshore's credentials");
        return answered(StatusCode::BAD_GATEWAY, "the target does not accept Longshore's credentials".to_owned());
    }
    if status == StatusCode::FORBIDDEN {
        tracing::warn!(message, "a target forbids Longshore a stream");
        return answered(status, format!("the target does not let Longshore do this: {message}"));
    }
    answered(status, message)
}

fn answered(status: StatusCode, message: String) -> StreamError {
    let mut response = Response::new(Bytes::from(message));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    StreamError::Answered(response)
}

#[cfg(test)]
mod tests;
