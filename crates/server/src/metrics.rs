//! Counters of requests, by class of route and status.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Requests answered since the start.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    /// Few keys: six classes, two dozen statuses.
    by_class: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl RequestCounts {
    pub(crate) fn count(&self, class: &'static str, status: u16) {
        let mut by_class = self.by_class.lock().unwrap_or_else(PoisonError::into_inner);
        *by_class.entry((class, status)).or_default() += 1;
    }

    pub(crate) fn read(&self) -> Vec<((&'static str, u16), u64)> {
        let by_class = self.by_class.lock().unwrap_or_else(PoisonError::into_inner);
        by_class.iter().map(|(&key, &count)| (key, count)).collect()
    }
}

/// The class of a path.
pub(crate) fn class_of(path: &str) -> &'static str {
    match path.split('/').nth(1).unwrap_or_default() {
        "v1" => "otlp",
        "tlog" => "tlog",
        "api" => "api",
        "healthz" | "readyz" | "metrics" => "health",
        grpc if grpc.starts_with("opentelemetry.proto.collector.") => "grpc",
        _ => "other",
    }
}
