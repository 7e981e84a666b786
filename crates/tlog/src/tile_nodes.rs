//! The nodes of a tree that is kept as tiles.
//!
//! Out of scope: fetching tiles; a callback does, and may fall back from a partial
//! tile to the full one, since more hashes than needed are fine.

use std::cell::RefCell;

use thiserror::Error;

use crate::{Hash, NodeSource, TILE_HASHES, node_hash};

/// Tiles kept at a time. A proof touches two tiles on each of at most eight levels: the one on its
/// path and the one at the right edge. 16 full tiles are 128 KiB.
const TILES_CACHED_MAX: usize = 16;

/// A [`NodeSource`] over tiles: only every eighth level is stored, the others are hashed anew.
///
/// The tiles are believed. A proof made of a wrong tile does not verify.
pub struct TileNodes<F> {
    tile: F,
    /// Oldest first.
    cache: RefCell<Vec<CachedTile>>,
}

struct CachedTile {
    level: u8,
    index: u64,
    hashes: Vec<Hash>,
}

impl CachedTile {
    fn is_at(&self, level: u8, index: u64) -> bool {
        (self.level, self.index) == (level, index)
    }
}

/// Why tiles could not give a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TileNodesError<E> {
    /// The callback failed.
    #[error("tile {index} at tile level {level} could not be read")]
    Tile {
        /// Tile level.
        level: u8,
        /// Position among the tiles of its level.
        index: u64,
        /// What the callback said.
        source: E,
    },
    /// The tile has fewer hashes than the tree's size says, or more than 256.
    #[error("tile {index} at tile level {level} has {found} hashes where {needed} are needed")]
    Width {
        /// Tile level.
        level: u8,
        /// Position among the tiles of its level.
        index: u64,
        /// Hashes needed, counted from the tile's first.
        needed: usize,
        /// Hashes the callback gave.
        found: usize,
    },
    /// No tree of 64-bit size has this node.
    #[error("no tree has a node {index} at level {level}")]
    OutOfRange {
        /// Level of the subtree's root; leaves are 0.
        level: u8,
        /// Position of the subtree among those of its level.
        index: u64,
    },
}

impl<F, E> TileNodes<F>
where
    F: Fn(u8, u64) -> Result<Vec<Hash>, E>,
{
    /// Reads tiles through `tile(level, index)`, which gives the hashes of the tile at tile level
    /// `level` (0 holds leaf hashes), as many as there are or as are needed.
    pub const fn new(tile: F) -> Self {
        Self {
            tile,
            cache: RefCell::new(Vec::new()),
        }
    }

    /// The hashes `offset..end` of one tile, joined to one.
    fn join(&self, level: u8, index: u64, offset: usize, end: usize) -> Result<Hash, TileNodesError<E>> {
        let cached = self
            .cache
            .borrow()
            .iter()
            .find(|tile| tile.is_at(level, index))
            .and_then(|tile| {
                let hashes = tile.hashes.get(offset..end)?;
                Some(root_of_complete(hashes))
            });
        if let Some(hash) = cached {
            return Ok(hash);
        }
        // Not cached, or cached when the tile was narrower. Nothing is borrowed during the call.
        let tile =
            (self.tile)(level, index).map_err(|source| TileNodesError::Tile { level, index, source })?;
        let found = tile.len();
        let hashes = tile
            .get(offset..end)
            .filter(|_| found <= usize::from(TILE_HASHES));
        let hash = hashes.map(root_of_complete).ok_or(TileNodesError::Width {
            level,
            index,
            needed: end,
            found,
        })?;
        let mut cache = self.cache.borrow_mut();
        cache.retain(|tile| !tile.is_at(level, index));
        if cache.len() == TILES_CACHED_MAX {
            cache.remove(0);
        }
        cache.push(CachedTile {
            level,
            index,
            hashes: tile,
        });
        Ok(hash)
    }
}

