//! Provenance logs: every input and output of a model, found again by its hash.
//!
//! A log is a record like any other: durable when it is acknowledged, and seen by the next query. Payloads are
//! redacted first; hashes are over what is stored.
//!
//! In scope: writing, finding, the drift report. Files are in [`file`].
//!
//! Source: SPEC 9.1.

pub mod file;
mod line;

use std::collections::BTreeMap;
use std::sync::Arc;

use evidence::canonical::{self, Value};
use evidence::facet::facet;
use evidence::record::{Facts, ProvenanceLog, ProvenanceView};
use evidence::{Header, Kind, SourceDomain, Timestamp};
use store::{FacetQuery, Gone, LeafKey};

use crate::verify::Erasures;
use crate::{
    Bind, Body, BodyTooLarge, Draft, Ledger, Receipt, Record, RecordError, Rejection, Salts, SubmitError,
    Tenant, WriteError,
};

/// Most logs of one page.
pub const PROVENANCE_PAGE_MAX: u32 = 500;

/// Payloads on one page, in bytes; the log that passes it is the page's last.
const PAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Logs looked through for one page when their times are filtered: some 50 ms. The next page goes on.
const LOOK_MAX: usize = 65_536;

/// Logs that a drift report is made from, the newest of those asked for: 300 bytes each are held, 30 MB.
pub const DRIFT_LOGS_MAX: usize = 100_000;

/// Payloads that a drift report is made from, in bytes: unpacked and read in 2 s.
pub const DRIFT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Leaves found at once.
const FIND: u32 = 500;

/// Searches for one answer that may end before they have found a page, as they do where several filters hardly meet:
/// 0.1 s each ([`store::FACET_SEEKS_MAX`]).
const FIND_ENDED_MAX: u32 = 10;

/// A log as it was written.
#[derive(Clone, Debug)]
pub struct ProvenanceWritten {
    /// Its record.
    pub receipt: Receipt,
    /// SHA-256 of the canonical payloads as stored, hex.
    pub hashes: (String, String),
    /// The markers in the payloads: {count, patterns}.
    pub redactions: Value,
}

/// Which logs.
#[derive(Clone, Debug, Default)]
pub struct ProvenanceQuery {
    /// At this time or later.
    pub start: Option<Timestamp>,
    /// At this time or before.
    pub end: Option<Timestamp>,
    /// With this input.
    pub input_hash: Option<String>,
    /// That ended so.
    pub status: Option<String>,
    /// Of this run.
    pub run_id: Option<String>,
    /// By this model.
    pub model_version: Option<String>,
    /// Most of them.
    pub limit: u32,
    /// Below this leaf: the cursor.
    pub below: Option<LeafKey>,
    /// The list as it was at this leaf.
    pub as_of: Option<LeafKey>,
}

/// A page of logs, newest recorded first.
#[derive(Debug, Default)]
pub struct ProvenancePage {
    /// Their records; bodies are there, unless erased, archived, or damaged ([`Record::is_damaged`]).
    pub records: Vec<Record>,
    /// The cursor of the next page; `None`: this is the last.
    pub next: Option<LeafKey>,
}

/// One output of an input that has had several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriftOutput {
    /// SHA-256 of the output, hex.
    pub output_hash: String,
    /// By which model.
    pub model_version: String,
    /// Through which adapter.
    pub adapter_version: String,
    /// How often.
    pub count: u64,
    /// First and last, by their own times.
    pub between: (Timestamp, Timestamp),
}

/// What drifted.
#[derive(Clone, Debug, Default)]
pub struct Drift {
    /// Inputs whose output changed, with their outputs, the first one first.
    pub inputs: Vec<(String, Vec<DriftOutput>)>,
    /// Logs that were looked at.
    pub logs: usize,
    /// Logs that could not be, because their body is erased.
    pub erased: usize,
    /// Because it is in an archive.
    pub archived: usize,
    /// Because it is not there, and no record says why.
    pub missing: usize,
    /// All that were asked for were looked at.
    pub complete: bool,
}

impl ProvenanceQuery {
    fn facets(&self) -> Vec<String> {
        let filters = [
            ("provenance.input", &self.input_hash),
            ("provenance.model", &self.model_version),
            ("provenance.run", &self.run_id),
            ("provenance.status", &self.status),
        ];
        let mut facets: Vec<String> = filters
            .into_iter()
            .filter_map(|(name, value)| Some(facet(name, value.as_deref()?)))
            .collect();
        if facets.is_empty() {
            facets.push("provenance".to_owned());
        }
        facets
    }

