//! Leaf positions and tree sizes, kept apart.

use std::fmt;

/// Largest tree size read from outside. Proofs in such a tree have at most
/// [`PROOF_HASHES_MAX`] hashes, the number C2SP allows, and no sum of two
/// sizes overflows. No log reaches it: a million leaves a second take 292,000 years.
pub const TREE_SIZE_MAX: u64 = 1 << 63;

/// Most hashes in one proof: the height of a tree of [`TREE_SIZE_MAX`] leaves.
/// C2SP tlog-witness and tlog-proof name the same number.
pub const PROOF_HASHES_MAX: usize = 63;

/// A leaf's 0-based position in its ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeafIndex(u64);

/// A number of leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreeSize(u64);

impl LeafIndex {
    /// The leaf at this 0-based position.
    pub const fn new(index: u64) -> Self {
        Self(index)
    }

    /// The 0-based position.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether a tree of `size` leaves has this leaf.
    pub const fn is_in(self, size: TreeSize) -> bool {
        self.0 < size.0
    }

    /// The smallest tree that has this leaf: one leaf more than its position.
    ///
    /// `None` for the position `u64::MAX`, which no tree has.
    pub const fn size_including(self) -> Option<TreeSize> {
        match self.0.checked_add(1) {
            Some(size) => Some(TreeSize(size)),
            None => None,
        }
    }
}

impl TreeSize {
    /// The tree without leaves.
    pub const ZERO: Self = Self(0);

    /// A tree of so many leaves.
    pub const fn new(leaves: u64) -> Self {
        Self(leaves)
    }

    /// The number of leaves.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The position the next leaf gets.
    pub const fn next_index(self) -> LeafIndex {
        LeafIndex(self.0)
    }

    /// The last leaf, unless the tree is empty.
    pub const fn last_index(self) -> Option<LeafIndex> {
        match self.0.checked_sub(1) {
            Some(index) => Some(LeafIndex(index)),
            None => None,
        }
    }
}

impl fmt::Display for LeafIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TreeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_the_leaves_below_its_size() {
        assert!(LeafIndex::new(2).is_in(TreeSize::new(3)));
        assert!(!LeafIndex::new(3).is_in(TreeSize::new(3)));
        assert_eq!(LeafIndex::new(2).size_including(), Some(TreeSize::new(3)));
        assert_eq!(LeafIndex::new(u64::MAX).size_including(), None);
        assert_eq!(TreeSize::new(3).last_index(), Some(LeafIndex::new(2)));
        assert_eq!(TreeSize::ZERO.last_index(), None);
        assert_eq!(TreeSize::new(3).next_index(), LeafIndex::new(3));
    }
}
