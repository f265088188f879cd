"""Deploys to a real node, from everywhere an app can be."""

from __future__ import annotations

import json
import textwrap
import threading
import time
import zipfile
from pathlib import Path

import pytest
import tidemill
from conftest import data_directory, eventually, run_python
from tidemill import dev


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


APP = """
    import tidemill
    from words import WORD

    app = tidemill.App("{app}")

    @app.function
    def say(to: str) -> str:
        return f"{{WORD}} {{to}}"
"""


def test_from_a_file_with_a_module_beside_it(node, tmp_path):
    write(tmp_path, {"one.py": APP.format(app="one"), "words.py": "WORD = 'hello'\n"})
    deployed = node.deploy(tmp_path / "one.py")
    assert (deployed["app"], deployed["changed"]) == ("one", True)
    assert deployed["functions"] == ["say"]
    assert node.call("one", "say", "you") == "hello you"
    assert node.deploy(tmp_path / "one.py")["changed"] is False
    assert [function["name"] for function in node.app("one")["functions"]] == ["say"]


def test_from_a_file_with_two_apps(node, tmp_path):
    text = """
        import tidemill
        first = tidemill.App("two_first")
        second = tidemill.App("two_second")

        @first.function
        def f(): return 1

        @second.function
        def f(): return 2
    """
    write(tmp_path, {"two.py": text})
    with pytest.raises(tidemill.BadManifest):
        node.deploy(tmp_path / "two.py")
    node.deploy(f"{tmp_path}/two.py:second")
    assert node.call("two_second", "f") == 2


def test_from_a_package(node, tmp_path):
    files = {
        "shop/__init__.py": "",
        "shop/words.py": "GREETING = 'welcome'\n",
        "shop/data/names.txt": "ada\n",
        "shop/main.py": """
            from pathlib import Path
            import tidemill
            from .words import GREETING
            from shop import words

            app = tidemill.App("packaged")

            @app.function
            def greet() -> str:
                name = (Path(__file__).parent / "data" / "names.txt").read_text().strip()
                assert words.GREETING == GREETING
                return f"{GREETING} {name}"
        """,
    }
    write(tmp_path, files)
    node.deploy(tmp_path / "shop" / "main.py")
    assert node.call("packaged", "greet") == "welcome ada"


SCRIPT = """
    import dataclasses
    import tidemill
    from tidemill import state

    app = tidemill.App("{app}")

    @dataclasses.dataclass
    class Point:
        x: int

    class Odd(Exception):
        pass

    def plus_one(x):
        return x + 1

    @app.function
    def move(point: Point, by: int = 1) -> Point:
        if by % 2 == 0:
            raise Odd(str(by))
        state.counter("moved").add()
        return Point(plus_one(point.x) + by)

    def make(step):
        @app.function(name="stepped")
        def stepped(x: int) -> int:
            return x + step
        return stepped

    stepped = make(5)

    @app.cls
    class Box:
        def __init__(self):
            self.warm = False
        @tidemill.enter
        def start(self):
            self.warm = True
        def open(self, point: Point) -> list:
            return [self.warm, point]

    flow = app.flow("twice", move >> move)

    @app.function
    def through(x: int) -> list:
        point = Point(x)
        return [flow.remote(point).x, *[box.open.remote(point)[0] for box in (Box, Box())]]
"""

USE = """
    app.deploy()
    print(move.remote(Point(1), by=3))
    print(flow.remote(Point(1)))
    print(stepped.remote(1))
    print(Box.open.remote(Point(7)))
    print(through.remote(1))
    try:
        move.remote(Point(1), by=2)
    except Odd as odd:
        print("odd", odd, type(odd) is Odd, type(odd.__cause__).__name__)
    print(type(move.remote(Point(1))) is Point)
    print("moved", tidemill.connect().state(app).counter("moved").get())
"""

OUTPUT = """\
Point(x=5)
Point(x=5)
6
[True, Point(x=7)]
[5, True, True]
odd 2 True RemoteTraceback
True
moved 6
"""


