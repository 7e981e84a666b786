//! `deponent verify`: everything that is stored, recomputed.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use evidence::{Finding, FindingCode};
use indicatif::{ProgressBar, ProgressStyle};
use ledger::verify::{Level, Question, Report, verify};
use ledger::{HighWater, KeyFolder};
use serde_json::json;
use store::sqlite::{Access, SqliteStore};
use store::{Store, StoreError};
use tlog::{Checkpoint, NOTE_BYTES_MAX, Note, VerifierKey};

use super::{DataDir, EXIT_UNKNOWN, moved, no_ledger};
use crate::brought;
use crate::output::{self, Format, Usage};

/// Longest checkpoint file: no note is longer.
const CHECKPOINT_BYTES_MAX: u64 = NOTE_BYTES_MAX as u64;

/// Longest file of verifier keys: 3,000 of the longest names, one a line.
const KEYS_BYTES_MAX: u64 = 1024 * 1024;

/// Exit code: contradiction or damage.
const EXIT_FINDINGS: u8 = 1;

/// Findings printed as text; JSON has up to 10,000.
const FINDINGS_PRINTED: usize = 50;

/// Recompute everything that is stored, and say what disagrees.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything holds, 1 contradiction or damage, 2 could not tell, 3 valid but a kept checkpoint \
    is larger, 64 usage, 69 a file or folder cannot be used"
)]
pub(crate) struct Verify {
    #[command(flatten)]
    data_dir: DataDir,
    /// Only this tenant [default: all]
    #[arg(long)]
    tenant: Option<String>,
    /// Leaves, bodies, roots, checkpoints, and that each tenant has its ledger; no projections.
    #[arg(long, value_name = "PART", value_parser = ["ledger"])]
    only: Option<String>,
    /// A verifier key that you kept: text, or a file of one key a line. May be given more than once.
    #[arg(long, value_name = "KEY")]
    vkey: Vec<String>,
    /// A checkpoint that you kept. May be given more than once.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// The folder of archives: what was pruned is read from them. [default: what was pruned is counted, PRUNED n]
    #[arg(long, value_name = "DIR")]
    archive: Option<PathBuf>,
    /// The least level that counts as holding.
    #[arg(long, value_name = "LEVEL", value_parser = parse_level)]
    require: Option<Level>,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

fn parse_level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| {
        "levels are INVALID, VALID-PREFIX, VALID-SELF-SIGNED, VALID-SINCE-KEPT-CHECKPOINT".to_owned()
    })
}

impl Verify {
    pub(crate) fn run(self) -> Result<u8> {
        // Where nothing was pruned nobody would look into it, and a slip would pass.
        if let Some(folder) = &self.archive {
            let found = std::fs::metadata(folder)
                .with_context(|| format!("--archive: cannot read {}", folder.display()))?;
            ensure!(
                found.is_dir(),
                "--archive: cannot read {}: it is no folder",
                folder.display()
            );
        }
        // Before the folder is looked at: a slip is one whatever is in it.
        let (vkeys, kept) = (vkeys(&self.vkey)?, kept(&self.checkpoint)?);
        let options = self.data_dir.settings()?.ledger;
        // A folder whose database is gone, or was emptied, is not one that never had any.
        if let Some(why) = no_ledger(&options)? {
            let signed = signed(&options);
            if signed.is_empty() {
                bail!(why);
            }
            let mut lost = Vec::new();
            for (origin, leaves) in signed {
                let detail = format!("{leaves} leaves of {origin} were signed, and {why}");
                lost.push(Finding::new(FindingCode::RolledBack, "high-water.json", detail));
            }
            return self.found(&lost);
        }
        let store = match SqliteStore::open(&options.database(), Access::ReadOnly) {
            Ok(store) => store,
            Err(error) => return self.unread(&error),
        };
        // Marks are read before heads are fixed: a mark never runs ahead of what is committed.
        let marks = match HighWater::open(&options.high_water()) {
            Ok(marks) => marks,
            Err(error) => {
                let finding = Finding::new(FindingCode::Unreadable, "high-water.json", error.to_string());
                return self.found(&[finding]);
            }
        };
        let keys = KeyFolder::at(&options.keys());
        let progress = AtomicU64::new(0);
        let question = Question {
            tenant_id: self.tenant.clone(),
            only_ledger: self.only.is_some(),
            vkeys,
            kept,
            archive: self.archive.clone(),
            archive_may_be_away: false,
            marks: Some(&marks),
            keys: Some(&keys),
            served: options.is_served(),
            progress: Some(&progress),
            stop: None,
            rest_factor: 0,
        };
        let started = Instant::now();
        let report = with_progress(&store, &progress, || verify(&store, &question));
        if let Some(why) = moved(&store) {
            return self.ended(&[], &[why], EXIT_UNKNOWN);
        }
        let report = match report {
            Ok(report) => report,
            Err(error) => return self.unread(&error),
        };
        let code = report.exit_code(self.require);
        match self.format {
            Format::Json => {
                let mut value = serde_json::to_value(&report)?;
                value["exit_code"] = code.into();
                output::json(&value)?;
            }
            Format::Text => print(&report, self.require, started.elapsed()),
        }
        Ok(code)
    }

