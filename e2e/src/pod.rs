//! Pods, as tests look at them and as they write them.

use std::fmt::{self, Display};

use serde_json::{Value, json};

/// The image that every node of the clusters has.
pub const IMAGE: &str = "longshore.dev/busybox:1";

/// A script that runs until it is told to stop, and then stops at once.
pub const IDLE: &str = "trap 'exit 0' TERM; sleep 86400 & wait";

/// A container that runs a shell script.
pub fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]})
}

/// A pod as the API server shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod(pub Value);

impl Pod {
    /// `metadata.name`
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `metadata.uid`
    pub fn uid(&self) -> &str {
        self.text("/metadata/uid")
    }

    /// `metadata.resourceVersion`
    pub fn resource_version(&self) -> &str {
        self.text("/metadata/resourceVersion")
    }

    /// `status.phase`
    pub fn phase(&self) -> &str {
        self.text("/status/phase")
    }

    /// Whether its deletion was asked for.
    pub fn is_terminating(&self) -> bool {
        self.0.pointer("/metadata/deletionTimestamp").is_some()
    }

    /// Whether its phase is a last one.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// A label, or nothing.
    pub fn label(&self, key: &str) -> &str {
        self.0["metadata"]["labels"][key].as_str().unwrap_or_default()
    }

    /// A condition, or null.
    pub fn condition(&self, type_: &str) -> &Value {
        let conditions = self.0["status"]["conditions"].as_array();
        conditions.and_then(|all| all.iter().find(|one| one["type"] == type_)).unwrap_or(&Value::Null)
    }

    /// Whether it is Ready, and not about to go.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready")["status"] == "True" && !self.is_terminating()
    }

    /// The states of its init containers and containers, in this order.
    pub fn containers(&self) -> Vec<&Value> {
        let lists = ["initContainerStatuses", "containerStatuses"];
        lists.iter().filter_map(|list| self.0["status"][*list].as_array()).flatten().collect()
    }

    /// The state of one container, or null.
    pub fn container(&self, name: &str) -> &Value {
        self.containers().into_iter().find(|one| one["name"] == name).unwrap_or(&Value::Null)
    }

    /// How often all of its containers were restarted.
    pub fn restarts(&self) -> u64 {
        self.containers().iter().filter_map(|one| one["restartCount"].as_u64()).sum()
    }

    /// Which containers these are: they change with every restart.
    pub fn container_ids(&self) -> Vec<&str> {
        self.containers().into_iter().filter_map(|one| one["containerID"].as_str()).collect()
    }

    /// A text in it, by JSON pointer, or nothing.
    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }
}

/// In a line what somebody needs who reads a failed wait.
impl Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let uid = self.uid();
        write!(f, "{} ({}) {}", self.name(), uid.get(..8).unwrap_or(uid), self.phase())?;
        let ready = if self.is_ready() { ", ready" } else { "" };
        let terminating = if self.is_terminating() { ", terminating" } else { "" };
        write!(f, "{ready}{terminating}")?;
        for container in self.containers() {
            write!(f, "; {} {}", container["name"].as_str().unwrap_or_default(), container["state"])?;
            if container["restartCount"] != 0 {
                write!(f, " after {} restarts", container["restartCount"])?;
            }
        }
        if let Some(message) = self.0.pointer("/status/message") {
            write!(f, "; {message}")?;
        }
        Ok(())
    }
}

/// Several pods in a line each.
pub(crate) fn list(pods: &[Pod]) -> String {
    if pods.is_empty() {
        return "no pods".to_owned();
    }
    pods.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n    ")
}
