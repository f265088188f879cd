//! The interfaces of state.

use super::{Answer, convert};
use crate::bindings::tidemill::platform::{
    counter, extremes, flag, history, map, multi, register, set, state, top, types,
};
use crate::data::Data;
use std::sync::Arc;
use tidemill_lattice::{Cell, Kind, Op, Time, Value};
use tidemill_problem::Problem;

impl Data {
    /// Shows what a key holds as this type.
    fn read<T>(
        &mut self,
        key: &str,
        kind: Option<Kind>,
        show: impl FnOnce(Option<&Value>, Time) -> T,
    ) -> Answer<T> {
        let platform = self.platform()?;
        let at = platform.time();
        let cell: Option<Arc<Cell>> = match platform.read(key, kind) {
            Ok(cell) => cell,
            Err(problem) => return Ok(Err(problem.into())),
        };
        let value = cell.as_ref().and_then(|cell| cell.view(at));
        Ok(Ok(show(value, at)))
    }

    async fn write(&mut self, key: &str, op: Result<Op, Problem>) -> Answer<()> {
        let platform = self.platform()?;
        let written = op.and_then(|op| platform.write(key, &op));
        let settled = match written {
            Ok(()) => platform.settled(),
            Err(problem) => return Ok(Err(problem.into())),
        };
        Ok(match settled {
            None => Ok(()),
            Some(settled) => settled.await.map_err(Into::into),
        })
    }
}

impl state::Host for Data {
    fn get(&mut self, key: String) -> Answer<Option<state::Value>> {
        self.read(&key, None, |value, at| {
            value.map(|value| convert::value(value, at))
        })
    }

    fn keys(&mut self, prefix: String, after: Option<String>, limit: u32) -> Answer<state::Page> {
        let listed = self
            .platform()?
            .keys(&prefix, after.as_deref(), limit as usize);
        Ok(match listed {
            Ok(page) => Ok(state::Page {
                keys: page
                    .keys
                    .into_iter()
                    .map(|(name, kind)| (name, convert::kind(kind)))
                    .collect(),
                next: page.next,
            }),
            Err(problem) => Err(problem.into()),
        })
    }

    async fn delete(&mut self, key: String) -> Answer<()> {
        self.write(&key, Ok(Op::Delete)).await
    }

    async fn expire(&mut self, key: String, at_ms: Option<u64>) -> Answer<()> {
        let at = at_ms.map(Time::from_millis);
        self.write(&key, Ok(Op::Expire(at))).await
    }
}

impl register::Host for Data {
    fn get(&mut self, key: String) -> Answer<Option<types::Payload>> {
        self.read(&key, Some(Kind::Register), |value, _| match value {
            Some(Value::Register(register)) => Some(convert::to_guest(register.get())),
            _ => None,
        })
    }

    async fn set(&mut self, key: String, value: types::Payload) -> Answer<()> {
        let op = convert::from_guest(value).map(Op::RegisterSet);
        self.write(&key, op).await
    }
}

impl multi::Host for Data {
    fn get(&mut self, key: String) -> Answer<Vec<types::Payload>> {
        self.read(&key, Some(Kind::Multi), |value, _| match value {
            Some(Value::Multi(multi)) => convert::payloads(multi.iter()),
            _ => Vec::new(),
        })
    }

    async fn set(&mut self, key: String, value: types::Payload) -> Answer<()> {
        let op = convert::from_guest(value).map(Op::MultiSet);
        self.write(&key, op).await
    }
}

impl counter::Host for Data {
    fn get(&mut self, key: String) -> Answer<i64> {
        self.read(&key, Some(Kind::Counter), |value, _| match value {
            Some(Value::Counter(counter)) => convert::sum(counter.value()),
            _ => 0,
        })
    }

    async fn add(&mut self, key: String, amount: i64) -> Answer<()> {
        self.write(&key, Ok(Op::CounterAdd(amount))).await
    }
}

