//! API keys: what the ledger says of them is what counts, before and after a restart.

use evidence::record::Role;
use evidence::redact::{RedactionSettings, TenantPattern};
use ledger::{Changer, INSTANCE, KEY_CHANGES_A_DAY_MAX, KEYS_LIVE_MAX, KeyError, NewKey, Options};
use store::Fault;

use crate::bed::{TestLedger, copy_database, copy_folder};

fn new(tenant_id: &str, role: Role) -> NewKey {
    NewKey {
        tenant_id: tenant_id.into(),
        role,
        name: None,
        expires_at: None,
    }
}

fn reason(bed: &TestLedger, text: &str) -> &'static str {
    bed.ledger
        .api_keys()
        .check(text, bed.now())
        .map_or_else(|refused| refused.reason, |_| "let in")
}

#[test]
fn a_database_from_before_the_first_key_lets_nobody_in_without_one() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let older = tempfile::tempdir().unwrap();
    let bed = bed.reopen_after(|folder| copy_folder(folder, older.path()));
    assert!(!bed.ledger.api_keys().any());
    let create = |bed: &TestLedger| {
        bed.ledger
            .key_create(&new("acme", Role::Admin), &Changer::local(), bed.now())
            .unwrap()
    };
    create(&bed);
    let bed = bed.reopen_after(|folder| copy_database(older.path(), folder));
    assert!(bed.ledger.api_keys().any());
    // A folder with keys that an earlier version made gets the mark at its next start.
    let bed = TestLedger::new();
    bed.tenant("acme");
    create(&bed);
    let mark = Options::new(bed.path()).keys().join("keyed");
    std::fs::remove_file(&mark).unwrap();
    let bed = bed.reopen();
    assert!(bed.ledger.api_keys().any() && mark.exists());
}

#[test]
fn keys_are_what_their_records_say_also_after_a_restart() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    assert!(!bed.ledger.api_keys().any());
    let by = Changer::local();
    let create = |role| bed.ledger.key_create(&new("acme", role), &by, bed.now()).unwrap();
    let (reader, writer, admin) = (create(Role::Reader), create(Role::Writer), create(Role::Admin));
    let rotated = bed
        .ledger
        .key_rotate(Some("acme"), &writer.key.key_id, &by, bed.later(1))
        .unwrap();
    bed.ledger
        .key_revoke(Some("acme"), &admin.key.key_id, &by, bed.later(1))
        .unwrap();
    let lets_in = |given: &ledger::GivenKey| bed.ledger.api_keys().lets_in(&given.key, bed.now());
    assert_eq!(
        [&reader, &writer, &rotated, &admin].map(lets_in),
        [true, false, true, false]
    );
    let judge = |bed: &TestLedger| {
        [&reader.text, &writer.text, &rotated.text, &admin.text].map(|text| reason(bed, text))
    };
    let expected = ["let in", "wrong_secret", "let in", "revoked"];
    assert_eq!(judge(&bed), expected);
    let before = bed.ledger.api_keys().list(None);
    let bed = bed.reopen();
    assert_eq!(judge(&bed), expected);
    assert_eq!(bed.ledger.api_keys().list(None), before);
    assert!(bed.ledger.api_keys().any());
    let read = ledger::read_keys(bed.ledger.store()).unwrap();
    assert_eq!(read.list(Some("acme")), before);
    bed.check();
}

#[test]
fn a_key_is_nowhere_but_with_whom_it_was_given_to() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let given = bed
        .ledger
        .key_create(&new("acme", Role::Admin), &Changer::local(), bed.now())
        .unwrap();
    let secret = given.text.rsplit('_').next().unwrap().to_owned();
    assert!(secret.len() >= 52, "256 bits and more");
    assert!(!format!("{given:?}").contains(&secret));
    for entry in std::fs::read_dir(bed.path()).unwrap() {
        let path = entry.unwrap().path();
        // What is called `.new` is about to be renamed into its place by who signs, and may be gone.
        let is_new = path.extension().is_some_and(|end| end == "new");
        if !is_new && path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let found = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!found, "{}", path.display());
        }
    }
}

#[test]
fn what_is_no_key_of_ours_is_refused() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let given = bed
        .ledger
        .key_create(
            &NewKey {
                expires_at: bed.now().checked_add_micros(10_000_000),
                ..new("acme", Role::Reader)
            },
            &Changer::local(),
            bed.now(),
        )
        .unwrap();
    let id = &given.key.key_id;
    assert_eq!(reason(&bed, "dpn_nobody_secret"), "unknown");
    assert_eq!(
        reason(&bed, &format!("dpn_{id}_{}", "a".repeat(52))),
        "wrong_secret"
    );
    assert_eq!(reason(&bed, &given.text[..given.text.len() - 1]), "wrong_secret");
    assert_eq!(reason(&bed, "password"), "malformed");
    let keys = bed.ledger.api_keys();
    assert!(keys.check(&given.text, bed.later(0)).is_ok());
    let at = given.key.expires_at.unwrap();
    assert_eq!(keys.check(&given.text, at).unwrap_err().reason, "expired");
}

