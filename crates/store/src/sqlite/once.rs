//! Entries of [`crate::once`] in `state.db`, on a connection of their own.
//!
//! `synchronous=FULL`: a lease that was given is there after power loss, or two
//! could hold it. Acts that come together share a commit. The numbers of entries
//! and bytes of each tenant are kept beside them, so that no act counts rows.
//!
//! Of answers only what is completed is written: a request dies with its process,
//! so its claim is kept in memory ([`Claims`]). And what is written does not wait for
//! the disk, as a client that has its answer does not ask again: it is synced within
//! a second, together.

mod act;
mod claims;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evidence::Timestamp;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use self::act::{Act, hold, sweep};
use self::claims::Claims;
use crate::once::{OnceAct, OnceAsk, OnceError, OnceSaid, OnceStore, SWEPT_AT_ONCE, SWEPT_PER_ACT};

/// Acts that write before the log is carried over: near 16 MiB of pages. Who asks meanwhile waits for it. What is over is
/// swept at least as often, more than came since.
const CARRY_ACTS: usize = 1_000;

/// Bytes of payloads, written or taken away, after which it is carried over too.
const CARRY_BYTES: u64 = 8 * 1024 * 1024;

/// How long another process's write is waited for.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Longest result that is written without leaving the caller's thread: twenty pages.
const QUICK_BYTES_MAX: usize = 64 * 1024;

/// What the log keeps of its length when it begins anew.
const LOG_BYTES_KEPT: i64 = 24 * 1024 * 1024;

/// Page cache: the entries of a busy minute.
const CACHE_KIB: i64 = 8 * 1024;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS once (
  id INTEGER PRIMARY KEY, space INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, status TEXT NOT NULL,
  hash BLOB, label TEXT, lease BLOB NOT NULL, lease_until INTEGER NOT NULL, created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, response_hash BLOB, error TEXT, payload_bytes INTEGER NOT NULL, payload BLOB,
  UNIQUE (space, tenant, key)) STRICT;
CREATE INDEX IF NOT EXISTS once_expires ON once (expires_at);
CREATE TABLE IF NOT EXISTS once_held (
  space INTEGER NOT NULL, tenant TEXT NOT NULL, entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
  PRIMARY KEY (space, tenant)) STRICT, WITHOUT ROWID;
";

/// How far the log of `state.db` is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    /// All of it, as far as this connection wrote it.
    Synced,
    /// Acts on answers are not there yet.
    Behind,
    /// They are being synced, and there were none since.
    Syncing,
    /// Something could not be written or synced: the kernel may have dropped what came before it as well, and says so
    /// once only. What comes behind it in the log is worth nothing until the log was carried over.
    Lost,
}

/// The embedded backend. The file is opened when it is first asked, and again after a failure.
#[derive(Debug)]
pub struct SqliteOnce {
    path: PathBuf,
    connection: Option<Connection>,
    /// Whether the connection's commits wait for the disk.
    waits: bool,
    log: Log,
    /// The log, open from before anything was written to it: only so does its sync tell of all that could not be written.
    log_file: Option<File>,
    /// Acts that wrote since the log was last carried over, and the bytes of their payloads.
    written: usize,
    moved: u64,
    /// Acts that nothing was swept with yet.
    unswept: u32,
    /// A transaction was begun for what is asked next.
    begun: bool,
    claims: Claims,
}

