//! Tile paths, widths and entry bundles.

use tlog::{TilePath, TileWidth, TreeSize, decode_bundle, encode_bundle, tile_width};

pub(crate) fn run(data: &[u8]) {
    if let Some(path) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| TilePath::parse(text).ok())
    {
        assert_eq!(path.to_string().as_bytes(), data);
        let (level, index) = match path {
            TilePath::Hash { level, index, .. } => (level, index),
            TilePath::Entries { index, .. } => (0, index),
        };
        for size in [0, 1, 256, 70_000, u64::MAX] {
            let _ = tile_width(level, index, TreeSize::new(size));
        }
    }
    // One byte of width, then a bundle.
    let Some((width, bundle)) = data.split_first() else {
        return;
    };
    let Some(width) = TileWidth::new(u16::from(*width) + 1) else {
        return;
    };
    let entries: Result<Vec<&[u8]>, _> = decode_bundle(bundle, width).collect();
    if let Ok(entries) = entries {
        assert_eq!(entries.len(), width.as_usize());
        assert_eq!(encode_bundle(entries).as_deref(), Ok(bundle));
    }
}
