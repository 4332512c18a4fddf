//! What goes back to the client. Errors are plain text, like a kubelet's: the API server passes them on to people.

use std::convert::Infallible;
use std::error::Error;

use bytes::Bytes;
use futures::TryStreamExt;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use super::authn::AuthnError;
use super::authz::AuthzError;
use super::query::QueryError;
use crate::kubelet::provider::{ByteStream, Source, StreamError};

/// The body of every answer.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A request that is not served, and why.
#[derive(Debug)]
pub(super) enum Refusal {
    /// With this status, and this message for the client.
    Told(StatusCode, String),
    /// With the answer of the far side.
    PassedOn(Box<Response<Bytes>>),
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Told(status, message.into())
    }
}

impl From<AuthnError> for Refusal {
    fn from(error: AuthnError) -> Self {
        match &error {
            AuthnError::Unauthorized => Self::new(StatusCode::UNAUTHORIZED, error.to_string()),
            AuthnError::Review(source) => unavailable(&error, source),
        }
    }
}

impl From<AuthzError> for Refusal {
    fn from(error: AuthzError) -> Self {
        match &error {
            AuthzError::Forbidden { .. } => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            AuthzError::Review(source) => unavailable(&error, source),
        }
    }
}

impl Refusal {
    /// The host could not be asked for something.
    #[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
    pub(super) fn from_host(error: Source) -> Self {
        tracing::warn!(error = %chain(error.as_ref()), "failed to list the pods of the node");
        Self::new(StatusCode::BAD_GATEWAY, "the node cannot reach its cluster to list its pods; try again")
    }
}

/// The details are for the log only: the client is nobody yet.
fn unavailable(error: &dyn Error, source: &dyn std::fmt::Display) -> Refusal {
    tracing::warn!(%source, "{error}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the node cannot reach its cluster to check this request; try again")
}

impl From<QueryError> for Refusal {
    /// Every flaw of a log query; exec, attach and port-forward make another of it ([`bad_request`]).
    fn from(error: QueryError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

/// For the queries of exec, attach and port-forward.
#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
pub(super) fn bad_request(error: QueryError) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error.to_string())
}

impl From<StreamError> for Refusal {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::NotFound(message) => Self::Told(StatusCode::NOT_FOUND, message),
            StreamError::BadRequest(message) => Self::Told(StatusCode::BAD_REQUEST, message),
            StreamError::Unsupported(_) => Self::new(StatusCode::NOT_IMPLEMENTED, error.to_string()),
            StreamError::Answered(answer) if answer.status().is_client_error() || answer.status().is_server_error() => {
                Self::PassedOn(Box::new(answer))
            }
            // A success where an error was announced, or a redirect, which the API server must not follow.
            StreamError::Answered(answer) => Self::new(
                StatusCode::BAD_GATEWAY,
                format!("the far side gave an answer that makes no sense here: {}", answer.status()),
            ),
            StreamError::NoAnswer(source) => {
                tracing::warn!(error = %chain(source.as_ref()), "the far side of a stream did not answer");
                Self::new(StatusCode::BAD_GATEWAY, "the far side did not answer; try again")
            }
        }
    }
}

/// An error with all that caused it, for a log line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

impl From<Refusal> for Response<Body> {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Told(status, message) => text(status, message),
            Refusal::PassedOn(answer) => {
                let (parts, bytes) = (*answer).into_parts();
                let mut response = text(parts.status, bytes);
                // Of the far side's headers only this one says something about the body; others may say too much.
                if let Some(kind) = parts.headers.get(CONTENT_TYPE) {
                    response.headers_mut().insert(CONTENT_TYPE, kind.clone());
                }
                response
            }
        }
    }
}

/// A short answer.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", Full::new(body.into()).map_err(never).boxed_unsync())
}

/// A JSON document.
pub(super) fn json(value: &serde_json::Value) -> Response<Body> {
    with_type(StatusCode::OK, "application/json", Full::new(value.to_string().into()).map_err(never).boxed_unsync())
}

/// Metrics in the text format of Prometheus.
pub(super) fn metrics(page: String) -> Response<Body> {
    let body = Full::new(page.into()).map_err(never).boxed_unsync();
    with_type(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// A JSON document of the host, as it comes.
pub(super) fn document(answer: Response<kube::client::Body>) -> Response<Body> {
    let body = answer.into_body().map_err(std::io::Error::other).boxed_unsync();
    with_type(StatusCode::OK, "application/json", body)
}

/// Bytes as they come. The head goes out before the first of them.
pub(super) fn stream(bytes: ByteStream) -> Response<Body> {
    with_type(StatusCode::OK, "text/plain", StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync())
}

/// The answer to a granted upgrade, and any other without a body.
pub(super) fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(http_body_util::Empty::new().map_err(never).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn with_type(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn never(impossible: Infallible) -> std::io::Error {
    match impossible {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(error: StreamError) -> StatusCode {
        Response::from(Refusal::from(error)).status()
    }

    fn answered(status: u16) -> StreamError {
        StreamError::Answered(Response::builder().status(status).body(Bytes::from_static(b"x")).unwrap())
    }

    #[test]
    fn every_error_has_its_status() {
        assert_eq!(status(StreamError::NotFound(String::new())), 404);
        assert_eq!(status(StreamError::BadRequest(String::new())), 400);
        assert_eq!(status(StreamError::Unsupported("exec")), 501);
        assert_eq!(status(StreamError::NoAnswer("x".into())), 502);
        assert_eq!(status(answered(404)), 404);
        assert_eq!(status(answered(503)), 503);
        assert_eq!(status(answered(200)), 502);
        assert_eq!(status(answered(307)), 502);
    }

    #[tokio::test]
    async fn an_answer_is_passed_on_without_its_headers() {
        let answer = Response::builder()
            .status(409)
            .header("content-type", "application/json")
            .header("set-cookie", "secret")
            .header("location", "https://10.0.0.1")
            .body(Bytes::from_static(b"{}"))
            .unwrap();
        let response = Response::from(Refusal::from(StreamError::Answered(answer)));
        assert_eq!(response.headers().len(), 1);
        assert_eq!(response.headers()["content-type"], "application/json");
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "{}");
    }

    #[tokio::test]
    async fn what_went_wrong_inside_stays_inside() {
        let inner = std::io::Error::other("connect to https://10.1.2.3:6443 with token abc");
        for refusal in [
            Refusal::from(StreamError::NoAnswer(inner.into())),
            Refusal::from(AuthnError::Review(std::sync::Arc::new("https://10.1.2.3".into()))),
            Refusal::from(AuthzError::Review(std::sync::Arc::new("https://10.1.2.3".into()))),
        ] {
            let body = Response::from(refusal).into_body().collect().await.unwrap().to_bytes();
            assert!(!String::from_utf8_lossy(&body).contains("10.1.2.3"), "{body:?}");
        }
    }
}
