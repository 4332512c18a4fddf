//! Watches that begin anew from time to time.
//!
//! A watch tells each change once. One that was lost on the way, by a proxy or a bug of whoever, would stay lost for as long as
//! the watch can be resumed, which may be for ever. A complete list makes good for it.
//!
//! A list comes as the beginning of a watch (KEP-3157) where the API server has that, which all do from 1.34 on: one object after
//! the other, by one request, and neither side has to have a page of them in memory. Older ones are asked for pages.

use std::fmt::Debug;
use std::future::poll_fn;
use std::iter::once;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{BoxStream, iter, unfold};
use futures::{Stream, StreamExt};
use kube::Api;
use kube::core::{Resource, Status};
use kube::runtime::{WatchStreamExt, watcher};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// How many objects are listed at a time where they come in pages. A page is in memory as a whole, as text and as documents:
/// with 500 of kube's own choice, a list would take more than all records of ten thousand pods.
const PAGE: u32 = 100;

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
    watch_all(vec![api], config, after)
}

/// The same in several places, as if they were one: a list is complete when it is of all of them, and where one of them has to
/// be listed anew, all are.
pub(crate) fn watch_all<K>(
    places: Vec<Api<K>>,
    config: watcher::Config,
    after: Option<Duration>,
) -> impl Stream<Item = Item<K>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let paged = Arc::new(AtomicBool::new(false));
    let asked = paged.clone();
    let begin = move || {
        let paged = asked.load(Ordering::Relaxed);
        let config = if paged { config.clone().page_size(PAGE) } else { config.clone().streaming_lists() };
        let one = |api: Api<K>| {
            let config = config.clone();
            move || {
                let stream = watcher(api.clone(), config.clone()).backoff(crate::backoff::of_watches());
                if paged { stream.boxed() } else { announced(stream).boxed() }
            }
        };
        match places.as_slice() {
            [only] => one(only.clone())(),
            places => together(places.iter().cloned().map(one).collect()),
        }
    };
    unfold((begin(), begin, deadline(after), true), move |(mut stream, begin, mut due, mut listing)| {
        let paged = paged.clone();
        async move {
            loop {
                let Some(item) = next(&mut stream, due.filter(|_| !listing)).await else {
                    (stream, listing) = (begin(), true);
                    continue;
                };
                let item = item?;
                match &item {
                    Ok(watcher::Event::Init) => listing = true,
                    Ok(watcher::Event::InitDone) => (due, listing) = (deadline(after), false),
                    Err(error) if wants_pages(error) && !paged.swap(true, Ordering::Relaxed) => {
                        (stream, listing) = (begin(), true);
                        continue;
                    }
                    _ => {}
                }
                return Some((item, (stream, begin, due, listing)));
            }
        }
    })
}

/// Says at once that a list is due. kube says so of a list that comes as a watch only when that has begun, which may be much later,
/// and until then whoever listens would take for complete what nobody tells any more. It may be said twice.
fn announced<K>(stream: impl Stream<Item = Item<K>>) -> impl Stream<Item = Item<K>> {
    let due = |item: &Item<K>| match item {
        Err(watcher::Error::WatchError(status)) => status.code == 410,
        Err(error) => matches!(error, watcher::Error::NoResourceVersion),
        Ok(_) => false,
    };
    let init = || Ok(watcher::Event::Init);
    let told = stream.flat_map(move |item| {
        let anew = due(&item).then(init);
        iter(once(item).chain(anew))
    });
    iter(once(init())).chain(told)
}

/// Whether a watch was refused because the API server cannot begin one with a list: it calls the parameters invalid, whether it
/// knows one of them or both (`ValidateListOptions` of apimachinery).
fn wants_pages(error: &watcher::Error) -> bool {
    let says = |status: &Status| {
        status.is_invalid()
            && ["sendInitialEvents", "resourceVersionMatch"].iter().any(|field| status.message.contains(field))
    };
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if says(status))
}

/// How far the list of one of several places is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was heard of it.
    Unheard,
    /// It has begun, and nothing was shown yet.
    Begun,
    /// A part of it was shown.
    Shown,
    /// It is complete.
    Done,
}

