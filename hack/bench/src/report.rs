//! What was measured, as tables and plots.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::audit::{Requests, WRITES, on_pods};
use crate::measure::{Outcome, Quiet, percentile};
use crate::scale::Scale;
use crate::streams::Streams;
use crate::subject::Kind;
use crate::svg::{Line, plot};

/// One measurement: what it was, of whom, and the outcome.
pub(crate) struct Entry {
    pub(crate) what: String,
    pub(crate) kind: Kind,
    pub(crate) outcome: Outcome,
}

/// Everything of a run.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) bursts: Vec<Entry>,
    pub(crate) churns: Vec<Entry>,
    pub(crate) quiet: Option<(usize, Quiet)>,
    pub(crate) streams: Option<Streams>,
    pub(crate) scales: Vec<Scale>,
}

impl Report {
    /// Writes `report.md` and the plots into a directory.
    pub(crate) fn write(&self, out: &Path) -> Result<String> {
        let text = self.text();
        fs::write(out.join("report.md"), &text)?;
        for what in whats(&self.bursts) {
            let lines = |points: fn(&Outcome) -> Vec<(f64, f64)>| -> Vec<Line> {
                let of = self.bursts.iter().filter(|entry| entry.what == what);
                of.map(|entry| (entry.kind.name().to_owned(), points(&entry.outcome))).collect()
            };
            let name = what.replace([' ', ','], "-");
            let ready =
                plot(&format!("{what}: Ready at home"), "seconds since the first creation", "pods", &lines(curve));
            fs::write(out.join(format!("{name}-ready.svg")), ready)?;
            let memory: Vec<Line> = lines(memory).into_iter().filter(|(_, points)| !points.is_empty()).collect();
            fs::write(
                out.join(format!("{name}-memory.svg")),
                plot(&format!("{what}: memory"), "seconds", "MB", &memory),
            )?;
        }
        Ok(text)
    }

