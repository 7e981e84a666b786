//! What the service does: takes drafts, places them, answers for them.
//!
//! Start at [`Draft`] and [`Ledger`].

mod draft;

pub use draft::{Bind, BodyTooLarge, Draft, Salts, SealedBody, TraceBind};