/// Several watches that are one.
struct Together<K, B> {
    begin: Vec<B>,
    streams: Vec<BoxStream<'static, Item<K>>>,
    stages: Vec<Stage>,
    /// Which one is asked first, so that all have their turn.
    turn: usize,
}

fn together<K, B>(begin: Vec<B>) -> BoxStream<'static, Item<K>>
where
    K: Send + 'static,
    B: Fn() -> BoxStream<'static, Item<K>> + Send + 'static,
{
    let streams = begin.iter().map(|begin| begin()).collect();
    let stages = vec![Stage::Unheard; begin.len()];
    unfold(Together { begin, streams, stages, turn: 0 }, |mut all| async move { Some((all.next().await?, all)) })
        .boxed()
}

impl<K, B: Fn() -> BoxStream<'static, Item<K>>> Together<K, B> {
    async fn next(&mut self) -> Option<Item<K>> {
        loop {
            let (place, item) = poll_fn(|context| self.poll(context)).await;
            let listing = self.stages.iter().any(|stage| *stage != Stage::Done);
            match item? {
                Ok(watcher::Event::Init) => {
                    let first = self.stages.iter().all(|stage| *stage == Stage::Unheard);
                    // What was shown of it, or of others, may have gone meanwhile. One that was refused before it showed
                    // anything makes nobody else begin again.
                    let anew = matches!(self.stages[place], Stage::Shown | Stage::Done);
                    self.stages[place] = Stage::Begun;
                    for other in (0..self.stages.len()).filter(|other| anew && *other != place) {
                        self.streams[other] = self.begin[other]();
                        self.stages[other] = Stage::Unheard;
                    }
                    if first || anew {
                        return Some(Ok(watcher::Event::Init));
                    }
                }
                Ok(watcher::Event::InitApply(object)) => {
                    self.stages[place] = Stage::Shown;
                    return Some(Ok(watcher::Event::InitApply(object)));
                }
                Ok(watcher::Event::InitDone) => {
                    self.stages[place] = Stage::Done;
                    if self.stages.iter().all(|stage| *stage == Stage::Done) {
                        return Some(Ok(watcher::Event::InitDone));
                    }
                }
                // It belongs to the list that is not complete yet.
                Ok(watcher::Event::Apply(object)) if listing => return Some(Ok(watcher::Event::InitApply(object))),
                other => return Some(other),
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<Item<K>>)> {
        let count = self.streams.len();
        for place in (0..count).map(|step| (self.turn + step) % count) {
            if let Poll::Ready(item) = self.streams[place].poll_next_unpin(context) {
                self.turn = place + 1;
                return Poll::Ready((place, item));
            }
        }
        Poll::Pending
    }
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

#[cfg(test)]
mod tests {
    use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
    use watcher::Event;

    use super::*;

    type Sender = UnboundedSender<Item<&'static str>>;

    /// Two places, each of which is what is sent to it since it last began.
    struct Places {
        senders: std::sync::mpsc::Receiver<(usize, Sender)>,
        current: [Option<Sender>; 2],
        stream: BoxStream<'static, Item<&'static str>>,
    }

    impl Places {
        fn new() -> Self {
            let (sender, senders) = std::sync::mpsc::channel();
            let begin = |place: usize| {
                let sender = sender.clone();
                move || {
                    let (items, stream): (_, UnboundedReceiver<_>) = unbounded();
                    sender.send((place, items)).unwrap();
                    stream.boxed()
                }
            };
            let stream = together(vec![begin(0), begin(1)]);
            Self { senders, current: [None, None], stream }
        }

        /// Sends to a place; answers what the whole has made of it, and which places have begun anew.
        fn send(&mut self, place: usize, item: Item<&'static str>) -> String {
            self.renew();
            self.current[place].as_ref().unwrap().unbounded_send(item).unwrap();
            let mut seen = vec![];
            while let Some(Some(item)) = futures::FutureExt::now_or_never(self.stream.next()) {
                seen.push(match item {
                    Ok(Event::Init) => "init".to_owned(),
                    Ok(Event::InitDone) => "done".to_owned(),
                    Ok(Event::InitApply(name)) => format!("+{name}"),
                    Ok(Event::Apply(name)) => name.to_owned(),
                    Ok(Event::Delete(name)) => format!("-{name}"),
                    Err(_) => "error".to_owned(),
                });
            }
            seen.extend(self.renew().into_iter().map(|place| format!("anew {place}")));
            seen.join(" ")
        }

        fn renew(&mut self) -> Vec<usize> {
            let begun: Vec<_> = self.senders.try_iter().collect();
            let places = begun.iter().map(|(place, _)| *place).collect();
            for (place, sender) in begun {
                self.current[place] = Some(sender);
            }
            places
        }
    }

    #[test]
    fn a_list_is_announced_before_it_begins() {
        let status = |code| Err(watcher::Error::WatchError(Box::new(Status { code, ..Status::default() })));
        let told = |items: Vec<Item<&'static str>>| {
            let all = announced(iter(items)).collect::<Vec<_>>();
            let all = futures::FutureExt::now_or_never(all).unwrap();
            all.iter().map(|item| matches!(item, Ok(Event::Init))).collect::<Vec<_>>()
        };
        assert_eq!(told(vec![Ok(Event::InitDone), status(500), status(410)]), [true, false, false, false, true]);
        assert_eq!(told(vec![Err(watcher::Error::NoResourceVersion)]), [true, false, true]);
    }

    #[test]
    fn pages_are_asked_for_where_a_watch_cannot_begin_with_a_list() {
        let refused = |code, reason: &str, message: &str| {
            let status = Status { code, reason: reason.into(), message: message.into(), ..Status::default() };
            wants_pages(&watcher::Error::WatchStartFailed(kube::Error::Api(Box::new(status))))
        };
        // As 1.26 says it, and 1.33.
        let old = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch";
        let off = "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch \
                   unless the WatchList feature gate is enabled";
        assert!(refused(422, "Invalid", old) && refused(422, "Invalid", off));
        assert!(!refused(403, "Forbidden", off) && !refused(422, "Invalid", "fieldSelector: no"));
    }

    #[test]
    fn a_list_of_several_places_is_complete_when_it_is_of_all() {
        let mut places = Places::new();
        assert_eq!(places.send(0, Ok(Event::Init)), "init");
        assert_eq!(places.send(0, Ok(Event::InitApply("a"))), "+a");
        assert_eq!(places.send(0, Ok(Event::InitDone)), "");
        assert_eq!(places.send(0, Ok(Event::Apply("b"))), "+b", "the list is not complete");
        // Refused again and again: the other is not asked for that.
        for _ in 0..3 {
            assert_eq!(places.send(1, Ok(Event::Init)), "");
            assert_eq!(places.send(1, Err(watcher::Error::NoResourceVersion)), "error");
        }
        assert_eq!(places.send(1, Ok(Event::Init)), "");
        assert_eq!(places.send(1, Ok(Event::InitDone)), "done");
        assert_eq!(places.send(0, Ok(Event::Apply("c"))), "c");
        assert_eq!(places.send(1, Ok(Event::Delete("d"))), "-d");
    }

    #[test]
    fn where_one_place_is_listed_anew_all_are() {
        let mut places = Places::new();
        for place in 0..2 {
            places.send(place, Ok(Event::Init));
            places.send(place, Ok(Event::InitDone));
        }
        assert_eq!(places.send(1, Ok(Event::Init)), "init anew 0");
        assert_eq!(places.send(1, Ok(Event::InitDone)), "");
        assert_eq!(places.send(0, Ok(Event::Init)), "");
        assert_eq!(places.send(0, Ok(Event::InitApply("a"))), "+a");
        // It breaks off in the middle: what it has shown may have gone.
        assert_eq!(places.send(0, Ok(Event::Init)), "init anew 1");
        assert_eq!(places.send(0, Ok(Event::InitDone)), "");
        assert_eq!(places.send(1, Ok(Event::Init)), "");
        assert_eq!(places.send(1, Ok(Event::InitDone)), "done");
    }
}
