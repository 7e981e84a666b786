//! Answers become rows: those of a full file on a thread of their own, beside who asks; all that wait, here and now,
//! where somebody waits for that or it failed before.
//!
//! A commit makes the rows and takes another name for the file, which is then begun anew. A crash in between leaves a
//! file whose name is not known any more.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use evidence::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::SqliteOnce;
use super::act;
use super::answers::{Answers, FileId, Kept, Place, Written, begin};
use super::table::Table;
use crate::once::OnceError;

/// What comes of a file that is filed beside who asks: its new name, or why its answers may not be rows. Inside, why it
/// could not be begun anew.
type Filed = Result<(FileId, io::Result<()>), OnceError>;

/// At work on the file before.
pub(super) type Filing = JoinHandle<(Table, Filed)>;

impl SqliteOnce {
    /// Goes on in the other file, while the answers of this one become rows; `false`: that one is not ready, or there is
    /// no thread. Does not wait.
    pub(super) fn turn_over(&mut self) -> bool {
        let (Some(full), Some(spare)) = (&self.answers, &self.spare) else {
            return false;
        };
        if self.table.log().is_lost() || self.table.writable().is_err() || spare.is_to_be_filed() {
            return false;
        }
        let job = (Arc::clone(full.kept()), full.place, full.file(), self.latest);
        let table = self.beside.take().unwrap_or_else(|| self.table.beside());
        let filing = std::thread::Builder::new()
            .name("answers".into())
            .spawn(move || file_beside(table, job));
        match filing {
            Ok(filing) => {
                self.filing = Some(filing);
                self.before = std::mem::replace(&mut self.answers, self.spare.take());
                true
            }
            Err(error) => {
                tracing::debug!(%error, "no thread to file answers");
                false
            }
        }
    }

    /// Takes in what came of the file before, if it is filed.
    pub(super) fn collect_filed(&mut self) {
        if self.filing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.collect();
        }
    }

    /// The same, waiting for it.
    pub(super) fn collect(&mut self) {
        let Some(filing) = self.filing.take() else {
            return;
        };
        let filed = match filing.join() {
            Ok((table, filed)) => {
                self.beside = Some(table);
                filed
            }
            Err(_) => Err(OnceError::Unavailable("filing panicked".into())),
        };
        self.held.clear();
        match filed {
            Ok((id, Ok(()))) => {
                self.spare = self.before.take().map(|mut answers| {
                    answers.begun_anew(id);
                    answers
                });
            }
            // They are rows: what cannot be begun anew is opened anew.
            Ok((_, Err(error))) => {
                tracing::warn!(%error, "a file of answers that are rows could not be begun anew");
                self.before = None;
            }
            Err(error) => {
                tracing::warn!(%error, "answers could not be made rows; they wait");
                if let Some(before) = &mut self.before {
                    // They may be rows, and the file nobody's.
                    before.written = Written::Lost;
                }
            }
        }
    }

    /// Makes rows of all answers that wait, and begins their files anew. Opens what is not open.
    pub(super) fn file_answers(&mut self) -> Result<(), OnceError> {
        self.collect();
        // Before anything is touched: what waits goes on being known.
        self.table.writable()?;
        self.open_missing()?;
        // The older one first: what is in the other under the same key came when its time was over.
        let all = [self.before.take(), self.answers.take(), self.spare.take()];
        let (mut filing, mut ready): (Vec<_>, Vec<_>) =
            all.into_iter().flatten().partition(Answers::is_to_be_filed);
        let acts = filing.iter().map(|answers| answers.kept().len()).sum();
        let filed = if filing.is_empty() {
            Ok(Vec::new())
        } else {
            self.write(acts, |connection, moved| {
                let mut file = |answers: &Answers| {
                    act::file(connection, answers.kept(), moved)?;
                    take_file_id(connection, answers.place)
                };
                filing.iter().map(&mut file).collect::<rusqlite::Result<Vec<_>>>()
            })
        };
        match filed {
            Ok(ids) => {
                let mut begun = Ok(());
                for (mut answers, id) in filing.into_iter().zip(ids) {
                    // They are rows: what cannot be begun anew is opened anew.
                    match answers.begin_anew(id) {
                        Ok(()) => ready.push(answers),
                        Err(error) => begun = Err(unwritable(&error)),
                    }
                }
                // Those named first are filled first, so that the names tell which is older.
                let mut ready = ready.into_iter();
                (self.answers, self.spare) = (ready.next(), ready.next());
                begun
            }
            Err(error) => {
                // They may be rows, and the files nobody's.
                for answers in &mut filing {
                    answers.written = Written::Lost;
                }
                self.answers = filing.pop();
                self.before = filing.pop();
                self.spare = ready.pop();
                Err(error)
            }
        }
    }

    /// Opens the files that are not open, with what an earlier process left in them.
    fn open_missing(&mut self) -> Result<(), OnceError> {
        let open = [&self.before, &self.answers, &self.spare];
        let open: Vec<Place> = open.into_iter().flatten().map(|answers| answers.place).collect();
        if open.len() == Place::ALL.len() {
            return Ok(());
        }
        let mut missing = Vec::new();
        for place in Place::ALL.into_iter().filter(|place| !open.contains(place)) {
            let named = self.table.read(|connection| file_id(connection, place))?;
            let (id, turn) = named.unzip();
            let opened = Answers::open(self.table.path(), place, id).map_err(|error| unwritable(&error))?;
            missing.push((turn, opened));
        }
        missing.sort_by_key(|(turn, _)| *turn);
        for (_, opened) in missing {
            // What is open alone takes answers, and what is opened beside it is empty: its rows were made.
            let free = [&mut self.before, &mut self.answers];
            if let Some(free) = free.into_iter().find(|answers| answers.is_none()) {
                *free = Some(opened);
            }
        }
        self.looked = true;
        Ok(())
    }
}

/// What was kept of a file, the file, and when something was asked last.
type Job = (Arc<Kept>, Place, Arc<File>, Timestamp);

/// Makes rows of what was kept of a file, and begins it anew.
fn file_beside(mut table: Table, (kept, place, file, latest): Job) -> (Table, Filed) {
    let id = table.write(kept.len(), latest, |connection, moved| {
        act::file(connection, &kept, moved)?;
        take_file_id(connection, place)
    });
    let filed = id.map(|id| (id, begin(&file, &id)));
    (table, filed)
}

pub(super) fn unwritable(error: &io::Error) -> OnceError {
    OnceError::Unavailable(format!("state.db-answers: {error}"))
}

/// The name of the file whose answers are not rows yet, and which one it is in their order.
fn file_id(connection: &Connection, place: Place) -> rusqlite::Result<Option<(FileId, i64)>> {
    connection
        .query_row(
            "SELECT file_id, turn FROM once_files WHERE place = ?1",
            [place.number()],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()
}

/// Names it anew.
fn take_file_id(connection: &Connection, place: Place) -> rusqlite::Result<FileId> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO once_files VALUES \
             (?1, randomblob(16), (SELECT coalesce(max(turn), 0) + 1 FROM once_files)) RETURNING file_id",
        )?
        .query_row([place.number()], |row| row.get(0))
}
