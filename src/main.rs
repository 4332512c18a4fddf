//! The `longshore` binary.

use std::process::ExitCode;

use clap::Parser;
use longshore::cli::Cli;
use longshore::errors::chain;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before anything builds a client. It fails only if there is one already, which then is the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("longshore: {}", chain(&error));
            error.exit_code()
        }
    }
}
