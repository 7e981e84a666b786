//! What is asked about answers: of claims, of those that wait in their file, of rows.

use std::sync::Arc;

use super::SqliteOnce;
use super::act::{self, find, held_of, payload_of};
use super::answers::{Answer, Written};
use super::filing::unwritable;
use crate::once::{
    ENTRIES_PER_TENANT_MAX, OnceAct, OnceAsk, OnceEntry, OnceError, OnceKey, OnceSaid, OnceSpace, OnceStatus,
    PAYLOAD_BYTES_PER_TENANT_MAX, Previous, is_other,
};

/// Tenants whose numbers of rows are kept in memory: 100 bytes each.
const HELD_MAX: usize = 4_096;

impl SqliteOnce {
    /// Something asked about an answer, once a file has room for it.
    pub(super) fn answer(
        &mut self,
        ask: &OnceAsk,
        ready: impl FnOnce(&mut Self) -> Result<(), OnceError>,
    ) -> Result<OnceSaid, OnceError> {
        // It changes nothing on disk: who was refused may try again, whatever becomes of the store.
        if let OnceAct::Fail { lease, error } = &ask.act
            && let Some(said) = self.claims.fail(&ask.key, lease, error)
        {
            return Ok(said);
        }
        let said = ready(self).and_then(|()| self.answered(ask));
        if let (Err(_), OnceAct::Complete { lease, label, .. }) = (&said, &ask.act) {
            self.claims.unwritten(&ask.key, lease, label.as_ref());
        }
        said
    }

    fn answered(&mut self, ask: &OnceAsk) -> Result<OnceSaid, OnceError> {
        let OnceAsk { key, act, at } = ask;
        if matches!(act, OnceAct::Forget { .. } | OnceAct::Delete) {
            // Of a row, so that nothing is left of it elsewhere, also after power loss.
            self.file_answers()?;
            for answers in [&mut self.answers, &mut self.spare].into_iter().flatten() {
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
        let waiting = [&self.answers, &self.before];
        if let Some(answer) = waiting.into_iter().flatten().find_map(|all| all.of(key, *at)) {
            return Ok(match act {
                OnceAct::Payload => OnceSaid::Payload(answer.payload.clone()),
                act => said_of(Some(answer.entry.clone()), act),
            });
        }
        let found = self.table.read(|connection| find(connection, key, *at))?;
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
                // What it stands for is not done where nobody would know of it after the next start.
                self.table.writable()?;
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
                let payload = self.table.read(|connection| payload_of(connection, found.id));
                payload.map(OnceSaid::Payload)
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
        // The file is the table's: with another table nobody reads it.
        self.table.writable()?;
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
                .table
                .read(|connection| held_of(connection, OnceSpace::Answer, tenant))?;
            if self.held.len() >= HELD_MAX {
                self.held.clear();
            }
            self.held.insert(Arc::clone(tenant), held);
            held
        };
        // What becomes a row just now may be counted twice.
        let waiting = [&self.answers, &self.before].into_iter().flatten();
        Ok(waiting.fold(in_table, |(entries, bytes), all| {
            let held = all.held_of(tenant);
            (entries + held.0, bytes + held.1)
        }))
    }

    /// Whether an answer can be appended now, or after going on in the other file.
    pub(super) fn has_room(&mut self) -> bool {
        match &self.answers {
            // It is opened anew, once they are rows.
            Some(answers) if answers.is_gone() => false,
            Some(answers) if answers.is_ready() => true,
            Some(answers) => answers.written != Written::Lost && self.turn_over(),
            None => false,
        }
    }

    /// Has a file of answers open and with room.
    pub(super) fn take_up_answers(&mut self) -> Result<(), OnceError> {
        self.collect_filed();
        if self.table.log().is_lost() {
            self.take_up_log()?;
        }
        if self.has_room() {
            return Ok(());
        }
        // Those before it, if they are still at it: that may be all there is to do.
        self.collect();
        if self.has_room() {
            return Ok(());
        }
        self.file_answers()
    }
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
