//! The address under which the host's API server finds the kubelet API.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use tokio::net::TcpStream;

/// Longer than a lost packet or two, shorter than a user's patience.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why the address is not known.
#[derive(Debug, thiserror::Error)]
pub enum NodeIpError {
    /// The host's API server is at no address.
    #[error("failed to find the address of the host's API server in {0}; give --node-ip")]
    FindServer(Uri),
    /// No connection, so no address at this end of it.
    #[error(
        "failed to find the address of this machine by connecting to {server}; check the host's API server, or give --node-ip"
    )]
    Connect {
        /// The host's API server.
        server: String,
        /// Why.
        source: io::Error,
    },
}

/// The address of this machine from which it reaches `server`: most likely the one at which it is reached from there.
pub async fn towards(server: &Uri) -> Result<IpAddr, NodeIpError> {
    let (host, port) = host_and_port(server).ok_or_else(|| NodeIpError::FindServer(server.clone()))?;
    let connect = async { TcpStream::connect((host.as_str(), port)).await?.local_addr() };
    let timed = tokio::time::timeout(DEADLINE, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let local = timed.map_err(|source| NodeIpError::Connect { server: format!("{host}:{port}"), source })?;
    Ok(local.ip().to_canonical())
}

fn host_and_port(server: &Uri) -> Option<(String, u16)> {
    let default = if server.scheme_str() == Some("http") { 80 } else { 443 };
    let host = server.host()?;
    // An IPv6 address stands in brackets in a URL, and nowhere else.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host.to_owned(), server.port_u16().unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_a_port() {
        let of = |url: &'static str| host_and_port(&Uri::from_static(url)).unwrap();
        assert_eq!(of("https://a.example"), ("a.example".to_owned(), 443));
        assert_eq!(of("http://a.example/path"), ("a.example".to_owned(), 80));
        assert_eq!(of("https://[::1]:6443"), ("::1".to_owned(), 6443));
    }

    #[tokio::test]
    async fn the_address_is_this_end_of_a_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Uri = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        assert_eq!(towards(&url).await.unwrap(), IpAddr::from([127, 0, 0, 1]));
        drop(listener);
        let error = crate::errors::chain(&towards(&url).await.unwrap_err());
        assert!(error.contains("give --node-ip: Connection refused"), "{error}");
    }
}
