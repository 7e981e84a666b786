//! Checkpoints: those that are stored, those that the verifier kept, and the high-water mark.

use std::collections::BTreeMap;
use std::io;

use evidence::{Finding, FindingCode};
use store::{CheckpointRow, Head, LedgerRow, Store, StoreError};
use tlog::{Checkpoint, Frontier, Hash, Note, TreeSize, VerifierKey};

use super::{Level, Question, Report};
use crate::epochs::{Ended, Epochs};

/// Checkpoints read at once.
const CHECKPOINTS_READ: u32 = 1_000;

/// As which findings name one of the ledger's own.
const STORED: &str = "a stored checkpoint";

/// A root that the tree must have had.
struct Expected {
    root: Hash,
    from: &'static str,
}

/// Roots to be met while the tree is folded, by size.
pub(super) struct Checkpoints<'a> {
    row: &'a LedgerRow,
    expected: BTreeMap<u64, Vec<Expected>>,
    next: u64,
    newest: Option<u64>,
    /// The largest stored one within the tree, so far.
    passed: Option<u64>,
    count: u64,
    /// The verifier brought a key for this ledger and it is the ledger's.
    own_key: bool,
    /// The largest checkpoint that the verifier brought and that its key signed.
    kept: Option<u64>,
    /// How far the high-water mark goes, which counts as a kept checkpoint where something signed reaches as far.
    mark: Option<u64>,
    /// What the epochs behind it say of this one.
    ended: Option<&'a Ended>,
    declared_lost: Option<(u64, u64)>,
}

pub(super) struct Summary {
    pub(super) newest: Option<u64>,
    /// Leaves that no checkpoint covers which the key signed that the verifier brought.
    pub(super) unsigned: u64,
    pub(super) count: u64,
    pub(super) level: Level,
    pub(super) declared_lost: Option<(u64, u64)>,
}

impl<'a> Checkpoints<'a> {
    /// Reads and opens every stored checkpoint of the ledger. 64 bytes of each are kept until it is passed.
    pub(super) fn new(
        store: &dyn Store,
        question: &Question<'_>,
        row: &'a LedgerRow,
        ended: Option<&'a Ended>,
        report: &mut Report,
    ) -> Result<Self, StoreError> {
        let mut this = Self {
            row,
            expected: BTreeMap::new(),
            next: u64::MAX,
            newest: None,
            passed: None,
            count: 0,
            own_key: false,
            kept: None,
            mark: None,
            ended,
            declared_lost: None,
        };
        let keys = this.keys(question, report);
        let mut from = TreeSize::new(0);
        loop {
            let page = store.checkpoints_read(row.ledger_no, from, CHECKPOINTS_READ)?;
            let Some(last) = page.last() else { break };
            from = TreeSize::new(last.size.as_u64() + 1);
            let last = page.len() < CHECKPOINTS_READ as usize;
            for stored in &page {
                this.stored(stored, &keys, report);
            }
            // Not by asking once more: a row at the largest size of all would be found for ever.
            if last {
                break;
            }
        }
        for kept in &question.kept {
            // One of another ledger is told apart by its origin; see `unused`.
            if let Ok(opened) = Checkpoint::open(kept, &keys, &row.origin) {
                let size = opened.checkpoint.size().as_u64();
                this.expect(size, opened.checkpoint.root(), "the kept checkpoint");
                this.kept = this.kept.max(Some(size));
                this.count += 1;
            }
        }
        let mark = question.marks.and_then(|marks| marks.get(&row.origin));
        // A later epoch's first leaf says what was signed last and what is lost: declared, not hidden.
        this.declared_lost = ended.and_then(Ended::lost);
        let explains = |ended: &Ended| mark.is_none_or(|mark| ended.explains(mark.size.as_u64(), mark.root));
        match mark {
            // What is there is held against the later word in `finish`.
            _ if ended.is_some_and(explains) => {}
            Some(mark) => {
                this.expect(mark.size.as_u64(), mark.root, "high-water.json");
                this.mark = Some(mark.size.as_u64());
            }
            // Judged with the head, in `finish`. The mark of a ledger that was made since they were read is held against
            // it the next time.
            None if question.marks.is_some_and(|marks| !marks.has(&row.origin)) => {
                this.expect(u64::MAX, tlog::empty_root(), "high-water.json");
            }
            None => {}
        }
        this.next = this.expected.keys().next().copied().unwrap_or(u64::MAX);
        Ok(this)
    }

