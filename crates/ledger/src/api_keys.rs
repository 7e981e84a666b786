//! API keys: who may call, as the records of each tenant's ledger say.
//!
//! The table in memory is the fold of `identity.event` records in ledger order, made at the start and
//! carried on with each change. A change is durable before it counts, with one exception: what takes a secret
//! its worth counts before it is written, so that a key that has leaked can be shut out also when nothing can be
//! written. Only SHA-256 of a key is known; the key itself is given out once.
//!
//! In scope: making, changing, listing and checking keys. Out of scope: what a role may do (server).
//!
//! Start at [`crate::Ledger::key_create`] and [`ApiKeys::check`].

mod change;

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use evidence::Timestamp;
use evidence::record::{IdentityEvent, IdentityEventType, Role};
use store::{FacetQuery, LeafKey, Store, StoreError};
use subtle::ConstantTimeEq;

use crate::records::RecordError;

pub use change::{Changer, GivenKey, KEY_NAME_BYTES_MAX, KeyError, NewKey};

/// Before every key.
const PREFIX: &str = "dpn_";

/// Longest key that is looked at: ours have 69 characters.
const KEY_BYTES_MAX: usize = 128;

/// Most keys of a tenant that are not revoked: one a workload, and an order of magnitude more.
pub const KEYS_LIVE_MAX: usize = 1_000;

/// Most keys that a tenant makes and rotates within a day: all that it may have, twice. Each change is folded at every
/// start, in 20 µs. Revoking is always possible.
pub const KEY_CHANGES_A_DAY_MAX: usize = 2 * KEYS_LIVE_MAX;

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// Records of keys read at once.
const PAGE: u32 = 500;

/// A key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Stands in the key and names it.
    pub key_id: Arc<str>,
    /// Whose it is.
    pub tenant_id: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// For people.
    pub name: Option<String>,
    /// When it came to be.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it got its present secret, if not at first.
    pub rotated_at: Option<Timestamp>,
    /// Since when it is worth nothing.
    pub revoked_at: Option<Timestamp>,
    /// SHA-256 of the whole key.
    hash: [u8; 32],
}

impl ApiKey {
    /// The name under which it acts.
    pub fn principal(&self) -> String {
        format!("key:{}", self.key_id)
    }

    /// Whether it lets nobody in any more at that time, and why.
    pub fn ended(&self, at: Timestamp) -> Option<&'static str> {
        if self.revoked_at.is_some() {
            return Some("revoked");
        }
        self.expires_at
            .is_some_and(|expires_at| expires_at <= at)
            .then_some("expired")
    }
}

/// Why a text lets nobody in.
#[derive(Clone, Debug)]
pub struct KeyRefused {
    /// One word, for records; callers are told nothing.
    pub reason: &'static str,
    /// The key that was meant, if there is one of that id.
    pub key: Option<Arc<ApiKey>>,
}

/// Every key of every tenant, by id.
#[derive(Debug, Default)]
pub struct ApiKeys {
    table: RwLock<Table>,
    /// Held from before a change is written until the table knows it, so that the table has the ledger's order.
    changing: Mutex<()>,
    mark: KeyedMark,
}

/// Says outside of the database that a key was ever made: a database that was set back to before the first one must not
/// open the server to whoever reaches it.
#[derive(Debug, Default)]
struct KeyedMark {
    /// `<data-dir>/keys/keyed`; empty file.
    path: OnceLock<PathBuf>,
    is_there: AtomicBool,
}