    fn text(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let mut text = format!(
            "Two clusters without kubelets on this machine ({cores} cores, which carry both control planes, the simulated nodes and \
             the measurement too). Pods are created one by one, 24 requests at a time, bound to the virtual node by `nodeName`; \
             delegates and plain pods are scheduled in the target. Controllers and scheduler run with `--kube-api-qps=500`. \
             *Others* are cores that were busy with neither of these: the noise.\n"
        );
        text += "\n## Bursts\n\n| Burst | Who | Makespan s | pods/s | × null | Deletion s | × null | CPU ms a pod | Idle MB | With pods MB | Peak MB | After MB | kB a pod | Busy / others |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        for Entry { what, kind, outcome } in &self.bursts {
            let floor = floor(&self.bursts, what);
            let ratio = |mine: Duration, theirs: fn(&Outcome) -> Duration| {
                floor.map_or("–".into(), |floor| format!("{:.2}", mine.as_secs_f64() / theirs(floor).as_secs_f64()))
            };
            let Outcome { makespan, deletion, pods, cpu, memory, busy, .. } = outcome;
            let [idle, with, peak, after] = memory.map(megabytes);
            let each = memory[1].saturating_sub(memory[0]) as f64 / *pods as f64;
            _ = writeln!(
                text,
                "| {what} | {} | {:.1} | {:.0} | {} | {:.1} | {} | {:.2} | {idle} | {with} | {peak} | {after} | {each:.1} | {:.1} / {:.1} |",
                kind.name(),
                makespan.as_secs_f64(),
                *pods as f64 / makespan.as_secs_f64(),
                ratio(*makespan, |floor| floor.makespan),
                deletion.as_secs_f64(),
                ratio(*deletion, |floor| floor.deletion),
                cpu.as_secs_f64() * 1e3 / *pods as f64,
                busy.0,
                busy.1,
            );
        }
        text += "\n## Steps\n\nMilliseconds, and the ratio to the null offloader's.\n\n| When | Who | Step | p50 | p90 | p99 | × null p50 | × null p99 |\n|---|---|---|--:|--:|--:|--:|--:|\n";
        for (entries, entry) in self.all() {
            for (step, spread) in &entry.outcome.steps {
                let theirs =
                    floor(entries, &entry.what).and_then(|floor| floor.steps.iter().find(|(known, _)| known == step));
                let at = |percent| percentile(spread, percent).as_secs_f64() * 1e3;
                let ratio = |percent| {
                    theirs.map_or("–".into(), |(_, theirs)| {
                        format!("{:.2}", at(percent) / (percentile(theirs, percent).as_secs_f64() * 1e3))
                    })
                };
                let (p50, p90, p99) = (at(50), at(90), at(99));
                let (what, who) = (&entry.what, entry.kind.name());
                _ = writeln!(
                    text,
                    "| {what} | {who} | {step} | {p50:.1} | {p90:.1} | {p99:.1} | {} | {} |",
                    ratio(50),
                    ratio(99)
                );
            }
        }
        text += "\n## Requests\n\nOf whoever is measured, by the API servers' audit logs.\n\n| When | Who | Writes on pods, per pod | Reads on pods | CPU ms a pod | At home | In the target |\n|---|---|--:|--:|--:|---|---|\n";
        for (_, Entry { what, kind, outcome }) in self.all().filter(|(_, entry)| entry.kind != Kind::Plain) {
            let both = |verbs: &[&str]| on_pods(&outcome.home, verbs) + on_pods(&outcome.target, verbs);
            let each = |count: f64| count / outcome.pods as f64;
            _ = writeln!(
                text,
                "| {what} | {} | {:.2} | {} | {:.2} | {} | {} |",
                kind.name(),
                each(both(&WRITES) as f64),
                both(&["get", "list"]),
                each(outcome.cpu.as_secs_f64() * 1e3),
                list(&outcome.home),
                list(&outcome.target),
            );
        }
        self.quiet(&mut text);
        self.scales(&mut text);
        self.streams(&mut text);
        text
    }

    fn quiet(&self, text: &mut String) {
        if let Some((pods, quiet)) = &self.quiet {
            let both = |home, target, verbs: &[&str]| on_pods(home, verbs) + on_pods(target, verbs);
            _ = write!(
                text,
                "\n## Quiet, and a restart\n\nLongshore with {pods} pods and nothing to do for {:.0} s: {:.2} % of a core, {} MB; requests at home: {}; in \
                 the target: {}.\n\nA restart with {pods} pods: until a new pod had its delegate {:.2} s, the bare lists of both \
                 sides take {:.2} s ({:.1} ×); {} MB at most; writes on pods: {} (of which the new pod's are two); requests at home: {}; \
                 in the target: {}.\n\nBoth API servers were started anew, so that no watch could go on: until a new pod was ready {:.2} s, {} \
                 MB at most; requests at home: {}; in the target: {}. When all pods are gone: {} MB.\n",
                quiet.seconds,
                quiet.cpu.as_secs_f64() / quiet.seconds * 100.0,
                megabytes(quiet.memory),
                list(&quiet.home),
                list(&quiet.target),
                quiet.restart.as_secs_f64(),
                quiet.lists.as_secs_f64(),
                quiet.restart.as_secs_f64() / quiet.lists.as_secs_f64(),
                megabytes(quiet.restart_memory),
                both(&quiet.restart_home, &quiet.restart_target, &WRITES),
                list(&quiet.restart_home),
                list(&quiet.restart_target),
                quiet.relist.as_secs_f64(),
                megabytes(quiet.relist_memory),
                list(&quiet.relist_home),
                list(&quiet.relist_target),
                megabytes(quiet.after_memory),
            );
        }
    }

    fn scales(&self, text: &mut String) {
        if !self.scales.is_empty() {
            *text += "\n## Twenty targets\n\nOf API servers in memory, so that the process is what is measured.\n\n| Pods | Start s | CPU ms a pod | Restart s | CPU s | Deletion s | CPU ms a pod | Idle % of a core | Idle requests | Bare MB | Peak MB | With pods MB | Peak of the restart MB | After MB |\n|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
        }
        for Scale { pods, start, restart, end, idle, idle_requests, memory } in &self.scales {
            let [start, restart, end] = [start, restart, end].map(|both| both.map(|one| one.as_secs_f64()));
            let each = |cpu: f64| cpu * 1e3 / *pods as f64;
            let [bare, peak, with, again, after] = memory.map(megabytes);
            _ = writeln!(
                text,
                "| {pods} | {:.1} | {:.2} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {} | {bare} | {peak} | {with} | {again} | {after} |",
                start[0],
                each(start[1]),
                restart[0],
                restart[1],
                end[0],
                each(end[1]),
                idle * 100.0,
                list(idle_requests),
            );
        }
    }

    fn streams(&self, text: &mut String) {
        if let Some(streams) = &self.streams {
            *text += "\n## Streams\n\nSeconds, the best of three; how fast it is is told by the ratio.\n\n| What | Straight | By Longshore | Ratio of throughputs |\n|---|--:|--:|--:|\n";
            let whats = ["`kubectl logs` of 100 MB", "100 MB by `kubectl port-forward`", "200 execs at a time"];
            for (what, [straight, home]) in whats.iter().zip([streams.logs, streams.forward, streams.execs]) {
                let (straight, home) = (straight.as_secs_f64(), home.as_secs_f64());
                _ = writeln!(text, "| {what} | {straight:.2} | {home:.2} | {:.2} |", straight / home);
            }
            let [before, after] = streams.memory.map(megabytes);
            let cpu = streams.cpu.as_secs_f64();
            _ = write!(
                text,
                "\nCPU of Longshore for all of that {cpu:.1} s; {before} MB at most before the execs, {after} MB with them.\n"
            );
        }
    }

    fn all(&self) -> impl Iterator<Item = (&Vec<Entry>, &Entry)> {
        [&self.bursts, &self.churns].into_iter().flat_map(|entries| entries.iter().map(move |entry| (entries, entry)))
    }
}

/// The null offloader in the same measurement.
fn floor<'a>(entries: &'a [Entry], what: &str) -> Option<&'a Outcome> {
    entries.iter().find(|entry| entry.what == what && entry.kind == Kind::Null).map(|entry| &entry.outcome)
}

fn whats(entries: &[Entry]) -> Vec<String> {
    let mut whats: Vec<String> = entries.iter().map(|entry| entry.what.clone()).collect();
    whats.dedup();
    whats
}

fn curve(outcome: &Outcome) -> Vec<(f64, f64)> {
    outcome.ready.iter().enumerate().map(|(index, at)| (at.as_secs_f64(), (index + 1) as f64)).collect()
}

fn memory(outcome: &Outcome) -> Vec<(f64, f64)> {
    outcome.trace.iter().map(|(at, kilobytes)| (at.as_secs_f64(), *kilobytes as f64 / 1024.0)).collect()
}

fn megabytes(kilobytes: u64) -> String {
    if kilobytes == 0 { "–".into() } else { format!("{:.1}", kilobytes as f64 / 1024.0) }
}

fn list(requests: &Requests) -> String {
    let list: Vec<String> = requests.iter().map(|(what, count)| format!("{what} {count}")).collect();
    if list.is_empty() { "none".into() } else { list.join(", ") }
}
