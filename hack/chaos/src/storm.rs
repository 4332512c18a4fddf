//! Carries a plan out: breaks processes, links and API servers, plays people in the target, and mends what is due. What
//! somebody else breaks meanwhile is mended too.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use e2e::{Berth, Cut, Frozen, Longshore};
use lab::Lab;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cluster::{Cluster, pod_path};
use crate::judge::{Deeds, Side};
use crate::meddle::Meddlers;
use crate::plan::{Direction, Fault, Strike};
use crate::workload::NAMESPACES;

/// The process of the clusters that serves their API.
const API_SERVER: &str = "kube-apiserver";

/// Those that are started anew when all is healed. A scheduler that lost an answer in a restart of its API server may believe a
/// pod to be bound that is not. A garbage collector does not notice that an owner has gone whose name was used again while it
/// did not watch, and leaves what that one owned for ever.
const FORGETFUL: [&str; 2] = ["kube-scheduler", "kube-controller-manager"];

/// How often is looked for what somebody else has broken.
const LOOK: Duration = Duration::from_secs(2);

/// One of the processes that keep the virtual node, and what is wrong with it.
pub(crate) struct Replica {
    pub(crate) longshore: Longshore,
    berth: Arc<Berth>,
    pub(crate) meddlers: Meddlers,
    frozen: Option<(Instant, Frozen)>,
    /// When it starts again.
    down: Option<Instant>,
    /// Links that drop packets, and until when.
    cuts: Vec<(Instant, Side, Direction)>,
}

impl Replica {
    pub(crate) fn new(longshore: Longshore, berth: Arc<Berth>, meddlers: Meddlers) -> Self {
        Self { longshore, berth, meddlers, frozen: None, down: None, cuts: vec![] }
    }

    fn cut(&self, side: Side, direction: Direction) -> Result<()> {
        match self.meddlers.address(side)? {
            Some(address) => self.berth.cut_server(address, kind(direction)),
            None => Ok(()),
        }
    }
}

/// All that is broken now, and what it takes to break more.
pub(crate) struct Storm {
    lab: Lab,
    /// The clusters' names: the host, then the targets.
    names: Vec<String>,
    targets: Vec<Cluster>,
    pub(crate) replicas: Vec<Replica>,
    /// API servers that are down, by cluster, and who starts them again.
    silent: BTreeMap<String, JoinHandle<Result<()>>>,
    /// Pods that are somebody else's now and have the name of a delegate: target, path and UID.
    in_the_way: Vec<(Instant, usize, String, String)>,
    looked: Instant,
    /// How often each fault has happened.
    pub(crate) done: BTreeMap<String, u64>,
    /// Faults that could not happen: nothing to break, or broken already.
    pub(crate) missed: u64,
    /// What was broken by others.
    pub(crate) by_hand: Vec<String>,
    /// Starts that failed since the host did not answer, as they should; whoever runs Longshore starts it again.
    pub(crate) without_host: u64,
    /// How often a replica had not ended in order within 20 s, and was killed.
    pub(crate) slow_stops: u64,
    /// Replicas that ended by themselves.
    pub(crate) crashes: Vec<String>,
}

impl Storm {
    pub(crate) fn new(lab: &Lab, names: Vec<String>, targets: Vec<Cluster>, replicas: Vec<Replica>) -> Self {
        Self {
            lab: lab.clone(),
            names,
            targets,
            replicas,
            silent: BTreeMap::new(),
            in_the_way: vec![],
            looked: Instant::now(),
            done: BTreeMap::new(),
            missed: 0,
            by_hand: vec![],
            without_host: 0,
            slow_stops: 0,
            crashes: vec![],
        }
    }

    fn name(&self, side: Side) -> &str {
        match side {
            Side::Host => &self.names[0],
            Side::Target(index) => &self.names[index + 1],
        }
    }

