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
mod filing;
mod table;

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use evidence::Timestamp;
use rusqlite::Connection;

use self::act::{Act, sweep};
use self::answers::{Answers, Place, Written};
use self::claims::Claims;
use self::filing::{Filing, unwritable};
use self::table::{BUSY_MAX, Table};
use crate::once::{OnceAct, OnceAsk, OnceError, OnceSaid, OnceSpace, OnceStore, SWEPT_AT_ONCE};

/// Longest answer that is written without leaving the caller's thread.
const QUICK_BYTES_MAX: usize = 64 * 1024;

/// The embedded backend. The files are opened when it is first asked, and again after a failure.
#[derive(Debug)]
pub struct SqliteOnce {
    table: Table,
    /// When something was asked last: what is over then is swept. Clocks are set back, and so is this.
    latest: Timestamp,
    claims: Claims,
    /// The file that answers go into, the one that was full before it, and the one that follows it: the two files, as far
    /// as they are open.
    answers: Option<Answers>,
    before: Option<Answers>,
    spare: Option<Answers>,
    /// At work on the one before.
    filing: Option<Filing>,
    /// Whose sync was given away last.
    syncing: Option<Place>,
    /// What that works with, when it rests.
    beside: Option<Table>,
    /// Whether an earlier process's answers were looked for.
    looked: bool,
    /// Entries and bytes of answers in the table, by tenant, as far as they were needed since they last changed.
    held: HashMap<Arc<str>, (u64, u64)>,
}

impl SqliteOnce {
    /// Over that `state.db`, which is made when absent.
    pub fn new(path: &Path) -> Self {
        Self {
            table: Table::new(path),
            latest: Timestamp::MIN,
            claims: Claims::default(),
            answers: None,
            before: None,
            spare: None,
            filing: None,
            syncing: None,
            beside: None,
            looked: false,
            held: HashMap::new(),
        }
    }

    /// See [`Table::write`].
    fn write<T>(
        &mut self,
        acts: usize,
        work: impl FnOnce(&Connection, &Cell<u64>) -> rusqlite::Result<T>,
    ) -> Result<T, OnceError> {
        let done = self.table.write(acts, self.latest, work);
        // Also of what was only swept, and of what may have been done although it failed.
        self.held.clear();
        done
    }

    fn has_files(&self) -> bool {
        let exists = |place: Place| place.path(self.table.path()).try_exists().unwrap_or(true);
        Place::ALL.into_iter().any(exists)
    }

    /// See [`OnceStore::sync`].
    fn begin_sync(&mut self) -> Result<Option<File>, OnceError> {
        self.collect_filed();
        if self.table.log().is_lost() {
            self.take_up_log()?;
        }
        match &mut self.before {
            // Nobody makes rows of them: that failed.
            Some(_) if self.filing.is_none() => return self.file_answers().map(|()| None),
            // They are rows soon; until then they are in their file.
            Some(before) if before.written != Written::Synced => {
                before.sync().map_err(|error| unwritable(&error))?;
            }
            _ => {}
        }
        if self.answers.as_ref().is_some_and(Answers::is_gone) {
            // To sync it would keep them for nobody.
            return self.file_answers().map(|()| None);
        }
        // An earlier process may have died before its sync.
        let no_files = self.answers.is_none() && !self.has_files();
        match &mut self.answers {
            Some(answers) if answers.written == Written::Synced => Ok(None),
            Some(answers) if answers.written != Written::Lost => {
                let file = answers.begin_sync().map_err(|error| unwritable(&error))?;
                self.syncing = Some(answers.place);
                Ok(Some(file))
            }
            None if no_files => {
                self.looked = true;
                Ok(None)
            }
            _ => self.take_up_answers().map(|()| None),
        }
    }

    /// Takes the log up again. What has the files open beside this one is to open them anew.
    fn take_up_log(&mut self) -> Result<(), OnceError> {
        self.table.take_up_log()?;
        self.beside = None;
        Ok(())
    }

