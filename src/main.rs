//! The `longshore` binary.

use std::process::{ExitCode, exit};

use longshore::cli::Cli;
use longshore::errors::chain;

/// glibc's takes a third of the CPU time of a burst, most of it for the pieces of documents (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What shells show of a program that wrote to a reader which had gone.
const NO_READER: i32 = 141;

/// Who reads no further, as `head` does, ends a command without a word. Other programs get a signal for that, which Rust has
/// switched off; to switch it on again takes `unsafe`.
fn end_with_the_reader() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let gone = |text: &String| text.starts_with("failed printing to stdout") && text.contains("Broken pipe");
        if panic.payload().downcast_ref::<String>().is_some_and(gone) {
            exit(NO_READER);
        }
        usual(panic);
    }));
}

fn main() -> ExitCode {
    end_with_the_reader();
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
