//! From kubeconfigs to clients.
//!
//! Nothing here connects: that a cluster cannot be reached is no reason to refuse a configuration. And nothing here
//! shows a kubeconfig: parsers quote what they stumble over, and what they stumble over may be a token.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{ExecInteractiveMode, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tower::timeout::TimeoutLayer;

mod again;
mod connect;
#[cfg(feature = "crash-points")]
mod crash;
mod follow;
mod link;
mod meter;

use connect::Use;
pub use follow::Access;
use follow::{Files, Origin};
pub use link::Link;

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientsError {
    /// The kubeconfig could not be read.
    #[error("failed to read the kubeconfig {}; check the path and its permissions", path.display())]
    ReadKubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kubeconfig is none. The parser's own message is left out because it may quote credentials.
    #[error("failed to parse the kubeconfig {origin}{}; `kubectl config view` on it may say more", at(*line, *column))]
    ParseKubeconfig {
        /// The file.
        origin: String,
        /// Where in it, or 0 if unknown.
        line: u64,
        /// Where in it, or 0 if unknown.
        column: u64,
    },
    /// There is no context of the wanted name.
    #[error("failed to find the context `{context}` in the kubeconfig {origin}; {}", offer(known))]
    FindContext {
        /// The file.
        origin: String,
        /// The wanted context.
        context: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// No context was asked for, and the kubeconfig has no current one.
    #[error("failed to choose a context in the kubeconfig {origin}, which has no current-context; {}", offer(known))]
    ChooseContext {
        /// The file.
        origin: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// What the context names is missing or broken: its cluster, address, or a certificate file.
    #[error("failed to use the context `{context}` of the kubeconfig {origin}; correct its cluster or user")]
    ResolveContext {
        /// The file.
        origin: String,
        /// The context.
        context: String,
        /// Why.
        source: KubeconfigError,
    },
    /// A kubeconfig from a Secret asks for what only a file may.
    #[error("failed to accept the kubeconfig {origin}: {field} is not allowed in a Secret; {remedy}")]
    RefuseField {
        /// The Secret.
        origin: String,
        /// The field.
        field: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "failed to find the host cluster: there is no kubeconfig, and this is no pod; pass --kubeconfig or set KUBECONFIG"
    )]
    FindHost {
        /// Why this is no pod.
        source: InClusterError,
    },
    /// The configuration is complete but cannot be used: a broken certificate, or a credential plugin that failed.
    #[error("failed to build a client for {address}: {reason}")]
    Build {
        /// The API server.
        address: String,
        /// Why, without credentials.
        reason: String,
    },
}

fn at(line: u64, column: u64) -> String {
    if line == 0 { String::new() } else { format!(" at line {line}, column {column}") }
}

fn offer(known: &[String]) -> String {
    if known.is_empty() { "it has no contexts".to_owned() } else { format!("name one of: {}", known.join(", ")) }
}

/// How to reach the host cluster: by `kubeconfig` if given, else as kubectl would, else as a pod of it.
///
/// A kubeconfig that exists but is broken is an error and not passed over: it was meant.
pub async fn host(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Access, ClientsError> {
    if let Some(path) = kubeconfig {
        return target(path, context).await;
    }
    let files = Files::look(usual_files()).await;
    match Kubeconfig::read() {
        Ok(kubeconfig) => {
            let files = files.and(referenced(&kubeconfig)).await;
            let config = resolve(origin_of_default(), kubeconfig, context).await?;
            Ok(Access::new(config, Origin::Usual { context: context.map(ToOwned::to_owned), files }))
        }
        Err(error) if is_absent(&error) => {
            Config::incluster().map(Access::from).map_err(|source| ClientsError::FindHost { source })
        }
        Err(error) => Err(unread(&origin_of_default(), error)),
    }
}

/// How to reach the cluster of `context` in the kubeconfig `file`, or of its current context.
pub async fn target(file: &Path, context: Option<&str>) -> Result<Access, ClientsError> {
    let origin = file.display().to_string();
    let files = Files::look(vec![file.to_owned()]).await;
    let kubeconfig = Kubeconfig::read_from(file).map_err(|error| unread(&origin, error))?;
    let files = files.and(referenced(&kubeconfig)).await;
    let config = resolve(origin, kubeconfig, context).await?;
    Ok(Access::new(config, Origin::File { path: file.to_owned(), context: context.map(ToOwned::to_owned), files }))
}

/// The files that a kubeconfig refers to and that are read once. (Tokens of files are kube's to follow.)
fn referenced(kubeconfig: &Kubeconfig) -> Vec<PathBuf> {
    let clusters = kubeconfig.clusters.iter().filter_map(|one| one.cluster.as_ref());
    let authorities = clusters.filter_map(|cluster| cluster.certificate_authority.clone());
    let users = kubeconfig.auth_infos.iter().filter_map(|one| one.auth_info.as_ref());
    let pairs = users.flat_map(|user| [user.client_certificate.clone(), user.client_key.clone()]).flatten();
    authorities.chain(pairs).map(PathBuf::from).collect()
}

/// Where kubectl looks for kubeconfigs.
fn usual_files() -> Vec<PathBuf> {
    match std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()) {
        Some(paths) => std::env::split_paths(&paths).collect(),
        None => std::env::home_dir().map(|home| home.join(".kube/config")).into_iter().collect(),
    }
}

/// How to reach the cluster of `context` in a kubeconfig that was kept in a Secret, as `origin` says. It is complete in
/// itself: whoever writes a Secret must not make Longshore run a program, or send a file of its own somewhere.
pub async fn secret(origin: &str, text: &str, context: Option<&str>) -> Result<Access, ClientsError> {
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| unread(origin, error))?;
    if let Some((field, remedy)) = refused_field(&kubeconfig) {
        return Err(ClientsError::RefuseField { origin: origin.to_owned(), field, remedy });
    }
    resolve(origin.to_owned(), kubeconfig, context).await.map(Access::from)
}

