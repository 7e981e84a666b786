//! Which hashes may be of what is erased, and whether a body holds one of them.
//!
//! Source: SPEC 11.6; docs/formats.md, "Erased records".

use std::collections::HashSet;

use evidence::canonical::{self, Value};
use evidence::record::{ProvenanceView, ReplayEnforced, StepView};
use evidence::{Kind, sha256, unhex};
use serde::Deserialize;

use super::{ELSEWHERE_MAX, StepOutput};
use crate::draft::REQUEST_ID;

/// Bytes hashed to learn which hashes may be of a body or a part of it: 0.2 s. Of a larger body the deeper parts
/// are left out.
const HASHED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How deep parts of a body are hashed: what is logged elsewhere is a whole prompt, message or argument.
const HASHED_DEPTH: u32 = 12;

/// What a step or its enforcement says of a stored output.
pub(super) fn output_of(kind: Kind, body: &[u8]) -> Option<StepOutput> {
    let (key, hashes) = match kind {
        Kind::ReplayEnforced => {
            let enforced = ReplayEnforced::read(body)?;
            let hash = enforced.output_hash.as_deref().and_then(unhex_text);
            (enforced.idempotency_key?, hash.into_iter().collect())
        }
        Kind::TraceStep => {
            let body = canonical::parse(body, canonical::Limits::default()).ok()?;
            let step = body.get("step")?;
            let Some(Value::String(key)) = step.get("idempotency_key") else {
                return None;
            };
            (key.clone(), outputs(step))
        }
        _ => return None,
    };
    Some(StepOutput { key, hashes })
}

/// What SHA-256 of a step's output may be: as its sender says, for what was redacted; and as it stands here.
fn outputs(step: &Value) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(2);
    if let Some(Value::String(text)) = step.get("output_hash") {
        hashes.extend(unhex_text(text));
    }
    if let Some(output) = step.get("outcome_data") {
        hashes.push(sha256(&canonical::to_vec(output)));
    }
    hashes
}

/// The same of what went into it.
fn inputs(step: &Value) -> Vec<[u8; 32]> {
    let mut hashes = Vec::with_capacity(2);
    if let Some(Value::String(text)) = step.get("input_hash") {
        hashes.extend(unhex_text(text));
    }
    if let Some(params) = step.get("params") {
        hashes.push(sha256(&canonical::to_vec(params)));
    }
    hashes
}

fn unhex_text(text: &str) -> Option<[u8; 32]> {
    unhex(text.as_bytes())
}

/// Hashes that may be of what is erased, or of a part of it.
#[derive(Default)]
pub(super) struct Hashes {
    all: HashSet<[u8; 32]>,
    /// The first of them, those of the largest parts.
    pub(super) first: Vec<[u8; 32]>,
    /// Of what went into a step and came out of it, as wholes.
    wholes: Vec<[u8; 32]>,
}

impl Hashes {
    pub(super) fn of(kind: Kind, body: &[u8]) -> Self {
        let mut hashes = Self::default();
        let Ok(mut body) = canonical::parse(body, canonical::Limits::default()) else {
            return hashes;
        };
        let mut left = HASHED_BYTES_MAX;
        if kind == Kind::ReplayEnforced {
            for name in ["output", "output_hash"] {
                if let Some(part) = body.get(name) {
                    hashes.walk(part, HASHED_DEPTH, &mut left);
                }
            }
            for name in ["output_hash", "input_hash"] {
                if let Some(Value::String(text)) = body.get(name) {
                    hashes.wholes.extend(unhex_text(text));
                }
            }
        } else if kind == Kind::TraceStep {
            if let Some(step) = body.get("step") {
                hashes.wholes = outputs(step);
                hashes.wholes.extend(inputs(step));
            }
            // What the step took in and gave out. The words of its form ("success") tell nothing of it.
            for (section, name) in [
                ("step", "params"),
                ("step", "outcome_data"),
                ("otel", "attributes"),
                ("otel", "events"),
                ("step", "input_hash"),
                ("step", "output_hash"),
                ("activity", "prompt_fingerprint"),
                ("activity", "response_fingerprint"),
            ] {
                if let Some(part) = body.get(section).and_then(|section| section.get(name)) {
                    hashes.walk(part, HASHED_DEPTH, &mut left);
                }
            }
        } else if matches!(kind, Kind::ProvenanceLog | Kind::EvidenceActivity) {
            // Which request brought it is no word of it.
            if let Value::Object(members) = &mut body {
                members.retain(|(name, _)| name != REQUEST_ID);
            }
            hashes.walk(&body, HASHED_DEPTH, &mut left);
            // What went into the model and came out of it may be what went into a step and came out of it.
            for name in ["input", "output"] {
                if let Some(part) = body.get(name).filter(|_| kind == Kind::ProvenanceLog) {
                    hashes.wholes.push(sha256(&canonical::to_vec(part)));
                }
            }
        }
        hashes
    }

