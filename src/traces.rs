//! One trace for each pod, from its binding until home shows that it is ready, sent to an OpenTelemetry collector by OTLP over
//! HTTP (docs/observability.md).
//!
//! The ids of trace and spans follow from the pod's UID, so that every replica makes the same: one that takes a pod over in the
//! middle of its way goes on with its trace. What a collector does not take is dropped: nothing waits for it.

use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::ConfigExt;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::HttpError;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::errors::chain;
use crate::kubelet::way::{Passed, Step};

/// How many spans may wait to be sent; more are dropped.
const BACKLOG: usize = 4096;

/// How many are sent at a time, and how long the first of them waits for others.
const BATCH: usize = 512;
const PAUSE: Duration = Duration::from_secs(1);

/// How long a collector may take for an answer, and how long the end of the process waits for it.
const PATIENCE: Duration = Duration::from_secs(10);
const FAREWELL: Duration = Duration::from_secs(2);

/// How large an answer may be: it says at most what was refused.
const ANSWER: usize = 64 * 1024;

/// Where OTLP over HTTP expects traces, behind a collector's address.
const PATH: &str = "/v1/traces";

/// Why no traces are sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The address is none.
    #[error("failed to use {0:?} as --otlp-endpoint; write it as http://HOST:4318, without /v1/traces")]
    ReadEndpoint(String),
    /// There is no client.
    #[error("failed to build a client for --otlp-endpoint")]
    BuildClient(#[source] Box<kube::Error>),
    /// The environment (`OTEL_EXPORTER_OTLP_…`) contradicts itself.
    #[error("failed to set up the export of traces; correct the variables OTEL_EXPORTER_OTLP_… of the environment")]
    BuildExporter(#[source] opentelemetry_otlp::ExporterBuildError),
}

/// Where spans go. Clones are the same.
#[derive(Clone, Debug)]
pub struct Traces {
    news: mpsc::Sender<News>,
    scope: InstrumentationScope,
}

#[derive(Debug)]
enum News {
    Span(Box<SpanData>),
    /// What has waited was sent, or dropped.
    Flush(oneshot::Sender<()>),
}

impl Traces {
    /// Sends to this collector from now on, as this replica.
    ///
    /// # Errors
    /// When the address cannot be used. That nobody answers there is no error.
    pub fn start(endpoint: &str, identity: &str) -> Result<Self, TracesError> {
        let url = address(endpoint)?;
        let config = Config::new(url.clone());
        let connector = config.rustls_https_connector().map_err(|error| TracesError::BuildClient(Box::new(error)))?;
        let client = Collector(HttpClient::builder(TokioExecutor::new()).build(connector));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url.to_string())
            .with_timeout(PATIENCE);
        let mut exporter = exporter.build().map_err(TracesError::BuildExporter)?;
        let version = env!("CARGO_PKG_VERSION");
        exporter.set_resource(
            &Resource::builder_empty()
                .with_service_name("longshore")
                .with_attribute(KeyValue::new("service.version", version))
                .with_attribute(KeyValue::new("service.instance.id", identity.to_owned()))
                .build(),
        );
        let (news, waiting) = mpsc::channel(BACKLOG);
        tokio::spawn(send(exporter, waiting));
        Ok(Self { news, scope: InstrumentationScope::builder("longshore").with_version(version).build() })
    }

    /// A pod of this node has taken a step towards this target.
    pub fn passed(&self, node: &str, target: &str, passed: &Passed<'_>) {
        for span in spans(node, target, passed, &self.scope, SystemTime::now()) {
            // Full, or at the end.
            _ = self.news.try_send(News::Span(Box::new(span)));
        }
    }

    /// Waits until what was told so far is sent, but not for long.
    pub async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.news.send(News::Flush(done)).await.is_ok() {
                _ = flushed.await;
            }
        };
        _ = timeout(FAREWELL, flush).await;
    }
}

/// Whether a collector can be at this address.
///
/// # Errors
/// When it cannot.
pub fn check(endpoint: &str) -> Result<(), TracesError> {
    address(endpoint).map(drop)
}

/// Where a collector takes traces.
fn address(endpoint: &str) -> Result<Uri, TracesError> {
    let wrong = || TracesError::ReadEndpoint(endpoint.to_owned());
    let url: Uri = format!("{}{PATH}", endpoint.trim_end_matches('/')).parse().map_err(|_| wrong())?;
    let good = matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() && url.query().is_none();
    if good && !endpoint.contains(PATH) { Ok(url) } else { Err(wrong()) }
}

/// The spans that a step makes: its own, and with the last one that of the whole way. The end of pods is no part of it.
fn spans(
    node: &str,
    target: &str,
    passed: &Passed<'_>,
    scope: &InstrumentationScope,
    now: SystemTime,
) -> Vec<SpanData> {
    const WHOLE: &str = "pod start";
    let uid = passed.key.uid.as_str();
    let Some(name) = name_of(passed.step) else { return vec![] };
    let span = |name: &'static str, parent: SpanId, took: Duration| SpanData {
        span_context: SpanContext::new(trace_id(uid), span_id(uid, name), TraceFlags::SAMPLED, false, TraceState::NONE),
        parent_span_id: parent,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: now.checked_sub(took).unwrap_or(now),
        end_time: now,
        // Names by OpenTelemetry's conventions for Kubernetes.
        attributes: vec![
            KeyValue::new("k8s.namespace.name", passed.key.namespace.clone()),
            KeyValue::new("k8s.pod.name", passed.key.name.clone()),
            KeyValue::new("k8s.pod.uid", uid.to_owned()),
            KeyValue::new("k8s.node.name", node.to_owned()),
            KeyValue::new("longshore.target", target.to_owned()),
        ],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    };
    let mut spans = vec![span(name, span_id(uid, WHOLE), passed.took)];
    if passed.step == Step::Report {
        spans.push(span(WHOLE, SpanId::INVALID, passed.whole));
    }
    spans
}

