//! One storm: users and faults at work, then healing, then judgement.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;
use e2e::{Berth, Longshore, Options};

use crate::cluster::{Cluster, sight};
use crate::copies::{Copy, beside};
use crate::dice::Dice;
use crate::judge::{Deeds, Rest, Side, at_rest, judge};
use crate::meddle::Meddlers;
use crate::plan::plan;
use crate::record::Record;
use crate::settings::Settings;
use crate::storm::{Replica, Storm};
use crate::story::{Sources, tell};
use crate::workload::{NAMESPACES, SELECTOR, Workload};
use crate::world::World;

const NODE: &str = "chaos";

/// When all is healed, a replica keeps the node within this long (a lease of a dead one runs out in ten seconds) …
const TAKEOVER: Duration = Duration::from_secs(15);

/// … and then both sides agree within this long.
const AGREEMENT: Duration = Duration::from_secs(10);

/// How long is waited for what takes longer, to be able to say how long it took.
const PATIENCE: Duration = Duration::from_secs(90);

/// How long is waited for the last to settle or to go. A pod that waited for something before it was deleted counts for 150 s
/// among those that need what there is of its copies, since nobody tells of its end.
const HOLD: Duration = Duration::from_secs(180);

/// How much more memory than in the first third of the storm both replicas may use at the end, in KiB. A process that has
/// just begun knows no kind of work yet, and has neither connections nor buffers for it: its use is no level.
const MEMORY: u64 = 16 * 1024;

/// What is copied to targets.
const COPIED: [&str; 2] = ["configmaps", "secrets"];

/// How many stories are told at length.
const STORIES: usize = 3;

/// What went wrong beside violations of the history: the proxy's UID, if it is about one.
type Wrong = Vec<(String, String)>;

