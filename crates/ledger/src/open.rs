//! Opening a data folder: lock, keys, marks, the check of every head, the sequencer.
//!
//! At start only heads, right edges, marks and last checkpoints are checked, so
//! that it takes the same few milliseconds on a ledger of any size.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use evidence::Timestamp;
use store::sqlite::{Access, SqliteStore};
use store::{Head, LedgerRow, Store, StoreError};
use tlog::{Checkpoint, TreeSize};

use crate::counters::Counters;
use crate::epochs::{Epochs, head_of};
use crate::files::named;
use crate::high_water::{HighWater, Mark};
use crate::keys::KeyFolder;
use crate::queue::Queue;
use crate::sequencer::{Sequencer, last_recorded_at};
use crate::tenant::{INSTANCE, LedgerInfo, Refusal, Tenant, Tenants, origin_of};
use crate::tree::{StoredTree, TreeError, unless_damaged};
use crate::{Inner, Ledger, PlannedThere, RetentionSettings};

/// How to run a ledger.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where database, keys, marks and lock lie.
    pub data_dir: PathBuf,
    /// `ledger.origin`.
    pub origin: String,
    /// `runs.seal_after`, microseconds.
    pub seal_after_micros: i64,
    /// `runs.abandon_after`, microseconds.
    pub abandon_after_micros: i64,
    /// `retention.minimum_days`, microseconds: no body goes before it is this old.
    pub minimum_retention_micros: i64,
    /// How long bodies are kept before they are archived.
    pub retention: RetentionSettings,
    /// From how large a run that keeps changing bodies are erased.
    pub planned_there: PlannedThere,
}

impl Options {
    /// The defaults of SPEC in a data folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            origin: "deponent.local".into(),
            seal_after_micros: 30 * 1_000_000,
            abandon_after_micros: 24 * 3_600 * 1_000_000,
            minimum_retention_micros: 0,
            retention: RetentionSettings::default(),
            planned_there: PlannedThere::default(),
        }
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.data_dir.join("deponent.db")
    }

    /// The high-water file.
    pub fn high_water(&self) -> PathBuf {
        self.data_dir.join("high-water.json")
    }

    /// The archives.
    pub fn archive(&self) -> PathBuf {
        self.data_dir.join("archive")
    }

    /// The keys.
    pub fn keys(&self) -> PathBuf {
        self.data_dir.join("keys")
    }

    /// The lock.
    pub fn lock(&self) -> PathBuf {
        self.data_dir.join("lock")
    }

    /// Whether a process has the folder, as far as its lock tells.
    pub fn is_served(&self) -> bool {
        let held = |lock: File| matches!(lock.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock));
        File::open(self.lock()).is_ok_and(held)
    }
}

