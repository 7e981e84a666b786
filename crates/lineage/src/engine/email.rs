//! `email_evidence`: the mails that bear on a period.

use std::collections::BTreeMap;

use evidence::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use super::table::{input, open, place};
use super::{Computed, EngineError, Input, Task, artifact_bytes, is_date};
use crate::Row;
use crate::row::JsonRow;
use crate::source::{Encoding, Reading, Source, SourceType};

const FILE: &str = "supporting/emails.json";

/// Where mails without a category are counted.
const NO_CATEGORY: &str = "uncategorized";

/// Mails that are held: 2 KiB each are 200 MB.
const MAILS_MAX: usize = 100_000;

/// What is carried over, in this order, as it is written.
const FIELDS: [&str; 10] = [
    "email_id",
    "timestamp",
    "category",
    "requires_action",
    "priority",
    "from",
    "to",
    "subject",
    "summary",
    "linked_transactions",
];

#[derive(Serialize)]
struct Artifact<'a> {
    generated_at: Timestamp,
    function: &'static str,
    period: &'a str,
    entity_scope: &'a str,
    inputs: Vec<Input>,
    items: Vec<Mail>,
    summary: Summary,
}

#[derive(Serialize)]
struct Mail {
    reasons: Vec<&'static str>,
    #[serde(flatten)]
    fields: BTreeMap<&'static str, Box<RawValue>>,
}

#[derive(Serialize)]
struct Summary {
    emails: u64,
    count: usize,
    requires_action: usize,
    by_category: BTreeMap<String, u64>,
}

fn text(row: &JsonRow<'_>, name: &str) -> Result<Option<String>, String> {
    match row.member(name).map(RawValue::get) {
        None | Some("null") => Ok(None),
        Some(value) => serde_json::from_str(value)
            .map(Some)
            .map_err(|_| format!("{name} is no text")),
    }
}

/// The mail, if it bears on the period, with its id and category.
fn relevant(task: &Task, row: &JsonRow<'_>) -> Result<Option<(String, String, Mail)>, String> {
    let id = text(row, "email_id")?
        .filter(|id| !id.is_empty())
        .ok_or("there is no email_id")?;
    let at = text(row, "timestamp")?.unwrap_or_default();
    let acts = match row.member("requires_action").map(RawValue::get) {
        None | Some("null" | "false") => false,
        Some("true") => true,
        Some(_) => return Err("requires_action is neither true nor false".to_owned()),
    };
    // What asks for something counts whenever it was written; of every other mail that must be known.
    match at.as_str() {
        "" if acts => {}
        "" => return Err("there is no timestamp".to_owned()),
        at if !is_date(at) => return Err(format!("timestamp {:?} is no time", crate::shown(at))),
        _ => {}
    }
    let mut reasons = Vec::new();
    if task.period.holds(&at) {
        reasons.push("in_period");
    }
    if task.period.ends_before(&at) {
        reasons.push("first_day_after");
    }
    if acts {
        reasons.push("requires_action");
    }
    if reasons.is_empty() {
        return Ok(None);
    }
    let category = text(row, "category")?.unwrap_or_else(|| NO_CATEGORY.to_owned());
    let fields = FIELDS
        .iter()
        .filter_map(|name| Some((*name, row.member(name)?.to_owned())))
        .collect();
    Ok(Some((id, category, Mail { reasons, fields })))
}

pub(super) fn compute(task: &Task, now: Timestamp) -> Result<Computed, EngineError> {
    let file = open(&task.data, FILE)?;
    let source_input = input(&file, FILE)?;
    let source_hash = source_input.sha256.clone();
    let mut progress = |_| {};
    let mut reading = Reading {
        encoding: Encoding::Utf8,
        delimiter: b',',
        hashed: false,
        progress: &mut progress,
    };
    let wrong = |reason: &dyn std::fmt::Display| EngineError::data(file.path(), reason);
    let source = Source::open(&file, SourceType::Json, &reading).map_err(|error| wrong(&error))?;
    let (mut items, mut row_ids) = (Vec::new(), Vec::new());
    let (mut by_category, mut acting) = (BTreeMap::new(), 0);
    let mut failed = None;
    let read = source.each(&mut reading, &mut |number, row| {
        let Row::Json(row) = row else { return Ok(true) };
        match relevant(task, row) {
            Ok(None) => {}
            Ok(Some(_)) if items.len() == MAILS_MAX => failed = Some("it has too many mails".to_owned()),
            Ok(Some((id, category, mail))) => {
                *by_category.entry(category).or_insert(0) += 1;
                acting += usize::from(mail.reasons.contains(&"requires_action"));
                row_ids.push(id);
                items.push(mail);
            }
            Err(reason) => failed = Some(format!("element {number}: {reason}")),
        }
        Ok(failed.is_none())
    });
    if let Some(reason) = failed {
        return Err(wrong(&reason));
    }
    let read = read.map_err(|error| wrong(&error))?;
    if let Some(remark) = read.remarks.kept.first() {
        return Err(wrong(remark));
    }
    let words = format!("{} of {} mails", items.len(), read.rows);
    let summary = Summary {
        emails: read.rows,
        count: items.len(),
        requires_action: acting,
        by_category,
    };
    let artifact = Artifact {
        generated_at: now,
        function: "email_evidence",
        period: task.period.as_str(),
        entity_scope: &task.entity,
        inputs: vec![source_input],
        items,
        summary,
    };
    let artifact = artifact_bytes(&artifact, file.path())?;
    Ok(Computed {
        evidence_type: "json",
        source: place(&file),
        source_hash,
        key_columns: &["email_id"],
        row_ids,
        artifact,
        summary: words,
    })
}
