//! What somebody wants to know about a wait in vain.

use std::{fmt::Write, fs, path::PathBuf};

use serde_json::Value;

use crate::{cluster::Cluster, pod};

const LOG_LINES: usize = 40;
const EVENTS: usize = 20;

/// Everything around a test.
pub(crate) struct Scene {
    pub(crate) clusters: Vec<Cluster>,
    pub(crate) log: PathBuf,
}

impl Scene {
    /// Pods and recent events of the test's namespace on both sides, and the end of Longshore's log.
    pub(crate) fn tell(&self) -> String {
        let mut story = String::new();
        for cluster in &self.clusters {
            let name = cluster.name();
            let pods = cluster.pods("").map_or_else(|error| format!("{error:#}"), |pods| pod::list(&pods));
            _ = writeln!(story, "--- pods in {name}\n    {pods}\n--- events in {name}");
            let mut events = cluster.list("events", "").unwrap_or_default();
            events.sort_by_key(|event| time(event).to_owned());
            for event in events.iter().skip(events.len().saturating_sub(EVENTS)) {
                let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                let (object, reason, message) = (text("/involvedObject/name"), text("/reason"), text("/message"));
                _ = writeln!(story, "    {} {object} {reason}: {message}", time(event));
            }
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n    ");
        _ = writeln!(story, "--- the end of Longshore's log\n    {tail}");
        story
    }
}

fn time(event: &Value) -> &str {
    let times = [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
    times.into_iter().find_map(Value::as_str).unwrap_or_default()
}
