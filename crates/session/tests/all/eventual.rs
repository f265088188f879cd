use crate::{Fixture, key, text};
use std::sync::{Arc, mpsc};
use tidemill_lattice::{Kind, Op, Time};
use tidemill_session::{Error, Outgoing, Request, View};
use tidemill_store::Durability;

fn begin(fixture: &Fixture) -> Arc<Request> {
    Request::begin_eventual(7, Arc::clone(&fixture.store), Durability::Memory)
}

fn settle(request: &Request) -> Result<(), Error> {
    let (sender, receiver) = mpsc::channel();
    request.settle(Box::new(move |outcome| sender.send(outcome).unwrap()));
    receiver.recv().unwrap()
}

fn count(view: &View, name: &str) -> Option<i128> {
    let cell = view.read_as(&key(name), Kind::Counter).unwrap()?;
    match cell.view(view.time())? {
        tidemill_lattice::Value::Counter(counter) => Some(counter.value()),
        other => panic!("a {other:?}"),
    }
}

#[test]
fn each_write_is_seen_by_all_as_soon_as_it_is_settled() {
    let fixture = Fixture::new();
    let request = begin(&fixture);
    let mut view = request.view(Vec::new(), 0);
    for _ in 0..3 {
        view.write(&key("n"), &Op::CounterAdd(2)).unwrap();
    }
    settle(&request).unwrap();
    assert!(request.is_settled());
    assert_eq!(count(&view, "n"), Some(6));
    let other = fixture.begin().view(Vec::new(), 0);
    assert_eq!(count(&other, "n"), Some(6), "before the request has ended");
    assert!(request.written() > Time::ZERO);
    let keys = view.scan(
        &tidemill_lattice::Key::prefix("default", "app", ""),
        None,
        9,
    );
    assert_eq!(keys.unwrap().keys.len(), 1);
    assert!(view.finish().is_empty(), "there is nothing left to commit");
}

#[test]
fn reads_follow_what_others_write_meanwhile() {
    let fixture = Fixture::new();
    let request = begin(&fixture);
    let view = request.view(Vec::new(), 0);
    assert_eq!(count(&view, "n"), None);
    let writer = fixture.begin();
    let mut writing = writer.view(Vec::new(), 0);
    writing.write(&key("n"), &Op::CounterAdd(1)).unwrap();
    fixture.commit(&writer, &[writing.finish()]);
    assert_eq!(count(&view, "n"), Some(1));
}

#[test]
fn a_write_that_does_not_fit_is_told_once_and_the_others_stand() {
    let fixture = Fixture::new();
    let request = begin(&fixture);
    let mut view = request.view(Vec::new(), 0);
    view.write(&key("n"), &Op::CounterAdd(1)).unwrap();
    view.write(&key("n"), &Op::RegisterSet(text("no"))).unwrap();
    view.write(&key("n"), &Op::CounterAdd(1)).unwrap();
    let error = settle(&request).unwrap_err();
    assert!(matches!(error, Error::Operation { .. }), "{error}");
    settle(&request).unwrap();
    assert_eq!(count(&view, "n"), Some(2));
}

#[test]
fn its_messages_are_committed_and_nothing_else_is() {
    let fixture = Fixture::new();
    let request = begin(&fixture);
    let (sender, receiver) = mpsc::channel();
    let outgoing = Outgoing {
        messages: vec![bytes::Bytes::from_static(b"later")],
        consumes: None,
        ..Outgoing::default()
    };
    let done = Box::new(move |result| sender.send(result).unwrap());
    request.commit(&[], Durability::Memory, outgoing, done);
    assert_eq!(receiver.recv().unwrap().unwrap().messages.len(), 1);
    assert_eq!(fixture.store.pending_messages().unwrap().len(), 1);
}
