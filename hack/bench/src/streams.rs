//! Logs, port-forwards and execs through home and Longshore, beside the same straight in the target, which has a real node here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::AttachParams;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::{Cluster, NAMESPACE, path};
use crate::process;
use crate::subject::Subject;
use crate::world::{HOST, TARGET, World};

/// So many lines of a hundred bytes, and a file of as many bytes.
const LINES: usize = 1_000_000;
const BYTES: usize = LINES * 100;
/// Execs at a time.
const EXECS: usize = 200;
/// Each throughput is the best of so many, since others use the machine as well.
const ROUNDS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(120);
const POD: &str = "talker";

/// What it took: straight, and through home.
#[derive(Default)]
pub(crate) struct Streams {
    pub(crate) logs: [Duration; 2],
    pub(crate) forward: [Duration; 2],
    pub(crate) execs: [Duration; 2],
    /// Of Longshore for all that went through it: CPU, and memory at most in kB before the execs, and after them.
    pub(crate) cpu: Duration,
    pub(crate) memory: [u64; 2],
}

/// Measures all of it.
pub(crate) async fn streams(world: &World, subject: &Subject) -> Result<Streams> {
    let script = format!(
        "mkdir /www; head -c {BYTES} /dev/zero > /www/body; yes {} | head -n {LINES}; echo end; exec httpd -f -p 8080 -h /www",
        "x".repeat(99)
    );
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD}, "spec": {
        "nodeName": subject.kind.node(), "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": lab::image::BUSYBOX, "command": ["sh", "-c", script]}]}});
    world.home.send("POST", &path(""), &pod).await?;
    let begun = Instant::now();
    while !written(world)? {
        ensure!(begun.elapsed() < PATIENCE, "the pod {POD} has not written {BYTES} bytes");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let mut streams = Streams::default();
    let pid = subject.pid().context("nobody is measured")?;
    process::forget_peak(pid);
    let cpu = process::cpu(pid);
    for _ in 0..ROUNDS {
        for (side, name) in [TARGET, HOST].into_iter().enumerate() {
            best(&mut streams.logs[side], logs(world, name)?);
            best(&mut streams.forward[side], forward(world, name)?);
        }
    }
    streams.memory[0] = process::memory(pid, "VmHWM");
    process::forget_peak(pid);
    for (side, cluster) in [&world.target, &world.home].into_iter().enumerate() {
        streams.execs[side] = execs(cluster).await?;
    }
    streams.memory[1] = process::memory(pid, "VmHWM");
    streams.cpu = process::cpu(pid).saturating_sub(cpu);
    world.home.send("DELETE", &path(POD), &Value::Null).await?;
    Ok(streams)
}

fn best(known: &mut Duration, now: Duration) {
    *known = if known.is_zero() { now } else { now.min(*known) };
}

/// Whether the last line is in the log.
fn written(world: &World) -> Result<bool> {
    let mut kubectl = world.lab.kubectl(TARGET)?;
    let out = kubectl.args(["-n", NAMESPACE, "logs", POD, "--tail=1"]).stderr(Stdio::null()).output()?;
    Ok(out.stdout == b"end\n")
}

fn logs(world: &World, cluster: &str) -> Result<Duration> {
    let begun = Instant::now();
    let mut kubectl = world.lab.kubectl(cluster)?;
    let mut child = kubectl.args(["-n", NAMESPACE, "logs", POD]).stdout(Stdio::piped()).spawn()?;
    let count = drain(child.stdout.take().context("no output")?)?;
    ensure!(child.wait()?.success() && count >= BYTES, "{count} bytes of a log of {BYTES} came from {cluster}");
    Ok(begun.elapsed())
}

fn drain(mut from: impl Read) -> Result<usize> {
    let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(count),
            some => count += some,
        }
    }
}

/// Ends with this.
struct Forward(Child);

impl Drop for Forward {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn forward(world: &World, cluster: &str) -> Result<Duration> {
    let mut kubectl = world.lab.kubectl(cluster)?;
    let target = format!("pod/{POD}");
    let child = kubectl.args(["-n", NAMESPACE, "port-forward", &target, ":8080"]).stdout(Stdio::piped()).spawn()?;
    let mut child = Forward(child);
    let mut line = String::new();
    let mut told = BufReader::new(child.0.stdout.take().context("no output")?);
    told.read_line(&mut line)?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
    let port: u16 = port.with_context(|| format!("kubectl port-forward says {line:?}"))?.parse()?;
    let begun = Instant::now();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /body HTTP/1.0\r\n\r\n")?;
    let count = drain(stream)?;
    ensure!(count >= BYTES, "{count} bytes of {BYTES} came through a port-forward of {cluster}");
    Ok(begun.elapsed())
}

/// Until all have said that they are there, and each has given back what it was given.
async fn execs(cluster: &Cluster) -> Result<Duration> {
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), NAMESPACE);
    let begun = Instant::now();
    let open = (0..EXECS).map(|_| async {
        let params = AttachParams::default().stdin(true).stdout(true).stderr(false);
        let mut exec = pods.exec(POD, ["sh", "-c", "echo here; read line; echo $line"], &params).await?;
        let mut out = exec.stdout().context("no output")?;
        expect(&mut out, "here\n").await?;
        anyhow::Ok((exec, out))
    });
    let open = try_join_all(open).await?;
    let talk = open.into_iter().enumerate().map(|(index, (mut exec, mut out))| async move {
        let line = format!("line {index}\n");
        exec.stdin().context("no input")?.write_all(line.as_bytes()).await?;
        expect(&mut out, &line).await?;
        // Whoever does not wait for how it ended is told that nobody did.
        let end = exec.take_status().context("no status")?.await;
        ensure!(
            end.is_some_and(|end| end.status.as_deref() == Some("Success")),
            "it ended without a word, or with an error"
        );
        exec.join().await.map_err(anyhow::Error::from)
    });
    try_join_all(talk).await?;
    Ok(begun.elapsed())
}

async fn expect(from: &mut (impl tokio::io::AsyncRead + Unpin), what: &str) -> Result<()> {
    let mut read = vec![0; what.len()];
    tokio::time::timeout(PATIENCE, from.read_exact(&mut read)).await??;
    ensure!(read == what.as_bytes(), "{what:?} came back as {:?}", String::from_utf8_lossy(&read));
    Ok(())
}
