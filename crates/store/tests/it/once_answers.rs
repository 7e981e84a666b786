//! Answers to requests with keys, in the embedded backend: claimed in memory, appended to a file, made rows.

use std::path::Path;
use std::time::{Duration, Instant};

use evidence::Timestamp;
use rusqlite::Connection;
use store::once::{
    ENTRIES_PER_TENANT_MAX, OnceAct, OnceAsk, OnceError, OnceSaid, OnceSpace, OnceStatus, OnceStore,
    PAYLOAD_BYTES_PER_TENANT_MAX, Previous,
};
use store::once_conformance::ONCE_CLAIMS;
use store::sqlite::SqliteOnce;

use crate::once::{check, held};

pub(crate) fn answer(key: &str) -> OnceAsk {
    let mut ask = check(key, 1);
    ask.key.space = OnceSpace::Answer;
    ask.act = OnceAct::Check {
        hash: None,
        label: None,
        ttl_secs: 86_400,
        lease_secs: 60,
        lease: [1; 16],
    };
    ask
}

pub(crate) fn given(key: &str) -> OnceAsk {
    let mut ask = answer(key);
    ask.act = OnceAct::Complete {
        lease: [1; 16],
        label: None,
        response_hash: None,
        payload: Some(b"answer".to_vec()),
    };
    ask
}

/// Asks about keys of answers, whatever is asked.
struct Answers(SqliteOnce);

impl OnceStore for Answers {
    fn apply(&mut self, asks: &[OnceAsk]) -> Vec<Result<OnceSaid, OnceError>> {
        let mut asks = asks.to_vec();
        for ask in asks.iter_mut().filter(|ask| ask.key.space == OnceSpace::Key) {
            ask.key.space = OnceSpace::Answer;
        }
        self.0.apply(&asks)
    }

    fn sweep(&mut self, at: Timestamp) -> Result<u32, OnceError> {
        self.0.sweep(at)
    }
}

/// Those about leases that end and keys that failed are not among them: who claims an answer's key ends the claim, and
/// nobody else does; what failed is given back.
const CLAIMS_OF_ANSWERS: [&str; 12] = [
    "keys_end",
    "a_late_holder_whom_nobody_followed_completes",
    "leases_are_renewed",
    "a_lease_ends_with_its_key",
    "a_key_is_new_once",
    "within_a_batch_one_is_the_first",
    "what_is_completed_stays",
    "unknown_keys_are_unknown",
    "what_is_forgotten_is_not_done_again",
    "no_hash_agrees_with_all",
    "any_text_is_kept",
    "what_is_over_is_swept",
];

#[test]
fn answers_keep_every_claim_but_those_about_leases() {
    let mut kept = 0;
    for (name, claim) in ONCE_CLAIMS {
        if CLAIMS_OF_ANSWERS.contains(name) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("state.db");
            println!("{name}");
            claim(&mut Answers(SqliteOnce::new(&path)));
            held(&path);
            kept += 1;
        }
    }
    assert_eq!(kept, CLAIMS_OF_ANSWERS.len());
}

#[test]
fn an_answers_key_is_held_until_its_request_ends_and_by_nobody_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    let mut later = answer("a");
    later.at = later.at.checked_add_micros(3_600_000_000).unwrap();
    let known =
        |said: Result<OnceSaid, OnceError>| matches!(said, Ok(OnceSaid::Known { conflict: false, .. }));
    let new = |said: Result<OnceSaid, OnceError>| matches!(said, Ok(OnceSaid::New { .. }));
    assert!(new(once.apply(&[answer("a")]).remove(0)));
    assert!(
        known(once.apply(&[later.clone()]).remove(0)),
        "an hour after its lease"
    );
    let mut fail = answer("a");
    fail.act = OnceAct::Fail {
        lease: [1; 16],
        error: "refused".into(),
    };
    assert!(matches!(once.apply(&[fail]).remove(0), Ok(OnceSaid::Done(_))));
    assert!(new(once.apply(&[answer("a")]).remove(0)));
    drop(once);
    assert!(new(SqliteOnce::new(&path).apply(&[answer("a")]).remove(0)));
}

