//! What is asked about answers: of claims, of those that wait in their file, of rows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use super::SqliteOnce;
use super::act::{self, find, held_of, payload_of};
use super::answers::{Answer, Answers, FileId, Written};
use crate::once::{
    ENTRIES_PER_TENANT_MAX, OnceAct, OnceAsk, OnceEntry, OnceError, OnceKey, OnceSaid, OnceSpace, OnceStatus,
    PAYLOAD_BYTES_PER_TENANT_MAX, Previous, is_other,
};

/// Tenants whose numbers of rows are kept in memory: 100 bytes each.
const HELD_MAX: usize = 4_096;

impl SqliteOnce {
    /// Something asked about an answer. `away`: why the store cannot be asked, if that is known.
    pub(super) fn answer(&mut self, ask: &OnceAsk, away: Option<&OnceError>) -> Result<OnceSaid, OnceError> {
        // It changes nothing on disk: who was refused may try again, whatever becomes of the store.
        if let OnceAct::Fail { lease, error } = &ask.act
            && let Some(said) = self.claims.fail(&ask.key, lease, error)
        {
            return Ok(said);
        }
        let said = match away {
            None => self.answered(ask),
            Some(error) => Err(error.clone()),
        };
        if let (Err(_), OnceAct::Complete { lease, label, .. }) = (&said, &ask.act) {
            self.claims.unwritten(&ask.key, lease, label.as_ref());
        }
        said
    }

    fn answered(&mut self, ask: &OnceAsk) -> Result<OnceSaid, OnceError> {
        self.take_up_answers()?;
        let OnceAsk { key, act, at } = ask;
        if matches!(act, OnceAct::Forget { .. } | OnceAct::Delete) {
            // Of a row, so that nothing is left of it elsewhere, also after power loss.
            self.file_answers()?;
            if let Some(answers) = &mut self.answers {
                answers.sync().map_err(|error| unwritable(&error))?;
            }
            let said = self.acts(&[ask])?.pop().unwrap_or(OnceSaid::Unknown);
            if matches!(act, OnceAct::Delete) {
                self.claims.drop(key);
            }
            return Ok(said);
        }
        // Before the answers: when clocks are set back, one that was over under the same key may not seem so.
        if let Some(claim) = self.claims.of(key, *at) {
            return match act {
                OnceAct::Complete {
                    lease,
                    label,
                    response_hash,
                    payload,
                } if claim.lease == *lease => {
                    let mut entry = claim.clone();
                    (entry.status, entry.response_hash) = (OnceStatus::Completed, *response_hash);
                    if label.is_some() {
                        entry.label.clone_from(label);
                    }
                    self.keep(key, entry, payload.as_ref())
                }
                act => Ok(self.claims.said(key, *at, act)),
            };
        }
        if let Some(answer) = self.answers.as_ref().and_then(|answers| answers.of(key, *at)) {
            return Ok(match act {
                OnceAct::Payload => OnceSaid::Payload(answer.payload.clone()),
                act => said_of(Some(answer.entry.clone()), act),
            });
        }
        let found = self
            .connection()
            .and_then(|connection| find(connection, key, *at));
        let found = found.map_err(|error| self.unavailable(&error))?;
        // One that is not completed is that of an older version's process.
        let is_left = found.is_some();
        let found = found.filter(|found| found.entry.status == OnceStatus::Completed);
        match (act, found) {
            (
                OnceAct::Check {
                    hash,
                    label,
                    ttl_secs,
                    lease_secs,
                    lease,
                },
                None,
            ) => {
                if self.held(&key.tenant)?.0 >= ENTRIES_PER_TENANT_MAX {
                    return Ok(OnceSaid::Full);
                }
                let entry = act::pending(*at, *hash, label.clone(), *ttl_secs, *lease_secs, *lease);
                let (lease_until, expires_at) = (entry.lease_until, entry.expires_at);
                if !self.claims.take(key, entry) {
                    return Ok(OnceSaid::Busy);
                }
                Ok(OnceSaid::New {
                    previous: is_left.then_some(Previous::Expired),
                    lease_until,
                    expires_at,
                })
            }
            (OnceAct::Payload, Some(found)) => {
                let payload = self
                    .connection()
                    .and_then(|connection| payload_of(connection, found.id));
                payload
                    .map(OnceSaid::Payload)
                    .map_err(|error| self.unavailable(&error))
            }
            (OnceAct::Payload, None) => Ok(OnceSaid::Payload(None)),
            (act, found) => Ok(said_of(found.map(|found| found.entry), act)),
        }
    }

