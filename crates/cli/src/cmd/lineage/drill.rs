//! `deponent lineage drill`.

use std::io;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use ledger::Body;
use lineage::drill::{DrillError, Drilled, Key, drill, find_key, source_type};
use lineage::source::{Encoding, Reading, Remarks, Source, SourceError};
use lineage::{Evidence, LineType, PlaceError, Places, RowFormat, RowIds, RowWriter, SourceFile, shown};

use super::{EXIT_UNKNOWN, LogArgs, PlaceArgs, bar};
use crate::cmd::{DataDir, settled};
use crate::output::{self, Usage};

/// Malformed lines of a log that are named; `lineage verify` names more of them.
const MALFORMED_SHOWN: usize = 10;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Rows {
    /// With a header, as they are.
    Csv,
    /// An array of objects.
    Json,
    /// For people.
    Table,
}

/// How the bytes of a text file are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bytes {
    /// UTF-8.
    #[value(name = "utf-8")]
    Utf8,
    /// ISO 8859-1.
    #[value(name = "latin-1")]
    Latin1,
}

/// Print the source rows that a function's evidence cites.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all found, 1 ids without a row, or rows that could not be read, 2 could not tell, 64 usage, \
    69 the log or the data folder cannot be read"
)]
pub(crate) struct Drill {
    /// The function whose evidence it is.
    #[arg(long = "fn", value_name = "FN")]
    function: String,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    ledger: FromLedger,
    #[command(flatten)]
    places: PlaceArgs,
    /// The columns that make an id [default: as recorded, as known of the function, or found from the data]
    #[arg(long, value_name = "COL", value_delimiter = ',')]
    key: Vec<String>,
    /// Print not more than so many rows; all are looked for
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// How to print.
    #[arg(long, value_enum, default_value = "csv")]
    format: Rows,
    /// How the bytes of a text file are read.
    #[arg(long, value_enum, default_value = "utf-8")]
    encoding: Bytes,
    /// What separates the cells of a CSV file.
    #[arg(long, value_name = "CHAR", default_value = ",")]
    delimiter: char,
}

/// Records instead of a log: asked for by `--data-dir` or `--run`.
#[derive(Debug, Args)]
struct FromLedger {
    /// Take the evidence from the ledger: that of this run [default: the last that the function has a record of]
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Whose records, with --data-dir or --run.
    #[arg(long, default_value = "default")]
    tenant: String,
    #[command(flatten)]
    data_dir: DataDir,
}

impl FromLedger {
    fn is_asked(&self) -> bool {
        self.run.is_some() || self.data_dir.is_given()
    }

    /// The evidence of the function's last record; the inner error is an answer.
    fn cited(&self, function: &str) -> Result<Result<Cited, String>> {
        let (store, row) = self.data_dir.open(&self.tenant)?;
        let run = self.run.as_deref();
        let found = settled(&store, || {
            Ok(ledger::lineage::cited(&store, row.tenant_no, function, run)?)
        })?;
        let name = shown(function);
        erased_behind(found.erased_later, found.erased_more, "deterministic", function);
        let of_evidence = (found.evidence_erased_later, found.evidence_erased_more);
        let Some(found) = found.cited else {
            return Ok(Err(format!("the ledger has no deterministic record of {name}")));
        };
        let record = &found.deterministic_record;
        output::note(format_args!("deterministic record {record}"));
        if let Some(gone) = found.deterministic.gone() {
            return Ok(Err(format!(
                "the newest deterministic record of {name} is {}: what it cites is not at hand",
                gone.as_str()
            )));
        }
        if let Some(record) = &found.evidence_record {
            output::note(format_args!("evidence record {record}"));
            let (later, more) = of_evidence;
            erased_behind(later, more, "evidence", &format!("the evidence of {function}"));
        }
        let line = match found.evidence {
            Some(Body::There(line)) => line,
            Some(Body::Gone(gone)) => {
                return Ok(Err(format!("the evidence of {name} is {}", gone.as_str())));
            }
            None if names_none(&found.deterministic) => {
                return Ok(Err(format!(
                    "the deterministic record of {name} names no evidence"
                )));
            }
            None => {
                return Ok(Err(format!(
                    "the evidence of {name} is not in the ledger, or is erased"
                )));
            }
        };
        let rows = match LineType::read(&line) {
            Ok(LineType::Evidence { rows, .. }) => rows,
            Ok(_) => return Ok(Err("what stands as evidence is none".to_owned())),
            Err(reason) => return Ok(Err(format!("the evidence {reason}"))),
        };
        if matches!(rows, RowIds::NotTexts | RowIds::NoList) {
            return Ok(Ok(Cited {
                evidence: Evidence::default(),
                rows,
            }));
        }
        Ok(Evidence::read(&line)
            .map(|evidence| Cited { evidence, rows })
            .map_err(|error| format!("the evidence cannot be read: {error}")))
    }
}

/// Whether a deterministic record says that nothing was read.
fn names_none(record: &Body) -> bool {
    let Body::There(line) = record else { return false };
    matches!(
        LineType::read(line),
        Ok(LineType::Deterministic {
            evidence_id: None,
            ..
        })
    )
}