    /// What the store's error says of the question.
    fn unread(&self, error: &StoreError) -> Result<u8> {
        if matches!(error, StoreError::Damaged { .. }) {
            let finding = Finding::new(FindingCode::StoreDamaged, "deponent.db", error.to_string());
            return self.found(&[finding]);
        }
        self.ended(&[], &[error.to_string()], EXIT_UNKNOWN)
    }

    /// Findings that end a verification before it has looked at a ledger.
    fn found(&self, findings: &[Finding]) -> Result<u8> {
        self.ended(findings, &[], EXIT_FINDINGS)
    }

    /// Says why there is no report, and to programs in the form of one.
    fn ended(&self, findings: &[Finding], undecided: &[String], code: u8) -> Result<u8> {
        for reason in findings.iter().map(|finding| &finding.detail).chain(undecided) {
            output::note(format_args!("deponent: {reason}"));
        }
        if self.format == Format::Json {
            output::json(&json!({
                "errors": findings.len(), "exit_code": code, "findings": findings, "flags": [], "ledgers": [],
                "level": (!findings.is_empty()).then_some(Level::Invalid), "undecided": undecided, "warnings": 0,
            }))?;
        }
        Ok(code)
    }
}

/// The ledgers that the folder's marks know, each with its leaves.
fn signed(options: &::ledger::Options) -> Vec<(String, u64)> {
    // Marks that cannot be read name no ledger.
    let Ok(marks) = HighWater::open(&options.high_water()) else {
        return Vec::new();
    };
    let marks = marks
        .iter()
        .map(|(origin, mark)| (origin.to_owned(), mark.size.as_u64()));
    marks.filter(|(_, leaves)| *leaves > 0).collect()
}

fn vkeys(given: &[String]) -> Result<Vec<VerifierKey>> {
    let mut keys = Vec::new();
    for text in given {
        if let Ok(key) = VerifierKey::parse(text) {
            keys.push(key);
            continue;
        }
        let file = match brought::read(Path::new(text), KEYS_BYTES_MAX) {
            // `<origin>+<hash>+<key>`, mistyped.
            Err(_) if text.matches('+').count() > 1 => bail!(Usage(format!(
                "--vkey {text:?} is neither a verifier key nor a file"
            ))),
            file => {
                file.with_context(|| format!("--vkey {text:?} is no verifier key, and no file to read"))?
            }
        };
        let file = file.ok_or_else(|| Usage(format!("--vkey {text}: longer than any file of keys")))?;
        if parse_checkpoint(&file).is_ok() {
            bail!(Usage(format!(
                "--vkey {text}: this file is a checkpoint, not a verifier key; it belongs to --checkpoint"
            )));
        }
        let before = keys.len();
        for line in String::from_utf8_lossy(&file)
            .lines()
            .filter(|line| !line.trim().is_empty())
        {
            let key =
                VerifierKey::parse(line.trim()).map_err(|error| Usage(format!("--vkey {text}: {error}")))?;
            keys.push(key);
        }
        // Else the folder would be judged by its own keys, as if none had been brought.
        if keys.len() == before {
            bail!(Usage(format!("--vkey {text}: there is no key in it")));
        }
    }
    Ok(keys)
}

