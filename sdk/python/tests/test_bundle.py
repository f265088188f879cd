from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tidemill
from node import FakeNode
from tidemill import _bundle, deploy

SDK = Path(tidemill.__file__).parent.parent
APP = """
import tidemill, {helper}
app = tidemill.App("filed")
@app.function
def f(x): return {helper}.twice(x)
@app.function
def g(): return app.name
app.flow("ff", f >> f)
print("noise")
"""


def run(*args, cwd=None, stdin=None):
    env = {**os.environ, "PYTHONPATH": str(SDK), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *map(str, args)], capture_output=True, text=True, cwd=cwd, env=env,
        input=stdin, timeout=60,
    )  # fmt: skip


def make(directory, name="reviews", helper="util"):
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.py").write_text(APP.format(helper=helper))
    (directory / f"{helper}.py").write_text("def twice(x): return x * 2\n")
    (directory / "data.bin").write_bytes(b"not source")
    for skipped in (".venv", "__pycache__", ".git", "venv2", "notes"):
        (directory / skipped).mkdir()
        (directory / skipped / "junk.py").write_text("")
    (directory / "venv2" / "pyvenv.cfg").write_text("")
    (directory / "pkg").mkdir()
    (directory / "pkg" / "__init__.py").write_text("")
    (directory / "pkg" / "table.csv").write_text("1,2")
    (directory / "pkg" / "made").mkdir()
    (directory / "pkg" / "made" / "pyvenv.cfg").write_text("")
    return directory / f"{name}.py"


def bundle(file, out, *more):
    done = run("-m", "tidemill.deploy", file, "-o", out, *more)
    assert done.returncode == 0, done.stderr
    return done


