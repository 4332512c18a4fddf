//! Breaks things at random around Longshore on real API servers with simulated nodes, heals all, and judges what was seen.
//!
//! `SEED=7 DURATION=120 PODS=300 make chaos`; without a seed one is made up and shown. The same seed makes the same plan;
//! how it meets the world differs from run to run, as times do.

mod cluster;
mod dice;
mod judge;
mod record;
mod storm;
mod workload;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use e2e::{Berth, Longshore, Options};
use lab::{Lab, Simulation, UpOptions};
use serde_json::json;

use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::judge::{Deeds, Side, at_rest, judge};
use crate::record::Record;
use crate::storm::Storm;
use crate::workload::{NAMESPACES, Workload};

pub(crate) const HOST: &str = "ch-host";
pub(crate) const TARGET: &str = "ch-east";
const NODE: &str = "chaos";

/// After healing both sides agree within this long.
const AGREEMENT: Duration = Duration::from_secs(10);

/// How long is waited for it, to say how long it took.
const PATIENCE: Duration = Duration::from_secs(90);

/// How much more memory than before may be in use at the end, in KiB.
const MEMORY: u64 = 24 * 1024;

struct Plan {
    seed: u64,
    duration: Duration,
    pods: usize,
}

impl Plan {
    fn from_environment() -> Result<Self> {
        let number = |name: &str, otherwise: u64| match env::var(name) {
            Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text} is no number")),
            _ => Ok(otherwise),
        };
        let random = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| u64::from(time.subsec_nanos()));
        Ok(Self {
            seed: number("SEED", random)?,
            duration: Duration::from_secs(number("DURATION", 120)?),
            pods: usize::try_from(number("PODS", 200)?)?,
        })
    }

    fn command(&self) -> String {
        format!("SEED={} DURATION={} PODS={} make chaos", self.seed, self.duration.as_secs(), self.pods)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let plan = Plan::from_environment()?;
    println!("{}", plan.command());
    let lab = Lab::open()?;
    let only_api = UpOptions { kubelet: Some(false), ..UpOptions::default() };
    lab.up_with(&[HOST, TARGET], &only_api)?;
    let outcome = lab.simulate(TARGET, &Simulation { nodes: 4, ..Simulation::default() }).map_err(Into::into);
    let outcome = outcome.and_then(|()| storm(&plan, &lab));
    lab.down_only(&[HOST, TARGET])?;
    outcome
}

