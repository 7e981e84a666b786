//! From bytes to a request whose parts can be taken one by one.
//!
//! A request is walked, not copied: only the messages around the items (resource, scope) are taken apart
//! here, and each item is read where it is lowered. So one bad item never rejects its neighbours, and
//! memory does not grow with what a request claims to hold. OTLP/JSON is first written as protobuf
//! ([`super::json`]), so that there is one form from there on.
//!
//! In scope: the shape of the request, the count of items. Out of scope: HTTP, gzip, what items mean
//! ([`super::lower`]). Start at [`TraceRequest::decode`].
//!
//! Source: OTLP 1.11, <https://opentelemetry.io/docs/specs/otlp/>.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::json;
use super::limits::{BODIES_BYTES_MAX, ITEMS_MAX, PART_ITEMS_MAX, REASONS_MAX, REQUEST_BYTES_MAX};
use super::refused::RefusedSpans;
use super::schema;
use super::span::as_message;
use super::wire::{Malformed, Reader};

/// How a request is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`
    Protobuf,
    /// `application/json`
    Json,
}

/// Why a request is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not an OTLP request, or cut off (400).
    #[error("not an OTLP request: {0}")]
    Malformed(Cow<'static, str>),
    /// More bytes than [`super::limits::REQUEST_BYTES_MAX`], or JSON in parts of which protobuf has more (413).
    #[error("the request has {0} bytes, at most {REQUEST_BYTES_MAX} are taken: send smaller batches")]
    TooLarge(usize),
    /// More spans, log records or data points than [`super::limits::ITEMS_MAX`] (413).
    #[error("the request has more than {ITEMS_MAX} items: send smaller batches")]
    TooMany,
}

impl From<Malformed> for DecodeError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(Cow::Borrowed(malformed.0))
    }
}

/// What was refused of a request, and the first reasons why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    /// Spans, log records or data points.
    pub count: u64,
    /// At most [`super::limits::REASONS_MAX`], each with the place of the item.
    pub reasons: Vec<String>,
    /// Items that name their run by what is no identifier: what is done instead, and how often.
    pub warnings: BTreeMap<&'static str, u64>,
}

impl Rejections {
    /// Counts `count` more.
    pub(crate) fn add(&mut self, count: u64, reason: impl FnOnce() -> String) {
        if count > 0 {
            self.count = self.count.saturating_add(count);
            if self.reasons.len() < REASONS_MAX {
                self.reasons.push(reason());
            }
        }
    }

    /// Counts `times` more that name their run by what is no identifier.
    pub(crate) fn warn(&mut self, instead: &'static str, times: u64) {
        if times > 0 {
            let warned = self.warnings.entry(instead).or_default();
            *warned = warned.saturating_add(times);
        }
    }

    /// Adds those of the next part of a request.
    pub(crate) fn merge(&mut self, next: Self) {
        self.count = self.count.saturating_add(next.count);
        self.reasons.extend(next.reasons);
        self.reasons.truncate(REASONS_MAX);
        for (instead, times) in next.warnings {
            self.warn(instead, times);
        }
    }
}

/// The items of one scope of one resource, undecoded.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    /// Place of the resource in the request.
    pub(crate) resource_index: usize,
    /// The `Resource`, empty when absent.
    pub(crate) resource: &'a [u8],
    /// The `InstrumentationScope`, empty when absent.
    pub(crate) scope: &'a [u8],
    /// The bytes around the items: a `ScopeSpans`, `ScopeLogs` or `ScopeMetrics`.
    body: &'a [u8],
    /// Which of them are meant, by their places.
    places: Range<usize>,
}

impl<'a> Group<'a> {
    /// The items, in order.
    pub(crate) fn items(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.placed().map(|(_, item)| item)
    }

