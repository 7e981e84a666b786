//! Value patterns: what is a secret or personal data wherever it stands in a text.
//!
//! Written by hand, a look at a few bytes around a rare one each, because every body passes here. A text that
//! is JSON itself, or holds some, is also looked through for field names.

use super::{FIELD_MARKER, MARKER, Redactor, tree};
use crate::canonical;

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

/// Text that is JSON as a whole is redacted as JSON, so that objects under secret names go too.
fn redact_json(rules: &Redactor, text: &str, levels: u16) -> Option<String> {
    let inner = text.trim_ascii();
    if levels == 0 || !inner.starts_with(['{', '[']) || !inner.ends_with(['}', ']']) {
        return None;
    }
    if !rules.suspects(inner.as_bytes()) {
        return None;
    }
    let mut value = canonical::parse(inner.as_bytes(), super::LIMITS).ok()?;
    if !(tree::Walk { rules }).free(&mut value, levels - 1) {
        return None;
    }
    String::from_utf8(canonical::to_vec(&value)).ok()
}

/// What stands under a secret name in JSON, or in something like it, within text: cut off, or amid prose.
fn redact_members(rules: &Redactor, text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|&byte| byte == b'"' || byte == b'\'') {
        let quote = at + found;
        at = quote + 1;
        let Some(member) = member_value(rules, bytes, quote) else {
            continue;
        };
        at = member.end;
        for (start, end) in member.texts {
            let value = &text[start..end];
            if value.is_empty() || marker_len(value) == Some(value.len()) {
                continue;
            }
            let out = out.get_or_insert_with(|| String::with_capacity(text.len() + 32));
            out.push_str(&text[copied..start]);
            out.push_str(FIELD_MARKER);
            copied = end;
        }
    }
    out.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

/// What stands under a secret name.
struct Secret {
    /// Where its texts begin and end, without their quotes.
    texts: Vec<(usize, usize)>,
    /// Where it ends.
    end: usize,
}

/// The value of a member, when the quote at `quote` ends its name and the name is secret: a text, or the texts in
/// an array or object.
fn member_value(rules: &Redactor, bytes: &[u8], quote: usize) -> Option<Secret> {
    let mark = bytes[quote];
    // Quotes of JSON within text are escaped: as many times as the name's are.
    let escapes = bytes[..quote]
        .iter()
        .rev()
        .take_while(|&&byte| byte == b'\\')
        .count();
    let name_end = quote - escapes;
    let floor = name_end.saturating_sub(4 * super::names::NAME_BYTES_MAX);
    let name_start = floor + bytes[floor..name_end].iter().rposition(|&byte| byte == mark)? + 1;
    let name = std::str::from_utf8(&bytes[name_start..name_end]).ok()?;
    if !rules.is_secret_name(name) {
        return None;
    }
    let skip = |at: usize| {
        at + bytes[at..]
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace())
            .count()
    };
    let colon = skip(quote + 1);
    if bytes.get(colon) != Some(&b':') {
        return None;
    }
    let open = skip(colon + 1);
    if matches!(bytes.get(open), Some(b'[' | b'{')) {
        return Some(texts_within(bytes, open, mark, escapes));
    }
    let value_mark = open + escapes;
    if bytes.get(open..value_mark)?.iter().any(|&byte| byte != b'\\') || bytes.get(value_mark) != Some(&mark)
    {
        return None;
    }
    let (end, after) = text_end(bytes, value_mark, escapes);
    Some(Secret {
        texts: vec![(value_mark + 1, end)],
        end: after,
    })
}

/// Where the text ends whose quote stands at `quote`, and where what comes after it begins. Cut off: what is there is
/// all there is of it.
fn text_end(bytes: &[u8], quote: usize, escapes: usize) -> (usize, usize) {
    let start = quote + 1;
    let mut before = 0;
    for (at, &byte) in bytes.iter().enumerate().skip(start) {
        if byte == bytes[quote] && before == escapes {
            return (at - escapes, at + 1);
        }
        before = if byte == b'\\' { before + 1 } else { 0 };
    }
    (bytes.len(), bytes.len())
}

