//! What a run is about: the words that fill the gaps in its texts.

use super::super::dice::Dice;

/// Names of the gaps.
#[cfg(test)]
pub(in super::super) const GAPS: [&str; 13] = [
    "amount", "city", "customer", "date", "file", "high", "invoice", "n", "order", "product", "service",
    "supplier", "topic",
];

/// What fills the gaps in one run.
pub(in super::super) struct Gaps(Vec<(&'static str, String)>);

impl Gaps {
    pub(in super::super) fn fill(dice: &mut Dice) -> Self {
        let cents = dice.below(100);
        let mut of = |words: &[&str]| (*dice.pick(words)).to_owned();
        let mut gaps = vec![
            (
                "city",
                of(&[
                    "Lyon", "Hamburg", "Turin", "Porto", "Ghent", "Krakow", "Malmö", "Zürich", "Cork",
                ]),
            ),
            (
                "product",
                of(&[
                    "headphones",
                    "desk lamp",
                    "coffee grinder",
                    "rain jacket",
                    "e-reader",
                    "router",
                    "hiking boots",
                    "air purifier",
                ]),
            ),
            (
                "service",
                of(&[
                    "checkout",
                    "search-api",
                    "image-resizer",
                    "ledger-sync",
                    "mail-gateway",
                    "auth-proxy",
                ]),
            ),
            (
                "supplier",
                of(&[
                    "Nordlicht GmbH",
                    "Atelier Roux",
                    "Brennan & Sons",
                    "Officine Valli",
                    "Paperworks Ltd",
                ]),
            ),
            (
                "topic",
                of(&[
                    "sleep and memory in shift workers",
                    "heat pumps in old buildings",
                    "four-day weeks",
                    "microplastics in drinking water",
                    "phonics in early reading",
                    "sodium-ion cells",
                ]),
            ),
            (
                "file",
                of(&[
                    "src/import/rows.py",
                    "billing/tax.py",
                    "core/src/cache.rs",
                    "web/forms/address.ts",
                    "tools/sync_users.py",
                ]),
            ),
        ];
        gaps.push(("amount", format!("{}.{cents:02}", dice.between(12, 199))));
        gaps.push(("high", format!("{}.{cents:02}", dice.between(230, 990))));
        gaps.push((
            "order",
            format!("{}-{:05}", dice.pick(&["A", "B", "K", "W"]), dice.below(100_000)),
        ));
        gaps.push(("invoice", format!("INV-2026-{:04}", dice.below(10_000))));
        gaps.push(("customer", format!("C{:05}", dice.below(100_000))));
        gaps.push((
            "date",
            format!("2026-{:02}-{:02}", dice.between(1, 12), dice.between(1, 28)),
        ));
        Self(gaps)
    }

    /// One of the texts with its gaps filled.
    pub(in super::super) fn text(&self, dice: &mut Dice, texts: &[&str]) -> String {
        let mut text = (*dice.pick(texts)).to_owned();
        for (gap, filling) in &self.0 {
            text = text.replace(&format!("{{{gap}}}"), filling);
        }
        if text.contains("{n}") {
            text = text.replace("{n}", &dice.between(11, 9_999).to_string());
        }
        text
    }
}
