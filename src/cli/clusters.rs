//! What is declared, in a file or in the host, and how to reach all clusters of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource};
use serde_json::{Value, json};

use crate::api::clients::{self, Access, ClientsError};
use crate::api::configuration::{self, ConfigErrors, Configuration, Declared, Problem};
use crate::api::field::{FieldPath, Finding};
use crate::api::profile::{self, Programs};
use crate::api::resource;
use crate::api::target::{ClusterProfileReference, KubeconfigSource, Target, TargetSpec};
use crate::api::virtual_node::{VirtualNode, VirtualNodeSpec};
use crate::errors::chain;

use super::CliError;
use super::ask::{AskError, ask, ask_opt, has_definitions};

/// Where a Secret is that says nothing of its namespace, unless Longshore has other leases.
const LEASES: &str = "kube-node-lease";

/// Where the configuration and the host cluster are.
#[derive(Args, Clone)]
pub struct ConfigurationArgs {
    /// The file that declares targets and virtual nodes [default: the Targets and VirtualNodes of the host]
    #[arg(long, value_name = "FILE", env = "LONGSHORE_PROVIDER_CONFIG")]
    pub(super) provider_config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) host: HostArgs,
}

/// Where the host cluster is.
#[derive(Args, Clone)]
pub struct HostArgs {
    /// The kubeconfig of the host cluster [default: as kubectl, else the service account of the pod]
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The context of the host's kubeconfig [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(super) context: Option<String>,
}

impl HostArgs {
    /// Reads its kubeconfig, and connects to nothing.
    pub(crate) async fn load(&self) -> Result<Access, CliError> {
        let host = clients::host(self.kubeconfig.as_deref(), self.context.as_deref());
        host.await.map_err(CliError::ConfigureHost)
    }
}

/// A configuration, and how to reach all clusters in it. It has no `Debug` because that would show credentials.
pub(crate) struct Clusters {
    pub(crate) configuration: Configuration,
    pub(crate) host: Access,
    /// In the order of the configuration's targets; or why they cannot be reached.
    pub(crate) targets: Vec<Result<Access, String>>,
    /// Where the host declares them: its Targets and VirtualNodes, with what is said of them.
    pub(crate) resources: Option<Resources>,
}

/// Targets and VirtualNodes as the host has them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    pub(crate) targets: Vec<Value>,
    pub(crate) nodes: Vec<Value>,
}

impl Clusters {
    /// The targets that there are, for whoever has named another one.
    pub(super) fn names(&self) -> String {
        let names: Vec<_> = self.configuration.targets.iter().map(|target| target.name.as_str()).collect();
        if names.is_empty() { "there is none".into() } else { format!("there are {}", names.join(", ")) }
    }
}

impl ConfigurationArgs {
    /// Reads what is declared and every kubeconfig, and connects to no target.
    pub(crate) async fn load(&self) -> Result<Clusters, CliError> {
        if let Some(file) = &self.provider_config {
            return of_file(file, &self.host).await;
        }
        let access = self.host.load().await?;
        let client = clients::client(&access).await.map_err(CliError::ConfigureHost)?;
        of_host(access, &client).await
    }
}

async fn of_file(file: &Path, host: &HostArgs) -> Result<Clusters, CliError> {
    let configuration = configuration::load(file)?;
    let host = host.load().await?;
    let (mut targets, mut problems) = (Vec::new(), Vec::new());
    for target in &configuration.targets {
        let source = &target.spec.kubeconfig;
        let Some(file) = &source.file else {
            let (field, what) = match &source.secret_ref {
                Some(_) => ("secretRef", "Secrets"),
                None => ("clusterProfileRef", "ClusterProfiles"),
            };
            problems.push(target.problem(Finding::new(
                FieldPath::of("spec.kubeconfig").key(field),
                format!("{what} are for Targets in the API"),
                "use `file` here, or create this Target in the host and run without --provider-config",
            )));
            continue;
        };
        match clients::target(file, source.context.as_deref()).await {
            Ok(config) => targets.push(Ok(config)),
            Err(error) => problems.push(kubeconfig_problem(target, &error)),
        }
    }
    if !problems.is_empty() {
        return Err(ConfigErrors::Accept { problems }.into());
    }
    Ok(Clusters { configuration, host, targets, resources: None })
}

