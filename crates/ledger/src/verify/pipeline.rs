//! One ledger, block by block: one thread reads, all cores look, one thread folds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use evidence::{Finding, FindingCode};
use store::{BodyRow, Head, LeafBlock, LeafKey, LedgerRow, Snapshot, Store, StoreError, codec};
use tlog::{Frontier, Hash};

use super::checkpoints::{Checkpoints, Declared};
use super::compare::{self, Deferred};
use super::derive::{Derived, Deriver};
use super::examine::{Examined, Examiner};
use super::{LedgerReport, Level, Question, Report};

/// Leaves of one chunk, about: 4,096 leaves and bodies are 4 MiB, read in a few milliseconds.
const CHUNK_LEAVES: u64 = 4_096;

/// Blocks read at once; an idle ledger has one leaf a block.
const CHUNK_BLOCKS: u32 = 512;

/// Chunks that wait for a core: enough that none idles, and 40 MiB at most.
const CHUNKS_WAITING: usize = 4;

struct Chunk {
    order: u64,
    blocks: Vec<LeafBlock>,
    bodies: Vec<BodyRow>,
}

struct Looked {
    order: u64,
    blocks: Vec<LookedBlock>,
    findings: Vec<Finding>,
}

struct LookedBlock {
    first: u64,
    root: Hash,
    leaves: Vec<Examined>,
}

/// Verifies one ledger as of its fixed head, and feeds its records to the deriver.
pub(super) fn ledger(
    store: &dyn Store,
    question: &Question<'_>,
    row: &LedgerRow,
    head: Head,
    snapshot: &Snapshot,
    deriver: &mut Deriver,
    deferred: &mut Deferred,
    declared: Option<&Declared>,
    report: &mut Report,
) -> Result<LedgerReport, StoreError> {
    let tenant_id: Arc<str> = row.tenant_id.as_str().into();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (chunks_in, chunks_out) = sync_channel::<Chunk>(CHUNKS_WAITING);
    let (looked_in, looked_out) = sync_channel::<Looked>(CHUNKS_WAITING);
    let chunks_out = Mutex::new(chunks_out);
    let mut fold = Fold::new(store, question, row, head, deriver, deferred, declared, report)?;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            read(
                store,
                row.ledger_no,
                head.size.as_u64(),
                question.rest_factor,
                &chunks_in,
            )
        });
        for _ in 0..cores {
            let (chunks, looked) = (&chunks_out, looked_in.clone());
            let examiner = Examiner::new(Arc::clone(&tenant_id), question.only_ledger);
            scope.spawn(move || look(examiner, chunks, &looked));
        }
        drop(looked_in);
        let folded = fold.all(&looked_out);
        // Dropping the receiver lets workers and reader end when the fold ended early.
        drop(looked_out);
        let read = reader
            .join()
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the reader panicked".into())));
        folded.and(read)
    })?;
    fold.finish(snapshot)
}

/// Reads chunks of whole blocks up to `size`, each in transactions of a few milliseconds.
fn read(
    store: &dyn Store,
    ledger_no: u32,
    size: u64,
    rest_factor: u32,
    chunks: &SyncSender<Chunk>,
) -> Result<(), StoreError> {
    let (mut next, mut order) = (0, 0);
    while next < size {
        let started = Instant::now();
        let mut blocks = Vec::new();
        let mut end = next;
        // Full blocks hold 256 leaves; sixteen of them make a chunk.
        while end < size && end - next < CHUNK_LEAVES {
            let limit = if blocks.is_empty() { 16 } else { CHUNK_BLOCKS };
            let more = store.blocks_read(ledger_no, end, limit)?;
            let Some(last) = more.last() else { break };
            let last_end = last.end();
            // A block that ends where it begins would never let the reader pass.
            if last_end <= end {
                break;
            }
            end = last_end;
            blocks.extend(more);
        }
        // Blocks that begin at or beyond the fixed head came later.
        blocks.retain(|block| block.first < size);
        let first = next;
        let known_end = blocks.last().map_or(size, LeafBlock::end).max(first + 1);
        next = known_end;
        let bodies = store.bodies_read(ledger_no, first, known_end)?;
        if chunks
            .send(Chunk {
                order,
                blocks,
                bodies,
            })
            .is_err()
        {
            return Ok(());
        }
        order += 1;
        if rest_factor > 0 {
            std::thread::sleep(started.elapsed() * rest_factor);
        }
    }
    Ok(())
}

fn look(mut examiner: Examiner, chunks: &Mutex<Receiver<Chunk>>, looked: &SyncSender<Looked>) {
    loop {
        let chunk = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(chunk) = chunk else { return };
        if looked.send(look_at(&mut examiner, &chunk)).is_err() {
            return;
        }
    }
}

