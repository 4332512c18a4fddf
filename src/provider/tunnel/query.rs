//! From a kubelet's options to those of the pod subresources (`PodLogOptions`, `PodExecOptions`, `PodAttachOptions`,
//! `PodPortForwardOptions`).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::kubelet::provider::{ExecOptions, LogOptions};

/// Everything but what RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A query in the making, in order, names repeated where they repeat.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query(String);

impl Query {
    /// For `pods/log`.
    pub(super) fn logs(container: &str, options: &LogOptions) -> Self {
        Self::default()
            .with("container", container)
            .with_flag("follow", options.follow)
            .with_flag("previous", options.previous)
            .with_flag("timestamps", options.timestamps)
            .with_some("sinceSeconds", options.since_seconds.as_ref())
            .with_some("sinceTime", options.since_time.as_ref())
            .with_some("tailLines", options.tail_lines.as_ref())
            .with_some("limitBytes", options.limit_bytes.as_ref())
    }

    /// For `pods/exec` and, without a command, `pods/attach`. Absent switches are said too: the API server takes standard
    /// output and standard error of an attach for wanted where nothing is said.
    pub(super) fn exec(container: &str, options: &ExecOptions) -> Self {
        let query = options.command.iter().fold(Self::default(), |query, part| query.with("command", part));
        query
            .with("container", container)
            .with("stdin", &options.stdin.to_string())
            .with("stdout", &options.stdout.to_string())
            .with("stderr", &(options.stderr && !options.tty).to_string())
            .with("tty", &options.tty.to_string())
    }

    /// For `pods/portforward`.
    pub(super) fn ports(ports: &[u16]) -> Self {
        ports.iter().fold(Self::default(), |query, port| query.with("ports", &port.to_string()))
    }

    /// The URI of a pod's subresource with this query, relative to the API server.
    pub(super) fn uri(self, namespace: &str, pod: &str, subresource: &str) -> String {
        let (namespace, pod) = (utf8_percent_encode(namespace, ENCODED), utf8_percent_encode(pod, ENCODED));
        let separator = if self.0.is_empty() { "" } else { "?" };
        format!("/api/v1/namespaces/{namespace}/pods/{pod}/{subresource}{separator}{}", self.0)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.extend(utf8_percent_encode(value, ENCODED));
        self
    }

    fn with_flag(self, name: &str, on: bool) -> Self {
        if on { self.with(name, "true") } else { self }
    }

    fn with_some(self, name: &str, value: Option<&impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, &value.to_string()),
            None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_keep_their_names() {
        let options = LogOptions {
            follow: true,
            previous: true,
            timestamps: true,
            since_seconds: Some(1),
            since_time: Some("2026-11-01T10:00:00+02:00".into()),
            tail_lines: Some(0),
            limit_bytes: Some(3),
        };
        assert_eq!(
            Query::logs("c", &options).uri("ns", "a.b", "log"),
            "/api/v1/namespaces/ns/pods/a.b/log?container=c&follow=true&previous=true&timestamps=true&sinceSeconds=1\
             &sinceTime=2026-11-01T10%3A00%3A00%2B02%3A00&tailLines=0&limitBytes=3"
        );
        assert_eq!(Query::logs("c", &LogOptions::default()).0, "container=c");
    }

    #[test]
    fn a_command_keeps_its_order_and_every_character() {
        let command = ["sh", "-c", "echo 'ä' & x=1+1;#?", "", "sh"].map(Into::into).to_vec();
        let options = ExecOptions { command, stdout: true, stderr: true, ..ExecOptions::default() };
        assert_eq!(
            Query::exec("c", &options).0,
            "command=sh&command=-c&command=echo%20%27%C3%A4%27%20%26%20x%3D1%2B1%3B%23%3F&command=&command=sh\
             &container=c&stdin=false&stdout=true&stderr=true&tty=false"
        );
    }

    #[test]
    fn a_terminal_has_no_standard_error() {
        let options = ExecOptions { stdin: true, stdout: true, stderr: true, tty: true, ..ExecOptions::default() };
        assert_eq!(Query::exec("c", &options).0, "container=c&stdin=true&stdout=true&stderr=false&tty=true");
    }

    #[test]
    fn ports_are_repeated_and_may_be_absent() {
        assert_eq!(Query::ports(&[80, 81]).0, "ports=80&ports=81");
        assert_eq!(Query::ports(&[]).uri("n", "p", "portforward"), "/api/v1/namespaces/n/pods/p/portforward");
        assert_eq!(Query::ports(&[]).uri("n/../m", "p?x", "log"), "/api/v1/namespaces/n%2F..%2Fm/pods/p%3Fx/log");
    }
}
