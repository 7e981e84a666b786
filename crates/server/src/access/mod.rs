//! Who may do what, and the record of it: policies, operations, the recorder, rate limits.
//!
//! In scope: deciding and noting. Out of scope: who calls ([`crate::Caller`]),
//! keys themselves (ledger).
//!
//! Start at [`Access`].

mod draft;
pub(crate) mod operation;
pub(crate) mod policy;
mod principals;
mod rates;
pub(crate) mod recorder;

use std::sync::Arc;

pub use policy::{Policies, PolicyError};
pub use rates::Rate;
pub use recorder::{Level, Levels};

use rates::Rates;
use recorder::Recorder;

/// What decides and notes, for all requests.
#[derive(Debug)]
pub struct Access {
    pub(crate) policies: Policies,
    pub(crate) recorder: Recorder,
    pub(crate) levels: Levels,
    pub(crate) rates: Rates,
}

impl Access {
    /// By these policies, at these levels, so many requests a principal (`None`: any number).
    pub fn new(policies: Policies, levels: Levels, rate: Option<Rate>) -> Arc<Self> {
        Arc::new(Self {
            policies,
            recorder: Recorder::default(),
            levels,
            rates: Rates::new(rate),
        })
    }

    /// What decides.
    pub const fn policies(&self) -> &Policies {
        &self.policies
    }
}

/// The operations whose reads are noted with a number of rows, and their paths.
pub fn operations_that_list() -> impl Iterator<Item = (&'static str, &'static str)> {
    operation::listing()
}