#[test]
fn one_tenants_requests_leave_room_for_anothers() {
    let folder = tempfile::tempdir().unwrap();
    let mut once = SqliteOnce::new(&folder.path().join("state.db"));
    let asks: Vec<OnceAsk> = (0..5_000).map(|number| answer(&number.to_string())).collect();
    let said = once.apply(&asks);
    let new = said
        .iter()
        .filter(|said| matches!(said, Ok(OnceSaid::New { .. })))
        .count();
    let busy = said
        .iter()
        .filter(|said| matches!(said, Ok(OnceSaid::Busy)))
        .count();
    assert_eq!((new, busy), (4_096, 904));
    let mut other = answer("k");
    other.key.tenant = "other".into();
    assert!(matches!(once.apply(&[other]).remove(0), Ok(OnceSaid::New { .. })));
    assert!(matches!(
        once.apply(&[given("0")]).remove(0),
        Ok(OnceSaid::Done(_))
    ));
    assert!(
        matches!(once.apply(&[answer("late")]).remove(0), Ok(OnceSaid::New { .. })),
        "one has ended"
    );
}

#[test]
fn what_can_only_be_read_takes_no_claims_once_that_is_known_and_who_was_refused_holds_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    let mut refused = answer("r");
    assert!(once.apply(&[refused.clone()])[0].is_ok());
    refused.act = OnceAct::Fail {
        lease: [1; 16],
        error: "409".into(),
    };
    assert!(once.apply(&[answer("b")])[0].is_ok());
    let mut locked = Connection::open(&path).unwrap();
    let lock = locked
        .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
        .unwrap();
    assert!(once.apply(&[given("b")])[0].is_ok(), "no row is written for that");
    assert!(once.apply(&[check("output", 1)])[0].is_err());
    // One of a batch waits for the lock, and not each: twenty would for minutes.
    let began = Instant::now();
    let batch: Vec<OnceAsk> = (0..20).map(|n| answer(&n.to_string())).collect();
    assert!(once.apply(&batch).iter().all(Result::is_err));
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    assert!(matches!(once.apply(&[refused]).remove(0), Ok(OnceSaid::Done(_))));
    assert!(once.is_behind());
    drop(lock);
    for (key, is_new) in [("r", true), ("7", true), ("b", false)] {
        let said = once.apply(&[answer(key)]).remove(0).unwrap();
        assert_eq!(matches!(said, OnceSaid::New { .. }), is_new, "{key}: {said:?}");
    }
}

/// As whoever has the backend does it.
pub(crate) fn sync(once: &mut SqliteOnce) -> Result<(), OnceError> {
    match once.sync()? {
        Some(file) => once.synced(file.sync_data()),
        None => Ok(()),
    }
}

#[test]
fn acts_on_answers_are_on_disk_after_a_sync_and_all_others_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut once = SqliteOnce::new(&folder.path().join("state.db"));
    assert!(once.is_behind(), "what an earlier process left");
    sync(&mut once).unwrap();
    assert!(once.apply(&[check("output", 1)])[0].is_ok());
    assert!(!once.is_behind(), "a lease of an output");
    assert!(once.apply(&[answer("a")])[0].is_ok());
    assert!(!once.is_behind(), "nothing was written");
    assert!(once.apply(&[given("a")])[0].is_ok());
    assert!(once.is_behind());
    sync(&mut once).unwrap();
    assert!(!once.is_behind());
    assert!(
        once.apply(&[answer("b"), given("b"), check("other", 1)])
            .iter()
            .all(Result::is_ok)
    );
    assert!(once.is_behind(), "answers have a file of their own");
    let mut forget = answer("b");
    forget.act = OnceAct::Forget {
        response_hash: [0; 32],
    };
    assert!(once.apply(&[forget])[0].is_ok());
    assert!(!once.is_behind(), "what is to be forgotten is");
}