fn look_at(examiner: &mut Examiner, chunk: &Chunk) -> Looked {
    let mut findings = Vec::new();
    let mut bodies = chunk.bodies.iter().peekable();
    let mut blocks = Vec::with_capacity(chunk.blocks.len());
    let tenant_id = Arc::clone(&examiner.tenant_id);
    let unexpected = |row: &BodyRow| {
        Finding::new(FindingCode::BodyUnexpected, "bodies", "a body where no leaf is")
            .with_tenant(&tenant_id)
            .with_leaf(row.leaf.leaf_index())
    };
    for block in &chunk.blocks {
        let leaves = match codec::Leaves::unpack(&block.leaves, block.count) {
            Ok(leaves) => leaves,
            Err(error) => {
                findings.push(
                    Finding::new(FindingCode::Unreadable, "leaf_blocks.leaves", error.to_string())
                        .with_tenant(&tenant_id)
                        .with_leaf(block.first),
                );
                // Its bodies cannot be looked at without it.
                while bodies
                    .next_if(|row| row.leaf.leaf_index() < block.end())
                    .is_some()
                {}
                blocks.push(LookedBlock {
                    first: block.first,
                    root: block.root,
                    leaves: Vec::new(),
                });
                continue;
            }
        };
        let mut examined = Vec::with_capacity(leaves.len());
        for (place, leaf) in leaves.iter().enumerate() {
            let index = block.first + u64::try_from(place).unwrap_or(u64::MAX);
            while let Some(row) = bodies.next_if(|row| row.leaf.leaf_index() < index) {
                findings.push(unexpected(row));
            }
            let body = bodies.next_if(|row| row.leaf.leaf_index() == index);
            examined.push(examiner.examine(index, leaf, body, &mut findings));
        }
        blocks.push(LookedBlock {
            first: block.first,
            root: block.root,
            leaves: examined,
        });
    }
    findings.extend(bodies.map(unexpected));
    Looked {
        order: chunk.order,
        blocks,
        findings,
    }
}

/// The one thread that knows the order: tree, checkpoints, projections.
struct Fold<'a, 'q> {
    store: &'a dyn Store,
    question: &'a Question<'q>,
    row: &'a LedgerRow,
    head: Head,
    deriver: &'a mut Deriver,
    deferred: &'a mut Deferred,
    report: &'a mut Report,
    frontier: Frontier,
    /// The tree is broken from here on: roots are not compared any more, leaves still are.
    broken: bool,
    nodes: NodeCheck,
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
        declared: Option<&Declared>,
        report: &'a mut Report,
    ) -> Result<Self, StoreError> {
        let checkpoints = Checkpoints::new(store, question, row, declared, report)?;
        Ok(Self {
            store,
            question,
            row,
            head,
            deriver,
            deferred,
            report,
            frontier: Frontier::new(),
            broken: false,
            nodes: NodeCheck::default(),
            checkpoints,
        })
    }

    fn all(&mut self, looked: &Receiver<Looked>) -> Result<(), StoreError> {
        // Workers finish out of order; what is early waits.
        let mut early: BTreeMap<u64, Looked> = BTreeMap::new();
        let mut next = 0;
        for chunk in looked {
            early.insert(chunk.order, chunk);
            while let Some(chunk) = early.remove(&next) {
                self.chunk(chunk)?;
                next += 1;
            }
        }
        Ok(())
    }

    fn finding(&self, code: FindingCode, place: &str, detail: impl Into<String>) -> Finding {
        Finding::new(code, place, detail).with_tenant(&self.row.tenant_id)
    }

    fn chunk(&mut self, chunk: Looked) -> Result<(), StoreError> {
        for finding in chunk.findings {
            self.report.add(finding);
        }
        let mut derived = Derived::default();
        let mut findings = Vec::new();
        let mut done = 0;
        for block in chunk.blocks {
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
            if block.leaves.is_empty() {
                self.broken = true;
            }
            for (place, leaf) in block.leaves.into_iter().enumerate() {
                let index = block.first + u64::try_from(place).unwrap_or(u64::MAX);
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
        for finding in findings {
            self.report.add(finding.with_tenant(&self.row.tenant_id));
        }
        if !self.question.only_ledger {
            compare::rows(self.store, &self.row.tenant_id, &derived, self.report)?;
            compare::runs(
                self.store,
                &self.row.tenant_id,
                &derived.runs,
                self.deferred,
                self.report,
            )?;
        }
        if let Some(progress) = self.question.progress {
            progress.fetch_add(done, Ordering::Relaxed);
        }
        Ok(())
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
        if let Some(said) = leaf.said {
            self.deriver
                .push(LeafKey::new(self.row.ledger_no, index), said, derived, findings);
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
        let nodes = of_ledger(&snapshot.nodes).unwrap_or(0);
        if !self.broken && nodes != self.nodes.seen {
            let detail = format!(
                "{nodes} nodes are stored, {} have leaves below them",
                self.nodes.seen
            );
            let finding = self.finding(FindingCode::RootMismatch, "tree_nodes", detail);
            self.report.add(finding);
        }
        self.checkpoints
            .against_mark(self.store, self.question, self.head, self.report)?;
        let summary = self.checkpoints.finish(self.head, self.broken, self.report);
        Ok(LedgerReport {
            tenant_id: self.row.tenant_id.clone(),
            origin: self.row.origin.clone(),
            tree_size: size.as_u64(),
            tree_root: self.frontier.root().to_hex(),
            checkpoint_size: summary.newest,
            checkpoints: summary.count,
            level: if self.broken {
                Level::Invalid
            } else {
                summary.level
            },
            declared_lost: summary.declared_lost,
        })
    }
}
