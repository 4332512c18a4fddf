//! API servers that keep nothing but pods, for more of them than real ones could bear on one machine: each in memory, over plain
//! HTTP, with a kubelet that is done at once. What Longshore asks for beside pods is answered as far as it needs.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// How many events a watch may be behind before it has to list again, as in a watch cache.
const WINDOW: usize = 50_000;

/// A time; nobody here looks at clocks.
const TIME: &str = "2026-01-01T00:00:00Z";

/// An API server. Clones are the same.
#[derive(Clone)]
pub(crate) struct Fake(Arc<State>);

struct State {
    /// Pods start by themselves as soon as they are created.
    runs: bool,
    uid: String,
    version: AtomicU64,
    pods: Mutex<BTreeMap<String, Arc<Pod>>>,
    /// All other objects, by their path.
    others: Mutex<BTreeMap<String, Value>>,
    news: broadcast::Sender<News>,
    /// The last of them, for watches that go on.
    past: Mutex<VecDeque<News>>,
    requests: Mutex<BTreeMap<String, usize>>,
}

struct Pod {
    node: String,
    text: String,
}

/// An object as it is sent.
enum Text {
    Pod(Arc<Pod>),
    Other(String),
}

impl std::fmt::Display for Text {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Pod(pod) => &pod.text,
            Self::Other(text) => text,
        })
    }
}

/// What happened: to a pod of this node, or to whatever else is at this path.
#[derive(Clone)]
struct News {
    version: u64,
    node: Option<String>,
    path: String,
    line: Arc<str>,
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    body: Value,
}

