//! Somebody between Longshore and an API server, who makes trouble.

mod upstream;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt, channel::mpsc};
use http::{HeaderName, Request, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use kube::config::Kubeconfig;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use self::upstream::Upstream;
use crate::{
    bespoke::write_json,
    cluster::Cluster,
    https::{Answer, Https, full},
    runtime::{block_on, spawn},
};

/// A request, and how it was answered.
#[derive(Clone, Debug)]
pub struct Asked {
    /// When it came.
    pub at: Instant,
    /// `GET`, …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// The query, or nothing.
    pub query: String,
    /// The HTTP status of the answer; 0 while there is none.
    pub status: u16,
}

impl Asked {
    /// Whether it is a watch.
    pub fn is_watch(&self) -> bool {
        self.query.contains("watch=true") || self.query.contains("watch=1")
    }

    /// Whether it is about objects of this resource, or a subresource of theirs.
    pub fn is_about(&self, plural: &str) -> bool {
        self.path.split('/').any(|part| part == plural)
    }

    /// Whether it is a watch that begins with a list.
    pub fn begins_with_list(&self) -> bool {
        self.is_watch() && self.query.contains("sendInitialEvents=true")
    }

    /// Whether it asks for all such objects that there are, in a list or at the beginning of a watch.
    pub fn is_list_of(&self, plural: &str) -> bool {
        let all = self.path.rsplit('/').next() == Some(plural) && !self.is_write();
        all && (!self.is_watch() || self.begins_with_list())
    }

    /// Whether it changes anything, or would.
    pub fn is_write(&self) -> bool {
        self.method != "GET"
    }
}

/// Changes an object of an answer: one of a list (`LISTED`), also of one that a watch begins with, or that of a watch's event of
/// this type. `false` leaves it out.
type Edit = Arc<dyn Fn(&str, &mut Value) -> bool + Send + Sync>;

/// What happens to an answer.
#[derive(Clone)]
pub enum Fault {
    /// The request does not arrive, and is answered with this status, and a `Retry-After` in seconds.
    Status(u16, Option<u32>),
    /// The request arrives this much later, also if nobody waits for its answer any more.
    Late(Duration),
    /// The request arrives when it is let go ([`Meddler::release`]), also if nobody waits for its answer any more.
    Held,
    /// The request arrives, and the connection breaks after so many bytes of the answer's body; that of a watch as they come.
    Cut(usize),
    /// The request does not arrive, and is answered with something that is no answer to it.
    Garbage,
    /// Lists and watches are edited.
    Edit(Edit),
}

impl Fault {
    /// See [`Fault::Edit`].
    pub fn edit(edit: impl Fn(&str, &mut Value) -> bool + Send + Sync + 'static) -> Self {
        Self::Edit(Arc::new(edit))
    }
}

struct Rule {
    when: Box<dyn Fn(&Asked) -> bool + Send + Sync>,
    fault: Fault,
    /// How often it still applies.
    left: usize,
    /// When it ends, if it does by itself.
    until: Option<Instant>,
}

impl Rule {
    fn is_over(&self) -> bool {
        self.left == 0 || self.until.is_some_and(|until| until <= Instant::now())
    }
}

/// What ends all watches: a last line of theirs, or nothing.
type Last = Option<String>;

struct Shared {
    upstream: Upstream,
    rules: Mutex<Vec<Rule>>,
    asked: Mutex<Vec<Asked>>,
    last: watch::Sender<Last>,
    /// Lets requests go that are held.
    free: watch::Sender<()>,
    /// How requests that were held have been answered, whoever has heard it.
    released: Mutex<Vec<u16>>,
}

/// Stands before an API server until it is dropped. Whoever comes is taken for the admin.
pub struct Meddler {
    shared: Arc<Shared>,
    dir: TempDir,
    server: Https,
}

impl Meddler {
    /// Stands before this cluster.
    pub fn before(cluster: &Cluster) -> Result<Self> {
        Self::before_server(cluster.admin_kubeconfig()?)
    }

    /// Stands before the API server that this kubeconfig names, which has its certificates in it.
    pub fn before_kubeconfig(path: &Path) -> Result<Self> {
        Self::before_server(serde_json::to_value(Kubeconfig::read_from(path)?)?)
    }

    fn before_server(mut kubeconfig: Value) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("longshore-e2e-").tempdir()?;
        let upstream = block_on(Upstream::new(serde_json::from_value(kubeconfig.clone())?))?;
        let (rules, asked, last) = (Mutex::default(), Mutex::default(), watch::Sender::default());
        let (free, released) = (watch::Sender::default(), Mutex::default());
        let shared = Arc::new(Shared { upstream, rules, asked, last, free, released });
        let answering = shared.clone();
        let server = Https::start(move |request| answering.clone().answer(request))?;
        let authority = dir.path().join("authority.pem");
        std::fs::write(&authority, &server.certificate)?;
        kubeconfig["clusters"][0]["cluster"] = json!({"server": server.url, "certificate-authority": authority});
        write_json(&dir, "kubeconfig", &kubeconfig)?;
        Ok(Self { shared, dir, server })
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        self.server.url.trim_start_matches("https://").parse().context("an address")
    }

    /// How to reach the API server through here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// From now on, to all such requests, also to watches that are under way.
    pub fn always(&self, when: impl Fn(&Asked) -> bool + Send + Sync + 'static, fault: Fault) {
        self.times(usize::MAX, when, fault);
    }

    /// To the next such requests alone.
    pub fn times(&self, times: usize, when: impl Fn(&Asked) -> bool + Send + Sync + 'static, fault: Fault) {
        lock(&self.shared.rules).push(Rule { when: Box::new(when), fault, left: times, until: None });
    }

    /// For so long, to all such requests.
    pub fn during(&self, time: Duration, when: impl Fn(&Asked) -> bool + Send + Sync + 'static, fault: Fault) {
        let until = Some(Instant::now() + time);
        lock(&self.shared.rules).push(Rule { when: Box::new(when), fault, left: usize::MAX, until });
    }

    /// Makes no more trouble.
    pub fn stop(&self) {
        lock(&self.shared.rules).clear();
    }

    /// Closes all watches in good order, as an API server does from time to time.
    pub fn close_watches(&self) {
        self.shared.last.send_replace(None);
    }

    /// Tells all watches that what they would continue from is gone, so that they list anew.
    pub fn expire_watches(&self) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 410,
            "reason": "Expired", "message": "too old resource version"});
        self.shared.last.send_replace(Some(json!({"type": "ERROR", "object": status}).to_string()));
    }

    /// Lets all requests go that are held.
    pub fn release(&self) {
        self.shared.free.send_replace(());
    }

    /// The HTTP statuses with which requests that were held have been answered.
    pub fn released(&self) -> Vec<u16> {
        lock(&self.shared.released).clone()
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer> {
        let mut asked = Asked {
            at: Instant::now(),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            query: request.uri().query().unwrap_or_default().to_owned(),
            status: 0,
        };
        let place = {
            let mut all = lock(&self.asked);
            all.push(asked.clone());
            all.len() - 1
        };
        let answer = self.clone().faulty_answer(request, &asked).await?;
        asked.status = answer.status().as_u16();
        lock(&self.asked)[place] = asked;
        Ok(answer)
    }

    /// The first rule that applies, if it is no edit.
    fn fault(&self, asked: &Asked) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        rules.retain(|rule| !rule.is_over());
        let applies = |rule: &&mut Rule| !matches!(rule.fault, Fault::Edit(_)) && (rule.when)(asked);
        let rule = rules.iter_mut().find(applies)?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    /// Whether objects may be edited: it takes time to read them.
    fn edits(&self) -> bool {
        lock(&self.rules).iter().any(|rule| matches!(rule.fault, Fault::Edit(_)))
    }

    /// Whether an object stays, after all edits.
    fn edited(&self, asked: &Asked, kind: &str, object: &mut Value) -> bool {
        let rules = lock(&self.rules);
        let edits = rules.iter().filter(|rule| (rule.when)(asked));
        edits.into_iter().all(|rule| match &rule.fault {
            Fault::Edit(edit) => edit(kind, object),
            _ => true,
        })
    }

    async fn faulty_answer(self: Arc<Self>, request: Request<Incoming>, asked: &Asked) -> Result<Answer> {
        let fault = self.fault(asked);
        if let Some(Fault::Status(code, retry_after)) = fault {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                "reason": "Meddled", "message": format!("meddled with: {code}")});
            let mut answer = Response::builder().status(code).header(header::CONTENT_TYPE, "application/json");
            if let Some(seconds) = retry_after {
                answer = answer.header(header::RETRY_AFTER, seconds);
            }
            return Ok(answer.body(full(status.to_string()))?);
        }
        if let Some(Fault::Garbage) = fault {
            let answer = Response::builder().status(200).header(header::CONTENT_TYPE, "application/json");
            return Ok(answer.body(full("{\"kind\": [\u{1}<html>\n}{"))?);
        }
        let (parts, body) = request.into_parts();
        let mut sent = Request::builder().method(parts.method).uri(parts.uri);
        let own = [header::HOST, header::AUTHORIZATION, header::CONTENT_LENGTH, header::CONNECTION];
        for (name, value) in parts.headers.iter().filter(|(name, _)| !own.contains(name)) {
            sent = sent.header(name, value);
        }
        let sent = sent.body(body.collect().await?.to_bytes())?;
        // What is on its way arrives in a task of its own, whether or not its sender lives to see it.
        let late = self.clone();
        let answer = match fault {
            Some(Fault::Late(delay)) => {
                spawn(async move {
                    tokio::time::sleep(delay).await;
                    late.upstream.send(sent).await
                })
                .await??
            }
            Some(Fault::Held) => {
                let mut free = self.free.subscribe();
                spawn(async move {
                    free.changed().await?;
                    let answer = late.upstream.send(sent).await?;
                    lock(&late.released).push(answer.status().as_u16());
                    anyhow::Ok(answer)
                })
                .await??
            }
            _ => self.upstream.send(sent).await?,
        };
        let (parts, body) = answer.into_parts();
        let mut told = Response::builder().status(parts.status);
        let own: [HeaderName; 3] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
        for (name, value) in parts.headers.iter().filter(|(name, _)| !own.contains(name)) {
            told = told.header(name, value);
        }
        let body = match fault {
            Some(Fault::Cut(bytes)) if asked.is_watch() => {
                let body = body.into_data_stream();
                let pieces = futures::stream::unfold((body, bytes), |(mut body, left)| async move {
                    let cut = || Err(std::io::Error::other("meddled with: cut"));
                    let piece = match body.next().await? {
                        Ok(chunk) if left > 0 => Ok(Frame::data(chunk.slice(..left.min(chunk.len())))),
                        _ => cut(),
                    };
                    let sent = piece.as_ref().ok().and_then(Frame::data_ref).map_or(0, Bytes::len);
                    Some((piece, (body, left - sent)))
                });
                BodyExt::boxed(StreamBody::new(pieces))
            }
            Some(Fault::Cut(bytes)) => {
                let whole = body.collect().await?.to_bytes();
                let begun = whole.slice(..bytes.min(whole.len()));
                let broken = Err(std::io::Error::other("meddled with: cut"));
                BodyExt::boxed(StreamBody::new(futures::stream::iter([Ok(Frame::data(begun)), broken])))
            }
            _ if asked.is_watch() && parts.status.is_success() => {
                let (sender, receiver) = mpsc::channel(1);
                let (shared, asked) = (self.clone(), asked.clone());
                let last = self.last.subscribe();
                tokio::spawn(async move { shared.relay(&asked, body.into_data_stream(), last, sender).await });
                BodyExt::boxed(StreamBody::new(receiver))
            }
            _ => full(self.whole(asked, body.collect().await?.to_bytes())),
        };
        Ok(told.body(body)?)
    }

    /// The answer as a whole, with the items of a list edited.
    fn whole(&self, asked: &Asked, bytes: Bytes) -> Bytes {
        if !self.edits() {
            return bytes;
        }
        let Ok(mut answer) = serde_json::from_slice::<Value>(&bytes) else { return bytes };
        let Some(items) = answer["items"].as_array_mut() else { return bytes };
        items.retain_mut(|item| self.edited(asked, "LISTED", item));
        answer.to_string().into()
    }

    /// Passes a watch on, event by event.
    async fn relay<E: std::fmt::Display>(
        &self,
        asked: &Asked,
        body: impl Stream<Item = Result<Bytes, E>> + Send,
        mut last: watch::Receiver<Last>,
        mut sender: mpsc::Sender<Result<Frame<Bytes>, std::io::Error>>,
    ) {
        let mut body = std::pin::pin!(body);
        let (mut rest, mut listing) = (Vec::new(), asked.begins_with_list());
        loop {
            let chunk = tokio::select! {
                chunk = body.next() => chunk,
                _ = last.changed() => {
                    let line = last.borrow().clone();
                    if let Some(line) = line {
                        _ = sender.send(Ok(Frame::data(format!("{line}\n").into()))).await;
                    }
                    return;
                }
            };
            let chunk = match chunk {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => {
                    _ = sender.send(Err(std::io::Error::other(error.to_string()))).await;
                    return;
                }
                None => return,
            };
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let Some(line) = self.line(asked, line, &mut listing) else { continue };
                if sender.send(Ok(Frame::data(line.into()))).await.is_err() {
                    return;
                }
            }
        }
    }

    /// An event, edited; `listing` says whether it belongs to the list that the watch begins with.
    fn line(&self, asked: &Asked, line: Vec<u8>, listing: &mut bool) -> Option<Vec<u8>> {
        if !*listing && !self.edits() {
            return Some(line);
        }
        let Ok(mut event) = serde_json::from_slice::<Value>(&line) else { return Some(line) };
        let end = &event["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"];
        if *listing && end == "true" {
            *listing = false;
            return Some(line);
        }
        let kind = if *listing { "LISTED" } else { event["type"].as_str().unwrap_or_default() }.to_owned();
        if !self.edits() {
            return Some(line);
        }
        if !self.edited(asked, &kind, &mut event["object"]) {
            return None;
        }
        Some(format!("{event}\n").into_bytes())
    }
}