#[test]
fn what_is_done_while_others_are_synced_is_still_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut once = SqliteOnce::new(&folder.path().join("state.db"));
    assert!(once.apply(&[answer("a"), given("a")]).iter().all(Result::is_ok));
    let file = once.sync().unwrap().unwrap();
    assert!(once.is_behind(), "not on disk before it is synced");
    assert!(once.apply(&[answer("b"), given("b")]).iter().all(Result::is_ok));
    once.synced(file.sync_data()).unwrap();
    assert!(once.is_behind(), "b may not be on disk");
    let file = once.sync().unwrap().unwrap();
    assert!(once.apply(&[answer("c")])[0].is_ok());
    once.synced(file.sync_data()).unwrap();
    assert!(!once.is_behind(), "nothing was written meanwhile");
}

#[test]
fn what_waits_for_a_disk_is_not_asked_on_a_callers_thread() {
    let folder = tempfile::tempdir().unwrap();
    let mut once = SqliteOnce::new(&folder.path().join("state.db"));
    assert!(once.at_once(&answer("a")).is_none(), "the file is not open");
    assert!(once.apply(&[answer("a")])[0].is_ok());
    for (ask, quick) in [
        (given("a"), true),
        (answer("b"), true),
        (given("b"), true),
        (check("k", 1), false),
    ] {
        let said = once.at_once(&ask);
        assert_eq!(said.is_some(), quick, "{ask:?}");
        assert!(said.is_none_or(|said| said.is_ok()), "{ask:?}");
    }
    for act in [OnceAct::Payload, OnceAct::Delete] {
        assert!(once.at_once(&OnceAsk { act, ..answer("b") }).is_none());
    }
    let mut large = given("c");
    if let OnceAct::Complete { payload, .. } = &mut large.act {
        *payload = Some(vec![0; 1 << 20]);
    }
    assert!(once.at_once(&answer("c")).is_some());
    assert!(once.at_once(&large).is_none());
    // Another process writes: that is not waited for.
    let other = Connection::open(folder.path().join("state.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(once.at_once(&given("c")), Some(Ok(OnceSaid::Done(_)))));
    // Once both files are full some are to become rows first, which waits.
    let last = (0..10_000).find(|n| {
        let key = n.to_string();
        let asks = [answer(&key), given(&key)];
        !asks.iter().all(|ask| matches!(once.at_once(ask), Some(Ok(_))))
    });
    assert_eq!(last, Some(997), "with a, b and c a thousand");
    other.execute_batch("COMMIT").unwrap();
    assert!(once.apply(&[answer("997")])[0].is_ok());
    assert!(once.at_once(&given("997")).is_some(), "they are");
}

#[test]
fn what_was_answered_is_known_whenever_its_process_dies() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let files = ["state.db-answers", "state.db-answers-2"].map(|name| folder.path().join(name));
    let read = || files.each_ref().map(|file| std::fs::read(file).unwrap());
    let write = |bytes: &[Vec<u8>; 2]| {
        for (file, bytes) in files.iter().zip(bytes) {
            std::fs::write(file, bytes).unwrap();
        }
    };
    let rows = || -> i64 {
        let connection = Connection::open(&path).unwrap();
        connection
            .query_row("SELECT count(*) FROM once", [], |row| row.get(0))
            .unwrap()
    };
    let known = |once: &mut SqliteOnce, key: &str| {
        let Ok(OnceSaid::Known { entry, .. }) = once.apply(&[answer(key)]).remove(0) else {
            return false;
        };
        let act = OnceAct::Payload;
        let payload = once.apply(&[OnceAsk { act, ..answer(key) }]).remove(0);
        assert_eq!(payload.unwrap(), OnceSaid::Payload(Some(b"answer".to_vec())));
        entry.status == OnceStatus::Completed
    };
    let mut once = SqliteOnce::new(&path);
    for key in ["a", "b"] {
        assert!(once.apply(&[answer(key), given(key)]).iter().all(Result::is_ok));
    }
    assert!(known(&mut once, "a") && rows() == 0, "they wait in their file");
    let before = read();
    // Dies before they are rows.
    drop(once);
    let mut once = SqliteOnce::new(&path);
    assert!(once.is_behind());
    assert!(known(&mut once, "a") && known(&mut once, "b") && rows() == 2);
    assert_eq!(read().map(|file| file.len()), [16; 2], "the files begin anew");
    // Dies when they are rows and the file has not begun anew: what happened to them since stands.
    let forget = OnceAct::Delete;
    assert!(
        once.apply(&[OnceAsk {
            act: forget,
            ..answer("a")
        }])[0]
            .is_ok()
    );
    drop(once);
    write(&before);
    let mut once = SqliteOnce::new(&path);
    assert!(known(&mut once, "b"));
    assert!(matches!(
        once.apply(&[answer("a")]).remove(0),
        Ok(OnceSaid::New { .. })
    ));
    // The last one was not written whole, by power loss.
    assert!(
        once.apply(&[given("a"), answer("c"), given("c")])
            .iter()
            .all(Result::is_ok)
    );
    drop(once);
    let mut whole = read();
    assert!(whole.iter().filter(|file| file.len() > 16).count() == 1);
    for file in whole.iter_mut().filter(|file| file.len() > 16) {
        file.pop();
    }
    write(&whole);
    let mut once = SqliteOnce::new(&path);
    assert!(known(&mut once, "a"));
    assert!(matches!(
        once.apply(&[answer("c")]).remove(0),
        Ok(OnceSaid::New { .. })
    ));
    assert!(once.apply(&[given("c")])[0].is_ok());
    drop(once);
    // The files are gone: so are their keys, and no others.
    for file in &files {
        std::fs::remove_file(file).unwrap();
    }
    let mut once = SqliteOnce::new(&path);
    assert!(known(&mut once, "a"));
    assert!(matches!(
        once.apply(&[answer("c")]).remove(0),
        Ok(OnceSaid::New { .. })
    ));
    drop(once);
    held(&path);
}

#[test]
fn an_answer_whose_time_is_over_gives_way_to_another_under_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    let day = |ask: OnceAsk, day: i64| OnceAsk {
        at: ask.at.checked_add_micros(day * 86_400_000_000).unwrap(),
        ..ask
    };
    // As a row, and in the file.
    for (n, filed) in [(0, true), (1, false), (2, false), (3, true)] {
        let said = once.apply(&[day(answer("a"), n), day(given("a"), n)]);
        assert!(matches!(said[0], Ok(OnceSaid::New { .. })), "{n}: {said:?}");
        assert!(matches!(said[1], Ok(OnceSaid::Done(_))), "{n}: {said:?}");
        if filed {
            let act = OnceAct::Delete;
            assert!(
                once.apply(&[OnceAsk {
                    act,
                    ..answer("other")
                }])[0]
                    .is_ok()
            );
            assert_eq!(held(&path), (1, 6), "{n}");
        }
    }
}