def test_from_a_script_that_is_run(node, tmp_path):
    use = textwrap.indent(textwrap.dedent(USE), "    ")
    text = textwrap.dedent(SCRIPT.format(app="scripted")) + '\nif __name__ == "__main__":\n' + use
    write(tmp_path, {"scripted.py": text})
    done = run_python(node, ["scripted.py"], tmp_path)
    assert (done.stdout, done.returncode) == (OUTPUT, 0), done.stderr


def test_from_a_script_run_as_a_module(node, tmp_path):
    use = textwrap.indent(textwrap.dedent(USE), "    ")
    text = textwrap.dedent(SCRIPT.format(app="moduled")) + '\nif __name__ == "__main__":\n' + use
    write(tmp_path, {"pack/__init__.py": "", "pack/run.py": text})
    done = run_python(node, ["-m", "pack.run"], tmp_path)
    assert (done.stdout, done.returncode) == (OUTPUT, 0), done.stderr


def test_from_a_repl(node, tmp_path):
    lines = textwrap.dedent(SCRIPT.format(app="typed") + USE)
    # An interpreter that is typed into ends a block at an empty line.
    typed: list[str] = []
    for line in filter(str.strip, lines.splitlines()):
        goes_on = line.startswith((" ", "except")) or (typed and typed[-1].startswith("@"))
        if not goes_on:
            typed.append("")
        typed.append(line.replace("app.deploy()", "deployed = app.deploy()"))
    done = run_python(node, ["-i", "-q"], tmp_path, "\n".join(typed) + "\n\n")
    assert (done.stdout, done.returncode) == (OUTPUT, 0), done.stderr


def test_from_code_that_is_executed(node, tmp_path):
    """As in a notebook: `__main__` without a file, cells run one by one, and again."""
    cells = """
        import __main__
        cells = {cells!r}
        for cell in cells:
            exec(cell, vars(__main__))
    """
    script, use = (textwrap.dedent(text) for text in (SCRIPT.format(app="executed"), USE))
    again = script.replace("return x + step", "return x + step * 100").replace(
        'app = tidemill.App("executed")', ""
    )
    again = again.replace('flow = app.flow("twice", move >> move)', "")
    again = again[: again.index("@app.cls")]
    more = "app.deploy()\nprint(stepped.remote(1))\n"
    text = textwrap.dedent(cells).format(cells=[script, use, again, more])
    done = run_python(node, ["-c", text], tmp_path)
    assert (done.stdout, done.returncode) == (OUTPUT + "501\n", 0), done.stderr


def test_from_inside_a_function(node):
    offset = 3
    app = tidemill.App("closed")

    @app.function
    def shift(x: int) -> int:
        return x + offset

    app.deploy(node)
    assert shift.remote(1) == 4


def test_a_bundle_made_without_a_node(node, tmp_path):
    write(tmp_path, {"made.py": APP.format(app="made"), "words.py": "WORD = 'bundled'\n"})
    done = run_python(node, ["-m", "tidemill.deploy", "made.py", "-o", "made.zip"], tmp_path)
    assert done.returncode == 0, done.stderr
    node.deploy(tmp_path / "made.zip")
    assert node.call("made", "say", "x") == "bundled x"


