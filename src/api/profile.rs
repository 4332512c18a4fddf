//! ClusterProfiles of a cluster inventory as sources of Targets: `multicluster.x-k8s.io/v1alpha1` (KEP-4322). Pure.
//!
//! A profile says where its cluster is, once for each way to get credentials (KEP-5339), and never has any itself. Two of these
//! ways read Secrets of this cluster, and Longshore does so by itself, as the programs of those names do: `secretreader` and
//! `kubeconfig-secretreader`. All others are programs, which only a file of the operator's names ([`Programs`]): whoever writes
//! a profile must not make Longshore run something, read a file, or fetch Secrets from wherever it likes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kube::api::ApiResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::target::ClusterProfileReference;

/// The token of a Secret's key `token`. The Secret has the name that the profile gives.
const SECRET_READER: &str = "secretreader";

/// The user of a kubeconfig in a Secret.
const KUBECONFIG_SECRET_READER: &str = "kubeconfig-secretreader";

/// The extension of a cluster that is meant for whoever gets the credentials.
const FOR_PROGRAMS: &str = "client.authentication.k8s.io/exec";

/// Extensions of a cluster by which a profile adds to arguments and environment of a program, where the operator lets it.
const MORE_ARGUMENTS: &str = "clusterprofiles.multicluster.x-k8s.io/exec/additional-args";
const MORE_VARIABLES: &str = "clusterprofiles.multicluster.x-k8s.io/exec/additional-envs";

/// What a kubeconfig may say of a user whose credentials are in a Secret.
const INLINE: [&str; 3] = ["token", "client-certificate-data", "client-key-data"];

/// Namespace and name, of a profile or a Secret.
pub type Key = (String, String);

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// Nobody knows how to get credentials in a way that it offers.
    #[error(
        "failed to find a way to get credentials for the ClusterProfile {profile}, which offers {offered}; known are {known}; add \
         the program of one to the file of --clusterprofile-provider-file"
    )]
    FindProvider {
        /// The profile.
        profile: String,
        /// What it offers.
        offered: String,
        /// What we know.
        known: String,
    },
    /// It does not say which Secret, or not in a way that is understood.
    #[error(
        "failed to read what the ClusterProfile {profile} says for {provider}: {why}; its cluster manager writes the extension \
         {FOR_PROGRAMS}"
    )]
    ReadExtension {
        /// The profile.
        profile: String,
        /// The provider.
        provider: String,
        /// What is wrong.
        why: String,
    },
    /// It asks for what only the operator may say.
    #[error("failed to accept the ClusterProfile {profile}: {what} is not allowed in it; {remedy}")]
    Refuse {
        /// The profile.
        profile: String,
        /// What it asks for.
        what: String,
        /// What may be done instead.
        remedy: &'static str,
    },
}

/// Why the operator's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    /// It cannot be read.
    #[error("failed to read {}; check the path of --clusterprofile-provider-file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("failed to parse {}; write it as KEP-5339 says: {{\"providers\": [{{\"name\": …, \"execConfig\": {{…}}}}]}}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The programs that the operator names for getting credentials, in the order of preference.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Programs {
    providers: Vec<Program>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Program {
    name: String,
    /// As in the user of a kubeconfig.
    exec_config: Map<String, Value>,
    #[serde(default, rename = "profileSourcedCLIArgsPolicy")]
    arguments: Arguments,
    #[serde(default, rename = "profileSourcedEnvVarsPolicy")]
    variables: Variables,
}

/// What becomes of the arguments that a profile adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
enum Arguments {
    #[default]
    Ignore,
    Append,
}

/// What becomes of the variables that a profile adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
enum Variables {
    #[default]
    Ignore,
    AppendIfNotExists,
    Replace,
}

impl Programs {
    /// Reads the operator's file.
    ///
    /// # Errors
    /// When it cannot be read, or is not what KEP-5339 says.
    pub fn read(path: &Path) -> Result<Self, ProgramsError> {
        let text = std::fs::read(path).map_err(|source| ProgramsError::Read { path: path.to_owned(), source })?;
        serde_json::from_slice(&text).map_err(|source| ProgramsError::Parse { path: path.to_owned(), source })
    }
}

/// What the API calls profiles.
pub fn resource() -> ApiResource {
    ApiResource {
        group: "multicluster.x-k8s.io".into(),
        version: "v1alpha1".into(),
        api_version: "multicluster.x-k8s.io/v1alpha1".into(),
        kind: "ClusterProfile".into(),
        plural: "clusterprofiles".into(),
    }
}

