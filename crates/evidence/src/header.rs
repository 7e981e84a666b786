//! The record header: the bytes of a leaf.
//!
//! A leaf is the canonical JSON (RFC 8785) of its header, at most
//! [`LEAF_BYTES_MAX`] bytes. It is hashed as written and never written again
//! from what was read: [`Header::encode`] makes it once, [`Header::decode`]
//! reads it. Absent fields are left out, never `null`. Nothing personal stands
//! in it: a human actor's id is part of the body.
//!
//! Source: SPEC 2.1; docs/formats.md, "Leaf".

use std::borrow::Cow;

use serde::Deserialize;

use crate::canonical::{Reader, Writer};
use crate::commitment::unhex;
use crate::time::Timestamp;
use crate::{Kind, RecordId};

/// Longest leaf: what a C2SP entry bundle can hold (a 16-bit length).
pub const LEAF_BYTES_MAX: usize = 65_535;

/// Longest identifier given by a caller, in bytes (SPEC 1). Two dozen of them stay far below a leaf.
pub const IDENTIFIER_BYTES_MAX: usize = 256;

/// The version of the header's form.
pub const HEADER_VERSION: u64 = 1;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize, serde::Serialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] #[doc = concat!("`", $text, "`")] $variant,)* }

        impl $name {
            /// Every word.
            pub const WORDS: &'static [&'static str] = &[$($text),*];

            /// The word on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The value of that word.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some($name::$variant),)* _ => None }
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Who acted.
    ActorType { Human = "HUMAN", Agent = "AGENT", System = "SYSTEM", }
}
words! {
    /// The part of the operator's world that a record comes from.
    SourceDomain { Activity = "ACTIVITY", Policy = "POLICY", Incidents = "INCIDENTS", Logs = "LOGS", System = "SYSTEM", }
}
words! {
    /// How a record came to be.
    Origin { System = "SYSTEM", Human = "HUMAN", Agent = "AGENT", Migration = "MIGRATION", Replay = "REPLAY", }
}

/// Who acted, as far as a header says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor<'a> {
    /// The kind of actor.
    #[serde(rename = "type")]
    pub kind: ActorType,
    /// Never that of a human.
    #[serde(borrow, default)]
    pub id: Option<Cow<'a, str>>,
}

/// A record's place within its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunPlace<'a> {
    /// The run.
    pub run_id: Cow<'a, str>,
    /// 0, 1, 2 … in ledger order.
    pub run_seq: u64,
}

/// A record header, see the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The record's id, which names its leaf.
    pub id: RecordId,
    /// The tenant whose ledger this is.
    pub tenant_id: Cow<'a, str>,
    /// What the record is about.
    pub kind: Kind,
    /// Set for kinds of a run ([`Kind::is_of_run`]) that belong to one.
    pub run: Option<RunPlace<'a>>,
    /// The trace, W3C hex or `trace_<run_id>`.
    pub trace_id: Option<Cow<'a, str>>,
    /// The conversation, session or request that this belongs to.
    pub correlation_id: Option<Cow<'a, str>>,
    /// Who acted.
    pub actor: Actor<'a>,
    /// When it happened, by the sender's clock.
    pub occurred_at: Timestamp,
    /// When it was received, by the server's clock.
    pub recorded_at: Timestamp,
    /// The part of the operator's world.
    pub source_domain: SourceDomain,
    /// The component that made the record, e.g. `otlp`.
    pub source_component: Cow<'a, str>,
    /// How the record came to be.
    pub origin: Origin,
    /// The commitment over the body ([`crate::commitment`]).
    pub commitment: [u8; 32],
}

