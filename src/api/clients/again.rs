//! Which requests are sent again when an API server asks for that: as kube has it, but for evictions.

use http::{Request, Response, StatusCode};
use kube::client::Body;
use kube::client::retry::RetryPolicy;
use tower::BoxError;
use tower::retry::Policy;

/// A disruption budget says no with the status of an API server that is busy, and means it for as long as it takes: whoever
/// evicts decides whether and when to ask again, and has other pods to evict meanwhile.
#[derive(Clone)]
pub(super) struct Again(RetryPolicy);

impl Again {
    pub(super) fn new() -> Self {
        Self(RetryPolicy::server_retry())
    }
}

impl<T> Policy<Request<Body>, Response<T>, BoxError> for Again {
    type Future = <RetryPolicy as Policy<Request<Body>, Response<T>, BoxError>>::Future;

    fn retry(
        &mut self,
        request: &mut Request<Body>,
        answer: &mut Result<Response<T>, BoxError>,
    ) -> Option<Self::Future> {
        let refused = answer.as_ref().is_ok_and(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS);
        if refused && request.uri().path().ends_with("/eviction") {
            return None;
        }
        self.0.retry(request, answer)
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        Policy::<_, Response<T>, BoxError>::clone_request(&mut self.0, request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_budget_s_no_is_an_answer_and_a_busy_server_is_asked_again() {
        let is_asked_again = |path: &str, status: u16| {
            let mut request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let mut answer = Ok(Response::builder().status(status).body(()).unwrap());
            Again::new().retry(&mut request, &mut answer).is_some()
        };
        let (pod, eviction) = ("/api/v1/namespaces/shop/pods/eviction", "/api/v1/namespaces/shop/pods/web/eviction");
        assert!(!is_asked_again(eviction, 429));
        assert!(is_asked_again(eviction, 503) && is_asked_again("/api/v1/namespaces/shop/pods", 429));
        assert!(!is_asked_again("/api/v1/namespaces/shop/pods", 409));
        // A pod may be called so; nothing worse follows than that it is asked for once.
        assert!(!is_asked_again(pod, 429));
    }
}