    /// The keys that this ledger's checkpoints are opened with: the verifier's for this origin, else the ledger's own.
    fn keys(&mut self, question: &Question<'_>, report: &mut Report) -> Vec<VerifierKey> {
        let row = self.row;
        let finding = |detail: String| {
            Finding::new(FindingCode::KeyMismatch, "ledgers.vkey", detail).with_tenant(&row.tenant_id)
        };
        let own = VerifierKey::parse(&row.vkey);
        if let Err(error) = &own {
            report.add(finding(format!("is no verifier key: {error}")));
        }
        if own.as_ref().is_ok_and(|key| key.name() != row.origin) {
            report.add(finding("is the key of another origin".into()));
        }
        let brought: Vec<VerifierKey> = question
            .vkeys
            .iter()
            .filter(|key| key.name() == row.origin)
            .cloned()
            .collect();
        if let Some(folder) = question.keys {
            match folder.read(&row.tenant_id, row.epoch, &row.origin) {
                Ok(Some(signer)) if signer.verifier().to_string() == row.vkey => {}
                Ok(Some(_)) => report.add(finding("is another key than the key file's".into())),
                // An epoch that has ended signs nothing more, and what it signed is checked with the other half.
                Ok(None) if self.ended.is_some() => {}
                // Who brings the key need not be able to sign: he was given no such file, or may not read it.
                Ok(None) if !brought.is_empty() => {}
                Err(error) if !brought.is_empty() && error.kind() == io::ErrorKind::PermissionDenied => {}
                Ok(None) => {
                    let file = folder.file(&row.tenant_id, row.epoch).display().to_string();
                    let missing =
                        Finding::new(FindingCode::KeyMismatch, file, "the ledger's key file is missing");
                    report.add(missing.with_tenant(&row.tenant_id));
                }
                Err(error) => report.add(finding(error.to_string())),
            }
        }
        if brought.is_empty() {
            return own.into_iter().collect();
        }
        self.own_key = true;
        if own.is_ok_and(|own| !brought.contains(&own)) {
            report.add(finding("is not the key that the verifier brought".into()));
        }
        brought
    }

    fn stored(&mut self, stored: &CheckpointRow, keys: &[VerifierKey], report: &mut Report) {
        self.count += 1;
        let finding = |code, detail: String| {
            Finding::new(code, "checkpoints.note", detail)
                .with_tenant(&self.row.tenant_id)
                .with_leaf(stored.size.as_u64().saturating_sub(1))
        };
        match Checkpoint::open(stored.note.as_bytes(), keys, &self.row.origin) {
            Ok(opened) if opened.checkpoint.size() != stored.size => {
                let detail = format!(
                    "the row is of size {}, the note of {}",
                    stored.size,
                    opened.checkpoint.size()
                );
                report.add(finding(FindingCode::CheckpointInvalid, detail));
            }
            Ok(opened) => {
                // Anybody can add lines that no key here verifies.
                if !opened.checkpoint.extensions().is_empty() || !has_one_signature(&stored.note) {
                    let detail = format!(
                        "the checkpoint over {} leaves has lines beside its text and the ledger's signature",
                        stored.size
                    );
                    report.add(finding(FindingCode::CheckpointInvalid, detail));
                }
                self.newest = self.newest.max(Some(stored.size.as_u64()));
                self.expect(stored.size.as_u64(), opened.checkpoint.root(), STORED);
            }
            Err(error) => {
                let detail = format!("the checkpoint over {} leaves: {error}", stored.size);
                report.add(finding(FindingCode::CheckpointInvalid, detail));
            }
        }
    }

    fn expect(&mut self, size: u64, root: Hash, from: &'static str) {
        self.expected
            .entry(size)
            .or_default()
            .push(Expected { root, from });
    }

    /// Whether a root is expected at that size.
    pub(super) fn wants(&self, size: TreeSize) -> bool {
        size.as_u64() >= self.next
    }

    /// The tree has this size now.
    pub(super) fn passed(&mut self, frontier: &Frontier, report: &mut Report) {
        let size = frontier.size().as_u64();
        let rest = self.expected.split_off(&(size + 1));
        let due = std::mem::replace(&mut self.expected, rest);
        self.next = self.expected.keys().next().copied().unwrap_or(u64::MAX);
        for (at, expected) in due {
            for Expected { root, from } in expected {
                if from == STORED {
                    self.passed = self.passed.max(Some(at));
                }
                let good = if at == 0 {
                    root == tlog::empty_root()
                } else {
                    at == size && root == frontier.root()
                };
                if !good {
                    let detail = format!("{from} over {at} leaves has another root than the leaves");
                    report.add(
                        Finding::new(FindingCode::CheckpointInconsistent, place_of(from), detail)
                            .with_tenant(&self.row.tenant_id)
                            .with_leaf(at.saturating_sub(1)),
                    );
                }
            }
        }
    }