/// Why a data folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process serves it.
    #[error("{0} is in use by another process; end that one, or name another folder with --data-dir")]
    Locked(String),
    /// A file or folder cannot be used. Its message is that of its source, and said once.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ledger {
    /// Opens a data folder for writing, making it when absent. `at` is now.
    ///
    /// # Errors
    /// See [`OpenError`]. A ledger that was rolled back is no error: it opens and is refused for writing.
    pub fn open(options: Options, at: Timestamp) -> Result<Self, OpenError> {
        // Keys and evidence: nobody else's to read.
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&options.data_dir)
            .map_err(|error| named(&options.data_dir, &error))?;
        let lock = lock(&options)?;
        let store = SqliteStore::open(&options.database(), Access::ReadWrite)?;
        let migrated = store.migrated();
        let ledger = Self::open_with(options, Arc::new(store), Some(lock), at)?;
        if let Some(versions) = migrated {
            // Set once, here: nobody else has the ledger yet.
            let _ = ledger.inner.migrated.set(versions);
        }
        Ok(ledger)
    }

    /// Opens over a given store: for tests that make it fail.
    pub fn open_with(
        options: Options,
        store: Arc<dyn Store>,
        lock: Option<File>,
        at: Timestamp,
    ) -> Result<Self, OpenError> {
        let keys = KeyFolder::open(&options.keys())?;
        let mut high_water = HighWater::open(&options.high_water())?;
        let instance = LedgerRow {
            ledger_no: 0,
            tenant_no: 0,
            tenant_id: INSTANCE.into(),
            epoch: 0,
            origin: origin_of(&options.origin, INSTANCE, 0),
            vkey: String::new(),
        };
        if store.ledgers_list()?.is_empty() {
            create_ledger(store.as_ref(), &keys, &mut high_water, instance)?;
        }
        let erased_key = crate::erased_key::ErasedKey::open(&options.keys());
        let inner = Arc::new(Inner {
            options,
            store,
            keys,
            erased_key,
            tenants: Tenants::default(),
            api_keys: crate::ApiKeys::default(),
            queue: Queue::default(),
            ahead: Mutex::default(),
            counters: Counters::default(),
            jobs: crate::jobs::Jobs::default(),
            names: crate::names::Names::default(),
            lately: crate::lately::Lately::default(),
            migrated: OnceLock::new(),
            stopped: RwLock::new(None),
            closing: AtomicBool::new(false),
            retention: Mutex::default(),
            running: crate::own::Running::default(),
            archives: Mutex::default(),
            settings: Mutex::new(()),
            sealing: Mutex::default(),
            unsettled: Mutex::default(),
            thread: Mutex::new(None),
            _lock: lock,
        });
        let mut sequencer = Sequencer::new(Arc::clone(&inner), high_water);
        take_up_tenants(&inner, &mut sequencer)?;
        load_api_keys(&inner);
        inner.api_keys.note_mark(inner.options.keys().join("keyed"));
        crate::tenant::record_missing(&mut sequencer, at);
        let thread = std::thread::Builder::new()
            .name("sequencer".into())
            .spawn(move || sequencer.run())?;
        *inner
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(thread);
        let ledger = Self { inner };
        for tenant in ledger.tenants() {
            if let Err(error) = ledger.take_up_rules(&tenant) {
                tracing::error!(tenant_id = %tenant.tenant_id, %error, "refused for writing: its redaction cannot be read");
                let refusal = Refusal::Damaged(format!("redaction: {error}"));
                tenant.ledger().refuse(refusal);
            }
        }
        Ok(ledger)
    }
}

/// How long the lock is waited for: a process that is going down, or a program that one is just starting, holds it a
/// moment longer than its ledger is open, and one that was killed while its disk was busy some seconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Takes the folder's lock, which is held while the file is open. Blocks for up to five seconds.
///
/// # Errors
/// Another process has it still, or the file cannot be used.
pub fn lock(options: &Options) -> Result<File, OpenError> {
    let path = options.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .open(&path)
        .map_err(|error| named(&path, &error))?;
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) if began.elapsed() < LOCK_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(OpenError::Locked(options.data_dir.display().to_string()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(named(&path, &error).into()),
        }
    }
}

/// Key, mark, row, in this order: a crash in between leaves what the next attempt takes up or sets aside,
/// and never a ledger without key or mark. A key without a mark may have signed a ledger that is gone with its mark:
/// no other tree is ever signed with it.
pub(crate) fn create_ledger(
    store: &dyn Store,
    keys: &KeyFolder,
    high_water: &mut HighWater,
    mut row: LedgerRow,
) -> Result<LedgerRow, OpenError> {
    let is_marked = high_water.get(&row.origin).is_some();
    if !is_marked {
        keys.set_aside(&row.tenant_id, row.epoch)?;
    }
    let signer = keys.read_or_create(&row.tenant_id, row.epoch, &row.origin)?;
    row.vkey = signer.verifier().to_string();
    if !is_marked {
        let mark = Mark {
            size: TreeSize::new(0),
            root: tlog::empty_root(),
        };
        high_water.raise(&[(row.origin.clone(), mark)])?;
    }
    store.ledger_create(&row)?;
    Ok(row)
}

