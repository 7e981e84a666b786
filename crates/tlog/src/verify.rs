//! Checks proofs. Nothing here trusts its input, and nothing allocates.
//!
//! Out of scope: where the roots come from; a root is worth what its checkpoint's
//! signatures are worth ([`crate::Checkpoint::open`]).
//! Start at [`verify_inclusion`]. Source: RFC 9162, sections 2.1.3.2 and 2.1.4.2.
//!
//! The RFC walks two counters up the tree. Here the same walk is cut in two
//! beforehand: while the path is inside the tree its turns follow the bits of the
//! index; where it runs along the right edge every remaining hash is a left
//! sibling. So the length of a proof is known before anything is hashed.

use crate::{Hash, LeafIndex, ProofError, TreeSize, empty_root, node_hash};

/// Checks that the leaf at `index` is `leaf` in the tree of `size` leaves with this `root`.
///
/// `proof` runs from the leaf's sibling to the root's child.
///
/// # Errors
/// [`ProofError::IndexBeyondSize`], [`ProofError::WrongLength`] or [`ProofError::RootDiffers`].
pub fn verify_inclusion(
    leaf: &Hash,
    index: LeafIndex,
    size: TreeSize,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), ProofError> {
    if !index.is_in(size) {
        return Err(ProofError::IndexBeyondSize { index, size });
    }
    let shape = Shape::of(index.as_u64(), size.as_u64() - 1);
    let (inner, edge) = shape.cut(proof)?;
    let computed = climb_edge(climb(*leaf, index.as_u64(), inner), edge);
    if computed == *root {
        Ok(())
    } else {
        Err(ProofError::RootDiffers)
    }
}

/// Checks that the tree (`first`, `first_root`) is a prefix of the tree (`second`, `second_root`).
///
/// Equal sizes want equal roots and an empty proof. The empty tree is a prefix of every tree: then
/// the proof is empty and says nothing about `second_root`.
///
/// # Errors
/// [`ProofError::FirstExceedsSecond`], [`ProofError::WrongLength`], [`ProofError::FirstRootDiffers`]
/// or [`ProofError::RootDiffers`].
pub fn verify_consistency(
    first: TreeSize,
    second: TreeSize,
    proof: &[Hash],
    first_root: &Hash,
    second_root: &Hash,
) -> Result<(), ProofError> {
    if first > second {
        return Err(ProofError::FirstExceedsSecond { first, second });
    }
    let Some(first_last) = first.as_u64().checked_sub(1).filter(|_| first < second) else {
        return verify_trivial(first, second, proof, first_root, second_root);
    };
    // The smallest complete subtree at the older tree's right edge starts both climbs.
    // If it is the whole older tree, its root is known and not in the proof.
    let level = first.as_u64().trailing_zeros();
    let index = first_last >> level;
    let shape = Shape::of(index, (second.as_u64() - 1) >> level);
    let (seed, path) = match proof.split_first() {
        _ if index == 0 => (first_root, proof),
        Some(split) => split,
        None => {
            return Err(ProofError::WrongLength {
                expected: shape.hashes() + 1,
                found: 0,
            });
        }
    };
    let (inner, edge) = shape.cut(path).map_err(|error| match error {
        // Counted without the seed.
        ProofError::WrongLength { expected, found } if index > 0 => ProofError::WrongLength {
            expected: expected + 1,
            found: found + 1,
        },
        other => other,
    })?;
    // In the older tree only left siblings count; in the newer one all.
    let older = climb_edge(climb_left(*seed, index, inner), edge);
    if older != *first_root {
        return Err(ProofError::FirstRootDiffers);
    }
    let newer = climb_edge(climb(*seed, index, inner), edge);
    if newer == *second_root {
        Ok(())
    } else {
        Err(ProofError::RootDiffers)
    }
}

/// Equal sizes, or an empty older tree.
fn verify_trivial(
    first: TreeSize,
    second: TreeSize,
    proof: &[Hash],
    first_root: &Hash,
    second_root: &Hash,
) -> Result<(), ProofError> {
    if !proof.is_empty() {
        return Err(ProofError::WrongLength {
            expected: 0,
            found: proof.len(),
        });
    }
    if first == TreeSize::ZERO && *first_root != empty_root() {
        return Err(ProofError::FirstRootDiffers);
    }
    if first == second && first_root != second_root {
        return Err(ProofError::RootDiffers);
    }
    Ok(())
}

