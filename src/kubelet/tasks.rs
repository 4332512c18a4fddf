//! Tasks that stand and fall together.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Waits until all tasks have ended. The first that fails makes the others end in an orderly way.
///
/// # Errors
/// The first failure.
///
/// # Panics
/// When a task has panicked: that is a bug, which should say where it is.
pub(crate) async fn all<E: 'static>(mut tasks: JoinSet<Result<(), E>>, shutdown: &CancellationToken) -> Result<(), E> {
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let failed = match ended {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        };
        shutdown.cancel();
        outcome = outcome.and(Err(failed));
    }
    outcome
}
