//! Reading where nothing can be written: a disk mounted read-only, somebody else's folder.
//!
//! Who reads beside a log needs `-shm` beside it, where readers and writers meet. SQLite makes that file, and an empty log
//! with it, where there are none; where it cannot, it opens nothing. A database with nothing in its log is then read as a
//! file that does not change, without log and locks. Nobody can be kept from writing to it meanwhile, so whoever has read
//! it asks afterwards whether somebody did ([`Still::has_moved`]).
//!
//! Out of scope: a log with something in it and no `-shm` that can be read. What was committed last stands there, and
//! who reads without it takes an intact ledger for one that was rolled back; so it is refused.
//! Start at [`Still::of`]. Source: SQLite, "Write-Ahead Logging", "Read-Only Databases".

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::StoreError;

/// Ends the name of a journal.
const JOURNAL: &str = "-journal";

/// A database that is read as it lies there.
#[derive(Debug)]
pub(super) struct Still {
    /// Not a link to it: the log lies beside the file itself.
    file: PathBuf,
    /// Number, bytes, and when it was last written to: seconds and nanoseconds.
    found: (u64, u64, i64, i64),
}

impl Still {
    /// Tries to read a database with its log; `None` when that goes, or fails in a way that another reading would not mend.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when something is in the log, or may be, and it cannot be read.
    pub(super) fn of(path: &Path, flags: OpenFlags) -> Result<Option<Self>, StoreError> {
        let error = match with_log(path, flags) {
            Err(error) if is_of_the_place(&error) => error,
            _ => return Ok(None),
        };
        let found = fs::canonicalize(path).and_then(|file| Ok((fs::metadata(&file)?, file)));
        let Ok((found, file)) = found else {
            return Ok(None);
        };
        // It is the file itself that may not be read. Not by opening it: that would take away the locks of who has it open
        // in this process.
        if rustix::fs::access(&file, rustix::fs::Access::READ_OK).is_err() {
            return Ok(None);
        }
        if !is_alone(&file).unwrap_or(false) {
            let by_journal = fs::exists(beside(&file, JOURNAL)).unwrap_or(false);
            let log = beside(&file, if by_journal { JOURNAL } else { "-wal" });
            return Err(StoreError::Refused(format!(
                "cannot open {} ({error}): its log, {}, can only be read where files can be written beside it; copy both into such a folder",
                path.display(),
                log.display()
            )));
        }
        Ok(Some(Self {
            found: changed(&found),
            file,
        }))
    }

    /// How a connection is to open it: without looking for a log, without locks.
    pub(super) fn name(&self) -> (PathBuf, OpenFlags) {
        // Of an absolute path, so that none of it is taken for a host.
        let mut name = String::from("file://");
        for &byte in self.file.as_os_str().as_bytes() {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => name.push(byte.into()),
                _ => {
                    // A text takes it all.
                    let _ = write!(name, "%{byte:02X}");
                }
            }
        }
        name.push_str("?immutable=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        (name.into(), flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
    }

    /// Whether somebody has written to it since, or has it open to: then nothing that was read of it means anything.
    pub(super) fn has_moved(&self) -> bool {
        let is_as_it_was = fs::metadata(&self.file).is_ok_and(|now| changed(&now) == self.found);
        !is_as_it_was || !is_alone(&self.file).unwrap_or(false)
    }
}

fn changed(file: &Metadata) -> (u64, u64, i64, i64) {
    (file.ino(), file.size(), file.mtime(), file.mtime_nsec())
}

/// Opens a database and reads its first page, for which the log is opened.
fn with_log(path: &Path, flags: OpenFlags) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(path, flags)?;
    // The last reader to go must not carry the log over.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_query_value(None, "schema_version", |_| Ok(()))
}

/// Whether SQLite could not open or make a file.
fn is_of_the_place(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly)
    )
}

/// Whether nothing is in a database's log, and nobody has the database open: who has, has a log and a `-shm` beside it.
/// Nor is there a journal, with which a database is changed that has no log yet: what it holds has to be taken back first.
///
/// # Errors
/// They cannot be looked at.
fn is_alone(file: &Path) -> io::Result<bool> {
    if length(&beside(file, JOURNAL))?.is_some_and(|bytes| bytes > 0) {
        return Ok(false);
    }
    Ok(match length(&beside(file, "-wal"))? {
        None => true,
        Some(0) => length(&beside(file, "-shm"))?.is_none(),
        Some(_) => false,
    })
}

pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(file);
    name.push(suffix);
    name.into()
}

/// Of a file that is there.
pub(super) fn length(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_alone_when_nothing_is_in_its_log_and_nobody_has_it_open() {
        for (log, index, alone) in [
            (None, false, true),
            // What a reader left, and a copy that left out the empty log.
            (None, true, true),
            (Some(""), false, true),
            // A server that has just begun its log anew, whose `-shm` may not be read.
            (Some(""), true, false),
            (Some("x"), false, false),
            (Some("x"), true, false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("some.db");
            if let Some(log) = log {
                fs::write(beside(&file, "-wal"), log).unwrap();
            }
            if index {
                fs::write(beside(&file, "-shm"), "x").unwrap();
            }
            assert_eq!(is_alone(&file).unwrap(), alone, "{log:?} {index}");
            // An empty one is what is left of a change that was made whole.
            fs::write(beside(&file, JOURNAL), "").unwrap();
            assert_eq!(is_alone(&file).unwrap(), alone, "{log:?} {index}");
            fs::write(beside(&file, JOURNAL), "x").unwrap();
            assert!(!is_alone(&file).unwrap(), "{log:?} {index}");
        }
    }

    #[test]
    fn only_a_file_that_cannot_be_opened_or_made_is_a_reason_to_read_without_locks() {
        let of = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        for code in [
            rusqlite::ffi::SQLITE_CANTOPEN,
            rusqlite::ffi::SQLITE_READONLY,
            rusqlite::ffi::SQLITE_READONLY_DIRECTORY,
        ] {
            assert!(is_of_the_place(&of(code)), "{code}");
        }
        for code in [
            rusqlite::ffi::SQLITE_BUSY,
            rusqlite::ffi::SQLITE_IOERR,
            rusqlite::ffi::SQLITE_CORRUPT,
            rusqlite::ffi::SQLITE_NOTADB,
        ] {
            assert!(!is_of_the_place(&of(code)), "{code}");
        }
    }
}
