use serde_json::json;
use tokio::time::{Duration, timeout};

use super::*;
use crate::kubelet::provider::{ExecOptions, Upgrade};

fn pod(uid: &str, policy: &str, exit: Option<&str>) -> PodDocument {
    let annotations = exit.map(|code| json!({status::EXIT: code}));
    serde_json::from_value(json!({
        "metadata": {"namespace": "n", "name": "p", "uid": uid, "annotations": annotations},
        "spec": {"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]},
    }))
    .unwrap()
}

#[tokio::test]
async fn a_pod_runs_at_once_and_only_once() {
    let memory = Memory::new();
    let made = memory.create_pod(&pod("u", "Always", None)).await.unwrap();
    assert_eq!((&made.status["phase"], &made.status["podIP"]), (&json!("Running"), &json!("198.18.0.1")));
    assert_eq!(made.status["containerStatuses"][0]["ready"], true);
    let again = memory.create_pod(&pod("u", "Always", None)).await.unwrap();
    assert_eq!(again, made);
    assert_eq!(memory.get_pods().await.unwrap(), [made]);
}

#[tokio::test]
async fn a_pod_completes_by_its_annotation_where_it_may() {
    let memory = Memory::new();
    let made = memory.create_pod(&pod("u", "OnFailure", None)).await.unwrap();
    let after = memory.update_pod(&pod("u", "OnFailure", Some("0")), &made.instance).await.unwrap();
    assert_eq!(after.status["phase"], "Succeeded");
    assert_ne!(after.instance.sent, made.instance.sent, "an annotation is part of the fingerprint");
    let back = memory.update_pod(&pod("u", "OnFailure", None), &after.instance).await.unwrap();
    assert_eq!(back.status["phase"], "Succeeded", "an end is for ever");
    let failed = memory.create_pod(&pod("v", "Never", Some("3"))).await.unwrap();
    assert_eq!(failed.status["phase"], "Failed");
    assert_eq!(failed.status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    for policy in ["Always", "OnFailure"] {
        let restarted = memory.create_pod(&pod(policy, policy, Some("3"))).await.unwrap();
        assert_eq!(restarted.status["phase"], "Running", "{policy}");
    }
}

#[tokio::test]
async fn only_the_instance_that_is_named_ends() {
    let memory = Memory::new();
    let made = memory.create_pod(&pod("u", "Always", None)).await.unwrap();
    let key = made.key.clone();
    assert_eq!(memory.delete_pod(&key, "another", None).await.unwrap(), Deletion::Gone);
    assert!(memory.get_pod(&key).await.unwrap().is_some());
    assert_eq!(memory.delete_pod(&key, &made.instance.uid, Some(5)).await.unwrap(), Deletion::Started);
    assert!(memory.get_pod(&key).await.unwrap().is_none());
    assert!(memory.update_pod(&pod("u", "Always", None), &made.instance).await.is_err());
}

#[tokio::test]
async fn a_notifier_lists_and_then_tells_of_changes() {
    let memory = Arc::new(Memory::new());
    let made = memory.create_pod(&pod("u", "Always", None)).await.unwrap();
    let (sender, mut notices) = mpsc::channel(16);
    let notifier = memory.clone();
    tokio::spawn(async move { notifier.notify(sender).await });
    let Some(PodNotice::Listing(taken)) = notices.recv().await else { panic!("no list") };
    taken.send(()).unwrap();
    assert!(matches!(notices.recv().await, Some(PodNotice::Seen(seen)) if *seen == made));
    assert!(matches!(notices.recv().await, Some(PodNotice::Listed)));
    memory.delete_pod(&made.key, &made.instance.uid, None).await.unwrap();
    let Some(PodNotice::Seen(seen)) = notices.recv().await else { panic!("no end") };
    assert_eq!(seen.status["phase"], "Succeeded");
    assert!(matches!(notices.recv().await, Some(PodNotice::Gone { instance, .. }) if instance == made.instance.uid));
    assert!(Memory::new().polled().notifier().is_none());
}

#[tokio::test]
async fn logs_go_on_until_the_end_and_exec_is_none() {
    let memory = Memory::new();
    let made = memory.create_pod(&pod("u", "Always", None)).await.unwrap();
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let mut logs = memory.logs(&made.key, "c", options).await.unwrap();
    assert!(String::from_utf8_lossy(&logs.next().await.unwrap().unwrap()).contains("c of n/p"));
    assert!(timeout(Duration::from_millis(20), logs.next()).await.is_err(), "it goes on");
    memory.delete_pod(&made.key, &made.instance.uid, None).await.unwrap();
    assert!(logs.next().await.is_none());
    let upgrade = Upgrade { method: http::Method::POST, headers: http::HeaderMap::new() };
    let exec = memory.exec(&made.key, "c", ExecOptions::default(), upgrade).await;
    assert!(matches!(exec, Err(StreamError::Unsupported(_))));
}

#[test]
fn addresses_differ() {
    assert_eq!(status::address(0), "198.18.0.1");
    assert_eq!(status::address(0xFFFF), "198.19.0.0");
    assert_eq!(status::address(0x1_FFFD), "198.19.255.254");
}
