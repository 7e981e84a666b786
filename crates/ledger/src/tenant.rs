//! Tenants and their ledgers as a running service knows them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use evidence::Timestamp;
use evidence::record::{Facts, TenantCreated};
use evidence::redact::Redactor;
use evidence::{ActorType, Kind, Origin, SourceDomain};
use store::{LedgerRow, RunKey, StoreError};

use crate::erase::Turns;
use crate::open::{self, OpenError};
use crate::sequencer::Sequencer;
use crate::tree::TreeError;
use crate::{Bind, Draft, Salts, SealedBody, SubmitError, TenantError};

/// The tenant of the instance's own ledger.
pub const INSTANCE: &str = "_instance";

/// Longest tenant name: with the origin it must fit a checkpoint's first line of 255 bytes.
pub const TENANT_BYTES_MAX: usize = 63;

/// Longest `ledger.origin`: origin, tenant, epoch and slashes stay within 255 bytes.
pub(crate) const ORIGIN_BYTES_MAX: usize = 180;

/// What is said of a tenant that is not there, wherever it is asked for.
pub fn no_tenant(tenant_id: &str) -> String {
    format!("there is no tenant {tenant_id}")
}

/// Whether a name may be a tenant's: `[a-z0-9][a-z0-9._-]*`, at most 63 bytes. It becomes part of an origin,
/// a path and a file name.
pub fn is_tenant_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= TENANT_BYTES_MAX
        && word(bytes[0])
        && bytes
            .iter()
            .all(|&byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether a text may be the base of origins: printable ASCII without space, `+` and control characters.
pub fn is_origin(origin: &str) -> bool {
    !origin.is_empty()
        && origin.len() <= ORIGIN_BYTES_MAX
        && !origin.starts_with('/')
        && !origin.ends_with('/')
        && origin.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+')
}

/// The origin of an epoch: `<base>/<tenant>`, then `<base>/<tenant>/<epoch>`.
pub fn origin_of(base: &str, tenant_id: &str, epoch: u32) -> String {
    if epoch == 0 {
        format!("{base}/{tenant_id}")
    } else {
        format!("{base}/{tenant_id}/{epoch}")
    }
}

/// A tenant, as a request or the service itself sees it.
#[derive(Debug)]
pub struct Tenant {
    shared: Arc<Shared>,
    /// What is written through it names this request.
    request_id: Option<Arc<str>>,
}

impl std::ops::Deref for Tenant {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

/// What is the same of a tenant for all who see it.
#[derive(Debug)]
pub struct Shared {
    /// Its number in stores.
    pub tenant_no: u32,
    /// Its name.
    pub tenant_id: Arc<str>,
    /// Its ledgers, by epoch; the last is written to.
    ledgers: RwLock<Vec<Arc<LedgerInfo>>>,
    rules: RwLock<Arc<Redactor>>,
    erasures: Mutex<ErasedRuns>,
    /// Of its erasures, which are done one after the other.
    pub(crate) turns: Turns,
}

/// Runs that lost bodies and are remembered, newest last: 8 KiB a tenant. A pass of ends or seals reads some hundred
/// runs in about a second, and no disk takes a thousand erasures in that time; one that is slower is made anew.
const ERASURES_REMEMBERED: usize = 1_024;

/// From which runs bodies were erased since the process began.
#[derive(Debug, Default)]
struct ErasedRuns {
    count: u64,
    runs: VecDeque<RunKey>,
}

impl ErasedRuns {
    fn note(&mut self, run: RunKey) {
        self.count += 1;
        if self.runs.len() == ERASURES_REMEMBERED {
            self.runs.pop_front();
        }
        self.runs.push_back(run);
    }

    fn since(&self, seen: u64, run: RunKey) -> bool {
        let newer = usize::try_from(self.count.saturating_sub(seen)).unwrap_or(usize::MAX);
        // What is not remembered may have been of this run.
        newer > self.runs.len() || self.runs.iter().rev().take(newer).any(|of| *of == run)
    }
}

/// A ledger and whether it may be written to.
#[derive(Debug)]
pub struct LedgerInfo {
    /// As stored.
    pub row: LedgerRow,
    /// Why it is refused; `None`: it is in order.
    refused: RwLock<Option<Refusal>>,
    /// Whether it is: looked at with every answer, for which the lock is too dear.
    is_refused: AtomicBool,
    /// Microseconds; see [`LedgerInfo::newest`].
    newest: AtomicI64,
}

/// Why a ledger is refused for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The database is behind, or beside, what was signed before.
    RolledBack(String),
    /// The stored tree does not add up, or its key is not there.
    Damaged(String),
}

impl Refusal {
    /// What an error on the way through a ledger says of it.
    ///
    /// # Errors
    /// The store cannot answer now, which says nothing of it: a ledger that is called damaged is recovered, and no epoch can
    /// be taken back.
    pub(crate) fn of(error: TreeError) -> Result<Self, StoreError> {
        let said = error.to_string();
        match error.into_store() {
            StoreError::Damaged { .. } => Ok(Self::Damaged(said)),
            other => Err(other),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RolledBack(detail) => write!(f, "rollback detected: {detail}"),
            Self::Damaged(detail) => write!(f, "ledger damaged: {detail}"),
        }
    }
}

impl LedgerInfo {
    pub(crate) fn new(row: LedgerRow, refused: Option<Refusal>) -> Self {
        Self {
            row,
            is_refused: AtomicBool::new(refused.is_some()),
            refused: RwLock::new(refused),
            newest: AtomicI64::new(Timestamp::MIN.as_micros()),
        }
    }

    /// When the newest leaf was recorded, or is about to be; before all times without leaves. No leaf is recorded
    /// before it.
    pub(crate) fn newest(&self) -> Timestamp {
        Timestamp::from_micros(self.newest.load(Ordering::Acquire)).unwrap_or(Timestamp::MIN)
    }

    /// On the sequencer's thread, before the commit: who sees a leaf sees its time.
    pub(crate) fn recorded(&self, at: Timestamp) {
        self.newest.fetch_max(at.as_micros(), Ordering::AcqRel);
    }

    /// Why the ledger is refused, if it is.
    pub fn refusal(&self) -> Option<Refusal> {
        if !self.is_refused.load(Ordering::Acquire) {
            return None;
        }
        self.refused
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn accept(&self) {
        self.set_refused(None);
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        self.set_refused(Some(refusal));
    }

    /// Both under the lock, so that they never disagree for longer than that is held.
    fn set_refused(&self, refusal: Option<Refusal>) {
        let mut refused = self.refused.write().unwrap_or_else(PoisonError::into_inner);
        self.is_refused.store(refusal.is_some(), Ordering::Release);
        *refused = refusal;
    }
}

impl Tenant {
    pub(crate) fn new(tenant_no: u32, tenant_id: &str, ledgers: Vec<Arc<LedgerInfo>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                tenant_no,
                tenant_id: tenant_id.into(),
                ledgers: RwLock::new(ledgers),
                rules: RwLock::new(Arc::clone(Redactor::standard())),
                erasures: Mutex::default(),
                turns: Turns::default(),
            }),
            request_id: None,
        }
    }

    /// The tenant as a request sees it: bodies sealed with its [`Tenant::salts`] have the member `request_id`, where
    /// their kind has room for it (`may_name_request`).
    #[must_use]
    pub fn of_request(&self, request_id: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(&self.shared),
            request_id: Some(request_id),
        })
    }

    /// What its bodies are sealed with.
    pub fn salts(&self) -> Salts {
        Salts::of_request(self.rules(), self.request_id.clone())
    }

    /// The same with the built-in rules of redaction alone: for what a tenant's own pattern must not change.
    pub fn built_in_salts(&self) -> Salts {
        Salts::of_request(Arc::clone(Redactor::standard()), self.request_id.clone())
    }
}

