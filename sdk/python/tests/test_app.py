from __future__ import annotations

import pickle

import pytest
import tidemill
from tidemill._app import parse_size
from tidemill.errors import from_code

app = tidemill.App("options")


@app.function(
    timeout=1.5, memory="2GB", retries=2, max_concurrency=3, min_workers=1, idle_timeout=9,
    requirements=["numpy"], env={"A": "b"}, secrets=["S"], resources={"gpu": 1}, name="named",
    level="eventual", durability="memory",
)  # fmt: skip
def full(x: int) -> int:
    """Doc line.

    More."""
    return x


@app.function()
def bare():
    return 1


@app.cls(memory="1GB")
class Model:
    @tidemill.enter
    def warm(self):
        self.warmed = getattr(self, "warmed", 0) + 1

    def predict(self, x):
        return (x, self.warmed)

    async def apredict(self, x):
        return x

    @staticmethod
    def helper():
        return "static"


def test_manifest():
    manifest = app.manifest()
    assert manifest["manifest"] == 1 and manifest["app"] == "options"
    assert manifest["entry"] == {"kind": "module", "module": "test_app", "app": "app"}
    by_name = {f["name"]: f for f in manifest["functions"]}
    assert by_name["named"] == {
        "name": "named", "kind": "function", "asynchronous": False, "timeout_ms": 1500,
        "memory_bytes": 2 << 30, "retries": 2, "max_concurrency": 3, "min_workers": 1,
        "idle_timeout_ms": 9000, "requirements": ["numpy"], "env": {"A": "b"}, "secrets": ["S"],
        "resources": {"gpu": 1}, "level": "eventual", "durability": "memory",
        "doc": "Doc line.\n\nMore.",
    }  # fmt: skip
    assert by_name["bare"]["memory_bytes"] == 536870912 and by_name["bare"]["timeout_ms"] == 60000
    assert set(by_name) == {"named", "bare", "Model.predict", "Model.apredict"}
    assert by_name["Model.apredict"]["asynchronous"] is True
    assert by_name["Model.predict"]["memory_bytes"] == 1 << 30


def test_sizes():
    assert parse_size("512MB") == parse_size("512MiB") == parse_size("512m") == 512 << 20
    assert parse_size("1.5GB") == 3 << 29 and parse_size(1000) == 1000
    for wrong in ("", "MB", "12XB", -1, 0):
        with pytest.raises(ValueError):
            parse_size(wrong)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"retries": -1}, {"max_concurrency": 0}, {"level": "strict"}, {"name": "1x"},
     {"memory": "lots"}, {"durability": "some"}],
)  # fmt: skip
def test_wrong_options_are_refused_early(options):
    with pytest.raises(ValueError):
        tidemill.App("wrong").function(**options)(lambda: None)


def test_unknown_options_and_uses():
    with pytest.raises(TypeError):
        app.function(memroy=1)
    with pytest.raises(TypeError):
        app.function(full)
    with pytest.raises(TypeError):
        app.cls(lambda: None)
    with pytest.raises(ValueError, match="already"):
        app.function(name="bare")(lambda: None)
    with pytest.raises(ValueError):
        tidemill.App("no spaces")


def test_local_calls_are_plain():
    assert full(3) == 3 and full.local(x=4) == 4 and bare() == 1
    assert Model().predict(1) == (1, 1) and Model.predict(2) == (2, 1)
    assert Model.predict.local(2) == (2, 1)
    assert Model.helper() == "static" and Model().warmed == 1
    with pytest.raises(TypeError, match="no arguments"):
        Model(3)


def test_functions_pickle_by_name():
    for thing in (app, full, Model, Model.predict):
        assert pickle.loads(pickle.dumps(thing)) is thing


def test_errors():
    error = from_code("unknown-app", "no app x", request="r1")
    assert type(error) is tidemill.NotFound and error.code == "unknown-app"
    assert str(error) == "unknown-app: no app x (request r1)"
    back = pickle.loads(pickle.dumps(error))
    assert (back.code, back.detail, back.request) == ("unknown-app", "no app x", "r1")
    assert isinstance(from_code("timed-out", ""), TimeoutError)
    assert type(from_code("forbidden-host", "")) is tidemill.Unauthorized
    assert type(from_code("brand-new", "x")) is tidemill.Error
    failed = pickle.loads(pickle.dumps(tidemill.FunctionError("T", "m", "tb")))
    assert (failed.type, failed.message, failed.traceback) == ("T", "m", "tb")


def test_state_outside_says_where_to_look():
    with pytest.raises(RuntimeError, match="connect"):
        tidemill.state.counter("c").get()
    with pytest.raises(RuntimeError, match="inside"):
        _ = tidemill.request.id


def test_handles_check_values():
    from tidemill import state

    for wrong in (
        lambda: state.register(3),
        lambda: state.max("m").put(None),
        lambda: state.counter("c").add(1.5),
        lambda: state.top("t").put("x", "id"),
        lambda: state.map("m").counter("f").expire(after=1),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(OverflowError):
        state.counter("c").add(1 << 63)
    with pytest.raises(ValueError):
        state.min("m").put(float("nan"))
