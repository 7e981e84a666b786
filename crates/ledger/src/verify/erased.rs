//! Which bodies are gone because a record says so.
//!
//! A body goes in the commit that writes its `erasure.performed` or `retention.archived`. Those records are found by their facet, read, and
//! held against their own commitments; so a body that went otherwise has none, and is damage. The list of a tenant
//! is read when verification begins, and again whenever a body is missing that it does not name: an erasure may
//! have come meanwhile. When it does not name it even then, the facets may be what is wrong, and every leaf is looked
//! at once: what ails a projection must not make erased evidence look tampered with.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use evidence::record::{ERASED_RECORDS_MAX, ErasedRecord, ErasurePerformed, RetentionArchived};
use evidence::{Finding, FindingCode, Header, Kind, RecordId, Salt, facet};
use store::{FacetQuery, LeafKey, Store, StoreError};

use crate::archive::{ArchiveError, Archives};
use crate::tree::{StoredTree, TreeError, unless_damaged};

/// Records of erasures read at once.
const PAGE: u32 = 500;

/// Rows of one record's list of erasures that are followed. A record is erased once, so one is true; nobody signs the
/// list, and what each row leads to is held against the record. One behind more forged ones than this is not found: then
/// nothing says why the body is gone, and that is damage.
const FOLLOWED_MAX: u32 = 16;

/// Looks at every leaf that the store may leave unanswered, in one verification. A failure is no answer, and the next may
/// pass; but each reads all of a tenant, and thousands of bodies may be missing. Who asks is told that it could not be
/// said ([`Erasures::unsaid`]), and asks again.
const SCANS_MAX: u32 = 3;

/// The facets of the records that take bodies away.
const LISTS: [&str; 2] = ["kind=erasure.performed", "kind=retention.archived"];

/// Why a body is gone.
#[derive(Clone, Debug)]
pub(crate) enum Gone {
    /// A record erased it, and kept this.
    Erased(ErasedRecord),
    /// A record archived it.
    Pruned,
}

/// What the erasures of a tenant keep of what they erased, by leaf. 100 to 210 bytes each, 88 in a table that may
/// be half empty, and an incident's id.
pub(crate) struct Erasures<'a> {
    store: &'a dyn Store,
    tenant_no: u32,
    /// The tenant's ledgers, epoch and number, newest first.
    ledgers: Vec<(u32, u32)>,
    archives: Archives,
    known: RwLock<Known>,
    scan: Mutex<Scan>,
    /// Why the store could not say of a body whether it was erased.
    unsaid: Mutex<Option<String>>,
}

/// Whether every leaf may still be looked at.
#[derive(Default)]
struct Scan {
    /// So often, until the store answers.
    left: u32,
    /// Why it could not answer the last time.
    failed: Option<String>,
}

#[derive(Default)]
struct Known {
    erased: HashMap<LeafKey, ErasedRecord>,
    /// Last leaf of each stretch, by its first, and the place in `archived`.
    pruned: BTreeMap<LeafKey, (LeafKey, usize)>,
    archived: Vec<RetentionArchived>,
    /// Records read so far, and the newest of each list.
    records: u64,
    newest: [Option<LeafKey>; 2],
}

impl Known {
    /// Which archive has the body of a leaf.
    fn archive_of(&self, leaf: LeafKey) -> Option<usize> {
        let (_, &(last, number)) = self.pruned.range(..=leaf).next_back()?;
        (leaf <= last).then_some(number)
    }
}

impl<'a> Erasures<'a> {
    /// Reads those of a tenant for its verification; damage on the way is a finding, and what can be read is read.
    pub(crate) fn load(store: &'a dyn Store, tenant_no: u32) -> Result<(Self, Vec<Finding>), StoreError> {
        let mut findings = Vec::new();
        let mut or_finding = |result: Result<(), StoreError>| match result {
            Err(StoreError::Damaged { place, reason }) => {
                findings.push(Finding::new(FindingCode::Unreadable, place, reason));
                Ok(false)
            }
            other => other.map(|()| true),
        };
        let erasures = Self {
            scan: Mutex::new(Scan {
                left: SCANS_MAX,
                failed: None,
            }),
            ..Self::unread(store, tenant_no)?
        };
        if !or_finding(erasures.reload())? {
            or_finding(erasures.scan_once())?;
        }
        Ok((erasures, findings))
    }

    /// The same without the projections, which may be what is wrong: from every leaf of the tenant.
    pub(crate) fn scan(store: &'a dyn Store, tenant_no: u32) -> Result<Self, StoreError> {
        let erasures = Self::unread(store, tenant_no)?;
        erasures.scan_leaves()?;
        Ok(erasures)
    }

