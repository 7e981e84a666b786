//! Checkpoints: the mark first, then the signature, so that none is ever ahead of the mark.
//!
//! Start at [`Sequencer::sign_due`].

use std::time::Instant;

use store::{CheckpointRow, Store, StoreError};
use tlog::Checkpoint;

use super::{CHECKPOINT_DELAY, Sequencer, Writer};
use crate::high_water::Mark;
use crate::tenant::Refusal;

impl Sequencer {
    /// Signs what is due: mark first, then the signature, so that no signature is ever ahead of the mark.
    pub(super) fn sign_due(&mut self, now: Instant) {
        if self.inner.stopped().is_some() {
            self.writers.values_mut().for_each(|writer| writer.due = None);
            return;
        }
        let mut signing = Vec::new();
        for writer in self.writers.values_mut() {
            if writer.due.is_none_or(|due| due > now) {
                continue;
            }
            writer.due = None;
            if writer.ledger.refusal().is_some() {
                continue;
            }
            let mark = self.high_water.get(&writer.ledger.row.origin);
            match unsafe_to_sign(self.inner.store.as_ref(), writer, mark) {
                Ok(None) => signing.push(writer),
                Ok(Some(refusal)) => {
                    tracing::error!(origin = writer.ledger.row.origin, %refusal, "refusing to sign");
                    writer.ledger.refuse(refusal);
                }
                Err(error) => {
                    tracing::error!(origin = writer.ledger.row.origin, %error, "cannot read the head before signing");
                    writer.due = Some(now + CHECKPOINT_DELAY);
                }
            }
        }
        if signing.is_empty() {
            return;
        }
        let marks: Vec<(String, Mark)> = signing
            .iter()
            .map(|w| {
                (
                    w.ledger.row.origin.clone(),
                    Mark {
                        size: w.head.size,
                        root: w.head.root,
                    },
                )
            })
            .collect();
        // Crash before: nothing signed. Crash after: the mark is ahead of the last signature, and the
        // database holds that much; the next start signs it.
        if let Err(error) = self.high_water.raise(&marks) {
            tracing::error!(%error, "cannot write the high-water file: nothing is written any more until a restart");
            self.inner
                .stop(format!("the high-water file cannot be written: {error}"));
            return;
        }
        let mut signed = Vec::with_capacity(signing.len());
        for writer in &signing {
            let row = &writer.ledger.row;
            let checkpoint = match Checkpoint::new(&row.origin, writer.head.size, writer.head.root) {
                Ok(checkpoint) => checkpoint,
                Err(error) => {
                    tracing::error!(%error, "an origin that no checkpoint can have");
                    continue;
                }
            };
            let note = checkpoint.sign(&writer.signer);
            // Ed25519 is deterministic: signing the same head again gives the same note, so a crash here
            // re-publishes and never replaces.
            let size = writer.head.size;
            signed.push((row.ledger_no, CheckpointRow { size, note }));
        }
        let store = self.inner.store.as_ref();
        let kept = match store.checkpoints_append(&signed) {
            Ok(()) => Ok(signed.len()),
            // One of them would be a fork: the others are not to suffer for it.
            Err(StoreError::Refused(_)) => keep_but_forks(store, &signing, &signed),
            Err(error) => Err(error),
        };
        match kept {
            Ok(kept) => (0..kept).for_each(|_| self.inner.counters.signed()),
            Err(error) => {
                tracing::error!(%error, "cannot keep checkpoints: nothing is written any more until a restart");
                self.inner.stop(format!("checkpoints cannot be kept: {error}"));
            }
        }
    }

    /// Signs now whatever is not covered yet, and says which size the ledger's newest checkpoint has.
    pub(crate) fn sign_now(&mut self, ledger_no: u32) {
        let now = Instant::now();
        if let Some(writer) = self.writers.get_mut(&ledger_no)
            && writer.due.is_some()
        {
            writer.due = Some(now);
            self.sign_due(now);
        }
    }
}

/// Keeps them one by one, and refuses the ledgers of which another checkpoint of that size is there; says how many are
/// kept.
fn keep_but_forks(
    store: &dyn Store,
    signing: &[&mut Writer],
    signed: &[(u32, CheckpointRow)],
) -> Result<usize, StoreError> {
    let mut kept = 0;
    for one in signed {
        let Err(error) = store.checkpoints_append(std::slice::from_ref(one)) else {
            kept += 1;
            continue;
        };
        let (ledger_no, ours) = one;
        let there = store.checkpoints_read(*ledger_no, ours.size, 1)?;
        let is_fork = there
            .first()
            .is_some_and(|there| there.size == ours.size && there.note != ours.note);
        let writer = signing
            .iter()
            .find(|writer| writer.ledger.row.ledger_no == *ledger_no);
        let Some(writer) = writer.filter(|_| is_fork) else {
            return Err(error);
        };
        let refusal = Refusal::RolledBack(format!(
            "another checkpoint of {} leaves is there",
            ours.size.as_u64()
        ));
        tracing::error!(origin = writer.ledger.row.origin, %refusal, "refusing to sign");
        writer.ledger.refuse(refusal);
    }
    Ok(kept)
}

/// Whether the stored ledger is what this writer believes and not behind the mark.
fn unsafe_to_sign(
    store: &dyn Store,
    writer: &Writer,
    mark: Option<Mark>,
) -> Result<Option<Refusal>, StoreError> {
    let head = store.head_read(writer.ledger.row.ledger_no)?;
    if head != writer.head {
        let detail = format!(
            "the stored head has {} leaves, {} were committed",
            head.size, writer.head.size
        );
        return Ok(Some(Refusal::RolledBack(detail)));
    }
    Ok(match mark {
        None => Some(Refusal::RolledBack("the high-water mark is missing".into())),
        Some(mark) if head.size < mark.size => Some(Refusal::RolledBack(format!(
            "the ledger has {} leaves, {} were signed",
            head.size, mark.size
        ))),
        Some(mark) if head.size == mark.size && head.root != mark.root => Some(Refusal::RolledBack(format!(
            "another root was signed at {} leaves",
            mark.size
        ))),
        Some(_) => None,
    })
}
