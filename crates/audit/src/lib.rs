//! Judgement over evidence: facts in, an opinion with its reasons out.
//!
//! In scope: how much a run's evidence can carry ([`integrity`]); whether a job
//! stayed inside its contract ([`governance`], [`checks`], [`rollout`]); when a failed
//! attempt is repeated ([`retry`]); whether a panel contradicts itself ([`panel`]).
//! Out of scope: gathering the facts (ledger), showing the opinion (server, cli).
//! No I/O, no clock, no randomness: equal facts give equal judgements, anywhere.
//!
//! Rules: SPEC 6.3, 7.1 to 7.4; docs/checks.md for the seven checks.

pub mod checks;
pub mod completeness;
pub mod governance;
pub mod integrity;
pub mod panel;
pub mod retry;
pub mod rollout;

mod read;

pub use read::InputError;
