//! The mark that voids a group of commits whose write failed.
//!
//! The engine can not take back bytes that it wrote before a write or a sync failed; after a
//! restart they may be there. So the store writes here, in place, in a small file that was
//! laid out when the store was opened: groups of this writer from this number on are void. It
//! then takes no more writes, so one mark a life is enough. Recovery removes what is void.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use tidemill_lattice::Writer;

const LENGTH: usize = 24;
const MAGIC: [u8; 4] = *b"void";

/// Groups of `writer` whose number is `from` or above never happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Void {
    pub(crate) writer: Writer,
    pub(crate) from: u64,
}

impl Void {
    pub(crate) fn covers(self, number: u64, writer: Writer) -> bool {
        writer == self.writer && number >= self.from
    }
}

#[derive(Debug)]
pub(crate) struct Fence {
    file: File,
}

impl Fence {
    /// Opens the file, laying it out if it is new. The mark in it, if any; a torn one is
    /// none, since its writer answered that the outcome is unknown. Anything else is
    /// [`io::ErrorKind::InvalidData`]: a mark may have been there.
    pub(crate) fn open(directory: &Path) -> io::Result<(Fence, Option<Void>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("FENCE"))?;
        let bytes = read(&file)?;
        let mark = interpret(&bytes)?;
        if bytes.len() < LENGTH {
            put(&mut file, &[0; LENGTH])?;
        }
        Ok((Fence { file }, mark))
    }

    /// Writes the mark, durably.
    pub(crate) fn set(&mut self, void: Void) -> io::Result<()> {
        put(&mut self.file, &encode(void))
    }

    /// Takes the mark away, durably.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        put(&mut self.file, &[0; LENGTH])
    }
}

/// The mark in a directory that is only read.
pub(crate) fn look(directory: &Path) -> io::Result<Option<Void>> {
    match File::open(directory.join("FENCE")) {
        Ok(file) => interpret(&read(&file)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(LENGTH);
    file.take(LENGTH as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn interpret(bytes: &[u8]) -> io::Result<Option<Void>> {
    let written = bytes.iter().rev().skip_while(|byte| **byte == 0).count();
    let torn = written < LENGTH - 8 && bytes.starts_with(&MAGIC[..written.min(MAGIC.len())]);
    match decode(bytes) {
        None if !torn => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is neither empty nor a mark",
        )),
        mark => Ok(mark),
    }
}

fn put(file: &mut File, bytes: &[u8; LENGTH]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn encode(void: Void) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..8].copy_from_slice(&void.writer.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&void.from.to_be_bytes());
    let checksum = xxhash_rust::xxh3::xxh3_64(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<Void> {
    let bytes = <[u8; LENGTH]>::try_from(bytes).ok()?;
    let (_, rest) = bytes.split_first_chunk::<4>()?;
    let (writer, rest) = rest.split_first_chunk::<4>()?;
    let (from, _) = rest.split_first_chunk::<8>()?;
    let void = Void {
        writer: Writer(u32::from_be_bytes(*writer)),
        from: u64::from_be_bytes(*from),
    };
    (encode(void) == bytes).then_some(void)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_and_a_torn_one_is_none() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let void = Void {
            writer: Writer(3),
            from: 77,
        };
        let (mut fence, mark) = Fence::open(directory.path()).expect("opens");
        assert_eq!(mark, None);
        fence.set(void).expect("writes");
        drop(fence);
        let (mut fence, mark) = Fence::open(directory.path()).expect("opens");
        assert_eq!(mark, Some(void));
        let mut torn = encode(void);
        torn[9] ^= 1;
        assert_eq!(decode(&torn), None);
        fence.clear().expect("clears");
        assert_eq!(Fence::open(directory.path()).expect("opens").1, None);
    }

    #[test]
    fn it_covers_one_writer_from_one_number_on() {
        let void = Void {
            writer: Writer(3),
            from: 77,
        };
        assert!(void.covers(77, Writer(3)));
        assert!(!void.covers(76, Writer(3)));
        assert!(!void.covers(78, Writer(4)));
    }
}