    /// A mark is raised before a checkpoint is signed and never lowered, and a checkpoint is kept right after:
    /// either one far behind the other was changed, or lost.
    pub(super) fn against_mark(
        &mut self,
        store: &dyn Store,
        question: &Question<'_>,
        head: Head,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let origin = &self.row.origin;
        let Some((marks, mark)) = question.marks.and_then(|marks| Some((marks, marks.get(origin)?))) else {
            return Ok(());
        };
        // Nothing is signed any more with the key of an epoch that has ended.
        if self.ended.is_some() {
            return Ok(());
        }
        let newest = self.newest.unwrap_or(0);
        if newest > mark.size.as_u64() {
            // The mark that is held may be older than the checkpoints that were read after it.
            let now = marks
                .reread()
                .ok()
                .and_then(|marks| marks.get(origin))
                .map_or(0, |mark| mark.size.as_u64());
            if newest > now {
                let detail = format!("the mark is over {now} leaves, a checkpoint over {newest} is stored");
                let finding = Finding::new(FindingCode::RolledBack, "high-water.json", detail);
                report.add(
                    finding
                        .with_tenant(&self.row.tenant_id)
                        .with_leaf(newest.saturating_sub(1)),
                );
            }
        }
        if newest < mark.size.as_u64() && mark.size <= head.size {
            // A serving process may be about to keep it.
            let has_come = question.comes(|| {
                let kept = store.checkpoint_newest(self.row.ledger_no)?;
                Ok(kept.is_some_and(|kept| kept.size >= mark.size))
            })?;
            if has_come {
                // It came after the others were read, and is opened with them the next time.
                self.passed = self.passed.max(Some(mark.size.as_u64()));
                return Ok(());
            }
            let detail = format!(
                "{} leaves were marked as signed, the newest checkpoint is over {newest}",
                mark.size
            );
            let finding = Finding::new(FindingCode::CheckpointMissing, "checkpoints", detail);
            report.add(
                finding
                    .with_tenant(&self.row.tenant_id)
                    .with_leaf(mark.size.as_u64() - 1),
            );
        }
        Ok(())
    }

    /// The tree ends at the head; what is expected beyond it was signed and is gone, or came after the head was fixed: then
    /// the leaves are there by now.
    ///
    /// # Errors
    /// The head cannot be read once more.
    pub(super) fn finish(
        mut self,
        store: &dyn Store,
        head: Head,
        broken: bool,
        report: &mut Report,
    ) -> Result<Summary, StoreError> {
        let size = head.size.as_u64();
        let newest = self.newest.filter(|&newest| newest <= size).max(self.passed);
        let grown = match self.newest {
            Some(newest) if newest > size => store.head_read(self.row.ledger_no)?.size.as_u64(),
            _ => size,
        };
        let tenant_id = &self.row.tenant_id;
        if self.expected.remove(&u64::MAX).is_some() && size > 0 {
            let detail = "the high-water mark is missing beside a ledger that has leaves";
            report
                .add(Finding::new(FindingCode::RolledBack, "high-water.json", detail).with_tenant(tenant_id));
        }
        if let Some(why) = self.ended.and_then(|ended| ended.differs(head)) {
            // A mark may be declared lost, what was there then may not be lost as well.
            let finding = Finding::new(
                FindingCode::RolledBack,
                "leaf_blocks",
                format!("{}: {why}", self.row.origin),
            );
            report.add(finding.with_tenant(tenant_id).with_leaf(size));
        }
        let mut prefix = false;
        let own = self.own_key;
        for (at, expected) in self.expected {
            for Expected { root, from } in expected {
                if at == 0 && root == tlog::empty_root() {
                    continue;
                }
                if broken {
                    continue;
                }
                // A checkpoint that the verifier kept and that is larger: all shown may be true, a tail is missing.
                if from == "the kept checkpoint" {
                    prefix = true;
                    continue;
                }
                if from == STORED && at <= grown {
                    continue;
                }
                let detail = format!("{from} speaks of {at} leaves, {size} are there");
                report.add(
                    Finding::new(FindingCode::RolledBack, place_of(from), detail)
                        .with_tenant(tenant_id)
                        .with_leaf(size),
                );
            }
        }
        let level = if prefix {
            Level::ValidPrefix
        } else if own
            && (self.kept.is_some() || self.mark.is_some_and(|mark| mark > 0 && newest >= Some(mark)))
        {
            // The mark counts as a kept checkpoint. It is signed by nobody: who made leaves and a mark to go with them has
            // nothing that the key has signed.
            Level::ValidSinceKeptCheckpoint
        } else {
            Level::ValidSelfSigned
        };
        let signed = newest.max(self.kept).unwrap_or(0).min(size);
        if own && size > 0 && signed == 0 {
            let why = format!(
                "no checkpoint of {} is signed by the key that was brought: nothing shows whose its {size} leaves are",
                self.row.origin
            );
            report.undecide(tenant_id, &why);
        }
        Ok(Summary {
            newest,
            unsigned: if own { size - signed } else { 0 },
            count: self.count,
            level,
            declared_lost: self.declared_lost,
        })
    }
}

