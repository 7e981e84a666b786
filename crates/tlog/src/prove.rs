//! Makes roots and proofs from the nodes of a tree.
//!
//! Out of scope: checking them ([`crate::verify_inclusion`]).
//! Start at [`inclusion_proof`]. Source: RFC 6962, section 2.1; the recursive
//! definitions there are walked from the leaves upward.

use std::convert::Infallible;

use thiserror::Error;

use crate::{Hash, LeafIndex, NodeSource, TreeSize, empty_root, node_hash};

/// Why a proof could not be made, or does not prove what it should.
///
/// Making one can fail with the first three, checking one with all but `Source`
/// (whose type is then uninhabited).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError<E = Infallible> {
    /// The tree has no such leaf; ask for a larger tree.
    #[error("leaf {index} is not in a tree of {size} leaves")]
    IndexBeyondSize {
        /// The leaf asked for.
        index: LeafIndex,
        /// The tree asked about.
        size: TreeSize,
    },
    /// The older tree is larger than the newer one; were they swapped?
    #[error("the older tree has {first} leaves, the newer only {second}")]
    FirstExceedsSecond {
        /// Size of the older tree.
        first: TreeSize,
        /// Size of the newer tree.
        second: TreeSize,
    },
    /// The node source failed.
    #[error("node {index} at level {level} could not be read")]
    Source {
        /// Level of the subtree's root; leaves are 0.
        level: u8,
        /// Position of the subtree among those of its level.
        index: u64,
        /// What the source said.
        source: E,
    },
    /// The proof has too few or too many hashes for these sizes.
    #[error("the proof has {found} hashes where {expected} belong")]
    WrongLength {
        /// Hashes in every proof of this shape.
        expected: usize,
        /// Hashes in the proof given.
        found: usize,
    },
    /// The proof leads to another root of the older tree.
    #[error("the proof does not lead to the older tree's root")]
    FirstRootDiffers,
    /// The proof leads to another root of the tree; in a consistency proof, of the newer one.
    #[error("the proof does not lead to the tree's root")]
    RootDiffers,
}

/// The root of the tree of the first `size` leaves.
///
/// # Errors
/// [`ProofError::Source`] with the node's coordinates.
///
/// Source: RFC 6962, section 2.1.
pub fn root_at<S: NodeSource>(size: TreeSize, source: &S) -> Result<Hash, ProofError<S::Error>> {
    Ok(edge_root(0, size.as_u64(), source)?.unwrap_or(empty_root()))
}