fn kubeconfig_problem(target: &Declared<TargetSpec>, error: &ClientsError) -> Problem {
    let field = match error {
        ClientsError::FindContext { .. } | ClientsError::ChooseContext { .. } => "spec.kubeconfig.context",
        _ => "spec.kubeconfig.file",
    };
    target.problem(Finding::new(FieldPath::of(field), chain(error), "correct the kubeconfig or this field"))
}

/// What the host declares. One that cannot be used is among the resources, and not in the configuration.
pub(super) async fn of_host(host: Access, client: &Client) -> Result<Clusters, CliError> {
    let resources = resources(client).await?;
    let configuration = configuration_of(&resources);
    let targets = configuration.targets.iter().map(|target| access(client, &target.name, &target.spec.kubeconfig));
    let targets = futures::future::join_all(targets).await;
    Ok(Clusters { configuration, host, targets, resources: Some(resources) })
}

async fn resources(client: &Client) -> Result<Resources, CliError> {
    if !has_definitions(client).await? {
        return Err(CliError::FindDefinitions);
    }
    let targets = list::<Target>(client, "list the Targets of the host").await?;
    let nodes = list::<VirtualNode>(client, "list the VirtualNodes of the host").await?;
    Ok(Resources { targets, nodes })
}

async fn list<K: Resource<DynamicType = ()>>(client: &Client, what: &str) -> Result<Vec<Value>, AskError> {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let list = ask(what, api.list(&ListParams::default())).await?;
    let mut items: Vec<Value> = list.items.iter().map(|item| json!(item)).collect();
    for metadata in items.iter_mut().filter_map(|item| item["metadata"].as_object_mut()) {
        metadata.remove("managedFields");
    }
    Ok(items)
}

/// The name of a resource.
pub(super) fn name_of(resource: &Value) -> &str {
    resource["metadata"]["name"].as_str().unwrap_or_default()
}

/// A text field, or nothing.
pub(super) fn text_of<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn configuration_of(resources: &Resources) -> Configuration {
    let declared = |resource: &Value| {
        let spec = resource::target(name_of(resource), &resource["spec"]).ok()?;
        Declared::of_api(resource, spec)
    };
    let targets: Vec<Declared<TargetSpec>> = resources.targets.iter().filter_map(declared).collect();
    let declared = |resource: &Value| {
        let spec = resource::virtual_node(name_of(resource), &resource["spec"]).ok()?;
        Declared::of_api(resource, spec)
    };
    let mut nodes: Vec<Declared<VirtualNodeSpec>> = resources.nodes.iter().filter_map(declared).collect();
    let named: BTreeSet<String> =
        nodes.iter().flat_map(|node| &node.spec.targets).map(|target| target.name.clone()).collect();
    let taken: BTreeSet<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let lonely = resources.targets.iter().filter(|target| {
        let name = name_of(target);
        !named.contains(name) && !taken.contains(name) && targets.iter().any(|one| one.name == name)
    });
    let implied = lonely.filter_map(|target| Declared::of_api(target, VirtualNodeSpec::for_target(name_of(target))));
    nodes.extend(implied);
    Configuration { targets, nodes }
}

/// The Secret of a kubeconfig: namespace, name and key.
pub(super) fn secret_of(source: &KubeconfigSource) -> Option<(String, String, String)> {
    let secret = source.secret_ref.as_ref()?;
    Some((secret.namespace.clone().unwrap_or_else(|| LEASES.into()), secret.name.clone(), secret.key.clone()))
}

/// How to reach a Target of the host.
async fn access(client: &Client, name: &str, source: &KubeconfigSource) -> Result<Access, String> {
    let context = source.context.as_deref();
    if let Some(file) = &source.file {
        let found = clients::target(file, context).await;
        return found.map_err(|error| format!("{} (a file of the machine that runs Longshore)", chain(&error)));
    }
    if let Some(reference) = &source.cluster_profile_ref {
        return of_profile(client, name, reference, LEASES, &Programs::default()).await;
    }
    let Some((namespace, secret, key)) = secret_of(source) else { return Err("it names no kubeconfig".into()) };
    let text = read(client, name, &(namespace.clone(), secret.clone()), &key).await?;
    clients::secret(&format!("in the Secret {namespace}/{secret}"), &text, context).await.map_err(|error| chain(&error))
}

