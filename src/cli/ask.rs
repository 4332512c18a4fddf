//! What the commands have in common that talk to clusters on behalf of a person: no request without a deadline, a sign of life
//! where something takes long, and a question before anything is changed.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use kube::{Client, Discovery};
use serde_json::Value;
use tokio::time::timeout;

use crate::api::diagnosis::classify;

/// How long one cluster may take for one answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often it looks whether something has come about.
pub(super) const ROUND: Duration = Duration::from_millis(500);

/// Why a cluster did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It does not answer.
    #[error("failed to {what}: no answer within {seconds} s; check the address and the network")]
    Silent {
        /// What was asked.
        what: String,
        /// For so long.
        seconds: u64,
    },
    /// It says no.
    #[error("failed to {what}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
}

impl AskError {
    /// What it says of the cluster at this address, in plain words.
    pub(super) fn of(&self, address: &str) -> String {
        match self {
            Self::Refused { source, .. } => classify(address, source).to_string(),
            Self::Silent { seconds, .. } => format!("{address} gave no answer within {seconds} s"),
        }
    }

    /// The code of its answer, where it gave one.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { source, .. } => code(source),
            Self::Silent { .. } => None,
        }
    }
}

fn code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// Waits for an answer, and not for ever. `what` completes "failed to …".
pub(super) async fn ask<T>(
    what: impl Into<String>,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, AskError> {
    match timeout(PATIENCE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(AskError::Refused { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(AskError::Silent { what: what.into(), seconds: PATIENCE.as_secs() }),
    }
}

/// The same for something that may be absent.
pub(super) async fn ask_opt<T>(
    what: impl Into<String>,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<Option<T>, AskError> {
    match ask(what, request).await {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Where objects of the kind of this one are.
pub(super) fn api_of(client: &Client, object: &Value) -> Api<DynamicObject> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, text("/kind")));
    match text("/metadata/namespace") {
        "" => Api::all_with(client.clone(), &kind),
        namespace => Api::namespaced_with(client.clone(), namespace, &kind),
    }
}

/// `Secret longshore/east`
pub(super) fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/kind"), text("/metadata/name"));
    match text("/metadata/namespace") {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    }
}

/// Whether the definitions of Targets and VirtualNodes are there.
pub(super) async fn has_definitions(client: &Client) -> Result<bool, AskError> {
    let discovery = Discovery::new(client.clone()).filter(&["longshore.dev"]).run();
    Ok(ask("look for the CustomResourceDefinitions of Longshore", discovery).await?.has_group("longshore.dev"))
}

/// A sign of life on a terminal, and nothing anywhere else.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// Begins to tell.
    pub(super) fn start(what: impl Into<String>) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        // The template is right, and if it were not, the usual one would do.
        if let Ok(style) = ProgressStyle::with_template("{spinner:.cyan} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message(what.into());
        Self(bar)
    }

    /// Tells something else.
    pub(super) fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// What a person answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    /// Go ahead.
    Given,
    /// Do not.
    Refused,
    /// Nobody is there who could say.
    Nobody,
}

/// Asks whether to go ahead, where somebody sits at a terminal.
pub(super) fn consent(yes: bool) -> Consent {
    if yes {
        return Consent::Given;
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Consent::Nobody;
    }
    eprint!("Go ahead? [y/N] ");
    _ = std::io::stderr().flush();
    let mut answer = String::new();
    _ = std::io::stdin().lock().read_line(&mut answer);
    if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) { Consent::Given } else { Consent::Refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn objects_are_named_as_people_name_them() {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "longshore", "name": "east"}});
        let role = json!({"kind": "ClusterRole", "metadata": {"name": "x"}});
        assert_eq!((title(&secret), title(&role)), ("Secret longshore/east".into(), "ClusterRole x".into()));
    }
}
