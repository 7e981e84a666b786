//! A group is all or none: what could be refused of it is asked before any of it is placed.
//!
//! What the first draft meets is known once it is placed. A later one of the same group is refused for what it is
//! itself: redaction has left no body of its kind, or its header is longer than a leaf.

use evidence::{LEAF_BYTES_MAX, RecordId, RunPlace, Timestamp};

use super::Placer;
use crate::draft::Bind;
use crate::{Draft, Rejection};

/// Most that a header has beside the texts of its draft: names, words, times, ids and the commitment are some 700 bytes.
const HEADER_REST_BYTES_MAX: usize = 2_048;

/// Most bytes of canonical JSON that one byte of a text becomes: `\u001f`.
const ESCAPE_BYTES_MAX: usize = 6;

impl Placer<'_> {
    /// Why none of a group is written, received `at`; `None`: nothing in it is refused for what it is.
    ///
    /// What is known already is answered and not written, so it is not asked about.
    pub(crate) fn refused_of_group<'d>(
        &self,
        drafts: impl IntoIterator<Item = &'d Draft>,
        at: Timestamp,
    ) -> Option<Rejection> {
        let at = at.max(self.last_recorded_at);
        let mut drafts = drafts.into_iter().peekable();
        if let Some(Bind::NewRun(run_id)) = drafts.peek().map(|draft| &draft.bind)
            && self.by_id.contains_key(run_id.as_ref())
        {
            // The run is there, so nothing is added to it.
            return None;
        }
        drafts
            .filter(|draft| draft.body.redacted || !self.is_surely_short(draft))
            .filter(|draft| !self.is_known(draft))
            .find_map(|draft| self.unwritable(draft, at))
    }

    /// Whether a draft's header fits a leaf however its texts are written: nothing is encoded to tell.
    fn is_surely_short(&self, draft: &Draft) -> bool {
        let texts = [
            draft.trace_id.as_deref(),
            draft.correlation_id.as_deref(),
            draft.actor.1.as_deref(),
            run_of(draft),
            Some(&*self.tenant.tenant_id),
        ];
        let bytes: usize = texts.into_iter().flatten().map(str::len).sum();
        bytes.saturating_mul(ESCAPE_BYTES_MAX) <= LEAF_BYTES_MAX - HEADER_REST_BYTES_MAX
    }

    /// Whether it is on record by its identity, or earlier in this batch.
    fn is_known(&self, draft: &Draft) -> bool {
        let Some(&run) = run_of(draft).and_then(|run_id| self.by_id.get(run_id)) else {
            return false;
        };
        let named = draft.identity.into_iter().chain(self.erased_as(draft));
        named
            .map(|identity| (run, identity))
            .any(|key| self.placed.contains_key(&key) || self.earlier.contains_key(&key))
    }

    /// Why a draft cannot be written, wherever it stands.
    fn unwritable(&self, draft: &Draft, at: Timestamp) -> Option<Rejection> {
        // Where it will stand is not known yet; its id is as long there, and says nothing to its body.
        let Some(id) = RecordId::new(at, self.frontier.size().next_index(), 0) else {
            return Some(Rejection::LeafTooLarge);
        };
        let run = run_of(draft).filter(|_| draft.kind.is_of_run());
        // As long as it can be.
        let run_seq = u64::MAX;
        let run = run.map(|run_id| RunPlace {
            run_id: run_id.into(),
            run_seq,
        });
        let header = draft.header(id, &self.tenant.tenant_id, run, at);
        let mut leaf = Vec::new();
        header.encode(&mut leaf);
        if leaf.len() > LEAF_BYTES_MAX {
            return Some(Rejection::LeafTooLarge);
        }
        draft.facts(&header).err()
    }
}

/// The run that a draft names.
fn run_of(draft: &Draft) -> Option<&str> {
    match &draft.bind {
        Bind::None => None,
        Bind::Run(run_id) | Bind::NewRun(run_id) => Some(run_id),
        Bind::Trace(trace) => Some(&trace.run_id),
    }
}