/// How many hashes a path has, in its two parts.
#[derive(Clone, Copy)]
struct Shape {
    /// Levels on which the path has not yet met the right edge: one hash each.
    inner: usize,
    /// Left siblings along the right edge: one for each further set bit of the index.
    edge: usize,
}

impl Shape {
    /// Of the path from `index` where `last` is the level's right-most index.
    fn of(index: u64, last: u64) -> Self {
        let inner = u64::BITS - (index ^ last).leading_zeros();
        let edge = index.checked_shr(inner).unwrap_or(0).count_ones();
        Self {
            inner: inner as usize,
            edge: edge as usize,
        }
    }

    fn hashes(self) -> usize {
        self.inner + self.edge
    }

    fn cut(self, proof: &[Hash]) -> Result<(&[Hash], &[Hash]), ProofError> {
        if proof.len() == self.hashes() {
            Ok(proof.split_at(self.inner))
        } else {
            Err(ProofError::WrongLength {
                expected: self.hashes(),
                found: proof.len(),
            })
        }
    }
}

/// Joins siblings left or right, as the bits of `index` say.
fn climb(from: Hash, index: u64, siblings: &[Hash]) -> Hash {
    let mut turns = index;
    siblings.iter().fold(from, |hash, sibling| {
        let right_child = turns & 1 == 1;
        turns >>= 1;
        if right_child {
            node_hash(sibling, &hash)
        } else {
            node_hash(&hash, sibling)
        }
    })
}

/// Joins only the siblings on the left.
fn climb_left(from: Hash, index: u64, siblings: &[Hash]) -> Hash {
    let mut turns = index;
    siblings.iter().fold(from, |hash, sibling| {
        let right_child = turns & 1 == 1;
        turns >>= 1;
        if right_child {
            node_hash(sibling, &hash)
        } else {
            hash
        }
    })
}

