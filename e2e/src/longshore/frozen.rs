//! Longshore, held still for a while.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::Longshore;

/// A process that is held still until this is dropped.
#[must_use]
pub struct Frozen(Pid);

impl Longshore {
    /// Holds it still, as a machine does that is suspended: it neither works nor ends.
    pub fn freeze(&self) -> Result<Frozen> {
        let id = self.child().as_ref().context("Longshore does not run")?.id();
        let pid = Pid::from_raw(i32::try_from(id)?).context("no pid")?;
        kill_process(pid, Signal::STOP)?;
        Ok(Frozen(pid))
    }

    /// Lets it go on, whoever has held it still.
    pub fn wake(&self) -> Result<()> {
        let id = self.child().as_ref().context("Longshore does not run")?.id();
        kill_process(Pid::from_raw(i32::try_from(id)?).context("no pid")?, Signal::CONT)?;
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        _ = kill_process(self.0, Signal::CONT);
    }
}
