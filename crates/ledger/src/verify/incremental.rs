//! The leaves since the last time: hashes, commitments, roots.
//!
//! Projections and old leaves are left to the full scrub; what is new is seen
//! within a minute at a few microseconds a leaf.

use evidence::{Finding, FindingCode};
use store::{Head, LedgerRow, Store, StoreError, codec};
use tlog::TreeSize;

use super::Erasures;
use super::examine::Examiner;
use crate::tree::{StoredTree, TreeError};

/// Blocks read at once: some 16,000 leaves under load, when a block is full.
const BLOCKS_READ: u32 = 64;

/// Verifies leaves of a ledger from `from` to `until`, and the rest of the blocks read with them, up to the first
/// blocks in which something is wrong. Gives the head up to which it came and what was found: before `until` only
/// with findings. The ledger had `until` leaves already: that it has fewer is one.
///
/// # Errors
/// The store cannot answer.
pub fn incremental(
    store: &dyn Store,
    row: &LedgerRow,
    from: TreeSize,
    until: TreeSize,
) -> Result<(Head, Vec<Finding>), TreeError> {
    let head = store.head_read(row.ledger_no)?;
    let mut findings = Vec::new();
    let finding =
        |code, place: &str, detail: String| Finding::new(code, place, detail).with_tenant(&row.tenant_id);
    let were = from.max(until);
    if head.size < were {
        let detail = format!("{} leaves are there, {were} were", head.size);
        return Ok((
            head,
            vec![finding(FindingCode::RolledBack, "leaf_blocks", detail)],
        ));
    }
    let mut frontier = match StoredTree::new(store, row.ledger_no).frontier(from) {
        Ok(frontier) => frontier,
        // A right edge that cannot be read is bad evidence; a store that cannot answer is none.
        Err(TreeError::Damaged { leaf, reason, .. }) => {
            let damage = finding(FindingCode::Unreadable, "leaf_blocks, tree_nodes", reason);
            return Ok((head, vec![damage.with_leaf(leaf)]));
        }
        Err(TreeError::Store(StoreError::Damaged { place, reason })) => {
            return Ok((head, vec![finding(FindingCode::Unreadable, place, reason)]));
        }
        Err(error) => return Err(error),
    };
    let erasures = Erasures::unread(store, row.tenant_no)?;
    let tenant_id = row.tenant_id.as_str().into();
    let unpacker = codec::Unpacker::default();
    let mut examiner = Examiner::new(tenant_id, true, unpacker, &erasures, row.ledger_no);
    while frontier.size() < until && findings.is_empty() {
        let at = frontier.size().as_u64();
        let blocks = store.blocks_read(row.ledger_no, at, BLOCKS_READ)?;
        let end = blocks.last().map_or(at, store::LeafBlock::end);
        if blocks.first().is_none_or(|block| block.first > at) || end <= at {
            let gap = finding(
                FindingCode::LeafGap,
                "leaf_blocks",
                format!("leaf {at} is missing"),
            );
            return Ok((head, vec![gap.with_leaf(at)]));
        }
        for block in &blocks {
            let leaves = match codec::Leaves::unpack(&block.leaves, block.count) {
                Ok(leaves) => leaves,
                Err(error) => {
                    let unreadable =
                        finding(FindingCode::Unreadable, "leaf_blocks.leaves", error.to_string());
                    findings.push(unreadable.with_leaf(block.first));
                    return Ok((head, findings));
                }
            };
            // Of one block: no more than one commit brought. Those of all might be a gibibyte.
            let bodies = store.bodies_read(row.ledger_no, block.first.max(at), block.end())?;
            let mut bodies = bodies.iter().peekable();
            for (place, leaf) in leaves.iter().enumerate() {
                let index = block.first + u64::try_from(place).unwrap_or(u64::MAX);
                if index < at {
                    continue;
                }
                while bodies.next_if(|row| row.leaf.leaf_index() < index).is_some() {}
                let body = bodies.next_if(|row| row.leaf.leaf_index() == index);
                frontier.push(
                    examiner
                        .examine(index, leaf, body.map(store::BodyRow::as_ref), &mut findings)
                        .hash,
                );
            }
            if frontier.root() != block.root {
                let detail = format!(
                    "the root after {} leaves is another than the block says",
                    frontier.size()
                );
                let mismatch = finding(FindingCode::RootMismatch, "leaf_blocks.tree_root", detail);
                findings.push(mismatch.with_leaf(block.first));
                return Ok((head, findings));
            }
        }
    }
    // What was found is as true as ever; that nothing was is not.
    if let Some(why) = erasures.unsaid().filter(|_| findings.is_empty()) {
        return Err(StoreError::Unavailable(why).into());
    }
    // Leaves may have come since the head was read; they were verified with it.
    Ok((
        Head {
            size: frontier.size(),
            root: frontier.root(),
        },
        findings,
    ))
}
