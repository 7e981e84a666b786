//! Entries of [`crate::once`] in `state.db`, on a connection of their own.
//!
//! `synchronous=FULL`: a lease that was given is there after power loss, or two
//! could hold it. Acts that come together share a commit. The numbers of entries
//! and bytes of each tenant are kept beside them, so that no act counts rows.
//!
//! Of answers only what is completed is written: a request dies with its process,
//! so its claim is kept in memory ([`Claims`]). And what is written does not wait for
//! the disk, as a client that has its answer does not ask again: it goes into a file,
//! which is synced within a second, and from there into the table, many together ([`Answers`]).

mod act;
mod answering;
mod answers;
mod claims;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use evidence::Timestamp;
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use self::act::{Act, hold, sweep};
use self::answering::answers_path;
use self::answers::{Answers, Written};
use self::claims::Claims;
use crate::once::{
    OnceAct, OnceAsk, OnceError, OnceSaid, OnceSpace, OnceStore, SWEPT_AT_ONCE, SWEPT_PER_ACT,
};

/// Acts that write before the log is carried over: near 16 MiB of pages. Who asks meanwhile waits for it.
const CARRY_ACTS: usize = 1_000;

/// Bytes of payloads, written or taken away, after which it is carried over too.
const CARRY_BYTES: u64 = 8 * 1024 * 1024;

/// Entries whose time is over that one transaction takes away, at most, beside what it writes: [`SWEPT_PER_ACT`] for
/// each of that. They take some 20 ms.
const SWEPT_WITH_OTHERS: u32 = 2 * SWEPT_AT_ONCE;

/// How long another process's write is waited for.
const BUSY_MAX: Duration = Duration::from_secs(5);

/// Longest answer that is written without leaving the caller's thread.
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
CREATE TABLE IF NOT EXISTS once_answers (
  one INTEGER PRIMARY KEY CHECK (one = 1), file_id BLOB NOT NULL CHECK (length(file_id) = 16)) STRICT;
";

/// The embedded backend. The files are opened when it is first asked, and again after a failure.
#[derive(Debug)]
pub struct SqliteOnce {
    path: PathBuf,
    connection: Option<Connection>,
    /// Something could not be written: the kernel may have dropped what came before it as well, and says so once only.
    /// What comes behind it in the log is worth nothing until the log was carried over.
    log_lost: bool,
    /// Acts that wrote since the log was last carried over, and the bytes of their payloads.
    written: usize,
    moved: u64,
    /// When something was asked last: what is over then is swept. Clocks are set back, and so is this.
    latest: Timestamp,
    claims: Claims,
    answers: Option<Answers>,
    /// Whether an earlier process's answers were looked for.
    looked: bool,
    /// Entries and bytes of answers in the table, by tenant, as far as they were needed since they last changed.
    held: HashMap<Arc<str>, (u64, u64)>,
}

