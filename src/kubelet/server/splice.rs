//! Copies bytes both ways between a client and the far end, until both are done or nothing moves any more.

use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

/// How much is read at once.
const BUFFER: usize = 32 * 1024;

/// When a tunnel is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Both ends are open, and nothing moved for this long (the kubelet's `streamingConnectionIdleTimeout`).
    pub(super) idle: Duration,
    /// One end is done, and nothing moved for this long. Half-open tunnels are of little use, since Go's proxies on the
    /// way tear down both directions when one ends; but what is still on its way should arrive.
    pub(super) linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(4 * 3600), linger: Duration::from_secs(10) }
    }
}

/// Which side of a copy ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nothing more comes: the end of the stream, or a broken connection.
    Source,
    /// Nothing more is taken.
    Sink,
}

/// Copies both ways; returns when the tunnel is over, for whatever reason.
pub(super) async fn splice(client: impl AsyncRead + AsyncWrite, far: impl AsyncRead + AsyncWrite, limits: Limits) {
    let (client_read, client_write) = tokio::io::split(client);
    let (far_read, far_write) = tokio::io::split(far);
    let activity = Activity::start();
    let mut up = std::pin::pin!(pump(client_read, far_write, &activity, limits.linger));
    let mut down = std::pin::pin!(pump(far_read, client_write, &activity, limits.linger));
    tokio::select! {
        (end, client_read) = &mut up => {
            activity.note();
            let drain = async {
                if end == End::Sink {
                    drain(client_read).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = &mut down => {}
                () = drain => {}
                () = activity.quiet_for(limits.linger) => {}
            }
        }
        (end, _) = &mut down => {
            // A client that takes nothing has gone; nobody is left to serve.
            if end == End::Source {
                activity.note();
                let finish = async {
                    if let (End::Sink, client_read) = up.await {
                        drain(client_read).await;
                    }
                };
                tokio::select! {
                    () = finish => {}
                    () = activity.quiet_for(limits.linger) => {}
                }
            }
        }
        () = activity.quiet_for(limits.idle) => tracing::debug!("a tunnel was idle for too long and is closed"),
    }
}

/// Copies one way, and closes the sink when the source ends. Returns the source, for [`drain`].
async fn pump<R: AsyncRead + Unpin>(
    mut from: R,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
    patience: Duration,
) -> (End, R) {
    let mut buffer = vec![0; BUFFER];
    loop {
        // Many peers close TLS without saying so, which is an error here and the end all the same.
        let read = from.read(&mut buffer).await.unwrap_or_default();
        if read == 0 {
            let _ = timeout(patience, to.shutdown()).await;
            return (End::Source, from);
        }
        activity.note();
        // Flushed every time: TLS holds back what it could not send at once, and a terminal waits for every byte.
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            return (End::Sink, from);
        }
        activity.note();
    }
}

/// Reads and forgets. A socket that is closed with unread bytes resets its connection, and the client would lose the
/// last output that is still on its way to it. What is drained counts as no activity.
async fn drain(mut from: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; BUFFER];
    while matches!(from.read(&mut buffer).await, Ok(1..)) {}
}

/// When bytes last moved, in either direction.
struct Activity(Mutex<Instant>);

impl Activity {
    fn start() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn note(&self) {
        *self.last() = Instant::now();
    }

    async fn quiet_for(&self, limit: Duration) {
        loop {
            let end = *self.last() + limit;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Instant> {
        // An instant is whole whatever happened to another holder.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinHandle;

    fn tunnel() -> (DuplexStream, DuplexStream, JoinHandle<Duration>) {
        let (client, near) = duplex(64);
        let (far, remote) = duplex(64);
        let task = tokio::spawn(async {
            let start = Instant::now();
            splice(near, far, Limits::default()).await;
            start.elapsed()
        });
        (client, remote, task)
    }

    async fn read_to_end(from: &mut DuplexStream) -> Vec<u8> {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.unwrap();
        all
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_a_half_close_lets_the_answer_through() {
        let (mut client, mut remote, task) = tunnel();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_to_end(&mut remote).await, b"question");
        tokio::spawn(async move { remote.write_all(&[7; 1000]).await });
        assert_eq!(read_to_end(&mut client).await.len(), 1000);
        assert!(task.await.unwrap() < Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_output_before_a_close_arrives() {
        let (mut client, mut remote, task) = tunnel();
        tokio::spawn(async move {
            remote.write_all(&vec![1; 100_000]).await.unwrap();
        });
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(read_to_end(&mut client).await.len(), 100_000);
        drop(client);
        assert!(task.await.unwrap() < Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_open_tunnel_ends_when_it_falls_silent() {
        let (mut client, mut remote, task) = tunnel();
        client.shutdown().await.unwrap();
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            remote.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x', "a direction that is in use goes on");
        }
        assert_eq!(task.await.unwrap(), Duration::from_secs(4 * 6 + 10));
        assert_eq!(read_to_end(&mut remote).await, b"");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_talks_on_to_nobody_is_not_listened_to_for_ever() {
        let (mut client, remote, task) = tunnel();
        drop(remote);
        let chatter = tokio::spawn(async move {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let lasted = task.await.unwrap();
        assert!(lasted <= Duration::from_secs(22), "{lasted:?}");
        chatter.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_tunnel_lives_for_hours_and_not_for_ever() {
        let (client, _remote, task) = tunnel();
        assert_eq!(task.await.unwrap(), Duration::from_secs(4 * 3600));
        drop(client);
    }
}
