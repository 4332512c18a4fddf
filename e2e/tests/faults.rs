//! API servers that answer late, wrongly, or not at all: nothing is lost, doubled or failed, and nobody is pestered.

use std::time::{Duration, Instant};

use e2e::{Asked, Context, Fault, IDLE, Meddler, Pod, Result, Value, World, container, ensure, json, secs};

/// Somebody in front of both clusters, and a Longshore that knows no other way.
struct Scene {
    world: World,
    home: Meddler,
    target: Meddler,
}

impl Scene {
    fn new(name: &str, flags: &[&str]) -> Result<Self> {
        let (home, target) = {
            let outside = |cluster| Meddler::before(&World::cluster(cluster, "default")?);
            (outside("host")?, outside("east")?)
        };
        let world = World::changed(name, |options| {
            (options.host, options.target) = (home.kubeconfig(), target.kubeconfig());
            options.flags = flags.iter().map(ToString::to_string).collect();
        })?;
        world.wait_for_node()?;
        Ok(Self { world, home, target })
    }

    /// A pod that runs, and its delegate.
    fn running(&self, name: &str) -> Result<(Pod, Pod)> {
        self.world.host.create(self.world.pod(name, &[container("main", IDLE)]))?;
        let proxy = self.world.host.wait_for_ready(name)?;
        let delegate = self.world.delegate(&proxy)?;
        Ok((proxy, delegate))
    }

    /// Fails if a pod has noticed anything.
    fn ensure_untouched(&self, (proxy, delegate): &(Pod, Pod)) -> Result<()> {
        let (here, there) = (self.world.host.pod(proxy.name())?, self.world.delegate(proxy)?);
        ensure!(here.uid() == proxy.uid() && here.is_ready(), "{here}");
        ensure!(there.uid() == delegate.uid() && there.container_ids() == delegate.container_ids(), "{there}");
        Ok(())
    }

    /// A pod can be started and ended as if nothing had been.
    fn ensure_works(&self, name: &str) -> Result<()> {
        let (proxy, _) = self.running(name)?;
        self.world.host.delete("pods", name)?;
        self.world.host.wait_for_gone(&proxy)?;
        ensure!(self.world.delegates(&proxy)?.is_empty(), "{proxy} has left something");
        Ok(())
    }
}

fn pods(asked: &Asked) -> bool {
    asked.is_about("pods")
}

fn creation(asked: &Asked) -> bool {
    asked.method == "POST" && pods(asked)
}

#[test]
fn an_overloaded_server_is_asked_again_when_it_says_so() -> Result<()> {
    let scene = Scene::new("overload", &[])?;
    scene.target.times(2, creation, Fault::Status(429, Some(3)));
    let status = |asked: &Asked| asked.method == "PATCH" && asked.path.ends_with("/status") && pods(asked);
    scene.home.times(1, status, Fault::Status(429, Some(2)));
    let target = scene.world.record_target()?;
    scene.running("patient")?;
    for (meddler, when, seconds) in
        [(&scene.target, &creation as &dyn Fn(&Asked) -> bool, 3), (&scene.home, &status, 2)]
    {
        let asked: Vec<_> = meddler.asked().into_iter().filter(|asked| when(asked)).collect();
        let refused = asked.iter().filter(|asked| asked.status == 429).count();
        ensure!(refused > 0 && asked.len() > refused, "{asked:?}");
        for pair in asked.windows(2).filter(|pair| pair[0].status == 429) {
            let pause = pair[1].at - pair[0].at;
            ensure!(pause >= Duration::from_millis(seconds * 1000 - 50), "asked again after {pause:?}");
        }
    }
    target.ensure_nothing_doubled()
}

