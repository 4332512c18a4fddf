//! The address under which the host's API server finds the kubelet API.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::Uri;
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Longer than a lost packet or two, shorter than a user's patience.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often the address is looked at.
const LOOK: Duration = Duration::from_secs(5);

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

/// Finds the address again whenever this machine gets another one, until it is told to stop. Nothing is sent for that.
///
/// One that was seen only once does not count, nor does none: addresses come and go while a network is set up.
pub async fn follow(server: &Uri, known: watch::Sender<IpAddr>, stop: CancellationToken) {
    let Some((host, port)) = host_and_port(server) else { return };
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    // A name is looked up once, and again when there is no way to it any more.
    let mut way = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let seen = match local(&host, port, &mut way).await {
            Ok(seen) => Some(seen),
            Err(error) => {
                tracing::debug!(%error, "there is no way to the host's API server; the address stays");
                way = None;
                None
            }
        };
        if let Some(seen) = seen.filter(|seen| last == Some(*seen))
            && known.send_if_modified(|known| std::mem::replace(known, seen) != seen)
        {
            tracing::warn!(node_ip = %seen, "this machine has another address; the virtual nodes move to it");
        }
        last = seen;
    }
}

/// The address from which packets to the API server would be sent: a socket of UDP knows it without sending one.
async fn local(host: &str, port: u16, way: &mut Option<SocketAddr>) -> io::Result<IpAddr> {
    let server = match *way {
        Some(server) => server,
        None => lookup_host((host, port)).await?.next().ok_or(io::ErrorKind::NotFound)?,
    };
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    *way = Some(server);
    Ok(socket.local_addr()?.ip().to_canonical())
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
        let here = local("127.0.0.1", listener.local_addr().unwrap().port(), &mut None).await.unwrap();
        assert_eq!(here, IpAddr::from([127, 0, 0, 1]));
        drop(listener);
        let error = crate::errors::chain(&towards(&url).await.unwrap_err());
        assert!(error.contains("give --node-ip: Connection refused"), "{error}");
    }
}
