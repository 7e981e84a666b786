//! The same laws where the database is set back and its ledgers are recovered.

use proptest::prelude::*;

use crate::bed::copy_database;
use crate::laws_gone::{Gone, Life, gone};

#[derive(Clone, Debug)]
enum Back {
    Gone(Gone),
    /// The database is copied away.
    Copy,
    /// It is set back to the copy; what is refused then is recovered.
    Restore,
}

fn back() -> impl Strategy<Value = Back> {
    prop_oneof![
        20 => gone().prop_map(Back::Gone),
        1 => Just(Back::Copy),
        1 => Just(Back::Restore),
    ]
}

/// Recovers every ledger that is refused.
fn recovered(life: Life) -> Life {
    let bed = &life.bed;
    for name in ["_instance", "acme"] {
        let tenant = bed.ledger.tenant(name).unwrap();
        if tenant.ledger().refusal().is_some() {
            bed.ledger.recover(name, "the disk was lost", bed.now()).unwrap();
        }
    }
    life.reopened()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_that_was_set_back_and_recovered_verifies_and_rebuilds_to_itself(
        acts in prop::collection::vec(back(), 1..80)
    ) {
        let copy = tempfile::tempdir().unwrap();
        let mut life = Life::new(false).reopened_after(|folder| copy_database(folder, copy.path()));
        for act in acts {
            life = match act {
                Back::Gone(act) => life.lived(act),
                Back::Copy => life.reopened_after(|folder| copy_database(folder, copy.path())),
                Back::Restore => recovered(life.reopened_after(|folder| copy_database(copy.path(), folder))),
            };
        }
        life.judged()?;
    }
}
