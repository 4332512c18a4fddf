//! The paths of a kubelet (`pkg/kubelet/server/server.go`): text in, a [`Route`] out, nothing else.
//!
//! Every decision later on (who may, who answers) looks at the [`Route`], never at the path again, so that the two cannot
//! be read differently.

use percent_encoding::percent_decode_str;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The logs of a container.
    Logs { pod: PodPath, container: String },
    /// A command in a container.
    Exec { pod: PodPath, container: String },
    /// A command in a container, with its output in the answer.
    Run { pod: PodPath, container: String },
    /// A container's main process.
    Attach { pod: PodPath, container: String },
    /// Ports of a pod.
    PortForward { pod: PodPath },
    /// Whether this server lives.
    Healthz,
    /// The stats summary.
    StatsSummary,
    /// CPU and memory of node, pods and containers, for metrics-server.
    ResourceMetrics,
    /// What this process measures of itself.
    OwnMetrics,
    /// Metrics of a kind of which a virtual node has none: an empty page.
    NoMetrics,
    /// All pods that are bound to the node.
    Pods,
    /// The pods that something runs for.
    RunningPods,
    /// How this kubelet is configured.
    Configz,
    /// A path that a real kubelet has and this one cannot have; the kind decides who may learn so.
    Lacking(Lacking),
    /// No path of a kubelet.
    Unknown,
    /// A path of a kubelet with a name in it that no object can have.
    Malformed(&'static str),
}

/// The families of paths that a virtual node has nothing to put behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    Checkpoint,
    Debug,
    HostLogs,
    Metrics,
    Stats,
    Statusz,
    Flagz,
}

/// A pod as a path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodPath {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The UID, which the client may leave out.
    pub(super) uid: Option<String>,
}

impl Route {
    /// Reads the path of a URI, as it came (percent-encoded).
    ///
    /// The path is split before it is decoded: an encoded slash stays within its segment, where no name may have one.
    pub(super) fn of(path: &str) -> Self {
        let Some(path) = path.strip_prefix('/') else { return Self::Unknown };
        let path = path.strip_suffix('/').unwrap_or(path);
        let segments: Result<Vec<_>, _> = path.split('/').map(|s| percent_decode_str(s).decode_utf8()).collect();
        let Ok(segments) = segments else { return Self::Malformed("the path is not UTF-8") };
        let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
        Self::of_segments(&segments).unwrap_or_else(Self::Malformed)
    }

    fn of_segments(segments: &[&str]) -> Result<Self, &'static str> {
        Ok(match *segments {
            ["containerLogs", namespace, name, container] => {
                Self::Logs { pod: pod(namespace, name, None)?, container: container_name(container)? }
            }
            ["exec", namespace, name, ref rest @ ..] if matches!(rest.len(), 1 | 2) => {
                let (pod, container) = pod_and_container(namespace, name, rest)?;
                Self::Exec { pod, container }
            }
            ["attach", namespace, name, ref rest @ ..] if matches!(rest.len(), 1 | 2) => {
                let (pod, container) = pod_and_container(namespace, name, rest)?;
                Self::Attach { pod, container }
            }
            ["portForward", namespace, name] => Self::PortForward { pod: pod(namespace, name, None)? },
            ["portForward", namespace, name, uid] => Self::PortForward { pod: pod(namespace, name, Some(uid))? },
            ["healthz"] => Self::Healthz,
            ["stats", "summary"] => Self::StatsSummary,
            ["stats", ..] => Self::Lacking(Lacking::Stats),
            ["checkpoint", ..] => Self::Lacking(Lacking::Checkpoint),
            ["configz"] => Self::Configz,
            ["debug", ..] => Self::Lacking(Lacking::Debug),
            ["logs", ..] => Self::Lacking(Lacking::HostLogs),
            ["metrics"] => Self::OwnMetrics,
            ["metrics", "resource"] => Self::ResourceMetrics,
            ["metrics", "cadvisor" | "probes"] => Self::NoMetrics,
            ["metrics", ..] => Self::Lacking(Lacking::Metrics),
            ["pods"] => Self::Pods,
            ["runningpods"] => Self::RunningPods,
            ["run", namespace, name, ref rest @ ..] if matches!(rest.len(), 1 | 2) => {
                let (pod, container) = pod_and_container(namespace, name, rest)?;
                Self::Run { pod, container }
            }
            ["statusz"] => Self::Lacking(Lacking::Statusz),
            ["flagz"] => Self::Lacking(Lacking::Flagz),
            _ => Self::Unknown,
        })
    }
}