/// As every note that is stored: cosignatures are not kept, and one that opened has the ledger's own.
fn has_one_signature(note: &str) -> bool {
    Note::parse(note.as_bytes()).is_ok_and(|note| note.signatures().len() == 1)
}

fn place_of(from: &str) -> &'static str {
    match from {
        "high-water.json" => "high-water.json",
        STORED => "checkpoints.note",
        _ => "--checkpoint",
    }
}

/// A kept checkpoint that opens for no ledger here must not pass in silence, nor one that was compared with nothing.
pub(super) fn unused(
    kept: &[u8],
    ledgers: &[LedgerRow],
    looked_at: &[&LedgerRow],
    chains: &[Epochs],
    question: &Question<'_>,
    report: &mut Report,
) {
    let opens = |row: &&LedgerRow| {
        let mut keys: Vec<VerifierKey> = question
            .vkeys
            .iter()
            .filter(|key| key.name() == row.origin)
            .cloned()
            .collect();
        if keys.is_empty() {
            keys.extend(VerifierKey::parse(&row.vkey));
        }
        Checkpoint::open(kept, &keys, &row.origin).is_ok()
    };
    let Some(of) = ledgers.iter().find(opens) else {
        let origin = kept.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let origin = String::from_utf8_lossy(origin);
        if chains.iter().any(|chain| chain.away().contains_key(&*origin)) {
            let why = "a later epoch declares it lost";
            report
                .undecided
                .push(format!("the kept checkpoint is one of {origin}: {why}"));
            return;
        }
        let detail = "the kept checkpoint is no good note of any ledger here: unreadable, another origin, or another key";
        report.add(Finding::new(
            FindingCode::CheckpointInvalid,
            "--checkpoint",
            detail,
        ));
        return;
    };
    if looked_at.iter().all(|row| row.origin != of.origin) {
        report.undecided.push(format!(
            "the kept checkpoint is one of {}, which was not looked at",
            of.origin
        ));
    }
}

/// A brought key that is of no ledger here must not pass in silence either: the ledgers would be judged by their own
/// keys, and a folder that was made anew under another name would be good. Of keys for ledgers that were not asked
/// about, one at least must be for those that were.
pub(super) fn unused_keys(
    ledgers: &[LedgerRow],
    looked_at: &[&LedgerRow],
    chains: &[Epochs],
    question: &Question<'_>,
    report: &mut Report,
) {
    let mut finding = |detail: String| {
        report.add(Finding::new(FindingCode::KeyMismatch, "--vkey", detail));
    };
    let is_of = |key: &VerifierKey, row: &LedgerRow| row.origin == key.name();
    let is_away = |key: &VerifierKey| chains.iter().any(|chain| chain.away().contains_key(key.name()));
    for key in &question.vkeys {
        let name = key.name();
        if !is_away(key) && !ledgers.iter().any(|row| is_of(key, row)) {
            finding(format!(
                "the key is that of {name:?}, and no ledger here has that name"
            ));
        }
    }
    let is_used = |key: &VerifierKey| is_away(key) || looked_at.iter().any(|row| is_of(key, row));
    if let Some(key) = question.vkeys.first()
        && !looked_at.is_empty()
        && !question.vkeys.iter().any(is_used)
    {
        let name = key.name();
        finding(format!(
            "the key is that of {name:?}, and what was looked at is another ledger"
        ));
    }
}
