//! One span, read where it lies.

use std::borrow::Cow;

use evidence::sha256;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::any::{Attr, Budget, read_attr};
use super::limits::{EVENTS_MAX, TIME_UNIX_NANO_MAX};
use super::wire::{Malformed, Raw, Reader};

/// A span. Ids and times are those of a span that can be evidence; see [`SpanRef::read`].
#[derive(Debug, Default)]
pub(crate) struct SpanRef<'a> {
    pub(crate) trace_id: [u8; 16],
    pub(crate) span_id: [u8; 8],
    pub(crate) parent_span_id: Option<[u8; 8]>,
    pub(crate) trace_state: &'a str,
    pub(crate) flags: u32,
    pub(crate) name: &'a str,
    pub(crate) kind: i32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) attributes: Vec<Attr<'a>>,
    pub(crate) events: Vec<Event<'a>>,
    pub(crate) links: Vec<Link<'a>>,
    /// Attributes, events, links that the sender dropped.
    pub(crate) dropped: (u32, u32, u32),
    pub(crate) status_code: i32,
    pub(crate) status_message: &'a str,
    /// See [`Budget::text_in_bytes`].
    pub(crate) text_in_bytes: bool,
    plain: bool,
}

/// An event of a span.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) time: u64,
    pub(crate) name: &'a str,
    pub(crate) attributes: Vec<Attr<'a>>,
    pub(crate) dropped: u32,
}

/// A link of a span. Its ids are kept as sent, whatever their length.
#[derive(Debug)]
pub(crate) struct Link<'a> {
    pub(crate) trace_id: &'a [u8],
    pub(crate) span_id: &'a [u8],
    pub(crate) trace_state: &'a str,
    pub(crate) attributes: Vec<Attr<'a>>,
    pub(crate) dropped: u32,
    pub(crate) flags: u32,
}

/// Why one item is refused, in words for its sender.
pub(crate) type Refusal = Cow<'static, str>;

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Cow::Borrowed(malformed.0)
    }
}

const STATUS_MESSAGE: u32 = 2;
const STATUS_CODE: u32 = 3;

impl<'a> SpanRef<'a> {
    /// Reads a span over this one, whose memory is used again.
    ///
    /// # Errors
    /// The bytes are no span; an id has another length than it must or is all zeros; the start is missing;
    /// a time lies before 1970 or after 2100; or a limit is passed. A span without end is one that has not
    /// ended; one that ends before it starts is kept as it is.
    pub(crate) fn read(&mut self, bytes: &'a [u8]) -> Result<(), Refusal> {
        let (mut attributes, mut events, mut links) = (
            std::mem::take(&mut self.attributes),
            std::mem::take(&mut self.events),
            std::mem::take(&mut self.links),
        );
        attributes.clear();
        events.clear();
        links.clear();
        *self = Self {
            attributes,
            events,
            links,
            ..Self::default()
        };

        let (mut trace_id, mut span_id, mut parent): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let mut budget = Budget::new();
        // Attributes, events and links stand more than once.
        let mut reader = Reader::new(bytes, 1 << 9 | 1 << 11 | 1 << 13);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => trace_id = reader.bytes(raw)?,
                2 => span_id = reader.bytes(raw)?,
                3 => self.trace_state = reader.text(raw)?,
                4 => parent = reader.bytes(raw)?,
                5 => self.name = reader.text(raw)?,
                6 => self.kind = reader.enumeration(raw)?,
                7 => self.start = reader.fixed64(raw)?,
                8 => self.end = reader.fixed64(raw)?,
                9 => read_attr(Reader::message(raw)?, &mut budget, &mut self.attributes)?,
                10 => self.dropped.0 = reader.uint32(raw)?,
                11 => {
                    room(self.events.len(), "more than 16,384 events")?;
                    self.events.push(read_event(Reader::message(raw)?, &mut budget)?);
                }
                12 => self.dropped.1 = reader.uint32(raw)?,
                13 => {
                    room(self.links.len(), "more than 16,384 links")?;
                    self.links.push(read_link(Reader::message(raw)?, &mut budget)?);
                }
                14 => self.dropped.2 = reader.uint32(raw)?,
                15 => self.read_status(Reader::message(raw)?, &mut budget)?,
                16 => self.flags = reader.fixed32(raw)?,
                _ => reader.unknown(),
            }
        }
        self.plain = reader.plain && budget.plain;
        self.text_in_bytes = budget.text_in_bytes;

        self.trace_id = id("trace_id", trace_id)?;
        self.span_id = id("span_id", span_id)?;
        // Some SDKs send the parent of a root as zeros.
        self.parent_span_id = match parent {
            [] | [0, 0, 0, 0, 0, 0, 0, 0] => None,
            other => Some(id("parent_span_id", other)?),
        };
        if self.start == 0 {
            return Err("start_time_unix_nano is missing".into());
        }
        for (name, time) in [
            ("start_time_unix_nano", self.start),
            ("end_time_unix_nano", self.end),
        ] {
            if time > TIME_UNIX_NANO_MAX {
                return Err(format!("{name} {time} lies before 1970 or after 2100").into());
            }
        }
        Ok(())
    }

    fn read_status(&mut self, bytes: &'a [u8], budget: &mut Budget) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes, 0);
        while let Some((number, raw)) = reader.field()? {
            match number {
                STATUS_MESSAGE => self.status_message = reader.text(raw)?,
                STATUS_CODE => self.status_code = reader.enumeration(raw)?,
                _ => reader.unknown(),
            }
        }
        budget.plain &= reader.plain;
        Ok(())
    }

    /// SHA-256 of the span in the one form of proto3: fields ascending, defaults and unknown fields left
    /// out. So it is the same whoever encoded the span, and in protobuf as in JSON. `bytes` are those read.
    pub(crate) fn content(&self, bytes: &[u8]) -> Result<[u8; 32], Refusal> {
        if self.plain {
            return Ok(sha256(bytes));
        }
        let span = Span::decode(bytes).map_err(|error| format!("not a span: {error}"))?;
        Ok(sha256(&span.encode_to_vec()))
    }
}

