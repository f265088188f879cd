//! One key's state.
//!
//! Knows lives, deletes, expiry and conflicts of kind; what a value is inside is the business of
//! [`Value`].

use std::{ops::AddAssign, sync::OnceLock};

use smallvec::SmallVec;

use crate::{Dot, Kind, Time, Value};

/// One key's state: a join semilattice.
///
/// A cell holds *lives*. A write to an absent key begins a life, named by that write's dot; a
/// write to a present key joins the life it saw. A delete is a dot that ends every life begun at
/// or below it, so it wins over writes that did not see it, and what is written after it has been
/// seen is a new life. Where several writers begin a key at once, each begins a life; those of
/// one kind are read as one, joined, and who saw them so writes to the last. Lives of different
/// kinds are a conflict: the one begun first is the key's type and the other is lost, hidden at
/// once and dropped by [`Cell::compact`].
///
/// Why lives are kept apart instead of joined under a number that deletes raise: a writer that
/// finds the key absent cannot know of a delete that has already been forgotten, and its write
/// must still survive in a copy that has not forgotten it yet.
///
/// Expiry is a list of settings by dot. A life is subject to those above its beginning, in order,
/// until one of them has run out; so what a snapshot once saw expired stays so. A life that
/// begins before another has run out shares its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The greatest delete. Every life begins above it.
    pub(crate) deleted: Dot,
    /// Expiry settings above `deleted`, in order; `None` is "never".
    pub(crate) expiries: Vec<(Dot, Option<Time>)>,
    /// In order of (created, kind), each pair once.
    pub(crate) lives: SmallVec<[Life; 1]>,
    joined: Joined,
}

/// One life of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) created: Dot,
    pub(crate) value: Value,
}

impl Life {
    fn name(&self) -> (Dot, Kind) {
        (self.created, self.value.kind())
    }
}

/// What [`Cell::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Whether the cell is another one now.
    pub changed: bool,
    /// Values dropped because the key, or a field, had another type first.
    pub conflicts: usize,
    /// Values dropped because they had expired.
    pub expired: usize,
}

impl AddAssign for Compacted {
    fn add_assign(&mut self, other: Compacted) {
        self.changed |= other.changed;
        self.conflicts += other.conflicts;
        self.expired += other.expired;
    }
}

/// Indices of lives.
type Lives = SmallVec<[usize; 2]>;

/// Lives that are read as one, the earliest first.
struct Generation {
    kind: Kind,
    /// When they expire.
    end: Option<Time>,
    lives: Lives,
}

impl Cell {
    /// The cell of an absent key: the bottom of the lattice.
    pub fn empty() -> Cell {
        Cell::default()
    }

    /// A cell that holds one life.
    pub(crate) fn of(created: Dot, value: Value) -> Cell {
        Cell {
            lives: SmallVec::from_iter([Life { created, value }]),
            ..Cell::default()
        }
    }

    pub(crate) fn from_parts(
        deleted: Dot,
        expiries: Vec<(Dot, Option<Time>)>,
        lives: SmallVec<[Life; 1]>,
    ) -> Cell {
        Cell {
            deleted,
            expiries,
            lives,
            joined: Joined::default(),
        }
    }

    /// A delete of whatever the key holds below its dot, whether that is known or not.
    pub fn tombstone(dot: Dot) -> Cell {
        Cell::from_parts(dot, Vec::new(), SmallVec::new())
    }

    /// When what the key held was last deleted; zero for never, or for long ago.
    pub fn deleted_at(&self) -> Time {
        self.deleted.time
    }

    /// Joins what one writer has added at one time, for a delta that is still its writer's own:
    /// dots of one delta travel together, so one of them can stand for all.
    pub fn gather(&mut self) {
        for life in &mut self.lives {
            if let Value::Counter(counter) = &mut life.value {
                counter.gather();
            }
        }
        self.joined = Joined::default();
    }

    /// Adds to a counter, as merging the delta of a further [`Op::CounterAdd`](crate::Op::CounterAdd) and
    /// [`Cell::gather`] would, without looking again at what the writer sees. For a delta that is still
    /// its writer's own. False, and nothing changed, where it has not added to just one counter.
    pub fn add_again(&mut self, addend: i64) -> bool {
        match &mut self.lives[..] {
            [
                Life {
                    value: Value::Counter(counter),
                    ..
                },
            ] => counter.add_gathered(addend),
            _ => false,
        }
    }

    /// Joins another cell: associative, commutative, idempotent.
    pub fn merge(&mut self, other: &Cell) {
        if other.is_bottom() {
            return;
        }
        if self.is_bottom() {
            *self = other.clone();
            return;
        }
        self.joined = Joined::default();
        if other.deleted > self.deleted {
            self.deleted = other.deleted;
            self.drop_deleted();
        }
        let deleted = self.deleted;
        for expiry in other.expiries.iter().filter(|(dot, _)| *dot > deleted) {
            if let Err(at) = self.expiries.binary_search(expiry) {
                self.expiries.insert(at, *expiry);
            }
        }
        for life in other.lives.iter().filter(|life| life.created > deleted) {
            self.merge_life(life);
        }
    }

