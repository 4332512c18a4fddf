use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::Config;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;
use crate::api::rights::{Features, host_rights};

const ADDRESS: &str = "https://east.example:6443";

/// A cluster that answers as `respond` says to a path and, if there is one, a JSON body.
fn cluster(respond: impl Fn(&str, Value) -> (u16, Value) + Clone + Send + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let respond = respond.clone();
        async move {
            let path = request.uri().path().to_owned();
            let bytes = request.into_body().collect().await?.to_bytes();
            let (code, answer) = respond(&path, serde_json::from_slice(&bytes).unwrap_or_default());
            let body = Body::from(answer.to_string().into_bytes());
            Ok::<_, kube::Error>(Response::builder().status(StatusCode::from_u16(code).unwrap()).body(body).unwrap())
        }
    });
    Client::new(service, "default")
}

/// A cluster that fails below HTTP.
fn broken(error: fn() -> io::Error) -> Client {
    Client::new(tower::service_fn(move |_: Request<Body>| async move { Err::<Response<Body>, _>(error()) }), "default")
}

fn version() -> (u16, Value) {
    let empty = ["buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "major", "minor", "platform"];
    let mut version: Value =
        empty.iter().map(|key| ((*key).to_owned(), json!(""))).collect::<serde_json::Map<_, _>>().into();
    version["gitVersion"] = json!("v1.35.1");
    (200, version)
}

fn failure(code: u16, message: &str) -> (u16, Value) {
    (code, json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message}))
}

async fn trouble(client: Client) -> String {
    diagnose(&client, ADDRESS, &host_rights(Features::default())).await.unwrap_err().to_string()
}

#[tokio::test]
async fn a_cluster_that_grants_all_can_be_used() {
    let client = cluster(|path, mut review| {
        if path == "/version" {
            return version();
        }
        review["status"] = json!({"allowed": true});
        (201, review)
    });
    assert_eq!(
        diagnose(&client, ADDRESS, &host_rights(Features::default())).await.unwrap(),
        Version("v1.35.1".to_owned())
    );
}

#[tokio::test]
async fn missing_rights_are_listed_in_order() {
    let client = cluster(|path, mut review| {
        if path == "/version" {
            return version();
        }
        assert_eq!(path, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
        let asked = &review["spec"]["resourceAttributes"];
        let denied = asked["verb"] == "create" && asked["subresource"].is_null() || asked["subresource"] == "status";
        review["status"] = json!({"allowed": !denied});
        (201, review)
    });
    assert_eq!(
        trouble(client).await,
        "failed to find all rights at https://east.example:6443; missing: patch pods/status, create nodes, patch \
         nodes/status, create leases.coordination.k8s.io in kube-node-lease, create events.events.k8s.io, create \
         tokenreviews.authentication.k8s.io, create subjectaccessreviews.authorization.k8s.io"
    );
}

#[tokio::test]
async fn refused_credentials_are_told_from_missing_ones() {
    let refused = trouble(cluster(|_, _| failure(401, "Unauthorized"))).await;
    assert_eq!(
        refused,
        format!("failed to log in at {ADDRESS}: the credentials were refused; renew those in the kubeconfig")
    );
    let anonymous = cluster(|path, _| match path {
        "/version" => version(),
        _ => failure(403, "selfsubjectaccessreviews is forbidden: User \"system:anonymous\" cannot create"),
    });
    let anonymous = trouble(anonymous).await;
    assert!(anonymous.ends_with("holds no credentials that it knows; add a user to the context"), "{anonymous}");
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_called_so() {
    let other = trouble(cluster(|_, _| (200, json!("hello")))).await;
    assert!(other.contains("not one of a Kubernetes API server"), "{other}");
    let ill = trouble(cluster(|_, _| failure(500, "etcd is gone"))).await;
    assert_eq!(ill, format!("failed to understand {ADDRESS}: 500 etcd is gone"));
}

#[tokio::test]
async fn connection_troubles_are_told_in_plain_words() {
    let cases: [(Client, &str); 6] = [
        (broken(|| ErrorKind::ConnectionRefused.into()), "connection refused"),
        (broken(|| ErrorKind::TimedOut.into()), "timed out"),
        (broken(|| certificate_error(CertificateError::UnknownIssuer)), "not trusted"),
        (broken(|| certificate_error(CertificateError::Expired)), "has expired"),
        (broken(|| certificate_error(CertificateError::NotValidForName)), "another name"),
        (broken(|| io::Error::other("the moon is full")), "the moon is full"),
    ];
    for (client, words) in cases {
        let text = trouble(client).await;
        assert!(text.starts_with("failed to reach https://east.example:6443: ") && text.contains(words), "{text}");
    }
}

fn certificate_error(error: CertificateError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, rustls::Error::InvalidCertificate(error))
}

#[tokio::test]
async fn a_refused_client_certificate_is_a_matter_of_credentials() {
    let alert = || io::Error::other(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateExpired));
    let text = trouble(broken(alert)).await;
    assert!(text.starts_with("failed to log in") && text.contains("CertificateExpired"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn silence_has_a_deadline() {
    let silent = tower::service_fn(|_: Request<Body>| std::future::pending::<Result<Response<Body>, io::Error>>());
    let text = trouble(Client::new(silent, "default")).await;
    assert!(text.contains("no answer within 10 s"), "{text}");
}

#[tokio::test]
async fn a_closed_port_is_refused_by_a_real_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let text = diagnose_config(&Config::new(url.parse().unwrap()).into(), &[]).await.unwrap_err().to_string();
    assert_eq!(text, format!("failed to reach {url}: connection refused: nothing listens there"));
}

#[tokio::test]
async fn an_unknown_name_is_told_from_a_closed_port() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config::new("https://nowhere.invalid".parse().unwrap());
    let text = diagnose_config(&config.into(), &[]).await.unwrap_err().to_string();
    assert!(text.contains("cannot be resolved"), "{text}");
}

/// A TLS server with a certificate that signs itself, for `name`; and that certificate.
async fn tls_server(name: &str) -> (std::net::SocketAddr, Vec<u8>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let certificate = certified.cert.der().clone();
    let server = rustls::ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    (address, certificate.to_vec())
}

#[tokio::test]
async fn certificates_are_judged_by_a_real_handshake() {
    let reason = async |address: std::net::SocketAddr, trusted: Vec<u8>| {
        let mut config = Config::new(format!("https://{address}").parse().unwrap());
        config.root_cert = Some(vec![trusted]);
        diagnose_config(&config.into(), &[]).await.unwrap_err().to_string()
    };
    let (local, own) = tls_server("127.0.0.1").await;
    let (named, other) = tls_server("east.example").await;
    let stranger = reason(local, other.clone()).await;
    assert!(stranger.contains("not trusted"), "{stranger}");
    let misnamed = reason(named, other).await;
    assert!(misnamed.contains("for another name"), "{misnamed}");
    let plain = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = plain.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = plain.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let plain = reason(address, own).await;
    assert!(plain.contains("does not speak TLS"), "{plain}");
}
