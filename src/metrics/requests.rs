//! Requests to one cluster: how many, how long, and how they ended. Nothing is allocated and nothing locked to count one.

use std::array;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::histogram::Histogram;

use super::families::{API_DURATION, API_REQUESTS, CLIENT_CERTIFICATE, WATCH_ENDS, WATCHES};

/// Whose API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The host's.
    Home,
    /// A target's.
    Target,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Target => "target",
        }
    }
}

/// What is done, in the terms of Kubernetes' RBAC; `connect` for streams into pods, as in its own metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the verbs of RBAC")]
pub enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    Connect,
}

const VERBS: [(Verb, &str); 8] = [
    (Verb::Get, "get"),
    (Verb::List, "list"),
    (Verb::Watch, "watch"),
    (Verb::Create, "create"),
    (Verb::Update, "update"),
    (Verb::Patch, "patch"),
    (Verb::Delete, "delete"),
    (Verb::Connect, "connect"),
];

/// The subresources that are streams.
const STREAMS: [&str; 5] = ["exec", "attach", "portforward", "log", "proxy"];

impl Verb {
    /// What a request does, by the paths of Kubernetes' API.
    pub fn of(method: &Method, path: &str, query: &str) -> Self {
        // Behind group and version, and a namespace that is not itself what is asked for.
        let mut parts = path.trim_matches('/').split('/');
        let prefix = match parts.next() {
            Some("api") => parts.next(),
            Some("apis") => parts.next().and_then(|_| parts.next()),
            _ => None,
        };
        let mut rest: [Option<&str>; 5] = array::from_fn(|_| parts.next());
        if rest[0] == Some("namespaces") && rest[2].is_some() && !matches!(rest[2], Some("status" | "finalize")) {
            rest = [rest[2], rest[3], rest[4], None, None];
        }
        let [_, name, subresource, ..] = rest;
        if subresource.is_some_and(|subresource| STREAMS.contains(&subresource)) {
            return Self::Connect;
        }
        match *method {
            Method::POST => Self::Create,
            Method::PUT => Self::Update,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            _ if query.split('&').any(|part| matches!(part, "watch=true" | "watch=1" | "watch")) => Self::Watch,
            _ if prefix.is_some() && rest[0].is_some() && name.is_none() => Self::List,
            _ => Self::Get,
        }
    }

    fn place(self) -> usize {
        VERBS.iter().position(|(verb, _)| *verb == self).unwrap_or_default()
    }
}

/// The codes that are told apart, and the names of all others, by their first digit. No answer is 0.
const CODES: [(u16, &str); 19] = [
    (0, "0"),
    (101, "101"),
    (200, "200"),
    (201, "201"),
    (202, "202"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (409, "409"),
    (410, "410"),
    (413, "413"),
    (415, "415"),
    (422, "422"),
    (429, "429"),
    (500, "500"),
    (503, "503"),
    (504, "504"),
];
const OTHERS: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];
const COUNTS: usize = CODES.len() + OTHERS.len();

fn place_of(code: u16) -> usize {
    let others = || CODES.len() + OTHERS.get(usize::from(code / 100)).map_or(0, |_| usize::from(code / 100));
    CODES.binary_search_by_key(&code, |(known, _)| *known).unwrap_or_else(|_| others())
}

fn names_of_codes() -> impl Iterator<Item = &'static str> {
    CODES.into_iter().map(|(_, name)| name).chain(OTHERS)
}

/// How a watch has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// The API server has closed it.
    Closed,
    /// Something has gone wrong on the way.
    Broken,
    /// We do not want it any more.
    Dropped,
}

/// What was asked of one cluster.
#[derive(Debug)]
pub struct Requests {
    counts: [[AtomicU64; COUNTS]; VERBS.len()],
    durations: [Histogram; VERBS.len()],
    watches: AtomicI64,
    closed: AtomicU64,
    broken: AtomicU64,
    /// When the client certificate ends, since 1970; 0 for none.
    certificate: AtomicI64,
}

impl Default for Requests {
    fn default() -> Self {
        // An API server is far from slow in some milliseconds, and given up after half a minute.
        let buckets = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        Self {
            counts: array::from_fn(|_| array::from_fn(|_| AtomicU64::new(0))),
            durations: array::from_fn(|_| Histogram::new(buckets)),
            watches: AtomicI64::new(0),
            closed: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            certificate: AtomicI64::new(0),
        }
    }
}

impl Requests {
    /// The API server has begun to answer, with this status; 0 if it did not.
    pub fn answered(&self, verb: Verb, code: u16, took: Duration) {
        self.counts[verb.place()][place_of(code)].fetch_add(1, Ordering::Relaxed);
        self.durations[verb.place()].observe(took.as_secs_f64());
    }

    /// A watch is open.
    pub fn watching(&self) {
        self.watches.fetch_add(1, Ordering::Relaxed);
    }

