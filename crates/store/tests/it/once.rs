//! The embedded backend of idempotency keys, held to its claims; and what only it has.

use std::path::Path;

use evidence::Timestamp;
use rusqlite::Connection;
use store::once::{OnceAct, OnceAsk, OnceError, OnceKey, OnceSaid, OnceSpace, OnceStore};
use store::once_conformance::ONCE_CLAIMS;
use store::sqlite::{SqliteOnce, StateDb};

use crate::once_answers::{answer, given};

pub(crate) fn check(key: &str, lease: u8) -> OnceAsk {
    OnceAsk {
        key: OnceKey {
            space: OnceSpace::Output,
            tenant: "t".into(),
            key: key.into(),
        },
        act: OnceAct::Check {
            hash: None,
            label: None,
            ttl_secs: 60,
            lease_secs: 60,
            lease: [lease; 16],
        },
        at: Timestamp::from_micros(1_767_323_045_000_006).unwrap(),
    }
}

/// Entries and bytes in the table, which the sums agree with.
pub(crate) fn held(path: &Path) -> (i64, i64) {
    let connection = Connection::open(path).unwrap();
    let sum = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        sum("SELECT coalesce(sum(entries), 0) FROM once_held"),
        sum("SELECT count(*) FROM once")
    );
    assert_eq!(
        sum("SELECT coalesce(sum(bytes), 0) FROM once_held"),
        sum("SELECT coalesce(sum(length(payload)), 0) FROM once")
    );
    (
        sum("SELECT count(*) FROM once"),
        sum("SELECT coalesce(sum(bytes), 0) FROM once_held"),
    )
}

#[test]
fn the_embedded_backend_keeps_every_claim() {
    for (name, claim) in ONCE_CLAIMS {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        println!("{name}");
        claim(&mut SqliteOnce::new(&path));
        held(&path);
    }
}

#[test]
fn after_a_write_that_failed_nothing_is_said_until_the_log_is_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(once.apply(&[check("a", 1)])[0].is_ok());
    // A reader keeps the log from being cut.
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON once BEGIN SELECT RAISE(ABORT, 'full'); END")
        .unwrap();
    assert!(once.apply(&[check("b", 1)])[0].is_err());
    other
        .execute_batch("DROP TRIGGER full; BEGIN; SELECT count(*) FROM once")
        .unwrap();
    assert!(once.is_behind());
    for ask in [check("a", 1), answer("a")] {
        let said = once.apply(&[ask]).remove(0);
        assert!(matches!(said, Err(OnceError::Unavailable(_))), "{said:?}");
    }
    assert!(once.is_behind());
    other.execute_batch("COMMIT").unwrap();
    assert!(once.apply(&[check("b", 1)])[0].is_ok());
    assert!(once.apply(&[answer("a")])[0].is_ok());
    assert!(!once.is_behind());
}

#[test]
fn a_lease_is_there_when_another_process_opens_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let said = SqliteOnce::new(&path).apply(&[check("k", 1)]).remove(0).unwrap();
    assert!(matches!(said, OnceSaid::New { .. }), "{said:?}");
    // The verifier has the same file open.
    let _state = StateDb::open(&path).unwrap();
    let said = SqliteOnce::new(&path).apply(&[check("k", 2)]).remove(0).unwrap();
    assert!(
        matches!(&said, OnceSaid::Known { entry, .. } if entry.lease == [1; 16]),
        "{said:?}"
    );
}

#[test]
fn what_cannot_be_opened_answers_nothing_and_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("not there").join("state.db");
    let mut store = SqliteOnce::new(&path);
    let error = store
        .apply(&[check("k", 1), check("l", 1)])
        .remove(1)
        .unwrap_err();
    assert!(matches!(error, OnceError::Unavailable(_)), "{error}");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    assert!(store.apply(&[check("k", 1)]).remove(0).is_ok());
}

