//! The events and links of a span, kept as sent.

use evidence::canonical::Writer;

use super::super::ordered::Ordered;
use super::super::span::{Event, Link};

/// The events that were not used up; none when there are none.
pub(crate) fn events(events: &[Event<'_>], used: &[usize]) -> Option<Vec<u8>> {
    if events.len() <= used.len() {
        return None;
    }
    let mut out = Vec::new();
    let mut ordered = Ordered::default();
    let mut w = Writer::new(&mut out);
    w.open_array();
    for (place, event) in events.iter().enumerate() {
        // Used places were noted in order.
        if used.binary_search(&place).is_ok() {
            continue;
        }
        w.open_object();
        w.key("attributes");
        ordered.of(&event.attributes);
        ordered.write(&event.attributes, None, &mut w);
        write_dropped(event.dropped, &mut w);
        w.key("name");
        w.str(event.name);
        w.key("time_unix_nano");
        w.str(&event.time.to_string());
        w.close_object();
    }
    w.close_array();
    Some(out)
}

/// The links, as sent; none when there are none.
pub(crate) fn links(links: &[Link<'_>]) -> Option<Vec<u8>> {
    if links.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    let mut ordered = Ordered::default();
    let mut w = Writer::new(&mut out);
    w.open_array();
    for link in links {
        w.open_object();
        w.key("attributes");
        ordered.of(&link.attributes);
        ordered.write(&link.attributes, None, &mut w);
        write_dropped(link.dropped, &mut w);
        if link.flags != 0 {
            w.key("flags");
            w.u64(u64::from(link.flags));
        }
        w.key("span_id");
        w.hex(link.span_id);
        w.key("trace_id");
        w.hex(link.trace_id);
        if !link.trace_state.is_empty() {
            w.key("trace_state");
            w.str(link.trace_state);
        }
        w.close_object();
    }
    w.close_array();
    Some(out)
}

fn write_dropped(dropped: u32, w: &mut Writer<'_>) {
    if dropped != 0 {
        w.key("dropped_attributes_count");
        w.u64(u64::from(dropped));
    }
}
