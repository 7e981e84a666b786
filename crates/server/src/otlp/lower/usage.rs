//! Tokens and money.
//!
//! Tokens stand as the sender counts them: input includes what came from a cache, output includes reasoning,
//! and nothing is added to either (docs/otel-mapping.md, trap 4).

use evidence::NanoCents;
use evidence::canonical::{Finite, INTEGER_MAX};

use super::super::any::Any;
use super::names::Slot;
use super::view::View;

/// A count, if it is one that JSON can hold. Some emitters send counts as doubles or text.
fn count(value: Any<'_>) -> Option<i64> {
    let count = match value {
        Any::Int(number) => number,
        #[expect(
            clippy::cast_possible_truncation,
            reason = "`as` saturates, and the bound is checked below"
        )]
        Any::Double(number) if number.fract() == 0.0 => number as i64,
        Any::Str(text) => text.parse().ok()?,
        _ => return None,
    };
    (0..=INTEGER_MAX).contains(&count).then_some(count)
}

/// The tokens of a model call.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    pub(crate) input: Option<i64>,
    pub(crate) output: Option<i64>,
    pub(crate) total: Option<i64>,
    pub(crate) cache_read: Option<i64>,
    pub(crate) cache_write: Option<i64>,
    pub(crate) reasoning: Option<i64>,
}

/// Reads the tokens; the places of what was read go to `used`.
pub(crate) fn tokens(view: &View<'_, '_>, used: &mut Vec<usize>) -> Tokens {
    let mut read = |slot| {
        let count = count(view.value(slot)?)?;
        used.extend(view.found.place(slot));
        Some(count)
    };
    let (input, output) = (read(Slot::InputTokens), read(Slot::OutputTokens));
    let sum = || match (input, output) {
        (Some(input), Some(output)) => Some(input + output).filter(|sum| *sum <= INTEGER_MAX),
        _ => None,
    };
    Tokens {
        input,
        output,
        total: read(Slot::TotalTokens).or_else(sum),
        cache_read: read(Slot::CacheRead),
        cache_write: read(Slot::CacheWrite),
        reasoning: read(Slot::Reasoning),
    }
}

/// What the span cost, in US cents. Another currency, or no price at all, is 0 and stays as sent.
pub(crate) fn cost_cents(view: &View<'_, '_>, used: &mut Vec<usize>) -> Finite {
    let dollars = match view.value(Slot::Cost) {
        Some(Any::Double(number)) => number,
        #[expect(
            clippy::cast_precision_loss,
            reason = "prices beyond 2^53 dollars are refused below"
        )]
        Some(Any::Int(number)) => number as f64,
        Some(Any::Str(text)) => text.parse().unwrap_or(f64::NAN),
        _ => return Finite::default(),
    };
    if view
        .text(Slot::Currency)
        .is_some_and(|currency| !currency.eq_ignore_ascii_case("USD"))
    {
        return Finite::default();
    }
    // Through billionths of a cent, so that 0.0042 dollars are 0.42 cents and not 0.42000000000000004.
    let cents = NanoCents::from_cents(dollars * 100.0)
        .map(NanoCents::cents)
        .and_then(Finite::new);
    match cents.filter(|cents| NanoCents::from_cents(cents.get()).is_some()) {
        Some(cents) => {
            used.extend(view.found.place(Slot::Cost));
            cents
        }
        None => Finite::default(),
    }
}