    fn takes(&self, header: &[u8]) -> bool {
        if self.start.is_none() && self.end.is_none() {
            return true;
        }
        // What cannot be read is shown rather than hidden.
        let Ok(header) = Header::decode(header) else {
            return true;
        };
        self.start.is_none_or(|start| header.occurred_at >= start)
            && self.end.is_none_or(|end| header.occurred_at <= end)
    }
}

/// The record of a log, received `at`. Of a run, if one is named: it must be there.
///
/// # Errors
/// [`WriteError::Rule`] or [`WriteError::Body`].
pub fn draft(
    mut log: ProvenanceLog,
    run: Option<(&str, &str)>,
    timestamp: Timestamp,
    salts: &mut Salts,
) -> Result<(Draft, ProvenanceLog), WriteError> {
    for payload in [&mut log.input, &mut log.output] {
        let text = canonical::to_vec(payload);
        if let Some(redacted) = salts.rules().free(&text).map_err(BodyTooLarge::from)? {
            *payload = canonical::parse(&redacted, canonical::Limits::default()).unwrap_or_default();
        }
    }
    log.check()?;
    let facts = Facts::Provenance(log.facts());
    let draft = Draft::alone(Kind::ProvenanceLog, facts, &log.encode(), timestamp, salts)?;
    let bind = run.map_or(Bind::None, |(run_id, _)| Bind::Run(run_id.into()));
    let draft = Draft {
        bind,
        trace_id: run.map(|(_, trace_id)| trace_id.into()),
        source_domain: SourceDomain::Activity,
        ..draft
    };
    Ok((draft, log))
}

impl Ledger {
    /// Writes a log. Blocks until it is durable.
    ///
    /// # Errors
    /// [`WriteError`]; then nothing was written, as far as is known.
    pub fn provenance_log(
        &self,
        tenant: &Arc<Tenant>,
        log: ProvenanceLog,
        run_id: Option<&str>,
        timestamp: Timestamp,
        at: Timestamp,
    ) -> Result<ProvenanceWritten, WriteError> {
        let run = self.run_named(tenant, run_id)?;
        let run = run
            .as_ref()
            .map(|(run_id, trace_id)| (run_id.as_str(), trace_id.as_str()));
        let (draft, log) = draft(log, run, timestamp, &mut tenant.salts())?;
        let outcome = self.submit_blocking(tenant, vec![draft], at, false)?.pop();
        let receipt = outcome.ok_or(SubmitError::Closing)??.receipt;
        let hash = |value: &Value| evidence::hex_string(&evidence::sha256(&canonical::to_vec(value)));
        let hashes = (hash(&log.input), hash(&log.output));
        Ok(ProvenanceWritten {
            receipt,
            hashes,
            redactions: evidence::redact::tally(&Value::Array(vec![log.input, log.output])),
        })
    }

    /// Run and trace of what names a run, which must be there.
    pub(crate) fn run_named(
        &self,
        tenant: &Arc<Tenant>,
        run_id: Option<&str>,
    ) -> Result<Option<(String, String)>, WriteError> {
        let Some(run_id) = run_id else { return Ok(None) };
        let found = self.store().run_find(tenant.tenant_no, run_id)?;
        let run = found.ok_or(Rejection::RunUnknown)?;
        Ok(Some((run.state.run_id, run.state.trace_id)))
    }

