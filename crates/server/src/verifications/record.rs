//! What goes on record of verification, in the ledger it is about: that there are findings, and that there are none
//! any more. Nothing else does: idle ledgers stay idle.
//!
//! It is read again at the start, since nobody has signed `state.db` ([`Verifier::hold_to_record`]).

use std::sync::Arc;

use evidence::Timestamp;
use evidence::record::{VERIFICATION_FAILED as FAILED, VERIFICATION_PASSED as PASSED};
use ledger::{OnRecord, Record, Tenant, Verifier};
use serde::Deserialize;

use crate::system::{Event, Word};
use crate::{ApiError, App};

impl App {
    /// What is on record of the verification of the ledger that is written to. Blocks.
    pub(super) fn on_record(&self, tenant: &Arc<Tenant>) -> OnRecord {
        self.on_record_read(tenant).unwrap_or_else(|error| {
            tracing::warn!(
                tenant_id = &*tenant.tenant_id,
                error = error.message,
                "what is on record of verification cannot be read: everything is verified anew"
            );
            OnRecord::Unknown
        })
    }

    fn on_record_read(&self, tenant: &Arc<Tenant>) -> Result<OnRecord, ApiError> {
        #[derive(Deserialize)]
        struct Body {
            details: Details,
        }
        #[derive(Deserialize)]
        struct Details {
            findings: u64,
        }
        let ledger_no = tenant.ledger().row.ledger_no;
        let newest = |event_type| {
            // What was found in an epoch that has ended says nothing of the one after it.
            let of_epoch = |record: &Record| record.leaf.ledger_no() == ledger_no;
            self.newest_own(tenant, event_type)
                .map(|found| found.filter(of_epoch))
        };
        let Some(failed) = newest(FAILED)? else {
            return Ok(OnRecord::Clean);
        };
        if newest(PASSED)?.is_some_and(|passed| passed.leaf > failed.leaf) {
            return Ok(OnRecord::Clean);
        }
        // A body that is archived does not say how many they were.
        let body = failed.body.bytes();
        let body = body.and_then(|body| serde_json::from_slice::<Body>(body).ok());
        Ok(OnRecord::Findings {
            count: body.map_or(1, |body| body.details.findings),
            found_at: failed.header()?.occurred_at,
        })
    }

