//! Whether a cluster can be used, and in plain words why not.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::time::Duration;

use kube::Client;
use rustls::CertificateError;

use super::clients::{self, Access, ClientsError};
use super::rights::{self, Right};

/// A cluster that has not answered by now will not be waited for; the user is.
const DEADLINE: Duration = Duration::from_secs(10);

/// The version of a cluster that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(pub String);

/// Why a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// It does not answer, or somebody else does.
    #[error("failed to reach {address}: {reason}")]
    Unreachable {
        /// The API server.
        address: String,
        /// Why, in plain words.
        reason: String,
    },
    /// It does not accept who we are.
    #[error("failed to log in at {address}: {reason}")]
    Unauthorized {
        /// The API server.
        address: String,
        /// Why, in plain words.
        reason: String,
    },
    /// It accepts who we are, and does not let us work.
    #[error("failed to find all rights at {address}; missing: {}", list(missing))]
    Forbidden {
        /// The API server.
        address: String,
        /// What is not granted.
        missing: Vec<Right>,
    },
    /// It answers as no healthy Kubernetes API server does.
    #[error("failed to understand {address}: {reason}")]
    Unexpected {
        /// The API server.
        address: String,
        /// What it said.
        reason: String,
    },
}

fn list(rights: &[Right]) -> String {
    rights.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether the cluster of `config` can be used with `needed` rights.
pub async fn diagnose_config(access: &Access, needed: &[Right]) -> Result<Version, Trouble> {
    let address = clients::address(access);
    let work = async {
        let client = clients::client(access).await.map_err(|error| {
            let reason = match error {
                ClientsError::Build { reason, .. } => reason,
                other => crate::errors::chain(&other),
            };
            Trouble::Unauthorized { address: address.clone(), reason }
        })?;
        examine(&client, &address, needed).await
    };
    within_deadline(&address, work).await
}

/// Whether the cluster of `client`, which is at `address`, can be used with `needed` rights.
pub async fn diagnose(client: &Client, address: &str, needed: &[Right]) -> Result<Version, Trouble> {
    within_deadline(address, examine(client, address, needed)).await
}

async fn within_deadline(
    address: &str,
    work: impl Future<Output = Result<Version, Trouble>>,
) -> Result<Version, Trouble> {
    tokio::time::timeout(DEADLINE, work).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s; check the address and the network", DEADLINE.as_secs());
        Err(Trouble::Unreachable { address: address.to_owned(), reason })
    })
}

async fn examine(client: &Client, address: &str, needed: &[Right]) -> Result<Version, Trouble> {
    let version = client.apiserver_version().await.map_err(|error| classify(address, &error))?;
    let missing = rights::missing(client, needed).await.map_err(|error| classify(address, &error))?;
    if missing.is_empty() {
        Ok(Version(version.git_version))
    } else {
        Err(Trouble::Forbidden { address: address.to_owned(), missing })
    }
}

/// What an error of a request says about the cluster.
pub fn classify(address: &str, error: &kube::Error) -> Trouble {
    let address = address.to_owned();
    match error {
        kube::Error::Api(status) if status.code == 401 => {
            let reason = "the credentials were refused; renew those in the kubeconfig".to_owned();
            Trouble::Unauthorized { address, reason }
        }
        // Anybody who is somebody may ask what they are allowed to.
        kube::Error::Api(status) if status.code == 403 && status.message.contains("system:anonymous") => {
            let reason = "the kubeconfig holds no credentials that it knows; add a user to the context".to_owned();
            Trouble::Unauthorized { address, reason }
        }
        kube::Error::Api(status) => {
            Trouble::Unexpected { address, reason: format!("{} {}", status.code, status.message) }
        }
        kube::Error::SerdeError(_) => {
            let reason = "its answer is not one of a Kubernetes API server; check the address".to_owned();
            Trouble::Unexpected { address, reason }
        }
        kube::Error::Auth(error) => Trouble::Unauthorized { address, reason: clients::auth_reason(error) },
        error => from_connection(address, error),
    }
}

fn from_connection(address: String, error: &kube::Error) -> Trouble {
    let mut innermost = String::new();
    for cause in causes(error) {
        if let Some(error) = cause.downcast_ref::<kube::client::AuthError>() {
            return Trouble::Unauthorized { address, reason: clients::auth_reason(error) };
        }
        if let Some(rustls::Error::AlertReceived(alert)) = cause.downcast_ref() {
            let reason = format!("the client certificate was refused ({alert:?}); renew the one in the kubeconfig");
            return Trouble::Unauthorized { address, reason };
        }
        if let Some(words) = in_words(cause) {
            return Trouble::Unreachable { address, reason: words.to_owned() };
        }
        innermost = cause.to_string();
    }
    Trouble::Unreachable { address, reason: innermost }
}

fn in_words(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return tls_in_words(error);
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return match error.kind() {
            ErrorKind::ConnectionRefused => Some("connection refused: nothing listens there"),
            ErrorKind::TimedOut => Some("timed out; check the address and the network"),
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Some("there is no route to it"),
            ErrorKind::ConnectionReset => Some("the connection was reset; something between may block it"),
            _ => None,
        };
    }
    // The resolver's error type is private to the HTTP client.
    cause.to_string().starts_with("dns error").then_some("its name cannot be resolved; check the address and the DNS")
}

fn tls_in_words(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidCertificate(error) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Some("its TLS certificate is not trusted: the kubeconfig's certificate authority did not sign it")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Some("its TLS certificate has expired; renew it, and check the clocks")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Some("its TLS certificate is not valid yet; check the clocks")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Some("its TLS certificate is for another name; set tls-server-name in the kubeconfig")
            }
            _ => None,
        },
        rustls::Error::InvalidMessage(_) => Some("it does not speak TLS; check the address"),
        _ => None,
    }
}

/// The error and all below it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| cause_of(*error))
}

/// What is below an error; an I/O error's own `source` passes over the error that it wraps.
fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests;