/// Namespace and name of the profile that is meant, where `own` is the namespace of Longshore's leases.
pub fn key(reference: &ClusterProfileReference, own: &str) -> Key {
    (reference.namespace.clone().unwrap_or_else(|| own.to_owned()), reference.name.clone())
}

/// How to reach the cluster of a profile.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    profile: String,
    /// As in a kubeconfig.
    cluster: Map<String, Value>,
    /// Where its credentials are.
    pub credentials: Credentials,
}

/// Where credentials are.
#[derive(Clone, Debug, PartialEq)]
pub enum Credentials {
    /// In this Secret: a token.
    Token(Key),
    /// In this Secret: a kubeconfig under a key, of which the user of a context counts, or of the current one.
    Kubeconfig {
        /// The Secret.
        secret: Key,
        /// Its key.
        key: String,
        /// The context.
        context: Option<String>,
    },
    /// A program gets them: as in the user of a kubeconfig.
    Program(Value),
}

impl Credentials {
    /// The Secret that they are in, and its key.
    pub fn secret(&self) -> Option<(&Key, &str)> {
        match self {
            Self::Token(secret) => Some((secret, "token")),
            Self::Kubeconfig { secret, key, .. } => Some((secret, key)),
            Self::Program(_) => None,
        }
    }
}

/// The way to the cluster of the profile `key` with this `status`: that of the first program which it offers, or else what needs
/// none. `own` is the namespace of Longshore's leases.
///
/// # Errors
/// When there is none that may be gone.
pub fn way(key: &Key, status: &Value, programs: &Programs, own: &str) -> Result<Way, ProfileError> {
    let profile = format!("{}/{}", key.0, key.1);
    // The second list wins over the first, which is its older name.
    let lists = ["credentialProviders", "accessProviders"].map(|list| status[list].as_array());
    let offered: BTreeMap<&str, &Value> = lists
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|one| Some((one["name"].as_str()?, &one["cluster"])))
        .collect();
    let named: Vec<&str> = programs.providers.iter().map(|program| program.name.as_str()).collect();
    let known = named.iter().copied().chain([SECRET_READER, KUBECONFIG_SECRET_READER]);
    let Some((provider, cluster)) = known.clone().find_map(|name| offered.get_key_value(name)) else {
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        return Err(ProfileError::FindProvider {
            profile,
            offered: list(offered.keys().copied().collect()),
            known: list(known.collect()),
        });
    };
    let mut cluster = cluster.as_object().cloned().unwrap_or_default();
    if cluster.contains_key("certificate-authority") {
        let remedy = "its cluster manager has to give certificate-authority-data";
        return Err(ProfileError::Refuse { profile, what: "certificate-authority, a file,".into(), remedy });
    }
    let unread =
        |why: String| ProfileError::ReadExtension { profile: profile.clone(), provider: (*provider).into(), why };
    let credentials = match programs.providers.iter().find(|program| program.name == *provider) {
        Some(program) => Credentials::Program(program.exec(&cluster).map_err(unread)?),
        None => in_secret(key, provider, extension(&cluster, FOR_PROGRAMS), own).map_err(|why| match why {
            Odd::Unread(why) => unread(why),
            Odd::Elsewhere(namespace) => ProfileError::Refuse {
                profile: profile.clone(),
                what: format!("a Secret of the namespace {namespace}"),
                remedy: "it has to be in that of the ClusterProfile or of Longshore",
            },
        })?,
    };
    if !matches!(credentials, Credentials::Program(_)) {
        cluster.remove("extensions");
    }
    Ok(Way { profile, cluster, credentials })
}

enum Odd {
    Unread(String),
    Elsewhere(String),
}

/// Which Secret is meant by what a profile says for whoever gets credentials.
fn in_secret(profile: &Key, provider: &str, said: Option<&Value>, own: &str) -> Result<Credentials, Odd> {
    let said = said.unwrap_or(&Value::Null);
    let text = |field: &str| match &said[field] {
        Value::Null => Ok(None),
        Value::String(text) if !text.is_empty() => Ok(Some(text.clone())),
        _ => Err(Odd::Unread(format!("`{field}` is no text"))),
    };
    if provider == SECRET_READER {
        let name = text("clusterName")?.unwrap_or_else(|| profile.1.clone());
        return Ok(Credentials::Token((own.to_owned(), name)));
    }
    let namespace = text("namespace")?.unwrap_or_else(|| own.to_owned());
    if namespace != own && namespace != profile.0 {
        return Err(Odd::Elsewhere(namespace));
    }
    let needed = |field: &str| text(field)?.ok_or_else(|| Odd::Unread(format!("`{field}` is missing")));
    let secret = (namespace, needed("name")?);
    Ok(Credentials::Kubeconfig { secret, key: needed("key")?, context: text("context")? })
}

