//! What verification of records cannot see: the database's own structure, its
//! schema, triggers, dictionaries.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension};

use evidence::{Finding, FindingCode};

use super::open::MIGRATIONS;
use super::unavailable;
use crate::{StoreError, codec};

/// Strays named of one database; the first few owners show what was done.
const STRAYS_NAMED: usize = 100;

/// Bits of a key below its owner's number.
const PLACE_BITS: u32 = evidence::LEAF_INDEX_BITS;

/// The tables that projections are made from, but for `bodies`: verification reads every one of its rows, in
/// order, and holds it against its leaf, which is a better look than SQLite's at its pages, and has no index.
const LEDGER_TABLES: [&str; 5] = [
    "ledgers",
    "leaf_blocks",
    "tree_nodes",
    "checkpoints",
    "dictionaries",
];

/// The tables that are made from those.
const PROJECTED_TABLES: [&str; 6] = ["tenants", "runs", "run_records", "traces", "facets", "pruned"];

pub(super) fn run(c: &Connection, only_ledger: bool) -> Result<Vec<Finding>, StoreError> {
    let mut findings = Vec::new();
    for table in LEDGER_TABLES {
        structure(c, table, &mut findings);
    }
    for table in PROJECTED_TABLES.iter().filter(|_| !only_ledger) {
        structure(c, table, &mut findings);
    }
    findings.extend(schema(c)?);
    findings.extend(dictionaries(c)?);
    findings.extend(strays(c)?);
    Ok(findings)
}

/// Rows whose owner, a ledger or tenant, is not there, or whose key no row can have: nothing else would look at them.
///
/// Keys sort by owner, so that one step finds the next owner: cost follows the owners, not the rows.
fn strays(c: &Connection) -> Result<Vec<Finding>, StoreError> {
    let owners = |column: &str| -> Result<BTreeSet<i64>, StoreError> {
        c.prepare(&format!("SELECT DISTINCT {column} FROM ledgers"))
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .map_err(unavailable)
    };
    let (ledgers, tenants) = (owners("ledger_no")?, owners("tenant_no")?);
    let mut findings = Vec::new();
    let mut look = |table: &str, code, (word, owners): (&str, &BTreeSet<i64>), bits: u32, sql: &str| {
        let mut next = c.prepare_cached(sql).map_err(unavailable)?;
        let mut from = Some(i64::MIN);
        while let Some(at) = from {
            let key: Option<i64> = next
                .query_row([at], |row| row.get(0))
                .optional()
                .map_err(unavailable)?;
            let Some(key) = key else { break };
            let owner = key >> bits;
            if !owners.contains(&owner) {
                findings.push(Finding::new(
                    code,
                    table,
                    format!("a row of {word} {owner}, which is not there"),
                ));
            }
            from = owner
                .checked_add(1)
                .and_then(|owner| owner.checked_mul(1 << bits));
            from = from.filter(|_| findings.len() < STRAYS_NAMED);
        }
        Ok::<(), StoreError>(())
    };
    let (ledgers, tenants) = (("ledger", &ledgers), ("tenant", &tenants));
    for (table, key, bits, owners, code) in [
        (
            "leaf_blocks",
            "first_leaf",
            PLACE_BITS,
            ledgers,
            FindingCode::LeafMalformed,
        ),
        ("bodies", "leaf", PLACE_BITS, ledgers, FindingCode::BodyUnexpected),
        ("tree_nodes", "ledger_no", 0, ledgers, FindingCode::RootMismatch),
        (
            "checkpoints",
            "ledger_no",
            0,
            ledgers,
            FindingCode::CheckpointInvalid,
        ),
        (
            "pruned",
            "first_leaf",
            PLACE_BITS,
            ledgers,
            FindingCode::ProjectionUnexpected,
        ),
        (
            "runs",
            "run",
            PLACE_BITS,
            tenants,
            FindingCode::ProjectionUnexpected,
        ),
        (
            "run_records",
            "run",
            PLACE_BITS,
            tenants,
            FindingCode::ProjectionUnexpected,
        ),
        (
            "traces",
            "tenant_no",
            0,
            tenants,
            FindingCode::ProjectionUnexpected,
        ),
        (
            "facets",
            "tenant_no",
            0,
            tenants,
            FindingCode::ProjectionUnexpected,
        ),
    ] {
        let sql = format!("SELECT {key} FROM {table} WHERE {key} >= ?1 ORDER BY {key} LIMIT 1");
        look(table, code, owners, bits, &sql)?;
    }
    for (table, code, sql) in [
        // A negative size or sequence is below where reading begins.
        (
            "checkpoints",
            FindingCode::CheckpointInvalid,
            "SELECT 1 FROM checkpoints WHERE tree_size < 0 LIMIT 1",
        ),
        (
            "run_records",
            FindingCode::ProjectionUnexpected,
            "SELECT 1 FROM run_records WHERE run_seq < 0 LIMIT 1",
        ),
    ] {
        if c.prepare(sql)
            .and_then(|mut s| s.exists([]))
            .map_err(unavailable)?
        {
            findings.push(Finding::new(
                code,
                table,
                "a row under a key that no row can have",
            ));
        }
    }
    Ok(findings)
}

