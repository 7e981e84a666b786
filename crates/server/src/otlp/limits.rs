//! The limits of one OTLP request, each with its unit and reason (SPEC 11.5).
//!
//! What passes a limit is refused with a reason, never cut.

/// Largest request after decompression, in bytes (SPEC 11.5). Checked by the receiver before decoding, and
/// here again.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Most spans, log records or data points of one request. SDKs send 512 at once, collectors 8,192; 16 MiB
/// divided by it are 167 bytes, less than a span with its ids, times and one attribute has. A request with more is refused whole (413): the sender is
/// misconfigured, and a smaller batch helps him, while a cut would lose evidence.
pub const ITEMS_MAX: usize = 100_000;

/// Most spans, log records or data points of a request that are lowered and written together; one with more
/// is taken in parts, one after the other, and a metric is not divided. A span that is alone in its trace
/// takes 5 KB until it is written, so a part takes 40 MB where a whole request would take 500. What a
/// collector sends by default is never divided.
pub const PART_ITEMS_MAX: usize = 8_192;

/// Most attributes of one span, event, link, scope, resource or log record. SDKs stop at 128; generators of
/// flattened messages reach thousands. The index of this many takes 640 KiB.
pub const ATTRIBUTES_MAX: usize = 16_384;

/// Most events, and most links, of one span. SDKs stop at 128.
pub const EVENTS_MAX: usize = 16_384;

/// Most values of one item, nested ones included. A value may be two bytes on the wire and 64 in memory:
/// 16 MiB of memory at most, where 16 MiB of wire could ask for 512.
pub const VALUES_MAX: u32 = 262_144;

/// Deepest nesting of one attribute's arrays and maps. JSON spends four of its 128 levels on each, so both
/// encodings can carry what is accepted; and a body stays below the 128 levels that canonical JSON reads.
pub const NESTING_MAX: u32 = 24;

/// Deepest nesting of JSON text inside an attribute that is read as JSON; deeper text stays text. Leaves
/// room below the 128 levels of a body.
pub const TEXT_JSON_DEPTH_MAX: u16 = 64;

/// Most values of JSON text inside an attribute that is read as JSON; larger text stays text. 100,000 values
/// take about 11 MB while they are read.
pub const TEXT_JSON_VALUES_MAX: u32 = 100_000;

/// Largest encoded data point that is read, in bytes. The points of a `system.telemetry` body are held
/// together up to [`TELEMETRY_BYTES_MAX`]; one alone must fit.
pub const POINT_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of canonical points after which a `system.telemetry` body is closed and another begun, so that one
/// read of telemetry does not unpack 16 MiB for one point.
pub const TELEMETRY_BYTES_MAX: usize = 1024 * 1024;

/// Traces that are named of one data point's exemplars. Stock aggregations keep an exemplar a bucket, of which there
/// are sixteen.
pub const POINT_TRACES_MAX: usize = 64;

/// Traces, and runs, that the points of one `system.telemetry` body name, each; then it is closed. Under each of them
/// the record is found: a row each.
pub const TELEMETRY_NAMES_MAX: usize = 256;

/// Reasons named in a partial success. More say nothing new, and the count is exact without them.
pub const REASONS_MAX: usize = 5;

/// Longest summary of a log record, in characters; the whole text stands in its details.
pub const SUMMARY_CHARS_MAX: usize = 500;

/// Last moment accepted, in nanoseconds since 1970: 2100-01-01T00:00:00Z. Later times, and times before 1970
/// (which arrive as huge numbers), are clocks gone wrong and would sort first or last for ever.
pub const TIME_UNIX_NANO_MAX: u64 = 4_102_444_800 * 1_000_000_000;

/// Most canonical bytes of all bodies made from one request. A request of 16 MiB makes 96 MiB of bodies if
/// every byte needs an escape of six; what passes this limit repeats a large resource or scope for every
/// item, and the items beyond it are rejected.
pub const BODIES_BYTES_MAX: usize = 128 * 1024 * 1024;