#[test]
fn storms_of_errors_pass() -> Result<()> {
    let scene = Scene::new("storm", &[])?;
    let (steady, leaving) = (scene.running("steady")?, scene.running("leaving")?);
    let (home, target) = (scene.world.record_home()?, scene.world.record_target()?);
    for code in [500, 503] {
        for meddler in [&scene.home, &scene.target] {
            meddler.always(pods, Fault::Status(code, None));
            // Whoever still has a watch would notice nothing.
            meddler.expire_watches();
        }
        let begin = Instant::now();
        let before = scene.home.asked().len() + scene.target.asked().len();
        let name = format!("in-{code}");
        scene.world.host.create(scene.world.pod(&name, &[container("main", IDLE)]))?;
        if code == 503 {
            scene.world.host.delete("pods", "leaving")?;
        }
        scene.world.host.wait("some requests to be refused", secs(20), |_| {
            let refused = |meddler: &Meddler| meddler.asked().iter().filter(|asked| asked.status == code).count();
            let (here, there) = (refused(&scene.home), refused(&scene.target));
            ensure!(here > 3 && there > 3 && begin.elapsed() > secs(4), "{here} and {there}");
            Ok(())
        })?;
        let (asked, time) = (scene.home.asked().len() + scene.target.asked().len() - before, begin.elapsed());
        ensure!(u128::try_from(asked)? * 1000 < time.as_millis() * 25, "{asked} requests in {time:?} are a storm too");
        scene.ensure_untouched(&steady)?;
        scene.home.stop();
        scene.target.stop();
        scene.world.host.wait_for_ready(&name)?;
    }
    scene.world.host.wait_for_gone(&leaving.0)?;
    scene.world.east.wait_for_gone(&leaving.1)?;
    scene.ensure_untouched(&steady)?;
    let noticed = home.observations()?.into_iter().any(|one| one.pod.uid() == steady.0.uid() && !one.pod.is_ready());
    assert!(!noticed, "a storm is no reason to call a pod unready\n{}", home.tell());
    target.ensure_nothing_doubled()
}

#[test]
fn watches_end_expire_and_break() -> Result<()> {
    let scene = Scene::new("watches", &[])?;
    let steady = scene.running("steady")?;
    let (home, target) = (scene.world.record_home()?, scene.world.record_target()?);
    for round in 0..3 {
        for meddler in [&scene.home, &scene.target] {
            if round == 1 {
                meddler.expire_watches();
            } else {
                meddler.close_watches();
            }
            if round == 2 {
                // The list that follows is cut, and one that is cut says nothing of what is missing in it.
                meddler.times(2, |asked| asked.is_list_of("pods"), Fault::Cut(300));
                meddler.expire_watches();
            }
        }
        scene.ensure_works(&format!("round-{round}"))?;
        scene.ensure_untouched(&steady)?;
    }
    let noticed = home.observations()?.into_iter().any(|one| one.pod.uid() == steady.0.uid() && !one.pod.is_ready());
    assert!(!noticed, "{}", home.tell());
    target.ensure_nothing_doubled()
}

#[test]
fn an_answer_that_breaks_off_or_comes_late_is_no_answer() -> Result<()> {
    let scene = Scene::new("broken", &[])?;
    let target = scene.world.record_target()?;
    scene.target.times(1, creation, Fault::Cut(40));
    let deletion = |asked: &Asked| asked.method == "DELETE" && pods(asked);
    scene.target.times(1, deletion, Fault::Cut(40));
    scene.home.times(1, |asked| asked.method == "PATCH" && pods(asked), Fault::Cut(40));
    scene.home.times(1, deletion, Fault::Cut(0));
    scene.ensure_works("cut")?;
    ensure!(scene.target.asked().iter().any(|asked| creation(asked) && asked.status == 201), "it was not created");

    // Slower than the heartbeat waits, and no reason to give anything up.
    let steady = scene.running("steady")?;
    scene.target.always(|_| true, Fault::Late(secs(5)));
    let begin = Instant::now();
    scene.world.host.create(scene.world.pod("slow", &[container("main", IDLE)]))?;
    scene.world.host.wait_for_ready("slow")?;
    ensure!(begin.elapsed() >= secs(5), "it was not slow");
    scene.target.stop();
    scene.ensure_untouched(&steady)?;
    target.ensure_nothing_doubled()
}

