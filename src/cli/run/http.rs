//! The state of this process over plain HTTP, for whoever keeps it running: nothing of it is secret, and nobody is asked who
//! they are. Ready means that the host was reached and all rights were found, so that this replica can keep nodes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::RunError;
use crate::metrics::{self, Metrics};

/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);

/// How long accepting rests after a failure (usually: no file descriptors left).
const REST: Duration = Duration::from_millis(200);

/// How many connections are served at once: some probes and scrapers.
const CONNECTIONS: usize = 64;

/// Tells that the process has got ready.
#[derive(Clone, Default)]
pub(super) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// It is from now on.
    pub(super) fn now(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Serves until it is told to stop, if there is an address.
pub(super) async fn serve(
    address: Option<SocketAddr>,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> Result<Readiness, RunError> {
    let ready = Readiness::default();
    let Some(address) = address else { return Ok(ready) };
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::BindHttp { address, source })?;
    let (answers, metrics, shutdown) = (ready.clone(), metrics.clone(), shutdown.clone());
    tokio::spawn(async move {
        // Until the process has ended: that it stops is no reason to be killed.
        accept(listener, answers, metrics, shutdown).await;
    });
    Ok(ready)
}

async fn accept(listener: TcpListener, ready: Readiness, metrics: Metrics, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let (ready, metrics, shutdown) = (ready.clone(), metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let is_ready = ready.0.load(Ordering::SeqCst) && !shutdown.is_cancelled();
                std::future::ready(Ok::<_, Infallible>(answer(request.uri().path(), is_ready, &metrics)))
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service);
            // A caller that breaks off is its own business.
            _ = connection.await;
            drop(place);
        });
    }
}

fn answer(path: &str, is_ready: bool, metrics: &Metrics) -> Response<String> {
    let mut kind = "text/plain; charset=utf-8";
    let (status, body) = match path {
        "/livez" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if is_ready => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "not ready: see the log\n".to_owned()),
        "/metrics" => {
            kind = metrics::CONTENT_TYPE;
            (StatusCode::OK, metrics.page())
        }
        _ => (StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[test]
    fn ready_is_told_apart_from_alive() {
        let metrics = Metrics::default();
        let answer = |path, is_ready| answer(path, is_ready, &metrics);
        assert_eq!(answer("/livez", false).status(), StatusCode::OK);
        assert_eq!(answer("/readyz", false).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer("/readyz", true).status(), StatusCode::OK);
        assert_eq!(answer("/", true).status(), StatusCode::NOT_FOUND);
        let page = answer("/metrics", false);
        assert!(page.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
        assert!(page.body().contains("longshore_build_info"));
    }

    #[tokio::test]
    async fn it_answers_over_the_wire_and_is_unready_once_it_stops() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let stop = CancellationToken::new();
        let ready = serve(Some(port), &Metrics::default(), &stop).await.unwrap();
        let ask = async || {
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text[9..12].to_owned()
        };
        assert_eq!(ask().await, "503");
        ready.now();
        assert_eq!(ask().await, "200");
        stop.cancel();
        assert_eq!(ask().await, "503");
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_said() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = serve(Some(address), &Metrics::default(), &CancellationToken::new()).await.err().unwrap();
        assert!(error.to_string().contains("--http-port"), "{error}");
    }
}
