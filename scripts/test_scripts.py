"""The scripts' decisions, without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import bootstrap
import fetch
import package_index
import pytest

DIGEST = hashlib.sha256(b"body").hexdigest()
HTML = f"""<!DOCTYPE html><html><body>
<a href="../../files/a%2B1-1.0-py3-none-any.whl#sha256={DIGEST}"
   data-requires-python="&gt;=3.9">a</a>
<a href="https://files.example.org/a-2.0.tar.gz" data-yanked="broken">a</a>
<a name="no-address">a</a>
</body></html>"""
JSON = {
    "files": [
        {
            "filename": "a+1-1.0-py3-none-any.whl",
            "url": "../../files/a%2B1-1.0-py3-none-any.whl",
            "hashes": {"sha256": DIGEST},
            "requires-python": ">=3.9",
        },
        {
            "filename": "a-2.0.tar.gz",
            "url": "https://files.example.org/a-2.0.tar.gz",
            "hashes": {},
            "yanked": "broken",
        },
    ]
}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (HTML.encode(), "text/html; charset=utf-8"),
        (json.dumps(JSON).encode(), "application/vnd.pypi.simple.v1+json"),
    ],
)
def test_both_forms_of_a_page_say_the_same(body: bytes, content_type: str) -> None:
    files = package_index.parse_page(body, content_type, "https://index.example.org/simple/a/")
    assert files == [
        package_index.RemoteFile(
            "a+1-1.0-py3-none-any.whl",
            "https://index.example.org/files/a%2B1-1.0-py3-none-any.whl",
            DIGEST,
            requires_python=">=3.9",
        ),
        package_index.RemoteFile(
            "a-2.0.tar.gz", "https://files.example.org/a-2.0.tar.gz", None, yanked=True
        ),
    ]


def test_a_wrong_or_missing_digest_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a-1.0.tar.gz"
    path.write_bytes(b"body")
    file = package_index.RemoteFile(path.name, path.as_uri(), None)
    assert package_index.download(file, DIGEST) == b"body"
    with pytest.raises(package_index.PackageIndexError, match="no sha256"):
        package_index.download(file)
    with pytest.raises(package_index.PackageIndexError, match="was not kept"):
        package_index.download(file, "0" * 64)


def test_the_index_comes_from_where_pip_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://mirror.example.org/simple/\n")
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert package_index.index_url() == "https://mirror.example.org/simple"
    monkeypatch.setenv("PIP_INDEX_URL", "https://other.example.org/simple")
    assert package_index.index_url() == "https://other.example.org/simple"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    assert package_index.index_url() == package_index.DEFAULT_INDEX


def test_a_damaged_file_in_the_cache_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = fetch.Pinned("a", "a-1.0.tar.gz", DIGEST)
    monkeypatch.setitem(fetch.PINNED, "a", pinned)
    served = tmp_path / "served" / pinned.file
    fetch.write_atomically(served, b"body")
    files = [package_index.RemoteFile(pinned.file, served.as_uri(), None)]
    monkeypatch.setattr(package_index, "list_files", lambda project: files)
    path = fetch.fetch("a", tmp_path / "cache")
    assert path.read_bytes() == b"body"
    path.write_bytes(b"damaged")
    assert fetch.fetch("a", tmp_path / "cache").read_bytes() == b"body"
    files.clear()
    assert fetch.fetch("a", tmp_path / "cache") == path
    path.unlink()
    with pytest.raises(package_index.PackageIndexError, match="does not list"):
        fetch.fetch("a", tmp_path / "cache")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("requires", "fits"), [(None, True), (">=3.9", True), (">= 3.11", True), (">=3.99", False)]
)
def test_fits_python(requires: str | None, fits: bool) -> None:
    assert bootstrap.fits_python(requires) is fits


def test_a_stamp_tells_sets_apart() -> None:
    assert bootstrap.stamp_of(["run"]) != bootstrap.stamp_of(["test"])
    assert bootstrap.stamp_of(["run"]) == bootstrap.stamp_of(["run"])