fn pod_and_container(namespace: &str, name: &str, rest: &[&str]) -> Result<(PodPath, String), &'static str> {
    match *rest {
        [uid, container] => Ok((pod(namespace, name, Some(uid))?, container_name(container)?)),
        [container] => Ok((pod(namespace, name, None)?, container_name(container)?)),
        _ => Err("a container is missing in the path"),
    }
}

fn pod(namespace: &str, name: &str, uid: Option<&str>) -> Result<PodPath, &'static str> {
    if !is_label(namespace) {
        return Err("the path has no valid namespace");
    }
    if !is_subdomain(name) {
        return Err("the path has no valid pod name");
    }
    if uid.is_some_and(|uid| !is_uid(uid)) {
        return Err("the path has no valid pod UID");
    }
    Ok(PodPath { namespace: namespace.into(), name: name.into(), uid: uid.map(Into::into) })
}

fn container_name(name: &str) -> Result<String, &'static str> {
    if is_label(name) { Ok(name.into()) } else { Err("the path has no valid container name") }
}

/// RFC 1123 label: namespaces and containers.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_part(text)
}

/// RFC 1123 subdomain: pods.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_part)
}

fn is_part(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// UUIDs, and the hashes of static pods.
fn is_uid(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: Option<&str>) -> PodPath {
        PodPath { namespace: "ns".into(), name: "a.b".into(), uid: uid.map(Into::into) }
    }

    #[test]
    fn the_paths_of_the_api_server() {
        let c = || "c".to_owned();
        assert_eq!(Route::of("/containerLogs/ns/a.b/c"), Route::Logs { pod: pod(None), container: c() });
        assert_eq!(Route::of("/exec/ns/a.b/c"), Route::Exec { pod: pod(None), container: c() });
        assert_eq!(Route::of("/exec/ns/a.b/u-1/c"), Route::Exec { pod: pod(Some("u-1")), container: c() });
        assert_eq!(Route::of("/attach/ns/a.b/u-1/c"), Route::Attach { pod: pod(Some("u-1")), container: c() });
        assert_eq!(Route::of("/portForward/ns/a.b"), Route::PortForward { pod: pod(None) });
        assert_eq!(Route::of("/portForward/ns/a.b/U1"), Route::PortForward { pod: pod(Some("U1")) });
        assert_eq!(Route::of("/healthz"), Route::Healthz);
        assert_eq!(Route::of("/stats/summary/"), Route::StatsSummary);
        assert_eq!(Route::of("/metrics"), Route::OwnMetrics);
        assert_eq!(Route::of("/metrics/resource"), Route::ResourceMetrics);
        assert_eq!(Route::of("/metrics/cadvisor"), Route::NoMetrics);
        assert_eq!(Route::of("/pods"), Route::Pods);
        assert_eq!(Route::of("/runningpods/"), Route::RunningPods);
        assert_eq!(Route::of("/configz"), Route::Configz);
    }

    #[test]
    fn what_a_virtual_node_lacks_is_known() {
        for (path, lacking) in [
            ("/logs/", Lacking::HostLogs),
            ("/logs/syslog", Lacking::HostLogs),
            ("/checkpoint/ns/p/c", Lacking::Checkpoint),
            ("/debug/pprof/heap", Lacking::Debug),
            ("/metrics/slis", Lacking::Metrics),
            ("/metrics/resource/more", Lacking::Metrics),
            ("/statusz", Lacking::Statusz),
            ("/stats", Lacking::Stats),
        ] {
            assert_eq!(Route::of(path), Route::Lacking(lacking), "{path}");
        }
    }

    #[test]
    fn nothing_else_is_a_path() {
        for path in ["", "/", "*", "//exec/ns/p/c", "/exec", "/exec/ns/p", "/exec/ns/p/u/c/more", "/Healthz", "/logsx"]
        {
            assert_eq!(Route::of(path), Route::Unknown, "{path}");
        }
    }

    #[test]
    fn weird_names_are_refused() {
        for path in [
            "/exec/ns/../c",
            "/exec/ns/p%2f..%2fq/c",
            "/exec/ns/p/%00",
            "/exec/ns/p/c%20d",
            "/exec/NS/p/c",
            "/exec/ns//c",
            "/exec/ns/p/u_1/c",
            "/exec/ns/p/%ff",
            "/containerLogs/-ns/p/c",
        ] {
            assert!(matches!(Route::of(path), Route::Malformed(_)), "{path}");
        }
        let long = format!("/containerLogs/ns/p/{}", "c".repeat(64));
        assert!(matches!(Route::of(&long), Route::Malformed(_)));
        assert!(matches!(Route::of("/exec/n%73/p/c"), Route::Exec { .. }), "a needless encoding is no harm");
    }
}
