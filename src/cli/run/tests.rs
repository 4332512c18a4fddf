use std::path::Path;

use axum::Router;
use axum::extract::Path as UrlPath;
use axum::routing::{get, post};
use kube::Config;
use serde_json::{Value, json};

use super::*;
use crate::api::configuration;
use crate::errors::chain;

fn configuration() -> Configuration {
    let document = |kind: &str, name: &str, spec: &str| {
        format!("apiVersion: longshore.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
    };
    let text = [
        document("Target", "east", "{kubeconfig: {file: east.yaml}}"),
        document("Target", "west", "{kubeconfig: {file: west.yaml}}"),
        document("VirtualNode", "a", "{targets: [{name: west}], labels: {zone: w}, taints: []}"),
        document("VirtualNode", "b", "{targets: [{name: west}], port: 10250}"),
    ];
    configuration::parse(Path::new("provider.yaml"), &text.concat()).unwrap()
}

#[test]
fn nodes_get_the_ports_that_they_ask_for_and_else_the_next_free_ones() {
    let nodes = configuration().nodes;
    assert_eq!(assign_ports(&nodes, 10250).unwrap(), [10251, 10250, 10252]);
    let error = assign_ports(&nodes, u16::MAX).unwrap_err();
    assert!(error.to_string().starts_with("failed to find a port for the node east"), "{error}");
}

#[test]
fn every_node_has_the_parts_of_its_target() {
    let configuration = configuration();
    let access = |url: &str| Config::new(url.parse().unwrap()).into();
    let configs = ["https://east.example", "https://west.example"].map(access);
    let nodes = assemble(&configuration, &configs, &[1, 2, 3]);
    let parts = |node: &NodeSetup| {
        let target = &node.targets[0];
        format!("{} {} {} {}", node.name, target.name, target.config.cluster_url, node.port)
    };
    let parts: Vec<_> = nodes.iter().map(parts).collect();
    assert_eq!(
        parts,
        ["a west https://west.example/ 1", "b west https://west.example/ 2", "east east https://east.example/ 3"]
    );
    assert_eq!(nodes[0].labels["zone"], "w");
    assert_eq!(nodes[0].taints, []);
    assert_eq!(nodes[1].taints[0].value, "b");
}

/// A cluster that allows every right but those on the resource `denied`.
async fn cluster(denied: &'static str) -> Config {
    let review = move |body: String| async move {
        let mut review: Value = serde_json::from_str(&body).unwrap();
        let allowed = review["spec"]["resourceAttributes"]["resource"] != denied;
        review["status"] = json!({"allowed": allowed});
        review.to_string()
    };
    let namespace =
        |UrlPath(name): UrlPath<String>| async move { json!({"metadata": {"name": name, "uid": "h-1"}}).to_string() };
    let empty = ["major", "minor", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"];
    let mut version: serde_json::Map<_, _> = empty.map(|key| (key.to_owned(), json!(""))).into_iter().collect();
    version.insert("gitVersion".to_owned(), json!("v1.35.1"));
    let router = Router::new()
        .route("/version", get(move || async move { Value::from(version).to_string() }))
        .route("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", post(review))
        .route("/api/v1/namespaces/{name}", get(namespace));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let service = hyper_util::service::TowerToHyperService::new(router);
        while let Ok((stream, _)) = listener.accept().await {
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service.clone()));
        }
    });
    Config::new(url.parse().unwrap())
}

async fn prepared(host: Config, flags: &[&str]) -> Result<Setup, RunError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let configuration = configuration();
    // Nothing listens at port 1: these targets are down.
    let nowhere = |_| Ok(Config::new("http://127.0.0.1:1".parse().unwrap()).into());
    let targets = configuration.targets.iter().map(nowhere).collect();
    let args = ["longshore", "run", "--provider-config=x"].iter().chain(flags);
    let cli = <crate::cli::Cli as clap::Parser>::try_parse_from(args).unwrap();
    let crate::cli::Command::Run(args) = cli.command else { panic!("another command") };
    let clusters = Clusters { configuration, host: host.into(), targets, resources: None };
    prepare(&args, clusters, Metrics::default()).await
}

#[tokio::test]
async fn a_setup_is_complete_though_every_target_is_down() {
    let setup = prepared(cluster("").await, &["--port=10300", "--workers=3"]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((setup.host_id.as_str(), setup.node_ip.to_string().as_str()), ("h-1", "127.0.0.1"));
    assert_eq!((setup.bind_address.to_string().as_str(), setup.workers), ("0.0.0.0", 3));
    assert_eq!(setup.nodes.iter().map(|node| node.port).collect::<Vec<_>>(), [10300, 10250, 10301]);
}

#[tokio::test]
async fn a_host_that_grants_too_little_stops_the_run() {
    let Err(error) = prepared(cluster("nodes").await, &["--node-ip=10.0.0.1"]).await else { panic!("a setup") };
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("missing_host_rights", chain(&error));
    });
    assert_eq!(CliError::from(error).exit_code(), std::process::ExitCode::from(1));
}

#[tokio::test]
async fn a_host_that_is_down_stops_the_run() {
    let host = Config::new("http://127.0.0.1:1".parse().unwrap());
    let Err(error) = prepared(host, &[]).await else { panic!("a setup") };
    let error = chain(&error);
    assert!(error.starts_with("failed to use the host cluster: failed to reach http://127.0.0.1:1: conn"), "{error}");
}
