//! Counters of a running ledger, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters since the start of the process.
#[derive(Debug, Default)]
pub struct Counters {
    records: AtomicU64,
    commits: AtomicU64,
    commit_micros: AtomicU64,
    checkpoints: AtomicU64,
    refused: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Records made durable.
    pub records: u64,
    /// Transactions that carried them.
    pub commits: u64,
    /// Microseconds spent in those transactions.
    pub commit_micros: u64,
    /// Checkpoints signed.
    pub checkpoints: u64,
    /// Submissions refused because the queue was full.
    pub refused: u64,
}

impl Counters {
    pub(crate) fn committed(&self, records: usize, took: Duration) {
        self.records
            .fetch_add(u64::try_from(records).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_micros.fetch_add(
            u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn signed(&self) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads them.
    pub fn read(&self) -> Counts {
        Counts {
            records: self.records.load(Ordering::Relaxed),
            commits: self.commits.load(Ordering::Relaxed),
            commit_micros: self.commit_micros.load(Ordering::Relaxed),
            checkpoints: self.checkpoints.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}
