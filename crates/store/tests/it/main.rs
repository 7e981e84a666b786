//! SQLite, and SQLite behind the fault wrapper, held to the claims; and what only SQLite has.
#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod once;
mod once_answers;
mod once_filing;
mod once_redis;
mod redis_server;
mod still;

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use store::conformance::claims;
use store::sqlite::{Access, SqliteStore};
use store::{
    AppendError, Batch, BodyRow, CheckpointRow, Fault, FaultStore, Head, LeafBlock, LeafKey, LedgerRow,
    Store, StoreError, codec,
};
use tlog::TreeSize;

fn open(folder: &Path, access: Access) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(&folder.join("deponent.db"), access)
}

fn fresh() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path(), Access::ReadWrite).unwrap();
    (folder, store)
}

fn raw(folder: &Path) -> Connection {
    Connection::open(folder.join("deponent.db")).unwrap()
}

fn ledger() -> LedgerRow {
    let text = |text: &str| text.to_owned();
    LedgerRow {
        ledger_no: 1,
        tenant_no: 1,
        tenant_id: text("t"),
        epoch: 0,
        origin: text("log/t"),
        vkey: text("k"),
    }
}

/// One leaf with its body, as the first of ledger 1.
fn first_batch() -> Batch {
    let mut batch = Batch::new(
        1,
        1,
        Head {
            size: TreeSize::new(0),
            root: tlog::empty_root(),
        },
    );
    let mut entries = Vec::new();
    assert!(codec::push_leaf(&mut entries, b"leaf"));
    let root = tlog::leaf_hash(b"leaf");
    batch.blocks.push(LeafBlock {
        first: 0,
        count: 1,
        root,
        leaves: codec::pack_block(&entries),
    });
    batch.bodies.push(BodyRow {
        leaf: LeafKey::new(1, 0),
        salt: [1; 32],
        body: codec::pack(b"body"),
    });
    batch
}

fn checkpoint(size: u64) -> CheckpointRow {
    CheckpointRow {
        size: TreeSize::new(size),
        note: "n".into(),
    }
}

/// Rows in every ledger table.
fn filled() -> (tempfile::TempDir, SqliteStore) {
    let (folder, store) = fresh();
    store.ledger_create(&ledger()).unwrap();
    let mut batch = first_batch();
    batch.nodes.push(store::NodeRow {
        level: 1,
        index: 0,
        hash: tlog::leaf_hash(b"x"),
    });
    store.batch_append(&[batch]).unwrap();
    store
        .checkpoints_append(&[(
            1,
            CheckpointRow {
                size: TreeSize::new(1),
                note: "note".into(),
            },
        )])
        .unwrap();
    (folder, store)
}

#[test]
fn sqlite_conforms() {
    for (name, claim) in claims() {
        let (_folder, store) = fresh();
        println!("{name}");
        claim(&store);
    }
}

