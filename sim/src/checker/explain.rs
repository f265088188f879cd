//! The search for a visibility that explains a history.

use std::collections::{BTreeMap, BTreeSet};

use super::bits::Bits;
use super::{Anomaly, History, Id, Request, Value, Violation, Write};

/// Checks a history. `budget` is how many visibilities may be tried where what a delete hid leaves
/// a choice; 0 tries none of them and lets such a read pass.
#[must_use]
pub fn check(history: &History, budget: usize) -> Vec<Violation> {
    let index = Index::new(history);
    let mut found = index.shapes();
    found.extend(index.divergence());
    if !found.is_empty() {
        return found;
    }
    let mut budget = budget;
    index
        .solve(index.known(), &mut budget)
        .err()
        .unwrap_or_default()
}

/// Violations whose way is told.
const PATHS_MAX: usize = 10;

/// The names in a bag.
type Names = BTreeMap<Id, u32>;

/// The visibility known so far, before it is closed: what each request directly saw.
type Direct = Vec<BTreeSet<Id>>;

struct Index<'a> {
    requests: &'a [Request],
    /// Who wrote an object, and how.
    writers: BTreeMap<u32, Vec<(Id, &'a Write)>>,
    /// Who read a bag, and what was in it.
    readers: BTreeMap<u32, Vec<(Id, &'a Names)>>,
}

impl<'a> Index<'a> {
    fn new(history: &'a History) -> Index<'a> {
        let mut writers: BTreeMap<u32, Vec<(Id, &Write)>> = BTreeMap::new();
        let mut readers: BTreeMap<u32, Vec<(Id, &Names)>> = BTreeMap::new();
        for (id, request) in history.requests.iter().enumerate() {
            for (object, value) in &request.reads {
                if let Value::Bag(names) = value {
                    readers.entry(*object).or_default().push((id, names));
                }
            }
            for (object, write) in &request.writes {
                writers.entry(*object).or_default().push((id, write));
            }
        }
        Index {
            requests: &history.requests,
            writers,
            readers,
        }
    }

    fn label(&self, id: Id) -> &str {
        self.requests.get(id).map_or("?", |r| r.label.as_str())
    }

    fn show(&self, value: &Value) -> String {
        let names: Vec<&str> = match value {
            Value::Bag(names) => names.keys().map(|name| self.label(*name)).collect(),
            Value::Register(name) => name.iter().map(|name| self.label(*name)).collect(),
        };
        format!("{{{}}}", names.join(" "))
    }

    fn writers(&self, object: u32) -> &[(Id, &'a Write)] {
        self.writers.get(&object).map_or(&[], Vec::as_slice)
    }

    fn wrote(&self, id: Id, object: u32, write: &Write) -> bool {
        let found = self.writers(object).iter();
        found.into_iter().any(|(by, w)| *by == id && *w == write)
    }

    fn violation(&self, anomaly: Anomaly, request: Id, detail: &str) -> Violation {
        Violation {
            anomaly,
            request,
            about: None,
            detail: format!("{} {detail}", self.label(request)),
        }
    }

    /// What is wrong with values by themselves.
    fn shapes(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (id, request) in self.requests.iter().enumerate() {
            let mut first: BTreeMap<u32, &Value> = BTreeMap::new();
            for (object, value) in &request.reads {
                let before = *first.entry(*object).or_insert(value);
                if before != value {
                    let detail = format!(
                        "read object {object} as {} and as {}",
                        self.show(before),
                        self.show(value)
                    );
                    found.push(self.violation(Anomaly::NotRepeatable, id, &detail));
                }
                let names: Vec<(Id, u32, Write)> = match value {
                    Value::Bag(names) => {
                        let names = names.iter();
                        names.map(|(id, count)| (*id, *count, Write::Add)).collect()
                    }
                    Value::Register(name) => {
                        name.iter().map(|name| (*name, 1, Write::Put)).collect()
                    }
                };
                for (name, count, write) in names {
                    if !self.wrote(name, *object, &write) {
                        let detail = format!("read {name} in object {object}");
                        found.push(self.violation(Anomaly::OutOfNowhere, id, &detail));
                    } else if count != 1 {
                        let detail =
                            format!("read {} in object {object} {count} times", self.label(name));
                        found.push(self.violation(Anomaly::DuplicateEffect, id, &detail));
                    }
                }
            }
        }
        found
    }

    /// Whether those who read when all was at rest read the same.
    fn divergence(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut first: BTreeMap<u32, (&Value, Id)> = BTreeMap::new();
        let finals = self.requests.iter().enumerate();
        for (id, request) in finals.filter(|(_, request)| request.is_final) {
            for (object, value) in &request.reads {
                let (other, by) = *first.entry(*object).or_insert((value, id));
                if other != value {
                    let detail = format!(
                        "read object {object} as {}, {} as {}",
                        self.show(value),
                        self.label(by),
                        self.show(other)
                    );
                    found.push(self.violation(Anomaly::Diverged, id, &detail));
                }
            }
        }
        found
    }

    /// What each request saw for certain.
    fn known(&self) -> Direct {
        let direct = |request: &Request| {
            let mut seen: BTreeSet<Id> = request.after.iter().copied().collect();
            for (_, value) in &request.reads {
                match value {
                    Value::Bag(names) => seen.extend(names.keys()),
                    Value::Register(name) => seen.extend(name),
                }
            }
            for (_, write) in &request.writes {
                if let Write::Remove(names) = write {
                    seen.extend(names);
                }
            }
            seen
        };
        self.requests.iter().map(direct).collect()
    }

    fn close(&self, direct: &Direct) -> Vec<Bits> {
        let size = direct.len();
        let mut closed: Vec<Bits> = vec![Bits::new(size); size];
        for (bits, seen) in closed.iter_mut().zip(direct) {
            seen.iter().for_each(|id| bits.insert(*id));
        }
        loop {
            let mut changed = false;
            for id in 0..size {
                let mut all = closed[id].clone();
                let mut grew = false;
                for seen in direct[id].iter().filter(|seen| **seen < size) {
                    grew |= all.join(&closed[*seen]);
                }
                if grew {
                    closed[id] = all;
                    changed = true;
                }
            }
            if !changed {
                return closed;
            }
        }
    }

    /// Looks for a visibility that contains `direct` and explains everything.
    fn solve(&self, mut direct: Direct, budget: &mut usize) -> Result<(), Vec<Violation>> {
        loop {
            let closed = self.close(&direct);
            let mut found = self.cycles(&closed);
            let mut forced = Vec::new();
            let mut choice = None;
            if found.is_empty() {
                for id in 0..self.requests.len() {
                    self.reads(id, &closed, &mut found, &mut forced, &mut choice);
                }
                found.extend(self.total_order(&closed));
            }
            if !found.is_empty() {
                for violation in found.iter_mut().take(PATHS_MAX) {
                    if let Some(about) = violation.about {
                        violation.detail += &self.path(&direct, violation.request, about);
                    }
                }
                return Err(found);
            }
            if !forced.is_empty() {
                for (id, seen) in forced {
                    direct[id].insert(seen);
                }
                continue;
            }
            let Some((id, candidates)) = choice else {
                return Ok(());
            };
            let mut failed = Vec::new();
            for candidate in candidates {
                if *budget == 0 {
                    return Ok(());
                }
                *budget -= 1;
                let mut tried = direct.clone();
                tried[id].insert(candidate);
                match self.solve(tried, budget) {
                    Ok(()) => return Ok(()),
                    Err(found) => failed = found,
                }
            }
            return Err(failed);
        }
    }

    /// How a request comes after another one, in words; the shortest way.
    fn path(&self, direct: &Direct, from: Id, to: Id) -> String {
        let mut via: BTreeMap<Id, Id> = BTreeMap::new();
        let mut next = std::collections::VecDeque::from([from]);
        while let Some(id) = next.pop_front() {
            if id == to {
                break;
            }
            for seen in direct.get(id).into_iter().flatten() {
                if !via.contains_key(seen) {
                    via.insert(*seen, id);
                    next.push_back(*seen);
                }
            }
        }
        let mut steps = vec![self.label(to)];
        let mut at = to;
        while let Some(before) = via.get(&at).filter(|_| steps.len() < 12) {
            steps.push(self.label(*before));
            if *before == from {
                break;
            }
            at = *before;
        }
        steps.reverse();
        format!(" ({})", steps.join(" after "))
    }

    fn cycles(&self, closed: &[Bits]) -> Vec<Violation> {
        let circular = |id: &Id| closed[*id].has(*id);
        let ids = (0..closed.len()).filter(circular);
        ids.map(|id| self.violation(Anomaly::Cycle, id, "is seen by what it sees"))
            .collect()
    }

    fn reads(
        &self,
        id: Id,
        closed: &[Bits],
        found: &mut Vec<Violation>,
        forced: &mut Vec<(Id, Id)>,
        choice: &mut Option<(Id, Vec<Id>)>,
    ) {
        for (object, value) in &self.requests[id].reads {
            let Value::Bag(names) = value else {
                self.register_read(id, *object, value, closed, found);
                continue;
            };
            for (name, write) in self.writers(*object) {
                if **write != Write::Add {
                    continue;
                }
                if names.contains_key(name) {
                    if let Some(why) = self.death(*name, *object, &closed[id], closed) {
                        let detail = format!(
                            "read {} in object {object}, which {} had gone",
                            self.label(*name),
                            self.label(why)
                        );
                        let mut gone = self.violation(Anomaly::ResurrectedDelete, id, &detail);
                        gone.about = Some(why);
                        found.push(gone);
                    }
                } else if closed[id].has(*name) && self.requests[id].attempt_at != Some(*name) {
                    let candidates = self.hiders(*name, *object, closed);
                    if candidates.iter().any(|hider| closed[id].has(*hider)) {
                        continue;
                    }
                    let possible: Vec<Id> = candidates
                        .into_iter()
                        .filter(|hider| *hider != id && !closed[*hider].has(id))
                        .collect();
                    match possible.as_slice() {
                        [] => found.push(self.missing(id, *name, *object, closed)),
                        [only] => forced.push((id, *only)),
                        _ => *choice = choice.take().or(Some((id, possible))),
                    }
                }
            }
        }
    }

    fn register_read(
        &self,
        id: Id,
        object: u32,
        value: &Value,
        closed: &[Bits],
        found: &mut Vec<Violation>,
    ) {
        if *value == Value::Register(None) {
            let writers = self.writers(object).iter();
            for (name, _) in writers.filter(|(name, _)| closed[id].has(*name)) {
                found.push(self.missing(id, *name, object, closed));
            }
        }
    }

    /// Who among the visible shows that a name is gone for good.
    fn death(&self, name: Id, object: u32, visible: &Bits, closed: &[Bits]) -> Option<Id> {
        let ended = |(by, write): &&(Id, &Write)| {
            visible.has(*by)
                && match write {
                    Write::Remove(names) => names.contains(&name),
                    Write::Delete => closed[*by].has(name),
                    Write::Add | Write::Put | Write::Hide => false,
                }
        };
        if let Some((by, _)) = self.writers(object).iter().find(ended) {
            return Some(*by);
        }
        let missed = |(by, names): &&(Id, &Names)| {
            visible.has(*by) && !names.contains_key(&name) && closed[*by].has(name)
        };
        let readers = self.readers.get(&object).map_or(&[][..], Vec::as_slice);
        readers.iter().find(missed).map(|(by, _)| *by)
    }

    /// Who can have hidden a name: what is added after a delete was seen, that delete can not.
    fn hiders(&self, name: Id, object: u32, closed: &[Bits]) -> Vec<Id> {
        let can = |(by, write): &&(Id, &Write)| match write {
            Write::Remove(names) => names.contains(&name),
            Write::Delete => *by != name && !closed[name].has(*by),
            // An end that is still to come takes those with it who were there in time.
            Write::Hide => *by != name,
            Write::Add | Write::Put => false,
        };
        let writers = self.writers(object).iter();
        writers.filter(can).map(|(by, _)| *by).collect()
    }

    fn missing(&self, id: Id, name: Id, object: u32, closed: &[Bits]) -> Violation {
        let request = &self.requests[id];
        let saw = |value: &Value| match value {
            Value::Bag(names) => names.contains_key(&name),
            Value::Register(held) => *held == Some(name),
        };
        let anomaly = if request.session.contains(&name) {
            Anomaly::ReadYourWrites
        } else if request.reads.iter().any(|(_, value)| saw(value)) {
            Anomaly::FracturedRead
        } else if request.is_final {
            Anomaly::LostUpdate
        } else if request
            .session
            .iter()
            .any(|before| closed[*before].has(name))
        {
            Anomaly::MonotonicReads
        } else {
            Anomaly::CausalViolation
        };
        let detail = format!("does not see {} in object {object}", self.label(name));
        let mut missing = self.violation(anomaly, id, &detail);
        missing.about = Some(name);
        missing
    }

    /// Whether one total order contains visibility and what was told of it, and explains every
    /// register: what is held is the last of what is visible.
    fn total_order(&self, closed: &[Bits]) -> Vec<Violation> {
        let size = closed.len();
        let mut before: Vec<Bits> = closed.to_vec();
        for (id, request) in self.requests.iter().enumerate() {
            for (object, value) in &request.reads {
                let Value::Register(Some(held)) = value else {
                    continue;
                };
                let writers = self.writers(*object).iter();
                for (other, _) in writers.filter(|(other, _)| closed[id].has(*other)) {
                    if other != held
                        && let Some(earlier) = before.get_mut(*held)
                    {
                        earlier.insert(*other);
                    }
                }
            }
        }
        let mut told: Vec<((u64, u32), Id)> = self
            .requests
            .iter()
            .enumerate()
            .filter_map(|(id, request)| Some((request.order?, id)))
            .collect();
        told.sort_unstable();
        for pair in told.windows(2) {
            if let [(_, earlier), (_, later)] = pair {
                before[*later].insert(*earlier);
            }
        }
        // Kahn's algorithm: what remains is in a circle, or behind one.
        let mut missing: Vec<usize> = before.iter().map(|b| b.iter().count()).collect();
        let mut after: Vec<Vec<Id>> = vec![Vec::new(); size];
        for (id, earlier) in before.iter().enumerate() {
            earlier.iter().for_each(|e| after[e].push(id));
        }
        let mut free: Vec<Id> = (0..size).filter(|id| missing[*id] == 0).collect();
        let mut done = 0;
        while let Some(id) = free.pop() {
            done += 1;
            for later in &after[id] {
                missing[*later] -= 1;
                if missing[*later] == 0 {
                    free.push(*later);
                }
            }
        }
        if done == size {
            return Vec::new();
        }
        let stuck = (0..size).find(|id| missing[*id] > 0).unwrap_or(0);
        let around: Vec<&str> = (0..size)
            .filter(|id| missing[*id] > 0)
            .take(8)
            .map(|id| self.label(id))
            .collect();
        let detail = format!("has no place in a total order (with {})", around.join(", "));
        vec![self.violation(Anomaly::NoTotalOrder, stuck, &detail)]
    }
}
