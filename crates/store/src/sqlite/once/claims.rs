//! Keys of requests that are being answered.
//!
//! They are kept in memory, as long as the request lives: it dies with its process,
//! and with it its claim, so that whoever sends it again need not wait for a lease.
//! One process has the store, so nobody else would look for them. Whoever claims a
//! key ends the claim, in whatever way the request ends; a lease that ran out says
//! only that the process was not scheduled.
//!
//! What is done and could not be written is kept here too: it must not be done again.

use std::collections::HashMap;
use std::sync::Arc;

use evidence::Timestamp;

use super::act::{Act, Found, pending};
use crate::once::{
    ENTRIES_PER_TENANT_MAX, OnceAct, OnceAsk, OnceEntry, OnceKey, OnceSaid, OnceSpace, OnceStatus, Previous,
    is_other, later,
};

/// Claims at once, at most: far more than requests are answered at once. Each takes some 400 bytes.
const CLAIMS_MAX: usize = 16_384;

/// Of these for one tenant: it leaves room for others.
const CLAIMS_TENANT_MAX: usize = CLAIMS_MAX / 4;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Claims {
    tenants: HashMap<Arc<str>, HashMap<Arc<str>, OnceEntry>>,
    count: usize,
}

impl Claims {
    /// The claim on a key, unless its time is over.
    fn of(&self, key: &OnceKey, at: Timestamp) -> Option<&OnceEntry> {
        let claim = self.tenants.get(&key.tenant)?.get(&key.key)?;
        (claim.expires_at > at).then_some(claim)
    }

    /// Takes a key; `false`: too many are taken.
    fn take(&mut self, key: &OnceKey, entry: OnceEntry) -> bool {
        let of_tenant = self.tenants.get(&key.tenant).map_or(0, HashMap::len);
        if self.count >= CLAIMS_MAX || of_tenant >= CLAIMS_TENANT_MAX {
            return false;
        }
        let tenant = self.tenants.entry(Arc::clone(&key.tenant)).or_default();
        self.count += usize::from(tenant.insert(Arc::clone(&key.key), entry).is_none());
        true
    }

    fn of_holder(&mut self, key: &OnceKey, lease: &[u8; 16]) -> Option<&mut OnceEntry> {
        let claim = self.tenants.get_mut(&key.tenant)?.get_mut(&key.key)?;
        (claim.lease == *lease).then_some(claim)
    }

    fn drop(&mut self, key: &OnceKey) {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            self.count -= usize::from(tenant.remove(&key.key).is_some());
            if tenant.is_empty() {
                self.tenants.remove(&key.tenant);
            }
        }
    }

    /// After a batch. `said`: what was, if it was written. What was completed is a row then, and done all the same if it
    /// was not; what was taken is held by nobody if that was not said.
    pub(super) fn settle(&mut self, asks: &[OnceAsk], said: Option<&[OnceSaid]>) {
        let of_answers = |ask: &&OnceAsk| ask.key.space == OnceSpace::Answer;
        for (n, ask) in asks.iter().enumerate().filter(|(_, ask)| of_answers(ask)) {
            let over = match &ask.act {
                OnceAct::Check { lease, .. } => said.is_none() && self.of_holder(&ask.key, lease).is_some(),
                OnceAct::Complete { lease, label, .. } => match (self.of_holder(&ask.key, lease), said) {
                    (Some(claim), None) => {
                        claim.status = OnceStatus::Completed;
                        // That its outcome is unknown, say.
                        if label.is_some() {
                            claim.label.clone_from(label);
                        }
                        false
                    }
                    (Some(_), Some(said)) => matches!(said.get(n), Some(OnceSaid::Done(_))),
                    (None, _) => false,
                },
                // It changes nothing on disk: who was refused may try again, whatever becomes of the store.
                OnceAct::Fail { lease, .. } => self.of_holder(&ask.key, lease).is_some(),
                _ => false,
            };
            if over {
                self.drop(&ask.key);
            }
        }
    }

    /// Takes away those whose time is over; says how many.
    pub(super) fn sweep(&mut self, at: Timestamp) -> u32 {
        let before = self.count;
        self.tenants.retain(|_, tenant| {
            tenant.retain(|_, entry| entry.expires_at > at);
            !tenant.is_empty()
        });
        self.count = self.tenants.values().map(HashMap::len).sum();
        u32::try_from(before - self.count).unwrap_or(u32::MAX)
    }
}

impl Act<'_> {
    /// Of an answer that has no row. One that is not completed is that of an older version's process.
    pub(super) fn claimed(&mut self, found: Option<Found>) -> rusqlite::Result<OnceSaid> {
        let claim = self.claims.of(self.key, self.at);
        match self.asked {
            OnceAct::Check {
                hash,
                label,
                ttl_secs,
                lease_secs,
                lease,
            } => {
                if let Some(claim) = claim {
                    return Ok(OnceSaid::Known {
                        conflict: is_other(claim.hash.as_ref(), hash.as_ref()),
                        entry: Box::new(claim.clone()),
                    });
                }
                if self.held_of()?.0 >= ENTRIES_PER_TENANT_MAX {
                    return Ok(OnceSaid::Full);
                }
                let entry = pending(self.at, *hash, label.clone(), *ttl_secs, *lease_secs, *lease);
                let (lease_until, expires_at) = (entry.lease_until, entry.expires_at);
                if !self.claims.take(self.key, entry) {
                    return Ok(OnceSaid::Busy);
                }
                Ok(OnceSaid::New {
                    previous: found.map(|_| Previous::Expired),
                    lease_until,
                    expires_at,
                })
            }
            OnceAct::Complete {
                lease,
                label,
                response_hash,
                payload,
            } => {
                let Some(mut entry) = claim.cloned() else {
                    return Ok(OnceSaid::Unknown);
                };
                if entry.lease != *lease {
                    return Ok(OnceSaid::LeaseLost);
                }
                entry.status = OnceStatus::Completed;
                entry.response_hash = *response_hash;
                if label.is_some() {
                    entry.label.clone_from(label);
                }
                self.clear()?;
                let payload = self.with_room(payload.as_deref())?;
                self.insert(&mut entry, payload)?;
                Ok(OnceSaid::Done(Box::new(entry)))
            }
            OnceAct::Fail { lease, error } => {
                let Some(mut entry) = self.claims.of_holder(self.key, lease).cloned() else {
                    return Ok(OnceSaid::Unknown);
                };
                (entry.status, entry.error) = (OnceStatus::Failed, Some(error.clone()));
                self.claims.drop(self.key);
                Ok(OnceSaid::Done(Box::new(entry)))
            }
            OnceAct::Renew { lease, lease_secs } => {
                let until = later(self.at, *lease_secs);
                let Some(claim) = self.claims.of_holder(self.key, lease) else {
                    return Ok(OnceSaid::Unknown);
                };
                claim.lease_until = until.min(claim.expires_at);
                Ok(OnceSaid::Done(Box::new(claim.clone())))
            }
            OnceAct::Delete => {
                self.clear()?;
                self.claims.drop(self.key);
                Ok(OnceSaid::Deleted)
            }
            OnceAct::Read => Ok(OnceSaid::Read(claim.cloned().map(Box::new))),
            OnceAct::Payload => Ok(OnceSaid::Payload(None)),
            OnceAct::Forget { .. } => Ok(OnceSaid::Unknown),
        }
    }
}
