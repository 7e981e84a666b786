//! OTLP: from a request's bytes to drafts, and the answer.
//!
//! Pure: no I/O and no clock. [`TraceRequest::decode`] reads protobuf or JSON, [`lower_traces`] makes drafts
//! of it, [`ExportAnswer`] says what was refused. One bad item never rejects its neighbours, and nothing
//! that arrives makes the code panic.
//!
//! Out of scope: HTTP, compression, tenants, and where drafts go. Start at [`lower_traces`].
//! Rules: SPEC 4.3 and 11.5; docs/otel-mapping.md.

mod any;
mod decode;
mod json;
pub mod limits;
mod lower;
mod ordered;
mod redact;
mod refused;
mod respond;
mod schema;
mod span;
mod wire;

pub use decode::{DecodeError, Encoding, LogsRequest, MetricsRequest, Rejections, TraceRequest};
pub use lower::{Lowered, lower_logs, lower_metrics, lower_traces};
pub use refused::{RefusedOfTrace, RefusedSpan, RefusedSpans};
pub use respond::{ExportAnswer, Signal};
