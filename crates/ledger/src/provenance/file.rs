//! Provenance logs as files: `provenance_YYYY-MM-DD.jsonl`, one log a line with the fifteen fields of the seed.
//!
//! Payloads are canonical JSON, gzip, base64; `compressed` says so. Read are both forms. What is read goes through
//! redaction like anything else that is sent. A log whose body is erased or archived has a line too, which says so and
//! is no log to whoever reads it. A log whose id and input are on record is passed over, so that a file
//! can be read again.
//!
//! Source: SPEC 9.1.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use evidence::canonical::{self, Value};
use evidence::facet::facet;
use evidence::record::{COMMIT_UNKNOWN, PROVENANCE_VERSION_DEFAULT, ProvenanceLog, ProvenanceView};
use evidence::{Header, Identity, Kind, RecordId, Timestamp};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use store::{FacetQuery, Gone, Store};

use super::draft;
use crate::lines::{Lines, TooLong};
use crate::own::Watch;
use crate::{Body, Draft, Ledger, RecordError, Salts, Tenant, records};

/// Longest line read: a record of 16 MiB with both payloads in base64, and room.
const LINE_BYTES_MAX: u64 = 48 * 1024 * 1024;

/// Largest payload once unpacked: as a record's body.
const PAYLOAD_BYTES_MAX: u64 = evidence::record::BODY_BYTES_MAX as u64;

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
    /// Logs that were on record already, by id and input.
    #[serde(default)]
    pub on_record: u64,
    /// Logs that the ledger refused.
    #[serde(default)]
    pub refused: u64,
    /// Logs imported without the run that they name: it is not there, or is sealed.
    #[serde(default)]
    pub without_run: u64,
    /// Lines that stand for a log which was erased or archived before it was exported.
    #[serde(default)]
    pub gone: u64,
    /// Lines that are no log.
    pub malformed: u64,
    /// Logs whose hash is another than that of the payload beside it. They are imported, under the right one.
    pub disagreeing: u64,
    /// The first remarks, each with its line.
    pub remarks: Vec<String>,
    /// The file was read to its end; else it was told to stop, and what came before is in the ledger.
    #[serde(default)]
    pub complete: bool,
}

/// A log as a line.
#[derive(Serialize)]
struct LineOut<'a> {
    id: &'a str,
    timestamp: String,
    input_hash: &'a str,
    output_hash: &'a str,
    input_json: String,
    output_json: String,
    compressed: bool,
    model_version: &'a str,
    adapter_version: &'a str,
    commit_sha: &'a str,
    runtime_ms: i64,
    status: &'a str,
    tenant_id: &'a str,
    run_id: Option<&'a str>,
    plan_hash: &'a str,
}

/// What a line says instead of a log whose body is gone. One that has payloads is a log all the same, whatever else a
/// file says of it.
#[derive(Deserialize)]
struct GoneIn {
    #[serde(default)]
    erased: bool,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    missing: bool,
    input_json: Option<IgnoredAny>,
    output_json: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct LineIn {
    id: String,
    timestamp: Timestamp,
    input_hash: String,
    output_hash: String,
    input_json: String,
    output_json: String,
    #[serde(default)]
    compressed: bool,
    model_version: Option<String>,
    adapter_version: Option<String>,
    commit_sha: Option<String>,
    runtime_ms: Option<i64>,
    status: Option<String>,
    run_id: Option<String>,
}

/// A line, read.
#[derive(Debug)]
struct Line {
    log: ProvenanceLog,
    timestamp: Timestamp,
    run_id: Option<String>,
    /// Which of its hashes is not that of its payload.
    disagrees: Option<String>,
}

/// Logs on their way to the ledger.
#[derive(Default)]
struct Waiting {
    /// Each with its line.
    drafts: Vec<(u64, Draft)>,
    /// Their ids and inputs.
    known: HashSet<(String, String)>,
    bytes: usize,
    /// Lines read since the last ones went, among them those that are on record already.
    lines: usize,
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

/// Writes a tenant's logs into files by day, those between the times if given. Files of these days are replaced.
/// `progress` is told how many logs were looked at, of [`count`].
///
/// # Errors
/// [`ExportError`]; files may be there in part.
pub fn export(
    store: &dyn Store,
    (tenant_no, tenant_id): (u32, &str),
    out: &Path,
    (start, end): (Option<Timestamp>, Option<Timestamp>),
    progress: &mut dyn FnMut(u64),
) -> Result<Exported, ExportError> {
    std::fs::create_dir_all(out)?;
    let mut exported = Exported::default();
    let mut looked = 0;
    let mut files: HashMap<String, BufWriter<File>> = HashMap::new();
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
                    *match gone {
                        Gone::Erased => &mut exported.erased,
                        Gone::Archived => &mut exported.archived,
                        Gone::Missing => &mut exported.missing,
                    } += 1;
                    line_of_gone(&header, tenant_id, *gone)
                }
            };
            let mut line = serde_json::to_vec(&line).map_err(io::Error::from)?;
            line.push(b'\n');
            let day = at.to_string()[..10].to_owned();
            write_line(out, day, &line, &mut files, &mut exported.files)?;
        }
        progress(looked);
        match page.next.or(page.leaves.last().copied()) {
            Some(next) if page.has_more => query.below = Some(next),
            _ => break,
        }
    }
    for mut file in files.into_values() {
        file.flush()?;
    }
    exported.files.sort();
    Ok(exported)
}

