//! Watches that begin anew from time to time.
//!
//! A watch tells each change once. One that was lost on the way, by a proxy or a bug of whoever, would stay lost for as long as
//! the watch can be resumed, which may be for ever. A complete list makes good for it.

use std::fmt::Debug;
use std::time::Duration;

use futures::stream::{BoxStream, unfold};
use futures::{Stream, StreamExt};
use kube::Api;
use kube::core::Resource;
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// What a watch yields.
type Item<K> = watcher::Result<watcher::Event<K>>;

/// Follows objects; every `after`, if given, a list begins. A list that is under way is never cut short.
pub(crate) fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    after: Option<Duration>,
) -> impl Stream<Item = Item<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || watcher(api.clone(), config.clone()).backoff(crate::backoff::of_watches()).boxed();
    unfold((begin(), begin, deadline(after), true), move |(mut stream, begin, mut due, mut listing)| async move {
        loop {
            let Some(item) = next(&mut stream, due.filter(|_| !listing)).await else {
                (stream, listing) = (begin(), true);
                continue;
            };
            let item = item?;
            match &item {
                Ok(watcher::Event::Init) => listing = true,
                Ok(watcher::Event::InitDone) => (due, listing) = (deadline(after), false),
                _ => {}
            }
            return Some((item, (stream, begin, due, listing)));
        }
    })
}

/// The next item; `None` if it does not come in time.
async fn next<K>(stream: &mut BoxStream<'static, Item<K>>, due: Option<Instant>) -> Option<Option<Item<K>>> {
    match due {
        Some(due) => tokio::time::timeout_at(due, stream.next()).await.ok(),
        None => Some(stream.next().await),
    }
}

fn deadline(after: Option<Duration>) -> Option<Instant> {
    Some(Instant::now() + after?)
}
