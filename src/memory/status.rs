//! The status of a pod that runs in memory. Pure.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::kubelet::provider::PodDocument;

/// Annotation of a pod: its containers have ended with this exit code, if its restart policy lets them.
pub(crate) const EXIT: &str = "memory.longshore.dev/exit-code";

/// The address of the pod that was made as this one: of 198.18.0.0/15, which nothing is reached at (RFC 2544).
pub(super) fn address(number: u32) -> String {
    let host = number % 0x1_FFFE + 1;
    format!("198.{}.{}.{}", 18 + (host >> 16), (host >> 8) & 255, host & 255)
}

/// The status of a pod that runs, or has ended as its annotation says. What has ended before stays so.
pub(super) fn of(document: &PodDocument, began: Timestamp, ip: &str, before: Option<&Value>) -> Value {
    if let Some(before) = before.filter(|before| before["phase"] != "Running") {
        return before.clone();
    }
    let started = format!("{began:.0}");
    let policy = document.spec.get("restartPolicy").and_then(Value::as_str).unwrap_or("Always");
    let container = |spec: &Value, state: Value, runs: bool| {
        let (name, image) = (&spec["name"], &spec["image"]);
        let id = format!("memory://{}/{}", document.uid(), name.as_str().unwrap_or_default());
        json!({"name": name, "image": image, "imageID": "", "containerID": id, "ready": true, "started": runs,
            "restartCount": 0, "state": state})
    };
    let running = json!({"running": {"startedAt": started}});
    let done =
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": started}});
    let init = document.list("initContainers").iter().map(|spec| match spec["restartPolicy"].as_str() {
        Some("Always") => container(spec, running.clone(), true),
        _ => container(spec, done.clone(), false),
    });
    let status = json!({
        "phase": "Running",
        "startTime": started,
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "initContainerStatuses": init.collect::<Vec<_>>(),
        "containerStatuses": document.list("containers").iter()
            .map(|spec| container(spec, running.clone(), true)).collect::<Vec<_>>(),
    });
    match document.annotation(EXIT).and_then(|code| code.parse().ok()) {
        Some(code) if policy == "Never" || policy == "OnFailure" && code == 0 => ended(&status, code),
        _ => status,
    }
}

/// The same after its containers have ended with this code. What has ended before stays so.
pub(super) fn ended(status: &Value, code: i32) -> Value {
    if status["phase"] != "Running" {
        return status.clone();
    }
    let mut status = status.clone();
    status["phase"] = if code == 0 { "Succeeded" } else { "Failed" }.into();
    let (reason, now) = (if code == 0 { "Completed" } else { "Error" }, format!("{:.0}", Timestamp::now()));
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in status[list].as_array_mut().into_iter().flatten() {
            if container["state"]["terminated"].is_null() {
                let code = if list == "containerStatuses" { code } else { 0 };
                let started = container["state"]["running"]["startedAt"].clone();
                let end = json!({"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now,
                    "containerID": container["containerID"]});
                container["state"] = json!({"terminated": end});
                (container["ready"], container["started"]) = (false.into(), false.into());
            }
        }
    }
    status
}
