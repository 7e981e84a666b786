//! Lineage on record: lines of audit logs, posted one by one or imported from a file, and found again by function.
//!
//! A log becomes a run: its id is that in the file's name, its lines are records of it, and a line that is on record
//! is not written again, so that an import that was broken off is simply done again. A sealed run takes no new lines. Equal lines of one log are told
//! apart by how many stood before. What is posted names its run, or none.
//!
//! Out of scope: what rows a line cites (the crate `lineage`). What was recorded is given back as a log in `export.rs`.
//!
//! Source: SPEC 9.2.

mod export;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evidence::canonical::{self, Value};
use evidence::facet::facet;
use evidence::record::{
    Facts, LineageFacts, LineageRecord, RunCompleted, RunStarted, lineage_identity, lineage_line,
};
use evidence::{Identity, Kind, SourceDomain, Timestamp};
use serde::{Deserialize, Serialize};
use store::{FacetQuery, LeafKey, Store};

use crate::lines::{Lines, TooLong};
use crate::own::Watch;
use crate::{
    Bind, Body, BodyTooLarge, Draft, EndRun, Ledger, Placed, RecordError, Rejection, Salts, SettleError,
    SubmitError, Tenant, WriteError, records,
};

pub use export::{LINEAGE_GONE, LogPage, LogTally, log_page};

/// Erased records looked at, newest first, for later ones of a function: a tenth of a second.
const ERASED_LOOKED_MAX: u32 = 10_000;

/// Erased records looked at at once.
const ERASED_READ: u32 = 500;

/// Longest line read: the largest body, and room for what is no part of it.
const LINE_BYTES_MAX: u64 = 17 * 1024 * 1024;

/// Lines written to the ledger at once, and their bytes.
const IMPORT_RECORDS: usize = 256;
const IMPORT_BYTES: usize = 8 * 1024 * 1024;

/// Most different lines of a log: each is known by 20 bytes while it is imported, to count its copies.
const LINES_MAX: usize = 4_000_000;

/// Remarks kept of an import; all are counted.
const REMARKS_MAX: usize = 100;

/// A line as it was written.
#[derive(Clone, Debug)]
pub struct LineageWritten {
    /// Its record, or that of the same line before.
    pub placed: Placed,
    /// The markers in it: {count, patterns}.
    pub redactions: Value,
}

/// What was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageImported {
    /// The run.
    pub run_id: String,
    /// Lines that are records now.
    pub written: u64,
    /// Lines that were on record already.
    pub known: u64,
    /// Lines of other types.
    pub other: u64,
    /// Lines that are none.
    pub malformed: u64,
    /// Lines that the ledger refused: of a sealed run, or larger than a record may be.
    #[serde(default)]
    pub refused: u64,
    /// The first remarks, each with its line.
    pub remarks: Vec<String>,
    /// The log was read to its end; else it was told to stop, and what came before is in the ledger.
    #[serde(default)]
    pub complete: bool,
}

/// Why a file was not imported, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum LineageImportError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A run has no such name.
    #[error("{0:?} names no run: audit_<run id>.jsonl")]
    Name(String),
    /// Its run cannot be begun.
    #[error(transparent)]
    Run(#[from] WriteError),
    /// Its run cannot be ended.
    #[error(transparent)]
    End(#[from] SettleError),
    /// It has too many lines.
    #[error("the log has more than {LINES_MAX} different lines")]
    Lines,
    /// Nothing more was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

/// The last evidence of a function, as lines of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineageCited {
    /// The deterministic record, or how it went.
    pub deterministic: Body,
    /// Its id.
    pub deterministic_record: String,
    /// The evidence that it names, or how that went; none when it names none, when that is not on record, or when it
    /// was erased, and also when the deterministic record is gone, which would say which it is.
    pub evidence: Option<Body>,
    /// Its id.
    pub evidence_record: Option<String>,
}

/// What there is of a function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineageFound {
    /// The newest deterministic record of it that is on record under its name.
    pub cited: Option<LineageCited>,
    /// Deterministic records behind that one, of any function, that are erased: of which function they were nobody
    /// knows any more, and the newest of this one may be among them.
    pub erased_later: u64,
    /// More were erased than are looked at.
    pub erased_more: bool,
    /// Evidence records behind the evidence of [`Self::cited`], of any id, that are erased: the newest of this id may be
    /// among them.
    pub evidence_erased_later: u64,
    /// More were erased than are looked at.
    pub evidence_erased_more: bool,
}