/// Joins siblings that are all on the left.
fn climb_edge(from: Hash, siblings: &[Hash]) -> Hash {
    siblings
        .iter()
        .fold(from, |hash, sibling| node_hash(sibling, &hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryTree, consistency_proof, inclusion_proof, leaf_hash, root_at};

    /// RFC 9162, section 2.1.3.2, step by step.
    fn literal_inclusion(leaf: Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
        if index >= size {
            return false;
        }
        let (mut node, mut last, mut hash) = (index, size - 1, leaf);
        for sibling in proof {
            if last == 0 {
                return false;
            }
            if node & 1 == 1 || node == last {
                hash = node_hash(sibling, &hash);
                while node & 1 == 0 && node != 0 {
                    node >>= 1;
                    last >>= 1;
                }
            } else {
                hash = node_hash(&hash, sibling);
            }
            node >>= 1;
            last >>= 1;
        }
        last == 0 && hash == *root
    }

    /// RFC 9162, section 2.1.4.2, step by step; `0 < first < second`.
    fn literal_consistency(first: u64, second: u64, proof: &[Hash], old: &Hash, new: &Hash) -> bool {
        let mut path = proof.to_vec();
        if first.is_power_of_two() {
            path.insert(0, *old);
        }
        let Some((seed, rest)) = path.split_first() else {
            return false;
        };
        let (mut node, mut last) = (first - 1, second - 1);
        while node & 1 == 1 {
            node >>= 1;
            last >>= 1;
        }
        let (mut older, mut newer) = (*seed, *seed);
        for hash in rest {
            if last == 0 {
                return false;
            }
            if node & 1 == 1 || node == last {
                older = node_hash(hash, &older);
                newer = node_hash(hash, &newer);
                while node & 1 == 0 && node != 0 {
                    node >>= 1;
                    last >>= 1;
                }
            } else {
                newer = node_hash(&newer, hash);
            }
            node >>= 1;
            last >>= 1;
        }
        older == *old && newer == *new && last == 0
    }

    fn tree(size: u64) -> MemoryTree {
        (0..size)
            .map(|index| leaf_hash(index.to_string().as_bytes()))
            .collect()
    }

    #[test]
    fn both_checks_equal_the_rfc_step_by_step() {
        let source = tree(40);
        let root = |size| root_at(TreeSize::new(size), &source).unwrap();
        for size in 1..=40 {
            for other in 1..size {
                let leaf = leaf_hash(other.to_string().as_bytes());
                let (index, second) = (LeafIndex::new(other), TreeSize::new(size));
                let good = inclusion_proof(index, second, &source).unwrap();
                // Every proof is also tried in every other tree of up to 40 leaves.
                for claimed in 0..=40 {
                    let ours = verify_inclusion(&leaf, index, TreeSize::new(claimed), &good, &root(size));
                    let theirs = literal_inclusion(leaf, other, claimed, &good, &root(size));
                    assert_eq!(ours.is_ok(), theirs, "{other} in {size} claimed {claimed}");
                    assert_eq!(claimed == size, ours.is_ok() && claimed == size);
                }
                let good = consistency_proof(TreeSize::new(other), second, &source).unwrap();
                for claimed in other + 1..=40 {
                    let (first, claim) = (TreeSize::new(other), TreeSize::new(claimed));
                    let ours = verify_consistency(first, claim, &good, &root(other), &root(size));
                    let theirs = literal_consistency(other, claimed, &good, &root(other), &root(size));
                    assert_eq!(ours.is_ok(), theirs, "{other} to {size} claimed {claimed}");
                }
            }
        }
    }

    #[test]
    fn lengths_are_counted_with_the_seed() {
        let source = tree(11);
        let (first, second) = (TreeSize::new(6), TreeSize::new(11));
        let root = |size| root_at(size, &source).unwrap();
        let good = consistency_proof(first, second, &source).unwrap();
        for found in 0..=good.len() + 3 {
            let proof: Vec<Hash> = good.iter().copied().cycle().take(found).collect();
            let result = verify_consistency(first, second, &proof, &root(first), &root(second));
            let expected = good.len();
            let wanted = if found == expected {
                Ok(())
            } else {
                Err(ProofError::WrongLength { expected, found })
            };
            assert_eq!(result, wanted);
        }
    }

    #[test]
    fn trivial_consistency_wants_an_empty_proof() {
        let source = tree(3);
        let root = root_at(TreeSize::new(3), &source).unwrap();
        let (zero, three) = (TreeSize::ZERO, TreeSize::new(3));
        assert_eq!(verify_consistency(three, three, &[], &root, &root), Ok(()));
        assert_eq!(verify_consistency(zero, three, &[], &empty_root(), &root), Ok(()));
        assert_eq!(
            verify_consistency(zero, zero, &[], &empty_root(), &empty_root()),
            Ok(())
        );
        let too_long = Err(ProofError::WrongLength {
            expected: 0,
            found: 1,
        });
        assert_eq!(verify_consistency(three, three, &[root], &root, &root), too_long);
        assert_eq!(
            verify_consistency(zero, three, &[root], &empty_root(), &root),
            too_long
        );
        let other = leaf_hash(b"other");
        assert_eq!(
            verify_consistency(three, three, &[], &other, &root),
            Err(ProofError::RootDiffers)
        );
        assert_eq!(
            verify_consistency(zero, three, &[], &other, &root),
            Err(ProofError::FirstRootDiffers)
        );
        assert_eq!(
            verify_consistency(zero, zero, &[], &root, &root),
            Err(ProofError::FirstRootDiffers)
        );
        let swapped = Err(ProofError::FirstExceedsSecond {
            first: three,
            second: zero,
        });
        assert_eq!(
            verify_consistency(three, zero, &[], &root, &empty_root()),
            swapped
        );
    }

    #[test]
    fn a_leaf_is_not_in_the_empty_tree() {
        let (leaf, index) = (leaf_hash(b"0"), LeafIndex::new(0));
        let refused = Err(ProofError::IndexBeyondSize {
            index,
            size: TreeSize::ZERO,
        });
        assert_eq!(
            verify_inclusion(&leaf, index, TreeSize::ZERO, &[], &empty_root()),
            refused
        );
        assert_eq!(
            verify_inclusion(&leaf, index, TreeSize::new(1), &[], &leaf),
            Ok(())
        );
    }
}