#[test]
fn an_update_that_comes_late_takes_nothing_back() -> Result<()> {
    let scene = Scene::new("overtaken", &[])?;
    let steady = scene.running("steady")?;
    let target = scene.world.record_target()?;
    let update = |asked: &Asked| asked.method == "PATCH" && asked.path.ends_with("/pods/steady");
    scene.target.times(1, update, Fault::Held);
    let label = |stage: &str, extra: Value| json!({"metadata": {"labels": {"stage": stage, "extra": extra}}});
    scene.world.host.patch("pods", "steady", &label("one", json!(null)))?;
    scene.world.host.wait("the update to be under way", secs(60), |_| {
        ensure!(scene.target.asked().iter().any(update), "none yet");
        Ok(())
    })?;
    // Whoever sent it does not live to see it arrive, and others go on meanwhile.
    scene.world.longshore().kill9()?;
    scene.world.longshore().restart()?;
    scene.world.host.patch("pods", "steady", &label("two", json!("yes")))?;
    scene
        .world
        .east
        .wait_for_pod("steady", "changed", |pod| pod.label("stage") == "two" && pod.label("extra") == "yes")?;
    scene.target.release();
    let answers = scene.world.host.wait("the first update to arrive", secs(60), |_| {
        let answers = scene.target.released();
        ensure!(!answers.is_empty(), "not yet");
        Ok(answers)
    })?;
    assert_eq!(answers, [409], "it is for a delegate that is no more like this");
    // What an overtaken update says of itself would make this label stay.
    scene.world.host.patch("pods", "steady", &label("three", json!(null)))?;
    let last = scene.world.east.wait_for_pod("steady", "changed", |pod| pod.label("stage") == "three")?;
    assert!(last.label("extra").is_empty(), "{last}");
    scene.ensure_untouched(&steady)?;
    let mut stages: Vec<String> = target.observations()?.iter().map(|one| one.pod.label("stage").to_owned()).collect();
    stages.dedup();
    assert_eq!(
        stages.iter().filter(|stage| !stage.is_empty()).collect::<Vec<_>>(),
        ["two", "three"],
        "{}",
        target.tell()
    );
    Ok(())
}

#[test]
fn a_delegate_without_labels_is_not_gone_because_nobody_answers() -> Result<()> {
    let scene = Scene::new("unlabelled", &[])?;
    scene.world.host.create(scene.world.one_shot("once", &[container("main", IDLE)]))?;
    let proxy = scene.world.host.wait_for_ready("once")?;
    let once = (proxy.clone(), scene.world.delegate(&proxy)?);
    let home = scene.world.record_home()?;
    let its = |asked: &Asked| asked.path.ends_with("/pods/once");
    scene.target.times(2, move |asked| its(asked) && !asked.is_write(), Fault::Status(500, None));
    scene.target.times(1, move |asked| its(asked) && asked.is_write(), Fault::Status(500, None));
    let labels = json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
    scene.world.east.patch("pods", "once", &json!({"metadata": {"labels": labels}}))?;
    // A list does not show it either.
    scene.target.expire_watches();
    scene.world.east.wait_for_pod("once", "labelled again", |pod| pod.label("longshore.dev/uid") == proxy.uid())?;
    let refused = scene.target.asked().iter().filter(|asked| its(asked) && asked.status == 500).count();
    assert!(refused >= 3, "{refused}");
    scene.ensure_untouched(&once)?;
    let noticed = home.observations()?.into_iter().any(|one| one.pod.uid() == proxy.uid() && !one.pod.is_ready());
    assert!(!noticed, "{}", home.tell());
    // It is watched again.
    scene.world.host.delete("pods", "once")?;
    scene.world.host.wait_for_gone(&proxy)?;
    scene.world.east.wait_for_gone(&once.1)
}

