//! What goes wrong: processes, links, API servers, and people in the target.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{Berth, Cut, Frozen, Longshore};
use lab::Lab;
use serde_json::json;

use crate::cluster::{Cluster, pod_path};
use crate::dice::Dice;
use crate::judge::{Deeds, Side};
use crate::workload::{NAMESPACES, Slot};
use crate::{HOST, TARGET};

/// The process of the clusters that serves their API.
const API_SERVER: &str = "kube-apiserver";

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A replica ends as in a power cut, and starts again later.
    Kill,
    /// Both do.
    KillBoth,
    /// A replica ends in order, and starts again later.
    Stop,
    /// A replica is held still for a while.
    Freeze,
    /// The link between Longshore and a cluster drops packets.
    Cut(Side, Direction),
    /// An API server is down for a while.
    ApiServer(Side),
    /// Somebody in the target deletes a delegate, in order or by force.
    DeleteDelegate { force: bool },
    /// Somebody in the target takes our labels off a delegate.
    StripDelegate,
    /// Somebody deletes a namespace of the target.
    RazeNamespace,
}

/// Which packets are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Both,
    Outward,
    Inward,
}

/// Each as likely as it is often here.
const FAULTS: [Fault; 19] = [
    Fault::Kill,
    Fault::Kill,
    Fault::KillBoth,
    Fault::Stop,
    Fault::Freeze,
    Fault::Freeze,
    Fault::Cut(Side::Target, Direction::Both),
    Fault::Cut(Side::Target, Direction::Both),
    Fault::Cut(Side::Target, Direction::Outward),
    Fault::Cut(Side::Target, Direction::Inward),
    Fault::Cut(Side::Host, Direction::Both),
    Fault::ApiServer(Side::Target),
    Fault::ApiServer(Side::Host),
    Fault::DeleteDelegate { force: false },
    Fault::DeleteDelegate { force: false },
    Fault::DeleteDelegate { force: true },
    Fault::DeleteDelegate { force: true },
    Fault::StripDelegate,
    Fault::RazeNamespace,
];

/// All that is broken now, and what it takes to break more.
pub(crate) struct Storm<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) berth: Arc<Berth>,
    /// Two of them.
    pub(crate) replicas: Vec<Longshore>,
    pub(crate) frozen: Vec<(Instant, Frozen)>,
    /// By replica, when it starts again.
    pub(crate) down: BTreeMap<usize, Instant>,
    pub(crate) cut_until: Option<Instant>,
    /// By side, when it starts again.
    pub(crate) silent: BTreeMap<Side, Instant>,
    /// How often each has happened.
    pub(crate) done: BTreeMap<String, u64>,
}

impl Storm<'_> {
    /// Breaks something, for as long as the dice say.
    pub(crate) async fn strike(
        &mut self,
        dice: &mut Dice,
        slots: &[Slot],
        target: &Cluster,
        deeds: &mut Deeds,
    ) -> Result<()> {
        let fault = *dice.pick(&FAULTS).unwrap_or(&Fault::Kill);
        let replica = usize::try_from(dice.below(2)).unwrap_or(0);
        let until = Instant::now() + dice.pause(200, 4000);
        let long = Instant::now() + dice.pause(1000, 25_000);
        let slot = dice.pick(slots).cloned();
        let namespace = *dice.pick(&NAMESPACES).unwrap_or(&NAMESPACES[0]);
        match fault {
            Fault::Kill => self.end(replica, until, Longshore::kill9)?,
            Fault::KillBoth => {
                self.end(0, until, Longshore::kill9)?;
                self.end(1, until, Longshore::kill9)?;
            }
            Fault::Stop => self.end(replica, until, |one| one.stop().map(drop))?,
            Fault::Freeze if !self.down.contains_key(&replica) => {
                self.frozen.push((long, self.replicas[replica].freeze()?));
            }
            Fault::Cut(side, direction) if self.cut_until.is_none() => {
                let cut = match direction {
                    Direction::Both => Cut::Both,
                    Direction::Outward => Cut::Outward,
                    Direction::Inward => Cut::Inward,
                };
                self.berth.cut(&self.lab.plan(name(side))?.ip().to_string(), cut)?;
                self.cut_until = Some(long);
            }
            // One at a time.
            Fault::Freeze | Fault::Cut(..) => {}
            Fault::ApiServer(side) => {
                if !self.silent.contains_key(&side) {
                    self.lab.stop(name(side), API_SERVER)?;
                    self.silent.insert(side, until);
                }
            }
            Fault::DeleteDelegate { force } => Self::touch(slot, target, deeds, Touch::Delete(force)).await,
            Fault::StripDelegate => Self::touch(slot, target, deeds, Touch::Strip).await,
            Fault::RazeNamespace => {
                deeds.razed.insert(namespace.to_owned());
                _ = target.delete(&format!("/api/v1/namespaces/{namespace}"), &json!({})).await;
            }
        }
        *self.done.entry(format!("{fault:?}")).or_default() += 1;
        Ok(())
    }

    fn end(&mut self, replica: usize, until: Instant, end: impl Fn(&Longshore) -> Result<()>) -> Result<()> {
        if self.down.contains_key(&replica) {
            return Ok(());
        }
        // A process that is held still cannot end in order.
        self.frozen.clear();
        end(&self.replicas[replica])?;
        self.down.insert(replica, until);
        Ok(())
    }

    async fn touch(slot: Option<Slot>, target: &Cluster, deeds: &mut Deeds, how: Touch) {
        let Some(slot) = slot else { return };
        let path = pod_path(&slot.namespace, &slot.name);
        let Ok(pod) = target.get(&path).await else { return };
        let Some(uid) = pod["metadata"]["uid"].as_str() else { return };
        deeds.touched.insert(uid.to_owned());
        let precondition = json!({"uid": uid});
        _ = match how {
            Touch::Delete(force) => {
                let grace = if force { 0 } else { 2 };
                target.delete(&path, &json!({"gracePeriodSeconds": grace, "preconditions": precondition})).await
            }
            Touch::Strip => {
                let labels = json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
                target.patch(&path, &json!({"metadata": {"uid": uid, "labels": labels}})).await
            }
        };
    }

    /// Mends whatever is due.
    pub(crate) fn mend(&mut self, now: Instant) -> Result<()> {
        self.frozen.retain(|(until, _)| *until > now);
        if self.cut_until.is_some_and(|until| until <= now) {
            self.cut_until = None;
            self.berth.heal()?;
        }
        let due: Vec<Side> = self.silent.iter().filter(|(_, until)| **until <= now).map(|(side, _)| *side).collect();
        for side in due {
            self.silent.remove(&side);
            self.lab.up(&[name(side)])?;
        }
        let due: Vec<usize> =
            self.down.iter().filter(|(_, until)| **until <= now).map(|(replica, _)| *replica).collect();
        for replica in due {
            self.down.remove(&replica);
            self.replicas[replica].restart()?;
        }
        for (index, replica) in self.replicas.iter().enumerate().filter(|(index, _)| !self.down.contains_key(index)) {
            replica.check().map_err(|error| error.context(format!("replica {index} has ended by itself")))?;
        }
        Ok(())
    }

    /// Mends everything.
    pub(crate) fn calm(&mut self) -> Result<()> {
        self.mend(Instant::now() + Duration::from_secs(3600))
    }
}

enum Touch {
    Delete(bool),
    Strip,
}

fn name(side: Side) -> &'static str {
    match side {
        Side::Host => HOST,
        Side::Target => TARGET,
    }
}
