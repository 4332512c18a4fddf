//! Who may: the host decides, by a SubjectAccessReview on this node and a subresource of it
//! (`pkg/kubelet/server/auth.go`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::future::Cache;

use super::authn::{PATIENCE, User};
use super::path::{Lacking, Route};
use crate::kubelet::provider::Source;

/// How long a yes holds (the kubelet's `authorization.webhook.cacheAuthorizedTTL`).
pub(super) const ALLOWED: Duration = Duration::from_secs(300);

/// How long a no holds (the kubelet's `authorization.webhook.cacheUnauthorizedTTL`).
pub(super) const DENIED: Duration = Duration::from_secs(30);

/// How many decisions are remembered.
const DECISIONS: u64 = 8192;

/// What a request needs: the verb on any one of these subresources of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) verb: &'static str,
    /// Tried in this order; the first yes counts.
    pub(super) subresources: &'static [&'static str],
}

impl Attributes {
    /// What a request needs.
    ///
    /// Whatever runs or reaches something in a pod needs `create`, even by GET. A kubelet asks for `get` then, since a
    /// WebSocket upgrade is a GET, and so lets everybody exec who may read `nodes/proxy`.
    pub(super) fn of(route: &Route, method: &Method) -> Self {
        let subresources: &[&str] = match route {
            Route::StatsSummary | Route::Lacking(Lacking::Stats) => &["stats"],
            Route::ResourceMetrics | Route::OwnMetrics | Route::NoMetrics | Route::Lacking(Lacking::Metrics) => {
                &["metrics"]
            }
            Route::Lacking(Lacking::HostLogs) => &["log"],
            Route::Lacking(Lacking::Checkpoint) => &["checkpoint"],
            Route::Lacking(Lacking::Statusz) => &["statusz"],
            Route::Lacking(Lacking::Flagz) => &["configz"],
            Route::Healthz => &["healthz", "proxy"],
            Route::Pods | Route::RunningPods => &["pods", "proxy"],
            Route::Configz => &["configz", "proxy"],
            Route::Logs { .. }
            | Route::Run { .. }
            | Route::Exec { .. }
            | Route::Attach { .. }
            | Route::PortForward { .. }
            | Route::Lacking(Lacking::Debug)
            | Route::Unknown
            | Route::Malformed(_) => &["proxy"],
        };
        let reaches_into_a_pod =
            matches!(route, Route::Run { .. } | Route::Exec { .. } | Route::Attach { .. } | Route::PortForward { .. });
        let verb = if reaches_into_a_pod { "create" } else { verb(method) };
        Self { verb, subresources }
    }
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        "GET" | "HEAD" | "OPTIONS" | "TRACE" => "get",
        // No verb of Kubernetes; only a wildcard grants it.
        _ => "unknown",
    }
}

/// Why a request was not let through.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthzError {
    /// The host says no: 403.
    #[error("Forbidden (user={user}, verb={verb}, resource=nodes, subresource={subresources})")]
    Forbidden {
        /// The user's name.
        user: String,
        /// The verb asked for.
        verb: &'static str,
        /// The subresources asked for, separated by commas.
        subresources: String,
    },
    /// The host could not be asked; nobody is let through meanwhile: 503.
    #[error(
        "failed to have an access reviewed by the host; does Longshore have the right to create subjectaccessreviews?"
    )]
    Review(#[source] Arc<Source>),
}

/// Asks the host who may do what with one node.
pub struct Authorizer {
    reviews: Api<SubjectAccessReview>,
    node: String,
    decisions: Cache<Question, bool>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    user: Arc<User>,
    verb: &'static str,
    subresource: &'static str,
}

impl Authorizer {
    /// Asks `host` (needs `create` on `subjectaccessreviews`) about the node of this name.
    pub fn new(host: Client, node: impl Into<String>) -> Self {
        let decisions = Cache::builder().max_capacity(DECISIONS).expire_after(Lifetime).build();
        Self { reviews: Api::all(host), node: node.into(), decisions }
    }

    /// Whether the user may.
    pub(super) async fn authorize(&self, user: &Arc<User>, wanted: Attributes) -> Result<(), AuthzError> {
        for subresource in wanted.subresources {
            let question = Question { user: Arc::clone(user), verb: wanted.verb, subresource };
            let review = self.review(question.clone());
            if self.decisions.try_get_with(question, review).await.map_err(AuthzError::Review)? {
                return Ok(());
            }
        }
        let subresources = wanted.subresources.join(",");
        Err(AuthzError::Forbidden { user: user.name.clone(), verb: wanted.verb, subresources })
    }

