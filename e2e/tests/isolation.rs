//! How much a sick target costs the pods of the others. It takes minutes, and is run by hand:
//! `cargo test --package e2e --test isolation -- --ignored --nocapture`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use e2e::{Cluster, Fault, Meddler, Pod, Result, World, container, ensure, secs};
use lab::{Lab, Simulation, UpOptions};

const SIMULATED: [&str; 2] = ["capsim1", "capsim2"];

/// So many pods are created in each run.
const PODS: usize = 210;

/// Between two creations: slowly enough that five clusters on one machine are not what is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// How often each run is made. The pods of all of them count together: the worst two of two hundred are chance.
const ROUNDS: usize = 3;

/// At most so much longer may the 99th percentile be.
const BOUND: f64 = 1.1;

/// They go with this.
struct Simulated(Lab);

impl Drop for Simulated {
    fn drop(&mut self) {
        _ = self.0.down_only(&SIMULATED);
    }
}

const WELL: &str = "well";

/// What is wrong with the sick target, each after a run in which nothing is: what else goes on here changes with time.
fn sicknesses() -> [(&'static str, Option<Fault>); 6] {
    [
        (WELL, None),
        ("answers nothing", Some(Fault::Late(secs(3600)))),
        (WELL, None),
        ("answers slowly", Some(Fault::Late(secs(3)))),
        (WELL, None),
        ("answers garbage", Some(Fault::Garbage)),
    ]
}

#[test]
#[ignore = "it takes minutes, and measures times, which nothing else should disturb"]
fn a_sick_target_costs_the_pods_of_the_others_nothing() -> Result<()> {
    let lab = World::lab()?;
    lab.up(&["west"])?;
    let simulated = Simulated(Lab::open()?);
    simulated.0.up_with(&SIMULATED, &UpOptions { kubelet: Some(false), ..UpOptions::default() })?;
    for name in SIMULATED {
        simulated.0.simulate(name, &Simulation::default())?;
    }
    let meddler = Meddler::before(&World::cluster("capsim2", "default")?)?;
    let (sick, one) = (meddler.kubeconfig(), lab.kubeconfig("capsim1")?);
    let west = lab.kubeconfig("west")?;
    let world = World::elsewhere("sick", "host", "east", |options| {
        options.more_targets = vec![("west".into(), west), ("one".into(), one), ("sick".into(), sick)];
        // Real pods take this machine's time; most are simulated.
        options.weights = [("one".to_owned(), 18)].into();
    })?;
    let node = world.longshore().node().to_owned();
    world.host.wait("all targets to count", secs(60), |host| {
        let node = host.find("nodes", &node)?.unwrap_or_default();
        let cpu = node["status"]["allocatable"]["cpu"].as_str().unwrap_or_default().to_owned();
        ensure!(cpu.parse::<u32>().is_ok_and(|cpu| cpu > 128), "{cpu}");
        Ok(())
    })?;
    run(&world, &meddler, None, "warm")?;
    let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for (name, fault) in sicknesses() {
            let mut times = run(&world, &meddler, fault, &format!("r{round}"))?;
            let [p50, p99] = [50, 99].map(|percent| percentile(&mut times, percent));
            eprintln!("round {round}, {name}: {} pods of the others Ready, p50 {p50:.2?}, p99 {p99:.2?}", times.len());
            all.entry(name).or_default().append(&mut times);
        }
    }
    let p99s: BTreeMap<&str, Duration> = all.iter_mut().map(|(name, times)| (*name, percentile(times, 99))).collect();
    let well = p99s[WELL];
    for (name, times) in &mut all {
        let (p50, p99) = (percentile(times, 50), p99s[name]);
        let ratio = p99.as_secs_f64() / well.as_secs_f64();
        eprintln!("{name}: {} pods, p50 {p50:.2?}, p99 {p99:.2?}, {ratio:.2} of that while all are well", times.len());
    }
    let slower: Vec<_> = p99s.iter().filter(|(_, p99)| p99.as_secs_f64() > well.as_secs_f64() * BOUND).collect();
    ensure!(slower.is_empty(), "slower than {BOUND} of {well:.2?}: {slower:?}");
    Ok(())
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Creates all pods while the target is sick, and answers how long those of the others took to be Ready.
fn run(world: &World, meddler: &Meddler, fault: Option<Fault>, name: &str) -> Result<Vec<Duration>> {
    let home = world.record_home()?;
    if let Some(fault) = fault {
        meddler.always(|_| true, fault);
        meddler.close_watches();
    }
    let mut created = HashMap::new();
    for index in 0..PODS {
        let mut pod = world.pod(&format!("{name}-{index}"), &[container("main", "sleep infinity")]);
        pod["metadata"]["labels"]["run"] = name.into();
        // Not through the scheduler, which is not what is measured.
        pod["spec"]["nodeName"] = world.longshore().node().into();
        let at = Instant::now();
        created.insert(world.host.create(pod)?["metadata"]["uid"].as_str().unwrap_or_default().to_owned(), at);
        std::thread::sleep(PAUSE.saturating_sub(at.elapsed()));
    }
    let place =
        |pod: &Pod| pod.0["metadata"]["annotations"]["longshore.dev/target"].as_str().unwrap_or_default().to_owned();
    let times = home.wait("the pods of the others to be Ready", secs(300), |all| {
        let (mut ready, mut sick) = (HashMap::new(), HashSet::new());
        for one in all.iter().filter(|one| created.contains_key(one.pod.uid())) {
            if place(&one.pod) == "sick" {
                sick.insert(one.pod.uid().to_owned());
            } else if one.pod.is_ready() {
                ready.entry(one.pod.uid().to_owned()).or_insert(one.at);
            }
        }
        let times = || ready.iter().filter_map(|(uid, at)| Some(*at - *created.get(uid)?)).collect::<Vec<_>>();
        (ready.len() + sick.len() >= PODS).then(times)
    });
    meddler.stop();
    meddler.close_watches();
    clear(&world.host, name)?;
    times
}

fn clear(host: &Cluster, run: &str) -> Result<()> {
    host.kubectl(&["delete", "pods", "-l", &format!("run={run}"), "--wait=false"])?.ok()?;
    host.wait("the pods to go", secs(180), |host| {
        let left = host.pods(&format!("run={run}"))?.len();
        ensure!(left == 0, "{left} are left");
        Ok(())
    })
}
