//! `tb_diagnostics`: entities whose trial balance does not balance, and the accounts that weigh most.

use std::collections::BTreeMap;

use evidence::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;

use super::money::Money;
use super::table::{each_row, input, open, place, trial_balance};
use super::{Computed, EngineError, Input, Task, artifact_bytes};

/// The size of an entity that nobody gave one.
const SIZE_DEFAULT: Decimal = Decimal::from_parts(1_000_000, 0, 0, false, 0);

/// 0.01 %.
const RATE: Decimal = Decimal::from_parts(1, 0, 0, false, 4);

/// The smallest threshold.
const THRESHOLD_MIN: Decimal = Decimal::from_parts(1_000, 0, 0, false, 0);

/// Accounts that are shown.
const TOP_ACCOUNTS: usize = 10;

#[derive(Serialize)]
struct Artifact<'a> {
    generated_at: Timestamp,
    function: &'static str,
    period: &'a str,
    entity_scope: &'a str,
    inputs: Vec<Input>,
    diagnostics: Vec<Diagnostic>,
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    entities: usize,
    imbalanced_entities: usize,
    rows: usize,
}

#[derive(Serialize)]
struct Diagnostic {
    entity: String,
    imbalance_usd: Money,
    threshold_usd: Money,
    materiality_factor: Money,
    top_accounts: Vec<Account>,
    row_count: usize,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names)] // the names of the columns
struct Account {
    account: String,
    account_name: String,
    account_type: String,
    balance_usd: Money,
}

/// The rows of one entity.
#[derive(Default)]
struct Entity {
    total: Money,
    accounts: BTreeMap<String, Money>,
    ids: Vec<String>,
}

pub(super) fn compute(task: &Task, now: Timestamp) -> Result<Computed, EngineError> {
    let period = task.period.as_str();
    let (file, name) = trial_balance(&task.data, period)?;
    let balance = input(&file, &name)?;
    let source_hash = balance.sha256.clone();
    let mut entities: BTreeMap<String, Entity> = BTreeMap::new();
    // Where each entity stands in the file decides the order of its ids.
    let mut order: Vec<String> = Vec::new();
    let mut rows = 0;
    each_row(&file, &["period", "entity", "account", "balance_usd"], |cells| {
        let (row_period, entity, account) = (cells.date(0)?, cells.filled(1)?, cells.filled(2)?);
        let amount = cells.money(3)?;
        // A day of the month is as good as the month.
        let of_period = row_period == period || task.period.holds(&row_period);
        if !of_period || !task.takes(&entity) {
            return Ok(());
        }
        rows += 1;
        let wrong = |reason| EngineError::data(file.path(), reason);
        let known = entities.entry(entity.clone()).or_insert_with(|| {
            order.push(entity.clone());
            Entity::default()
        });
        known.total = known.total.checked_add(amount).map_err(wrong)?;
        known.ids.push(format!("{row_period}|{entity}|{account}"));
        let sum = known.accounts.entry(account).or_default();
        *sum = sum.checked_add(amount).map_err(wrong)?;
        Ok(())
    })?;
    if rows == 0 {
        // Nothing at all is in balance, so that an entity which was mistyped would pass.
        let reason = format!("has no row of {period} and entity {:?}", task.entity);
        return Err(EngineError::data(file.path(), reason));
    }
    let mut inputs = vec![balance];
    let sizes = entity_sizes(task, &mut inputs)?;
    let chart = chart_of_accounts(task, &mut inputs)?;
    let mut diagnostics = Vec::new();
    let mut row_ids = Vec::new();
    for name in &order {
        let Some(entity) = entities.get(name) else {
            continue;
        };
        let size = sizes.get(name).map_or(SIZE_DEFAULT, |size| size.0);
        let threshold = (size * RATE).max(THRESHOLD_MIN);
        if entity.total.0.abs() <= threshold {
            continue;
        }
        row_ids.extend(entity.ids.iter().cloned());
        diagnostics.push(Diagnostic {
            entity: name.clone(),
            imbalance_usd: entity.total,
            threshold_usd: Money(threshold.normalize()),
            materiality_factor: Money(materiality_factor(entity.total.0, threshold)),
            top_accounts: top_accounts(entity, &chart),
            row_count: entity.ids.len(),
        });
    }
    let summary = Summary {
        entities: entities.len(),
        imbalanced_entities: diagnostics.len(),
        rows,
    };
    let words = format!(
        "{} of {} entities out of balance",
        summary.imbalanced_entities, summary.entities
    );
    let artifact = Artifact {
        generated_at: now,
        function: "tb_diagnostics",
        period,
        entity_scope: &task.entity,
        inputs,
        diagnostics,
        summary,
    };
    let artifact = artifact_bytes(&artifact, file.path())?;
    Ok(Computed {
        evidence_type: "csv",
        source_hash,
        source: place(&file),
        key_columns: &["period", "entity", "account"],
        row_ids,
        artifact,
        summary: words,
    })
}

