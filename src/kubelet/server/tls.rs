//! The serving side of TLS: a certificate that can be swapped while connections are open, and the configuration.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::AlertDescription;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::Notify;
use x509_parser::prelude::{GeneralName, parse_x509_certificate};

use super::trust::ClientTrust;

/// How long a self-signed certificate is valid.
const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How far a self-signed certificate reaches into the past, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// What can be wrong with a serving certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The names cannot be put into a certificate, or the system has no randomness.
    #[error("failed to make a self-signed certificate for node {node:?}; is it a valid DNS name?")]
    SelfSign {
        /// The node's name.
        node: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// The text is no PEM, or lacks what it should have.
    #[error("failed to read the serving certificate or its key; both have to be PEM")]
    Pem(#[source] PemError),
    /// The key is of an unknown kind, or belongs to another certificate.
    #[error("failed to use the serving certificate; do certificate and key belong together?")]
    Pair(#[source] rustls::Error),
    /// The leaf says nothing of its validity.
    #[error("failed to read the validity of the serving certificate; is its first certificate an X.509 one?")]
    Inspect(#[source] x509_parser::error::X509Error),
    /// The crypto library and the TLS versions do not fit together.
    #[error("failed to configure TLS")]
    Configure(#[source] rustls::Error),
}

/// The crypto library; the one that kube's client uses too.
///
/// It is passed explicitly, since the process-wide default is missing or ambiguous in a binary that links several.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificate that the server shows. [`replace`](Self::replace) swaps it: new connections see the new one, open ones
/// go on undisturbed.
#[derive(Debug)]
pub struct ServingCertificate {
    shown: ArcSwap<CertifiedKey>,
    refused: Notify,
}

/// What a serving certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// It is valid from this time.
    pub from: SystemTime,
    /// It is valid until this time.
    pub until: SystemTime,
    /// The addresses for which it stands.
    pub addresses: Vec<IpAddr>,
}

impl ServingCertificate {
    fn new(pair: CertifiedKey) -> Self {
        Self { shown: ArcSwap::from_pointee(pair), refused: Notify::new() }
    }

    /// A certificate for this node and these addresses, signed by its own key: enough for API servers that run without
    /// `--kubelet-certificate-authority`, which is the default.
    pub fn self_signed(node: &str, addresses: &[IpAddr]) -> Result<Self, TlsError> {
        Ok(Self::new(sign(node, addresses)?))
    }

    /// A certificate (with its chain, the leaf first) and its key, both PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        Ok(Self::new(read(chain, key)?))
    }

    /// Swaps the certificate; on an error the old one stays.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        self.shown.store(Arc::new(read(chain, key)?));
        Ok(())
    }

    /// Swaps it for one as [`Self::self_signed`] makes it; on an error the old one stays.
    pub fn sign_anew(&self, node: &str, addresses: &[IpAddr]) -> Result<(), TlsError> {
        self.shown.store(Arc::new(sign(node, addresses)?));
        Ok(())
    }

    /// What the certificate of the moment says of itself.
    pub fn describe(&self) -> Result<Described, TlsError> {
        let shown = self.shown.load();
        // There is a leaf: one without was refused.
        let leaf = shown.cert.first().ok_or(TlsError::Pem(PemError::NoItemsFound))?;
        let (_, leaf) = parse_x509_certificate(leaf).map_err(|error| match error {
            x509_parser::nom::Err::Error(error) | x509_parser::nom::Err::Failure(error) => TlsError::Inspect(error),
            x509_parser::nom::Err::Incomplete(_) => {
                TlsError::Inspect(x509_parser::error::X509Error::InvalidCertificate)
            }
        })?;
        let names = leaf.subject_alternative_name().map_err(TlsError::Inspect)?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let validity = leaf.validity();
        Ok(Described {
            from: time(validity.not_before.timestamp()),
            until: time(validity.not_after.timestamp()),
            addresses: names.filter_map(address).collect(),
        })
    }

    /// A client has ended its handshake because of the certificate.
    pub(super) fn was_refused(&self) {
        self.refused.notify_one();
    }

    /// Waits until a client refuses the certificate; one that did so before, unheard, counts.
    pub async fn refusal(&self) {
        self.refused.notified().await;
    }
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.try_into().unwrap_or_default())
}

