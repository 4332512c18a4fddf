use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use http_body_util::{Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use kube::client::ClientBuilder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

type Head = (Method, String, HeaderMap);

/// A target that answers 101 with `hello` and then echoes, or this status and body.
async fn target(refusal: Option<(u16, &'static str)>) -> (Streams, Arc<Mutex<Vec<Head>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            let service = service_fn(move |request| {
                let answer = answer(request, refusal, &seen);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    let mut config = kube::Config::new(url);
    config.default_retry = false;
    (Streams::new(ClientBuilder::try_from(config).unwrap().build()), heads)
}

fn answer(
    mut request: Request<Incoming>,
    refusal: Option<(u16, &'static str)>,
    seen: &Mutex<Vec<Head>>,
) -> Response<BoxBody<Bytes, Infallible>> {
    let uri = request.uri().to_string();
    seen.lock().unwrap().push((request.method().clone(), uri.clone(), request.headers().clone()));
    let respond = |status: u16, body: &'static str| {
        Response::builder().status(status).body(Full::new(Bytes::from_static(body.as_bytes())).boxed()).unwrap()
    };
    if let Some((status, body)) = refusal {
        return respond(status, body);
    }
    if uri.contains("/log?") {
        return respond(200, "a line\n");
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut io = TokioIo::new(upgrade.await.unwrap());
        io.write_all(b"hello").await.unwrap();
        let mut word = [0; 4];
        io.read_exact(&mut word).await.unwrap();
        io.write_all(&word).await.unwrap();
        io.shutdown().await.unwrap();
    });
    let mut response = respond(101, "");
    let headers = response.headers_mut();
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ("audit-id", "secret"),
        ("set-cookie", "secret"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn upgrade(method: Method) -> Upgrade {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("connection", "keep-alive, Upgrade, Authorization"),
        ("upgrade", "SPDY/3.1"),
        ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ("x-stream-protocol-version", "v3.channel.k8s.io"),
        ("user-agent", "kubectl"),
        ("authorization", "Bearer of-home"),
        ("cookie", "of-home"),
        ("x-remote-user", "of-home"),
        ("impersonate-user", "of-home"),
        ("x-forwarded-for", "10.0.0.1"),
        ("host", "node:10250"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    Upgrade { method, headers }
}

#[tokio::test]
async fn an_upgrade_is_repeated_at_the_target() {
    let (streams, heads) = target(None).await;
    let options = ExecOptions { command: vec!["ls".into(), "-l".into()], stdout: true, ..ExecOptions::default() };
    let mut tunnel = streams.exec("ns", "p", "c", &options, upgrade(Method::POST)).await.unwrap();
    tunnel.io.write_all(b"ping").await.unwrap();
    let mut all = String::new();
    tunnel.io.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "helloping", "what the far end says first is not lost");

    assert_eq!(tunnel.headers.len(), 3, "{:?}", tunnel.headers);
    assert_eq!(tunnel.headers["x-stream-protocol-version"], "v4.channel.k8s.io");
    let (method, uri, headers) = heads.lock().unwrap().pop().unwrap();
    assert_eq!(method, Method::POST);
    assert_eq!(
        uri,
        "/api/v1/namespaces/ns/pods/p/exec?command=ls&command=-l&container=c&stdin=false&stdout=true&stderr=false&tty=false"
    );
    let versions: Vec<_> = headers.get_all("x-stream-protocol-version").iter().collect();
    assert_eq!(versions, ["v4.channel.k8s.io", "v3.channel.k8s.io"]);
    assert_eq!(headers["connection"], "Upgrade");
    assert_eq!(headers["user-agent"], "kubectl");
    for name in ["authorization", "cookie", "x-remote-user", "impersonate-user", "x-forwarded-for"] {
        assert!(!headers.contains_key(name), "{name} left home");
    }
    assert_ne!(headers["host"], "node:10250");
}

#[tokio::test]
async fn attach_and_port_forward_have_their_subresources() {
    let (streams, heads) = target(None).await;
    let options = ExecOptions { stdin: true, tty: true, ..ExecOptions::default() };
    drop(streams.attach("ns", "p", "c", &options, upgrade(Method::GET)).await.unwrap());
    drop(streams.port_forward("ns", "p", &[80], upgrade(Method::GET)).await.unwrap());
    let heads = heads.lock().unwrap();
    assert_eq!(heads[0].0, Method::GET);
    assert!(heads[0].1.starts_with("/api/v1/namespaces/ns/pods/p/attach?container=c&stdin=true"), "{}", heads[0].1);
    assert_eq!(heads[1].1, "/api/v1/namespaces/ns/pods/p/portforward?ports=80");
}

#[tokio::test]
async fn logs_are_streamed() {
    let (streams, heads) = target(None).await;
    let options = LogOptions { tail_lines: Some(5), ..LogOptions::default() };
    let lines: Vec<_> = streams.logs("ns", "p", "c", &options).await.unwrap().collect().await;
    assert_eq!(lines.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat(), b"a line\n");
    assert_eq!(heads.lock().unwrap()[0].1, "/api/v1/namespaces/ns/pods/p/log?container=c&tailLines=5");
}

async fn refusal(status: u16, body: &'static str) -> (StatusCode, String) {
    let (streams, heads) = target(Some((status, body))).await;
    let Err(StreamError::Answered(logs)) = streams.logs("ns", "p", "c", &LogOptions::default()).await else {
        panic!("the refusal of logs was not passed on")
    };
    let Err(StreamError::Answered(forward)) = streams.port_forward("ns", "p", &[], upgrade(Method::POST)).await else {
        panic!("the refusal of an upgrade was not passed on")
    };
    assert_eq!(forward.body(), logs.body());
    assert_eq!(heads.lock().unwrap().len(), 2, "nothing is tried twice");
    (logs.status(), String::from_utf8(logs.into_body().to_vec()).unwrap())
}

#[tokio::test]
async fn a_refusal_is_passed_on_as_text() {
    let status = r#"{"kind":"Status","message":"container \"c\" in pod \"p\" is waiting to start","code":400}"#;
    let told = (StatusCode::BAD_REQUEST, r#"container "c" in pod "p" is waiting to start"#.to_owned());
    assert_eq!(refusal(400, status).await, told);
    let told = (StatusCode::SERVICE_UNAVAILABLE, "overloaded".to_owned());
    assert_eq!(refusal(503, "overloaded").await, told);
}

#[tokio::test]
async fn the_users_of_home_need_not_log_in_to_the_target() {
    let (status, message) = refusal(401, r#"{"message":"Unauthorized"}"#).await;
    assert_eq!(
        (status, message.as_str()),
        (StatusCode::BAD_GATEWAY, "the target does not accept Longshore's credentials")
    );
}

#[tokio::test]
async fn a_target_that_is_away_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let streams = Streams::new(Client::try_from(kube::Config::new(url)).unwrap());
    let opened = streams.port_forward("ns", "p", &[], upgrade(Method::POST)).await;
    assert!(matches!(opened, Err(StreamError::NoAnswer(_))));
}
