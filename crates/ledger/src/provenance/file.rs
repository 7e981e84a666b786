//! Provenance logs as files: `provenance_YYYY-MM-DD.jsonl`, one log a line with the fifteen fields of the seed.
//!
//! Payloads are canonical JSON, gzip, base64; `compressed` says so. Read are both forms. What is read goes through
//! redaction like anything else that is sent. A log whose body is erased or archived has a line too, which says so and
//! is no log to whoever reads it. A log whose id and input are on record is passed over, so that a file
//! can be read again; with another output, or one that cannot be read, it is refused. So is one that was imported and
//! erased: its erasure keeps by what it is told again ([`crate::erased_key`]).
//!
//! Source: SPEC 9.1.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evidence::canonical;
use evidence::facet::{erased_log, facet};
use evidence::record::{ProvenanceLog, ProvenanceView};
use evidence::{Identity, Kind, RecordId, Timestamp};
use serde::{Deserialize, Serialize};
use store::{FacetQuery, Gone, LeafKey, Store};

use super::draft;
pub use super::line::unpacked;
use super::line::{Line, line_of, line_of_gone, read_line};
use crate::files::named;
use crate::lines::{Lines, TooLong};
use crate::own::Watch;
use crate::verify::Erasures;
use crate::{Body, Draft, Ledger, RecordError, Salts, Tenant, records};

/// Longest line read: a record of 16 MiB with both payloads in base64, and room.
const LINE_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// Files open at once while exporting; of more days some are opened again.
const FILES_OPEN_MAX: usize = 64;

/// Logs written to the ledger at once, and the bytes after which they are.
const IMPORT_RECORDS: usize = 256;
const IMPORT_BYTES: usize = 8 * 1024 * 1024;

/// Remarks kept of an import; all are counted.
const REMARKS_MAX: usize = 100;

/// Records found at once.
const FIND: u32 = 256;

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Logs.
    pub logs: u64,
    /// Logs whose body is erased; each has a line that says so, without what it held.
    pub erased: u64,
    /// The same of logs whose body is in an archive.
    pub archived: u64,
    /// The same of logs whose body is not there, and nothing on record says why: verification does.
    pub missing: u64,
    /// The files, by day.
    pub files: Vec<PathBuf>,
}

/// What was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Logs that are in the ledger now and were not before.
    pub logs: u64,
    /// Logs that were on record already, by id, input and output.
    #[serde(default)]
    pub on_record: u64,
    /// Logs that the ledger refused, those whose id and input are on record with another output, or with one that
    /// cannot be read, and those that were imported and erased.
    #[serde(default)]
    pub refused: u64,
    /// Logs imported with something taken out of a payload, so that their hashes are others than in the file.
    #[serde(default)]
    pub redacted: u64,
    /// Logs imported without the run that they name: it is not there, or is sealed.
    #[serde(default)]
    pub without_run: u64,
    /// Lines that stand for a log which was erased or archived before it was exported.
    #[serde(default)]
    pub gone: u64,
    /// Lines that are no log.
    pub malformed: u64,
    /// Logs with a hash that is another than that of the payload beside it. They are taken as if it were the right one.
    pub disagreeing: u64,
    /// The first remarks, each with its line.
    pub remarks: Vec<String>,
    /// The file was read to its end; else it was told to stop, and what came before is in the ledger.
    #[serde(default)]
    pub complete: bool,
}

/// Logs on their way to the ledger.
#[derive(Default)]
struct Waiting {
    /// Each with its line.
    drafts: Vec<(u64, Draft)>,
    /// The hash of the output of each, and of those on record that were asked for, by its id and that of its input.
    known: HashMap<(String, String), String>,
    bytes: usize,
    /// Lines read since the last ones went, among them those that are on record already.
    lines: usize,
}

/// What is on record under an id and an input.
enum OnRecord {
    Nothing,
    /// A log with this output, SHA-256, hex.
    Output(String),
    /// A log whose output is not there any more.
    Gone,
    /// A log that was imported, and erased.
    Erased,
    /// A record that cannot be read, and why: which of the others it is nobody can tell.
    Damaged(String),
}

/// Why files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A file cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A record cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