    async fn review(&self, Question { user, verb, subresource }: Question) -> Result<bool, Source> {
        let attributes = ResourceAttributes {
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            name: Some(self.node.clone()),
            subresource: Some(subresource.to_owned()),
            verb: Some(verb.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let question = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let params = PostParams::default();
        let answer = tokio::time::timeout(PATIENCE, self.reviews.create(&params, &question)).await??;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

struct Lifetime;

impl moka::Expiry<Question, bool> for Lifetime {
    fn expire_after_create(&self, _: &Question, allowed: &bool, _: Instant) -> Option<Duration> {
        Some(if *allowed { ALLOWED } else { DENIED })
    }
}

#[cfg(test)]
mod tests {
    use super::super::fakes::FakeHost;
    use super::*;
    use http::StatusCode;
    use serde_json::json;

    fn alice() -> Arc<User> {
        let extra = [("scopes".to_owned(), vec!["a".to_owned()])].into();
        Arc::new(User { name: "alice".into(), uid: Some("7".into()), groups: vec!["dev".into()], extra })
    }

    fn of(method: &str, path: &str) -> (&'static str, &'static [&'static str]) {
        let attributes = Attributes::of(&Route::of(path), &method.parse().unwrap());
        (attributes.verb, attributes.subresources)
    }

    #[test]
    fn reaching_into_a_pod_is_create_by_every_method() {
        for path in ["/exec/ns/p/c", "/attach/ns/p/u/c", "/portForward/ns/p", "/run/ns/p/c"] {
            for method in ["GET", "POST", "HEAD", "BREW"] {
                assert_eq!(of(method, path), ("create", &["proxy"][..]), "{method} {path}");
            }
        }
    }

    #[test]
    fn the_subresources_of_a_kubelet() {
        assert_eq!(of("GET", "/containerLogs/ns/p/c"), ("get", &["proxy"][..]));
        assert_eq!(of("GET", "/stats/summary"), ("get", &["stats"][..]));
        assert_eq!(of("GET", "/metrics/cadvisor"), ("get", &["metrics"][..]));
        assert_eq!(of("GET", "/logs/"), ("get", &["log"][..]));
        assert_eq!(of("POST", "/checkpoint/ns/p/c"), ("create", &["checkpoint"][..]));
        assert_eq!(of("GET", "/healthz"), ("get", &["healthz", "proxy"][..]));
        assert_eq!(of("GET", "/runningpods/"), ("get", &["pods", "proxy"][..]));
        assert_eq!(of("DELETE", "/nowhere"), ("delete", &["proxy"][..]));
        assert_eq!(of("BREW", "/stats/summary"), ("unknown", &["stats"][..]));
    }

    #[test]
    fn a_path_cannot_borrow_the_rights_of_another() {
        for path in ["/stats/../exec/ns/p/c", "/exec/ns/p%2f../c", "/metrics/../run/ns/p/c", "//stats/summary"] {
            assert!(!matches!(Route::of(path), Route::Exec { .. } | Route::StatsSummary), "{path}");
        }
    }

    #[tokio::test]
    async fn the_host_is_asked_once_and_told_everything() {
        let host = FakeHost::default();
        host.answer_accesses(StatusCode::CREATED, &json!({"allowed": true}));
        let authorizer = Authorizer::new(host.client(), "virtual-1");
        for _ in 0..3 {
            let wanted = Attributes { verb: "create", subresources: &["proxy"] };
            authorizer.authorize(&alice(), wanted).await.unwrap();
        }
        assert_eq!(host.calls(), 1);
        let spec = &host.last_question()["spec"];
        assert_eq!(
            spec["resourceAttributes"],
            json!({"version": "v1", "resource": "nodes", "name": "virtual-1",
            "subresource": "proxy", "verb": "create"})
        );
        assert_eq!(spec["user"], "alice");
        assert_eq!(spec["uid"], "7");
        assert_eq!(spec["groups"], json!(["dev"]));
        assert_eq!(spec["extra"], json!({"scopes": ["a"]}));
    }

    #[tokio::test]
    async fn a_no_names_what_was_missing() {
        let host = FakeHost::default();
        host.answer_accesses(StatusCode::CREATED, &json!({"allowed": false}));
        let authorizer = Authorizer::new(host.client(), "virtual-1");
        let wanted = Attributes::of(&Route::Healthz, &Method::GET);
        let error = authorizer.authorize(&alice(), wanted).await.unwrap_err();
        assert_eq!(error.to_string(), "Forbidden (user=alice, verb=get, resource=nodes, subresource=healthz,proxy)");
        assert_eq!(host.calls(), 2);
        authorizer.authorize(&alice(), wanted).await.unwrap_err();
        assert_eq!(host.calls(), 2, "a no is remembered too");
    }

    #[tokio::test]
    async fn silence_and_contradiction_are_no_yes() {
        let host = FakeHost::default();
        let authorizer = Authorizer::new(host.client(), "virtual-1");
        let wanted = Attributes { verb: "get", subresources: &["stats"] };
        host.answer_accesses(StatusCode::SERVICE_UNAVAILABLE, &json!({}));
        let failed = authorizer.authorize(&alice(), wanted).await;
        assert!(matches!(failed, Err(AuthzError::Review(_))));
        host.answer_accesses(StatusCode::CREATED, &json!({"allowed": true, "denied": true}));
        let failed = authorizer.authorize(&alice(), wanted).await;
        assert!(matches!(failed, Err(AuthzError::Forbidden { .. })), "the failure was not remembered");
    }
}
