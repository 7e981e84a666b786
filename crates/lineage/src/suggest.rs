//! What a missing file may be called now: files nearby that have its name, its bytes, or the rows it was cited for.

use std::io;
use std::path::{Path, PathBuf};

use crate::drill::{drill, find_key, source_type};
use crate::index::Evidence;
use crate::source::{Encoding, Reading, Source, SourceType};
use crate::{Places, SourceFile, hash_file};

/// Entries of folders that are looked at, in all.
const ENTRIES_MAX: usize = 20_000;

/// How deep.
const DEPTH_MAX: usize = 6;

/// Files whose rows are looked at.
const CANDIDATES_MAX: usize = 32;

/// Largest such file; one pass over it takes a quarter of a second.
const CANDIDATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Suggestions made.
const SUGGESTIONS_MAX: usize = 3;

/// A file that may be the missing one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// Where it is.
    pub path: PathBuf,
    /// How large.
    pub bytes: u64,
    /// It has the bytes that were read then.
    pub same_bytes: bool,
    /// It has the name.
    pub same_name: bool,
    /// So many of the different ids name a row of it.
    pub ids: (u64, u64),
}

impl Suggestion {
    /// Why it may be.
    pub fn why(&self) -> String {
        let mut why = Vec::new();
        if self.same_bytes {
            why.push("the same bytes".to_owned());
        }
        if self.same_name {
            why.push("the same name".to_owned());
        }
        if self.ids.1 > 0 {
            why.push(format!("{} of {} ids", self.ids.0, self.ids.1));
        }
        why.push(format!("{} bytes", self.bytes));
        why.join(", ")
    }
}

/// Files beneath the roots that may be the one that evidence cites, the likeliest first.
pub fn suggest(places: &Places, function: &str, evidence: &Evidence) -> Vec<Suggestion> {
    let name = evidence
        .uri
        .as_deref()
        .and_then(|uri| uri.rsplit(['/', '\\']).next())
        .unwrap_or_default();
    let mut files = Vec::new();
    let mut left = ENTRIES_MAX;
    for root in places.roots() {
        walk(root, 0, &mut left, &mut files);
    }
    files.sort();
    files.dedup();
    let wanted = evidence
        .evidence_type
        .as_deref()
        .and_then(SourceType::parse)
        .or_else(|| SourceType::parse(name.rsplit('.').next()?));
    let named = |path: &Path| {
        path.extension()
            .and_then(|extension| SourceType::parse(extension.to_str()?))
    };
    files.retain(|path| named(path).is_some_and(|known| wanted.is_none_or(|wanted| wanted == known)));
    // Those of the name first, then those of similar ones: only so many are opened.
    let likeness = |path: &PathBuf| {
        let own = path.file_name().and_then(|own| own.to_str()).unwrap_or_default();
        let common = own.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        (std::cmp::Reverse(own == name), std::cmp::Reverse(common))
    };
    files.sort_by_key(likeness);
    let mut suggestions: Vec<Suggestion> = files
        .iter()
        .take(CANDIDATES_MAX)
        .filter_map(|path| look(path, name, function, evidence))
        .collect();
    suggestions.sort_by_key(|suggestion| {
        std::cmp::Reverse((suggestion.same_bytes, suggestion.ids.0, suggestion.same_name))
    });
    suggestions.truncate(SUGGESTIONS_MAX);
    suggestions
}

fn walk(folder: &Path, depth: usize, left: &mut usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let name = entry.file_name();
        let hidden = name
            .to_str()
            .is_none_or(|name| name.starts_with('.') || name == "target");
        match entry.file_type() {
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(kind) if kind.is_dir() && !hidden && depth < DEPTH_MAX => {
                walk(&entry.path(), depth + 1, left, files);
            }
            _ => {}
        }
    }
}

fn look(path: &Path, name: &str, function: &str, evidence: &Evidence) -> Option<Suggestion> {
    let file = SourceFile::open_without_links(path).ok()?;
    let same_name = path.file_name().is_some_and(|own| own.to_str() == Some(name)) && !name.is_empty();
    let mut suggestion = Suggestion {
        path: path.to_owned(),
        bytes: file.bytes(),
        same_bytes: false,
        same_name,
        ids: (0, 0),
    };
    if file.bytes() <= CANDIDATE_BYTES_MAX {
        if let Some(then) = &evidence.hash {
            let now = hash_file(&file, &mut |_| {}).ok();
            suggestion.same_bytes = now.is_some_and(|now| now.eq_ignore_ascii_case(then));
        }
        suggestion.ids = ids_of(&file, function, evidence).unwrap_or_default();
    }
    (suggestion.same_bytes || same_name || suggestion.ids.0 > 0).then_some(suggestion)
}

fn ids_of(file: &SourceFile, function: &str, evidence: &Evidence) -> Option<(u64, u64)> {
    let mut progress = |_| {};
    let mut reading = Reading {
        encoding: Encoding::Utf8,
        delimiter: b',',
        hashed: false,
        progress: &mut progress,
    };
    let unhashed = Evidence {
        hash: None,
        ..evidence.clone()
    };
    let source = Source::open(file, source_type(evidence, file.path()).ok()?, &reading).ok()?;
    let key = find_key(&source, function, &unhashed, None, &mut reading).ok()?;
    let drilled = drill(&source, &unhashed, &key, &mut reading, &mut |_, _| {
        Ok::<(), io::Error>(())
    })
    .ok()?;
    let all = u64::try_from(drilled.ids).ok()?;
    let without = u64::try_from(drilled.unmatched.len()).ok()?;
    Some((all - without, all))
}
