//! SIGTERM and SIGINT: the first asks to stop, the second does not ask.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Cancels `shutdown` on the first signal, and ends the process on the second.
pub(super) fn listen(shutdown: &CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let first = next().await;
        info!(signal = first, "stopping; a second signal stops at once");
        shutdown.cancel();
        let second = next().await;
        warn!(signal = second, "stopping at once");
        std::process::exit(1);
    });
    Ok(())
}
