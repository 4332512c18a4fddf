//! What users do: pods come, change, complete and go, by themselves and by controllers, some under the names of others.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, pod_path};
use crate::configs::{Configs, refer};
use crate::dice::Dice;
use crate::judge::Deeds;

/// The namespaces in which all happens.
pub(crate) const NAMESPACES: [&str; 4] = ["chaos-1", "chaos-2", "chaos-3", "chaos-4"];

/// Selects all pods of the users.
pub(crate) const SELECTOR: &str = "app=chaos";

/// The images that a real container may have; they have the same programs.
const IMAGES: [&str; 2] = [e2e::IMAGE, OTHER_IMAGE];

/// An image of another name.
pub(crate) const OTHER_IMAGE: &str = "longshore.dev/busybox:2";

/// Grace periods that users choose, in seconds.
const GRACES: [u64; 4] = [1, 2, 5, 30];

/// A place for a bare pod, and who has it.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: Option<String>,
    /// It may start once only.
    once: bool,
}

/// A controller of pods.
#[derive(Clone, Debug)]
struct Controller {
    path: String,
    name: String,
    kind: Kind,
    exists: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Deployment,
    StatefulSet,
    Job,
}

/// The users' pods.
pub(crate) struct Workload {
    node: String,
    real: bool,
    pub(crate) slots: Vec<Slot>,
    controllers: Vec<Controller>,
    configs: Configs,
    /// How many pods a controller has at most.
    replicas: u64,
    /// How often each thing was done.
    pub(crate) done: BTreeMap<String, u64>,
}

impl Workload {
    /// So many pods: most of them by themselves, the others of four Deployments, four StatefulSets and four Jobs.
    pub(crate) fn new(node: &str, pods: usize, real: bool) -> Self {
        let managed = pods / 3;
        let namespace = |index: usize| NAMESPACES[index % NAMESPACES.len()].to_owned();
        let slot =
            |index: usize| Slot { namespace: namespace(index), name: format!("pod-{index}"), uid: None, once: false };
        let controllers = (0..12).map(|index| {
            let (kind, resource, group) = match index / 4 {
                0 => (Kind::Deployment, "deployments", "apps"),
                1 => (Kind::StatefulSet, "statefulsets", "apps"),
                _ => (Kind::Job, "jobs", "batch"),
            };
            let path = format!("/apis/{group}/v1/namespaces/{}/{resource}", namespace(index));
            let name = format!("{}-{index}", resource.trim_end_matches('s'));
            Controller { path, name, kind, exists: false }
        });
        Self {
            node: node.to_owned(),
            real,
            slots: (0..pods - managed).map(slot).collect(),
            controllers: controllers.collect(),
            configs: Configs::new(),
            // On average half of it, over three of four controllers: Jobs come and go.
            replicas: u64::try_from(managed / 6).unwrap_or(1).max(1),
            done: BTreeMap::new(),
        }
    }

    fn spec(&self, policy: &str, script: &str, references: u64) -> Value {
        let container = if self.real {
            let image = e2e::IMAGE;
            json!({"name": "main", "image": image, "command": ["sh", "-c", script]})
        } else {
            json!({"name": "main", "image": "chaos.example/none:1"})
        };
        let mut spec = json!({
            "restartPolicy": policy,
            "nodeSelector": {"kubernetes.io/hostname": self.node},
            "tolerations": [{"key": "longshore.dev/virtual-node", "operator": "Exists"}],
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": false,
            "containers": [container],
        });
        refer(&mut spec, references);
        spec
    }

