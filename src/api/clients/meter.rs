//! Counts what goes to an API server: each request as it leaves, so that repetitions are requests of their own, and each
//! watch until it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::client::{Body, DynBody};
use tower::{BoxError, Layer, Service};

use crate::metrics::{Requests, Verb, WatchEnd};

/// Puts the counter around a client.
#[derive(Clone)]
pub(super) struct MeterLayer(pub(super) Arc<Requests>);

impl<S> Layer<S> for MeterLayer {
    type Service = Meter<S>;

    fn layer(&self, inner: S) -> Meter<S> {
        Meter { inner, requests: self.0.clone() }
    }
}

/// See [`MeterLayer`].
#[derive(Clone)]
pub(super) struct Meter<S> {
    inner: S,
    requests: Arc<Requests>,
}

impl<S> Service<Request<Body>> for Meter<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let verb = Verb::of(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let asked = Asked { verb, begun: Instant::now(), requests: Some(self.requests.clone()) };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
            let Some(requests) = asked.answered(code) else { return answer };
            answer.map(|answer| match verb {
                Verb::Watch if answer.status().is_success() => {
                    answer.map(|body| Box::new(Watched::new(body, requests)) as Box<DynBody>)
                }
                _ => answer,
            })
        })
    }
}

/// A request under way. Whoever gives up waiting drops it, and it has had no answer.
struct Asked {
    verb: Verb,
    begun: Instant,
    requests: Option<Arc<Requests>>,
}

impl Asked {
    fn answered(mut self, code: u16) -> Option<Arc<Requests>> {
        let requests = self.requests.take()?;
        requests.answered(self.verb, code, self.begun.elapsed());
        Some(requests)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(requests) = &self.requests {
            requests.answered(self.verb, 0, self.begun.elapsed());
        }
    }
}

/// The answer to a watch.
struct Watched {
    body: Box<DynBody>,
    /// None once it has ended.
    requests: Option<Arc<Requests>>,
}

impl Watched {
    fn new(body: Box<DynBody>, requests: Arc<Requests>) -> Self {
        requests.watching();
        Self { body, requests: Some(requests) }
    }

    fn end(&mut self, how: WatchEnd) {
        if let Some(requests) = self.requests.take() {
            requests.watched(how);
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut *self.body).poll_frame(context);
        match &frame {
            Poll::Ready(None) => self.end(WatchEnd::Closed),
            Poll::Ready(Some(Err(_))) => self.end(WatchEnd::Broken),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Nobody has read to the end of one that is there.
        let end = if self.body.is_end_stream() { WatchEnd::Closed } else { WatchEnd::Dropped };
        self.end(end);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full, StreamBody};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::metrics::Metrics;

    fn boxed(body: impl HttpBody<Data = Bytes, Error = BoxError> + Send + Unpin + 'static) -> Box<DynBody> {
        Box::new(body)
    }

    async fn send(
        metrics: &Metrics,
        path: &str,
        answer: Result<u16, &'static str>,
        broken: bool,
    ) -> Option<Box<DynBody>> {
        let service = service_fn(move |_: Request<Body>| async move {
            let body = if broken {
                let parts = vec![Ok(Frame::data(Bytes::from("x"))), Err(BoxError::from("cut"))];
                boxed(StreamBody::new(futures::stream::iter(parts)))
            } else {
                boxed(Full::new(Bytes::from("x")).map_err(|never| match never {}))
            };
            let code = answer.map_err(BoxError::from)?;
            Ok::<_, BoxError>(Response::builder().status(code).body(body).unwrap())
        });
        let service = MeterLayer(metrics.target("east")).layer(service);
        let request = Request::get(path).body(Body::empty()).unwrap();
        service.oneshot(request).await.ok().map(Response::into_body)
    }

    #[tokio::test]
    async fn requests_count_by_verb_and_code() {
        let metrics = Metrics::default();
        let _kept = metrics.target("east");
        for answer in [Ok(200), Ok(404), Ok(404), Err("refused")] {
            send(&metrics, "/api/v1/namespaces/a/pods/b", answer, false).await;
        }
        let page = metrics.page();
        for (code, count) in [(200, 1), (404, 2), (0, 1)] {
            let labels = format!(r#"side="target",target="east",verb="get",code="{code}""#);
            assert!(page.contains(&format!("longshore_api_requests_total{{{labels}}} {count}\n")), "{page}");
        }
        assert!(page.contains("_duration_seconds_count{side=\"target\",target=\"east\",verb=\"get\"} 4\n"), "{page}");
    }

    #[tokio::test]
    async fn a_request_that_nobody_waits_for_has_no_answer() {
        let metrics = Metrics::default();
        let service = service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Box<DynBody>>, BoxError>>());
        let requests = metrics.target("east");
        let request = Request::get("/version").body(Body::empty()).unwrap();
        let asked = MeterLayer(requests.clone()).layer(service).oneshot(request);
        assert!(futures::FutureExt::now_or_never(asked).is_none());
        assert!(metrics.page().contains(r#"verb="get",code="0"} 1"#), "{}", metrics.page());
    }

    #[tokio::test]
    async fn watches_are_open_and_end() {
        let metrics = Metrics::default();
        let _kept = metrics.target("east");
        let watch = "/api/v1/pods?watch=true";
        let read = |name: &str| {
            let page = metrics.page();
            let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u32>().ok()).unwrap_or_default()
        };
        let closed = send(&metrics, watch, Ok(200), false).await.unwrap();
        let broken = send(&metrics, watch, Ok(200), true).await.unwrap();
        let dropped = send(&metrics, watch, Ok(200), true).await.unwrap();
        assert_eq!(read("longshore_watches{"), 3);
        assert!(closed.collect().await.is_ok());
        assert!(broken.collect().await.is_err());
        drop(dropped);
        assert_eq!(read("longshore_watches{"), 0);
        assert_eq!(read(r#"longshore_watch_ends_total{side="target",target="east",how="closed""#), 1);
        assert_eq!(read(r#"longshore_watch_ends_total{side="target",target="east",how="broken""#), 1);
    }
}
