//! Answers become rows beside who asks: what is found meanwhile, and what is left when that fails or its process dies.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use store::once::{OnceAct, OnceAsk, OnceError, OnceSaid, OnceStore};
use store::sqlite::SqliteOnce;
use tempfile::TempDir;

use crate::once::held;
use crate::once_answers::{answer, given, sync};

/// Answers that fill a file.
const FULL: usize = 500;

/// A store whose files are open, and another process's connection to its table.
fn open(folder: &Path) -> (SqliteOnce, Connection) {
    let path = folder.join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(once.apply(&[answer("opened")])[0].is_ok());
    (once, Connection::open(path).unwrap())
}

/// Answers such keys without leaving the thread; says how many it could.
fn answered_at_once(once: &mut SqliteOnce, keys: std::ops::Range<usize>) -> usize {
    let done = |ask: OnceAsk, once: &mut SqliteOnce| matches!(once.at_once(&ask), Some(Ok(_)));
    keys.take_while(|n| {
        let key = n.to_string();
        done(answer(&key), once) && done(given(&key), once)
    })
    .count()
}

fn payload(once: &mut SqliteOnce, ask: &OnceAsk) -> Option<Vec<u8>> {
    let said = once.apply(&[OnceAsk {
        act: OnceAct::Payload,
        ..ask.clone()
    }]);
    match said.into_iter().next() {
        Some(Ok(OnceSaid::Payload(payload))) => payload,
        other => panic!("{other:?}"),
    }
}

fn all_are_known(once: &mut SqliteOnce, keys: std::ops::Range<usize>) {
    for key in keys {
        let ask = answer(&key.to_string());
        let said = once.apply(std::slice::from_ref(&ask)).remove(0);
        assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{key}: {said:?}");
        assert_eq!(payload(once, &ask).as_deref(), Some(&b"answer"[..]), "{key}");
    }
}

/// The files as they are, in another folder: what a process that dies now leaves.
fn left(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in [
        "state.db",
        "state.db-wal",
        "state.db-answers",
        "state.db-answers-2",
    ] {
        if folder.join(file).exists() {
            std::fs::copy(folder.join(file), copy.path().join(file)).unwrap();
        }
    }
    copy
}

fn rows(connection: &Connection) -> usize {
    let count = connection.query_row("SELECT count(*) FROM once", [], |row| row.get::<_, i64>(0));
    usize::try_from(count.unwrap()).unwrap()
}

