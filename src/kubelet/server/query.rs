//! The options in a query, read as the kubelet reads them
//! (`pkg/kubelet/server/server.go`, `pkg/apis/core/validation`, `k8s.io/kubelet/pkg/cri/streaming/remotecommand`).

use k8s_openapi::jiff::Timestamp;
use percent_encoding::percent_decode_str;

use crate::kubelet::provider::{ExecOptions, LogOptions};

/// What is wrong with a query; the message is for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    /// Bytes that are not UTF-8. Replacing them would run another command than the one asked for.
    #[error("the query is not valid percent-encoded UTF-8")]
    Encoding,
    /// An option with a value that it cannot have.
    #[error("{option}: Invalid value: {value:?}: {rule}")]
    Invalid { option: &'static str, value: String, rule: &'static str },
    /// Options that exclude each other, or one that is missing.
    #[error("{0}")]
    Combination(&'static str),
}

/// Reads a query into pairs, in order, repeated names included.
fn pairs(query: &str) -> Result<Vec<(String, String)>, QueryError> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| QueryError::Encoding)
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

/// The options of `/containerLogs`.
pub(super) fn logs(query: &str) -> Result<LogOptions, QueryError> {
    let mut options = LogOptions::default();
    let mut seen = Vec::new();
    for (name, value) in pairs(query)? {
        // As in Go, the first of several values counts.
        if seen.contains(&name) {
            continue;
        }
        match name.as_str() {
            "follow" => options.follow = truthy(&value),
            "previous" => options.previous = truthy(&value),
            "timestamps" => options.timestamps = truthy(&value),
            "sinceSeconds" => options.since_seconds = Some(at_least("sinceSeconds", value, 1)?),
            "tailLines" => options.tail_lines = Some(at_least("tailLines", value, 0)?),
            "limitBytes" => options.limit_bytes = Some(at_least("limitBytes", value, 1)?),
            "sinceTime" => options.since_time = Some(time(value)?),
            "stream" if value != "All" => {
                let rule = "only All is supported: separate streams need a feature that is not enabled here";
                return Err(QueryError::Invalid { option: "stream", value, rule });
            }
            _ => {}
        }
        seen.push(name);
    }
    if options.since_seconds.is_some() && options.since_time.is_some() {
        return Err(QueryError::Combination("at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    Ok(options)
}

/// The options of `/exec`. Standard error and a terminal exclude each other; the terminal wins.
pub(super) fn exec(query: &str) -> Result<ExecOptions, QueryError> {
    let options = attach(query)?;
    if options.command.is_empty() {
        return Err(QueryError::Combination("you must specify at least one command for the container"));
    }
    Ok(options)
}

/// The command of `/run`, from the query or a form in the body: words with one space between them, as a kubelet reads it.
pub(super) fn run(query: &str) -> Result<ExecOptions, QueryError> {
    let command = pairs(query)?.into_iter().find(|(name, _)| name == "cmd").map(|(_, command)| command);
    let Some(command) = command.filter(|command| !command.trim().is_empty()) else {
        return Err(QueryError::Combination("you must specify a command for the container: cmd=…"));
    };
    let command = command.split(' ').map(str::to_owned).collect();
    Ok(ExecOptions { command, stdout: true, stderr: true, ..ExecOptions::default() })
}

/// The options of `/attach`.
pub(super) fn attach(query: &str) -> Result<ExecOptions, QueryError> {
    let mut options = ExecOptions::default();
    for (name, value) in pairs(query)? {
        match name.as_str() {
            "command" => options.command.push(value),
            "input" => options.stdin |= on(&value),
            "output" => options.stdout |= on(&value),
            "error" => options.stderr |= on(&value),
            "tty" => options.tty |= on(&value),
            _ => {}
        }
    }
    options.stderr &= !options.tty;
    if !(options.stdin || options.stdout || options.stderr) {
        return Err(QueryError::Combination("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(options)
}

/// The ports of `/portForward`: `port=80&port=81` or `port=80,81`; none for SPDY.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, QueryError> {
    let mut ports = Vec::new();
    for (name, value) in pairs(query)? {
        if name != "port" {
            continue;
        }
        for port in value.split(',') {
            match port.parse() {
                Ok(port) if port > 0 => ports.push(port),
                _ => return Err(QueryError::Invalid { option: "port", value, rule: "must be between 1 and 65535" }),
            }
        }
    }
    Ok(ports)
}

/// A boolean as `k8s.io/apimachinery` converts it: everything is true except "false" and "0".
fn truthy(value: &str) -> bool {
    !(value.eq_ignore_ascii_case("false") || value == "0")
}

/// A switch as the kubelet's exec reads it.
fn on(value: &str) -> bool {
    value == "1" || value == "true"
}

fn at_least(option: &'static str, value: String, least: i64) -> Result<i64, QueryError> {
    match value.parse() {
        Ok(number) if number >= least => Ok(number),
        Ok(_) if least == 0 => Err(QueryError::Invalid { option, value, rule: "must be greater than or equal to 0" }),
        Ok(_) => Err(QueryError::Invalid { option, value, rule: "must be greater than 0" }),
        Err(_) => Err(QueryError::Invalid { option, value, rule: "must be a whole number" }),
    }
}

fn time(value: String) -> Result<String, QueryError> {
    match value.parse::<Timestamp>() {
        Ok(_) => Ok(value),
        Err(_) => Err(QueryError::Invalid { option: "sinceTime", value, rule: "must be a time as in RFC 3339" }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_log_options() {
        let read = logs("follow=true&previous=false&timestamps=1&sinceSeconds=5&tailLines=0&limitBytes=9&stream=All");
        let options = LogOptions {
            follow: true,
            timestamps: true,
            since_seconds: Some(5),
            tail_lines: Some(0),
            limit_bytes: Some(9),
            ..LogOptions::default()
        };
        assert_eq!(read, Ok(options));
        let since = logs("sinceTime=2026-11-01T10%3A00%3A00%2B02%3A00&pretty=1").unwrap().since_time;
        assert_eq!(since.as_deref(), Some("2026-11-01T10:00:00+02:00"));
        assert_eq!(logs(""), Ok(LogOptions::default()));
        assert_eq!(logs("tailLines=1&tailLines=x").unwrap().tail_lines, Some(1));
    }

    #[test]
    fn log_options_that_make_no_sense() {
        for query in [
            "tailLines=-1",
            "tailLines=many",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceTime=yesterday",
            "sinceSeconds=1&sinceTime=2026-11-01T10:00:00Z",
            "stream=Stdout",
            "follow=%ff",
        ] {
            assert!(logs(query).is_err(), "{query}");
        }
        let message = logs("tailLines=-1").unwrap_err().to_string();
        assert_eq!(message, r#"tailLines: Invalid value: "-1": must be greater than or equal to 0"#);
    }

    #[test]
    fn a_command_keeps_its_order_and_spaces() {
        let options = exec("command=sh&command=-c&input=1&command=echo+%26+a%2Bb&command=&output=1&error=1").unwrap();
        assert_eq!(options.command, ["sh", "-c", "echo & a+b", ""]);
        assert!(options.stdin && options.stdout && options.stderr && !options.tty);
    }

    #[test]
    fn a_command_to_run_is_one_text() {
        let options = run("cmd=ls+-l%20/tmp&cmd=other").unwrap();
        assert_eq!(options.command, ["ls", "-l", "/tmp"]);
        assert!(options.stdout && options.stderr && !options.stdin && !options.tty);
        for nothing in ["", "cmd=", "cmd=+", "command=ls", "cmd=%ff"] {
            assert!(run(nothing).is_err(), "{nothing}");
        }
    }

    #[test]
    fn a_terminal_has_no_standard_error() {
        let options = attach("output=1&error=1&tty=1").unwrap();
        assert!(options.tty && options.stdout && !options.stderr);
        assert!(attach("error=1&tty=1").is_err(), "nothing is left");
    }

    #[test]
    fn an_exec_needs_a_command_and_a_stream() {
        assert!(exec("command=ls").is_err());
        assert!(exec("output=1").is_err());
        assert!(exec("output=1&command=%ff").is_err(), "another command than the one asked for");
    }

    #[test]
    fn ports_in_both_spellings() {
        assert_eq!(ports("port=80,81&port=443"), Ok(vec![80, 81, 443]));
        assert_eq!(ports(""), Ok(vec![]));
        for query in ["port=0", "port=70000", "port=", "port=80,"] {
            assert!(ports(query).is_err(), "{query}");
        }
    }
}
