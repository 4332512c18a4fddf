//! The node of a target that leaves.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use kube::{Client, ResourceExt};
use tokio::time::{Instant, sleep};

use crate::cli::ask::{AskError, ROUND, ask, ask_opt};
use crate::only::only;
use crate::provider::names::VIRTUAL_NODE;
use crate::run::drain;

use super::of_these;

/// Longshore deletes the node of what is not declared any more; where nobody has done so for so long, it is deleted here. What
/// has to stay is said.
pub(super) async fn remove(host: &Client, node: &str, patience: Duration) -> Result<Option<String>, AskError> {
    let nodes: Api<Node> = Api::all(host.clone());
    let begun = Instant::now();
    // One that is deleted before Longshore has let go of it is registered again.
    let found = loop {
        let what = format!("look at the node {node}");
        let Some(found) = ask_opt(what, nodes.get_metadata(node)).await? else { return Ok(None) };
        if begun.elapsed() >= patience {
            break found;
        }
        sleep(ROUND).await;
    };
    // Of this name, but a machine's.
    if !found.labels().contains_key(VIRTUAL_NODE) {
        return Ok(None);
    }
    let pods = ask(format!("list the pods of node {node}"), drain::bound(host, node)).await?;
    if !pods.is_empty() {
        let many = pods.len();
        return Ok(Some(format!(
            "node {node} of the host, with {many} pods; `kubectl delete node {node}` removes them"
        )));
    }
    // The pods were those of this Node: one that has been registered since is somebody else's.
    of_these(ask_opt(format!("delete the node {node}"), nodes.delete(node, &only(found.uid()))).await)?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;
    use hyper::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    /// A host with this Node and these pods on it, which answers a deletion like this; and the deletions that it was asked for.
    fn host(node: Value, pods: Value, code: u16) -> (Client, Arc<Mutex<Vec<Value>>>) {
        let asked = Arc::new(Mutex::new(vec![]));
        let seen = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (node, pods, seen) = (node.clone(), pods.clone(), Arc::clone(&seen));
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let (code, answer) = match head.method.as_str() {
                    "DELETE" => {
                        seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                        let reason = if code == 409 { "Conflict" } else { "" };
                        (
                            code,
                            json!({"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason,
                            "status": if code == 200 { "Success" } else { "Failure" }}),
                        )
                    }
                    _ if head.uri.path().ends_with("/pods") => {
                        (200, json!({"kind": "PartialObjectMetadataList", "metadata": {}, "items": pods}))
                    }
                    _ => (200, node),
                };
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, std::io::Error>(Response::builder().status(code).body(body).unwrap())
            }
        });
        (Client::new(service, "default"), asked)
    }

    fn node(labels: &Value) -> Value {
        json!({"metadata": {"name": "east", "uid": "n-1", "labels": labels}})
    }

    fn pod() -> Value {
        json!({"metadata": {"name": "web", "namespace": "shop", "uid": "p-1"}})
    }

    #[tokio::test]
    async fn the_node_that_was_looked_at_goes_and_no_namesake() {
        let ours = || node(&json!({VIRTUAL_NODE: "east"}));
        for code in [200, 404, 409] {
            let (client, asked) = host(ours(), json!([]), code);
            assert_eq!(remove(&client, "east", Duration::ZERO).await.unwrap(), None);
            let asked = asked.lock().unwrap();
            assert_eq!(asked.iter().map(|one| &one["preconditions"]["uid"]).collect::<Vec<_>>(), ["n-1"]);
        }
        let (client, _) = host(ours(), json!([]), 403);
        assert!(remove(&client, "east", Duration::ZERO).await.is_err());
    }

    #[tokio::test]
    async fn a_machine_s_node_stays_and_so_does_one_with_pods() {
        let (client, asked) = host(node(&json!({})), json!([]), 200);
        assert_eq!(remove(&client, "east", Duration::ZERO).await.unwrap(), None);
        assert!(asked.lock().unwrap().is_empty());
        let (client, asked) = host(node(&json!({VIRTUAL_NODE: "east"})), json!([pod()]), 200);
        let left = remove(&client, "east", Duration::ZERO).await.unwrap();
        assert!(left.is_some_and(|left| left.contains("with 1 pods")));
        assert!(asked.lock().unwrap().is_empty());
    }
}
