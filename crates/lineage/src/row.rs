//! A row of a source, whatever it came from, and the text of its cells.

use std::borrow::Cow;
use std::fmt;

use csv::ByteRecord;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A column of which a key is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its place, in sources that have one for each name.
    pub index: usize,
}

/// A cell of a source with types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Its text, as ids have it.
    pub text: String,
    /// The text is JSON: a number, `true`, `false`.
    pub is_json: bool,
}

/// A row.
#[derive(Debug)]
pub enum Row<'a> {
    /// Cells of a CSV file; it may have fewer than columns.
    Csv(&'a ByteRecord),
    /// Of a JSON file.
    Json(&'a JsonRow<'a>),
    /// Of a file with types; `None` is null.
    Cells(&'a [Option<Cell>]),
}

/// A JSON object: members as they are written, in their order.
#[derive(Debug)]
pub struct JsonRow<'a> {
    /// The object.
    pub text: &'a str,
    /// Its members.
    pub members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a> JsonRow<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &'a str) -> Result<Self, String> {
        if !text.trim_ascii_start().starts_with('{') {
            return Err("is no object".to_owned());
        }
        let members: Members<'a> =
            serde_json::from_str(text).map_err(|error| format!("is no JSON: {error}"))?;
        Ok(Self {
            text,
            members: members.0,
        })
    }

    /// The member of that name; of several none.
    pub fn member(&self, name: &str) -> Option<&'a RawValue> {
        let mut all = self.members.iter().filter(|(key, _)| key == name);
        let (_, value) = all.next()?;
        all.next().is_none().then_some(*value)
    }
}

/// The text of a JSON value as ids have it: a text without its quotes, a number as it is written. None of null, of
/// arrays and of objects.
pub(crate) fn json_text(value: &RawValue) -> Option<Cow<'_, str>> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'"' if !text.contains('\\') => Some(Cow::Borrowed(text.get(1..text.len() - 1)?)),
        b'"' => serde_json::from_str(text).ok().map(Cow::Owned),
        b'n' | b'{' | b'[' => None,
        _ => Some(Cow::Borrowed(text)),
    }
}

impl Row<'_> {
    /// The text of a cell; `None`: there is none.
    pub fn part(&self, column: &Column) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Csv(record) => record.get(column.index).map(Cow::Borrowed),
            Self::Json(row) => match json_text(row.member(&column.name)?)? {
                Cow::Borrowed(text) => Some(Cow::Borrowed(text.as_bytes())),
                Cow::Owned(text) => Some(Cow::Owned(text.into_bytes())),
            },
            Self::Cells(cells) => cells
                .get(column.index)?
                .as_ref()
                .map(|cell| Cow::Borrowed(cell.text.as_bytes())),
        }
    }
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// A key that borrows where it can.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Cow<'de, str>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_str(KeyVisitor).map(Self)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;
        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key.0, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(MembersVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cells_have_the_text_that_is_written() {
        let row = JsonRow::read(r#"{"a":188.0,"b":"x\"y","c":null,"d":[1],"e":true,"f":1,"f":2,"g":"p|q"}"#)
            .unwrap();
        let part = |name: &str| {
            let column = Column {
                name: name.into(),
                index: 0,
            };
            Row::Json(&row)
                .part(&column)
                .map(|text| String::from_utf8(text.into_owned()).unwrap())
        };
        assert_eq!(part("a").as_deref(), Some("188.0"));
        assert_eq!(part("b").as_deref(), Some("x\"y"));
        assert_eq!(part("c"), None);
        assert_eq!(part("d"), None);
        assert_eq!(part("e").as_deref(), Some("true"));
        assert_eq!(part("f"), None, "which of the two is not known");
        assert_eq!(part("g").as_deref(), Some("p|q"));
        assert_eq!(part("z"), None);
        assert!(JsonRow::read("[1]").is_err());
        assert!(JsonRow::read("{\"a\":").is_err());
    }
}
