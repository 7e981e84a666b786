//! Reading records back: by id, by leaf, by run.

use std::sync::Arc;

use evidence::record::BODY_BYTES_MAX;
use evidence::{Header, HeaderError, RecordId};
use store::{LeafKey, RunKey, RunRecordRow, RunRow, Store, StoreError, codec};
use tlog::Hash;

use crate::tree::{StoredTree, TreeError};
use crate::{Ledger, Receipt, Tenant};

/// A stored record: its leaf and, unless erased, its body.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place.
    pub leaf: LeafKey,
    /// The leaf's bytes, canonical JSON of the header.
    pub header: Vec<u8>,
    /// The body's bytes, canonical JSON; `None`: erased.
    pub body: Option<Vec<u8>>,
}

/// Why a record cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tree is damaged.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The leaf is no header.
    #[error("leaf {leaf}: {source}")]
    Header {
        /// Its index.
        leaf: u64,
        /// What is wrong.
        source: HeaderError,
    },
    /// The body cannot be unpacked or read.
    #[error("the body of leaf {leaf}: {reason}")]
    Body {
        /// Its index.
        leaf: u64,
        /// What is wrong.
        reason: String,
    },
}

impl Record {
    /// The header.
    pub fn header(&self) -> Result<Header<'_>, RecordError> {
        Header::decode(&self.header).map_err(|source| RecordError::Header {
            leaf: self.leaf.leaf_index(),
            source,
        })
    }

    /// Hash of the leaf.
    pub fn leaf_hash(&self) -> Hash {
        tlog::leaf_hash(&self.header)
    }

    /// The record's receipt: what its writer got.
    pub fn receipt(&self) -> Result<Receipt, RecordError> {
        let leaf_index = self.leaf.leaf_index();
        Ok(Receipt {
            record_id: self.header()?.id,
            leaf_index,
            leaf_hash: self.leaf_hash(),
            tree_size: leaf_index + 1,
        })
    }
}

/// The records of a tenant. Methods block.
#[derive(Clone, Debug)]
pub struct Records {
    ledger: Ledger,
    tenant: Arc<Tenant>,
}

impl Ledger {
    /// Reads the records of a tenant.
    pub fn records(&self, tenant: &Arc<Tenant>) -> Records {
        Records {
            ledger: self.clone(),
            tenant: Arc::clone(tenant),
        }
    }
}

impl Records {
    fn store(&self) -> &dyn Store {
        self.ledger.store()
    }

    /// The record of that id; `None`: this tenant has none.
    pub fn get(&self, id: RecordId) -> Result<Option<Record>, RecordError> {
        let index = id.leaf_index().as_u64();
        // The id names the leaf; the epoch is one of few.
        for epoch in self.tenant.epochs().iter().rev() {
            let head = self.store().head_read(epoch.row.ledger_no)?;
            if index >= head.size.as_u64() {
                continue;
            }
            let record = self.read(&[LeafKey::new(epoch.row.ledger_no, index)])?.pop();
            if let Some(record) = record
                && record.header()?.id == id
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The records at the given leaves, in their order.
    pub fn read(&self, leaves: &[LeafKey]) -> Result<Vec<Record>, RecordError> {
        let mut bodies = self.store().bodies_get(leaves)?.into_iter().peekable();
        let mut headers = self.headers(leaves)?.into_iter();
        leaves
            .iter()
            .map(|&leaf| {
                let body = bodies
                    .next_if(|row| row.leaf == leaf)
                    .map(|row| {
                        codec::unpack(&row.body, BODY_BYTES_MAX).map_err(|error| RecordError::Body {
                            leaf: leaf.leaf_index(),
                            reason: error.to_string(),
                        })
                    })
                    .transpose()?;
                Ok(Record {
                    leaf,
                    header: headers.next().unwrap_or_default(),
                    body,
                })
            })
            .collect()
    }

    /// The leaves themselves, in the order given. Neighbours share a block.
    pub fn headers(&self, leaves: &[LeafKey]) -> Result<Vec<Vec<u8>>, RecordError> {
        let mut block: Option<(u32, u64, codec::Leaves)> = None;
        leaves
            .iter()
            .map(|&leaf| {
                let (ledger_no, index) = (leaf.ledger_no(), leaf.leaf_index());
                let inside = |(no, first, leaves): &(u32, u64, codec::Leaves)| {
                    let count = u64::try_from(leaves.len()).unwrap_or(0);
                    *no == ledger_no && (*first..*first + count).contains(&index)
                };
                if !block.as_ref().is_some_and(inside) {
                    block = None;
                    if let Some(found) = self.store().blocks_read(ledger_no, index, 1)?.into_iter().next() {
                        let damaged = |reason: String| TreeError::Damaged {
                            ledger_no,
                            leaf: found.first,
                            reason,
                        };
                        let unpacked = codec::Leaves::unpack(&found.leaves, found.count)
                            .map_err(|error| damaged(error.to_string()))?;
                        block = Some((ledger_no, found.first, unpacked));
                    }
                }
                let leaf = block
                    .as_ref()
                    .filter(|block| inside(block))
                    .and_then(|(_, first, leaves)| leaves.get(usize::try_from(index - first).ok()?));
                leaf.map(<[u8]>::to_vec).ok_or_else(|| {
                    let reason = "the leaf is missing".to_owned();
                    TreeError::Damaged {
                        ledger_no,
                        leaf: index,
                        reason,
                    }
                    .into()
                })
            })
            .collect()
    }

    /// A run, by its id or one of its trace ids.
    pub fn run(&self, id: &str) -> Result<Option<RunRow>, RecordError> {
        if let Some(run) = self.store().run_find(self.tenant.tenant_no, id)? {
            return Ok(Some(run));
        }
        Ok(self
            .store()
            .run_find_by_trace(self.tenant.tenant_no, &store::TraceKey::parse(id))?)
    }

    /// Rows of a run's records from `from_seq` on, at most `limit`.
    pub fn of_run(&self, run: RunKey, from_seq: u64, limit: u32) -> Result<Vec<RunRecordRow>, RecordError> {
        Ok(self.store().run_records(run, from_seq, limit)?)
    }

    /// The tree of the ledger that is written to.
    pub fn tree(&self) -> StoredTree<'_> {
        StoredTree::new(self.store(), self.tenant.ledger().row.ledger_no)
    }
}
