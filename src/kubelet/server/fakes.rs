//! Doubles for the tests of this module: a host that reviews, and a certificate authority.

use std::sync::{Arc, Mutex};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// Answers TokenReviews and SubjectAccessReviews, and remembers what it was asked.
#[derive(Clone, Default)]
pub(super) struct FakeHost(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    review: (StatusCode, Value),
    access: (StatusCode, Value),
    questions: Vec<Value>,
}

impl FakeHost {
    /// A client of this host.
    pub(super) fn client(&self) -> Client {
        let state = Arc::clone(&self.0);
        let service = tower::service_fn(move |request: Request<Body>| {
            let state = Arc::clone(&state);
            async move {
                let path = request.uri().path().to_owned();
                if path == "/api/v1/pods" {
                    // What was asked for is enough of a list.
                    let asked = json!({"kind": "PodList", "asked": request.uri().query()}).to_string();
                    return Ok(Response::new(Body::from(asked.into_bytes())));
                }
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let mut state = state.lock().unwrap();
                state.questions.push(serde_json::from_slice(&body).unwrap());
                let (status, answer) = match path.as_str() {
                    "/apis/authentication.k8s.io/v1/tokenreviews" => &state.review,
                    "/apis/authorization.k8s.io/v1/subjectaccessreviews" => &state.access,
                    other => panic!("nobody should ask for {other}"),
                };
                let mut document = json!({"metadata": {}, "spec": {}, "status": answer});
                if !status.is_success() {
                    document =
                        json!({"kind": "Status", "code": status.as_u16(), "message": "broken", "reason": "Broken"});
                }
                let response = Response::builder().status(*status).body(Body::from(document.to_string().into_bytes()));
                Ok::<_, std::convert::Infallible>(response.unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// From now on TokenReviews get this status.
    pub(super) fn answer_reviews(&self, code: StatusCode, status: &Value) {
        self.0.lock().unwrap().review = (code, status.clone());
    }

    /// From now on SubjectAccessReviews get this status.
    pub(super) fn answer_accesses(&self, code: StatusCode, status: &Value) {
        self.0.lock().unwrap().access = (code, status.clone());
    }

    /// How often it was asked.
    pub(super) fn calls(&self) -> usize {
        self.0.lock().unwrap().questions.len()
    }

    /// What it was asked last about an access.
    pub(super) fn last_access(&self) -> Value {
        let state = self.0.lock().unwrap();
        let access = state.questions.iter().rev().find(|one| one["kind"] == "SubjectAccessReview");
        access.unwrap_or_else(|| panic!("nobody asked: {:?}", state.questions)).clone()
    }

    /// What it was asked last.
    pub(super) fn last_question(&self) -> Value {
        self.0.lock().unwrap().questions.last().unwrap().clone()
    }
}

/// A certificate authority for clients.
pub(super) struct Pki {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A client's certificate and key.
pub(super) struct Identity {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "client-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(super) fn ca_pem(&self) -> String {
        self.pem.clone()
    }

    pub(super) fn client(&self, name: &str, group: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity { certificate, key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())) }
    }
}
