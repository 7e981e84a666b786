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

/// What the span cost, in US cents: the total, else the sum of what prompt and completion cost. Another currency, or no
/// price at all, is 0 and stays as sent. So do the parts, as their sum does not say them.
pub(crate) fn cost_cents(view: &View<'_, '_>, used: &mut Vec<usize>) -> Finite {
    if view
        .text(Slot::Currency)
        .is_some_and(|currency| !currency.eq_ignore_ascii_case("USD"))
    {
        return Finite::default();
    }
    let cost = match view.value(Slot::Cost) {
        Some(total) => price(total),
        None => sum_of_parts(view),
    };
    let cents = cost.map(NanoCents::cents).and_then(Finite::new);
    match cents.filter(|cents| NanoCents::from_cents(cents.get()).is_some()) {
        Some(cents) => {
            used.extend(view.found.place(Slot::Cost));
            cents
        }
        None => Finite::default(),
    }
}

/// A part that is not told adds nothing: a call for vectors has no completion. One that is no price makes the sum none.
fn sum_of_parts(view: &View<'_, '_>) -> Option<NanoCents> {
    let part = |slot| view.value(slot).map_or(Some(NanoCents::default()), price);
    Some(part(Slot::PromptCost)?.plus(part(Slot::CompletionCost)?))
}

/// A price in dollars. In billionths of a cent, so that 0.0042 dollars are 0.42 cents and not 0.42000000000000004.
fn price(value: Any<'_>) -> Option<NanoCents> {
    let dollars = match value {
        Any::Double(number) => number,
        #[expect(
            clippy::cast_precision_loss,
            reason = "prices beyond 2^53 dollars are refused below"
        )]
        Any::Int(number) => number as f64,
        Any::Str(text) => text.parse().ok()?,
        _ => return None,
    };
    NanoCents::from_cents(dollars * 100.0)
}
