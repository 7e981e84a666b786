//! What verification of records cannot see: the database's own structure, its
//! schema, triggers, dictionaries.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension};

use evidence::{Finding, FindingCode};

use super::open::MIGRATIONS;
use super::unavailable;
use crate::codec::BLOCK_LEAVES_MAX;
use crate::{StoreError, codec};

/// Strays named of one database; the first few owners show what was done.
const STRAYS_NAMED: usize = 100;

/// Bits of a key below its owner's number.
const PLACE_BITS: u32 = evidence::LEAF_INDEX_BITS;

/// The tables that projections are made from. Of `bodies` too, although verification holds each of its rows against its
/// leaf: it reads them in order, and who asks for one searches for its key, which other pages may answer.
const LEDGER_TABLES: [&str; 6] = [
    "ledgers",
    "leaf_blocks",
    "bodies",
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
    if !only_ledger {
        partial_indexes(c, &mut findings)?;
    }
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
    // Behind the last leaf nobody else would meet it, and nothing could be written any more.
    let empty =
        format!("SELECT 1 FROM leaf_blocks WHERE leaf_count NOT BETWEEN 1 AND {BLOCK_LEAVES_MAX} LIMIT 1");
    if c.prepare(&empty)
        .and_then(|mut s| s.exists([]))
        .map_err(unavailable)?
    {
        let detail = "a block of no leaves, or of more than one can have";
        findings.push(Finding::new(FindingCode::LeafMalformed, "leaf_blocks", detail));
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

/// Entries of partial indexes that no row has. `integrity_check` finds an entry for each row that should have one, and
/// compares the counts of all other indexes: of these it overlooks one too many, which lists would then show.
///
/// Their conditions are those that the migrations make, not what the file says: where it says otherwise is a finding anyhow.
fn partial_indexes(c: &Connection, findings: &mut Vec<Finding>) -> Result<(), StoreError> {
    let partial: Vec<(String, String, String)> = migrated()?
        .prepare(
            "SELECT name, tbl_name, substr(sql, instr(sql, ' WHERE ')) FROM sqlite_schema \
             WHERE type = 'index' AND instr(sql, ' WHERE ') > 0",
        )
        .and_then(|mut s| {
            s.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        })
        .map_err(unavailable)?;
    for table in PROJECTED_TABLES {
        let of_table = || partial.iter().filter(|(_, of, _)| of == table);
        if of_table().next().is_none() {
            continue;
        }
        // All in one reading of the table, which no index takes part in but its own key.
        let counts: Vec<String> = of_table()
            .map(|(_, _, predicate)| format!("count(*) FILTER ({predicate})"))
            .collect();
        let key = match table {
            "run_records" => "INDEXED BY sqlite_autoindex_run_records_1",
            _ => "NOT INDEXED",
        };
        let rows = c.query_row(
            &format!("SELECT {} FROM {table} {key}", counts.join(", ")),
            [],
            |row| {
                (0..counts.len())
                    .map(|at| row.get(at))
                    .collect::<Result<Vec<i64>, _>>()
            },
        );
        let damage = |detail: String| Finding::new(FindingCode::StoreDamaged, "deponent.db", detail);
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                findings.push(damage(error.to_string()));
                continue;
            }
        };
        for ((index, _, predicate), rows) in of_table().zip(rows) {
            // SQLite takes the condition for that of the index, and counts what it should have kept out.
            let sql = format!("SELECT count(*) FROM {table} INDEXED BY {index}{predicate}");
            match c.query_row(&sql, [], |row| row.get::<_, i64>(0)) {
                Ok(entries) if entries == rows => {}
                Ok(entries) => findings.push(damage(format!(
                    "index {index} holds {entries} entries, table {table} has {rows} rows for it"
                ))),
                Err(error) => findings.push(damage(error.to_string())),
            }
        }
    }
    Ok(())
}