/// Runs one storm, and says whether all promises were kept.
#[expect(clippy::too_many_lines, reason = "it is one story")]
pub(crate) fn storm(settings: &Settings, seed: u64, world: &World) -> Result<bool> {
    let World { runtime, host, targets, .. } = world;
    for namespace in NAMESPACES {
        runtime.block_on(host.ensure_namespace(namespace))?;
    }
    let (begun, clock) = (Instant::now(), SystemTime::now());
    let mut record = Record::new(begun);
    runtime.block_on(record.follow(Side::Host, host.clone()))?;
    for (index, target) in targets.iter().enumerate() {
        runtime.block_on(record.follow(Side::Target(index), target.clone()))?;
    }
    let mut storm = Storm::new(&world.lab, world.names.clone(), targets.clone(), replicas(world)?);
    let (mut deeds, mut dice, mut wrong) = (Deeds::default(), Dice::new(seed), Wrong::default());
    let mut workload = Workload::new(NODE, settings.pods, settings.real);
    world.wait("the virtual node", Duration::from_secs(60), || runtime.block_on(is_ready(host)))?;
    let mut before = level(&storm);

    let (start, mut peak) = (Instant::now(), 0);
    let mut faults: Vec<(Duration, String)> = vec![];
    let mut strikes = plan(seed, settings.duration, targets.len()).into_iter().peekable();
    runtime.block_on(workload.restore(host))?;
    // There should be something to break.
    for _ in 0..settings.pods {
        runtime.block_on(workload.step(&mut dice, host, targets, &mut deeds));
    }
    while start.elapsed() < settings.duration {
        world.check()?;
        for _ in 0..=dice.below(6) {
            runtime.block_on(workload.step(&mut dice, host, targets, &mut deeds));
        }
        while let Some(strike) = strikes.next_if(|strike| strike.at <= start.elapsed()) {
            let at = begun.elapsed();
            faults.push((at, runtime.block_on(storm.strike(&strike, &mut deeds))));
        }
        storm.mend(runtime, Instant::now());
        peak = peak.max(memory(&storm));
        if start.elapsed() < settings.duration / 3 {
            before = before.max(peak);
        }
        thread::sleep(dice.pause(20, 150));
    }

    storm.calm(runtime)?;
    world.simulate()?;
    runtime.block_on(workload.restore(host))?;
    let razed = || runtime.block_on(no_namespace_is_going(targets));
    world.wait("deleted namespaces of the targets to go", PATIENCE, razed)?;
    faults.push((begun.elapsed(), "all is healed".into()));
    let claim = runtime.block_on(keeper(host));
    let renewed = || runtime.block_on(keeper(host)).is_some_and(|now| Some(&now) != claim.as_ref());
    let takeover = world.wait("a replica to keep the node", PATIENCE, renewed)?;
    if takeover > TAKEOVER {
        wrong.push((String::new(), format!("the node was kept only {takeover:.1?} after all was healed")));
    }
    let (agreement, late) = agree(world)?;
    wrong.extend(late.into_iter().map(|(proxy, what)| (proxy, format!("{what}, for {agreement:.1?} after healing"))));
    let mut settled = Duration::ZERO;
    if wrong.is_empty() {
        let (took, rest) = settle(world)?;
        wrong.extend(rest.disagreements.into_iter().chain(rest.unsettled));
        settled = took;
    }

    runtime.block_on(workload.delete_all(host, &mut deeds))?;
    let left = || runtime.block_on(left(host, targets)).unwrap_or_else(|error| vec![format!("{error:#}")]);
    if world.wait("everything to go", HOLD, || left().is_empty()).is_err() {
        world.check()?;
        wrong.extend(left().into_iter().map(|what| (String::new(), format!("{what} is left"))));
    }
    // What was freed is given back to the system in a while, or kept for the next burst: a level, not a trend.
    _ = world.wait("memory", Duration::from_secs(10), || memory(&storm) <= before + MEMORY / 2);
    let after = level(&storm);
    if after > before + MEMORY {
        wrong.push((
            String::new(),
            format!("{after} KiB are in use, and {before} KiB were in the first third of the storm"),
        ));
    }

    let history = record.history();
    if history.disorder > 0 {
        wrong.push((
            String::new(),
            format!("{} events of the record are out of order: judge nothing", history.disorder),
        ));
    }
    wrong.extend(storm.crashes.iter().map(|what| (String::new(), what.clone())));
    let verdict = judge(&history.events, &deeds);
    let kinds: Vec<String> = storm.done.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    println!("  users: {:?}, {} pods at a time", workload.done, settings.pods);
    println!("  faults: {} ({}; {} missed)", storm.done.values().sum::<u64>(), kinds.join(", "), storm.missed);
    let (asked, refused) = storm
        .replicas
        .iter()
        .map(|replica| replica.meddlers.count())
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("  requests of both replicas: {asked}, of which {refused} were refused for trouble's sake");
    if storm.without_host > 0 {
        println!("  starts without a host to talk to: {}, tried again", storm.without_host);
    }
    if storm.slow_stops > 0 {
        println!("  orderly ends that took more than 20 s, and were cut short: {}", storm.slow_stops);
    }
    if !storm.by_hand.is_empty() {
        println!("  by somebody else: {}", storm.by_hand.join("; "));
    }
    println!("  recorded: {}", account(&history.events, history.gaps.len()));
    println!(
        "  healed: node kept after {takeover:.1?}, no pod disagreed for more than {agreement:.1?}, settled {settled:.1?} later; \
         memory {before} → {peak} → {after} KiB"
    );
    println!("  violations: {}", verdict.len() + wrong.len());
    if verdict.is_empty() && wrong.is_empty() {
        return Ok(true);
    }

    let logs: Vec<String> = storm.replicas.iter().map(|replica| replica.longshore.log()).collect();
    let sources = Sources { begun: clock, events: &history.events, deeds: &faults, logs: &logs };
    let mut told: Vec<&str> = vec![];
    let violations = verdict.iter().map(|violation| (violation.proxy.as_str(), violation.what.as_str()));
    let at_rest = wrong.iter().map(|(proxy, what)| (proxy.as_str(), what.as_str()));
    for (proxy, what) in violations.chain(at_rest).take(40) {
        println!("  VIOLATION: {what} [{proxy}]");
        if told.len() < STORIES && !proxy.is_empty() && !told.contains(&proxy) {
            told.push(proxy);
            println!("{}", tell(&sources, proxy));
        }
    }
    let path = env::temp_dir().join(format!("longshore-chaos-{seed}.log"));
    let lines: Vec<String> = history.events.iter().enumerate().map(|(at, event)| format!("{at} {event:?}")).collect();
    fs::write(&path, format!("{faults:#?}\n\n{}\n\n{deeds:?}\n\n{}", lines.join("\n"), logs.join("\n\n")))?;
    println!("  the whole record and both logs: {}", path.display());
    println!("  again: {}", settings.command(seed));
    Ok(false)
}

