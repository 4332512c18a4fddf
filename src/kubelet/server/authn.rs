//! Who asks: a client certificate, else a bearer token, else nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use moka::future::Cache;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{X509Name, parse_x509_certificate};

use super::trust::ClientTrust;
use crate::kubelet::provider::Source;

/// How long a token stays good without asking again (the kubelet's `authentication.webhook.cacheTTL`).
pub(super) const GOOD: Duration = Duration::from_secs(120);

/// How long a token stays bad. Short: a token may be created a moment after its first use.
const BAD: Duration = Duration::from_secs(10);

/// How many tokens are remembered, good and bad.
const TOKENS: u64 = 4096;

/// How long the host may think about a question.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The group of everybody who is somebody; Kubernetes adds it to whoever authenticates, by whatever means.
const AUTHENTICATED: &str = "system:authenticated";

/// A user in Kubernetes' terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// The name.
    pub name: String,
    /// The UID, where the authenticator knows one.
    pub uid: Option<String>,
    /// The groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Whatever else the authenticator says; authorisers get it too.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Why nobody could be made of a request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuthnError {
    /// No credentials, or wrong ones: 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// The host could not be asked; nobody is let in meanwhile: 503.
    #[error("failed to have a token reviewed by the host; does Longshore have the right to create tokenreviews?")]
    Review(#[source] Arc<Source>),
}

/// Makes users of credentials.
pub struct Authenticator {
    reviews: Api<TokenReview>,
    trust: Arc<ClientTrust>,
    /// By the digest of the token: a memory dump should not hold the tokens of two minutes.
    tokens: Cache<[u8; 32], Option<Arc<User>>>,
}

impl Authenticator {
    /// Asks `host` about tokens (needs `create` on `tokenreviews`) and `trust` about certificates.
    pub fn new(host: Client, trust: Arc<ClientTrust>) -> Self {
        let tokens = Cache::builder().max_capacity(TOKENS).expire_after(Lifetime).build();
        Self { reviews: Api::all(host), trust, tokens }
    }

    /// The user behind a request: `peer` is the chain of certificates that the TLS handshake has verified.
    pub(super) async fn authenticate(
        &self,
        peer: &[CertificateDer<'static>],
        headers: &HeaderMap,
    ) -> Result<Arc<User>, AuthnError> {
        if self.trust.still_good(peer)
            && let Some(user) = peer.first().and_then(user_of_certificate)
        {
            return Ok(Arc::new(user));
        }
        let Some(token) = bearer_token(headers) else { return Err(AuthnError::Unauthorized) };
        let digest = Sha256::digest(token.as_bytes()).into();
        let review = self.tokens.try_get_with(digest, self.review(token)).await;
        match review {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(AuthnError::Unauthorized),
            Err(error) => Err(AuthnError::Review(error)),
        }
    }

    async fn review(&self, token: &str) -> Result<Option<Arc<User>>, Source> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: None };
        let question = TokenReview { spec, ..TokenReview::default() };
        let params = PostParams::default();
        let answer = tokio::time::timeout(PATIENCE, self.reviews.create(&params, &question)).await??;
        let status = answer.status.unwrap_or_default();
        Ok(status.user.filter(|_| status.authenticated == Some(true)).and_then(user_of_review).map(Arc::new))
    }
}

struct Lifetime;

impl moka::Expiry<[u8; 32], Option<Arc<User>>> for Lifetime {
    fn expire_after_create(&self, _: &[u8; 32], user: &Option<Arc<User>>, _: Instant) -> Option<Duration> {
        Some(if user.is_some() { GOOD } else { BAD })
    }
}

/// The token of an `Authorization: Bearer` header.
pub(super) fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// As `k8s.io/apiserver/pkg/authentication/request/x509` does it: the common name is the user, the organisations are the
/// groups.
pub(super) fn user_of_certificate(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    user_of_subject(certificate.subject())
}

fn user_of_subject(subject: &X509Name<'_>) -> Option<User> {
    // Go keeps the last of several common names.
    let name = subject.iter_common_name().last()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    Some(User { name, uid: None, groups: with_authenticated(groups), extra: BTreeMap::new() })
}