impl<F, E> NodeSource for TileNodes<F>
where
    F: Fn(u8, u64) -> Result<Vec<Hash>, E>,
{
    type Error = TileNodesError<E>;

    fn node(&self, level: u8, index: u64) -> Result<Hash, Self::Error> {
        // The node is the root of `width` neighbouring hashes of one tile.
        let width = 1_u64 << (level % 8);
        let first = index
            .checked_mul(width)
            .ok_or(TileNodesError::OutOfRange { level, index })?;
        let tile = first / u64::from(TILE_HASHES);
        let offset = first % u64::from(TILE_HASHES);
        // Both are at most 256.
        let (Ok(offset), Ok(end)) = (usize::try_from(offset), usize::try_from(offset + width)) else {
            return Err(TileNodesError::OutOfRange { level, index });
        };
        self.join(level / 8, tile, offset, end)
    }
}

/// The root over a power of two of hashes. Level by level, in place of recursion.
fn root_of_complete(hashes: &[Hash]) -> Hash {
    let mut peaks: Vec<(u32, Hash)> = Vec::with_capacity(9);
    for hash in hashes {
        let mut top = (0, *hash);
        while let Some(left) = peaks.pop_if(|(level, _)| *level == top.0) {
            top = (top.0 + 1, node_hash(&left.1, &top.1));
        }
        peaks.push(top);
    }
    // One peak remains: callers pass 1, 2, 4, … or 128 hashes.
    peaks.first().map_or(crate::empty_root(), |(_, hash)| *hash)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use super::*;
    use crate::{LeafIndex, MemoryTree, TreeSize, inclusion_proof, leaf_hash, tile_width};

    /// Cuts a tile out of a tree in memory.
    fn tile_of(tree: &MemoryTree, level: u8, index: u64) -> Vec<Hash> {
        let width = tile_width(level, index, tree.size()).map_or(0, |width| u64::from(width.as_u16()));
        let first = index * u64::from(TILE_HASHES);
        (first..first + width)
            .map(|node| tree.node(8 * level, node).unwrap())
            .collect()
    }

    #[test]
    fn proofs_from_tiles_equal_proofs_from_the_tree() {
        let tree: MemoryTree = (0..70_000_u32)
            .map(|index| leaf_hash(&index.to_be_bytes()))
            .collect();
        let reads = Cell::new(0);
        let source = TileNodes::new(|level, index| {
            reads.set(reads.get() + 1);
            Ok::<_, Infallible>(tile_of(&tree, level, index))
        });
        for size in [1, 255, 256, 257, 65_535, 65_536, 65_537, 69_999, 70_000] {
            let size = TreeSize::new(size);
            for index in [0, 1, 255, 256, 12_345, 65_535, 65_536, 69_999] {
                let index = LeafIndex::new(index);
                if index.is_in(size) {
                    let expected = inclusion_proof(index, size, &tree).unwrap();
                    assert_eq!(inclusion_proof(index, size, &source), Ok(expected));
                }
            }
        }
        assert!(reads.get() < 60, "{} tiles read for 45 proofs", reads.get());
    }

    #[test]
    fn a_tile_too_narrow_or_too_wide_is_named() {
        let narrow = TileNodes::new(|_, _| Ok::<_, Infallible>(vec![leaf_hash(b""); 3]));
        assert!(narrow.node(1, 0).is_ok());
        let width = |needed, found| TileNodesError::Width {
            level: 0,
            index: 0,
            needed,
            found,
        };
        assert_eq!(narrow.node(1, 1), Err(width(4, 3)));
        let wide = TileNodes::new(|_, _| Ok::<_, Infallible>(vec![leaf_hash(b""); 257]));
        assert_eq!(wide.node(0, 0), Err(width(1, 257)));
    }

    #[test]
    fn a_grown_tile_is_read_again() {
        let hashes = Cell::new(1);
        let source = TileNodes::new(|_, _| Ok::<_, Infallible>(vec![leaf_hash(b""); hashes.get()]));
        assert!(source.node(0, 0).is_ok());
        hashes.set(2);
        assert!(source.node(1, 0).is_ok());
    }

    #[test]
    fn nodes_outside_every_tree_are_refused() {
        let source = TileNodes::new(|_, _| Err::<Vec<Hash>, _>("no tile"));
        let failed = TileNodesError::Tile {
            level: 8,
            index: 0,
            source: "no tile",
        };
        assert_eq!(source.node(64, 0), Err(failed));
        let (level, index) = (7, u64::MAX);
        assert_eq!(
            source.node(level, index),
            Err(TileNodesError::OutOfRange { level, index })
        );
    }
}