    /// A watch has ended.
    pub fn watched(&self, end: WatchEnd) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
        match end {
            WatchEnd::Closed => self.closed.fetch_add(1, Ordering::Relaxed),
            WatchEnd::Broken => self.broken.fetch_add(1, Ordering::Relaxed),
            WatchEnd::Dropped => 0,
        };
    }

    /// When the client certificate that is used from now on ends, since 1970, if there is one.
    pub fn certificate(&self, end: Option<i64>) {
        self.certificate.store(end.unwrap_or_default(), Ordering::Relaxed);
    }
}

pub(super) fn encode(all: &[(Side, String, Arc<Requests>)], mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let each = || all.iter().map(|(side, target, requests)| (side.name(), target.as_str(), requests));
    API_REQUESTS.encode(&mut encoder, |samples| {
        for (side, target, requests) in each() {
            for ((_, verb), counts) in VERBS.iter().zip(&requests.counts) {
                for (code, count) in names_of_codes().zip(counts) {
                    let count = count.load(Ordering::Relaxed);
                    if count > 0 {
                        samples.counter([side, target, verb, code], count)?;
                    }
                }
            }
        }
        Ok(())
    })?;
    API_DURATION.encode(&mut encoder, |samples| {
        for (side, target, requests) in each() {
            for (((_, verb), duration), counts) in VERBS.iter().zip(&requests.durations).zip(&requests.counts) {
                if counts.iter().any(|count| count.load(Ordering::Relaxed) > 0) {
                    samples.histogram([side, target, verb], duration)?;
                }
            }
        }
        Ok(())
    })?;
    WATCHES.encode(&mut encoder, |samples| {
        each().try_for_each(|(side, target, requests)| {
            let open = usize::try_from(requests.watches.load(Ordering::Relaxed)).unwrap_or_default();
            samples.number([side, target], open)
        })
    })?;
    WATCH_ENDS.encode(&mut encoder, |samples| {
        each().try_for_each(|(side, target, requests)| {
            samples.counter([side, target, "closed"], requests.closed.load(Ordering::Relaxed))?;
            samples.counter([side, target, "broken"], requests.broken.load(Ordering::Relaxed))
        })
    })?;
    CLIENT_CERTIFICATE.encode(&mut encoder, |samples| {
        each().try_for_each(|(side, target, requests)| match requests.certificate.load(Ordering::Relaxed) {
            0 => Ok(()),
            end => samples.gauge([side, target], seconds(end)),
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "a time in seconds fits for some million years")]
fn seconds(time: i64) -> f64 {
    time as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_is_what_the_path_means() {
        let verb = |method: Method, path: &str| {
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            Verb::of(&method, path, query)
        };
        for (path, expected) in [
            ("/version", Verb::Get),
            ("/api/v1/pods", Verb::List),
            ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn&watch=true&allowWatchBookmarks=true", Verb::Watch),
            ("/api/v1/namespaces", Verb::List),
            ("/api/v1/namespaces/kube-system", Verb::Get),
            ("/api/v1/namespaces/a/pods", Verb::List),
            ("/api/v1/namespaces/a/pods/b", Verb::Get),
            ("/api/v1/namespaces/a/pods/b/log?follow=true", Verb::Connect),
            ("/apis/coordination.k8s.io/v1/namespaces/a/leases/b", Verb::Get),
            ("/apis/longshore.dev/v1alpha1/targets?watch=1", Verb::Watch),
        ] {
            assert_eq!(verb(Method::GET, path), expected, "{path}");
        }
        assert_eq!(verb(Method::POST, "/api/v1/namespaces/a/pods/b/exec?command=sh"), Verb::Connect);
        assert_eq!(verb(Method::POST, "/api/v1/namespaces/a/pods/b/eviction"), Verb::Create);
        assert_eq!(verb(Method::PATCH, "/api/v1/namespaces/a/pods/b/status"), Verb::Patch);
        assert_eq!(verb(Method::PUT, "/api/v1/namespaces/a/status"), Verb::Update);
        assert_eq!(verb(Method::DELETE, "/api/v1/namespaces/a/pods/b"), Verb::Delete);
    }

    #[test]
    fn codes_that_are_not_told_apart_count_with_their_kind() {
        let name = |code| names_of_codes().nth(place_of(code)).unwrap();
        assert_eq!([0, 200, 201, 409, 429, 500, 503].map(name), ["0", "200", "201", "409", "429", "500", "503"]);
        assert_eq!([100, 299, 304, 418, 502, 999].map(name), ["1xx", "2xx", "3xx", "4xx", "5xx", "other"]);
        assert!(CODES.is_sorted());
    }

    #[test]
    fn a_watch_is_open_until_it_ends() {
        let requests = Requests::default();
        requests.watching();
        requests.watching();
        requests.watched(WatchEnd::Closed);
        requests.watched(WatchEnd::Dropped);
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        assert_eq!(
            (requests.watches.load(Ordering::Relaxed), read(&requests.closed), read(&requests.broken)),
            (0, 1, 0)
        );
    }
}
