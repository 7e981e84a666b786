//! The right edge of a growing tree: all that is needed to append.
//!
//! Out of scope: making proofs, which needs nodes a frontier has forgotten
//! ([`crate::inclusion_proof`]).

use thiserror::Error;

use crate::{Hash, LeafIndex, NodeSource, ProofError, TREE_SIZE_MAX, TreeSize, empty_root, node_hash};

/// The roots of the complete subtrees a tree consists of, largest first: one for each set bit
/// of its size, 64 at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

/// Why peaks make no [`Frontier`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrontierError {
    /// A tree of this size has another number of peaks.
    #[error("a tree of {size} leaves has {expected} peaks, not {found}")]
    PeakCount {
        /// The size given.
        size: TreeSize,
        /// Number of set bits of the size.
        expected: usize,
        /// Number of peaks given.
        found: usize,
    },
    /// Larger than [`TREE_SIZE_MAX`].
    #[error("{0} leaves are more than a tree may have")]
    TooLarge(TreeSize),
}

impl Frontier {
    /// The tree without leaves.
    pub const fn new() -> Self {
        Self {
            size: 0,
            peaks: Vec::new(),
        }
    }

    /// Takes up a tree of `size` leaves from what [`Frontier::peaks`] gave.
    ///
    /// The hashes are believed; compare [`Frontier::root`] with the head they were stored with.
    ///
    /// # Errors
    /// [`FrontierError`].
    pub fn from_peaks(size: TreeSize, peaks: &[Hash]) -> Result<Self, FrontierError> {
        if size.as_u64() > TREE_SIZE_MAX {
            return Err(FrontierError::TooLarge(size));
        }
        let expected = size.as_u64().count_ones() as usize;
        if peaks.len() != expected {
            return Err(FrontierError::PeakCount {
                size,
                expected,
                found: peaks.len(),
            });
        }
        Ok(Self {
            size: size.as_u64(),
            peaks: peaks.to_vec(),
        })
    }

    /// Takes up the tree of the first `size` leaves of `source`, reading one node for each peak.
    ///
    /// # Errors
    /// [`ProofError::Source`] with the node's coordinates.
    pub fn from_source<S: NodeSource>(size: TreeSize, source: &S) -> Result<Self, ProofError<S::Error>> {
        let mut begin = 0;
        let mut peaks = Vec::new();
        for level in (0_u8..64).rev().filter(|level| size.as_u64() >> level & 1 == 1) {
            let index = begin >> level;
            let node = source.node(level, index);
            peaks.push(node.map_err(|source| ProofError::Source { level, index, source })?);
            begin += 1 << level;
        }
        Ok(Self {
            size: size.as_u64(),
            peaks,
        })
    }

    /// Appends a leaf hash; returns its position.
    pub fn push(&mut self, leaf: Hash) -> LeafIndex {
        self.push_with(leaf, |_, _, _| ())
    }

    /// Appends a leaf hash and reports every inner node this completes, from level 1 upward.
    ///
    /// `completed(level, index, hash)` gets the root of the leaves `index * 2^level` up to but not
    /// including `(index + 1) * 2^level`. A store that keeps levels 8, 16, … (tiles) keeps those.
    pub fn push_with(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, Hash)) -> LeafIndex {
        let position = LeafIndex::new(self.size);
        let mut hash = leaf;
        let mut index = self.size;
        let mut level = 0;
        // Each trailing one bit of the size is a peak as large as what is in hand.
        while index & 1 == 1 {
            let Some(left) = self.peaks.pop() else { break };
            hash = node_hash(&left, &hash);
            index >>= 1;
            level += 1;
            completed(level, index, hash);
        }
        self.peaks.push(hash);
        // No overflow: a tree starts at 2^63 leaves at most, and nobody pushes another 2^63.
        self.size += 1;
        position
    }

    /// Number of leaves.
    pub const fn size(&self) -> TreeSize {
        TreeSize::new(self.size)
    }

    /// The peaks, largest first: what [`Frontier::from_peaks`] takes.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The tree's root; at most 63 hash computations.
    pub fn root(&self) -> Hash {
        let mut smallest_first = self.peaks.iter().rev();
        let Some(smallest) = smallest_first.next() else {
            return empty_root();
        };
        smallest_first.fold(*smallest, |right, left| node_hash(left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryTree, leaf_hash, root_at};

    #[test]
    fn worked_roots() {
        let mut frontier = Frontier::new();
        let mut roots = vec![frontier.root().to_base64()];
        for entry in ["alpha", "bravo", "charlie"] {
            frontier.push(leaf_hash(entry.as_bytes()));
            roots.push(frontier.root().to_base64());
        }
        assert_eq!(roots[0], "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(roots[2], "+zPf97nye5TVdDHTxy4yaOXdqcTePSsNNKs0FG1uaAY=");
        assert_eq!(roots[3], "1BhuPAWmIM5hOX6Di/vXbm8n5tfaoTxZ64Ko4JRgjhw=");
    }

    #[test]
    fn completed_nodes_are_those_of_the_whole_tree() {
        let mut tree = MemoryTree::new();
        let mut frontier = Frontier::new();
        let mut reported = 0;
        for size in 0..=600_u32 {
            assert_eq!(frontier.size(), tree.size());
            assert_eq!(Ok(frontier.root()), root_at(tree.size(), &tree));
            assert_eq!(
                Frontier::from_peaks(tree.size(), frontier.peaks()),
                Ok(frontier.clone())
            );
            assert_eq!(Frontier::from_source(tree.size(), &tree), Ok(frontier.clone()));
            let leaf = leaf_hash(&size.to_be_bytes());
            let index = tree.push(leaf);
            let pushed = frontier.push_with(leaf, |level, index, hash| {
                assert_eq!(tree.node(level, index), Ok(hash));
                reported += 1;
            });
            assert_eq!(pushed, index);
        }
        // 601 leaves: 300 + 150 + 75 + 37 + 18 + 9 + 4 + 2 + 1 complete inner nodes.
        assert_eq!(reported, 596);
    }

    #[test]
    fn peaks_must_fit_the_size() {
        let peaks = [leaf_hash(b"a"), leaf_hash(b"b")];
        let size = TreeSize::new(3);
        assert!(Frontier::from_peaks(size, &peaks).is_ok());
        let count = FrontierError::PeakCount {
            size,
            expected: 2,
            found: 1,
        };
        assert_eq!(Frontier::from_peaks(size, &peaks[..1]), Err(count));
        let large = TreeSize::new(TREE_SIZE_MAX + 1);
        assert_eq!(
            Frontier::from_peaks(large, &peaks),
            Err(FrontierError::TooLarge(large))
        );
    }

    #[test]
    fn the_largest_tree_still_grows() {
        let mut frontier = Frontier::from_peaks(TreeSize::new(TREE_SIZE_MAX), &[empty_root()]).unwrap();
        assert_eq!(frontier.push(leaf_hash(b"a")).as_u64(), TREE_SIZE_MAX);
        assert_eq!(frontier.root(), node_hash(&empty_root(), &leaf_hash(b"a")));
    }
}
