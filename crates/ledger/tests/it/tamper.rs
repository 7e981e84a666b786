//! Every value of every column, altered in turn: verification finds it and says where.
//!
//! Columns are taken from the schema itself, so a new one cannot be forgotten.
//! What cannot be found by design stands in [`UNSEEN_DELETIONS`] and
//! [`is_same_when_unpacked`], each with its reason.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use evidence::{Finding, FindingCode};
use ledger::Options;
use ledger::verify::Report;
use rusqlite::Connection;
use rusqlite::types::Value;
use store::codec;
use tempfile::TempDir;

use crate::bed::{TestLedger, assert_clean, copy_folder, report, run, step, tamper_on, try_report};
use crate::projections::fill;

/// A folder with two tenants, runs of all sorts, blocks of many leaves and of one, nodes, several checkpoints.
pub fn base() -> &'static Path {
    static BASE: OnceLock<TempDir> = OnceLock::new();
    BASE.get_or_init(|| {
        let bed = TestLedger::new();
        fill(&bed);
        let tenant = bed.ledger.tenant("acme").unwrap();
        for n in 10..30 {
            let run_id = format!("r{n}");
            bed.all(&tenant, vec![run(&run_id), step(&run_id, 0)]);
            if n % 2 == 0 {
                bed.complete(&tenant, &run_id);
            }
        }
        let synthetic = evidence::record::RunStarted {
            source: "SYNTHETIC".into(),
            is_synthetic: true,
            synthetic_scenario_id: Some("drill".into()),
            parent_run_id: Some("r10".into()),
            ..Default::default()
        };
        bed.one(&tenant, crate::bed::run_of("synthetic", synthetic));
        let mut drafts = vec![run("long")];
        drafts.extend((0..300).map(|index| step("long", index)));
        bed.all(&tenant, drafts);
        bed.ledger.checkpoint_now(&tenant);
        bed.one(&tenant, step("long", 300));
        let folder = tempfile::tempdir().unwrap();
        drop(bed.reopen_after(|path| copy_folder(path, folder.path())));
        assert_clean(&report(folder.path()));
        folder
    })
    .path()
}

/// A copy to be damaged.
pub struct Copy(TempDir);

impl Copy {
    pub fn new() -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        copy_folder(base(), copy.path());
        copy
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Lets SQL loose on it, triggers out of the way.
    pub fn alter<T>(&self, body: impl FnOnce(&Connection) -> T) -> T {
        let connection = Connection::open(Options::new(self.path()).database()).unwrap();
        connection.pragma_update(None, "synchronous", "off").unwrap();
        connection
            .pragma_update(None, "ignore_check_constraints", true)
            .unwrap();
        tamper_on(&connection, body)
    }

    pub fn sql(&self, sql: &str) -> Report {
        self.alter(|connection| connection.execute_batch(sql))
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        report(self.path())
    }
}

pub fn lines(report: &Report) -> String {
    report
        .findings
        .iter()
        .take(8)
        .map(|finding| format!("    {finding}\n"))
        .collect()
}

/// Must be found, in the named place.
#[track_caller]
pub fn assert_found(report: &Report, place: &str) -> Finding {
    assert_eq!(report.exit_code(None), 1, "nothing found");
    let found = report
        .findings
        .iter()
        .find(|finding| finding.place.starts_with(place));
    found
        .unwrap_or_else(|| panic!("nothing in {place}:\n{}", lines(report)))
        .clone()
}

struct Column {
    table: String,
    name: String,
    kind: String,
    nullable: bool,
    /// Columns that name the row.
    keys: Vec<String>,
}

fn columns() -> Vec<Column> {
    // Of a copy: who opens a database makes files beside it and takes them away, while other tests copy the folder.
    let copy = Copy::new();
    let connection = Connection::open(Options::new(copy.path()).database()).unwrap();
    let tables: Vec<String> = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    let mut columns = Vec::new();
    for table in tables {
        let info: Vec<(String, String, bool, i64)> = connection
            .prepare(&format!(
                "SELECT name, type, \"notnull\", pk FROM pragma_table_info('{table}')"
            ))
            .unwrap()
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let keys: Vec<String> = info
            .iter()
            .filter(|(.., pk)| *pk > 0)
            .map(|(name, ..)| name.clone())
            .collect();
        assert!(!keys.is_empty(), "{table} has a key");
        for (name, kind, not_null, pk) in info {
            let nullable = !not_null && pk == 0;
            columns.push(Column {
                table: table.clone(),
                name,
                kind,
                nullable,
                keys: keys.clone(),
            });
        }
    }
    columns
}

