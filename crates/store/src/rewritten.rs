//! A packed key that was overwritten and can still be read as it was.
//!
//! What an overwrite leaves of a key follows from the overwrite alone, so it is packed at once. Once
//! nobody reads below it, the key has only to drop what it was: no cell was made or merged.
//!
//! Pure: it knows times and packed cells.

use bytes::Bytes;
use tidemill_lattice::{Cell, Dot, Glance, Overwrite, Payload, Time};

use crate::chain::Chain;
use crate::packed::{PACKED_MAX_BYTES, Packed};

/// A packed key and the overwrite of it.
#[derive(Clone, Debug)]
pub(crate) struct Rewritten {
    /// What the key was.
    pub(crate) before: Packed,
    /// What it will be once the overwrite is folded.
    pub(crate) value: Packed,
    /// What its writer had seen.
    pub(crate) snapshot: Time,
    /// The dot that ended what the key held, which has the write's time.
    ended: Dot,
    /// How many dots its writer drew, while it may still write again at this time.
    pub(crate) open: Option<u32>,
}

impl Rewritten {
    /// `None` if what was written is too large to be packed. Gathers it in `scratch`.
    pub(crate) fn new(
        before: &Packed,
        overwrite: &Overwrite<'_>,
        snapshot: Time,
        dots: u32,
        scratch: &mut Vec<u8>,
    ) -> Option<Rewritten> {
        Some(Rewritten {
            before: before.clone(),
            value: pack(overwrite, scratch)?,
            snapshot,
            ended: overwrite.ended,
            open: Some(dots),
        })
    }

    /// When it was written.
    pub(crate) fn time(&self) -> Time {
        self.ended.time
    }

    /// Overwrites it once more, at the same time. Tells whether that could be done.
    pub(crate) fn again(
        &mut self,
        overwrite: &Overwrite<'_>,
        dots: u32,
        scratch: &mut Vec<u8>,
    ) -> bool {
        let Some(value) = pack(overwrite, scratch) else {
            return false;
        };
        self.value = value;
        self.ended = overwrite.ended;
        self.open = Some(dots);
        true
    }

    /// The overwrite.
    pub(crate) fn overwrite(&self) -> Overwrite<'_> {
        let body = match self.value.glance() {
            Some(Glance::Register(body)) => body,
            // It was packed from a register.
            Some(Glance::Counter(_)) | None => &[],
        };
        Overwrite {
            ended: self.ended,
            body,
        }
    }

    /// What a reader at a time sees, who does not read below what the key was complete through.
    pub(crate) fn at(&self, at: Time) -> &Packed {
        if at >= self.time() {
            &self.value
        } else {
            &self.before
        }
    }

    /// The same as a chain.
    pub(crate) fn into_chain(self, through: Time) -> Chain {
        let Overwrite { ended, body } = self.overwrite();
        let payload = Payload::bytes(Bytes::copy_from_slice(body));
        let delta = Cell::overwrite(ended, payload).unwrap_or_default();
        let mut chain = Chain::unpacked(self.before, through);
        match self.open {
            Some(dots) => chain.open(ended.time, self.snapshot, delta, dots),
            None => chain.push(ended.time, self.snapshot, delta),
        };
        chain
    }

    /// Its size on the heap in bytes.
    pub(crate) fn weight_bytes(&self) -> usize {
        size_of::<Rewritten>() + self.before.weight_bytes() + self.value.weight_bytes()
    }
}

fn pack(overwrite: &Overwrite<'_>, scratch: &mut Vec<u8>) -> Option<Packed> {
    if overwrite.body.len() > PACKED_MAX_BYTES {
        return None;
    }
    scratch.clear();
    overwrite.encode_folded(scratch);
    Packed::from_bytes(scratch)
}

#[cfg(test)]
mod tests {
    use tidemill_lattice::Writer;

    use super::*;

    fn write(time: u64, sequence: u32, body: &str) -> Cell {
        let ended = Dot::new(Time::from_u64(time), Writer(1), sequence);
        let payload = Payload::bytes(body.to_owned());
        Cell::overwrite(ended, payload).expect("there is a dot")
    }

    /// Writes once at 20 and again, over what was folded at 10, as a chain and as this.
    fn both() -> (Chain, Rewritten) {
        let at = Time::from_u64;
        let (first, second) = (write(20, 0, "first"), write(20, 2, "second"));
        let mut chain = Chain::default();
        chain.push(at(5), at(4), write(5, 0, "old"));
        chain.fold(at(10));
        let scratch = &mut Vec::new();
        let before = chain.pack(scratch).expect("it rests");
        chain.open(at(20), at(15), first.clone(), 2);
        chain.amend(&second, 4);
        let first = first.as_overwrite().expect("it is one");
        let second = second.as_overwrite().expect("it is one");
        let mut rewritten =
            Rewritten::new(&before, &first, at(15), 2, scratch).expect("it is small");
        assert!(rewritten.again(&second, 4, scratch));
        (chain, rewritten)
    }

    #[test]
    fn it_is_what_a_chain_would_be() {
        let at = Time::from_u64;
        let (mut chain, rewritten) = both();
        assert_eq!(rewritten.time(), at(20));
        for time in [10, 19, 20, 30] {
            let cell = chain.at(at(time)).expect("it was written");
            let packed = rewritten.at(at(time)).cell();
            assert_eq!(packed.view(at(time)), cell.view(at(time)), "at {time}");
        }
        let mut same = rewritten.clone().into_chain(at(10));
        assert_eq!(same.open_at(at(20)), chain.open_at(at(20)));
        let closed = |chain: &mut Chain| {
            let mut all = Vec::new();
            chain.close(|time, snapshot, cell| all.push((time, snapshot, cell.clone())));
            all
        };
        assert_eq!(closed(&mut same), closed(&mut chain));
        same.fold(at(25));
        chain.fold(at(25));
        assert_eq!(same.base(), chain.base());
        assert_eq!(rewritten.value.cell(), **chain.base());
    }

    #[test]
    fn what_is_large_is_not_kept_so() {
        let (_, mut rewritten) = both();
        let large = write(20, 4, &"x".repeat(300));
        let large = large.as_overwrite().expect("it is one");
        assert!(!rewritten.again(&large, 6, &mut Vec::new()));
        assert_eq!(rewritten.overwrite().body, b"second");
        let before = rewritten.before.clone();
        let none = Rewritten::new(&before, &large, Time::ZERO, 6, &mut Vec::new());
        assert!(none.is_none());
    }
}
