//! Commands that end in time, and those that go on beside a test.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// A command that hangs is a failure that should say so, not one of the whole run.
const DEADLINE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(20);

/// What a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
}

impl Output {
    /// The standard output of a command that succeeded.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "the command failed: {self:?}");
        Ok(self.stdout)
    }
}

/// Runs a command to its end, with these bytes as standard input.
pub fn run(command: &mut Command, stdin: &[u8]) -> Result<Output> {
    let mut child = Guard(start(command.stdin(Stdio::piped()))?);
    let (out, err) = (drain(child.0.stdout.take()), drain(child.0.stderr.take()));
    let mut input = child.0.stdin.take().context("no standard input")?;
    let bytes = stdin.to_vec();
    // A command may end without reading it all, which is its own business.
    let feeder = thread::spawn(move || _ = input.write_all(&bytes));
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            drop(child);
            bail!("{command:?} did not end within {} s; so far: {:?} {:?}", DEADLINE.as_secs(), text(out), text(err));
        }
        thread::sleep(PAUSE);
    };
    _ = feeder.join();
    Ok(Output { stdout: text(out), stderr: text(err), code: status.code().unwrap_or(-1) })
}

/// A command that goes on beside the test and ends with this at the latest.
pub struct Background {
    child: Guard,
    stdin: Option<ChildStdin>,
    lines: Arc<Mutex<Vec<String>>>,
    name: String,
}

impl Background {
    /// Starts it. Standard output and standard error are collected line by line.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = start(command.stdin(Stdio::piped()))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdin = child.stdin.take();
        collect(child.stdout.take(), &lines);
        collect(child.stderr.take(), &lines);
        Ok(Self { child: Guard(child), stdin, lines, name: format!("{command:?}") })
    }

    /// What it has printed so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it prints a line that contains `text`, and returns that line.
    pub fn wait_for_line(&self, text: &str, within: Duration) -> Result<String> {
        let end = Instant::now() + within;
        loop {
            if let Some(line) = self.lines().into_iter().find(|line| line.contains(text)) {
                return Ok(line);
            }
            ensure!(
                Instant::now() < end,
                "{} did not print {text:?} within {within:?}, but: {:?}",
                self.name,
                self.lines()
            );
            thread::sleep(PAUSE);
        }
    }

    /// Sends bytes to its standard input.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its standard input is closed")?;
        stdin.write_all(bytes)?;
        Ok(stdin.flush()?)
    }

    /// Waits for its end and returns the exit code and all lines.
    pub fn wait(mut self, within: Duration) -> Result<(i32, Vec<String>)> {
        self.stdin = None;
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.0.try_wait()? {
                // The readers see the end of the streams a moment later.
                while Arc::strong_count(&self.lines) > 1 && Instant::now() < end {
                    thread::sleep(PAUSE);
                }
                return Ok((status.code().unwrap_or(-1), self.lines()));
            }
            ensure!(Instant::now() < end, "{} did not end within {within:?}; it printed {:?}", self.name, self.lines());
            thread::sleep(PAUSE);
        }
    }
}

struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Result<Child> {
    let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    spawned.with_context(|| format!("failed to start {command:?}"))
}

fn drain(stream: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            _ = stream.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn text(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
}

fn collect(stream: Option<impl Read + Send + 'static>, lines: &Arc<Mutex<Vec<String>>>) {
    let (Some(stream), lines) = (stream, lines.clone()) else { return };
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    });
}