/// Key and value of some rows: the first, the last and some between, with a value and without.
fn rows_of(connection: &Connection, column: &Column) -> Vec<(Vec<Value>, Value)> {
    let Column {
        table, name, keys, ..
    } = column;
    let mut rows = Vec::new();
    for condition in ["IS NOT NULL", "IS NULL"] {
        let order = keys.join(", ");
        let all: Vec<(Vec<Value>, Value)> = connection
            .prepare(&format!(
                "SELECT {order}, {name} FROM {table} WHERE {name} {condition} ORDER BY {order}"
            ))
            .unwrap()
            .query_map([], |row| {
                let key = (0..keys.len()).map(|i| row.get(i)).collect::<Result<_, _>>()?;
                Ok((key, row.get(keys.len())?))
            })
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let last = all.len().saturating_sub(1);
        let mut places = vec![0, last / 3, last / 2, last];
        places.dedup();
        rows.extend(places.into_iter().filter_map(|place| all.get(place).cloned()));
    }
    rows
}

/// Other values than this one.
fn others(column: &Column, value: &Value) -> Vec<Value> {
    let mut others = match value {
        Value::Integer(n) => {
            let mut others = vec![
                Value::Integer(n + 1),
                Value::Integer(-1 - n),
                Value::Integer(i64::MAX),
            ];
            others.push(Value::Integer(n ^ (1 << 40)));
            others
        }
        Value::Text(text) => {
            let mut others = vec![format!("{text}x"), String::new()];
            for place in [0, text.len() / 2, text.len().saturating_sub(2)] {
                let mut bytes = text.clone().into_bytes();
                if let Some(byte) = bytes.get_mut(place) {
                    *byte = if *byte == b'a' { b'b' } else { b'a' };
                }
                others.push(String::from_utf8(bytes).unwrap());
            }
            others.into_iter().map(Value::Text).collect()
        }
        Value::Blob(bytes) => {
            let mut others = vec![
                Vec::new(),
                bytes[..bytes.len() - 1].to_vec(),
                [bytes.as_slice(), &[0]].concat(),
            ];
            for (place, bit) in [
                (0, 0),
                (1, 3),
                (bytes.len() / 2, 7),
                (bytes.len() - 1, 0),
                (bytes.len() / 3, 4),
            ] {
                let mut other = bytes.clone();
                if let Some(byte) = other.get_mut(place) {
                    *byte ^= 1 << bit;
                }
                others.push(other);
            }
            others.into_iter().map(Value::Blob).collect()
        }
        Value::Null if column.kind == "INTEGER" => vec![Value::Integer(0), Value::Integer(1)],
        Value::Null if column.kind == "BLOB" => vec![Value::Blob(vec![7; 32]), Value::Blob(vec![7; 16])],
        _ => vec![Value::Text("x".into()), Value::Text(String::new())],
    };
    if column.nullable && *value != Value::Null {
        others.push(Value::Null);
    }
    others.retain(|other| other != value);
    others
}

/// Packing is no evidence: bytes that unpack to the same are the same. zstd leaves some bits without meaning.
fn is_same_when_unpacked(column: &Column, before: &Value, after: &Value) -> bool {
    let packed = matches!(
        (column.table.as_str(), column.name.as_str()),
        ("bodies", "body") | ("leaf_blocks", "leaves")
    );
    let (Value::Blob(before), Value::Blob(after)) = (before, after) else {
        return false;
    };
    packed
        && codec::unpack(after, 1 << 24).is_ok_and(|after| after == codec::unpack(before, 1 << 24).unwrap())
}

/// Does `work` for each item, on a few threads; gives back the complaints.
fn each<T: Sync>(items: &[T], work: impl Fn(&T) -> Vec<String> + Sync) -> Vec<String> {
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut found = work(item);
                    complaints.lock().unwrap().append(&mut found);
                }
            });
        }
    });
    complaints.into_inner().unwrap()
}

/// Where else an altered column may be found: what it names, not what it is, is then wrong.
fn is_named(column: &Column, finding: &Finding) -> bool {
    match column.table.as_str() {
        // A ledger's row says whose leaves, checkpoints and keys the others are.
        "ledgers" => true,
        table => finding.place.split('.').next() == Some(table),
    }
}

