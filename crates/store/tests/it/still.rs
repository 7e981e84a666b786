//! Reading where SQLite can make no file beside the database. Permissions do not hold root back; a `-shm` that is a link to
//! nowhere holds back everybody, as SQLite follows none.

use std::os::unix::fs::symlink;
use std::path::Path;

use store::sqlite::Access;
use store::{Store, StoreError};

use crate::{filled, first_batch, fresh, ledger, open};

fn no_index(folder: &Path) {
    symlink("nowhere", folder.join("deponent.db-shm")).unwrap();
}

#[test]
fn a_database_with_nothing_in_its_log_is_read_where_nothing_can_be_written() {
    let (from, store) = filled();
    let head = store.head_read(1).unwrap();
    drop(store);
    // Each of these means something in the name of a file that SQLite is given.
    for name in ["plain", "a b?c#d%20&é"] {
        for log in [None, Some("")] {
            let folder = tempfile::tempdir().unwrap();
            let copy = folder.path().join(name);
            std::fs::create_dir(&copy).unwrap();
            std::fs::copy(from.path().join("deponent.db"), copy.join("deponent.db")).unwrap();
            if let Some(log) = log {
                std::fs::write(copy.join("deponent.db-wal"), log).unwrap();
            }
            no_index(&copy);
            let before = std::fs::read(copy.join("deponent.db")).unwrap();
            let reader = open(&copy, Access::ReadOnly).unwrap();
            assert_eq!(reader.head_read(1).unwrap(), head);
            assert_eq!(reader.bodies_read(1, 0, 1).unwrap(), first_batch().bodies);
            assert_eq!(reader.self_check(false).unwrap(), []);
            assert!(reader.batch_append(&[first_batch()]).is_err());
            assert!(!reader.has_moved());
            drop(reader);
            assert!(before == std::fs::read(copy.join("deponent.db")).unwrap());
        }
    }
}

#[test]
fn a_database_is_not_read_without_what_is_in_its_log() {
    let (folder, writer) = fresh();
    writer.ledger_create(&ledger()).unwrap();
    writer.batch_append(&[first_batch()]).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for name in ["deponent.db", "deponent.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let log = std::fs::read(copy.path().join("deponent.db-wal")).unwrap();
    assert!(!log.is_empty());
    no_index(copy.path());
    let refused = open(copy.path(), Access::ReadOnly).unwrap_err();
    assert!(matches!(refused, StoreError::Refused(_)), "{refused:?}");
    assert!(refused.to_string().contains("deponent.db-wal"), "{refused}");
    assert!(log == std::fs::read(copy.path().join("deponent.db-wal")).unwrap());
}

#[test]
fn a_database_that_was_written_to_while_it_was_read_without_locks_is_known() {
    let writes: [fn(&Path); 2] = [
        |folder| std::fs::write(folder.join("deponent.db-wal"), "of a server that was started").unwrap(),
        |folder| {
            let file = folder.join("deponent.db");
            let more = [std::fs::read(&file).unwrap(), vec![0; 4096]].concat();
            std::fs::write(&file, more).unwrap();
        },
    ];
    for write in writes {
        let (folder, store) = filled();
        drop(store);
        no_index(folder.path());
        let reader = open(folder.path(), Access::ReadOnly).unwrap();
        assert!(!reader.has_moved());
        write(folder.path());
        assert!(reader.has_moved());
    }
}

#[test]
fn one_that_is_read_with_its_log_never_moves() {
    let (folder, writer) = fresh();
    writer.ledger_create(&ledger()).unwrap();
    let reader = open(folder.path(), Access::ReadOnly).unwrap();
    writer.batch_append(&[first_batch()]).unwrap();
    assert_eq!(reader.head_read(1).unwrap().size.as_u64(), 1);
    assert!(!reader.has_moved());
}
