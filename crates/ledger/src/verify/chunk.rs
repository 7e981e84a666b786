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
    pub(super) findings: Vec<Finding>,
}

/// What was seen of a block; without leaves when it could not be unpacked.
#[derive(Debug)]
pub(super) struct LookedBlock {
    pub(super) first: u64,
    pub(super) root: Hash,
    pub(super) leaves: Vec<Examined>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Looking<'a, 'r> {
    examiner: &'a mut Examiner<'r>,
    blocks: &'a [LeafBlock],
    /// The leaves of `blocks[at]`.
    leaves: Option<codec::Leaves>,
    at: usize,
    looked: Looked,
}

impl<'a, 'r> Looking<'a, 'r> {
    /// Begins before the first leaf of `blocks`, which ascend.
    pub(super) fn new(blocks: &'a [LeafBlock], examiner: &'a mut Examiner<'r>) -> Self {
        let looked = Looked {
            blocks: Vec::with_capacity(blocks.len()),
            findings: Vec::new(),
        };
        let mut looking = Self {
            examiner,
            blocks,
            leaves: None,
            at: 0,
            looked,
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
        for (index, settled) in self.examiner.settle(&mut self.looked.findings) {
            let block = self
                .looked
                .blocks
                .iter_mut()
                .rev()
                .find(|block| block.first <= index);
            let leaf = block.and_then(|block| {
                let place = usize::try_from(index - block.first).ok()?;
                block.leaves.get_mut(place)
            });
            if let Some(leaf) = leaf {
                *leaf = settled;
            }
        }
        self.looked
    }

    /// Unpacks the block at hand.
    fn open(&mut self) {
        let Some(block) = self.blocks.get(self.at) else {
            return;
        };
        let mut looked = LookedBlock {
            first: block.first,
            root: block.root,
            leaves: Vec::new(),
        };
        match codec::Leaves::unpack(&block.leaves, block.count) {
            Ok(leaves) => {
                looked.leaves.reserve_exact(leaves.len());
                self.leaves = Some(leaves);
            }
            // Its bodies cannot be looked at without it.
            Err(error) => self.looked.findings.push(
                Finding::new(FindingCode::Unreadable, "leaf_blocks.leaves", error.to_string())
                    .with_tenant(self.examiner.tenant_id())
                    .with_leaf(block.first),
            ),
        }
        self.looked.blocks.push(looked);
    }

    /// The leaf at hand; none in a block that is done or cannot be read.
    fn next_leaf(&self) -> Option<u64> {
        let (leaves, done) = (self.leaves.as_ref()?, &self.looked.blocks.last()?.leaves);
        (done.len() < leaves.len()).then_some(self.blocks[self.at].first + done.len() as u64)
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
            self.leaves = None;
            self.at += 1;
            self.open();
        }
    }

    fn leaf(&mut self, body: Option<BodyRef<'_>>) {
        let (Some(leaves), Some(looked)) = (&self.leaves, self.looked.blocks.last_mut()) else {
            return;
        };
        let place = looked.leaves.len();
        if let Some(leaf) = leaves.get(place) {
            let index = looked.first + place as u64;
            let examined = self.examiner.look(index, leaf, body, &mut self.looked.findings);
            looked.leaves.push(examined);
        }
    }

    fn is_unreadable(&self, index: u64) -> bool {
        self.leaves.is_none()
            && self
                .blocks
                .get(self.at)
                .is_some_and(|block| (block.first..block.end()).contains(&index))
    }
}
