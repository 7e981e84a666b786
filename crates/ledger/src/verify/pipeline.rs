//! One ledger, chunk by chunk: all cores read and look, one thread folds.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use evidence::{Finding, FindingCode};
use store::codec::{self, BLOCK_LEAVES_MAX, Unpacker};
use store::{Head, LeafBlock, LeafKey, LedgerRow, Snapshot, Store, StoreError};
use tlog::{Frontier, Hash};

use super::checkpoints::Checkpoints;
use super::chunk::{Looked, Looking};
use super::compare::{self, Deferred};
use super::derive::{Derived, Deriver, made_by};
use super::examine::{Examined, Examiner};
use super::{Erasures, LedgerReport, Level, Question, Report};
use crate::epochs::Ended;

/// Leaves of one chunk, about: long enough that reading it whole pays, short enough that all cores are busy
/// until the end.
const CHUNK_LEAVES: u64 = 4_096;

/// Blocks read at first: as many as make a chunk when they are full, the one that holds its first leaf, and the one behind,
/// which shows that there are no others.
const BLOCKS_FIRST: u32 = 18;

/// Blocks read at once at most; an idle ledger has one leaf a block.
const BLOCKS_MAX: u32 = 512;

/// Chunks under way for each core: one being looked at, one looked at and not yet folded, and one that comes
/// late must not hold the others up. A chunk's leaves are about 2 MiB after they were looked at.
const CHUNKS_EACH: usize = 3;

/// A read lasts at most about this long, so that the log of a busy database can be carried over: bodies of
/// 16 MiB are looked at in many reads.
const READ_MAX: Duration = Duration::from_millis(250);

/// Bodies between two looks at the clock, each of which costs as much as a hundredth of a leaf: of the largest ones they
/// take less than half a second.
const CLOCK_BODIES: u32 = 8;

/// Verifies one ledger as of its fixed head, and feeds its records to the deriver.
pub(super) fn ledger(
    store: &dyn Store,
    question: &Question<'_>,
    row: &LedgerRow,
    head: Head,
    snapshot: &Snapshot,
    deriver: &mut Deriver,
    deferred: &mut Deferred,
    ended: Option<&Ended>,
    erasures: &Erasures<'_>,
    report: &mut Report,
) -> Result<LedgerReport, StoreError> {
    let chunks = head.size.as_u64().div_ceil(CHUNK_LEAVES);
    let cores = question.cores();
    let (ticket_in, ticket_out) = channel();
    let (looked_in, looked_out) = channel();
    let tickets = Mutex::new(ticket_out);
    let mut fold = Fold::new(
        store, question, row, head, deriver, deferred, ended, erasures, report,
    )?;
    std::thread::scope(|scope| {
        for _ in 0..cores.min(usize::try_from(chunks).unwrap_or(usize::MAX)) {
            let (tickets, looked) = (&tickets, looked_in.clone());
            scope.spawn(move || {
                let work = |unpacker: Unpacker<'_>| {
                    let tenant_id = row.tenant_id.as_str().into();
                    let only = question.only_ledger;
                    let mut examiner = Examiner::new(tenant_id, only, unpacker, erasures, row.ledger_no);
                    let mut leaves = codec::Leaves::default();
                    look(tickets, &looked, question.rest_factor, |order, room| {
                        let first = order * CHUNK_LEAVES;
                        let end = head.size.as_u64().min(first + CHUNK_LEAVES);
                        look_at(store, row.ledger_no, first..end, &mut examiner, &mut leaves, room)
                    });
                };
                // Without memory for the quick way there may still be enough for the other.
                if codec::unpacking(work).is_err() {
                    work(Unpacker::default());
                }
            });
        }
        drop(looked_in);
        // Tickets bound what is under way: a new one is given when a chunk has been folded.
        let first = chunks.min((cores * CHUNKS_EACH) as u64);
        for order in 0..first {
            let _ = ticket_in.send((order, Looked::default()));
        }
        fold.all(chunks, first, ticket_in, &looked_out)
    })?;
    fold.finish(snapshot)
}

/// Which chunk, and the room of one that was folded.
type Ticket = (u64, Looked);

