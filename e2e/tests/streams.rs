//! exec, attach, cp and port-forward at home reach the containers in the target.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
};

use e2e::{Context, IDLE, LegacySocket, Pod, Result, Terminal, World, container, ensure, secs};
use sha2::{Digest, Sha256};

fn idler(world: &World) -> Result<Pod> {
    world.host.create(world.pod("idler", &[container("main", IDLE)]))?;
    world.host.wait_for_ready("idler")
}

fn digest(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

/// Bytes without a pattern that would hide a swapped or doubled block.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn exec_returns_what_the_command_does() -> Result<()> {
    let world = World::new("exec")?;
    idler(&world)?;
    let exec = |script: &str| world.host.kubectl(&["exec", "idler", "--", "sh", "-c", script]);

    let both = exec("echo out; echo err >&2")?;
    assert_eq!((both.stdout.as_str(), both.stderr.as_str(), both.code), ("out\n", "err\n", 0), "streams stay apart");
    assert_eq!(exec("exit 3")?.code, 3);
    assert_eq!(exec("no-such-command")?.code, 127);
    let missing = world.host.kubectl(&["exec", "idler", "--", "/no/such/program"])?;
    assert_ne!(missing.code, 0);
    assert!(missing.stderr.contains("/no/such/program"), "the runtime's message comes home: {missing:?}");
    let unknown = world.host.kubectl(&["exec", "idler", "-c", "nobody", "--", "true"])?;
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("nobody"), "{unknown:?}");

    let echoed = world.host.kubectl_with(&["exec", "-i", "idler", "--", "cat"], b"through and back\n")?;
    assert_eq!(echoed.ok()?, "through and back\n", "standard input ends where it ended");
    let bytes = noise(1 << 20);
    let counted = world.host.kubectl_with(&["exec", "-i", "idler", "--", "sha256sum"], &bytes)?.ok()?;
    assert_eq!(counted.split(' ').next(), Some(digest(&bytes).as_str()), "1 MiB arrives whole");
    assert_eq!(exec("hostname")?.ok()?, "idler\n");
    Ok(())
}

#[test]
fn a_terminal_follows_the_window() -> Result<()> {
    let world = World::new("tty")?;
    idler(&world)?;
    let command = world.host.kubectl_command(&["exec", "-it", "idler", "--", "sh"])?;
    let terminal = Terminal::open(command, 31, 97)?;
    terminal.wait_for("# ", secs(20))?;
    terminal.type_in("tty; stty size\n")?;
    terminal.wait_for("/dev/pts/", secs(10))?;
    terminal.wait_for("31 97", secs(10))?;
    terminal.resize(42, 121)?;
    // The new size travels beside the keystrokes and may come after them.
    terminal.type_in("until stty size | grep '42 1''21'; do sleep 1; done\n")?;
    terminal.wait_for("42 121", secs(10))?;
    terminal.type_in("exit 5\n")?;
    assert_eq!(terminal.wait(secs(10))?, 5, "the shell's exit code is kubectl's");
    Ok(())
}

#[test]
fn attach_reaches_the_main_process() -> Result<()> {
    let world = World::new("attach")?;
    let mut main = container("main", "while read line; do echo \"heard $line\"; done; echo bye");
    main["stdin"] = true.into();
    main["stdinOnce"] = true.into();
    world.host.create(world.one_shot("listener", &[main]))?;
    world.host.wait_for_ready("listener")?;
    let mut attached = world.host.kubectl_beside(&["attach", "-i", "listener"])?;
    attached.send(b"hello\n")?;
    attached.wait_for_line("heard hello", secs(20))?;
    let (code, lines) = attached.wait(secs(20))?;
    assert_eq!(code, 0, "{lines:?}");
    assert!(lines.contains(&"bye".to_owned()), "the end of input reaches the process: {lines:?}");
    world.host.wait_for_pod("listener", "Succeeded", |pod| pod.phase() == "Succeeded").map(drop)
}

/// Asks for a page over a new connection.
fn fetch(port: u16, path: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.0 200") || answer.starts_with(b"HTTP/1.1 200"), "{} bytes", answer.len());
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("no end of the head")?;
    Ok(answer.split_off(end + 4))
}

#[test]
fn port_forward_reaches_the_remote_server() -> Result<()> {
    let world = World::new("portforward")?;
    let script = format!("mkdir /www; hostname > /www/name; httpd -p 8080 -h /www; {IDLE}");
    world.host.create(world.pod("server", &[container("main", &script)]))?;
    world.host.wait_for_ready("server")?;
    // Made there: on any cluster, kubectl exec loses input of a command that prints nothing.
    let make = "head -c 1000000 /dev/urandom > /www/body; sha256sum /www/body";
    let sum = world.host.kubectl(&["exec", "server", "--", "sh", "-c", make])?.ok()?;

    let forward = world.host.kubectl_beside(&["port-forward", "pod/server", ":8080"])?;
    let line = forward.wait_for_line("Forwarding from 127.0.0.1:", secs(20))?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse()?;
    assert_eq!(fetch(port, "/name")?, b"server\n");
    assert_eq!(fetch(port, "/name")?, b"server\n", "a second connection of the same forwarding");
    thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| fetch(port, "/body"))).collect();
        for one in asked {
            let body = one.join().unwrap()?;
            assert_eq!(body.len(), 1_000_000, "1 MB arrives whole over connections at once");
            assert_eq!(Some(digest(&body).as_str()), sum.split(' ').next(), "and unharmed");
        }
        Ok(())
    })
}

#[test]
fn files_are_copied_both_ways() -> Result<()> {
    let world = World::new("cp")?;
    idler(&world)?;
    let dir = tempfile::tempdir()?;
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes = noise(300_000);
    fs::write(&there, &bytes)?;
    world.host.kubectl(&["cp", there.to_str().unwrap(), "idler:/tmp/file"])?.ok()?;
    let sum = world.host.kubectl(&["exec", "idler", "--", "sha256sum", "/tmp/file"])?.ok()?;
    assert_eq!(sum.split(' ').next(), Some(digest(&bytes).as_str()));
    world.host.kubectl(&["cp", "idler:/tmp/file", back.to_str().unwrap()])?.ok()?;
    assert_eq!(digest(&fs::read(back)?), digest(&bytes));
    Ok(())
}

#[test]
fn clients_of_the_old_web_socket_protocols_are_served() -> Result<()> {
    let world = World::new("websocket")?;
    idler(&world)?;
    let script = "echo%20out%3B%20echo%20err%20%3E%262%3B%20exit%203";
    let path = format!(
        "/api/v1/namespaces/{}/pods/idler/exec?stdout=true&stderr=true&command=sh&command=-c&command={script}",
        world.namespace
    );
    let [_, stdout, stderr, end] = LegacySocket::open(&world.host, &path, "v4.channel.k8s.io")?.read_to_end()?;
    assert_eq!((stdout, stderr), (b"out\n".to_vec(), b"err\n".to_vec()));
    let end: e2e::Value = serde_json::from_slice(&end)?;
    assert_eq!(end["status"], "Failure", "{end}");
    assert_eq!(end["details"]["causes"][0]["message"], "3", "the exit code comes home: {end}");

    let [_, stdout, _, _] = LegacySocket::open(&world.host, &path, "channel.k8s.io")?.read_to_end()?;
    assert_eq!(stdout, b"out\n");
    Ok(())
}
