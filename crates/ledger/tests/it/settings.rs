//! Settings that cannot be read: what they were set for is not done without them. And whatever a tenant's redaction is,
//! what is projected is what the records say.

use evidence::record::RunStarted;
use evidence::redact::{RedactionSettings, Redactor, TenantPattern};
use evidence::{Kind, content_mac, sha256};
use ledger::{Changer, Draft, Refusal, SealedBody, SubmitError};

use crate::bed::{TestLedger, run, run_of, salt, tamper};

/// Rules that replace what stands under this name.
fn hiding(field: &str) -> Redactor {
    let settings = RedactionSettings {
        fields: vec![field.into()],
        ..RedactionSettings::default()
    };
    Redactor::new(&settings).unwrap()
}

/// Without its redaction a tenant's secrets would be stored: it fails closed (SPEC 6.4).
#[test]
fn a_tenant_whose_redaction_cannot_be_read_is_refused_for_writing_and_no_other() {
    for damage in [
        // No packed body at all; and one that is another's: a whole body that says nothing of settings.
        "UPDATE bodies SET body = x'00' WHERE leaf = {leaf}",
        "UPDATE bodies SET body = (SELECT body FROM bodies WHERE leaf = {other}) WHERE leaf = {leaf}",
        "DELETE FROM bodies WHERE leaf = {leaf}",
    ] {
        let bed = TestLedger::new();
        let (tenant, other) = (bed.tenant("t"), bed.tenant("other"));
        let settings = RedactionSettings {
            patterns: vec![TenantPattern {
                name: "order".into(),
                pattern: "ORD-[0-9]+".into(),
            }],
            ..RedactionSettings::default()
        };
        let first = bed.one(&tenant, run("r"));
        let changed = bed
            .ledger
            .redaction_change(&tenant, &settings, &Changer::local(), bed.now())
            .unwrap();
        let ledger_no = tenant.ledger().row.ledger_no;
        let leaf = |index: u64| store::LeafKey::new(ledger_no, index).as_i64();
        let sql = damage
            .replace("{leaf}", &leaf(changed.leaf_index).to_string())
            .replace("{other}", &leaf(first.receipt.leaf_index).to_string());
        drop((tenant, other));
        let bed = bed.reopen_after(|folder| tamper(folder, &sql));
        let tenant = bed.tenant("t");
        let size = bed.size(&tenant);
        assert!(
            matches!(tenant.ledger().refusal(), Some(Refusal::Damaged(why)) if why.starts_with("redaction:")),
            "{damage}"
        );
        let refused = bed.try_submit(&tenant, vec![run("s")]);
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{damage}");
        assert_eq!(bed.size(&tenant), size, "nothing was written");
        // Nor can it be written around: settings are records too.
        let anew = bed.ledger.redaction_change(
            &tenant,
            &RedactionSettings::default(),
            &Changer::local(),
            bed.now(),
        );
        assert!(anew.is_err(), "{damage}");
        // Nor does another epoch begin without its rules.
        assert!(bed.ledger.recover("t", "a try", bed.now()).is_err(), "{damage}");
        let refused = bed.try_submit(&tenant, vec![run("s")]);
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{damage}");
        assert!(bed.one(&bed.tenant("other"), run("s")).fresh);
    }
}

#[test]
fn a_run_begins_with_what_redaction_has_left_of_its_start() {
    let bed = TestLedger::new();
    let tenant = bed.tenant("t");
    let rules = hiding("source");
    let start = RunStarted {
        source: "SDK".into(),
        ..RunStarted::default()
    };
    let redacted = || {
        let (content, salt) = (sha256(&start.encode(None)), salt());
        let body = start.encode(Some(&content_mac(&salt, &content)));
        Draft {
            body: SealedBody::seal_by(&rules, Kind::RunStarted, salt, &body).unwrap(),
            ..run_of("r", start.clone())
        }
    };
    let first = bed.one(&tenant, redacted());
    assert_eq!(bed.run_row(&tenant, "r").state.source, "<REDACTED>");
    let again = bed.one(&tenant, redacted());
    assert!(!again.fresh);
    assert_eq!(again.receipt.record_id, first.receipt.record_id);
    bed.complete(&tenant, "r");
    bed.check();
}