    fn merge_life(&mut self, life: &Life) {
        match self.lives.binary_search_by_key(&life.name(), Life::name) {
            Ok(at) => self.lives[at].value.merge(&life.value),
            Err(at) => self.lives.insert(at, life.clone()),
        }
    }

    fn drop_deleted(&mut self) {
        let deleted = self.deleted;
        self.expiries.retain(|(dot, _)| *dot > deleted);
        self.lives.retain(|life| life.created > deleted);
    }

    /// The value at a time: `None` when absent, deleted or expired.
    pub fn view(&self, at: Time) -> Option<&Value> {
        let visible = self.visible(at);
        match visible.as_slice() {
            [] => None,
            [one] => self.lives.get(*one).map(|life| &life.value),
            _ => Some(self.joined.get(&visible, &self.lives)),
        }
    }

    /// The type at a time; see [`Cell::view`].
    pub fn kind(&self, at: Time) -> Option<Kind> {
        let first = *self.visible(at).first()?;
        Some(self.lives.get(first)?.value.kind())
    }

    /// When [`Cell::view`] becomes `None` by expiry; `None` for never, and for an absent key.
    pub fn expires(&self) -> Option<Time> {
        self.generations()
            .last()
            .and_then(|generation| generation.end)
    }

    /// Whether [`Cell::view`] is `None` at a time.
    pub fn is_empty_at(&self, at: Time) -> bool {
        self.visible(at).is_empty()
    }

    /// Whether nothing is known of the key, so that it can be forgotten.
    pub fn is_bottom(&self) -> bool {
        self.lives.is_empty() && self.expiries.is_empty() && self.deleted == Dot::ZERO
    }

    /// The last visible life's beginning: the life that a write at `at` joins. A delete that
    /// its writer has not seen may end the others and not this one, and never this one alone; so
    /// what is removed or overwritten here comes back by none of them.
    pub(crate) fn current_life(&self, at: Time) -> Option<Dot> {
        let last = *self.visible(at).last()?;
        Some(self.lives.get(last)?.created)
    }

    /// When the life begun at `created` ends by expiry.
    fn end_of(&self, created: Dot) -> Option<Time> {
        let mut end: Option<Time> = None;
        for (dot, target) in self.expiries.iter().filter(|(dot, _)| *dot > created) {
            if end.is_some_and(|end| dot.time > end) {
                break;
            }
            // Nothing expires before it was told to.
            end = target.map(|target| target.max(dot.time));
        }
        end
    }

    /// The lives by generations, without the lost ones. A generation is a life and those of its
    /// kind that begin before it has run out; those of another kind are lost. That does not depend
    /// on when one looks, and later writes cannot turn it round.
    fn generations(&self) -> SmallVec<[Generation; 1]> {
        let mut generations: SmallVec<[Generation; 1]> = SmallVec::new();
        for (index, life) in self.lives.iter().enumerate() {
            let kind = life.value.kind();
            match generations.last_mut() {
                Some(last) if last.end.is_none_or(|end| end > life.created.time) => {
                    if last.kind == kind {
                        last.lives.push(index);
                    }
                }
                _ => {
                    let end = self.end_of(life.created);
                    let lives = Lives::from_iter([index]);
                    generations.push(Generation { kind, end, lives });
                }
            }
        }
        generations
    }

    /// The lives that make up the value at a time: of one kind, the earliest first.
    fn visible(&self, at: Time) -> Lives {
        if self.expiries.is_empty() && self.lives.len() <= 1 {
            return (0..self.lives.len()).collect();
        }
        self.generations()
            .into_iter()
            .find(|generation| generation.end.is_none_or(|end| end > at))
            .map(|generation| generation.lives)
            .unwrap_or_default()
    }

    /// Rewrites every dot, as when a commit gets its time. `map` must keep the order of the dots
    /// concerned; it returns dots it has nothing to say about as they are.
    pub fn restamp(&mut self, map: &dyn Fn(Dot) -> Dot) {
        self.joined = Joined::default();
        if self.deleted != Dot::ZERO {
            self.deleted = map(self.deleted);
        }
        for (dot, _) in &mut self.expiries {
            *dot = map(*dot);
        }
        self.expiries.sort_unstable();
        for mut life in std::mem::take(&mut self.lives) {
            life.created = map(life.created);
            life.value.restamp(map);
            self.merge_life(&life);
        }
    }