/// SQLite's own look at its pages and indexes: an index that lacks a row, or orders it wrongly, is seen here.
/// Gives 100 lines of a table at most.
fn structure(c: &Connection, table: &str, findings: &mut Vec<Finding>) {
    let damage = |detail: String| Finding::new(FindingCode::StoreDamaged, "deponent.db", detail);
    let lines = c
        .prepare(&format!("PRAGMA integrity_check({table})"))
        .and_then(|mut s| {
            s.query_map([], |row| row.get::<_, String>(0))?
                .collect::<Result<Vec<_>, _>>()
        });
    match lines {
        Ok(lines) => findings.extend(lines.into_iter().filter(|line| line != "ok").map(damage)),
        Err(error) => findings.push(damage(error.to_string())),
    }
}

/// Compares the schema with the one the migrations make.
fn schema(c: &Connection) -> Result<Vec<Finding>, StoreError> {
    let fresh = Connection::open_in_memory().map_err(unavailable)?;
    for sql in MIGRATIONS {
        fresh.execute_batch(sql).map_err(unavailable)?;
    }
    let (expected, found) = (objects(&fresh)?, objects(c)?);
    let mut findings = Vec::new();
    for ((kind, name), sql) in &expected {
        let code = if kind == "trigger" {
            FindingCode::TriggerMissing
        } else {
            FindingCode::SchemaMismatch
        };
        match found.get(&(kind.clone(), name.clone())) {
            None => findings.push(Finding::new(code, name.clone(), format!("{kind} is missing"))),
            Some(other) if other != sql => {
                findings.push(Finding::new(
                    code,
                    name.clone(),
                    format!("{kind} is defined otherwise"),
                ));
            }
            Some(_) => {}
        }
    }
    for (kind, name) in found.keys().filter(|key| !expected.contains_key(*key)) {
        findings.push(Finding::new(
            FindingCode::SchemaMismatch,
            name.clone(),
            format!("{kind} that this version does not make"),
        ));
    }
    Ok(findings)
}

fn objects(c: &Connection) -> Result<BTreeMap<(String, String), Option<String>>, StoreError> {
    c.prepare("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'")
        .and_then(|mut s| {
            s.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?
                .collect::<Result<_, _>>()
        })
        .map_err(unavailable)
}

fn dictionaries(c: &Connection) -> Result<Vec<Finding>, StoreError> {
    let stored: Vec<(i64, Vec<u8>)> = c
        .prepare("SELECT version, bytes FROM dictionaries")
        .and_then(|mut s| {
            s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<Result<_, _>>()
        })
        .map_err(unavailable)?;
    let finding = |detail: String| Finding::new(FindingCode::DictionaryMismatch, "dictionaries", detail);
    let mut findings = Vec::new();
    if !stored
        .iter()
        .any(|(version, _)| *version == i64::from(codec::DICTIONARY_VERSION))
    {
        findings.push(finding(format!(
            "version {} is missing",
            codec::DICTIONARY_VERSION
        )));
    }
    for (version, bytes) in stored {
        let known = version == i64::from(codec::DICTIONARY_VERSION);
        let (found, expected) = (evidence::sha256(&bytes), evidence::sha256(codec::DICTIONARY_1));
        if !known || found != expected {
            findings.push(finding(format!(
                "version {version} has SHA-256 {}, expected {}",
                evidence::hex_string(&found),
                if known {
                    evidence::hex_string(&expected)
                } else {
                    "no such version".into()
                }
            )));
        }
    }
    Ok(findings)
}