impl Shared {
    /// The ledger that is written to.
    ///
    /// # Panics
    /// Never: a tenant is made with its first ledger.
    #[allow(clippy::expect_used)]
    pub fn ledger(&self) -> Arc<LedgerInfo> {
        let ledgers = self.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(ledgers.last().expect("a tenant has a ledger"))
    }

    /// Why the ledger that is written to is refused, if it is. Cheap where it is not: asked with every answer.
    pub fn refusal(&self) -> Option<Refusal> {
        let ledgers = self.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        ledgers.last().and_then(|ledger| ledger.refusal())
    }

    /// What time it is for what the server itself says of when something was: `at`, which the clock showed, but never
    /// before the newest record, of the epochs before too, as a job goes on in the next. What is recorded later is then
    /// not earlier either, also when the clock steps back, so that a job's start, a signal that was given during it, its
    /// end and its window can be compared. For evidence only: what somebody waits for, as a lease, goes by the clock, or
    /// it would never end.
    #[must_use]
    pub fn now(&self, at: Timestamp) -> Timestamp {
        let ledgers = self.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        ledgers
            .iter()
            .map(|ledger| ledger.newest())
            .fold(at, Timestamp::max)
    }

    /// Its rules of redaction.
    pub fn rules(&self) -> Arc<Redactor> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_rules(&self, rules: Arc<Redactor>) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// Commits of this process that erased bodies of its runs. What is made of a run's bodies remembers how many there
    /// were before it read the first, and asks [`Tenant::erased_since`] as it is written.
    pub fn erasures(&self) -> u64 {
        self.erasures.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Whether a run may have lost a body since there were so many.
    pub(crate) fn erased_since(&self, seen: u64, run: RunKey) -> bool {
        let erasures = self.erasures.lock().unwrap_or_else(PoisonError::into_inner);
        erasures.since(seen, run)
    }

    /// On the sequencer's thread, after such a commit: whoever read a body of the run before it counts one less.
    pub(crate) fn erased(&self, run: RunKey) {
        let mut erasures = self.erasures.lock().unwrap_or_else(PoisonError::into_inner);
        erasures.note(run);
    }

    /// Every ledger of the tenant, by epoch.
    pub fn epochs(&self) -> Vec<Arc<LedgerInfo>> {
        self.ledgers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn push_epoch(&self, ledger: Arc<LedgerInfo>) {
        self.ledgers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(ledger);
    }
}

/// The tenants of a running service, by name.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    by_name: RwLock<BTreeMap<Arc<str>, Arc<Tenant>>>,
}

impl Tenants {
    /// A tenant by name.
    pub(crate) fn find(&self, tenant_id: &str) -> Option<Arc<Tenant>> {
        self.by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(tenant_id)
            .cloned()
    }