fn room(len: usize, reason: &'static str) -> Result<(), Malformed> {
    if len == EVENTS_MAX {
        Err(Malformed(reason))
    } else {
        Ok(())
    }
}

fn id<const N: usize>(name: &str, bytes: &[u8]) -> Result<[u8; N], Refusal> {
    match <[u8; N]>::try_from(bytes) {
        Ok(zeros) if zeros == [0; N] => Err(format!("{name} is all zeros").into()),
        Ok(id) => Ok(id),
        Err(_) => Err(format!("{name} has {} bytes, {N} are needed", bytes.len()).into()),
    }
}

fn read_event<'a>(bytes: &'a [u8], budget: &mut Budget) -> Result<Event<'a>, Malformed> {
    let mut event = Event {
        time: 0,
        name: "",
        attributes: Vec::new(),
        dropped: 0,
    };
    let mut reader = Reader::new(bytes, 1 << 3);
    while let Some((number, raw)) = reader.field()? {
        match number {
            1 => event.time = reader.fixed64(raw)?,
            2 => event.name = reader.text(raw)?,
            3 => read_attr(Reader::message(raw)?, budget, &mut event.attributes)?,
            4 => event.dropped = reader.uint32(raw)?,
            _ => reader.unknown(),
        }
    }
    budget.plain &= reader.plain;
    Ok(event)
}

fn read_link<'a>(bytes: &'a [u8], budget: &mut Budget) -> Result<Link<'a>, Malformed> {
    let mut link = Link {
        trace_id: &[],
        span_id: &[],
        trace_state: "",
        attributes: Vec::new(),
        dropped: 0,
        flags: 0,
    };
    let mut reader = Reader::new(bytes, 1 << 4);
    while let Some((number, raw)) = reader.field()? {
        match number {
            1 => link.trace_id = reader.bytes(raw)?,
            2 => link.span_id = reader.bytes(raw)?,
            3 => link.trace_state = reader.text(raw)?,
            4 => read_attr(Reader::message(raw)?, budget, &mut link.attributes)?,
            5 => link.dropped = reader.uint32(raw)?,
            6 => link.flags = reader.fixed32(raw)?,
            _ => reader.unknown(),
        }
    }
    budget.plain &= reader.plain;
    Ok(link)
}

/// A resource or an instrumentation scope.
#[derive(Debug, Default)]
pub(crate) struct Origin<'a> {
    /// Of a scope.
    pub(crate) name: &'a str,
    /// Of a scope.
    pub(crate) version: &'a str,
    pub(crate) attributes: Vec<Attr<'a>>,
    pub(crate) dropped: u32,
    /// See [`Budget::text_in_bytes`].
    pub(crate) text_in_bytes: bool,
}

impl<'a> Origin<'a> {
    /// Reads a `Resource`. What refers to entities repeats attributes and is passed over.
    pub(crate) fn resource(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut origin = Self::default();
        let mut reader = Reader::new(bytes, 0);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => origin.attribute(Reader::message(raw)?)?,
                2 => origin.dropped = reader.uint32(raw)?,
                _ => {}
            }
        }
        Ok(origin)
    }

    /// Reads an `InstrumentationScope`.
    pub(crate) fn scope(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut origin = Self::default();
        let mut reader = Reader::new(bytes, 0);
        while let Some((number, raw)) = reader.field()? {
            match number {
                1 => origin.name = reader.text(raw)?,
                2 => origin.version = reader.text(raw)?,
                3 => origin.attribute(Reader::message(raw)?)?,
                4 => origin.dropped = reader.uint32(raw)?,
                _ => {}
            }
        }
        Ok(origin)
    }

    /// Takes other attributes, encoded one by one, in the place of its own.
    pub(crate) fn replace_attributes(&mut self, encoded: &'a [Vec<u8>]) -> Result<(), Malformed> {
        self.attributes.clear();
        encoded.iter().try_for_each(|bytes| self.attribute(bytes))
    }

    fn attribute(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        let mut budget = Budget::new();
        read_attr(bytes, &mut budget, &mut self.attributes)?;
        self.text_in_bytes |= budget.text_in_bytes;
        Ok(())
    }

    /// The text of an attribute; of several the last.
    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.attributes
            .iter()
            .rev()
            .find(|attr| attr.key == key)
            .and_then(|attr| attr.value.text())
    }
}

/// Whether a field's raw value is a message, and which bytes.
pub(crate) const fn as_message(raw: Raw<'_>) -> Option<&[u8]> {
    match raw {
        Raw::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}
