//! Tokens and keys of those who give them out.

use super::{begins_word, is_word, run};

/// Whether the word `bearer` stands here, and something after it.
pub(in crate::redact) fn is_bearer_word(bytes: &[u8], at: usize) -> bool {
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
pub(super) fn bearer_at(bytes: &[u8], at: usize) -> Option<usize> {
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
pub(in crate::redact) fn is_aws(bytes: &[u8], at: usize) -> bool {
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

pub(super) fn aws_at(bytes: &[u8], at: usize) -> Option<usize> {
    let end = at + aws_len(bytes, at)?;
    (begins_word(bytes, at) && bytes.get(end).is_none_or(|&byte| !is_word(byte))).then_some(end)
}

/// Fewest characters after the prefix of a token of GitHub or Slack. Real ones have more; a cut one is one too.
const TOKEN_CHARS_MIN: usize = 10;

/// Where a token of Slack has its first digit at latest: real ones are shorter. Without a bound each of many
/// prefixes in a row would be looked at up to the end of the text.
const SLACK_DIGIT_WITHIN: usize = 64;

/// Whether the `_` at `at` ends the prefix of a token of GitHub.
pub(in crate::redact) fn is_github(bytes: &[u8], at: usize) -> bool {
    github_at(bytes, at).is_some()
}

pub(super) fn github_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
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
pub(in crate::redact) fn is_slack(bytes: &[u8], at: usize) -> bool {
    slack_at(bytes, at).is_some()
}

pub(super) fn slack_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
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
pub(super) fn private_key_at(text: &str, at: usize) -> Option<usize> {
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
