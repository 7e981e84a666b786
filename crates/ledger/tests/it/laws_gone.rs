//! The same laws where bodies go: erased, archived and pruned, held, within runs that are sealed.

use std::path::Path;
use std::sync::Arc;

use evidence::canonical::Value;
use evidence::record::{HoldScope, IncidentStep, ProvenanceLog};
use evidence::{ActorType, Header};
use ledger::{Bind, Draft, EraseAsked, EraseError, IntegrityError, JobAct, Moment, StoredTree, Tenant};
use proptest::prelude::*;
use store::Fault;

use crate::audit::{act as incident_act, opened};
use crate::bed::{TestLedger, projections};
use crate::erasure::enforced;
use crate::jobs::{contract, json, new_id, retrying, under_contract};
use crate::laws::{Act, act, done, name};
use crate::retention::{DAY, report};

#[derive(Clone, Debug)]
pub enum Gone {
    Act(Act),
    /// One of the leaves, by its share of them.
    Erase {
        leaf: u16,
        only: bool,
    },
    Retain {
        days: i64,
    },
    Seal(u8),
    SealDue,
    Hold {
        hold: u8,
        run: Option<u8>,
    },
    Release(u8),
    Provenance {
        input: u8,
        run: Option<u8>,
    },
    Enforced {
        run: u8,
        index: u32,
    },
    Contract,
    /// The how manieth of its acts.
    Job {
        job: u8,
        act: u8,
    },
    Incident {
        incident: u8,
        /// 0: it is opened.
        step: u8,
    },
    Reopen,
}

pub fn gone() -> impl Strategy<Value = Gone> {
    prop_oneof![
        24 => act().prop_map(Gone::Act),
        6 => (any::<u16>(), any::<bool>()).prop_map(|(leaf, only)| Gone::Erase { leaf, only }),
        2 => prop_oneof![Just(8), Just(23), Just(60), Just(400)].prop_map(|days| Gone::Retain { days }),
        2 => (0..4_u8).prop_map(Gone::Seal),
        2 => Just(Gone::SealDue),
        1 => (0..3_u8, prop::option::of(0..4_u8)).prop_map(|(hold, run)| Gone::Hold { hold, run }),
        1 => (0..3_u8).prop_map(Gone::Release),
        2 => (0..3_u8, prop::option::of(0..4_u8)).prop_map(|(input, run)| Gone::Provenance { input, run }),
        1 => (0..4_u8, 0..3_u32).prop_map(|(run, index)| Gone::Enforced { run, index }),
        1 => Just(Gone::Contract),
        4 => (0..2_u8, 0..8_u8).prop_map(|(job, act)| Gone::Job { job, act }),
        3 => (0..2_u8, 0..4_u8).prop_map(|(incident, step)| Gone::Incident { incident, step }),
        1 => Just(Gone::Reopen),
    ]
}

/// Erases the leaf at that share of all. What is not erased has a reason that is no damage,
/// unless the store fails.
fn erase(bed: &TestLedger, tenant: &Arc<Tenant>, leaf: u16, only: bool, failing: bool) {
    let no = tenant.ledger().row.ledger_no;
    let Ok(head) = bed.ledger.store().head_read(no) else {
        assert!(failing);
        return;
    };
    let size = head.size.as_u64();
    let Some(index) = (u64::from(leaf) * size).checked_div(u64::from(u16::MAX) + 1) else {
        return;
    };
    if size == 0 {
        return;
    }
    let bytes = match StoredTree::new(bed.ledger.store(), no).leaf(index) {
        Ok(bytes) => bytes,
        Err(_) if failing => return,
        Err(error) => panic!("{error}"),
    };
    let asked = EraseAsked {
        record_id: Header::decode(&bytes).unwrap().id,
        reason: "asked for by the person".into(),
        only,
        principal: "key:dpo".into(),
    };
    match bed.ledger.erase(tenant, &asked, bed.now()) {
        Err(EraseError::Submit(_) | EraseError::Read(_)) if failing => {}
        Ok(_)
        | Err(
            EraseError::Already(_)
            | EraseError::Archived
            | EraseError::Kept(_)
            | EraseError::Held { .. }
            | EraseError::MinimumRetention { .. },
        ) => {}
        Err(error) => panic!("{error:?}"),
    }
}

fn moment(bed: &TestLedger) -> Moment {
    Moment {
        at: bed.now(),
        draw: 0.5,
        new_id,
    }
}