fn kept(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    paths
        .iter()
        .map(|path| {
            let wrong = |what: &str| Usage(format!("--checkpoint {}: {what}", path.display()));
            let bytes = brought::read(path, CHECKPOINT_BYTES_MAX)
                .with_context(|| format!("--checkpoint {}", path.display()))?
                .ok_or_else(|| wrong("longer than any checkpoint"))?;
            if is_keys(&bytes) {
                bail!(wrong(
                    "this file is a verifier key, not a checkpoint; it belongs to --vkey"
                ));
            }
            // Else a slip would read as tampering. Whether its signature and root are good is what is asked.
            parse_checkpoint(&bytes).map_err(|why| wrong(&format!("this file is no checkpoint: {why}")))?;
            Ok(bytes)
        })
        .collect()
}

/// Reads a note and its text; nothing is verified.
fn parse_checkpoint(bytes: &[u8]) -> Result<Checkpoint, String> {
    let note = Note::parse(bytes).map_err(|error| error.to_string())?;
    Checkpoint::parse(note.text()).map_err(|error| error.to_string())
}

/// Whether each line is a verifier key, and there is one.
fn is_keys(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .peekable();
    lines.peek().is_some() && lines.all(|line| VerifierKey::parse(line).is_ok())
}

fn with_progress<T>(store: &dyn Store, done: &AtomicU64, work: impl FnOnce() -> T) -> T {
    let leaves: u64 = store
        .ledgers_list()
        .unwrap_or_default()
        .iter()
        .filter_map(|row| store.head_read(row.ledger_no).ok())
        .map(|head| head.size.as_u64())
        .sum();
    let bar = ProgressBar::new(leaves);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} leaves, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let bar = &bar;
        scope.spawn(move || {
            while end.recv_timeout(Duration::from_millis(100))
                == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            {
                bar.set_position(done.load(Ordering::Relaxed));
            }
            bar.finish_and_clear();
        });
        let result = work();
        drop(ended);
        result
    })
}

fn print(report: &Report, require: Option<Level>, took: Duration) {
    for ledger in &report.ledgers {
        output::line(format_args!(
            "{:<24} {:>12} leaves  {}  {}",
            ledger.tenant_id,
            ledger.tree_size,
            ledger.level.as_str(),
            ledger.origin
        ));
        if let Some((first, end)) = ledger.declared_lost {
            output::line(format_args!(
                "  declared lost by the next epoch: leaves {first} to {}",
                end - 1
            ));
        }
    }
    for finding in report.findings.iter().take(FINDINGS_PRINTED) {
        output::line(format_args!("finding: {finding}"));
    }
    let all = report.errors + report.warnings;
    let printed = u64::try_from(report.findings.len().min(FINDINGS_PRINTED)).unwrap_or(u64::MAX);
    if all > printed {
        output::line(format_args!("… and {} more findings", all - printed));
    }
    for reason in &report.undecided {
        output::line(format_args!("could not tell: {reason}"));
    }
    if let Some(level) = require.filter(|level| report.level.is_none_or(|found| found < *level)) {
        let below = report.ledgers.iter().filter(|ledger| ledger.level < level);
        let below: Vec<&str> = below.map(|ledger| ledger.origin.as_str()).collect();
        output::line(format_args!(
            "required: {}; below it: {}",
            level.as_str(),
            if below.is_empty() {
                "what was looked at".to_owned()
            } else {
                below.join(", ")
            }
        ));
    }
    let leaves: u64 = report.ledgers.iter().map(|ledger| ledger.tree_size).sum();
    // A level would vouch for what nobody looked at.
    let level = report.level.map_or("no ledger was looked at", Level::as_str);
    output::line(format_args!(
        "{}: {} errors, {} warnings, {leaves} leaves in {:.2} s",
        std::iter::once(level)
            .chain(report.flags.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join(" "),
        report.errors,
        report.warnings,
        took.as_secs_f64()
    ));
    if report.level.is_some_and(|level| level != Level::Invalid) {
        output::line(
            "What is recorded agrees with itself, with its signatures and with what you brought to hold it against. \
             No such check can show actions that were never recorded, nor a rewrite by the key holder before anyone \
             else kept a checkpoint.",
        );
    }
}