/// The record of a line. Of a run, it is the only one with its content and that number of copies before it, which
/// `copies` says of its identity as a first.
fn draft(
    record: &LineageRecord,
    run: Option<(&str, &str)>,
    copies: impl FnOnce(Identity) -> u32,
    at: Timestamp,
    salts: &mut Salts,
) -> Result<(Draft, Value), WriteError> {
    let kind = record.kind();
    let mut record = record.clone();
    // Redaction comes before the identity, which the verifier finds in what is stored.
    if let Some(redacted) = salts
        .rules()
        .body(kind, &record.encode())
        .map_err(BodyTooLarge::from)?
    {
        let fields = canonical::parse(&redacted, canonical::Limits::default()).unwrap_or_default();
        record = LineageRecord::new(kind, fields)?;
    }
    if run.is_some() {
        let before = copies(lineage_identity(kind, &record.encode()));
        record = record.copy(before);
    }
    let body = record.encode();
    let occurred_at = record.said_at().unwrap_or(at);
    let facts: LineageFacts = record.facts();
    let draft = Draft::alone_clean(kind, Facts::Lineage(facts), &body, occurred_at, salts)?;
    let draft = Draft {
        bind: run.map_or(Bind::None, |(run_id, _)| Bind::Run(run_id.into())),
        identity: run.map(|_| lineage_identity(kind, &body)),
        trace_id: run.map(|(_, trace_id)| trace_id.into()),
        source_domain: SourceDomain::Activity,
        ..draft
    };
    Ok((draft, evidence::redact::tally(record.fields())))
}

impl Ledger {
    /// Writes a line, before which `copies` equal ones stand in its log. Blocks until it is durable.
    ///
    /// # Errors
    /// [`WriteError`]; then nothing was written, as far as is known.
    pub fn lineage_write(
        &self,
        tenant: &Arc<Tenant>,
        record: &LineageRecord,
        run_id: Option<&str>,
        copies: u32,
        at: Timestamp,
    ) -> Result<LineageWritten, WriteError> {
        let run = self.run_named(tenant, run_id)?;
        let run = run
            .as_ref()
            .map(|(run_id, trace_id)| (run_id.as_str(), trace_id.as_str()));
        let (draft, redactions) = draft(record, run, |_| copies, at, &mut tenant.salts())?;
        let outcome = self.submit_blocking(tenant, vec![draft], at, false)?.pop();
        let placed = outcome.ok_or(SubmitError::Closing)??;
        Ok(LineageWritten { placed, redactions })
    }

    /// Makes a run of an audit log, and a record of each of its lines. Blocks. What is in the ledger already is not
    /// written again.
    ///
    /// # Errors
    /// [`LineageImportError`]; what came before it is in the ledger.
    pub fn lineage_import(
        &self,
        tenant: &Arc<Tenant>,
        path: &Path,
        at: Timestamp,
    ) -> Result<LineageImported, LineageImportError> {
        self.lineage_import_watched(tenant, path, at, &Watch::default())
    }