    /// Logs, newest recorded first. Blocks.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn provenance_find(
        &self,
        tenant: &Arc<Tenant>,
        query: &ProvenanceQuery,
    ) -> Result<ProvenancePage, RecordError> {
        let records = self.records(tenant);
        let mut page = ProvenancePage::default();
        let limit = usize::try_from(query.limit.min(PROVENANCE_PAGE_MAX)).unwrap_or(1);
        let (mut bytes, mut looked) = (0, 0);
        let erasures = Erasures::unread(self.store(), tenant.tenant_no)?;
        let end = self.each_log(tenant, query, |leaf, header| {
            looked += 1;
            if page.records.len() == limit || bytes > PAGE_BYTES_MAX || looked > LOOK_MAX {
                return Ok(false);
            }
            page.next = Some(leaf);
            if query.takes(header) {
                let Some(mut record) = records.listed(leaf)? else {
                    return Ok(true);
                };
                if let Body::Gone(gone) = record.body {
                    record.body = Body::Gone(erasures.why_gone(leaf, record.header()?.id, gone)?);
                }
                bytes += record.body.bytes().map_or(0, <[u8]>::len);
                page.records.push(record);
            }
            Ok(true)
        })?;
        match end {
            End::Reached => page.next = None,
            End::Stopped => {}
            End::Ended(next) => page.next = Some(next),
        }
        Ok(page)
    }

    /// Which inputs have had several outputs, by version, of at most [`DRIFT_LOGS_MAX`] logs and about `bytes_max` bytes
    /// of payloads ([`DRIFT_BYTES_MAX`]). Blocks.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn provenance_drift(
        &self,
        tenant: &Arc<Tenant>,
        query: &ProvenanceQuery,
        bytes_max: usize,
    ) -> Result<Drift, RecordError> {
        type Key = (String, String, String);
        type Seen = (u64, Timestamp, Timestamp);
        let records = self.records(tenant);
        let mut inputs: BTreeMap<String, BTreeMap<Key, Seen>> = BTreeMap::new();
        let (mut logs, mut looked, mut bytes) = (0, 0, 0);
        let (mut erased, mut archived, mut missing) = (0, 0, 0);
        let erasures = Erasures::unread(self.store(), tenant.tenant_no)?;
        let end = self.each_log(tenant, query, |leaf, header| {
            if looked == DRIFT_LOGS_MAX || bytes > bytes_max {
                return Ok(false);
            }
            looked += 1;
            if !query.takes(header) {
                return Ok(true);
            }
            let Some(record) = records.read(&[leaf])?.pop() else {
                return Ok(true);
            };
            let header = record.header()?;
            let at = header.occurred_at;
            let body = match &record.body {
                Body::There(body) => body,
                Body::Gone(gone) => {
                    match erasures.why_gone(leaf, header.id, *gone)? {
                        Gone::Erased => erased += 1,
                        Gone::Archived => archived += 1,
                        Gone::Missing => missing += 1,
                    }
                    return Ok(true);
                }
            };
            bytes += body.len();
            let log = ProvenanceView::read(body).map_err(|error| RecordError::Body {
                leaf: leaf.leaf_index(),
                reason: error.to_string(),
            })?;
            logs += 1;
            let key = (log.output_hash.to_owned(), log.model_version, log.adapter_version);
            let seen = inputs
                .entry(log.input_hash.to_owned())
                .or_default()
                .entry(key)
                .or_insert((0, at, at));
            *seen = (seen.0 + 1, seen.1.min(at), seen.2.max(at));
            Ok(true)
        })?;
        let changed = |outputs: &BTreeMap<Key, Seen>| {
            let mut hashes = outputs.keys().map(|(hash, ..)| hash);
            let first = hashes.next();
            hashes.any(|hash| Some(hash) != first)
        };
        let inputs = inputs
            .into_iter()
            .filter(|(_, outputs)| changed(outputs))
            .map(|(input, outputs)| {
                let mut outputs: Vec<DriftOutput> = outputs
                    .into_iter()
                    .map(
                        |((output_hash, model_version, adapter_version), (count, first, last))| DriftOutput {
                            output_hash,
                            model_version,
                            adapter_version,
                            count,
                            between: (first, last),
                        },
                    )
                    .collect();
                outputs.sort_by_key(|output| output.between);
                (input, outputs)
            })
            .collect();
        Ok(Drift {
            inputs,
            logs,
            erased,
            archived,
            missing,
            // Of what is gone nobody can say that its outputs were the same.
            complete: matches!(end, End::Reached) && erased + archived + missing == 0,
        })
    }

    /// Calls `each` with the leaves of logs, newest first, until it says `false`.
    fn each_log(
        &self,
        tenant: &Arc<Tenant>,
        query: &ProvenanceQuery,
        mut each: impl FnMut(LeafKey, &[u8]) -> Result<bool, RecordError>,
    ) -> Result<End, RecordError> {
        let records = self.records(tenant);
        let mut find = FacetQuery {
            facets: query.facets(),
            as_of: query.as_of,
            below: query.below,
            limit: FIND.min(query.limit.saturating_add(1)).max(1),
            newest_first: true,
            ..FacetQuery::default()
        };
        let mut ended = 0;
        loop {
            let page = self.store().facet_find(tenant.tenant_no, &find)?;
            for (leaf, header) in page.leaves.iter().zip(records.headers(&page.leaves)?) {
                if !each(*leaf, &header)? {
                    return Ok(End::Stopped);
                }
            }
            let early = page.has_more && page.leaves.len() < usize::try_from(find.limit).unwrap_or(0);
            ended += u32::from(early);
            match page.next.or(page.leaves.last().copied()) {
                Some(next) if page.has_more && ended == FIND_ENDED_MAX => return Ok(End::Ended(next)),
                Some(next) if page.has_more => find.below = Some(next),
                _ => return Ok(End::Reached),
            }
            find.limit = FIND;
        }
    }
}

/// Why no more logs are looked at.
enum End {
    /// There are no more.
    Reached,
    /// No more are wanted.
    Stopped,
    /// [`FIND_ENDED_MAX`] searches have ended early; the next one goes on here.
    Ended(LeafKey),
}
