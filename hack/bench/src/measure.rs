//! The measurements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use serde_json::{Value, json};

use crate::audit::{Log, Requests};
use crate::cluster::{Cluster, NAMESPACE, is_status, path, pod};
use crate::process::{self, Machine, Trace, Watcher};
use crate::settings::Settings;
use crate::sight::{Mark, Side, Sight, Times};
use crate::subject::{Kind, Subject};
use crate::world::{HOST, TARGET, World};

/// How many requests of the measurement's own are under way at a time.
const HANDS: usize = 24;
/// How long nothing happens before memory is taken for idle.
const CALM: Duration = Duration::from_secs(2);
/// A pod that comes and goes lives for so long.
const LIFE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(600);

/// Durations of one step, sorted.
pub(crate) type Spread = Vec<Duration>;

/// What there is to say of one measurement.
#[derive(Default)]
pub(crate) struct Outcome {
    /// From the first creation to the last Ready at home (of plain pods: in the target).
    pub(crate) makespan: Duration,
    /// From the first deletion to the last end on both sides.
    pub(crate) deletion: Duration,
    pub(crate) pods: usize,
    /// CPU of the process for all of it.
    pub(crate) cpu: Duration,
    /// Memory in kB before, with all pods, at most, and after.
    pub(crate) memory: [u64; 4],
    pub(crate) home: Requests,
    pub(crate) target: Requests,
    pub(crate) steps: Vec<(&'static str, Spread)>,
    /// When each pod was Ready at home.
    pub(crate) ready: Spread,
    pub(crate) trace: Trace,
    /// Cores that all were busy with, and others.
    pub(crate) busy: (f64, f64),
}

/// What there is to say of a time in which nothing happens, and of a restart after it.
#[derive(Default)]
pub(crate) struct Quiet {
    pub(crate) seconds: f64,
    pub(crate) cpu: Duration,
    pub(crate) memory: u64,
    pub(crate) home: Requests,
    pub(crate) target: Requests,
    /// How long the bare lists of both sides take, and from the start of the process until a new pod has its delegate.
    pub(crate) lists: Duration,
    pub(crate) restart: Duration,
    pub(crate) restart_memory: u64,
    pub(crate) restart_home: Requests,
    pub(crate) restart_target: Requests,
    /// From the return of both API servers, which have forgotten what they could resume, until a new pod has its delegate.
    pub(crate) relist: Duration,
    pub(crate) relist_memory: u64,
    pub(crate) relist_home: Requests,
    pub(crate) relist_target: Requests,
    /// When all pods are gone.
    pub(crate) after_memory: u64,
}

/// The counters before and after.
struct Account {
    pid: Option<u32>,
    logs: (Log, Log),
    cpu: Duration,
    machine: Machine,
}

impl Account {
    fn open(world: &World, subject: &Subject) -> Self {
        let pid = subject.pid();
        pid.inspect(|pid| process::forget_peak(*pid));
        let logs = (Log::end(&world.log(HOST)), Log::end(&world.log(TARGET)));
        Self { pid, logs, cpu: pid.map_or(Duration::ZERO, process::cpu), machine: Machine::begin(&[HOST, TARGET], pid) }
    }