    /// Every tenant, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.by_name
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    pub(crate) fn insert(&self, tenant: Arc<Tenant>) {
        self.by_name
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(Arc::clone(&tenant.tenant_id), tenant);
    }
}

/// On the sequencer's thread, so that whoever asks at the same time finds it whole: key, mark, row, record.
///
/// A crash in between leaves what the next attempt, or the next start ([`record_missing`]), takes up.
pub(crate) fn create(
    sequencer: &mut Sequencer,
    tenant_id: &str,
    at: Timestamp,
) -> Result<Arc<Tenant>, TenantError> {
    let inner = Arc::clone(sequencer.inner());
    let tenant = if let Some(tenant) = inner.tenants.find(tenant_id) {
        tenant
    } else {
        let rows = inner.store.ledgers_list().map_err(OpenError::from)?;
        // One whose row is there and that nobody knows yet was left by an attempt that was told of no success.
        let there = rows
            .iter()
            .find(|row| row.tenant_id == tenant_id && row.epoch == 0);
        let next = |number: fn(&LedgerRow) -> u32| match there {
            Some(row) => number(row),
            None => rows.iter().map(number).max().map_or(0, |n| n + 1),
        };
        let row = LedgerRow {
            ledger_no: next(|row| row.ledger_no),
            tenant_no: next(|row| row.tenant_no),
            tenant_id: tenant_id.to_owned(),
            epoch: 0,
            origin: origin_of(&inner.options.origin, tenant_id, 0),
            vkey: String::new(),
        };
        let row = open::create_ledger(inner.store.as_ref(), &inner.keys, sequencer.high_water(), row);
        let row = row.inspect_err(|error| {
            if inner.store.is_stopped() {
                inner.stop(error.to_string());
            }
        })?;
        let ledger = Arc::new(LedgerInfo::new(row.clone(), None));
        let tenant = Arc::new(Tenant::new(row.tenant_no, tenant_id, vec![ledger]));
        // One that a database made anew does not know, and the marks do, is there and refused, as at the next start.
        open::take_up_newest(&inner, sequencer, &tenant, &[row]).map_err(OpenError::from)?;
        tenant
    };
    if let Err(error) = record(sequencer, &tenant, at) {
        let instance = inner.tenants.find(INSTANCE);
        if instance.is_none_or(|instance| instance.refusal().is_none()) {
            return Err(error);
        }
        // The record is made up for when the instance's ledger is recovered; until then readers are to be told.
        if tenant.refusal().is_none() {
            // It would take leaves older than its record.
            return Err(error);
        }
        tracing::error!(%tenant_id, %error, "the tenant cannot be recorded yet");
        inner.tenants.insert(Arc::clone(&tenant));
        return Ok(tenant);
    }
    // Known to others only now, so that no leaf of a tenant is older than the record that made it.
    inner.tenants.insert(Arc::clone(&tenant));
    Ok(tenant)
}

/// Records every tenant whose record a crash took.
pub(crate) fn record_missing(sequencer: &mut Sequencer, at: Timestamp) {
    for tenant in sequencer.inner().tenants.all() {
        if let Err(error) = record(sequencer, &tenant, at) {
            tracing::error!(tenant_id = %tenant.tenant_id, %error, "cannot record a tenant that a crash left unrecorded");
        }
    }
}

/// Writes the record of a tenant, unless it is there.
fn record(sequencer: &mut Sequencer, tenant: &Tenant, at: Timestamp) -> Result<(), TenantError> {
    let inner = Arc::clone(sequencer.inner());
    let recorded = inner.store.tenants_list().map_err(OpenError::from)?;
    if &*tenant.tenant_id == INSTANCE || recorded.iter().any(|row| *row.tenant_id == *tenant.tenant_id) {
        return Ok(());
    }
    let instance = inner.tenants.find(INSTANCE).ok_or(TenantError::Name)?;
    let created = TenantCreated {
        tenant_id: tenant.tenant_id.to_string(),
        tenant_no: tenant.tenant_no,
    };
    let kind = Kind::SystemRecord;
    let body = SealedBody::seal(kind, Salts::default().next_salt(), &created.to_record().encode())
        .map_err(|_| TenantError::Name)?;
    let draft = Draft {
        kind,
        bind: Bind::None,
        identity: None,
        content: None,
        trace_id: None,
        correlation_id: None,
        actor: (ActorType::System, None),
        occurred_at: at,
        source_domain: SourceDomain::System,
        source_component: evidence::record::TENANT_COMPONENT,
        origin: Origin::System,
        body,
        facts: Facts::TenantCreated(created),
        expect_run_seq: None,
    };
    match sequencer
        .submit_now(&instance, draft, at)
        .map_err(TenantError::Submit)?
    {
        Ok(_) => Ok(()),
        Err(rejection) => Err(TenantError::Submit(SubmitError::Refused(rejection.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_erasure_is_of_its_run_alone_and_what_is_forgotten_may_be_of_any() {
        let run = |ordinal| RunKey::new(1, ordinal);
        let mut erasures = ErasedRuns::default();
        assert!(!erasures.since(0, run(1)));
        erasures.note(run(1));
        erasures.note(run(2));
        let seen = |seen| [1, 2, 3].map(|ordinal| erasures.since(seen, run(ordinal)));
        assert_eq!(seen(0), [true, true, false]);
        assert_eq!(seen(1), [false, true, false]);
        assert_eq!(seen(2), [false, false, false]);
        for _ in 0..ERASURES_REMEMBERED {
            erasures.note(run(4));
        }
        assert_eq!(erasures.runs.len(), ERASURES_REMEMBERED);
        assert!(erasures.since(1, run(3)), "the second is forgotten");
        assert!(!erasures.since(2, run(3)));
    }

    #[test]
    fn tenant_names_are_safe_as_path_and_origin() {
        for good in ["default", "a", "acme-2", "a.b_c"] {
            assert!(is_tenant_name(good), "{good}");
        }
        for bad in [
            "",
            "_instance",
            "A",
            "a/b",
            "..",
            ".a",
            "a b",
            "a+b",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(!is_tenant_name(bad), "{bad}");
        }
        assert!(
            is_origin("deponent.local")
                && is_origin("log.example/x")
                && !is_origin("a b")
                && !is_origin("a+b")
        );
    }
}