#[test]
fn labels_that_are_lost_while_nobody_looks_are_put_back() -> Result<()> {
    let scene = Scene::new("stripped", &[])?;
    let kept = scene.running("kept")?;
    let home = scene.world.record_home()?;
    let strip = || {
        let labels = json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
        scene.world.east.patch("pods", "kept", &json!({"metadata": {"labels": labels}}))
    };
    let labelled = || {
        let whose = kept.0.uid();
        scene.world.east.wait_for_pod("kept", "labelled again", |pod| pod.label("longshore.dev/uid") == whose)
    };
    // No watch tells of it, and the next list does not show it.
    let list = |asked: &Asked| asked.is_list_of("pods");
    scene.target.always(list, Fault::Status(503, None));
    scene.target.expire_watches();
    scene.world.east.wait("a list to be refused", secs(20), |_| {
        ensure!(scene.target.asked().iter().any(|asked| list(asked) && asked.status == 503), "none was");
        Ok(())
    })?;
    strip()?;
    scene.target.stop();
    labelled()?;
    scene.ensure_untouched(&kept)?;
    // It is watched again: what becomes of it is seen.
    scene.world.east.patch("pods", "kept", &json!({"metadata": {"annotations": {"told": "yes"}}}))?;
    scene.world.host.wait_for_pod("kept", "to show it", |pod| pod.0["metadata"]["annotations"]["told"] == "yes")?;

    // Nor does a process know of it that was not there.
    scene.world.longshore().kill9()?;
    strip()?;
    scene.world.longshore().restart()?;
    labelled()?;
    scene.ensure_untouched(&kept)?;
    let noticed = home.observations()?.into_iter().any(|one| one.pod.uid() == kept.0.uid() && !one.pod.is_ready());
    assert!(!noticed, "{}", home.tell());

    // One label is as good as none: the others do not say whose it is.
    let label = json!({"metadata": {"labels": {"longshore.dev/uid": null}}});
    scene.world.east.patch("pods", "kept", &label)?;
    labelled()?;

    // Nobody asks for what has no proxy any more; it is found all the same, or it would run for ever.
    let leaked = scene.running("leaked")?;
    scene.world.longshore().kill9()?;
    scene.world.host.delete_with("pods", "leaked", "gracePeriodSeconds=0")?;
    scene.world.host.wait_for_gone(&leaked.0)?;
    let labels = json!({"longshore.dev/host": null, "longshore.dev/node": null, "longshore.dev/uid": null});
    scene.world.east.patch("pods", "leaked", &json!({"metadata": {"labels": labels}}))?;
    scene.world.longshore().restart()?;
    scene.world.east.wait_for_gone(&leaked.1)?;
    scene.ensure_untouched(&kept)?;

    scene.world.host.delete("pods", "kept")?;
    scene.world.host.wait_for_gone(&kept.0)?;
    scene.world.east.wait_for_gone(&kept.1)
}

#[test]
fn an_event_that_was_lost_is_made_good() -> Result<()> {
    let scene = Scene::new("lost", &["--relist", "5"])?;
    let (_, delegate) = scene.running("leaving")?;
    let drop = |kind: &'static str, name: &'static str| {
        Fault::edit(move |event, pod| !(event == kind && pod["metadata"]["name"] == name))
    };
    // Bound at home, and nobody tells.
    let lost = |event: &str, pod: &mut Value| event == "LISTED" || pod["metadata"]["name"] != "unseen";
    scene.home.always(|asked| pods(asked) && asked.is_watch(), Fault::edit(lost));
    scene.world.host.create(scene.world.pod("unseen", &[container("main", IDLE)]))?;
    // Gone from the target, and nobody tells.
    scene.target.always(|asked| pods(asked) && asked.is_watch(), drop("DELETED", "leaving"));
    scene.target.always(|asked| pods(asked) && asked.is_watch(), drop("MODIFIED", "leaving"));
    scene.world.east.delete_with("pods", "leaving", "gracePeriodSeconds=0")?;
    scene.world.east.wait_for_gone(&delegate)?;

    scene.world.east.wait_for_ready("unseen")?;
    scene.world.east.wait_for_pod("leaving", "another one", |pod| pod.uid() != delegate.uid())?;
    scene.home.stop();
    scene.target.stop();
    scene.world.host.wait_for_ready("unseen")?;
    scene.world.host.wait_for_ready("leaving").map(|_| ())
}

#[test]
fn an_object_that_makes_no_sense_harms_no_other() -> Result<()> {
    let scene = Scene::new("garbage", &[])?;
    let (known, strange) = (scene.running("known")?, scene.running("strange")?);
    let target = scene.world.record_target()?;
    let spoil = |names: &'static [&'static str], field: &'static str, value: Value| {
        Fault::edit(move |_, object| {
            if names.iter().any(|name| object["metadata"]["name"] == *name) {
                object["metadata"][field] = value.clone();
            }
            true
        })
    };
    scene.home.always(pods, spoil(&["odd", "known"], "labels", json!({"app": 7})));
    scene.target.always(pods, spoil(&["strange"], "deletionTimestamp", json!({"at": "noon"})));
    scene.world.host.create(scene.world.pod("odd", &[container("main", IDLE)]))?;
    // Lists of the odd and the strange.
    scene.home.expire_watches();
    scene.target.expire_watches();
    let message = scene.world.host.wait_for_event("odd", "Unreadable")?;
    assert!(message.contains("metadata.labels"), "{message}");
    scene.ensure_works("sound")?;
    for pod in [&known, &strange] {
        scene.ensure_untouched(pod)?;
    }
    let odd = scene.world.host.pod("odd")?;
    assert!(scene.world.delegates(&odd)?.is_empty(), "nothing is made of what cannot be read");

    // A process that knows nothing yet finds the same.
    scene.world.longshore().kill9()?;
    scene.world.longshore().restart()?;
    scene.ensure_works("sounder")?;
    for pod in [&known, &strange] {
        scene.ensure_untouched(pod)?;
    }
    scene.home.stop();
    scene.target.stop();
    scene.home.expire_watches();
    scene.target.expire_watches();
    scene.world.host.wait_for_ready("odd")?;
    for pod in [&known, &strange] {
        scene.ensure_untouched(pod)?;
    }
    target.ensure_nothing_doubled()
}

