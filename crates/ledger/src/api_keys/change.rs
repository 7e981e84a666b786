//! Keys made, rotated and revoked: a record first, then the table.

use std::sync::{Arc, PoisonError};

use evidence::record::{Facts, IdentityEvent, IdentityEventType, Role, is_blank};
use evidence::{ActorType, Kind, Timestamp};
use store::LeafKey;

use super::{ApiKey, ApiKeys, KEY_CHANGES_A_DAY_MAX, KEYS_LIVE_MAX, LoadError, PREFIX, Table, changes};
use crate::{BodyTooLarge, Draft, INSTANCE, Ledger, Rejection, SubmitError, Tenant, no_tenant};

/// Characters of a key's id: 36^12 are 62 bits, so that two never meet.
const ID_CHARS: usize = 12;

/// Characters of a key's secret: 36^52 are 268 bits; SPEC asks for 256.
const SECRET_CHARS: usize = 52;

/// Longest name of a key, bytes: a line for people.
pub const KEY_NAME_BYTES_MAX: usize = 100;

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
    #[error("{}", no_tenant(.0))]
    TenantUnknown(String),
    /// No such key, or one of another tenant.
    #[error("there is no key {0}")]
    KeyUnknown(String),
    /// The field breaks a rule.
    #[error("{0}: {1}")]
    Invalid(&'static str, &'static str),
    /// A revoked key stays revoked.
    #[error("the key is revoked")]
    Revoked,
    /// Another secret would be worth nothing either: when a key ends is not changed.
    #[error("the key has expired, and would let nobody in with another secret either: make a new one")]
    Expired,
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

fn unknown(key_id: &str) -> KeyError {
    KeyError::KeyUnknown(key_id.to_owned())
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
        let tenant = self
            .tenant(&new.tenant_id)
            .ok_or_else(|| KeyError::TenantUnknown(new.tenant_id.clone()))?;
        if (&*tenant.tenant_id == INSTANCE) != (new.role == Role::Operator) {
            return Err(KeyError::Invalid(
                "role",
                "operator is the one role of tenant _instance, and of no other",
            ));
        }
        if new.name.as_ref().is_some_and(|name| {
            is_blank(name) || name.len() > KEY_NAME_BYTES_MAX || name.chars().any(char::is_control)
        }) {
            return Err(KeyError::Invalid(
                "name",
                "must be 1 to 100 bytes without control characters, and something that can be seen",
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
        // Crash in between: the next start makes it, as the record is there.
        if let Err(error) = keys.mark.put() {
            tracing::error!(%error, "keys/keyed could not be written; the next start tries again");
        }
        drop(changing);
        let key = keys.find(&key_id).ok_or(KeyError::KeyUnknown(key_id))?;
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
        if key.ended(at).is_some() {
            return Err(KeyError::Expired);
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
        let key = keys.find(key_id).ok_or_else(|| unknown(key_id))?;
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
        keys.find(key_id).ok_or_else(|| unknown(key_id))
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
            .ok_or_else(|| unknown(key_id))?;
        let tenant = self
            .tenant(&key.tenant_id)
            .ok_or_else(|| KeyError::TenantUnknown(key.tenant_id.to_string()))?;
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
}