fn take_up_tenants(inner: &Arc<Inner>, sequencer: &mut Sequencer) -> Result<(), OpenError> {
    let mut rows = inner.store.ledgers_list()?;
    rows.sort_by_key(|row| (row.tenant_no, row.epoch));
    for epochs in rows.chunk_by(|a, b| a.tenant_no == b.tenant_no) {
        let infos: Vec<Arc<LedgerInfo>> = epochs
            .iter()
            .map(|row| Arc::new(LedgerInfo::new(row.clone(), None)))
            .collect();
        let Some(last) = infos.last().cloned() else {
            continue;
        };
        let tenant = Arc::new(Tenant::new(last.row.tenant_no, &last.row.tenant_id, infos));
        take_up_newest(inner, sequencer, &tenant, epochs)?;
        inner.tenants.insert(tenant);
    }
    Ok(())
}

/// Takes up the newest of a tenant's ledgers for writing, or refuses it: that is no error.
///
/// # Errors
/// The store cannot answer now: then it is not known which.
pub(crate) fn take_up_newest(
    inner: &Arc<Inner>,
    sequencer: &mut Sequencer,
    tenant: &Tenant,
    epochs: &[LedgerRow],
) -> Result<(), StoreError> {
    let store = inner.store.as_ref();
    let last = tenant.ledger();
    if let Some(refusal) = take_up(inner, sequencer, tenant, &last)? {
        refuse(&last, refusal);
    } else if last.row.epoch > 0 && store.head_read(last.row.ledger_no)?.size.as_u64() == 0 {
        // A crash came between the epoch and its declaration, which must be the first leaf.
        last.refuse(crate::recover::undeclared());
    }
    let said = Epochs::read(store, epochs)?;
    if let Some(why) = said.changed(store, epochs, sequencer.high_water(), &inner.keys)? {
        let refusal = Refusal::RolledBack(why);
        refuse(&last, refusal);
    }
    judge_ended(store, tenant, &said)
}

/// A new epoch cannot be taken back, and a file of wrong mode needs none: so mending is named first.
fn refuse(ledger: &LedgerInfo, refusal: Refusal) {
    tracing::error!(
        origin = ledger.row.origin,
        %refusal,
        "ledger refused for writing; if that cannot be mended, `deponent ledger recover` begins the next epoch"
    );
    ledger.refuse(refusal);
}

/// Nothing is written to those before the newest; who reads one is told whether it is as it ended.
pub(crate) fn judge_ended(store: &dyn Store, tenant: &Tenant, said: &Epochs) -> Result<(), StoreError> {
    for ledger in tenant.epochs() {
        let Some(ended) = said.ended(&ledger.row.origin) else {
            continue;
        };
        let head = head_of(store, ledger.row.ledger_no)?;
        if let Some(why) = ended.differs(head) {
            ledger.refuse(Refusal::RolledBack(why));
        } else {
            ledger.accept();
            recall_newest(store, &ledger, head)?;
        }
    }
    Ok(())
}

/// Of an epoch that is as it ended: when its newest leaf was recorded, which [`Tenant::now`] does not go back behind. One
/// that cannot be read keeps nobody from writing to the next: verification says what is wrong with it.
fn recall_newest(store: &dyn Store, ledger: &LedgerInfo, head: Head) -> Result<(), StoreError> {
    let ledger_no = ledger.row.ledger_no;
    let is_whole = unless_damaged(StoredTree::new(store, ledger_no).frontier(head.size))?
        .is_some_and(|frontier| frontier.root() == head.root);
    match unless_damaged(last_recorded_at(store, ledger_no, head))? {
        Some(newest) if is_whole => ledger.recorded(newest),
        _ => tracing::warn!(
            origin = ledger.row.origin,
            "the last leaves of an older epoch are damaged: times begin by the clock"
        ),
    }
    Ok(())
}

