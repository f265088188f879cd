from __future__ import annotations

import pickle

import pytest
import tidemill
from tidemill import testing

app = tidemill.App("flows")
other = tidemill.App("flows_other")


@app.function
def f(x):
    return x + 1


@app.function
def g(x):
    return x * 10


@app.function
async def h(x):
    return -x


@app.function
def combine(*parts):
    return list(parts)


@app.function
def gen(x):
    yield x


@other.function
def stranger(x):
    return x


def shape(flow):
    ir = flow.compile()
    assert ir["version"] == 1
    assert [s["id"] for s in ir["steps"]] == list(range(len(ir["steps"])))
    return [(s["call"], s["in"]) for s in ir["steps"]], ir["output"]


def test_chain():
    assert shape(f >> g >> h) == ([("f", ["input"]), ("g", [0]), ("h", [1])], 2)
    assert shape(f >> (g >> h)) == shape((f >> g) >> h)


def test_fan_out_and_in():
    flow = f >> (g | h | f) >> combine
    assert shape(flow) == (
        [("f", ["input"]), ("g", [0]), ("h", [0]), ("f", [0]), ("combine", [1, 2, 3])],
        4,
    )
    assert flow.local(1) == [20, -2, 3]
    assert flow(1) == [20, -2, 3]


def test_branches_first_and_branches_that_are_chains():
    flow = ((f >> g) | (h >> f)) >> combine
    assert shape(flow) == (
        [("f", ["input"]), ("g", [0]), ("h", ["input"]), ("f", [2]), ("combine", [1, 3])],
        4,
    )
    assert shape((f >> g | h >> f) >> combine) == shape(flow)  # >> binds tighter
    assert flow.local(1) == [20, 0]


def test_branches_after_branches():
    assert shape((f | g) >> (combine | combine) >> combine)[0][2:] == [
        ("combine", [0, 1]),
        ("combine", [0, 1]),
        ("combine", [2, 3]),
    ]


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="add a step"):
        (f >> (g | h)).compile()
    with pytest.raises(ValueError, match="give it a last step"):
        ((f >> (g | h)) | f) >> combine >> (f | f)
        (((f >> (g | h)) | f) >> combine).compile()
    with pytest.raises(ValueError, match="one app"):
        (f >> stranger).compile()
    with pytest.raises(ValueError, match="generator"):
        (f >> gen).compile()
    with pytest.raises(TypeError):
        f >> 3


def test_registered_and_adhoc():
    named = app.flow("chain", f >> g)
    assert named.name == "chain" and named.ir() is None
    assert app.manifest()["flows"] == [{"name": "chain", "flow": (f >> g).compile()}]
    loose = f >> g
    assert loose.ir() == loose.compile()
    name = loose.adhoc_name()
    assert name.startswith("adhoc-") and len(name) == len("adhoc-") + 16
    assert name == (f >> g).adhoc_name() != (g >> f).adhoc_name()
    assert pickle.loads(pickle.dumps(named)) is named
    assert pickle.loads(pickle.dumps(loose)).compile() == loose.compile()
    with pytest.raises(ValueError, match="already"):
        app.flow("chain", f)
    assert shape(named >> h) == ([("f", ["input"]), ("g", [0]), ("h", [1])], 2)


def test_flows_in_local_mode():
    with testing.local(app):
        flow = f >> (g | h) >> combine
        assert flow.remote(1) == [20, -2]
        assert flow.spawn(2).get() == [30, -3]
        assert list(flow.map([1, 2])) == [[20, -2], [30, -3]]


def test_the_name_of_an_unregistered_flow_is_of_its_content_and_made_once(monkeypatch):
    from tidemill import _flow

    made = []
    sha256 = _flow.hashlib.sha256
    monkeypatch.setattr(_flow.hashlib, "sha256", lambda text: made.append(text) or sha256(text))
    flow, same, other = f >> g, f >> g, g >> f
    assert flow.adhoc_name() == flow.adhoc_name()
    assert len(made) == 1
    assert same.adhoc_name() == flow.adhoc_name() != other.adhoc_name()
