//! The messages of OTLP as tables: for each field its JSON name, its number and how it is written.
//!
//! Only what [`super::json`] needs to write OTLP/JSON as protobuf. The tables follow opentelemetry-proto
//! 1.11; a test holds them against its generated code.

/// A message and its fields.
#[derive(Debug)]
pub(crate) struct Message {
    /// For reasons given to the sender.
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) shape: Shape,
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    /// Bytes that JSON writes in hexadecimal digits: ids.
    Hex,
    Base64,
    Bool,
    Fixed64,
    Sfixed64,
    Fixed32,
    Uint32,
    Uint64,
    Int64,
    /// An enumeration or an int32.
    Int32,
    Sint32,
    Double,
    Message(&'static Message),
}

/// How often a field stands, and whether its default is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Once; left out when it has the default value.
    Once,
    /// Once; written even then: messages, `oneof` and `optional` fields.
    Explicit,
    /// A list, each element with its own key.
    List,
    /// A list of numbers under one key.
    Packed,
    /// Items: each is read alone, a bad one is rejected alone.
    Items,
    /// A resource or scope: a bad one rejects the items that stand under it.
    Around,
}

use Kind::{
    Base64, Bool, Double, Fixed32, Fixed64, Hex, Int32, Int64, Sfixed64, Sint32, Text, Uint32, Uint64,
};
use Shape::{Around, Explicit, Items, List, Once, Packed};

const fn f(name: &'static str, number: u32, kind: Kind) -> Field {
    Field {
        name,
        number,
        kind,
        shape: Once,
    }
}

const fn some(name: &'static str, number: u32, kind: Kind) -> Field {
    Field {
        name,
        number,
        kind,
        shape: Explicit,
    }
}

const fn one(name: &'static str, number: u32, message: &'static Message) -> Field {
    Field {
        name,
        number,
        kind: Kind::Message(message),
        shape: Explicit,
    }
}

const fn list(name: &'static str, number: u32, message: &'static Message) -> Field {
    Field {
        name,
        number,
        kind: Kind::Message(message),
        shape: List,
    }
}

const fn shaped(name: &'static str, number: u32, kind: Kind, shape: Shape) -> Field {
    Field {
        name,
        number,
        kind,
        shape,
    }
}

const fn items(name: &'static str, message: &'static Message) -> Field {
    shaped(name, 2, Kind::Message(message), Items)
}

const fn around(name: &'static str, message: &'static Message) -> Field {
    shaped(name, 1, Kind::Message(message), Around)
}

macro_rules! messages {
    ($($name:ident $text:literal [$($field:expr),* $(,)?])*) => {
        $(pub(crate) static $name: Message = Message { name: $text, fields: &[$($field),*] };)*
    };
}

