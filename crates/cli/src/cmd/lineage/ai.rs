//! `deponent lineage list-ai`.

use anyhow::Result;
use clap::Args;
use lineage::ai::{AiSum, list_ai};
use lineage::shown;
use serde_json::json;

use super::LogArgs;
use crate::output::{self, Format};

/// List what models wrote and what they took.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 listed, 64 usage, 69 the log cannot be read")]
pub(crate) struct ListAi {
    #[command(flatten)]
    log: LogArgs,
    /// The same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to print.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Add tokens and costs up, by kind.
    #[arg(long)]
    sum: bool,
}

impl ListAi {
    pub(super) fn run(self) -> Result<u8> {
        let log = self.log.open()?;
        let list = list_ai(&log)?;
        if list.malformed > 0 {
            output::note(format_args!(
                "note: {} lines of the audit log are malformed",
                list.malformed
            ));
        }
        let as_json = self.json || self.format == Format::Json;
        if as_json && self.sum {
            output::json(&json!({ "by_kind": list.sums, "total": list.total }))?;
        } else if as_json {
            output::json(&list.records)?;
        } else if self.sum {
            for (kind, sum) in &list.sums {
                output::line(sum_line(if kind.is_empty() { "(no kind)" } else { kind }, sum));
            }
            output::line(sum_line("total", &list.total));
        } else {
            for record in &list.records {
                output::line(format_args!("{:>8}  {}", record.line, shown(record.record.get())));
            }
        }
        Ok(0)
    }
}

fn sum_line(name: &str, sum: &AiSum) -> String {
    let unreadable = match sum.unreadable {
        0 => String::new(),
        count => format!(", {count} without readable numbers"),
    };
    format!(
        "{}: {} outputs, {} metrics, {} tokens, {} USD{unreadable}",
        shown(name),
        sum.outputs,
        sum.metrics,
        sum.tokens,
        sum.cost_usd
    )
}
