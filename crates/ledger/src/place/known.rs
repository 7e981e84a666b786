//! What is known of the drafts of a batch: one question to the store, and what an identity that was seen answers.

use std::collections::{HashMap, HashSet};

use evidence::record::Facts;
use evidence::{Header, Identity, Kind};
use serde::Deserialize;
use store::{BatchKnown, BatchQuery, BodyRow, Gone, LeafKey, RunKey, Store, TraceKey};
use tlog::LeafIndex;

use super::{PlaceError, Placer, Slot, is_posted_evidence};
use crate::draft::{Bind, TraceBind};
use crate::erased_key::is_content;
use crate::tree::{StoredTree, TreeError};
use crate::{Body, Draft, Placed, Receipt, Rejection};

/// What was there before this batch, by identity.
pub(super) struct Earlier {
    leaf: LeafKey,
    receipt: Option<Receipt>,
    sent: Sent,
    /// As what somebody sent it, by its header; `None`: nobody did, it is the server's own, or the leaf is not read.
    sent_as: Option<Kind>,
}

/// What is known of what was sent before.
enum Sent {
    /// The body is not read before the draft is placed: of a batch of repeats all at once might be any number of bytes.
    Unread,
    /// Its HMAC under that salt; `None`: the body says nothing of what was sent.
    Mac(evidence::Salt, Option<[u8; 32]>),
    /// The body is gone, so nothing. One that cannot be opened is missing: who altered it could have it say that other
    /// content is the same.
    Gone(Gone),
}

impl Earlier {
    /// The first receipt. With its leaf the body is read, if what was sent `is_compared`.
    fn receipt(&mut self, store: &dyn Store, is_compared: bool) -> Result<Receipt, PlaceError> {
        let is_to_read = is_compared && matches!(self.sent, Sent::Unread);
        if let Some(receipt) = self.receipt.filter(|_| !is_to_read) {
            return Ok(receipt);
        }
        let bytes = StoredTree::new(store, self.leaf.ledger_no()).leaf(self.leaf.leaf_index())?;
        let header = Header::decode(&bytes).map_err(|error| TreeError::Damaged {
            ledger_no: self.leaf.ledger_no(),
            leaf: self.leaf.leaf_index(),
            reason: error.to_string(),
        })?;
        if is_to_read {
            self.sent = match crate::body::stored(store, &[self.leaf])?.pop() {
                Some(Body::There(row)) => sent_of(&header, &row),
                Some(Body::Gone(gone)) => Sent::Gone(gone),
                None => Sent::Gone(Gone::Missing),
            };
        }
        // Spans say nothing of their run's start: that is made for the first of them.
        let is_own = match &*header.source_component {
            "ledger" => true,
            "otlp" => header.kind == Kind::RunStarted,
            _ => false,
        };
        self.sent_as = (!is_own).then_some(header.kind);
        Ok(*self.receipt.insert(Receipt {
            record_id: header.id,
            leaf_index: self.leaf.leaf_index(),
            leaf_hash: tlog::leaf_hash(&bytes),
            tree_size: LeafIndex::new(self.leaf.leaf_index()).as_u64() + 1,
        }))
    }
}

