//! The jobs in use, each with its lock; folded from records when it is not held.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evidence::facet::facet;
use evidence::job::{JobState, Progress, ProgressUpdate};
use evidence::record::{GovernanceContract, JobEvent};
use evidence::{Kind, Timestamp};
use store::{FacetQuery, LeafKey};
use tokio::sync::{OwnedMutexGuard, watch};

use super::JobError;
use super::contracts::{found_as, unreadable};
use crate::{Ledger, RecordError, Tenant, records};

/// Most jobs held: 20,000 of 1.5 KiB are what ten seconds of the fastest benchmark touch.
const SLOTS_MAX: usize = 20_000;

/// Most bytes of all jobs held, about: with the queue and the caches the server stays below 256 MiB.
const SLOTS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Most requests that wait for one job: each holds what it was sent. More are told to come again.
const WAITERS_MAX: usize = 64;

/// Slots looked at for one to let go, each time: those in use or watched stay.
const TRIM_LOOKS: usize = 16;

/// Records read at once while a job is folded: with bodies of at most 1 MiB and mostly below 64 KiB.
const FOLD_RECORDS: u32 = 256;

/// Erased records looked at at once for the one that explains a gap.
const ERASED_READ: u32 = 8;

/// Most bytes of contracts held: a scope of 10,000 entries is near 1 MiB.
const CONTRACTS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Jobs that say more are judged a few at a time: an audit holds it ten times over.
const LARGE_BYTES: usize = 512 * 1024;

type Key = (u32, Arc<str>);

/// A job in use, with its lock. Each clone is somebody who holds it or waits for it.
type Slot = Arc<tokio::sync::Mutex<Held>>;

/// What a slot holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// `None`: not folded, or there is no such job.
    pub(super) state: Option<JobState>,
    /// What is shown of its progress beyond what is on record.
    beyond: Option<Progress>,
    /// Who looks at its progress.
    watch: Option<watch::Sender<Progress>>,
    /// Bytes that the sum counts for it.
    counted: usize,
}

#[derive(Debug, Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    /// Jobs that are held, the longest first.
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Contracts {
    by_key: HashMap<Key, Arc<GovernanceContract>>,
    bytes: usize,
}

/// The jobs and contracts in use.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    slots: Mutex<Slots>,
    contracts: Mutex<Contracts>,
    /// Contracts of one id are written one after the other: the same id twice is one record.
    contract_writing: [Arc<tokio::sync::Mutex<()>>; CONTRACT_LOCKS],
}

/// Contracts that are written at once: each waits for its commit on a thread of its own.
const CONTRACT_LOCKS: usize = 8;