    /// Keeps an answer: what is done is never done twice because its result finds no room.
    fn keep(
        &mut self,
        key: &OnceKey,
        mut entry: OnceEntry,
        payload: Option<&Vec<u8>>,
    ) -> Result<OnceSaid, OnceError> {
        let room = PAYLOAD_BYTES_PER_TENANT_MAX.saturating_sub(self.held(&key.tenant)?.1);
        let payload = payload.filter(|payload| payload.len() as u64 <= room).cloned();
        entry.payload_bytes = payload.as_ref().map_or(0, |payload| payload.len() as u64);
        let answers = self.answers.as_mut();
        let answers = answers.ok_or_else(|| OnceError::Unavailable("no file is open".into()))?;
        let answer = Answer {
            entry: entry.clone(),
            payload,
        };
        answers.append(key, answer).map_err(|error| {
            // Also when it is made good before anybody is refused.
            tracing::warn!(%error, "an answer could not be written to state.db-answers");
            unwritable(&error)
        })?;
        self.claims.drop(key);
        Ok(OnceSaid::Done(Box::new(entry)))
    }

    /// Entries and bytes of a tenant's answers.
    fn held(&mut self, tenant: &Arc<str>) -> Result<(u64, u64), OnceError> {
        let in_table = if let Some(&held) = self.held.get(tenant) {
            held
        } else {
            let held = self
                .connection()
                .and_then(|connection| held_of(connection, OnceSpace::Answer, tenant))
                .map_err(|error| self.unavailable(&error))?;
            if self.held.len() >= HELD_MAX {
                self.held.clear();
            }
            self.held.insert(Arc::clone(tenant), held);
            held
        };
        let waiting = self.answers.as_ref().map_or((0, 0), |all| all.held_of(tenant));
        Ok((in_table.0 + waiting.0, in_table.1 + waiting.1))
    }

    /// Has the file of answers open and with room.
    pub(super) fn take_up_answers(&mut self) -> Result<(), OnceError> {
        if self.log_lost {
            self.take_up_log()?;
        }
        match &self.answers {
            Some(answers) if answers.is_ready() => Ok(()),
            Some(_) => self.file_answers(),
            None => {
                let id = self.connection().and_then(file_id);
                let id = id.map_err(|error| self.unavailable(&error))?;
                let opened = Answers::open(&answers_path(&self.path), id);
                self.answers = Some(opened.map_err(|error| unwritable(&error))?);
                self.file_answers()
            }
        }
    }

    /// Makes rows of the answers that wait, and begins their file anew.
    pub(super) fn file_answers(&mut self) -> Result<(), OnceError> {
        let Some(mut answers) = self.answers.take() else {
            return Ok(());
        };
        if answers.is_empty() && answers.written != Written::Lost {
            self.answers = Some(answers);
            return Ok(());
        }
        let filed = self.in_transaction(answers.len(), |connection, moved| {
            act::file(connection, &answers, moved)?;
            take_file_id(connection)
        });
        match filed {
            Ok(id) => {
                self.looked = true;
                // They are rows: what cannot be begun anew is opened anew.
                let begun = answers.begin_anew(id);
                begun.map_err(|error| unwritable(&error))?;
                self.answers = Some(answers);
                Ok(())
            }
            Err(error) => {
                // They may be rows, and the file nobody's.
                answers.written = Written::Lost;
                self.answers = Some(answers);
                Err(error)
            }
        }
    }
}

fn unwritable(error: &std::io::Error) -> OnceError {
    OnceError::Unavailable(format!("state.db-answers: {error}"))
}

/// What is said of an answer that is there and completed, or of none.
fn said_of(entry: Option<OnceEntry>, act: &OnceAct) -> OnceSaid {
    match (act, entry) {
        (OnceAct::Read, entry) => OnceSaid::Read(entry.map(Box::new)),
        (OnceAct::Check { hash, .. }, Some(entry)) => OnceSaid::Known {
            conflict: is_other(entry.hash.as_ref(), hash.as_ref()),
            entry: Box::new(entry),
        },
        // Its own answer may have been lost.
        (
            OnceAct::Complete {
                lease, response_hash, ..
            },
            Some(entry),
        ) if entry.lease == *lease && entry.response_hash == *response_hash => {
            OnceSaid::Done(Box::new(entry))
        }
        (_, Some(_)) => OnceSaid::LeaseLost,
        (_, None) => OnceSaid::Unknown,
    }
}

/// Where answers wait.
pub(super) fn answers_path(path: &Path) -> PathBuf {
    let mut answers = path.as_os_str().to_owned();
    answers.push("-answers");
    answers.into()
}

/// The name of the file whose answers are not rows yet.
fn file_id(connection: &Connection) -> rusqlite::Result<Option<FileId>> {
    connection
        .query_row("SELECT file_id FROM once_answers", [], |row| row.get(0))
        .optional()
}

/// Names the next one.
fn take_file_id(connection: &Connection) -> rusqlite::Result<FileId> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO once_answers VALUES (1, randomblob(16)) RETURNING file_id")?
        .query_row([], |row| row.get(0))
}
