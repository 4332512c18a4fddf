//! Longshore stops before, or right after, each of its writes in turn: the whole life of a pod goes on all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use e2e::{Change, Context, History, IDLE, Pod, Result, World, bail, container, ensure, json};

/// How many lives there are at a time.
const LANES: usize = 6;

/// A life has fewer writes than this, or something writes for ever.
const MANY: usize = 60;

/// Restarts Longshore whenever it has stopped, for as long as the life lasts; answers how often that was.
fn keep_alive(world: &World, over: &AtomicBool) -> Result<usize> {
    let mut restarts = 0;
    while !over.load(Ordering::SeqCst) {
        if world.longshore().has_ended()? {
            world.longshore().restart()?;
            restarts += 1;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(restarts)
}

/// A pod is created, gets Ready, is changed, removed by force, made anew under the same name, ends by itself, and goes.
fn life(world: &World, name: &str) -> Result<()> {
    world.host.create(world.pod(name, &[container("main", IDLE)]))?;
    let first = world.host.wait_for_ready(name)?;
    world.host.patch("pods", name, &json!({"metadata": {"labels": {"stage": "changed"}}}))?;
    world.east.wait_for_pod(name, "changed", |pod| pod.label("stage") == "changed")?;
    agree(world, name, first.uid())?;

    world.host.delete_with("pods", name, "gracePeriodSeconds=0")?;
    world.host.create(world.one_shot(name, &[container("main", "sleep 0.2")]))?;
    let second = world.host.wait_for_pod(name, "Succeeded", |pod| pod.phase() == "Succeeded")?;
    ensure!(second.uid() != first.uid(), "{second}");
    agree(world, name, second.uid())?;

    world.host.delete("pods", name)?;
    world.host.wait_for_gone(&second)?;
    // The API server waits for nobody to remove a pod that has ended.
    world.east.wait("the delegate to follow its proxy", e2e::secs(30), |east| {
        east.find_pod(name)?.map_or(Ok(()), |pod| bail!("{pod}"))
    })
}

/// Waits until both sides show the same of the pod's container.
fn agree(world: &World, name: &str, uid: &str) -> Result<()> {
    world.host.wait("home to show what is so in the target", e2e::secs(20), |host| {
        let (proxy, delegate) = (host.pod(name)?, world.east.find_pod(name)?.context("no delegate")?);
        ensure!(proxy.uid() == uid && delegate.label("longshore.dev/uid") == uid, "{proxy} and {delegate}");
        let (here, there) = (proxy.container("main"), delegate.container("main"));
        ensure!(here == there, "{here} and not {there}");
        Ok(())
    })
}

/// One life, in which Longshore stops once; `false` if the life has no such write any more.
fn interrupted_life(world: &World, place: &str, count: usize) -> Result<bool> {
    let name = format!("{place}-{count}");
    let longshore = world.longshore();
    longshore.stop()?;
    longshore.restart_with(&[("LONGSHORE_CRASH_POINT", &format!("{place}:{count}"))])?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let keeper = scope.spawn(|| keep_alive(world, &over));
        let lived = life(world, &name).with_context(|| format!("stopped {place} write {count}"));
        over.store(true, Ordering::SeqCst);
        let restarts = keeper.join().map_err(|_| e2e::anyhow!("the keeper has panicked"))??;
        lived?;
        ensure!(restarts <= 1, "Longshore ended {restarts} times:\n{}", longshore.log());
        Ok(restarts == 1)
    })
}

/// No proxy had two delegates, at once or one after the other; no name had two pods at once; nothing was restarted.
fn ensure_sound(target: &History, home: &History) -> Result<()> {
    target.ensure_nothing_doubled()?;
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    for one in target.observations()? {
        ensure!(one.pod.restarts() == 0, "a container was restarted: {}", one.pod);
        let (name, uid) = (one.pod.name().to_owned(), one.pod.uid().to_owned());
        if one.change == Change::Deleted {
            there.remove(&name);
        } else if let Some(before) = there.insert(name, uid.clone())
            && before != uid
        {
            bail!("{} came while {before} was there; the record is\n{}", one.pod, target.tell());
        }
    }
    ensure!(there.is_empty(), "{there:?} is left");
    let mut ended: BTreeMap<String, String> = BTreeMap::new();
    for one in home.observations()? {
        let (uid, phase) = (one.pod.uid().to_owned(), one.pod.phase().to_owned());
        if let Some(last) = ended.get(&uid) {
            ensure!(*last == phase, "{} was {last}; the record is\n{}", one.pod, home.tell());
        } else if one.pod.is_finished() {
            ended.insert(uid, phase);
        }
    }
    Ok(())
}

/// The walk is over after so many lives without the write that they were to stop at: their number varies by one or two, since
/// a namesake may ask more than once for its name.
const MISSES: usize = 2;

/// Lives one life after the other, each with the next write that nobody has taken yet.
fn lane(number: usize, place: &str, next: &AtomicUsize, misses: &AtomicUsize) -> Result<BTreeSet<usize>> {
    let world = World::alone(&format!("{place}-{number}"))?;
    let (target, home) = (world.record_target()?, world.record_home()?);
    let mut hit = BTreeSet::new();
    while misses.load(Ordering::SeqCst) < MISSES {
        let count = next.fetch_add(1, Ordering::SeqCst);
        ensure!(count < MANY, "the life of a pod takes {count} writes and more");
        if interrupted_life(&world, place, count)? {
            hit.insert(count);
        } else {
            misses.fetch_add(1, Ordering::SeqCst);
        }
    }
    world.host.wait_for_pods("", 0, "all gone", |_: &Pod| true)?;
    world.wait_for_no_delegates()?;
    ensure_sound(&target, &home)?;
    Ok(hit)
}

fn walk(place: &str) -> Result<()> {
    let (next, misses) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let hit: BTreeSet<usize> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|number| {
                let (next, misses) = (&next, &misses);
                scope.spawn(move || {
                    let stop = |_: &e2e::Error| misses.store(MISSES, Ordering::SeqCst);
                    lane(number, place, next, misses).inspect_err(stop)
                })
            })
            .collect();
        let ended = lanes.into_iter().map(|lane| lane.join().map_err(|_| e2e::anyhow!("a lane has panicked"))?);
        ended.collect::<Result<Vec<_>>>().map(|all| all.into_iter().flatten().collect())
    })?;
    eprintln!("stopped {place} each of these writes: {hit:?}");
    // Two incarnations: two creations and deletions of delegates, three reports, a change, the last deletion.
    ensure!((1..=9).all(|count| hit.contains(&count)), "only the writes {hit:?} were met");
    Ok(())
}

#[test]
fn before_each_write() -> Result<()> {
    walk("before")
}

#[test]
fn after_each_write_whose_answer_nobody_has_read() -> Result<()> {
    walk("after")
}
