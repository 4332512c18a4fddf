//! The clients of one target, whose credentials can be exchanged while they are in use.
//!
//! A token that is renewed every hour must not end an exec, nor make anybody list a thousand pods anew: the next request
//! simply goes out with the new one. What is under way goes on with the old.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use tower::Service;

use super::{Access, ClientsError};

/// The two clients of a target: for requests and watches, and for streams.
#[derive(Clone)]
pub struct Link {
    client: Client,
    streaming: Client,
    behind: Arc<[Exchange; 2]>,
}

/// A service that passes on to the client of the moment.
#[derive(Clone)]
pub(super) struct Exchange(Arc<ArcSwap<Client>>);

/// An [`Exchange`] that goes when nobody sends by it any more.
pub(super) struct WeakExchange(Weak<ArcSwap<Client>>);

impl WeakExchange {
    pub(super) fn upgrade(&self) -> Option<Exchange> {
        self.0.upgrade().map(Exchange)
    }
}

impl Exchange {
    pub(super) fn new(client: Client) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(client)))
    }

    /// The client that passes on.
    pub(super) fn client(&self, namespace: String) -> Client {
        Client::new(self.clone(), namespace)
    }

    pub(super) fn downgrade(&self) -> WeakExchange {
        WeakExchange(Arc::downgrade(&self.0))
    }

    /// From now on, requests go out by this one.
    pub(super) fn replace(&self, client: Client) {
        self.0.store(Arc::new(client));
    }
}

impl Link {
    /// Clients for this configuration, which change with [`Link::exchange`] alone. Nothing connects yet.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub async fn new(access: &Access) -> Result<Self, ClientsError> {
        let behind = pair(&access.fixed()).await?.map(Exchange::new);
        let front = |exchange: &Exchange| exchange.client(access.default_namespace.clone());
        Ok(Self { client: front(&behind[0]), streaming: front(&behind[1]), behind: Arc::new(behind) })
    }

    /// From now on, requests go out by this configuration.
    ///
    /// # Errors
    /// When it cannot be used; then nothing changes.
    pub async fn exchange(&self, access: &Access) -> Result<(), ClientsError> {
        let clients = pair(&access.fixed()).await?;
        self.behind.iter().zip(clients).for_each(|(exchange, client)| exchange.replace(client));
        Ok(())
    }

    /// For requests and watches.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// For streams.
    pub fn streaming(&self) -> Client {
        self.streaming.clone()
    }
}

/// For requests and watches, and for streams.
pub(super) async fn pair(access: &Access) -> Result<[Client; 2], ClientsError> {
    Ok([super::client(access).await?, super::streaming_client(access).await?])
}

impl Service<Request<Body>> for Exchange {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = Client::clone(&self.0.load());
        Box::pin(async move { client.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use kube::Config;

    use super::*;

    async fn version_by(link: &Link) -> String {
        crate::errors::chain(&link.client().apiserver_version().await.unwrap_err())
    }

    #[tokio::test]
    async fn requests_go_out_by_the_configuration_of_the_moment() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = |port: u16| Access::from(Config::new(format!("http://127.0.0.1:{port}").parse().unwrap()));
        // Servers that answer with what tells them apart.
        let mut ports = vec![];
        for status in [418, 451] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            ports.push(listener.local_addr().unwrap().port());
            tokio::spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                while let Ok((mut stream, _)) = listener.accept().await {
                    _ = stream.read(&mut [0; 4096]).await;
                    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
        let link = Link::new(&config(ports[0])).await.unwrap();
        assert!(version_by(&link).await.contains("418"));
        link.exchange(&config(ports[1])).await.unwrap();
        assert!(version_by(&link).await.contains("451"));
    }
}
