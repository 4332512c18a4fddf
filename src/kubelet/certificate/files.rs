//! A certificate that somebody else keeps, in two files.
//!
//! They are read, not watched: a mounted Secret changes by a link that is replaced two folders above, and both are small.

use std::io;
use std::path::{Path, PathBuf};

use crate::kubelet::server::{ServingCertificate, TlsError};

/// Why the files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One cannot be read.
    #[error("failed to read {path}, of --tls-cert-file or --tls-private-key-file")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// They are no pair.
    #[error("failed to use the certificate of --tls-cert-file with the key of --tls-private-key-file")]
    Use(#[from] TlsError),
}

/// Two files, as they were read.
#[derive(Clone)]
pub(super) struct Files {
    paths: [PathBuf; 2],
    contents: [Vec<u8>; 2],
}

impl Files {
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, FilesError> {
        let read =
            |path: &Path| std::fs::read(path).map_err(|source| FilesError::Read { path: path.to_owned(), source });
        Ok(Self { contents: [read(certificate)?, read(key)?], paths: [certificate.to_owned(), key.to_owned()] })
    }

    /// As they are now; `None` if that is the same. A change is remembered even if it cannot be used, so that it is told once.
    pub(super) async fn read_again(&mut self) -> Result<Option<Self>, FilesError> {
        let read = async |path: &Path| {
            tokio::fs::read(path).await.map_err(|source| FilesError::Read { path: path.to_owned(), source })
        };
        let [certificate, key] = &self.paths;
        let contents = [read(certificate).await?, read(key).await?];
        if contents == self.contents {
            return Ok(None);
        }
        self.contents = contents;
        Ok(Some(self.clone()))
    }

    pub(super) fn certificate(&self) -> Result<ServingCertificate, FilesError> {
        let [certificate, key] = &self.contents;
        Ok(ServingCertificate::from_pem(certificate, key)?)
    }

    /// Shows them from now on.
    pub(super) fn show(&self, serving: &ServingCertificate) -> Result<(), TlsError> {
        let [certificate, key] = &self.contents;
        serving.replace(certificate, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_used_again_when_both_have_changed() {
        let dir = tempfile::tempdir().unwrap();
        let [certificate, key] = ["tls.crt", "tls.key"].map(|name| dir.path().join(name));
        let pair = || {
            let made = rcgen::generate_simple_self_signed(["n".to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let (old, new) = (pair(), pair());
        std::fs::write(&certificate, &old.0).unwrap();
        assert!(matches!(Files::read(&certificate, &key), Err(FilesError::Read { path, .. }) if path == key));
        std::fs::write(&key, &old.1).unwrap();
        let mut files = Files::read(&certificate, &key).unwrap();
        let serving = files.certificate().unwrap();
        assert!(files.read_again().await.unwrap().is_none());
        std::fs::write(&certificate, &new.0).unwrap();
        let half = files.read_again().await.unwrap().expect("half of a change");
        assert!(half.show(&serving).is_err(), "the old one stays");
        assert!(files.read_again().await.unwrap().is_none(), "it is told once");
        std::fs::write(&key, &new.1).unwrap();
        files.read_again().await.unwrap().expect("the rest of it").show(&serving).unwrap();
    }
}