    /// What is wrong with a ledger goes into it, where its tenant reads it, and that nothing is any more; says whether it
    /// stands there. A ledger that takes no more records is told of in the log only, with each pass.
    pub(super) fn record_verification(
        &self,
        verifier: &Verifier,
        tenant: &Arc<Tenant>,
        count: u64,
        (since, at): (Timestamp, Timestamp),
    ) -> bool {
        // A crash may have come between the record and the mark.
        let stands = match self.on_record(tenant) {
            OnRecord::Findings { found_at, .. } => count > 0 && found_at == since,
            OnRecord::Clean => count == 0,
            OnRecord::Unknown => false,
        };
        if stands {
            return true;
        }
        let origin = tenant.ledger().row.origin.clone();
        let event = if count == 0 {
            Event {
                name: PASSED,
                severity: "INFO",
                summary: "verification has no findings any more".into(),
                details: vec![("origin", Word::Text(origin))],
            }
        } else {
            let findings = verifier.findings(&origin);
            let first = findings.first().map(ToString::to_string).unwrap_or_default();
            Event {
                name: FAILED,
                severity: "CRITICAL",
                summary: format!("verification has {count} findings"),
                details: vec![
                    ("findings", Word::Number(count)),
                    ("first_finding", Word::Text(first)),
                    ("origin", Word::Text(origin)),
                ],
            }
        };
        match self.try_record_of(tenant, &event, since, at) {
            Ok(()) => true,
            Err(error) => {
                let (name, summary) = (event.name, &event.summary);
                tracing::warn!(name, summary, error, "a system record could not be written");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use evidence::facet::facet;
    use ledger::{EraseAsked, EraseError, Ledger, Options};

    use super::*;

    /// What is projected of a record says another severity than the record.
    const TAMPER: &str =
        "UPDATE facets SET facet = 'system.severity=WARN' WHERE facet = 'system.severity=INFO'";

    /// As it was.
    const MEND: &str =
        "UPDATE facets SET facet = 'system.severity=INFO' WHERE facet = 'system.severity=WARN'";

    fn clock() -> Timestamp {
        Timestamp::parse("2026-11-21T10:00:00Z").unwrap()
    }

    fn event(name: &'static str, severity: &'static str) -> Event {
        Event {
            name,
            severity,
            summary: "something happened".into(),
            details: Vec::new(),
        }
    }

    fn execute(database: &Path, statement: &str) {
        let connection = rusqlite::Connection::open(database).unwrap();
        let changed = connection.execute(statement, []).unwrap();
        assert!(changed > 0, "{statement}");
    }

    struct Bed {
        app: App,
        tenant: Arc<Tenant>,
        database: PathBuf,
        state: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Bed {
        /// With a record that can be tampered with.
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let options = Options::new(folder.path());
            let app = App::new(Ledger::open(options.clone(), clock()).unwrap(), clock);
            let tenant = app.ledger.tenant_create("default", clock()).unwrap();
            app.record(&tenant, &event("LOG", "INFO"), clock());
            Self {
                app,
                tenant,
                database: options.database(),
                state: folder.path().join("state.db"),
                _folder: folder,
            }
        }

        /// Records of that event type.
        fn recorded(&self, event_type: &str) -> u64 {
            let query = store::FacetQuery {
                facets: vec![facet("system.event_type", event_type)],
                ..store::FacetQuery::default()
            };
            let store = self.app.ledger.store();
            store.facet_count(self.tenant.tenant_no, &query, 0).unwrap().0
        }

        /// Verifies everything, and says so.
        fn verify(&self) {
            let verifier = self.app.verifier().unwrap();
            verifier.scrub(clock());
            self.app.publish_verification(&verifier, clock());
        }

        /// What the next process says before it has verified anything: findings, and whether a scrub is due.
        fn restarted(&self) -> (u64, bool) {
            *self.app.verifications.verifier.lock().unwrap() = None;
            let verifier = self.app.verifier().unwrap();
            self.app.publish_verification(&verifier, clock());
            let known = self.app.verification_of(&self.tenant.ledger()).unwrap();
            assert_eq!(known.damaged.is_some(), known.findings > 0);
            (known.findings, verifier.scrub_due(clock()))
        }

        /// Callers write records under that event type, as the server's component.
        fn write_as_caller(&self, event_type: &'static str, records: usize) {
            let mut salts = self.tenant.built_in_salts();
            let drafts = (0..records).map(|_| {
                let mut draft = event(event_type, "ERROR").draft(clock(), &mut salts).unwrap();
                draft.source_component = "caller";
                draft
            });
            let drafts = drafts.collect();
            let outcomes = self
                .app
                .ledger
                .submit_blocking(&self.tenant, drafts, clock(), false);
            assert!(outcomes.unwrap().iter().all(Result::is_ok));
        }
    }

    #[test]
    fn what_is_found_is_on_record_once_on_whichever_side_of_the_record_the_server_died() {
        let bed = Bed::new();
        let row = bed.tenant.ledger().row.clone();
        execute(&bed.database, TAMPER);
        // Found, and the server dies before it is on record.
        Verifier::open(&bed.app.ledger).unwrap().scrub(clock());
        assert_eq!(bed.recorded(FAILED), 0);
        // On record, and the server dies before it is kept that it is.
        let verifier = Verifier::open(&bed.app.ledger).unwrap();
        let mut told = None;
        verifier.record_found(&row, clock(), |count, found_at| {
            assert!(
                bed.app
                    .record_verification(&verifier, &bed.tenant, count, (found_at, clock()))
            );
            told = Some(found_at);
            false
        });
        assert_eq!((bed.recorded(FAILED), told), (1, Some(clock())));
        for _ in 0..2 {
            let verifier = Verifier::open(&bed.app.ledger).unwrap();
            bed.app.publish_verification(&verifier, clock());
            assert_eq!(bed.recorded(FAILED), 1);
        }
        let verifier = Verifier::open(&bed.app.ledger).unwrap();
        verifier.record_found(&row, clock(), |_, _| {
            unreachable!("it is kept that it is on record")
        });
    }

    #[test]
    fn findings_on_record_are_told_whatever_becomes_of_state_db_until_a_verification_finds_none() {
        let bed = Bed::new();
        execute(&bed.database, TAMPER);
        bed.verify();
        let (findings, due) = bed.restarted();
        assert!(findings > 0 && !due);
        // Anybody may write these words; what the server wrote is known by its header.
        bed.write_as_caller(PASSED, 1);
        for statement in [
            "UPDATE verification SET findings = 0",
            "UPDATE verification SET findings = 0, found_at = NULL, recorded = 0",
            "DELETE FROM verification",
        ] {
            execute(&bed.state, statement);
            assert_eq!(bed.restarted(), (findings, true), "{statement}");
        }
        assert_eq!((bed.recorded(FAILED), bed.recorded(PASSED)), (1, 1));

        execute(&bed.database, MEND);
        bed.verify();
        assert_eq!(bed.restarted(), (0, false));
        assert_eq!((bed.recorded(FAILED), bed.recorded(PASSED)), (1, 2));
        // It is on record already, so it is not recorded for the second time.
        execute(&bed.state, "UPDATE verification SET recorded = 1");
        assert_eq!(bed.restarted(), (0, false));
        assert_eq!(bed.recorded(PASSED), 2);
    }

    #[test]
    fn a_ledger_in_which_the_first_pass_found_something_is_damaged_and_not_waited_for() {
        let bed = Bed::new();
        let connection = rusqlite::Connection::open(&bed.database).unwrap();
        let alter = "DROP TRIGGER bodies_no_update; UPDATE bodies SET salt = zeroblob(32)";
        connection.execute_batch(alter).unwrap();
        let verifier = bed.app.verifier().unwrap();
        verifier.incremental(clock());
        bed.app.publish_verification(&verifier, clock());
        let known = bed.app.verification_of(&bed.tenant.ledger()).unwrap();
        assert!(known.damaged.is_some() && !known.pending, "{known:?}");
        assert_eq!((known.verified_at, known.verified_size), (None, 0));
    }

    #[test]
    fn findings_of_which_state_db_alone_says_that_they_are_on_record_are_put_there() {
        let bed = Bed::new();
        bed.verify();
        let found = "UPDATE verification SET findings = 7, recorded = 1, found_at = verified_at";
        execute(&bed.state, found);
        assert_eq!(bed.restarted(), (7, true));
        assert_eq!(bed.recorded(FAILED), 1);
        // A scrub clears them; and others come.
        bed.verify();
        assert_eq!((bed.restarted(), bed.recorded(PASSED)), ((0, false), 1));
        execute(&bed.state, found);
        assert_eq!((bed.restarted(), bed.recorded(FAILED)), ((7, true), 2));
    }

    #[test]
    fn what_verification_found_is_not_erased_and_what_callers_say_in_its_words_is() {
        let bed = Bed::new();
        bed.verify();
        execute(
            &bed.state,
            "UPDATE verification SET findings = 7, recorded = 1, found_at = verified_at",
        );
        assert_eq!((bed.restarted(), bed.recorded(FAILED)), ((7, true), 1));
        let newest = || {
            let records = bed.app.ledger.records(&bed.tenant);
            records
                .newest(facet("system.event_type", FAILED), None)
                .unwrap()
                .unwrap()
        };
        let erase = |record: &Record| {
            let asked = EraseAsked {
                record_id: record.header().unwrap().id,
                reason: "nobody need know".into(),
                only: false,
                principal: "ada".into(),
            };
            bed.app.ledger.erase(&bed.tenant, &asked, clock())
        };
        let kept = erase(&newest());
        assert!(matches!(kept, Err(EraseError::Kept("system.record"))), "{kept:?}");
        bed.write_as_caller(FAILED, 1);
        assert!(erase(&newest()).is_ok());
        assert_eq!((bed.restarted().0, bed.recorded(FAILED)), (7, 1));
    }

    #[test]
    fn where_callers_have_hidden_what_is_on_record_nothing_is_verified_until_it_is_done_anew() {
        let bed = Bed::new();
        bed.verify();
        execute(&bed.database, TAMPER);
        bed.verify();
        bed.write_as_caller(FAILED, 1_001);
        execute(&bed.state, "UPDATE verification SET findings = 0");
        assert_eq!(bed.restarted(), (0, true));
        let known = bed.app.verification_of(&bed.tenant.ledger()).unwrap();
        assert_eq!(known.last_full_scrub_at, None);
        bed.verify();
        assert!(bed.restarted().0 > 0);
    }
}
