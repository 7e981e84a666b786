//! Epochs of a ledger: what the first leaf of each, a `ledger.recovered`, says of those before it.
//!
//! Nothing is written to an epoch that has ended, and its key signs nothing more: it is what the epochs behind it say
//! that it was, or somebody changed it. The newest of them counts, for it may declare what was lost since.
//!
//! Source: SPEC 2.4; docs/formats.md, "ledger.recovered".

use std::collections::BTreeMap;
use std::io;

use evidence::record::EpochEnded;
use evidence::{Header, Kind};
use serde::Deserialize;
use store::{BodyRow, Head, LeafKey, LedgerRow, Store, StoreError};
use tlog::{Hash, LeafIndex, TreeSize};

use crate::StoredTree;
use crate::high_water::{HighWater, Mark};
use crate::keys::KeyFolder;
use crate::open::behind_mark;
use crate::recover::undeclared;
use crate::tenant::{Refusal, origin_of};
use crate::tree::unless_damaged;

/// The head of what is not there.
pub(crate) const NOTHING: Head = Head {
    size: TreeSize::new(0),
    root: tlog::empty_root(),
};

/// The head of an epoch that has ended. One that is damaged is none: verification says what is wrong with it, and the
/// next epoch that it is lost.
pub(crate) fn head_of(store: &dyn Store, ledger_no: u32) -> Result<Head, StoreError> {
    match store.head_read(ledger_no) {
        Err(StoreError::Damaged { .. }) => Ok(NOTHING),
        other => other,
    }
}

/// How an epoch ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// Its leaves, and the root over them; older records say how many, and only when some are lost.
    head: Option<(u64, Option<String>)>,
    /// Size and root that had been signed last.
    last_known: Option<(u64, String)>,
}

impl Ended {
    /// Whether a mark is told by it: what was signed last, or less, of which the leaves are declared lost.
    pub(crate) fn explains(&self, size: u64, root: Hash) -> bool {
        let there = self.head.as_ref().map_or(0, |(size, _)| *size);
        self.last_known.as_ref().is_some_and(|(known, text)| {
            (*known == size && *text == root.to_base64()) || (there < size && size < *known)
        })
    }

    /// Leaves that were signed and are declared lost: first and one past the last.
    pub(crate) fn lost(&self) -> Option<(u64, u64)> {
        let (size, _) = self.head.as_ref()?;
        let (known, _) = self.last_known.as_ref()?;
        (known > size).then_some((*size, *known))
    }

    /// Why an epoch that is there with this head is not the one that ended.
    pub(crate) fn differs(&self, head: Head) -> Option<String> {
        let (size, root) = self.head.as_ref()?;
        let there = head.size.as_u64();
        if there != *size {
            Some(format!("it ended with {size} leaves, {there} are there"))
        } else if root.as_ref().is_some_and(|root| *root != head.root.to_base64()) {
            Some(format!("it ended with another root over its {size} leaves"))
        } else {
            None
        }
    }

    /// What is known of it besides a mark, the larger: what had been signed, or what was there.
    pub(crate) fn best_known(&self) -> Option<(u64, String)> {
        let head = self.head.as_ref();
        let head = head.and_then(|(size, root)| Some((*size, root.clone()?)));
        larger(self.last_known.clone(), head)
    }

    fn of(ended: EpochEnded) -> (String, Self) {
        let this = Self {
            head: Some((ended.size, Some(ended.root))),
            last_known: ended.last_known_size.zip(ended.last_known_root),
        };
        (ended.origin, this)
    }
}

/// The one of more leaves; of equal ones the first.
pub(crate) fn larger(one: Option<(u64, String)>, other: Option<(u64, String)>) -> Option<(u64, String)> {
    match (one, other) {
        (Some(one), Some(other)) if other.0 > one.0 => Some(other),
        (one, other) => one.or(other),
    }
}

/// What is said of an epoch that has a key alone.
pub(crate) fn no_ledger_of_key(origin: &str) -> String {
    format!("there is a key of {origin}, the database has no such ledger")
}

/// What comes before tenant and epoch in a ledger's origin.
pub(crate) fn base_of(row: &LedgerRow) -> &str {
    let origin = match row.epoch {
        0 => Some(row.origin.as_str()),
        epoch => row.origin.strip_suffix(&format!("/{epoch}")),
    };
    origin
        .and_then(|origin| origin.strip_suffix(&format!("/{}", row.tenant_id)))
        .unwrap_or(&row.origin)
}

