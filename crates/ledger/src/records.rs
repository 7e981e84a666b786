//! Reading records back: by id, by leaf, by run.

use std::ops::ControlFlow;
use std::sync::Arc;

use evidence::{Header, HeaderError, Kind, RecordId, Timestamp};
use store::{BodyRow, FacetQuery, Gone, LeafKey, RunKey, RunRecordRow, RunRow, Store, StoreError};
use tlog::Hash;

use crate::tree::{StoredTree, TreeError};
use crate::verify::Erasures;
use crate::{Body, Ledger, Receipt, Tenant};

/// A stored record: its leaf and, unless it is gone, its body.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its place.
    pub leaf: LeafKey,
    /// The leaf's bytes, canonical JSON of the header.
    pub header: Vec<u8>,
    /// The body, or why it is not there.
    pub body: Body,
    /// See [`Record::is_altered`].
    altered: bool,
}

/// Records on a page of [`Records::find`] at most: the longest page of the HTTP API.
pub const FOUND_RECORDS_MAX: u32 = 1_000;

/// Bodies on a page of [`Records::find`], in bytes; the one that passes it is the page's last. With a body of
/// 16 MiB at most a page stays below 24 MiB, and what is held as stored while it is read below as much again.
pub const FOUND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Leaves read at once by [`Records::each`]: a part of a block holds some of them, and 64 of the longest are 4 MiB.
const HEADERS_READ: usize = 64;

/// Records found by their facets.
#[derive(Clone, Debug, Default)]
pub struct FoundRecords {
    /// In the order asked for.
    pub records: Vec<Record>,
    /// More may follow, even after an empty page.
    pub has_more: bool,
    /// With `has_more`, where the next page goes on: [`FacetQuery::below`].
    pub next: Option<LeafKey>,
    /// The offset of the next page; 0 but after a search that ended early.
    pub offset: u32,
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
    /// The body cannot be unpacked or read, or is not the one that the leaf commits to.
    #[error("the body of leaf {leaf}: {reason}")]
    Body {
        /// Its index.
        leaf: u64,
        /// What is wrong.
        reason: String,
    },
}

impl RecordError {
    /// Whether it is what is stored that cannot be read, which is so the next time too.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Store(error) | Self::Tree(TreeError::Store(error)) => {
                matches!(error, StoreError::Damaged { .. })
            }
            _ => true,
        }
    }
}

impl Record {
    /// A leaf and what is stored of its body, which is held against it.
    fn of(leaf: LeafKey, header: Vec<u8>, body: Body<BodyRow>) -> Result<Self, RecordError> {
        let body = match body {
            Body::There(row) => {
                let mut body = Vec::new();
                crate::body::open(&decode(leaf, &header)?, &row, &mut body)?;
                Body::There(body)
            }
            Body::Gone(gone) => Body::Gone(gone),
        };
        Ok(Self {
            leaf,
            header,
            body,
            altered: false,
        })
    }

    /// The same for a list, which a body that cannot be opened does not end: such a record comes without it.
    fn listed(leaf: LeafKey, header: Vec<u8>, body: Body<BodyRow>) -> Result<Self, RecordError> {
        let (mut out, mut altered) = (Vec::new(), false);
        let body = match body {
            Body::There(row) => {
                let opened = crate::body::open(&decode(leaf, &header)?, &row, &mut out);
                match opened {
                    Ok(()) => Body::There(out),
                    Err(error @ RecordError::Body { .. }) => {
                        tracing::error!(%error, "a list goes on without it");
                        altered = true;
                        Body::Gone(Gone::Missing)
                    }
                    Err(error) => return Err(error),
                }
            }
            Body::Gone(gone) => Body::Gone(gone),
        };
        Ok(Self {
            leaf,
            header,
            body,
            altered,
        })
    }

    /// Whether a body is stored that is not the one its leaf commits to. Only a list has such a record, and without that
    /// body ([`Records::each_listed`]): every other read ends with an error.
    pub fn is_altered(&self) -> bool {
        self.altered
    }

    /// Whether the body that was recorded is not to be had, and no record says why: it was altered or taken away.
    pub fn is_damaged(&self) -> bool {
        self.body.gone() == Some(Gone::Missing)
    }