    fn scan_once(&self) -> Result<(), StoreError> {
        // Others that miss a body wait, and then know.
        let mut scan = self.scan.lock().unwrap_or_else(PoisonError::into_inner);
        if scan.left == 0 {
            let failed = scan.failed.clone();
            return failed.map_or(Ok(()), |why| Err(StoreError::Unavailable(why)));
        }
        let scanned = self.scan_leaves();
        match &scanned {
            Ok(()) | Err(StoreError::Damaged { .. }) => *scan = Scan::default(),
            // A store that could not answer has not been asked.
            Err(error) => {
                scan.left -= 1;
                scan.failed = Some(why(error));
            }
        }
        scanned
    }

    fn scan_leaves(&self) -> Result<(), StoreError> {
        let store = self.store;
        let mut leaves = Vec::new();
        for &(_, ledger_no) in &self.ledgers {
            let size = store.head_read(ledger_no)?.size.as_u64();
            StoredTree::new(store, ledger_no)
                .leaves(0..size, |index, leaf| {
                    // The kind stands in every header in these words; few others hold them.
                    let may_be = leaf
                        .windows(17)
                        .any(|window| window == b"erasure.performed" || window == b"retention.archive");
                    if may_be && Header::decode(leaf).is_ok_and(|header| takes_away(header.kind)) {
                        leaves.push(LeafKey::new(ledger_no, index));
                    }
                    Ok(())
                })
                .map_err(TreeError::into_store)?;
        }
        self.take(&leaves)
    }