    /// Breaks something. What cannot be broken now is not.
    pub(crate) async fn strike(&mut self, strike: &Strike, deeds: &mut Deeds) -> String {
        let until = Instant::now() + strike.lasts;
        let struck = match strike.fault {
            Fault::Kill => self.end(strike.replica, until, Longshore::kill9),
            Fault::KillBoth => {
                let (one, other) = (self.end(0, until, Longshore::kill9), self.end(1, until, Longshore::kill9));
                one.or(other)
            }
            Fault::Stop => self.stop(strike.replica, until),
            Fault::Freeze => self.freeze(strike.replica, until),
            Fault::Cut(side, direction) => self.cut(strike, side, direction, until),
            Fault::ApiServer(side) => self.silence(side, strike.lasts),
            Fault::DeleteDelegate { .. } | Fault::EvictDelegate | Fault::StripDelegate | Fault::EditDelegate => {
                self.touch(strike, deeds).await
            }
            Fault::RazeNamespace => self.raze(strike, deeds).await,
            Fault::SpoilCopy => self.spoil(strike).await,
            Fault::Refuse(..)
            | Fault::CloseWatches(_)
            | Fault::ExpireWatches(_)
            | Fault::Slow(_)
            | Fault::LoseAnswers(_) => {
                self.meddle(strike);
                Ok(())
            }
        };
        let name = format!("{:?}", strike.fault);
        match struck {
            Ok(()) => {
                *self.done.entry(name.clone()).or_default() += 1;
                format!("{name} (replica {}, {:.1?})", strike.replica, strike.lasts)
            }
            Err(error) => {
                self.missed += 1;
                format!("{name} did not happen: {error:#}")
            }
        }
    }

    fn end(&mut self, replica: usize, until: Instant, end: impl FnOnce(&Longshore) -> Result<()>) -> Result<()> {
        let replica = &mut self.replicas[replica];
        anyhow::ensure!(replica.down.is_none(), "it is down");
        // A process that is held still cannot end in order.
        replica.frozen = None;
        end(&replica.longshore)?;
        replica.down = Some(until);
        Ok(())
    }

    /// One that waits for an answer may take longer than whoever stops it has patience; then it is killed.
    fn stop(&mut self, replica: usize, until: Instant) -> Result<()> {
        let mut slow = false;
        self.end(replica, until, |one| {
            slow = one.stop().is_err();
            Ok(())
        })?;
        self.slow_stops += u64::from(slow);
        Ok(())
    }

    fn freeze(&mut self, replica: usize, until: Instant) -> Result<()> {
        let replica = &mut self.replicas[replica];
        anyhow::ensure!(replica.down.is_none() && replica.frozen.is_none(), "it is down or frozen");
        replica.frozen = Some((until, replica.longshore.freeze()?));
        Ok(())
    }

