"""The Python on the pages of docs/ is run: the blocks of a page are one script, as if typed."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT, clear, run_python

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["state.md", "flows.md", "python.md"])
def test_a_page(node, tmp_path, page):
    text = (ROOT / "docs" / page).read_text()
    script = "\n\n".join(_BLOCK.findall(text))
    assert "assert" in script
    clear(node, "demo")
    done = run_python(node, ["-"], tmp_path, script)
    assert done.returncode == 0, done.stderr
