"""Flows as a node plans and runs them."""

from __future__ import annotations

import tidemill


def plan(node, flow: str) -> str:
    return next(f["plan"] for f in node.app("kitchen")["flows"] if f["name"] == flow)


def test_a_chain_is_one_hand_off(node, kitchen):
    text = plan(node, "chain")
    assert text.startswith("3 steps in 1 hand-off\n")
    assert "#0 add(input)" in text
    assert "#2 negate(#1) => result" in text


def test_functions_of_other_workers_are_hand_offs_of_their_own(node, kitchen):
    text = plan(node, "fork")
    assert "elsewhere" in text
    assert "workers B" in text
    assert kitchen.fork.remote(2) == [144, -12, 1012]


def test_the_trace_has_each_step(node, kitchen):
    call = kitchen.chain.spawn(3)
    assert call.get() == -169
    trace = node._json("GET", f"/v1/traces/{call.id}")
    names = [span["name"] for span in trace["spans"]]
    for name in ("add", "square", "negate"):
        assert any(name in found for found in names), names


def test_a_flow_without_a_name_works_on_a_new_node_too(node, kitchen):
    flow = kitchen.square >> (kitchen.negate | kitchen.square) >> kitchen.pair
    assert flow.remote(2) == [-4, 16]
    assert flow.remote(3) == [-9, 81]
    # A deploy forgets flows that were registered from outside; the client knows.
    node._runtime.known_flows.clear()
    assert flow.remote(2) == [-4, 16]
    assert list(flow.map([1, 2])) == [[-1, 1], [-4, 16]]


def test_a_large_value_is_handed_from_worker_to_worker(kitchen):
    flow = kitchen.echo >> kitchen.describe
    assert flow.remote(bytes(1 << 20)) in ("builtins.memoryview", "builtins.bytes")


def test_a_step_that_is_missing_is_said(node):
    app = tidemill.App("kitchen_flowless")

    @app.function
    def f(x): ...

    app.deploy(node)
    other = tidemill.App("kitchen_flowless")

    @other.function
    def g(x): ...

    try:
        (g >> g).remote(1)
    except tidemill.Error as error:
        assert error.code in ("bad-flow", "unknown-function")
        assert "g" in str(error)
    else:
        raise AssertionError("a flow of an unknown function ran")
