//! Reading files of a data folder: regular ones alone, and no more of one than it may hold.
//!
//! Who examines a folder that others can write into finds there what they put: a pipe, whose opening waits until somebody
//! writes, or a device, which says that it is empty and never ends. Links are followed, as keys and archives may lie
//! elsewhere.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// It cannot be opened, or is something else.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    // Before it is opened: that is where a pipe blocks.
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    // It may have become something else in between.
    regular(&file.metadata()?)?;
    Ok(file)
}

/// All that a file holds.
///
/// # Errors
/// It cannot be read, or is longer than `bytes_max`.
pub(crate) fn read(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
    }
    Ok(bytes)
}

/// The error with the path that it is about.
pub(crate) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no regular file",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_and_a_folder_are_not_opened_and_a_long_file_is_not_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let endless = folder.path().join("endless");
        std::os::unix::fs::symlink("/dev/zero", &endless).unwrap();
        for path in [endless.as_path(), folder.path()] {
            assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        let absent = open(&folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        let file = folder.path().join("file");
        fs::write(&file, b"123").unwrap();
        assert_eq!(read(open(&file).unwrap(), 3).unwrap(), b"123");
        assert!(read(open(&file).unwrap(), 2).is_err());
    }
}