#[test]
fn what_finds_no_room_is_done_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut store = SqliteOnce::new(&path);
    store.apply(&[check("k", 1)]).remove(0).unwrap();
    let full = store::once::PAYLOAD_BYTES_PER_TENANT_MAX - 3;
    Connection::open(&path)
        .unwrap()
        .execute("UPDATE once_held SET bytes = ?1", [i64::try_from(full).unwrap()])
        .unwrap();
    let act = OnceAct::Complete {
        lease: [1; 16],
        label: None,
        response_hash: None,
        payload: Some(b"four".to_vec()),
    };
    let done = store
        .apply(&[OnceAsk { act, ..check("k", 1) }])
        .remove(0)
        .unwrap();
    assert!(matches!(done, OnceSaid::Done(_)), "{done:?}");
    let said = store.apply(&[check("k", 2)]).remove(0).unwrap();
    assert!(
        matches!(&said, OnceSaid::Known { entry, .. } if entry.payload_bytes == 0),
        "{said:?}"
    );
}

#[test]
fn a_tenant_has_so_many_keys_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut store = SqliteOnce::new(&path);
    store.apply(&[check("k", 1)]).remove(0).unwrap();
    let full = store::once::ENTRIES_PER_TENANT_MAX;
    Connection::open(&path)
        .unwrap()
        .execute(
            "UPDATE once_held SET entries = ?1",
            [i64::try_from(full).unwrap()],
        )
        .unwrap();
    assert_eq!(store.apply(&[check("l", 1)]).remove(0).unwrap(), OnceSaid::Full);
    let mut other = check("l", 1);
    other.key.tenant = "other".into();
    assert!(matches!(
        store.apply(&[other]).remove(0).unwrap(),
        OnceSaid::New { .. }
    ));
}

#[test]
fn only_a_damaged_state_is_set_aside_whole_and_never_over_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let file = |name: &str| folder.path().join(name);
    for number in 1..=2 {
        let garbage = format!("no database, for the {number}. time").repeat(100);
        for end in ["", "-answers", "-answers-2"] {
            std::fs::write(file(&format!("state.db{end}")), &garbage).unwrap();
        }
        assert!(matches!(
            StateDb::open(&path),
            Err(store::StoreError::Damaged { .. })
        ));
        let state = StateDb::open_or_begin_anew(&path).unwrap();
        assert_eq!(state.once_epoch().unwrap(), None, "another is begun");
        drop(state);
        for end in ["", "-answers", "-answers-2"] {
            let aside = format!("state.db.damaged-{number}{end}");
            assert_eq!(std::fs::read_to_string(file(&aside)).unwrap(), garbage, "{aside}");
        }
    }
    // What cannot be opened for another reason may be whole.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = StateDb::open_or_begin_anew(&path).unwrap_err();
    assert!(matches!(error, store::StoreError::Unavailable(_)), "{error}");
    assert!(path.is_dir() && !file("state.db.damaged-3").exists());
}

