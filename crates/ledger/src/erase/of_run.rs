//! What goes with a body, and what is left: one pass over the records of its run.

use evidence::record::{ERASED_RECORDS_MAX, Facts};
use evidence::{Header, Identity, Kind, RunState};
use store::{BodyRow, LeafKey, RunKey, RunRecordRow, RunRow, Store};

use super::hashes::Hashes;
use super::{ELSEWHERE_MAX, EraseError, Plan, Remains, doom};
use crate::run_at::adds_up;
use crate::verify::{Erasures, Gone};
use crate::{Ledger, RecordError};

/// Rows of a run read at once.
const ROWS_READ: u32 = 10_000;

/// Leaves of a run read at once; they are at most 64 KiB each. Bodies may be 16 MiB: of them one is held.
const LEAVES_READ: usize = 256;

/// Records of a run that stay though they hold a hash of what is erased, and that an answer names. With `only` as many
/// as a run has: a thousand are 150 KB, of more it is said that there are.
const LEFT_MAX: usize = 1_000;

/// Goes once through the records of a run: finds those that hold a hash of what is erased, and adds the run up
/// without both.
pub(super) fn with_run(
    ledger: &Ledger,
    plan: &mut Plan,
    run: RunRow,
    only: bool,
    header: &Header<'_>,
    hashes: &Hashes,
) -> Result<(), EraseError> {
    let store = ledger.store();
    let asked_leaf = plan.doomed[0].row.leaf;
    let step_index = plan.doomed[0]
        .kept
        .step_index
        .filter(|_| header.kind == Kind::TraceStep);
    let gone = Erasures::unread(store, run.key.tenant_no())?;
    let mut state: Option<RunState> = None;
    let mut ended = false;
    let mut late = false;
    let mut more_left = false;
    let mut read = 0;
    each_row(store, run.key, |row, leaf, stored| {
        let header_there = crate::records::decode(row.leaf, leaf)?;
        let mut there = Vec::new();
        let there = match stored {
            Some(stored) => {
                crate::body::open(&header_there, stored, &mut there)?;
                read += there.len();
                Some(there.as_slice())
            }
            None => None,
        };
        let is_end = matches!(row.kind, Kind::TraceCompleted | Kind::TraceAborted);
        if row.leaf == asked_leaf {
            late = ended;
            plan.doomed[0].row.run_record = kept_row(row, plan.doomed[0].kept.identity);
        } else if let Some(there) = there {
            let why = match row.kind {
                // The root hash covers the steps before it, and the plan.
                Kind::TraceCompleted | Kind::TraceAborted => {
                    let covers = matches!(header.kind, Kind::TraceStep | Kind::RunStarted) && !late;
                    covers.then_some(
                        "its root hash and plan hash are unsalted hashes of what was erased, among others",
                    )
                }
                Kind::EvidenceActivity => hashes
                    .in_activity(there, step_index)
                    .then_some("its fingerprints are unsalted hashes of the texts of this step"),
                Kind::ProvenanceLog => hashes
                    .in_provenance(there)
                    .then_some("it holds what was erased, or an unsalted hash of it"),
                Kind::ReplayEnforced => hashes.in_enforcement(there, step_index).then_some(
                    "it holds what came out of the step, or an unsalted hash of that or of its input",
                ),
                _ => None,
            };
            match why {
                Some(what) if only && plan.remains.len() < LEFT_MAX => plan.remains.push(Remains {
                    record: Some((header_there.id, row.kind)),
                    what,
                }),
                Some(_) if only => more_left = true,
                // Nobody gathers what is refused in the end.
                Some(_) if plan.doomed.len() > ERASED_RECORDS_MAX => {}
                Some(_) => {
                    let mut doomed = doom(row.leaf, &header_there, there)?;
                    doomed.row.run_record = kept_row(row, doomed.kept.identity);
                    plan.doomed.push(doomed);
                }
                None if row.kind == Kind::TraceStep
                    && plan.remains.len() < ELSEWHERE_MAX
                    && hashes.in_step(there) =>
                {
                    plan.remains.push(Remains {
                        record: Some((header_there.id, row.kind)),
                        what: "another step that took in or gave out the same, or holds a hash of it",
                    });
                }
                None if row.kind == Kind::RunCompleted && header.kind == Kind::TraceStep => {
                    plan.remains.push(Remains {
                        record: Some((header_there.id, row.kind)),
                        what: "totals that its sender declared for the whole run",
                    });
                }
                None if row.kind == Kind::EvidenceIntegrity => plan.remains.push(Remains {
                    record: Some((header_there.id, row.kind)),
                    what: "the seal: which classes of evidence the run had, how many records, and its grade",
                }),
                None => {}
            }
        }
        ended |= is_end;
        let goes = [plan.doomed.first(), plan.doomed.last()]
            .into_iter()
            .flatten()
            .find(|doomed| doomed.row.leaf == row.leaf);
        let facts = match (goes, there) {
            (Some(doomed), _) => Facts::erased(&header_there, &doomed.kept),
            (None, Some(there)) if adds_up(row.kind) => {
                Facts::read(&header_there, there).map_err(|error| RecordError::Body {
                    leaf: row.leaf.leaf_index(),
                    reason: error.to_string(),
                })?
            }
            (None, Some(_)) => Facts::Other,
            (None, None) => match gone.find(row.leaf)? {
                Some(Gone::Erased(kept)) => Facts::erased(&header_there, &kept),
                _ => return Err(EraseError::Archived),
            },
        };
        match (&mut state, &facts) {
            (None, Facts::RunStarted(started)) => {
                state = Some(RunState::start(started, header_there.recorded_at));
            }
            (None, _) => {}
            (Some(state), facts) => {
                let correlation_id = header_there.correlation_id.as_deref();
                state.apply(facts, correlation_id, header_there.recorded_at);
            }
        }
        Ok(())
    })?;
    if more_left {
        plan.remains.push(Remains {
            record: None,
            what: "more records of the run that hold what was erased, or an unsalted hash of it, than are named here",
        });
    }
    if let Some(state) = state {
        let refolded = RunRow { state, ..run.clone() };
        plan.read = read;
        plan.run = Some((run, refolded));
    }
    Ok(())
}

/// The row of an erased record, when something of it changes.
fn kept_row(row: &RunRecordRow, identity: Option<Identity>) -> Option<RunRecordRow> {
    (row.identity != identity).then_some(RunRecordRow { identity, ..*row })
}

/// Shows every row of a run with its leaf and what is stored of its body.
fn each_row(
    store: &dyn Store,
    run: RunKey,
    mut each: impl FnMut(&RunRecordRow, &[u8], Option<&BodyRow>) -> Result<(), EraseError>,
) -> Result<(), EraseError> {
    let mut from = 0;
    loop {
        let rows = store.run_records(run, from, ROWS_READ)?;
        let Some(last) = rows.last() else { return Ok(()) };
        from = last.run_seq + 1;
        let whole = rows.len() < ROWS_READ as usize;
        for chunk in rows.chunks(LEAVES_READ) {
            let leaves: Vec<LeafKey> = chunk.iter().map(|row| row.leaf).collect();
            let headers = crate::records::headers(store, &leaves)?;
            for (row, leaf) in chunk.iter().zip(&headers) {
                let body = store.bodies_get(&[row.leaf])?.pop();
                each(row, leaf, body.as_ref())?;
            }
        }
        if whole {
            return Ok(());
        }
    }
}