#[test]
fn a_new_database_is_nobody_elses_to_read_whatever_folder_it_is_in() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let store = open(folder.path(), Access::ReadWrite).unwrap();
    store.ledger_create(&ledger()).unwrap();
    let state = store::sqlite::StateDb::open(&folder.path().join("state.db")).unwrap();
    let modes: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name(),
                entry.metadata().unwrap().permissions().mode() & 0o777,
            )
        })
        .collect();
    assert!(modes.len() >= 5, "{modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
    drop((store, state));
    // One that is there has the mode that its operator gave it.
    let file = folder.path().join("deponent.db");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    drop(open(folder.path(), Access::ReadWrite).unwrap());
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn the_fault_wrapper_conforms_while_nothing_is_armed() {
    for (name, claim) in claims() {
        let (_folder, store) = fresh();
        println!("{name}");
        claim(&FaultStore::new(Arc::new(store)));
    }
}

#[test]
fn faults_happen_once_and_leave_what_they_say() {
    let (_folder, store) = fresh();
    let store = FaultStore::new(Arc::new(store));
    store.ledger_create(&ledger()).unwrap();
    let size = |store: &FaultStore| store.head_read(1).unwrap().size.as_u64();
    store.arm(Fault::AppendRefused);
    assert!(matches!(
        store.batch_append(&[first_batch()]),
        Err(AppendError::Refused(_))
    ));
    store.arm(Fault::AppendLost);
    assert!(matches!(
        store.batch_append(&[first_batch()]),
        Err(AppendError::Unknown(_))
    ));
    store.arm(Fault::HeadMoved);
    assert!(matches!(
        store.batch_append(&[first_batch()]),
        Err(AppendError::HeadMoved(1))
    ));
    assert_eq!(size(&store), 0);
    store.arm(Fault::AppendUnacknowledged);
    assert!(matches!(
        store.batch_append(&[first_batch()]),
        Err(AppendError::Unknown(_))
    ));
    assert_eq!(size(&store), 1);
    let checkpoint = CheckpointRow {
        size: TreeSize::new(1),
        note: "note".into(),
    };
    store.arm(Fault::CheckpointLost);
    assert!(store.checkpoints_append(&[(1, checkpoint.clone())]).is_err());
    assert_eq!(store.checkpoint_newest(1).unwrap(), None);
    store.arm(Fault::CheckpointUnacknowledged);
    assert!(store.checkpoints_append(&[(1, checkpoint.clone())]).is_err());
    assert_eq!(store.checkpoint_newest(1).unwrap(), Some(checkpoint));
    store.arm(Fault::Read);
    assert!(store.ledgers_list().is_err() && store.ledgers_list().is_ok());
    assert!(store.armed().is_empty());
}

#[test]
fn ledger_tables_refuse_update_and_delete() {
    let (folder, _store) = filled();
    let connection = raw(folder.path());
    for (table, column) in [
        ("ledgers", "vkey"),
        ("leaf_blocks", "leaves"),
        ("tree_nodes", "node_hash"),
        ("bodies", "body"),
        ("checkpoints", "note"),
        ("dictionaries", "bytes"),
    ] {
        let rows: i64 = connection
            .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))
            .unwrap();
        assert!(rows > 0, "{table}");
        let update = connection.execute(&format!("UPDATE {table} SET {column} = {column}"), []);
        let delete = connection.execute(&format!("DELETE FROM {table}"), []);
        for refused in [update, delete] {
            let error = refused.expect_err(table).to_string();
            assert!(error.contains("never"), "{error}");
        }
    }
}

#[test]
fn the_database_is_durable_and_says_whose_it_is() {
    let (folder, store) = filled();
    drop(store);
    let connection = raw(folder.path());
    let pragma =
        |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0));
    assert_eq!(
        pragma("journal_mode").unwrap(),
        rusqlite::types::Value::Text("wal".into())
    );
    assert_eq!(
        pragma("application_id").unwrap(),
        rusqlite::types::Value::Integer(0x4450_4e54)
    );
    assert_eq!(
        pragma("user_version").unwrap(),
        rusqlite::types::Value::Integer(5)
    );
}

/// Ledgers that grow side by side: SQLite splits pages between them, and leaves copies of rows behind.
fn side_by_side(store: &SqliteStore, batches: u64) -> Vec<BodyRow> {
    let mut bodies = Vec::new();
    let mut frontiers: Vec<tlog::Frontier> = (0..4).map(|_| tlog::Frontier::new()).collect();
    for no in 0..4 {
        let row = LedgerRow {
            ledger_no: no,
            tenant_no: no,
            tenant_id: format!("t{no}"),
            origin: format!("log/t{no}"),
            ..ledger()
        };
        store.ledger_create(&row).unwrap();
    }
    for round in 0..batches {
        for (no, frontier) in (0..).zip(&mut frontiers) {
            let head = Head {
                size: frontier.size(),
                root: frontier.root(),
            };
            let mut batch = Batch::new(no, no, head);
            let (first, count) = (
                frontier.size().as_u64(),
                u32::try_from(1 + (round * 7 + u64::from(no)) % 5).unwrap(),
            );
            let mut entries = Vec::new();
            for index in first..first + u64::from(count) {
                let leaf = format!("leaf {index} of {no}");
                codec::push_leaf(&mut entries, leaf.as_bytes());
                frontier.push(tlog::leaf_hash(leaf.as_bytes()));
                let salt = evidence::sha256(leaf.as_bytes());
                let row = BodyRow {
                    leaf: LeafKey::new(no, index),
                    salt,
                    body: salt.repeat(3 + usize::from(salt[0]) % 24),
                };
                bodies.push(row.clone());
                batch.bodies.push(row);
            }
            batch.blocks.push(LeafBlock {
                first,
                count,
                root: frontier.root(),
                leaves: codec::pack_block(&entries),
            });
            store.batch_append(&[batch]).unwrap();
        }
    }
    bodies
}

