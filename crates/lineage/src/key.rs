//! Which columns make an id: said, known, or found from the data.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use crate::source::{Reading, Remarks, Source, SourceError};
use crate::{Column, Row};

/// Ids that are looked for when columns are found: enough to tell columns apart.
const IDS_LOOKED_FOR: usize = 10_000;

/// Most parts of an id.
const PARTS_MAX: usize = 6;

/// Columns tried for each part: the fullest.
const COLUMNS_TRIED: usize = 4;

/// Most ways to combine them: four parts of four columns.
const COMBINATIONS_MAX: usize = 256;

/// Most columns that are looked at in JSON, where each object may bring new ones.
const COLUMNS_MAX: usize = 1_024;

/// The key columns of the functions of the record-to-report document.
pub fn known_key(function: &str) -> Option<&'static [&'static str]> {
    match function {
        "tb_diagnostics" => Some(&["period", "entity", "account"]),
        "accruals_check" => Some(&["entity", "accrual_id"]),
        "email_evidence" => Some(&["email_id"]),
        _ => None,
    }
}

/// Columns that were found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In the order of the ids' parts.
    pub columns: Vec<String>,
    /// Ids, of those looked for, that name a row.
    pub matched: usize,
    /// Ids looked for.
    pub looked_for: usize,
    /// Others match as well.
    pub is_ambiguous: bool,
}

/// What was seen of one column: which values of which part.
#[derive(Default)]
struct Seen {
    first: usize,
    parts: BTreeMap<usize, HashSet<usize>>,
}

/// Finds the columns that make the ids: in one pass which columns hold which part, in another which combination
/// matches the most ids with the fewest rows. Beside them what was remarked: rows that could not be read may hold what
/// the others do not.
///
/// # Errors
/// The source cannot be read.
pub(crate) fn find(
    source: &Source<'_>,
    ids: &[String],
    reading: &mut Reading<'_>,
) -> Result<(Option<Found>, Remarks), SourceError> {
    let mut distinct: Vec<&str> = Vec::new();
    let mut known = HashSet::new();
    for id in ids {
        if known.len() < IDS_LOOKED_FOR && known.insert(id.as_str()) {
            distinct.push(id);
        }
    }
    let Some(parts) = most_common(distinct.iter().map(|id| id.split('|').count())) else {
        return Ok((None, Remarks::default()));
    };
    let parts = parts.min(PARTS_MAX);
    // values[p]: the texts that stand at part p; the last list is that of whole ids.
    let mut values: Vec<HashMap<&[u8], usize>> = vec![HashMap::new(); parts + 1];
    for id in &distinct {
        let pieces: Vec<&str> = id.split('|').collect();
        if pieces.len() == parts {
            for (part, piece) in pieces.iter().enumerate() {
                add(&mut values, part, piece);
            }
        }
        add(&mut values, parts, id);
    }
    let (columns, remarks) = columns_seen(source, &values, reading)?;
    let mut combinations = combine(&columns, parts);
    // A single column may hold whole ids, whatever they contain.
    combinations.extend(best(&columns, parts).into_iter().map(|column| vec![column]));
    combinations.sort();
    combinations.dedup();
    if combinations.is_empty() {
        return Ok((None, remarks));
    }
    let judged = judge(
        source,
        &combinations,
        values.last().unwrap_or(&HashMap::new()),
        reading,
    )?;
    let mut ranked: Vec<(usize, &Judged)> = judged.iter().enumerate().collect();
    ranked.sort_by_key(|(place, judged)| (std::cmp::Reverse(judged.ids.len()), judged.rows, *place));
    let Some((place, first)) = ranked.first().filter(|(_, first)| !first.ids.is_empty()) else {
        return Ok((None, remarks));
    };
    let is_ambiguous = ranked
        .get(1)
        .is_some_and(|(_, second)| (second.ids.len(), second.rows) == (first.ids.len(), first.rows));
    let found = combinations.get(*place).map(|combination| Found {
        columns: combination.iter().map(|column| column.1.clone()).collect(),
        matched: first.ids.len(),
        looked_for: distinct.len(),
        is_ambiguous,
    });
    Ok((found, remarks))
}

fn add<'a>(values: &mut [HashMap<&'a [u8], usize>], part: usize, text: &'a str) {
    if let Some(texts) = values.get_mut(part) {
        let next = texts.len();
        texts.entry(text.as_bytes()).or_insert(next);
    }
}

fn most_common(counts: impl Iterator<Item = usize>) -> Option<usize> {
    let mut tally: BTreeMap<usize, usize> = BTreeMap::new();
    for count in counts {
        *tally.entry(count).or_default() += 1;
    }
    tally
        .into_iter()
        .max_by_key(|(_, often)| *often)
        .map(|(count, _)| count)
}