/// Two replicas of Longshore, each with links of its own.
fn replicas(world: &World) -> Result<Vec<Replica>> {
    let kubeconfigs = world.names.iter().map(|name| world.lab.kubeconfig(name)).collect::<Result<Vec<_>, _>>()?;
    let (one, other) = (Arc::new(Berth::new()?), Arc::new(Berth::new()?));
    let (mine, theirs) = (Meddlers::before(&kubeconfigs)?, Meddlers::before(&kubeconfigs)?);
    let more_targets = |meddlers: &Meddlers| match world.names.get(2) {
        Some(_) => vec![("west".to_owned(), meddlers.kubeconfig(Side::Target(1)))],
        None => vec![],
    };
    let first = Longshore::start(Options {
        node: NODE.into(),
        host: mine.kubeconfig(Side::Host),
        target: mine.kubeconfig(Side::Target(0)),
        heartbeat_seconds: 10,
        target_spec: String::new(),
        more_targets: more_targets(&mine),
        weights: BTreeMap::default(),
        node_spec: String::new(),
        flags: Vec::new(),
        given_ip: true,
        berth: Some(one.clone()),
    })?;
    let second = first.twin_with(|options| {
        options.host = theirs.kubeconfig(Side::Host);
        options.target = theirs.kubeconfig(Side::Target(0));
        options.more_targets = more_targets(&theirs);
        options.berth = Some(other.clone());
    })?;
    // The twin has to end first.
    Ok(vec![Replica::new(second, other, theirs), Replica::new(first, one, mine)])
}