/// Looks at the chunks whose tickets it draws, until there are none. Every ticket is answered, whatever happens:
/// the fold waits for each.
fn look(
    tickets: &Mutex<Receiver<Ticket>>,
    looked: &Sender<(u64, Result<Looked, StoreError>)>,
    rest_factor: u32,
    mut look_at: impl FnMut(u64, Looked) -> Result<Looked, StoreError>,
) {
    loop {
        let ticket = tickets.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((order, room)) = ticket else { return };
        let started = Instant::now();
        let chunk = catch_unwind(AssertUnwindSafe(|| look_at(order, room)));
        let chunk = chunk.unwrap_or_else(|_| Err(StoreError::Unavailable("a worker panicked".into())));
        if looked.send((order, chunk)).is_err() {
            return;
        }
        if rest_factor > 0 {
            std::thread::sleep(started.elapsed() * rest_factor);
        }
    }
}

/// Looks at the blocks that begin in `range`, whole.
fn look_at(
    store: &dyn Store,
    ledger_no: u32,
    range: Range<u64>,
    examiner: &mut Examiner<'_>,
    leaves: &mut codec::Leaves,
    room: Looked,
) -> Result<Looked, StoreError> {
    let mut blocks: Vec<LeafBlock> = Vec::new();
    let (mut from, mut limit) = (range.start, BLOCKS_FIRST);
    loop {
        // Begins with the block that holds `from`, which may have been read before.
        let mut more = store.blocks_read(ledger_no, from, limit)?;
        more.retain(|block| blocks.last().is_none_or(|last| last.first < block.first));
        let Some(last) = more.last() else { break };
        // By where they begin, not by where they end: one may lie over another.
        from = last.first + 1;
        // Few are left when they are nearly full, and many when they are not.
        limit = if last.end().saturating_sub(range.start) * 4 > CHUNK_LEAVES {
            BLOCKS_FIRST
        } else {
            BLOCKS_MAX
        };
        blocks.extend(more);
        if from > range.end {
            break;
        }
    }
    let before = blocks.iter().filter(|block| block.first < range.start);
    let covered = before.map(LeafBlock::end).max().unwrap_or(range.start);
    // A block belongs to the chunk that it begins in; one that begins at or beyond the fixed head came later.
    blocks.retain(|block| range.contains(&block.first));
    let mut looking = Looking::new(&blocks, covered, examiner, leaves, room);
    // A block that claims more leaves than one can have is not read: its bodies are not looked for either.
    let most = range.end + BLOCK_LEAVES_MAX as u64;
    let ends = blocks.iter().map(LeafBlock::end);
    let end = ends.max().unwrap_or(range.start).min(most);
    let mut next = blocks.first().map_or(end, |block| block.first);
    while next < end {
        let (from, started, mut seen) = (next, Instant::now(), 0_u32);
        next = end;
        store.bodies_visit(ledger_no, from, end, &mut |body| {
            looking.body(body);
            seen += 1;
            if !seen.is_multiple_of(CLOCK_BODIES) || started.elapsed() < READ_MAX {
                return ControlFlow::Continue(());
            }
            next = body.leaf.leaf_index() + 1;
            ControlFlow::Break(())
        })?;
    }
    Ok(looking.finish())
}

/// The one thread that knows the order: tree, checkpoints, projections.
struct Fold<'a, 'q> {
    store: &'a dyn Store,
    question: &'a Question<'q>,
    row: &'a LedgerRow,
    head: Head,
    deriver: &'a mut Deriver,
    deferred: &'a mut Deferred,
    erasures: &'a Erasures<'a>,
    report: &'a mut Report,
    frontier: Frontier,
    /// The tree is broken from here on: roots are not compared any more, leaves still are.
    broken: bool,
    nodes: NodeCheck,
    /// Bodies that are gone because a record says so.
    erased: u64,
    pruned: u64,
    checkpoints: Checkpoints<'a>,
}

/// Stored subtree roots, read a few at a time.
#[derive(Default)]
struct NodeCheck {
    /// By tile level: the first index held, and the hashes from there on.
    held: BTreeMap<u8, (u64, Vec<Hash>)>,
    seen: u64,
}

/// Node roots read at once.
const NODES_READ: u32 = 4_096;

