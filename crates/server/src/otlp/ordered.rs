//! Attributes in canonical order, and which of them a mapping took.

use evidence::canonical::{Writer, key_order};

use super::any::Attr;

/// The member under which earlier values of a repeated attribute are kept.
const DUPLICATES: &str = "deponent.duplicate_attributes";

/// The member under which the attributes of a span's scope are kept.
pub(crate) const SCOPE: &str = "deponent.scope";

/// The member under which a data point keeps what its record has no place for.
pub(crate) const METRIC: &str = "deponent.metric";

/// Attributes in canonical order, and which of them no mapping took.
///
/// Of an attribute sent twice the last value counts, as a span's own `setAttribute` has it. The earlier ones
/// are kept under `deponent.duplicate_attributes`, an object of arrays; an attribute sent by a name that is
/// used here is kept there too.
#[derive(Debug, Default)]
pub(crate) struct Ordered {
    order: Vec<u32>,
    /// By place in the list as sent.
    states: Vec<State>,
    duplicates: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Kept,
    Taken,
    Duplicate,
}

impl Ordered {
    /// Puts `attrs` in order.
    pub(crate) fn of(&mut self, attrs: &[Attr<'_>]) {
        let len = u32::try_from(attrs.len()).unwrap_or(u32::MAX);
        self.order.clear();
        self.order.extend(0..len);
        self.states.clear();
        self.states.resize(attrs.len(), State::Kept);
        self.duplicates = 0;
        let key = |place: &u32| attrs.get(index(*place)).map_or("", |attr| attr.key);
        self.order
            .sort_unstable_by(|a, b| key_order(key(a), key(b)).then(a.cmp(b)));
        let mut after: Option<u32> = None;
        for &place in self.order.iter().rev() {
            let same = after.is_some_and(|after| key(&after) == key(&place));
            if same || matches!(key(&place), DUPLICATES | SCOPE | METRIC) {
                self.states[index(place)] = State::Duplicate;
                self.duplicates += 1;
            }
            after = Some(place);
        }
    }

    /// Forgets what was taken.
    pub(crate) fn reset(&mut self) {
        for state in &mut self.states {
            if *state == State::Taken {
                *state = State::Kept;
            }
        }
    }

    /// The places of attributes in order of keys, without earlier duplicates.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        self.order
            .iter()
            .map(|&place| index(place))
            .filter(|&place| self.states[place] != State::Duplicate)
    }

    /// Notes that the body says elsewhere what the attribute at `place` says.
    pub(crate) fn take(&mut self, place: usize) {
        if let Some(state) = self.states.get_mut(place).filter(|state| **state == State::Kept) {
            *state = State::Taken;
        }
    }

    /// Writes the object of what was not taken, with one more member of canonical JSON, [`SCOPE`] or [`METRIC`].
    pub(crate) fn write(&self, attrs: &[Attr<'_>], more: Option<(&'static str, &[u8])>, w: &mut Writer<'_>) {
        // `deponent.duplicate_attributes` sorts before both others.
        let duplicates = (self.duplicates > 0).then_some((DUPLICATES, None));
        let mut own = duplicates
            .into_iter()
            .chain(more.map(|(key, json)| (key, Some(json))))
            .peekable();
        let write_own = |w: &mut Writer<'_>, key: &'static str, json: Option<&[u8]>| {
            w.key(key);
            match json {
                Some(json) => {
                    w.raw(json);
                }
                None => self.write_duplicates(attrs, w),
            }
        };
        w.open_object();
        for &place in &self.order {
            let Some(attr) = attrs
                .get(index(place))
                .filter(|_| self.states[index(place)] == State::Kept)
            else {
                continue;
            };
            while let Some((key, json)) = own.next_if(|(key, _)| key_order(key, attr.key).is_lt()) {
                write_own(w, key, json);
            }
            w.key_any(attr.key);
            attr.value.write(w);
        }
        for (key, json) in own {
            write_own(w, key, json);
        }
        w.close_object();
    }

    fn write_duplicates(&self, attrs: &[Attr<'_>], w: &mut Writer<'_>) {
        w.open_object();
        let mut open: Option<&str> = None;
        for &place in &self.order {
            let Some(attr) = attrs.get(index(place)) else {
                continue;
            };
            if self.states[index(place)] != State::Duplicate {
                continue;
            }
            if open != Some(attr.key) {
                if open.is_some() {
                    w.close_array();
                }
                w.key_any(attr.key);
                w.open_array();
                open = Some(attr.key);
            }
            attr.value.write(w);
        }
        if open.is_some() {
            w.close_array();
        }
        w.close_object();
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).unwrap_or(usize::MAX)
}
