//! What the events of a job add up to: where it stands, and whether they are one chain.
//!
//! [`JobState`] folds a job's events in ledger order; the writer decides by it, reads
//! show it. [`JobChains`] checks the same events as a verifier does, who trusts no
//! writer. [`Progress`] is the part of the state that people look at.
//!
//! Out of scope: when a failed attempt is made again and what an audit says (audit);
//! writing events (ledger).
//!
//! Source: SPEC 7.1.

mod chain;
mod progress;
mod state;

pub use chain::JobChains;
pub use progress::{Ended, Progress, ProgressUpdate};
pub use state::{Attempt, JobState, KeptStep};

use crate::header::words;

words! {
    /// Where a job stands.
    Stage {
        /// It waits to be started, or started again.
        Queued = "queued",
        /// An attempt began.
        Starting = "starting",
        /// It goes on.
        Running = "running",
        /// It is about to end.
        Completing = "completing",
        /// It is done.
        Completed = "completed",
        /// No attempt is left.
        Failed = "failed",
        /// Somebody called it off.
        Cancelled = "cancelled",
    }
}

impl Stage {
    /// Whether nothing follows it.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }

    /// Whether an attempt is under way.
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Completing)
    }

    /// As audits name it: in capitals.
    pub const fn job_status(self) -> &'static str {
        match self {
            Self::Queued => "QUEUED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Completing => "COMPLETING",
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}