    /// The header.
    pub fn header(&self) -> Result<Header<'_>, RecordError> {
        decode(self.leaf, &self.header)
    }

    /// The body of a record that others are judged by, which is neither erased nor archived
    /// ([`evidence::record::is_erasable`]): one that is not there was taken away, and without it they would be judged
    /// otherwise. `None`: an older build erased it, and its erasure is on record.
    pub(crate) fn kept_body(&self, store: &dyn Store, tenant_no: u32) -> Result<Option<&[u8]>, RecordError> {
        let erased = match &self.body {
            Body::There(body) => return Ok(Some(body.as_slice())),
            // The list that says so is not signed.
            Body::Gone(Gone::Erased) => {
                Erasures::unread(store, tenant_no)?.kept_of(self.leaf, self.header()?.id)?
            }
            Body::Gone(Gone::Archived | Gone::Missing) => None,
        };
        if erased.is_some() {
            return Ok(None);
        }
        Err(RecordError::Body {
            leaf: self.leaf.leaf_index(),
            reason: "it is missing, and nothing says why".to_owned(),
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
        let Some((leaf, header)) = self.leaf_of(id)? else {
            return Ok(None);
        };
        Ok(put_together(self.store(), &[leaf], vec![header])?.pop())
    }

    /// Where the record of that id stands, and its kind, whatever has become of its body; `None`: this tenant has none.
    ///
    /// # Errors
    /// Its leaf cannot be read.
    pub fn place(&self, id: RecordId) -> Result<Option<(LeafKey, Kind)>, RecordError> {
        let Some((leaf, header)) = self.leaf_of(id)? else {
            return Ok(None);
        };
        let kind = decode(leaf, &header)?.kind;
        Ok(Some((leaf, kind)))
    }

    fn leaf_of(&self, id: RecordId) -> Result<Option<(LeafKey, Vec<u8>)>, RecordError> {
        let index = id.leaf_index().as_u64();
        // The id names the leaf; the epoch is one of few. Of the others' leaves there no body is read: it may be altered.
        for epoch in self.tenant.epochs().iter().rev() {
            let head = self.store().head_read(epoch.row.ledger_no)?;
            if index >= head.size.as_u64() {
                continue;
            }
            let leaf = LeafKey::new(epoch.row.ledger_no, index);
            let Some(header) = self.headers(&[leaf])?.pop() else {
                continue;
            };
            if decode(leaf, &header)?.id == id {
                return Ok(Some((leaf, header)));
            }
        }
        Ok(None)
    }

    /// The records at the given leaves, in their order.
    pub fn read(&self, leaves: &[LeafKey]) -> Result<Vec<Record>, RecordError> {
        put_together(self.store(), leaves, self.headers(leaves)?)
    }

    /// Calls `call` with the records at the given leaves, in their order, until it breaks off. A few of them are held
    /// at once, by their bytes: a body may be 16 MiB.
    ///
    /// # Errors
    /// One cannot be read, or those of `call`.
    pub fn each<E: From<RecordError>>(
        &self,
        leaves: &[LeafKey],
        call: impl FnMut(Record) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        each_chosen(
            self.store(),
            leaves,
            |chunk| self.headers(chunk),
            |_, _| Ok(true),
            Record::of,
            call,
        )
    }

    /// The same of those records only whose header is `wanted`: of others the body is not read.
    ///
    /// # Errors
    /// As of [`Records::each`].
    pub fn each_of<E: From<RecordError>>(
        &self,
        leaves: &[LeafKey],
        mut wanted: impl FnMut(LeafKey, &Header<'_>) -> bool,
        call: impl FnMut(Record) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let wanted = |leaf, header: &[u8]| Ok(wanted(leaf, &decode(leaf, header)?));
        each_chosen(
            self.store(),
            leaves,
            |chunk| self.headers(chunk),
            wanted,
            Record::of,
            call,
        )
    }

    /// [`Records::each_of`] for a list: a record whose body was altered comes without it ([`Record::is_altered`]), as
    /// nobody could get past it otherwise. Nothing may be judged by what comes so.
    ///
    /// # Errors
    /// A leaf, or the store, cannot be read, or those of `call`.
    pub fn each_listed<E: From<RecordError>>(
        &self,
        leaves: &[LeafKey],
        mut wanted: impl FnMut(LeafKey, &Header<'_>) -> bool,
        call: impl FnMut(Record) -> Result<ControlFlow<()>, E>,
    ) -> Result<(), E> {
        let wanted = |leaf, header: &[u8]| Ok(wanted(leaf, &decode(leaf, header)?));
        each_chosen(
            self.store(),
            leaves,
            |chunk| self.headers(chunk),
            wanted,
            Record::listed,
            call,
        )
    }

    /// The record at a leaf, as a list has it ([`Records::each_listed`]).
    ///
    /// # Errors
    /// The leaf, or the store, cannot be read.
    pub fn listed(&self, leaf: LeafKey) -> Result<Option<Record>, RecordError> {
        let mut found = None;
        self.each_listed(
            &[leaf],
            |_, _| true,
            |record| {
                found = Some(record);
                Ok::<_, RecordError>(ControlFlow::Continue(()))
            },
        )?;
        Ok(found)
    }

    /// Records by their facets, a page of at most [`FOUND_RECORDS_MAX`], less when it is full by bytes.
    pub fn find(&self, query: &FacetQuery) -> Result<FoundRecords, RecordError> {
        let page = if query.limit > FOUND_RECORDS_MAX {
            let query = FacetQuery {
                limit: FOUND_RECORDS_MAX,
                ..query.clone()
            };
            self.store().facet_find(self.tenant.tenant_no, &query)?
        } else {
            self.store().facet_find(self.tenant.tenant_no, query)?
        };
        let mut found = FoundRecords {
            records: Vec::with_capacity(page.leaves.len()),
            has_more: page.has_more,
            next: page.next,
            offset: page.offset,
        };
        let mut bytes = 0;
        self.each(&page.leaves, |record| {
            bytes += record.body.bytes().map_or(0, <[u8]>::len);
            let leaf = record.leaf;
            found.records.push(record);
            if bytes > FOUND_BYTES_MAX && found.records.len() < page.leaves.len() {
                (found.has_more, found.next, found.offset) = (true, Some(leaf), 0);
                return Ok::<_, RecordError>(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    /// The newest record with a facet, before `as_of`.
    pub fn newest(&self, facet: String, as_of: Option<LeafKey>) -> Result<Option<Record>, RecordError> {
        let query = FacetQuery {
            facets: vec![facet],
            as_of,
            limit: 1,
            newest_first: true,
            ..FacetQuery::default()
        };
        Ok(self.find(&query)?.records.pop())
    }

    /// How many records a query finds, and whether that is exact; see [`Store::facet_count`].
    pub fn count(&self, query: &FacetQuery, max: u32) -> Result<(u64, bool), RecordError> {
        Ok(self.store().facet_count(self.tenant.tenant_no, query, max)?)
    }

    /// The leaves themselves, in the order given. Those read lately are kept.
    pub fn headers(&self, leaves: &[LeafKey]) -> Result<Vec<Vec<u8>>, RecordError> {
        let lately = &self.ledger.inner.lately;
        let mut found = lately.find(leaves);
        let missing: Vec<LeafKey> = leaves
            .iter()
            .zip(&found)
            .filter_map(|(leaf, found)| found.is_none().then_some(*leaf))
            .collect();
        if !missing.is_empty() {
            let mut read = headers(self.store(), &missing)?.into_iter();
            for (leaf, found) in leaves.iter().zip(&mut found) {
                if found.is_none() {
                    let bytes = read.next().unwrap_or_default();
                    lately.keep(*leaf, &bytes);
                    *found = Some(bytes);
                }
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The tenant's first leaf that was recorded at that moment or later; of none, the end of the ledger that is
    /// written to.
    ///
    /// Of a tenant with several ledgers an earlier one is looked at when the moment is before all of the later.
    ///
    /// # Errors
    /// A leaf cannot be read.
    pub fn recorded_since(&self, at: Timestamp) -> Result<LeafKey, RecordError> {
        let mut found = LeafKey::new(self.tenant.ledger().row.ledger_no, 0);
        for epoch in self.tenant.epochs().iter().rev() {
            let ledger_no = epoch.row.ledger_no;
            let size = self.store().head_read(ledger_no)?.size.as_u64();
            let first = self.store().leaf_since(ledger_no, at)?;
            if first < size || ledger_no == found.ledger_no() {
                found = LeafKey::new(ledger_no, first);
            }
            if first > 0 {
                break;
            }
        }
        Ok(found)
    }

    /// A run, by its id or one of its trace ids.
    pub fn run(&self, id: &str) -> Result<Option<RunRow>, RecordError> {
        run_of(self.store(), self.tenant.tenant_no, id)
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

/// A run of a tenant, by its id or one of its trace ids.
///
/// # Errors
/// It cannot be read.
pub fn run_of(store: &dyn Store, tenant_no: u32, id: &str) -> Result<Option<RunRow>, RecordError> {
    if let Some(run) = store.run_find(tenant_no, id)? {
        return Ok(Some(run));
    }
    Ok(store.run_find_by_trace(tenant_no, &store::TraceKey::parse(id))?)
}

/// [`Records::each`]; what is read is not kept.
pub(crate) fn each<E: From<RecordError>>(
    store: &dyn Store,
    leaves: &[LeafKey],
    call: impl FnMut(Record) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    each_chosen(
        store,
        leaves,
        |chunk| headers(store, chunk),
        |_, _| Ok(true),
        Record::of,
        call,
    )
}

/// [`Record::of`], or [`Record::listed`].
type Opened = fn(LeafKey, Vec<u8>, Body<BodyRow>) -> Result<Record, RecordError>;

fn each_chosen<E: From<RecordError>>(
    store: &dyn Store,
    leaves: &[LeafKey],
    headers_of: impl Fn(&[LeafKey]) -> Result<Vec<Vec<u8>>, RecordError>,
    mut wanted: impl FnMut(LeafKey, &[u8]) -> Result<bool, RecordError>,
    opened: Opened,
    mut call: impl FnMut(Record) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    for chunk in leaves.chunks(HEADERS_READ) {
        let (mut chosen, mut headers) = (Vec::with_capacity(chunk.len()), Vec::new());
        for (&leaf, header) in chunk.iter().zip(headers_of(chunk)?) {
            if wanted(leaf, &header)? {
                chosen.push(leaf);
                headers.push(header);
            }
        }
        let (mut headers, mut broke_off) = (headers.into_iter(), false);
        crate::body::each_stored(store, &chosen, |leaf, body| {
            let header = headers.next().unwrap_or_default();
            let went_on = call(opened(leaf, header, body)?)?;
            broke_off = went_on.is_break();
            Ok::<_, E>(went_on)
        })?;
        if broke_off {
            break;
        }
    }
    Ok(())
}

/// The records at the given leaves, in their order.
pub(crate) fn read(store: &dyn Store, leaves: &[LeafKey]) -> Result<Vec<Record>, RecordError> {
    put_together(store, leaves, headers(store, leaves)?)
}

/// Records of their leaves and what is stored of their bodies.
fn put_together(
    store: &dyn Store,
    leaves: &[LeafKey],
    headers: Vec<Vec<u8>>,
) -> Result<Vec<Record>, RecordError> {
    let bodies = crate::body::stored(store, leaves)?;
    leaves
        .iter()
        .zip(headers)
        .zip(bodies)
        .map(|((&leaf, header), body)| Record::of(leaf, header, body))
        .collect()
}

/// The leaves themselves, in the order given.
pub(crate) fn headers(store: &dyn Store, leaves: &[LeafKey]) -> Result<Vec<Vec<u8>>, RecordError> {
    let found = store.leaves_get(leaves)?.into_iter();
    let there = leaves.iter().zip(found).map(|(leaf, found)| {
        found.ok_or_else(|| {
            let missing = TreeError::Damaged {
                ledger_no: leaf.ledger_no(),
                leaf: leaf.leaf_index(),
                reason: "the leaf is missing".to_owned(),
            };
            missing.into()
        })
    });
    there.collect()
}

/// Reads the header that stands at a leaf; its id names the leaf that it is of, so that one in another's place is known.
pub(crate) fn decode(leaf: LeafKey, header: &[u8]) -> Result<Header<'_>, RecordError> {
    let damaged = |source| RecordError::Header {
        leaf: leaf.leaf_index(),
        source,
    };
    let header = Header::decode(header).map_err(damaged)?;
    if header.id.leaf_index().as_u64() != leaf.leaf_index() {
        return Err(damaged(HeaderError::Field("id: it names another leaf")));
    }
    Ok(header)
}