impl<'a, 'q> Fold<'a, 'q> {
    fn new(
        store: &'a dyn Store,
        question: &'a Question<'q>,
        row: &'a LedgerRow,
        head: Head,
        deriver: &'a mut Deriver,
        deferred: &'a mut Deferred,
        ended: Option<&'a Ended>,
        erasures: &'a Erasures<'a>,
        report: &'a mut Report,
    ) -> Result<Self, StoreError> {
        let checkpoints = Checkpoints::new(store, question, row, ended, report)?;
        Ok(Self {
            store,
            question,
            row,
            head,
            deriver,
            deferred,
            erasures,
            report,
            frontier: Frontier::new(),
            broken: false,
            nodes: NodeCheck::default(),
            erased: 0,
            pruned: 0,
            checkpoints,
        })
    }

    fn all(
        &mut self,
        chunks: u64,
        mut given: u64,
        tickets: Sender<Ticket>,
        looked: &Receiver<(u64, Result<Looked, StoreError>)>,
    ) -> Result<(), StoreError> {
        let mut tickets = Some(tickets);
        // Workers finish out of order; what is early waits.
        let mut early: BTreeMap<u64, Looked> = BTreeMap::new();
        let mut next = 0;
        while next < chunks {
            if given == chunks {
                // Whoever waits for a ticket now goes home.
                tickets = None;
            }
            let Ok((order, chunk)) = looked.recv() else {
                return Err(StoreError::Unavailable("the workers are gone".into()));
            };
            early.insert(order, chunk?);
            while let Some(chunk) = early.remove(&next) {
                let room = self.chunk(chunk)?;
                next += 1;
                if let Some(tickets) = tickets.as_ref().filter(|_| given < chunks) {
                    let _ = tickets.send((given, room));
                    given += 1;
                }
            }
        }
        Ok(())
    }

    fn finding(&self, code: FindingCode, place: &str, detail: impl Into<String>) -> Finding {
        Finding::new(code, place, detail).with_tenant(&self.row.tenant_id)
    }

    /// Gives the chunk back, for its room.
    fn chunk(&mut self, mut chunk: Looked) -> Result<Looked, StoreError> {
        self.question.goes_on()?;
        for finding in chunk.findings.drain(..) {
            self.report.add(finding);
        }
        let mut derived = Derived::default();
        let mut findings = Vec::new();
        let mut done = 0;
        let mut leaves = chunk.leaves.drain(..);
        for block in &chunk.blocks {
            let at = self.frontier.size().as_u64();
            if block.first != at && !self.broken {
                let detail = format!(
                    "a block begins at leaf {}, the one before it ends at {at}",
                    block.first
                );
                findings.push(
                    self.finding(FindingCode::LeafGap, "leaf_blocks", detail)
                        .with_leaf(at.min(block.first)),
                );
                self.broken = true;
            }
            if block.leaves == 0 {
                self.broken = true;
            }
            for (index, leaf) in (block.first..).zip(leaves.by_ref().take(block.leaves)) {
                self.leaf(index, leaf, &mut derived, &mut findings)?;
                done += 1;
            }
            if !self.broken && self.frontier.root() != block.root {
                let detail = format!(
                    "the root after {} leaves is another than the block says",
                    self.frontier.size()
                );
                findings.push(
                    self.finding(FindingCode::RootMismatch, "leaf_blocks.tree_root", detail)
                        .with_leaf(block.first),
                );
            }
        }
        drop(leaves);
        for finding in findings {
            self.report.add(finding.with_tenant(&self.row.tenant_id));
        }
        if !self.question.only_ledger {
            derived
                .rows
                .run_records
                .sort_unstable_by_key(|row| (row.run, row.run_seq));
            compare::rows(self.store, &self.row.tenant_id, &derived.rows, self.report)?;
            compare::runs(
                self.store,
                &self.row.tenant_id,
                &derived.runs,
                self.deferred,
                self.erasures,
                self.report,
            )?;
        }
        if let Some(progress) = self.question.progress {
            progress.fetch_add(done, Ordering::Relaxed);
        }
        Ok(chunk)
    }

    fn leaf(
        &mut self,
        index: u64,
        leaf: Examined,
        derived: &mut Derived,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        if !self.broken {
            let mut completed = Vec::new();
            self.frontier.push_with(leaf.hash, |level, index, hash| {
                if level.is_multiple_of(8) {
                    completed.push((level / 8, index, hash));
                }
            });
            for (level, node, hash) in completed {
                self.node(level, node, hash, findings)?;
            }
            if self.checkpoints.wants(self.frontier.size()) {
                self.checkpoints.passed(&self.frontier, self.report);
            }
        }
        self.erased += u64::from(leaf.erased);
        self.pruned += u64::from(leaf.pruned);
        let key = LeafKey::new(self.row.ledger_no, index);
        match leaf.said {
            Some(said) if self.question.only_ledger => self.deriver.made.extend(made_by(key, &said)),
            Some(said) => self.deriver.push(key, said, derived, findings),
            None => {}
        }
        Ok(())
    }

