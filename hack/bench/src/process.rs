//! A process and a machine as /proc shows them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The kernel counts in hundredths of a second (`USER_HZ`, which is 100 on all of Linux's platforms that matter here).
const TICK: Duration = Duration::from_millis(10);

/// CPU time that a process has used, its threads included.
pub(crate) fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may have spaces: what counts comes behind its bracket.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u32>().ok()).unwrap_or_default();
    TICK * (ticks(11) + ticks(12))
}

/// One of the lines of /proc/PID/status that are in kB: `VmRSS` now, `VmHWM` at most so far.
pub(crate) fn memory(pid: u32, line: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|known| known.strip_prefix(line)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// The most memory counts from now on.
pub(crate) fn forget_peak(pid: u32) {
    // Not allowed everywhere; then the peak is that of the process' whole life.
    _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Memory over time, in kB.
pub(crate) type Trace = Vec<(Duration, u64)>;

/// Looks at a process' memory, 20 times a second.
pub(crate) struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Trace>>,
}

impl Watcher {
    pub(crate) fn start(pid: u32, begun: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut trace = vec![];
            while !told.load(Ordering::SeqCst) {
                trace.push((begun.elapsed(), memory(pid, "VmRSS")));
                std::thread::sleep(Duration::from_millis(50));
            }
            trace
        });
        Self { stop, thread: Some(thread) }
    }

    pub(crate) fn stop(mut self) -> Trace {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// How busy the machine is, and how much of it is not ours.
pub(crate) struct Machine {
    begun: Instant,
    busy: Duration,
    ours: Duration,
    groups: Vec<String>,
}

impl Machine {
    /// Counts from now on. What is ours is this process, `pid` and the control groups of the clusters.
    pub(crate) fn begin(clusters: &[&str], pid: Option<u32>) -> Self {
        let groups: Vec<String> = clusters.iter().map(|name| format!("longshore-{name}")).collect();
        Self { begun: Instant::now(), busy: busy(), ours: ours(&groups, pid), groups }
    }

    /// Cores that all were busy with, and those that others were.
    pub(crate) fn end(&self, pid: Option<u32>) -> (f64, f64) {
        let time = self.begun.elapsed().as_secs_f64();
        let busy = busy().saturating_sub(self.busy).as_secs_f64() / time;
        let ours = ours(&self.groups, pid).saturating_sub(self.ours).as_secs_f64() / time;
        (busy, (busy - ours).max(0.0))
    }
}

fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u32> = fields.filter_map(|field| field.parse().ok()).collect();
    // All but idle and waiting for disks; guests are counted in user time already.
    TICK * ticks.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum()
}

fn ours(groups: &[String], pid: Option<u32>) -> Duration {
    let own = cpu(std::process::id()) + pid.map_or(Duration::ZERO, cpu);
    groups.iter().map(|group| group_cpu(group)).sum::<Duration>() + own
}

fn group_cpu(group: &str) -> Duration {
    if let Ok(text) = fs::read_to_string(format!("/sys/fs/cgroup/cpuacct/{group}/cpuacct.usage")) {
        return Duration::from_nanos(text.trim().parse().unwrap_or_default());
    }
    let text = fs::read_to_string(format!("/sys/fs/cgroup/{group}/cpu.stat")).unwrap_or_default();
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse().ok());
    Duration::from_micros(usage.unwrap_or_default())
}
