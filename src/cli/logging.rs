//! The log: to standard error, for people or for machines.

use std::env;
use std::io::{self, IsTerminal};

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
        let filter = parse(filter)?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr)
            .with_ansi(io::stderr().is_terminal());
        match self.log_format {
            LogFormat::Text => log.try_init(),
            LogFormat::Json => log.json().flatten_event(true).try_init(),
        }
        .map_err(LogError::Install)
    }
}

fn parse(filter: String) -> Result<EnvFilter, LogError> {
    EnvFilter::try_new(&filter).map_err(|source| LogError::ParseFilter { filter, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_filters_are_understood() {
        for good in ["info", "warn,longshore=debug", "longshore::kubelet=trace"] {
            assert!(parse(good.to_owned()).is_ok(), "{good}");
        }
        assert!(parse("longshore=loud".to_owned()).is_err());
    }
}