fn line_of<'a>(
    header: &'a Header<'_>,
    tenant_id: &'a str,
    log: &'a ProvenanceView<'_>,
) -> Result<serde_json::Value, io::Error> {
    let id = header.id.to_string();
    let line = LineOut {
        id: log.id.as_deref().unwrap_or(&id),
        timestamp: header.occurred_at.to_string(),
        input_hash: log.input_hash,
        output_hash: log.output_hash,
        input_json: packed(log.input.get())?,
        output_json: packed(log.output.get())?,
        compressed: true,
        model_version: &log.model_version,
        adapter_version: &log.adapter_version,
        commit_sha: &log.commit_sha,
        runtime_ms: log.runtime_ms,
        status: &log.status,
        tenant_id,
        run_id: header.run.as_ref().map(|run| &*run.run_id),
        plan_hash: log.plan_hash(),
    };
    serde_json::to_value(line).map_err(io::Error::from)
}

/// The line of a log whose body is gone: every field, those of the body null, and why.
fn line_of_gone(header: &Header<'_>, tenant_id: &str, gone: Gone) -> serde_json::Value {
    let mut line = serde_json::json!({
        "adapter_version": null, "commit_sha": null, "compressed": true, "id": header.id.to_string(),
        "input_hash": null, "input_json": null, "model_version": null, "output_hash": null, "output_json": null,
        "plan_hash": null, "run_id": header.run.as_ref().map(|run| &*run.run_id), "runtime_ms": null,
        "status": null, "tenant_id": tenant_id, "timestamp": header.occurred_at.to_string(),
    });
    line[gone.as_str()] = true.into();
    line
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

fn write_line(
    out: &Path,
    day: String,
    line: &[u8],
    files: &mut HashMap<String, BufWriter<File>>,
    all: &mut Vec<PathBuf>,
) -> io::Result<()> {
    if let Some(file) = files.get_mut(&day) {
        return file.write_all(line);
    }
    if files.len() == FILES_OPEN_MAX {
        for (_, mut file) in files.drain() {
            file.flush()?;
        }
    }
    let path = out.join(format!("provenance_{day}.jsonl"));
    let file = if all.contains(&path) {
        File::options().append(true).open(&path)?
    } else {
        let file = File::create(&path)?;
        all.push(path);
        file
    };
    let mut file = BufWriter::new(file);
    file.write_all(line)?;
    files.insert(day, file);
    Ok(())
}

/// Text as gzip in base64. The same text gives the same.
fn packed(text: &str) -> io::Result<String> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes())?;
    Ok(STANDARD.encode(gzip.finish()?))
}