/// A column by its first place and its name.
type Candidate = (usize, String);

fn columns_seen(
    source: &Source<'_>,
    values: &[HashMap<&[u8], usize>],
    reading: &mut Reading<'_>,
) -> Result<(HashMap<String, Seen>, Remarks), SourceError> {
    let mut columns: HashMap<String, Seen> = HashMap::new();
    let mut look = |name: &str, place: usize, text: &[u8]| {
        for (part, texts) in values.iter().enumerate() {
            let Some(value) = texts.get(text) else { continue };
            if !columns.contains_key(name) {
                if columns.len() == COLUMNS_MAX {
                    return;
                }
                columns.insert(
                    name.to_owned(),
                    Seen {
                        first: place,
                        ..Seen::default()
                    },
                );
            }
            if let Some(seen) = columns.get_mut(name) {
                seen.parts.entry(part).or_default().insert(*value);
            }
        }
    };
    let names = source.columns().unwrap_or_default();
    let read = source.each(reading, &mut |_, row| {
        match row {
            Row::Csv(record) => {
                for (place, (name, text)) in names.iter().zip(record.iter()).enumerate() {
                    look(name, place, text);
                }
            }
            Row::Cells(cells) => {
                for (place, (name, cell)) in names.iter().zip(cells.iter()).enumerate() {
                    if let Some(cell) = cell {
                        look(name, place, cell.text.as_bytes());
                    }
                }
            }
            Row::Json(object) => {
                for (place, (name, value)) in object.members.iter().enumerate() {
                    if let Some(text) = crate::row::json_text(value) {
                        look(name, place, text.as_bytes());
                    }
                }
            }
        }
        Ok::<bool, io::Error>(true)
    })?;
    // A name that is there twice is no key.
    columns.retain(|name, _| names.iter().filter(|known| *known == name).count() <= 1);
    Ok((columns, read.remarks))
}

/// The columns that hold the most values of a part.
fn best(columns: &HashMap<String, Seen>, part: usize) -> Vec<Candidate> {
    let mut ranked: Vec<(usize, Candidate)> = columns
        .iter()
        .filter_map(|(name, seen)| Some((seen.parts.get(&part)?.len(), (seen.first, name.clone()))))
        .collect();
    ranked.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    ranked
        .into_iter()
        .take(COLUMNS_TRIED)
        .map(|(_, column)| column)
        .collect()
}

fn combine(columns: &HashMap<String, Seen>, parts: usize) -> Vec<Vec<Candidate>> {
    let mut combinations: Vec<Vec<Candidate>> = vec![Vec::new()];
    for part in 0..parts {
        let candidates = best(columns, part);
        let mut longer = Vec::new();
        for combination in &combinations {
            for candidate in candidates
                .iter()
                .filter(|candidate| !combination.contains(candidate))
            {
                let mut next = combination.clone();
                next.push(candidate.clone());
                longer.push(next);
            }
        }
        longer.truncate(COMBINATIONS_MAX);
        combinations = longer;
    }
    combinations
}

#[derive(Default)]
struct Judged {
    ids: HashSet<usize>,
    rows: u64,
}

fn judge(
    source: &Source<'_>,
    combinations: &[Vec<Candidate>],
    whole: &HashMap<&[u8], usize>,
    reading: &mut Reading<'_>,
) -> Result<Vec<Judged>, SourceError> {
    let mut keys: Vec<Vec<Column>> = Vec::with_capacity(combinations.len());
    for combination in combinations {
        let names: Vec<String> = combination.iter().map(|column| column.1.clone()).collect();
        keys.push(source.key(&names)?);
    }
    let mut judged: Vec<Judged> = keys.iter().map(|_| Judged::default()).collect();
    let mut id = Vec::new();
    source.each(reading, &mut |_, row| {
        for (key, judged) in keys.iter().zip(&mut judged) {
            if id_of(row, key, &mut id)
                && let Some(found) = whole.get(id.as_slice())
            {
                judged.ids.insert(*found);
                judged.rows += 1;
            }
        }
        Ok(true)
    })?;
    Ok(judged)
}

/// The id of a row; `false`: it has none, as a cell of the key is not there.
pub(crate) fn id_of(row: &Row<'_>, key: &[Column], id: &mut Vec<u8>) -> bool {
    id.clear();
    for (place, column) in key.iter().enumerate() {
        if place > 0 {
            id.push(b'|');
        }
        match row.part(column) {
            Some(text) => id.extend_from_slice(&text),
            None => return false,
        }
    }
    true
}