/// Waits until there are so many.
fn rows_become(connection: &Connection, count: usize) {
    let began = Instant::now();
    while rows(connection) != count {
        assert!(began.elapsed() < Duration::from_mins(1), "they never become rows");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// As the disk is when it is full.
fn refuse_rows(other: &Connection) {
    other
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON once BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
}

#[test]
fn who_asks_goes_on_while_answers_become_rows_and_whenever_its_process_dies_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (mut once, other) = open(folder.path());
    // A full file cannot become rows as long as another process writes.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(answered_at_once(&mut once, 0..FULL + 100), FULL + 100);
    assert_eq!(rows(&other), 0);
    assert!(once.is_behind());
    all_are_known(&mut once, 0..FULL + 100);
    let died = left(folder.path());
    // Two files hold so many, and no more.
    assert_eq!(answered_at_once(&mut once, FULL + 100..3 * FULL), FULL - 100);
    let died_full = left(folder.path());
    other.execute_batch("COMMIT").unwrap();
    let key = (2 * FULL).to_string();
    assert!(once.apply(&[answer(&key), given(&key)]).iter().all(Result::is_ok));
    sync(&mut once).unwrap();
    assert!(!once.is_behind());
    rows_become(&other, 2 * FULL);
    drop(once);
    assert_eq!(rows(&other), 2 * FULL, "the last one is in its file");
    for (folder, known) in [
        (folder.path(), 2 * FULL + 1),
        (died.path(), FULL + 100),
        (died_full.path(), 2 * FULL),
    ] {
        let path = folder.join("state.db");
        let mut once = SqliteOnce::new(&path);
        all_are_known(&mut once, 0..known);
        let new = once.apply(&[answer(&known.to_string())]).remove(0);
        assert!(matches!(new, Ok(OnceSaid::New { .. })), "{new:?}");
        drop(once);
        assert_eq!(held(&path).0, i64::try_from(known).unwrap());
    }
}

#[test]
fn what_could_not_become_rows_beside_who_asks_waits_and_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (mut once, other) = open(folder.path());
    refuse_rows(&other);
    // Once that is known the log is looked after before anything else, which waits.
    let mut count = answered_at_once(&mut once, 0..2 * FULL - 1);
    assert!(count >= FULL, "{count}");
    while count < 2 * FULL {
        if count == 2 * FULL - 1 {
            all_are_known(&mut once, 0..count);
        }
        let key = count.to_string();
        let said = once.apply(&[answer(&key), given(&key)]);
        assert!(said.iter().all(Result::is_ok), "{count}: {said:?}");
        count += 1;
    }
    // Both are full: what is done is known to be, and kept by its holder until it can be written.
    let refused = |said: Result<OnceSaid, OnceError>| matches!(said, Err(OnceError::Unavailable(_)));
    assert!(refused(once.apply(&[given("opened")]).remove(0)));
    assert!(sync(&mut once).is_err());
    assert!(once.is_behind());
    let died = left(folder.path());
    other.execute_batch("DROP TRIGGER full").unwrap();
    let said = once.apply(&[answer("opened")]).remove(0);
    assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{said:?}");
    assert!(once.apply(&[given("opened")])[0].is_ok());
    all_are_known(&mut once, 0..count);
    sync(&mut once).unwrap();
    assert!(!once.is_behind());
    drop(once);
    // Who dies and finds the table as it was cannot be asked, and loses nothing.
    let path = died.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(refused(once.apply(&[answer("0")]).remove(0)));
    let other = Connection::open(&path).unwrap();
    other.execute_batch("DROP TRIGGER full").unwrap();
    all_are_known(&mut once, 0..count);
    drop(once);
    assert_eq!(held(&path).0, i64::try_from(count).unwrap());
}

#[test]
fn what_is_deleted_while_it_becomes_a_row_leaves_neither_row_nor_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (mut once, other) = open(folder.path());
    let secret = b"a secret of the first file";
    let mut first = given("first");
    if let OnceAct::Complete { payload, .. } = &mut first.act {
        *payload = Some(secret.to_vec());
    }
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(
        once.at_once(&answer("first")),
        Some(Ok(OnceSaid::New { .. }))
    ));
    assert!(matches!(once.at_once(&first), Some(Ok(OnceSaid::Done(_)))));
    assert_eq!(answered_at_once(&mut once, 0..FULL), FULL);
    let holds = || {
        [
            "state.db",
            "state.db-wal",
            "state.db-answers",
            "state.db-answers-2",
        ]
        .map(|file| {
            let bytes = std::fs::read(folder.path().join(file)).unwrap();
            bytes.windows(secret.len()).any(|window| window == secret)
        })
    };
    assert_eq!(holds(), [false, false, true, false]);
    let deleted = std::thread::scope(|scope| {
        let deleting = scope.spawn(|| {
            let act = OnceAct::Delete;
            once.apply(&[OnceAsk {
                act,
                ..answer("first")
            }])
            .remove(0)
        });
        std::thread::sleep(Duration::from_millis(100));
        other.execute_batch("COMMIT").unwrap();
        deleting.join().unwrap()
    });
    assert!(matches!(deleted, Ok(OnceSaid::Deleted)), "{deleted:?}");
    assert_eq!(holds(), [false; 4]);
    all_are_known(&mut once, 0..FULL);
    drop(once);
    let path = folder.path().join("state.db");
    let said = SqliteOnce::new(&path).apply(&[answer("first")]).remove(0);
    assert!(matches!(said, Ok(OnceSaid::New { .. })), "{said:?}");
    assert_eq!(held(&path).0, i64::try_from(FULL).unwrap());
}

