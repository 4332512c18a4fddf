//! When the node's status is written, by a clock of the test's own.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use kube::client::Body;

use super::*;

/// When the status was written, and which.
type Writes = Arc<Mutex<Vec<(Duration, Value)>>>;

/// A host that has the node. A stubborn one shows none of what is written, and says so ten times a second.
fn host(writes: Writes, stubborn: bool) -> Client {
    let begin = Instant::now();
    let service = tower::service_fn(move |request: Request<Body>| {
        let writes = writes.clone();
        async move {
            let query = request.uri().query().unwrap_or_default();
            if query.contains("watch=") && stubborn {
                let tell = futures::stream::unfold(2_u64, |version| async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let event = json!({"type": "MODIFIED", "object": {"apiVersion": "v1", "kind": "Node", "spec": {},
                        "metadata": {"name": "n", "uid": "u", "resourceVersion": version.to_string()}, "status": {}}});
                    let line = Bytes::from(format!("{event}\n"));
                    Some((Ok::<_, Infallible>(hyper::body::Frame::data(line)), version + 1))
                });
                return Ok(Response::new(StreamBody::new(tell).boxed_unsync()));
            }
            if query.contains("watch=") {
                let nothing = futures::stream::pending::<Result<hyper::body::Frame<Bytes>, Infallible>>();
                return Ok(Response::new(StreamBody::new(nothing).boxed_unsync()));
            }
            let is_list = request.uri().path().ends_with("/nodes");
            if request.method() == Method::PATCH && request.uri().path().ends_with("/status") {
                let patch = request.into_body().collect().await.unwrap().to_bytes();
                let patch: Value = serde_json::from_slice(&patch).unwrap();
                writes.lock().unwrap().push((begin.elapsed(), patch["status"].clone()));
            }
            let shown = writes.lock().unwrap().last().filter(|_| !stubborn).map(|(_, status)| status.clone());
            let status = shown.unwrap_or_else(|| json!({}));
            let node = json!({"apiVersion": "v1", "kind": "Node",
                "metadata": {"name": "n", "uid": "u", "resourceVersion": "1"}, "spec": {}, "status": status});
            let list =
                json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {"resourceVersion": "1"}, "items": [node]});
            let answer = if is_list { list } else { node };
            Ok::<_, Infallible>(Response::new(Full::from(answer.to_string()).boxed_unsync()))
        }
    });
    Client::new(service, "default")
}

struct Provider(watch::Receiver<NodeReport>);

#[async_trait::async_trait]
impl NodeProvider for Provider {
    async fn ping(&self) -> Result<(), Source> {
        Ok(())
    }

    fn node_status(&self) -> watch::Receiver<NodeReport> {
        self.0.clone()
    }
}

/// Keeps the node's status until the token is cancelled.
fn keep(client: Client, report: watch::Receiver<NodeReport>) -> (CancellationToken, tokio::task::JoinHandle<Ended>) {
    let contact = watch::Sender::new(Contact::Answers).subscribe();
    let identity = NodeIdentity {
        name: "n".into(),
        ip: "192.0.2.1".into(),
        port: 10250,
        labels: BTreeMap::new(),
        taints: vec![],
        choice: false,
        annotations: BTreeMap::new(),
    };
    let connect: Connect = Arc::new(|| Box::pin(async { Err("there is no lease here".into()) }));
    let node = NodeController::new(identity, client, connect, Arc::new(Provider(report)), contact);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    (shutdown, tokio::spawn(async move { node.keep_status(false, &stop).await }))
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_never_shown_is_written_with_pauses() {
    let writes = Writes::default();
    let (_change, report) = watch::channel(NodeReport::default());
    let (shutdown, keeping) = keep(host(writes.clone(), true), report);
    tokio::time::sleep(Duration::from_secs(60)).await;
    shutdown.cancel();
    keeping.await.unwrap();
    let many = writes.lock().unwrap().len();
    assert!((6..=13).contains(&many), "{many} times in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_status_is_written_when_it_changes_and_every_five_minutes() {
    let writes = Writes::default();
    let (change, report) = watch::channel(NodeReport::default());
    let (shutdown, keeping) = keep(host(writes.clone(), false), report);
    tokio::time::sleep(Duration::from_secs(700)).await;
    change.send_modify(|report| _ = report.capacity.insert("cpu".into(), "4".into()));
    tokio::time::sleep(Duration::from_secs(295)).await;
    shutdown.cancel();
    keeping.await.unwrap();
    let seconds: Vec<_> = writes.lock().unwrap().iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(seconds, [0, 300, 600, 700], "in seconds");
}
