//! `deponent lineage`: from a figure in a report to the rows it was made from.
//!
//! The crate `lineage` does it; here are flags, files, streams and exit codes. Exit code 2: the question could not be
//! answered, with a line on stderr that says why.

mod ai;
mod aside;
mod drill;
mod export;
mod import;
mod run;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use lineage::{Places, SourceFile};

use super::EXIT_UNKNOWN;
use crate::output::{self, Usage};

/// From a figure in a report to the rows it was made from.
#[derive(Debug, Subcommand)]
pub(crate) enum LineageCommand {
    // The help of each is what its arguments' type says: a comment here would hide it.
    Verify(verify::Verify),
    Drill(drill::Drill),
    ListAi(ai::ListAi),
    Import(import::Import),
    Export(export::Export),
    Run(run::Run),
}

impl LineageCommand {
    pub(crate) fn run(self) -> Result<u8> {
        match self {
            Self::Verify(verify) => verify.run(),
            Self::Drill(drill) => drill.run(),
            Self::ListAi(list) => list.run(),
            Self::Import(import) => import.run(),
            Self::Export(export) => export.run(),
            Self::Run(run) => run.run(),
        }
    }
}

/// Which log.
#[derive(Debug, Args)]
struct LogArgs {
    /// The audit log [default: the newest out/audit_*.jsonl or out/*/audit_*.jsonl]
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
}

impl LogArgs {
    /// Opens the log that is named, or the newest, which is said on stderr.
    fn open(&self) -> Result<SourceFile> {
        let path = if let Some(path) = &self.audit {
            path.clone()
        } else {
            let found = lineage::newest(Path::new(".")).context("cannot look for audit logs in out/")?;
            let path = found.context(
                "there is neither out/audit_*.jsonl nor out/*/audit_*.jsonl; --audit FILE names a log",
            )?;
            output::note(format_args!("audit log: {}", path.display()));
            path
        };
        SourceFile::open(&path).with_context(|| format!("audit log {}", path.display()))
    }
}

/// Where the files are that a log names.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// Look for files whose name begins with FROM under TO; an empty FROM stands for evidence without a file
    #[arg(long, value_name = "FROM=TO")]
    map: Vec<String>,
    /// Open files beneath this folder only [default: the working folder, the log's, and those around it]
    #[arg(long, value_name = "DIR")]
    root: Vec<PathBuf>,
}

impl PlaceArgs {
    fn places(&self, log: Option<&Path>) -> Result<Places> {
        let working = std::env::current_dir().context("there is no working folder")?;
        let mut maps = Vec::with_capacity(self.map.len());
        for map in &self.map {
            let Some((from, to)) = split_map(map, |to| working.join(to).exists()) else {
                bail!(Usage(format!("--map {map:?} is not FROM=TO")));
            };
            maps.push((from.to_owned(), PathBuf::from(to)));
        }
        let folder = log
            .map(|log| working.join(log))
            .and_then(|log| log.parent().map(Path::to_owned));
        Places::new(&working, folder.as_deref(), &self.root, &maps).context("--root")
    }
}

/// FROM and TO. A name may hold a `=` itself: it ends where what follows is there, else at the first.
fn split_map(map: &str, is_there: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let split = |(at, _): (usize, &str)| {
        let (from, to) = map.split_at_checked(at)?;
        Some((from, to.strip_prefix('=')?)).filter(|(_, to)| !to.is_empty())
    };
    let splits = || map.match_indices('=').filter_map(split);
    splits().find(|(_, to)| is_there(to)).or_else(|| splits().next())
}

/// A bar over the bytes of a file, on a terminal.
fn bar(bytes: u64) -> indicatif::ProgressBar {
    /// Below this everything is over before a bar is seen.
    const BYTES_MIN: u64 = 64 * 1024 * 1024;
    if bytes < BYTES_MIN {
        return indicatif::ProgressBar::hidden();
    }
    let bar = indicatif::ProgressBar::new(bytes);
    let template = "{bar:40} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left";
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_map_may_hold_an_equals_sign() {
        let split = |map: &'static str, there: &'static str| split_map(map, |to| to == there);
        assert_eq!(split("a=b", ""), Some(("a", "b")));
        assert_eq!(
            split("year=2026/a.csv=/data/a.csv", "/data/a.csv"),
            Some(("year=2026/a.csv", "/data/a.csv"))
        );
        assert_eq!(
            split("a=year=2026/a.csv", "year=2026/a.csv"),
            Some(("a", "year=2026/a.csv"))
        );
        assert_eq!(split("a=b=c", "nowhere"), Some(("a", "b=c")));
        assert_eq!(split("=f", ""), Some(("", "f")));
        assert_eq!(split("a=", ""), None);
        assert_eq!(split("a", ""), None);
    }
}