/// The text of gzip in base64.
///
/// # Errors
/// It is none, or longer than a record may be.
pub fn unpacked(text: &str) -> Result<String, String> {
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let mut out = String::new();
    GzDecoder::new(bytes.as_slice())
        .take(PAYLOAD_BYTES_MAX + 1)
        .read_to_string(&mut out)
        .map_err(|error| error.to_string())?;
    if out.len() as u64 > PAYLOAD_BYTES_MAX {
        return Err(format!("has more than {PAYLOAD_BYTES_MAX} bytes"));
    }
    Ok(out)
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
        let key = (log.id.clone().unwrap_or_default(), log.facts().input_hash);
        if waiting.known.contains(&key) || self.is_on_record(tenant, &key.0, &key.1)? {
            imported.on_record += 1;
            return Ok(());
        }
        if let Some(what) = line.disagrees {
            imported.disagreeing += 1;
            imported.remark(number, &what);
        }
        if let Some(run_id) = line.run_id.filter(|_| run.is_none()) {
            imported.without_run += 1;
            imported.remark(
                number,
                &format!("imported without its run {run_id}, which is not there or is sealed"),
            );
        }
        waiting.bytes += draft.bytes();
        waiting.drafts.push((number, draft));
        waiting.known.insert(key);
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

    /// Whether there is a log of that id and input: imported with it, or whose record has the id.
    fn is_on_record(&self, tenant: &Arc<Tenant>, id: &str, input_hash: &str) -> Result<bool, ImportError> {
        let query = FacetQuery {
            facets: vec![facet("provenance.id", id), facet("provenance.input", input_hash)],
            limit: 1,
            ..FacetQuery::default()
        };
        if !self
            .store()
            .facet_find(tenant.tenant_no, &query)?
            .leaves
            .is_empty()
        {
            return Ok(true);
        }
        let record = match RecordId::parse(id) {
            Some(id) => self.records(tenant).get(id)?,
            None => None,
        };
        let Some(record) = record else { return Ok(false) };
        if record.header()?.kind != Kind::ProvenanceLog {
            return Ok(false);
        }
        // An erased one is on record too: nobody has erased it to have it come back.
        let body = record.body.bytes().map(ProvenanceView::read);
        Ok(body.is_none_or(|log| log.is_ok_and(|log| log.id.is_none() && log.input_hash == input_hash)))
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

/// Whether a line stands for a log whose body was gone.
fn is_gone(text: &[u8]) -> bool {
    serde_json::from_slice(text).is_ok_and(|line: GoneIn| {
        (line.erased || line.archived || line.missing)
            && line.input_json.is_none()
            && line.output_json.is_none()
    })
}

/// `None`: the line stands for a log whose body was gone.
fn read_line(text: &[u8]) -> Result<Option<Line>, String> {
    let line: LineIn = match serde_json::from_slice(text) {
        Ok(line) => line,
        Err(_) if is_gone(text) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let payload = |field: &str, given: &str| -> Result<Value, String> {
        let text = if line.compressed {
            unpacked(given).map_err(|error| format!("{field}: {error}"))?
        } else {
            given.to_owned()
        };
        canonical::parse(text.as_bytes(), canonical::Limits::default())
            .map_err(|error| format!("{field}: {error}"))
    };
    let (input, output) = (
        payload("input_json", &line.input_json)?,
        payload("output_json", &line.output_json)?,
    );
    let hash = |value: &Value| canonical::sha256_hex(&canonical::to_vec(value));
    let disagrees = [
        ("input_hash", &line.input_hash, hash(&input)),
        ("output_hash", &line.output_hash, hash(&output)),
    ]
    .into_iter()
    .find(|(_, given, found)| *given != found)
    .map(|(field, given, found)| format!("{field} is {given}, the payload's is {found}"));
    let or = |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_owned());
    let log = ProvenanceLog {
        id: Some(line.id),
        runtime_ms: line.runtime_ms.unwrap_or(0),
        status: or(line.status, "success"),
        model_version: or(line.model_version, PROVENANCE_VERSION_DEFAULT),
        adapter_version: or(line.adapter_version, PROVENANCE_VERSION_DEFAULT),
        commit_sha: or(line.commit_sha, COMMIT_UNKNOWN),
        ..ProvenanceLog::new(input, output)
    };
    Ok(Some(Line {
        log,
        timestamp: line.timestamp,
        run_id: line.run_id.filter(|run_id| !run_id.is_empty()),
        disagrees,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_packed_the_same_each_time_and_comes_back_whole() {
        let text = r#"{"a":"ä","b":[1,2,3]}"#;
        assert_eq!(packed(text).unwrap(), packed(text).unwrap());
        assert_eq!(unpacked(&packed(text).unwrap()).unwrap(), text);
        for bad in ["", "!", "AAAA", &STANDARD.encode("no gzip")] {
            assert!(unpacked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_line_with_payloads_is_a_log_whatever_flags_it_has() {
        let line = |rest: &str| {
            let line = format!(
                r#"{{"id":"p","timestamp":"2026-05-11T10:00:00+00:00","input_hash":"a","output_hash":"b",{rest}}}"#
            );
            read_line(line.as_bytes()).map(|line| line.is_some())
        };
        for flag in ["erased", "archived", "missing"] {
            let both = format!(r#""{flag}":true,"input_json":"1","output_json":"2""#);
            assert_eq!(line(&both), Ok(true), "{flag}");
            let nulls = format!(r#""{flag}":true,"input_json":null,"output_json":null"#);
            assert_eq!(line(&nulls), Ok(false), "{flag}");
            assert_eq!(line(&format!(r#""{flag}":true"#)), Ok(false), "{flag}");
            let one = format!(r#""{flag}":true,"input_json":"1","output_json":null"#);
            assert!(line(&one).is_err(), "{flag}: half a log is none");
        }
        assert!(line(r#""erased":false,"input_json":null,"output_json":null"#).is_err());
    }

    #[test]
    fn a_line_needs_six_fields_and_tells_a_hash_that_disagrees() {
        let line = |hash: &str| {
            format!(
                r#"{{"id":"p","timestamp":"2026-05-11T10:00:00+00:00","input_hash":"{hash}","output_hash":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","input_json":"{{\"a\": 1}}","output_json":"{{}}"}}"#
            )
        };
        let good = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862";
        let read = read_line(line(good).as_bytes()).unwrap().unwrap();
        assert_eq!((read.log.model_version.as_str(), read.disagrees), ("2.0.0", None));
        assert!(
            read_line(line("x").as_bytes())
                .unwrap()
                .unwrap()
                .disagrees
                .unwrap()
                .contains("input_hash is x")
        );
        assert!(read_line(br#"{"id":"p"}"#).unwrap_err().contains("missing field"));
    }
}
