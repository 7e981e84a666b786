//! Whether an open file is still what is at its path. One that was removed or replaced takes writes as before, and nobody
//! finds them again.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that takes what is written, as it was when it was opened.
#[derive(Debug)]
pub(super) struct There {
    path: PathBuf,
    /// Its device and number there, which no other file can have while this one is open.
    file: (u64, u64),
}

impl There {
    /// What is open, by its path.
    pub(super) fn new(path: PathBuf, open: &Metadata) -> Self {
        let file = (open.dev(), open.ino());
        Self { path, file }
    }

    /// What is at that path.
    pub(super) fn at(path: PathBuf) -> io::Result<Self> {
        let file = file_at(&path)?;
        Ok(Self { path, file })
    }

    /// The log of the database at `path`. SQLite makes it at the first read, cuts it and begins it anew, and takes it away
    /// when the last connection closes. It lies beside the file itself where the path is a link to it.
    pub(super) fn log_of(path: &Path) -> io::Result<Self> {
        let mut log = std::fs::canonicalize(path)?.into_os_string();
        log.push("-wal");
        Self::at(log.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is not at its path any more.
    pub(super) fn is_gone(&self) -> bool {
        match file_at(&self.path) {
            Ok(there) => there != self.file,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Device and number of the file at a path, and nothing else of it: once the times of the log were asked for, the kernel
/// keeps them finely at its next write, and the sync of each commit takes half as long again.
#[cfg(target_os = "linux")]
fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
    let there = statx(CWD, path, AtFlags::empty(), StatxFlags::INO)?;
    Ok((makedev(there.stx_dev_major, there.stx_dev_minor), there.stx_ino))
}

/// Device and number of the file at a path.
#[cfg(not(target_os = "linux"))]
fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    let there = std::fs::metadata(path)?;
    Ok((there.dev(), there.ino()))
}
