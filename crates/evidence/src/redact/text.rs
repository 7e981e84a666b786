//! Value patterns: what is a secret or personal data wherever it stands in a text.
//!
//! Written by hand, a look at a few bytes around a rare one each, because every body passes here. A text that
//! is JSON itself, or holds some, is also looked through for field names.

mod addresses;
mod members;
mod numbers;
mod tokens;

use addresses::address_at;
use members::{redact_json, redact_members};
use numbers::number_at;
use tokens::{aws_at, bearer_at, github_at, private_key_at, slack_at};

pub(super) use addresses::is_address;
pub(super) use numbers::digits;
pub(super) use tokens::{is_aws, is_bearer_word, is_github, is_slack};

use super::{FIELD_MARKER, MARKER, Redactor};

/// A built-in value pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    /// An e-mail address.
    Email,
    /// `Bearer` and what follows.
    BearerToken,
    /// 13 to 19 digits of a known issuer with a good check digit.
    CardNumber,
    /// A social security number of the US, 3-2-4 digits.
    UsSsn,
    /// An access key id of AWS.
    AwsKey,
    /// A token of GitHub.
    GithubToken,
    /// A token of Slack.
    SlackToken,
    /// A private key in PEM.
    PrivateKey,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Email,
        Self::BearerToken,
        Self::CardNumber,
        Self::UsSsn,
        Self::AwsKey,
        Self::GithubToken,
        Self::SlackToken,
        Self::PrivateKey,
    ];

    /// Its name in settings and counts.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::BearerToken => "bearer_token",
            Self::CardNumber => "card_number",
            Self::UsSsn => "us_ssn",
            Self::AwsKey => "aws_key",
            Self::GithubToken => "github_token",
            Self::SlackToken => "slack_token",
            Self::PrivateKey => "private_key",
        }
    }

    /// The one of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.as_str() == name)
    }

    /// What stands in the place of what it finds.
    pub const fn marker(self) -> &'static str {
        match self {
            Self::Email => "<REDACTED_EMAIL>",
            Self::BearerToken => "<REDACTED_BEARER_TOKEN>",
            Self::CardNumber => "<REDACTED_CARD_NUMBER>",
            Self::UsSsn => "<REDACTED_US_SSN>",
            Self::AwsKey => "<REDACTED_AWS_KEY>",
            Self::GithubToken => "<REDACTED_GITHUB_TOKEN>",
            Self::SlackToken => "<REDACTED_SLACK_TOKEN>",
            Self::PrivateKey => "<REDACTED_PRIVATE_KEY>",
        }
    }
}

/// The markers in a text: the name of each, in lower case; `field` for [`FIELD_MARKER`].
pub fn markers(text: &str) -> impl Iterator<Item = String> {
    pieces(text).filter_map(|piece| match piece {
        Piece::Marker(FIELD_MARKER) => Some("field".to_owned()),
        Piece::Marker(marker) => marker
            .strip_prefix("<REDACTED_")
            .and_then(|rest| rest.strip_suffix('>'))
            .map(str::to_ascii_lowercase),
        Piece::Text(_) => None,
    })
}

/// Whether a text holds a marker. What stood there nobody knows: two that are the same need not have been.
pub fn is_redacted(text: &str) -> bool {
    markers(text).next().is_some()
}

enum Piece<'t> {
    Marker(&'t str),
    Text(&'t str),
}

/// A text as markers and what stands between them.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(len) = marker_len(rest) {
            let (marker, after) = rest.split_at(len);
            rest = after;
            return Some(Piece::Marker(marker));
        }
        // From the second character on: the first is no marker's.
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let next = rest[first..]
            .match_indices(MARKER)
            .map(|(at, _)| first + at)
            .find(|&at| marker_len(&rest[at..]).is_some());
        let (text, after) = rest.split_at(next.unwrap_or(rest.len()));
        rest = after;
        Some(Piece::Text(text))
    })
}

