//! The server as a whole: real sockets and real TLS, a client certificate or a token, and a far end in memory.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::fakes::{FakeHost, Identity, Pki};
use super::*;
use crate::kubelet::provider::{
    ByteStream, ContainerUsage, ExecOptions, LogOptions, PodUsage, StreamError, Tunnel, Upgrade, Usage,
};

/// A far end that a test holds in its hands.
#[derive(Default)]
struct Far {
    refusal: Mutex<Option<StreamError>>,
    lines: Mutex<Option<ByteStream>>,
    tunnel: Mutex<Option<DuplexStream>>,
    calls: Mutex<Vec<String>>,
    upgrades: Mutex<Vec<Upgrade>>,
    usage: Mutex<Option<Usage>>,
}

impl Far {
    #[expect(clippy::result_large_err, reason = "the error of the trait")]
    fn open(&self, call: String, upgrade: Upgrade) -> Result<Tunnel, StreamError> {
        self.calls.lock().unwrap().push(call);
        self.upgrades.lock().unwrap().push(upgrade);
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        let version = ("x-stream-protocol-version".parse().unwrap(), HeaderValue::from_static("v4.channel.k8s.io"));
        let io = self.tunnel.lock().unwrap().take().expect("the test has a far end ready");
        Ok(Tunnel { headers: HeaderMap::from_iter([version]), io: Box::new(io) })
    }
}

#[async_trait]
impl StreamHandler for Far {
    async fn logs(&self, pod: &PodKey, container: &str, options: LogOptions) -> Result<ByteStream, StreamError> {
        self.calls.lock().unwrap().push(format!("logs {pod} {container} tail={:?}", options.tail_lines));
        Ok(self.lines.lock().unwrap().take().expect("the test has lines ready"))
    }

    async fn exec(&self, pod: &PodKey, name: &str, options: ExecOptions, up: Upgrade) -> Result<Tunnel, StreamError> {
        self.open(format!("exec {pod} {name} {:?}", options.command), up)
    }

    async fn port_forward(&self, pod: &PodKey, ports: Vec<u16>, upgrade: Upgrade) -> Result<Tunnel, StreamError> {
        self.open(format!("forward {pod} {ports:?}"), upgrade)
    }

    async fn usage(&self) -> Result<Usage, StreamError> {
        let usage = self.usage.lock().unwrap().clone().ok_or(StreamError::Unsupported("stats"))?;
        self.calls.lock().unwrap().push("usage".into());
        Ok(usage)
    }
}

struct Pods;

impl PodDirectory for Pods {
    fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let key = PodKey { namespace: namespace.into(), name: name.into(), uid: "uid-1".into() };
        matches!(name, "up" | "starting").then_some(Found { key, running: name == "up" })
    }

    fn running(&self) -> Vec<Running> {
        let key = PodKey { namespace: "ns".into(), name: "up".into(), uid: "uid-1".into() };
        let started = "2026-11-01T10:00:00Z";
        let containers = json!([{"name": "c", "state": {"running": {"startedAt": started}}}]);
        vec![Running { key, status: json!({"startTime": started, "containerStatuses": containers}) }]
    }
}

fn home(host: &FakeHost) -> Home {
    Home { node: "virtual-1".into(), host: host.client(), port: 10250 }
}

struct Fixture {
    far: Arc<Far>,
    host: FakeHost,
    pki: Pki,
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    certificate: CertificateDer<'static>,
}

impl Fixture {
    async fn start() -> Self {
        let (far, host, pki) = (Arc::new(Far::default()), FakeHost::default(), Pki::new());
        host.answer_accesses(StatusCode::CREATED, &json!({"allowed": true}));
        let trust = Arc::new(ClientTrust::from_pem(&pki.ca_pem()).unwrap());
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        let serving = Arc::new(ServingCertificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap());
        let server = Server::new(
            home(&host),
            far.clone(),
            Arc::new(Pods),
            Authenticator::new(host.client(), trust.clone()),
            Authorizer::new(host.client(), "virtual-1"),
            server_config(serving, trust).unwrap(),
        );
        let bound = server.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let (address, shutdown) = (bound.address(), CancellationToken::new());
        let task = tokio::spawn(bound.serve(shutdown.clone()));
        Self { far, host, pki, address, shutdown, task, certificate: own.cert.der().clone() }
    }

