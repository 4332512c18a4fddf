//! Stops the process at a chosen write, as a power cut would: for tests alone, and in no release build.
//!
//! `LONGSHORE_CRASH_POINT=before:N` stops it before the N-th write is sent, `after:N` when the server has answered it and
//! nobody has read the answer. Leases, events and reviews are not counted: they come by the clock, and no pod's life depends
//! on them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request};
use kube::client::Body;
use tower::{Layer, Service};

#[cfg(not(debug_assertions))]
compile_error!("the feature crash-points is for tests: build without it, or with the profile dev");

const VARIABLE: &str = "LONGSHORE_CRASH_POINT";

/// The writes of all clients of the process.
static WRITES: AtomicUsize = AtomicUsize::new(0);

/// Where the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Before(usize),
    After(usize),
}

impl Point {
    fn parse(text: &str) -> Option<Self> {
        let (place, count) = text.split_once(':')?;
        let count = count.parse().ok()?;
        match place {
            "before" => Some(Self::Before(count)),
            "after" => Some(Self::After(count)),
            _ => None,
        }
    }

    fn chosen() -> Option<Self> {
        static CHOSEN: OnceLock<Option<Point>> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            let point = Self::parse(&text);
            if point.is_none() {
                eprintln!("{VARIABLE} is {text}, and not before:N or after:N");
                std::process::abort();
            }
            point
        })
    }
}

/// Puts the crash point around a client.
#[derive(Clone, Copy)]
pub(super) struct CrashLayer;

impl<S> Layer<S> for CrashLayer {
    type Service = CrashPoint<S>;

    fn layer(&self, inner: S) -> CrashPoint<S> {
        CrashPoint(inner)
    }
}

/// See [`CrashLayer`].
pub(super) struct CrashPoint<S>(S);

impl<S> Service<Request<Body>> for CrashPoint<S>
where
    S: Service<Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(point) = Point::chosen().filter(|_| counts(request.method(), request.uri().path())) else {
            return Box::pin(self.0.call(request));
        };
        let count = WRITES.fetch_add(1, Ordering::SeqCst) + 1;
        let write = format!("write {count}, {} {}", request.method(), request.uri().path());
        if point == Point::Before(count) {
            eprintln!("crash point before {write}");
            std::process::abort();
        }
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.await;
            if point == Point::After(count) {
                eprintln!("crash point after {write}");
                std::process::abort();
            }
            answer
        })
    }
}

/// Whether a request is a write of those that are counted.
fn counts(method: &Method, path: &str) -> bool {
    let apart = ["/leases", "/events", "reviews"];
    *method != Method::GET && !apart.iter().any(|part| path.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_place_and_a_count() {
        assert_eq!(Point::parse("before:1"), Some(Point::Before(1)));
        assert_eq!(Point::parse("after:12"), Some(Point::After(12)));
        assert_eq!(Point::parse("after"), None);
        assert_eq!(Point::parse("beside:1"), None);
    }

    #[test]
    fn what_comes_by_the_clock_is_not_counted() {
        assert!(counts(&Method::POST, "/api/v1/namespaces/a/pods"));
        assert!(counts(&Method::PATCH, "/api/v1/namespaces/a/pods/b/status"));
        assert!(!counts(&Method::GET, "/api/v1/namespaces/a/pods/b"));
        assert!(!counts(&Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b"));
        assert!(!counts(&Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events"));
        assert!(!counts(&Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews"));
    }
}
