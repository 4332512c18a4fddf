//! Callers that are not kubectl.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use http::{Request, header::HeaderValue};
use kube::{
    Client, Config,
    client::{Body, ConfigExt},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::{PATIENCE, cluster::Cluster, runtime::block_on};

/// Asks a kubelet directly, whose certificate nobody vouches for; answers the HTTP status.
pub fn kubelet_status(url: &str, path: &str, token: Option<&str>) -> Result<u16> {
    let mut config = Config::new(url.parse()?);
    config.accept_invalid_certs = true;
    config.auth_info.token = token.map(|token| token.to_owned().into());
    block_on(async {
        let client = Client::try_from(config)?;
        let answer = client.send(Request::get(path).body(Body::empty())?).await?;
        Ok(answer.status().as_u16())
    })
}

/// The certificate that a TLS server shows, DER; nobody verifies it.
pub fn shown_certificate(host: &str, port: u16) -> Result<Vec<u8>> {
    let tls = ClientConfig::builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let connector = TlsConnector::from(Arc::new(tls.with_no_client_auth()));
    let name = ServerName::try_from(host.to_owned())?;
    block_on(async {
        let stream = connector.connect(name, TcpStream::connect((host, port)).await?).await?;
        let chain = stream.get_ref().1.peer_certificates().context("no certificate")?;
        Ok(chain.first().context("an empty chain")?.to_vec())
    })
}

/// Trusts everybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A client of the WebSocket protocols of old, which the host's API server passes on to the kubelet untranslated.
pub struct LegacySocket {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

impl LegacySocket {
    /// Opens a path of the API server with a subprotocol such as `v4.channel.k8s.io`.
    pub fn open(cluster: &Cluster, path: &str, protocol: &str) -> Result<Self> {
        let config = cluster.config();
        let (host, port) =
            (config.cluster_url.host().context("no host")?, config.cluster_url.port_u16().unwrap_or(443));
        let mut request = format!("wss://{host}:{port}{path}").into_client_request()?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_str(protocol)?);
        let name = ServerName::try_from(host.to_owned())?;
        block_on(async {
            let connector = TlsConnector::from(Arc::new(config.rustls_client_config()?));
            let stream = connector.connect(name, TcpStream::connect((host, port)).await?).await?;
            let (socket, answer) = client_async(request, stream).await?;
            let chosen = answer.headers().get("Sec-WebSocket-Protocol");
            if chosen.is_none_or(|chosen| chosen != protocol) {
                bail!("asked for {protocol}, the answer chose {chosen:?}");
            }
            Ok(Self { socket })
        })
    }

    /// Reads to the end; answers what came on each of the first four channels.
    pub fn read_to_end(mut self) -> Result<[Vec<u8>; 4]> {
        let mut channels: [Vec<u8>; 4] = Default::default();
        let reading = async {
            while let Some(message) = self.socket.next().await {
                let bytes = match message? {
                    Message::Binary(bytes) => bytes.to_vec(),
                    Message::Text(text) => text.as_bytes().to_vec(),
                    Message::Close(_) => break,
                    _ => continue,
                };
                let Some((channel, data)) = bytes.split_first() else { continue };
                let known = channels.get_mut(usize::from(*channel)).context("a channel that nobody asked for")?;
                known.extend_from_slice(data);
            }
            Ok(channels)
        };
        // A timer can be made only inside the runtime.
        block_on(async { timeout(PATIENCE, reading).await }).context("the WebSocket did not end")?
    }
}
