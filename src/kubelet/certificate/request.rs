//! What is asked of the host's signer, and what its answers mean. Pure.
//!
//! The signer `kubernetes.io/kubelet-serving` signs what is approved and looks like a kubelet's request, whoever has made it
//! (k8s.io/kubernetes/pkg/apis/certificates): organisation `system:nodes` and nothing else, common name `system:node:…`, at
//! least one DNS name or address, and exactly these usages. Nobody approves such requests by default.

use std::net::IpAddr;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use sha2::{Digest, Sha256};

/// The signer of kubelets' serving certificates.
pub const SIGNER: &str = "kubernetes.io/kubelet-serving";

/// The label of our requests: which virtual node each is for.
pub const NODE: &str = "longshore.dev/node";

/// The longest name of an object.
const NAME_BYTES: usize = 253;

/// The longest value of a label.
const LABEL_BYTES: usize = 63;

/// The request for a node at this address.
///
/// Its name follows from the key, so that a create whose answer was lost is found when it is repeated. It names the address
/// and no DNS name, since that is all that the Node shows (`InternalIP`), and what approvers compare it with.
///
/// # Errors
/// When the node's name cannot be put into a certificate.
pub fn object(node: &str, address: IpAddr, key: &KeyPair) -> Result<CertificateSigningRequest, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params.subject_alt_names = vec![SanType::IpAddress(address)];
    let pem = params.serialize_request(key)?.pem()?;
    let label = (node.len() <= LABEL_BYTES).then(|| [(NODE.to_owned(), node.to_owned())].into());
    Ok(CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name(node, key.der_bytes())), labels: label, ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pem.into_bytes()),
            signer_name: SIGNER.into(),
            usages: Some(["digital signature", "server auth"].map(String::from).into()),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    })
}

fn name(node: &str, public_key: &[u8]) -> String {
    let digest: [u8; 32] = Sha256::digest(public_key).into();
    let number = digest.first_chunk().map_or(0, |eight| u64::from_be_bytes(*eight));
    let suffix = format!("-serving-{number:016x}");
    // Names of nodes are ASCII.
    let node: String = node.chars().take(NAME_BYTES - suffix.len()).collect();
    format!("{}{suffix}", node.trim_end_matches(['.', '-']))
}

/// What a request of ours has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody has decided yet.
    Pending,
    /// It is approved, and the signer has not signed yet.
    Approved,
    /// The certificate with its chain, PEM.
    Issued(Vec<u8>),
    /// It is denied, or the signer cannot: why.
    Refused(String),
}

/// What this request has come to.
pub fn verdict(request: &CertificateSigningRequest) -> Verdict {
    let status = request.status.clone().unwrap_or_default();
    let find = |kind: &str| {
        let mut all = status.conditions.iter().flatten();
        all.find(|one| one.type_ == kind && one.status != "False")
    };
    for kind in ["Denied", "Failed"] {
        if let Some(condition) = find(kind) {
            let given = |text: &Option<String>| text.clone().unwrap_or_default();
            return Verdict::Refused(format!("{kind}: {} {}", given(&condition.reason), given(&condition.message)));
        }
    }
    match status.certificate {
        Some(ByteString(pem)) if !pem.is_empty() => Verdict::Issued(pem),
        _ if find("Approved").is_some() => Verdict::Approved,
        _ => Verdict::Pending,
    }
}

/// The request, approved, if it is the one that we have sent: nothing else is ever approved.
pub fn approved(
    sent: &CertificateSigningRequest,
    seen: CertificateSigningRequest,
) -> Option<CertificateSigningRequest> {
    let same = seen.spec.request == sent.spec.request
        && seen.spec.signer_name == sent.spec.signer_name
        && seen.spec.usages == sent.spec.usages;
    if !same {
        return None;
    }
    let mut request = seen;
    let condition = CertificateSigningRequestCondition {
        type_: "Approved".into(),
        status: "True".into(),
        reason: Some("OwnVirtualNode".into()),
        message: Some("Longshore asked for this certificate of a virtual node that it serves".into()),
        last_update_time: Some(Time(Timestamp::now())),
        last_transition_time: None,
    };
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};

    fn request() -> (CertificateSigningRequest, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (object("east", "10.1.2.3".parse().unwrap(), &key).unwrap(), key)
    }

    fn with_status(status: Value) -> CertificateSigningRequest {
        CertificateSigningRequest { status: Some(serde_json::from_value(status).unwrap()), ..request().0 }
    }

    #[test]
    fn a_request_is_one_that_the_signer_of_kubelets_recognizes() {
        let (request, _) = request();
        assert_eq!(request.spec.signer_name, "kubernetes.io/kubelet-serving");
        assert_eq!(request.spec.usages.unwrap(), ["digital signature", "server auth"]);
        let (_, pem) = x509_parser::pem::parse_x509_pem(&request.spec.request.0).unwrap();
        assert_eq!(pem.label, "CERTIFICATE REQUEST");
        let (_, csr) = X509CertificationRequest::from_der(&pem.contents).unwrap();
        assert_eq!(csr.certification_request_info.subject.to_string(), "O=system:nodes, CN=system:node:east");
        let names: Vec<_> = csr
            .requested_extensions()
            .unwrap()
            .filter_map(|one| match one {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .collect();
        assert_eq!(names, [&GeneralName::IPAddress(&[10, 1, 2, 3])]);
    }

    #[test]
    fn a_request_is_named_by_its_node_and_its_key() {
        let ((one, key), (other, _)) = (request(), request());
        assert_ne!(one.metadata.name, other.metadata.name);
        let again = object("east", "10.1.2.3".parse().unwrap(), &key).unwrap();
        assert_eq!(one.metadata.name, again.metadata.name, "the same key");
        let long = name(&format!("{}.{}", "a".repeat(228), "b".repeat(20)), b"key");
        assert!(long.len() <= NAME_BYTES && !long.contains(".-"), "{long}");
    }

    #[test]
    fn a_verdict_is_what_the_conditions_say() {
        assert_eq!(verdict(&request().0), Verdict::Pending);
        let approved = json!({"type": "Approved", "status": "True"});
        assert_eq!(verdict(&with_status(json!({"conditions": [approved]}))), Verdict::Approved);
        let issued = with_status(json!({"conditions": [approved], "certificate": "UEVN"}));
        assert_eq!(verdict(&issued), Verdict::Issued(b"PEM".to_vec()));
        let denied = json!({"type": "Denied", "status": "True", "reason": "No", "message": "not here"});
        assert_eq!(
            verdict(&with_status(json!({"conditions": [denied]}))),
            Verdict::Refused("Denied: No not here".into())
        );
        let failed = json!({"type": "Failed", "status": "True", "reason": "R", "message": "m"});
        let failed = with_status(json!({"conditions": [approved, failed]}));
        assert!(matches!(verdict(&failed), Verdict::Refused(_)));
    }

    #[test]
    fn nothing_is_approved_but_what_was_sent() {
        let (sent, _) = request();
        let approved_one = approved(&sent, sent.clone()).unwrap();
        assert_eq!(verdict(&approved_one), Verdict::Approved);
        let (strange, _) = request();
        let strange = CertificateSigningRequest { metadata: sent.metadata.clone(), ..strange };
        assert_eq!(approved(&sent, strange), None);
    }
}
