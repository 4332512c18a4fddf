//! `kubectl logs` at home, with every option.

use e2e::{Pod, Result, World, container, json, secs};

/// One pod for all options: its first line is older than its last two by some seconds.
fn speaker(world: &World) -> Result<Pod> {
    let script = "echo one; sleep 6; echo two; echo three; trap 'exit 0' TERM; sleep 86400 & wait";
    let mut other = container("other", "echo other; trap 'exit 0' TERM; sleep 86400 & wait");
    other["terminationMessagePath"] = "/dev/other".into();
    world.host.create(world.pod_of(
        "speaker",
        json!({
            "initContainers": [container("setup", "echo set up")],
            "containers": [container("main", script), other],
        }),
    ))?;
    world.host.wait_for_ready("speaker")
}

#[test]
fn every_option_does_what_it_says() -> Result<()> {
    let world = World::new("logs")?;
    speaker(&world)?;
    let follower = world.host.kubectl_beside(&["logs", "-f", "speaker", "-c", "main"])?;
    follower.wait_for_line("one", secs(10))?;
    assert!(!follower.lines().contains(&"three".to_owned()), "lines come when they are written, not before");
    follower.wait_for_line("three", secs(20))?;

    let logs = |options: &[&str]| world.host.kubectl(&[&["logs", "speaker"], options].concat())?.ok();
    assert_eq!(logs(&["-c", "main"])?, "one\ntwo\nthree\n");
    assert_eq!(logs(&["-c", "other"])?, "other\n");
    assert_eq!(logs(&["-c", "setup"])?, "set up\n", "of an init container");
    assert_eq!(logs(&["-c", "main", "--tail", "1"])?, "three\n");
    assert_eq!(logs(&["-c", "main", "--tail", "0"])?, "");
    assert_eq!(logs(&["-c", "main", "--limit-bytes", "5"])?, "one\nt");

    let stamped = logs(&["-c", "main", "--timestamps"])?;
    let stamps: Vec<_> = stamped.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(stamps.iter().map(|(_, line)| *line).collect::<Vec<_>>(), ["one", "two", "three"]);
    assert!(stamps.iter().all(|(time, _)| time.starts_with("20") && time.contains('T')), "{stamped}");

    // `--since-time` has whole seconds: the second line's, at which the first was 6 s old.
    let (second, _) = stamps[1].0.split_once('.').unwrap();
    assert_eq!(logs(&["-c", "main", "--since-time", &format!("{second}Z")])?, "two\nthree\n");
    assert_eq!(logs(&["-c", "main", "--since", "1h"])?, "one\ntwo\nthree\n");
    // A young line is there and the old one is not, whenever this runs within the hour.
    world.host.wait("--since to leave out what is older", secs(20), |_| {
        let young = logs(&["-c", "main", "--since", "5s"])?;
        e2e::ensure!(!young.contains("one"), "{young}");
        Ok(())
    })?;

    let all = logs(&["--all-containers", "--prefix"])?;
    for line in ["[pod/speaker/setup] set up", "[pod/speaker/main] three", "[pod/speaker/other] other"] {
        assert!(all.contains(line), "{all}");
    }
    Ok(())
}

#[test]
fn errors_are_those_of_a_kubelet() -> Result<()> {
    let world = World::new("log-errors")?;
    let speaker = speaker(&world)?;
    let refused = |options: &[&str]| -> Result<String> {
        let output = world.host.kubectl(&[&["logs", speaker.name()], options].concat())?;
        assert_eq!(output.code, 1, "{output:?}");
        Ok(output.stderr)
    };
    let unknown = refused(&["-c", "nobody"])?;
    assert!(unknown.contains("container nobody is not valid for pod speaker"), "{unknown}");
    let previous = refused(&["-c", "main", "--previous"])?;
    assert!(previous.contains("previous terminated container \"main\""), "{previous}");
    assert!(previous.contains("not found"), "{previous}");
    // Past the API server, which knows the pod's containers itself.
    let path = format!("/api/v1/nodes/{}/proxy/containerLogs", world.longshore().node());
    let raw = world.host.kubectl(&["get", "--raw", &format!("{path}/{}/speaker/nobody", world.namespace)])?;
    assert_eq!((raw.stdout.as_str(), raw.code), ("", 1), "{raw:?}");
    Ok(())
}

#[test]
fn following_ends_with_the_container() -> Result<()> {
    let world = World::new("follow")?;
    let script = "for i in 1 2 3 4 5; do echo $i; sleep 1; done; echo end";
    world.host.create(world.one_shot("counter", &[container("main", script)]))?;
    world.host.wait_for_pod("counter", "Running", |pod| pod.phase() == "Running")?;
    let (code, lines) = world.host.kubectl_beside(&["logs", "-f", "counter"])?.wait(secs(30))?;
    assert_eq!(code, 0, "{lines:?}");
    assert_eq!(lines, ["1", "2", "3", "4", "5", "end"]);
    Ok(())
}

#[test]
fn the_log_before_a_crash_is_kept() -> Result<()> {
    let world = World::new("previous")?;
    let script = "if [ -e /seen/once ]; then echo second; trap 'exit 0' TERM; sleep 86400 & wait; fi; \
        touch /seen/once; echo first; exit 1";
    let mut main = container("main", script);
    main["volumeMounts"] = json!([{"name": "seen", "mountPath": "/seen"}]);
    let spec = json!({"containers": [main], "volumes": [{"name": "seen", "emptyDir": {}}]});
    world.host.create(world.pod_of("crasher", spec))?;
    world.host.wait_for_pod("crasher", "Ready after a restart", |pod| pod.is_ready() && pod.restarts() == 1)?;
    assert_eq!(world.host.kubectl(&["logs", "crasher", "--previous"])?.ok()?, "first\n");
    assert_eq!(world.host.kubectl(&["logs", "crasher"])?.ok()?, "second\n");
    Ok(())
}
