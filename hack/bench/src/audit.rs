//! What whoever is measured has asked the API servers for, by their audit logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;

use crate::cluster::{ACCOUNT, NAMESPACE};

/// Requests by verb and resource (`patch pods/status`).
pub(crate) type Requests = BTreeMap<String, usize>;

/// Only whoever is measured, and each request once, when it has been answered. A watch counts when it begins.
pub(crate) fn policy() -> String {
    format!(
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n\
         - {{level: Metadata, users: [\"system:serviceaccount:{NAMESPACE}:{ACCOUNT}\"]}}\n- {{level: None}}\n"
    )
}

/// A place in an audit log.
pub(crate) struct Log {
    path: PathBuf,
    at: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    stage: String,
    verb: String,
    #[serde(default)]
    object_ref: Reference,
    #[serde(default)]
    response_status: Response,
}

#[derive(Deserialize, Default)]
struct Reference {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize, Default)]
struct Response {
    #[serde(default)]
    code: u16,
}

impl Log {
    /// Its end, now.
    pub(crate) fn end(path: &Path) -> Self {
        Self { path: path.to_owned(), at: path.metadata().map_or(0, |found| found.len()) }
    }

    /// What was asked for since.
    pub(crate) fn since(&self) -> Result<Requests> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let mut requests = Requests::new();
        for line in BufReader::new(file).lines() {
            if let Some(key) = key(&line?) {
                *requests.entry(key).or_default() += 1;
            }
        }
        Ok(requests)
    }
}

fn key(line: &str) -> Option<String> {
    let line: Line = serde_json::from_str(line).ok()?;
    let begins = if line.verb == "watch" { "ResponseStarted" } else { "ResponseComplete" };
    if line.stage != begins {
        return None;
    }
    let Reference { resource, subresource } = line.object_ref;
    let what = if subresource.is_empty() { resource } else { format!("{resource}/{subresource}") };
    let what = if what.is_empty() { "other".into() } else { what };
    let failed =
        if line.response_status.code >= 400 { format!(" ({})", line.response_status.code) } else { String::new() };
    Some(format!("{} {what}{failed}", line.verb))
}

/// How many of them concern pods and begin with one of these verbs.
pub(crate) fn on_pods(requests: &Requests, verbs: &[&str]) -> usize {
    let chosen = requests.iter().filter(|(key, _)| {
        let (verb, what) = key.split_once(' ').unwrap_or_default();
        verbs.contains(&verb) && (what == "pods" || what.starts_with("pods/") || what.starts_with("pods "))
    });
    chosen.map(|(_, count)| count).sum()
}

/// The verbs that change something.
pub(crate) const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_once_and_by_what_it_is_about() {
        let line = |stage: &str, verb: &str, code: u16| {
            format!(
                "{{\"stage\":\"{stage}\",\"verb\":\"{verb}\",\"objectRef\":{{\"resource\":\"pods\",\"subresource\":\"status\"}},\
                 \"responseStatus\":{{\"code\":{code}}}}}"
            )
        };
        assert_eq!(key(&line("ResponseComplete", "patch", 200)).unwrap(), "patch pods/status");
        assert_eq!(key(&line("ResponseComplete", "patch", 409)).unwrap(), "patch pods/status (409)");
        assert_eq!(key(&line("ResponseComplete", "watch", 200)), None);
        let requests: Requests = [
            ("patch pods/status".into(), 2),
            ("get pods".into(), 3),
            ("create events".into(), 5),
            ("delete pods (409)".into(), 1),
        ]
        .into();
        assert_eq!((on_pods(&requests, &WRITES), on_pods(&requests, &["get"])), (3, 3));
    }
}
