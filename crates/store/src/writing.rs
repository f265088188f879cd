//! One update in the making: what its decision sees, and the delta that it opens or adds to.

use std::cell::OnceCell;

use tidemill_lattice::{Addition, Cell, Dot, Key, Time, Writer};

use crate::chain::Chain;
use crate::embedded::Inner;
use crate::owner::Held;
use crate::packed::Packed;
use crate::rewritten::Rewritten;
use crate::{Error, record};

/// What an entry of the log takes beside key and values, at most and about.
const ENTRY_BYTES: usize = 64;
/// What is open takes no more once a write of so many bytes came to it, or so many dots.
const OPEN_BYTES: usize = 64 * 1024;
const OPEN_DOTS: u32 = 4096;

/// What a key holds when a write of it is decided. Looking at it takes work only when it is done.
#[derive(Clone, Copy)]
pub struct Seen<'a>(What<'a>);

#[derive(Clone, Copy)]
enum What<'a> {
    Nothing,
    /// A packed cell, and where it is unpacked to.
    Packed(&'a Packed, &'a OnceCell<Cell>),
    Rewritten(&'a Rewritten, &'a OnceCell<Cell>),
    Chain(&'a Chain),
}

impl<'a> Seen<'a> {
    pub(crate) fn nothing() -> Seen<'a> {
        Seen(What::Nothing)
    }

    pub(crate) fn packed(packed: &'a Packed, unpacked: &'a OnceCell<Cell>) -> Seen<'a> {
        Seen(What::Packed(packed, unpacked))
    }

    pub(crate) fn rewritten(rewritten: &'a Rewritten, unpacked: &'a OnceCell<Cell>) -> Seen<'a> {
        Seen(What::Rewritten(rewritten, unpacked))
    }

    pub(crate) fn chain(chain: &'a Chain) -> Seen<'a> {
        Seen(What::Chain(chain))
    }

    /// The newest cell, tombstones included; `None` if nothing was ever written, or all is
    /// forgotten.
    #[must_use]
    pub fn cell(self) -> Option<&'a Cell> {
        match self.0 {
            What::Nothing => None,
            What::Packed(packed, unpacked) => Some(unpacked.get_or_init(|| packed.cell())),
            What::Rewritten(rewritten, unpacked) => Some(unpacked.get_or_init(|| rewritten.cell())),
            What::Chain(chain) => chain.newest(),
        }
    }

    /// The beginning and the sum of a counter that can be told without making a cell; see
    /// [`Addition::target`].
    #[must_use]
    pub fn counter(self) -> Option<(Dot, i128)> {
        match self.0 {
            What::Packed(packed, _) => Addition::target(packed.as_bytes()),
            What::Rewritten(rewritten, _) => Addition::target(rewritten.value.as_bytes()),
            What::Nothing | What::Chain(_) => None,
        }
    }

    /// Whether [`Seen::cell`] would give any, without making it.
    #[must_use]
    pub fn is_known(self) -> bool {
        match self.0 {
            What::Nothing => false,
            What::Packed(..) | What::Rewritten(..) => true,
            What::Chain(chain) => !chain.is_forgotten(),
        }
    }
}

/// What an update did to the turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is the key's first in this turn.
    First,
    Again,
    /// Again, and what is open has become large.
    Large,
}

/// An update in the making.
pub(crate) struct Writing<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) writer: Writer,
    pub(crate) now_us: u64,
    pub(crate) time: Time,
    pub(crate) seen: Time,
}

impl Writing<'_> {
    pub(crate) fn update<T>(
        &mut self,
        key: &Key,
        held: &mut Held<'_>,
        decide: impl FnOnce(Seen<'_>, Time, &mut dyn FnMut() -> Dot) -> (Option<Cell>, T),
    ) -> Result<(T, Option<Written>), Error> {
        let open = held.open_at(self.time);
        let first_dot = open.unwrap_or(0);
        let unpacked = OnceCell::new();
        let (delta, dots, answer) = self.decide(held.seen(&unpacked), first_dot, decide);
        let Some(delta) = delta else {
            return Ok((answer, None));
        };
        let size_bytes = self.take_room(key, &delta)?;
        held.write(delta, self.time, self.seen, dots);
        let written = match open {
            None => Written::First,
            Some(_) if size_bytes > OPEN_BYTES || dots > OPEN_DOTS => Written::Large,
            Some(_) => Written::Again,
        };
        Ok((answer, Some(written)))
    }

    /// Answers the delta, if it says anything, and how many dots were drawn by now.
    pub(crate) fn decide<T>(
        &mut self,
        seen: Seen<'_>,
        first_dot: u32,
        decide: impl FnOnce(Seen<'_>, Time, &mut dyn FnMut() -> Dot) -> (Option<Cell>, T),
    ) -> (Option<Cell>, u32, T) {
        let mut next = first_dot;
        let (time, writer) = (self.time, self.writer);
        let mut dots = || {
            next += 1;
            Dot::new(time, writer, next - 1)
        };
        let (delta, answer) = decide(seen, time.prev(), &mut dots);
        (delta.filter(|delta| !delta.is_bottom()), next, answer)
    }

    /// Makes sure that the log has room. Answers about how much it takes.
    pub(crate) fn take_room(&self, key: &Key, delta: &Cell) -> Result<usize, Error> {
        let size_bytes = ENTRY_BYTES + key.as_bytes().len() + delta.weight_bytes();
        let limit_bytes = record::LIMIT_BYTES;
        if size_bytes > limit_bytes {
            return Err(Error::TooLarge {
                size_bytes,
                limit_bytes,
            });
        }
        self.inner.space.take(size_bytes, self.now_us)?;
        Ok(size_bytes)
    }
}
