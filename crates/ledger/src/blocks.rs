//! Blocks of leaves that were unpacked lately.
//!
//! A block of 256 leaves takes 0.1 ms to unpack. The newest records of a kind lie one in a block when others come in
//! between, so that a page of them takes as many blocks; whoever looks at such a list looks at it again. A block that
//! is written never changes. Verification reads for itself and asks nothing of this.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use store::codec::Leaves;

/// Most bytes that are kept, unpacked: sixty full blocks of leaves of 500 bytes.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Larger blocks are not kept: they would drive all others out.
const BLOCK_BYTES_MAX: usize = 1024 * 1024;

/// Most blocks that are kept: an idle ledger has one leaf a block, and all are looked through.
const KEPT_MAX: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// Used longest ago first.
    blocks: VecDeque<Arc<Block>>,
    bytes: usize,
}

/// One block, unpacked.
#[derive(Debug)]
pub(crate) struct Block {
    ledger_no: u32,
    first: u64,
    leaves: Leaves,
}

impl Block {
    pub(crate) fn new(ledger_no: u32, first: u64, leaves: Leaves) -> Self {
        Self {
            ledger_no,
            first,
            leaves,
        }
    }

    /// The leaf of that index, when it is in this block.
    pub(crate) fn leaf(&self, ledger_no: u32, index: u64) -> Option<&[u8]> {
        if ledger_no != self.ledger_no {
            return None;
        }
        let place = index.checked_sub(self.first)?;
        self.leaves.get(usize::try_from(place).ok()?)
    }
}

impl Blocks {
    /// The block that holds a leaf, if it is kept.
    pub(crate) fn find(&self, ledger_no: u32, index: u64) -> Option<Arc<Block>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |block: &Arc<Block>| block.leaf(ledger_no, index).is_some();
        let place = kept.blocks.iter().rposition(holds)?;
        let block = kept.blocks.remove(place)?;
        kept.blocks.push_back(Arc::clone(&block));
        Some(block)
    }

    /// Keeps a block; those used longest ago go.
    pub(crate) fn keep(&self, block: &Arc<Block>) {
        let size = block.leaves.entries().len();
        if size > BLOCK_BYTES_MAX {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |other: &Arc<Block>| (other.ledger_no, other.first) == (block.ledger_no, block.first);
        if kept.blocks.iter().any(holds) {
            return;
        }
        kept.bytes += size;
        kept.blocks.push_back(Arc::clone(block));
        while kept.bytes > KEPT_BYTES_MAX || kept.blocks.len() > KEPT_MAX {
            let Some(gone) = kept.blocks.pop_front() else {
                break;
            };
            kept.bytes -= gone.leaves.entries().len();
        }
    }
}

#[cfg(test)]
mod tests {
    use store::codec;

    use super::*;

    fn block(ledger_no: u32, first: u64, leaves: &[&[u8]]) -> Arc<Block> {
        let mut entries = Vec::new();
        for leaf in leaves {
            assert!(codec::push_leaf(&mut entries, leaf));
        }
        let count = u32::try_from(leaves.len()).unwrap();
        let leaves = Leaves::unpack(&codec::pack_block(&entries), count).unwrap();
        Arc::new(Block::new(ledger_no, first, leaves))
    }

    #[test]
    fn a_leaf_is_found_in_its_own_ledger_and_block_alone() {
        let blocks = Blocks::default();
        blocks.keep(&block(1, 10, &[b"ten", b"eleven"]));
        let found = |ledger_no, index| {
            let block = blocks.find(ledger_no, index)?;
            block.leaf(ledger_no, index).map(<[u8]>::to_vec)
        };
        assert_eq!(found(1, 10).unwrap(), b"ten");
        assert_eq!(found(1, 11).unwrap(), b"eleven");
        assert_eq!((found(1, 9), found(1, 12), found(2, 10)), (None, None, None));
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_was_used_last_stays() {
        let blocks = Blocks::default();
        let leaf = vec![b'x'; 60_000];
        let leaves: Vec<&[u8]> = vec![&leaf; 16];
        for first in 0..20 {
            blocks.keep(&block(1, first * 16, &leaves));
            assert!(blocks.find(1, 0).is_some(), "{first}");
        }
        let kept = blocks.0.lock().unwrap();
        assert_eq!(kept.bytes, kept.blocks.len() * 16 * 60_002);
        assert!(kept.bytes <= KEPT_BYTES_MAX && kept.bytes > KEPT_BYTES_MAX / 2);
        drop(kept);
        let large: Vec<&[u8]> = vec![&leaf; 18];
        blocks.keep(&block(2, 0, &large));
        assert!(blocks.find(2, 0).is_none());
        for first in 0..1_000 {
            blocks.keep(&block(3, first, &[b"one"]));
        }
        assert_eq!(blocks.0.lock().unwrap().blocks.len(), KEPT_MAX);
    }
}