/// 1 − 0.5·min(|total|/threshold, 1), to four places.
fn materiality_factor(total: Decimal, threshold: Decimal) -> Decimal {
    let half = Decimal::new(5, 1);
    let ratio = total
        .abs()
        .checked_div(threshold)
        .unwrap_or(Decimal::ONE)
        .min(Decimal::ONE);
    (Decimal::ONE - half * ratio).round_dp(4).normalize()
}

fn top_accounts(entity: &Entity, chart: &BTreeMap<String, (String, String)>) -> Vec<Account> {
    let mut accounts: Vec<(&String, &Money)> = entity.accounts.iter().collect();
    accounts.sort_by_key(|(account, balance)| (std::cmp::Reverse(balance.0.abs()), (*account).clone()));
    accounts
        .into_iter()
        .take(TOP_ACCOUNTS)
        .map(|(account, balance)| {
            let (account_name, account_type) = chart.get(account).cloned().unwrap_or_default();
            Account {
                account: account.clone(),
                account_name,
                account_type,
                balance_usd: *balance,
            }
        })
        .collect()
}

fn entity_sizes(task: &Task, inputs: &mut Vec<Input>) -> Result<BTreeMap<String, Money>, EngineError> {
    let file = open(&task.data, "entities.csv")?;
    inputs.push(input(&file, "entities.csv")?);
    let mut sizes = BTreeMap::new();
    each_row(&file, &["entity", "entity_size_usd?"], |cells| {
        let entity = cells.filled(0)?;
        // Without the column, or with an empty cell, the size is not known and is the default.
        if !cells.text(1)?.is_empty() {
            let size = cells.money(1)?;
            if sizes.insert(entity, size).is_some_and(|before| before != size) {
                return Err(cells.error(0, "stands there before with another size"));
            }
        }
        Ok(())
    })?;
    // Sizes up to this stay exact when multiplied; a larger company does not exist.
    let most = Decimal::from(10_i64.pow(18));
    match sizes
        .iter()
        .find(|(_, size)| size.0.abs() > most || size.0.is_sign_negative())
    {
        Some((entity, _)) => Err(EngineError::data(
            file.path(),
            format!(
                "entity_size_usd of {} is negative or too large",
                crate::shown(entity)
            ),
        )),
        None => Ok(sizes),
    }
}

fn chart_of_accounts(
    task: &Task,
    inputs: &mut Vec<Input>,
) -> Result<BTreeMap<String, (String, String)>, EngineError> {
    let file = open(&task.data, "chart_of_accounts.csv")?;
    inputs.push(input(&file, "chart_of_accounts.csv")?);
    let mut chart = BTreeMap::new();
    each_row(
        &file,
        &["account", "account_name/name?", "account_type/type?"],
        |cells| {
            let words = (cells.text(1)?, cells.text(2)?);
            let before = chart.insert(cells.filled(0)?, words.clone());
            if before.is_some_and(|before| before != words) {
                return Err(cells.error(0, "stands there before with another name or type"));
            }
            Ok(())
        },
    )?;
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_factor_falls_from_one_to_a_half() {
        let factor = |total: i64, threshold: i64| {
            materiality_factor(Decimal::from(total), Decimal::from(threshold)).to_string()
        };
        assert_eq!(factor(0, 1_000), "1");
        assert_eq!(factor(-500, 1_000), "0.75");
        assert_eq!(factor(333, 1_000), "0.8335");
        assert_eq!(factor(1_000, 1_000), "0.5");
        assert_eq!(factor(-9_999, 1_000), "0.5");
    }
}