    fn insert(&mut self, hash: [u8; 32]) {
        if self.all.insert(hash) && self.first.len() < ELSEWHERE_MAX {
            self.first.push(hash);
        }
    }

    fn walk(&mut self, value: &Value, depth: u32, left: &mut usize) {
        let bytes = canonical::to_vec(value);
        let Some(less) = left.checked_sub(bytes.len()) else {
            return;
        };
        *left = less;
        self.insert(sha256(&bytes));
        match value {
            Value::String(text) => {
                self.insert(sha256(text.as_bytes()));
                // A hash that stands in it itself.
                if let Some(hash) = unhex(text.as_bytes()) {
                    self.insert(hash);
                }
            }
            Value::Array(values) if depth > 0 => {
                for value in values {
                    self.walk(value, depth - 1, left);
                }
            }
            Value::Object(members) if depth > 0 => {
                for (_, value) in members {
                    self.walk(value, depth - 1, left);
                }
            }
            _ => {}
        }
    }

    fn has(&self, hex: Option<&str>) -> bool {
        hex.and_then(|hex| unhex(hex.as_bytes()))
            .is_some_and(|hash| self.all.contains(&hash))
    }

    pub(super) fn in_activity(&self, body: &[u8], step_index: Option<u32>) -> bool {
        #[derive(Deserialize)]
        struct Wire<'a> {
            step_index: Option<u32>,
            prompt_fingerprint: Option<&'a str>,
            response_fingerprint: Option<&'a str>,
        }
        let Ok(wire) = serde_json::from_slice::<Wire<'_>>(body) else {
            return false;
        };
        (step_index.is_some() && wire.step_index == step_index)
            || self.has(wire.prompt_fingerprint)
            || self.has(wire.response_fingerprint)
    }

    /// Compared with whole outputs: of a part, such as a lone `true`, too many others have the hash.
    pub(super) fn in_enforcement(&self, body: &[u8], step_index: Option<u32>) -> bool {
        let Some(enforced) = ReplayEnforced::read(body) else {
            return false;
        };
        let said = [
            &enforced.output_hash,
            &enforced.stored_hash,
            &enforced.expected_hash,
            &enforced.input_hash,
            &enforced.known_input_hash,
        ];
        step_index == Some(enforced.step_index) || said.into_iter().any(|hex| self.has_whole(hex.as_deref()))
    }

    /// Another step that took in or gave out the same: somebody else's evidence, and named.
    pub(super) fn in_step(&self, body: &[u8]) -> bool {
        let Ok(StepView { step, .. }) = StepView::read(body) else {
            return false;
        };
        // Canonical, as stored.
        let parts = [Some(step.params), step.outcome_data];
        self.has_whole(step.input_hash.as_deref())
            || self.has_whole(step.output_hash.as_deref())
            || parts
                .into_iter()
                .flatten()
                .any(|part| self.is_whole(&sha256(part.get().as_bytes())))
    }

    fn has_whole(&self, hex: Option<&str>) -> bool {
        hex.and_then(unhex_text).is_some_and(|hash| self.is_whole(&hash))
    }

    /// Nothing is in as many steps as there are.
    fn is_whole(&self, hash: &[u8; 32]) -> bool {
        self.wholes.contains(hash)
            && ["null", "{}", "[]"]
                .iter()
                .all(|none| sha256(none.as_bytes()) != *hash)
    }

    pub(super) fn in_provenance(&self, body: &[u8]) -> bool {
        ProvenanceView::read(body)
            .is_ok_and(|log| self.has(Some(log.input_hash)) || self.has(Some(log.output_hash)))
    }
}