def edit_manifest(archive: Path, edit) -> Path:
    """A bundle whose manifest says something else."""
    edited = archive.with_name("edited.zip")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(edited, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "tidemill.json":
                manifest = json.loads(data)
                edit(manifest)
                data = json.dumps(manifest).encode()
            new.writestr(name, data)
    return edited


def test_an_app_of_another_python_is_refused(node, tmp_path):
    write(tmp_path, {"other.py": APP.format(app="other"), "words.py": "WORD = 'x'\n"})
    run_python(node, ["-m", "tidemill.deploy", "other.py", "-o", "other.zip"], tmp_path)
    edited = edit_manifest(tmp_path / "other.zip", lambda m: m["runtime"].update(python="3.2"))
    with pytest.raises(tidemill.PythonMismatch, match=r"3\.2") as caught:
        node.deploy(edited)
    assert caught.value.code == "python-mismatch"
    with pytest.raises(tidemill.NotFound):
        node.app("other")


def test_a_mistake_keeps_the_version_before(node, tmp_path):
    write(tmp_path, {"broken.py": APP.format(app="broken"), "words.py": "WORD = 'good'\n"})
    node.deploy(tmp_path / "broken.py")
    # It loads where it is bundled, and not on the node.
    write(tmp_path, {"words.py": "import os\nWORD = os.environ['NOT_ON_THE_NODE']\n"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOT_ON_THE_NODE", "x")
        with pytest.raises(tidemill.LoadFailed) as caught:
            node.deploy(tmp_path / "broken.py")
    assert caught.value.code == "load-failed"
    assert "NOT_ON_THE_NODE" in str(caught.value)
    assert node.call("broken", "say", "x") == "good x"
    write(tmp_path, {"words.py": "syntax error\n"})
    with pytest.raises(tidemill.BadManifest, match="SyntaxError"):
        node.deploy(tmp_path / "broken.py")


OPTIONS = """
    import os
    import tidemill

    app = tidemill.App("options")

    @app.function(env={{"MODE": "fast", "TZ": "UTC"}}, secrets=["API_KEY"])
    def variables() -> list:
        return [os.environ.get(name) for name in ("MODE", "API_KEY", "TIDEMILL_TOKEN_X")]

    @app.function
    def plain() -> list:
        return [os.environ.get(name) for name in ("MODE", "API_KEY")]

    @app.function(requirements=["six==1.16.0"]{more})
    def version() -> str:
        import six
        return six.__version__
"""


def test_variables_secrets_and_requirements(node, tmp_path):
    data = data_directory(node)
    write(tmp_path, {"options.py": OPTIONS.format(more="")})
    with pytest.raises(tidemill.Error, match="API_KEY"):
        node.deploy(tmp_path / "options.py")
    (data / "secrets").mkdir(exist_ok=True)
    (data / "secrets" / "API_KEY").write_text("hush\n")
    node.deploy(tmp_path / "options.py")
    assert node.call("options", "variables") == ["fast", "hush", None]
    assert node.call("options", "plain") == [None, None]
    assert node.call("options", "version") == "1.16.0"
    found = environments(data)
    assert len(found) == 1
    # Another deploy with the same requirements takes what is there.
    write(tmp_path, {"options.py": OPTIONS.format(more=", timeout=9")})
    assert node.deploy(tmp_path / "options.py")["changed"] is True
    assert node.call("options", "version") == "1.16.0"
    assert environments(data) == found


def environments(data: Path) -> dict[Path, int]:
    """Where `six` is installed in the node's data directory, and since when."""
    return {path: path.stat().st_mtime_ns for path in data.rglob("six.py")}


def test_requirements_that_do_not_exist(node, tmp_path):
    text = (
        OPTIONS.format(more="")
        .replace("six==1.16.0", "six==0.0.0.1")
        .replace('secrets=["API_KEY"]', "")
    )
    write(tmp_path, {"options.py": text.replace('"options"', '"no_such"')})
    with pytest.raises(tidemill.EnvironmentFailed, match="six") as caught:
        node.deploy(tmp_path / "options.py")
    assert caught.value.code == "environment-failed"


VERSIONED = """
    import time
    import tidemill
    from tidemill import state

    app = tidemill.App("versioned")

    @app.function
    def version() -> int:
        state.counter("calls").add()
        time.sleep(0.01)
        return {version}

    @app.function
    def slow() -> int:
        time.sleep(1.5)
        return quick.remote()

    @app.function
    def quick() -> int:
        return {version}
"""


def test_deploys_under_load_fail_no_request(node, tmp_path):
    file = tmp_path / "versioned.py"
    write(tmp_path, {"versioned.py": VERSIONED.format(version=0)})
    node.deploy(file)
    seen: list[list[int]] = [[] for _ in range(6)]
    failures: list[BaseException] = []
    stop = threading.Event()

    def load(results: list[int]) -> None:
        while not stop.is_set():
            try:
                results.append(node.call("versioned", "version"))
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=load, args=(results,)) for results in seen]
    for thread in threads:
        thread.start()
    try:
        for version in range(1, 6):
            write(tmp_path, {"versioned.py": VERSIONED.format(version=version)})
            node.deploy(file)
            time.sleep(0.3)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:3]
    for results in seen:
        assert results == sorted(results)
        assert set(results) >= {1, 2, 3, 4, 5}
    assert node.state("versioned").counter("calls").get() == sum(map(len, seen))