async fn is_ready(host: &Cluster) -> bool {
    let Ok(node) = host.get(&format!("/api/v1/nodes/{NODE}")).await else { return false };
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Who keeps the node, and the version of that claim, which changes when it is renewed; nothing if nobody does.
async fn keeper(host: &Cluster) -> Option<String> {
    let path = format!("/apis/coordination.k8s.io/v1/leases?fieldSelector=metadata.name%3Dlongshore-{NODE}");
    let leases = host.list(&path).await.ok()?;
    let lease = leases.first()?;
    lease["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    Some(lease["metadata"]["resourceVersion"].as_str()?.to_owned())
}

async fn no_namespace_is_going(targets: &[Cluster]) -> bool {
    for target in targets {
        let Ok(all) = target.list("/api/v1/namespaces").await else { return false };
        if all.iter().any(|one| one["metadata"]["deletionTimestamp"].is_string()) {
            return false;
        }
    }
    true
}

/// Waits until no pod disagrees. Answers how long the longest has, and those that did for too long: controllers are still at
/// work, so that there may always be some that have not yet had their time.
fn agree(world: &World) -> Result<(Duration, Wrong)> {
    let begun = Instant::now();
    let (mut since, mut late, mut longest) = (BTreeMap::new(), BTreeMap::new(), Duration::ZERO);
    loop {
        world.check()?;
        let looked = world.runtime.block_on(look(&world.host, &world.targets));
        let (now, done) = (Instant::now(), begun.elapsed() > PATIENCE);
        match looked {
            Ok(Rest { disagreements, .. }) => {
                since.retain(|proxy, _| disagreements.iter().any(|(other, _)| other == proxy));
                for (proxy, what) in disagreements {
                    let age = now - *since.entry(proxy.clone()).or_insert(now);
                    longest = longest.max(age);
                    if age > AGREEMENT {
                        late.insert(proxy, what);
                    }
                }
                if since.is_empty() || done {
                    return Ok((longest, late.into_iter().collect()));
                }
            }
            Err(error) if done => return Err(error),
            Err(_) => {}
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until nothing is left to do for anybody; answers how long that took, and what is left after too long.
fn settle(world: &World) -> Result<(Duration, Rest)> {
    let (begun, mut last) = (Instant::now(), Rest::default());
    loop {
        world.check()?;
        let done = begun.elapsed() > HOLD;
        match world.runtime.block_on(look(&world.host, &world.targets)) {
            Ok(rest) if done || rest == Rest::default() => {
                if begun.elapsed() > AGREEMENT {
                    println!("  the last to settle: {last:?}");
                }
                return Ok((begun.elapsed(), rest));
            }
            Err(error) if done => return Err(error),
            Ok(rest) => last = rest,
            Err(_) => {}
        }
        thread::sleep(Duration::from_millis(100));
    }
}

async fn look(host: &Cluster, targets: &[Cluster]) -> Result<Rest> {
    let proxies = host.pods(SELECTOR).await?;
    let mut originals = BTreeMap::new();
    for resource in COPIED {
        for one in host.list(&format!("/api/v1/{resource}?labelSelector=app%3Dchaos")).await? {
            let one = Copy::of(resource, &one);
            originals.insert(one.key, one.data);
        }
    }
    let (mut delegates, mut rest) = (vec![], Rest::default());
    for target in targets {
        let pods = target.list("/api/v1/pods?labelSelector=longshore.dev%2Fuid").await?;
        let mut copies = vec![];
        for resource in COPIED {
            let all = target.list(&format!("/api/v1/{resource}?labelSelector=longshore.dev%2Fhost")).await?;
            copies.extend(all.iter().map(|one| Copy::of(resource, one)));
        }
        let beside = beside(&originals, &pods, &copies);
        rest.disagreements.extend(beside.disagreements);
        rest.unsettled.extend(beside.unsettled);
        delegates.extend(pods.iter().map(sight));
    }
    let pods = at_rest(&proxies, &delegates);
    rest.disagreements.extend(pods.disagreements);
    rest.unsettled.extend(pods.unsettled);
    Ok(rest)
}

/// Everything that should have gone.
async fn left(host: &Cluster, targets: &[Cluster]) -> Result<Vec<String>> {
    let mut found: Vec<String> =
        host.pods(SELECTOR).await?.iter().map(|pod| format!("pod {}/{} at home", pod.namespace, pod.name)).collect();
    for (index, target) in targets.iter().enumerate() {
        // Every pod of these namespaces, whatever labels it has.
        for namespace in NAMESPACES {
            let path = format!("/api/v1/namespaces/{namespace}/pods");
            let pods = target.list(&path).await?;
            found.extend(
                pods.iter().map(|pod| format!("pod {namespace}/{} in target {index}", pod["metadata"]["name"])),
            );
        }
        for resource in ["configmaps", "secrets", "services"] {
            let all = target.list(&format!("/api/v1/{resource}?labelSelector=longshore.dev%2Fhost")).await?;
            found.extend(all.iter().map(|one| format!("{resource} {} in target {index}", one["metadata"]["name"])));
        }
    }
    Ok(found)
}

/// How many pods and events a history has.
fn account(events: &[crate::judge::Event], gaps: usize) -> String {
    let count = |wanted: fn(&Side) -> bool| {
        let pods = events.iter().filter(|event| wanted(&event.side) && event.pod.namespace.starts_with("chaos-"));
        pods.map(|event| event.pod.uid.as_str()).collect::<std::collections::BTreeSet<_>>().len()
    };
    let (proxies, delegates) = (count(|side| *side == Side::Host), count(|side| *side != Side::Host));
    format!("{} events of {proxies} proxies and {delegates} delegates, {gaps} gaps after restarts", events.len())
}

/// What both replicas use together, in KiB.
fn memory(storm: &Storm) -> u64 {
    storm.replicas.iter().filter_map(|replica| replica.longshore.rss_kib().ok()).sum()
}

/// The same, when nothing happens: the least of a few looks.
fn level(storm: &Storm) -> u64 {
    let look = |_| {
        thread::sleep(Duration::from_millis(200));
        memory(storm)
    };
    (0..5).map(look).min().unwrap_or_default()
}
