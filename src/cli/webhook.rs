//! The webhook for pods that ask to be offloaded: its flags, and `longshore webhook`, which prints its configuration.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::{CliError, HostArgs};
use crate::admission::AdmissionSetup;
use crate::admission::keeper::{self, KeeperError};
use crate::admission::registration::{Reach, Registration};
use crate::api::clients::{self, ClientsError};
use crate::api::names;

/// The flags of the webhook that say which one it is and how it is reached.
#[derive(Args, Clone)]
pub struct RegistrationArgs {
    /// Where the host's API server reaches the webhook: https://HOST:PORT
    #[arg(id = "webhook_url", long = "webhook-url", value_name = "URL", value_parser = Reach::url, group = "webhook_reach")]
    url: Option<Reach>,
    /// The Service by which the host's API server reaches the webhook; its port is 443 unless it is given
    #[arg(id = "webhook_service", long = "webhook-service", value_name = "NAMESPACE/NAME[:PORT]", value_parser = Reach::service, group = "webhook_reach")]
    service: Option<Reach>,
    /// The name of the webhook, its MutatingWebhookConfiguration and its Secret
    #[arg(id = "webhook_name", long = "webhook-name", value_name = "NAME", default_value = "longshore")]
    name: String,
    /// Only pods in namespaces with these labels are offloaded: KEY=VALUE,… [default: in all]
    #[arg(id = "webhook_namespaces", long = "webhook-namespaces", value_name = "LABELS", value_parser = labels)]
    namespaces: Option<Labels>,
}

/// The flags of the webhook of `longshore run`.
#[derive(Args, Clone)]
pub struct WebhookArgs {
    /// The address and port on which a webhook for pods that ask to be offloaded listens [default: there is none]
    #[arg(long, value_name = "ADDRESS:PORT", requires = "webhook_reach", conflicts_with = "provider")]
    webhook_bind: Option<SocketAddr>,
    #[command(flatten)]
    registration: RegistrationArgs,
    /// Write the MutatingWebhookConfiguration; without it, apply what `longshore webhook` prints
    #[arg(long, requires = "webhook_bind")]
    webhook_register: bool,
    /// After how many seconds without a place at home a pod of the mode LocalAndRemote may go to a virtual node
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    offload_after: u32,
}

/// The flags of `longshore webhook`.
#[derive(Args)]
pub struct PrintArgs {
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    registration: RegistrationArgs,
    /// The namespace of the Secret with the webhook's certificates, as `longshore run` has it
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-node-lease")]
    lease_namespace: String,
}

/// Labels of a flag.
type Labels = BTreeMap<String, String>;

fn labels(text: &str) -> Result<Labels, String> {
    let label = |pair: &str| {
        let (key, value) = pair.split_once('=').ok_or_else(|| format!("{pair:?} is not KEY=VALUE"))?;
        names::check_key(key).map_err(|why| format!("the key {key:?} {why}"))?;
        names::check_value(value).map_err(|why| format!("the value {value:?} {why}"))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(',').map(label).collect()
}

/// Why there is no webhook, or no configuration of it.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Nobody could reach it.
    #[error("failed to say where the host's API server reaches the webhook; give --webhook-url or --webhook-service")]
    FindReach,
    /// The name is none.
    #[error("failed to accept --webhook-name {name}: it {why}; use letters, digits and dashes")]
    AcceptName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no client for the host.
    #[error("failed to connect to the host cluster")]
    ConnectHost(#[source] ClientsError),
    /// It has no certificates.
    #[error(transparent)]
    KeepCertificates(#[from] KeeperError),
    /// It could not be written as YAML.
    #[error("failed to print the MutatingWebhookConfiguration")]
    Print(#[source] serde_saphyr::ser::Error),
}

impl WebhookError {
    /// Whether the user has to change what they wrote.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::FindReach | Self::AcceptName { .. })
    }
}

impl RegistrationArgs {
    fn registration(&self, own_namespace: &str) -> Result<Registration, WebhookError> {
        let reach = self.url.as_ref().or(self.service.as_ref()).ok_or(WebhookError::FindReach)?;
        let name = self.name.clone();
        names::check_label_name(&name).map_err(|why| WebhookError::AcceptName { name: name.clone(), why })?;
        Ok(Registration {
            name,
            reach: reach.clone(),
            namespaces: self.namespaces.clone().unwrap_or_default(),
            own_namespace: own_namespace.to_owned(),
        })
    }
}

impl WebhookArgs {
    /// The webhook that is asked for, if any.
    pub(super) fn setup(&self, own_namespace: &str) -> Result<Option<AdmissionSetup>, WebhookError> {
        let Some(bind) = self.webhook_bind else { return Ok(None) };
        Ok(Some(AdmissionSetup {
            bind,
            registration: self.registration.registration(own_namespace)?,
            register: self.webhook_register,
            patience: Duration::from_secs(self.offload_after.into()),
        }))
    }
}

/// Prints the configuration, after making the certificates if there are none yet.
pub(super) async fn print(args: &PrintArgs) -> Result<(), CliError> {
    let registration = args.registration.registration(&args.lease_namespace)?;
    let host = clients::client(&args.host.load().await?).await.map_err(WebhookError::ConnectHost)?;
    let material = keeper::provide(host, &registration).await.map_err(WebhookError::from)?;
    let document = registration.document(&material.authorities);
    print!("{}", serde_saphyr::to_string(&document).map_err(WebhookError::Print)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[arg(long)]
        provider: Option<String>,
        #[command(flatten)]
        webhook: WebhookArgs,
    }

    fn setup(flags: &[&str]) -> Result<Option<AdmissionSetup>, String> {
        let flags = Flags::try_parse_from(["x"].iter().chain(flags)).map_err(|error| error.to_string())?;
        _ = flags.provider;
        flags.webhook.setup("longshore-system").map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_none_unless_it_is_asked_for() {
        assert!(setup(&[]).unwrap().is_none());
        let both = ["--webhook-bind", "0.0.0.0:9443", "--webhook-service", "ns/web"];
        let made = setup(&both).unwrap().unwrap();
        assert_eq!((made.patience, made.register), (Duration::from_secs(30), false));
        assert_eq!(made.registration.own_namespace, "longshore-system");
    }

    #[test]
    fn what_is_not_complete_is_refused() {
        assert!(setup(&["--webhook-bind", "0.0.0.0:9443"]).unwrap_err().contains("--webhook-url"));
        assert!(setup(&["--webhook-register", "--webhook-url", "https://a"]).unwrap_err().contains("--webhook-bind"));
        let url = ["--webhook-bind", "0.0.0.0:1", "--webhook-url"];
        let with = |more: &[&str]| setup(&[&url[..], more].concat()).err().unwrap_or_default();
        assert!(with(&["http://a"]).contains("begin with https://"));
        assert!(with(&["https://a", "--webhook-service", "a/b"]).contains("cannot be used with"));
        assert!(with(&["https://a", "--webhook-name", "A"]).contains("contains 'A'"));
        assert!(with(&["https://a", "--webhook-namespaces", "a"]).contains("is not KEY=VALUE"));
        assert_eq!(with(&["https://a", "--webhook-namespaces", "a=b,c="]), "");
    }
}
