//! What the system says of this process.

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::families::{BUILD, CPU, FILES, MEMORY, START};

/// Ticks of a second in `/proc` (`USER_HZ`), the same on every architecture that this is built for.
const TICKS: u32 = 100;

#[derive(Debug)]
pub(super) struct Process {
    /// Since 1970.
    begun: Duration,
}

impl Process {
    pub(super) fn new() -> Self {
        Self { begun: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        BUILD.encode(&mut encoder, |samples| samples.number([env!("CARGO_PKG_VERSION")], 1))?;
        START.encode(&mut encoder, |samples| samples.gauge([], self.begun.as_secs_f64()))?;
        if let Some(memory) = resident() {
            MEMORY.encode(&mut encoder, |samples| samples.number([], memory))?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            FILES.encode(&mut encoder, |samples| samples.number([], open.count()))?;
        }
        if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu(&stat)) {
            CPU.encode(&mut encoder, |samples| samples.seconds([], seconds))?;
        }
        Ok(())
    }
}

/// The resident memory of this process in bytes; `None` on a system that does not tell.
fn resident() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Seconds of CPU by `/proc/PID/stat` (proc_pid_stat(5)): the 14th and 15th field, counted from behind the command, which may
/// have any characters in it.
fn cpu(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some((f64::from(ticks()?) + f64::from(ticks()?)) / f64::from(TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_user_and_system_time() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu(stat), Some(3.0));
        assert_eq!(cpu(""), None);
    }
}
