//! The log: to standard error, for people or for machines.

use std::env;
use std::io::{self, IsTerminal, Write};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How and what to log.
#[derive(Args)]
pub struct LogArgs {
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged: a level, or a filter such as `info,longshore=debug` [default: RUST_LOG, else info for `run` and
    /// warn for `check`]
    #[arg(long = "log", global = true, value_name = "FILTER", env = "LONGSHORE_LOG")]
    filter: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is none.
    #[error("failed to parse the filter `{filter}`")]
    ParseFilter {
        /// The filter.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a log already.
    #[error("failed to install the log")]
    Install(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LogArgs {
    /// Starts the log of this process, at `default_level` if nothing else is said.
    pub(super) fn start(&self, default_level: &str) -> Result<(), LogError> {
        let from_environment = || env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
        let filter = self.filter.clone().or_else(from_environment).unwrap_or_else(|| {
            // The HTTP client logs every failed connection without saying to where; we say that ourselves.
            format!("{default_level},kube_client::client::builder=off")
        });
        let filter = parse(&filter)?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| OneLine(io::stderr()))
            .with_ansi(io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        }
        .map_err(LogError::Install)
    }
}

/// Never logged, whatever the filter says: the client prints whole answers that it cannot read, and among them may be a Secret,
/// or the review of a caller's token.
const SILENCED: &str = "kube_client::client";

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let failed = |source| LogError::ParseFilter { filter: filter.to_owned(), source };
    let silenced = format!("{SILENCED}=off").parse().map_err(failed)?;
    Ok(EnvFilter::try_new(filter).map_err(failed)?.add_directive(silenced))
}

/// Writes each event as one line. Much of what is logged was said by targets, and a line break in it would let them write
/// lines that look like ours.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    /// The subscriber calls it once for each event, with the break at its end.
    fn write_all(&mut self, event: &[u8]) -> io::Result<()> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        if !text.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return self.0.write_all(event);
        }
        let mut line = Vec::with_capacity(event.len() + 8);
        for byte in text {
            match byte {
                b'\n' => line.extend_from_slice(b"\\n"),
                b'\r' => line.extend_from_slice(b"\\r"),
                other => line.push(*other),
            }
        }
        line.push(b'\n');
        self.0.write_all(&line)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood() {
        for good in ["info", "warn,longshore=debug", "longshore::kubelet=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        assert!(parse("longshore=loud").is_err());
    }

    #[test]
    fn what_may_hold_secrets_is_silent_whatever_is_asked_for() {
        for filter in ["trace", "info,kube_client=trace", "kube_client::client=trace"] {
            let parsed = parse(filter).unwrap().to_string();
            assert!(parsed.contains("kube_client::client=off"), "{parsed}");
            assert!(!parsed.contains("kube_client::client=trace"), "{parsed}");
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        let mut written = vec![];
        let mut log = OneLine(&mut written);
        log.write_all(b"INFO plain\n").unwrap();
        log.write_all(b"WARN it said a\r\nINFO forged\n\n").unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "INFO plain\nWARN it said a\\r\\nINFO forged\\n\n");
    }
}
