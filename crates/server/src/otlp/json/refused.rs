//! What is told of an item of OTLP/JSON that is refused: a span's ids, and how many points a metric would have had.
//!
//! Read from the same text that could not be read as the item, so whatever is wrong in it is passed over.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::super::lower::hex;
use super::field::unhex;

#[derive(Deserialize)]
struct Ids<'a> {
    #[serde(borrow, default, rename = "traceId")]
    trace_id: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "spanId")]
    span_id: Option<&'a RawValue>,
}

/// The trace of a span, and its own id in hex, empty when it has none; none when its trace cannot be told.
pub(super) fn span_ids(span: &RawValue) -> Option<([u8; 16], String)> {
    let ids: Ids<'_> = serde_json::from_str(span.get()).ok()?;
    let trace_id = <[u8; 16]>::try_from(id(ids.trace_id)?).ok()?;
    let span_id = id(ids.span_id).unwrap_or_default();
    (trace_id != [0; 16]).then(|| {
        (
            trace_id,
            hex(span_id.get(..span_id.len().min(8)).unwrap_or_default()),
        )
    })
}

fn id(text: Option<&RawValue>) -> Option<Vec<u8>> {
    let text: String = serde_json::from_str(text?.get()).ok()?;
    unhex(&text)
}

/// The fields of a metric that hold points.
const DATA: [&str; 5] = ["gauge", "sum", "histogram", "exponentialHistogram", "summary"];

/// How many points a metric shows; one when it shows none, so that its refusal is told.
pub(super) fn points_shown(metric: &RawValue) -> u64 {
    members(metric, &DATA, |data| members(data, &["dataPoints"], elements)).max(1)
}

/// What the members of these names count together; 0 of what is no object.
fn members(object: &RawValue, names: &[&str], count: impl Fn(&RawValue) -> u64) -> u64 {
    let mut json = Deserializer::from_str(object.get());
    json.deserialize_map(Members { names, count }).unwrap_or(0)
}

/// The elements of a list; 0 of what is none.
fn elements(list: &RawValue) -> u64 {
    let mut json = Deserializer::from_str(list.get());
    json.deserialize_seq(Elements).unwrap_or(0)
}

struct Members<'n, F> {
    names: &'n [&'n str],
    count: F,
}

impl<'de, F: Fn(&RawValue) -> u64> Visitor<'de> for Members<'_, F> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<u64, A::Error> {
        let mut total = 0_u64;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if self.names.iter().any(|known| *known == name) {
                let value: &'de RawValue = map.next_value()?;
                total = total.saturating_add((self.count)(value));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(total)
    }
}

struct Elements;

impl<'de> Visitor<'de> for Elements {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<u64, A::Error> {
        let mut total = 0_u64;
        while list.next_element::<IgnoredAny>()?.is_some() {
            total = total.saturating_add(1);
        }
        Ok(total)
    }
}