/// What the Secret of a Target has under a key.
async fn read(client: &Client, target: &str, (namespace, secret): &profile::Key, key: &str) -> Result<String, String> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = format!("read the Secret {namespace}/{secret} with the kubeconfig of Target {target}");
    let found = ask_opt(what, secrets.get(secret)).await.map_err(|error| chain(&error))?;
    let found = found.ok_or_else(|| format!("there is no Secret {namespace}/{secret}; create it"))?;
    let bytes = found.data.and_then(|mut data| data.remove(key));
    let bytes = bytes.ok_or_else(|| format!("the Secret {namespace}/{secret} has no key `{key}`"))?;
    String::from_utf8(bytes.0).map_err(|_| format!("the key `{key}` of the Secret {namespace}/{secret} is no text"))
}

/// How to reach the cluster of a ClusterProfile, where `leases` is the namespace of Longshore's leases. Programs are for whoever
/// acts as Longshore itself: they get what it may have.
pub(super) async fn of_profile(
    client: &Client,
    target: &str,
    reference: &ClusterProfileReference,
    leases: &str,
    programs: &Programs,
) -> Result<Access, String> {
    let key = profile::key(reference, leases);
    let profiles: Api<DynamicObject> = Api::namespaced_with(client.clone(), &key.0, &profile::resource());
    let what = format!("read the ClusterProfile {}/{} of Target {target}", key.0, key.1);
    let found = ask_opt(what, profiles.get(&key.1)).await.map_err(|error| chain(&error))?;
    let found = found.ok_or_else(|| format!("there is no ClusterProfile {}/{}", key.0, key.1))?;
    let way = profile::way(&key, &found.data["status"], programs, leases).map_err(|error| chain(&error))?;
    let secret = match way.credentials.secret() {
        Some((secret, key)) => Some(read(client, target, secret, key).await?),
        None => None,
    };
    let text = way.kubeconfig(secret.as_deref()).map_err(|why| format!("the Secret {} {why}", way.origin()))?;
    clients::assembled(&way.origin(), &text).await.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_resource_harms_no_other_and_lonely_targets_have_nodes() {
        let target = |name: &str, spec: Value| json!({"kind": "Target", "metadata": {"name": name}, "spec": spec});
        let good = json!({"kubeconfig": {"secretRef": {"name": "east"}}});
        let resources = Resources {
            targets: vec![target("east", good.clone()), target("bad", json!({"kubeconfig": {}})), target("west", good)],
            nodes: vec![json!({"kind": "VirtualNode", "metadata": {"name": "both"},
                "spec": {"targets": [{"name": "west"}, {"name": "bad"}]}})],
        };
        let found = configuration_of(&resources);
        let targets: Vec<_> = found.targets.iter().map(|target| target.name.as_str()).collect();
        let nodes: Vec<_> = found.nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!((targets, nodes), (vec!["east", "west"], vec!["both", "east"]));
        assert_eq!(secret_of(&found.targets[0].spec.kubeconfig).unwrap().0, LEASES);
    }

    #[tokio::test]
    async fn a_program_gets_credentials_only_for_who_names_it() {
        let profile = json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ClusterProfile",
            "metadata": {"name": "east", "namespace": "fleet"},
            "status": {"accessProviders": [{"name": "operators", "cluster": {"server": "https://east"}}]}});
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let found = request.uri().path().ends_with("/namespaces/fleet/clusterprofiles/east");
            let body = kube::client::Body::from(profile.to_string().into_bytes());
            let answer = http::Response::builder().status(if found { 200 } else { 500 }).body(body);
            async move { answer.map_err(std::io::Error::other) }
        });
        let client = Client::new(service, "default");
        let reference = ClusterProfileReference { namespace: Some("fleet".into()), name: "east".into() };
        let programs = json!({"providers": [{"name": "operators", "execConfig": {"command": "cat"}}]});
        let programs: Programs = serde_json::from_value(programs).unwrap();
        let reach = async |programs| of_profile(&client, "east", &reference, LEASES, programs).await;
        assert_eq!(clients::address(&reach(&programs).await.unwrap()), "https://east");
        let refused = reach(&Programs::default()).await.err().unwrap();
        assert!(refused.contains("--clusterprofile-provider-file"), "{refused}");
    }
}