    fn node(
        &mut self,
        level: u8,
        index: u64,
        hash: Hash,
        findings: &mut Vec<Finding>,
    ) -> Result<(), StoreError> {
        let covers =
            |first: u64, len: usize| -> Option<Range<u64>> { Some(first..first + u64::try_from(len).ok()?) };
        let held = self.nodes.held.entry(level).or_default();
        if !covers(held.0, held.1.len()).is_some_and(|range| range.contains(&index)) {
            *held = (
                index,
                self.store
                    .nodes_read(self.row.ledger_no, level, index, NODES_READ)?,
            );
        }
        let stored = usize::try_from(index - held.0)
            .ok()
            .and_then(|place| held.1.get(place))
            .copied();
        if stored.is_some() {
            self.nodes.seen += 1;
        }
        if stored != Some(hash) {
            let what = if stored.is_some() {
                "is another than"
            } else {
                "is missing beside"
            };
            let detail = format!("node {level}/{index} {what} the root of its leaves");
            let leaf = index.checked_shl(8 * u32::from(level)).unwrap_or(u64::MAX);
            findings.push(
                self.finding(FindingCode::RootMismatch, "tree_nodes.node_hash", detail)
                    .with_leaf(leaf),
            );
        }
        Ok(())
    }

    fn finish(mut self, snapshot: &Snapshot) -> Result<LedgerReport, StoreError> {
        let size = self.frontier.size();
        if !self.broken && (size != self.head.size || self.frontier.root() != self.head.root) {
            let detail = format!("{size} leaves are there, the head says {}", self.head.size);
            let finding = self
                .finding(FindingCode::LeafGap, "leaf_blocks", detail)
                .with_leaf(size.as_u64());
            self.report.add(finding);
            self.broken = true;
        }
        let of_ledger = |pairs: &[(u32, u64)]| {
            pairs
                .iter()
                .find(|(no, _)| *no == self.row.ledger_no)
                .map(|(_, n)| *n)
        };
        if let Some(leaf) = of_ledger(&snapshot.bodies_beyond) {
            let finding = self.finding(
                FindingCode::BodyUnexpected,
                "bodies",
                "a body beyond the last leaf",
            );
            self.report.add(finding.with_leaf(leaf));
        }
        if let Some(nodes) = of_ledger(&snapshot.nodes)
            && !self.broken
            && nodes != self.nodes.seen
        {
            let detail = format!(
                "{nodes} nodes are stored, {} have leaves below them",
                self.nodes.seen
            );
            let finding = self.finding(FindingCode::RootMismatch, "tree_nodes", detail);
            self.report.add(finding);
        }
        self.checkpoints
            .against_mark(self.store, self.question, self.head, self.report)?;
        let summary = self
            .checkpoints
            .finish(self.store, self.head, self.broken, self.report)?;
        Ok(LedgerReport {
            tenant_id: self.row.tenant_id.clone(),
            origin: self.row.origin.clone(),
            tree_size: size.as_u64(),
            tree_root: self.frontier.root().to_hex(),
            checkpoint_size: summary.newest,
            unsigned: summary.unsigned,
            checkpoints: summary.count,
            level: if self.broken {
                Level::Invalid
            } else {
                summary.level
            },
            declared_lost: summary.declared_lost,
            erased: self.erased,
            pruned: self.pruned,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_panics_answers_its_ticket_and_draws_the_next() {
        let (ticket_in, tickets) = channel();
        let (looked_in, looked) = channel();
        for order in 0..3 {
            ticket_in.send((order, Looked::default())).unwrap();
        }
        drop(ticket_in);
        look(&Mutex::new(tickets), &looked_in, 0, |order, room| {
            assert_ne!(order, 1, "on purpose");
            Ok(room)
        });
        drop(looked_in);
        let answers: Vec<(u64, bool)> = looked
            .iter()
            .map(|(order, chunk)| (order, chunk.is_ok()))
            .collect();
        assert_eq!(answers, [(0, true), (1, false), (2, true)]);
    }
}