/// Whether an origin is that of an epoch, `first` being that of the first one.
pub(crate) fn is_epoch_of(origin: &str, first: &str) -> bool {
    origin.strip_prefix(first).is_some_and(|rest| {
        let number = rest.strip_prefix('/');
        rest.is_empty() || number.is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// Marks of a tenant's epochs that had leaves and that the database does not know.
pub(crate) fn marks_away<'m>(marks: &'m HighWater, rows: &[LedgerRow]) -> Vec<(&'m str, Mark)> {
    let Some(last) = rows.last() else {
        return Vec::new();
    };
    let first = origin_of(base_of(last), &last.tenant_id, 0);
    marks
        .iter()
        .filter(|(origin, mark)| {
            mark.size.as_u64() > 0
                && is_epoch_of(origin, &first)
                && rows.iter().all(|row| row.origin != *origin)
        })
        .collect()
}

/// What an epoch's first leaf says.
#[derive(Debug)]
struct Declared {
    previous_origin: String,
    ended: BTreeMap<String, Ended>,
}

/// The epochs of one tenant, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    all: Vec<(String, Option<Declared>)>,
}

impl Epochs {
    /// Reads the first leaf of each but the first. One that is damaged says nothing.
    ///
    /// # Errors
    /// The store cannot answer now.
    pub(crate) fn read(store: &dyn Store, rows: &[LedgerRow]) -> Result<Self, StoreError> {
        let mut all = Vec::with_capacity(rows.len());
        for row in rows {
            let declared = match row.epoch {
                0 => None,
                _ => declared(store, row.ledger_no)?,
            };
            all.push((row.origin.clone(), declared));
        }
        Ok(Self { all })
    }

    /// What was said last of an epoch.
    pub(crate) fn ended(&self, origin: &str) -> Option<&Ended> {
        let mut behind = self.all.iter().rev().take_while(|(of, _)| of != origin);
        behind.find_map(|(_, declared)| declared.as_ref()?.ended.get(origin))
    }

    /// What is wrong with an epoch's first leaf, if it has one; `Some` names the epoch before.
    pub(crate) fn misplaced(&self, place: usize) -> Option<String> {
        let (before, _) = self.all.get(place.checked_sub(1)?)?;
        match &self.all.get(place)?.1 {
            None => Some(format!("is no ledger.recovered that follows {before}")),
            Some(declared) if declared.previous_origin != *before => Some(format!(
                "follows {}, and {before} stands before it",
                declared.previous_origin
            )),
            Some(_) => None,
        }
    }

    /// Epochs that are spoken of and are not here, each by what was said last.
    pub(crate) fn away(&self) -> BTreeMap<&str, &Ended> {
        let mut away = BTreeMap::new();
        for declared in self.all.iter().filter_map(|(_, declared)| declared.as_ref()) {
            for (origin, ended) in &declared.ended {
                if self.all.iter().all(|(of, _)| of != origin) {
                    away.insert(origin.as_str(), ended);
                }
            }
        }
        away
    }

    /// The first epoch behind the newest that has a key, and neither a ledger nor a word in a first leaf: database and
    /// marks were set back together, and the newest that they know ended long ago. A mark over nothing says that its key
    /// has signed nothing: a recovery got no further.
    ///
    /// # Errors
    /// The keys cannot be listed.
    pub(crate) fn key_alone(
        &self,
        rows: &[LedgerRow],
        marks: Option<&HighWater>,
        keys: &KeyFolder,
    ) -> io::Result<Option<String>> {
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let numbers = keys.epochs(&last.tenant_id)?.into_iter();
        let mut behind = numbers
            .filter(|epoch| *epoch > last.epoch)
            .map(|epoch| origin_of(base_of(last), &last.tenant_id, epoch));
        let has_signed = |origin: &str| {
            let mark = marks.and_then(|marks| marks.get(origin));
            mark.is_none_or(|mark| mark.size.as_u64() > 0)
        };
        Ok(behind.find(|origin| self.ended(origin).is_none() && has_signed(origin)))
    }

    /// Why the tenant's ledger may not be written to: the first epoch that is not as it ended, or that is not there.
    ///
    /// # Errors
    /// A head cannot be read, or the keys cannot be listed.
    pub(crate) fn changed(
        &self,
        store: &dyn Store,
        rows: &[LedgerRow],
        marks: &HighWater,
        keys: &KeyFolder,
    ) -> Result<Option<String>, StoreError> {
        // It speaks of all the others, and those before it may be damaged: this is what tells.
        if let Some((last, place)) = rows.last().zip(rows.len().checked_sub(1))
            && let Some(why) = self.misplaced(place)
            && head_of(store, last.ledger_no)?.size.as_u64() > 0
        {
            return Ok(Some(format!("the first leaf of {} {why}", last.origin)));
        }
        for row in rows {
            if let Some(ended) = self.ended(&row.origin)
                && let Some(why) = ended.differs(head_of(store, row.ledger_no)?)
            {
                return Ok(Some(format!("{}: {why}", row.origin)));
            }
        }
        for (origin, mark) in marks_away(marks, rows) {
            let size = mark.size.as_u64();
            if !self
                .ended(origin)
                .is_some_and(|ended| ended.explains(size, mark.root))
            {
                return Ok(Some(format!(
                    "{size} leaves of {origin} were signed, the database has no such ledger"
                )));
            }
        }
        let key_alone = self.key_alone(rows, Some(marks), keys);
        if let Some(origin) = key_alone.map_err(|error| StoreError::Unavailable(error.to_string()))? {
            return Ok(Some(no_ledger_of_key(&origin)));
        }
        let mut away = self.away().into_iter();
        Ok(away.find_map(|(origin, ended)| Some(format!("{origin}: {}", ended.differs(NOTHING)?))))
    }
}

/// Why a ledger that is read offline is no evidence of one in order: behind its mark, not as it ended, followed by what
/// is not there, or an epoch without its first leaf; `None`: it is in order. `rows` are the tenant's, oldest first. The marks
/// are read before the head, or what was signed in between passes for lost.
///
/// # Errors
/// The store cannot answer now, a head cannot be read, or the keys cannot be listed.
pub fn offline_refusal(
    store: &dyn Store,
    rows: &[LedgerRow],
    row: &LedgerRow,
    marks: &HighWater,
    keys: &KeyFolder,
) -> Result<Option<Refusal>, StoreError> {
    let said = Epochs::read(store, rows)?;
    let head = store.head_read(row.ledger_no)?;
    if let Some(ended) = said.ended(&row.origin) {
        return Ok(ended.differs(head).map(Refusal::RolledBack));
    }
    let behind = behind_mark(store, row, head, marks.get(&row.origin))?;
    if behind.is_some() {
        return Ok(behind);
    }
    if let Some(why) = said.changed(store, rows, marks, keys)? {
        return Ok(Some(Refusal::RolledBack(why)));
    }
    Ok((row.epoch > 0 && head.size.as_u64() == 0).then(undeclared))
}

/// The members of the body that are read again.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    epochs: Vec<EpochEnded>,
    last_known_root: Option<String>,
    last_known_size: Option<u64>,
    lost_end: Option<u64>,
    lost_first: Option<u64>,
    previous_origin: String,
}

