use super::*;
use crate::errors::chain;

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: 'https://user:hunter2@one.example:6443'}}
- {name: lost, cluster: {server: 'https://two.example', certificate-authority: missing.pem}}
users:
- {name: me, user: {token: hunter2}}
- name: plugin
  user:
    exec: {apiVersion: client.authentication.k8s.io/v1, command: sh, args: [-c, 'echo hunter2; exit 3']}
contexts:
- {name: one, context: {cluster: one, user: me}}
- {name: lost, context: {cluster: lost, user: me}}
- {name: dangling, context: {cluster: gone, user: me}}
- {name: plugin, context: {cluster: one, user: plugin}}
";

struct File(tempfile::TempDir, PathBuf);

fn file(text: &str) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("east.yaml");
    std::fs::write(&path, text).unwrap();
    File(folder, path)
}

/// The error for `context` of a kubeconfig of this `text`, with the folder's name taken out.
async fn refusal(text: &str, context: Option<&str>) -> String {
    let File(folder, path) = file(text);
    match target(&path, context).await {
        Ok(_) => panic!("accepted"),
        Err(error) => chain(&error).replace(&folder.path().display().to_string(), "."),
    }
}

#[tokio::test]
async fn errors_name_the_file_and_the_remedy() {
    let cases = [
        (KUBECONFIG, None),
        (KUBECONFIG, Some("two")),
        (KUBECONFIG, Some("lost")),
        (KUBECONFIG, Some("dangling")),
        ("users:\n- {name: me, user: {token: hunter2, exec: hunter2}}\n", None),
        ("hunter2: [\n", None),
        ("", None),
    ];
    let mut all = String::new();
    for (text, context) in cases {
        all.push_str(&refusal(text, context).await);
        all.push('\n');
    }
    let Err(error) = target(Path::new("/nowhere/east.yaml"), None).await else { panic!("accepted") };
    all.push_str(&chain(&error));
    assert!(!all.contains("hunter2"), "{all}");
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("kubeconfig_errors", all);
    });
}

#[tokio::test]
async fn a_context_becomes_a_config() {
    let File(_folder, path) = file(KUBECONFIG);
    let config = host(Some(&path), Some("one")).await.unwrap();
    assert_eq!(address(&config), "https://one.example:6443");
    assert!(config.default_retry);
}

#[tokio::test]
async fn a_failing_plugin_is_reported_without_what_it_printed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let File(_folder, path) = file(KUBECONFIG);
    let config = target(&path, Some("plugin")).await.unwrap();
    let Err(error) = client(&config).await else { panic!("built") };
    assert_eq!(
        chain(&error),
        "failed to build a client for https://one.example:6443: the credential plugin failed (exit status: 3); run it \
         by hand to see why"
    );
}

fn in_a_secret(user: &str, cluster: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n\
         clusters: [{{name: c, cluster: {{server: 'https://east:6443'{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n"
    )
}

#[tokio::test]
async fn a_secret_may_not_run_programs_or_name_files() {
    for (user, cluster, field) in [
        ("exec: {apiVersion: client.authentication.k8s.io/v1, command: sh}", "", "users[0].user.exec"),
        ("auth-provider: {name: gcp, config: {}}", "", "users[0].user.auth-provider"),
        ("tokenFile: /etc/passwd", "", "users[0].user.tokenFile"),
        ("client-certificate: /a, client-key: /b", "", "users[0].user.client-certificate"),
        ("client-key: /b", "", "users[0].user.client-key"),
        ("token: t", ", certificate-authority: /a", "clusters[0].cluster.certificate-authority"),
    ] {
        let Err(error) = secret("default/east", &in_a_secret(user, cluster), None).await else { panic!("{field}") };
        assert!(error.to_string().contains(&format!("{field} is not allowed in a Secret")), "{error}");
    }
    let config = secret("default/east", &in_a_secret("token: t", ", proxy-url: 'http://proxy:1'"), None).await.unwrap();
    assert_eq!(config.proxy_url.as_ref().unwrap().to_string(), "http://proxy:1/");
}

/// A server that answers with its version to whoever shows this token.
async fn guarded(token: &'static str) -> String {
    use axum::http::{HeaderMap, StatusCode};
    let answer = move |headers: HeaderMap| async move {
        let known = headers.get("authorization").is_some_and(|value| value == &format!("Bearer {token}"));
        if known { (StatusCode::OK, "{}") } else { (StatusCode::UNAUTHORIZED, "") }
    };
    let router = axum::Router::new().route("/version", axum::routing::get(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let service = hyper_util::service::TowerToHyperService::new(router);
        while let Ok((stream, _)) = listener.accept().await {
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service.clone()));
        }
    });
    url
}

fn kubeconfig(server: &str, token: &str) -> String {
    KUBECONFIG
        .replace("https://user:hunter2@one.example:6443", server)
        .replace("token: hunter2", &format!("token: {token}"))
}

#[tokio::test]
async fn clients_follow_their_kubeconfig() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = guarded("new").await;
    let File(_folder, path) = file(&kubeconfig(&server, "old"));
    let access = target(&path, Some("one")).await.unwrap();
    let clients = [client(&access).await.unwrap(), streaming_client(&access).await.unwrap()];
    let asked = async |client: &Client| {
        let request = http::Request::get("/version").body(kube::client::Body::empty()).unwrap();
        client.send(request).await.unwrap().status().as_u16()
    };
    for client in &clients {
        assert_eq!(asked(client).await, 401);
    }
    // Half written, and then for another address: neither counts.
    for text in ["clusters: [", &kubeconfig("http://127.0.0.1:1", "new")] {
        std::fs::write(&path, text).unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(asked(&clients[0]).await, 401);
    }
    std::fs::write(&path, kubeconfig(&server, "new")).unwrap();
    for client in &clients {
        let begin = std::time::Instant::now();
        while asked(client).await != 200 {
            assert!(begin.elapsed() < Duration::from_secs(20), "the new token is not used");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