#[test]
fn a_target_that_refuses_us_for_a_while_loses_nothing() -> Result<()> {
    let scene = Scene::new("refused", &[])?;
    let steady = scene.running("steady")?;
    let home = scene.world.record_home()?;
    scene.target.always(|_| true, Fault::Status(401, None));
    scene.target.expire_watches();
    let node = scene.world.longshore().node();
    scene.world.host.wait("the node to tell that it is refused", secs(20), |host| {
        let node = host.get("nodes", node)?;
        let conditions = node["status"]["conditions"].as_array().context("no conditions")?;
        ensure!(conditions.iter().any(|one| one["reason"] == "TargetRefused"), "{conditions:?}");
        Ok(())
    })?;
    // A pod that comes before the list begins is refused by its own creation, and told that instead.
    scene.world.host.wait("the delegates to be listed in vain", secs(20), |_| {
        let list = |asked: &Asked| asked.is_list_of("pods") && asked.status == 401;
        ensure!(scene.target.asked().iter().any(list), "nobody has asked");
        Ok(())
    })?;
    let mut late = scene.world.pod("late", &[container("main", IDLE)]);
    late["spec"]["nodeName"] = node.into();
    scene.world.host.create(late)?;
    let message = scene.world.host.wait_for_event("late", "TargetUnreachable")?;
    assert!(message.contains("conditions of the node"), "it says where to look: {message}");
    assert_eq!(scene.world.host.pod("late")?.phase(), "Pending");
    scene.target.stop();
    scene.world.host.wait_for_ready("late")?;
    scene.ensure_untouched(&steady)?;
    let failed = home.observations()?.into_iter().any(|one| one.pod.is_finished());
    assert!(!failed, "{}", home.tell());
    Ok(())
}

#[test]
fn a_slow_target_keeps_nobody_from_the_others() -> Result<()> {
    World::lab()?.up(&["west"])?;
    let slow = Meddler::before(&World::cluster("east", "default")?)?;
    let world = World::changed("slow", |options| {
        options.target = slow.kubeconfig();
        options.more_targets =
            vec![("west".to_owned(), World::lab().expect("it is up").kubeconfig("west").expect("a file"))];
        options.flags = vec!["--workers".to_owned(), "2".to_owned()];
    })?;
    world.wait_for_node()?;
    let west = World::cluster("west", &world.namespace)?;
    world.create_target_namespace()?;
    let chosen = |name: &str, target: &str| {
        let mut pod = world.pod(name, &[container("main", IDLE)]);
        pod["metadata"]["annotations"] = json!({"longshore.dev/target": target});
        pod
    };
    slow.always(creation, Fault::Late(secs(7)));
    for name in ["a", "b", "c", "d"] {
        world.host.create(chosen(name, "east"))?;
    }
    world.host.wait("the slow target to be asked", secs(20), |_| {
        let asked = slow.asked().iter().filter(|asked| creation(asked)).count();
        ensure!(asked >= 2, "{asked}");
        Ok(())
    })?;
    let begin = Instant::now();
    world.host.create(chosen("quick", "west"))?;
    west.wait("the delegate in the other target", secs(20), |west| west.find_pod("quick")?.context("none yet"))?;
    let waited = begin.elapsed();
    let answered = slow.asked().iter().filter(|asked| creation(asked) && asked.status == 201).count();
    ensure!(answered == 0, "after {waited:?} the slow one has answered {answered} times");
    for name in ["a", "b", "c", "d", "quick"] {
        world.host.wait_for_ready(name)?;
    }
    Ok(())
}
