//! The webhook's own certification authority and serving certificate, and when they are renewed. Pure but for randomness.
//!
//! What the API server trusts is written into the MutatingWebhookConfiguration, and takes a moment (or, where an operator
//! applies it, a person). So a new authority is announced before anything is signed by it: when one is due, the serving
//! certificate is first renewed by the old authority, which outlives it, and the new one comes before the old one in the
//! bundle. Its first signature is that of the next serving certificate, weeks later.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::kubelet::server::ServingCertificate;

const DAY: i64 = 24 * 3600;

/// How long an authority is valid, and how long before its end the next one takes its place, in seconds.
const AUTHORITY: (i64, i64) = (10 * 365 * DAY, 2 * 365 * DAY);

/// The same for a serving certificate.
const SERVING: (i64, i64) = (90 * DAY, 30 * DAY);

/// How far certificates reach into the past, for API servers whose clock is behind.
const CLOCK_SKEW: i64 = 300;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("failed to make a certificate for the webhook at {names}; is that a host name or an address?")]
pub struct CertificateError {
    /// For which names.
    names: String,
    #[source]
    source: rcgen::Error,
}

/// What the Secret holds, all PEM. It has no `Debug` because that would show keys.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Material {
    /// The authorities that are to be trusted; the first one signs.
    pub authorities: String,
    /// The key of the first one.
    pub authority_key: String,
    /// The serving certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// What is to be used from `now` on (in seconds of the epoch) for these names, if it differs from what there is. Whatever
/// cannot be used is made anew.
///
/// # Errors
/// When nothing can be made: bad names, or no randomness.
pub fn renewed(there: Option<&Material>, names: &[String], now: i64) -> Result<Option<Material>, CertificateError> {
    let failed = |source| CertificateError { names: names.join(", "), source };
    let Some(there) = there else { return Ok(Some(anew(names, now).map_err(failed)?)) };
    let Some(authority) = Authority::read(there).filter(|authority| authority.left(now) > 0) else {
        return Ok(Some(anew(names, now).map_err(failed)?));
    };
    let mut next = there.clone();
    let ageing = authority.left(now) < AUTHORITY.1;
    if ageing || !serves(there, names, now) {
        (next.certificate, next.key) = sign(&authority.issuer, names, now, authority.until).map_err(failed)?;
    }
    if ageing {
        let (certificate, key) = authorise(now).map_err(failed)?;
        // The one before it has no part in anything any more.
        let current = first(&there.authorities).unwrap_or_default();
        (next.authorities, next.authority_key) = (format!("{certificate}{current}"), key);
    }
    Ok((next != *there).then_some(next))
}

fn anew(names: &[String], now: i64) -> Result<Material, rcgen::Error> {
    let (authorities, authority_key) = authorise(now)?;
    let issuer = Issuer::new(of_authority(&common_name(now)), KeyPair::from_pem(&authority_key)?);
    let (certificate, key) = sign(&issuer, names, now, i64::MAX)?;
    Ok(Material { authorities, authority_key, certificate, key })
}

/// Each authority has a name of its own, so that nobody mistakes one for the other.
fn common_name(now: i64) -> String {
    format!("longshore-webhook-{now}")
}

