//! A real Prometheus that scrapes what a test runs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use lab::toolchain::{self, Toolchain};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    command::{Background, run},
    longshore::{BRIDGE, free_port},
    secs,
};

const PAUSE: Duration = Duration::from_millis(200);

/// A Prometheus, which ends with this value.
pub struct Prometheus {
    tool: PathBuf,
    url: String,
    server: Background,
    _dir: TempDir,
}

impl Prometheus {
    /// Scrapes these addresses each second, as job `longshore`, and loads these rules.
    pub fn start(targets: &[String], rules: &Path) -> Result<Self> {
        let toolchain::Prometheus { server, tool } = Toolchain::open()?.ensure_prometheus()?;
        let dir = tempfile::Builder::new().prefix("longshore-prometheus-").tempdir()?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n\
             scrape_configs:\n- job_name: longshore\n  static_configs: [{{targets: [{targets}]}}]\n",
            rules = fs::canonicalize(rules)?.display(),
            targets = targets.join(", "),
        );
        let path = dir.path().join("prometheus.yml");
        fs::write(&path, config)?;
        let address = format!("{BRIDGE}:{}", free_port()?);
        let mut command = Command::new("setpriv");
        // Dies with the thread that started it, should the tests be killed.
        command.args(["--pdeathsig", "KILL"]).arg(server);
        command.arg(format!("--config.file={}", path.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        let server = Background::start(&mut command)?;
        let prometheus = Self { tool, url: format!("http://{address}"), server, _dir: dir };
        prometheus.wait("all targets to be scraped", secs(60), |one| {
            let up = one.query("sum(up{job=\"longshore\"})")?;
            ensure!((number(&up)? - f64::from(u32::try_from(targets.len())?)).abs() < 0.5, "{up:?}");
            Ok(())
        })?;
        Ok(prometheus)
    }

    /// The samples of an instant query: each an object with `metric` and `value`.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let mut command = Command::new(&self.tool);
        command.args(["query", "instant", "--format=json", &self.url, query]);
        let answer = run(&mut command, b"")?;
        ensure!(answer.code == 0, "{query}: {}{}", answer.stdout, answer.stderr);
        let answer: Value = serde_json::from_str(&answer.stdout).with_context(|| answer.stdout.clone())?;
        Ok(answer.as_array().with_context(|| format!("{query} is no vector: {answer}"))?.clone())
    }

    /// The value of a query that has one.
    pub fn value(&self, query: &str) -> Result<f64> {
        number(&self.query(query)?).with_context(|| query.to_owned())
    }

    /// All values that a label has.
    pub fn labels(&self, name: &str) -> Result<Vec<String>> {
        let mut command = Command::new(&self.tool);
        let answer = run(command.args(["query", "labels", &self.url, name]), b"")?.ok()?;
        Ok(answer.lines().map(ToOwned::to_owned).collect())
    }

    /// Waits until `look` succeeds.
    pub fn wait<T>(&self, what: &str, within: Duration, look: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            match look(self) {
                Ok(found) => return Ok(found),
                Err(seen) if begin.elapsed() > within => {
                    bail!("waited {within:?} for {what}; at last: {seen:#}\n{}", self.server.lines().join("\n"))
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    /// Runs promtool.
    pub fn tool(args: &[&str]) -> Result<String> {
        let mut command = Command::new(Toolchain::open()?.ensure_prometheus()?.tool);
        let output = run(command.args(args), b"")?;
        ensure!(output.code == 0, "promtool {args:?}: {}{}", output.stdout, output.stderr);
        Ok(output.stdout)
    }
}

fn number(samples: &[Value]) -> Result<f64> {
    let [sample] = samples else { bail!("there is not one value, but {samples:?}") };
    sample["value"][1].as_str().context("no value")?.parse().context("no number")
}
