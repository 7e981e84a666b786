//! Which bodies are gone because a record says so.
//!
//! A body goes in the commit that writes its `erasure.performed`. Those records are found by their facet, read, and
//! held against their own commitments; so a body that went otherwise has none, and is damage. The list of a tenant
//! is read when verification begins, and again whenever a body is missing that it does not name: an erasure may
//! have come meanwhile.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use evidence::record::{BODY_BYTES_MAX, ERASED_RECORDS_MAX, ErasedRecord, ErasurePerformed};
use evidence::{Header, Kind, RecordId};
use store::{FacetQuery, LeafKey, Store, StoreError, codec};

use crate::tree::StoredTree;

/// Records of erasures read at once.
const PAGE: u32 = 500;

/// The facet of the records that erase.
const ERASURES: &str = "kind=erasure.performed";

/// What the erasures of a tenant keep of what they erased, by leaf. About 100 bytes each.
pub(crate) struct Erasures<'a> {
    store: &'a dyn Store,
    tenant_no: u32,
    /// The tenant's ledgers, newest first.
    ledgers: Vec<u32>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    erased: HashMap<LeafKey, ErasedRecord>,
    /// Records of erasures read so far.
    records: u64,
    newest: Option<LeafKey>,
}

impl<'a> Erasures<'a> {
    /// Reads those of a tenant.
    pub(crate) fn load(store: &'a dyn Store, tenant_no: u32) -> Result<Self, StoreError> {
        let erasures = Self::unread(store, tenant_no)?;
        erasures.reload()?;
        Ok(erasures)
    }

    /// The same without the projections, which may be what is wrong: from every leaf of the tenant.
    pub(crate) fn scan(store: &'a dyn Store, tenant_no: u32) -> Result<Self, StoreError> {
        let erasures = Self::unread(store, tenant_no)?;
        let mut leaves = Vec::new();
        for &ledger_no in &erasures.ledgers {
            let size = store.head_read(ledger_no)?.size.as_u64();
            StoredTree::new(store, ledger_no)
                .leaves(0..size, |index, leaf| {
                    // The kind stands in every header in these words; few others hold them.
                    let may_be = leaf.windows(17).any(|window| window == b"erasure.performed");
                    if may_be && Header::decode(leaf).is_ok_and(|h| h.kind == Kind::ErasurePerformed) {
                        leaves.push(LeafKey::new(ledger_no, index));
                    }
                    Ok(())
                })
                .map_err(|error| StoreError::Damaged {
                    place: "leaf_blocks",
                    reason: error.to_string(),
                })?;
        }
        erasures.take(&leaves)?;
        Ok(erasures)
    }

    /// Reads none before one is asked for.
    pub(crate) fn unread(store: &'a dyn Store, tenant_no: u32) -> Result<Self, StoreError> {
        let mut ledgers: Vec<u32> = store
            .ledgers_list()?
            .into_iter()
            .filter(|row| row.tenant_no == tenant_no)
            .map(|row| row.ledger_no)
            .collect();
        ledgers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self {
            store,
            tenant_no,
            ledgers,
            known: RwLock::default(),
        })
    }

    /// How many records of erasures there are now.
    pub(crate) fn count(store: &dyn Store, tenant_no: u32) -> Result<u64, StoreError> {
        let query = FacetQuery {
            facets: vec![ERASURES.to_owned()],
            ..FacetQuery::default()
        };
        Ok(store.facet_count(tenant_no, &query, 0)?.0)
    }

    /// What is kept of the record at that leaf, as far as is known.
    pub(crate) fn known(&self, leaf: LeafKey) -> Option<ErasedRecord> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.erased.get(&leaf).copied()
    }

    /// The same of a record whose body is missing; looked for again when it is not known.
    pub(crate) fn find(&self, leaf: LeafKey) -> Result<Option<ErasedRecord>, StoreError> {
        if let Some(kept) = self.known(leaf) {
            return Ok(Some(kept));
        }
        let seen = self.known.read().unwrap_or_else(PoisonError::into_inner).records;
        if Self::count(self.store, self.tenant_no)? != seen {
            self.reload()?;
        }
        Ok(self.known(leaf))
    }

    /// Whether a body is there, asked anew.
    pub(crate) fn is_there(&self, leaf: LeafKey) -> bool {
        self.store.bodies_get(&[leaf]).is_ok_and(|rows| !rows.is_empty())
    }

    /// Reads the records of erasures that came since the last time.
    fn reload(&self) -> Result<(), StoreError> {
        loop {
            let below = self.known.read().unwrap_or_else(PoisonError::into_inner).newest;
            let query = FacetQuery {
                facets: vec![ERASURES.to_owned()],
                below,
                limit: PAGE,
                ..FacetQuery::default()
            };
            let page = self.store.facet_find(self.tenant_no, &query)?;
            self.take(&page.leaves)?;
            if !page.has_more {
                return Ok(());
            }
        }
    }

    fn take(&self, leaves: &[LeafKey]) -> Result<(), StoreError> {
        for &leaf in leaves {
            let erased = self.erased_by(leaf)?;
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.erased.extend(erased);
            known.records += 1;
            known.newest = known.newest.max(Some(leaf));
        }
        Ok(())
    }

    /// What one record erases. One that cannot be read, or whose body is not what its leaf commits to, erases nothing.
    fn erased_by(&self, leaf: LeafKey) -> Result<Vec<(LeafKey, ErasedRecord)>, StoreError> {
        let Some(row) = self.store.bodies_get(&[leaf])?.pop() else {
            return Ok(Vec::new());
        };
        let tree = StoredTree::new(self.store, leaf.ledger_no());
        let Ok(bytes) = tree.leaf(leaf.leaf_index()) else {
            return Ok(Vec::new());
        };
        let (Ok(header), Ok(body)) = (Header::decode(&bytes), codec::unpack(&row.body, BODY_BYTES_MAX))
        else {
            return Ok(Vec::new());
        };
        let opens = header.kind == Kind::ErasurePerformed
            && evidence::commitment(&row.salt, header.kind, &body) == header.commitment;
        let Ok(erasure) = ErasurePerformed::read(&body) else {
            return Ok(Vec::new());
        };
        let mut erased = Vec::new();
        for record in erasure.erased.iter().filter(|_| opens).take(ERASED_RECORDS_MAX) {
            if let Some(leaf) = self.leaf_of(record.record_id)? {
                erased.push((leaf, *record));
            }
        }
        Ok(erased)
    }

    /// Where a record stands: its id names the leaf, the epoch is one of few.
    fn leaf_of(&self, id: RecordId) -> Result<Option<LeafKey>, StoreError> {
        let index = id.leaf_index().as_u64();
        for &ledger_no in &self.ledgers {
            if index >= self.store.head_read(ledger_no)?.size.as_u64() {
                continue;
            }
            let Ok(bytes) = StoredTree::new(self.store, ledger_no).leaf(index) else {
                continue;
            };
            if Header::decode(&bytes).is_ok_and(|header| header.id == id) {
                return Ok(Some(LeafKey::new(ledger_no, index)));
            }
        }
        Ok(None)
    }
}

impl std::fmt::Debug for Erasures<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Erasures(tenant {})", self.tenant_no)
    }
}