/// The texts in the array or object that opens at `open`, but for the names in it. Cut off, it ends with the text.
fn texts_within(bytes: &[u8], open: usize, mark: u8, escapes: usize) -> Secret {
    let mut texts = Vec::new();
    let (mut depth, mut at) = (0_usize, open);
    // What stands before: backslashes, and before them.
    let (mut slashes, mut before) = (0, b' ');
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            // The text ends in which all this stands as JSON.
            b'"' | b'\'' if byte == mark && slashes < escapes => break,
            // Of the other kind of quotes those where a value may begin: others are apostrophes.
            b'"' | b'\''
                if (byte == mark && slashes == escapes)
                    || (byte != mark && matches!(before, b'[' | b'{' | b',' | b':' | b'(')) =>
            {
                let (end, after) = text_end(bytes, at, slashes);
                let next = bytes[after..].iter().find(|byte| !byte.is_ascii_whitespace());
                if next != Some(&b':') {
                    texts.push((at + 1, end));
                }
                (at, slashes, before) = (after, 0, byte);
                continue;
            }
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
        slashes = if byte == b'\\' { slashes + 1 } else { 0 };
        if !byte.is_ascii_whitespace() && byte != b'\\' {
            before = byte;
        }
    }
    Secret { texts, end: at }
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Whether a word may begin here. The letter of an escape (`\n`) is no part of the word after it.
fn begins_word(bytes: &[u8], at: usize) -> bool {
    match bytes.get(..at) {
        Some([.., b'\\', b'b' | b'f' | b'n' | b'r' | b't']) => true,
        Some([.., before]) => !is_word(*before),
        _ => true,
    }
}

fn run(bytes: &[u8], from: usize, part: impl Fn(u8) -> bool) -> usize {
    from + bytes[from.min(bytes.len())..]
        .iter()
        .take_while(|&&byte| part(byte))
        .count()
}

// Numbers.

/// Of digits that begin at `at`: where their word ends, and whether a card or social security number begins here.
pub(super) fn digits(bytes: &[u8], at: usize) -> (usize, bool) {
    let (end, found) = number_at(bytes, at);
    (end, found.is_some())
}

/// Where the word of digits ends, and the number that begins with it, with its end.
fn number_at(bytes: &[u8], at: usize) -> (usize, Option<(usize, Pattern)>) {
    let end = run(bytes, at, is_word);
    // The fraction of a number is none.
    let fraction = matches!(bytes.get(..at), Some([.., b'0'..=b'9', b'.']));
    if fraction || !begins_word(bytes, at) || !bytes[at..end].iter().all(u8::is_ascii_digit) {
        return (end, None);
    }
    let ssn = || ssn_end(bytes, at, end).map(|end| (end, Pattern::UsSsn));
    (
        end,
        card_end(bytes, at)
            .map(|end| (end, Pattern::CardNumber))
            .or_else(ssn),
    )
}

fn ssn_end(bytes: &[u8], at: usize, end: usize) -> Option<usize> {
    let group = |from: usize, len: usize| {
        let digits = bytes.get(from..from + len)?;
        (digits.iter().all(u8::is_ascii_digit)).then_some(from + len)
    };
    if end - at != 3 || bytes.get(end) != Some(&b'-') {
        return None;
    }
    let second = group(end + 1, 2)?;
    if bytes.get(second) != Some(&b'-') {
        return None;
    }
    let third = group(second + 1, 4)?;
    bytes
        .get(third)
        .is_none_or(|&byte| !is_word(byte))
        .then_some(third)
}

const CARD_DIGITS_MIN: usize = 13;
const CARD_DIGITS_MAX: usize = 19;

/// The end of the longest card number that begins here: words of digits, one space or hyphen between them.
fn card_end(bytes: &[u8], at: usize) -> Option<usize> {
    let mut digits = [0_u8; CARD_DIGITS_MAX];
    let (mut count, mut from, mut longest) = (0, at, None);
    loop {
        let end = run(bytes, from, |byte| byte.is_ascii_digit());
        let group = &bytes[from..end];
        if group.is_empty() || bytes.get(end).is_some_and(|&byte| is_word(byte)) {
            return longest;
        }
        let Some(place) = digits.get_mut(count..count + group.len()) else {
            return longest;
        };
        place.copy_from_slice(group);
        count += group.len();
        let known = &digits[..count];
        if count >= CARD_DIGITS_MIN && is_issued(known) && has_good_check_digit(known) {
            longest = Some(end);
        }
        if !matches!(bytes.get(end), Some(b' ' | b'-')) {
            return longest;
        }
        from = end + 1;
    }
}

/// Whether a known issuer gives out numbers that begin so: Visa, Mastercard, American Express, Discover, Diners
/// Club, JCB, UnionPay, Maestro.
fn is_issued(digits: &[u8]) -> bool {
    let first = digits
        .iter()
        .take(4)
        .fold(0_u32, |number, digit| number * 10 + u32::from(digit - b'0'));
    matches!(
        first,
        4000..=4999
            | 5100..=5599
            | 2221..=2720
            | 3400..=3499
            | 3700..=3799
            | 6011
            | 6440..=6599
            | 3000..=3059
            | 3095
            | 3600..=3699
            | 3800..=3999
            | 3528..=3589
            | 6200..=6299
            | 8100..=8199
            | 5018
            | 5020
            | 5038
            | 5600..=5899
            | 6304
            | 6759
            | 6761..=6763
            | 6390
    )
}