/// One of the acts of a job.
fn job_act(job_id: &str, act: u8) -> JobAct {
    match act {
        0 => JobAct::Create(under_contract(job_id)),
        1 => JobAct::Start,
        2 => JobAct::Step {
            step_index: 0,
            status: "COMPLETED".into(),
            output: json(r#"{"target":"search","rollback_action":"restore"}"#),
        },
        3 => JobAct::Health {
            before: json(r#"{"search":"HEALTHY"}"#),
            after: json(r#"{"search":"HEALTHY"}"#),
        },
        4 => JobAct::Complete(json(r#"{"ok":true}"#)),
        5 => JobAct::Fail("no room".into()),
        6 => JobAct::Create(retrying(job_id, r#"{"max_attempts":3}"#)),
        _ => JobAct::Step {
            step_index: 1,
            status: "FAILED".into(),
            output: json(r#"{"target":"elsewhere"}"#),
        },
    }
}

/// What a history is lived in.
pub struct Life {
    pub bed: TestLedger,
    tenant: Arc<Tenant>,
    waiting: Vec<Draft>,
    /// The store fails now and then: what is asked for may be refused.
    failing: bool,
}

impl Life {
    pub fn new(failing: bool) -> Self {
        let bed = TestLedger::new();
        let tenant = bed.tenant("acme");
        let waiting = Vec::new();
        Self {
            bed,
            tenant,
            waiting,
            failing,
        }
    }

    pub fn reopened(self) -> Self {
        self.reopened_after(|_| {})
    }

    /// Closed, the folder left to `between`, and opened again.
    pub fn reopened_after(self, between: impl FnOnce(&Path)) -> Self {
        let bed = self.bed.reopen_after(between);
        let tenant = bed.ledger.tenant("acme").unwrap();
        Self { bed, tenant, ..self }
    }

    fn opened(self, incident_id: &str) -> Self {
        let bed = &self.bed;
        drop(
            bed.ledger
                .incident_open(&self.tenant, incident_id, opened(), bed.now()),
        );
        self
    }

    fn submit(&mut self) {
        let submitted = self
            .bed
            .try_submit(&self.tenant, std::mem::take(&mut self.waiting));
        assert!(self.failing || submitted.is_ok(), "{submitted:?}");
    }

    pub fn lived(mut self, act: Gone) -> Self {
        let (bed, tenant, failing) = (&self.bed, &self.tenant, self.failing);
        let who = ("key:counsel", "case 7");
        match act {
            Gone::Act(Act::Submit) => self.submit(),
            Gone::Act(Act::Settle { millis }) => {
                let settled = bed.ledger.settle_due(bed.later(millis));
                assert!(failing || settled.is_ok(), "{settled:?}");
            }
            Gone::Act(act) => done(bed, tenant, &mut self.waiting, act),
            Gone::Erase { leaf, only } => erase(bed, tenant, leaf, only, failing),
            Gone::Retain { days } => {
                let retained = bed.ledger.retain(bed.later(days * DAY));
                assert!(failing || retained.is_ok(), "{retained:?}");
            }
            Gone::Seal(run) => {
                let by = (ActorType::System, None);
                let sealed = bed.ledger.run_seal(tenant, &name(run), by, bed.now());
                if let Err(error @ (IntegrityError::Submit(_) | IntegrityError::Read(_))) = sealed {
                    assert!(failing, "{error:?}");
                }
            }
            Gone::SealDue => drop(bed.ledger.seal_due(bed.later(61_000))),
            Gone::Hold { hold, run } => {
                let scope = run.map_or(HoldScope::Tenant, |run| HoldScope::Run(name(run)));
                drop(bed.ledger.hold_place(tenant, &name(hold), scope, who, bed.now()));
            }
            Gone::Release(hold) => drop(bed.ledger.hold_release(tenant, &name(hold), who, bed.now())),
            Gone::Provenance { input, run } => {
                let log = ProvenanceLog::new(Value::Int(i64::from(input)), Value::Null);
                let run = run.map(name);
                drop(
                    bed.ledger
                        .provenance_log(tenant, log, run.as_deref(), bed.now(), bed.now()),
                );
            }
            Gone::Enforced { run, index } => self.waiting.push(Draft {
                bind: Bind::Run(name(run).into()),
                ..enforced(index, "{\"a\":1}")
            }),
            Gone::Contract => drop(bed.ledger.contract_record(tenant, &contract("c1"), &moment(bed))),
            Gone::Job { job, act } => {
                let job_id = name(job);
                drop(
                    bed.ledger
                        .job_act(tenant, &job_id, &job_act(&job_id, act), &moment(bed)),
                );
            }
            Gone::Incident { incident, step } => {
                let (id, at) = (name(incident), bed.now());
                let step = match step {
                    0 => return self.opened(&id),
                    1 => IncidentStep::Acknowledged,
                    2 => IncidentStep::Resolved,
                    _ => IncidentStep::Closed,
                };
                drop(bed.ledger.incident_act(tenant, &id, step, &incident_act(), at));
            }
            Gone::Reopen => return self.reopened(),
        }
        self
    }

    /// The auditor finds nothing, with the archives and without, and rebuilding changes nothing.
    pub fn judged(mut self) -> Result<(), TestCaseError> {
        self.submit();
        if self.failing {
            self = self.reopened();
        }
        let bed = &self.bed;
        prop_assert_eq!(bed.ledger.stopped(), None);
        for with_archive in [false, true] {
            let report = report(bed, with_archive);
            prop_assert!(report.findings.is_empty(), "{:#?}", report.findings);
            prop_assert!(report.undecided.is_empty(), "{:?}", report.undecided);
            prop_assert_eq!(report.exit_code(None), 0);
        }
        let before = projections(bed.path());
        bed.ledger.rebuild().unwrap();
        prop_assert_eq!(projections(bed.path()), before);
        Ok(())
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::AppendRefused),
        Just(Fault::AppendLost),
        Just(Fault::AppendUnacknowledged),
        Just(Fault::AppendUnsynced),
        Just(Fault::HeadMoved),
        Just(Fault::CheckpointLost),
        Just(Fault::CheckpointUnacknowledged),
        Just(Fault::Read),
        Just(Fault::HeadRead),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_history_in_which_bodies_go_verifies_and_rebuilds_to_itself(acts in prop::collection::vec(gone(), 1..80)) {
        let mut life = Life::new(false);
        for act in acts {
            life = life.lived(act);
        }
        life.judged()?;
    }

    #[test]
    fn so_does_one_whose_store_fails_now_and_then(
        acts in prop::collection::vec((gone(), prop::option::weighted(0.1, fault())), 1..80)
    ) {
        let mut life = Life::new(true);
        for (act, fault) in acts {
            if life.bed.ledger.stopped().is_some() {
                life = life.reopened();
            }
            if let Some(fault) = fault {
                life.bed.fault.arm(fault);
            }
            life = life.lived(act);
        }
        life.judged()?;
    }
}
