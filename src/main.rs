//! The `longshore` binary.

use std::process::ExitCode;

use longshore::cli::Cli;
use longshore::errors::chain;

/// glibc's takes a third of the CPU time of a burst, most of it for the pieces of documents (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::of_process();
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