/// Compares the schema with the one the migrations make.
fn schema(c: &Connection) -> Result<Vec<Finding>, StoreError> {
    let (expected, found) = (objects(&migrated()?)?, objects(c)?);
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

/// A database as the migrations make it.
fn migrated() -> Result<Connection, StoreError> {
    let fresh = Connection::open_in_memory().map_err(unavailable)?;
    for sql in MIGRATIONS {
        fresh.execute_batch(sql).map_err(unavailable)?;
    }
    Ok(fresh)
}

fn objects(c: &Connection) -> Result<BTreeMap<(String, String), Option<String>>, StoreError> {
    c.prepare("SELECT type, name, sql FROM sqlite_schema")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Connection {
        let c = migrated().unwrap();
        // Of each pair of runs one is in every partial index and one in none; so with their records.
        c.execute_batch(
            "CREATE TEMP VIEW numbers AS
             WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 40) SELECT n FROM n;
             INSERT INTO run_records SELECT 1, n, n, n % 2 * 6, iif(n % 2, CAST(n AS BLOB), NULL), 0, n FROM numbers;",
        )
        .unwrap();
        let columns: Vec<(String, String, bool)> = c
            .prepare("SELECT name, type, \"notnull\" FROM pragma_table_info('runs')")
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let values: Vec<String> = columns
            .iter()
            .map(|(name, kind, not_null)| match (name.as_str(), kind.as_str()) {
                ("is_synthetic", _) => "n % 2".to_owned(),
                ("settled", _) => "1 - n % 2".to_owned(),
                ("seed", _) => "iif(n % 2, n, 42)".to_owned(),
                ("plan_hash", _) => {
                    "iif(n % 2, n, '4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945')"
                        .to_owned()
                }
                ("run", _) | (_, "INTEGER") => "n".to_owned(),
                (_, "BLOB") if *not_null => "CAST(n AS BLOB)".to_owned(),
                (_, "BLOB") => "iif(n % 2, CAST(n AS BLOB), NULL)".to_owned(),
                _ if *not_null => "'r' || n".to_owned(),
                _ => "iif(n % 2, 'r' || n, NULL)".to_owned(),
            })
            .collect();
        c.execute_batch(&format!(
            "INSERT INTO runs SELECT {} FROM numbers",
            values.join(", ")
        ))
        .unwrap();
        c
    }

    /// Changes the schema, runs SQL under it, and puts the schema back.
    fn under(c: &Connection, change: &str, sql: &str) {
        c.execute_batch(&format!(
            "CREATE TEMP TABLE kept AS SELECT rowid AS at, * FROM sqlite_schema;
             PRAGMA writable_schema = ON; {change}; PRAGMA writable_schema = RESET; {sql};
             PRAGMA writable_schema = ON; DELETE FROM main.sqlite_schema;
             INSERT INTO main.sqlite_schema (rowid, type, name, tbl_name, rootpage, sql) SELECT * FROM kept;
             PRAGMA writable_schema = RESET; DROP TABLE temp.kept;"
        ))
        .unwrap();
    }

    fn found(c: &Connection) -> Vec<String> {
        let mut findings = Vec::new();
        partial_indexes(c, &mut findings).unwrap();
        findings.iter().map(|finding| format!("{finding:?}")).collect()
    }

    #[test]
    fn an_entry_too_many_in_a_partial_index_is_found_where_sqlite_says_ok() {
        let c = filled();
        assert_eq!(found(&c), Vec::<String>::new());
        let names: Vec<(String, String)> = c
            .prepare(
                "SELECT name, tbl_name FROM sqlite_schema WHERE type = 'index' AND instr(sql, ' WHERE ') > 0",
            )
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert!(names.len() >= 8, "{names:?}");
        for (index, table) in names {
            let one = if table == "runs" { "run = 1" } else { "run_seq = 1" };
            let whole = format!(
                "UPDATE sqlite_schema SET sql = substr(sql, 1, instr(sql, ' WHERE ')) WHERE name = '{index}'"
            );
            let gone = format!("DELETE FROM sqlite_schema WHERE name = '{index}'");
            for (change, sql) in [
                // Entries that its condition keeps out, and that of a row that is not there.
                (whole, format!("REINDEX {index}")),
                (gone, format!("DELETE FROM {table} WHERE {one}")),
            ] {
                let c = filled();
                c.execute_batch("DROP TRIGGER IF EXISTS runs_no_delete").unwrap();
                under(&c, &change, &sql);
                let said: String = c
                    .query_row(&format!("PRAGMA integrity_check({table})"), [], |row| row.get(0))
                    .unwrap();
                assert_eq!(said, "ok", "{index}: it counts them now");
                let found = found(&c);
                assert_eq!(found.len(), 1, "{index}, {sql}: {found:?}");
                assert!(found[0].contains(&format!("index {index} holds")), "{found:?}");
            }
        }
    }
}
