//! `deponent lineage export`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ledger::lineage::{LogTally, log_page};
use lineage::{Lines, shown};
use serde_json::Value;
use store::Store;
use store::sqlite::SqliteStore;

use super::aside::Aside;
use crate::client::{ServerArgs, Streamed, refusal, segment};
use crate::cmd::{DataDir, EXIT_UNKNOWN, settled, work};
use crate::output::{self, Format, Usage};

/// Write the audit log of a run back out of the ledger, as DIR/audit_<RUN>.jsonl.
///
/// The lines come in the order in which they were recorded, and by their value: members sorted, numbers in their
/// shortest form, `fn` beside `function_name`. Byte for byte the same is only a line that was canonical JSON (RFC 8785)
/// when it was imported. Lines that the ledger did not take (of other types, malformed) are not there. Where a body is
/// erased or archived, a line of type `deponent.gone` says so, which `lineage verify` and `drill` tell of where the newest line
/// may be among them, and `import` passes over. What redaction took out before a line was recorded is nowhere: such lines
/// are counted. The log is read from the server that
/// --server or DEPONENT_URL names, unless --data-dir says otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 written, 1 written, but bodies are missing and no record says why, 2 there is no such run, it has \
    no such lines, or it was called off (Ctrl-C), 64 usage, or the run's id makes no file name, 69 the data folder, the \
    server or the file cannot be used, or the server's answer is not whole: in all but the first two no file is written"
)]
pub(crate) struct Export {
    /// The run.
    run: String,
    /// The folder to write into.
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Write over a file of that name; without it such a file is left as it is, and the command fails
    #[arg(long)]
    replace: bool,
    /// Whose run; of a server, the key says it.
    #[arg(long, default_value = "default")]
    tenant: String,
    #[command(flatten)]
    data_dir: DataDir,
    #[command(flatten)]
    server: ServerArgs,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Longest name of a file: that of every file system in use.
const FILE_NAME_BYTES_MAX: usize = 255;

/// The header in which a server says how many lines its answer has.
const LINES: &str = "deponent-lines";

/// How far the log was read.
enum Read {
    Whole,
    NoRun,
    CalledOff,
}

/// Where its lines go. The file is begun with the first.
struct Sink {
    target: PathBuf,
    aside: Option<Aside>,
    tally: LogTally,
    bytes: u64,
}

impl Export {
    pub(super) fn run(self) -> Result<u8> {
        if self.server.is_given() && self.data_dir.is_given() {
            bail!(Usage("--server and --data-dir: one of them".into()));
        }
        if self.run.contains('/') || self.run.chars().any(char::is_control) {
            bail!(Usage(format!("run {:?} makes no file name", self.run)));
        }
        let name = format!("audit_{}.jsonl", self.run);
        if name.len() > FILE_NAME_BYTES_MAX {
            bail!(Usage(format!(
                "a run whose id has {} bytes makes no file name: that would be longer than {FILE_NAME_BYTES_MAX} bytes",
                self.run.len()
            )));
        }
        let mut sink = Sink {
            target: self.out.join(name),
            aside: None,
            tally: LogTally::default(),
            bytes: 0,
        };
        // Also when it is finished, but by then a long log was read for nothing.
        if !self.replace && sink.target.symlink_metadata().is_ok() {
            bail!(
                "{} is there already; --replace writes over it",
                sink.target.display()
            );
        }
        let stop = work::stop_on_signal()?;
        let read = if !self.data_dir.is_given() && self.server.is_named()? {
            work::tell_when_stopped(&stop, "it stops at the next line; Ctrl-C again ends it at once");
            self.of_server(&mut sink, &stop)?
        } else {
            self.of_folder(&mut sink, &stop)?
        };
        let run = shown(&self.run);
        match read {
            Read::Whole => {}
            Read::NoRun => {
                output::note("deponent: there is no such run");
                return Ok(EXIT_UNKNOWN);
            }
            Read::CalledOff => {
                output::note("deponent: it was called off before the end of the log; no file is written");
                return Ok(EXIT_UNKNOWN);
            }
        }
        let Some(aside) = sink.aside else {
            output::note(format_args!(
                "deponent: run {run} has no lines of an audit log on record; no file is written"
            ));
            return Ok(EXIT_UNKNOWN);
        };
        let replaced = aside
            .publish(&sink.target, self.replace)
            .with_context(|| format!("cannot write {}", sink.target.display()))?;
        let (tally, file) = (&sink.tally, sink.target.display().to_string());
        match self.format {
            Format::Json => {
                let mut answer = serde_json::to_value(tally)?;
                answer["bytes"] = sink.bytes.into();
                answer["file"] = file.into();
                answer["lines"] = tally.lines().into();
                answer["replaced"] = replaced.into();
                answer["run_id"] = self.run.into();
                output::json(&answer)?;
            }
            Format::Text => {
                output::line(&file);
                if replaced {
                    output::line("what was there before is replaced");
                }
                output::line(format_args!(
                    "run {run}: {} lines: {} evidence, {} deterministic, {} ai_output, {} ai_metrics",
                    tally.lines(),
                    tally.evidence,
                    tally.deterministic,
                    tally.ai_output,
                    tally.ai_metrics
                ));
                for (gone, what) in [
                    (tally.erased, "erased"),
                    (tally.archived, "archived"),
                    (tally.missing, "missing"),
                ] {
                    if gone > 0 {
                        output::line(format_args!(
                            "{gone} more are {what}: their lines say so, without what they held"
                        ));
                    }
                }
                if tally.redacted > 0 {
                    output::line(format_args!(
                        "{} lines were redacted before they were recorded: where a marker stands, their text is not that of the log that was imported",
                        tally.redacted
                    ));
                }
            }
        }
        if tally.missing > 0 {
            output::note("deponent: bodies are missing and no record says why; see deponent verify");
        }
        Ok(u8::from(tally.missing > 0))
    }