/// Why stored bytes are no header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Not JSON of the header's form.
    #[error("leaf is no record header: {0}")]
    Shape(#[from] serde_json::Error),
    /// A version this program does not know.
    #[error("leaf has header version {0}, this program reads version {HEADER_VERSION}")]
    Version(u64),
    /// A field whose text has no such value.
    #[error("leaf has a malformed {0}")]
    Field(&'static str),
}

impl<'a> Header<'a> {
    /// Appends the canonical bytes of the leaf.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer::new(out);
        w.open_object();
        w.key("actor");
        w.open_object();
        if let Some(id) = &self.actor.id {
            w.key("id");
            w.str(id);
        }
        w.key("type");
        w.str(self.actor.kind.as_str());
        w.close_object();
        w.key("body");
        w.open_object();
        w.key("commitment");
        w.hex(&self.commitment);
        w.close_object();
        if let Some(correlation_id) = &self.correlation_id {
            w.key("correlation_id");
            w.str(correlation_id);
        }
        w.key("id");
        w.text(&self.id.to_text());
        w.key("kind");
        w.str(self.kind.as_str());
        w.key("occurred_at");
        w.time(self.occurred_at);
        w.key("origin");
        w.str(self.origin.as_str());
        w.key("recorded_at");
        w.time(self.recorded_at);
        if let Some(run) = &self.run {
            w.key("run_id");
            w.str(&run.run_id);
            w.key("run_seq");
            w.u64(run.run_seq);
        }
        w.key("source_component");
        w.str(&self.source_component);
        w.key("source_domain");
        w.str(self.source_domain.as_str());
        w.key("tenant_id");
        w.str(&self.tenant_id);
        if let Some(trace_id) = &self.trace_id {
            w.key("trace_id");
            w.str(trace_id);
        }
        w.key("v");
        w.u64(HEADER_VERSION);
        w.close_object();
    }

    /// Reads a leaf.
    ///
    /// # Errors
    /// [`HeaderError`]: the bytes are no header.
    pub fn decode(leaf: &'a [u8]) -> Result<Self, HeaderError> {
        match Self::decode_written(leaf) {
            Some(header) => Ok(header),
            None => Self::decode_any(leaf),
        }
    }

    /// Reads a leaf as [`Self::encode`] writes it, member by member: a tenth of what a general parser takes.
    fn decode_written(leaf: &'a [u8]) -> Option<Self> {
        let r = &mut Reader::new(leaf)?;
        r.eat("{\"actor\":{")?;
        let id = if r.goes("\"id\":\"") {
            let id = r.string_to_quote()?;
            r.eat(",")?;
            Some(id)
        } else {
            None
        };
        r.eat("\"type\":")?;
        let actor = Actor {
            kind: ActorType::parse(r.plain()?)?,
            id,
        };
        r.eat("},\"body\":{\"commitment\":")?;
        let commitment = unhex(r.plain()?.as_bytes())?;
        r.eat("}")?;
        let correlation_id = optional(r, ",\"correlation_id\":")?;
        r.eat(",\"id\":")?;
        let id = RecordId::parse(r.plain()?)?;
        r.eat(",\"kind\":")?;
        let kind = Kind::parse(r.plain()?)?;
        r.eat(",\"occurred_at\":")?;
        let occurred_at = Timestamp::parse(r.plain()?).ok()?;
        r.eat(",\"origin\":")?;
        let origin = Origin::parse(r.plain()?)?;
        r.eat(",\"recorded_at\":")?;
        let recorded_at = Timestamp::parse(r.plain()?).ok()?;
        let run = match optional(r, ",\"run_id\":")? {
            Some(run_id) => {
                r.eat(",\"run_seq\":")?;
                let run_seq = r.number()?.parse().ok()?;
                Some(RunPlace { run_id, run_seq })
            }
            None => None,
        };
        r.eat(",\"source_component\":")?;
        let source_component = r.string()?;
        r.eat(",\"source_domain\":")?;
        let source_domain = SourceDomain::parse(r.plain()?)?;
        r.eat(",\"tenant_id\":")?;
        let tenant_id = r.string()?;
        let trace_id = optional(r, ",\"trace_id\":")?;
        r.eat(",\"v\":1}")?;
        r.end()?;
        Some(Self {
            id,
            tenant_id,
            kind,
            run,
            trace_id,
            correlation_id,
            actor,
            occurred_at,
            recorded_at,
            source_domain,
            source_component,
            origin,
            commitment,
        })
    }

    fn decode_any(leaf: &'a [u8]) -> Result<Self, HeaderError> {
        let wire: Wire<'a> = serde_json::from_slice(leaf)?;
        if wire.v != HEADER_VERSION {
            return Err(HeaderError::Version(wire.v));
        }
        let kind = Kind::parse(wire.kind).ok_or(HeaderError::Field("kind"))?;
        let run = match (wire.run_id, wire.run_seq) {
            (Some(run_id), Some(run_seq)) => Some(RunPlace { run_id, run_seq }),
            (None, None) => None,
            _ => return Err(HeaderError::Field("run_seq")),
        };
        Ok(Self {
            id: RecordId::parse(wire.id).ok_or(HeaderError::Field("id"))?,
            tenant_id: wire.tenant_id,
            kind,
            run,
            trace_id: wire.trace_id,
            correlation_id: wire.correlation_id,
            actor: wire.actor,
            occurred_at: Timestamp::parse(wire.occurred_at).map_err(|_| HeaderError::Field("occurred_at"))?,
            recorded_at: Timestamp::parse(wire.recorded_at).map_err(|_| HeaderError::Field("recorded_at"))?,
            source_domain: wire.source_domain,
            source_component: wire.source_component,
            origin: wire.origin,
            commitment: unhex(wire.body.commitment.as_bytes())
                .ok_or(HeaderError::Field("body.commitment"))?,
        })
    }
}

