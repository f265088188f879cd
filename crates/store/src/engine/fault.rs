//! What the engine's failures mean: which is damage, which the disk's, which somebody else's lock.
//!
//! Also looks through its files before it opens them. It knows no keys and no values.

use std::io;
use std::path::Path;

use super::Engine;
use crate::Error;
use crate::journal::{self, Finding};
use crate::manifest;

impl Engine {
    pub(crate) fn corrupt(&self, place: impl Into<String>, cause: impl Into<String>) -> Error {
        Error::Corrupt {
            directory: self.directory.clone(),
            place: place.into(),
            cause: cause.into(),
        }
    }

    pub(super) fn read_error(&self, error: &fjall::Error) -> Error {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        match error {
            fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
                if !matches!(e.kind(), InvalidData | UnexpectedEof) =>
            {
                Error::Io {
                    operation: "reading",
                    directory: self.directory.clone(),
                    cause: e.to_string(),
                }
            }
            damaged => self.corrupt("a table file", damaged.to_string()),
        }
    }

    pub(super) fn write_error(&self, operation: &'static str, error: &fjall::Error) -> Error {
        if let fjall::Error::Io(e) = error
            && e.kind() == io::ErrorKind::StorageFull
        {
            return Error::Full {
                directory: self.directory.clone(),
                free_bytes: self.disk.free_bytes(&self.directory).unwrap_or(0),
                reserve_bytes: 0,
            };
        }
        Error::Io {
            operation,
            directory: self.directory.clone(),
            cause: error.to_string(),
        }
    }
}

/// Looks for damage that the engine would take for something else, and cuts a torn journal.
pub(super) fn check_files(directory: &Path) -> Result<(), Error> {
    let engine = directory.join("engine");
    let failed = |e: io::Error| open_error(directory, &fjall::Error::Io(e));
    let (file, cause) = match journal::check(&engine).map_err(failed)? {
        Some(Finding::Torn { file, valid_bytes }) => {
            tracing::warn!(file = %file.display(), valid_bytes, "cutting a torn journal");
            return journal::cut(&file, valid_bytes).map_err(failed);
        }
        Some(Finding::Damaged {
            file,
            at_byte,
            cause,
        }) => (file, format!("{cause}, at byte {at_byte}")),
        None => match manifest::check(&engine).map_err(failed)? {
            Some(damage) => (damage.file, damage.cause),
            None => return Ok(()),
        },
    };
    let file = file.strip_prefix(&engine).unwrap_or(&file);
    Err(Error::Corrupt {
        directory: directory.to_path_buf(),
        place: format!("the engine's file {}", file.display()),
        cause,
    })
}

pub(super) fn open_error(directory: &Path, error: &fjall::Error) -> Error {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let directory = directory.to_path_buf();
    match error {
        fjall::Error::Locked => Error::InUse {
            directory,
            pid: None,
        },
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e))
            if !matches!(e.kind(), InvalidData | UnexpectedEof) =>
        {
            Error::Io {
                operation: "opening",
                directory,
                cause: e.to_string(),
            }
        }
        damaged => Error::Corrupt {
            directory,
            place: "the engine's files".to_owned(),
            cause: damaged.to_string(),
        },
    }
}