/// How to reach the cluster of a kubeconfig that Longshore has put together itself, as `origin` says: a program in it is the
/// operator's.
pub async fn assembled(origin: &str, text: &str) -> Result<Access, ClientsError> {
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| unread(origin, error))?;
    resolve(origin.to_owned(), kubeconfig, None).await.map(Access::from)
}

/// The first field that a Secret may not have, whichever context it belongs to.
fn refused_field(kubeconfig: &Kubeconfig) -> Option<(String, &'static str)> {
    for (index, user) in kubeconfig.auth_infos.iter().enumerate() {
        let Some(user) = &user.auth_info else { continue };
        let fields = [
            ("exec", user.exec.is_some(), "put a token or a client certificate in it"),
            ("auth-provider", user.auth_provider.is_some(), "put a token or a client certificate in it"),
            ("tokenFile", user.token_file.is_some(), "put the token itself into `token`"),
            ("client-certificate", user.client_certificate.is_some(), "use `client-certificate-data`"),
            ("client-key", user.client_key.is_some(), "use `client-key-data`"),
        ];
        if let Some((field, _, remedy)) = fields.into_iter().find(|(_, there, _)| *there) {
            return Some((format!("users[{index}].user.{field}"), remedy));
        }
    }
    let clusters = kubeconfig.clusters.iter().enumerate();
    let path = |cluster: &kube::config::NamedCluster| cluster.cluster.as_ref()?.certificate_authority.clone();
    let mut refused = clusters.filter(|(_, cluster)| path(cluster).is_some());
    let (index, _) = refused.next()?;
    Some((format!("clusters[{index}].cluster.certificate-authority"), "use `certificate-authority-data`"))
}

/// When the client certificate of a configuration ends, in seconds since 1970, if it has one.
pub fn certificate_end(config: &Config) -> Option<i64> {
    let data = config.auth_info.client_certificate_data.as_ref()?;
    let pem = base64_decoded(data)?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    Some(pem.parse_x509().ok()?.validity().not_after.timestamp())
}

fn base64_decoded(text: &str) -> Option<Vec<u8>> {
    // The one decoder that is there anyway.
    let value = serde_json::Value::String(text.trim().to_owned());
    serde_json::from_value::<k8s_openapi::ByteString>(value).ok().map(|bytes| bytes.0)
}

/// How long an API server may take until it begins to answer: longer than its own limit for admission webhooks.
const ANSWER: Duration = Duration::from_secs(35);

/// How long a connection may be silent in the middle of an answer. A watch is never, since bookmarks come every minute.
const SILENCE: Duration = Duration::from_secs(150);

/// A client for requests and watches. None of them waits for ever for an API server that has vanished without a word.
pub async fn client(access: &Access) -> Result<Client, ClientsError> {
    follow::client(access, |mut config, meter| {
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        let builder = connect::builder(config, meter, Use::Shared)?.with_layer(&TimeoutLayer::new(ANSWER));
        #[cfg(feature = "crash-points")]
        let builder = builder.with_layer(&crash::CrashLayer);
        Ok(builder.build())
    })
    .await
}

/// A client for exec, attach, port-forward and logs, and for whatever else decides by itself when to ask again.
///
/// It never repeats a request: what it carries is a conversation, and the other end may have heard the beginning.
pub async fn streaming_client(access: &Access) -> Result<Client, ClientsError> {
    follow::client(access, |mut config, meter| {
        config.default_retry = false;
        Ok(connect::builder(config, meter, Use::Apart)?.build())
    })
    .await
}

