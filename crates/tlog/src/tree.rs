//! Where proofs find their hashes, and a tree held in memory.
//!
//! Out of scope: trees kept in a database (they implement [`NodeSource`]) and in
//! tiles ([`crate::TileNodes`]).

use thiserror::Error;

use crate::{Hash, LeafIndex, TreeSize, node_hash};

/// Answers with the roots of complete subtrees.
pub trait NodeSource {
    /// Why a node could not be had.
    type Error;

    /// The root of the leaves `index * 2^level` up to but not including `(index + 1) * 2^level`.
    ///
    /// Only complete subtrees of the tree in question are asked for; level 0 are the leaf hashes.
    ///
    /// # Errors
    /// The source's own, when it cannot answer.
    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error>;
}

impl<S: NodeSource + ?Sized> NodeSource for &S {
    type Error = S::Error;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        (**self).node(level, index)
    }
}

/// The tree is too small to have the subtree asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no complete subtree {index} at level {level}")]
pub struct NodeMissing {
    /// Level of the subtree's root; leaves are 0.
    pub level: u8,
    /// Position of the subtree among those of its level.
    pub index: u64,
}

/// A whole tree in memory, 64 bytes a leaf: for tests and for small trees.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    /// `levels[l][i]` is the node at level `l` and index `i`; no level is empty.
    levels: Vec<Vec<Hash>>,
}

impl MemoryTree {
    /// The tree without leaves.
    pub const fn new() -> Self {
        Self { levels: Vec::new() }
    }

    /// Appends a leaf hash and every complete subtree it closes.
    pub fn push(&mut self, leaf: Hash) -> LeafIndex {
        let index = self.size().next_index();
        let mut hash = leaf;
        let mut level = 0;
        loop {
            if level == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let Some(row) = self.levels.get_mut(level) else {
                return index;
            };
            row.push(hash);
            // An even count means the hash just pushed is a right child.
            match row.as_slice() {
                [.., left, right] if row.len().is_multiple_of(2) => hash = node_hash(left, right),
                _ => return index,
            }
            level += 1;
        }
    }

    /// Number of leaves.
    pub fn size(&self) -> TreeSize {
        let leaves = self.levels.first().map_or(0, Vec::len);
        TreeSize::new(leaves as u64)
    }
}

impl FromIterator<Hash> for MemoryTree {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut tree = Self::new();
        leaves.into_iter().for_each(|leaf| {
            tree.push(leaf);
        });
        tree
    }
}

impl NodeSource for MemoryTree {
    type Error = NodeMissing;

    fn node(&self, level: u8, index: u64) -> Result<Hash, NodeMissing> {
        let position = usize::try_from(index).ok();
        let row = self.levels.get(usize::from(level));
        let hash = row.zip(position).and_then(|(row, position)| row.get(position));
        hash.copied().ok_or(NodeMissing { level, index })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf_hash;

    #[test]
    fn only_complete_subtrees_are_nodes() {
        let leaves = [leaf_hash(b"a"), leaf_hash(b"b"), leaf_hash(b"c")];
        let tree: MemoryTree = leaves.into_iter().collect();
        assert_eq!(tree.size(), TreeSize::new(3));
        assert_eq!(tree.node(0, 2), Ok(leaves[2]));
        assert_eq!(tree.node(1, 0), Ok(node_hash(&leaves[0], &leaves[1])));
        for (level, index) in [(0, 3), (1, 1), (2, 0), (255, 0), (0, u64::MAX)] {
            assert_eq!(tree.node(level, index), Err(NodeMissing { level, index }));
        }
    }
}