#[test]
fn what_may_be_a_row_already_is_made_one_before_anything_else_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(
        once.apply(&[answer("a"), given("a"), answer("b")])
            .iter()
            .all(Result::is_ok)
    );
    // A commit that is said to have failed and was done: the file has lost its name.
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch(
            "UPDATE once_files SET file_id = randomblob(16) WHERE place = 1;
             CREATE TRIGGER full BEFORE INSERT ON once BEGIN SELECT RAISE(ABORT, 'full'); END",
        )
        .unwrap();
    assert!(once.sweep(answer("a").at).is_err());
    other.execute_batch("DROP TRIGGER full").unwrap();
    assert!(once.at_once(&given("b")).is_none());
    assert!(matches!(
        once.apply(&[given("b")]).remove(0),
        Ok(OnceSaid::Done(_))
    ));
    drop(once);
    let mut once = SqliteOnce::new(&path);
    for key in ["a", "b"] {
        let said = once.apply(&[answer(key)]).remove(0);
        assert!(matches!(said, Ok(OnceSaid::Known { .. })), "{key}: {said:?}");
    }
}

#[test]
fn a_clock_that_is_set_back_takes_nothing_away_that_is_not_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut once = SqliteOnce::new(&folder.path().join("state.db"));
    let mut ahead = check("ahead", 1);
    ahead.at = ahead.at.checked_add_micros(86_400_000_000).unwrap();
    let mut answer_ahead = answer("ahead");
    answer_ahead.at = ahead.at;
    assert!(once.apply(&[ahead, answer_ahead]).iter().all(Result::is_ok));
    // Both live for a minute.
    let mut short = answer("k");
    if let OnceAct::Check { ttl_secs, .. } = &mut short.act {
        *ttl_secs = 60;
    }
    assert!(
        once.apply(&[check("k", 1), short.clone(), given("k")])
            .iter()
            .all(Result::is_ok)
    );
    for _ in 0..2 {
        let said = once.apply(&[check("k", 2), short.clone()]);
        let known = |said: &Result<OnceSaid, _>| matches!(said, Ok(OnceSaid::Known { .. }));
        assert!(said.iter().all(known), "{said:?}");
        once.sweep(short.at).unwrap();
    }
}

