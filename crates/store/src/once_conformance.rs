//! The claims that every backend of [`crate::once`] is held to, each on a fresh one.
//!
//! Time is made: an hour passes by asking an hour later. A backend with a clock of
//! its own is told to take that of the asks.
#![allow(clippy::unwrap_used)] // a claim that does not hold panics, and that is its answer

use std::sync::Arc;

use evidence::Timestamp;

use crate::once::{
    FAILED_SECS, Lease, OnceAct, OnceAsk, OnceEntry, OnceKey, OnceSaid, OnceSpace, OnceStatus, OnceStore,
    Previous, later,
};

/// A claim and its name.
pub type OnceClaim = (&'static str, fn(&mut dyn OnceStore));

macro_rules! claims {
    ($($(#[$doc:meta])* $name:ident($store:ident) $body:block)*) => {
        /// Every claim.
        pub const ONCE_CLAIMS: &[OnceClaim] = &[$((stringify!($name), $name)),*];
        $($(#[$doc])* fn $name($store: &mut dyn OnceStore) $body)*
    };
}

const A: [u8; 32] = [1; 32];
const B: [u8; 32] = [2; 32];
const FIRST: Lease = [11; 16];
const SECOND: Lease = [22; 16];

/// Seconds into the year 2200: after every backend's own clock, so that none of them ends a key before its time.
fn at(secs: u32) -> Timestamp {
    later(Timestamp::from_micros(7_258_118_400_000_000).unwrap(), secs)
}

fn key(tenant: &str, key: &str) -> OnceKey {
    OnceKey {
        space: OnceSpace::Key,
        tenant: tenant.into(),
        key: key.into(),
    }
}

fn check(hash: [u8; 32], lease: Lease) -> OnceAct {
    OnceAct::Check {
        hash: Some(hash),
        label: Some("trace".into()),
        ttl_secs: 1_000,
        lease_secs: 60,
        lease,
    }
}

fn complete(lease: Lease, result: [u8; 32]) -> OnceAct {
    OnceAct::Complete {
        lease,
        label: None,
        response_hash: Some(result),
        payload: Some(b"result".to_vec()),
    }
}

fn fail(lease: Lease) -> OnceAct {
    OnceAct::Fail {
        lease,
        error: "boom".into(),
    }
}

#[track_caller]
fn ask(store: &mut dyn OnceStore, key: &OnceKey, act: OnceAct, at: Timestamp) -> OnceSaid {
    let ask = OnceAsk {
        key: key.clone(),
        act,
        at,
    };
    store.apply(&[ask]).remove(0).unwrap()
}

#[track_caller]
fn is_new(said: &OnceSaid) -> Option<Previous> {
    match said {
        OnceSaid::New { previous, .. } => *previous,
        other => panic!("not new: {other:?}"),
    }
}

#[track_caller]
fn known(said: OnceSaid, conflict: bool) -> OnceEntry {
    match said {
        OnceSaid::Known {
            entry,
            conflict: other,
        } if other == conflict => *entry,
        other => panic!("not known so: {other:?}"),
    }
}

#[track_caller]
fn done(said: OnceSaid) -> OnceEntry {
    match said {
        OnceSaid::Done(entry) => *entry,
        other => panic!("not done: {other:?}"),
    }
}

#[track_caller]
fn stands(store: &mut dyn OnceStore, key: &OnceKey, at: Timestamp) -> OnceEntry {
    match ask(store, key, OnceAct::Read, at) {
        OnceSaid::Read(Some(entry)) => *entry,
        other => panic!("no entry: {other:?}"),
    }
}

claims! {
    /// The first holds it, the same again is a duplicate, another request a conflict; neither changes it.
    a_key_is_new_once(store) {
        let key = key("t", "k");
        let said = ask(store, &key, check(A, FIRST), at(0));
        assert_eq!(said, OnceSaid::New { previous: None, lease_until: at(60), expires_at: at(1_000) });
        let entry = known(ask(store, &key, check(A, SECOND), at(1)), false);
        assert_eq!((entry.status, entry.lease, entry.hash), (OnceStatus::Pending, FIRST, Some(A)));
        assert_eq!((entry.created_at, entry.lease_until, entry.expires_at), (at(0), at(60), at(1_000)));
        assert_eq!((entry.label.as_deref(), entry.response_hash, entry.error, entry.payload_bytes), (Some("trace"), None, None, 0));
        assert_eq!(known(ask(store, &key, check(B, SECOND), at(2)), true).hash, Some(A));
        assert_eq!(stands(store, &key, at(3)).lease, FIRST);
    }

    /// Of many that ask in one batch, one is the first.
    within_a_batch_one_is_the_first(store) {
        let asks: Vec<OnceAsk> = (0..64)
            .map(|n| OnceAsk { key: key("t", "k"), act: check(A, [n; 16]), at: at(0) })
            .collect();
        let said = store.apply(&asks);
        assert_eq!(said.len(), 64);
        assert_eq!(is_new(said[0].as_ref().unwrap()), None);
        for said in said.into_iter().skip(1) {
            assert_eq!(known(said.unwrap(), false).lease, [0; 16]);
        }
    }

    /// Neither tenant nor space nor any way to join them makes two keys one.
    keys_of_tenants_and_spaces_are_apart(store) {
        for (tenant, name) in [("a", "b:k"), ("a:b", "k"), ("a", "k"), ("b", "k"), ("a:b:k", "k"), ("1:a", "k")] {
            assert_eq!(is_new(&ask(store, &key(tenant, name), check(A, FIRST), at(0))), None, "{tenant} {name}");
        }
        for space in [OnceSpace::Answer, OnceSpace::Output] {
            let key = OnceKey { space, ..key("a", "k") };
            assert_eq!(is_new(&ask(store, &key, check(A, FIRST), at(0))), None);
        }
    }

    /// A completed key stays so, answers with its result, and takes no other.
    what_is_completed_stays(store) {
        let key = key("t", "k");
        ask(store, &key, check(A, FIRST), at(0));
        let act = OnceAct::Complete {
            lease: FIRST, label: Some("other".into()), response_hash: Some(B), payload: Some(vec![0, 255, 10]),
        };
        let entry = done(ask(store, &key, act.clone(), at(5)));
        assert_eq!((entry.status, entry.label.as_deref(), entry.response_hash), (OnceStatus::Completed, Some("other"), Some(B)));
        assert_eq!(entry.expires_at, at(1_000));
        let entry = known(ask(store, &key, check(A, SECOND), at(500)), false);
        assert_eq!((entry.status, entry.payload_bytes), (OnceStatus::Completed, 3));
        assert_eq!(ask(store, &key, OnceAct::Payload, at(500)), OnceSaid::Payload(Some(vec![0, 255, 10])));
        assert_eq!(known(ask(store, &key, check(B, SECOND), at(500)), true).status, OnceStatus::Completed);
        assert_eq!(done(ask(store, &key, act, at(6))).status, OnceStatus::Completed, "an answer was lost");
        assert_eq!(ask(store, &key, complete(FIRST, A), at(6)), OnceSaid::LeaseLost, "another result");
        assert_eq!(ask(store, &key, complete(SECOND, B), at(6)), OnceSaid::LeaseLost, "another holder");
        assert_eq!(ask(store, &key, fail(FIRST), at(6)), OnceSaid::LeaseLost);
        let renew = OnceAct::Renew { lease: FIRST, lease_secs: 60 };
        assert_eq!(ask(store, &key, renew, at(6)), OnceSaid::LeaseLost);
        assert_eq!(stands(store, &key, at(999)).response_hash, Some(B));
    }

    /// A failed key is new again, whatever the request, and gone after five minutes.
    what_failed_may_be_tried_again(store) {
        let key = key("t", "k");
        ask(store, &key, check(A, FIRST), at(0));
        let entry = done(ask(store, &key, fail(FIRST), at(10)));
        assert_eq!((entry.status, entry.error.as_deref()), (OnceStatus::Failed, Some("boom")));
        assert_eq!(entry.expires_at, at(10 + FAILED_SECS));
        assert_eq!(done(ask(store, &key, fail(FIRST), at(11))).expires_at, at(10 + FAILED_SECS), "an answer was lost");
        assert_eq!(ask(store, &key, complete(FIRST, A), at(11)), OnceSaid::LeaseLost);
        assert_eq!(is_new(&ask(store, &key, check(B, SECOND), at(12))), Some(Previous::Failed));
        let entry = stands(store, &key, at(13));
        assert_eq!((entry.status, entry.hash, entry.error, entry.created_at), (OnceStatus::Pending, Some(B), None, at(12)));
        done(ask(store, &key, fail(SECOND), at(20)));
        assert_eq!(ask(store, &key, OnceAct::Read, at(20 + FAILED_SECS)), OnceSaid::Read(None));
        assert_eq!(is_new(&ask(store, &key, check(A, FIRST), at(20 + FAILED_SECS))), None);
    }

    /// A dead holder's key is new, and the dead one is refused when it comes back.
    a_dead_holder_is_fenced_off(store) {
        let key = key("t", "k");
        ask(store, &key, check(A, FIRST), at(0));
        known(ask(store, &key, check(A, SECOND), at(59)), false);
        assert_eq!(is_new(&ask(store, &key, check(A, SECOND), at(60))), Some(Previous::Expired));
        for act in [complete(FIRST, A), fail(FIRST), OnceAct::Renew { lease: FIRST, lease_secs: 60 }] {
            assert_eq!(ask(store, &key, act, at(61)), OnceSaid::LeaseLost);
        }
        assert_eq!(done(ask(store, &key, complete(SECOND, B), at(62))).response_hash, Some(B));
    }

    /// Who is late but was not followed by anybody has done the work: it counts.
    a_late_holder_whom_nobody_followed_completes(store) {
        let key = key("t", "k");
        ask(store, &key, check(A, FIRST), at(0));
        assert_eq!(done(ask(store, &key, complete(FIRST, A), at(600))).status, OnceStatus::Completed);
    }

    /// A renewed lease holds longer, but no longer than the key lives.
    leases_are_renewed(store) {
        let key = key("t", "k");
        ask(store, &key, check(A, FIRST), at(0));
        let renew = OnceAct::Renew { lease: FIRST, lease_secs: 60 };
        assert_eq!(done(ask(store, &key, renew.clone(), at(50))).lease_until, at(110));
        known(ask(store, &key, check(A, SECOND), at(109)), false);
        assert_eq!(done(ask(store, &key, renew, at(980))).lease_until, at(1_000));
        let wrong = OnceAct::Renew { lease: SECOND, lease_secs: 60 };
        assert_eq!(ask(store, &key, wrong, at(981)), OnceSaid::LeaseLost);
        assert_eq!(is_new(&ask(store, &key, check(B, SECOND), at(1_000))), None, "its time is over");
    }

    /// What was never there cannot be acted on; it can be deleted.
    unknown_keys_are_unknown(store) {
        let key = key("t", "k");
        for act in [complete(FIRST, A), fail(FIRST), OnceAct::Renew { lease: FIRST, lease_secs: 60 }] {
            assert_eq!(ask(store, &key, act, at(0)), OnceSaid::Unknown);
        }
        assert_eq!(ask(store, &key, OnceAct::Read, at(0)), OnceSaid::Read(None));
        assert_eq!(ask(store, &key, OnceAct::Delete, at(0)), OnceSaid::Deleted);
        assert_eq!(is_new(&ask(store, &key, check(A, FIRST), at(0))), None);
        assert_eq!(ask(store, &key, OnceAct::Delete, at(1)), OnceSaid::Deleted);
        assert_eq!(ask(store, &key, complete(FIRST, A), at(1)), OnceSaid::Unknown);
        assert_eq!(is_new(&ask(store, &key, check(B, SECOND), at(1))), None);
    }

    /// When its time is over a key is new, and what was kept with it is gone.
    keys_end(store) {
        let key = key("t", "k");
        ask(store, &key, check(A, FIRST), at(0));
        done(ask(store, &key, complete(FIRST, B), at(1)));
        stands(store, &key, at(999));
        assert_eq!(ask(store, &key, OnceAct::Read, at(1_000)), OnceSaid::Read(None));
        assert_eq!(ask(store, &key, complete(FIRST, B), at(1_000)), OnceSaid::Unknown);
        assert_eq!(is_new(&ask(store, &key, check(B, SECOND), at(1_000))), None);
        assert_eq!(known(ask(store, &key, check(B, FIRST), at(1_001)), false).payload_bytes, 0);
        assert_eq!(ask(store, &key, OnceAct::Payload, at(1_001)), OnceSaid::Payload(None));
    }

    /// What came of a key can be forgotten; that it is done cannot.
    what_is_forgotten_is_not_done_again(store) {
        let key = key("t", "k");
        let forget = |response_hash| OnceAct::Forget { response_hash };
        assert_eq!(ask(store, &key, forget(B), at(0)), OnceSaid::Unknown, "no key");
        ask(store, &key, check(A, FIRST), at(0));
        assert_eq!(ask(store, &key, forget(B), at(1)), OnceSaid::Unknown, "no result");
        done(ask(store, &key, complete(FIRST, B), at(1)));
        assert_eq!(ask(store, &key, forget(A), at(2)), OnceSaid::Unknown, "another result");
        assert_eq!(ask(store, &key, OnceAct::Payload, at(2)), OnceSaid::Payload(Some(b"result".to_vec())));
        let entry = done(ask(store, &key, forget(B), at(3)));
        assert_eq!((entry.status, entry.expires_at), (OnceStatus::Completed, at(1_000)));
        let entry = known(ask(store, &key, check(B, SECOND), at(4)), false);
        assert_eq!((entry.hash, entry.label, entry.response_hash, entry.payload_bytes), (None, None, None, 0));
        assert_eq!(ask(store, &key, OnceAct::Payload, at(4)), OnceSaid::Payload(None));
        assert_eq!(ask(store, &key, complete(FIRST, B), at(4)), OnceSaid::LeaseLost, "not even by who brought it");
        assert_eq!(ask(store, &key, forget(B), at(5)), OnceSaid::Unknown);
        assert_eq!(is_new(&ask(store, &key, check(A, SECOND), at(1_000))), None);
    }

    /// A lease never outlives its key: nobody holds what is gone.
    a_lease_ends_with_its_key(store) {
        let act = OnceAct::Check { hash: None, label: None, ttl_secs: 5, lease_secs: 60, lease: FIRST };
        let said = ask(store, &key("t", "k"), act, at(0));
        assert_eq!(said, OnceSaid::New { previous: None, lease_until: at(5), expires_at: at(5) });
    }

    /// Without a hash any request is the same.
    no_hash_agrees_with_all(store) {
        let check_of = |hash| OnceAct::Check { hash, label: None, ttl_secs: 60, lease_secs: 60, lease: SECOND };
        ask(store, &key("t", "with"), check_of(Some(A)), at(0));
        known(ask(store, &key("t", "with"), check_of(None), at(1)), false);
        known(ask(store, &key("t", "with"), check_of(Some(B)), at(1)), true);
        ask(store, &key("t", "without"), check_of(None), at(0));
        let entry = known(ask(store, &key("t", "without"), check_of(Some(B)), at(1)), false);
        assert_eq!((entry.hash, entry.label), (None, None));
    }

    /// Keys, words and results are kept as they are.
    any_text_is_kept(store) {
        let name = "ä \u{1f600} %s {}[]* '\"";
        let key = key("t", name);
        let act = OnceAct::Check { hash: None, label: Some(name.into()), ttl_secs: 60, lease_secs: 60, lease: FIRST };
        ask(store, &key, act, at(0));
        let act = OnceAct::Fail { lease: FIRST, error: name.into() };
        let entry = done(ask(store, &key, act, at(1)));
        assert_eq!((entry.label.as_deref(), entry.error.as_deref()), (Some(name), Some(name)));
        let payload: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
        let key = OnceKey { key: Arc::from("large"), ..key };
        ask(store, &key, check(A, FIRST), at(0));
        let act = OnceAct::Complete { lease: FIRST, label: None, response_hash: None, payload: Some(payload.clone()) };
        assert_eq!(done(ask(store, &key, act, at(1))).payload_bytes, 1_000_000);
        assert_eq!(ask(store, &key, OnceAct::Payload, at(2)), OnceSaid::Payload(Some(payload)));
        assert_eq!(ask(store, &OnceKey { key: Arc::from("none"), ..key }, OnceAct::Payload, at(2)), OnceSaid::Payload(None));
    }

    /// What is over is taken away, by others' acts and when nothing else is to be done.
    what_is_over_is_swept(store) {
        for n in 0..100_u32 {
            let act = OnceAct::Check { hash: None, label: None, ttl_secs: 10, lease_secs: 10, lease: FIRST };
            ask(store, &key("t", &n.to_string()), act, at(0));
        }
        is_new(&ask(store, &key("t", "stays"), check(A, FIRST), at(20)));
        assert!(store.sweep(at(20)).unwrap() > 0);
        assert_eq!(store.sweep(at(20)).unwrap(), 0, "all of it");
        stands(store, &key("t", "stays"), at(20));
    }
}