    fn pod(&self, slot: &Slot, dice: &mut Dice) -> Value {
        // Half of them must not start twice; where containers are real, some of these end by themselves.
        let (policy, ends) = (dice.below(2), dice.below(3) == 0);
        let (policy, script) = match policy {
            0 => ("Always", e2e::IDLE),
            _ if ends => ("Never", "sleep 5"),
            _ => ("Never", e2e::IDLE),
        };
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": slot.name, "namespace": slot.namespace, "labels": {"app": "chaos"}},
            "spec": self.spec(policy, script, dice.below(210))})
    }

    fn object(&self, controller: &Controller, dice: &mut Dice) -> Value {
        let name = &controller.name;
        let replicas = 1 + dice.below(self.replicas);
        let labels = json!({"app": "chaos", "set": name});
        let (kind, policy, script) = match controller.kind {
            Kind::Deployment => ("Deployment", "Always", e2e::IDLE),
            Kind::StatefulSet => ("StatefulSet", "Always", e2e::IDLE),
            Kind::Job => ("Job", "Never", "sleep 1"),
        };
        let template = self.spec(policy, script, dice.below(210));
        let mut spec = json!({"template": {"metadata": {"labels": labels}, "spec": template}});
        if controller.kind == Kind::Job {
            spec["completions"] = replicas.into();
            spec["parallelism"] = (1 + replicas / 2).into();
            // Its pods are deleted and evicted.
            spec["backoffLimit"] = 100.into();
        } else {
            spec["replicas"] = replicas.into();
            spec["selector"] = json!({"matchLabels": {"set": name}});
        }
        if controller.kind == Kind::StatefulSet {
            spec["serviceName"] = name.clone().into();
            spec["podManagementPolicy"] = "Parallel".into();
        }
        let group = if controller.kind == Kind::Job { "batch/v1" } else { "apps/v1" };
        json!({"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec})
    }

    /// One thing that a user does. An API server that does not answer is the user's bad luck.
    pub(crate) async fn step(&mut self, dice: &mut Dice, host: &Cluster, targets: &[Cluster], deeds: &mut Deeds) {
        // The same number of throws for each step.
        let (managed, config, which) = (dice.below(8) == 0, dice.below(10) == 0, dice.below(u64::MAX));
        let (choice, grace, number) = (dice.below(100), *dice.pick(&GRACES).unwrap_or(&1), dice.below(1000));
        let pick = |count: usize| usize::try_from(which % u64::try_from(count.max(1)).unwrap_or(1)).unwrap_or(0);
        let what = if managed {
            let index = pick(self.controllers.len());
            let object = self.object(&self.controllers[index], dice);
            self.control(index, &object, choice, number, host).await
        } else if config {
            self.configs.step(which, choice, number, host).await
        } else {
            let index = pick(self.slots.len());
            let slot = self.slots[index].clone();
            let pod = self.pod(&slot, dice);
            match (&slot.uid, choice) {
                (None, _) => self.create(index, &pod, host).await.map(|()| "created"),
                (Some(uid), 0..=29) => self.change(&slot, uid, number, host, deeds).await,
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
                    match Self::delete(&slot, uid, 0, host, deeds).await {
                        Ok(()) => self.create(index, &pod, host).await.map(|()| "created again under its name"),
                        Err(error) => Err(error),
                    }
                }
                (Some(_), _) if self.real => Ok("left alone"),
                (Some(_), _) => Self::complete(&slot, targets).await.map(|()| "completed"),
            }
        };
        let what = what.map_or_else(|error| refusal(&error), ToOwned::to_owned);
        *self.done.entry(what).or_default() += 1;
    }

    async fn control(
        &mut self,
        index: usize,
        object: &Value,
        choice: u64,
        number: u64,
        host: &Cluster,
    ) -> Result<&'static str> {
        let controller = &mut self.controllers[index];
        let path = format!("{}/{}", controller.path, controller.name);
        if !controller.exists {
            match host.create(&controller.path, object).await {
                // It was made by a request without an answer.
                Err(error) if !is_taken(&error) => return Err(error),
                _ => controller.exists = true,
            }
            return Ok("controllers created");
        }
        match (choice, controller.kind) {
            (0..=39, Kind::Deployment | Kind::StatefulSet) => {
                let change = json!({"spec": {"replicas": object["spec"]["replicas"]}});
                host.patch(&path, &change).await.map(|_| "controllers scaled")
            }
            (40..=69, Kind::Deployment | Kind::StatefulSet) => {
                let annotations = json!({"round": number.to_string()});
                let change = json!({"spec": {"template": {"metadata": {"annotations": annotations}}}});
                host.patch(&path, &change).await.map(|_| "controllers rolled")
            }
            _ => {
                host.delete(&path, &json!({"propagationPolicy": "Background"})).await?;
                controller.exists = false;
                Ok("controllers deleted")
            }
        }
    }

    async fn create(&mut self, index: usize, pod: &Value, host: &Cluster) -> Result<()> {
        let slot = &mut self.slots[index];
        let made = match host.create(&format!("/api/v1/namespaces/{}/pods", slot.namespace), pod).await {
            // It may have been made by a request without an answer; one that is going is the one before.
            Err(error) if is_taken(&error) => {
                let there = host.get(&pod_path(&slot.namespace, &slot.name)).await?;
                if there["metadata"]["deletionTimestamp"].is_string() {
                    return Err(error);
                }
                there
            }
            made => made?,
        };
        slot.once = made["spec"]["restartPolicy"] == "Never";
        slot.uid = made["metadata"]["uid"].as_str().map(ToOwned::to_owned);
        Ok(())
    }

    async fn change(
        &self,
        slot: &Slot,
        uid: &str,
        number: u64,
        host: &Cluster,
        deeds: &mut Deeds,
    ) -> Result<&'static str> {
        let path = pod_path(&slot.namespace, &slot.name);
        let (done, change) = match number % 3 {
            0 => ("labelled", json!({"metadata": {"labels": {"round": number.to_string()}}})),
            1 => ("annotated", json!({"metadata": {"annotations": {"chaos.example/round": number.to_string()}}})),
            // Its kubelet would have to start it twice, or call it failed.
            _ if self.real && slot.once => ("labelled", json!({"metadata": {"labels": {"other": number.to_string()}}})),
            _ => {
                let image = match usize::try_from(number)? % 2 {
                    index if self.real => IMAGES[index].to_owned(),
                    _ => format!("chaos.example/none:{number}"),
                };
                // Whether or not the answer comes. A kubelet starts the container again.
                *deeds.images.entry(uid.to_owned()).or_default() += 1;
                ("given another image", json!({"spec": {"containers": [{"name": "main", "image": image}]}}))
            }
        };
        host.strategic_patch(&path, &change).await.map(|_| done)
    }

    async fn delete(slot: &Slot, uid: &str, grace: u64, host: &Cluster, deeds: &mut Deeds) -> Result<()> {
        // Whether or not the answer comes.
        deeds.deleted.insert(uid.to_owned());
        let options = json!({"gracePeriodSeconds": grace, "preconditions": {"uid": uid}});
        host.delete(&pod_path(&slot.namespace, &slot.name), &options).await.map(drop)
    }

    /// The containers of a delegate end well, as its kubelet would say.
    async fn complete(slot: &Slot, targets: &[Cluster]) -> Result<()> {
        let path = pod_path(&slot.namespace, &slot.name);
        for target in targets {
            let Ok(pod) = target.get(&path).await else { continue };
            ensure!(pod["spec"]["restartPolicy"] == "Never" && pod["status"]["phase"] == "Running", "not that one");
            let (image, meta) = (&pod["spec"]["containers"][0]["image"], &pod["metadata"]);
            let ended = json!({"name": "main", "image": image, "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
            let mut conditions = pod["status"]["conditions"].clone();
            for one in conditions.as_array_mut().into_iter().flatten() {
                if one["type"] == "Ready" || one["type"] == "ContainersReady" {
                    one["status"] = "False".into();
                    one["reason"] = "PodCompleted".into();
                }
            }
            let status = json!({"phase": "Succeeded", "containerStatuses": [ended], "conditions": conditions});
            let meta = json!({"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]});
            return target
                .patch(&format!("{path}/status"), &json!({"metadata": meta, "status": status}))
                .await
                .map(drop);
        }
        Ok(())
    }

    /// Everything is there that pods wait for.
    pub(crate) async fn restore(&mut self, host: &Cluster) -> Result<()> {
        self.configs.restore(host).await
    }

    /// The users delete everything.
    pub(crate) async fn delete_all(&mut self, host: &Cluster, deeds: &mut Deeds) -> Result<()> {
        self.configs.delete_all(host).await?;
        // Also those whose making was not answered.
        for controller in &mut self.controllers {
            let path = format!("{}/{}", controller.path, controller.name);
            match host.delete(&path, &json!({"propagationPolicy": "Background"})).await {
                Err(error) if host.get(&path).await.is_ok() => return Err(error),
                _ => controller.exists = false,
            }
        }
        for pod in host.pods(SELECTOR).await?.into_iter().filter(|pod| pod.controller.is_empty()) {
            deeds.deleted.insert(pod.uid.clone());
            let options = json!({"gracePeriodSeconds": 1, "preconditions": {"uid": pod.uid}});
            _ = host.delete(&pod_path(&pod.namespace, &pod.name), &options).await;
        }
        Ok(())
    }
}

/// Whether a name is taken.
pub(crate) fn is_taken(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.is_already_exists())
}

/// Why a user could not do something, in a word.
fn refusal(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => format!("refused: {}", status.reason),
        Some(_) => "refused: no answer".into(),
        None => format!("refused: {error}"),
    }
}
