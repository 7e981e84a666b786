//! Opening a database: pragmas, the check that it is durable, migrations.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::carrier::LOG_KEPT_BYTES;
use super::still::{Still, beside, length};
use super::{
    Access, CARRIER_CACHE_KIB, Carrier, PAGE_BYTES, READER_CACHE_KIB, READERS_MAX, SqliteStore,
    WRITER_CACHE_KIB, unavailable,
};
use crate::{StoreError, codec};

/// Every migration, in order. A database's `user_version` says how many it has had.
pub(super) const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/sqlite/0001_ledger.sql"),
    include_str!("../../migrations/sqlite/0002_runs_filtered.sql"),
    include_str!("../../migrations/sqlite/0003_erasure.sql"),
    include_str!("../../migrations/sqlite/0004_retention.sql"),
    include_str!("../../migrations/sqlite/0005_of_run.sql"),
];

/// Marks a SQLite file as ours ("DPNT").
const APPLICATION_ID: i64 = 0x4450_4e54;

/// How long a statement waits for another process's lock.
const BUSY_MILLIS: i64 = 5_000;

/// Statements that a connection keeps parsed, a few KiB each: all there are, and lists of runs by most combinations of
/// filters.
const STATEMENTS_KEPT: usize = 128;

/// The same.
pub(super) const BUSY_TIME: Duration = Duration::from_secs(5);

impl SqliteStore {
    /// Opens the database at `path`.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the file is no database of ours, is newer than this program,
    /// or would not be durable.
    pub fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let flags = match access {
            Access::ReadWrite => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            Access::ReadOnly => OpenFlags::SQLITE_OPEN_READ_WRITE,
        } | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        // SQLite takes away the log beside an empty database: looking must not.
        let is_empty = |found: std::fs::Metadata| found.is_file() && found.len() == 0;
        if access == Access::ReadOnly && std::fs::metadata(path).is_ok_and(is_empty) {
            return Err(StoreError::Refused(format!("{} is empty", path.display())));
        }
        if access == Access::ReadWrite {
            let refused = |error| StoreError::Refused(format!("cannot open {}: {error}", path.display()));
            log_is_of_database(path).map_err(refused)?;
            make_private(path).map_err(refused)?;
        }
        let still = match access {
            Access::ReadWrite => None,
            Access::ReadOnly => Still::of(path, flags)?,
        };
        let (name, flags) = still
            .as_ref()
            .map_or_else(|| (path.to_owned(), flags), Still::name);
        let connect = |cache_kib: i64| -> Result<Connection, StoreError> {
            let connection = Connection::open_with_flags(&name, flags)
                .map_err(|error| StoreError::Refused(format!("cannot open {}: {error}", path.display())))?;
            configure(&connection, cache_kib, access)?;
            // What is read without its log has none to be asked for.
            if still.is_none() {
                durable(&connection)?;
            }
            Ok(connection)
        };
        let mut writer = connect(WRITER_CACHE_KIB)?;
        let stopped = Arc::new(AtomicBool::new(access == Access::ReadOnly));
        ours(&writer, path)?;
        let found = user_version(&writer)?;
        match access {
            Access::ReadWrite => {
                migrate(&writer, path)?;
                sync_folder(path)?;
            }
            Access::ReadOnly => {
                let version = user_version(&writer)?;
                if version != MIGRATIONS.len() {
                    // Reading must not change it, so that it is brought up to date by who writes.
                    let hint = if version < MIGRATIONS.len() {
                        "; `deponent serve` brings it up to date"
                    } else {
                        ""
                    };
                    return Err(StoreError::Refused(format!(
                        "{} has schema version {version}, this program reads version {}{hint}",
                        path.display(),
                        MIGRATIONS.len()
                    )));
                }
            }
        }
        let readers = (0..READERS_MAX)
            .map(|_| {
                let connection = connect(READER_CACHE_KIB)?;
                connection
                    .pragma_update(None, "query_only", true)
                    .map_err(unavailable)?;
                Ok(connection)
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        // Last: it ends before the connections do, and none fails to open after it.
        let carrier = match access {
            Access::ReadWrite => Some(Carrier::start(
                path,
                &mut writer,
                connect(CARRIER_CACHE_KIB)?,
                &stopped,
            )?),
            Access::ReadOnly => None,
        };
        let store = Self {
            path: path.to_owned(),
            writer: Mutex::new(writer),
            carrier,
            readers: Mutex::new(readers),
            reader_back: Condvar::new(),
            stopped,
            scrubs: Mutex::default(),
            migrated: (found != MIGRATIONS.len()).then_some((found, MIGRATIONS.len())),
            still,
        };
        if access == Access::ReadWrite {
            store.scrub_if_marked();
        }
        Ok(store)
    }
}

/// Refuses a log that has lost its database. SQLite takes it away when it finds the file empty, or makes it anew; it may be all
/// that is left of what was committed last. No crash leaves it so: a database is on disk before it has a log.
fn log_is_of_database(path: &Path) -> io::Result<()> {
    let how = match length(path)? {
        None => "missing",
        Some(0) => "empty",
        Some(_) => return Ok(()),
    };
    // It lies beside the file itself.
    let log = beside(
        &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
        "-wal",
    );
    match length(&log)? {
        None | Some(0) => Ok(()),
        Some(bytes) => Err(io::Error::other(format!(
            "it is {how}, but {bytes} bytes are in its log, {}; put the database back, or move the log away if it is not needed",
            log.display()
        ))),
    }
}

/// SQLite ignores a failed sync of the folder; after this one its files have names that survive power loss.
pub(super) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| StoreError::Refused(format!("cannot sync {}: {error}", folder.display())))
}