    fn close(&self, outcome: &mut Outcome) -> Result<()> {
        outcome.cpu = self.pid.map_or(Duration::ZERO, process::cpu).saturating_sub(self.cpu);
        outcome.memory[2] = outcome.memory[2].max(rss(self.pid, "VmHWM"));
        outcome.busy = self.machine.end(self.pid);
        (outcome.home, outcome.target) = (self.logs.0.since()?, self.logs.1.since()?);
        Ok(())
    }
}

fn rss(pid: Option<u32>, line: &str) -> u64 {
    pid.map_or(0, |pid| process::memory(pid, line))
}

/// So many pods at once; all go again when all are ready. `between` is what happens while they are there.
pub(crate) async fn burst(
    world: &World,
    subject: &Subject,
    pods: usize,
    mut quiet: Option<(&Settings, &mut Quiet)>,
) -> Result<Outcome> {
    let kind = subject.kind;
    let (entry, exit) = sides(kind);
    let mut outcome = Outcome { pods, ..Outcome::default() };
    tokio::time::sleep(CALM).await;
    let sight = Arc::new(Sight::begin(&world.home, &world.target).await?);
    outcome.memory[0] = rss(subject.pid(), "VmRSS");
    let watcher = subject.pid().map(|pid| Watcher::start(pid, sight.begun));
    let account = Account::open(world, subject);
    let names: Vec<String> = (0..pods).map(|index| format!("{}-{index:05}", kind.name())).collect();
    let place = cluster(world, entry);
    let begun = sight.begun.elapsed();
    each(&names, |name| create(place, &sight, name, kind)).await?;
    sight.wait(exit, Mark::Ready, pods, PATIENCE).await?;
    tokio::time::sleep(CALM).await;
    outcome.memory[1] = rss(subject.pid(), "VmRSS");
    if let Some((settings, quiet)) = &mut quiet {
        outcome.memory[2] = rss(subject.pid(), "VmHWM");
        idle(world, subject, settings, quiet).await?;
    }
    let deleting = sight.begun.elapsed();
    each(&names, |name| delete(place, &sight, name)).await?;
    for side in [Side::Home, Side::Target] {
        if kind != Kind::Plain || side == Side::Target {
            sight.wait(side, Mark::Gone, pods, PATIENCE).await?;
        }
    }
    tokio::time::sleep(CALM).await;
    account.close(&mut outcome)?;
    outcome.memory[3] = rss(subject.pid(), "VmRSS");
    let all = sight.pods();
    let last = |times: &dyn Fn(&Times) -> Option<Duration>| all.iter().filter_map(times).max().unwrap_or_default();
    outcome.makespan = last(&|times| times.at(exit, Mark::Ready)).saturating_sub(begun);
    outcome.deletion = last(&|times| ended(times, kind)).saturating_sub(deleting);
    outcome.ready = sorted(all.iter().filter_map(|times| times.at(exit, Mark::Ready)?.checked_sub(begun)));
    outcome.steps = steps(&all, kind);
    outcome.trace = watcher.map(Watcher::stop).unwrap_or_default();
    Ok(outcome)
}

/// Pods come and go at a rate, so many a second of each.
pub(crate) async fn churn(world: &World, subject: &Subject, rate: usize, time: Duration) -> Result<Outcome> {
    let kind = subject.kind;
    let (entry, exit) = sides(kind);
    let pods = rate * usize::try_from(time.as_secs())?;
    let mut outcome = Outcome { pods, ..Outcome::default() };
    tokio::time::sleep(CALM).await;
    let sight = Arc::new(Sight::begin(&world.home, &world.target).await?);
    outcome.memory[0] = rss(subject.pid(), "VmRSS");
    let watcher = subject.pid().map(|pid| Watcher::start(pid, sight.begun));
    let account = Account::open(world, subject);
    let begun = tokio::time::Instant::now();
    let lives = (0..pods).map(|index| {
        let (sight, place) = (sight.clone(), cluster(world, entry).clone());
        let start = begun + Duration::from_secs_f64(index as f64 / rate as f64);
        tokio::spawn(async move {
            let name = format!("{}-{index:05}", kind.name());
            tokio::time::sleep_until(start).await;
            create(&place, &sight, &name, kind).await?;
            tokio::time::sleep_until(start + LIFE).await;
            delete(&place, &sight, &name).await
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.await??;
    }
    for side in [Side::Home, Side::Target] {
        if kind != Kind::Plain || side == Side::Target {
            sight.wait(side, Mark::Gone, pods, PATIENCE).await?;
        }
    }
    account.close(&mut outcome)?;
    outcome.memory[3] = rss(subject.pid(), "VmRSS");
    let all = sight.pods();
    outcome.ready = sorted(all.iter().filter_map(|times| times.at(exit, Mark::Ready)));
    outcome.steps = steps(&all, kind);
    outcome.trace = watcher.map(Watcher::stop).unwrap_or_default();
    Ok(outcome)
}

async fn idle(world: &World, subject: &Subject, settings: &Settings, quiet: &mut Quiet) -> Result<()> {
    let account = Account::open(world, subject);
    let begun = Instant::now();
    tokio::time::sleep(settings.seconds).await;
    let mut outcome = Outcome::default();
    account.close(&mut outcome)?;
    quiet.seconds = begun.elapsed().as_secs_f64();
    (quiet.cpu, quiet.home, quiet.target) = (outcome.cpu, outcome.home, outcome.target);
    quiet.memory = rss(subject.pid(), "VmRSS");
    Ok(())
}

/// With the pods of another burst: how long it takes until the next pod is served.
pub(crate) async fn restart(world: &World, subject: &mut Subject, pods: usize, quiet: &mut Quiet) -> Result<()> {
    let (kind, node) = (subject.kind, subject.kind.node().context("nobody to restart")?);
    let sight = Sight::begin(&world.home, &world.target).await?;
    let names: Vec<String> = (0..pods).map(|index| format!("{}-again-{index:05}", kind.name())).collect();
    each(&names, |name| create(&world.home, &sight, name, kind)).await?;
    sight.wait(Side::Home, Mark::Ready, pods, PATIENCE).await?;
    tokio::time::sleep(CALM).await;
    subject.stop()?;
    let begun = Instant::now();
    world.home.read(&format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")).await?;
    world.target.read(&path("")).await?;
    quiet.lists = begun.elapsed();
    create(&world.home, &sight, "probe", kind).await?;
    let logs = (Log::end(&world.log(HOST)), Log::end(&world.log(TARGET)));
    let begun = Instant::now();
    subject.spawn()?;
    sight.wait(Side::Target, Mark::Seen, pods + 1, PATIENCE).await?;
    quiet.restart = begun.elapsed();
    sight.wait(Side::Home, Mark::Ready, pods + 1, PATIENCE).await?;
    tokio::time::sleep(CALM).await;
    quiet.restart_memory = rss(subject.pid(), "VmHWM");
    (quiet.restart_home, quiet.restart_target) = (logs.0.since()?, logs.1.since()?);
    drop(sight);
    relist(world, subject, quiet).await.context("lists anew")?;
    let sight = Sight::begin(&world.home, &world.target).await?;
    each(&[names, vec!["probe".into(), "second".into()]].concat(), |name| delete(&world.home, &sight, name)).await?;
    sight.wait(Side::Home, Mark::Gone, pods + 2, PATIENCE).await?;
    sight.wait(Side::Target, Mark::Gone, pods + 2, PATIENCE).await?;
    tokio::time::sleep(CALM).await;
    quiet.after_memory = rss(subject.pid(), "VmRSS");
    Ok(())
}

/// An API server that has begun anew answers 410 to whoever wants to go on with a watch, and everybody has to list again.
async fn relist(world: &World, subject: &Subject, quiet: &mut Quiet) -> Result<()> {
    subject.pid().inspect(|pid| process::forget_peak(*pid));
    let logs = (Log::end(&world.log(HOST)), Log::end(&world.log(TARGET)));
    world.restart()?;
    let begun = Instant::now();
    let sight = Sight::begin(&world.home, &world.target).await?;
    create(&world.home, &sight, "second", subject.kind).await?;
    sight.wait_for("second", Side::Home, Mark::Ready, PATIENCE).await?;
    quiet.relist = begun.elapsed();
    tokio::time::sleep(CALM).await;
    quiet.relist_memory = rss(subject.pid(), "VmHWM");
    (quiet.relist_home, quiet.relist_target) = (logs.0.since()?, logs.1.since()?);
    Ok(())
}

/// Removes what an interrupted run has left.
pub(crate) async fn tidy(world: &World) -> Result<()> {
    for cluster in [&world.home, &world.target] {
        cluster.send("DELETE", &format!("{}?gracePeriodSeconds=0", path("")), &Value::Null).await?;
        while cluster.pods().await? > 0 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}

/// Where pods of a kind are created, and where they are seen to be ready.
fn sides(kind: Kind) -> (Side, Side) {
    if kind == Kind::Plain { (Side::Target, Side::Target) } else { (Side::Home, Side::Home) }
}

fn cluster(world: &World, side: Side) -> &Cluster {
    match side {
        Side::Home => &world.home,
        Side::Target => &world.target,
    }
}

async fn create(place: &Cluster, sight: &Sight, name: &str, kind: Kind) -> Result<()> {
    sight.created(name);
    place
        .send("POST", &path(""), &pod(name, kind.node()))
        .await
        .with_context(|| format!("cannot create {NAMESPACE}/{name}"))?;
    Ok(())
}

async fn delete(place: &Cluster, sight: &Sight, name: &str) -> Result<()> {
    sight.deleted(name);
    match place.send("DELETE", &path(name), &json!({})).await {
        Err(error) if !is_status(&error, 404) => Err(error),
        _ => Ok(()),
    }
}

/// Does something for each name, several at a time, in order.
async fn each<'a, F>(names: &'a [String], work: impl Fn(&'a str) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut done = futures::stream::iter(names.iter().map(|name| work(name))).buffer_unordered(HANDS);
    while let Some(result) = done.next().await {
        result?;
    }
    Ok(())
}

fn ended(times: &Times, kind: Kind) -> Option<Duration> {
    let there = times.at(Side::Target, Mark::Gone)?;
    if kind == Kind::Plain { Some(there) } else { Some(there.max(times.at(Side::Home, Mark::Gone)?)) }
}

/// How long each step took, pod by pod.
fn steps(all: &[Times], kind: Kind) -> Vec<(&'static str, Spread)> {
    let between = |from: &dyn Fn(&Times) -> Option<Duration>, to: &dyn Fn(&Times) -> Option<Duration>| {
        sorted(all.iter().filter_map(|times| Some(to(times)?.saturating_sub(from(times)?))))
    };
    let at = |side, mark| move |times: &Times| times.at(side, mark);
    let (_, exit) = sides(kind);
    let mut steps = vec![];
    if kind != Kind::Plain {
        steps.push(("bound → delegate seen", between(&at(Side::Home, Mark::Seen), &at(Side::Target, Mark::Seen))));
        steps
            .push(("remote ready → home ready", between(&at(Side::Target, Mark::Ready), &at(Side::Home, Mark::Ready))));
    }
    steps.push(("create → ready", between(&|times| times.created, &at(exit, Mark::Ready))));
    steps.push(("delete → both gone", between(&|times| times.deleted, &|times| ended(times, kind))));
    steps
}

fn sorted(durations: impl Iterator<Item = Duration>) -> Spread {
    let mut sorted: Vec<_> = durations.collect();
    sorted.sort_unstable();
    sorted
}

/// The value below which so many of a hundred are.
pub(crate) fn percentile(spread: &[Duration], percent: usize) -> Duration {
    let index = (spread.len() * percent).div_ceil(100).saturating_sub(1);
    spread.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_values_that_were_seen() {
        let spread: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        let at = |percent| percentile(&spread, percent).as_millis();
        assert_eq!((at(50), at(90), at(99), at(100)), (50, 90, 99, 100));
        assert_eq!(percentile(&spread[..1], 99).as_millis(), 1);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