impl SqliteOnce {
    /// Over that `state.db`, which is made when absent.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            connection: None,
            waits: true,
            // An earlier process may have died before its sync.
            log: Log::Behind,
            log_file: None,
            written: 0,
            moved: 0,
            unswept: 0,
            begun: false,
            claims: Claims::default(),
        }
    }

    fn connection(&mut self) -> Result<&mut Connection, rusqlite::Error> {
        if self.connection.is_none() {
            self.connection = Some(open(&self.path)?);
            self.log_file = log_file(&self.path).ok();
            self.waits = true;
        }
        // Just put there.
        self.connection.as_mut().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Carries the whole log over and cuts it; `false`: somebody reads it, or it could not be done.
    fn cut_log(&mut self) -> bool {
        let busy = self.connection().and_then(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        });
        match &busy {
            Ok(0) => (self.written, self.moved) = (0, 0),
            Ok(_) => {}
            Err(_) => (self.connection, self.log) = (None, Log::Lost),
        }
        busy == Ok(0)
    }

    /// Takes the log up again after something could not be written or synced: with a write of its own, so that what can
    /// only be read is not taken for mended.
    fn take_up_log(&mut self) -> Result<(), OnceError> {
        let touched = self
            .connection()
            .and_then(|connection| hold(connection, 0, "", 0, 0));
        if touched.is_err() || !self.cut_log() {
            (self.connection, self.log_file) = (None, None);
            let why = "something could not be written, and its log is not carried over yet";
            return Err(OnceError::Unavailable(why.into()));
        }
        self.log = Log::Synced;
        Ok(())
    }

    /// Carries the log over as far as nobody reads it. Not left to SQLite, which tells nobody when that fails.
    fn carry(&mut self) {
        (self.written, self.moved) = (0, 0);
        let carried = self
            .connection()
            .and_then(|connection| connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())));
        if let Err(error) = carried {
            tracing::warn!(%error, "the log of state.db could not be carried over");
            (self.connection, self.log) = (None, Log::Lost);
        }
    }

    /// After something was written.
    fn wrote(&mut self, acts: usize, bytes: u64) {
        self.written = self.written.saturating_add(acts);
        self.moved = self.moved.saturating_add(bytes);
    }

    /// Whether the log is to be carried over before anything else is done.
    const fn carries(&self) -> bool {
        self.written >= CARRY_ACTS || self.moved >= CARRY_BYTES
    }

    /// The connection, whose commits wait for the disk or do not.
    fn ready(&mut self, how: How) -> rusqlite::Result<&Connection> {
        self.connection()?;
        let waits = how == How::Durably;
        let waited = std::mem::replace(&mut self.waits, waits);
        let connection = self.connection.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
        if waited != waits {
            connection.pragma_update(None, "synchronous", if waits { "full" } else { "normal" })?;
        }
        Ok(connection)
    }

    /// Begins a transaction for what is asked next, unless another process writes just now.
    fn begin_at_once(&mut self, how: How) -> bool {
        let begun = self.ready(how).and_then(|connection| {
            connection.busy_timeout(Duration::ZERO)?;
            let begun = run(connection, how.begin());
            connection.busy_timeout(BUSY_MAX)?;
            begun
        });
        self.begun = begun.is_ok();
        self.begun
    }

    /// What fails is rolled back: its connection is closed.
    fn in_transaction<T>(
        &mut self,
        how: How,
        work: impl FnOnce(&Connection, &mut Claims) -> rusqlite::Result<T>,
    ) -> Result<T, OnceError> {
        if self.log == Log::Lost {
            self.take_up_log()?;
        }
        let done = (|| {
            if !std::mem::take(&mut self.begun) {
                run(self.ready(how)?, how.begin())?;
            }
            let connection = self.connection.as_ref().ok_or(rusqlite::Error::InvalidQuery)?;
            let said = work(connection, &mut self.claims)?;
            run(connection, "COMMIT")?;
            Ok(said)
        })();
        match (&done, how) {
            // The connection goes, and with it what tells of the log.
            (Err(_), How::Reading) if self.log == Log::Synced => {}
            (Ok(_), How::Reading | How::Durably) => {}
            (Err(_), _) => self.log = Log::Lost,
            (Ok(_), How::Soon) => self.log = Log::Behind,
        }
        done.map_err(|error: rusqlite::Error| {
            // Whatever is wrong with the connection goes with it.
            self.connection = None;
            OnceError::Unavailable(error.to_string())
        })
    }
}

/// How acts are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Nothing is written.
    Reading,
    /// What is written is on disk soon.
    Soon,
    /// What is written is on disk before it is answered.
    Durably,
}

impl How {
    const fn begin(self) -> &'static str {
        match self {
            Self::Reading => "BEGIN",
            Self::Soon | Self::Durably => "BEGIN IMMEDIATE",
        }
    }

    fn of(asks: &[OnceAsk]) -> Self {
        if !asks.iter().all(|ask| ask.act.may_wait(ask.key.space)) {
            return Self::Durably;
        }
        let writes = |ask: &OnceAsk| matches!(ask.act, OnceAct::Complete { .. } | OnceAct::Delete);
        if asks.iter().any(writes) {
            Self::Soon
        } else {
            Self::Reading
        }
    }
}