/// How often 16 bytes stand in a file.
fn times(folder: &Path, file: &str, needle: &[u8]) -> usize {
    let bytes = std::fs::read(folder.join(file)).unwrap_or_default();
    bytes
        .windows(16)
        .filter(|window| *window == &needle[..16])
        .count()
}

#[test]
fn what_was_erased_is_neither_in_the_file_nor_in_its_log() {
    let (folder, store) = fresh();
    let bodies = side_by_side(&store, 60);
    store.tidy();
    // One of which a copy stands elsewhere: overwriting where it stands does not take that away.
    let salts = |row: &BodyRow| 1 + row.body.len() / 32;
    let copied = bodies
        .iter()
        .filter(|row| row.leaf.ledger_no() < 3)
        .find(|row| times(folder.path(), "deponent.db", &row.salt) > salts(row));
    let row = copied.expect("no page was ever split").clone();
    let head = store.head_read(3).unwrap();
    let mut batch = Batch::new(3, row.leaf.ledger_no(), head);
    batch.erased.push(store::ErasedRow {
        leaf: row.leaf,
        facets_gained: vec!["erased".into()],
        facets_lost: Vec::new(),
        run_record: None,
    });
    store.batch_append(&[batch]).unwrap();
    assert!(folder.path().join("deponent.db-scrub").exists());
    let left = || ["deponent.db", "deponent.db-wal"].map(|file| times(folder.path(), file, &row.salt));
    assert_ne!(left(), [0, 0]);
    // The process dies here; the next opening finishes.
    drop(store);
    let store = open(folder.path(), Access::ReadWrite).unwrap();
    assert_eq!(left(), [0, 0]);
    assert!(!folder.path().join("deponent.db-scrub").exists());
    assert!(store.bodies_get(&[row.leaf]).unwrap().is_empty());
    assert_eq!(store.self_check(false).unwrap(), []);
}

#[test]
fn what_cannot_keep_a_log_beside_it_is_refused() {
    // A database in memory has no log file, so that no commit to it is durable.
    assert!(matches!(
        SqliteStore::open(Path::new(":memory:"), Access::ReadWrite),
        Err(StoreError::Refused(_))
    ));
}

#[test]
fn reopening_finds_everything() {
    let (folder, store) = filled();
    let head = store.head_read(1).unwrap();
    drop(store);
    let store = open(folder.path(), Access::ReadWrite).unwrap();
    assert_eq!(store.head_read(1).unwrap(), head);
    assert_eq!(store.ledgers_list().unwrap(), [ledger()]);
    assert_eq!(store.bodies_read(1, 0, 1).unwrap(), first_batch().bodies);
    assert!(store.self_check(false).unwrap().is_empty());
}

#[test]
fn a_newer_schema_is_refused() {
    let (folder, store) = filled();
    drop(store);
    raw(folder.path()).pragma_update(None, "user_version", 6).unwrap();
    for access in [Access::ReadWrite, Access::ReadOnly] {
        assert!(matches!(open(folder.path(), access), Err(StoreError::Refused(_))));
    }
}

#[test]
fn another_programs_database_is_refused_and_left_as_it_is() {
    for version in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let connection = raw(folder.path());
        connection
            .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
            .unwrap();
        connection.pragma_update(None, "user_version", version).unwrap();
        drop(connection);
        for access in [Access::ReadWrite, Access::ReadOnly] {
            assert!(
                matches!(open(folder.path(), access), Err(StoreError::Refused(_))),
                "version {version}"
            );
        }
        let tables: i64 = raw(folder.path())
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .unwrap();
        assert_eq!(tables, 1);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("deponent.db"),
        b"no database at all, but long enough to be read as one",
    )
    .unwrap();
    assert!(open(folder.path(), Access::ReadWrite).is_err());
}