fn extension<'a>(cluster: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let all = cluster.get("extensions")?.as_array()?;
    Some(&all.iter().find(|one| one["name"] == name)?["extension"])
}

impl Program {
    /// The `exec` of a kubeconfig, with what the profile may add.
    fn exec(&self, cluster: &Map<String, Value>) -> Result<Value, String> {
        let mut exec = self.exec_config.clone();
        if let (Arguments::Append, Some(more)) = (self.arguments, extension(cluster, MORE_ARGUMENTS)) {
            let more: Vec<String> =
                serde_json::from_value(more.clone()).map_err(|error| format!("{MORE_ARGUMENTS}: {error}"))?;
            let mut all = exec.get("args").and_then(Value::as_array).cloned().unwrap_or_default();
            all.extend(more.into_iter().map(Value::String));
            exec.insert("args".into(), all.into());
        }
        if let (Variables::AppendIfNotExists | Variables::Replace, Some(more)) =
            (self.variables, extension(cluster, MORE_VARIABLES))
        {
            let more: BTreeMap<String, String> =
                serde_json::from_value(more.clone()).map_err(|error| format!("{MORE_VARIABLES}: {error}"))?;
            let own = exec.get("env").and_then(Value::as_array).cloned().unwrap_or_default();
            let own: Vec<Variable> = serde_json::from_value(own.into()).map_err(|error| format!("env: {error}"))?;
            let own = own.into_iter().map(|one| (one.name, one.value));
            let all: BTreeMap<String, String> = match self.variables {
                Variables::Replace => own.chain(more).collect(),
                _ => more.into_iter().chain(own).collect(),
            };
            let all: Vec<_> = all.into_iter().map(|(name, value)| Variable { name, value }).collect();
            exec.insert("env".into(), json!(all));
        }
        Ok(exec.into())
    }
}

#[derive(Serialize, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

impl Way {
    /// A kubeconfig that goes this way. `secret` is what [`Credentials::secret`] holds; nothing without one.
    ///
    /// # Errors
    /// When it holds no credentials, as the rest of a sentence that never quotes it.
    pub fn kubeconfig(&self, secret: Option<&str>) -> Result<String, String> {
        let user = match (&self.credentials, secret) {
            (Credentials::Program(exec), _) => json!({"exec": exec}),
            (Credentials::Token(_), Some(token)) if !token.trim().is_empty() => json!({"token": token.trim()}),
            (Credentials::Kubeconfig { context, .. }, Some(text)) => user(text, context.as_deref())?,
            _ => return Err("is empty".into()),
        };
        let name = &self.profile;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": name,
            "clusters": [{"name": name, "cluster": self.cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        });
        Ok(kubeconfig.to_string())
    }

    /// The profile, for people.
    pub fn origin(&self) -> String {
        format!("of the ClusterProfile {}", self.profile)
    }
}

/// The credentials of a context's user in a kubeconfig, as far as it holds them itself.
fn user(text: &str, context: Option<&str>) -> Result<Value, String> {
    let kubeconfig: Value = serde_saphyr::from_str(text).map_err(|_| "is no kubeconfig".to_owned())?;
    let named = |list: &str, name: &str| {
        let found = kubeconfig[list].as_array().into_iter().flatten().find(|one| one["name"] == name);
        found.ok_or_else(|| format!("has no `{name}` in `{list}`"))
    };
    let context = context.or(kubeconfig["current-context"].as_str()).unwrap_or_default();
    let user = named("contexts", context)?["context"]["user"].as_str().unwrap_or_default();
    let all = &named("users", user)?["user"];
    let inline: Map<String, Value> = INLINE
        .iter()
        .filter_map(|field| Some(((*field).to_owned(), all.get(*field).filter(|value| value.is_string())?.clone())))
        .collect();
    if inline.is_empty() {
        return Err(format!("has none of {} for the user `{user}`", INLINE.join(", ")));
    }
    Ok(inline.into())
}

#[cfg(test)]
mod tests;
