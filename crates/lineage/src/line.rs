//! One line of a log: which type it is, and the fields that verification looks at.
//!
//! Lines are read where they lie, without copies: a log of a million of them is verified in two seconds. A field of a
//! wrong type makes the line malformed where the field decides something, and is passed over where not.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::index::RowIds;

/// A field that may be anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    #[default]
    Absent,
    Null,
    Text(Cow<'a, str>),
    True,
    Other,
}

impl Field<'_> {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The type of a line that stands for one that is gone, as the ledger writes it (docs/lineage.md, "Back out of the
/// ledger").
const GONE: &str = "deponent.gone";

/// Every line type's fields.
#[derive(Debug, Deserialize)]
pub(crate) struct Any<'a> {
    #[serde(borrow, default, rename = "type")]
    pub(crate) line_type: Field<'a>,
    #[serde(borrow, default)]
    id: Field<'a>,
    #[serde(borrow, default)]
    uri: Field<'a>,
    #[serde(borrow, default)]
    hash: Field<'a>,
    #[serde(default)]
    input_row_ids: RowIds,
    #[serde(borrow, default, rename = "fn")]
    function: Field<'a>,
    #[serde(borrow, default)]
    function_name: Field<'a>,
    #[serde(borrow, default)]
    evidence_id: Field<'a>,
    #[serde(borrow, default)]
    output_hash: Field<'a>,
    #[serde(borrow, default)]
    artifact: Field<'a>,
    #[serde(borrow, default, rename = "line_type")]
    gone_type: Field<'a>,
    #[serde(borrow, default)]
    erased: Field<'a>,
}

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub enum LineType<'a> {
    /// Rows of a file were read.
    Evidence {
        /// `ev-…`.
        id: Cow<'a, str>,
        /// Of what kind they are.
        rows: RowIds,
    },
    /// A function ran.
    Deterministic {
        /// Which.
        function: Cow<'a, str>,
        /// What it read.
        evidence_id: Option<Cow<'a, str>>,
        /// SHA-256 of the artifact, hex.
        output_hash: Option<Cow<'a, str>>,
        /// What it wrote.
        artifact: Option<Cow<'a, str>>,
    },
    /// A model wrote something.
    AiOutput,
    /// What a model took.
    AiMetrics,
    /// What stands in an exported log for a line whose record's body is not there any more.
    Gone {
        /// Of which type it was.
        line_type: Cow<'a, str>,
        /// It was erased; else it is archived, or missing.
        erased: bool,
    },
    /// Another program's.
    Other(Cow<'a, str>),
}

/// A line with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// The first is 1.
    pub number: u64,
    /// What is said of it.
    pub reason: String,
}

impl<'a> LineType<'a> {
    /// Reads a line.
    ///
    /// # Errors
    /// Why it is malformed.
    pub fn read(line: &'a [u8]) -> Result<Self, String> {
        // A struct may be read from an array as well; a line may not.
        if line.trim_ascii_start().first() != Some(&b'{') {
            return Err("is no JSON object".to_owned());
        }
        let any: Any<'a> = serde_json::from_slice(line).map_err(|error| format!("is no JSON: {error}"))?;
        let line_type = match any.line_type {
            Field::Text(text) => text,
            Field::Absent | Field::Null => return Err("has no type".to_owned()),
            Field::True | Field::Other => return Err("type is no text".to_owned()),
        };
        Ok(match &*line_type {
            "evidence" => {
                let Field::Text(id) = any.id else {
                    return Err("evidence without id".to_owned());
                };
                // By these it is judged whether the file is there and the same: nothing may pass as if they were absent.
                optional("uri", any.uri)?;
                optional("hash", any.hash)?;
                Self::Evidence {
                    id,
                    rows: any.input_row_ids,
                }
            }
            "deterministic" => Self::Deterministic {
                function: match (any.function, any.function_name) {
                    (Field::Text(text), _) | (Field::Absent | Field::Null, Field::Text(text)) => text,
                    _ => return Err("deterministic without fn".to_owned()),
                },
                evidence_id: optional("evidence_id", any.evidence_id)?,
                output_hash: optional("output_hash", any.output_hash)?,
                artifact: optional("artifact", any.artifact)?,
            },
            "ai_output" => Self::AiOutput,
            "ai_metrics" => Self::AiMetrics,
            GONE => Self::Gone {
                line_type: match any.gone_type {
                    Field::Text(text) => text,
                    _ => return Err(format!("{GONE} without line_type")),
                },
                erased: any.erased == Field::True,
            },
            _ => Self::Other(line_type),
        })
    }
}

