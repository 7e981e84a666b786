//! Remembers how attributes were ordered and looked up.
//!
//! SDKs send the same keys in the same order for every span of a kind, so most spans find theirs done.

use super::super::any::Attr;
use super::super::ordered::Ordered;
use super::names::Found;

/// The keys of a span's attributes as sent, and what follows from them alone.
#[derive(Debug)]
pub(crate) struct Shape {
    keys: Vec<String>,
    pub(crate) ordered: Ordered,
    pub(crate) found: Found,
}

/// Shapes that are remembered: agents, chats and tools of two or three vocabularies.
const SHAPES_MAX: usize = 12;

/// Spans with more attributes are looked up anew, so that remembering takes little memory.
const SHAPE_KEYS_MAX: usize = 128;

impl Shape {
    fn of(attrs: &[Attr<'_>]) -> Self {
        let mut ordered = Ordered::default();
        ordered.of(attrs);
        let mut found = Found::new();
        found.read(attrs, &ordered);
        Self {
            keys: attrs.iter().map(|attr| attr.key.to_owned()).collect(),
            ordered,
            found,
        }
    }

    fn is_of(&self, attrs: &[Attr<'_>]) -> bool {
        self.keys.len() == attrs.len() && self.keys.iter().zip(attrs).all(|(key, attr)| key == attr.key)
    }
}

/// The shapes met last.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    /// The last one first.
    known: Vec<Shape>,
    large: Option<Shape>,
}

impl Shapes {
    /// The shape of these attributes, of which none is taken yet.
    pub(crate) fn look_up(&mut self, attrs: &[Attr<'_>]) -> &mut Shape {
        if attrs.len() > SHAPE_KEYS_MAX {
            return self.large.insert(Shape::of(attrs));
        }
        if let Some(place) = self.known.iter().position(|shape| shape.is_of(attrs)) {
            self.known[..=place].rotate_right(1);
        } else {
            self.known.truncate(SHAPES_MAX - 1);
            self.known.insert(0, Shape::of(attrs));
        }
        let shape = &mut self.known[0];
        shape.ordered.reset();
        shape
    }
}