fn name_of(step: Step) -> Option<&'static str> {
    match step {
        Step::Create => Some("create delegate"),
        Step::Run => Some("run in target"),
        Step::Report => Some("report at home"),
        Step::Request | Step::Terminate | Step::Remove => None,
    }
}

/// The UID itself, which is a UUID; whatever else it may be is hashed.
fn trace_id(uid: &str) -> TraceId {
    let plain: String = uid.chars().filter(|one| *one != '-').collect();
    match u128::from_str_radix(&plain, 16) {
        Ok(id) if plain.len() == 32 && id != 0 => TraceId::from(id),
        _ => TraceId::from_bytes(first(&Sha256::digest(uid))),
    }
}

fn span_id(uid: &str, name: &str) -> SpanId {
    SpanId::from_bytes(first(&Sha256::digest(format!("{uid} {name}"))))
}

fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default())
}

/// Sends what comes, in batches, until nobody can tell any more.
async fn send(exporter: SpanExporter, mut waiting: mpsc::Receiver<News>) {
    let mut broken = false;
    while let Some(first) = waiting.recv().await {
        let (mut batch, mut flushes) = (vec![], vec![]);
        let (end, mut next) = (Instant::now() + PAUSE, Some(first));
        while let Some(news) = next {
            match news {
                News::Span(span) => batch.push(*span),
                News::Flush(done) => flushes.push(done),
            }
            let more = flushes.is_empty() && batch.len() < BATCH;
            next = if more { timeout_at(end, waiting.recv()).await.ok().flatten() } else { None };
        }
        if !batch.is_empty() {
            let lost = batch.len();
            match timeout(PATIENCE, exporter.export(batch)).await {
                Ok(Ok(())) => broken = false,
                // Once for as long as it lasts.
                failed if !std::mem::replace(&mut broken, true) => {
                    let error = failed.map_or_else(
                        |_| "no answer".to_owned(),
                        |one| one.err().map_or_else(String::new, |error| chain(&error)),
                    );
                    tracing::warn!(
                        lost,
                        error,
                        "traces are not taken by --otlp-endpoint; they are dropped until they are"
                    );
                }
                _ => {}
            }
        }
        for done in flushes {
            _ = done.send(());
        }
    }
}

/// A client for a collector.
struct Collector<C>(HttpClient<C, Full<Bytes>>);

impl<C> fmt::Debug for Collector<C> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Collector").finish_non_exhaustive()
    }
}

#[async_trait]
impl<C> opentelemetry_http::HttpClient for Collector<C>
where
    C: hyper_util::client::legacy::connect::Connect + Clone + Send + Sync + 'static,
{
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::document::PodKey;

    fn passed(key: &PodKey, step: Step) -> Passed<'_> {
        let (took, whole) = (Duration::from_secs(1), Duration::from_secs(3));
        Passed { key, site: 0, step, took, whole }
    }

    #[test]
    fn every_replica_makes_the_same_trace() {
        let uid = "0123a567-89ab-4def-8123-456789abcdef";
        let key = PodKey { namespace: "ns".into(), name: "a".into(), uid: uid.into() };
        let scope = InstrumentationScope::builder("longshore").build();
        let now = SystemTime::now();
        let make = |step| spans("lake", "east", &passed(&key, step), &scope, now);
        let (one, two) = (make(Step::Create), make(Step::Report));
        assert_eq!(one, make(Step::Create), "another replica");
        assert_eq!(one[0].span_context.trace_id().to_string(), uid.replace('-', ""), "found by the pod's UID");
        let [report, whole] = two.as_slice() else { panic!("{two:?}") };
        assert_eq!(
            (one[0].parent_span_id, report.parent_span_id),
            (whole.span_context.span_id(), whole.span_context.span_id())
        );
        assert_eq!(whole.parent_span_id, SpanId::INVALID);
        assert_ne!(report.span_context.span_id(), one[0].span_context.span_id());
        let since = |span: &SpanData| now.duration_since(span.start_time).unwrap().as_secs();
        assert_eq!((since(report), since(whole)), (1, 3));
        assert!(make(Step::Terminate).is_empty());
    }

    #[test]
    fn a_uid_that_is_no_uuid_has_a_trace_too() {
        assert_ne!(trace_id("static-pod"), TraceId::INVALID);
        assert_eq!(trace_id("static-pod"), trace_id("static-pod"));
        assert_ne!(trace_id("00000000-0000-0000-0000-000000000000"), TraceId::INVALID);
    }

    #[test]
    fn an_endpoint_is_an_address_without_a_path_of_ours() {
        assert_eq!(address("http://otel:4318/").unwrap().to_string(), "http://otel:4318/v1/traces");
        assert_eq!(address("https://otel/prefix").unwrap().to_string(), "https://otel/prefix/v1/traces");
        for wrong in ["", "otel:4318", "grpc://otel:4317", "http://otel/v1/traces", "http://otel?x=y"] {
            let error = address(wrong).unwrap_err().to_string();
            assert!(error.contains("--otlp-endpoint"), "{error}");
        }
    }
}