/// Proves that the leaf at `index` is in the tree of the first `size` leaves.
///
/// Hashes run from the leaf's sibling to the root's child; a tree of one leaf has an empty proof.
///
/// # Errors
/// [`ProofError::IndexBeyondSize`], or [`ProofError::Source`] with the node's coordinates.
///
/// Source: RFC 6962, section 2.1.1.
pub fn inclusion_proof<S: NodeSource>(
    index: LeafIndex,
    size: TreeSize,
    source: &S,
) -> Result<Vec<Hash>, ProofError<S::Error>> {
    if !index.is_in(size) {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let mut proof = Vec::new();
    extend_path(&mut proof, 0, index.as_u64(), size.as_u64(), source)?;
    Ok(proof)
}

/// Proves that the first `first` leaves are a prefix of the first `second`.
///
/// Hashes run from the leaves upward. The proof is empty when the sizes are equal and when
/// `first` is 0; the older root is not repeated when `first` is a power of two.
///
/// # Errors
/// [`ProofError::FirstExceedsSecond`], or [`ProofError::Source`] with the node's coordinates.
///
/// Source: RFC 6962, section 2.1.2.
pub fn consistency_proof<S: NodeSource>(
    first: TreeSize,
    second: TreeSize,
    source: &S,
) -> Result<Vec<Hash>, ProofError<S::Error>> {
    if first > second {
        return Err(ProofError::FirstExceedsSecond { first, second });
    }
    let mut proof = Vec::new();
    if first == TreeSize::ZERO || first == second {
        return Ok(proof);
    }
    // The smallest complete subtree at the older tree's right edge is in both trees.
    // Its path in the newer tree rebuilds both roots.
    let level = narrow(first.as_u64().trailing_zeros());
    let index = (first.as_u64() - 1) >> level;
    if index > 0 {
        proof.push(read(level, index, source)?);
    }
    extend_path(&mut proof, level, index, second.as_u64(), source)?;
    Ok(proof)
}

/// Appends the siblings on the way from node (`level`, `index`) to the root of `size` leaves.
///
/// The node must be in the tree, so `size` is not 0.
fn extend_path<S: NodeSource>(
    proof: &mut Vec<Hash>,
    mut level: u8,
    mut index: u64,
    size: u64,
    source: &S,
) -> Result<(), ProofError<S::Error>> {
    let last_leaf = size.saturating_sub(1);
    // The right-most node of this level; perhaps not complete.
    let mut last = last_leaf >> level;
    while last > 0 {
        let sibling = index ^ 1;
        if sibling < last {
            proof.push(read(level, sibling, source)?);
        } else if sibling == last {
            proof.extend(edge_root(last << level, size, source)?);
        }
        // A sibling beyond `last` does not exist: the node moves up unchanged.
        index >>= 1;
        last >>= 1;
        level += 1;
    }
    Ok(())
}

/// The root of leaves `begin..size`, a right edge of the tree; `None` when there are none.
///
/// `begin` must be the first leaf of a subtree at least as large as the range.
fn edge_root<S: NodeSource>(begin: u64, size: u64, source: &S) -> Result<Option<Hash>, ProofError<S::Error>> {
    // From the smallest complete subtree, at the right, to the largest.
    let mut root = None;
    let mut end = size;
    while end > begin {
        // `begin` is aligned to at least the range, so the range's lowest bit is the last subtree.
        let level = narrow((end - begin).trailing_zeros());
        end -= 1 << level;
        let left = read(level, end >> level, source)?;
        root = Some(root.map_or(left, |right| node_hash(&left, &right)));
    }
    Ok(root)
}

fn read<S: NodeSource>(level: u8, index: u64, source: &S) -> Result<Hash, ProofError<S::Error>> {
    source
        .node(level, index)
        .map_err(|source| ProofError::Source { level, index, source })
}

/// Bit counts of a `u64` are at most 64.
fn narrow(bits: u32) -> u8 {
    u8::try_from(bits).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryTree, NodeMissing, leaf_hash};

    fn tree(size: u64) -> MemoryTree {
        (0..size)
            .map(|index| leaf_hash(index.to_string().as_bytes()))
            .collect()
    }

    /// RFC 6962's definitions, copied literally.
    mod literal {
        use crate::{Hash, empty_root, node_hash};

        fn split(n: usize) -> usize {
            n.next_power_of_two() / 2
        }

        pub(super) fn root(leaves: &[Hash]) -> Hash {
            match leaves {
                [] => empty_root(),
                [leaf] => *leaf,
                _ => {
                    let (left, right) = leaves.split_at(split(leaves.len()));
                    node_hash(&root(left), &root(right))
                }
            }
        }

        pub(super) fn path(m: usize, leaves: &[Hash]) -> Vec<Hash> {
            if leaves.len() <= 1 {
                return Vec::new();
            }
            let k = split(leaves.len());
            let (left, right) = leaves.split_at(k);
            let (mut proof, sibling) = if m < k {
                (path(m, left), root(right))
            } else {
                (path(m - k, right), root(left))
            };
            proof.push(sibling);
            proof
        }

        pub(super) fn subproof(m: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
            if m == leaves.len() {
                return if whole { Vec::new() } else { vec![root(leaves)] };
            }
            let k = split(leaves.len());
            let (left, right) = leaves.split_at(k);
            let (mut proof, other) = if m <= k {
                (subproof(m, left, whole), root(right))
            } else {
                (subproof(m - k, right, false), root(left))
            };
            proof.push(other);
            proof
        }
    }

    #[test]
    fn roots_and_proofs_equal_the_literal_definitions() {
        let leaves: Vec<Hash> = (0..70_u8).map(|index| leaf_hash(&[index])).collect();
        let source: MemoryTree = leaves.iter().copied().collect();
        for size in 0..=leaves.len() {
            let shown = &leaves[..size];
            let tree_size = TreeSize::new(size as u64);
            assert_eq!(root_at(tree_size, &source), Ok(literal::root(shown)));
            for other in 0..size {
                let index = LeafIndex::new(other as u64);
                assert_eq!(
                    inclusion_proof(index, tree_size, &source),
                    Ok(literal::path(other, shown))
                );
                let first = TreeSize::new(other as u64);
                let expected = if other == 0 {
                    Vec::new()
                } else {
                    literal::subproof(other, shown, true)
                };
                assert_eq!(
                    consistency_proof(first, tree_size, &source),
                    Ok(expected),
                    "{other} {size}"
                );
            }
        }
    }

    #[test]
    fn proofs_outside_the_tree_are_refused() {
        let source = tree(5);
        let (index, size) = (LeafIndex::new(5), TreeSize::new(5));
        assert_eq!(
            inclusion_proof(index, size, &source),
            Err(ProofError::IndexBeyondSize { index, size })
        );
        let (first, second) = (TreeSize::new(6), TreeSize::new(5));
        assert_eq!(
            consistency_proof(first, second, &source),
            Err(ProofError::FirstExceedsSecond { first, second })
        );
    }

    #[test]
    fn a_missing_node_is_named() {
        let missing = NodeMissing { level: 2, index: 2 };
        let expected = ProofError::Source {
            level: 2,
            index: 2,
            source: missing,
        };
        assert_eq!(root_at(TreeSize::new(12), &tree(7)), Err(expected));
    }

    #[test]
    fn the_largest_trees_ask_for_sound_coordinates() {
        struct Coordinates;
        impl NodeSource for Coordinates {
            type Error = (u8, u64);
            fn node(&self, level: u8, index: u64) -> Result<Hash, (u8, u64)> {
                // (index + 1) << level must not pass 2^64.
                let end = (u128::from(index) + 1) << level;
                if end <= 1 << 64 {
                    Ok(leaf_hash(&[level]))
                } else {
                    Err((level, index))
                }
            }
        }
        for size in [u64::MAX, 1 << 63, (1 << 63) - 1, (1 << 63) + 1] {
            let size = TreeSize::new(size);
            assert!(root_at(size, &Coordinates).is_ok());
            for other in [1, 2, 1 << 62, (1 << 62) + 1, (1 << 63) - 2] {
                let proof = inclusion_proof(LeafIndex::new(other), size, &Coordinates).unwrap();
                assert!(proof.len() <= 64);
                assert!(consistency_proof(TreeSize::new(other), size, &Coordinates).is_ok());
            }
        }
    }
}
