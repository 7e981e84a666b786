//! The Merkle tree of a stored ledger: roots, proofs and tiles from blocks and nodes.
//!
//! Leaf hashes are not stored: a level-0 tile is hashed anew from its leaves,
//! which costs 0.2 ms and 32 bytes a leaf less. The roots of complete subtrees of
//! 256, 65,536 … leaves are.

use std::ops::Range;

use store::{LeafBlock, Store, StoreError, codec};
use tlog::{Frontier, Hash, LeafIndex, ProofError, TileNodes, TileNodesError, TreeSize};

/// Hashes of a full tile.
pub(crate) const TILE_WIDTH: u64 = 256;

/// Blocks read at once. Under load a block is full; idle, it holds one leaf, so a tile may need 256 of them.
const BLOCKS_READ: u32 = 256;

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Leaves or nodes that the head promises are missing or unreadable.
    #[error("ledger {ledger_no} is damaged at leaf {leaf}: {reason}")]
    Damaged {
        /// The ledger.
        ledger_no: u32,
        /// The first leaf concerned.
        leaf: u64,
        /// What is wrong.
        reason: String,
    },
    /// The question is about leaves that are not there.
    #[error("{0}")]
    OutOfRange(String),
}

impl TreeError {
    /// The same as an error of the store: what is wrong with a tree is damage, and that the store cannot answer now is none.
    pub(crate) fn into_store(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            other => StoreError::Damaged {
                place: "leaf_blocks",
                reason: other.to_string(),
            },
        }
    }
}

/// What was read; `None`: it is damaged, which is told elsewhere.
///
/// # Errors
/// The store cannot answer now, so that nothing is known of it.
pub(crate) fn unless_damaged<T, E: Into<TreeError>>(read: Result<T, E>) -> Result<Option<T>, StoreError> {
    match read
        .map_err(Into::<TreeError>::into)
        .map_err(TreeError::into_store)
    {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Damaged { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The tree of one ledger, as stored.
#[derive(Clone, Copy)]
pub struct StoredTree<'s> {
    store: &'s dyn Store,
    ledger_no: u32,
}

impl<'s> StoredTree<'s> {
    /// The tree of a ledger.
    pub fn new(store: &'s dyn Store, ledger_no: u32) -> Self {
        Self { store, ledger_no }
    }

    /// Calls `each` with every leaf of a range, in order.
    ///
    /// # Errors
    /// [`TreeError::Damaged`] when one is missing.
    pub fn leaves(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let mut next = range.start;
        while next < range.end {
            let blocks = {
                // A block has a leaf at least.
                let left = u32::try_from(range.end - next).unwrap_or(BLOCKS_READ);
                self.store
                    .blocks_read(self.ledger_no, next, left.min(BLOCKS_READ))?
            };
            if blocks.is_empty() {
                return Err(self.damaged(next, "the leaf is missing"));
            }
            for block in blocks {
                if block.first > next {
                    return Err(self.damaged(next, "the leaf is missing"));
                }
                let leaves = self.unpack(&block)?;
                for (place, leaf) in leaves.iter().enumerate() {
                    let index = block.first + u64::try_from(place).unwrap_or(u64::MAX);
                    if index == next && index < range.end {
                        each(index, leaf)?;
                        next += 1;
                    }
                }
                if next >= range.end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// One leaf's bytes.
    pub fn leaf(&self, index: u64) -> Result<Vec<u8>, TreeError> {
        let mut found = Vec::new();
        self.leaves(index..index + 1, |_, leaf| {
            found.extend_from_slice(leaf);
            Ok(())
        })?;
        Ok(found)
    }

    fn unpack(&self, block: &LeafBlock) -> Result<codec::Leaves, TreeError> {
        codec::Leaves::unpack(&block.leaves, block.count)
            .map_err(|error| self.damaged(block.first, &error.to_string()))
    }

    fn damaged(&self, leaf: u64, reason: &str) -> TreeError {
        TreeError::Damaged {
            ledger_no: self.ledger_no,
            leaf,
            reason: reason.to_owned(),
        }
    }

    /// The hashes of a tile, as far as a tree of `size` has them (1 to 256).
    pub fn tile(&self, level: u8, index: u64, size: TreeSize) -> Result<Vec<Hash>, TreeError> {
        let Some(width) = tlog::tile_width(level, index, size) else {
            return Err(TreeError::OutOfRange(format!(
                "tile {level}/{index} is beyond the tree"
            )));
        };
        let first = index * TILE_WIDTH;
        let hashes = if level == 0 {
            let mut hashes = Vec::with_capacity(width.as_usize());
            self.leaves(first..first + u64::from(width.as_u16()), |_, leaf| {
                hashes.push(tlog::leaf_hash(leaf));
                Ok(())
            })?;
            hashes
        } else {
            self.store
                .nodes_read(self.ledger_no, level, first, u32::from(width.as_u16()))?
        };
        if hashes.len() != width.as_usize() {
            return Err(self.damaged(
                first << (8 * u32::from(level)),
                &format!("tile {level}/{index} is short"),
            ));
        }
        Ok(hashes)
    }

    /// The leaves of an entry bundle, encoded as C2SP has it, as far as a tree of `size` has them.
    pub fn entries(&self, index: u64, size: TreeSize) -> Result<(u16, Vec<u8>), TreeError> {
        let Some(width) = tlog::tile_width(0, index, size) else {
            return Err(TreeError::OutOfRange(format!(
                "entry bundle {index} is beyond the tree"
            )));
        };
        let first = index * TILE_WIDTH;
        let mut bundle = Vec::new();
        self.leaves(first..first + u64::from(width.as_u16()), |index, leaf| {
            if codec::push_leaf(&mut bundle, leaf) {
                Ok(())
            } else {
                Err(self.damaged(index, "longer than a leaf"))
            }
        })?;
        Ok((width.as_u16(), bundle))
    }

    fn nodes(&self, size: TreeSize) -> TileNodes<impl Fn(u8, u64) -> Result<Vec<Hash>, TreeError>> {
        let tree = *self;
        TileNodes::new(move |level: u8, index: u64| tree.tile(level, index, size))
    }

    /// The root over the first `size` leaves.
    pub fn root(&self, size: TreeSize, of: TreeSize) -> Result<Hash, TreeError> {
        tlog::root_at(size, &self.nodes(of)).map_err(|error| self.proof_error(error))
    }

    /// The right edge of the tree.
    pub fn frontier(&self, size: TreeSize) -> Result<Frontier, TreeError> {
        Frontier::from_source(size, &self.nodes(size)).map_err(|error| self.proof_error(error))
    }

    /// Proof that a leaf is in the tree of that size.
    pub fn inclusion(&self, index: LeafIndex, size: TreeSize) -> Result<Vec<Hash>, TreeError> {
        tlog::inclusion_proof(index, size, &self.nodes(size)).map_err(|error| self.proof_error(error))
    }

    /// Proof that the tree of `first` leaves is a prefix of the tree of `second`.
    pub fn consistency(&self, first: TreeSize, second: TreeSize) -> Result<Vec<Hash>, TreeError> {
        tlog::consistency_proof(first, second, &self.nodes(second)).map_err(|error| self.proof_error(error))
    }

    fn proof_error(&self, error: ProofError<TileNodesError<TreeError>>) -> TreeError {
        match error {
            // That the store cannot answer now is no damage, and of damage it is told where.
            ProofError::Source {
                source: TileNodesError::Tile { source, .. },
                ..
            } => source,
            other => self.damaged(0, &other.to_string()),
        }
    }
}

impl std::fmt::Debug for StoredTree<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoredTree({})", self.ledger_no)
    }
}