#[test]
fn what_becomes_rows_is_synced_in_its_file_meanwhile_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut once, other) = open(folder.path());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(answered_at_once(&mut once, 0..FULL), FULL);
    assert!(matches!(
        once.at_once(&answer("next")),
        Some(Ok(OnceSaid::New { .. }))
    ));
    assert!(once.is_behind(), "nothing of them is on disk");
    let began = Instant::now();
    sync(&mut once).unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(5), // as long the lock would be waited for
        "nobody waits for the lock"
    );
    assert!(!once.is_behind());
    assert!(once.at_once(&given("next")).is_some());
    assert!(once.is_behind());
    // A sync that was begun before the file was turned over says nothing of the other.
    other.execute_batch("COMMIT").unwrap();
    rows_become(&other, FULL);
    let file = once.sync().unwrap().unwrap();
    for key in FULL..2 * FULL {
        let key = key.to_string();
        assert!(once.apply(&[answer(&key), given(&key)]).iter().all(Result::is_ok));
    }
    once.synced(file.sync_data()).unwrap();
    assert!(once.is_behind(), "the last one is not on disk");
    drop(once);
    assert_eq!(
        held(&folder.path().join("state.db")).0,
        i64::try_from(2 * FULL).unwrap()
    );
}

#[test]
fn of_two_files_the_later_one_says_what_a_key_stands_for() {
    for full in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let (mut once, other) = open(folder.path());
        // Which of the two files is the older one, by turns.
        let before = full * (FULL + 1);
        assert_eq!(answered_at_once(&mut once, 0..before), before);
        rows_become(&other, full * FULL);
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(matches!(
            once.at_once(&answer("k")),
            Some(Ok(OnceSaid::New { .. }))
        ));
        assert!(matches!(once.at_once(&given("k")), Some(Ok(OnceSaid::Done(_)))));
        let room = FULL - 1 - full;
        assert_eq!(answered_at_once(&mut once, before..before + room), room);
        // Two days later its time is over. Whoever was filed before is waited for.
        let later = |mut ask: OnceAsk| {
            ask.at = ask.at.checked_add_micros(2 * 86_400_000_000).unwrap();
            if let OnceAct::Complete { payload, .. } = &mut ask.act {
                *payload = Some(b"later".to_vec());
            }
            ask
        };
        let said = once.apply(&[later(answer("k")), later(given("k"))]);
        assert!(matches!(said[0], Ok(OnceSaid::New { .. })), "{said:?}");
        assert!(matches!(said[1], Ok(OnceSaid::Done(_))), "{said:?}");
        let died = left(folder.path());
        let lengths = ["state.db-answers", "state.db-answers-2"]
            .map(|file| std::fs::metadata(died.path().join(file)).unwrap().len());
        assert_eq!(lengths[0] < lengths[1], full == 1, "{lengths:?}");
        other.execute_batch("COMMIT").unwrap();
        sync(&mut once).unwrap();
        assert_eq!(
            payload(&mut once, &later(answer("k"))).as_deref(),
            Some(&b"later"[..])
        );
        let mut once = SqliteOnce::new(&died.path().join("state.db"));
        assert_eq!(
            payload(&mut once, &later(answer("k"))).as_deref(),
            Some(&b"later"[..]),
            "{full}"
        );
        drop(once);
        held(&died.path().join("state.db"));
    }
}

#[test]
fn the_one_file_of_the_version_before_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut once, other) = open(folder.path());
    assert_eq!(answered_at_once(&mut once, 0..3), 3);
    drop(once);
    assert_eq!(
        std::fs::metadata(folder.path().join("state.db-answers-2"))
            .unwrap()
            .len(),
        16,
        "they are in the first"
    );
    std::fs::remove_file(folder.path().join("state.db-answers-2")).unwrap();
    other
        .execute_batch(
            "CREATE TABLE once_answers (
               one INTEGER PRIMARY KEY CHECK (one = 1), file_id BLOB NOT NULL CHECK (length(file_id) = 16)) STRICT;
             INSERT INTO once_answers SELECT 1, file_id FROM once_files WHERE place = 1;
             DROP TABLE once_files;",
        )
        .unwrap();
    let mut once = SqliteOnce::new(&folder.path().join("state.db"));
    all_are_known(&mut once, 0..3);
    let count = other.query_row(
        "SELECT count(*) FROM sqlite_master WHERE name = 'once_answers'",
        [],
        |row| row.get(0),
    );
    assert_eq!(count, Ok(0));
}
