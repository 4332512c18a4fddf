//! The few questions that this tool asks an API server, over a connection of its own.
//!
//! kubectl would do, but each call costs a third of a second of processor time, and clusters come up while we ask.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use serde_json::Value;

use crate::{pki, pki::Pki, plan::Plan};

const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The admin's certificate could not be used.
    #[error("cannot use the certificates in {dir}: take the cluster down and up again")]
    Credentials {
        /// Where they are.
        dir: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No connection, or it broke.
    #[error("cannot reach the API server")]
    Reach(#[from] io::Error),
    /// An answer that is no success.
    #[error("the API server answers {status} to {path}")]
    Status {
        /// What was asked for.
        path: String,
        /// The HTTP status code.
        status: u16,
    },
    /// Something else than HTTP and JSON.
    #[error("the API server's answer to {path} makes no sense")]
    Answer {
        /// What was asked for.
        path: String,
    },
}

/// Asks one cluster's API server as its admin.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Api {
    pub(crate) fn new(plan: &Plan, pki: &Pki) -> Result<Self, Error> {
        let config =
            credentials(pki).map_err(|source| Error::Credentials { dir: pki.path().display().to_string(), source })?;
        Ok(Self { address: (plan.ip(), 6443).into(), config: Arc::new(config) })
    }

    /// Whether the API server says that it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok()
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.get(path).is_ok()
    }

    /// Fetches a JSON object.
    pub(crate) fn json(&self, path: &str) -> Result<Value, Error> {
        serde_json::from_slice(&self.get(path)?).map_err(|_| Error::Answer { path: path.to_owned() })
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_PATIENCE)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connection = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        // HTTP/1.0, so that the body is neither chunked nor compressed and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\n\r\n", self.address)?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error.into()),
            _ => {}
        }
        match parse(&answer) {
            Some((200, body)) => Ok(body.to_vec()),
            Some((status, _)) => Err(Error::Status { path: path.to_owned(), status }),
            None => Err(Error::Answer { path: path.to_owned() }),
        }
    }
}

fn credentials(pki: &Pki) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.certificate(pki::CA))?)?;
    let certificate = CertificateDer::from_pem_file(pki.certificate(pki::ADMIN))?;
    let key = PrivateKeyDer::from_pem_file(pki.key(pki::ADMIN))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)?)
}

/// Status code and body of an HTTP answer.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + 4..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_apart() {
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nok"), Some((200, &b"ok"[..])));
        assert_eq!(parse(b"HTTP/1.0 403 Forbidden\r\n\r\n"), Some((403, &b""[..])));
        assert_eq!(parse(b"SSH-2.0\r\n\r\n"), None);
    }
}