    fn of_folder(&self, sink: &mut Sink, stop: &AtomicBool) -> Result<Read> {
        let (store, row) = self.data_dir.open(&self.tenant)?;
        settled(&store, || self.of_store(&store, row.tenant_no, sink, stop))
    }

    fn of_store(
        &self,
        store: &SqliteStore,
        tenant_no: u32,
        sink: &mut Sink,
        stop: &AtomicBool,
    ) -> Result<Read> {
        let Some(run) = store.run_find(tenant_no, &self.run)? else {
            return Ok(Read::NoRun);
        };
        let until = run.state.record_count;
        let bar = bar(until);
        let mut next = 0;
        while next < until {
            if stop.load(Ordering::Relaxed) {
                return Ok(Read::CalledOff);
            }
            let page = log_page(store, run.key, next, until)?;
            for line in page.lines.split_inclusive(|byte| *byte == b'\n') {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                sink.count(line)?;
                sink.line(line)?;
            }
            next = page.next;
            bar.set_position(next);
        }
        bar.finish_and_clear();
        Ok(Read::Whole)
    }

    fn of_server(&self, sink: &mut Sink, stop: &AtomicBool) -> Result<Read> {
        let client = self.server.client()?;
        let path = format!("/api/v1/lineage/runs/{}", segment(&self.run));
        let (reader, promised) = match client.get_stream(&path, LINES)? {
            Streamed::Body(reader, promised) => (reader, promised),
            Streamed::Refused(answer) => {
                let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
                if answer.status == 404 && problem["code"] == "not_found" {
                    return Ok(Read::NoRun);
                }
                let detail = problem["detail"].as_str().unwrap_or("no reason given");
                bail!(refusal(answer.status, &shown(detail)));
            }
        };
        // Without it the end of the log could not be told from that of a connection.
        let promised: u64 = promised
            .and_then(|promised| promised.parse().ok())
            .with_context(|| format!("the server's answer does not say how many lines it has ({LINES})"))?;
        let spinner = spinner();
        let mut lines = Lines::new(reader);
        while let Some(line) = lines
            .next_line()
            .context("the server's answer broke off; no file is written")?
        {
            if stop.load(Ordering::Relaxed) {
                return Ok(Read::CalledOff);
            }
            if line.too_long {
                bail!("line {} of the server's answer is too long", line.number);
            }
            spinner.set_position(line.offset);
            sink.count(line.text)
                .with_context(|| format!("line {} of the server's answer", line.number))?;
            sink.line(line.text)?;
        }
        spinner.finish_and_clear();
        let told = sink.tally.lines() + sink.tally.gone();
        if told != promised {
            bail!("the server's answer has {told} of {promised} lines; no file is written");
        }
        Ok(Read::Whole)
    }
}

impl Sink {
    /// Counts a line as what it is.
    fn count(&mut self, line: &[u8]) -> Result<()> {
        self.tally.count(line).map_err(|reason| {
            // A server may say anything.
            anyhow::anyhow!("{}", shown(&reason))
        })
    }

    /// Writes a line; what fails is the file.
    fn line(&mut self, line: &[u8]) -> Result<()> {
        if self.aside.is_none() {
            self.aside = Some(Aside::create(&self.target)?);
        }
        if let Some(aside) = &mut self.aside {
            aside
                .line(line)
                .with_context(|| format!("cannot write {}", self.target.display()))?;
        }
        self.bytes += u64::try_from(line.len()).unwrap_or(u64::MAX) + 1;
        Ok(())
    }
}

/// How far an export from a folder is, on a terminal.
fn bar(records: u64) -> ProgressBar {
    /// Below this it is over before a bar is seen.
    const RECORDS_MIN: u64 = 10_000;
    if records < RECORDS_MIN {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(records);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} records, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// The same from a server, which does not say how long its answer will be.
fn spinner() -> ProgressBar {
    let spinner = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes}, {bytes_per_sec}") {
        spinner.set_style(style);
    }
    spinner
}