fn configure(connection: &Connection, cache_kib: i64, access: Access) -> Result<(), StoreError> {
    let set = |name: &str, value: i64| connection.pragma_update(None, name, value).map_err(unavailable);
    set("busy_timeout", BUSY_MILLIS)?;
    if access == Access::ReadWrite {
        // Only before the first page is written.
        set("page_size", PAGE_BYTES)?;
        connection
            .pragma_update(None, "journal_mode", "wal")
            .map_err(unavailable)?;
    } else {
        // What is only read is left as it was found: the last reader to go must not carry the log over.
        connection
            .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .map_err(unavailable)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(unavailable)?;
    }
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(unavailable)?;
    set("cache_size", -cache_kib)?;
    // What is deleted is overwritten: it may be deleted because somebody asked for that.
    set("secure_delete", i64::from(access == Access::ReadWrite))?;
    // See `carrier`.
    set("wal_autocheckpoint", 0)?;
    // After a checkpoint the log shrinks to what it normally needs.
    set("journal_size_limit", LOG_KEPT_BYTES)?;
    // A writer looks at each page it takes in; a verifier reads every row, or has `integrity_check` do so.
    // Neither maps the file: it is no quicker, and a file cut short meanwhile would end the process.
    set("cell_size_check", i64::from(access == Access::ReadWrite))?;
    // Untrusted file: no function of ours may be reached from its schema.
    set("trusted_schema", 0)?;
    set("temp_store", 2)?;
    // A statement is planned once, whatever it is bound to: else each with `LIMIT ?` is parsed anew whenever it is used,
    // which costs more than most of them take. What a plan must know of a value stands in the text as a literal.
    connection
        .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map_err(unavailable)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    Ok(())
}

/// Reads back what makes a commit last.
fn durable(connection: &Connection) -> Result<(), StoreError> {
    let synchronous: i64 = connection
        .pragma_query_value(None, "synchronous", |row| row.get(0))
        .map_err(unavailable)?;
    let journal: String = connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .map_err(unavailable)?;
    if synchronous < 2 || journal != "wal" {
        return Err(StoreError::Refused(format!(
            "the database would not be durable: journal_mode={journal}, synchronous={synchronous}; needs wal and 2"
        )));
    }
    Ok(())
}

/// A version of another program's schema must not be taken for one of ours.
fn ours(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let id: i64 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(unavailable)?;
    if user_version(connection)? == 0 || id == APPLICATION_ID {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{} is a database of another program",
        path.display()
    )))
}

fn user_version(connection: &Connection) -> Result<usize, StoreError> {
    let version: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(unavailable)?;
    usize::try_from(version).map_err(|_| StoreError::Refused("the database has a negative version".into()))
}

/// A crash within a migration leaves the version before it: each is one transaction.
fn migrate(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let done = user_version(connection)?;
    if done > MIGRATIONS.len() {
        return Err(StoreError::Refused(format!(
            "{} was written by a newer program (schema version {done}, this one knows {})",
            path.display(),
            MIGRATIONS.len()
        )));
    }
    if done == 0 {
        let tables: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(unavailable)?;
        if tables != 0 {
            return Err(StoreError::Refused(format!(
                "{} is a database of another program",
                path.display()
            )));
        }
    }
    for (before, sql) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.unchecked_transaction().map_err(unavailable)?;
        transaction.execute_batch(sql).map_err(unavailable)?;
        if before == 0 {
            transaction
                .execute(
                    "INSERT INTO dictionaries VALUES (?1, ?2)",
                    (codec::DICTIONARY_VERSION, codec::DICTIONARY_1),
                )
                .map_err(unavailable)?;
            transaction
                .pragma_update(None, "application_id", APPLICATION_ID)
                .map_err(unavailable)?;
        }
        transaction
            .pragma_update(None, "user_version", as_version(before + 1))
            .map_err(unavailable)?;
        transaction.commit().map_err(unavailable)?;
    }
    Ok(())
}

fn as_version(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Makes a database that is not there, so that nobody else may read it, whatever folder it is in; SQLite gives the files
/// beside it the same mode. One that is there has the mode that its operator gave it.
pub(super) fn make_private(path: &Path) -> io::Result<()> {
    if path == Path::new(":memory:") {
        // No file to SQLite; it is refused later.
        return Ok(());
    }
    // A file that is there is not even opened: closing it would take away the locks of who has it open in this process.
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    #[test]
    fn what_asking_again_cannot_mend_is_damage() {
        let c = Connection::open_in_memory().unwrap();
        let said = |sql: &str| c.query_row(sql, [], |_| Ok(())).map_err(unavailable).unwrap_err();
        for sql in [
            "SELECT 1 FROM gone",
            "SELECT gone FROM sqlite_schema",
            "SELECT zeroblob(3000000000)",
        ] {
            let error = said(sql);
            assert!(matches!(error, StoreError::Damaged { .. }), "{sql}: {error}");
        }
        let error = said("SELECT 1 WHERE 0");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }

    #[test]
    fn a_statement_is_planned_once_whatever_it_is_bound_to() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("deponent.db"), Access::ReadWrite).unwrap();
        let planned = |c: &Connection| {
            for limit in 1..5 {
                let sql =
                    "SELECT leaf FROM facets WHERE tenant_no = ?1 AND facet = ?2 ORDER BY leaf LIMIT ?3";
                let mut statement = c.prepare_cached(sql).map_err(unavailable)?;
                let mut rows = statement.query((1, "f", limit)).map_err(unavailable)?;
                assert!(rows.next().map_err(unavailable)?.is_none());
                drop(rows);
                assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{limit}");
            }
            Ok(())
        };
        for _ in 0..READERS_MAX {
            store.read(planned).unwrap();
        }
        planned(&store.writer()).unwrap();
    }
}
