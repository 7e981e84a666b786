//! The answer to an export request: everything was taken, or how much was not and why.
//!
//! Source: OTLP 1.11, "Partial Success"; a response without `partial_success` means that all was taken.

use evidence::IDENTIFIER_BYTES_MAX;
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message as _;

use super::decode::{Encoding, Rejections};

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Log records.
    Logs,
    /// Data points.
    Metrics,
}

/// The answer to an export request that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportAnswer {
    rejected: i64,
    message: String,
}

impl ExportAnswer {
    /// The answer for what was rejected, by lowering and by the ledger.
    pub fn new(rejections: &Rejections) -> Self {
        let named = u64::try_from(rejections.reasons.len()).unwrap_or(u64::MAX);
        let mut message = rejections.reasons.join("; ");
        if rejections.count > named && named > 0 {
            message.push_str("; and others");
        }
        // Nothing rejected and a message is a warning (OTLP 1.11).
        for (instead, times) in &rejections.warnings {
            if !message.is_empty() {
                message.push_str("; ");
            }
            let warning = format!(
                "deponent.run.id is no identifier of 1 to {IDENTIFIER_BYTES_MAX} bytes without control characters, \
                 {times} times: {instead}"
            );
            message.push_str(&warning);
        }
        Self {
            rejected: i64::try_from(rejections.count).unwrap_or(i64::MAX),
            message,
        }
    }

    const fn is_whole(&self) -> bool {
        self.rejected == 0 && self.message.is_empty()
    }

    /// For gRPC.
    pub fn traces(self) -> ExportTraceServiceResponse {
        let partial = (!self.is_whole()).then_some(ExportTracePartialSuccess {
            rejected_spans: self.rejected,
            error_message: self.message,
        });
        ExportTraceServiceResponse {
            partial_success: partial,
        }
    }

    /// For gRPC.
    pub fn logs(self) -> ExportLogsServiceResponse {
        let partial = (!self.is_whole()).then_some(ExportLogsPartialSuccess {
            rejected_log_records: self.rejected,
            error_message: self.message,
        });
        ExportLogsServiceResponse {
            partial_success: partial,
        }
    }

    /// For gRPC.
    pub fn metrics(self) -> ExportMetricsServiceResponse {
        let partial = (!self.is_whole()).then_some(ExportMetricsPartialSuccess {
            rejected_data_points: self.rejected,
            error_message: self.message,
        });
        ExportMetricsServiceResponse {
            partial_success: partial,
        }
    }

    /// The bytes of the answer.
    pub fn encode(self, signal: Signal, encoding: Encoding) -> Vec<u8> {
        match (encoding, signal) {
            (Encoding::Protobuf, Signal::Traces) => self.traces().encode_to_vec(),
            (Encoding::Protobuf, Signal::Logs) => self.logs().encode_to_vec(),
            (Encoding::Protobuf, Signal::Metrics) => self.metrics().encode_to_vec(),
            (Encoding::Json, _) if self.is_whole() => b"{}".to_vec(),
            (Encoding::Json, _) => {
                let name = match signal {
                    Signal::Traces => "rejectedSpans",
                    Signal::Logs => "rejectedLogRecords",
                    Signal::Metrics => "rejectedDataPoints",
                };
                // A 64-bit integer is a decimal string in OTLP/JSON.
                let partial =
                    serde_json::json!({ name: self.rejected.to_string(), "errorMessage": self.message });
                serde_json::json!({ "partialSuccess": partial })
                    .to_string()
                    .into_bytes()
            }
        }
    }
}