impl extremes::Host for Data {
    fn get_max(&mut self, key: String) -> Answer<Option<types::Scalar>> {
        self.read(&key, Some(Kind::Max), |value, _| match value {
            Some(Value::Max(max)) => Some(convert::scalar(max.get())),
            _ => None,
        })
    }

    async fn put_max(&mut self, key: String, value: types::Scalar) -> Answer<()> {
        let op = convert::ordinal(value).map(Op::MaxPut);
        self.write(&key, op).await
    }

    fn get_min(&mut self, key: String) -> Answer<Option<types::Scalar>> {
        self.read(&key, Some(Kind::Min), |value, _| match value {
            Some(Value::Min(min)) => Some(convert::scalar(min.get())),
            _ => None,
        })
    }

    async fn put_min(&mut self, key: String, value: types::Scalar) -> Answer<()> {
        let op = convert::ordinal(value).map(Op::MinPut);
        self.write(&key, op).await
    }
}

impl flag::Host for Data {
    fn get(&mut self, key: String) -> Answer<bool> {
        self.read(&key, Some(Kind::Flag), |value, _| value.is_some())
    }

    async fn raise(&mut self, key: String) -> Answer<()> {
        self.write(&key, Ok(Op::FlagRaise)).await
    }
}

impl set::Host for Data {
    fn get(&mut self, key: String) -> Answer<Vec<types::Payload>> {
        self.read(&key, Some(Kind::Set), |value, _| match value {
            Some(Value::Set(set)) => convert::payloads(set.iter()),
            _ => Vec::new(),
        })
    }

    fn has(&mut self, key: String, element: types::Payload) -> Answer<bool> {
        let element = match convert::from_guest(element) {
            Ok(element) => element,
            Err(problem) => return Ok(Err(problem.into())),
        };
        self.read(&key, Some(Kind::Set), |value, _| match value {
            Some(Value::Set(set)) => set.contains(&element),
            _ => false,
        })
    }

    async fn add(&mut self, key: String, element: types::Payload) -> Answer<()> {
        let op = convert::from_guest(element).map(Op::SetAdd);
        self.write(&key, op).await
    }

    async fn remove(&mut self, key: String, element: types::Payload) -> Answer<()> {
        let op = convert::from_guest(element).map(Op::SetRemove);
        self.write(&key, op).await
    }
}

impl map::Host for Data {
    fn get(&mut self, key: String) -> Answer<Vec<(String, state::Field)>> {
        self.read(&key, Some(Kind::Map), convert::fields)
    }

    fn get_field(&mut self, key: String, name: String) -> Answer<Option<state::Field>> {
        self.read(&key, Some(Kind::Map), |value, at| {
            convert::one_field(value, &name, at)
        })
    }

    async fn apply(&mut self, key: String, name: String, operation: map::Operation) -> Answer<()> {
        let op = convert::operation(name, operation);
        self.write(&key, op).await
    }
}

impl history::Host for Data {
    fn get(&mut self, key: String) -> Answer<Vec<state::Entry>> {
        self.read(&key, Some(Kind::Log), |value, _| convert::entries(value))
    }

    async fn append(
        &mut self,
        key: String,
        value: types::Payload,
        keep: Option<u32>,
    ) -> Answer<()> {
        let op = convert::from_guest(value).map(|value| Op::LogAppend { value, keep });
        self.write(&key, op).await
    }
}

impl top::Host for Data {
    fn get(&mut self, key: String) -> Answer<Vec<state::Score>> {
        self.read(&key, Some(Kind::Top), |value, _| convert::scores(value))
    }

    async fn put(
        &mut self,
        key: String,
        id: String,
        score: types::Scalar,
        keep: u32,
    ) -> Answer<()> {
        let op = convert::ordinal(score).map(|score| Op::TopPut {
            score,
            id: id.into(),
            of: keep,
        });
        self.write(&key, op).await
    }
}