/// Folds the keys of every tenant. A tenant whose identity records cannot be read has no keys at all: what is missing may
/// be a revocation. One whose ledger was rolled back has those that are left, as its readers are to be told.
fn load_api_keys(inner: &Inner) {
    for tenant in inner.tenants.all() {
        let loaded = inner
            .api_keys
            .load(inner.store.as_ref(), tenant.tenant_no, &tenant.tenant_id);
        if let Err(error) = loaded {
            tracing::error!(tenant_id = %tenant.tenant_id, %error, "the tenant's API keys are not accepted");
        }
    }
}

/// Takes up one ledger for writing, if its head, mark, key and last checkpoint agree; gives why they do not.
///
/// # Errors
/// The store cannot answer now.
pub(crate) fn take_up(
    inner: &Arc<Inner>,
    sequencer: &mut Sequencer,
    tenant: &Tenant,
    ledger: &Arc<LedgerInfo>,
) -> Result<Option<Refusal>, StoreError> {
    try_take_up(inner, sequencer, tenant, ledger).or_else(|error| Refusal::of(error).map(Some))
}

fn try_take_up(
    inner: &Arc<Inner>,
    sequencer: &mut Sequencer,
    tenant: &Tenant,
    ledger: &Arc<LedgerInfo>,
) -> Result<Option<Refusal>, TreeError> {
    let row = &ledger.row;
    let store = inner.store.as_ref();
    let damaged = |why: String| Ok(Some(Refusal::Damaged(why)));
    let head = store.head_read(row.ledger_no)?;
    let mark = sequencer.high_water().get(&row.origin);
    let behind = behind_mark(store, row, head, mark)?;
    if behind.is_some() {
        return Ok(behind);
    }
    let signer = match inner.keys.read(&row.tenant_id, row.epoch, &row.origin) {
        Ok(Some(signer)) => signer,
        Ok(None) => return damaged("the ledger's key file is missing".into()),
        Err(error) => return damaged(error.to_string()),
    };
    if signer.verifier().to_string() != row.vkey {
        return damaged("the key file is not the key that the ledger was made with".into());
    }
    if let Some(last) = store.checkpoint_newest(row.ledger_no)? {
        let keys = [signer.verifier().clone()];
        let opened = match Checkpoint::open(last.note.as_bytes(), &keys, &row.origin) {
            Ok(opened) => opened,
            Err(error) => return damaged(error.to_string()),
        };
        let size = opened.checkpoint.size();
        if size > head.size {
            let detail = format!(
                "the ledger has {} leaves, a checkpoint over {size} is stored",
                head.size
            );
            return Ok(Some(Refusal::RolledBack(detail)));
        }
        let root = StoredTree::new(store, row.ledger_no).root(size, head.size)?;
        if root != opened.checkpoint.root() {
            return damaged(format!(
                "the last checkpoint, over {size} leaves, has another root"
            ));
        }
    }
    sequencer.add(tenant, Arc::clone(ledger), signer)
}

/// Why a ledger is behind, or beside, its mark.
///
/// # Errors
/// The store cannot answer now.
pub(crate) fn behind_mark(
    store: &dyn Store,
    row: &LedgerRow,
    head: Head,
    mark: Option<Mark>,
) -> Result<Option<Refusal>, StoreError> {
    let Some(mark) = mark else {
        return Ok((head.size.as_u64() != 0).then(|| {
            Refusal::RolledBack("the high-water mark is missing beside a ledger that has leaves".into())
        }));
    };
    if head.size < mark.size {
        let detail = format!("the ledger has {} leaves, {} were signed", head.size, mark.size);
        return Ok(Some(Refusal::RolledBack(detail)));
    }
    if mark.size.as_u64() == 0 {
        return Ok(None);
    }
    match StoredTree::new(store, row.ledger_no).root(mark.size, head.size) {
        Ok(root) if root == mark.root => Ok(None),
        Ok(_) => Ok(Some(Refusal::RolledBack(format!(
            "another root was signed at {} leaves",
            mark.size
        )))),
        Err(error) => Refusal::of(error).map(Some),
    }
}
