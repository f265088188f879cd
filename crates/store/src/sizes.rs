//! How much a store gathers before it writes it out, by the room there is on the disk.

/// With so much free space, sizes are chosen for speed.
const ROOMY_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// How much is gathered before it is written out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Write buffers of the log and of the rest.
    pub(crate) log_buffer_bytes: u64,
    pub(crate) buffer_bytes: u64,
    /// Journals that the engine keeps before it flushes the keyspaces that hold on to them.
    pub(crate) journal_bytes: u64,
    /// A checkpoint begins after so many bytes of log, at the latest.
    pub(crate) checkpoint_bytes: u64,
    /// What has to stay free for all this to be written.
    pub(crate) reserve_bytes: u64,
}

impl Sizes {
    /// Where there is room, most of the log is trimmed while it lies in its buffer, and never
    /// comes to a table. Where there is little, flushing a buffer has to fit into the reserve.
    pub(crate) fn for_free(free_bytes: u64) -> Sizes {
        const MEBIBYTE: u64 = 1024 * 1024;
        if free_bytes >= ROOMY_BYTES {
            Sizes {
                log_buffer_bytes: 64 * MEBIBYTE,
                buffer_bytes: 16 * MEBIBYTE,
                journal_bytes: 256 * MEBIBYTE,
                checkpoint_bytes: 32 * MEBIBYTE,
                reserve_bytes: 512 * MEBIBYTE,
            }
        } else {
            Sizes {
                log_buffer_bytes: 8 * MEBIBYTE,
                buffer_bytes: 8 * MEBIBYTE,
                journal_bytes: 128 * MEBIBYTE,
                checkpoint_bytes: 16 * MEBIBYTE,
                reserve_bytes: 0,
            }
        }
    }
}
