//! JSON: an array of objects, the same as `items` of an object, or an object a line. One row is held at a time.

use std::fmt;
use std::io;

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{PROGRESS_ROWS, Read, Reading, SourceError, Visit, feed};
use crate::feed::{Counters, ROW_BYTES_MAX};
use crate::row::JsonRow;
use crate::{Row, SourceFile};

struct Rows<'a, 'b> {
    reading: &'a mut Reading<'b>,
    counters: &'a Counters,
    visit: Visit<'a>,
    read: &'a mut Read,
    /// What the visitor refused; serde's errors carry only texts.
    refused: &'a mut Option<io::Error>,
}

impl Rows<'_, '_> {
    fn row(&mut self, text: &str, place: impl fmt::Display) -> io::Result<bool> {
        self.counters.row_ended();
        let more = match JsonRow::read(text) {
            Ok(row) => (self.visit)(self.read.rows, &Row::Json(&row))?,
            Err(reason) => {
                self.read.remarks.bad(format!("{place} {reason}: not looked at"));
                true
            }
        };
        self.read.rows += 1;
        if self.read.rows.is_multiple_of(PROGRESS_ROWS) {
            (self.reading.progress)(self.counters.read.get());
        }
        Ok(more)
    }
}

/// An array, or an object with one.
struct Top<'a, 'b>(Rows<'a, 'b>);

/// The array itself.
struct Items<'a, 'b, 'c>(&'c mut Rows<'a, 'b>);

impl<'de> DeserializeSeed<'de> for Items<'_, '_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut more = true;
        while let Some(value) = seq.next_element::<Box<RawValue>>()? {
            // When no more are wanted, the rest is read all the same: the file's end may be broken.
            if more {
                let place = format!("element {}", self.0.read.rows);
                match self.0.row(value.get(), place) {
                    Ok(wanted) => more = wanted,
                    Err(error) => {
                        *self.0.refused = Some(error);
                        return Err(serde::de::Error::custom("refused"));
                    }
                }
            } else {
                self.0.counters.row_ended();
            }
        }
        Ok(true)
    }
}

impl<'de> DeserializeSeed<'de> for Top<'_, '_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top<'_, '_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects, or an object with one as items")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, seq: A) -> Result<bool, A::Error> {
        Items(&mut self.0).visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<bool, A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" && !found {
                found = map.next_value_seed(Items(&mut self.0))?;
            } else if key == "items" {
                return Err(serde::de::Error::custom("items is there twice"));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// The rows of an array.
pub(super) fn array(
    file: &SourceFile,
    reading: &mut Reading<'_>,
    counters: &Counters,
    visit: Visit<'_>,
) -> Result<Read, SourceError> {
    let mut read = Read::default();
    let mut refused = None;
    let feed = feed(file, reading.encoding, counters)?;
    let mut json = serde_json::Deserializer::from_reader(io::BufReader::with_capacity(64 * 1024, feed));
    let rows = Rows {
        reading,
        counters,
        visit,
        read: &mut read,
        refused: &mut refused,
    };
    let result = Top(rows)
        .deserialize(&mut json)
        .and_then(|found| json.end().map(|()| found));
    if let Some(error) = refused {
        return Err(SourceError::Visit(error));
    }
    match result {
        Ok(true) => Ok(read),
        Ok(false) => Err(SourceError::Unreadable(
            "it is an object without items: neither an array of objects nor one wrapped".to_owned(),
        )),
        Err(error) if error.is_io() => Err(SourceError::Unreadable(error.to_string())),
        Err(error) => Err(SourceError::Unreadable(format!("it is no JSON: {error}"))),
    }
}

/// The rows of a file with an object a line.
pub(super) fn lines(
    file: &SourceFile,
    reading: &mut Reading<'_>,
    counters: &Counters,
    visit: Visit<'_>,
) -> Result<Read, SourceError> {
    let mut read = Read::default();
    let mut refused = None;
    let mut lines = crate::Lines::new(feed(file, reading.encoding, counters)?);
    let mut rows = Rows {
        reading,
        counters,
        visit,
        read: &mut read,
        refused: &mut refused,
    };
    let mut more = true;
    while let Some(line) = lines.next_line()? {
        let place = format!("line {}", line.number);
        let long = u64::try_from(line.text.len()).unwrap_or(u64::MAX) > ROW_BYTES_MAX;
        match std::str::from_utf8(line.text) {
            _ if !more => rows.counters.row_ended(),
            Ok(text) if !long && !line.too_long => {
                more = rows.row(text, place).map_err(SourceError::Visit)?;
            }
            reason => {
                let reason = if reason.is_err() {
                    "is not UTF-8"
                } else {
                    "is longer than 16 MiB"
                };
                rows.counters.row_ended();
                rows.read.remarks.bad(format!("{place} {reason}: not looked at"));
                rows.read.rows += 1;
            }
        }
    }
    Ok(read)
}
