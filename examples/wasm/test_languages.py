"""The functions in JavaScript, and with TIDEMILL_GUESTS those in Python, built here and called on a
node; and the reviews example's hot steps, which give the same in every language.
"""

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

# Python's component takes a minute to build and half of one to compile.
BUILT = ("js", "python") if os.environ.get("TIDEMILL_GUESTS") else ("js",)
STEPS = ("mask", "count")
BLOCKED = ["darn", "bad idea", "bad", "naïve café", "it's", "a_b", "好", "ﬁne", "!!", "ß", "10"]
# What breaks programs that take a text for bytes, for ASCII, or for UTF-16.
AWKWARD = [
    "",
    " ",
    "\t\r\n\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2028\u3000",
    "\x00",
    "darn",
    "Darn DARN darN",
    "what a darn good day",
    "no no: a bad idea, a bad idea!",
    "bad ideas, bad idea_, bad idea's, bad  idea",
    "badbad bad-bad bad.bad bad_bad bad'bad",
    "_darn_ -darn- 'darn' \"darn\"",
    "naïve café 好 \U0001f600 darn",
    "nai\u0308ve cafe\u0301",
    "naïve café's naïve cafés",
    "好好 好 好,好",
    "it's its it\u2019s it\u2018s it`s it''s",
    "'' ''' '''' o'o'o' 'o 'o'",
    "ﬁne fine FINE ﬁ ﬂ ﬃ",
    "STRASSE straße STRAẞE",
    "İstanbul ISTANBUL ıstanbul",
    "ΟΔΥΣΣΕΥΣ οδυσσευς Σ ς",
    "a_b a__b _ __ a_ _b",
    "10 １０ ١٠ ⑩ Ⅹ ½ ² 10th 1.0 1,000",
    "!! !!! ! !! ?!!?",
    "\U0001f600\U0001f600darn\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001d41d\U0001d41a\U0001d42b\U0001d427 ｄａｒｎ",
    "darn\u200bdarn darn\u00addarn \ufeffdarn\ufeff",
    "da\u0301rn d\u0336a\u0336r\u0336n",
    "שלום עולם darn مرحبا \u202edarn\u202c",
    "हिन्दी ไทย 한국어 日本語 か\u3099",
    "\ue000 \uffff \ufffd \U0010ffff darn",
    "e\u0301e\u0301 é Å Å \u212b Ω \u2126",
    '<b>darn</b> &amp; \\ \\n \\u0041 / " {}[]',
    "darn\ndarn\rdarn\tdarn\x85darn\u2028darn",
    "“darn” ‘darn’ «darn» — darn… darn–darn",
    "Ǆ ǅ ǆ ŉ ǰ ΐ",
    "bad " * 1000,
    "x" * 400 + " darn " + "好" * 100,
    "\U0001f600 bad idea " * 400,
    "\n".join(f"line {n} is darn bad'{n}_" for n in range(200)),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tidemill.Client]:
    """A client of a node with the functions, deployed as a user does: an app a language."""
    directory = tmp_path_factory.mktemp("languages")
    environment = {**os.environ, "PYTHON": sys.executable}
    files = {"rust": ROOT / "examples/reviews/steps.wasm"}
    for language in BUILT:
        files[language] = directory / f"{language}.wasm"
        build: list[str | Path] = [ROOT / "scripts/guests.sh", language, files[language]]
        subprocess.run(build, check=True, env=environment)
    node = Node(find_program(), directory / "data")
    try:
        client = tidemill.connect(node.url, token=node.token)
        for language, file in files.items():
            place = directory / language
            place.mkdir()
            (place / "functions.wasm").write_bytes(file.read_bytes())
            lines = [f'app = "{language}"']
            for name in STEPS if language == "rust" else ("echo", "add", *STEPS):
                lines += [f"[functions.{name}]", 'component = "functions.wasm"']
            app = place / "app.toml"
            app.write_text("\n".join(lines))
            deploy: list[str | Path] = [find_program(), "--data", directory / "data", "deploy", app]
            subprocess.run(deploy, check=True)
            state = client.state(language)
            state.register("blocked").set(BLOCKED)
            state.register("blocked/digest").set("1")
        yield client
    finally:
        node.stop()


@pytest.mark.parametrize("language", BUILT)
def test_values_come_back_as_they_went(client: tidemill.Client, language: str) -> None:
    for value in ({"a": [1, "ä", None]}, 5, "text", [1, [2]], [], None, True, 1.5):
        assert client.call(language, "echo", value) == value


@pytest.mark.parametrize("language", BUILT)
def test_state_is_kept(client: tidemill.Client, language: str) -> None:
    assert [client.call(language, "add", "n") for _ in range(3)] == [1, 2, 3]
    assert client.state(language).counter("n").get() == 3


def test_an_error_has_its_name(client: tidemill.Client) -> None:
    with pytest.raises(tidemill.Error) as failed:
        client.call("js", "add", 5)
    assert "counter" in str(failed.value)


@pytest.mark.parametrize("language", (*BUILT, "rust"))
def test_the_hot_steps_give_what_pythons_give(client: tidemill.Client, language: str) -> None:
    index = text.index_blocked(BLOCKED)
    for body in AWKWARD:
        # As the example has it, and as it came.
        for given in (text.clean(body), body):
            masked, hits = text.mask(given, index)
            found = client.call(language, "mask", {"text": given, "source": "s"})
            assert found == {"text": masked, "source": "s", "masked": hits}, given[:80]
            counted = client.call(language, "count", {"text": given})
            assert counted == len(text.words(given)), given[:80]