#[test]
fn answers_of_an_older_version_are_known_and_its_claims_are_nobodys() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(
        once.apply(&[answer("done"), given("done"), answer("begun"), given("begun")])
            .iter()
            .all(Result::is_ok)
    );
    once.sweep(answer("done").at).unwrap();
    drop(once);
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "UPDATE once SET status = 'p', payload = NULL, payload_bytes = 0 WHERE key = 'begun';
             UPDATE once_held SET bytes = bytes - 6;
             DROP TABLE once_files;",
        )
        .unwrap();
    for file in ["state.db-answers", "state.db-answers-2"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let mut once = SqliteOnce::new(&path);
    assert!(matches!(
        once.apply(&[answer("done")]).remove(0),
        Ok(OnceSaid::Known { .. })
    ));
    let said = once.apply(&[answer("begun")]).remove(0);
    let previous = Some(Previous::Expired);
    assert!(
        matches!(&said, Ok(OnceSaid::New { previous: was, .. }) if *was == previous),
        "{said:?}"
    );
    assert!(once.apply(&[given("begun")])[0].is_ok());
    once.sweep(answer("done").at).unwrap();
    assert_eq!(held(&path), (2, 12));
}

#[test]
fn a_sync_that_failed_is_made_good_by_rows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(once.apply(&[answer("a"), given("a")]).iter().all(Result::is_ok));
    assert!(once.sync().unwrap().is_some());
    assert!(once.synced(Err(std::io::Error::other("on purpose"))).is_err());
    assert!(once.is_behind());
    assert!(once.at_once(&answer("b")).is_none());
    sync(&mut once).unwrap();
    assert!(!once.is_behind());
    assert_eq!(held(&path), (1, 6));
    assert!(once.at_once(&answer("b")).is_some());
}

/// A backend with one row, whose tenant's sum is said to be that.
fn holding(folder: &Path, sum: &str, of: u64) -> SqliteOnce {
    let path = folder.join("state.db");
    let mut once = SqliteOnce::new(&path);
    assert!(once.apply(&[answer("a"), given("a")]).iter().all(Result::is_ok));
    once.sweep(answer("a").at).unwrap();
    let changed = Connection::open(&path).unwrap().execute(
        &format!("UPDATE once_held SET {sum} = ?1"),
        [i64::try_from(of).unwrap()],
    );
    assert_eq!(changed, Ok(1));
    once
}

#[test]
fn those_that_wait_count_for_what_a_tenant_may_have() {
    let folder = tempfile::tempdir().unwrap();
    let mut once = holding(folder.path(), "bytes", PAYLOAD_BYTES_PER_TENANT_MAX - 8);
    for (key, bytes) in [("b", 6), ("c", 0)] {
        let said = once.apply(&[answer(key), given(key)]).remove(1).unwrap();
        assert!(
            matches!(&said, OnceSaid::Done(entry) if entry.payload_bytes == bytes),
            "{key}: {said:?}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let mut once = holding(folder.path(), "entries", ENTRIES_PER_TENANT_MAX - 1);
    assert!(once.apply(&[answer("b"), given("b")]).iter().all(Result::is_ok));
    assert_eq!(once.apply(&[answer("c")]).remove(0).unwrap(), OnceSaid::Full);
}