    /// The same, counted by bytes of the log and stopped between two batches: its run is then left open.
    pub(crate) fn lineage_import_watched(
        &self,
        tenant: &Arc<Tenant>,
        path: &Path,
        at: Timestamp,
        watch: &Watch,
    ) -> Result<LineageImported, LineageImportError> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let run_id = name
            .strip_prefix("audit_")
            .and_then(|rest| rest.strip_suffix(".jsonl"));
        let run_id = run_id
            .filter(|run_id| !run_id.is_empty() && run_id.len() <= evidence::IDENTIFIER_BYTES_MAX)
            .filter(|run_id| !run_id.chars().any(char::is_control))
            .ok_or_else(|| LineageImportError::Name(name.to_owned()))?;
        let trace_id = format!("trace_{run_id}");
        let file = File::open(path)?;
        watch.total.store(file.metadata()?.len(), Ordering::Relaxed);
        let mut lines = Lines::new(BufReader::new(file), LINE_BYTES_MAX);
        let mut imported = LineageImported {
            run_id: run_id.to_owned(),
            ..LineageImported::default()
        };
        let mut salts = tenant.salts();
        let mut waiting = Waiting::default();
        let mut seen: HashMap<Identity, u32> = HashMap::new();
        let copies = |seen: &mut HashMap<Identity, u32>, identity| {
            let count = seen.entry(identity).or_default();
            *count += 1;
            *count - 1
        };
        while let Some((number, read)) = lines.next_line()? {
            if watch.is_stopped() {
                return Ok(imported);
            }
            if seen.len() > LINES_MAX {
                return Err(LineageImportError::Lines);
            }
            let read = read.map_err(|TooLong| "is longer than a record may be".to_owned());
            let record = match read.and_then(LineageRecord::of_line) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    imported.other += 1;
                    continue;
                }
                Err(reason) => {
                    imported.malformed(number, &reason);
                    continue;
                }
            };
            if imported.written + imported.known == 0 && waiting.drafts.is_empty() {
                // A run without a record of its own is not begun.
                let started_at = record.said_at().unwrap_or(at);
                self.lineage_begin(tenant, run_id, &trace_id, started_at, at)?;
            }
            let of_line = |identity| copies(&mut seen, identity);
            match draft(&record, Some((run_id, &trace_id)), of_line, at, &mut salts) {
                Ok((draft, _)) => {
                    waiting.bytes += draft.bytes();
                    waiting.drafts.push(draft);
                    waiting.numbers.push(number);
                }
                Err(error) => imported.refused(number, &error.to_string()),
            }
            if waiting.drafts.len() == IMPORT_RECORDS || waiting.bytes > IMPORT_BYTES {
                self.lineage_submit(tenant, &mut waiting, &mut imported, at)?;
                watch.done.store(lines.bytes_read(), Ordering::Relaxed);
            }
        }
        self.lineage_submit(tenant, &mut waiting, &mut imported, at)?;
        watch.done.store(lines.bytes_read(), Ordering::Relaxed);
        if imported.written + imported.known > 0 {
            self.lineage_end(tenant, run_id, at)?;
        }
        imported.complete = true;
        Ok(imported)
    }

    fn lineage_begin(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
        trace_id: &str,
        started_at: Timestamp,
        at: Timestamp,
    ) -> Result<(), WriteError> {
        let known = self
            .store()
            .run_find(tenant.tenant_no, run_id)
            .map_err(RecordError::from)?;
        if known.is_some() {
            return Ok(());
        }
        let started = RunStarted {
            goal: Some("audit log".to_owned()),
            source: "SYSTEM".into(),
            ..RunStarted::default()
        };
        let facts = started.facts(run_id, trace_id, Some(run_id), started_at, false);
        let mut salts = tenant.salts();
        let kind = Kind::RunStarted;
        let draft = Draft::alone(
            kind,
            Facts::RunStarted(facts),
            &started.encode(None),
            started_at,
            &mut salts,
        )?;
        let draft = Draft {
            bind: Bind::NewRun(run_id.into()),
            identity: Some(Identity::once(kind)),
            trace_id: Some(trace_id.into()),
            correlation_id: Some(run_id.into()),
            source_domain: SourceDomain::Activity,
            ..draft
        };
        match self.submit_blocking(tenant, vec![draft], at, false)?.pop() {
            // Somebody else was quicker: the run is there.
            Some(Ok(_) | Err(Rejection::Conflict(_))) => Ok(()),
            Some(Err(rejection)) => Err(rejection.into()),
            None => Err(SubmitError::Closing.into()),
        }
    }

    fn lineage_submit(
        &self,
        tenant: &Arc<Tenant>,
        waiting: &mut Waiting,
        imported: &mut LineageImported,
        at: Timestamp,
    ) -> Result<(), SubmitError> {
        let waiting = std::mem::take(waiting);
        self.give_way();
        let outcomes = self.submit_blocking(tenant, waiting.drafts, at, false)?;
        for (outcome, number) in outcomes.into_iter().zip(waiting.numbers) {
            match outcome {
                Ok(placed) if placed.fresh => imported.written += 1,
                Ok(_) => imported.known += 1,
                Err(rejection) => imported.refused(number, &rejection.to_string()),
            }
        }
        Ok(())
    }

    /// A log that was imported has ended. Lines that are appended to it come to the same run until that is sealed,
    /// `runs.seal_after` later; after that the ledger refuses them.
    fn lineage_end(&self, tenant: &Arc<Tenant>, run_id: &str, at: Timestamp) -> Result<(), SettleError> {
        let run = self
            .store()
            .run_find(tenant.tenant_no, run_id)
            .map_err(RecordError::from)?;
        if run.is_none_or(|run| run.state.ended()) {
            return Ok(());
        }
        let completed = RunCompleted {
            termination_reason: Some("imported".to_owned()),
            completed_at: Some(at),
            ..RunCompleted::default()
        };
        let content = evidence::sha256(run_id.as_bytes());
        match self.end_run(tenant, run_id, &EndRun::Completed(completed, content), at) {
            Ok(_) | Err(SettleError::Rejected(Rejection::RunEnded | Rejection::Conflict(_))) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The last deterministic record of a function, of one run or of all, the last evidence of the id it names, and
/// whether later ones may have been erased.
///
/// # Errors
/// They cannot be read.
pub fn cited(
    store: &dyn Store,
    tenant_no: u32,
    function: &str,
    run_id: Option<&str>,
) -> Result<LineageFound, RecordError> {
    let newest =
        |name: &str, value: &str, run: Option<&str>| -> Result<Option<records::Record>, RecordError> {
            let mut facets = vec![facet(name, value)];
            facets.extend(run.map(|run| facet("lineage.run", run)));
            let query = FacetQuery {
                facets,
                limit: 1,
                newest_first: true,
                ..FacetQuery::default()
            };
            let page = store.facet_find(tenant_no, &query)?;
            Ok(records::read(store, &page.leaves)?.pop())
        };
    let line = |record: &records::Record| -> Result<Body, RecordError> {
        let kind = record.header()?.kind;
        Ok(match &record.body {
            Body::Gone(gone) => Body::Gone(*gone),
            Body::There(body) => {
                Body::There(lineage_line(kind, body).map_err(|error| RecordError::Body {
                    leaf: record.leaf.leaf_index(),
                    reason: error.to_string(),
                })?)
            }
        })
    };
    let record = newest("lineage.fn", function, run_id)?;
    let behind = record.as_ref().map(|record| record.leaf);
    let (erased_later, erased_more) =
        erased_behind(store, tenant_no, Kind::LineageDeterministic, behind, run_id)?;
    let mut found = LineageFound {
        erased_later,
        erased_more,
        ..LineageFound::default()
    };
    let Some(record) = record else {
        return Ok(found);
    };
    let header = record.header()?;
    let facts = record
        .body
        .bytes()
        .and_then(|body| Facts::read(&header, body).ok());
    let evidence_id = match facts {
        Some(Facts::Lineage(facts)) => facts.evidence_id,
        _ => None,
    };
    // Evidence belongs to the run of the record that names it.
    let run = header.run.as_ref().map(|run| &*run.run_id);
    let evidence = match &evidence_id {
        Some(id) => newest("lineage.evidence", id, run)?,
        None => None,
    };
    if let Some(evidence) = &evidence {
        let behind = Some(evidence.leaf);
        (found.evidence_erased_later, found.evidence_erased_more) =
            erased_behind(store, tenant_no, Kind::LineageEvidence, behind, run)?;
    }
    found.cited = Some(LineageCited {
        deterministic: line(&record)?,
        deterministic_record: header.id.to_string(),
        evidence: evidence.as_ref().map(line).transpose()?,
        evidence_record: match &evidence {
            Some(evidence) => Some(evidence.header()?.id.to_string()),
            None => None,
        },
    });
    Ok(found)
}

/// How many records of a kind behind a leaf, of one run or of all, are erased, and whether there may be more.
fn erased_behind(
    store: &dyn Store,
    tenant_no: u32,
    kind: Kind,
    behind: Option<LeafKey>,
    run_id: Option<&str>,
) -> Result<(u64, bool), RecordError> {
    let mut query = FacetQuery {
        facets: vec!["erased".to_owned()],
        limit: ERASED_READ,
        newest_first: true,
        ..FacetQuery::default()
    };
    let (mut found, mut looked) = (0, 0);
    loop {
        let page = store.facet_find(tenant_no, &query)?;
        for (leaf, header) in page.leaves.iter().zip(records::headers(store, &page.leaves)?) {
            if behind.is_some_and(|behind| *leaf < behind) {
                return Ok((found, false));
            }
            if looked == ERASED_LOOKED_MAX {
                return Ok((found, true));
            }
            looked += 1;
            let header = records::decode(*leaf, &header)?;
            let of_run = header.run.as_ref().map(|run| &*run.run_id);
            if header.kind == kind && run_id.is_none_or(|run| of_run == Some(run)) {
                found += 1;
            }
        }
        match page.next.or(page.leaves.last().copied()) {
            Some(next) if page.has_more => query.below = Some(next),
            _ => return Ok((found, false)),
        }
    }
}

#[derive(Default)]
struct Waiting {
    drafts: Vec<Draft>,
    numbers: Vec<u64>,
    bytes: usize,
}

impl LineageImported {
    /// A line is none.
    pub fn malformed(&mut self, line: u64, reason: &str) {
        self.malformed += 1;
        self.remark(line, reason);
    }

    /// The ledger refused a line.
    pub fn refused(&mut self, line: u64, reason: &str) {
        self.refused += 1;
        self.remark(line, reason);
    }

    fn remark(&mut self, line: u64, reason: &str) {
        if self.remarks.len() < REMARKS_MAX {
            self.remarks.push(format!("line {line}: {reason}"));
        }
    }
}
