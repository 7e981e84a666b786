//! API keys: who may call, as the records of each tenant's ledger say.
//!
//! The table in memory is the fold of `identity.event` records in ledger order, made at the start and
//! carried on with each change. A change is durable before it counts, with one exception: what takes a secret
//! its worth counts before it is written, so that a key that has leaked can be shut out also when nothing can be
//! written. Only SHA-256 of a key is known; the key itself is given out once.
//!
//! In scope: making, changing, listing and checking keys. Out of scope: what a role may do (server).
//!
//! Start at [`Ledger::key_create`] and [`ApiKeys::check`].

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use evidence::record::{Facts, IdentityEvent, IdentityEventType, Role};
use evidence::{ActorType, Kind, Origin, SourceDomain, Timestamp};
use store::{FacetQuery, LeafKey, Store, StoreError};
use subtle::ConstantTimeEq;

use crate::records::RecordError;
use crate::{Bind, BodyTooLarge, Draft, INSTANCE, Ledger, Rejection, Salts, SubmitError, Tenant};

/// Before every key.
const PREFIX: &str = "dpn_";

/// Characters of a key's id: 36^12 are 62 bits, so that two never meet.
const ID_CHARS: usize = 12;

/// Characters of a key's secret: 36^52 are 268 bits; SPEC asks for 256.
const SECRET_CHARS: usize = 52;

/// Longest key that is looked at: ours have 69 characters.
const KEY_BYTES_MAX: usize = 128;

/// Most keys of a tenant that are not revoked: one a workload, and an order of magnitude more.
pub const KEYS_LIVE_MAX: usize = 1_000;

/// Most keys that a tenant makes and rotates within a day: all that it may have, twice. Each change is folded at every
/// start, in 20 µs. Revoking is always possible.
pub const KEY_CHANGES_A_DAY_MAX: usize = 2 * KEYS_LIVE_MAX;

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// Longest name of a key, bytes: a line for people.
pub const KEY_NAME_BYTES_MAX: usize = 100;

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
            (IdentityEventType::RoleChanged, Some(key)) => {
                if let Some(role) = event.role {
                    Arc::make_mut(key).role = role;
                }
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
        table.unreadable || !table.by_id.is_empty()
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

/// The facets of the records that make and change keys; sign-ins are not among them.
const CHANGES: [IdentityEventType; 4] = [
    IdentityEventType::KeyCreated,
    IdentityEventType::KeyRotated,
    IdentityEventType::KeyRevoked,
    IdentityEventType::RoleChanged,
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

/// So many random characters of a-z and 0-9, each as likely as the others.
///
/// # Panics
/// When the operating system has no randomness to give.
#[allow(clippy::expect_used)]
fn random_chars(count: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut text = String::with_capacity(count);
    let mut bytes = [0; 64];
    while text.len() < count {
        getrandom::fill(&mut bytes).expect("the operating system gives randomness");
        // 252 is the largest multiple of 36 in a byte.
        let fair = bytes.iter().filter(|&&byte| byte < 252);
        let missing = count - text.len();
        text.extend(
            fair.take(missing)
                .map(|byte| char::from(ALPHABET[usize::from(byte % 36)])),
        );
    }
    text
}

/// Who changes a key, and in which request.
#[derive(Clone, Debug)]
pub struct Changer {
    /// The principal.
    pub principal: Arc<str>,
    /// Whether a person: his name must not stand in a header.
    pub human: bool,
    /// The request, if it was one.
    pub request_id: Option<Arc<str>>,
}

impl Changer {
    /// Whoever may open the data folder.
    pub fn local() -> Self {
        Self {
            principal: "local".into(),
            human: false,
            request_id: None,
        }
    }
}

/// A key that is asked for.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Whose.
    pub tenant_id: String,
    /// What it may do.
    pub role: Role,
    /// For people.
    pub name: Option<String>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A key, and its text, which is never known again.
#[derive(Clone)]
pub struct GivenKey {
    /// Without its secret.
    pub key: Arc<ApiKey>,
    /// `dpn_<id>_<secret>`
    pub text: String,
    /// The record.
    pub receipt: crate::Receipt,
}

impl std::fmt::Debug for GivenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GivenKey")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// Why a key was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No such tenant.
    #[error("there is no such tenant")]
    TenantUnknown,
    /// No such key.
    #[error("there is no such key")]
    KeyUnknown,
    /// The field breaks a rule.
    #[error("{0}: {1}")]
    Invalid(&'static str, &'static str),
    /// A revoked key stays revoked.
    #[error("the key is revoked")]
    Revoked,
    /// The tenant has as many as it may.
    #[error("the tenant has {KEYS_LIVE_MAX} live keys; revoke some")]
    TooMany,
    /// The tenant has made and rotated as many as it may within a day.
    #[error(
        "the tenant has made and rotated {KEY_CHANGES_A_DAY_MAX} keys within a day; wait, or only revoke"
    )]
    TooOften {
        /// Until it may again.
        wait_micros: i64,
    },
    /// What takes a secret its worth is in force, and could not be written.
    #[error(
        "{0}; the key lets nobody in from now on, but only until the next start, because no record says so: ask again"
    )]
    NotRecorded(Box<KeyError>),
    /// Nothing was written.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The record was refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The record is too large, which its limits forbid.
    #[error(transparent)]
    Body(#[from] BodyTooLarge),
}