/// Both clients: for requests and watches, and for streams.
pub async fn both(access: &Access) -> Result<[Client; 2], ClientsError> {
    link::pair(access).await
}

/// The API server's address, for people. An address that carries a password loses it.
pub fn address(config: &Config) -> String {
    let url = &config.cluster_url;
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{host}", url.scheme_str().unwrap_or("https"))
}

async fn build(access: &Access, make: follow::Make) -> Result<Client, ClientsError> {
    let (config, meter) = (Config::clone(access), access.meter().cloned());
    let (address, end) = (address(&config), certificate_end(&config));
    let counted = meter.clone();
    // Credential plugins run here, and may take their time.
    let built = tokio::task::spawn_blocking(move || make(config, counted)).await;
    match built {
        Ok(Ok(client)) => {
            if let Some(meter) = meter {
                meter.certificate(end);
            }
            Ok(client)
        }
        Ok(Err(error)) => Err(ClientsError::Build { address, reason: without_credentials(&error) }),
        Err(error) => Err(ClientsError::Build { address, reason: error.to_string() }),
    }
}

async fn resolve(origin: String, kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Config, ClientsError> {
    let known = || kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let Some(context) = context.or(kubeconfig.current_context.as_deref()).filter(|name| !name.is_empty()) else {
        return Err(ClientsError::ChooseContext { known: known(), origin });
    };
    if !kubeconfig.contexts.iter().any(|known| known.name == context) {
        return Err(ClientsError::FindContext { known: known(), origin, context: context.to_owned() });
    }
    let context = context.to_owned();
    let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
    let mut config = match Config::from_custom_kubeconfig(kubeconfig, &options).await {
        Ok(config) => config,
        Err(source) => return Err(ClientsError::ResolveContext { origin, context, source }),
    };
    if config.cluster_url.host().is_none() {
        let source = KubeconfigError::MissingClusterUrl;
        return Err(ClientsError::ResolveContext { origin, context, source });
    }
    if let Some(exec) = &mut config.auth_info.exec
        && exec.interactive_mode != Some(ExecInteractiveMode::Always)
    {
        // Nobody sits at a daemon's terminal; a plugin that may ask there would wait for ever.
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    Ok(config)
}

fn unread(origin: &str, error: KubeconfigError) -> ClientsError {
    match error {
        KubeconfigError::ReadConfig(source, path) => ClientsError::ReadKubeconfig { path, source },
        KubeconfigError::Parse(error) => {
            let (line, column) = error.location().map_or((0, 0), |place| (place.line(), place.column()));
            ClientsError::ParseKubeconfig { origin: origin.to_owned(), line, column }
        }
        // Several documents or files that do not fit together.
        _ => ClientsError::ParseKubeconfig { origin: origin.to_owned(), line: 0, column: 0 },
    }
}

fn is_absent(error: &KubeconfigError) -> bool {
    let chosen = std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty());
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound && !chosen,
        _ => false,
    }
}

fn origin_of_default() -> String {
    std::env::var("KUBECONFIG").ok().filter(|value| !value.is_empty()).unwrap_or_else(|| "~/.kube/config".to_owned())
}

/// What is wrong, without what a credential plugin printed, was started with, or returned.
pub(super) fn without_credentials(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(error) => auth_reason(error),
        other => crate::errors::chain(other),
    }
}

/// See [`without_credentials`].
pub(super) fn auth_reason(error: &kube::client::AuthError) -> String {
    use kube::client::AuthError;
    match error {
        AuthError::AuthExecRun { out, .. } => {
            format!("the credential plugin failed ({}); run it by hand to see why", out.status)
        }
        AuthError::AuthExecParse(_) | AuthError::ExecPluginFailed => {
            "the credential plugin returned no credential; run it by hand to see why".to_owned()
        }
        AuthError::AuthExecStart(error) => format!("the credential plugin could not be started: {error}"),
        AuthError::ReadTokenFile(error, path) => format!("the token file {} cannot be read: {error}", path.display()),
        AuthError::ParseTokenKey(_) => "the token of the auth provider cannot be parsed".to_owned(),
        AuthError::InvalidBasicAuth(_) | AuthError::InvalidBearerToken(_) => {
            "the credentials contain characters that no header can carry".to_owned()
        }
        AuthError::MissingCommand => "the credential plugin has no command".to_owned(),
        _ => "the credentials could not be obtained; log in again".to_owned(),
    }
}

#[cfg(test)]
mod tests;