fn address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else { return None };
    let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok()
}

/// Whether a handshake has failed because the client does not take our certificate. Others may send the same alerts at
/// will, so nothing but a warning may follow.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(
        cause,
        Some(rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnsupportedCertificate
        ))
    )
}

fn sign(node: &str, addresses: &[IpAddr]) -> Result<CertifiedKey, TlsError> {
    let failed = |source| TlsError::SelfSign { node: node.to_owned(), source };
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut params = CertificateParams::new([node.to_owned()]).map_err(failed)?;
    params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = rcgen::date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + VALIDITY;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    pair(vec![certificate.der().clone()], key)
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.load_full())
    }
}

fn read(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(TlsError::Pem)?;
    if chain.is_empty() {
        return Err(TlsError::Pem(PemError::NoItemsFound));
    }
    pair(chain, PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Pem)?)
}

fn pair(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<CertifiedKey, TlsError> {
    CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Pair)
}

/// How a server does TLS: its configuration, and the certificate in it.
pub struct Tls {
    pub(super) config: Arc<rustls::ServerConfig>,
    pub(super) certificate: Arc<ServingCertificate>,
}

/// The configuration of a server that shows `certificate` and asks clients for one that `trust` knows.
///
/// HTTP/1.1 only: streams are upgrades, which HTTP/2 lacks. Sessions are not resumed: a resumed one would bring back an
/// identity that was verified under a client CA that may be gone.
pub fn server_config(certificate: Arc<ServingCertificate>, trust: Arc<ClientTrust>) -> Result<Tls, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configure)?
        .with_client_cert_verifier(trust)
        .with_cert_resolver(certificate.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Tls { config: Arc::new(config), certificate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_self_signed_certificate_names_the_node_and_its_addresses() {
        let addresses = ["10.1.2.3".parse().unwrap(), "fd00::1".parse().unwrap()];
        let serving = ServingCertificate::self_signed("virtual-1", &addresses).unwrap();
        let shown = serving.shown.load();
        let (_, certificate) = parse_x509_certificate(&shown.cert[0]).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=system:node:virtual-1");
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names[0], GeneralName::DNSName("virtual-1"));
        assert_eq!(names[1], GeneralName::IPAddress(&[10, 1, 2, 3]));
        assert_eq!(names.len(), 3);
        let validity = certificate.validity();
        assert!(validity.is_valid());
        let days = (validity.not_after.timestamp() - validity.not_before.timestamp()) / 86_400;
        assert_eq!(days, 365);
        let described = serving.describe().unwrap();
        assert_eq!(described.addresses, addresses);
        assert_eq!(described.until.duration_since(described.from).unwrap(), VALIDITY + CLOCK_SKEW);
    }

    #[test]
    fn a_client_that_takes_no_certificate_is_told_apart_from_one_that_breaks_off() {
        let failed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        assert!(is_refusal(&failed(rustls::Error::AlertReceived(AlertDescription::BadCertificate))));
        assert!(!is_refusal(&failed(rustls::Error::AlertReceived(AlertDescription::CloseNotify))));
        assert!(!is_refusal(&io::ErrorKind::UnexpectedEof.into()));
    }

    #[test]
    fn a_broken_replacement_leaves_the_old_certificate() {
        let serving = ServingCertificate::self_signed("n", &[]).unwrap();
        let before = serving.shown.load_full();
        assert!(matches!(serving.replace(b"", b""), Err(TlsError::Pem(_))));
        let other = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap();
        let stranger = KeyPair::generate().unwrap();
        let mismatch = serving.replace(other.cert.pem().as_bytes(), stranger.serialize_pem().as_bytes());
        assert!(matches!(mismatch, Err(TlsError::Pair(_))));
        assert!(Arc::ptr_eq(&before, &serving.shown.load_full()));
        serving.replace(other.cert.pem().as_bytes(), other.signing_key.serialize_pem().as_bytes()).unwrap();
        assert_eq!(serving.shown.load().cert[0], *other.cert.der());
    }
}