#[test]
fn a_key_of_another_tenant_is_as_absent_as_none() {
    let bed = TestLedger::new();
    bed.tenant("a");
    bed.tenant("b");
    let by = Changer::local();
    let given = bed
        .ledger
        .key_create(&new("a", Role::Admin), &by, bed.now())
        .unwrap();
    for id in [&*given.key.key_id, "nosuchkey"] {
        assert!(matches!(
            bed.ledger.key_revoke(Some("b"), id, &by, bed.now()),
            Err(KeyError::KeyUnknown(_))
        ));
        assert!(matches!(
            bed.ledger.key_rotate(Some("b"), id, &by, bed.now()),
            Err(KeyError::KeyUnknown(_))
        ));
    }
    assert_eq!(reason(&bed, &given.text), "let in");
}

#[test]
fn rules_of_keys_are_kept() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let by = Changer::local();
    let create = |new: &NewKey| bed.ledger.key_create(new, &by, bed.now());
    assert!(matches!(
        create(&new("nobody", Role::Reader)),
        Err(KeyError::TenantUnknown(_))
    ));
    for bad in [
        new("acme", Role::Operator),
        new(INSTANCE, Role::Admin),
        NewKey {
            name: Some("a\nb".into()),
            ..new("acme", Role::Reader)
        },
        NewKey {
            name: Some(" ".into()),
            ..new("acme", Role::Reader)
        },
        NewKey {
            expires_at: Some(bed.now()),
            ..new("acme", Role::Reader)
        },
    ] {
        assert!(matches!(create(&bad), Err(KeyError::Invalid(..))), "{bad:?}");
    }
    let operator = create(&new(INSTANCE, Role::Operator)).unwrap();
    let id = &operator.key.key_id;
    bed.ledger.key_revoke(None, id, &by, bed.now()).unwrap();
    let size = bed.size(&bed.ledger.tenant(INSTANCE).unwrap());
    bed.ledger.key_revoke(None, id, &by, bed.now()).unwrap();
    assert_eq!(
        bed.size(&bed.ledger.tenant(INSTANCE).unwrap()),
        size,
        "revoked again: nothing happens"
    );
    assert!(matches!(
        bed.ledger.key_rotate(None, id, &by, bed.now()),
        Err(KeyError::Revoked)
    ));
}

#[test]
fn a_key_that_has_expired_is_not_rotated() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let by = Changer::local();
    let expiring = NewKey {
        expires_at: bed.now().checked_add_micros(10_000_000),
        ..new("acme", Role::Reader)
    };
    let given = bed.ledger.key_create(&expiring, &by, bed.now()).unwrap();
    let id = &given.key.key_id;
    let rotated = bed.ledger.key_rotate(None, id, &by, bed.now()).unwrap();
    let size = bed.size(&tenant);
    assert!(matches!(
        bed.ledger.key_rotate(None, id, &by, bed.later(10_000)),
        Err(KeyError::Expired)
    ));
    assert_eq!(bed.size(&tenant), size, "nothing is written");
    let at = rotated.key.rotated_at.unwrap();
    let keys = bed.ledger.api_keys();
    assert!(keys.check(&rotated.text, at).is_ok(), "the key is as it was");
    // One that was revoked since is said to be revoked.
    bed.ledger.key_revoke(None, id, &by, bed.now()).unwrap();
    assert!(matches!(
        bed.ledger.key_rotate(None, id, &by, bed.now()),
        Err(KeyError::Revoked)
    ));
    bed.check();
}

#[test]
fn a_tenant_has_so_many_live_keys_and_no_more() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let by = Changer::local();
    let create = || bed.ledger.key_create(&new("acme", Role::Reader), &by, bed.now());
    let first = create().unwrap();
    for _ in 1..KEYS_LIVE_MAX {
        create().unwrap();
    }
    assert!(matches!(create(), Err(KeyError::TooMany)));
    bed.ledger
        .key_revoke(None, &first.key.key_id, &by, bed.now())
        .unwrap();
    create().unwrap();
}

#[test]
fn a_key_whose_record_is_not_durable_lets_nobody_in() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    bed.fault.arm(Fault::AppendRefused);
    let given = bed
        .ledger
        .key_create(&new("acme", Role::Admin), &Changer::local(), bed.now());
    assert!(given.is_err());
    assert!(!bed.ledger.api_keys().any());
}

