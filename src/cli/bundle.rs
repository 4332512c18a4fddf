//! `longshore debug-bundle`: what somebody needs who is to find out what is wrong, and no secrets.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, LogParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::api::clients;
use crate::errors::chain;
use crate::kubelet::node::status::REACHABLE;
use crate::paging::{PAGE, next};

use super::ask::{AskError, Progress, ask};
use super::clusters::{Clusters, ConfigurationArgs, text_of};
use super::show::yaml;
use super::{CliError, pods, status};

mod redact;

use redact::redact;

/// How much of the end of a log is kept.
const LINES: i64 = 20_000;

/// The flags of `debug-bundle`.
#[derive(Args)]
pub struct BundleArgs {
    #[command(flatten)]
    configuration: ConfigurationArgs,
    /// Where to write it: a file that ends in .tar.gz, or a directory [default: longshore-debug-TIME.tar.gz]
    #[arg(long, short, value_name = "PATH")]
    file: Option<PathBuf>,
    /// A file with the log of `longshore run`, where it runs outside of the host; may be repeated
    #[arg(long, value_name = "FILE")]
    run_log: Vec<PathBuf>,
    /// Which pods of the host run Longshore, for their logs: a label selector
    #[arg(long, value_name = "LABELS", default_value = "app.kubernetes.io/name=longshore")]
    run_selector: String,
    /// The namespace of the leases by which replicas of Longshore share the virtual nodes
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-node-lease")]
    lease_namespace: String,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be written.
    #[error("failed to write {}; choose another place with --file", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is there.
    #[error("failed to write {}, which exists; remove it, or choose another place with --file", .0.display())]
    Exists(PathBuf),
}

/// Files by their names, each without secrets.
#[derive(Default)]
struct Bundle(Vec<(String, String)>);

impl Bundle {
    fn add(&mut self, name: &str, text: &str) {
        self.0.push((name.to_owned(), redact(text)));
    }

    /// What was found, or why it was not.
    fn add_found<T>(&mut self, name: &str, found: Result<T, AskError>, show: impl FnOnce(T) -> String) {
        match found {
            Ok(found) => self.add(name, &show(found)),
            Err(error) => self.add(&format!("{name}.error"), &format!("{}\n", chain(&error))),
        }
    }
}

pub(super) async fn bundle(args: &BundleArgs) -> Result<(), CliError> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let path = args.file.clone().unwrap_or_else(|| PathBuf::from(format!("longshore-debug-{time}.tar.gz")));
    if path.exists() {
        return Err(BundleError::Exists(path).into());
    }
    let progress = Progress::start("looking at all clusters");
    let clusters = args.configuration.load().await?;
    let host = clients::client(&clusters.host).await.map_err(CliError::ConfigureHost)?;
    let bundle = gather(args, &clusters, &host, &progress).await;
    progress.say("writing");
    let written = if path.to_string_lossy().ends_with(".gz") || path.to_string_lossy().ends_with(".tgz") {
        write_archive(&path, &bundle)
    } else {
        write_directory(&path, &bundle)
    };
    written.map_err(|source| BundleError::Write { path: path.clone(), source })?;
    drop(progress);
    println!("{} files in {}; look at them before you give them to others", bundle.0.len(), path.display());
    Ok(())
}

async fn gather(args: &BundleArgs, clusters: &Clusters, host: &Client, progress: &Progress) -> Bundle {
    let mut bundle = Bundle::default();
    bundle.add("version.txt", &format!("longshore {}\n{}\n", env!("CARGO_PKG_VERSION"), Timestamp::now()));
    bundle.add("configuration.yaml", &configuration(clusters));
    progress.say("asking every cluster");
    match status::look(clusters, host, true).await {
        Ok(report) => bundle.add("status.yaml", &yaml(&report)),
        Err(error) => bundle.add("status.yaml.error", &format!("{}\n", chain(&error))),
    }
    bundle.add("rights.txt", &super::check::report(clusters, None).await.1);
    bundle.add_found("pods.yaml", pods::look(clusters, host).await, |rows| yaml(&rows));

    progress.say("reading nodes, leases and events");
    let nodes: Api<Node> = Api::all(host.clone());
    let nodes = ask("list the nodes", nodes.list(&ListParams::default())).await.map(|list| ours(&list.items));
    let names: Vec<String> = nodes.iter().flatten().map(|node| text_of(&node["metadata"], "name").to_owned()).collect();
    bundle.add_found("nodes.yaml", nodes, |nodes| yaml(&nodes));
    let leases: Api<Lease> = Api::namespaced(host.clone(), &args.lease_namespace);
    let leases = ask("list the leases", leases.list(&ListParams::default())).await;
    bundle.add_found("leases.yaml", leases, |list| yaml(&bare(&list.items)));
    // Of pods what they are and how, and not what they were asked to do: variables hold what they should not.
    let mut proxies = vec![];
    for name in &names {
        match status::pods_of(host, name).await {
            Ok(pods) => proxies.extend(pods.iter().map(skeleton)),
            Err(error) => bundle.add(&format!("proxies-{name}.error"), &format!("{}\n", chain(&error))),
        }
    }
    bundle.add("proxies.yaml", &yaml(&proxies));
    bundle.add_found("events.yaml", events(host, &proxies, &names).await, |events| yaml(&events));

    progress.say("reading logs");
    logs(args, host, &mut bundle).await;
    for path in &args.run_log {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        match fs::read(path) {
            Ok(bytes) => bundle.add(&format!("logs/{name}"), &String::from_utf8_lossy(&bytes)),
            Err(error) => bundle.add(&format!("logs/{name}.error"), &format!("{error}\n")),
        }
    }
    bundle
}