fn user_of_review(user: UserInfo) -> Option<User> {
    Some(User {
        name: user.username.filter(|name| !name.is_empty())?,
        uid: user.uid.filter(|uid| !uid.is_empty()),
        groups: with_authenticated(user.groups.unwrap_or_default()),
        extra: user.extra.unwrap_or_default(),
    })
}

fn with_authenticated(mut groups: Vec<String>) -> Vec<String> {
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::super::fakes::{FakeHost, Pki};
    use super::*;
    use http::StatusCode;
    use serde_json::json;

    fn bearer(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    fn authenticator(host: &FakeHost, pki: &Pki) -> Authenticator {
        Authenticator::new(host.client(), Arc::new(ClientTrust::from_pem(&pki.ca_pem()).unwrap()))
    }

    #[test]
    fn only_bearer_tokens_are_tokens() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            bearer_token(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for other in ["Basic YTpi", "Bearer", "Bearer ", "abc", ""] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_certificate_is_a_user_with_groups() {
        let (host, pki) = (FakeHost::default(), Pki::new());
        let chain = [pki.client("alice", "admins").certificate];
        let user = authenticator(&host, &pki).authenticate(&chain, &HeaderMap::new()).await.unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_deref()), ("alice", None));
        assert_eq!(user.groups, ["admins", AUTHENTICATED]);
        assert_eq!(host.calls(), 0);
    }

    #[tokio::test]
    async fn a_certificate_ends_with_its_ca() {
        let (host, old, new) = (FakeHost::default(), Pki::new(), Pki::new());
        let chain = [old.client("alice", "admins").certificate];
        let refused = authenticator(&host, &new).authenticate(&chain, &HeaderMap::new()).await;
        assert!(matches!(refused, Err(AuthnError::Unauthorized)));
    }

    #[tokio::test]
    async fn a_token_is_reviewed_once() {
        let (host, pki) = (FakeHost::default(), Pki::new());
        host.answer_reviews(
            StatusCode::CREATED,
            &json!({"authenticated": true, "user": {
            "username": "bob", "uid": "1", "groups": ["dev"], "extra": {"scopes": ["a"]}}}),
        );
        let authenticator = authenticator(&host, &pki);
        for _ in 0..3 {
            let user = authenticator.authenticate(&[], &bearer("t")).await.unwrap();
            assert_eq!((user.name.as_str(), user.uid.as_deref()), ("bob", Some("1")));
            assert_eq!(user.groups, ["dev", AUTHENTICATED]);
            assert_eq!(user.extra["scopes"], ["a"]);
        }
        assert_eq!(host.calls(), 1);
        assert_eq!(host.last_question()["spec"]["token"], "t");
        authenticator.authenticate(&[], &bearer("another")).await.unwrap();
        assert_eq!(host.calls(), 2);
    }

    #[tokio::test]
    async fn a_bad_token_and_none_are_unauthorized() {
        let (host, pki) = (FakeHost::default(), Pki::new());
        host.answer_reviews(StatusCode::CREATED, &json!({"authenticated": false, "error": "expired"}));
        let authenticator = authenticator(&host, &pki);
        for headers in [bearer("t"), bearer("t"), HeaderMap::new()] {
            let refused = authenticator.authenticate(&[], &headers).await;
            assert!(matches!(refused, Err(AuthnError::Unauthorized)));
        }
        assert_eq!(host.calls(), 1);
    }

    #[tokio::test]
    async fn an_unanswered_review_lets_nobody_in_and_is_asked_again() {
        let (host, pki) = (FakeHost::default(), Pki::new());
        host.answer_reviews(StatusCode::INTERNAL_SERVER_ERROR, &json!({}));
        let authenticator = authenticator(&host, &pki);
        for _ in 0..2 {
            let failed = authenticator.authenticate(&[], &bearer("t")).await;
            assert!(matches!(failed, Err(AuthnError::Review(_))));
        }
        assert_eq!(host.calls(), 2);
    }
}