fn optional<'a>(name: &str, field: Field<'a>) -> Result<Option<Cow<'a, str>>, String> {
    match field {
        Field::Text(text) => Ok(Some(text)),
        Field::Absent | Field::Null => Ok(None),
        Field::True | Field::Other => Err(format!("{name} is neither a text nor null")),
    }
}

struct FieldVisitor;

impl<'de> Visitor<'de> for FieldVisitor {
    type Value = Field<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Field::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Field::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(if value { Field::True } else { Field::Other })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Field::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FieldVisitor)
    }
}

/// Looks at the ids without keeping them.
struct RowIdsVisitor;

/// One element of a list of ids.
enum Element {
    Empty,
    Text,
    Other,
}

impl<'de> Deserialize<'de> for Element {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let field = deserializer.deserialize_any(FieldVisitor)?;
        Ok(match field.text() {
            None => Self::Other,
            Some("") => Self::Empty,
            Some(_) => Self::Text,
        })
    }
}

impl<'de> Visitor<'de> for RowIdsVisitor {
    type Value = RowIds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, _: &str) -> Result<RowIds, E> {
        Ok(RowIds::NoList)
    }

    fn visit_unit<E>(self) -> Result<RowIds, E> {
        Ok(RowIds::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<RowIds, E> {
        Ok(RowIds::NoList)
    }

    fn visit_i64<E>(self, _: i64) -> Result<RowIds, E> {
        Ok(RowIds::NoList)
    }

    fn visit_u64<E>(self, _: u64) -> Result<RowIds, E> {
        Ok(RowIds::NoList)
    }

    fn visit_f64<E>(self, _: f64) -> Result<RowIds, E> {
        Ok(RowIds::NoList)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RowIds, A::Error> {
        let (mut count, mut texts, mut empty) = (0_u64, true, false);
        while let Some(element) = seq.next_element()? {
            count += 1;
            match element {
                Element::Text => {}
                Element::Empty => empty = true,
                Element::Other => texts = false,
            }
        }
        Ok(match (texts, count, empty) {
            (false, ..) => RowIds::NotTexts,
            (true, 0, _) => RowIds::Empty,
            (true, _, true) => RowIds::EmptyText,
            (true, count, false) => RowIds::Texts(count),
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RowIds, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(RowIds::NoList)
    }
}

impl<'de> Deserialize<'de> for RowIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RowIdsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_wrong_types_is_malformed_and_says_why() {
        for (line, reason) in [
            ("[1]", "is no JSON object"),
            ("5", "is no JSON object"),
            ("null", "is no JSON object"),
            ("{}", "has no type"),
            (r#"{"type":7}"#, "type is no text"),
            (r#"{"type":"evidence","id":5}"#, "evidence without id"),
            (r#"{"type":"evidence"}"#, "evidence without id"),
            (
                r#"{"type":"evidence","id":"e","uri":null,"hash":12345}"#,
                "hash is neither a text nor null",
            ),
            (
                r#"{"type":"evidence","id":"e","uri":5}"#,
                "uri is neither a text nor null",
            ),
            (
                r#"{"type":"deterministic","fn":null}"#,
                "deterministic without fn",
            ),
            (
                r#"{"type":"deponent.gone","line_type":7}"#,
                "deponent.gone without line_type",
            ),
            (
                r#"{"type":"deterministic","fn":"a","evidence_id":{"x":[1]}}"#,
                "evidence_id is neither a text nor null",
            ),
        ] {
            assert_eq!(LineType::read(line.as_bytes()).unwrap_err(), reason, "{line}");
        }
        for line in [
            r#"{"type":"evidence","#,
            r#"{"type":"a","type":"b"}"#,
            "{\"type\":\"\u{1}\"}",
        ] {
            assert!(
                LineType::read(line.as_bytes())
                    .unwrap_err()
                    .starts_with("is no JSON"),
                "{line}"
            );
        }
    }

    #[test]
    fn ids_are_judged_without_being_kept() {
        for (ids, rows) in [
            ("null", RowIds::Null),
            ("[]", RowIds::Empty),
            (r#"["a","b"]"#, RowIds::Texts(2)),
            (r#"["a",""]"#, RowIds::EmptyText),
            (r#"["a",1]"#, RowIds::NotTexts),
            (r#"[["a"]]"#, RowIds::NotTexts),
            (r#""a""#, RowIds::NoList),
            (r#"{"a":"b"}"#, RowIds::NoList),
            ("7.5", RowIds::NoList),
        ] {
            let line = format!(r#"{{"type":"evidence","id":"ev-1","input_row_ids":{ids}}}"#);
            let LineType::Evidence { rows: read, .. } = LineType::read(line.as_bytes()).unwrap() else {
                panic!("{ids}");
            };
            assert_eq!(read, rows, "{ids}");
        }
    }
}