#[test]
fn reading_beside_a_writer_sees_its_commits_and_writes_nothing() {
    let (folder, writer) = fresh();
    writer.ledger_create(&ledger()).unwrap();
    let reader = open(folder.path(), Access::ReadOnly).unwrap();
    assert_eq!(reader.head_read(1).unwrap().size.as_u64(), 0);
    writer.batch_append(&[first_batch()]).unwrap();
    assert_eq!(reader.head_read(1).unwrap(), writer.head_read(1).unwrap());
    let checkpoint = CheckpointRow {
        size: TreeSize::new(1),
        note: "note".into(),
    };
    assert!(reader.batch_append(&[first_batch()]).is_err());
    assert!(reader.checkpoints_append(&[(1, checkpoint)]).is_err());
    assert!(
        reader
            .ledger_create(&LedgerRow {
                ledger_no: 2,
                ..ledger()
            })
            .is_err()
    );
    assert!(reader.projections_replace(&mut std::iter::empty()).is_err());
    assert!(writer.checkpoint_newest(1).unwrap().is_none());
    let absent = tempfile::tempdir().unwrap();
    assert!(open(absent.path(), Access::ReadOnly).is_err());
    assert!(
        std::fs::read_dir(absent.path()).unwrap().next().is_none(),
        "reading makes no file"
    );
}

#[test]
fn reading_leaves_a_crashed_writers_files_as_they_were() {
    let (folder, writer) = fresh();
    writer.ledger_create(&ledger()).unwrap();
    writer.batch_append(&[first_batch()]).unwrap();
    // Copied beside a living writer, as a kill leaves it: the log is not carried over.
    let copy = tempfile::tempdir().unwrap();
    for name in ["deponent.db", "deponent.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let bytes = |name: &str| std::fs::read(copy.path().join(name)).unwrap();
    let before = (bytes("deponent.db"), bytes("deponent.db-wal"));
    let reader = open(copy.path(), Access::ReadOnly).unwrap();
    assert_eq!(reader.head_read(1).unwrap().size.as_u64(), 1);
    drop(reader);
    assert!(
        before == (bytes("deponent.db"), bytes("deponent.db-wal")),
        "evidence is not touched by who looks at it"
    );
}

#[test]
fn an_emptied_database_keeps_its_log_when_somebody_looks() {
    let (folder, writer) = filled();
    let copy = tempfile::tempdir().unwrap();
    let log = copy.path().join("deponent.db-wal");
    std::fs::copy(folder.path().join("deponent.db-wal"), &log).unwrap();
    drop(writer);
    std::fs::write(copy.path().join("deponent.db"), b"").unwrap();
    let before = std::fs::read(&log).unwrap();
    assert!(!before.is_empty());
    let refused = open(copy.path(), Access::ReadOnly).unwrap_err();
    assert!(refused.to_string().ends_with("deponent.db is empty"), "{refused}");
    assert_eq!(std::fs::read(&log).unwrap(), before);
}

#[test]
fn each_write_to_a_database_or_log_that_was_removed_says_so() {
    for name in ["deponent.db", "deponent.db-wal"] {
        let (folder, store) = filled();
        std::fs::remove_file(folder.path().join(name)).unwrap();
        for _ in 0..2 {
            let refused = store.checkpoints_append(&[(1, checkpoint(2))]).unwrap_err();
            assert!(matches!(refused, StoreError::Refused(_)));
            let said = format!("{name} was removed or replaced");
            assert!(refused.to_string().contains(&said), "{refused}");
        }
        assert!(store.is_stopped());
    }
}

#[test]
fn the_log_of_a_database_that_is_a_link_is_known_too() {
    let (folder, store) = filled();
    drop(store);
    let links = tempfile::tempdir().unwrap();
    let file = folder.path().join("deponent.db");
    std::os::unix::fs::symlink(&file, links.path().join("deponent.db")).unwrap();
    let store = open(links.path(), Access::ReadWrite).unwrap();
    store.checkpoints_append(&[(1, checkpoint(2))]).unwrap();
    store.tidy();
    store.checkpoints_append(&[(1, checkpoint(3))]).unwrap();
    std::fs::remove_file(folder.path().join("deponent.db-wal")).unwrap();
    assert!(store.checkpoints_append(&[(1, checkpoint(4))]).is_err());
    assert!(store.is_stopped());
}

#[test]
fn the_schema_is_this() {
    let (folder, _store) = fresh();
    let mut dump = String::new();
    raw(folder.path())
        .prepare("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid")
        .unwrap()
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap()
        .for_each(|sql| {
            dump.push_str(&sql.unwrap());
            dump.push_str(";\n");
        });
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/schema.sql");
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    if dump != expected {
        let found = golden.with_extension("sql.new");
        std::fs::write(&found, &dump).unwrap();
        panic!(
            "the schema differs from {}; what it is now stands in {}",
            golden.display(),
            found.display()
        );
    }
}
