//! Which client certificates count: those of the client CA that the host publishes for everybody who serves its API
//! server, in `kube-system/extension-apiserver-authentication`.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, Client};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use tokio_util::sync::CancellationToken;

use super::tls::provider;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const KEY: &str = "client-ca-file";

/// Why no client CA could be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The API server refused, or did not answer.
    #[error(
        "failed to read ConfigMap {NAMESPACE}/{NAME} of the host, which names the client CA; grant get, list and watch on \
         it by a RoleBinding in {NAMESPACE} to Role extension-apiserver-authentication-reader"
    )]
    Read(#[source] Box<kube::Error>),
    /// The host has no client CA, so its API server could not authenticate here.
    #[error("ConfigMap {NAMESPACE}/{NAME} of the host has no {KEY}; start its API server with --client-ca-file")]
    Missing,
    /// The bundle is no PEM.
    #[error("failed to read {KEY} in ConfigMap {NAMESPACE}/{NAME} of the host; it has to be PEM")]
    Pem(#[source] PemError),
    /// A certificate of the bundle cannot be a CA.
    #[error("failed to use {KEY} in ConfigMap {NAMESPACE}/{NAME} of the host; it has to hold CA certificates")]
    Anchor(#[source] rustls::Error),
    /// The verifier cannot be built of this bundle.
    #[error("failed to build a verifier of {KEY} in ConfigMap {NAMESPACE}/{NAME} of the host")]
    Verifier(#[source] VerifierBuilderError),
}

/// The client CA of now; one for all servers of the process.
///
/// A client without a certificate passes the handshake (it may have a token), one with a certificate of another CA does not.
#[derive(Debug)]
pub struct ClientTrust {
    verifier: ArcSwap<Arc<dyn ClientCertVerifier>>,
}

impl ClientTrust {
    /// Reads the client CA from the host.
    pub async fn load(host: &Client) -> Result<Arc<Self>, TrustError> {
        let api: Api<ConfigMap> = Api::namespaced(host.clone(), NAMESPACE);
        let published = api.get(NAME).await.map_err(|error| TrustError::Read(Box::new(error)))?;
        Ok(Arc::new(Self::from_pem(bundle(&published)?)?))
    }

    /// Trusts the CAs of this PEM bundle.
    pub fn from_pem(bundle: &str) -> Result<Self, TrustError> {
        Ok(Self { verifier: ArcSwap::from_pointee(verifier(bundle)?) })
    }

    /// Follows the host's changes until `shutdown`. Whatever goes wrong on the way, the last good CA stays.
    pub async fn follow(self: Arc<Self>, host: Client, shutdown: CancellationToken) {
        let api: Api<ConfigMap> = Api::namespaced(host, NAMESPACE);
        let changes = watch_object(api, NAME).backoff(watcher::DefaultBackoff::default());
        let mut changes = std::pin::pin!(changes.take_until(shutdown.cancelled_owned()));
        while let Some(change) = changes.next().await {
            match change {
                Ok(Some(published)) => match bundle(&published).and_then(verifier) {
                    Ok(verifier) => self.verifier.store(Arc::new(verifier)),
                    Err(error) => tracing::warn!(%error, "the client CA of the host is unusable; the last one stays"),
                },
                Ok(None) => tracing::warn!("ConfigMap {NAMESPACE}/{NAME} is gone; the last client CA stays"),
                Err(error) => tracing::warn!(%error, "failed to watch ConfigMap {NAMESPACE}/{NAME}; trying again"),
            }
        }
    }

    /// Whether a certificate that was good at its handshake is still good. Connections live long: since then it may have
    /// expired, or the CA may have been replaced.
    pub(super) fn still_good(&self, chain: &[CertificateDer<'_>]) -> bool {
        let Some((end_entity, intermediates)) = chain.split_first() else { return false };
        self.verify_client_cert(end_entity, intermediates, UnixTime::now()).is_ok()
    }
}

fn bundle(published: &ConfigMap) -> Result<&str, TrustError> {
    published.data.as_ref().and_then(|data| data.get(KEY)).map(String::as_str).ok_or(TrustError::Missing)
}

fn verifier(bundle: &str) -> Result<Arc<dyn ClientCertVerifier>, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(certificate.map_err(TrustError::Pem)?).map_err(TrustError::Anchor)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .allow_unauthenticated()
        .build()
        .map_err(TrustError::Verifier)
}

impl ClientCertVerifier for ClientTrust {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: hints would have to outlive the CA that they name. A client without hints sends what it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier.load().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.load().verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.load().verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.load().supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fakes::Pki;
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::convert::Infallible;
    use std::time::Duration;

    /// A host that answers GETs of one object with `object`, lists with a list of it, and watches with silence.
    fn host(status: u16, object: &Value) -> Client {
        let (single, list) = (object.to_string(), json!({"metadata": {"resourceVersion": "1"}, "items": [object]}));
        let list = list.to_string();
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            let silent = query.contains("watch=true");
            let body = if request.uri().path().ends_with(NAME) { single.clone() } else { list.clone() };
            assert!(
                request.uri().path().ends_with(NAME) || query.contains("fieldSelector=metadata.name%3D"),
                "{query}"
            );
            async move {
                if silent {
                    std::future::pending::<()>().await;
                }
                let response = Response::builder().status(status).body(Body::from(body.into_bytes()));
                Ok::<_, Infallible>(response.unwrap())
            }
        });
        Client::new(service, "default")
    }

    fn published(bundle: &str) -> Value {
        json!({"metadata": {"name": NAME, "namespace": NAMESPACE, "resourceVersion": "1"}, "data": {KEY: bundle}})
    }

    #[tokio::test]
    async fn a_right_that_is_missing_is_named() {
        let refusal = json!({"kind": "Status", "code": 403, "reason": "Forbidden", "message": "no"});
        let error = ClientTrust::load(&host(403, &refusal)).await.unwrap_err();
        assert!(error.to_string().contains("extension-apiserver-authentication-reader"), "{error}");
    }

    #[tokio::test]
    async fn a_host_without_a_client_ca_is_told_apart_from_a_broken_one() {
        let empty = json!({"metadata": {"name": NAME}, "data": {}});
        assert!(matches!(ClientTrust::load(&host(200, &empty)).await, Err(TrustError::Missing)));
        let no_certificates = ClientTrust::load(&host(200, &published("what?"))).await;
        assert!(matches!(no_certificates, Err(TrustError::Verifier(_))));
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(ClientTrust::load(&host(200, &published(broken))).await, Err(TrustError::Anchor(_))));
    }

    #[tokio::test]
    async fn a_new_ca_replaces_the_old_one_and_a_broken_one_does_not() {
        let (old, new) = (Pki::new(), Pki::new());
        let trust = Arc::new(ClientTrust::from_pem(&old.ca_pem()).unwrap());
        let (alice, bob) = ([old.client("alice", "a").certificate], [new.client("bob", "b").certificate]);
        assert!(trust.still_good(&alice) && !trust.still_good(&bob) && !trust.still_good(&[]));
        for (bundle, alice_is_good) in [("nonsense".to_owned(), true), (new.ca_pem(), false)] {
            let following = trust.clone().follow(host(200, &published(&bundle)), CancellationToken::new());
            let _ = tokio::time::timeout(Duration::from_millis(300), following).await;
            assert_eq!(trust.still_good(&alice), alice_is_good);
            assert_eq!(trust.still_good(&bob), !alice_is_good);
        }
    }
}
