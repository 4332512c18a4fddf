//! A tiny OpenTelemetry collector, which keeps what it gets.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::TcpListener,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
};
use prost::Message;
use tokio::task::{JoinHandle, JoinSet};

use crate::{longshore::BRIDGE, runtime::spawn};

/// A span as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The id of its parent; empty without.
    pub parent: String,
    /// What it is.
    pub name: String,
    /// When it began, in nanoseconds since 1970.
    pub begin: u64,
    /// When it ended.
    pub end: u64,
    /// Its attributes and those of its resource, as far as they are texts.
    pub attributes: BTreeMap<String, String>,
}

/// The collector. It ends with this value.
pub struct Collector {
    /// Where it is.
    pub url: String,
    spans: Arc<Mutex<Vec<Span>>>,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((BRIDGE, 0))?;
        listener.set_nonblocking(true)?;
        let url = format!("http://{BRIDGE}:{}", listener.local_addr()?.port());
        let spans = Arc::<Mutex<Vec<Span>>>::default();
        let task = spawn(serve(listener, spans.clone()));
        Ok(Self { url, spans, task })
    }

    /// What has come so far of a trace.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span.trace == id).cloned().collect()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, spans: Arc<Mutex<Vec<Span>>>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let spans = spans.clone();
        connections.spawn(async move {
            let service = service_fn(move |request| take(request, spans.clone()));
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn take(request: Request<Incoming>, spans: Arc<Mutex<Vec<Span>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let right = request.method() == Method::POST
        && request.uri().path() == "/v1/traces"
        && request.headers().get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut response = Response::new(Full::default());
    match ExportTraceServiceRequest::decode(body) {
        Ok(export) if right => spans.lock().unwrap_or_else(PoisonError::into_inner).extend(read(&export)),
        _ => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

fn read(export: &ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = vec![];
    for resource in &export.resource_spans {
        let own = resource.resource.iter().flat_map(|resource| texts(&resource.attributes));
        let own: BTreeMap<_, _> = own.collect();
        for span in resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            spans.push(Span {
                trace: digits(&span.trace_id),
                id: digits(&span.span_id),
                parent: digits(&span.parent_span_id),
                name: span.name.clone(),
                begin: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: own.clone().into_iter().chain(texts(&span.attributes)).collect(),
            });
        }
    }
    spans
}

fn texts(attributes: &[KeyValue]) -> impl Iterator<Item = (String, String)> {
    attributes.iter().filter_map(|one| match one.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((one.key.clone(), text.clone())),
        _ => None,
    })
}

fn digits(id: &[u8]) -> String {
    id.iter().fold(String::new(), |digits, byte| digits + &format!("{byte:02x}"))
}
