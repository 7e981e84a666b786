//! The leaves of some blocks and their bodies, laid side by side.
//!
//! Bodies are shown one after another where they lie in the store; [`Looking`]
//! goes along its leaves with them, so that nothing is copied.

use evidence::{Finding, FindingCode};
use store::{BodyRef, LeafBlock, codec};
use tlog::Hash;

use super::examine::{Examined, Examiner};

/// What was seen of some blocks.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) blocks: Vec<LookedBlock>,
    /// Of all blocks, in order.
    pub(super) leaves: Vec<Examined>,
    pub(super) findings: Vec<Finding>,
}

/// What was seen of a block.
#[derive(Debug)]
pub(super) struct LookedBlock {
    pub(super) first: u64,
    pub(super) root: Hash,
    /// How many of the leaves are its own: none when it could not be unpacked, or lies over another.
    pub(super) leaves: usize,
}

impl Looked {
    /// Empty, with the room it had.
    pub(super) fn cleared(mut self) -> Self {
        self.blocks.clear();
        self.leaves.clear();
        self.findings.clear();
        self
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Looking<'a, 'r> {
    examiner: &'a mut Examiner<'r>,
    blocks: &'a [LeafBlock],
    /// The leaves of `blocks[at]`.
    leaves: &'a mut codec::Leaves,
    /// `leaves` could be unpacked.
    readable: bool,
    at: usize,
    /// Where the leaves end that blocks have claimed so far.
    covered: u64,
    looked: Looked,
}

impl<'a, 'r> Looking<'a, 'r> {
    /// Begins before the first leaf of `blocks`, which ascend; leaves up to `covered` are those of a block before them.
    /// `leaves` and `room` are room that is used again: both are mebibytes, which cost as much to come by as to fill.
    pub(super) fn new(
        blocks: &'a [LeafBlock],
        covered: u64,
        examiner: &'a mut Examiner<'r>,
        leaves: &'a mut codec::Leaves,
        room: Looked,
    ) -> Self {
        let mut looking = Self {
            examiner,
            blocks,
            leaves,
            readable: false,
            at: 0,
            covered,
            looked: room.cleared(),
        };
        looking.open();
        looking
    }

    /// Takes the next body; leaves before it have none.
    pub(super) fn body(&mut self, body: BodyRef<'_>) {
        let index = body.leaf.leaf_index();
        self.up_to(index);
        if self.next_leaf() == Some(index) {
            self.leaf(Some(body));
        } else if !self.is_unreadable(index) {
            let finding = Finding::new(FindingCode::BodyUnexpected, "bodies", "a body where no leaf is")
                .with_tenant(self.examiner.tenant_id())
                .with_leaf(index);
            self.looked.findings.push(finding);
        }
    }

    /// No more bodies: leaves that are left have none. Asks the store of those whose body is missing.
    pub(super) fn finish(mut self) -> Looked {
        self.up_to(u64::MAX);
        let Looked { leaves, findings, .. } = &mut self.looked;
        for (place, settled) in self.examiner.settle(findings) {
            // By its place: an index may be that of two leaves, when a block claims what another has.
            if let Some(leaf) = leaves.get_mut(place) {
                *leaf = settled;
            }
        }
        self.looked
    }

    /// Unpacks the block at hand. One that begins among the leaves of another is passed over: where it begins tells that
    /// it is wrong, and its leaves have no place.
    fn open(&mut self) {
        while let Some(block) = self.blocks.get(self.at) {
            self.looked.blocks.push(LookedBlock {
                first: block.first,
                root: block.root,
                leaves: 0,
            });
            if block.first < self.covered {
                self.at += 1;
                continue;
            }
            self.covered = block.end();
            let unpacked = self.leaves.read(&block.leaves, block.count);
            self.readable = unpacked.is_ok();
            if let Err(error) = unpacked {
                // Its bodies cannot be looked at without it.
                self.looked.findings.push(
                    Finding::new(FindingCode::Unreadable, "leaf_blocks.leaves", error.to_string())
                        .with_tenant(self.examiner.tenant_id())
                        .with_leaf(block.first),
                );
            }
            return;
        }
    }

    /// The leaf at hand; none in a block that is done or cannot be read.
    fn next_leaf(&self) -> Option<u64> {
        let block = self.looked.blocks.last().filter(|_| self.readable)?;
        (block.leaves < self.leaves.len()).then_some(block.first + block.leaves as u64)
    }

    /// Looks at the leaves before `index`, for which there is no body, and stops in the block that holds it.
    fn up_to(&mut self, index: u64) {
        while let Some(block) = self.blocks.get(self.at) {
            while self.next_leaf().is_some_and(|at| at < index) {
                self.leaf(None);
            }
            if index < block.end() {
                return;
            }
            self.readable = false;
            self.at += 1;
            self.open();
        }
    }

    fn leaf(&mut self, body: Option<BodyRef<'_>>) {
        let Looked {
            blocks,
            leaves,
            findings,
        } = &mut self.looked;
        let Some(block) = blocks.last_mut().filter(|_| self.readable) else {
            return;
        };
        if let Some(leaf) = self.leaves.get(block.leaves) {
            let index = block.first + block.leaves as u64;
            leaves.push(self.examiner.look(index, leaf, body, findings));
            block.leaves += 1;
        }
    }

    fn is_unreadable(&self, index: u64) -> bool {
        !self.readable
            && self
                .blocks
                .get(self.at)
                .is_some_and(|block| (block.first..block.end()).contains(&index))
    }
}