    /// Reads none before one is asked for.
    pub(crate) fn unread(store: &'a dyn Store, tenant_no: u32) -> Result<Self, StoreError> {
        let mut ledgers: Vec<(u32, u32)> = store
            .ledgers_list()?
            .into_iter()
            .filter(|row| row.tenant_no == tenant_no)
            .map(|row| (row.epoch, row.ledger_no))
            .collect();
        ledgers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self {
            store,
            tenant_no,
            ledgers,
            archives: Archives::default(),
            known: RwLock::default(),
            scan: Mutex::default(),
            unsaid: Mutex::default(),
        })
    }

    /// Opens the archives in a folder, so that what was pruned can be looked at; which are not at hand.
    pub(crate) fn open_archives(&mut self, folder: &Path) -> Vec<ArchiveError> {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut errors = Vec::new();
        for (number, archived) in known.archived.iter().enumerate() {
            if let Err(error) = self.archives.add(number, folder, archived) {
                errors.push(error);
            }
        }
        errors
    }

    /// Whether the archive of a pruned record is in a folder as its record names it. It is looked at once.
    pub(crate) fn open_archive_of(&mut self, leaf: LeafKey, folder: &Path) -> bool {
        let known = self.known.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(number) = known.archive_of(leaf) else {
            return false;
        };
        if self.archives.has(number) {
            return true;
        }
        let archived = known.archived.get(number);
        archived.is_some_and(|archived| self.archives.add(number, folder, archived).is_ok())
    }

    /// Salt and body of a pruned record whose archive is at hand.
    pub(crate) fn archived(&self, leaf: LeafKey) -> Option<(Salt, Vec<u8>)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let number = known.archive_of(leaf)?;
        let archived = known.archived.get(number)?;
        self.archives.get(number, archived, leaf.leaf_index())
    }

    /// Whether a body is archived, and its archive not at hand.
    pub(crate) fn is_away(&self, leaf: LeafKey) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .archive_of(leaf)
            .is_some_and(|number| !self.archives.has(number))
    }

    /// The names of all archives.
    pub(crate) fn archive_names(&self) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known
            .archived
            .iter()
            .map(|archived| archived.archive.clone())
            .collect()
    }

    /// Why an archive that was at hand could not be read, or the store could not say what was erased: then what was found
    /// missing, or was not, says nothing.
    pub(crate) fn unsaid(&self) -> Option<String> {
        let unsaid = self.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
        unsaid.clone().or_else(|| self.archives.unread())
    }

    /// The tenant's ledger of an epoch.
    pub(crate) fn ledgers(&self) -> &[(u32, u32)] {
        &self.ledgers
    }

    /// How many records that take bodies away there are now.
    pub(crate) fn count(store: &dyn Store, tenant_no: u32) -> Result<u64, StoreError> {
        let mut count = 0;
        for list in LISTS {
            let query = FacetQuery {
                facets: vec![list.to_owned()],
                ..FacetQuery::default()
            };
            count += store.facet_count(tenant_no, &query, 0)?.0;
        }
        Ok(count)
    }

    /// Why the body of that leaf is gone, as far as is known.
    pub(crate) fn known(&self, leaf: LeafKey) -> Option<Gone> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = known.erased.get(&leaf) {
            return Some(Gone::Erased(kept.clone()));
        }
        known.archive_of(leaf).map(|_| Gone::Pruned)
    }

    /// The same of a record whose body is missing; looked for again when it is not known. Why the store could not answer
    /// is kept for who asks in the end ([`Erasures::unsaid`]).
    pub(crate) fn find(&self, leaf: LeafKey) -> Result<Option<Gone>, StoreError> {
        self.look_for(leaf)
            .inspect_err(|error| self.keep_unsaid("a body is missing, and whether it was erased", error))
    }

    /// Keeps the first thing that the store could not say.
    fn keep_unsaid(&self, what: &str, error: &StoreError) {
        let mut unsaid = self.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
        unsaid.get_or_insert_with(|| format!("{what} cannot be said: {}", why(error)));
    }

    fn look_for(&self, leaf: LeafKey) -> Result<Option<Gone>, StoreError> {
        if let Some(gone) = self.known(leaf) {
            return Ok(Some(gone));
        }
        let seen = self.known.read().unwrap_or_else(PoisonError::into_inner).records;
        let reloaded = Self::count(self.store, self.tenant_no)
            .and_then(|count| if count == seen { Ok(()) } else { self.reload() });
        match reloaded {
            // What is damaged is a finding elsewhere; leaves say the same.
            Ok(()) | Err(StoreError::Damaged { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(gone) = self.known(leaf) {
            return Ok(Some(gone));
        }
        match self.scan_once() {
            Ok(()) | Err(StoreError::Damaged { .. }) => Ok(self.known(leaf)),
            Err(error) => Err(error),
        }
    }

    /// What was kept of an erased record. Its erasure is found by its facet, so that the others need not be read.
    pub(crate) fn kept_of(&self, leaf: LeafKey, id: RecordId) -> Result<Option<ErasedRecord>, StoreError> {
        if self.known(leaf).is_none() {
            for by in erasures_listed(self.store, self.tenant_no, id)? {
                self.take(&[by])?;
                if self.known(leaf).is_some() {
                    break;
                }
            }
        }
        Ok(match self.known(leaf) {
            Some(Gone::Erased(kept)) => Some(kept),
            Some(Gone::Pruned) | None => None,
        })
    }

    /// Why a body is not there, of which the store says this: the list of what is erased is not signed, and what no
    /// erasure names was taken away.
    pub(crate) fn why_gone(
        &self,
        leaf: LeafKey,
        id: RecordId,
        said: store::Gone,
    ) -> Result<store::Gone, StoreError> {
        if said == store::Gone::Erased && self.kept_of(leaf, id)?.is_none() {
            return Ok(store::Gone::Missing);
        }
        Ok(said)
    }

    /// Whether a body is there, asked anew.
    pub(crate) fn is_there(&self, leaf: LeafKey) -> bool {
        match self.store.bodies_there(&[leaf]) {
            Ok(there) => !there.is_empty(),
            Err(error) => {
                self.keep_unsaid("whether a body is there that a record erased", &error);
                false
            }
        }
    }

    /// Reads the records that came since the last time.
    fn reload(&self) -> Result<(), StoreError> {
        for (number, list) in LISTS.iter().enumerate() {
            loop {
                let below = self.known.read().unwrap_or_else(PoisonError::into_inner).newest[number];
                let query = FacetQuery {
                    facets: vec![(*list).to_owned()],
                    below,
                    limit: PAGE,
                    ..FacetQuery::default()
                };
                let page = self.store.facet_find(self.tenant_no, &query)?;
                self.take(&page.leaves)?;
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.records += page.leaves.len() as u64;
                known.newest[number] = known.newest[number].max(page.leaves.last().copied());
                if !page.has_more {
                    break;
                }
            }
        }
        Ok(())
    }

    fn take(&self, leaves: &[LeafKey]) -> Result<(), StoreError> {
        for &leaf in leaves {
            let read = self.read(leaf)?;
            let mut erased = Vec::new();
            if let Some(Taken::Erasure(erasure)) = &read {
                for record in erasure.erased.iter().take(ERASED_RECORDS_MAX) {
                    if let Some(leaf) = self.leaf_of(record.record_id)? {
                        erased.push((leaf, record.clone()));
                    }
                }
            }
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.erased.extend(erased);
            if let Some(Taken::Archive(archived)) = read
                && let Some(&(_, ledger_no)) = self.ledgers.iter().find(|(epoch, _)| *epoch == archived.epoch)
            {
                // A scan of leaves finds those again that facets named.
                let known_already = |other: &RetentionArchived| {
                    other.epoch == archived.epoch && other.archive == archived.archive
                };
                if known.archived.iter().any(known_already) {
                    continue;
                }
                let key = |index| LeafKey::new(ledger_no, index);
                let number = known.archived.len();
                let stretches = archived.leaves.iter();
                known
                    .pruned
                    .extend(stretches.map(|&(first, last)| (key(first), (key(last), number))));
                known.archived.push(archived);
            }
        }
        Ok(())
    }

    /// What one record takes away. One that cannot be read, or whose body is not what its leaf commits to, takes
    /// nothing.
    fn read(&self, leaf: LeafKey) -> Result<Option<Taken>, StoreError> {
        let Some(row) = self.store.bodies_get(&[leaf])?.pop() else {
            return Ok(None);
        };
        let tree = StoredTree::new(self.store, leaf.ledger_no());
        let Some(bytes) = unless_damaged(tree.leaf(leaf.leaf_index()))? else {
            return Ok(None);
        };
        let Ok(header) = Header::decode(&bytes) else {
            return Ok(None);
        };
        let mut body = Vec::new();
        if crate::body::open(&header, &row, &mut body).is_err() {
            return Ok(None);
        }
        Ok(match header.kind {
            Kind::ErasurePerformed => ErasurePerformed::read(&body).ok().map(Taken::Erasure),
            Kind::RetentionArchived => RetentionArchived::read(&body).ok().map(Taken::Archive),
            _ => None,
        })
    }

    /// Where a record stands: its id names the leaf, the epoch is one of few.
    fn leaf_of(&self, id: RecordId) -> Result<Option<LeafKey>, StoreError> {
        let index = id.leaf_index().as_u64();
        for &(_, ledger_no) in &self.ledgers {
            if index >= self.store.head_read(ledger_no)?.size.as_u64() {
                continue;
            }
            let Some(bytes) = unless_damaged(StoredTree::new(self.store, ledger_no).leaf(index))? else {
                continue;
            };
            if Header::decode(&bytes).is_ok_and(|header| header.id == id) {
                return Ok(Some(LeafKey::new(ledger_no, index)));
            }
        }
        Ok(None)
    }
}

/// Where the record that erased another may stand, oldest first: nobody signs the list that says so.
pub(crate) fn erasures_listed(
    store: &dyn Store,
    tenant_no: u32,
    id: RecordId,
) -> Result<Vec<LeafKey>, StoreError> {
    let query = FacetQuery {
        facets: vec![facet::facet("erasure", &id.to_string())],
        limit: FOLLOWED_MAX,
        ..FacetQuery::default()
    };
    Ok(store.facet_find(tenant_no, &query)?.leaves)
}

/// A record that takes bodies away.
enum Taken {
    Erasure(ErasurePerformed),
    Archive(RetentionArchived),
}

/// Why the store could not answer, without the words that say so.
fn why(error: &StoreError) -> String {
    match error {
        StoreError::Unavailable(why) => why.clone(),
        other => other.to_string(),
    }
}

const fn takes_away(kind: Kind) -> bool {
    matches!(kind, Kind::ErasurePerformed | Kind::RetentionArchived)
}

impl std::fmt::Debug for Erasures<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Erasures(tenant {})", self.tenant_no)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evidence::Timestamp;
    use store::{Fault, FaultStore};

    use super::*;
    use crate::{Ledger, Options};

    #[test]
    fn a_store_that_cannot_answer_is_not_asked_for_each_missing_body_and_has_not_answered() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(Options::new(folder.path()), Timestamp::UNIX_EPOCH).unwrap();
        let store = FaultStore::new(Arc::clone(&ledger.inner.store));
        let fail = |times: usize| (0..times).for_each(|_| store.arm(Fault::HeadRead));
        let missing = LeafKey::new(0, 7);
        let said = |erasures: &Erasures<'_>| match erasures.find(missing) {
            Err(StoreError::Unavailable(_)) => None,
            found => Some(found.unwrap().is_some()),
        };

        let (erasures, _) = Erasures::load(&store, 0).unwrap();
        fail(5);
        assert_eq!([(); 5].map(|()| said(&erasures)), [None; 5]);
        assert_eq!(store.armed().len(), 2, "three times it was asked");
        assert!(erasures.unsaid().is_some());

        // What fails for a moment is asked again, and asked no more when it has answered.
        let (erasures, _) = Erasures::load(&store, 0).unwrap();
        assert_eq!([(); 3].map(|()| said(&erasures)), [None, None, Some(false)]);
        fail(1);
        assert_eq!(said(&erasures), Some(false));
        assert_eq!(store.armed().len(), 1);
    }
}