/// While it lives nobody else writes a contract of the same id.
#[derive(Debug)]
pub struct ContractGuard(#[allow(dead_code)] OwnedMutexGuard<()>); // held, not looked at

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Jobs {
    fn slot(&self, key: &Key) -> Result<Slot, JobError> {
        let mut slots = lock(&self.slots);
        let slot = slots.by_key.entry(key.clone()).or_default();
        if Arc::strong_count(slot) > WAITERS_MAX {
            return Err(JobError::Busy);
        }
        Ok(Arc::clone(slot))
    }

    /// Counts what a job holds now, and lets go of it when that is nothing. Slots are taken under the same lock,
    /// so that a job never has two.
    fn give_back(&self, key: &Key, mut held: OwnedMutexGuard<Held>) {
        let mut slots = lock(&self.slots);
        // Ours and the map's: nobody else waits for it.
        let alone = Arc::strong_count(OwnedMutexGuard::mutex(&held)) == 2;
        let bytes = match &held.state {
            Some(state) => Some(state.bytes),
            // Somebody looks at it: after a commit without answer the job is folded again, and he sees it go on.
            None if held.is_watched() => Some(size_of::<Held>()),
            None => None,
        };
        match bytes {
            Some(bytes) => {
                if held.counted == 0 {
                    slots.order.push_back(key.clone());
                }
                slots.bytes = slots.bytes + bytes - held.counted;
                held.counted = bytes;
            }
            None if alone => {
                slots.bytes -= held.counted;
                slots.by_key.remove(key);
            }
            None => {}
        }
        drop(held);
        slots.trim();
    }

    /// Lets go of every contract, and of every job that nobody holds: what is stored says what they are. Who looks on goes
    /// on looking.
    pub(crate) fn forget(&self) {
        *lock(&self.contracts) = Contracts::default();
        let mut slots = lock(&self.slots);
        let slots = &mut *slots;
        let mut freed = 0;
        slots.by_key.retain(|_, slot| {
            // Who waits for a slot has it: a job never has two.
            let alone = Arc::strong_count(slot) == 1;
            let Ok(mut held) = slot.try_lock() else {
                return true;
            };
            (held.state, held.beyond) = (None, None);
            freed += held.counted;
            held.counted = 0;
            !alone || held.is_watched()
        });
        slots.bytes -= freed;
        slots.order.retain(|key| slots.by_key.contains_key(key));
    }

    fn contract_writing(&self, tenant: &Tenant, contract_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let hash = evidence::sha256(contract_id.as_bytes());
        let place = usize::from(hash[0]) + usize::try_from(tenant.tenant_no).unwrap_or(0);
        Arc::clone(&self.contract_writing[place % CONTRACT_LOCKS])
    }

    pub(super) fn contract(&self, key: &Key) -> Option<Arc<GovernanceContract>> {
        lock(&self.contracts).by_key.get(key).cloned()
    }

    pub(super) fn contract_keep(&self, key: Key, contract: &Arc<GovernanceContract>) {
        let bytes = contract.scope.iter().map(|entry| entry.len() + 24).sum::<usize>() + 1024;
        let mut contracts = lock(&self.contracts);
        if contracts.bytes + bytes > CONTRACTS_BYTES_MAX {
            *contracts = Contracts::default();
        }
        if bytes <= CONTRACTS_BYTES_MAX && contracts.by_key.insert(key, Arc::clone(contract)).is_none() {
            contracts.bytes += bytes;
        }
    }
}

impl Slots {
    fn trim(&mut self) {
        for _ in 0..TRIM_LOOKS {
            if self.by_key.len() <= SLOTS_MAX && self.bytes <= SLOTS_BYTES_MAX {
                return;
            }
            let Some(key) = self.order.pop_front() else { return };
            let Some(slot) = self.by_key.get(&key) else {
                continue;
            };
            let alone = Arc::strong_count(slot) == 1;
            let counted = match slot.try_lock() {
                Ok(held) if alone && !held.is_watched() => held.counted,
                _ => {
                    self.order.push_back(key);
                    continue;
                }
            };
            self.bytes -= counted;
            self.by_key.remove(&key);
        }
    }
}

impl Held {
    fn is_watched(&self) -> bool {
        self.watch
            .as_ref()
            .is_some_and(|sender| sender.receiver_count() > 0)
    }

    /// Shows the progress to who looks at it. Nobody is waited for: a slow one sees the newest.
    pub(super) fn show(&mut self) {
        self.beyond = None;
        let (Some(sender), Some(state)) = (&self.watch, &self.state) else {
            return;
        };
        sender.send_replace(state.progress.clone());
        if state.stage().is_terminal() || sender.receiver_count() == 0 {
            // The last thing to see is shown; then the channel ends.
            self.watch = None;
        }
    }

    /// Shows progress that is not on record.
    fn show_beyond(&mut self, update: &ProgressUpdate, at: Timestamp) {
        let Some(state) = &self.state else { return };
        let mut progress = self.beyond.take().unwrap_or_else(|| state.progress.clone());
        if progress.update(update, at).is_err() {
            return;
        }
        if let Some(sender) = &self.watch {
            sender.send_replace(progress.clone());
        }
        self.beyond = Some(progress);
    }

    /// The progress as it is shown.
    pub(super) fn shown(&self) -> Option<&Progress> {
        let state = self.state.as_ref()?;
        Some(self.beyond.as_ref().unwrap_or(&state.progress))
    }

    pub(super) fn subscribe(&mut self) -> Option<ProgressWatch> {
        let progress = self.shown()?.clone();
        let state = self.state.as_ref()?;
        let sender = self.watch.get_or_insert_with(|| watch::channel(progress).0);
        let receiver = sender.subscribe();
        if state.stage().is_terminal() {
            self.watch = None;
        }
        Some(ProgressWatch {
            receiver,
            first: true,
        })
    }
}

/// A look at the progress of a job, as it changes.
#[derive(Debug)]
pub struct ProgressWatch {
    receiver: watch::Receiver<Progress>,
    first: bool,
}

impl ProgressWatch {
    /// The progress now, then each time it has changed; `None` after the job has ended. Changes that come
    /// faster than they are looked at are one.
    pub async fn next(&mut self) -> Option<Progress> {
        if self.first {
            self.first = false;
        } else if self.receiver.changed().await.is_err() {
            return None;
        }
        Some(self.receiver.borrow_and_update().clone())
    }
}

/// A job that nobody else does anything with until it is dropped.
#[derive(Debug)]
pub struct JobGuard {
    pub(super) ledger: Ledger,
    pub(super) tenant: Arc<Tenant>,
    pub(super) key: Key,
    /// `None` only while it is dropped.
    held: Option<OwnedMutexGuard<Held>>,
}

impl Drop for JobGuard {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.ledger.inner.jobs.give_back(&self.key, held);
        }
    }
}

