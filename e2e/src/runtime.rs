//! Tests are synchronous stories; what talks to API servers is not.

use std::sync::LazyLock;

use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // There is nobody to hand the error to, and no test without it.
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap_or_else(|error| panic!("tokio: {error}"))
});

/// Waits for what is asynchronous.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

/// Works in the background.
pub(crate) fn spawn<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    RUNTIME.spawn(work)
}