/// What the first leaf of an epoch says, if leaf and body are those that its tree was made of: whoever changes an epoch that
/// has ended would change its successor's word too.
fn declared(store: &dyn Store, ledger_no: u32) -> Result<Option<Declared>, StoreError> {
    let tree = StoredTree::new(store, ledger_no);
    let Some(leaf) = unless_damaged(tree.leaf(0))? else {
        return Ok(None);
    };
    // Only that kind declares: another record's body may have members of the same names.
    let Some(header) = Header::decode(&leaf)
        .ok()
        .filter(|header| header.kind == Kind::LedgerRecovered)
    else {
        return Ok(None);
    };
    let Some(head) = unless_damaged(store.head_read(ledger_no))? else {
        return Ok(None);
    };
    let first = LeafIndex::new(0);
    let Some(proof) = unless_damaged(tree.inclusion(first, head.size))? else {
        return Ok(None);
    };
    if tlog::verify_inclusion(&tlog::leaf_hash(&leaf), first, head.size, &proof, &head.root).is_err() {
        return Ok(None);
    }
    let stored = unless_damaged(store.bodies_get(&[LeafKey::new(ledger_no, 0)]))?;
    let body = stored.and_then(|mut stored| stored.pop());
    Ok(body.and_then(|body| said_by(&header, &body)))
}

/// What a body says, if it is the one that its leaf commits to.
fn said_by(header: &Header<'_>, stored: &BodyRow) -> Option<Declared> {
    let mut body = Vec::new();
    crate::body::open(header, stored, &mut body).ok()?;
    let wire: Wire = serde_json::from_slice(&body).ok()?;
    let mut ended: BTreeMap<String, Ended> = wire.epochs.into_iter().map(Ended::of).collect();
    // Records of before speak of one epoch, and not of its head.
    ended
        .entry(wire.previous_origin.clone())
        .or_insert_with(|| Ended {
            head: wire.lost_first.zip(wire.lost_end).map(|(first, _)| (first, None)),
            last_known: wire.last_known_size.zip(wire.last_known_root),
        });
    Some(Declared {
        previous_origin: wire.previous_origin,
        ended,
    })
}