    async fn connect_as(&self, identity: Option<Identity>) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let builder = rustls::ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            Some(Identity { certificate, key }) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        self.connect_as(Some(self.pki.client("apiserver", "system:masters"))).await.unwrap()
    }

    /// Sends a request on a connection of its own and reads all of the answer.
    async fn ask(&self, request: &str) -> String {
        ask_on(self.connect().await, request).await
    }

    /// Asks for an upgrade and reads the head of the answer.
    async fn upgrade(&self, path: &str, more: &str) -> (TlsStream<TcpStream>, String) {
        let mut io = self.connect().await;
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: v4.channel.k8s.io\r\nAuthorization: Bearer of-home\r\n\r\n{more}"
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(io.read_u8().await.unwrap());
        }
        (io, String::from_utf8(answer).unwrap())
    }
}

async fn ask_on(mut io: TlsStream<TcpStream>, request: &str) -> String {
    let text = format!("{request} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n");
    io.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = io.read_to_string(&mut answer).await;
    answer
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

#[tokio::test]
async fn a_client_certificate_lets_in_and_the_node_is_named() {
    let fixture = Fixture::start().await;
    let answer = fixture.ask("GET /healthz").await;
    assert_eq!(status(&answer), "200");
    assert!(answer.ends_with("ok"), "{answer}");
    let spec = &fixture.host.last_question()["spec"];
    assert_eq!(spec["user"], "apiserver");
    assert_eq!(spec["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(spec["resourceAttributes"]["name"], "virtual-1");
    assert_eq!(spec["resourceAttributes"]["subresource"], "healthz");
}

#[tokio::test]
async fn nobody_and_strangers_stay_outside() {
    let fixture = Fixture::start().await;
    let anonymous = fixture.connect_as(None).await.unwrap();
    assert_eq!(status(&ask_on(anonymous, "GET /healthz").await), "401");
    assert_eq!(fixture.host.calls(), 0, "nothing is asked about nobody");

    let stranger = fixture.connect_as(Some(Pki::new().client("apiserver", "system:masters"))).await;
    let answer = match stranger {
        // In TLS 1.3 the client learns of it with its first read.
        Ok(mut io) => io.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").await.and(io.read_u8().await.map(drop)),
        Err(error) => Err(error),
    };
    assert!(answer.is_err());
    assert_eq!(status(&fixture.ask("GET /healthz").await), "200", "others are not disturbed");
}

#[tokio::test]
async fn the_host_forbids_or_is_silent() {
    let fixture = Fixture::start().await;
    fixture.host.answer_accesses(StatusCode::CREATED, &json!({"allowed": false}));
    let answer = fixture.ask("GET /exec/ns/up/c?command=ls&output=1").await;
    assert_eq!(status(&answer), "403");
    let message = "Forbidden (user=apiserver, verb=create, resource=nodes, subresource=proxy)";
    assert!(answer.contains(message), "{answer}");
    fixture.host.answer_accesses(StatusCode::INTERNAL_SERVER_ERROR, &json!({}));
    assert_eq!(status(&fixture.ask("GET /stats/summary").await), "503");
}

#[tokio::test]
async fn every_kind_of_wrong_request_has_its_status() {
    let fixture = Fixture::start().await;
    for (request, wanted) in [
        ("GET /nowhere", "404"),
        ("GET /containerLogs/ns/away/c", "404"),
        ("GET /containerLogs/ns/starting/c", "400"),
        ("GET /containerLogs/ns/up/c?tailLines=-1", "422"),
        ("GET /containerLogs/ns/up/c?stream=Stdout", "422"),
        ("GET /containerLogs/ns/U%2fp/c", "400"),
        ("POST /containerLogs/ns/up/c", "405"),
        ("DELETE /exec/ns/up/c", "405"),
        ("POST /exec/ns/up/c?output=1&command=ls", "400"),
        ("POST /exec/ns/up/c?output=1", "400"),
        ("GET /portForward/ns/up?port=0", "400"),
        ("GET /stats/summary", "501"),
        ("POST /run/ns/up/c", "400"),
        ("POST /run/ns/starting/c?cmd=ls", "400"),
        ("POST /run/ns/away/c?cmd=ls", "404"),
        ("GET /run/ns/up/c?cmd=ls", "405"),
        ("GET /metrics/resource", "501"),
        ("GET /metrics/slis", "501"),
        ("GET /metrics/cadvisor", "200"),
        ("GET /metrics/probes", "200"),
        ("POST /metrics/resource", "405"),
        ("POST /pods", "405"),
        ("GET /logs/syslog", "501"),
        ("GET /debug/pprof/heap", "501"),
        ("POST /checkpoint/ns/up/c", "501"),
    ] {
        let answer = fixture.ask(request).await;
        assert_eq!(status(&answer), wanted, "{request}: {answer}");
    }
    let waiting = fixture.ask("GET /containerLogs/ns/starting/c").await;
    assert!(waiting.contains(r#"container "c" in pod "starting" is waiting to start"#), "{waiting}");
    assert!(fixture.far.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_node_tells_of_itself() {
    let fixture = Fixture::start().await;
    let pods = fixture.ask("GET /pods").await;
    assert_eq!(status(&pods), "200");
    assert!(pods.contains("application/json") && pods.contains("spec.nodeName%3Dvirtual-1"), "{pods}");
    let running = fixture.ask("GET /runningpods/").await;
    assert!(running.contains(r#""kind":"PodList""#) && running.contains(r#""name":"up""#), "{running}");
    let metrics = fixture.ask("GET /metrics").await;
    assert!(metrics.contains("kubelet_running_pods 1\n") && metrics.contains("version=0.0.4"), "{metrics}");
    let configuration = fixture.ask("GET /configz").await;
    assert!(configuration.contains(r#""anonymous":{"enabled":false}"#), "{configuration}");

    *fixture.far.usage.lock().unwrap() = Some(Usage {
        pods: vec![PodUsage {
            uid: "uid-1".into(),
            at: "2026-11-01T10:00:20Z".parse().unwrap(),
            window: Duration::from_secs(10),
            containers: vec![ContainerUsage { name: "c".into(), nanocores: 100_000_000, memory: 77 }],
        }],
        gaps: vec![],
    });
    let resource = fixture.ask("GET /metrics/resource").await;
    let line = r#"container_memory_working_set_bytes{container="c",pod="up",namespace="ns"} 77"#;
    assert!(resource.contains(line) && resource.contains("resource_scrape_error 0"), "{resource}");
    let summary = fixture.ask("GET /stats/summary?only_cpu_and_memory=true").await;
    assert!(summary.contains(r#""nodeName":"virtual-1""#) && summary.contains(r#""workingSetBytes":77"#), "{summary}");
    assert_eq!(*fixture.far.calls.lock().unwrap(), ["usage"], "one measurement serves both");
}

#[tokio::test]
async fn who_may_read_metrics_may_do_nothing_else() {
    let fixture = Fixture::start().await;
    for (path, subresource) in [
        ("/metrics/resource", "metrics"),
        ("/metrics", "metrics"),
        ("/metrics/cadvisor", "metrics"),
        ("/stats/summary", "stats"),
        ("/pods", "pods"),
        ("/runningpods/", "pods"),
        ("/configz", "configz"),
        ("/logs/", "log"),
        ("/exec/ns/up/c?command=ls&output=1", "proxy"),
        ("/containerLogs/ns/up/c?tailLines=x", "proxy"),
        ("/debug/pprof/", "proxy"),
    ] {
        fixture.ask(&format!("GET {path}")).await;
        let question = fixture.host.last_access();
        assert_eq!(question["spec"]["resourceAttributes"]["subresource"], subresource, "{path}");
    }
}

#[tokio::test]
async fn logs_begin_before_their_first_line() {
    let fixture = Fixture::start().await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let lines = futures::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    *fixture.far.lines.lock().unwrap() = Some(lines.boxed());
    let mut io = fixture.connect().await;
    io.write_all(b"GET /containerLogs/ns/up/c?follow=true&tailLines=3 HTTP/1.1\r\nHost: n\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    let read = timeout(Duration::from_secs(5), io.read(&mut buffer)).await.expect("the head comes at once").unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200"));
    sender.send(Ok(Bytes::from_static(b"first\n"))).await.unwrap();
    let read = timeout(Duration::from_secs(5), io.read(&mut buffer)).await.expect("a line comes at once").unwrap();
    assert!(String::from_utf8_lossy(&buffer[..read]).contains("first"));
    assert_eq!(*fixture.far.calls.lock().unwrap(), ["logs ns/up c tail=Some(3)"]);
    drop(io);
    timeout(Duration::from_secs(5), sender.closed()).await.expect("nobody follows when nobody reads");
}

#[tokio::test]
async fn a_tunnel_loses_nothing() {
    let fixture = Fixture::start().await;
    let (far, mut remote) = tokio::io::duplex(1024);
    *fixture.far.tunnel.lock().unwrap() = Some(far);
    remote.write_all(b"early from afar").await.unwrap();
    let path = "/exec/ns/up/uid-1/c?command=echo&command=a+b&input=1&output=1";
    let (mut io, head) = fixture.upgrade(path, "early from home").await;
    assert_eq!(status(&head), "101");
    let head = head.to_ascii_lowercase();
    for header in ["connection: upgrade", "upgrade: spdy/3.1", "x-stream-protocol-version: v4.channel.k8s.io"] {
        assert!(head.contains(header), "{head}");
    }
    assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
    let mut early = [0; 15];
    remote.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early from home");
    io.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early from afar");
    // The client ends its direction; the answer, and much of it right before the close, still comes.
    io.shutdown().await.unwrap();
    assert_eq!(remote.read(&mut early).await.unwrap(), 0);
    tokio::spawn(async move { remote.write_all(&vec![b'x'; 1_000_000]).await });
    let mut rest = Vec::new();
    io.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest.len(), 1_000_000);

    assert_eq!(*fixture.far.calls.lock().unwrap(), [r#"exec ns/up c ["echo", "a b"]"#]);
    let upgrades = fixture.far.upgrades.lock().unwrap();
    assert!(!upgrades[0].headers.contains_key("authorization"));
    assert_eq!(upgrades[0].headers["upgrade"], "SPDY/3.1");
}

#[tokio::test]
async fn a_refused_upgrade_is_passed_on() {
    let fixture = Fixture::start().await;
    let answer = Response::builder().status(404).body(Bytes::from_static(b"container not found")).unwrap();
    *fixture.far.refusal.lock().unwrap() = Some(StreamError::Answered(answer));
    let (mut io, head) = fixture.upgrade("/portForward/ns/up?port=80", "").await;
    assert_eq!(status(&head), "404");
    let mut body = [0; 19];
    io.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"container not found");
    assert_eq!(*fixture.far.calls.lock().unwrap(), ["forward ns/up [80]"]);
    let (_, head) = fixture.upgrade("/attach/ns/up/c?output=1", "").await;
    assert_eq!(status(&head), "501", "what the provider lacks");
    let (_, head) = fixture.upgrade("/exec/ns/up/uid-2/c?output=1&command=ls", "").await;
    assert_eq!(status(&head), "404", "a namesake");
}

#[tokio::test]
async fn a_shutdown_ends_what_is_idle_at_once_and_tunnels_soon() {
    let fixture = Fixture::start().await;
    let (far, mut remote) = tokio::io::duplex(64);
    *fixture.far.tunnel.lock().unwrap() = Some(far);
    let mut idle = fixture.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\n\r\n").await.unwrap();
    assert_eq!(idle.read_u8().await.unwrap(), b'H');
    let (_open, head) = fixture.upgrade("/exec/ns/up/c?command=sh&input=1", "").await;
    assert_eq!(status(&head), "101");
    fixture.shutdown.cancel();
    let mut rest = Vec::new();
    let _ =
        timeout(Duration::from_secs(3), idle.read_to_end(&mut rest)).await.expect("an idle connection ends at once");
    assert!(TcpStream::connect(fixture.address).await.is_err(), "nothing is accepted any more");
    timeout(FAREWELL * 2, fixture.task).await.expect("open tunnels are given up").unwrap();
    assert_eq!(remote.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let fixture = Fixture::start().await;
    let trust = Arc::new(ClientTrust::from_pem(&fixture.pki.ca_pem()).unwrap());
    let serving = Arc::new(ServingCertificate::self_signed("n", &[]).unwrap());
    let server = Server::new(
        home(&fixture.host),
        fixture.far.clone(),
        Arc::new(Pods),
        Authenticator::new(fixture.host.client(), trust.clone()),
        Authorizer::new(fixture.host.client(), "n"),
        server_config(serving, trust).unwrap(),
    );
    let Err(error) = server.bind(fixture.address).await else { panic!("two servers on one port") };
    assert!(error.to_string().contains(&fixture.address.to_string()), "{error}");
}