/// Everything that is declared. A kubeconfig is named there, and not shown.
fn configuration(clusters: &Clusters) -> String {
    let resources = status::declared(&clusters.configuration, clusters.resources.as_ref());
    let resources = resources.targets.into_iter().chain(resources.nodes);
    resources.map(|resource| yaml(&without_annotations(resource))).collect::<Vec<_>>().join("---\n")
}

/// Annotations hold whole manifests, as kubectl keeps them.
fn without_annotations(mut object: Value) -> Value {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.retain(|key, _| key.starts_with("longshore.dev/"));
        }
    }
    object
}

fn bare<T: serde::Serialize>(items: &[T]) -> Vec<Value> {
    items.iter().map(|item| without_annotations(json!(item))).collect()
}

fn ours(nodes: &[Node]) -> Vec<Value> {
    let ours = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|condition| condition["type"] == REACHABLE)
    };
    bare(nodes).iter().filter(ours).cloned().collect()
}

/// What a pod is, and how it is.
fn skeleton(pod: &Value) -> Value {
    let mut pod = without_annotations(pod.clone());
    let containers = |list: &str| {
        let all = pod["spec"][list].as_array().cloned().unwrap_or_default();
        let one = |container: &Value| json!({"name": container["name"], "image": container["image"], "resources": container["resources"]});
        all.iter().map(one).collect::<Vec<_>>()
    };
    pod["spec"] = json!({
        "nodeName": pod["spec"]["nodeName"], "containers": containers("containers"),
        "initContainers": containers("initContainers"), "restartPolicy": pod["spec"]["restartPolicy"],
    });
    pod
}

/// The events about these pods and nodes.
async fn events(host: &Client, proxies: &[Value], nodes: &[String]) -> Result<Vec<Value>, AskError> {
    let uids: Vec<&str> = proxies.iter().map(|pod| text_of(&pod["metadata"], "uid")).collect();
    let all: Api<Event> = Api::all(host.clone());
    let mut params = Some(ListParams::default().limit(PAGE));
    let mut found = vec![];
    while let Some(asked) = params {
        let list = ask("list the events of the host", all.list(&asked)).await?;
        found.extend(bare(&list.items).into_iter().filter(|event| {
            let about = &event["involvedObject"];
            uids.contains(&text_of(about, "uid"))
                || about["kind"] == "Node" && nodes.iter().any(|node| *node == text_of(about, "name"))
                || text_of(about, "apiVersion").starts_with("longshore.dev/")
                || text_of(event, "reportingComponent").contains("longshore")
        }));
        params = next(asked, &list.metadata);
    }
    Ok(found)
}

/// The logs of those pods of the host that run Longshore, and of what ran before in their containers.
async fn logs(args: &BundleArgs, host: &Client, bundle: &mut Bundle) {
    let all: Api<Pod> = Api::all(host.clone());
    let found = ask("list the pods of Longshore", all.list(&ListParams::default().labels(&args.run_selector))).await;
    let pods = match found {
        Ok(list) => list.items,
        Err(error) => return bundle.add("logs/pods.error", &format!("{}\n", chain(&error))),
    };
    for pod in &pods {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(host.clone(), &namespace);
        for (previous, suffix) in [(false, ""), (true, "-previous")] {
            let name = format!("logs/{namespace}_{}{suffix}.log", pod.name_any());
            let params = LogParams { previous, tail_lines: Some(LINES), timestamps: true, ..LogParams::default() };
            match ask("read the log", api.logs(&pod.name_any(), &params)).await {
                Ok(text) => bundle.add(&name, &text),
                // Most have no life before this one.
                Err(_) if previous => {}
                Err(error) => bundle.add(&format!("{name}.error"), &format!("{}\n", chain(&error))),
            }
        }
    }
}

fn write_archive(path: &Path, bundle: &Bundle) -> io::Result<()> {
    let root = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let root = root.trim_end_matches(".gz").trim_end_matches(".tgz").trim_end_matches(".tar");
    let file = private(path)?;
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for (name, text) in &bundle.0 {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(Timestamp::now().as_second()).unwrap_or_default());
        archive.append_data(&mut header, format!("{root}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

fn write_directory(path: &Path, bundle: &Bundle) -> io::Result<()> {
    for (name, text) in &bundle.0 {
        let place = path.join(name);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        private(&place)?.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// A new file that nobody else may read.
fn private(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_pod_only_what_it_is_and_how_it_is_remains() {
        let pod = json!({"metadata": {"name": "web", "managedFields": [{}], "annotations":
            {"longshore.dev/target": "east", "kubectl.kubernetes.io/last-applied-configuration": "s3cret"}},
            "spec": {"nodeName": "east", "containers": [{"name": "a", "image": "i", "env": [{"name": "P", "value": "s3cret"}],
                "args": ["s3cret"]}]}, "status": {"phase": "Running"}});
        let shown = skeleton(&pod).to_string();
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(
            shown.contains("longshore.dev/target") && shown.contains("Running") && shown.contains("\"image\":\"i\"")
        );
    }

    #[test]
    fn an_archive_holds_what_was_added_and_overwrites_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let mut bundle = Bundle::default();
        bundle.add("logs/a.log", "all is well\nAuthorization: Bearer abcdefghijklmnop\n");
        write_archive(&path, &bundle).unwrap();
        assert!(write_archive(&path, &bundle).is_err());
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(File::open(&path).unwrap()));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_string_lossy(), "b/logs/a.log");
        let mut text = String::new();
        io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert!(text.starts_with("all is well\n") && !text.contains("abcdefghijklmnop"), "{text}");
    }
}
