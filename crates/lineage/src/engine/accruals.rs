//! `accruals_check`: accruals that should have been reversed, and what reversing them would book.

use std::collections::BTreeMap;

use evidence::Timestamp;
use serde::Serialize;

use super::money::{Money, sum};
use super::table::{each_row, input, open, place};
use super::{Computed, EngineError, Input, Task, artifact_bytes};

const FILE: &str = "supporting/accruals.csv";

#[derive(Serialize)]
struct Artifact<'a> {
    generated_at: Timestamp,
    function: &'static str,
    period: &'a str,
    next_period: &'a str,
    entity_scope: &'a str,
    inputs: Vec<Input>,
    exceptions: Vec<Exception>,
    proposals: Vec<Proposal>,
    summary: Summary,
}

#[derive(Clone, Serialize)]
struct Exception {
    entity: String,
    accrual_id: String,
    description: String,
    amount_usd: Money,
    currency: String,
    status: String,
    accrual_date: String,
    reversal_date: String,
    reason: &'static str,
    notes: String,
}

#[derive(Serialize)]
struct Proposal {
    #[serde(rename = "proposal_type")]
    kind: &'static str,
    entity: String,
    accrual_id: String,
    proposed_period: String,
    amount_usd: Money,
    narrative: String,
}

#[derive(Serialize)]
struct Summary {
    accruals: usize,
    count: usize,
    total_usd: Money,
    by_entity: BTreeMap<String, Money>,
    proposal_count: usize,
}

pub(super) fn compute(task: &Task, now: Timestamp) -> Result<Computed, EngineError> {
    let file = open(&task.data, FILE)?;
    let source = input(&file, FILE)?;
    let source_hash = source.sha256.clone();
    let wrong = |reason| EngineError::data(file.path(), reason);
    let columns = [
        "entity",
        "accrual_id",
        "amount_usd/amount",
        "status",
        "reversal_date",
        "accrual_date/period",
        "description?",
        "currency?",
        "notes?",
    ];
    let (mut exceptions, mut accruals) = (Vec::new(), 0);
    each_row(&file, &columns, |cells| {
        let (entity, accrual_id) = (cells.filled(0)?, cells.filled(1)?);
        let accrual_date = cells.date(5)?;
        let of_period = task.period.holds(&accrual_date) || accrual_date == task.period.as_str();
        if !of_period || !task.takes(&entity) {
            return Ok(());
        }
        accruals += 1;
        let (status, reversal_date) = (cells.text(3)?, cells.text(4)?);
        let reason = match status.as_str() {
            "Should Reverse" => "explicit_should_reverse",
            "Active" if !task.period.is_followed_by(&reversal_date) => "missing_or_misaligned_reversal_date",
            _ => return Ok(()),
        };
        exceptions.push(Exception {
            entity,
            accrual_id,
            description: cells.text(6)?,
            amount_usd: cells.money(2)?,
            currency: cells.text(7)?,
            status,
            accrual_date,
            reversal_date,
            reason,
            notes: cells.text(8)?,
        });
        Ok(())
    })?;
    let next = task.period.next();
    let proposals: Vec<Proposal> = exceptions
        .iter()
        .map(|exception: &Exception| {
            let amount_usd = exception.amount_usd.negated();
            Proposal {
                kind: "accrual_reversal",
                entity: exception.entity.clone(),
                accrual_id: exception.accrual_id.clone(),
                proposed_period: next.to_owned(),
                amount_usd,
                narrative: format!(
                    "[DET] Reverse {} for {} in {next}: amount_usd={}",
                    exception.accrual_id, exception.entity, amount_usd.0
                ),
            }
        })
        .collect();
    let mut by_entity: BTreeMap<String, Money> = BTreeMap::new();
    for exception in &exceptions {
        let total = by_entity.entry(exception.entity.clone()).or_default();
        *total = total.checked_add(exception.amount_usd).map_err(wrong)?;
    }
    let row_ids: Vec<String> = exceptions
        .iter()
        .map(|exception| format!("{}|{}", exception.entity, exception.accrual_id))
        .collect();
    let summary = Summary {
        accruals,
        count: exceptions.len(),
        total_usd: sum(by_entity.values().copied()).map_err(wrong)?,
        by_entity,
        proposal_count: proposals.len(),
    };
    let words = format!(
        "{} of {} accruals are exceptions",
        summary.count, summary.accruals
    );
    let artifact = Artifact {
        generated_at: now,
        function: "accruals_check",
        period: task.period.as_str(),
        next_period: next,
        entity_scope: &task.entity,
        inputs: vec![source],
        exceptions,
        proposals,
        summary,
    };
    let artifact = artifact_bytes(&artifact, file.path())?;
    Ok(Computed {
        evidence_type: "csv",
        source: place(&file),
        source_hash,
        key_columns: &["entity", "accrual_id"],
        row_ids,
        artifact,
        summary: words,
    })
}
