//! The certificates and keys of one cluster.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::{files, plan::Plan};

/// Why a cluster has no certificates.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key or certificate could not be made.
    #[error("cannot make the certificate of {name}")]
    Sign {
        /// Whose certificate.
        name: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] files::Error),
}

/// One certificate signed by the cluster's authority.
struct Leaf {
    file: &'static str,
    common_name: String,
    organization: Option<&'static str>,
    names: Vec<String>,
}

/// The directory that holds a cluster's keys and certificates.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    dir: PathBuf,
}

/// File stems. Each certificate has its own user, so that RBAC and the node authorizer work as on any cluster.
pub(crate) const CA: &str = "ca";
pub(crate) const FRONT_PROXY_CA: &str = "front-proxy-ca";
pub(crate) const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
pub(crate) const API_SERVER: &str = "apiserver";
pub(crate) const API_SERVER_KUBELET_CLIENT: &str = "apiserver-kubelet-client";
pub(crate) const ADMIN: &str = "admin";
pub(crate) const CONTROLLER_MANAGER: &str = "controller-manager";
pub(crate) const SCHEDULER: &str = "scheduler";
pub(crate) const KUBE_PROXY: &str = "kube-proxy";
pub(crate) const NODE: &str = "node";

/// The common name of the certificate with which the API server proxies to extension API servers.
pub(crate) const FRONT_PROXY_NAME: &str = "front-proxy-client";

impl Pki {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn certificate(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    pub(crate) fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// The key that signs service account tokens.
    pub(crate) fn service_account_key(&self) -> PathBuf {
        self.dir.join("service-account.key")
    }

    /// The public half of the key that signs service account tokens.
    pub(crate) fn service_account_public_key(&self) -> PathBuf {
        self.dir.join("service-account.pub")
    }

    /// Makes everything anew.
    pub(crate) fn create(&self, plan: &Plan) -> Result<(), Error> {
        files::create_private_dir(&self.dir)?;
        let ca = self.authority(CA, &format!("{}-ca", plan.name()))?;
        for leaf in leaves(plan) {
            self.sign(&leaf, &ca)?;
        }
        let front_proxy_ca = self.authority(FRONT_PROXY_CA, &format!("{}-front-proxy-ca", plan.name()))?;
        let client = Leaf {
            file: FRONT_PROXY_CLIENT,
            common_name: FRONT_PROXY_NAME.to_owned(),
            organization: None,
            names: Vec::new(),
        };
        self.sign(&client, &front_proxy_ca)?;
        let key = new_key("service-account")?;
        files::write_private(&self.service_account_key(), key.serialize_pem())?;
        Ok(files::write(&self.service_account_public_key(), key.public_key_pem())?)
    }

    fn authority(&self, file: &'static str, common_name: &str) -> Result<Issuer<'static, KeyPair>, Error> {
        let mut params = params(common_name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = new_key(file)?;
        let certificate = params.self_signed(&key).map_err(|source| Error::Sign { name: file, source })?;
        self.store(file, &certificate.pem(), &key)?;
        Ok(Issuer::new(params, key))
    }

    fn sign(&self, leaf: &Leaf, issuer: &Issuer<'_, KeyPair>) -> Result<(), Error> {
        let failed = |source| Error::Sign { name: leaf.file, source };
        let mut params = params(&leaf.common_name, leaf.organization);
        params.subject_alt_names = CertificateParams::new(leaf.names.clone()).map_err(failed)?.subject_alt_names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = new_key(leaf.file)?;
        let certificate = params.signed_by(&key, issuer).map_err(failed)?;
        Ok(self.store(leaf.file, &certificate.pem(), &key)?)
    }

    fn store(&self, file: &str, certificate: &str, key: &KeyPair) -> Result<(), files::Error> {
        files::write(&self.certificate(file), certificate)?;
        files::write_private(&self.key(file), key.serialize_pem())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }
}

fn new_key(name: &'static str) -> Result<KeyPair, Error> {
    KeyPair::generate().map_err(|source| Error::Sign { name, source })
}

/// A fixed validity: these clusters live for hours, and a clock that jumps must not break them.
fn params(common_name: &str, organization: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 12, 31);
    params
}

fn leaves(plan: &Plan) -> Vec<Leaf> {
    let ip = plan.ip().to_string();
    let user = |file, common_name: &str, organization| Leaf {
        file,
        common_name: common_name.to_owned(),
        organization,
        names: Vec::new(),
    };
    let api_server_names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "127.0.0.1"]
        .map(str::to_owned)
        .into_iter()
        .chain(["kubernetes.default.svc.cluster.local".to_owned(), ip.clone(), plan.api_service_ip().to_string()])
        .collect();
    vec![
        Leaf { names: api_server_names, ..user(API_SERVER, "kube-apiserver", None) },
        // Signed by the client authority on purpose: it is what kubelets, real and virtual, check it against.
        user(API_SERVER_KUBELET_CLIENT, "kube-apiserver-kubelet-client", Some("system:masters")),
        user(ADMIN, "admin", Some("system:masters")),
        user(CONTROLLER_MANAGER, "system:kube-controller-manager", None),
        user(SCHEDULER, "system:kube-scheduler", None),
        user(KUBE_PROXY, "system:kube-proxy", None),
        Leaf {
            names: vec![plan.node(), ip],
            ..user(NODE, &format!("system:node:{}", plan.node()), Some("system:nodes"))
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_has_a_private_key_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::new(dir.path().join("pki"));
        pki.create(&Plan::new("east".parse().unwrap(), 1)).unwrap();
        for name in [CA, FRONT_PROXY_CA, FRONT_PROXY_CLIENT, API_SERVER, API_SERVER_KUBELET_CLIENT, ADMIN, NODE] {
            assert!(files::read_text(&pki.certificate(name)).unwrap().starts_with("-----BEGIN CERTIFICATE"), "{name}");
            assert!(files::read_text(&pki.key(name)).unwrap().starts_with("-----BEGIN PRIVATE KEY"), "{name}");
        }
        let public = files::read_text(&pki.service_account_public_key()).unwrap();
        assert!(public.starts_with("-----BEGIN PUBLIC KEY"));
    }
}