/// Prepared once: parsing it would take as long as a look for a key.
fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

/// The log of that database.
fn log_file(path: &Path) -> io::Result<File> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    File::open(log)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    // Answers and outputs that go leave no bytes behind in the file.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    // What `LIMIT ?` is bound to changes no plan here: without this each use parses its statement anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    let (mode, synchronous): (String, i64) = (
        connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?,
        connection.pragma_query_value(None, "synchronous", |row| row.get(0))?,
    );
    if mode != "wal" || synchronous < 2 {
        return Err(rusqlite::Error::InvalidParameterName(format!(
            "state.db is not durable (journal_mode {mode}, synchronous {synchronous})"
        )));
    }
    connection.execute_batch(SCHEMA)?;
    Ok(connection)
}

impl OnceStore for SqliteOnce {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        let how = How::of(asks);
        let moved = Cell::new(0);
        // Not by who must not wait.
        let sweeps = how != How::Reading && !self.begun;
        if self.carries() && !self.begun {
            self.carry();
        }
        if how != How::Reading {
            let acts = u32::try_from(asks.len()).unwrap_or(u32::MAX);
            self.unswept = self.unswept.saturating_add(acts);
        }
        let unswept = self.unswept;
        let all = self.in_transaction(how, |transaction, claims| {
            let said = asks
                .iter()
                .map(|ask| Act::new(transaction, claims, ask, &moved).said())
                .collect::<rusqlite::Result<Vec<_>>>()?;
            // What is over goes as fast as new ones come.
            if let Some(latest) = asks.iter().map(|ask| ask.at).max().filter(|_| sweeps) {
                let count = unswept.saturating_mul(SWEPT_PER_ACT).min(2 * SWEPT_AT_ONCE);
                let (_, swept) = sweep(transaction, latest, count)?;
                moved.set(moved.get().saturating_add(swept));
            }
            Ok(said)
        });
        self.claims.settle(asks, all.as_deref().ok());
        if how != How::Reading && all.is_ok() {
            self.wrote(asks.len(), moved.get());
        }
        if sweeps && all.is_ok() {
            self.unswept = 0;
        }
        let forgot = |ask: &OnceAsk| matches!(ask.act, OnceAct::Forget { .. });
        // The log holds pages as they were before: without this, until so much was written again.
        if all.is_ok() && asks.iter().any(forgot) && !self.cut_log() {
            tracing::warn!(
                "the log of state.db could not be cut after something was forgotten; it is, as it fills"
            );
        }
        match all {
            Ok(said) => said.into_iter().map(Ok).collect(),
            Err(error) => asks.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    fn at_once(&mut self, ask: &OnceAsk) -> Option<Result<OnceSaid, OnceError>> {
        let how = How::of(std::slice::from_ref(ask));
        // SQLite syncs the head of a log that begins anew, which it does after it was carried over.
        let begins = how != How::Reading && self.written == 0;
        let quick = self.connection.is_some()
            && self.log != Log::Lost
            && !self.carries()
            && !begins
            && ask.act.may_wait(ask.key.space)
            && !matches!(ask.act, OnceAct::Payload)
            && ask.act.payload_bytes() <= QUICK_BYTES_MAX;
        if !quick || !self.begin_at_once(how) {
            return None;
        }
        self.apply(std::slice::from_ref(ask)).pop()
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        let claims = self.claims.sweep(at);
        // What power loss brings back is over still.
        let (rows, bytes) =
            self.in_transaction(How::Soon, |transaction, _| sweep(transaction, at, SWEPT_AT_ONCE))?;
        self.wrote(rows as usize, bytes);
        if self.carries() {
            self.carry();
        }
        Ok(claims.saturating_add(rows))
    }

    fn is_behind(&self) -> bool {
        self.log != Log::Synced
    }

    fn sync(&mut self) -> Result<Option<File>, OnceError> {
        match self.log {
            Log::Synced => Ok(None),
            Log::Lost => self.take_up_log().map(|()| None),
            Log::Behind | Log::Syncing => {
                let log = match &self.log_file {
                    // The same open file: what could not be written is told to whichever of them syncs first.
                    Some(log) => log.try_clone(),
                    None => log_file(&self.path),
                };
                match log {
                    Ok(log) => {
                        self.log = Log::Syncing;
                        Ok(Some(log))
                    }
                    // It was carried over.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        self.log = Log::Synced;
                        Ok(None)
                    }
                    Err(error) => {
                        self.log = Log::Lost;
                        Err(OnceError::Unavailable(error.to_string()))
                    }
                }
            }
        }
    }