impl Ledger {
    /// The keys of all tenants.
    pub fn api_keys(&self) -> &ApiKeys {
        &self.inner.api_keys
    }

    /// The keys of a tenant, oldest first, as they were when its ledger had that size. Blocks.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn api_keys_as_of(&self, tenant: &Tenant, size: u64) -> Result<Vec<Arc<ApiKey>>, LoadError> {
        let as_of = LeafKey::new(tenant.ledger().row.ledger_no, size);
        let mut table = Table::default();
        for (event, at) in changes(self.store(), tenant.tenant_no, Some(as_of))? {
            table.apply(&tenant.tenant_id, &event, at);
        }
        Ok(table.list(None))
    }

    /// Makes a key. Blocks until its record is durable.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn key_create(&self, new: &NewKey, by: &Changer, at: Timestamp) -> Result<GivenKey, KeyError> {
        let tenant = self.tenant(&new.tenant_id).ok_or(KeyError::TenantUnknown)?;
        if (&*tenant.tenant_id == INSTANCE) != (new.role == Role::Operator) {
            return Err(KeyError::Invalid(
                "role",
                "operator is the one role of tenant _instance, and of no other",
            ));
        }
        if new.name.as_ref().is_some_and(|name| {
            name.is_empty() || name.len() > KEY_NAME_BYTES_MAX || name.chars().any(char::is_control)
        }) {
            return Err(KeyError::Invalid(
                "name",
                "must be 1 to 100 bytes without control characters",
            ));
        }
        if new.expires_at.is_some_and(|expires_at| expires_at <= at) {
            return Err(KeyError::Invalid("expires_at", "must be in the future"));
        }
        let keys = self.api_keys();
        let changing = keys.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let live = keys
            .list(Some(&new.tenant_id))
            .iter()
            .filter(|key| key.ended(at).is_none())
            .count();
        if live >= KEYS_LIVE_MAX {
            return Err(KeyError::TooMany);
        }
        self.key_change_allowed(&tenant, at)?;
        let key_id = random_chars(ID_CHARS);
        let text = format!("{PREFIX}{key_id}_{}", random_chars(SECRET_CHARS));
        let event = IdentityEvent {
            role: Some(new.role),
            key_hash: Some(evidence::sha256(text.as_bytes())),
            name: new.name.clone(),
            expires_at: new.expires_at,
            ..IdentityEvent::new(IdentityEventType::KeyCreated, &key_id, &*by.principal)
        };
        let receipt = self.identity_write(&tenant, event, by, at)?;
        drop(changing);
        let key = keys.find(&key_id).ok_or(KeyError::KeyUnknown)?;
        Ok(GivenKey { key, text, receipt })
    }

    /// Gives a key another secret; the old one is worth nothing from now on. Blocks.
    ///
    /// # Errors
    /// See [`KeyError`]. `tenant_id` limits whose key it may be. When nothing can be written, the old secret is worth
    /// nothing until the next start; when the ledger was only busy, it is worth what it was.
    pub fn key_rotate(
        &self,
        tenant_id: Option<&str>,
        key_id: &str,
        by: &Changer,
        at: Timestamp,
    ) -> Result<GivenKey, KeyError> {
        let keys = self.api_keys();
        let changing = keys.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, tenant) = self.key_of(tenant_id, key_id)?;
        if key.revoked_at.is_some() {
            return Err(KeyError::Revoked);
        }
        self.key_change_allowed(&tenant, at)?;
        let text = format!("{PREFIX}{key_id}_{}", random_chars(SECRET_CHARS));
        let event = IdentityEvent {
            key_hash: Some(evidence::sha256(text.as_bytes())),
            ..IdentityEvent::new(IdentityEventType::KeyRotated, key_id, &*by.principal)
        };
        let first = keys.write().held.insert(Arc::clone(&key.key_id));
        let written = self.identity_write(&tenant, event, by, at);
        if let Err(KeyError::Submit(SubmitError::Busy { .. }) | KeyError::Rejected(_) | KeyError::Body(_)) =
            written
            && first
        {
            // Nothing was written, and the caller may need this very key to ask again.
            keys.write().held.remove(key_id);
        }
        let receipt = written.map_err(|error| keys.not_recorded(key_id, error))?;
        drop(changing);
        let key = keys.find(key_id).ok_or(KeyError::KeyUnknown)?;
        Ok(GivenKey { key, text, receipt })
    }

    /// Makes a key worth nothing, for ever. Again: nothing happens. Blocks.
    ///
    /// # Errors
    /// See [`KeyError`]. `tenant_id` limits whose key it may be. The key lets nobody in whatever the error; what is not
    /// on record holds until the next start ([`KeyError::NotRecorded`]).
    pub fn key_revoke(
        &self,
        tenant_id: Option<&str>,
        key_id: &str,
        by: &Changer,
        at: Timestamp,
    ) -> Result<Arc<ApiKey>, KeyError> {
        let keys = self.api_keys();
        let (key, _) = self.key_of(tenant_id, key_id)?;
        if key.revoked_at.is_some() {
            return Ok(key);
        }
        // Before the lock, too: another change may wait in it for a ledger that takes nothing.
        keys.write().held.insert(Arc::clone(&key.key_id));
        let changing = keys.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, tenant) = self.key_of(tenant_id, key_id)?;
        if key.revoked_at.is_some() {
            return Ok(key);
        }
        keys.write().held.insert(Arc::clone(&key.key_id));
        let event = IdentityEvent::new(IdentityEventType::KeyRevoked, key_id, &*by.principal);
        self.identity_write(&tenant, event, by, at)
            .map_err(|error| keys.not_recorded(key_id, error))?;
        drop(changing);
        keys.find(key_id).ok_or(KeyError::KeyUnknown)
    }

    fn key_change_allowed(&self, tenant: &Tenant, at: Timestamp) -> Result<(), KeyError> {
        match self.api_keys().read().must_wait(&tenant.tenant_id, at) {
            Some(wait_micros) => Err(KeyError::TooOften { wait_micros }),
            None => Ok(()),
        }
    }

    /// A key, unless it is another tenant's: that is as absent as one that does not exist.
    fn key_of(&self, tenant_id: Option<&str>, key_id: &str) -> Result<(Arc<ApiKey>, Arc<Tenant>), KeyError> {
        let key = self
            .api_keys()
            .find(key_id)
            .filter(|key| tenant_id.is_none_or(|tenant_id| *key.tenant_id == *tenant_id))
            .ok_or(KeyError::KeyUnknown)?;
        let tenant = self.tenant(&key.tenant_id).ok_or(KeyError::TenantUnknown)?;
        Ok((key, tenant))
    }

    /// Durable first, then known. A commit of unknown outcome is an error: the next start folds what is there.
    fn identity_write(
        &self,
        tenant: &Arc<Tenant>,
        mut event: IdentityEvent,
        by: &Changer,
        at: Timestamp,
    ) -> Result<crate::Receipt, KeyError> {
        event.request_id = by.request_id.as_deref().map(ToOwned::to_owned);
        let actor = if by.human {
            (ActorType::Human, None)
        } else {
            (ActorType::System, Some(Arc::clone(&by.principal)))
        };
        let draft = Draft::of_no_run(
            Facts::Identity(event.clone()),
            (Kind::IdentityEvent, &event.encode()),
            actor,
            at,
            &mut tenant.salts(),
        )?;
        let placed = self
            .submit_blocking(tenant, vec![draft], at, false)?
            .into_iter()
            .next()
            .ok_or(SubmitError::Closing)??;
        self.api_keys().write().apply(&tenant.tenant_id, &event, at);
        Ok(placed.receipt)
    }
}

impl Draft {
    /// A draft of what the service itself notes about who calls, in the audit ledger's name.
    ///
    /// # Errors
    /// The body is longer than a record may be.
    pub fn of_no_run(
        facts: Facts,
        (kind, body): (Kind, &[u8]),
        actor: (ActorType, Option<Arc<str>>),
        occurred_at: Timestamp,
        salts: &mut Salts,
    ) -> Result<Self, BodyTooLarge> {
        Ok(Self {
            kind,
            bind: Bind::None,
            identity: None,
            content: None,
            trace_id: None,
            correlation_id: None,
            actor,
            occurred_at,
            source_domain: SourceDomain::Logs,
            source_component: "access",
            origin: Origin::System,
            body: salts.seal(kind, body)?,
            facts,
            expect_run_seq: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_characters_are_those_of_the_alphabet_and_never_the_same() {
        let (one, other) = (random_chars(SECRET_CHARS), random_chars(SECRET_CHARS));
        assert_ne!(one, other);
        assert_eq!(one.len(), SECRET_CHARS);
        assert!(
            one.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        );
        assert!(36_f64.powi(52).log2() >= 256.0);
    }

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