    /// Of one replica, or of both.
    fn cut(&mut self, strike: &Strike, side: Side, direction: Direction, until: Instant) -> Result<()> {
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            if strike.pick.is_multiple_of(2) || index == strike.replica {
                replica.cut(side, direction)?;
                replica.cuts.push((until, side, direction));
            }
        }
        Ok(())
    }

    /// Of one replica, or of both.
    fn meddle(&self, strike: &Strike) {
        for (index, replica) in self.replicas.iter().enumerate() {
            if strike.pick.is_multiple_of(2) || index == strike.replica {
                replica.meddlers.strike(strike);
            }
        }
    }

    /// Takes an API server down for a while, beside everything else.
    fn silence(&mut self, side: Side, lasts: Duration) -> Result<()> {
        let (lab, name) = (self.lab.clone(), self.name(side).to_owned());
        anyhow::ensure!(!self.silent.contains_key(&name), "it is down");
        let of = name.clone();
        let task = thread::spawn(move || {
            lab.stop(&of, API_SERVER)?;
            thread::sleep(lasts);
            Ok(lab.up(&[&of])?)
        });
        self.silent.insert(name, task);
        Ok(())
    }

    /// Some delegates, by chance.
    async fn victims(&self, strike: &Strike) -> Result<Vec<(usize, Value)>> {
        let target = usize::try_from(strike.pick % 7919)? % self.targets.len();
        let delegates = self.targets[target].list("/api/v1/pods?labelSelector=longshore.dev%2Fuid").await?;
        anyhow::ensure!(!delegates.is_empty(), "there are no delegates");
        let first = usize::try_from(strike.pick % 104_729)?;
        let chosen = (0..strike.victims).map(|index| delegates[(first + index * 31) % delegates.len()].clone());
        Ok(chosen.map(|pod| (target, pod)).collect())
    }

    async fn touch(&mut self, strike: &Strike, deeds: &mut Deeds) -> Result<()> {
        for (index, pod) in self.victims(strike).await? {
            let target = &self.targets[index];
            let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default().to_owned();
            let (path, uid) = (pod_path(&text("namespace"), &text("name")), text("uid"));
            // Whether or not the answer comes.
            deeds.touched.insert(uid.clone());
            let precondition = json!({"uid": uid});
            let delete = |grace: u64| json!({"gracePeriodSeconds": grace, "preconditions": precondition});
            match strike.fault {
                Fault::DeleteDelegate { force } => {
                    target.delete(&path, &delete(if force { 0 } else { 2 })).await?;
                }
                Fault::EvictDelegate => {
                    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                        "metadata": {"name": text("name"), "namespace": text("namespace")}, "deleteOptions": delete(1)});
                    target.create(&format!("{path}/eviction"), &eviction).await?;
                }
                Fault::StripDelegate => {
                    let labels =
                        json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
                    self.in_the_way.push((Instant::now() + strike.lasts, index, path.clone(), uid.clone()));
                    target.patch(&path, &json!({"metadata": {"uid": uid, "labels": labels}})).await?;
                }
                _ => {
                    let change = json!({"labels": {"somebody": "was-here"}, "annotations": {"somebody": "was-here"}});
                    target.patch(&path, &json!({"metadata": change})).await?;
                }
            }
        }
        Ok(())
    }

    async fn raze(&self, strike: &Strike, deeds: &mut Deeds) -> Result<()> {
        let target = &self.targets[usize::try_from(strike.pick % 7919)? % self.targets.len()];
        let namespace = NAMESPACES[usize::try_from(strike.pick % 104_729)? % NAMESPACES.len()];
        target.delete(&format!("/api/v1/namespaces/{namespace}"), &json!({})).await?;
        // Nothing can be created there any more, so these are all that go.
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let listed = loop {
            if let Ok(listed) = target.list(&path).await {
                break listed;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let uids = listed.iter().filter_map(|pod| pod["metadata"]["uid"].as_str());
        deeds.touched.extend(uids.map(ToOwned::to_owned));
        Ok(())
    }

    /// Somebody harms copies of what pods refer to.
    async fn spoil(&self, strike: &Strike) -> Result<()> {
        let target = &self.targets[usize::try_from(strike.pick % 7919)? % self.targets.len()];
        let resource = if strike.pick.is_multiple_of(3) { "secrets" } else { "configmaps" };
        let copies = target.list(&format!("/api/v1/{resource}?labelSelector=longshore.dev%2Fhost")).await?;
        anyhow::ensure!(!copies.is_empty(), "there are no copies");
        let copy = &copies[usize::try_from(strike.pick % 104_729)? % copies.len()]["metadata"];
        let (namespace, name) = (&copy["namespace"], &copy["name"]);
        let path = format!(
            "/api/v1/namespaces/{}/{resource}/{}",
            namespace.as_str().unwrap_or_default(),
            name.as_str().unwrap_or_default()
        );
        if strike.pick.is_multiple_of(2) {
            target.delete(&path, &json!({})).await?;
        } else {
            target.patch(&path, &json!({"data": {"round": "spoi", "more": "more"}})).await?;
        }
        Ok(())
    }

    /// Mends whatever is due.
    pub(crate) fn mend(&mut self, runtime: &Runtime, now: Instant) {
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            if replica.frozen.as_ref().is_some_and(|(until, _)| *until <= now) {
                replica.frozen = None;
            }
            if replica.cuts.iter().any(|(until, ..)| *until <= now) && replica.berth.heal().is_ok() {
                replica.cuts.retain(|(until, ..)| *until > now);
                for (_, side, direction) in &replica.cuts {
                    _ = replica.cut(*side, *direction);
                }
            }
            match replica.down {
                Some(until) if until <= now => {
                    if replica.longshore.restart().is_ok() {
                        replica.down = None;
                    }
                }
                Some(_) => {}
                None => {
                    if let Ok(Some(status)) = replica.longshore.ended() {
                        // Whoever ends a process by hand does it by a signal.
                        if status.signal().is_some() || status.success() {
                            self.by_hand.push(format!("replica {index} was ended: {status}"));
                        } else if status.code() == Some(1)
                            && replica.longshore.log().trim_end().lines().next_back().is_some_and(has_no_host)
                        {
                            self.without_host += 1;
                        } else {
                            self.crashes.push(format!("replica {index} has ended by itself: {status}"));
                        }
                        replica.frozen = None;
                        replica.down = Some(now + Duration::from_millis(500));
                    }
                }
            }
        }
        runtime.block_on(self.clear_the_way(now));
        self.look(now);
    }

    async fn clear_the_way(&mut self, now: Instant) {
        let mut left = vec![];
        for (until, target, path, uid) in std::mem::take(&mut self.in_the_way) {
            let options = json!({"gracePeriodSeconds": 1, "preconditions": {"uid": uid}});
            let cluster = &self.targets[target];
            if until > now || (cluster.delete(&path, &options).await.is_err() && has(cluster, &path, &uid).await) {
                left.push((until, target, path, uid));
            }
        }
        self.in_the_way = left;
    }

    /// API servers that have been started again, and those that somebody else has stopped.
    fn look(&mut self, now: Instant) {
        let ended: BTreeSet<String> =
            self.silent.iter().filter(|(_, task)| task.is_finished()).map(|(name, _)| name.clone()).collect();
        for name in ended {
            if let Some(Err(error)) = self.silent.remove(&name).map(join) {
                eprintln!("chaos: {name}: {error:#}; trying again");
            }
        }
        if now.saturating_duration_since(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        for (index, name) in self.names.clone().into_iter().enumerate() {
            let dead = matches!(self.lab.pid(&name, API_SERVER), Ok(None));
            if dead && !self.silent.contains_key(&name) {
                self.by_hand.push(format!("the API server of {name} does not run"));
                let side = index.checked_sub(1).map_or(Side::Host, Side::Target);
                _ = self.silence(side, Duration::from_secs(1));
            }
        }
    }

    /// Mends everything, also what others have broken; fails if that is not possible.
    pub(crate) fn calm(&mut self, runtime: &Runtime) -> Result<()> {
        let far = Instant::now() + Duration::from_secs(3600);
        self.replicas.iter().for_each(|replica| replica.meddlers.stop());
        for task in std::mem::take(&mut self.silent).into_values() {
            _ = join(task);
        }
        // Repairs processes and links alike.
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        for name in &names {
            for process in FORGETFUL {
                self.lab.stop(name, process)?;
            }
        }
        self.lab.up(&names).context("the clusters cannot be mended")?;
        let end = Instant::now() + Duration::from_secs(60);
        while Instant::now() < end {
            self.mend(runtime, far);
            if self.in_the_way.is_empty() && self.replicas.iter().all(|replica| replica.down.is_none()) {
                for replica in &self.replicas {
                    replica.longshore.wake()?;
                }
                return Ok(());
            }
            thread::sleep(Duration::from_millis(200));
        }
        Err(anyhow!("not everything can be mended: {:?}", self.in_the_way))
    }
}

/// The last words of a start in vain.
fn has_no_host(line: &str) -> bool {
    line.starts_with("longshore: failed to use the host cluster:")
}

async fn has(cluster: &Cluster, path: &str, uid: &str) -> bool {
    match cluster.get(path).await {
        Ok(pod) => pod["metadata"]["uid"] == uid,
        Err(error) => !matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404),
    }
}

fn join(task: JoinHandle<Result<()>>) -> Result<()> {
    task.join().unwrap_or_else(|_| Err(anyhow!("panicked")))
}

fn kind(direction: Direction) -> Cut {
    match direction {
        Direction::Both => Cut::Both,
        Direction::Outward => Cut::Outward,
        Direction::Inward => Cut::Inward,
    }
}