    /// Acts on keys and outputs, in one transaction.
    fn acts(&mut self, asks: &[&OnceAsk]) -> Result<Vec<OnceSaid>, OnceError> {
        let said = self.write(asks.len(), |connection, moved| {
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
        if asks.iter().any(forgot) && !self.table.cut_log() {
            tracing::warn!(
                "the log of state.db could not be cut after something was forgotten; it is, as it fills"
            );
        }
        Ok(said)
    }
}

impl Drop for SqliteOnce {
    /// Who opens the files next is to find nobody at work on them.
    fn drop(&mut self) {
        self.collect();
    }
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
                    let known = away.clone();
                    let said = self.answer(ask, |once| known.map_or_else(|| once.take_up_answers(), Err));
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
        self.collect_filed();
        let may_wait = matches!(
            ask.act,
            OnceAct::Payload | OnceAct::Forget { .. } | OnceAct::Delete
        );
        let quick = ask.key.space == OnceSpace::Answer
            && !may_wait
            && self.table.is_open()
            && !self.table.log().is_lost()
            && self.has_room()
            && ask.act.payload_bytes() <= QUICK_BYTES_MAX;
        if !quick {
            return None;
        }
        self.latest = ask.at;
        self.table.wait_at_most(Duration::ZERO);
        let said = self.answer(ask, |_| Ok(()));
        self.table.wait_at_most(BUSY_MAX);
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
        let rows = self.write(0, |connection, moved| {
            let (rows, bytes) = sweep(connection, at, SWEPT_AT_ONCE)?;
            moved.set(bytes);
            Ok(rows)
        })?;
        self.table.wrote(rows as usize);
        Ok(claims.saturating_add(rows))
    }

    fn is_behind(&self) -> bool {
        let is_behind = |answers: &Answers| answers.written != Written::Synced;
        self.table.log().is_lost()
            || self.before.as_ref().is_some_and(is_behind)
            || self.answers.as_ref().map_or(!self.looked, is_behind)
    }

    fn sync(&mut self) -> Result<Option<File>, OnceError> {
        let synced = self.begin_sync();
        if synced.is_err() {
            // What cannot be made rows now is in its file all the same.
            for answers in [&self.before, &self.answers].into_iter().flatten() {
                if let Err(error) = answers.sync_anyway() {
                    tracing::warn!(%error, "answers that wait could not be synced");
                }
            }
        }
        synced
    }

    fn synced(&mut self, synced: io::Result<()>) -> Result<(), OnceError> {
        // It may have been turned over meanwhile.
        let all = [&mut self.answers, &mut self.before, &mut self.spare];
        let of = self.syncing.take();
        if let Some(answers) = all
            .into_iter()
            .flatten()
            .find(|answers| Some(answers.place) == of)
        {
            answers.synced(&synced);
        }
        synced.map_err(|error| OnceError::Unavailable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evidence::Timestamp;

    use super::table::{CARRY_ACTS, CARRY_BYTES};
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
            // The other file is not.
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
    fn a_file_that_cannot_be_begun_anew_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let mut once = SqliteOnce::new(&path);
        let of = |key: usize, mut ask: OnceAsk| {
            ask.key.key = key.to_string().into();
            ask
        };
        let answered = |once: &mut SqliteOnce, key: usize| {
            let asks = [check(OnceSpace::Answer), complete(OnceSpace::Answer)].map(|ask| of(key, ask));
            let said = once.apply(&asks);
            assert!(said.iter().all(Result::is_ok), "{key}: {said:?}");
        };
        for key in 0..answers::FILED_TOGETHER {
            answered(&mut once, key);
        }
        // The rows are made, and then it cannot be cut off.
        once.answers.as_mut().unwrap().break_file();
        let before = 3 * answers::FILED_TOGETHER;
        for key in answers::FILED_TOGETHER..before {
            answered(&mut once, key);
        }
        once.collect();
        assert!(once.answers.is_some() && once.spare.is_some(), "both are open");
        drop(once);
        let mut once = SqliteOnce::new(&path);
        for key in 0..before {
            let said = once.apply(&[of(key, check(OnceSpace::Answer))]).remove(0);
            assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{key}: {said:?}");
        }
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
        assert!(once.table.waiting().0 <= CARRY_ACTS + answers::FILED_TOGETHER);
        for place in Place::ALL {
            let waiting = std::fs::metadata(place.path(&path)).unwrap();
            assert!(waiting.len() < 1 << 20, "{} bytes", waiting.len());
        }
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
        assert!(once.table.waiting().1 < CARRY_BYTES);
    }
}