/// Longest name within a marker: a tenant's pattern may have one of this length.
const MARKER_NAME_BYTES_MAX: usize = 64;

/// The length of the marker that a text begins with.
fn marker_len(text: &str) -> Option<usize> {
    let rest = text.strip_prefix(MARKER)?;
    let name = rest
        .bytes()
        .take(MARKER_NAME_BYTES_MAX + 2)
        .take_while(|&byte| is_word(byte) && !byte.is_ascii_lowercase())
        .count();
    let bare = name == 0;
    let named = name > 1 && rest.starts_with('_');
    (rest[name..].starts_with('>') && (bare || named)).then_some(MARKER.len() + name + 1)
}

/// Most matches of a tenant's own patterns that are told apart in one text. To find that a pattern matches here, a
/// search may have to look as far as the end of the text, so without a bound they are quadratic: with it a text costs
/// at most so many times its length, half a second a MiB. What comes after them is replaced as a whole. Patterns
/// whose matches are short (`settings::SHORT_BYTES_MAX`) need none.
const OWN_MATCHES_MAX: u32 = 500;

/// Rounds after which a text is taken as it is. What is replaced leaves `<` and `>` at its ends, which can set
/// free a pattern beside it; each round needs another one within what was left of the last.
const ROUNDS_MAX: u32 = 4;

/// How often text within JSON within text is taken apart as JSON. Twice is in use: arguments of a call within
/// messages. Below that the rules for text still apply, as they do to JSON that is cut off.
pub(super) const JSON_LEVELS: u16 = 3;

/// The text with secrets replaced; `None`: it stays as it is. `levels` are those of JSON within text that are left.
pub(super) fn redact(rules: &Redactor, text: &str, levels: u16) -> Option<String> {
    // Inner texts are passed once a round of the outermost, so that rounds do not multiply.
    let rounds = if levels == JSON_LEVELS { ROUNDS_MAX } else { 1 };
    let mut done: Option<String> = None;
    let mut matches_left = OWN_MATCHES_MAX;
    for _ in 0..rounds {
        match round(rules, done.as_deref().unwrap_or(text), levels, &mut matches_left) {
            Some(next) => done = Some(next),
            None => break,
        }
    }
    done
}

fn round(rules: &Redactor, text: &str, levels: u16, matches_left: &mut u32) -> Option<String> {
    let mut done = redact_json(rules, text, levels);
    if let Some(next) = replace(rules, done.as_deref().unwrap_or(text)) {
        done = Some(next);
    }
    for pattern in &rules.own {
        if let Some(next) = replace_own(pattern, done.as_deref().unwrap_or(text), matches_left) {
            done = Some(next);
        }
    }
    if let Some(next) = redact_members(rules, done.as_deref().unwrap_or(text)) {
        done = Some(next);
    }
    done
}

/// The built-in patterns.
///
/// One that is off is not looked for: what is found ends where the next look begins, what is found and left
/// alone would be looked at again from each place in it.
pub(super) fn replace(rules: &Redactor, text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        let found = match byte {
            b'0'..=b'9' => {
                let (end, number) = number_at(bytes, at);
                match number {
                    Some((end, pattern)) if rules.has(pattern) => Some((at, end, pattern)),
                    _ => {
                        at = end;
                        continue;
                    }
                }
            }
            // Its digits are none of the text's, nor part of the word after it.
            b'\\' if is_escape(bytes, at) => {
                at += ESCAPE_BYTES;
                continue;
            }
            b'@' if rules.has(Pattern::Email) => {
                address_at(text, at, copied).map(|(start, end)| (start, end, Pattern::Email))
            }
            b'-' => private_key(rules, text, at).or_else(|| slack(rules, bytes, at)),
            b'_' if rules.has(Pattern::GithubToken) => {
                github_at(bytes, at).map(|(start, end)| (start, end, Pattern::GithubToken))
            }
            b'A' => aws_at(bytes, at).map(|end| (at, end, Pattern::AwsKey)),
            b'b' | b'B' if rules.has(Pattern::BearerToken) => {
                bearer_at(bytes, at).map(|end| (at, end, Pattern::BearerToken))
            }
            _ => None,
        };
        match found.filter(|&(start, _, pattern)| start >= copied && rules.has(pattern)) {
            Some((start, end, pattern)) => {
                let out = out.get_or_insert_with(|| String::with_capacity(text.len() + 32));
                out.push_str(&text[copied..start]);
                out.push_str(pattern.marker());
                (copied, at) = (end, end);
            }
            None => at += 1,
        }
    }
    out.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