impl KeyedMark {
    /// Makes the file, if it is not there; it is on disk when this returns.
    fn put(&self) -> io::Result<()> {
        let Some(path) = self.path.get().filter(|_| !self.is_there.load(Ordering::Acquire)) else {
            return Ok(());
        };
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        self.is_there.store(true, Ordering::Release);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Table {
    by_id: HashMap<Arc<str>, Arc<ApiKey>>,
    /// When the newest keys were made and rotated, [`KEY_CHANGES_A_DAY_MAX`] of them, by tenant.
    changes: HashMap<Arc<str>, VecDeque<Timestamp>>,
    /// Keys that let nobody in although no record says so: writing it has not ended, or has failed.
    held: HashSet<Arc<str>>,
    /// Keys of some tenant could not be read: there may be some.
    unreadable: bool,
}

impl Table {
    /// One record more. What does not fit what came before it changes nothing.
    fn apply(&mut self, tenant_id: &Arc<str>, event: &IdentityEvent, at: Timestamp) {
        let known = self
            .by_id
            .get_mut(event.subject_id.as_str())
            .filter(|key| key.tenant_id == *tenant_id);
        match (event.event_type, known) {
            (IdentityEventType::KeyCreated, None) => {
                let (Some(hash), Some(role)) = (event.key_hash, event.role) else {
                    return;
                };
                // An id of another tenant's key is taken: ids are random, so this is no accident.
                if self.by_id.contains_key(event.subject_id.as_str()) {
                    return;
                }
                let key = ApiKey {
                    key_id: event.subject_id.as_str().into(),
                    tenant_id: Arc::clone(tenant_id),
                    role,
                    name: event.name.clone(),
                    created_at: at,
                    expires_at: event.expires_at,
                    rotated_at: None,
                    revoked_at: None,
                    hash,
                };
                self.by_id.insert(Arc::clone(&key.key_id), Arc::new(key));
            }
            (IdentityEventType::KeyRotated, Some(key)) => {
                if let Some(hash) = event.key_hash {
                    let key = Arc::make_mut(key);
                    (key.hash, key.rotated_at) = (hash, Some(at));
                }
            }
            (IdentityEventType::KeyRevoked, Some(key)) => {
                Arc::make_mut(key).revoked_at.get_or_insert(at);
            }
            _ => return,
        }
        // From here on the record says what the key is worth.
        self.held.remove(event.subject_id.as_str());
        if matches!(
            event.event_type,
            IdentityEventType::KeyCreated | IdentityEventType::KeyRotated
        ) {
            let changes = self.changes.entry(Arc::clone(tenant_id)).or_default();
            if changes.len() == KEY_CHANGES_A_DAY_MAX {
                changes.pop_front();
            }
            changes.push_back(at);
        }
    }

    fn list(&self, tenant_id: Option<&str>) -> Vec<Arc<ApiKey>> {
        let mut keys: Vec<_> = self
            .by_id
            .values()
            .filter(|key| tenant_id.is_none_or(|tenant_id| *key.tenant_id == *tenant_id))
            .cloned()
            .collect();
        keys.sort_by(|a, b| (a.created_at, &a.key_id).cmp(&(b.created_at, &b.key_id)));
        keys
    }

    /// Whether the tenant has made and rotated so many keys that it has to wait, and how long.
    fn must_wait(&self, tenant_id: &str, at: Timestamp) -> Option<i64> {
        let changes = self.changes.get(tenant_id)?;
        let oldest = changes
            .front()
            .filter(|_| changes.len() == KEY_CHANGES_A_DAY_MAX)?;
        let left = DAY_MICROS - at.as_micros().saturating_sub(oldest.as_micros());
        (left > 0).then_some(left)
    }
}

impl ApiKeys {
    /// Folds the records of one tenant into the table. Read whole before any is applied: a later record may
    /// revoke what an earlier one made.
    pub(crate) fn load(
        &self,
        store: &dyn Store,
        tenant_no: u32,
        tenant_id: &Arc<str>,
    ) -> Result<(), LoadError> {
        let read = changes(store, tenant_no, None);
        let mut table = self.write();
        match read {
            Ok(changes) => {
                for (event, at) in &changes {
                    table.apply(tenant_id, event, *at);
                }
                Ok(())
            }
            Err(error) => {
                table.unreadable = true;
                Err(error)
            }
        }
    }

    /// Whether any key was ever made: from then on nobody is let in without one.
    pub fn any(&self) -> bool {
        let table = self.read();
        table.unreadable || !table.by_id.is_empty() || self.mark.is_there.load(Ordering::Acquire)
    }

    /// Takes note of the folder's mark; makes it where records say that there are keys and an earlier version made none.
    pub(crate) fn note_mark(&self, path: PathBuf) {
        // What cannot be looked at may be there.
        let is_there = path.try_exists().unwrap_or(true);
        self.mark.is_there.store(is_there, Ordering::Release);
        let has_keys = !self.read().by_id.is_empty();
        let shown = path.display().to_string();
        // Set once, at the start.
        let _ = self.mark.path.set(path);
        if has_keys && let Err(error) = self.mark.put() {
            tracing::warn!(%error, path = shown, "that there are keys could not be noted; the next start tries again");
        }
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of that text, if it lets in at that time.
    ///
    /// # Errors
    /// [`KeyRefused`]: no such key, another secret, revoked, expired.
    pub fn check(&self, text: &str, at: Timestamp) -> Result<Arc<ApiKey>, KeyRefused> {
        let refused = |reason, key| Err(KeyRefused { reason, key });
        let Some(id) = id_of(text) else {
            return refused("malformed", None);
        };
        let (key, held) = {
            let table = self.read();
            (table.by_id.get(id).cloned(), table.held.contains(id))
        };
        let hash = evidence::sha256(text.as_bytes());
        let Some(key) = key else {
            return refused("unknown", None);
        };
        if !bool::from(hash.ct_eq(&key.hash)) {
            return refused("wrong_secret", Some(key));
        }
        match key.ended(at).or(held.then_some("revoked")) {
            Some(reason) => refused(reason, Some(key)),
            None => Ok(key),
        }
    }

    /// Whether a key that let somebody in still would: it has the same secret, is not revoked and has not expired.
    pub fn lets_in(&self, key: &ApiKey, at: Timestamp) -> bool {
        let table = self.read();
        let now = table.by_id.get(&key.key_id);
        !table.held.contains(&key.key_id)
            && now.is_some_and(|now| now.hash == key.hash && now.ended(at).is_none())
    }

    /// Why something is not on record that holds all the same, if it does.
    fn not_recorded(&self, key_id: &str, error: KeyError) -> KeyError {
        if self.read().held.contains(key_id) {
            KeyError::NotRecorded(Box::new(error))
        } else {
            error
        }
    }

    /// A key by its id.
    pub fn find(&self, key_id: &str) -> Option<Arc<ApiKey>> {
        self.read().by_id.get(key_id).cloned()
    }

    /// The keys of a tenant, or of all, oldest first.
    pub fn list(&self, tenant_id: Option<&str>) -> Vec<Arc<ApiKey>> {
        self.read().list(tenant_id)
    }
}

/// Why keys cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of a key cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A record of a key has no body, or not one of its kind: a revocation may be what is missing.
    #[error("the identity record at leaf {leaf} cannot be read: {reason}")]
    Body {
        /// Its index.
        leaf: u64,
        /// What is wrong.
        reason: String,
    },
}

/// The facets of the records that make and change keys. Principals that sign in are not among them: a key has its role
/// for good.
const CHANGES: [IdentityEventType; 3] = [
    IdentityEventType::KeyCreated,
    IdentityEventType::KeyRotated,
    IdentityEventType::KeyRevoked,
];

/// The identity records of a tenant that change keys, in ledger order.
fn changes(
    store: &dyn Store,
    tenant_no: u32,
    as_of: Option<LeafKey>,
) -> Result<Vec<(IdentityEvent, Timestamp)>, LoadError> {
    let mut leaves: Vec<LeafKey> = Vec::new();
    for event_type in CHANGES {
        let mut query = FacetQuery {
            facets: vec![evidence::facet::facet("identity.event_type", event_type.as_str())],
            as_of,
            limit: PAGE,
            newest_first: true,
            ..FacetQuery::default()
        };
        loop {
            let page = store.facet_find(tenant_no, &query)?;
            leaves.extend(page.leaves);
            if !page.has_more {
                break;
            }
            (query.below, query.offset) = (page.next, page.offset);
        }
    }
    leaves.sort_unstable();
    let mut found = Vec::with_capacity(leaves.len());
    for page in leaves.chunks(PAGE as usize) {
        for record in crate::records::read(store, page)? {
            let unreadable = |reason: String| LoadError::Body {
                leaf: record.leaf.leaf_index(),
                reason,
            };
            let at = record.header()?.recorded_at;
            let body = record
                .body
                .bytes()
                .ok_or_else(|| unreadable("it is erased".into()))?;
            let event = IdentityEvent::read(body).map_err(|error| unreadable(error.to_string()))?;
            found.push((event, at));
        }
    }
    Ok(found)
}

/// Folds the keys of all tenants out of a store: for commands that only look.
///
/// # Errors
/// See [`LoadError`].
pub fn read_keys(store: &dyn Store) -> Result<ApiKeys, LoadError> {
    let keys = ApiKeys::default();
    let mut rows = store.ledgers_list()?;
    rows.sort_by_key(|row| row.tenant_no);
    rows.dedup_by_key(|row| row.tenant_no);
    for row in rows {
        keys.load(store, row.tenant_no, &row.tenant_id.as_str().into())?;
    }
    Ok(keys)
}

/// The id in a key's text: `dpn_<id>_<secret>`, both of a-z and 0-9.
fn id_of(text: &str) -> Option<&str> {
    if text.len() > KEY_BYTES_MAX {
        return None;
    }
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (plain(id) && plain(secret)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_key_has_an_id() {
        assert_eq!(id_of("dpn_abc1_secret2"), Some("abc1"));
        for bad in [
            "",
            "dpn_",
            "dpn__",
            "dpn_a_",
            "dpn__b",
            "dpn_a",
            "dpn_A_b",
            "dpn_a_b_c",
            "dpn_a_b ",
            "DPN_a_b",
            "xdpn_a_b",
            &format!("dpn_a_{}", "b".repeat(200)),
        ] {
            assert_eq!(id_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_record_that_does_not_fit_changes_nothing() {
        let at = Timestamp::UNIX_EPOCH;
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut table = Table::default();
        let created = IdentityEvent {
            role: Some(Role::Reader),
            key_hash: Some([1; 32]),
            ..IdentityEvent::new(IdentityEventType::KeyCreated, "k", "local")
        };
        let revoked = IdentityEvent::new(IdentityEventType::KeyRevoked, "k", "local");
        table.apply(&a, &revoked, at);
        assert!(table.by_id.is_empty(), "a key that was never made");
        table.apply(&a, &created, at);
        // Another tenant's records reach neither the key nor its id.
        table.apply(&b, &revoked, at);
        table.apply(
            &b,
            &IdentityEvent {
                role: Some(Role::Admin),
                ..created.clone()
            },
            at,
        );
        let key = &table.by_id["k"];
        assert_eq!(
            (key.role, key.revoked_at, &*key.tenant_id),
            (Role::Reader, None, "a")
        );
        table.apply(&a, &revoked, at);
        table.apply(&a, &created, at);
        assert_eq!(
            table.by_id["k"].revoked_at,
            Some(at),
            "a revoked key does not come back"
        );
    }
}