/// Says that later records were erased: what is used may not be the newest.
fn erased_behind(later: u64, more: bool, what: &str, name: &str) {
    if later > 0 || more {
        let later = format!("{}{later}", if more { "at least " } else { "" });
        let note = lineage::newest_may_be_gone(&later, what, "erased", name);
        output::note(format_args!("note: {note}"));
    }
}

/// What is asked for, wherever it was found.
struct Cited {
    evidence: Evidence,
    rows: RowIds,
}

impl Drill {
    pub(super) fn run(self) -> Result<u8> {
        let key = (!self.key.is_empty()).then(|| self.key.clone());
        if key.iter().flatten().any(String::is_empty) {
            bail!(Usage("--key: a column without a name".into()));
        }
        let Some(delimiter) = u8::try_from(self.delimiter)
            .ok()
            .filter(|byte| byte.is_ascii() && *byte != b'"')
        else {
            bail!(Usage(format!(
                "--delimiter {:?} is no ASCII character",
                self.delimiter
            )));
        };
        if self.ledger.is_asked() && self.log.audit.is_some() {
            bail!(Usage(
                "--audit is a log, --data-dir and --run are of the ledger: one of them".into()
            ));
        }
        let (cited, places) = if self.ledger.is_asked() {
            (self.ledger.cited(&self.function)?, self.places.places(None)?)
        } else {
            let log = self.log.open()?;
            (self.cited(&log)?, self.places.places(Some(log.path()))?)
        };
        let cited = match cited {
            Ok(cited) => cited,
            Err(reason) => return Ok(unknown(&reason)),
        };
        let evidence = cited.evidence;
        if matches!(cited.rows, RowIds::NotTexts | RowIds::NoList) {
            let id = shown(&evidence.id);
            return Ok(unknown(&format!(
                "input_row_ids of evidence {id} {}",
                cited.rows.describe()
            )));
        }
        if evidence.input_row_ids.is_empty() {
            let rows = cited.rows.describe();
            output::note(format_args!(
                "no rows are cited: input_row_ids of evidence {} {rows}",
                shown(&evidence.id)
            ));
            RowWriter::new(self.format(), None, delimiter, output::stdout())?.finish()?;
            return Ok(0);
        }
        let file = match places.open(evidence.uri.as_deref()) {
            Ok(file) => file,
            Err(error) => return Ok(self.missing(&error, &places, &evidence)),
        };
        match self.print(&file, &evidence, key, delimiter) {
            Ok(drilled) => Ok(tell(&drilled, &file, &evidence)),
            // The file is not to blame; `main` says what is.
            Err(DrillError::Source(SourceError::Visit(_))) if output::unwritten().is_some() => Ok(0),
            Err(error) => {
                let path = shown(&file.path().display().to_string());
                if let DrillError::NoKey(remarks) = &error {
                    tell_unread(&path, remarks);
                }
                Ok(unknown(&format!("{path}: {error}")))
            }
        }
    }

    fn format(&self) -> RowFormat {
        match self.format {
            Rows::Csv => RowFormat::Csv,
            Rows::Json => RowFormat::Json,
            Rows::Table => RowFormat::Table,
        }
    }

