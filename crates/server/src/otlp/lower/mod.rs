//! From requests to drafts. Pure; nothing that arrives makes it panic.
//!
//! Attribute names, roles, messages, tokens and providers have a module each; [`step`] puts a span's body
//! together, [`traces`] finds the runs. Rules: SPEC 4.3; docs/otel-steps.md; docs/otel-mapping.md.

mod flat;
mod io;
mod logs;
mod messages;
pub(crate) mod metrics;
mod names;
mod point_value;
mod policy;
mod provider;
mod role;
mod shapes;
mod sources;
mod step;
mod traces;
mod trail;
mod usage;
mod view;

use std::sync::Arc;

use evidence::canonical::Writer;
use evidence::redact::Redactor;
use evidence::{IDENTIFIER_BYTES_MAX, Kind, Salt};
use ledger::{BodyTooLarge, Draft, Salts, SealedBody};

pub use logs::lower_logs;
pub use metrics::lower_metrics;
pub use traces::lower_traces;

use super::any::Attr;
use super::decode::{Rejections, fields};
use super::ordered::Ordered;
use super::redact;
use super::refused::RefusedSpans;
use super::span::{self, Refusal};

/// What a request became.
#[derive(Debug)]
pub struct Lowered {
    /// In the order to be written.
    pub drafts: Vec<Draft>,
    /// Items that cannot be evidence, and why.
    pub rejected: Rejections,
    /// Of them the spans that name their trace: their run is told that they are missing.
    pub refused: RefusedSpans,
    /// Canonical bytes that the bodies of the request's other parts may have.
    pub bodies_bytes_left: usize,
}

/// Seals the bodies of one request and watches how many bytes they have.
#[derive(Debug)]
struct Sealer<'s> {
    salts: &'s mut Salts,
    bytes_left: usize,
    body: Vec<u8>,
}

impl<'s> Sealer<'s> {
    const fn new(salts: &'s mut Salts, bytes_max: usize) -> Self {
        Self {
            salts,
            bytes_left: bytes_max,
            body: Vec::new(),
        }
    }

    /// The rules of redaction.
    fn rules(&self) -> &Redactor {
        self.salts.rules()
    }

    /// Seals the body that `encode` writes, which is given its salt, after redaction.
    fn seal(&mut self, kind: Kind, encode: impl FnOnce(&Salt, &mut Vec<u8>)) -> Result<SealedBody, Refusal> {
        let salt = self.encode(encode)?;
        let sealed = SealedBody::seal_by(self.salts.rules(), kind, salt, &self.body);
        self.done(sealed)
    }

    /// The same of a body without secrets; none when there may be some in it.
    fn seal_clean(
        &mut self,
        kind: Kind,
        encode: impl FnOnce(&Salt, &mut Vec<u8>),
    ) -> Result<Option<SealedBody>, Refusal> {
        let salt = self.encode(encode)?;
        if self.rules().suspects(&self.body) {
            // It is made again, and counts then.
            self.bytes_left += self.body.len();
            return Ok(None);
        }
        let sealed = SealedBody::seal_clean(kind, salt, &self.body);
        self.done(sealed).map(Some)
    }

    fn encode(&mut self, encode: impl FnOnce(&Salt, &mut Vec<u8>)) -> Result<Salt, Refusal> {
        let salt = self.salts.next_salt();
        self.body.clear();
        encode(&salt, &mut self.body);
        self.bytes_left = self
            .bytes_left
            .checked_sub(self.body.len())
            .ok_or("the records made from this request have too many bytes in all: send smaller batches")?;
        Ok(salt)
    }

    fn done(&mut self, sealed: Result<SealedBody, BodyTooLarge>) -> Result<SealedBody, Refusal> {
        let sealed = sealed.map_err(|error| Refusal::from(error.to_string()))?;
        // One large body does not keep its memory for the rest of the request.
        self.body.shrink_to(BODY_MEMORY_KEPT);
        Ok(sealed)
    }
}

/// Bytes of memory kept from one body to the next: most are far smaller.
const BODY_MEMORY_KEPT: usize = 256 * 1024;

/// An identifier given by a caller, if it can be one (SPEC 1).
fn identifier(text: &str) -> Option<Arc<str>> {
    let fits = !text.is_empty() && text.len() <= IDENTIFIER_BYTES_MAX && !text.chars().any(char::is_control);
    fits.then(|| Arc::from(text))
}

/// What is said to name a run; `misnamed` counts what is no identifier and names none. An empty text says nothing.
fn run_name(text: Option<&str>, misnamed: &mut u64) -> Option<Arc<str>> {
    let text = text.filter(|text| !text.is_empty());
    let name = text.and_then(identifier);
    *misnamed += u64::from(text.is_some() && name.is_none());
    name
}

/// A resource, with secrets replaced in what is text and stands as bytes; `kept` holds that. All else is redacted when
/// it has become JSON.
fn resource<'a>(
    rules: &Redactor,
    bytes: &'a [u8],
    kept: &'a mut Vec<Vec<u8>>,
) -> Result<span::Origin<'a>, Refusal> {
    let mut resource = span::Origin::resource(bytes)?;
    if resource.text_in_bytes {
        *kept = redact::each(rules, fields(bytes, 1))?;
        resource.replace_attributes(kept)?;
    }
    Ok(resource)
}

/// The same of a scope.
fn scope<'a>(
    rules: &Redactor,
    bytes: &'a [u8],
    kept: &'a mut Vec<Vec<u8>>,
) -> Result<span::Origin<'a>, Refusal> {
    let mut scope = span::Origin::scope(bytes)?;
    if scope.text_in_bytes {
        *kept = redact::each(rules, fields(bytes, 3))?;
        scope.replace_attributes(kept)?;
    }
    Ok(scope)
}

/// Attributes as a canonical object.
fn attributes_json(attrs: &[Attr<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut ordered = Ordered::default();
    ordered.of(attrs);
    ordered.write(attrs, None, &mut Writer::new(&mut out));
    out
}

/// What a scope has beside name and version, as canonical JSON; none when there is nothing.
fn scope_rest(scope: &span::Origin<'_>) -> Option<Vec<u8>> {
    if scope.attributes.is_empty() && scope.dropped == 0 {
        return None;
    }
    let mut out = Vec::new();
    let mut w = Writer::new(&mut out);
    w.open_object();
    w.key("attributes");
    w.raw(&attributes_json(&scope.attributes));
    if scope.dropped != 0 {
        w.key("dropped_attributes_count");
        w.u64(u64::from(scope.dropped));
    }
    w.close_object();
    Some(out)
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
