//! What users do: pods come, change, complete and go, some under the names of others.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::{Cluster, pod_path};
use crate::dice::Dice;
use crate::judge::Deeds;

/// The namespaces in which all happens.
pub(crate) const NAMESPACES: [&str; 4] = ["chaos-1", "chaos-2", "chaos-3", "chaos-4"];

/// Grace periods that users choose, in seconds.
const GRACES: [u64; 4] = [1, 2, 5, 30];

/// A place for a pod, and who has it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
}

/// The users' pods.
pub(crate) struct Workload {
    node: String,
    pub(crate) slots: Vec<Slot>,
    /// How often each thing was done.
    pub(crate) done: BTreeMap<&'static str, u64>,
}

impl Workload {
    pub(crate) fn new(node: &str, pods: usize) -> Self {
        let slot = |index: usize| Slot {
            namespace: NAMESPACES[index % NAMESPACES.len()].to_owned(),
            name: format!("pod-{index}"),
            uid: None,
        };
        Self { node: node.to_owned(), slots: (0..pods).map(slot).collect(), done: BTreeMap::new() }
    }

    fn pod(&self, slot: &Slot, dice: &mut Dice) -> Value {
        // Half of them must not start twice.
        let policy = if dice.below(2) == 0 { "Always" } else { "Never" };
        json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": slot.name, "namespace": slot.namespace, "labels": {"app": "chaos"}},
        "spec": {
            "restartPolicy": policy,
            "nodeSelector": {"kubernetes.io/hostname": self.node},
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}],
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "chaos.example/none:1"}],
        }})
    }

    /// One thing that a user does. An API server that does not answer is the user's bad luck.
    pub(crate) async fn step(&mut self, dice: &mut Dice, host: &Cluster, target: &Cluster, deeds: &mut Deeds) {
        let count = u64::try_from(self.slots.len()).unwrap_or(1);
        let index = usize::try_from(dice.below(count)).unwrap_or(0);
        let slot = self.slots[index].clone();
        let pod = self.pod(&slot, dice);
        let (choice, grace) = (dice.below(100), *dice.pick(&GRACES).unwrap_or(&1));
        let what = match (&slot.uid, choice) {
            (None, _) => self.create(index, &pod, host).await.map(|()| "created"),
            (Some(_), 0..=29) => Self::change(&slot, dice, host).await.map(|()| "changed"),
            (Some(uid), 30..=54) => {
                self.slots[index].uid = None;
                Self::delete(&slot, uid, grace, host, deeds).await.map(|()| "deleted")
            }
            (Some(uid), 55..=64) => {
                self.slots[index].uid = None;
                Self::delete(&slot, uid, 0, host, deeds).await.map(|()| "deleted by force")
            }
            (Some(uid), 65..=79) => {
                self.slots[index].uid = None;
                let deleted = Self::delete(&slot, uid, 0, host, deeds).await;
                match deleted {
                    Ok(()) => self.create(index, &pod, host).await.map(|()| "created again under its name"),
                    Err(error) => Err(error),
                }
            }
            (Some(_), _) => Self::complete(&slot, target).await.map(|()| "completed"),
        };
        *self.done.entry(what.unwrap_or("refused")).or_default() += 1;
    }

    async fn create(&mut self, index: usize, pod: &Value, host: &Cluster) -> Result<()> {
        let slot = &mut self.slots[index];
        let made = host.create(&format!("/api/v1/namespaces/{}/pods", slot.namespace), pod).await?;
        slot.uid = made["metadata"]["uid"].as_str().map(ToOwned::to_owned);
        Ok(())
    }

    async fn change(slot: &Slot, dice: &mut Dice, host: &Cluster) -> Result<()> {
        let path = pod_path(&slot.namespace, &slot.name);
        let change = if dice.below(2) == 0 {
            json!({"metadata": {"labels": {"round": dice.below(1000).to_string()}}})
        } else {
            let image = format!("chaos.example/none:{}", dice.below(1000));
            json!({"spec": {"containers": [{"name": "main", "image": image}]}})
        };
        host.send_patch(&path, "application/strategic-merge-patch+json", &change).await.map(drop)
    }

    async fn delete(slot: &Slot, uid: &str, grace: u64, host: &Cluster, deeds: &mut Deeds) -> Result<()> {
        // Whether or not the answer comes.
        deeds.deleted.insert(uid.to_owned());
        let options = json!({"gracePeriodSeconds": grace, "preconditions": {"uid": uid}});
        host.delete(&pod_path(&slot.namespace, &slot.name), &options).await.map(drop)
    }

    /// The containers of a delegate end well, as its kubelet would say.
    async fn complete(slot: &Slot, target: &Cluster) -> Result<()> {
        let path = pod_path(&slot.namespace, &slot.name);
        let pod = target.get(&path).await?;
        anyhow::ensure!(pod["spec"]["restartPolicy"] == "Never" && pod["status"]["phase"] == "Running", "not that one");
        let image = &pod["spec"]["containers"][0]["image"];
        let ended = json!({"name": "main", "image": image, "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let ready = json!([{"type": "Ready", "status": "False", "reason": "PodCompleted"},
            {"type": "ContainersReady", "status": "False", "reason": "PodCompleted"}]);
        let status = json!({"status": {"phase": "Succeeded", "containerStatuses": [ended], "conditions": ready}});
        target.patch(&format!("{path}/status"), &status).await.map(drop)
    }

    /// The users delete everything.
    pub(crate) async fn delete_all(&mut self, host: &Cluster, deeds: &mut Deeds) -> Result<()> {
        for pod in host.pods("app=chaos").await? {
            deeds.deleted.insert(pod.uid.clone());
            host.delete(&pod_path(&pod.namespace, &pod.name), &json!({"gracePeriodSeconds": 1})).await?;
        }
        Ok(())
    }
}