impl Placer<'_> {
    pub(super) fn take_known(&mut self, known: BatchKnown) {
        for row in known.runs {
            self.by_id.insert(row.state.run_id.as_str().into(), row.key);
            self.slots.insert(row.key, Slot { row, touched: false });
        }
        for row in known.traces {
            self.by_trace.insert(row.trace, row.run);
        }
        for (run, identity, leaf) in known.records {
            let earlier = Earlier {
                leaf,
                receipt: None,
                sent: Sent::Unread,
                sent_as: None,
            };
            self.earlier.insert((run, identity), earlier);
        }
    }

    /// As what a draft is on record if the same was written and erased before.
    pub(super) fn erased_as(&self, draft: &Draft) -> Option<Identity> {
        self.erased_as.get(&draft.identity?).copied()
    }

    /// The one lookup asks for an environment under the run that its draft names. When the trace belongs to
    /// another run by now, that run may know the environment too, and must be asked.
    pub(super) fn ask_environment(
        &mut self,
        run: RunKey,
        identity: Identity,
        trace: &TraceBind,
        kind: Kind,
    ) -> Result<(), PlaceError> {
        let key = (run, identity);
        if kind != Kind::EvidenceEnvironment
            || self.by_id.get(trace.run_id.as_ref()) == Some(&run)
            || self.placed.contains_key(&key)
            || self.earlier.contains_key(&key)
        {
            return Ok(());
        }
        if let Some(row) = self.store.run_record_find(run, &identity)? {
            // Its identity is its content, so nothing of the body is compared.
            let earlier = Earlier {
                leaf: row.leaf,
                receipt: None,
                sent: Sent::Mac([0; 32], None),
                sent_as: None,
            };
            self.earlier.insert(key, earlier);
        }
        Ok(())
    }

    /// What a draft answers behind the first record of its run, which was there before: it was there too, or the run is
    /// not the one that is sent. Once that first record is erased, every other is taken for the same.
    ///
    /// # Errors
    /// The store cannot say.
    pub(crate) fn known_of_run(
        &mut self,
        draft: &Draft,
        first: Receipt,
    ) -> Result<Result<Placed, Rejection>, PlaceError> {
        let known = match (&draft.bind, draft.identity) {
            (Bind::Run(run_id), Some(identity)) => match self.by_id.get(run_id.as_ref()).copied() {
                Some(run) => self.known(run, identity, draft)?,
                None => None,
            },
            _ => None,
        };
        Ok(known.unwrap_or(Err(Rejection::Conflict(first))))
    }

    /// What an identity that was seen before answers; `None`: it was not.
    pub(super) fn known(
        &mut self,
        run: RunKey,
        identity: Identity,
        draft: &Draft,
    ) -> Result<Option<Result<Placed, Rejection>>, PlaceError> {
        let mut key = (run, identity);
        let is_content = is_content(draft);
        if let Some((receipt, content)) = self.placed.get(&key) {
            let same = is_content || draft.content == *content;
            let receipt = *receipt;
            return Ok(Some(if same {
                Ok(Placed {
                    receipt,
                    fresh: false,
                })
            } else {
                Err(Rejection::Conflict(receipt))
            }));
        }
        if !self.earlier.contains_key(&key)
            && let Some(erased) = self.erased_as(draft)
        {
            key = (run, erased);
        }
        let Some(earlier) = self.earlier.get_mut(&key) else {
            return Ok(None);
        };
        // Where the identity is the content nothing is compared: each request of spans brings its environment again.
        let receipt = earlier.receipt(self.store, !is_content)?;
        let same = is_content
            || match (draft.content, &earlier.sent) {
                // After an erasure a repeat is the first, whatever its body says. But a trace ends once, in one of two
                // ways, and its header still says in which; and whether anybody sent it, as of a run's start.
                (Some(_), Sent::Gone(Gone::Erased)) => earlier.sent_as == Some(draft.kind),
                // Of the server's own nothing was sent.
                (None, Sent::Mac(_, None) | Sent::Gone(_)) => true,
                // It may be other content, and that must not be dropped without a word.
                (Some(_), Sent::Gone(Gone::Archived | Gone::Missing)) => {
                    return Ok(Some(Err(Rejection::Archived(receipt))));
                }
                (Some(content), Sent::Mac(salt, Some(mac))) => evidence::content_mac(salt, &content) == *mac,
                _ => false,
            };
        Ok(Some(if same {
            Ok(Placed {
                receipt,
                fresh: false,
            })
        } else {
            Err(Rejection::Conflict(receipt))
        }))
    }
}

/// What is asked for; `erased_as` says as what else a draft may be on record.
pub(super) fn query_of<'d>(
    drafts: impl Iterator<Item = &'d Draft>,
    erased_as: &HashMap<Identity, Identity>,
) -> BatchQuery {
    let names = |draft: &Draft| {
        let identity = draft.identity;
        let erased = identity.and_then(|identity| erased_as.get(&identity).copied());
        identity.into_iter().chain(erased)
    };
    let mut query = BatchQuery::default();
    let mut ids: HashSet<&str> = HashSet::new();
    let mut traces: HashSet<TraceKey> = HashSet::new();
    for draft in drafts {
        match &draft.bind {
            Bind::None => {}
            Bind::Run(run_id) | Bind::NewRun(run_id) => {
                if ids.insert(run_id) {
                    query.run_ids.push(run_id.to_string());
                }
                for identity in names(draft) {
                    query.by_run_id.push((run_id.to_string(), identity));
                }
                if is_posted_evidence(draft) {
                    let seal = Identity::once(Kind::EvidenceIntegrity);
                    query.by_run_id.push((run_id.to_string(), seal));
                }
                if let Facts::RunStarted(facts) = &draft.facts {
                    let trace = TraceKey::parse(&facts.trace_id);
                    if traces.insert(trace.clone()) {
                        query.traces.push(trace);
                    }
                }
            }
            Bind::Trace(trace) => {
                if ids.insert(&trace.run_id) {
                    query.run_ids.push(trace.run_id.to_string());
                }
                let key = TraceKey::W3c(trace.trace_id);
                if traces.insert(key.clone()) {
                    query.traces.push(key.clone());
                }
                for identity in names(draft) {
                    // A trace not seen before may join a run that has the span already (another trace id cannot,
                    // but an environment can).
                    if draft.kind == Kind::EvidenceEnvironment {
                        query.by_run_id.push((trace.run_id.to_string(), identity));
                    }
                    query.by_trace.push((key.clone(), identity));
                }
            }
        }
    }
    query
}

fn sent_of(header: &Header<'_>, row: &BodyRow) -> Sent {
    let mut body = Vec::new();
    match crate::body::open(header, row, &mut body) {
        Ok(()) => Sent::Mac(row.salt, content_mac_of(&body)),
        Err(error) => {
            tracing::error!(%error, "what was sent before cannot be compared");
            Sent::Gone(Gone::Missing)
        }
    }
}

fn content_mac_of(body: &[u8]) -> Option<[u8; 32]> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        content_mac: Option<&'a str>,
    }
    let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
    evidence::unhex(wire.content_mac?.as_bytes())
}