    /// The items, in order, each with its place.
    pub(crate) fn placed(&self) -> impl Iterator<Item = (usize, &'a [u8])> + use<'a> {
        let Range { start, end } = self.places;
        fields(self.body, 2)
            .enumerate()
            .skip(start)
            .take(end.saturating_sub(start))
    }

    /// The same with those items only that stand in `part` when all of the request are counted, of which `before` stand
    /// before these; none when there are none.
    fn within(self, part: &Range<usize>, before: &mut usize) -> Option<Self> {
        let first = *before;
        let count = self.items().count();
        *before = first.saturating_add(count);
        let place = |of_all: usize| of_all.saturating_sub(first).min(count);
        let places = place(part.start)..place(part.end);
        (!places.is_empty()).then_some(Self { places, ..self })
    }
}

/// The messages in the field `number` of a message that was walked before.
pub(crate) fn fields(body: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(body, u32::MAX);
    std::iter::from_fn(move || {
        loop {
            match reader.field() {
                Ok(Some((found, raw))) if found == number => {
                    if let Some(bytes) = as_message(raw) {
                        return Some(bytes);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    })
}

/// The one message in the field `number`; of several the last.
fn field(body: &[u8], number: u32) -> &[u8] {
    fields(body, number).last().unwrap_or_default()
}

#[derive(Debug)]
struct Request<'a> {
    bytes: Cow<'a, [u8]>,
    rejected: Rejections,
    /// Of them the spans that name their trace.
    refused: RefusedSpans,
    /// The places, all items counted, at which its parts begin, the first part's left out.
    parts: Vec<usize>,
    /// Which items are meant; `None`: all.
    part: Option<Range<usize>>,
    /// Most canonical bytes of the bodies made from it.
    bodies_bytes_max: usize,
}

impl<'a> Request<'a> {
    fn decode(
        body: &'a [u8],
        encoding: Encoding,
        message: &'static schema::Message,
        count: fn(&[u8]) -> usize,
    ) -> Result<Self, DecodeError> {
        if body.len() > REQUEST_BYTES_MAX {
            return Err(DecodeError::TooLarge(body.len()));
        }
        let mut request = match encoding {
            Encoding::Protobuf => Self::whole(
                Cow::Borrowed(body),
                Rejections::default(),
                RefusedSpans::default(),
            ),
            Encoding::Json => {
                let (bytes, rejected, refused) = json::to_protobuf(body, message)?;
                Self::whole(Cow::Owned(bytes), rejected, refused)
            }
        };
        request.parts =
            request
                .check(count)
                .map_err(|error| match (error, body.trim_ascii_start().first()) {
                    (DecodeError::Malformed(_), Some(b'{')) if encoding == Encoding::Protobuf => {
                        DecodeError::Malformed(
                            "this is JSON, which needs the content type application/json".into(),
                        )
                    }
                    (error, _) => error,
                })?;
        // The other parts are read from the protobuf, in which lists of numbers are longer than in JSON: said now, while
        // nothing is written.
        if !request.parts.is_empty() && request.bytes.len() > REQUEST_BYTES_MAX {
            return Err(DecodeError::TooLarge(request.bytes.len()));
        }
        Ok(request)
    }

    const fn whole(bytes: Cow<'a, [u8]>, rejected: Rejections, refused: RefusedSpans) -> Self {
        Self {
            bytes,
            rejected,
            refused,
            parts: Vec::new(),
            part: None,
            bodies_bytes_max: BODIES_BYTES_MAX,
        }
    }

    /// Walks the messages around the items, whose fields 1 and 2 must be messages; tells where parts begin.
    fn check(&self, count: fn(&[u8]) -> usize) -> Result<Vec<usize>, DecodeError> {
        let (mut items, mut place, mut in_part) = (0_usize, 0_usize, 0_usize);
        let mut parts = Vec::new();
        each(&self.bytes, 1, |resource| {
            each(resource, 2, |scope| {
                each(scope, 2, |item| {
                    let count = count(item);
                    items = items.saturating_add(count);
                    if items > ITEMS_MAX {
                        return Err(DecodeError::TooMany);
                    }
                    if in_part > 0 && in_part + count > PART_ITEMS_MAX {
                        parts.push(place);
                        in_part = 0;
                    }
                    in_part += count;
                    place += 1;
                    Ok(())
                })
            })
        })?;
        Ok(parts)
    }

    /// One of its parts by itself, counted from 0.
    fn part(&self, number: usize, bodies_bytes_max: usize) -> Request<'_> {
        let begin = |number: usize| match number.checked_sub(1) {
            None => 0,
            Some(behind_first) => self.parts.get(behind_first).copied().unwrap_or(usize::MAX),
        };
        // Said with the first.
        let (rejected, refused) = if number == 0 {
            (self.rejected.clone(), self.refused.clone())
        } else {
            Default::default()
        };
        Request {
            bytes: Cow::Borrowed(self.bytes.as_ref()),
            rejected,
            refused,
            parts: Vec::new(),
            part: (!self.parts.is_empty()).then(|| begin(number)..begin(number + 1)),
            bodies_bytes_max,
        }
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let mut before = 0;
        self.groups_whole().filter_map(move |group| match &self.part {
            None => Some(group),
            Some(part) => group.within(part, &mut before),
        })
    }

    fn groups_whole(&self) -> impl Iterator<Item = Group<'_>> {
        fields(&self.bytes, 1)
            .enumerate()
            .flat_map(|(resource_index, body)| {
                let resource = field(body, 1);
                fields(body, 2).map(move |body| Group {
                    resource_index,
                    resource,
                    scope: field(body, 1),
                    body,
                    places: 0..usize::MAX,
                })
            })
    }
}

/// Walks a message to its end and calls `then` for each message in the field `number`.
fn each<'a>(
    body: &'a [u8],
    number: u32,
    mut then: impl FnMut(&'a [u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(body, u32::MAX);
    while let Some((found, raw)) = reader.field()? {
        if found == number {
            then(Reader::message(raw)?)?;
        }
    }
    Ok(())
}

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident, $message:expr, $count:expr;)*) => { $(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<'a>(Request<'a>);

        impl<'a> $name<'a> {
            /// Decodes a request.
            ///
            /// # Errors
            /// [`DecodeError`], by what the sender can do. A bad item is no error: it is rejected when lowered.
            pub fn decode(body: &'a [u8], encoding: Encoding) -> Result<Self, DecodeError> {
                Request::decode(body, encoding, $message, $count).map(Self)
            }

            /// How many parts it is taken in; nearly always one.
            pub fn parts(&self) -> usize {
                self.0.parts.len() + 1
            }

            /// One of its parts by itself, counted from 0, whose bodies may have so many bytes in all.
            pub fn part(&self, number: usize, bodies_bytes_max: usize) -> $name<'_> {
                $name(self.0.part(number, bodies_bytes_max))
            }

            /// The request as protobuf.
            pub(crate) fn into_bytes(self) -> Vec<u8> {
                self.0.bytes.into_owned()
            }

            pub(crate) fn bodies_bytes_max(&self) -> usize {
                self.0.bodies_bytes_max
            }

            pub(crate) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
                self.0.groups()
            }

            /// What was rejected while decoding: items of JSON that are none.
            pub(crate) fn rejected(&self) -> Rejections {
                self.0.rejected.clone()
            }
        }
    )* };
}

const fn one(_: &[u8]) -> usize {
    1
}

requests! {
    /// The spans of one export request.
    TraceRequest, &schema::TRACES, one;
    /// The log records of one export request.
    LogsRequest, &schema::LOGS, one;
    /// The metrics of one export request.
    MetricsRequest, &schema::METRICS, super::lower::metrics::points_count;
}

impl TraceRequest<'_> {
    /// The spans among those that name their trace.
    pub(crate) fn refused(&self) -> RefusedSpans {
        self.0.refused.clone()
    }
}
