//! What models wrote and what they took, as a log has it.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{LineType, Lines, LogError, SourceFile};

/// Records that are listed: some 300 bytes each are held.
const LISTED_MAX: usize = 1_000_000;

/// A line about a model.
#[derive(Debug, Serialize)]
pub struct AiRecord {
    /// Its line.
    pub line: u64,
    /// The line as it stands.
    pub record: Box<RawValue>,
}

/// The numbers of one kind, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AiSum {
    /// `ai_output` lines.
    pub outputs: u64,
    /// `ai_metrics` lines.
    pub metrics: u64,
    /// Of the metrics.
    pub tokens: u64,
    /// Of the metrics, exactly.
    pub cost_usd: Decimal,
    /// Metrics whose tokens or cost is no number, or is beyond what can be added.
    pub unreadable: u64,
}

/// What a log says about models.
#[derive(Debug, Default)]
pub struct AiList {
    /// In the log's order.
    pub records: Vec<AiRecord>,
    /// By kind; lines without one under the empty name.
    pub sums: BTreeMap<String, AiSum>,
    /// All kinds together.
    pub total: AiSum,
    /// Lines that could not be read.
    pub malformed: u64,
}

#[derive(serde::Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    kind: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    cost_usd: Option<&'a RawValue>,
}

/// A number as it is written: never through binary floating point.
fn decimal(value: &RawValue) -> Option<Decimal> {
    let text = value.get().trim_matches('"');
    Decimal::from_str_exact(text)
        .or_else(|_| Decimal::from_scientific(text))
        .ok()
}

impl AiSum {
    fn add(&mut self, tokens: Option<&RawValue>, cost: Option<&RawValue>) {
        self.metrics += 1;
        let tokens = tokens.map(|tokens| {
            let count: u64 = tokens.get().parse().ok()?;
            self.tokens.checked_add(count)
        });
        let cost = cost.map(|cost| self.cost_usd.checked_add(decimal(cost)?));
        if matches!(tokens, Some(None)) || matches!(cost, Some(None)) {
            self.unreadable += 1;
            return;
        }
        self.tokens = tokens.flatten().unwrap_or(self.tokens);
        self.cost_usd = cost.flatten().unwrap_or(self.cost_usd);
    }
}

/// The lines of a log that are about models.
///
/// # Errors
/// The log cannot be read.
pub fn list_ai(log: &SourceFile) -> Result<AiList, LogError> {
    let mut lines = Lines::new(log.rewound()?);
    let mut list = AiList::default();
    while let Some(line) = lines.next_line()? {
        let is_output = match LineType::read(line.text) {
            Ok(LineType::AiOutput) => true,
            Ok(LineType::AiMetrics) => false,
            Ok(_) => continue,
            Err(_) => {
                list.malformed += 1;
                continue;
            }
        };
        let Ok(record) = serde_json::from_slice::<Box<RawValue>>(line.text) else {
            list.malformed += 1;
            continue;
        };
        let Ok(fields) = serde_json::from_slice::<Fields<'_>>(line.text) else {
            list.malformed += 1;
            continue;
        };
        if list.records.len() == LISTED_MAX {
            return Err(LogError::TooMany("1,000,000 records of models"));
        }
        let kind: Option<String> = fields.kind.and_then(|kind| serde_json::from_str(kind.get()).ok());
        let sum = list.sums.entry(kind.unwrap_or_default()).or_default();
        if is_output {
            sum.outputs += 1;
            list.total.outputs += 1;
        } else {
            sum.add(fields.tokens, fields.cost_usd);
            list.total.add(fields.tokens, fields.cost_usd);
        }
        list.records.push(AiRecord {
            line: line.number,
            record,
        });
    }
    if !log.is_unchanged() {
        return Err(LogError::Changed);
    }
    Ok(list)
}
