//! The flags that say which certificates the kubelet API shows.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::api::rights::{Right, serving_rights};
use crate::kubelet::certificate::CertificateSource;

/// Which certificates the kubelet API shows.
#[derive(Args, Clone, Debug, Default)]
pub struct ServingArgs {
    /// Where the serving certificates of the kubelet API come from [default: self-signed, or the files where they are given]
    #[arg(long, value_name = "MODE", value_enum)]
    serving_certificate: Option<Mode>,
    /// With --serving-certificate=host: approve the certificate requests of our own nodes, instead of waiting for an admin.
    /// It takes the right to approve for the signer kubernetes.io/kubelet-serving
    #[arg(long)]
    approve_serving_certificates: bool,
    /// The serving certificate with its chain, PEM; it is read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The key of --tls-cert-file, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
}

/// Where serving certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Each node signs its own: for API servers that do not verify kubelets, which is the default
    SelfSigned,
    /// The host signs them (signer kubernetes.io/kubelet-serving), once somebody has approved
    Host,
    /// Those of --tls-cert-file and --tls-private-key-file
    Files,
}

/// How the flags contradict each other.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// There are files that nobody would read.
    #[error("failed to use --tls-cert-file: it is for --serving-certificate=files; give one of them")]
    UnusedFiles,
    /// There are no files.
    #[error("failed to find the files of --serving-certificate=files; give --tls-cert-file and --tls-private-key-file")]
    NoFiles,
    /// There is nothing to approve.
    #[error("failed to use --approve-serving-certificates: only --serving-certificate=host asks for approval")]
    NothingToApprove,
}

impl ServingArgs {
    /// What they mean together.
    pub(super) fn source(&self) -> Result<CertificateSource, ServingError> {
        let files = self.tls_cert_file.clone().zip(self.tls_private_key_file.clone());
        let mode = self.serving_certificate.unwrap_or(if files.is_some() { Mode::Files } else { Mode::SelfSigned });
        if self.approve_serving_certificates && mode != Mode::Host {
            return Err(ServingError::NothingToApprove);
        }
        match (mode, files) {
            (Mode::SelfSigned, None) => Ok(CertificateSource::SelfSigned),
            (Mode::Host, None) => Ok(CertificateSource::Host { approve: self.approve_serving_certificates }),
            (Mode::Files, Some((certificate, key))) => Ok(CertificateSource::Files { certificate, key }),
            (Mode::Files, None) => Err(ServingError::NoFiles),
            (Mode::SelfSigned | Mode::Host, Some(_)) => Err(ServingError::UnusedFiles),
        }
    }

    /// What is needed in the host for it.
    pub(super) fn rights(&self) -> Result<Vec<Right>, ServingError> {
        Ok(match self.source()? {
            CertificateSource::Host { approve } => serving_rights(approve),
            CertificateSource::SelfSigned | CertificateSource::Files { .. } => vec![],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(mode: Option<Mode>, approve: bool, files: bool) -> ServingArgs {
        let file = |name: &str| files.then(|| name.into());
        ServingArgs {
            serving_certificate: mode,
            approve_serving_certificates: approve,
            tls_cert_file: file("tls.crt"),
            tls_private_key_file: file("tls.key"),
        }
    }

    #[test]
    fn files_that_are_given_are_used() {
        let files = CertificateSource::Files { certificate: "tls.crt".into(), key: "tls.key".into() };
        assert_eq!(args(None, false, true).source().unwrap(), files);
        assert_eq!(args(Some(Mode::Files), false, true).source().unwrap(), files);
        assert_eq!(args(None, false, false).source().unwrap(), CertificateSource::SelfSigned);
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        assert!(matches!(args(Some(Mode::Host), false, true).source(), Err(ServingError::UnusedFiles)));
        assert!(matches!(args(Some(Mode::Files), false, false).source(), Err(ServingError::NoFiles)));
        assert!(matches!(args(None, true, false).source(), Err(ServingError::NothingToApprove)));
    }

    #[test]
    fn the_right_to_approve_is_asked_for_only_where_it_is_used() {
        let rights = |approve| {
            let rights = args(Some(Mode::Host), approve, false).rights().unwrap();
            rights.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let approve = "approve signers.certificates.k8s.io kubernetes.io/kubelet-serving".to_owned();
        assert!(!rights(false).contains(&approve));
        assert!(rights(true).contains(&approve), "{:?}", rights(true));
        assert!(args(None, false, false).rights().unwrap().is_empty());
    }
}