    fn synced(&mut self, synced: io::Result<()>) -> Result<(), OnceError> {
        match (&synced, self.log) {
            (Ok(()), Log::Syncing) => self.log = Log::Synced,
            // Acts came meanwhile, or something was lost otherwise.
            (Ok(()), _) => {}
            (Err(_), _) => self.log = Log::Lost,
        }
        synced.map_err(|error| OnceError::Unavailable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evidence::Timestamp;

    use super::*;
    use crate::once::{OnceKey, OnceSpace};

    fn check(space: OnceSpace) -> OnceAsk {
        OnceAsk {
            key: OnceKey {
                space,
                tenant: "t".into(),
                key: "k".into(),
            },
            act: OnceAct::Check {
                hash: None,
                label: None,
                ttl_secs: 60,
                lease_secs: 60,
                lease: [1; 16],
            },
            at: Timestamp::MIN,
        }
    }

    fn complete(space: OnceSpace) -> OnceAsk {
        OnceAsk {
            act: OnceAct::Complete {
                lease: [1; 16],
                label: None,
                response_hash: None,
                payload: None,
            },
            ..check(space)
        }
    }

    #[test]
    fn only_answers_are_committed_without_waiting_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let mut once = SqliteOnce::new(&folder.path().join("state.db"));
        let synchronous = |once: &SqliteOnce| -> i64 {
            let connection = once.connection.as_ref().unwrap();
            connection
                .pragma_query_value(None, "synchronous", |row| row.get(0))
                .unwrap()
        };
        for _ in 0..2 {
            once.apply(&[check(OnceSpace::Answer), complete(OnceSpace::Answer)]);
            assert_eq!((synchronous(&once), once.log), (1, Log::Behind));
            once.apply(&[check(OnceSpace::Output)]);
            assert_eq!(synchronous(&once), 2);
        }
        let mut delete = check(OnceSpace::Answer);
        delete.act = OnceAct::Delete;
        once.apply(&[delete]);
        assert_eq!(synchronous(&once), 1);
        once.apply(&[check(OnceSpace::Key), complete(OnceSpace::Answer)]);
        assert_eq!(synchronous(&once), 2, "together");
    }

    #[test]
    fn the_log_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let mut once = SqliteOnce::new(&path);
        let mut longest = 0;
        for number in 0..4 * CARRY_ACTS {
            let key: Arc<str> = number.to_string().into();
            let mut asks = [check(OnceSpace::Answer), complete(OnceSpace::Answer)];
            for ask in &mut asks {
                ask.key.key = Arc::clone(&key);
            }
            assert!(once.apply(&asks).iter().all(Result::is_ok));
            let log = std::fs::metadata(folder.path().join("state.db-wal")).unwrap();
            longest = longest.max(log.len());
        }
        assert!(longest < 24 << 20, "{longest} bytes");
        assert!(once.written <= CARRY_ACTS);
        // Nor by few and large ones, as they come and as they go.
        for number in 0..24 {
            let mut asks = [check(OnceSpace::Output), complete(OnceSpace::Output)];
            for ask in &mut asks {
                ask.key.key = format!("large {number}").into();
            }
            if let OnceAct::Complete { payload, .. } = &mut asks[1].act {
                *payload = Some(vec![7; 2 << 20]);
            }
            assert!(once.apply(&asks).iter().all(Result::is_ok));
        }
        while once.sweep(Timestamp::MAX).unwrap() > 0 {}
        let log = std::fs::metadata(folder.path().join("state.db-wal")).unwrap();
        assert!(log.len() < 72 << 20, "{} bytes", log.len());
        assert!(once.moved < CARRY_BYTES);
    }
}