/// A member that may be left out: outside, it is not the writer's form; inside, it is not there.
#[allow(clippy::option_option)] // the two are different answers
fn optional<'a>(r: &mut Reader<'a>, key: &str) -> Option<Option<Cow<'a, str>>> {
    if r.goes(key) {
        r.string().map(Some)
    } else {
        Some(None)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow)]
    actor: Actor<'a>,
    #[serde(borrow)]
    body: WireBody<'a>,
    #[serde(borrow, default)]
    correlation_id: Option<Cow<'a, str>>,
    id: &'a str,
    kind: &'a str,
    occurred_at: &'a str,
    origin: Origin,
    recorded_at: &'a str,
    #[serde(borrow, default)]
    run_id: Option<Cow<'a, str>>,
    #[serde(default)]
    run_seq: Option<u64>,
    #[serde(borrow)]
    source_component: Cow<'a, str>,
    source_domain: SourceDomain,
    #[serde(borrow)]
    tenant_id: Cow<'a, str>,
    #[serde(borrow, default)]
    trace_id: Option<Cow<'a, str>>,
    v: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WireBody<'a> {
    commitment: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlog::LeafIndex;

    fn header() -> Header<'static> {
        let at = Timestamp::parse("2026-11-21T09:30:00.000001Z").unwrap();
        Header {
            id: RecordId::new(at, LeafIndex::new(17), 0x0123_4567_89ab).unwrap(),
            tenant_id: "default".into(),
            kind: Kind::TraceStep,
            run: Some(RunPlace {
                run_id: "run \"1\"".into(),
                run_seq: 3,
            }),
            trace_id: Some("trace_run".into()),
            correlation_id: None,
            actor: Actor {
                kind: ActorType::Agent,
                id: Some("planner".into()),
            },
            occurred_at: at,
            recorded_at: at,
            source_domain: SourceDomain::Activity,
            source_component: "otlp".into(),
            origin: Origin::Agent,
            commitment: [0xab; 32],
        }
    }

    /// Frozen: this form is hashed. A change needs a new header version.
    #[test]
    fn header_bytes_are_these() {
        let mut leaf = Vec::new();
        header().encode(&mut leaf);
        let commitment = "ab".repeat(32);
        let id = header().id;
        assert_eq!(
            String::from_utf8(leaf.clone()).unwrap(),
            format!(
                r#"{{"actor":{{"id":"planner","type":"AGENT"}},"body":{{"commitment":"{commitment}"}},"id":"{id}","kind":"trace.step","occurred_at":"2026-11-21T09:30:00.000001Z","origin":"AGENT","recorded_at":"2026-11-21T09:30:00.000001Z","run_id":"run \"1\"","run_seq":3,"source_component":"otlp","source_domain":"ACTIVITY","tenant_id":"default","trace_id":"trace_run","v":1}}"#
            )
        );
        assert_eq!(Header::decode(&leaf).unwrap(), header());
    }

    #[test]
    fn what_is_read_fast_is_what_the_general_parser_reads() {
        let mut odd = header();
        odd.correlation_id = Some("\u{e9}\n\u{1}".into());
        odd.actor.id = None;
        odd.run = None;
        odd.trace_id = None;
        for header in [header(), odd] {
            let mut leaf = Vec::new();
            header.encode(&mut leaf);
            assert_eq!(Header::decode(&leaf).unwrap(), header);
            // Every byte in turn: taken out, doubled, or another; the fast way never accepts more or otherwise.
            for at in 0..leaf.len() {
                for other in [
                    b'"',
                    b'\\',
                    b'0',
                    b',',
                    b'}',
                    b' ',
                    0x80,
                    leaf[at] ^ 1,
                    leaf[at] ^ 32,
                ] {
                    let mut changed = leaf.clone();
                    changed[at] = other;
                    let (mut short, mut long) = (leaf.clone(), leaf.clone());
                    short.remove(at);
                    long.insert(at, other);
                    for bytes in [&changed, &short, &long] {
                        if let Some(fast) = Header::decode_written(bytes) {
                            assert_eq!(Header::decode_any(bytes).ok(), Some(fast));
                        }
                    }
                }
            }
        }
        let mut leaf = Vec::new();
        header().encode(&mut leaf);
        assert!(
            Header::decode_written(&leaf).is_some(),
            "the writer's form is read fast"
        );
    }

    #[test]
    fn a_leaf_with_an_unknown_field_or_half_a_run_place_is_no_header() {
        let mut leaf = Vec::new();
        header().encode(&mut leaf);
        let text = String::from_utf8(leaf).unwrap();
        for bad in [
            text.replace("\"v\":1", "\"v\":2"),
            text.replace("\"v\":1", "\"v\":1,\"x\":1"),
            text.replace("\"run_seq\":3,", ""),
            text.replace("trace.step", "trace.stop"),
            text.replace("AGENT", "ANT"),
        ] {
            assert!(Header::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