def test_source_bundle(tmp_path):
    file = make(tmp_path / "a")
    done = bundle(file, tmp_path / "b.zip", "--print-manifest")
    manifest = json.loads(done.stdout)  # what the app prints is elsewhere
    archive = zipfile.ZipFile(tmp_path / "b.zip")
    assert json.loads(archive.read("tidemill.json")) == manifest
    assert set(archive.namelist()) == {
        "tidemill.json", "reviews.py", "util.py", "pkg/__init__.py", "pkg/table.csv",
    }  # fmt: skip
    assert manifest["entry"] == {"kind": "module", "module": "reviews", "app": "app"}
    assert [f["name"] for f in manifest["flows"]] == ["ff"]
    assert manifest["runtime"]["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"


def test_the_same_source_makes_the_same_bytes(tmp_path):
    bundle(make(tmp_path / "a"), tmp_path / "1.zip")
    file = make(tmp_path / "elsewhere")
    os.utime(file, (1, 1))
    bundle(f"{file}:app", tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    file.write_text(file.read_text() + "\n# more\n")
    bundle(file, tmp_path / "3.zip")
    assert (tmp_path / "1.zip").read_bytes() != (tmp_path / "3.zip").read_bytes()


def unpacked(archive, directory):
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(directory)
        return json.loads(opened.read("tidemill.json"))


def serve(archive, directory):
    manifest = unpacked(archive, directory)
    names = [function["name"] for function in manifest["functions"]]
    node = FakeNode(directory, manifest["entry"], names, app=manifest["app"])
    assert "error" not in node.loaded, node.loaded
    return node


def test_a_bundle_runs(tmp_path):
    bundle(make(tmp_path / "a"), tmp_path / "b.zip")
    with serve(tmp_path / "b.zip", tmp_path / "out") as node:
        assert node.value("f", 4) == 8


def test_packages(tmp_path):
    package = tmp_path / "top" / "sub"
    package.mkdir(parents=True)
    for directory in (tmp_path / "top", package):
        (directory / "__init__.py").write_text("")
    (package / "main.py").write_text(
        "import tidemill\nfrom ..lib import K\nmine = tidemill.App('p')\n"
        "@mine.function\ndef f(): return K\n"
    )
    (tmp_path / "top" / "lib.py").write_text("K = 5\n")
    bundle(package / "main.py", tmp_path / "b.zip")
    with serve(tmp_path / "b.zip", tmp_path / "out") as node:
        assert node.value("f") == 5
    manifest = json.loads((tmp_path / "out" / "tidemill.json").read_text())
    assert manifest["entry"] == {"kind": "module", "module": "top.sub.main", "app": "mine"}


SCRIPT = """
import sys, tidemill
from tidemill import _bundle, _codec
app = tidemill.App("scripted")
class Odd(Exception): pass
class Point:
    def __init__(self, x): self.x = x
@app.function
def f(p):
    assert type(p) is Point
    p.x += 1
    return p
@app.function
def fail(): raise Odd("hm")
if __name__ == "__main__":
    open(sys.argv[1], "wb").write(_bundle.build(app).archive())
    open(sys.argv[2], "wb").write(bytes(_codec.encode_call((Point(1),), {}).data))
"""


def test_a_script_is_bundled_as_its_file(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "tool.py").write_text(SCRIPT)
    done = run(tmp_path / "src" / "tool.py", tmp_path / "b.zip", tmp_path / "call")
    assert done.returncode == 0, done.stderr
    with serve(tmp_path / "b.zip", tmp_path / "out") as node:
        manifest = json.loads((tmp_path / "out" / "tidemill.json").read_text())
        assert manifest["entry"] == {"kind": "module", "module": "tool", "app": "app"}
        from tidemill import _codec

        call = _codec.payload(_codec.PICKLE, (tmp_path / "call").read_bytes())
        outcome = node.run([{"id": 0, "function": "f", "call": 0}], [call])
        assert outcome.error is None, outcome.error
        assert b"tool" in bytes(outcome.outputs[0].data)  # the script maps it to __main__
        assert node.call("fail").error["type"] == "tool.Odd"


REPL = """
import sys, tidemill
from tidemill import _bundle
app = tidemill.App("notes")
SCALE = 3
class Odd(Exception): pass
@app.function
def f(x): return x * SCALE
@app.function
def h(x): return f.local(x) + f.remote(x)
@app.function
def fail(): raise Odd("hm")
@app.function
def f(x): return x * SCALE * 2
@app.function
def early(x): return [M.go.remote(x), M().go.local(x), both.local(x)]
@app.cls
class M:
    def go(self, x): return x + 1
both = app.flow("both", f >> f)
open({out!r}, "wb").write(_bundle.build(app).archive())
"""


def test_a_repl_is_bundled_as_a_pickle(tmp_path):
    done = run("-", stdin=REPL.format(out=str(tmp_path / "b.zip")))
    assert done.returncode == 0, done.stderr
    with serve(tmp_path / "b.zip", tmp_path / "out") as node:
        manifest = json.loads((tmp_path / "out" / "tidemill.json").read_text())
        assert manifest["entry"] == {"kind": "pickle"}
        assert node.value("f", 2) == 12  # a cell that is run again replaces the function
        assert node.value("h", 2) == 24
        assert node.value("M.go", 2) == 3
        assert node.value("early", 2) == [3, 3, 72]  # they are defined after it
        assert type(node.call("fail").exception()).__name__ == "Odd"


HELPER = 7


def module_helper(x):
    return x + HELPER


def test_an_app_inside_a_function_is_a_pickle(tmp_path):
    inner = tidemill.App("inner")

    @inner.function
    def f(x):
        return module_helper(x)

    (tmp_path / "b.zip").write_bytes(_bundle.build(inner).archive())
    with serve(tmp_path / "b.zip", tmp_path / "out") as node:
        assert node.value("f", 1) == 8


def test_what_can_not_be_bundled(tmp_path, monkeypatch):
    with pytest.raises(tidemill.BadManifest, match="no functions"):
        _bundle.build(tidemill.App("empty"))
    file = make(tmp_path / "a")
    (file.parent / "big.py").write_text("#" * 1000)
    monkeypatch.setattr(_bundle, "SIZE_MAX", 500)
    root, paths = _bundle.sources(str(file), "reviews")
    with pytest.raises(tidemill.PayloadTooLarge):
        _bundle._read(root, paths)
    with pytest.raises(FileNotFoundError):
        deploy.load(str(tmp_path / "none.py"))
    done = run("-m", "tidemill.deploy", f"{file}:wrong", "-o", tmp_path / "x.zip")
    assert done.returncode != 0 and "no tidemill.App named wrong" in done.stderr


def test_an_app_from_another_module_is_entered_by_the_file_that_is_deployed(tmp_path):
    (tmp_path / "base.py").write_text("import tidemill\napp = tidemill.App('spread')\n")
    text = "from base import app\n@app.function\ndef f(x): return x + 1\n"
    (tmp_path / "more.py").write_text(text)
    done = run("-m", "tidemill.deploy", tmp_path / "more.py", "-o", tmp_path / "b.zip")
    assert done.returncode == 0, done.stderr
    with serve(tmp_path / "b.zip", tmp_path / "out") as node:
        assert node.value("f", 1) == 2


def test_archives_are_plain_zips():
    made = _bundle.Bundle("x", {"app": "x"}, {"b.py": b"1", "a.py": b"2"})
    archive = zipfile.ZipFile(io.BytesIO(made.archive()))
    assert archive.namelist() == ["tidemill.json", "a.py", "b.py"]
    assert archive.testzip() is None
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_components_travel_in_the_bundle(tmp_path):
    file = tmp_path / "shop.py"
    file.write_text(
        "import tidemill\n"
        "app = tidemill.App('shop')\n"
        "a = app.component('a', 'built/a.wasm', hosts=['api.example.com'], memory='64MB')\n"
        "b = app.component('b', 'built/b.wasm', fresh=True, doc='The same bytes.')\n"
        "web = app.component('web', 'built/c.wasm', http=True, public=True)\n"
        "app.flow('ab', a >> b)\n"
    )
    missing = run("-m", "tidemill.deploy", file, "-o", tmp_path / "x.zip")
    assert missing.returncode != 0 and "built/a.wasm; build the component" in missing.stderr
    (tmp_path / "built").mkdir()
    for name, data in [("a", b"one"), ("b", b"one"), ("c", b"two")]:
        (tmp_path / "built" / f"{name}.wasm").write_bytes(data)
    bundle(file, tmp_path / "x.zip")
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        made = json.loads(archive.read("tidemill.json"))
        a, b, web = made["functions"]
        assert archive.read(a["component"]) == b"one"
        assert a["component"] == b["component"] != web["component"]
    assert (a["hosts"], a["memory_bytes"], "fresh" in a) == (["api.example.com"], 64 << 20, False)
    assert (b["fresh"], b["doc"], b["kind"]) == (True, "The same bytes.", "function")
    assert (web["kind"], web["public"]) == ("http", True)


def test_a_component_is_not_called_locally():
    app = tidemill.App("parts")
    part = app.component("part", "part.wasm")
    with pytest.raises(RuntimeError, match="remote"):
        part(1)
    with pytest.raises(TypeError, match="list"):
        app.component("other", "part.wasm", hosts="api.example.com")