impl SqliteOnce {
    /// Over that `state.db`, which is made when absent.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            connection: None,
            log_lost: false,
            written: 0,
            moved: 0,
            latest: Timestamp::MIN,
            claims: Claims::default(),
            answers: None,
            looked: false,
            held: HashMap::new(),
        }
    }

    fn connection(&mut self) -> rusqlite::Result<&Connection> {
        if self.connection.is_none() {
            self.connection = Some(open(&self.path)?);
        }
        // Just put there.
        self.connection.as_ref().ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Carries the whole log over and cuts it; `false`: somebody reads it, or it could not be done.
    fn cut_log(&mut self) -> bool {
        let busy = self.connection().and_then(|connection| {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        });
        match &busy {
            Ok(0) => (self.written, self.moved) = (0, 0),
            Ok(_) => {}
            Err(_) => (self.connection, self.log_lost) = (None, true),
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
            self.connection = None;
            let why = "something could not be written, and its log is not carried over yet";
            return Err(OnceError::Unavailable(why.into()));
        }
        self.log_lost = false;
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
            (self.connection, self.log_lost) = (None, true);
        }
    }

    /// Writes, durably, and with it takes away what is over. What fails is rolled back: its connection is closed.
    fn in_transaction<T>(
        &mut self,
        acts: usize,
        work: impl FnOnce(&Connection, &Cell<u64>) -> rusqlite::Result<T>,
    ) -> Result<T, OnceError> {
        if self.log_lost {
            self.take_up_log()?;
        }
        let count = u32::try_from(acts).unwrap_or(u32::MAX);
        let count = count.saturating_mul(SWEPT_PER_ACT).min(SWEPT_WITH_OTHERS);
        let (latest, moved) = (self.latest, Cell::new(0));
        let done = self.connection().and_then(|connection| {
            run(connection, "BEGIN IMMEDIATE")?;
            let done = work(connection, &moved)?;
            // What is over goes as fast as new ones come.
            let (_, swept) = sweep(connection, latest, count)?;
            run(connection, "COMMIT")?;
            moved.set(moved.get().saturating_add(swept));
            Ok(done)
        });
        // Also of what was only swept, and of what may have been done although it failed.
        self.held.clear();
        match done {
            Ok(done) => {
                self.written = self.written.saturating_add(acts);
                self.moved = self.moved.saturating_add(moved.get());
                if self.written >= CARRY_ACTS || self.moved >= CARRY_BYTES {
                    self.carry();
                }
                Ok(done)
            }
            Err(error) => {
                self.log_lost = true;
                Err(self.unavailable(&error))
            }
        }
    }

    /// How long the connection waits for another process.
    fn wait_at_most(&self, most: Duration) {
        if let Some(Err(error)) = self.connection.as_ref().map(|one| one.busy_timeout(most)) {
            tracing::debug!(%error, "how long state.db is waited for could not be set");
        }
    }

    /// Whatever is wrong with the connection goes with it.
    fn unavailable(&mut self, error: &dyn std::fmt::Display) -> OnceError {
        self.connection = None;
        OnceError::Unavailable(error.to_string())
    }

    /// Acts on keys and outputs, in one transaction.
    fn acts(&mut self, asks: &[&OnceAsk]) -> Result<Vec<OnceSaid>, OnceError> {
        let said = self.in_transaction(asks.len(), |connection, moved| {
            asks.iter()
                .map(|ask| Act::new(connection, ask, moved).said())
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let forgot = |ask: &&OnceAsk| match ask.act {
            OnceAct::Forget { .. } => true,
            // Nothing is kept with the others.
            OnceAct::Delete => ask.key.space != OnceSpace::Key,
            _ => false,
        };
        // The log holds pages as they were before: without this, until so much was written again.
        if asks.iter().any(forgot) && !self.cut_log() {
            tracing::warn!(
                "the log of state.db could not be cut after something was forgotten; it is, as it fills"
            );
        }
        Ok(said)
    }
}

/// Prepared once: parsing it would take as long as a look for a key.
fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_MAX)?;
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
        self.latest = asks.iter().map(|ask| ask.at).max().unwrap_or(self.latest);
        // The order between spaces says nothing: no key is in two.
        let is_answer = |ask: &OnceAsk| ask.key.space == OnceSpace::Answer;
        let others: Vec<&OnceAsk> = asks.iter().filter(|ask| !is_answer(ask)).collect();
        let mut others = if others.is_empty() {
            Ok(Vec::new().into_iter())
        } else {
            self.acts(&others).map(Vec::into_iter)
        };
        // One waits for what is away; the others of its batch do not wait once more each.
        let mut away: Option<OnceError> = None;
        asks.iter()
            .map(|ask| match &mut others {
                _ if is_answer(ask) => {
                    let said = self.answer(ask, away.as_ref());
                    away = away.take().or_else(|| said.as_ref().err().cloned());
                    said
                }
                Ok(said) => said
                    .next()
                    .ok_or_else(|| OnceError::Unavailable("nothing was said".into())),
                Err(error) => Err(error.clone()),
            })
            .collect()
    }

    fn at_once(&mut self, ask: &OnceAsk) -> Option<Result<OnceSaid, OnceError>> {
        let may_wait = matches!(
            ask.act,
            OnceAct::Payload | OnceAct::Forget { .. } | OnceAct::Delete
        );
        let quick = ask.key.space == OnceSpace::Answer
            && !may_wait
            && self.connection.is_some()
            && !self.log_lost
            && self.answers.as_ref().is_some_and(Answers::is_ready)
            && ask.act.payload_bytes() <= QUICK_BYTES_MAX;
        if !quick {
            return None;
        }
        self.latest = ask.at;
        self.wait_at_most(Duration::ZERO);
        let said = self.answer(ask, None);
        self.wait_at_most(BUSY_MAX);
        // What fails may be made good by who may wait.
        said.ok().map(Ok)
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        self.latest = at;
        let claims = self.claims.sweep(at);
        // Those whose time is over are among them.
        self.file_answers()?;
        let rows = self.in_transaction(0, |connection, moved| {
            let (rows, bytes) = sweep(connection, at, SWEPT_AT_ONCE)?;
            moved.set(bytes);
            Ok(rows)
        })?;
        self.written = self.written.saturating_add(rows as usize);
        Ok(claims.saturating_add(rows))
    }

    fn is_behind(&self) -> bool {
        let written = self.answers.as_ref().map(|answers| answers.written);
        self.log_lost || written.map_or(!self.looked, |written| written != Written::Synced)
    }

    fn sync(&mut self) -> Result<Option<File>, OnceError> {
        if self.log_lost {
            self.take_up_log()?;
        }
        let written = self.answers.as_ref().map(|answers| answers.written);
        match written {
            Some(Written::Synced) => Ok(None),
            Some(Written::Behind | Written::Syncing) => {
                let file = self.answers.as_mut().map(Answers::begin_sync).transpose();
                file.map_err(|error| OnceError::Unavailable(error.to_string()))
            }
            // An earlier process may have died before its sync.
            None if !answers_path(&self.path).try_exists().unwrap_or(true) => {
                self.looked = true;
                Ok(None)
            }
            Some(Written::Lost) | None => self.take_up_answers().map(|()| None),
        }
    }

    fn synced(&mut self, synced: io::Result<()>) -> Result<(), OnceError> {
        if let Some(answers) = &mut self.answers {
            answers.synced(&synced);
        }
        synced.map_err(|error| OnceError::Unavailable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evidence::Timestamp;

    use super::*;
    use crate::once::{OnceKey, OnceStatus};

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
    fn what_is_done_and_cannot_be_written_is_not_done_again_until_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut once = SqliteOnce::new(&folder.path().join("state.db"));
        assert!(once.apply(&[check(OnceSpace::Answer)])[0].is_ok());
        for _ in 0..2 {
            once.answers.as_mut().unwrap().break_file();
            // What was asked with it was said all the same.
            let said = once.apply(&[complete(OnceSpace::Answer), check(OnceSpace::Key)]);
            assert!(matches!(said[0], Err(OnceError::Unavailable(_))), "{said:?}");
            assert!(said[1].is_ok(), "{said:?}");
            assert!(once.is_behind());
            // The file is as broken as it was: nothing is claimed.
            let mut other = check(OnceSpace::Answer);
            other.key.key = "other".into();
            assert!(once.at_once(&other).is_none());
            assert!(once.apply(&[other])[0].is_err());
            // Another is opened.
            let Ok(OnceSaid::Known { entry, .. }) = once.apply(&[check(OnceSpace::Answer)]).remove(0) else {
                panic!("it would be done again");
            };
            assert_eq!((entry.status, entry.payload_bytes), (OnceStatus::Completed, 0));
        }
        let said = once.apply(&[complete(OnceSpace::Answer)]).remove(0);
        assert!(
            matches!(said, Ok(OnceSaid::Done(_))),
            "its holder tries again: {said:?}"
        );
        drop(once);
        let mut once = SqliteOnce::new(&folder.path().join("state.db"));
        let said = once.apply(&[check(OnceSpace::Answer)]).remove(0);
        assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{said:?}");
    }

    #[test]
    fn what_may_have_been_done_is_not_said_to_be_done() {
        let folder = tempfile::tempdir().unwrap();
        let mut once = SqliteOnce::new(&folder.path().join("state.db"));
        assert!(once.apply(&[check(OnceSpace::Answer)])[0].is_ok());
        once.answers.as_mut().unwrap().break_file();
        let mut unknown = complete(OnceSpace::Answer);
        if let OnceAct::Complete { label, .. } = &mut unknown.act {
            *label = Some("unknown".into());
        }
        assert!(once.apply(&[unknown])[0].is_err());
        assert!(once.sync().is_err(), "nor is the file mended by asking");
        let Ok(OnceSaid::Known { entry, .. }) = once.apply(&[check(OnceSpace::Answer)]).remove(0) else {
            panic!("it would be done again");
        };
        assert_eq!(
            (entry.status, entry.label.as_deref()),
            (OnceStatus::Completed, Some("unknown"))
        );
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
        assert!(once.written <= CARRY_ACTS + answers::FILED_TOGETHER);
        let waiting = std::fs::metadata(answers_path(&path)).unwrap();
        assert!(waiting.len() < 1 << 20, "{} bytes", waiting.len());
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
