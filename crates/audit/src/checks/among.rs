//! Names as redaction leaves them, and what they may have been before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::is_redacted;

/// Names to look for others among. Both may be thousands, so what is known of these is found out once.
pub(crate) struct Among<'n> {
    plain: BTreeSet<&'n str>,
    /// By what they begin with.
    redacted: BTreeMap<&'n str, Vec<Beside<'n>>>,
}

impl<'n> Among<'n> {
    pub(crate) fn new(names: impl IntoIterator<Item = &'n str>) -> Self {
        let (mut plain, mut redacted) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
        for name in names {
            if is_redacted(name) {
                let beside = Beside::of(name);
                redacted.entry(beside.first).or_default().push(beside);
            } else {
                plain.insert(name);
            }
        }
        Self { plain, redacted }
    }

    /// Whether one of them may have been the same before redaction: what stands beside a marker stood there before.
    pub(crate) fn may_have(&self, name: &str) -> bool {
        if !is_redacted(name) {
            let begins = name.char_indices().map(|(at, _)| &name[..at]);
            let mut found = begins.chain([name]).filter_map(|begin| self.redacted.get(begin));
            return self.plain.contains(name)
                || found.any(|these| these.iter().any(|beside| beside.may_have_been(name)));
        }
        if !self.redacted.is_empty() {
            return true;
        }
        let beside = Beside::of(name);
        self.plain
            .range::<str, _>((Bound::Included(beside.first), Bound::Unbounded))
            .take_while(|plain| plain.starts_with(beside.first))
            .any(|plain| beside.may_have_been(plain))
    }
}

/// What stands beside the markers of a redacted name.
struct Beside<'n> {
    first: &'n str,
    between: Vec<&'n str>,
    last: &'n str,
    /// The last without the number that redaction puts behind names which have become the same.
    last_unnumbered: &'n str,
}

impl<'n> Beside<'n> {
    fn of(redacted: &'n str) -> Self {
        let (mut pieces, mut last) = (Vec::new(), redacted);
        while let Some((before, after)) = last.split_once("<REDACTED") {
            let Some((_, behind)) = after.split_once('>') else {
                break;
            };
            pieces.push(before);
            last = behind;
        }
        let mut pieces = pieces.into_iter();
        let numbered = last
            .rsplit_once(' ')
            .filter(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        Self {
            first: pieces.next().unwrap_or_default(),
            between: pieces.collect(),
            last,
            last_unnumbered: numbered.map_or(last, |(before, _)| before),
        }
    }

    /// Whether it may have been that name.
    fn may_have_been(&self, name: &str) -> bool {
        let Some(mut left) = name.strip_prefix(self.first) else {
            return false;
        };
        for piece in &self.between {
            match left.split_once(piece) {
                Some((_, behind)) => left = behind,
                None => return false,
            }
        }
        left.ends_with(self.last) || left.ends_with(self.last_unnumbered)
    }
}
