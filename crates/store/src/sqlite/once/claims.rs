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

use crate::once::{Lease, OnceAct, OnceEntry, OnceKey, OnceSaid, OnceStatus, is_other, later};

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
    pub(super) fn of(&self, key: &OnceKey, at: Timestamp) -> Option<&OnceEntry> {
        let claim = self.tenants.get(&key.tenant)?.get(&key.key)?;
        (claim.expires_at > at).then_some(claim)
    }

    /// Takes a key; `false`: too many are taken.
    pub(super) fn take(&mut self, key: &OnceKey, entry: OnceEntry) -> bool {
        let of_tenant = self.tenants.get(&key.tenant).map_or(0, HashMap::len);
        if self.count >= CLAIMS_MAX || of_tenant >= CLAIMS_TENANT_MAX {
            return false;
        }
        let tenant = self.tenants.entry(Arc::clone(&key.tenant)).or_default();
        self.count += usize::from(tenant.insert(Arc::clone(&key.key), entry).is_none());
        true
    }

    fn of_holder(&mut self, key: &OnceKey, lease: &Lease) -> Option<&mut OnceEntry> {
        let claim = self.tenants.get_mut(&key.tenant)?.get_mut(&key.key)?;
        (claim.lease == *lease).then_some(claim)
    }

    pub(super) fn drop(&mut self, key: &OnceKey) {
        if let Some(tenant) = self.tenants.get_mut(&key.tenant) {
            self.count -= usize::from(tenant.remove(&key.key).is_some());
            if tenant.is_empty() {
                self.tenants.remove(&key.tenant);
            }
        }
    }

    /// Gives a key back; `None`: that lease holds none.
    pub(super) fn fail(&mut self, key: &OnceKey, lease: &Lease, error: &str) -> Option<OnceSaid> {
        let mut entry = self.of_holder(key, lease)?.clone();
        if entry.status != OnceStatus::Pending {
            return Some(OnceSaid::LeaseLost);
        }
        (entry.status, entry.error) = (OnceStatus::Failed, Some(error.to_owned()));
        self.drop(key);
        Some(OnceSaid::Done(Box::new(entry)))
    }

    /// It is done, and could not be written.
    pub(super) fn unwritten(&mut self, key: &OnceKey, lease: &Lease, label: Option<&String>) {
        if let Some(claim) = self.of_holder(key, lease) {
            claim.status = OnceStatus::Completed;
            // That its outcome is unknown, say.
            if label.is_some() {
                claim.label = label.cloned();
            }
        }
    }

    /// What is said of a claim by itself.
    pub(super) fn said(&mut self, key: &OnceKey, at: Timestamp, act: &OnceAct) -> OnceSaid {
        let Some(claim) = self.of(key, at) else {
            return OnceSaid::Unknown;
        };
        match act {
            OnceAct::Check { hash, .. } => OnceSaid::Known {
                conflict: is_other(claim.hash.as_ref(), hash.as_ref()),
                entry: Box::new(claim.clone()),
            },
            OnceAct::Read => OnceSaid::Read(Some(Box::new(claim.clone()))),
            OnceAct::Payload => OnceSaid::Payload(None),
            OnceAct::Renew { lease, lease_secs } => {
                let until = later(at, *lease_secs);
                let pending = |claim: &&mut OnceEntry| claim.status == OnceStatus::Pending;
                let Some(claim) = self.of_holder(key, lease).filter(pending) else {
                    return OnceSaid::LeaseLost;
                };
                claim.lease_until = until.min(claim.expires_at);
                OnceSaid::Done(Box::new(claim.clone()))
            }
            // By another holder, or about something else than a claim.
            _ => OnceSaid::LeaseLost,
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
