//! Writing into the resources' status what has changed: conditions at once, numbers now and then, and nothing while nothing
//! happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::api::clients;
use crate::api::diagnosis::{Trouble, Version, diagnose};
use crate::api::rights::{Features, target_rights};
use crate::api::status::{TargetStatus, Usage, VirtualNodeStatus, timed};
use crate::api::target::Target;
use crate::api::virtual_node::VirtualNode;
use crate::kubelet::contact::Contact;
use crate::kubelet::provider::{NodeProvider, NodeReport};
use crate::provider::capacity;
use crate::provider::part::Part;
use crate::provider::quantity::Quantity;
use crate::provider::requests::{self, Requests};
use crate::run::board::{Board, Served};
use crate::run::plan::Plan;
use crate::run::targets::{Linked, Targets};
use crate::run::verdict::{self, Acceptance, Complaint, View};
use crate::run::watches::{Kind, News, Resource};

/// Numbers alone are written this often at most.
const CALM: Duration = Duration::from_secs(10);

/// How long until a target that was found wanting is looked at again.
const AGAIN: Duration = Duration::from_secs(20);

/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has been said, and asked.
pub(super) struct Report {
    host: Client,
    board: Board,
    news: mpsc::Sender<News>,
    diagnoses: BTreeMap<String, Diagnosis>,
    written: BTreeMap<(&'static str, String), Instant>,
    /// What was not written although it should have been.
    owed: BTreeSet<(&'static str, String)>,
    questions: u64,
}

/// What is known of a target's rights, and why it was asked for.
struct Diagnosis {
    occasion: String,
    asked: Instant,
    number: u64,
    busy: bool,
    result: Option<Result<Version, Complaint>>,
}

impl Report {
    pub(super) fn new(host: Client, board: Board, news: mpsc::Sender<News>) -> Self {
        let (diagnoses, written, owed) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { host, board, news, diagnoses, written, owed, questions: 0 }
    }

    /// An answer to a question; an old one does not count.
    pub(super) fn diagnosed(&mut self, target: &str, number: u64, result: Result<Version, Trouble>) {
        if let Some(diagnosis) = self.diagnoses.get_mut(target).filter(|known| known.number == number) {
            diagnosis.busy = false;
            diagnosis.result = Some(result.map_err(Complaint::from));
        }
    }

    /// A write has failed, and is due again.
    pub(super) fn unwritten(&mut self, kind: Kind, name: &str) {
        self.owed.insert((word(kind), name.into()));
    }

    /// Looks at all targets.
    pub(super) fn targets(&mut self, targets: &Targets, plan: &Plan) {
        let mut writes = vec![];
        for (name, resource) in targets.declared() {
            let Some(acceptance) = targets.acceptance(name) else { continue };
            let mut nodes = plan.nodes.iter().filter(|(_, node)| node.members.iter().any(|one| one.name == *name));
            let served = match nodes.next() {
                // Somebody else keeps the first of its nodes, or will soon, and says how it is.
                Some((first, _)) if !self.board.node(first).is_some_and(|kept| kept.targets.contains_key(name)) => {
                    continue;
                }
                Some(_) => self.board.target(name),
                None => vec![],
            };
            let status = self.target(resource, acceptance, targets.linked(name), &served, plan);
            writes.push((name.clone(), status));
        }
        self.diagnoses.retain(|name, _| targets.linked(name).is_some());
        for (name, status) in writes {
            if let Some(resource) = targets.declared().find(|(known, _)| **known == name).map(|(_, resource)| resource)
            {
                self.write(Kind::Target, resource, &status);
            }
        }
    }

    fn target(
        &mut self,
        resource: &Resource,
        acceptance: &Acceptance,
        linked: Option<&Linked>,
        served: &[Served],
        plan: &Plan,
    ) -> TargetStatus {
        let name = &resource.name;
        let before: TargetStatus = parsed(&resource.status);
        let nodes = plan.nodes.values().filter(|node| node.members.iter().any(|one| one.name == *name));
        let features = Features::of(nodes.map(|node| &node.spec));
        let view = linked.zip(served.first()).map(|(linked, served)| self.view(name, linked, served, features));
        let now = Timestamp::now();
        let problem = plan.target_problems.get(name);
        let acceptance = match (acceptance, problem) {
            (Acceptance::Good, Some(problem)) => &Acceptance::Bad("NameTaken", problem.clone()),
            (acceptance, _) => acceptance,
        };
        let conditions = verdict::target(acceptance, view.as_ref(), now.as_second());
        let version = view.as_ref().and_then(|view| match &view.diagnosis {
            Some(Ok(Version(version))) => Some(version.clone()),
            _ => None,
        });
        let implied = plan.nodes.get(name).filter(|node| node.implied);
        let mut status = TargetStatus {
            conditions: timed(conditions, &before.conditions, resource.generation, &now.to_string()),
            observed_generation: Some(resource.generation),
            version: version.or_else(|| before.version.clone()),
            port: implied.map(|node| node.port).or(before.port),
            ..TargetStatus::default()
        };
        if let Some(first) = served.first() {
            let mut used = Requests::new();
            for one in served {
                requests::add(&mut used, &one.provider.committed());
            }
            let report = |one: &Served| NodeProvider::node_status(&*one.provider).borrow().clone();
            // Each of several nodes shows all of the target, or its own part.
            let whole = *first.provider.part() == Part::All;
            let parts = if whole { std::slice::from_ref(first) } else { served };
            let report = capacity::together(&parts.iter().map(|one| (report(one), false)).collect::<Vec<_>>());
            status.nodes = parts.iter().map(|one| one.provider.nodes()).sum();
            status.delegates = used.get("pods").and_then(|pods| pods.to_string().parse().ok()).or(Some(0));
            status.usage = Some(usage(&used, &report));
            status.allocatable = report.allocatable;
        }
        status
    }

    /// How a target is, and asks anew where there is an occasion.
    fn view(&mut self, name: &str, linked: &Linked, served: &Served, features: Features) -> View {
        let contact = served.contact.borrow().clone();
        let trouble = NodeProvider::node_status(&*served.provider).borrow().trouble.clone();
        // That of one part is not the target's.
        let trouble = trouble.filter(|trouble| !trouble.reason.starts_with("RemoteNode"));
        let answers = match &contact {
            Contact::Unheard => None,
            Contact::Answers => Some(true),
            Contact::Doubtful(_) | Contact::Silent { .. } => Some(false),
        };
        if let Some(answers) = answers {
            let occasion = format!("{} {answers} {trouble:?} {features:?} {}", linked.digest, json!(linked.spec));
            self.ask(name, linked, features, occasion);
        }
        View {
            contact,
            trouble,
            diagnosis: self.diagnoses.get(name).and_then(|known| known.result.clone()),
            certificate_end: clients::certificate_end(&linked.config),
        }
    }

    fn ask(&mut self, name: &str, linked: &Linked, features: Features, occasion: String) {
        let known = self.diagnoses.get(name);
        let due = known.is_none_or(|known| {
            let wanting = matches!(known.result, Some(Err(_))) && known.asked.elapsed() >= AGAIN;
            known.occasion != occasion || (wanting && !known.busy)
        });
        if !due {
            return;
        }
        self.questions += 1;
        let number = self.questions;
        // What was known counts until there is an answer.
        let result = known.and_then(|known| known.result.clone());
        let diagnosis = Diagnosis { occasion, asked: Instant::now(), number, busy: true, result };
        self.diagnoses.insert(name.into(), diagnosis);
        let (client, address) = (linked.link.client(), linked.address.clone());
        let rights = target_rights(&linked.spec, features);
        let (name, news) = (name.to_owned(), self.news.clone());
        tokio::spawn(async move {
            let result = diagnose(&client, &address, &rights).await;
            if let Err(trouble) = &result {
                tracing::warn!(target_name = name, "{trouble}");
            }
            _ = news.send(News::Diagnosed(name, number, result)).await;
        });
    }

    /// Looks at one virtual node.
    pub(super) fn node(
        &mut self,
        resource: &mut Resource,
        acceptance: &Acceptance,
        problem: Option<&String>,
        port: Option<u16>,
        plan: &Plan,
    ) {
        let before: VirtualNodeStatus = parsed(&resource.status);
        let kept = self.board.node(&resource.name);
        if kept.is_none() && port.is_some() && before.port.is_some() {
            // Another replica keeps it, or this one is about to.
            return;
        }
        let (contact, report) = match &kept {
            Some(kept) => (Some(kept.contact.borrow().clone()), kept.report.borrow().clone()),
            None => (None, NodeReport::default()),
        };
        let view = contact.as_ref().map(|contact| (contact, report.trouble.as_ref()));
        let mut status = VirtualNodeStatus {
            conditions: verdict::node(acceptance, problem, view),
            observed_generation: Some(resource.generation),
            port: port.or(before.port),
            ..VirtualNodeStatus::default()
        };
        let now = Timestamp::now().to_string();
        status.conditions = timed(status.conditions, &before.conditions, resource.generation, &now);
        if let Some(kept) = &kept {
            let well = kept.targets.values().filter(|one| *one.contact.borrow() == Contact::Answers).count();
            let all = plan.nodes.get(&resource.name).map_or(0, |node| node.spec.targets.len());
            // One that is many nodes has its target many times.
            let well = well.min(all);
            let mut used = Requests::new();
            for one in kept.targets.values() {
                requests::add(&mut used, &one.provider.committed());
            }
            status.targets = Some(format!("{well}/{all}"));
            status.usage = Some(usage(&used, &report));
        }
        self.write(Kind::VirtualNode, resource, &status);
    }

    /// Writes a status that differs from what is there.
    fn write<S: Serialize + DeserializeOwned + Default + PartialEq>(
        &mut self,
        kind: Kind,
        resource: &Resource,
        status: &S,
    ) {
        let key = (word(kind), resource.name.clone());
        let (new, old) = (json!(status), json!(parsed::<S>(&resource.status)));
        let owed = self.owed.contains(&key);
        let recently = self.written.get(&key).map(Instant::elapsed);
        // What was written comes back by the watch within that time.
        let pause = if new["conditions"] != old["conditions"] || new["port"] != old["port"] || owed {
            Duration::from_secs(1)
        } else {
            CALM
        };
        if new == old || recently.is_some_and(|ago| ago < pause) {
            return;
        }
        self.owed.remove(&key);
        self.written.insert(key, Instant::now());
        let kind_of = match kind {
            Kind::Target => ApiResource::erase::<Target>(&()),
            Kind::VirtualNode => ApiResource::erase::<VirtualNode>(&()),
        };
        let api: Api<DynamicObject> = Api::all_with(self.host.clone(), &kind_of);
        let (name, news) = (resource.name.clone(), self.news.clone());
        tokio::spawn(async move {
            // The whole of it: a merge would leave what has vanished.
            let patch = json!([{"op": "add", "path": "/status", "value": new}]);
            let Ok(patch) = serde_json::from_value(patch) else { return };
            let patch = Patch::Json::<()>(patch);
            let params = PatchParams::default();
            let written = timeout(PATIENCE, api.patch_status(&name, &params, &patch)).await;
            let error = match written {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() => return,
                Ok(Err(error)) => crate::errors::chain(&error),
                Err(_) => format!("no answer within {} s", PATIENCE.as_secs()),
            };
            tracing::warn!(?kind, name, error, "the status was not written; trying again");
            _ = news.send(News::Unwritten(kind, name)).await;
        });
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Target => "Target",
        Kind::VirtualNode => "VirtualNode",
    }
}

/// A status that cannot be read is none, and written anew.
fn parsed<S: DeserializeOwned + Default>(status: &Value) -> S {
    serde_json::from_value(status.clone()).unwrap_or_default()
}

fn usage(used: &Requests, report: &NodeReport) -> Usage {
    let part = |name: &str| {
        let used = used.get(name).copied().unwrap_or_default();
        let all = report.allocatable.get(name).and_then(|amount| amount.parse().ok()).unwrap_or_default();
        if name == "memory" { format!("{}/{}", bytes(used), bytes(all)) } else { format!("{used}/{all}") }
    };
    Usage { pods: part("pods"), cpu: part("cpu"), memory: part("memory") }
}

/// An amount of bytes, rounded for people: `1.5Gi`.
fn bytes(amount: Quantity) -> String {
    let mebi = amount.millionths_of("1Mi".parse().unwrap_or_default()) / 100_000;
    let (tenths, unit) = if mebi >= 10_240 { (mebi / 1024, "Gi") } else { (mebi, "Mi") };
    if tenths % 10 == 0 { format!("{}{unit}", tenths / 10) } else { format!("{}.{}{unit}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_full_reads_as_people_say_it() {
        let used = [("cpu", "1500m"), ("memory", "64Mi"), ("pods", "3")];
        let used = used.map(|(name, amount)| (name.to_owned(), amount.parse().unwrap())).into_iter().collect();
        let all = [("cpu", "8"), ("memory", "16106127360"), ("pods", "110")];
        let allocatable = all.map(|(name, amount)| (name.to_owned(), amount.to_owned())).into_iter().collect();
        let usage = usage(&used, &NodeReport { allocatable, ..NodeReport::default() });
        assert_eq!(usage, Usage { pods: "3/110".into(), cpu: "1500m/8".into(), memory: "64Mi/15Gi".into() });
    }
}