/// Luhn's sum.
fn has_good_check_digit(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| match (u32::from(digit - b'0'), place % 2) {
            (digit, 0) => digit,
            (digit @ 0..5, _) => digit * 2,
            (digit, _) => digit * 2 - 9,
        })
        .sum();
    sum.is_multiple_of(10)
}

// Addresses.

const fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-' | b'\'')
}

const fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

/// Letters of alphabets that write words apart: one may stand in an address, and ends where it ends.
fn is_letter(char: char) -> bool {
    u32::from(char) < 0x590 && char.is_alphanumeric()
}

/// Whether an address could stand around the `@` at `at`.
pub(super) fn is_address(bytes: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| bytes.get(before));
    before.is_some_and(|&byte| is_local(byte) || byte >= 0x80)
        && bytes
            .get(at + 1)
            .is_some_and(|&byte| byte.is_ascii_alphanumeric() || byte >= 0x80)
        && bytes[at + 1..]
            .iter()
            .take_while(|&&byte| is_domain(byte) || byte >= 0x80)
            .any(|&byte| byte == b'.')
}

/// Where the address around the `@` at `at` begins and ends; it begins at `floor` or after.
fn address_at(text: &str, at: usize, floor: usize) -> Option<(usize, usize)> {
    let mut start = at;
    for (place, char) in text[floor..at].char_indices().rev() {
        let part =
            u8::try_from(char).map_or_else(|_| is_letter(char), |byte| is_local(byte) || is_letter(char));
        if !part {
            break;
        }
        start = floor + place;
    }
    // Quotes around it are not the address's, nor is the letter of an escape before it.
    start += text[start..at].bytes().take_while(|&byte| byte == b'\'').count();
    if matches!(
        text.as_bytes().get(start.saturating_sub(1)..start + 1),
        Some([b'\\', b'b' | b'f' | b'n' | b'r' | b't'])
    ) {
        start += 1;
    }
    if start >= at {
        return None;
    }
    let mut end = at + 1;
    for (place, char) in text[at + 1..].char_indices() {
        let part =
            u8::try_from(char).map_or_else(|_| is_letter(char), |byte| is_domain(byte) || is_letter(char));
        if !part {
            break;
        }
        end = at + 1 + place + char.len_utf8();
    }
    let domain = text[at + 1..end].trim_end_matches(['.', '-']);
    let (name, last) = domain.rsplit_once('.')?;
    let is_top = last.chars().count() >= 2 && last.chars().next().is_some_and(char::is_alphabetic);
    (is_top && !name.is_empty() && !name.starts_with('.')).then_some((start, at + 1 + domain.len()))
}

// Tokens.

/// Whether the word `bearer` stands here, and something after it.
pub(super) fn is_bearer_word(bytes: &[u8], at: usize) -> bool {
    bytes
        .get(at..at + 6)
        .is_some_and(|word| word.eq_ignore_ascii_case(b"bearer"))
        && bytes
            .get(at + 6)
            .is_some_and(|&byte| byte.is_ascii_whitespace() || matches!(byte, b'\\' | b'%' | b'+'))
}

/// The end of a bearer token whose word begins at `at`.
///
/// `bearer` is a word of English too. What follows is a token if it has a digit or is longer than words are,
/// mixes its cases, or if the header's name stands before it.
fn bearer_at(bytes: &[u8], at: usize) -> Option<usize> {
    if !is_bearer_word(bytes, at) || !begins_word(bytes, at) {
        return None;
    }
    let mut start = run(bytes, at + 6, |byte| byte.is_ascii_whitespace());
    // Of JSON within text.
    if matches!(bytes.get(start..start + 2), Some([b'\\', b't' | b'n'])) {
        start += 2;
    }
    if start == at + 6 {
        return None;
    }
    let is_part = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/' | b'=' | b':')
    };
    let mut end = run(bytes, start, is_part);
    while end > start && matches!(bytes[end - 1], b'.' | b':' | b'-') {
        end -= 1;
    }
    let token = &bytes[start..end];
    if token.is_empty() {
        return None;
    }
    let long = token.len() >= 20;
    let digit = token.iter().any(u8::is_ascii_digit);
    let mixed = token.iter().any(u8::is_ascii_lowercase) && token[1..].iter().any(u8::is_ascii_uppercase);
    (long || digit || mixed || is_header(&bytes[..at])).then_some(end)
}