#[test]
fn a_key_is_shut_out_also_when_nothing_can_be_written() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let by = Changer::local();
    let create = || {
        bed.ledger
            .key_create(&new("acme", Role::Admin), &by, bed.now())
            .unwrap()
    };
    let (leaked, rotated, other) = (create(), create(), create());
    bed.fault.arm(Fault::AppendUnsynced);
    let revoked = bed.ledger.key_revoke(None, &leaked.key.key_id, &by, bed.now());
    assert!(matches!(revoked, Err(KeyError::NotRecorded(_))), "{revoked:?}");
    let changed = bed.ledger.key_rotate(None, &rotated.key.key_id, &by, bed.now());
    assert!(matches!(changed, Err(KeyError::NotRecorded(_))), "{changed:?}");
    assert!(changed.unwrap_err().to_string().contains("until the next start"));
    let judge = |bed: &TestLedger| [&leaked.text, &rotated.text, &other.text].map(|text| reason(bed, text));
    assert_eq!(judge(&bed), ["revoked", "revoked", "let in"]);
    // Said as it is on record: asked again, it is tried again.
    assert_eq!(
        bed.ledger.api_keys().find(&leaked.key.key_id).unwrap().revoked_at,
        None
    );
    let again = bed.ledger.key_revoke(None, &leaked.key.key_id, &by, bed.now());
    assert!(matches!(again, Err(KeyError::NotRecorded(_))), "{again:?}");
}

#[test]
fn what_a_refused_rotation_leaves_is_the_key_as_it_was() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let by = Changer::local();
    let given = bed
        .ledger
        .key_create(&new("acme", Role::Admin), &by, bed.now())
        .unwrap();
    bed.ledger
        .key_rotate(None, &given.key.key_id, &by, bed.now())
        .unwrap();
    assert_eq!(reason(&bed, &given.text), "wrong_secret");
    let size = bed.size(&tenant);
    bed.ledger
        .key_revoke(None, &given.key.key_id, &by, bed.now())
        .unwrap();
    assert_eq!(bed.size(&tenant), size + 1);
    let bed = bed.reopen();
    assert_eq!(reason(&bed, &given.text), "wrong_secret");
}

#[test]
fn keys_that_are_changed_too_often_can_be_changed_again_the_next_day_and_revoked_at_once() {
    let bed = TestLedger::new();
    bed.tenant("acme");
    let by = Changer::local();
    let given = bed
        .ledger
        .key_create(&new("acme", Role::Reader), &by, bed.now())
        .unwrap();
    let id = given.key.key_id.clone();
    for _ in 1..KEY_CHANGES_A_DAY_MAX {
        bed.ledger.key_rotate(None, &id, &by, bed.now()).unwrap();
    }
    let judge = |bed: &TestLedger| {
        let refused = bed.ledger.key_rotate(None, &id, &by, bed.now());
        assert!(
            matches!(refused, Err(KeyError::TooOften { wait_micros }) if wait_micros > 0),
            "{refused:?}"
        );
        let refused = bed.ledger.key_create(&new("acme", Role::Reader), &by, bed.now());
        assert!(matches!(refused, Err(KeyError::TooOften { .. })), "{refused:?}");
    };
    judge(&bed);
    let bed = bed.reopen();
    judge(&bed);
    bed.ledger
        .key_rotate(None, &id, &by, bed.later(25 * 3_600_000))
        .unwrap();
    bed.ledger.key_revoke(None, &id, &by, bed.now()).unwrap();
}

#[test]
fn a_tenants_rules_of_redaction_keep_none_of_its_keys_from_being_revoked() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("acme");
    let by = Changer::local();
    let given = bed
        .ledger
        .key_create(&new("acme", Role::Admin), &by, bed.now())
        .unwrap();
    let settings = RedactionSettings {
        fields: ["event_type", "role", "principal", "count", "key_hash"]
            .map(String::from)
            .into(),
        patterns: vec![TenantPattern {
            name: "any".into(),
            pattern: "[a-z_.]+".into(),
        }],
        off: Vec::new(),
    };
    bed.ledger
        .redaction_change(&tenant, &settings, &by, bed.now())
        .unwrap();
    bed.ledger
        .key_revoke(None, &given.key.key_id, &by, bed.now())
        .unwrap();
    assert_eq!(reason(&bed, &given.text), "revoked");
    // A pattern that finds itself in the settings can be taken back.
    bed.ledger
        .redaction_change(&tenant, &settings, &by, bed.now())
        .unwrap();
    bed.ledger
        .redaction_change(&tenant, &RedactionSettings::default(), &by, bed.now())
        .unwrap();
    let bed = bed.reopen();
    assert_eq!(reason(&bed, &given.text), "revoked");
    assert_eq!(
        bed.ledger.redaction(&bed.tenant("acme")).unwrap(),
        RedactionSettings::default()
    );
    bed.check();
}