fn of_authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn between(params: &mut CertificateParams, from: i64, until: i64) {
    let time = |seconds: i64| {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    (params.not_before, params.not_after) = (time(from), time(until));
}

fn authorise(now: i64) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = of_authority(&common_name(now));
    between(&mut params, now - CLOCK_SKEW, now + AUTHORITY.0);
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn sign(
    issuer: &Issuer<'_, KeyPair>,
    names: &[String],
    now: i64,
    until: i64,
) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "longshore-webhook");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    between(&mut params, now - CLOCK_SKEW, (now + SERVING.0).min(until));
    Ok((params.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// The authority that signs.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    until: i64,
}

impl Authority {
    fn read(material: &Material) -> Option<Self> {
        let der = CertificateDer::from_pem_slice(material.authorities.as_bytes()).ok()?;
        let (_, certificate) = X509Certificate::from_der(&der).ok()?;
        let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
        let key = KeyPair::from_pem(&material.authority_key).ok()?;
        let known = &certificate.public_key().subject_public_key.data;
        if key.public_key_raw() != known.as_ref() {
            return None;
        }
        let until = certificate.validity().not_after.timestamp();
        Some(Self { issuer: Issuer::new(of_authority(name), key), until })
    }

    fn left(&self, now: i64) -> i64 {
        self.until - now
    }
}

/// The first certificate of a bundle.
fn first(bundle: &str) -> Option<&str> {
    let end = "-----END CERTIFICATE-----";
    let length = bundle.find(end)? + end.len();
    let rest = &bundle[length..];
    let newline = rest.len() - rest.trim_start_matches(['\r', '\n']).len();
    bundle.get(..length + newline)
}

/// Whether the serving certificate will do: for these names, for long enough, with its key, signed by one that is trusted.
fn serves(material: &Material, names: &[String], now: i64) -> bool {
    if ServingCertificate::from_pem(material.certificate.as_bytes(), material.key.as_bytes()).is_err() {
        return false;
    }
    let Ok(der) = CertificateDer::from_pem_slice(material.certificate.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return false };
    let has = |wanted: &String| {
        let all = certificate.subject_alternative_name().ok().flatten();
        let all = all.iter().flat_map(|extension| &extension.value.general_names);
        let address: Option<Vec<u8>> = wanted.parse().ok().map(|address| match address {
            std::net::IpAddr::V4(address) => address.octets().to_vec(),
            std::net::IpAddr::V6(address) => address.octets().to_vec(),
        });
        let mut same = all.filter(|name| match (name, &address) {
            (GeneralName::IPAddress(bytes), Some(address)) => *bytes == address.as_slice(),
            (GeneralName::DNSName(name), None) => *name == wanted,
            _ => false,
        });
        same.next().is_some()
    };
    let signer = |authority: &CertificateDer<'_>| {
        // By its name, which no other one has.
        let read = X509Certificate::from_der(authority);
        read.is_ok_and(|(_, authority)| certificate.issuer().as_raw() == authority.subject().as_raw())
    };
    let validity = certificate.validity();
    validity.not_before.timestamp() <= now
        && validity.not_after.timestamp() - now >= SERVING.1
        && names.iter().all(has)
        && CertificateDer::pem_slice_iter(material.authorities.as_bytes()).flatten().any(|one| signer(&one))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn here() -> Vec<String> {
        names(&["longshore.longshore.svc", "172.30.0.1"])
    }

    fn next(there: Option<&Material>, now: i64) -> Option<Material> {
        renewed(there, &here(), now).unwrap()
    }

    /// Whether a client that trusts these authorities takes this certificate.
    fn trusted(authorities: &str, material: &Material, now: i64) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(authority.unwrap()).unwrap();
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        let der = CertificateDer::from_pem_slice(material.certificate.as_bytes()).unwrap();
        let now = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.try_into().unwrap()));
        here().into_iter().all(|name| {
            use rustls::client::danger::ServerCertVerifier;
            let name = name.try_into().unwrap();
            verifier.clone().build().unwrap().verify_server_cert(&der, &[], &name, &[], now).is_ok()
        })
    }

    #[test]
    fn the_first_one_makes_all_of_it_and_the_others_take_it() {
        let first = next(None, NOW).unwrap();
        assert!(trusted(&first.authorities, &first, NOW));
        assert!(next(Some(&first), NOW).is_none());
        assert!(next(Some(&first), NOW + 59 * DAY).is_none());
    }

    #[test]
    fn the_serving_certificate_is_renewed_in_time_by_the_same_authority() {
        let first = next(None, NOW).unwrap();
        let second = next(Some(&first), NOW + 61 * DAY).unwrap();
        assert!(second.authorities == first.authorities && second.certificate != first.certificate);
        assert!(trusted(&first.authorities, &second, NOW + 61 * DAY));
        assert!(next(Some(&second), NOW + 61 * DAY).is_none());
    }

    #[test]
    fn other_names_need_another_certificate() {
        let first = next(None, NOW).unwrap();
        assert!(renewed(Some(&first), &names(&["172.30.0.1"]), NOW).unwrap().is_none(), "fewer do no harm");
        let moved = renewed(Some(&first), &names(&["elsewhere.svc"]), NOW).unwrap().unwrap();
        assert!(moved.authorities == first.authorities && moved.certificate != first.certificate);
        assert!(renewed(None, &names(&["not a name, ü"]), NOW).is_err());
    }

    #[test]
    fn a_new_authority_is_announced_long_before_it_signs() {
        let first = next(None, NOW).unwrap();
        let late = NOW + AUTHORITY.0 - AUTHORITY.1 + DAY;
        let announced = next(Some(&first), late).unwrap();
        assert!(announced.authorities.ends_with(&first.authorities) && announced.authorities != first.authorities);
        assert!(trusted(&first.authorities, &announced, late), "an API server that was not told yet goes on");
        assert!(next(Some(&announced), late + DAY).is_none());
        let signed = next(Some(&announced), late + 61 * DAY).unwrap();
        assert!(!trusted(&first.authorities, &signed, late + 61 * DAY), "now it is the new one");
        assert!(trusted(&announced.authorities, &signed, late + 61 * DAY));
        let third = next(Some(&signed), late + AUTHORITY.0 - AUTHORITY.1 + DAY).unwrap();
        assert_eq!(third.authorities.matches("BEGIN CERTIFICATE").count(), 2, "the oldest is forgotten");
    }

    #[test]
    fn what_cannot_be_used_is_made_anew() {
        let good = next(None, NOW).unwrap();
        let other = next(None, NOW + 1).unwrap();
        assert!(next(Some(&good), NOW + AUTHORITY.0).is_some_and(|new| new.authorities != good.authorities));
        for broken in [
            Material::default(),
            Material { authorities: "x".into(), ..good.clone() },
            Material { authority_key: other.authority_key.clone(), ..good.clone() },
            Material { key: other.key.clone(), ..good.clone() },
            Material { certificate: other.certificate.clone(), key: other.key.clone(), ..good.clone() },
            Material { certificate: String::new(), ..good.clone() },
        ] {
            let mended = next(Some(&broken), NOW).unwrap();
            assert!(trusted(&mended.authorities, &mended, NOW));
            assert!(next(Some(&mended), NOW).is_none());
        }
    }
}