messages! {
    ANY "value" [
        some("stringValue", 1, Text), some("boolValue", 2, Bool), some("intValue", 3, Int64),
        some("doubleValue", 4, Double), one("arrayValue", 5, &ARRAY), one("kvlistValue", 6, &KV_LIST),
        some("bytesValue", 7, Base64),
    ]
    ARRAY "array" [list("values", 1, &ANY)]
    KV_LIST "map" [list("values", 1, &KEY_VALUE)]
    KEY_VALUE "attribute" [f("key", 1, Text), one("value", 2, &ANY)]
    RESOURCE "resource" [list("attributes", 1, &KEY_VALUE), f("droppedAttributesCount", 2, Uint32)]
    SCOPE "scope" [
        f("name", 1, Text), f("version", 2, Text), list("attributes", 3, &KEY_VALUE),
        f("droppedAttributesCount", 4, Uint32),
    ]

    TRACES "request" [list("resourceSpans", 1, &RESOURCE_SPANS)]
    RESOURCE_SPANS "resourceSpans" [
        around("resource", &RESOURCE), list("scopeSpans", 2, &SCOPE_SPANS), f("schemaUrl", 3, Text),
    ]
    SCOPE_SPANS "scopeSpans" [around("scope", &SCOPE), items("spans", &SPAN), f("schemaUrl", 3, Text)]
    SPAN "span" [
        f("traceId", 1, Hex), f("spanId", 2, Hex), f("traceState", 3, Text), f("parentSpanId", 4, Hex),
        f("name", 5, Text), f("kind", 6, Int32), f("startTimeUnixNano", 7, Fixed64),
        f("endTimeUnixNano", 8, Fixed64), list("attributes", 9, &KEY_VALUE),
        f("droppedAttributesCount", 10, Uint32), list("events", 11, &EVENT), f("droppedEventsCount", 12, Uint32),
        list("links", 13, &LINK), f("droppedLinksCount", 14, Uint32), one("status", 15, &STATUS),
        f("flags", 16, Fixed32),
    ]
    EVENT "event" [
        f("timeUnixNano", 1, Fixed64), f("name", 2, Text), list("attributes", 3, &KEY_VALUE),
        f("droppedAttributesCount", 4, Uint32),
    ]
    LINK "link" [
        f("traceId", 1, Hex), f("spanId", 2, Hex), f("traceState", 3, Text), list("attributes", 4, &KEY_VALUE),
        f("droppedAttributesCount", 5, Uint32), f("flags", 6, Fixed32),
    ]
    STATUS "status" [f("message", 2, Text), f("code", 3, Int32)]

    LOGS "request" [list("resourceLogs", 1, &RESOURCE_LOGS)]
    RESOURCE_LOGS "resourceLogs" [
        around("resource", &RESOURCE), list("scopeLogs", 2, &SCOPE_LOGS), f("schemaUrl", 3, Text),
    ]
    SCOPE_LOGS "scopeLogs" [around("scope", &SCOPE), items("logRecords", &LOG_RECORD), f("schemaUrl", 3, Text)]
    LOG_RECORD "logRecord" [
        f("timeUnixNano", 1, Fixed64), f("severityNumber", 2, Int32), f("severityText", 3, Text),
        one("body", 5, &ANY), list("attributes", 6, &KEY_VALUE), f("droppedAttributesCount", 7, Uint32),
        f("flags", 8, Fixed32), f("traceId", 9, Hex), f("spanId", 10, Hex),
        f("observedTimeUnixNano", 11, Fixed64), f("eventName", 12, Text),
    ]

    METRICS "request" [list("resourceMetrics", 1, &RESOURCE_METRICS)]
    RESOURCE_METRICS "resourceMetrics" [
        around("resource", &RESOURCE), list("scopeMetrics", 2, &SCOPE_METRICS), f("schemaUrl", 3, Text),
    ]
    SCOPE_METRICS "scopeMetrics" [around("scope", &SCOPE), items("metrics", &METRIC), f("schemaUrl", 3, Text)]
    METRIC "metric" [
        f("name", 1, Text), f("description", 2, Text), f("unit", 3, Text), one("gauge", 5, &GAUGE),
        one("sum", 7, &SUM), one("histogram", 9, &HISTOGRAM), one("exponentialHistogram", 10, &EXPONENTIAL),
        one("summary", 11, &SUMMARY), list("metadata", 12, &KEY_VALUE),
    ]
    GAUGE "gauge" [list("dataPoints", 1, &NUMBER_POINT)]
    SUM "sum" [
        list("dataPoints", 1, &NUMBER_POINT), f("aggregationTemporality", 2, Int32), f("isMonotonic", 3, Bool),
    ]
    HISTOGRAM "histogram" [list("dataPoints", 1, &HISTOGRAM_POINT), f("aggregationTemporality", 2, Int32)]
    EXPONENTIAL "exponentialHistogram" [
        list("dataPoints", 1, &EXPONENTIAL_POINT), f("aggregationTemporality", 2, Int32),
    ]
    SUMMARY "summary" [list("dataPoints", 1, &SUMMARY_POINT)]
    NUMBER_POINT "dataPoint" [
        f("startTimeUnixNano", 2, Fixed64), f("timeUnixNano", 3, Fixed64), some("asDouble", 4, Double),
        list("exemplars", 5, &EXEMPLAR), some("asInt", 6, Sfixed64), list("attributes", 7, &KEY_VALUE),
        f("flags", 8, Uint32),
    ]
    HISTOGRAM_POINT "dataPoint" [
        f("startTimeUnixNano", 2, Fixed64), f("timeUnixNano", 3, Fixed64), f("count", 4, Fixed64),
        some("sum", 5, Double), shaped("bucketCounts", 6, Fixed64, Packed),
        shaped("explicitBounds", 7, Double, Packed), list("exemplars", 8, &EXEMPLAR),
        list("attributes", 9, &KEY_VALUE), f("flags", 10, Uint32), some("min", 11, Double), some("max", 12, Double),
    ]
    EXPONENTIAL_POINT "dataPoint" [
        list("attributes", 1, &KEY_VALUE), f("startTimeUnixNano", 2, Fixed64), f("timeUnixNano", 3, Fixed64),
        f("count", 4, Fixed64), some("sum", 5, Double), f("scale", 6, Sint32), f("zeroCount", 7, Fixed64),
        one("positive", 8, &BUCKETS), one("negative", 9, &BUCKETS), f("flags", 10, Uint32),
        list("exemplars", 11, &EXEMPLAR), some("min", 12, Double), some("max", 13, Double),
        f("zeroThreshold", 14, Double),
    ]
    BUCKETS "buckets" [f("offset", 1, Sint32), shaped("bucketCounts", 2, Uint64, Packed)]
    SUMMARY_POINT "dataPoint" [
        f("startTimeUnixNano", 2, Fixed64), f("timeUnixNano", 3, Fixed64), f("count", 4, Fixed64),
        f("sum", 5, Double), list("quantileValues", 6, &QUANTILE), list("attributes", 7, &KEY_VALUE),
        f("flags", 8, Uint32),
    ]
    QUANTILE "quantile" [f("quantile", 1, Double), f("value", 2, Double)]
    EXEMPLAR "exemplar" [
        f("timeUnixNano", 2, Fixed64), some("asDouble", 3, Double), f("spanId", 4, Hex), f("traceId", 5, Hex),
        some("asInt", 6, Sfixed64), list("filteredAttributes", 7, &KEY_VALUE),
    ]
}
