//! What verification of records cannot see: the database's own structure, its
//! schema, triggers, dictionaries.

use std::collections::BTreeMap;

use rusqlite::Connection;

use evidence::{Finding, FindingCode};

use super::open::MIGRATIONS;
use super::unavailable;
use crate::{StoreError, codec};

/// Findings shown of a damaged database file: the first say what is wrong, thousands more say it again.
const DAMAGE_FINDINGS_MAX: i64 = 20;

pub(super) fn run(c: &Connection) -> Result<Vec<Finding>, StoreError> {
    let mut findings = structure(c);
    findings.extend(schema(c)?);
    findings.extend(dictionaries(c)?);
    Ok(findings)
}

/// SQLite's own look at its pages and indexes: an index that lacks a row, or orders it wrongly, is seen here.
fn structure(c: &Connection) -> Vec<Finding> {
    let mut findings = Vec::new();
    let damage = |detail: String| Finding::new(FindingCode::StoreDamaged, "deponent.db", detail);
    let lines = c
        .prepare(&format!("PRAGMA integrity_check({DAMAGE_FINDINGS_MAX})"))
        .and_then(|mut s| s.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>());
    match lines {
        Ok(lines) => findings.extend(lines.into_iter().filter(|line| line != "ok").map(damage)),
        Err(error) => findings.push(damage(error.to_string())),
    }
    findings
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
        let code =
            if kind == "trigger" { FindingCode::TriggerMissing } else { FindingCode::SchemaMismatch };
        match found.get(&(kind.clone(), name.clone())) {
            None => findings.push(Finding::new(code, name.clone(), format!("{kind} is missing"))),
            Some(other) if other != sql => {
                findings.push(Finding::new(code, name.clone(), format!("{kind} is defined otherwise")));
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
            s.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?.collect::<Result<_, _>>()
        })
        .map_err(unavailable)
}

fn dictionaries(c: &Connection) -> Result<Vec<Finding>, StoreError> {
    let stored: Vec<(i64, Vec<u8>)> = c
        .prepare("SELECT version, bytes FROM dictionaries")
        .and_then(|mut s| s.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>())
        .map_err(unavailable)?;
    let finding = |detail: String| Finding::new(FindingCode::DictionaryMismatch, "dictionaries", detail);
    let mut findings = Vec::new();
    if !stored.iter().any(|(version, _)| *version == i64::from(codec::DICTIONARY_VERSION)) {
        findings.push(finding(format!("version {} is missing", codec::DICTIONARY_VERSION)));
    }
    for (version, bytes) in stored {
        let known = version == i64::from(codec::DICTIONARY_VERSION);
        let (found, expected) = (evidence::sha256(&bytes), evidence::sha256(codec::DICTIONARY_1));
        if !known || found != expected {
            findings.push(finding(format!(
                "version {version} has SHA-256 {}, expected {}",
                evidence::hex_string(&found),
                if known { evidence::hex_string(&expected) } else { "no such version".into() }
            )));
        }
    }
    Ok(findings)
}
