//! A lock file that one process holds at a time, and that may be deleted while others wait for it.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
    path::Path,
};

use crate::files;

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock. `on_wait` is called once if another process holds it.
    pub(crate) fn acquire(path: &Path, on_wait: impl FnOnce()) -> Result<Self, files::Error> {
        let mut on_wait = Some(on_wait);
        if let Some(parent) = path.parent() {
            files::create_dir(parent)?;
        }
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .map_err(|error| files::Error::new("open", path, error))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(on_wait) = on_wait.take() {
                        on_wait();
                    }
                    file.lock().map_err(|error| files::Error::new("lock", path, error))?;
                }
                Err(TryLockError::Error(error)) => return Err(files::Error::new("lock", path, error)),
            }
            // The last holder may have deleted the file: then this lock guards nothing that others would find.
            if is_still_at(&file, path) {
                return Ok(Self { _file: file });
            }
            if let Some(parent) = path.parent() {
                files::create_dir(parent)?;
            }
        }
    }
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_on_a_deleted_file_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = Lock::acquire(&path, || ()).unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Lock::acquire(&path, || waits.send(()).unwrap()).unwrap());
            waiting.recv().unwrap();
            fs::remove_file(&path).unwrap();
            drop(first);
            drop(second.join().unwrap());
        });
        assert!(path.exists());
    }
}
