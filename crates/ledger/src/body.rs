//! What is there of a record's body.
//!
//! A body goes in two ways, and which of them it was matters to whoever reads: what is erased says nothing any
//! more, what is archived still says it, elsewhere. Neither is ever read as "there was none".
//!
//! What is stored is not taken for what the record says either: [`open`] holds it against the commitment in its leaf, and
//! all that shows a body or judges by it gets it from there. Verification alone opens bodies itself, and makes findings of
//! what it cannot open.

use std::ops::ControlFlow;

use evidence::record::BODY_BYTES_MAX;
use evidence::{Header, commitment};
use store::{BodyRow, Gone, LeafKey, Store, StoreError, codec};

use crate::RecordError;

/// A body, or why it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<B = Vec<u8>> {
    /// Canonical JSON.
    There(B),
    /// It is not there.
    Gone(Gone),
}

impl<B: AsRef<[u8]>> Body<B> {
    /// The bytes, when they are there.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::There(bytes) => Some(bytes.as_ref()),
            Self::Gone(_) => None,
        }
    }

    /// The same, looked at.
    pub fn as_deref(&self) -> Body<&[u8]> {
        match self {
            Self::There(bytes) => Body::There(bytes.as_ref()),
            Self::Gone(gone) => Body::Gone(*gone),
        }
    }
}

impl<B> Body<B> {
    /// The bytes, when they are there.
    pub fn into_bytes(self) -> Option<B> {
        match self {
            Self::There(bytes) => Some(bytes),
            Self::Gone(_) => None,
        }
    }

    /// Why it is not there.
    pub fn gone(&self) -> Option<Gone> {
        match self {
            Self::There(_) => None,
            Self::Gone(gone) => Some(*gone),
        }
    }
}

/// What is wrong with a body that is not the one its leaf commits to.
const ALTERED: &str = "it does not agree with the leaf's commitment: what is stored is not what was recorded";

/// Bodies held at once, in bytes as stored, and the one that passes it: with one of 16 MiB that is not compressible some
/// 24 MiB for a read, however long the list.
const HELD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Leaves asked for at once: a search of some microseconds each, with which a read holds its place in the database.
const HELD_LEAVES_MAX: usize = 256;

/// Unpacks a body into `out`, which is cleared first, if it is the one that its leaf commits to: somebody may have altered
/// it since, and no verification has come by yet.
///
/// # Errors
/// [`RecordError::Body`]; `out` then has nothing that may be read.
pub(crate) fn open(header: &Header<'_>, row: &BodyRow, out: &mut Vec<u8>) -> Result<(), RecordError> {
    let damaged = |reason: String| RecordError::Body {
        leaf: row.leaf.leaf_index(),
        reason,
    };
    codec::unpack_into(&row.body, BODY_BYTES_MAX, out).map_err(|error| damaged(error.to_string()))?;
    if commitment(&row.salt, header.kind, out) != header.commitment {
        out.clear();
        return Err(damaged(ALTERED.to_owned()));
    }
    Ok(())
}

/// Calls `each` with what is stored of each leaf's body, in the order of the leaves, until it breaks off.
pub(crate) fn each_stored<E: From<RecordError>>(
    store: &dyn Store,
    leaves: &[LeafKey],
    mut each: impl FnMut(LeafKey, Body<BodyRow>) -> Result<ControlFlow<()>, E>,
) -> Result<(), E> {
    let mut rest = leaves;
    while !rest.is_empty() {
        let asked = &rest[..rest.len().min(HELD_LEAVES_MAX)];
        let (rows, looked) = store
            .bodies_page(asked, HELD_BYTES_MAX)
            .map_err(RecordError::from)?;
        let (page, others) = rest.split_at(looked.clamp(1, asked.len()));
        rest = others;
        let bodies = put_in_place(store, page, rows).map_err(RecordError::from)?;
        for (leaf, body) in page.iter().zip(bodies) {
            if each(*leaf, body)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What is stored of each leaf's body, in the order of the leaves.
pub(crate) fn stored(store: &dyn Store, leaves: &[LeafKey]) -> Result<Vec<Body<BodyRow>>, StoreError> {
    let rows = store.bodies_get(leaves)?;
    put_in_place(store, leaves, rows)
}

/// Of each leaf its body, or why there is none.
fn put_in_place(
    store: &dyn Store,
    leaves: &[LeafKey],
    rows: Vec<BodyRow>,
) -> Result<Vec<Body<BodyRow>>, StoreError> {
    let mut rows = rows.into_iter().peekable();
    let mut bodies: Vec<Body<BodyRow>> = Vec::with_capacity(leaves.len());
    let mut absent = Vec::new();
    for leaf in leaves {
        bodies.push(if let Some(row) = rows.next_if(|row| row.leaf == *leaf) {
            Body::There(row)
        } else {
            absent.push(*leaf);
            Body::Gone(Gone::Missing)
        });
    }
    // What is gone never comes back: asked for later, the answer is about the same absence.
    if !absent.is_empty() {
        let mut gone = store.bodies_gone(&absent)?.into_iter();
        for body in &mut bodies {
            if let Body::Gone(why) = body {
                *why = gone.next().unwrap_or(Gone::Missing);
            }
        }
    }
    Ok(bodies)
}
