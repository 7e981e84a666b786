//! Files that somebody names, read to a bound: a name may be that of a device or pipe that never ends.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// All that a file holds; `None`: it is longer than `bytes_max`.
///
/// Pipes are read too, as a shell names one for `<(command)`.
///
/// # Errors
/// It cannot be opened or read.
pub(crate) fn read(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_the_bound_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"123").unwrap();
        assert_eq!(read(&file, 3).unwrap().unwrap(), b"123");
        assert!(read(&file, 2).unwrap().is_none());
        assert!(read(Path::new("/dev/zero"), 1 << 16).unwrap().is_none());
        assert!(read(folder.path(), 3).is_err());
        let absent = read(&folder.path().join("absent"), 3).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }
}