impl Fake {
    /// Begins to serve, and says where. `objects` are there, by their paths.
    pub(crate) async fn begin(uid: &str, runs: bool, objects: Vec<(String, Value)>) -> Result<(Self, u16)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = State {
            runs,
            uid: uid.into(),
            version: AtomicU64::new(1000),
            pods: Mutex::default(),
            others: Mutex::default(),
            news: broadcast::Sender::new(WINDOW),
            past: Mutex::default(),
            requests: Mutex::default(),
        };
        let fake = Self(Arc::new(state));
        for (path, object) in objects {
            fake.keep(&path, object);
        }
        let serving = fake.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = serving.clone();
                // Whoever hangs up is done.
                tokio::spawn(async move { _ = fake.serve(stream).await });
            }
        });
        Ok((fake, port))
    }

    /// How many pods there are, and how many of them are ready.
    pub(crate) fn pods(&self) -> (usize, usize) {
        let pods = lock(&self.0.pods);
        (pods.len(), pods.values().filter(|pod| pod.text.contains(READY)).count())
    }

    /// How many objects there are whose paths begin so.
    pub(crate) fn known(&self, path: &str) -> usize {
        lock(&self.0.others).keys().filter(|key| key.starts_with(path)).count()
    }

    /// Requests since this was last asked, by verb and what they were about.
    pub(crate) fn requests(&self) -> BTreeMap<String, usize> {
        std::mem::take(&mut lock(&self.0.requests))
    }

    /// A pod as somebody creates it.
    pub(crate) fn create(&self, mut pod: Value) {
        let (namespace, name) = (word(&pod["metadata"]["namespace"]), word(&pod["metadata"]["name"]));
        let key = format!("{namespace}/{name}");
        pod["metadata"]["uid"] = format!("{}-{:012}", &self.0.uid[..23], self.next()).into();
        pod["metadata"]["creationTimestamp"] = TIME.into();
        pod["metadata"]["generation"] = 1.into();
        if pod["status"].is_null() {
            pod["status"] = json!({"phase": "Pending", "qosClass": "Burstable"});
        }
        self.write(&key, pod, "ADDED");
    }

    /// Somebody deletes all of them, with time to end.
    pub(crate) fn delete_all(&self) {
        let keys: Vec<String> = lock(&self.0.pods).keys().cloned().collect();
        for key in keys {
            self.delete(&key, 5);
        }
    }

    fn delete(&self, key: &str, grace: u64) -> Option<Value> {
        let mut pod = self.read(key)?;
        pod["metadata"]["deletionTimestamp"] = TIME.into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        let shown = self.write(key, pod.clone(), "MODIFIED");
        if grace == 0 || self.0.runs {
            pod["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            self.write(key, pod, "DELETED");
            lock(&self.0.pods).remove(key);
        }
        Some(shown)
    }

    fn read(&self, key: &str) -> Option<Value> {
        let pod = lock(&self.0.pods).get(key)?.clone();
        serde_json::from_str(&pod.text).ok()
    }

    fn write(&self, key: &str, mut pod: Value, kind: &str) -> Value {
        // In the order of their versions.
        let mut pods = lock(&self.0.pods);
        let version = self.next();
        pod["metadata"]["resourceVersion"] = version.to_string().into();
        let (node, text) = (word(&pod["spec"]["nodeName"]).to_owned(), pod.to_string());
        let line = format!("{{\"type\":\"{kind}\",\"object\":{text}}}\n").into();
        pods.insert(key.into(), Arc::new(Pod { node: node.clone(), text }));
        self.tell(News { version, node: Some(node), path: String::new(), line });
        pod
    }

    fn tell(&self, news: News) {
        let mut past = lock(&self.0.past);
        if past.len() >= WINDOW {
            past.pop_front();
        }
        past.push_back(news.clone());
        // Nobody may watch.
        _ = self.0.news.send(news);
    }

    fn next(&self) -> u64 {
        self.0.version.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Puts an object that is no pod at its path.
    fn keep(&self, path: &str, mut object: Value) -> Value {
        let mut others = lock(&self.0.others);
        let version = self.next();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = self.0.uid.as_str().into();
        }
        let kind = if others.insert(path.into(), object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into();
        self.tell(News { version, node: None, path: path.into(), line });
        object
    }

    async fn serve(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        while let Some(request) = read(&mut stream).await? {
            if request.query.get("watch").is_some_and(|watch| watch != "false") {
                return self.watch(request, stream.into_inner()).await;
            }
            let (code, answer) = self.answer(request);
            let head = format!(
                "HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            stream.write_all(&[head.as_bytes(), answer.as_bytes()].concat()).await?;
        }
        Ok(())
    }

    fn count(&self, verb: &str, path: &str) {
        let what = if path.ends_with("/status") {
            "status"
        } else {
            path.rsplit('/').find(|part| !part.contains('-')).unwrap_or("")
        };
        *lock(&self.0.requests).entry(format!("{verb} {what}")).or_default() += 1;
    }

    async fn watch(&self, request: Request, mut stream: TcpStream) -> Result<()> {
        self.count("watch", &request.path);
        let pods = request.path == "/api/v1/pods";
        let chosen = Selection::of(&request);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            .await?;
        let mut from: u64 = request.query.get("resourceVersion").and_then(|from| from.parse().ok()).unwrap_or_default();
        if request.query.get("sendInitialEvents").is_some_and(|wanted| wanted == "true") {
            let (version, known) = self.known_now(&request.path, &chosen);
            for object in known {
                let line = format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n");
                stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await?;
            }
            let end = json!({"type": "BOOKMARK", "object": {"kind": "Object", "apiVersion": "v1", "metadata": {
                "resourceVersion": version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}});
            let end = format!("{end}\n");
            stream.write_all(format!("{:x}\r\n{end}\r\n", end.len()).as_bytes()).await?;
            from = version;
        }
        let (mut news, missed, expired) = {
            let past = lock(&self.0.past);
            let missed: Vec<News> = past.iter().filter(|one| one.version > from).cloned().collect();
            (
                self.0.news.subscribe(),
                missed,
                past.len() >= WINDOW && past.front().is_some_and(|one| one.version > from + 1),
            )
        };
        if expired {
            let gone = format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status(410, "Expired"));
            stream.write_all(format!("{:x}\r\n{gone}\r\n0\r\n\r\n", gone.len()).as_bytes()).await?;
            return Ok(());
        }
        let wanted = |one: &News| match &one.node {
            Some(node) => pods && chosen.takes(node),
            None => one.path.starts_with(&request.path) && !pods,
        };
        let mut missed = missed.into_iter();
        loop {
            let one = match missed.next() {
                Some(one) => one,
                None => match news.recv().await {
                    Ok(one) => one,
                    // Too slow, and has to go on from where it was.
                    Err(_) => return Ok(()),
                },
            };
            if wanted(&one) {
                stream.write_all(format!("{:x}\r\n{}\r\n", one.line.len(), one.line).as_bytes()).await?;
            }
        }
    }

    /// What there is of a collection, as text, and of which version that is.
    fn known_now(&self, path: &str, chosen: &Selection) -> (u64, Vec<Text>) {
        let (pods, others) = (lock(&self.0.pods), lock(&self.0.others));
        let known = if path == "/api/v1/pods" {
            pods.values().filter(|pod| chosen.takes(&pod.node)).cloned().map(Text::Pod).collect()
        } else {
            let inside = format!("{path}/");
            let inside = others.iter().filter(|(at, _)| at.starts_with(&inside));
            inside.map(|(_, object)| Text::Other(object.to_string())).collect()
        };
        (self.0.version.load(Ordering::SeqCst), known)
    }

    fn answer(&self, request: Request) -> (u16, String) {
        let Request { method, path, query, body } = request;
        self.count(&method.to_lowercase(), &path);
        if path == "/version" {
            return (200, json!({"major": "1", "minor": "35", "gitVersion": "v1.35.4", "gitCommit": "", "gitTreeState": "", "buildDate": TIME, "goVersion": "", "compiler": "gc", "platform": "linux/amd64"}).to_string());
        }
        if path.ends_with("selfsubjectaccessreviews") {
            let mut review = body;
            review["status"] = json!({"allowed": true});
            return (201, review.to_string());
        }
        match pod_key(&path) {
            Some((key, subresource)) => self.pod(&method, &key, subresource, &body),
            None if path.ends_with("/pods") && method == "GET" => (200, self.list(&query)),
            None if path.ends_with("/pods") && method == "POST" => self.start(body),
            None => self.other(&method, &path, body),
        }
    }

    fn list(&self, query: &BTreeMap<String, String>) -> String {
        let chosen = Selection::among(query);
        let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let pods = lock(&self.0.pods);
        let from = query.get("continue").map_or(Bound::Unbounded, |last| Bound::Excluded(last.clone()));
        let mut some = pods.range((from, Bound::Unbounded)).filter(|(_, pod)| chosen.takes(&pod.node));
        let (mut items, mut last) = (vec![], None);
        for (key, pod) in some.by_ref().take(limit) {
            items.push(pod.text.as_str());
            last = Some(key);
        }
        let more =
            last.filter(|_| some.next().is_some()).map(|key| format!(r#","continue":"{key}""#)).unwrap_or_default();
        let version = self.0.version.load(Ordering::SeqCst);
        format!(
            r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"{more}}},"items":[{}]}}"#,
            items.join(",")
        )
    }

    /// A pod that is ready as soon as it is there.
    fn start(&self, body: Value) -> (u16, String) {
        let key = format!("{}/{}", word(&body["metadata"]["namespace"]), word(&body["metadata"]["name"]));
        self.create(body);
        let Some(made) = self.read(&key) else { return (500, String::new()) };
        if self.0.runs {
            let mut runs = made.clone();
            runs["spec"]["nodeName"] = "fake-0".into();
            let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": TIME});
            let kinds = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
            let containers = made["spec"]["containers"].as_array().into_iter().flatten();
            let running = |one: &Value| {
                json!({"name": one["name"], "image": one["image"], "imageID": "", "ready": true, "started": true, "restartCount": 0,
                "containerID": "containerd://0123456789", "state": {"running": {"startedAt": TIME}}, "lastState": {}})
            };
            runs["status"] = json!({"phase": "Running", "qosClass": "Burstable", "startTime": TIME, "hostIP": "10.0.0.1", "podIP": "10.1.0.1",
                "podIPs": [{"ip": "10.1.0.1"}], "conditions": kinds.map(condition), "containerStatuses": containers.map(running).collect::<Vec<_>>()});
            self.write(&key, runs, "MODIFIED");
        }
        (201, made.to_string())
    }

    fn pod(&self, method: &str, key: &str, subresource: &str, body: &Value) -> (u16, String) {
        let Some(mut pod) = self.read(key) else { return missing() };
        match method {
            "DELETE" => {
                let grace = body["gracePeriodSeconds"].as_u64().unwrap_or(5);
                (200, self.delete(key, grace).unwrap_or_default().to_string())
            }
            "PATCH" if subresource == "status" => {
                if body["metadata"]["resourceVersion"].is_string()
                    && body["metadata"]["resourceVersion"] != pod["metadata"]["resourceVersion"]
                {
                    return (409, status(409, "Conflict").to_string());
                }
                merge(&mut pod["status"], &body["status"]);
                (200, self.write(key, pod, "MODIFIED").to_string())
            }
            _ => (200, pod.to_string()),
        }
    }

    fn other(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let named = |body: &Value| format!("{path}/{}", word(&body["metadata"]["name"]));
        let (place, status_alone) = path.strip_suffix("/status").map_or((path, false), |place| (place, true));
        let known = lock(&self.0.others).get(place).cloned();
        match (method, known) {
            ("GET", Some(object)) => (200, object.to_string()),
            // The last part is a name where the collection is none of those that are asked for as a whole.
            ("GET", None) if !is_collection(path) => missing(),
            ("GET", None) => {
                let inside = format!("{path}/");
                let others = lock(&self.0.others);
                let items: Vec<&Value> =
                    others.iter().filter(|(at, _)| at.starts_with(&inside)).map(|(_, one)| one).collect();
                let version = self.0.version.load(Ordering::SeqCst).to_string();
                (200, json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}).to_string())
            }
            ("POST", _) => (201, self.keep(&named(&body), body).to_string()),
            ("PUT", _) => (200, self.keep(place, body).to_string()),
            ("PATCH", Some(mut object)) if body.is_array() => {
                let done = serde_json::from_value::<json_patch::Patch>(body)
                    .map(|patch| json_patch::patch(&mut object, &patch));
                match done {
                    Ok(Ok(())) => (200, self.keep(place, object).to_string()),
                    // What it expects is not as it is, or it is no patch.
                    _ => (422, status(422, "Invalid").to_string()),
                }
            }
            ("PATCH", Some(mut object)) => {
                if status_alone {
                    merge(&mut object["status"], &body["status"]);
                } else {
                    merge(&mut object, &body);
                }
                (200, self.keep(place, object).to_string())
            }
            _ => missing(),
        }
    }
}

/// How an object of serde's own order begins a condition that is true.
const READY: &str = r#""status":"True","type":"Ready""#;

/// The pods that a list or watch is about.
#[derive(PartialEq, Eq)]
enum Selection {
    All,
    Node(String),
    /// The pods of others, of which there are none.
    Nothing,
}

impl Selection {
    fn of(request: &Request) -> Self {
        Self::among(&request.query)
    }

    fn among(query: &BTreeMap<String, String>) -> Self {
        let get = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        if get("labelSelector").contains("!=") {
            return Self::Nothing;
        }
        get("fieldSelector").strip_prefix("spec.nodeName=").map_or(Self::All, |node| Self::Node(node.into()))
    }

    fn takes(&self, node: &str) -> bool {
        match self {
            Self::All => true,
            Self::Node(wanted) => wanted == node,
            Self::Nothing => false,
        }
    }
}

fn is_collection(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    ["namespaces", "nodes", "events", "configmaps", "secrets", "services", "leases", "resourcequotas"].contains(&last)
}

/// Namespace and name in the path of one pod, and the subresource.
fn pod_key(path: &str) -> Option<(String, &str)> {
    let rest = path.strip_prefix("/api/v1/namespaces/")?;
    let (namespace, rest) = rest.split_once("/pods/")?;
    let (name, subresource) = rest.split_once('/').unwrap_or((rest, ""));
    Some((format!("{namespace}/{name}"), subresource))
}

/// A merge patch; of a strategic one it follows as much as Longshore's statuses need.
fn merge(to: &mut Value, patch: &Value) {
    let (Some(fields), true) = (patch.as_object(), to.is_object() || to.is_null()) else {
        *to = patch.clone();
        return;
    };
    for (name, value) in fields {
        match value {
            Value::Null => _ = to.as_object_mut().map(|to| to.remove(name)),
            Value::Array(items) => {
                let mut items: Vec<Value> = items.iter().filter(|one| one["$patch"].is_null()).cloned().collect();
                for one in items.iter_mut().filter_map(Value::as_object_mut) {
                    one.retain(|_, field| !field.is_null());
                }
                // Conditions and addresses merge by their types, all else comes as a whole.
                let merges = items.iter().all(|one| one["type"].is_string());
                let known = to[name].as_array().filter(|_| merges).cloned().unwrap_or_default();
                items.splice(
                    0..0,
                    known
                        .into_iter()
                        .filter(|old| !items.iter().any(|new| new["type"] == old["type"]))
                        .collect::<Vec<_>>(),
                );
                to[name] = items.into();
            }
            other => merge(&mut to[name], other),
        }
    }
}

fn missing() -> (u16, String) {
    (404, status(404, "NotFound").to_string())
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason, "metadata": {}})
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The next request of a connection.
async fn read(stream: &mut BufReader<TcpStream>) -> Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, uri) = (words.next().context("no method")?.to_owned(), words.next().context("no path")?.to_owned());
    let mut length = 0;
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let (path, query) = uri.split_once('?').unwrap_or((&uri, ""));
    let query =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), decoded(value)));
    Ok(Some(Request {
        method,
        path: path.into(),
        query: query.collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut decoded = parts.next().unwrap_or_default().replace('+', " ");
    for part in parts {
        let (code, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        decoded.push(u8::from_str_radix(code, 16).map_or('%', char::from));
        decoded.push_str(&rest.replace('+', " "));
    }
    decoded
}

/// No code panics while it holds the lock.
fn lock<T>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}