def test_a_request_ends_on_the_version_it_began_on(node, tmp_path):
    file = tmp_path / "versioned.py"
    write(tmp_path, {"versioned.py": VERSIONED.format(version=1)})
    node.deploy(file)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(node.call("versioned", "slow")))
    thread.start()
    eventually(lambda: node.requests(app="versioned", state="running")["requests"])
    write(tmp_path, {"versioned.py": VERSIONED.format(version=2)})
    node.deploy(file)
    assert node.call("versioned", "quick") == 2
    thread.join()
    assert results == [1]


def test_dev_deploys_what_changes(node, tmp_path):
    file = tmp_path / "edited.py"
    write(tmp_path, {"edited.py": APP.format(app="edited"), "words.py": "WORD = 'first'\n"})
    said: list[str] = []
    steps = iter(
        [
            lambda: write(tmp_path, {"words.py": "WORD = 'second!'\n"}),
            lambda: said.append(node.call("edited", "say", "x")),
            lambda: write(tmp_path, {"words.py": "WORD = \n"}),
            lambda: said.append(node.call("edited", "say", "y")),
            lambda: write(tmp_path, {"words.py": "WORD = 'third one'\n"}),
            lambda: None,
        ]
    )
    app = dev.watch(str(file), node, said.append, pause=lambda: next(steps)(), rounds=6)
    assert app == "edited"
    said.append(node.call("edited", "say", "z"))
    kinds = ["deployed" if line.startswith("deployed edited ") else line for line in said]
    assert kinds[:3] == ["deployed", "deployed", "second! x"]
    assert "SyntaxError" in kinds[3]
    assert kinds[4:] == ["second! y", "deployed", "third one z"]


def test_the_dev_command(node, tmp_path, program):
    """`tidemill dev` in a process of its own: edits show, and output is followed."""
    import os
    import subprocess

    from conftest import SDK, token_of

    text = APP.format(app="devved").replace("return", "print('said', to); return")
    write(tmp_path, {"devved.py": text, "words.py": "WORD = 'first'\n"})
    environment = {
        **os.environ,
        "TIDEMILL_URL": node.url,
        "TIDEMILL_TOKEN": token_of(node),
        "PYTHONPATH": str(SDK),
    }
    import sys

    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [program, "dev", "devved.py", "--python", sys.executable],
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )

    def answer(word: str) -> bool:
        try:
            return node.call("devved", "say", "x") == word
        except tidemill.NotFound:
            return False

    try:
        eventually(lambda: answer("first x"))
        write(tmp_path, {"words.py": "WORD = 'second!'\n"})
        eventually(lambda: answer("second! x"))
        eventually(lambda: "said x" in out.read_text())
    finally:
        process.terminate()
        process.wait()


def test_an_app_can_be_removed(node, tmp_path):
    app = tidemill.App("removed")

    @app.function
    def bump() -> None:
        tidemill.state.counter("n").add()

    app.deploy(node)
    bump.remote()
    node.remove(app)
    with pytest.raises(tidemill.NotFound):
        bump.remote()
    app.deploy(node)
    assert node.state(app).counter("n").get() == 1
    node.remove(app, state="delete")
    app.deploy(node)
    assert node.state(app).counter("n").get() == 0