impl JobGuard {
    fn new(ledger: &Ledger, tenant: &Arc<Tenant>, key: Key, held: OwnedMutexGuard<Held>) -> Self {
        Self {
            ledger: ledger.clone(),
            tenant: Arc::clone(tenant),
            key,
            held: Some(held),
        }
    }

    pub(super) fn held(&mut self) -> Option<&mut Held> {
        self.held.as_deref_mut()
    }

    /// The job as it is now; `None`: there is none.
    pub(super) fn state(&self) -> Option<&JobState> {
        self.held.as_ref()?.state.as_ref()
    }

    /// Folds the job from its records unless it is held already. Blocks.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn load(&mut self) -> Result<(), JobError> {
        if self.state().is_none() {
            let state = self.ledger.job_fold(&self.tenant, &self.key.1, false)?;
            if let Some(held) = self.held() {
                held.state = state;
                // Who looked on over a commit without answer sees what came of it.
                held.show();
            }
        }
        Ok(())
    }

    /// Its progress as it is shown.
    pub(super) fn shown(&self) -> Option<&Progress> {
        self.held.as_ref()?.shown()
    }

    /// What the job runs; `None`: there is none.
    pub fn handler(&self) -> Option<&str> {
        self.state().map(|state| state.handler.as_str())
    }

    /// Whether judging the job takes memory that few may take at once.
    pub fn is_large(&self) -> bool {
        self.state().is_some_and(|state| state.bytes > LARGE_BYTES)
    }

    /// Looks at the progress of the job, now and as it changes. A slow one never holds the job.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn subscribe(&mut self) -> Result<ProgressWatch, JobError> {
        self.held().and_then(Held::subscribe).ok_or(JobError::Unknown)
    }
}

impl Ledger {
    /// Waits until nobody else writes a contract of that id.
    pub async fn contract_lock(&self, tenant: &Tenant, contract_id: &str) -> ContractGuard {
        let writing = self.inner.jobs.contract_writing(tenant, contract_id);
        ContractGuard(writing.lock_owned().await)
    }

    /// The same from a thread that may block.
    pub(super) fn contract_guard(&self, tenant: &Tenant, contract_id: &str) -> ContractGuard {
        let writing = self.inner.jobs.contract_writing(tenant, contract_id);
        ContractGuard(writing.blocking_lock_owned())
    }

    /// Waits for a job and holds it. Who holds it must see it through: a guard that is dropped between a turn's
    /// submission and its answer would let another one in before.
    ///
    /// # Errors
    /// [`JobError::Busy`] when too many wait.
    pub async fn job_lock(&self, tenant: &Arc<Tenant>, job_id: &str) -> Result<JobGuard, JobError> {
        let key: Key = (tenant.tenant_no, job_id.into());
        let slot = self.inner.jobs.slot(&key)?;
        let held = slot.lock_owned().await;
        Ok(JobGuard::new(self, tenant, key, held))
    }

    /// The same from a thread that may block, with the job folded.
    pub(super) fn job_guard(&self, tenant: &Arc<Tenant>, job_id: &str) -> Result<JobGuard, JobError> {
        let key: Key = (tenant.tenant_no, job_id.into());
        let slot = self.inner.jobs.slot(&key)?;
        let held = slot.blocking_lock_owned();
        let mut guard = JobGuard::new(self, tenant, key, held);
        guard.load()?;
        Ok(guard)
    }

    /// Looks at the progress of a job, now and as it changes. Blocks; a slow look never holds the job.
    ///
    /// # Errors
    /// [`JobError::Unknown`].
    pub fn progress_subscribe(&self, tenant: &Arc<Tenant>, job_id: &str) -> Result<ProgressWatch, JobError> {
        self.job_guard(tenant, job_id)?.subscribe()
    }

    /// Shows how far a job is without a record of it: until the next one, and to who looks now. Blocks.
    pub(crate) fn job_show(
        &self,
        tenant: &Arc<Tenant>,
        job_id: &str,
        update: &ProgressUpdate,
        at: Timestamp,
    ) {
        // A job that cannot be read is shown to nobody.
        if let Ok(mut guard) = self.job_guard(tenant, job_id)
            && let Some(held) = guard.held()
        {
            held.show_beyond(update, at);
        }
    }

