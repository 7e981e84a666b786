//! Tenants and their ledgers as a running service knows them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use store::LedgerRow;

/// The tenant of the instance's own ledger.
pub const INSTANCE: &str = "_instance";

/// Longest tenant name: with the origin it must fit a checkpoint's first line of 255 bytes.
pub const TENANT_BYTES_MAX: usize = 63;

/// Longest `ledger.origin`: origin, tenant, epoch and slashes stay within 255 bytes.
pub(crate) const ORIGIN_BYTES_MAX: usize = 180;

/// Whether a name may be a tenant's: `[a-z0-9][a-z0-9._-]*`, at most 63 bytes. It becomes part of an origin,
/// a path and a file name.
pub fn is_tenant_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    !bytes.is_empty()
        && bytes.len() <= TENANT_BYTES_MAX
        && word(bytes[0])
        && bytes.iter().all(|&byte| word(byte) || matches!(byte, b'.' | b'_' | b'-'))
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
    if epoch == 0 { format!("{base}/{tenant_id}") } else { format!("{base}/{tenant_id}/{epoch}") }
}

/// A tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its number in stores.
    pub tenant_no: u32,
    /// Its name.
    pub tenant_id: Arc<str>,
    /// Its ledgers, by epoch; the last is written to.
    ledgers: RwLock<Vec<Arc<LedgerInfo>>>,
}

/// A ledger and whether it may be written to.
#[derive(Debug)]
pub struct LedgerInfo {
    /// As stored.
    pub row: LedgerRow,
    /// Why it is refused; `None`: it is in order.
    refused: RwLock<Option<Refusal>>,
}

/// Why a ledger is refused for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The database is behind, or beside, what was signed before.
    RolledBack(String),
    /// The stored tree does not add up, or its key is not there.
    Damaged(String),
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
        Self { row, refused: RwLock::new(refused) }
    }

    /// Why the ledger is refused, if it is.
    pub fn refusal(&self) -> Option<Refusal> {
        self.refused.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn refuse(&self, refusal: Refusal) {
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }
}

impl Tenant {
    pub(crate) fn new(tenant_no: u32, tenant_id: &str, ledgers: Vec<Arc<LedgerInfo>>) -> Self {
        Self { tenant_no, tenant_id: tenant_id.into(), ledgers: RwLock::new(ledgers) }
    }

    /// The ledger that is written to.
    ///
    /// # Panics
    /// Never: a tenant is made with its first ledger.
    #[allow(clippy::expect_used)]
    pub fn ledger(&self) -> Arc<LedgerInfo> {
        let ledgers = self.ledgers.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(ledgers.last().expect("a tenant has a ledger"))
    }

    /// Every ledger of the tenant, by epoch.
    pub fn epochs(&self) -> Vec<Arc<LedgerInfo>> {
        self.ledgers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn push_epoch(&self, ledger: Arc<LedgerInfo>) {
        self.ledgers.write().unwrap_or_else(PoisonError::into_inner).push(ledger);
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
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(tenant_id).cloned()
    }

    /// Every tenant, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Tenant>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(crate) fn insert(&self, tenant: Arc<Tenant>) {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(&tenant.tenant_id), tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_names_are_safe_as_path_and_origin() {
        for good in ["default", "a", "acme-2", "a.b_c"] {
            assert!(is_tenant_name(good), "{good}");
        }
        for bad in ["", "_instance", "A", "a/b", "..", ".a", "a b", "a+b", "ä", &"a".repeat(64)] {
            assert!(!is_tenant_name(bad), "{bad}");
        }
        assert!(is_origin("deponent.local") && is_origin("log.example/x") && !is_origin("a b") && !is_origin("a+b"));
    }
}