    /// The evidence of the function's last record; the inner error is an answer.
    fn cited(&self, log: &SourceFile) -> Result<Result<Cited, String>> {
        let bar = bar(log.bytes());
        let index = lineage::scan(log, &mut |done| bar.set_position(done))?;
        bar.finish_and_clear();
        for line in index.malformed.iter().take(MALFORMED_SHOWN) {
            output::note(format_args!(
                "note: line {} of the audit log {}",
                line.number, line.reason
            ));
        }
        let more = index
            .malformed_count
            .saturating_sub(u64::try_from(MALFORMED_SHOWN).unwrap_or(u64::MAX));
        if more > 0 {
            output::note(format_args!(
                "note: {more} more lines of the audit log are malformed; `deponent lineage verify` names them"
            ));
        }
        // What is not found may stand in one of them.
        let or_unread = match index.malformed_count {
            0 => String::new(),
            count => format!(", as far as it can be read: {count} of its lines cannot"),
        };
        let name = shown(&self.function);
        if let Some(note) = index.gone_behind_function(&self.function) {
            output::note(format_args!("note: {note}"));
        }
        let Some(of) = index.function(&self.function) else {
            let known: Vec<String> = index
                .functions
                .iter()
                .take(50)
                .map(|of| shown(&of.function))
                .collect();
            let known = if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            };
            return Ok(Err(format!(
                "the audit log has no deterministic record of {name}{or_unread}; it has {known}"
            )));
        };
        if of.count > 1 {
            output::note(format_args!(
                "note: {} deterministic records of {name}, that of line {} counts",
                of.count, of.line
            ));
        }
        let Some(id) = &of.evidence_id else {
            return Ok(Err(format!(
                "the deterministic record of {name} (line {}) names no evidence",
                of.line
            )));
        };
        if let Some(note) = index.gone_behind_evidence(id) {
            output::note(format_args!("note: {note}"));
        }
        let Some(seen) = index.evidence(id) else {
            let id = shown(id);
            return Ok(Err(format!(
                "evidence {id}, named by {name} in line {}, is not in the audit log{or_unread}",
                of.line
            )));
        };
        if seen.count > 1 {
            output::note(format_args!(
                "note: evidence {} was written {} times, that of line {} counts",
                shown(id),
                seen.count,
                seen.line
            ));
        }
        if matches!(seen.rows, RowIds::NotTexts | RowIds::NoList) {
            let evidence = Evidence {
                id: id.clone(),
                ..Evidence::default()
            };
            return Ok(Ok(Cited {
                evidence,
                rows: seen.rows,
            }));
        }
        Ok(Evidence::load(log, seen)
            .map(|evidence| Cited {
                evidence,
                rows: seen.rows,
            })
            .map_err(|error| format!("line {} of the audit log cannot be read: {error}", seen.line)))
    }

    fn print(
        &self,
        file: &SourceFile,
        evidence: &Evidence,
        key: Option<Vec<String>>,
        delimiter: u8,
    ) -> Result<Drilled, DrillError> {
        let bar = bar(file.bytes());
        let mut progress = |done| bar.set_position(done);
        let mut reading = Reading {
            encoding: match self.encoding {
                Bytes::Utf8 => Encoding::Utf8,
                Bytes::Latin1 => Encoding::Latin1,
            },
            delimiter,
            hashed: false,
            progress: &mut progress,
        };
        let source = Source::open(file, source_type(evidence, file.path())?, &reading)?;
        let key = find_key(&source, &self.function, evidence, key, &mut reading)?;
        if let Key::Found(found) = &key {
            let also = if found.is_ambiguous {
                "; others match as well"
            } else {
                ""
            };
            output::note(format_args!(
                "key found from the data: {} ({} of {} ids{also})",
                shown(&found.columns.join(",")),
                found.matched,
                found.looked_for
            ));
        }
        // The writer begins with the header, and of an error nothing is printed.
        source.key(key.columns())?;
        let out = output::stdout();
        let mut writer =
            RowWriter::new(self.format(), source.columns(), delimiter, out).map_err(SourceError::Visit)?;
        let limit = self.limit.unwrap_or(u64::MAX);
        let mut printed = 0;
        let drilled = drill(&source, evidence, &key, &mut reading, &mut |_, row| {
            if printed == limit {
                return Ok(());
            }
            printed += 1;
            writer.row(row)
        })?;
        match writer.finish() {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                return Err(SourceError::Visit(error).into());
            }
            _ => {}
        }
        bar.finish_and_clear();
        if drilled.matched > printed && !drilled.broke_off {
            output::note(format_args!("{printed} of {} rows printed", drilled.matched));
        }
        Ok(drilled)
    }

    fn missing(&self, error: &PlaceError, places: &Places, evidence: &Evidence) -> u8 {
        let code = unknown(&error.to_string());
        if error.is_missing() {
            let from = evidence.uri.as_deref().unwrap_or_default();
            for suggestion in lineage::suggest(places, &self.function, evidence) {
                let path = shown(&suggestion.path.display().to_string());
                output::note(format_args!(
                    "perhaps {path} ({}): --map {}",
                    suggestion.why(),
                    quoted(&format!("{}={path}", shown(from)))
                ));
            }
        }
        code
    }
}

/// As a shell takes it as one word, whatever it holds.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn unknown(reason: &str) -> u8 {
    output::error(&anyhow::anyhow!("{reason}"));
    EXIT_UNKNOWN
}

/// Which rows of a file could not be read.
fn tell_unread(path: &str, remarks: &Remarks) {
    for remark in &remarks.kept {
        output::note(format_args!("{path}: {}", shown(remark)));
    }
    if remarks.more > 0 {
        output::note(format_args!("{path}: {} more such rows", remarks.more));
    }
}

/// What is to be said beside the rows; the exit code.
fn tell(drilled: &Drilled, file: &SourceFile, evidence: &Evidence) -> u8 {
    if drilled.broke_off {
        return 0;
    }
    let path = shown(&file.path().display().to_string());
    tell_unread(&path, &drilled.remarks);
    for note in &drilled.notes {
        output::note(format_args!("note: {note}"));
    }
    if drilled.has_changed {
        let then = shown(evidence.hash.as_deref().unwrap_or_default());
        output::note(format_args!("{path} has changed since: its SHA-256 was {then}"));
    }
    for id in &drilled.unmatched {
        output::note(format_args!("no row: {}", shown(id)));
    }
    let bad = drilled.remarks.bad_rows;
    if bad > 0 && !drilled.unmatched.is_empty() {
        output::note(format_args!(
            "note: rows of these ids may be among the {bad} that could not be read"
        ));
    }
    let found = drilled.ids - drilled.unmatched.len();
    output::note(format_args!(
        "{} rows for {found} of {} ids, in {} rows of {path}",
        drilled.matched, drilled.ids, drilled.rows
    ));
    u8::from(!drilled.unmatched.is_empty() || bad > 0)
}
