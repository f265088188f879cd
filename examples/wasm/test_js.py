"""The JavaScript functions, built here and called on a node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tidemill

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples" / "reviews"))

import text  # noqa: E402
from node import Node, find_program  # noqa: E402

FUNCTIONS = ("echo", "add", "mask", "count")
BLOCKED = ["darn", "bad idea"]
BODIES = [
    "what a darn good day",
    "no no: a bad idea, a bad idea!",
    "",
    "naïve café 好 \U0001f600 darn",
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tidemill.Client]:
    """A client of a node with the functions, deployed as a user does."""
    directory = tmp_path_factory.mktemp("js")
    environment = {**os.environ, "PYTHON": sys.executable}
    build: list[str | Path] = [ROOT / "scripts/guests.sh", "js", directory / "functions.wasm"]
    subprocess.run(build, check=True, env=environment)
    lines = ['app = "js"']
    for name in FUNCTIONS:
        lines += [f"[functions.{name}]", 'component = "functions.wasm"']
    app = directory / "app.toml"
    app.write_text("\n".join(lines))
    node = Node(find_program(), directory / "data")
    try:
        subprocess.run([find_program(), "--data", directory / "data", "deploy", app], check=True)
        client = tidemill.connect(node.url, token=node.token)
        state = client.state("js")
        state.register("blocked").set(BLOCKED)
        state.register("blocked/digest").set("1")
        yield client
    finally:
        node.stop()


def test_values_come_back_as_they_went(client: tidemill.Client) -> None:
    for value in ({"a": [1, "ä", None]}, 5, "text", [1, [2]], [], None, True, 1.5):
        assert client.call("js", "echo", value) == value


def test_state_is_kept(client: tidemill.Client) -> None:
    assert [client.call("js", "add", "n") for _ in range(3)] == [1, 2, 3]
    assert client.state("js").counter("n").get() == 3


def test_an_error_has_its_name(client: tidemill.Client) -> None:
    with pytest.raises(tidemill.Error) as failed:
        client.call("js", "add", 5)
    assert "counter" in str(failed.value)


def test_the_hot_steps_give_what_pythons_give(client: tidemill.Client) -> None:
    index = text.index_blocked(BLOCKED)
    for body in BODIES:
        cleaned = text.clean(body)
        masked, hits = text.mask(cleaned, index)
        found = client.call("js", "mask", {"text": cleaned, "source": "s"})
        assert found == {"text": masked, "source": "s", "masked": hits}
        assert client.call("js", "count", {"text": cleaned}) == len(text.words(cleaned))