/// Writes a tenant's logs into files by day, those between the times if given. Files of these days are replaced, once all
/// are whole. `progress` is told how many logs were looked at, of [`count`].
///
/// # Errors
/// [`ExportError`]; the files of before stand, unless it is one of giving names.
pub fn export(
    store: &dyn Store,
    (tenant_no, tenant_id): (u32, &str),
    out: &Path,
    (start, end): (Option<Timestamp>, Option<Timestamp>),
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, ExportError> {
    fs::create_dir_all(out).map_err(|error| named(out, &error))?;
    let mut exported = Exported::default();
    let mut looked = 0;
    let mut days = Days::new(out)?;
    let erasures = Erasures::unread(store, tenant_no)?;
    let mut query = FacetQuery {
        facets: vec!["provenance".to_owned()],
        limit: FIND,
        ..FacetQuery::default()
    };
    loop {
        let page = store.facet_find(tenant_no, &query)?;
        for leaf in &page.leaves {
            looked += 1;
            let Some(record) = records::read(store, &[*leaf])?.pop() else {
                continue;
            };
            let header = record.header()?;
            let at = header.occurred_at;
            if start.is_some_and(|start| at < start) || end.is_some_and(|end| at > end) {
                continue;
            }
            let line = match &record.body {
                Body::There(body) => {
                    let log = ProvenanceView::read(body).map_err(|error| RecordError::Body {
                        leaf: leaf.leaf_index(),
                        reason: error.to_string(),
                    })?;
                    exported.logs += 1;
                    line_of(&header, tenant_id, &log)?
                }
                Body::Gone(gone) => {
                    let gone = erasures.why_gone(*leaf, header.id, *gone)?;
                    *match gone {
                        Gone::Erased => &mut exported.erased,
                        Gone::Archived => &mut exported.archived,
                        Gone::Missing => &mut exported.missing,
                    } += 1;
                    line_of_gone(&header, tenant_id, gone)
                }
            };
            let mut line = serde_json::to_vec(&line).map_err(io::Error::from)?;
            line.push(b'\n');
            let day = at.to_string()[..10].to_owned();
            days.line(day, &line)?;
        }
        progress(looked);
        match page.next.or(page.leaves.last().copied()) {
            Some(next) if page.has_more => query.below = Some(next),
            _ => break,
        }
    }
    exported.files = days.publish()?;
    Ok(exported)
}

/// How many logs there are in all, for a bar.
///
/// # Errors
/// They cannot be counted.
pub fn count(store: &dyn Store, tenant_no: u32) -> Result<u64, store::StoreError> {
    let query = FacetQuery {
        facets: vec!["provenance".to_owned()],
        ..FacetQuery::default()
    };
    Ok(store.facet_count(tenant_no, &query, u32::MAX)?.0)
}

/// The files of an export while they are written, under names that nobody takes for logs'. What is dropped before they
/// have their own is taken away.
struct Days<'a> {
    out: &'a Path,
    /// Tells them from those of another export.
    mark: String,
    open: HashMap<String, BufWriter<File>>,
    /// All of them, by day.
    begun: BTreeSet<String>,
}

impl<'a> Days<'a> {
    fn new(out: &'a Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Self {
            out,
            mark: evidence::hex_string(&random),
            open: HashMap::new(),
            begun: BTreeSet::new(),
        })
    }

    fn aside(&self, day: &str) -> PathBuf {
        self.out.join(format!(".provenance_{day}-{}.new", self.mark))
    }

    fn line(&mut self, day: String, line: &[u8]) -> io::Result<()> {
        if let Some(file) = self.open.get_mut(&day) {
            return file.write_all(line);
        }
        if self.open.len() == FILES_OPEN_MAX {
            self.flush()?;
        }
        let path = self.aside(&day);
        let opened = if self.begun.contains(&day) {
            File::options().append(true).open(&path)
        } else {
            File::create_new(&path)
        };
        let mut file = BufWriter::new(opened.map_err(|error| named(&path, &error))?);
        self.begun.insert(day.clone());
        file.write_all(line)?;
        self.open.insert(day, file);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for (_, mut file) in self.open.drain() {
            file.flush()?;
        }
        Ok(())
    }

    /// Gives them their names once they are on disk; by day.
    fn publish(mut self) -> io::Result<Vec<PathBuf>> {
        self.flush()?;
        for day in &self.begun {
            File::open(self.aside(day))?.sync_all()?;
        }
        let mut files = Vec::with_capacity(self.begun.len());
        for day in &self.begun {
            let path = self.out.join(format!("provenance_{day}.jsonl"));
            fs::rename(self.aside(day), &path).map_err(|error| named(&path, &error))?;
            files.push(path);
        }
        File::open(self.out)?.sync_all()?;
        Ok(files)
    }
}

impl Drop for Days<'_> {
    fn drop(&mut self) {
        // Of those that have their names nothing is left here.
        for day in &self.begun {
            let _ = fs::remove_file(self.aside(day));
        }
    }
}

impl Imported {
    fn remark(&mut self, line: u64, what: &str) {
        if self.remarks.len() < REMARKS_MAX {
            self.remarks.push(format!("line {line}: {what}"));
        }
    }
}

