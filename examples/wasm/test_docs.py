"""The Rust function of docs/wasm.md, built as it is written there and called on a node."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tidemill

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "examples" / "reviews"))

from node import Node, find_program  # noqa: E402


def written() -> tuple[str, str]:
    """The page's Cargo.toml and lib.rs."""
    section = (ROOT / "docs/wasm.md").read_text().split("\n## Rust\n")[1].split("\n## ")[0]
    manifest = re.search(r"```toml\n# Cargo.toml\n(.*?)```", section, re.S)
    source = re.search(r"```rust\n// src/lib.rs\n(.*?)```", section, re.S)
    assert manifest and source
    return manifest[1], source[1]


@pytest.mark.skipif(
    not os.environ.get("TIDEMILL_GUESTS"), reason="TIDEMILL_GUESTS asks to build Rust's components"
)
def test_the_rust_function_of_the_page_is_built_and_called(tmp_path: Path) -> None:
    manifest, source = written()
    # A workspace of its own, as a user has, but for where the crate comes from.
    guests = ROOT / ".cache/wasm/page"
    shutil.rmtree(guests, ignore_errors=True)
    (guests / "visits/src").mkdir(parents=True)
    published = 'git = "https://github.com/tidemill/tidemill"'
    assert published in manifest
    dependencies, profile = manifest.split("[profile.release]")
    here = f'path = "{ROOT / "sdk/rust/guest"}"'
    package = '[package]\nname = "visits"\nversion = "0.1.0"\nedition = "2024"\n'
    (guests / "visits/Cargo.toml").write_text(package + dependencies.replace(published, here))
    (guests / "visits/src/lib.rs").write_text(source)
    workspace = '[workspace]\nresolver = "3"\nmembers = ["visits"]\n[profile.release]'
    (guests / "Cargo.toml").write_text(workspace + profile)
    shutil.copy(ROOT / "sdk/rust/Cargo.lock", guests)
    subprocess.run(["cargo", "update", "--quiet", "--workspace"], check=True, cwd=guests)
    component = tmp_path / "visits.wasm"
    subprocess.run(
        [ROOT / "scripts/guests.sh", "rust", "visits", component],
        check=True,
        env={**os.environ, "PYTHON": sys.executable, "TIDEMILL_GUESTS_WORKSPACE": str(guests)},
    )
    (tmp_path / "app.toml").write_text(
        'app = "shop"\n[functions.visit]\ncomponent = "visits.wasm"\n'
        '[functions.visits]\ncomponent = "visits.wasm"\n'
    )
    node = Node(find_program(), tmp_path / "data")
    try:
        data = tmp_path / "data"
        deploy: list[str | Path] = [find_program(), "--data", data, "deploy", tmp_path / "app.toml"]
        subprocess.run(deploy, check=True)
        client = tidemill.connect(node.url, token=node.token)
        assert client.call("shop", "visit", "Ada") == 1
        assert client.call("shop", "visits", ["Ada", "Bo", "Ada"]) == [2, 1, 3]
        with pytest.raises(tidemill.Error) as failed:
            client.call("shop", "visit", "")
        assert "no-name" in str(failed.value)
    finally:
        node.stop()
