//! What is there of a record's body.
//!
//! A body goes in two ways, and which of them it was matters to whoever reads: what is erased says nothing any
//! more, what is archived still says it, elsewhere. Neither is ever read as "there was none".

use store::{BodyRow, Gone, LeafKey, Store, StoreError};

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

/// What is stored of each leaf's body, in the order of the leaves.
pub(crate) fn stored(store: &dyn Store, leaves: &[LeafKey]) -> Result<Vec<Body<BodyRow>>, StoreError> {
    let mut rows = store.bodies_get(leaves)?.into_iter().peekable();
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
