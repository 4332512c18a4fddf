//! Commands under a terminal, as a person has them.

use std::{
    io::{Read, Write},
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use pty_process::{Size, blocking};

const PAUSE: Duration = Duration::from_millis(20);

/// A terminal with a command in it, which ends with this at the latest.
pub struct Terminal {
    pty: Arc<blocking::Pty>,
    child: Child,
    screen: Arc<Mutex<String>>,
}

impl Terminal {
    /// Opens a terminal of this size and runs the command in it.
    pub fn open(command: Command, rows: u16, columns: u16) -> Result<Self> {
        let (pty, pts) = blocking::open()?;
        pty.resize(Size::new(rows, columns))?;
        let child = blocking::Command::from(command).spawn(pts)?;
        let (pty, screen) = (Arc::new(pty), Arc::new(Mutex::new(String::new())));
        let (source, sink) = (pty.clone(), screen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails when the last program of the terminal has ended.
            while let Ok(count @ 1..) = (&*source).read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]);
                sink.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Self { pty, child, screen })
    }

    /// Changes its size, as dragging a window's corner does.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        Ok(self.pty.resize(Size::new(rows, columns))?)
    }

    /// Types; the return key is `\n`.
    pub fn type_in(&self, text: &str) -> Result<()> {
        Ok((&*self.pty).write_all(text.as_bytes())?)
    }

    /// Everything that has appeared on it.
    pub fn screen(&self) -> String {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a text appears.
    pub fn wait_for(&self, text: &str, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        while !self.screen().contains(text) {
            ensure!(Instant::now() < end, "{text:?} did not appear within {within:?}, but {:?}", self.screen());
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Waits until the command ends, and answers its exit code.
    pub fn wait(mut self, within: Duration) -> Result<i32> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code().unwrap_or(-1));
            }
            ensure!(Instant::now() < end, "the command did not end within {within:?}; the screen: {:?}", self.screen());
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