fn storm(plan: &Plan, lab: &Lab) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new()?;
    let open = |name| anyhow::Ok(runtime.block_on(Cluster::open(&lab.kubeconfig(name)?))?);
    let (host, target) = (open(HOST)?, open(TARGET)?);
    for namespace in NAMESPACES {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        runtime.block_on(host.create("/api/v1/namespaces", &object))?;
    }
    let record = Record::default();
    runtime.block_on(record.follow(Side::Host, host.clone()))?;
    runtime.block_on(record.follow(Side::Target, target.clone()))?;

    let berth = Arc::new(Berth::new()?);
    let first = Longshore::start(Options {
        node: NODE.into(),
        host: lab.kubeconfig(HOST)?,
        target: lab.kubeconfig(TARGET)?,
        heartbeat_seconds: 10,
        target_spec: String::new(),
        more_targets: vec![],
        node_spec: String::new(),
        flags: Vec::new(),
        berth: Some(berth.clone()),
    })?;
    let second = first.twin()?;
    let (mut deeds, mut dice) = (Deeds::default(), Dice::new(plan.seed));
    let mut workload = Workload::new(NODE, plan.pods);
    let replicas = vec![second, first];
    let (frozen, down, silent) = (vec![], BTreeMap::new(), BTreeMap::new());
    let mut storm = Storm { lab, berth, replicas, frozen, down, cut_until: None, silent, done: BTreeMap::new() };
    wait_until(Duration::from_secs(60), || runtime.block_on(is_ready(&host)))?;
    let before = memory(&storm);

    let (begun, mut strike) = (Instant::now(), Instant::now() + Duration::from_secs(5));
    let mut peak = 0;
    while begun.elapsed() < plan.duration {
        for _ in 0..=dice.below(8) {
            runtime.block_on(workload.step(&mut dice, &host, &target, &mut deeds));
        }
        if Instant::now() >= strike {
            runtime.block_on(storm.strike(&mut dice, &workload.slots, &target, &mut deeds))?;
            strike = Instant::now() + dice.pause(500, 6000);
        }
        storm.mend(Instant::now())?;
        peak = peak.max(memory(&storm));
        thread::sleep(dice.pause(1, 60));
    }
    storm.calm()?;

    let healed = Instant::now();
    let mut wrong = vec!["never looked".to_owned()];
    while !wrong.is_empty() && healed.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(100));
        wrong = runtime.block_on(disagreement(&host, &target)).unwrap_or_else(|error| vec![format!("{error:#}")]);
    }
    let agreed = healed.elapsed();
    if agreed > AGREEMENT {
        wrong.push(format!("both sides agreed only {agreed:.1?} after all was healed"));
    }
    runtime.block_on(workload.delete_all(&host, &mut deeds))?;
    let empty = wait_until(PATIENCE, || {
        runtime.block_on(async { Ok(host.pods("app=chaos").await?.is_empty() && ours(&target).await?.is_empty()) })
    });
    if empty.is_err() {
        wrong.extend(runtime.block_on(ours(&target))?.into_iter().map(|name| format!("{name} is left in the target")));
        wrong.extend(
            runtime.block_on(host.pods("app=chaos"))?.iter().map(|pod| format!("{} is left at home", pod.name)),
        );
    }
    // What was freed is given back to the system in a while, or kept for the next burst: a level, not a trend.
    thread::sleep(Duration::from_secs(3));
    let after = memory(&storm);
    if after > before + MEMORY {
        wrong.push(format!("{after} KiB are in use, {before} KiB before"));
    }

    let (events, lists) = record.events();
    let verdict = judge(&events, &deeds);
    println!("pods: {} at a time; done: {:?}", plan.pods, workload.done);
    println!("faults: {} ({:?})", storm.done.values().sum::<u64>(), storm.done);
    println!(
        "seen: {} events, {lists} lists; agreed {agreed:.1?} after healing; memory {before} → {peak} → {after} KiB",
        events.len()
    );
    for violation in verdict.iter().take(20) {
        println!("VIOLATION at {}: {}", violation.at, violation.what);
    }
    for what in wrong.iter().take(20) {
        println!("WRONG AT REST: {what}");
    }
    if verdict.is_empty() && wrong.is_empty() {
        println!("no violation");
        return Ok(true);
    }
    let path = env::temp_dir().join(format!("longshore-chaos-{}.log", plan.seed));
    let lines: Vec<String> = events.iter().enumerate().map(|(at, event)| format!("{at} {event:?}")).collect();
    let logs: Vec<String> = storm.replicas.iter().map(Longshore::log).collect();
    fs::write(&path, format!("{}\n\n{deeds:?}\n\n{}", lines.join("\n"), logs.join("\n\n")))?;
    println!("the whole story is in {}; again: {}", path.display(), plan.command());
    Ok(false)
}

async fn is_ready(host: &Cluster) -> Result<bool> {
    let node = host.get(&format!("/api/v1/nodes/{NODE}")).await?;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    Ok(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

async fn disagreement(host: &Cluster, target: &Cluster) -> Result<Vec<String>> {
    let proxies = host.pods("app=chaos").await?;
    let mut delegates = target.pods("longshore.dev/uid").await?;
    // What is about to go is neither here nor there.
    delegates.retain(|delegate| !delegate.terminating);
    Ok(at_rest(&proxies, &delegates))
}

/// Everything in the target that carries our labels, but for namespaces.
async fn ours(target: &Cluster) -> Result<Vec<String>> {
    let mut found = vec![];
    for resource in ["pods", "configmaps", "secrets"] {
        let list = target.get(&format!("/api/v1/{resource}?labelSelector=longshore.dev/host")).await?;
        for object in list["items"].as_array().into_iter().flatten() {
            found.push(format!("{resource} {}/{}", object["metadata"]["namespace"], object["metadata"]["name"]));
        }
    }
    Ok(found)
}

/// What both replicas use together, in KiB.
fn memory(storm: &Storm<'_>) -> u64 {
    storm.replicas.iter().filter_map(|replica| replica.rss_kib().ok()).sum()
}

fn wait_until(within: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + within;
    while !done().unwrap_or(false) {
        if Instant::now() > end {
            bail!("waited {within:?} in vain");
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