/// Why a file was not imported, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What is on record cannot be read.
    #[error(transparent)]
    Read(#[from] RecordError),
    /// Nothing more was written, as far as is known.
    #[error(transparent)]
    Submit(#[from] crate::SubmitError),
}

impl From<store::StoreError> for ImportError {
    fn from(error: store::StoreError) -> Self {
        Self::Read(error.into())
    }
}

impl Ledger {
    /// Makes records of a file of logs. Blocks. A line that is no log is told, and passed over; one that is on record
    /// already is counted.
    ///
    /// # Errors
    /// [`ImportError`]; what came before it is in the ledger.
    pub fn provenance_import(
        &self,
        tenant: &Arc<Tenant>,
        path: &Path,
        at: Timestamp,
    ) -> Result<Imported, ImportError> {
        self.provenance_import_watched(tenant, path, at, &Watch::default())
    }

    /// The same, counted by bytes of the file and stopped between two batches.
    pub(crate) fn provenance_import_watched(
        &self,
        tenant: &Arc<Tenant>,
        path: &Path,
        at: Timestamp,
        watch: &Watch,
    ) -> Result<Imported, ImportError> {
        let file = File::open(path)?;
        watch.total.store(file.metadata()?.len(), Ordering::Relaxed);
        let mut lines = Lines::new(BufReader::new(file), LINE_BYTES_MAX);
        let mut imported = Imported::default();
        let mut salts = tenant.salts();
        let mut waiting = Waiting::default();
        while let Some((number, text)) = lines.next_line()? {
            if watch.is_stopped() {
                return Ok(imported);
            }
            let read = text.map_err(|TooLong| "longer than any log may be".to_owned());
            match read.and_then(read_line) {
                Ok(None) => imported.gone += 1,
                Ok(Some(line)) => {
                    self.import_line(tenant, line, number, &mut salts, &mut waiting, &mut imported)?;
                }
                Err(what) => {
                    imported.malformed += 1;
                    imported.remark(number, &what);
                }
            }
            waiting.lines += 1;
            if waiting.lines == IMPORT_RECORDS || waiting.bytes > IMPORT_BYTES {
                self.import(tenant, &mut waiting, at, &mut imported)?;
                watch.done.store(lines.bytes_read(), Ordering::Relaxed);
            }
        }
        self.import(tenant, &mut waiting, at, &mut imported)?;
        watch.done.store(lines.bytes_read(), Ordering::Relaxed);
        imported.complete = true;
        Ok(imported)
    }

    fn import_line(
        &self,
        tenant: &Arc<Tenant>,
        line: Line,
        number: u64,
        salts: &mut Salts,
        waiting: &mut Waiting,
        imported: &mut Imported,
    ) -> Result<(), ImportError> {
        let run = match &line.run_id {
            None => None,
            Some(run_id) => self.run_that_takes(tenant, run_id)?,
        };
        let (draft, log) = match draft(
            line.log,
            run.as_ref().map(|(run, trace)| (&**run, &**trace)),
            line.timestamp,
            salts,
        ) {
            Ok(drafted) => drafted,
            Err(error) => {
                imported.malformed += 1;
                imported.remark(number, &error.to_string());
                return Ok(());
            }
        };
        if let Some(what) = line.disagrees {
            imported.disagreeing += 1;
            imported.remark(number, &what);
        }
        let stored = [log.facts().input_hash, output_hash(&log)];
        let is_redacted = stored != line.hashes;
        let [input, output] = stored;
        let key = (log.id.unwrap_or_default(), input);
        let on_record = match waiting.known.get(&key) {
            Some(output) => OnRecord::Output(output.clone()),
            None => self.on_record(tenant, &key.0, &key.1)?,
        };
        match on_record {
            OnRecord::Nothing => {}
            OnRecord::Output(known) => {
                if known == output {
                    imported.on_record += 1;
                } else {
                    imported.refused += 1;
                    let what = "its id and input are on record with another output";
                    imported.remark(
                        number,
                        &format!("not imported: {what}, {known}, and not {output}"),
                    );
                }
                // The next line of the same log need not read the record again.
                waiting.known.insert(key, known);
                return Ok(());
            }
            OnRecord::Gone => {
                imported.on_record += 1;
                return Ok(());
            }
            OnRecord::Erased => {
                imported.refused += 1;
                imported.remark(
                    number,
                    "not imported: a log with its id and input was imported and erased",
                );
                return Ok(());
            }
            OnRecord::Damaged(what) => {
                imported.refused += 1;
                imported.remark(
                    number,
                    &format!("not imported: what is on record of its id: {what}"),
                );
                return Ok(());
            }
        }
        if let Some(run_id) = line.run_id.filter(|_| run.is_none()) {
            imported.without_run += 1;
            imported.remark(
                number,
                &format!("imported without its run {run_id}, which is not there or is sealed"),
            );
        }
        imported.redacted += u64::from(is_redacted);
        waiting.bytes += draft.bytes();
        waiting.drafts.push((number, draft));
        waiting.known.insert(key, output);
        Ok(())
    }

    /// Run and trace, if the run is there and takes more.
    fn run_that_takes(
        &self,
        tenant: &Arc<Tenant>,
        run_id: &str,
    ) -> Result<Option<(String, String)>, ImportError> {
        let Some(run) = self.store().run_find(tenant.tenant_no, run_id)? else {
            return Ok(None);
        };
        let seal = Identity::once(Kind::EvidenceIntegrity);
        let sealed = self.store().run_record_find(run.key, &seal)?.is_some();
        Ok((!sealed).then_some((run.state.run_id, run.state.trace_id)))
    }

    /// The log of that id and input: imported with it, or whose record has the id.
    fn on_record(&self, tenant: &Arc<Tenant>, id: &str, input_hash: &str) -> Result<OnRecord, ImportError> {
        let query = FacetQuery {
            facets: vec![facet("provenance.id", id), facet("provenance.input", input_hash)],
            limit: 1,
            ..FacetQuery::default()
        };
        let found = self.store().facet_find(tenant.tenant_no, &query)?.leaves;
        match self.known_log(tenant, &found, id, input_hash) {
            // Damage does not heal: it must not keep the other lines from being imported.
            Err(error) if error.is_damage() => Ok(OnRecord::Damaged(error.to_string())),
            Ok(OnRecord::Nothing) => self.erased_log(tenant, id, input_hash),
            known => known.map_err(ImportError::from),
        }
    }

    /// What is on record of a log that is not found: that it was erased, or nothing.
    fn erased_log(&self, tenant: &Tenant, id: &str, input_hash: &str) -> Result<OnRecord, ImportError> {
        let identity = Identity::imported_log(id, input_hash);
        let Some(kept) = self.inner.erased_key.known(&tenant.tenant_id, identity) else {
            return Ok(OnRecord::Nothing);
        };
        let query = FacetQuery {
            facets: vec![erased_log(kept)],
            limit: 1,
            ..FacetQuery::default()
        };
        let found = self.store().facet_find(tenant.tenant_no, &query)?.leaves;
        Ok(if found.is_empty() {
            OnRecord::Nothing
        } else {
            OnRecord::Erased
        })
    }

    /// What the imported log, of which `found` is the leaf, or the record with that id says of its output.
    fn known_log(
        &self,
        tenant: &Arc<Tenant>,
        found: &[LeafKey],
        id: &str,
        input_hash: &str,
    ) -> Result<OnRecord, RecordError> {
        let is_imported = !found.is_empty();
        let record = match RecordId::parse(id) {
            _ if is_imported => self.records(tenant).read(found)?.pop(),
            Some(id) => self.records(tenant).get(id)?,
            None => None,
        };
        let Some(record) = record else {
            return Ok(OnRecord::Nothing);
        };
        if record.header()?.kind != Kind::ProvenanceLog {
            return Ok(OnRecord::Nothing);
        }
        // Found by its record's id, an erased one is on record too: nobody has erased it to have it come back. An
        // imported one is found by what its erasure keeps.
        let Some(body) = record.body.bytes() else {
            return Ok(OnRecord::Gone);
        };
        let log = ProvenanceView::read(body).map_err(|error| RecordError::Body {
            leaf: record.leaf.leaf_index(),
            reason: error.to_string(),
        })?;
        let is_it = is_imported || log.id.is_none() && log.input_hash == input_hash;
        Ok(if is_it {
            OnRecord::Output(log.output_hash.to_owned())
        } else {
            OnRecord::Nothing
        })
    }

    fn import(
        &self,
        tenant: &Arc<Tenant>,
        waiting: &mut Waiting,
        at: Timestamp,
        imported: &mut Imported,
    ) -> Result<(), ImportError> {
        let waiting = std::mem::take(waiting);
        let (lines, drafts): (Vec<u64>, Vec<Draft>) = waiting.drafts.into_iter().unzip();
        self.give_way();
        let outcomes = self.submit_blocking(tenant, drafts, at, false)?;
        for (line, outcome) in lines.into_iter().zip(outcomes) {
            match outcome {
                Ok(_) => imported.logs += 1,
                Err(rejection) => {
                    imported.refused += 1;
                    imported.remark(line, &format!("not imported: {rejection}"));
                }
            }
        }
        Ok(())
    }
}

/// SHA-256 of the output as it is stored, hex.
fn output_hash(log: &ProvenanceLog) -> String {
    canonical::sha256_hex(&canonical::to_vec(&log.output))
}