    /// A job from its records.
    pub(super) fn job_fold(
        &self,
        tenant: &Tenant,
        job_id: &str,
        with_steps: bool,
    ) -> Result<Option<JobState>, RecordError> {
        let mut state: Option<JobState> = None;
        // What an older build erased before the first event that is left stays erased.
        let mut beginning_erased = false;
        let mut query = FacetQuery {
            facets: vec![facet("job", job_id)],
            limit: FOLD_RECORDS,
            ..FacetQuery::default()
        };
        loop {
            let page = self.store().facet_find(tenant.tenant_no, &query)?;
            for record in records::read(self.store(), &page.leaves)? {
                // Verdicts and resolutions are no events; one that an older build erased says nothing any more.
                if record.header()?.kind != Kind::JobEvent {
                    continue;
                }
                let Some(body) = record.kept_body(self.store(), tenant.tenant_no)? else {
                    continue;
                };
                let (event, hash) = JobEvent::read(body).map_err(|error| unreadable(&record, &error))?;
                found_as(&record, job_id, &event.job_id)?;
                // The hash of each is the next one's to name, so an event that is in the list no more is missed.
                let tip = state.as_ref().map(|state| state.tip.as_str());
                if event.previous_event_hash.as_deref() != tip && !(state.is_none() && beginning_erased) {
                    let last = state.as_ref().map(|state| LeafKey::from_i64(state.last_place));
                    if !self.event_erased(tenant, last, record.leaf)? {
                        return Err(unreadable(
                            &record,
                            &"the event that it names as the one before is missing, and nothing says why",
                        ));
                    }
                    beginning_erased = state.is_none();
                }
                match &mut state {
                    Some(state) => state.apply(&event, &hash, record.leaf.as_i64()),
                    None => state = JobState::begin(&event, &hash, record.leaf.as_i64()),
                }
            }
            if !page.has_more {
                break;
            }
            query.below = page.next;
        }
        if let Some(state) = state
            .as_mut()
            .filter(|state| !with_steps && state.stage().is_terminal())
        {
            state.forget_steps();
        }
        Ok(state)
    }

    /// Whether an event of some job between two leaves is erased, as only older builds did. The lists of its job do not
    /// have it any more, and its header does not say whose it was: it may be the one that is missed.
    fn event_erased(
        &self,
        tenant: &Tenant,
        after: Option<LeafKey>,
        before: LeafKey,
    ) -> Result<bool, RecordError> {
        let mut query = FacetQuery {
            facets: vec![facet("kind", Kind::JobEvent.as_str()), "erased".to_owned()],
            as_of: Some(before),
            below: after,
            // The first nearly always answers.
            limit: ERASED_READ,
            ..FacetQuery::default()
        };
        loop {
            let page = self.store().facet_find(tenant.tenant_no, &query)?;
            for record in records::read(self.store(), &page.leaves)? {
                // Nobody signs that list; the erasure is in the ledger.
                let is_event = record.header()?.kind == Kind::JobEvent;
                if is_event && record.kept_body(self.store(), tenant.tenant_no)?.is_none() {
                    return Ok(true);
                }
            }
            if !page.has_more {
                return Ok(false);
            }
            query.below = page.next;
        }
    }
}

#[cfg(test)]
mod tests {
    use evidence::Timestamp;
    use evidence::canonical::Value;
    use evidence::record::{JobEvent, JobEventType};

    use super::*;

    fn state() -> JobState {
        let event = JobEvent {
            event_id: "e".into(),
            event_type: JobEventType::Created,
            job_id: "j".into(),
            tenant_id: "t".into(),
            timestamp: Timestamp::UNIX_EPOCH,
            handler: None,
            attempt_number: 1,
            duration_ms: None,
            error: None,
            payload_hash: None,
            result_hash: None,
            previous_event_hash: None,
            metadata: Value::Object(Vec::new()),
            redactions: None,
        };
        JobState::begin(&event, &event.integrity_hash(), 0).unwrap()
    }

    #[test]
    fn a_job_that_is_looked_at_keeps_its_slot_over_a_commit_without_answer() {
        let jobs = Jobs::default();
        let key: Key = (1, "j".into());
        let hold = || jobs.slot(&key).unwrap().blocking_lock_owned();
        let mut held = hold();
        held.state = Some(state());
        let watch = held.subscribe().unwrap();
        // As a commit leaves it that nothing is known of.
        held.state = None;
        jobs.give_back(&key, held);
        let held = hold();
        assert!(held.is_watched());
        jobs.give_back(&key, held);
        // Nobody looks any more: nothing is kept.
        drop(watch);
        jobs.give_back(&key, hold());
        let slots = lock(&jobs.slots);
        assert_eq!((slots.by_key.len(), slots.bytes), (0, 0));
    }
}