/// Whether a text ends with the name of the header that carries tokens.
fn is_header(before: &[u8]) -> bool {
    let name = before
        .iter()
        .rposition(|&byte| !matches!(byte, b' ' | b':' | b'"' | b'\'' | b'\\' | b'=' | b'[' | b'{'))
        .map_or(0, |last| last + 1);
    name < before.len()
        && name
            .checked_sub(13)
            .and_then(|start| before.get(start..name))
            .is_some_and(|word| word.eq_ignore_ascii_case(b"authorization"))
}

/// Whether an access key id of AWS begins here: its four letters and sixteen more.
pub(super) fn is_aws(bytes: &[u8], at: usize) -> bool {
    aws_len(bytes, at).is_some()
}

fn aws_len(bytes: &[u8], at: usize) -> Option<usize> {
    let prefix = bytes.get(at..at + 4)?;
    if !matches!(prefix, b"AKIA" | b"ASIA" | b"ABIA" | b"ACCA") {
        return None;
    }
    // One more than it has tells that it has more.
    let near = bytes.get(..at + 21).unwrap_or(bytes);
    let end = run(near, at + 4, |byte| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit()
    });
    (end - at == 20).then_some(20)
}

fn aws_at(bytes: &[u8], at: usize) -> Option<usize> {
    let end = at + aws_len(bytes, at)?;
    (begins_word(bytes, at) && bytes.get(end).is_none_or(|&byte| !is_word(byte))).then_some(end)
}

/// Fewest characters after the prefix of a token of GitHub or Slack. Real ones have more; a cut one is one too.
const TOKEN_CHARS_MIN: usize = 10;

/// Where a token of Slack has its first digit at latest: real ones are shorter. Without a bound each of many
/// prefixes in a row would be looked at up to the end of the text.
const SLACK_DIGIT_WITHIN: usize = 64;

/// Whether the `_` at `at` ends the prefix of a token of GitHub.
pub(super) fn is_github(bytes: &[u8], at: usize) -> bool {
    github_at(bytes, at).is_some()
}

fn github_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let before = &bytes[..at];
    let prefix = if before.ends_with(b"github_pat") {
        10
    } else if matches!(before, [.., b'g', b'h', b'p' | b'o' | b'u' | b's' | b'r']) {
        3
    } else {
        return None;
    };
    let end = run(bytes, at + 1, is_word);
    (end - at > TOKEN_CHARS_MIN).then_some((at - prefix, end))
}

/// Whether the `-` at `at` ends the prefix of a token of Slack.
pub(super) fn is_slack(bytes: &[u8], at: usize) -> bool {
    slack_at(bytes, at).is_some()
}

fn slack_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let prefix = match &bytes[..at] {
        [.., b'x', b'o', b'x', kind] if kind.is_ascii_lowercase() => 4,
        [.., b'x', b'a', b'p', b'p'] => 4,
        _ => return None,
    };
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let near = bytes.get(..at + 1 + SLACK_DIGIT_WITHIN).unwrap_or(bytes);
    if !near[at + 1..run(near, at + 1, is_part)]
        .iter()
        .any(u8::is_ascii_digit)
    {
        return None;
    }
    let mut end = run(bytes, at + 1, is_part);
    while end > at && bytes[end - 1] == b'-' {
        end -= 1;
    }
    (end - at > TOKEN_CHARS_MIN).then_some((at - prefix, end))
}

/// The end of a private key in PEM whose first line begins at `at`; the end of the text if its last is missing.
fn private_key_at(text: &str, at: usize) -> Option<usize> {
    /// Longest label of a key: `ENCRYPTED`, `OPENSSH`, `RSA`, `PGP` … and `PRIVATE KEY BLOCK`.
    const LABEL_BYTES_MAX: usize = 64;
    let rest = text.get(at..)?.strip_prefix("-----BEGIN ")?;
    let label = run(rest.as_bytes(), 0, |byte| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
    });
    if label > LABEL_BYTES_MAX || !rest[..label].contains("PRIVATE KEY") {
        return None;
    }
    let body = at + "-----BEGIN ".len() + label;
    let Some(last) = text[body..].find("-----END ") else {
        return Some(text.len());
    };
    let line = body + last + "-----END ".len();
    let label = run(text.as_bytes(), line, |byte| {
        byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b' '
    });
    Some(run(text.as_bytes(), label, |byte| byte == b'-'))
}