#[test]
fn where_the_state_was_removed_or_replaced_nothing_is_claimed_or_kept() {
    let (file, log) = ("state.db", "state.db-wal");
    for (name, is_replaced) in [(file, false), (file, true), (log, false), (log, true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let (there, aside) = (folder.path().join(name), folder.path().join("aside"));
        let mut once = SqliteOnce::new(&path);
        let asks = [check("k", 1), answer("a"), given("a"), answer("begun")];
        assert!(once.apply(&asks).iter().all(Result::is_ok));
        std::fs::rename(&there, &aside).unwrap();
        if is_replaced {
            std::fs::copy(&aside, &there).unwrap();
        }
        let said = format!("{name} was removed or replaced");
        for _ in 0..2 {
            assert!(once.at_once(&answer("b")).is_none());
            for ask in [check("l", 1), answer("b"), given("begun")] {
                let refused = once.apply(&[ask]).remove(0).unwrap_err();
                assert!(refused.to_string().contains(&said), "{refused}");
            }
            assert!(once.sweep(check("k", 1).at).is_err());
            let known = once.apply(&[answer("a")]).remove(0);
            assert!(
                matches!(known, Ok(OnceSaid::Known { .. })),
                "what is known is: {known:?}"
            );
        }
        // As it was put back it has all that was promised.
        std::fs::rename(&aside, &there).unwrap();
        assert!(matches!(
            once.apply(&[check("l", 1)]).remove(0),
            Ok(OnceSaid::New { .. })
        ));
        assert!(once.apply(&[given("begun")])[0].is_ok());
        drop(once);
        let mut once = SqliteOnce::new(&path);
        for ask in [check("k", 2), check("l", 2), answer("a"), answer("begun")] {
            let said = once.apply(&[ask]).remove(0);
            assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{name}: {said:?}");
        }
    }
}

#[test]
fn a_state_that_is_removed_before_anything_was_asked_is_not_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    // As a server has it open from its start.
    let _state = StateDb::open(&path).unwrap();
    let mut once = SqliteOnce::new(&path);
    std::fs::remove_file(&path).unwrap();
    for ask in [check("k", 1), answer("a")] {
        let refused = once.apply(&[ask]).remove(0).unwrap_err();
        assert!(refused.to_string().contains("state.db was removed"), "{refused}");
    }
    assert!(!path.exists());
}

#[test]
fn answers_whose_files_were_removed_become_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(once.apply(&[answer("a"), given("a")]).iter().all(Result::is_ok));
    for name in ["state.db-answers", "state.db-answers-2"] {
        std::fs::remove_file(folder.path().join(name)).unwrap();
    }
    assert!(once.at_once(&answer("b")).is_none());
    // A second later, when they are to be on disk.
    assert!(once.sync().is_err(), "the files are still to be opened anew");
    assert_eq!(held(&path), (1, 6));
    assert!(once.apply(&[answer("b"), given("b")]).iter().all(Result::is_ok));
    drop(once);
    let mut once = SqliteOnce::new(&path);
    for key in ["a", "b"] {
        let said = once.apply(&[answer(key)]).remove(0);
        assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{key}: {said:?}");
    }
}

#[test]
fn what_is_forgotten_leaves_no_bytes_in_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    // Opened beside it, as a server does.
    let _state = StateDb::open(&path).unwrap();
    let mut store = SqliteOnce::new(&path);
    // Longer than a page, so that it lies on pages of its own; and one within a row.
    let spaces = [OnceSpace::Output, OnceSpace::Answer];
    for (space, (name, length), is_deleted) in spaces.into_iter().flat_map(|space| {
        [("large", 100_000), ("small", 100)]
            .into_iter()
            .flat_map(move |text| [false, true].map(|is_deleted| (space, text, is_deleted)))
    }) {
        let text = format!("{name} and secret ").into_bytes();
        let payload: Vec<u8> = text.iter().copied().cycle().take(length).collect();
        let on_disk = || {
            ["", "-wal", "-answers", "-answers-2"].iter().any(|end| {
                let bytes = std::fs::read(folder.path().join(format!("state.db{end}"))).unwrap_or_default();
                bytes.windows(text.len()).any(|window| window == text)
            })
        };
        let mut check = check(&format!("{name} {is_deleted}"), 1);
        check.key.space = space;
        let ask = |act| OnceAsk { act, ..check.clone() };
        let complete = OnceAct::Complete {
            lease: [1; 16],
            label: None,
            response_hash: Some([9; 32]),
            payload: Some(payload),
        };
        store.apply(&[check.clone(), ask(complete)]);
        assert!(on_disk());
        let act = if is_deleted {
            OnceAct::Delete
        } else {
            let response_hash = [9; 32];
            OnceAct::Forget { response_hash }
        };
        let said = store.apply(&[ask(act)]).remove(0).unwrap();
        let done = matches!(said, OnceSaid::Done(_) | OnceSaid::Deleted);
        assert!(done, "{said:?}");
        assert!(!on_disk(), "{space:?} {name}");
    }
    held(&path);
}