    /// Forgets what nobody can need any more. The caller promises:
    ///
    /// - every delta with a dot at or below `through` has been merged here;
    /// - no snapshot below `through` will be read;
    /// - a delta merged later has a dot above `through`, and was made against a snapshot at or
    ///   above `forget`, which is not above `through`.
    ///
    /// The two differ because requests overlap: a commit that comes later may have read before
    /// `through`. All it can depend on is what it saw *not* deleted and *not* expired, so deletes
    /// and expiry are kept until every writer to come has seen them; were a delete forgotten
    /// before, such a delta would bring back a part of what was deleted. Everything else follows
    /// `through`, so that a busy key stays small however much its writers overlap.
    ///
    /// Addends are absorbed into sums; dead dots and lost values go; lives of one kind become one;
    /// expired values, settings that have been overruled, and deletes go. What [`Cell::view`] says
    /// at or above `through` stays the same, and copies compacted at different times still
    /// converge. Afterwards [`Cell::is_bottom`] tells whether the key can be forgotten.
    pub fn compact(&mut self, through: Time, forget: Time) -> Compacted {
        let forget = forget.min(through);
        let mut done = self.compact_lives(through, forget);
        done.changed |= self.drop_expiries(forget);
        if self.deleted != Dot::ZERO && self.deleted.time <= forget {
            self.deleted = Dot::ZERO;
            done.changed = true;
        }
        // One above may name dots of those before it as dead, and no line says so of the others.
        let old = self
            .lives
            .iter_mut()
            .filter(|life| life.created.time <= through);
        for life in old {
            done += life.value.compact(through, forget);
        }
        if done.changed {
            self.joined = Joined::default();
        }
        done
    }

    /// Drops lost and expired lives, and joins the others of each generation. A life above
    /// `through` stays by itself: its dots are not under the lines that values draw there.
    fn compact_lives(&mut self, through: Time, forget: Time) -> Compacted {
        let mut done = Compacted::default();
        let generations = self.generations();
        let mut generation_of = vec![None; self.lives.len()];
        for generation in &generations {
            for &index in &generation.lives {
                generation_of[index] = Some(generation);
            }
        }
        let mut kept: SmallVec<[Life; 1]> = SmallVec::new();
        let before = self.lives.len();
        for (index, life) in std::mem::take(&mut self.lives).into_iter().enumerate() {
            let is_old = life.created.time <= through;
            match generation_of[index] {
                None if is_old => done.conflicts += 1,
                Some(Generation { end: Some(end), .. }) if *end <= forget => done.expired += 1,
                Some(generation) if is_old && generation.lives.first() != Some(&index) => {
                    // The first of its generation is the last one kept of its kind.
                    match kept
                        .iter_mut()
                        .rfind(|held| held.value.kind() == generation.kind)
                    {
                        Some(first) => first.value.merge(&life.value),
                        None => kept.push(life),
                    }
                }
                _ => kept.push(life),
            }
        }
        self.lives = kept;
        done.changed = self.lives.len() < before;
        done
    }

    /// Of the settings at or below `forget`, keeps the one still in force.
    fn drop_expiries(&mut self, forget: Time) -> bool {
        let old = self.expiries.partition_point(|(dot, _)| dot.time <= forget);
        let in_force = self.expiries[..old]
            .last()
            .copied()
            .filter(|(dot, target)| {
                target.is_some() && self.lives.iter().any(|life| life.created < *dot)
            });
        let before = self.expiries.len();
        self.expiries.drain(..old);
        if let Some(expiry) = in_force {
            self.expiries.insert(0, expiry);
        }
        self.expiries.len() < before
    }

    /// Approximate size on the heap in bytes, shared parts included.
    pub fn weight_bytes(&self) -> usize {
        let spilled = if self.lives.spilled() {
            self.lives.len() * size_of::<Life>()
        } else {
            0
        };
        let values: usize = self
            .lives
            .iter()
            .map(|life| life.value.weight_bytes())
            .sum();
        spilled + values + self.expiries.capacity() * size_of::<(Dot, Option<Time>)>()
    }
}

/// The joins of lives that have been asked for, each made once. Says nothing that the lives do
/// not say, so a copy begins without it and all are equal.
#[derive(Debug, Default)]
struct Joined(OnceLock<Box<Join>>);

#[derive(Debug)]
struct Join {
    lives: Lives,
    value: Value,
    next: Joined,
}

impl Joined {
    /// The join of these lives. `which` names at least one of `lives`, all of one kind.
    fn get(&self, which: &Lives, lives: &[Life]) -> &Value {
        let mut link = self;
        loop {
            let join = link.0.get_or_init(|| {
                let mut value = lives[which[0]].value.clone();
                which[1..]
                    .iter()
                    .for_each(|&index| value.merge(&lives[index].value));
                Box::new(Join {
                    lives: which.clone(),
                    value,
                    next: Joined::default(),
                })
            });
            if join.lives == *which {
                return &join.value;
            }
            link = &join.next;
        }
    }
}

impl Clone for Joined {
    fn clone(&self) -> Joined {
        Joined::default()
    }
}

impl PartialEq for Joined {
    fn eq(&self, _: &Joined) -> bool {
        true
    }
}

impl Eq for Joined {}