fn private_key(rules: &Redactor, text: &str, at: usize) -> Option<(usize, usize, Pattern)> {
    let end = rules
        .has(Pattern::PrivateKey)
        .then(|| private_key_at(text, at))
        .flatten()?;
    Some((at, end, Pattern::PrivateKey))
}

fn slack(rules: &Redactor, bytes: &[u8], at: usize) -> Option<(usize, usize, Pattern)> {
    let (start, end) = rules
        .has(Pattern::SlackToken)
        .then(|| slack_at(bytes, at))
        .flatten()?;
    Some((start, end, Pattern::SlackToken))
}

impl Redactor {
    fn has(&self, pattern: Pattern) -> bool {
        self.patterns.contains(&pattern)
    }
}

/// A tenant's pattern, which leaves markers alone. Once no matches are left ([`OWN_MATCHES_MAX`]), the rest of a
/// piece in which there is another one is replaced.
fn replace_own(pattern: &super::settings::Compiled, text: &str, matches_left: &mut u32) -> Option<String> {
    if !pattern.regex.is_match(text) {
        return None;
    }
    let mut changed = false;
    let mut out = String::with_capacity(text.len() + 32);
    for piece in pieces(text) {
        match piece {
            Piece::Marker(marker) => out.push_str(marker),
            Piece::Text(piece) => {
                let mut copied = 0;
                for found in pattern.regex.find_iter(piece) {
                    if !pattern.short {
                        let Some(left) = matches_left.checked_sub(1) else {
                            changed = true;
                            out.push_str(&pattern.marker);
                            copied = piece.len();
                            break;
                        };
                        *matches_left = left;
                    }
                    if found.is_empty() {
                        continue;
                    }
                    changed = true;
                    out.push_str(&piece[copied..found.start()]);
                    out.push_str(&pattern.marker);
                    copied = found.end();
                }
                out.push_str(&piece[copied..]);
            }
        }
    }
    changed.then_some(out)
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether a word may begin here. The letter of an escape (`\n`) is no part of the word after it, nor are an escape's
/// digits (`\u201c`).
fn begins_word(bytes: &[u8], at: usize) -> bool {
    match bytes.get(..at) {
        Some([.., b'\\', b'b' | b'f' | b'n' | b'r' | b't']) => true,
        Some([.., last]) => !is_word(*last) || ends_escape(bytes, at),
        _ => true,
    }
}

/// Bytes of an escape of JSON by number.
const ESCAPE_BYTES: usize = 6;

/// Whether JSON within text has a character here that is written by its number: `\u` and four digits.
pub(super) fn is_escape(bytes: &[u8], at: usize) -> bool {
    matches!(bytes.get(at..at + ESCAPE_BYTES), Some([b'\\', b'u', digits @ ..]) if digits.iter().all(u8::is_ascii_hexdigit))
}

/// Whether such a character ends before `end`.
fn ends_escape(bytes: &[u8], end: usize) -> bool {
    end.checked_sub(ESCAPE_BYTES)
        .is_some_and(|start| is_escape(bytes, start))
}

fn run(bytes: &[u8], from: usize, part: impl Fn(u8) -> bool) -> usize {
    from + bytes[from.min(bytes.len())..]
        .iter()
        .take_while(|&&byte| part(byte))
        .count()
}