#[test]
fn every_value_of_every_column_altered_is_found_and_named() {
    let columns = columns();
    let altered = Mutex::new(BTreeMap::<String, usize>::new());
    let complaints = each(&columns, |column| {
        let copy = Copy::new();
        let database = Options::new(copy.path()).database();
        let place = format!("{}.{}", column.table, column.name);
        let condition: Vec<String> = column
            .keys
            .iter()
            .enumerate()
            .map(|(i, key)| format!("{key} = ?{}", i + 2))
            .collect();
        let sql = format!(
            "UPDATE {} SET {} = ?1 WHERE {}",
            column.table,
            column.name,
            condition.join(" AND ")
        );
        let rows = rows_of(&Connection::open(&database).unwrap(), column);
        let mut complaints = Vec::new();
        for (key, before) in rows {
            for after in others(column, &before) {
                if is_same_when_unpacked(column, &before, &after) {
                    continue;
                }
                std::fs::copy(Options::new(base()).database(), &database).unwrap();
                let parameters = std::iter::once(after.clone()).chain(key.iter().cloned());
                let done = copy.alter(|c| c.execute(&sql, rusqlite::params_from_iter(parameters)));
                // A unique key may stand in the way; another value does not.
                let Ok(1) = done else { continue };
                *altered.lock().unwrap().entry(place.clone()).or_default() += 1;
                let complaint = match try_report(copy.path()) {
                    Err(error) => Some(format!("no answer: {error}")),
                    Ok(report) if report.exit_code(None) != 1 => {
                        Some(format!("exit {}", report.exit_code(None)))
                    }
                    Ok(report) if !report.findings.iter().any(|finding| is_named(column, finding)) => {
                        Some(format!("named otherwise:\n{}", lines(&report)))
                    }
                    Ok(_) => None,
                };
                if let Some(complaint) = complaint {
                    let short = |value: &Value| format!("{value:?}").chars().take(60).collect::<String>();
                    complaints.push(format!(
                        "{place} {key:?}: {} -> {}: {complaint}",
                        short(&before),
                        short(&after)
                    ));
                }
            }
        }
        complaints
    });
    assert!(
        complaints.is_empty(),
        "{} alterations:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
    let altered = altered.into_inner().unwrap();
    for column in &columns {
        let place = format!("{}.{}", column.table, column.name);
        // What is pruned is not judged without its archive, and would hide the others: see `retention`.
        let there = altered.contains_key(&place) || column.table == "pruned";
        assert!(there, "{place} was never altered");
    }
    assert!(altered.values().sum::<usize>() > 500);
}

/// Of the last leaves themselves nothing is left to be named: what stood on them, and what was signed, is.
fn is_tail(table: &str, finding: &Finding) -> bool {
    table == "leaf_blocks"
        && matches!(
            finding.code,
            FindingCode::BodyUnexpected | FindingCode::RolledBack
        )
}

/// Rows whose absence contradicts nothing, and why.
const UNSEEN_DELETIONS: &[(&str, &str)] = &[
    // Which sizes were signed stands nowhere else; the newest one proves all that the others did. The newest is
    // missed: the mark is ahead of what is left, and verification says so.
    ("checkpoints", "an older checkpoint beside a newer one"),
];

#[test]
fn every_row_deleted_or_doubled_is_found_and_named() {
    let mut tables: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for column in columns() {
        tables.entry(column.table.clone()).or_default().push(column);
    }
    let items: Vec<(String, Vec<Column>)> = tables.into_iter().collect();
    let complaints = each(&items, |(table, columns)| {
        let copy = Copy::new();
        let database = Options::new(copy.path()).database();
        let keys = &columns[0].keys;
        let rows = rows_of(&Connection::open(&database).unwrap(), &columns[0]);
        let condition: Vec<String> = keys
            .iter()
            .enumerate()
            .map(|(i, key)| format!("{key} = ?{}", i + 1))
            .collect();
        let condition = condition.join(" AND ");
        let mut complaints = Vec::new();
        let mut judge = |what: String| match try_report(copy.path()) {
            Err(error) => complaints.push(format!("{what}: no answer: {error}")),
            Ok(report) if report.exit_code(None) != 1 => complaints.push(format!("{what}: not found")),
            Ok(report)
                if !report
                    .findings
                    .iter()
                    .any(|finding| is_named(&columns[0], finding) || is_tail(table, finding)) =>
            {
                complaints.push(format!("{what}: named otherwise:\n{}", lines(&report)));
            }
            Ok(_) => {}
        };
        for (key, _) in &rows {
            std::fs::copy(Options::new(base()).database(), &database).unwrap();
            let parameters = rusqlite::params_from_iter(key.clone());
            copy.alter(|c| c.execute(&format!("DELETE FROM {table} WHERE {condition}"), parameters))
                .unwrap();
            if !UNSEEN_DELETIONS.iter().any(|(unseen, _)| unseen == table) {
                judge(format!("{table} {key:?} deleted"));
            }
            // The same row under another key: of the same owner, and of one that is not there.
            for key_column in columns.iter().filter(|column| column.keys.contains(&column.name)) {
                let list: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
                let name = &key_column.name;
                for other in [
                    format!("{name} + 7"),
                    format!("{name} + (77 << 40)"),
                    format!("{name} || 'x'"),
                    "x'00'".into(),
                ] {
                    std::fs::copy(Options::new(base()).database(), &database).unwrap();
                    let values: Vec<String> = list
                        .iter()
                        .map(|&column| {
                            if column == name {
                                other.clone()
                            } else {
                                column.to_owned()
                            }
                        })
                        .collect();
                    let sql = format!(
                        "INSERT INTO {table} ({}) SELECT {} FROM {table} WHERE {condition}",
                        list.join(", "),
                        values.join(", ")
                    );
                    // Not every key takes every type.
                    let done = copy.alter(|c| c.execute(&sql, rusqlite::params_from_iter(key.clone())));
                    if matches!(done, Ok(1)) {
                        judge(format!("{table} {key:?} doubled under {other}"));
                    }
                }
            }
        }
        complaints
    });
    assert!(
        complaints.is_empty(),
        "{} of:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

#[test]
fn rows_exchanged_between_runs_and_tenants_are_found() {
    let swap = |table: &str, columns: &str, key: &str, one: &str, two: &str| {
        format!(
            "CREATE TEMP TABLE one AS SELECT {columns} FROM {table} WHERE {key} = {one};
             CREATE TEMP TABLE two AS SELECT {columns} FROM {table} WHERE {key} = {two};
             UPDATE {table} SET ({columns}) = (SELECT {columns} FROM two) WHERE {key} = {one};
             UPDATE {table} SET ({columns}) = (SELECT {columns} FROM one) WHERE {key} = {two};"
        )
    };
    let (a, b) = ("(1 << 40) + 5", "(2 << 40) + 5");
    for (place, sql) in [
        // Within a tenant, then between tenants (ledger and tenant numbers are equal here).
        ("bodies", swap("bodies", "salt, body", "leaf", a, "(1 << 40) + 6")),
        ("bodies", swap("bodies", "salt, body", "leaf", a, b)),
        ("leaf_blocks", swap("leaf_blocks", "leaf_count, tree_root, leaves", "first_leaf", "1 << 40", "2 << 40")),
        ("leaf_blocks", swap("leaf_blocks", "leaves", "first_leaf", "1 << 40", "2 << 40")),
        ("runs", swap("runs", "status, cost_nano_cents, total_steps", "run", "1 << 40", "(1 << 40) + 1")),
        ("runs", swap("runs", "agent_id, created_at", "run", "1 << 40", "2 << 40")),
        ("run_records", "UPDATE run_records SET run = run + 1000 WHERE run = (1 << 40) + 3".into()),
        ("run_records", "UPDATE run_records SET run = (run & ((1 << 40) - 1)) + (2 << 40) + 5000 WHERE run >> 40 = 1".into()),
        ("traces", "UPDATE traces SET run = (2 << 40) WHERE tenant_no = 1".into()),
        ("traces", "UPDATE traces SET tenant_no = 2 WHERE tenant_no = 1 AND trace_id = 'trace_r12'".into()),
        ("facets", "UPDATE facets SET facet = 'step.key=key-' || (1 - substr(facet, 14)) WHERE facet LIKE 'step.key=%'".into()),
        ("facets.n", "UPDATE facets SET n = n + 1 WHERE tenant_no = 1 AND facet = 'system'".into()),
        ("facets", "UPDATE facets SET tenant_no = 3 - tenant_no WHERE tenant_no IN (1, 2)".into()),
        ("checkpoints", "UPDATE checkpoints SET note = (SELECT note FROM checkpoints WHERE ledger_no = 2 LIMIT 1) WHERE ledger_no = 1".into()),
        ("runs", "UPDATE runs SET tenant_no = 2, run_id = run_id || 'y' WHERE run = 1 << 40".into()),
    ] {
        let copy = Copy::new();
        let report = copy.sql(&sql);
        let finding = assert_found(&report, place);
        assert!(finding.leaf_index.is_some() || finding.run_id.is_some() || finding.place == "traces", "{finding}");
    }
}

#[test]
fn what_is_stored_is_said_as_people_read_it() {
    let copy = Copy::new();
    let report = copy.sql(
        "UPDATE runs SET cost_nano_cents = 7777, provider = 'somebody' WHERE run = 1 << 40;
         UPDATE run_records SET occurred_at = occurred_at + 1 WHERE run = (1 << 40) + 1;",
    );
    for (place, said) in [
        ("runs.cost_nano_cents", "stored 7777, the records say "),
        ("runs.provider", "stored \"somebody\", the records say "),
        ("run_records.occurred_at", "stored "),
    ] {
        let finding = assert_found(&report, place);
        assert!(finding.detail.starts_with(said), "{finding}");
    }
    for finding in &report.findings {
        let types = ["Some(", "None", "NanoCents", "Timestamp", "Row {"];
        assert!(
            !types.iter().any(|name| finding.detail.contains(name)),
            "{finding}"
        );
    }
}

#[test]
fn a_block_over_the_leaves_of_another_is_told_from_it() {
    // Five leaves stand once more in a block of their own. Whether those of the block that was there are altered is
    // another matter: that is told by its root.
    for altered in [true, false] {
        let copy = Copy::new();
        copy.alter(|c| {
            let (first, count, root, packed): (i64, u32, Vec<u8>, Vec<u8>) = c
                .query_row(
                    "SELECT first_leaf, leaf_count, tree_root, leaves FROM leaf_blocks
                     WHERE first_leaf >> 40 = 1 AND leaf_count > 100 ORDER BY first_leaf LIMIT 1",
                    [],
                    |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
                )
                .unwrap();
            let mut leaves: Vec<Vec<u8>> = codec::Leaves::unpack(&packed, count)
                .unwrap()
                .iter()
                .map(<[u8]>::to_vec)
                .collect();
            let pack = |leaves: &[Vec<u8>]| {
                let mut entries = Vec::new();
                assert!(leaves.iter().all(|leaf| codec::push_leaf(&mut entries, leaf)));
                codec::pack_block(&entries)
            };
            c.execute(
                "INSERT INTO leaf_blocks VALUES (?1, 5, ?2, ?3)",
                (first + 15, &root, pack(&leaves[15..20])),
            )
            .unwrap();
            if altered {
                let text = String::from_utf8(leaves[17].clone()).unwrap();
                let other = text.replace(r#""origin":"AGENT""#, r#""origin":"HUMAN""#);
                assert_ne!(text, other);
                leaves[17] = other.into_bytes();
                c.execute(
                    "UPDATE leaf_blocks SET leaves = ?2 WHERE first_leaf = ?1",
                    (first, pack(&leaves)),
                )
                .unwrap();
            }
        });
        let report = report(copy.path());
        assert_found(&report, "leaf_blocks");
        let roots = report.findings.iter().filter(|finding| {
            finding.code == FindingCode::RootMismatch && finding.place == "leaf_blocks.tree_root"
        });
        assert_eq!(roots.count(), usize::from(altered), "{}", lines(&report));
    }
}

#[test]
fn a_block_within_another_is_found_wherever_it_lies() {
    let blocks: Vec<(i64, u32, Vec<u8>)> = Copy::new().alter(|c| {
        let mut found = c
            .prepare("SELECT first_leaf, leaf_count, leaves FROM leaf_blocks WHERE leaf_count > 1 ORDER BY first_leaf")
            .unwrap();
        let rows = found.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    });
    assert!(blocks.len() > 20, "more than are read at once: {}", blocks.len());
    for (first, count, packed) in blocks {
        let leaves = codec::Leaves::unpack(&packed, count).unwrap();
        let mut entries = Vec::new();
        assert!(codec::push_leaf(&mut entries, leaves.get(1).unwrap()));
        let copy = Copy::new();
        copy.alter(|c| {
            c.execute(
                "INSERT INTO leaf_blocks VALUES (?1, 1, zeroblob(32), ?2)",
                (first + 1, codec::pack_block(&entries)),
            )
            .unwrap();
        });
        let report = report(copy.path());
        let finding = assert_found(&report, "leaf_blocks");
        assert_eq!(finding.code, FindingCode::LeafGap, "{}", lines(&report));
        let bodies = report.findings.iter().filter(|finding| finding.place == "bodies");
        assert_eq!(bodies.count(), 0, "no body is accused: {}", lines(&report));
    }
}
