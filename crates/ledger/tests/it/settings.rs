//! Settings that cannot be read: what they were set for is not done without them.

use evidence::redact::{RedactionSettings, TenantPattern};
use ledger::{Changer, Refusal, SubmitError};

use crate::bed::{TestLedger, run, tamper};

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
