"""Waiting for answers on the worker socket: who sleeps, and who looks first."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from tidemill import _link
from tidemill._link import Link
from tidemill._wire import REPLY, STATE, Wire, frame_bytes

REQUEST = "r"


class Pair:
    """A link, and the node's end of its socket."""

    def __init__(self) -> None:
        ours, self.node = socket.socketpair()
        self.link = Link(Wire(ours, None, 1), lambda: None)
        self.link.begin(REQUEST)

    def ask(self) -> int:
        return self.link.ask(STATE, {"ops": [], "get": []})

    def answer(self, seq: int) -> None:
        self.node.sendall(frame_bytes(REPLY, f'{{"re":{seq},"r":[{seq}]}}'))

    def answer_late(self, seq: int) -> None:
        """Once the link has given up looking and sleeps."""
        sleeper = threading.Timer(0.03, self.answer, (seq,))
        sleeper.start()
        assert self.link.wait(seq, soon=True)[0]["r"] == [seq]
        sleeper.join()


@pytest.fixture
def pair(monkeypatch) -> Pair:
    monkeypatch.setattr(_link, "_processors", lambda: 2)
    return Pair()


def test_an_answer_that_is_there_needs_one_look(pair, monkeypatch):
    yields = []
    monkeypatch.setattr(_link.os, "sched_yield", lambda: yields.append(1))
    seq = pair.ask()
    pair.answer(seq)
    assert pair.link.wait(seq, soon=True)[0]["r"] == [seq]
    assert yields == []


def test_an_answer_that_comes_while_looking_is_taken_without_sleeping(pair, monkeypatch):
    seq = pair.ask()
    yields = []

    def answer_at_the_third() -> None:
        yields.append(1)
        if len(yields) == 3:
            pair.answer(seq)

    monkeypatch.setattr(_link.os, "sched_yield", answer_at_the_third)
    assert pair.link.wait(seq, soon=True)[0]["r"] == [seq]
    assert len(yields) == 3


def test_looking_is_given_up_where_answers_are_late_and_tried_again(pair, monkeypatch):
    yields = []
    monkeypatch.setattr(_link.os, "sched_yield", lambda: yields.append(1))
    spent = []
    for _ in range(8):
        yields.clear()
        pair.answer_late(pair.ask())
        spent.append(len(yields))
    assert spent == [64, 32, 16, 8, 4, 2, 1, 0]
    # What was late for long may be quick again.
    for _ in range(_link._GLANCES_AGAIN):
        seq = pair.ask()
        pair.answer(seq)
        pair.link.wait(seq, soon=True)
    yields.clear()
    pair.answer_late(pair.ask())
    assert len(yields) == 64


def test_only_answers_that_come_soon_are_looked_for(pair, monkeypatch):
    yields = []
    monkeypatch.setattr(_link.os, "sched_yield", lambda: yields.append(1))
    seq = pair.ask()
    late = threading.Timer(0.03, pair.answer, (seq,))
    late.start()
    begun = time.process_time()
    assert pair.link.wait(seq)[0]["r"] == [seq]
    assert yields == [] and time.process_time() - begun < 0.02
    late.join()


def test_one_processor_never_looks(monkeypatch):
    monkeypatch.setattr(_link, "_processors", lambda: 1)
    yields = []
    monkeypatch.setattr(_link.os, "sched_yield", lambda: yields.append(1))
    pair = Pair()
    for _ in range(_link._GLANCES_AGAIN + 2):
        seq = pair.ask()
        pair.answer(seq)
        assert pair.link.wait(seq, soon=True)[0]["r"] == [seq]
    assert yields == []
